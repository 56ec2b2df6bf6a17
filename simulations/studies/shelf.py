"""A study's runs on the disk: each has an address made of what it would do, so that no run is ever done twice.

Studies share the shelf: a run that one of them has finished is found by all others.
"""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from configs.schema import Run
from configs.study import Cell
from server.alone import Busy, alone
from server.arrivals import make_schedule
from server.conduct import SUMMARY, is_finished
from server.digest import read_record
from simulations.plan import Plan, Seen, make_plan, prepare_all
from simulations.pretend import materialise
from simulations.run_folder import ASKED_FILE, with_absolute_paths, write_run
from simulations.studies.address import address
from simulations.studies.statistics import Outcome

FAILED = "failed.txt"
"""Why a run of the shelf failed, in its folder; gone when it is tried again."""
LOOK_S = 0.5
"""Between two looks at a folder in which another process is at work."""

State = Literal["finished", "failed", "begun", "new"]


@dataclass(frozen=True)
class Place:
    """A run of the shelf: several cells of several studies may mean it."""

    run: Run
    """As asked for; over the local engine, so that every run takes one process."""
    folder: Path
    rounds: int
    plan: Plan

    @property
    def steps(self) -> int:
        """Optimizer steps in all."""
        return sum(site.steps for site in self.plan.sites)

    @property
    def state(self) -> State:
        """How far it is."""
        if is_finished(self.folder):
            return "finished"
        if (self.folder / FAILED).is_file():
            return "failed"
        return "begun" if (self.folder / "checkpoints").is_dir() else "new"

    @property
    def reason(self) -> str:
        """Why it failed; empty if it did not."""
        path = self.folder / FAILED
        return path.read_text(encoding="utf-8").strip() if path.is_file() else ""

    def write(self) -> None:
        """Put the recipe there, so that the run can be done, or taken up by hand.

        A recipe that is there stays: other words may have asked for the same run, and a run goes on in the words in which it
        began.
        """
        if not (self.folder / ASKED_FILE).exists():
            with our_turn(self.folder):
                if not (self.folder / ASKED_FILE).exists():
                    write_run(self.folder / ASKED_FILE, self.run)


@contextmanager
def our_turn(folder: Path) -> Iterator[None]:
    """In the block no other process is at work in a run's folder; waits for one that is."""
    with ExitStack() as until:
        while True:
            try:
                until.enter_context(alone(folder))
                break
            except Busy:
                time.sleep(LOOK_S)
        yield


def place_of(cell: Cell, shelf: Path, seen: set[Seen]) -> Place:
    """Where a cell's run is, or will be; its data are prepared, but for those that other cells have `seen`.

    Raises:
        ValueError: the recipe or the data do not fit; the message names the variant.
    """
    local = cell.run.engine.model_copy(update={"name": "local", "actors": None, "address": None})
    run = with_absolute_paths(cell.run.model_copy(update={"engine": local}))
    try:
        whole = materialise(run)
        plan = make_plan(whole, prepare_all(whole, seen=seen))
        folder = shelf / address(whole)
    except ValueError as error:
        raise ValueError(f"variant {cell.variant!r}, seed {cell.seed}, order {cell.order!r}: {error}") from None
    return Place(run, folder, make_schedule(whole.arrivals, list(whole.sites)).rounds, plan)


def outcome(cell: Cell, place: Place) -> Outcome:
    """What a cell's finished run came to: its metrics, and what it cost."""
    summary: Mapping[str, Any] = json.loads((place.folder / SUMMARY).read_text(encoding="utf-8"))
    trains = [row for row in read_record(place.folder) if row.get("event") == "train"]
    cost = {
        "bytes": float(sum(row["bytes_down"] + row["bytes_up"] for row in trains)),
        "steps": float(sum(row["steps"] for row in trains)),
        "cases": float(sum(row["new_cases"] for row in trains)),
        "seconds": float(summary["seconds"]["total"]),
    }
    metrics = {name: value for name, value in summary.items() if value is None or isinstance(value, int | float)}
    return Outcome(cell.variant, cell.seed, cell.order, metrics | cost, bound=cell.bound, run=place.folder.name)
