"""What a run is doing at this moment, by the wall clock, for whoever comes to look, early or late. It only reads.

The screen (simulations/screen.py) is there from a run's first moment to its last; here the age of a file tells what was missed.
"""

import json
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from configs.load import build_run, load_run
from configs.schema import Run
from server.alone import FILE as LOCK
from server.arrivals import make_schedule
from server.checkpoint import FOLDER as CHECKPOINTS
from server.record import FILE as RECORD
from server.waiting import FILE as WAITING
from server.waiting import clock
from simulations.at_work import held_locks, is_held
from simulations.run_folder import ASKED_FILE, SITES_FILE
from simulations.silence import ALONE, Silence, Wait
from simulations.watch import Row, Watch, real

Phase = Literal["not begun", "going on", "stopped", "finished"]
HEARD = ("site", "train", "case", "result")
"""Events of the record that a site's reply has brought."""
PRINT = 64
"""Bytes before the end of what was read by which a record is known again."""
WATCH_S = 60.0
"""Where no recipe says `engine.watch_s`."""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A run at one moment; times are seconds since 1970."""

    name: str
    phase: Phase
    stage: str
    round: int
    rounds: int
    """0: not known."""
    began: float | None
    """When this go at the run began: a run that was resumed began again."""
    took: float | None
    """Seconds, of a finished run."""
    eta: float | None
    """Seconds to the end of the last round."""
    rows: tuple[Row, ...]
    wait: Wait | None
    stall: str
    """Whom the run has been waiting for, where nothing has been heard for too long; else empty."""
    last: float | None
    """The last sign of life of the run."""


@dataclass
class _Known:
    """What the record has told beside what the watch makes of it."""

    seconds: dict[int, float] = field(default_factory=dict)
    """Of each round."""
    replies: dict[str, float] = field(default_factory=dict)
    """{site: when its last reply came}"""
    took: float | None = None


class LiveRun:
    """Looks at a run's folder; whatever lies in it, or does not, is no error.

    Args:
        folder: the run's.
        now: the wall clock.
    """

    def __init__(self, folder: Path, now: Callable[[], float] = time.time) -> None:
        self.folder, self.now = folder, now
        self._recipe: tuple[object, Run | None] = ((), None)
        self._print = (0, b"")
        self._begin()

    def _begin(self) -> None:
        """As at the first look."""
        run = self._recipe[1]
        try:
            rounds = make_schedule(run.arrivals, list(run.sites)).rounds if run else 0
        except ValueError:
            rounds = 0
        self._watch = Watch(self.folder, list(run.sites) if run else [], rounds, self.now)
        self._silence = Silence(self._watch, run.engine.watch_s if run else WATCH_S)
        self._known, self._late = _Known(), False
        self._looked = False

    def look(self) -> Moment:
        """The run as it is now."""
        if self._read_recipe() | self._is_another_record():
            self._begin()
        rows, now = self._watch.update(), self.now()
        self._fold(self._watch.news, now)
        signs = [age for name in (RECORD, WAITING) if (age := changed(self.folder / name)) is not None]
        for row in rows:
            row.heard = self._heard(row.site)
            signs += [] if row.heard is None else [row.heard]
        last = max(signs, default=None)
        phase = self._phase(last, now)
        wait = self._wait(now) if phase == "going on" else None
        self._silence.wait = wait
        watch = self._watch
        return Moment(
            name=watch.name,
            phase=phase,
            stage=watch.stage,
            round=watch.round,
            rounds=watch.rounds,
            began=next(filter(None, (changed(self.folder / name) for name in (SITES_FILE, LOCK, ASKED_FILE))), None),
            took=self._known.took,
            eta=watch.eta() if phase == "going on" and (self._known.seconds or not self._late) else None,
            rows=tuple(rows),
            wait=wait,
            stall=self._stall(rows, last, now) if phase == "going on" else "",
            last=last,
        )

    def _phase(self, last: float | None, now: float) -> Phase:
        if self._watch.ended:
            return "finished"
        if is_held(self.folder, held_locks()):
            return "going on"
        if last is None:
            return "not begun"
        return "going on" if now - last < self._silence.watch_s else "stopped"

    def _stall(self, rows: list[Row], last: float | None, now: float) -> str:
        quiet = 0.0 if last is None else now - last
        if quiet < self._silence.watch_s:
            return ""
        if self._silence.wait:
            return self._silence.line(rows)
        where = f"round {self._watch.round}: " if self._watch.round else ""
        return f"{where}no news for {clock(quiet)}"

    def _wait(self, now: float) -> Wait | None:
        """Whom the server waits for, and since when, as its file says."""
        facts = json_in(self.folder / WAITING)
        named = facts.get("sites")
        sites = [site for site in named if isinstance(site, str)] if isinstance(named, list) else []
        task, since = str(facts.get("task")), real(facts.get("since"))
        if since is None or not (sites or task in ALONE):
            return None
        before = self._silence.wait
        given = before.given if before and before.began == since else {}
        wait = Wait(task, int(real(facts.get("round")) or 0), since, real(facts.get("deadline_s")), sites, given)
        for site in sites:  # a site that waits for a free actor has its whole deadline before it
            heard = changed(self._progress(site))
            if before is not None and heard is not None and heard >= since:
                wait.given.setdefault(site, heard)
        return wait

    # The folder's files ---------------------------------------------------------------------------------------------------

    def _read_recipe(self) -> bool:
        """Whether the recipe is another than at the last look: it has come, or the run was resumed with a longer one."""
        path = next((path for name in (SITES_FILE, ASKED_FILE) if (path := self.folder / name).is_file()), None)
        path = path or max(self.folder.glob(f"{CHECKPOINTS}/[0-9]*/state.json"), default=None)
        seen = (path, changed(path)) if path else ()
        if seen == self._recipe[0] or (path and path.suffix == ".json" and self._recipe[1]):
            return False
        run = _recipe_in(path) if path else None
        self._recipe = (seen, run)
        return run is not None

    def _is_another_record(self) -> bool:
        """Whether the record does not go on where it was read last: a resumed run's is cut, and grows again."""
        end, tail = self._print
        try:
            with (self.folder / RECORD).open("rb") as file:
                file.seek(max(0, end - PRINT))
                there = file.read(min(end, PRINT))
                size = file.seek(0, 2)
                file.seek(max(0, size - PRINT))
                self._print = (size, file.read(PRINT))
        except OSError:
            return False
        return there != tail

    def _fold(self, news: Iterable[Mapping[str, Any]], now: float) -> None:
        known, replies = self._known, dict[str, int]()
        for event in news:
            kind, site, told = event["event"], event.get("site"), real(event.get("round"))
            number = self._watch.round if told is None else int(told)
            if kind == "round":
                known.seconds[number] = real(event.get("seconds")) or 0.0
            elif kind == "end":
                known.took = real(event.get("seconds"))
            elif kind in HEARD and isinstance(site, str):
                replies[site] = number
        written = changed(self.folder / RECORD) or now
        for site, number in replies.items():  # the record has no times, but rounds have seconds
            known.replies[site] = written - sum(spent for later, spent in known.seconds.items() if later > number)
        if not self._looked:
            self._looked, self._late = True, self._watch.round > 0

    def _heard(self, site: str) -> float | None:
        """A site's last sign of life: what it last said of itself, or its last reply."""
        signs = (changed(self._progress(site)), self._known.replies.get(site))
        return max((sign for sign in signs if sign is not None), default=None)

    def _progress(self, site: str) -> Path:
        return self.folder / "sites" / site / "progress.json"


def _recipe_in(path: Path) -> Run | None:
    """The run that a config, or a checkpoint, describes; None where it cannot be read (now)."""
    with suppress(OSError, ValueError, TypeError, AttributeError, RecursionError):
        return build_run(json_in(path)["recipe"]) if path.suffix == ".json" else load_run(path)
    return None


def changed(path: Path) -> float | None:
    """When a file was last written, in seconds since 1970; None: there is none."""
    try:
        return path.stat().st_mtime
    except (OSError, ValueError):
        return None


def json_in(path: Path) -> dict[str, Any]:
    """The mapping that a file holds; an empty one where it cannot be read (now)."""
    try:
        facts = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}
