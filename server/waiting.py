"""Whom the server waits for, and what for: a file in the run's folder, and words for when nothing comes.

A simulation's screen reads the file (simulations/silence.py). It is for people: no result depends on it, it is gone when
the wait is over, and a disk that takes it no more is no reason to stop.
"""

import json
import math
import os
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

FILE = "waiting.json"
INTERVAL_S = 0.25
FEW = 16
"""So many sites or fewer: every answer is written at once; with more, the last within INTERVAL_S."""
NAMED = 5
"""Sites that a line names; the others are counted."""


class Waiting:
    """Says in `waiting.json` what the server is doing, and for whom, as long as the block lasts.

    Args:
        folder: the run's.
        task: what is waited for: an order's task, or what the server does by itself ("merging", "saving").
        round: of the run.
        sites: who is to answer.
        deadline_s: seconds that a site may take; inf: as long as it likes.
    """

    def __init__(self, folder: Path, task: str, round: int, sites: Iterable[str] = (), deadline_s: float = math.inf) -> None:
        self._path, self._written = folder / FILE, 0.0
        self._sites = sorted(sites)
        deadline = deadline_s if math.isfinite(deadline_s) else None
        self._facts = {"task": task, "round": round, "since": time.time(), "deadline_s": deadline}

    def __enter__(self) -> Self:
        self._write()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with suppress(OSError):
            self._path.unlink()

    def answered(self, site: str) -> None:
        """A site is waited for no more."""
        if site in self._sites:
            self._sites.remove(site)
            if len(self._sites) <= FEW or time.monotonic() - self._written >= INTERVAL_S:
                self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        draft = self._path.with_suffix(".draft")
        with suppress(OSError):
            draft.write_text(json.dumps({**self._facts, "sites": self._sites}))
            os.replace(draft, self._path)


class Reminder:
    """When to speak up about a silence: once it has lasted `first_s` seconds, then each time that it has doubled."""

    def __init__(self, first_s: float) -> None:
        self._first = self._next = first_s

    def due(self, silence_s: float) -> bool:
        """Whether to say something of a silence of so many seconds; a short one begins anew."""
        if silence_s < self._first:
            self._next = self._first
            return False
        if silence_s < self._next:
            return False
        self._next = 2 * silence_s
        return True


def named(things: Sequence[str]) -> str:
    """The first few, and how many more there are."""
    more = [f"and {len(things) - NAMED} more"] if len(things) > NAMED else []
    return ", ".join([*things[:NAMED], *more])


def clock(seconds: float) -> str:
    """1:05 or 2:01:05."""
    minutes, second = divmod(max(0, round(seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{second:02d}" if minutes >= 60 else f"{minutes}:{second:02d}"
