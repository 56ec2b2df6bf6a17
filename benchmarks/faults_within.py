"""Faults of sites, of disks and of what sites send, each put into a small run in this process."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from injecting import (
    ROUNDS,
    Seen,
    acting,
    at,
    changing,
    events,
    finished,
    flip,
    full_disk,
    interrupted,
    newest,
    tiny,
    whole_stream,
)
from sameness import differences

from clients.train import Trainer
from clients.work import Site
from configs.load import cache_root
from server.loop import CannotContinue
from wire import Failure, Order, Reply

SITE = "there"


def went_on(folder: Path, injected: int, lost: str, kinds: tuple[str, ...] = ("failure", "fault")) -> Seen:
    """What is seen of a run that goes on."""
    told = events(folder, *kinds)
    reasons = dict.fromkeys(f"{row['site']}, round {row['round']}: {row['reason']}" for row in told)
    return Seen(injected, len(told), "goes on", lost, next(iter(reasons), "nothing"))


def resumed(folder: Path, place: Path, injected: int, said: str, **sections: Any) -> Seen:
    """What is seen of a run that stopped and is resumed: the same bytes as one that nothing happened to."""
    run = tiny(**sections)
    unlike = differences(finished(run, folder), finished(run, place / "undisturbed"))
    return Seen(injected, int(bool(said)), "stops; resume goes on", "; ".join(unlike) or "nothing: the same bytes", said)


def stopped(act: Callable[[], object]) -> str:
    """The words with which a run stops."""
    try:
        act()
    except (CannotContinue, OSError) as error:
        return str(error)
    return ""


# Sites --------------------------------------------------------------------------------------------------------------------


def raises(place: Path) -> Seen:
    def fall(answer: Callable[[], Reply], site: Site) -> Reply:
        raise RuntimeError("the scanner is on fire")

    with acting(at(SITE, (2, 3), fall)):
        finished(tiny(), place / "run")
    return went_on(place / "run", 2, missed(place / "run", 2))


def raises_after_commit(place: Path) -> Seen:
    def fall(answer: Callable[[], Reply], site: Site) -> Reply:
        answer()
        raise RuntimeError("the reply was lost")

    with acting(at(SITE, (2,), fall)):
        finished(tiny(), place / "run")
    return went_on(place / "run", 1, missed(place / "run", 1))


def missed(folder: Path, rounds: int) -> str:
    """What a site's missed rounds cost: updates, and never cases of the stream."""
    left = "no case: its stream passed whole" if whole_stream(folder, SITE) else "CASES OF ITS STREAM"
    return f"{rounds} update{'s' * (rounds > 1)}, {left}"


def memory_runs_out(place: Path) -> Seen:
    gradients = Trainer._gradients

    def hungry(trainer: Trainer, part: Any, share: float) -> Any:
        if len(part.image_BCXYZ) > 1:
            raise MemoryError
        return gradients(trainer, part, share)

    with patch.object(Trainer, "_gradients", hungry):
        finished(tiny(), place / "run")
    return went_on(place / "run", 2, "nothing: the same batch, added up" if trained_always(place / "run") else "ROUNDS")


def trained_always(folder: Path) -> bool:
    """Whether both sites trained in every round."""
    return len(events(folder, "train")) == 2 * ROUNDS


def data_vanish(place: Path) -> Seen:
    run = tiny()
    root = shutil.copytree(run.sites[SITE].root or "", place / "data")
    run.sites[SITE] = run.sites[SITE].model_copy(update={"root": root})

    def vanish(answer: Callable[[], Reply], site: Site) -> Reply:
        shutil.rmtree(root, ignore_errors=True)
        shutil.rmtree(cache_root() / "cases")
        return answer()

    with acting(at(SITE, (2,), vanish)):
        said = stopped(lambda: finished(run, place / "run"))
    seen = went_on(place / "run", 1, "the site's rounds from then on")
    return replace(seen, survived=f"stops: {said}") if said else seen


def returns(place: Path) -> Seen:
    def away(answer: Reply | Failure, order: Order) -> Reply | Failure:
        if order.site != SITE or order.task != "train" or order.round not in (2, 3, 4):
            return answer
        return Failure(site=order.site, round=order.round, task=order.task, kind="lost", reason="the site is not connected")

    with changing(away):
        finished(tiny(), place / "run")
    return went_on(place / "run", 3, missed(place / "run", 3))


def too_few(place: Path) -> Seen:
    with acting(at(SITE, (2,), _falls)):
        finished(tiny(faults={"quorum": 0.9}), place / "run")
    told = [row for row in events(place / "run", "failure") if "quorum" in row["reason"]]
    return replace(went_on(place / "run", 1, "1 round: the model stays as it was"), detected=len(told), said=told[0]["reason"])


def stops(place: Path) -> Seen:
    faults = {"on_failure": "stop"}
    with acting(at(SITE, (3,), _falls)):
        said = stopped(lambda: finished(tiny(faults=faults), place / "run"))
    return resumed(place / "run", place, 1, said, faults=faults)


def _falls(answer: Callable[[], Reply], site: Site) -> Reply:
    raise RuntimeError("the scanner is on fire")


# Disks ----------------------------------------------------------------------------------------------------------------------


def full_at_site(place: Path) -> Seen:
    def full(answer: Callable[[], Reply], site: Site) -> Reply:
        with full_disk(site.folder):
            return answer()

    with acting(at(SITE, (2,), full)):
        finished(tiny(), place / "run")
    return went_on(place / "run", 1, missed(place / "run", 1))


def full_at_server(place: Path) -> Seen:
    with full_disk(place / "run" / "checkpoints", after=8):
        said = stopped(lambda: finished(tiny(), place / "run"))
    return resumed(place / "run", place, 1, said)


def damaged_snapshot(place: Path) -> Seen:
    interrupted(tiny(), place / "run", ROUNDS - 1)
    flip(newest(f"sites/{SITE}/state/*/[0-9]*", place / "run") / "optimizer.safetensors")
    finished(tiny(), place / "run")
    return went_on(place / "run", 1, "what the site's last round had taught its optimizer and memory")


def damaged_checkpoint(place: Path) -> Seen:
    interrupted(tiny(), place / "run", ROUNDS - 1)
    flip(newest("checkpoints/[0-9]*", place / "run") / "state.safetensors")
    seen = resumed(place / "run", place, 1, "")
    told = events(place / "run", "fault", "failure", "changed")
    said = told[0]["reason"] if told else "nothing"
    return replace(seen, detected=len(told), said=said, survived="goes on from the one before")


def torn_record(place: Path) -> Seen:
    interrupted(tiny(), place / "run", ROUNDS - 1)
    with (place / "run" / "record.jsonl").open("ab") as file:
        file.write(b'{"event": "tra')
    return replace(resumed(place / "run", place, 1, "(the half line is cut off)"), survived="goes on")


# What sites send ------------------------------------------------------------------------------------------------------------


def sends(change: Callable[[Reply], Reply], **sections: Any) -> Callable[[Path], Seen]:
    """A fault: what a site sends in one round is changed."""

    def injected(place: Path) -> Seen:
        def changed(answer: Reply | Failure, order: Order) -> Reply | Failure:
            hit = order.site == SITE and order.task == "train" and order.round == 2 and isinstance(answer, Reply)
            return change(answer) if hit and isinstance(answer, Reply) else answer

        with changing(changed):
            finished(tiny(**sections), place / "run")
        return went_on(place / "run", 1, missed(place / "run", 1))

    return injected


def _tensors(change: Callable[[Any], Any]) -> Callable[[Reply], Reply]:
    return lambda reply: replace(reply, weights={name: change(tensor) for name, tensor in reply.weights.items()})


WITHIN: dict[str, Callable[[Path], Seen]] = {
    "a site raises in 2 rounds": raises,
    "a site raises after its commit": raises_after_commit,
    "out of memory with more than one patch": memory_runs_out,
    "a site's files and cache vanish": data_vanish,
    "a site misses 3 rounds and returns": returns,
    "fewer than `quorum` sites": too_few,
    "a site raises, `on_failure: stop`": stops,
    "disk full at a site's commit": full_at_site,
    "disk full at the server's checkpoint": full_at_server,
    "a damaged snapshot": damaged_snapshot,
    "a damaged checkpoint": damaged_checkpoint,
    "a torn record": torn_record,
    "an update of wrong shapes": sends(_tensors(lambda tensor: tensor[..., :1])),
    "an update with NaN": sends(_tensors(lambda tensor: tensor * np.float32(np.nan))),
    "a gigantic update": sends(_tensors(lambda tensor: tensor + np.float32(1e30))),
    "an update past `max_update_norm`": sends(_tensors(lambda tensor: tensor + np.float32(9)), wire={"max_update_norm": 5}),
    "an update of float64": sends(_tensors(lambda tensor: tensor.astype(np.float64))),
    "more draws than there can be": sends(lambda reply: replace(reply, draws=10**9)),
    "a replayed round": sends(lambda reply: replace(reply, round=1)),
    "a reply in another site's name": sends(lambda reply: replace(reply, site="here")),
    "a reply past `max_reply_mb`": sends(_tensors(lambda tensor: np.tile(tensor, 99)), wire={"max_reply_mb": 0.2}),
}
