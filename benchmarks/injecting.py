"""Ways to break a small run on purpose: its sites, its disk, what it sends; and what was seen of that."""

import errno
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from straight import Change, straight

from clients.work import Site
from configs.load import build_run
from configs.schema import Run
from server.sites import GridSites
from simulations import local
from simulations.engines import simulate
from simulations.pretend import materialise
from wire import Order, Reply, Weights

ROUNDS = 6
Act = Callable[[Callable[[], Reply], Site, Order], Reply]
"""What a site does with an order instead: the first argument is what it would have done."""


@dataclass(frozen=True)
class Seen:
    """What became of a fault."""

    injected: int
    detected: int
    survived: str
    lost: str
    said: str


def tiny(**sections: Any) -> Run:
    """Two sites with three cases each to learn from, present in all rounds; a round of a site takes a tenth of a second."""
    looks = {"here": "ct_window", "there": "mr"}
    sites = {
        name: {
            "phantoms": {"cases": 4, "shape": [32, 28, 24], "spacing": [6, 6, 8], "scanner": look},
            "annotates": ["liver", "spleen"],
        }
        for name, look in looks.items()
    }
    tree: dict[str, Any] = {
        "name": "tiny",
        "sites": sites,
        "model": {"args": {"channels": [4, 8], "strides": [2], "num_res_units": 0}},
        "train": {"patch": [16, 16, 16], "batch": 2, "sampling_rate": 2, "replay_steps": 1},
        "stream": {"cases_per_round": 1},
        "memory": {"policy": "selective", "args": {"k": 2}, "budget": 2},
        "arrivals": {"visits": {name: [[1, None]] for name in sites}, "rounds": ROUNDS},
        "evaluate": {"surface": False, "slices": 0},
        "engine": {"name": "local"},
    }
    return materialise(build_run(tree | sections))


@contextmanager
def acting(act: Act) -> Iterator[None]:
    """Every site does with its orders what `act` says."""
    answer = Site.answer

    def acted(site: Site, order: Order, weights: Weights, *more: Any) -> Reply:
        return act(lambda: answer(site, order, weights, *more), site, order)

    with patch.object(Site, "answer", acted):
        yield


def at(name: str, rounds: Iterable[int], do: Callable[[Callable[[], Reply], Site], Reply]) -> Act:
    """An act of one site in its training of these rounds."""
    numbers = frozenset(rounds)

    def act(answer: Callable[[], Reply], site: Site, order: Order) -> Reply:
        hit = site.name == name and order.task == "train" and order.round in numbers
        return do(answer, site) if hit else answer()

    return act


@contextmanager
def changing(change: Change) -> Iterator[None]:
    """What comes from the sites crosses a Flower grid, and is changed there."""
    inner = local.LocalSites

    def behind(run: Run, folders: dict[str, Path]) -> GridSites:
        return straight(inner(run, folders), change, run.wire.max_reply_mb)

    with patch.object(local, "LocalSites", behind):
        yield


@contextmanager
def full_disk(below: Path, after: int = 0) -> Iterator[list[str]]:
    """No space left for files below a folder (which must be there by then); the first `after` of them still fit.

    Yields what could not be written.
    """
    sync, refused, fitted = os.fsync, list[str](), [0]

    def synced(handle: int) -> None:
        path = os.readlink(f"/proc/self/fd/{handle}")
        if path.startswith(str(below.resolve())):
            fitted[0] += 1
            if fitted[0] > after:
                refused.append(path)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(handle)

    with patch.object(os, "fsync", synced):
        yield refused


def interrupted(run: Run, folder: Path, before: int) -> None:
    """Run until the first site is asked for a round's training, and stop there as with Ctrl-C."""

    def stop(answer: Callable[[], Reply], site: Site) -> Reply:
        raise KeyboardInterrupt

    with acting(at(min(run.sites), [before], stop)):
        try:
            finished(run, folder)
        except KeyboardInterrupt:
            return
    raise AssertionError("the run was not interrupted")


def finished(run: Run, folder: Path) -> Path:
    """Run, or go on with, a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    simulate(run, folder)
    return folder


def flip(path: Path) -> None:
    """Damage the byte in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def newest(pattern: str, folder: Path) -> Path:
    """The last file or folder by name that matches."""
    return max(folder.glob(pattern), key=lambda path: path.name)


def events(folder: Path, *names: str) -> list[dict[str, Any]]:
    """The record's rows of these events."""
    rows = [json.loads(line) for line in (folder / "record.jsonl").read_text().splitlines()]
    return [row for row in rows if row["event"] in names]


def whole_stream(folder: Path, site: str) -> bool:
    """Whether all cases of a site's stream have passed, as far as its last reply that came says."""
    left = [row["stream_left"] for row in events(folder, "train") if row["site"] == site]
    return bool(left) and left[-1] == 0
