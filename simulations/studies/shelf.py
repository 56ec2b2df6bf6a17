"""A study's runs on the disk: each has an address made of what it would do, so that no run is ever done twice.

Studies share the shelf: a run that one of them has finished is found by all others.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from configs.schema import Run
from configs.study import Cell
from server.arrivals import make_schedule
from server.changes import FREE, recipe_of
from server.conduct import SUMMARY, is_finished
from server.digest import read_record
from simulations.engines import ASKED_FILE, write_run
from simulations.plan import Plan, make_plan, prepare_all
from simulations.pretend import materialise
from simulations.studies.statistics import Outcome

VERSION = 1
"""Raise it when the same recipe would give other results."""
FAILED = "failed.txt"
"""Why a run of the shelf failed, in its folder; gone when it is tried again."""

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
        """Put the recipe there, so that the run can be done, or taken up by hand."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_run(self.folder / ASKED_FILE, self.run)


def address(run: Run) -> str:
    """16 hexadecimal digits of what a materialised run would do; its name and engine make no difference."""
    recipe = {key: value for key, value in recipe_of(run).items() if key not in FREE}
    return hashlib.sha256(f"{VERSION} {json.dumps(recipe)}".encode()).hexdigest()[:16]


def place_of(cell: Cell, shelf: Path) -> Place:
    """Where a cell's run is, or will be; its data are prepared.

    Raises:
        ValueError: the recipe or the data do not fit; the message names the variant.
    """
    local = cell.run.engine.model_copy(update={"name": "local", "actors": None, "address": None})
    run = cell.run.model_copy(update={"engine": local})
    try:
        whole = materialise(run)
        plan = make_plan(whole, prepare_all(whole))
    except ValueError as error:
        raise ValueError(f"variant {cell.variant!r}, seed {cell.seed}, order {cell.order!r}: {error}") from None
    rounds = make_schedule(whole.arrivals, list(whole.sites)).rounds
    return Place(run, shelf / address(whole), rounds, plan)


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
    return Outcome(cell.variant, cell.seed, cell.order, metrics | cost)
