"""How far the runs of a study are, read from its study.json and from their own folders, by looking alone."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from configs.load import load_run
from configs.schema import Run
from server.arrivals import make_schedule
from server.conduct import MODEL, SUMMARY
from server.record import FILE as RECORD
from simulations.at_work import held_locks, is_held
from simulations.live_run import WATCH_S, changed, json_in
from simulations.plan import Plan
from simulations.run_folder import SITES_FILE
from simulations.studies.several import rounds_done
from simulations.studies.shelf import FAILED, Place, State
from simulations.studies.study import INDEX, SHELF

SIGNS = (RECORD, SUMMARY, MODEL, FAILED, "checkpoints")
"""What a run's state depends on, in its folder."""
NO_PLAN = Plan((), (), 0, (), 0, 0, 0)
"""Nothing is prepared, and nothing timed, for a run that is only looked at."""


class CellName(NamedTuple):
    """Which cell of a study."""

    variant: str
    seed: int
    order: str


@dataclass(frozen=True)
class Entry:
    """A run at this moment; several cells may mean it."""

    cell: CellName
    """The first of them."""
    folder: Path
    state: State
    working: bool
    """Whether a process is at it."""
    heard: float | None
    """Its last sign of life, in seconds since 1970."""


class LiveShelf:
    """Looks at a study's folder and at its runs; whatever lies there, or does not, is no error."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self._index: dict[str, Any] = {}
        self._known: dict[tuple[str, Path], tuple[object, Any]] = {}

    def index(self) -> dict[str, Any]:
        """What study.json says, or said when it could last be read."""
        found = json_in(self.folder / INDEX)
        self._index = found if isinstance(found.get("cells"), list) else self._index
        return self._index

    def places(self) -> dict[CellName, Path]:
        """{cell: its run's folder}"""
        found = {}
        for row in self.index().get("cells", ()):
            match row:
                case {"variant": str(variant), "seed": int(seed), "order": str(order), "run": str(run)} if is_plain(run):
                    found[CellName(variant, seed, order)] = self.folder.parent.parent / SHELF / run
        return found

    def entries(self, now: float) -> list[Entry]:
        """Every run once, in the study's order."""
        locks, found = held_locks(), dict[Path, Entry]()
        for cell, folder in self.places().items():
            if folder not in found:
                state, heard = self.state(folder), None
                working = state in ("begun", "new") and is_held(folder, locks)
                if working or state == "begun":
                    heard = last_sign(folder)
                    working = working or (heard is not None and now - heard < WATCH_S)
                found[folder] = Entry(cell, folder, state, working, heard)
        return list(found.values())

    def state(self, folder: Path) -> State:
        """How far a run is; its files are read again only when they have changed."""
        signs = tuple(changed(folder / name) for name in SIGNS)
        found: State = self._once("state", folder, signs, lambda: self.place(None, folder, 0).state)
        return found

    def rounds(self, folder: Path) -> tuple[int, int]:
        """Rounds that a run has done, and has in all (0: not known)."""
        done: int = self._once("done", folder, changed(folder / RECORD), lambda: rounds_done(folder))
        of: int = self._once("of", folder, changed(folder / SITES_FILE), lambda: _rounds_of(folder))
        return done, of

    def place(self, run: Run | None, folder: Path, rounds: int) -> Place:
        """A run's place, as far as a report needs it."""
        return Place(run, folder, rounds, NO_PLAN)  # type: ignore[arg-type]

    def _once(self, what: str, folder: Path, signs: object, look: Callable[[], Any]) -> Any:
        before = self._known.get((what, folder))
        if before is None or before[0] != signs:
            before = self._known[what, folder] = signs, look()
        return before[1]


def is_plain(name: str) -> bool:
    """Whether a name leads nowhere but to a folder's own entry."""
    return name not in ("", "..") and Path(name).name == name and "\0" not in name


def last_sign(folder: Path) -> float | None:
    """When a run was last heard of."""
    signs = map(changed, (folder / RECORD, *folder.glob("sites/*/progress.json")))
    return max((sign for sign in signs if sign is not None), default=None)


def _rounds_of(folder: Path) -> int:
    try:
        run = load_run(folder / SITES_FILE)
        return make_schedule(run.arrivals, list(run.sites)).rounds
    except (ValueError, OSError):
        return 0
