"""Whom a running simulation waits for, and for how long nothing has been heard: `waiting.json` beside what Watch reads."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from server.waiting import FILE, NAMED, Reminder, clock, named
from simulations.watch import Row, Watch, plain, real

ALONE = ("merging", "saving")
"""What the server does by itself (server/waiting.py)."""


@dataclass
class Wait:
    """One wait of the server's, as its file tells it."""

    task: str
    round: int
    began: float
    """By the watch's clock, like all times here."""
    deadline_s: float | None = None
    sites: list[str] = field(default_factory=list)
    """Who has not answered yet."""
    given: dict[str, float] = field(default_factory=dict)
    """When a site was first seen at work, or its order was given again: from then on its deadline counts."""

    def title(self, now: float) -> str:
        """For the head of the live table: "waiting for east, west: train, 1:20"."""
        what = f"waiting for {named([*map(plain, self.sites)])}: {self.task}" if self.sites else self.task
        return f"{what}, {clock(now - self.began)}"


class Silence:
    """Follows a run's wait; `look` after every `watch.update()`.

    Args:
        watch: what else is known of the run.
        watch_s: seconds without news after which a silence is worth a line.
    """

    def __init__(self, watch: Watch, watch_s: float) -> None:
        self.watch, self.watch_s = watch, watch_s
        self.wait: Wait | None = None
        self._reminder, self._heard = Reminder(watch_s), watch.clock()
        self._signs: list[float] = []
        self._facts: dict[str, Any] = {}
        self._old = self._read()  # a killed run's, whose folder this was

    def look(self, rows: Sequence[Row]) -> None:
        """See who is waited for now, and whether anything has moved since the last look."""
        facts, now = self._read(), self.watch.clock()
        facts = {} if facts == self._old else facts
        signs = [row.heard for row in rows if row.heard is not None]
        if self.watch.news or signs != self._signs or facts != self._facts:
            self._heard = now
        if facts.get("since") != self._facts.get("since"):
            self.wait = None
        self._signs, self._facts = signs, facts
        self._follow(facts, rows, now)

    def title(self) -> str:
        """Who is waited for, and for how long; empty: nobody."""
        return self.wait.title(self.watch.clock()) if self.wait else ""

    def due(self) -> bool:
        """Whether `line` should be said now: it is asked for at growing intervals."""
        return self._reminder.due(self.seconds()) and not self.watch.ended

    def too_long(self) -> bool:
        """Whether there has been no news for longer than it may take."""
        return self.seconds() >= self.watch_s and not self.watch.ended

    def seconds(self) -> float:
        """For how long nothing has been heard."""
        return self.watch.clock() - self._heard

    def line(self, rows: Sequence[Row]) -> str:
        """Whom the run is waiting for, what they were last seen at, and until when they have time."""
        wait, now = self.wait, self.watch.clock()
        if wait is None:
            where = f"round {self.watch.round}: " if self.watch.round else ""
            return f"{where}no news for {clock(self.seconds())}"
        if not wait.sites:
            return f"round {wait.round}: still {wait.task}, for {clock(now - wait.began)}"
        known = {row.site: row for row in rows}
        told = [_told(wait, known.get(site) or Row(site), now) for site in wait.sites[:NAMED]]
        return f"round {wait.round}: still waiting for {named([*told, *wait.sites[NAMED:]])}"

    def _follow(self, facts: dict[str, Any], rows: Sequence[Row], now: float) -> None:
        sites = [site for site in facts.get("sites") or () if isinstance(site, str)]
        task = str(facts.get("task"))
        if not sites and task not in ALONE:  # everybody has answered
            self.wait = None
            return
        wait = self.wait or Wait(task, int(real(facts.get("round")) or 0), now, real(facts.get("deadline_s")))
        self.wait, wait.sites = wait, sites
        for row in rows:
            if row.heard is not None and row.heard >= wait.began:
                wait.given.setdefault(row.site, row.heard)
        for event in self.watch.news:
            if event["event"] == "fault" and event.get("site"):
                wait.given[str(event["site"])] = now

    def _read(self) -> dict[str, Any]:
        try:
            facts = json.loads((self.watch.folder / FILE).read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        return facts if isinstance(facts, dict) else {}


def _told(wait: Wait, row: Row, now: float) -> str:
    """A site that is waited for: "east (training, step 3/40, last sign of life 70 s ago; deadline in 58:50)"."""
    facts = []
    if row.heard is None or row.heard < wait.began:
        facts.append("no sign of life yet")
    else:
        if row.at is not None:
            at = f"{row.at}/{row.of}" if row.of else f"{row.at}"
            facts.append(f"{row.state}, {'step' if row.state == 'training' else 'case'} {at}")
        facts.append(f"last sign of life {now - row.heard:.0f} s ago")
    left = None if wait.deadline_s is None else wait.given.get(row.site, wait.began) + wait.deadline_s - now
    # A site that waits for a free actor has more time than we know of: where ours has run out, none is told.
    deadline = "" if left is None or left < 0 else f"; deadline in {clock(left)}"
    return f"{plain(row.site)} ({', '.join(facts)}{deadline})"
