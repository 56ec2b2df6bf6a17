"""What a running simulation is doing, read from its folder alone: `sites/<site>/progress.json` and `record.jsonl`.

It only reads, and never fails: a file that is missing, half written or not understood is looked at again next time.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from server.shares import evaluation_share

PRESENCE = {"arrive": "present", "return": "present", "pause": "paused", "leave": "left"}
WITH_A_REPLY = ("memory", "damaged")
"""Faults of which a site tells when it has succeeded: they are shown until it does so again."""
WORKING = {"train": "training", "tune": "tuning", "evaluate": "evaluating", "prepare": "preparing", "waiting": "waiting"}


@dataclass
class Row:
    """One site on the screen; None: not known yet."""

    site: str
    state: str = "waiting"
    """waiting, present, paused, preparing, training, evaluating, done, left or failed."""
    why: str = ""
    """The last failure, until the site succeeds again."""
    at: int | None = None
    of: int | None = None
    loss: float | None = None
    memory: int | None = None
    budget: int | None = None
    classes: dict[str, int] = field(default_factory=dict)
    domains: dict[str, int] = field(default_factory=dict)
    dice: float | None = None
    bytes: int = 0
    fault: str = ""
    """What went wrong last and was made up for, until the site succeeds."""
    heard: float | None = None
    """When its progress last moved, by the watch's clock."""


@dataclass
class _Site:
    """What is known of a site between two looks."""

    row: Row
    presence: str = "waiting"
    failed: tuple[int, str] | None = None
    trained: int = 0
    faulty: int = 0
    """The round whose success ends the showing of a fault."""
    seen: tuple[int, int] | None = None
    progress: dict[str, Any] = field(default_factory=dict)


class Watch:
    """Follows a run's folder. `update` looks once; the attributes say what was found."""

    def __init__(self, folder: Path, sites: Sequence[str], rounds: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.folder, self.rounds, self.clock = folder, rounds, clock
        self.started = clock()
        self.names = list(sites)
        self.news: list[dict[str, Any]] = []
        """The record's events that the last update found."""
        self._forget()

    def _forget(self) -> None:
        self.name, self.stage, self.round, self.ended, self.evaluating = self.folder.name, "", 0, False, ""
        self._offset = 0
        self._sites = {name: _Site(Row(name)) for name in self.names}
        self._seconds: dict[int, float] = {}
        self._first_round: float | None = None
        self._watched: list[float] = []

    def update(self) -> list[Row]:
        """Look at the folder once; the sites as they are now."""
        looked_before = self._first_round is not None
        self.news = self._read_record()
        for event in self.news:
            self._fold(event)
        for site in self._sites.values():
            self._read_progress(site)
            self.round = max(self.round, _whole(site.progress.get("round")) or 0)
        if self.round > 0 and self._first_round is None:
            self._first_round = self.clock()
        if looked_before:
            self._watched += [self.clock() for event in self.news if event["event"] == "round"]
        return [self._row(site) for site in self._sites.values()]

    def elapsed(self) -> float:
        """Seconds since the watch began."""
        return self.clock() - self.started

    def eta(self) -> float | None:
        """Seconds to the end of the last round; None while there is nothing to judge by, and after it.

        Rounds left times the larger of their recorded mean and what a round took by the clock (which counts the
        evaluations between them); before the first is finished, the present one's progress is all there is.
        """
        left = self.rounds - len(self._seconds)
        if left <= 0 or self._first_round is None or self.ended:
            return None
        part = self._progress()
        if self._seconds:
            mean = sum(self._seconds.values()) / len(self._seconds)
            by_clock = (self._watched[-1] - self._first_round) / len(self._watched) if self._watched else 0.0
            return max(mean, by_clock) * (left - part)
        return (self.clock() - self._first_round) / part * (left - part) if part >= 0.1 else None

    def _progress(self) -> float:
        """The share of the round under way that is done, in [0, 1]."""
        parts = []
        for site in self._sites.values():
            if site.presence == "present":
                row = self._row(site)
                busy = row.state == "training" and row.at is not None and row.of
                finished = site.trained > max(self._seconds, default=0)
                parts.append(1.0 if finished else min(1.0, (row.at or 0) / (row.of or 1)) if busy else 0.0)
        return sum(parts) / len(parts) if parts else 0.0

    def _read_record(self) -> list[dict[str, Any]]:
        """The events appended since the last look. A shorter file (a resumed run's) is read anew, and is no news."""
        path = self.folder / "record.jsonl"
        try:
            if path.stat().st_size < self._offset:
                self._forget()
                for event in self._read_record():
                    self._fold(event)
            with path.open("rb") as file:
                file.seek(self._offset)
                whole, newline, _ = file.read().rpartition(b"\n")
        except OSError:
            return []
        self._offset += len(whole) + len(newline)
        events = [_parse(line) for line in whole.splitlines()]
        return [event for event in events if isinstance(event.get("event"), str)]

    def _read_progress(self, site: _Site) -> None:
        path = self.folder / "sites" / site.row.site / "progress.json"
        try:
            stat = path.stat()
            if (stat.st_mtime_ns, stat.st_ino) != site.seen:
                progress = _parse(path.read_bytes())
                if progress:
                    site.progress, site.seen = progress, (stat.st_mtime_ns, stat.st_ino)
                    site.row.heard = self.clock()
        except OSError:
            return

    def _fold(self, event: Mapping[str, Any]) -> None:
        """Take one event of the record into account."""
        kind, round_ = event["event"], _whole(event.get("round")) or 0
        self.round = max(self.round, round_)
        if kind == "run":
            self.name = str(event.get("name", self.name))
        elif kind == "end":
            self.ended, self.evaluating = True, evaluation_share(event)
        elif kind == "round":
            self._seconds[round_] = real(event.get("seconds")) or 0.0
        if kind in ("arrive", "round", "train", "result"):
            self.stage = str(event.get("stage") or self.stage)
        if event.get("site") and isinstance(event["site"], str):
            self._fold_site(self._sites.setdefault(event["site"], _Site(Row(event["site"]))), kind, round_, event)

    def _fold_site(self, site: _Site, kind: str, round_: int, event: Mapping[str, Any]) -> None:
        if kind in PRESENCE:
            site.presence = PRESENCE[kind]
        elif kind == "train":
            site.presence, site.trained, site.failed = "present", round_, None
            site.row.fault = site.row.fault if round_ < site.faulty else ""
            weight = real(event.get("loss_weight"))
            site.row.loss = (real(event.get("loss_sum")) or 0.0) / weight if weight else site.row.loss
            site.row.bytes += (_whole(event.get("bytes_down")) or 0) + (_whole(event.get("bytes_up")) or 0)
            _take_memory(site.row, event)
        elif kind == "result":
            site.row.dice = real(event.get("dice"))
            site.failed = None if site.failed and site.failed[1] == "evaluate" else site.failed
        elif kind == "failure":
            site.failed = (round_, str(event.get("task")))
            site.row.why, site.row.fault = plain(f"{event.get('kind')}: {event.get('reason')}"), ""
        elif kind == "fault":
            site.row.fault, site.faulty = plain(str(event.get("reason"))), round_ + (event.get("kind") in WITH_A_REPLY)

    def _row(self, site: _Site) -> Row:
        row, progress = Row(**vars(site.row)), site.progress
        row.why = row.why if site.failed else ""
        task, at, of = _work(progress)
        live = not self.ended and task in WORKING and not self._over(site, task, _whole(progress.get("round")) or 0, at, of)
        if live:
            row.state, row.at, row.of = WORKING[task], at, of
            row.loss = row.loss if (loss := real(progress.get("loss"))) is None else loss
            row.dice = real(progress.get("dice")) if row.dice is None else row.dice
            _take_memory(row, progress)
        elif site.failed:
            row.state = "failed"
        elif self.ended and site.presence != "left":
            row.state = "done" if site.presence != "waiting" or row.dice is not None else "waiting"
        else:
            row.state = site.presence
        return row

    @staticmethod
    def _over(site: _Site, task: str, round_: int, at: int | None, of: int | None) -> bool:
        """Whether the record already tells how the work ended that the site's last progress speaks of."""
        if site.failed and task in (site.failed[1], "waiting") and round_ <= site.failed[0]:
            return True
        if task == "train":
            return round_ <= site.trained
        return at is not None and of is not None and at >= of


def plain(text: str) -> str:
    """A text on one line, without control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _parse(text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def real(value: Any) -> float | None:
    """A number that is one (the comparison is false for nan and for infinity, and takes integers of any size)."""
    return float(value) if isinstance(value, int | float) and abs(value) < 1e300 else None


def _whole(value: Any) -> int | None:
    return None if (number := real(value)) is None else int(number)


def _work(progress: Mapping[str, Any]) -> tuple[str, int | None, int | None]:
    """What a site says it is doing, and how far it is: steps when it trains, cases otherwise."""
    task = str(progress.get("task", "idle"))
    at, of = ("step", "steps") if task == "train" else ("done", "of")
    return task, _whole(progress.get(at)), _whole(progress.get(of))


def _take_memory(row: Row, facts: Mapping[str, Any]) -> None:
    row.memory = row.memory if (memory := _whole(facts.get("memory"))) is None else memory
    row.budget = row.budget if (budget := _whole(facts.get("budget"))) is None else budget
    for name in ("classes", "domains"):
        if isinstance(held := facts.get(f"memory_{name}"), dict):
            setattr(row, name, {str(key): count for key, value in held.items() if (count := _whole(value))})
