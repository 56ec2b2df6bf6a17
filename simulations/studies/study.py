"""A study from its file: what there is to do, doing it, and the tables that come of it."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.study import Cell, Study, cells, load_study
from durable import write_whole
from simulations.studies.shelf import Place, outcome, place_of
from simulations.studies.statistics import Outcome

SHELF = "cells"
"""The folder of all studies' runs, beside the studies' own."""


@dataclass(frozen=True)
class Sheet:
    """A study with the place of every run."""

    study: Study
    folder: Path
    rows: tuple[tuple[Cell, Place], ...]
    """Cells may share a run: bounds are the same in every order, say."""

    @property
    def places(self) -> list[Place]:
        """Every run once."""
        return list({place.folder: place for _, place in self.rows}.values())

    @property
    def reference(self) -> str:
        """The variant that the others are compared with."""
        return self.study.reference or self.rows[0][0].variant

    def todo(self, retry_failed: bool) -> list[Place]:
        """The runs that are not finished; failed ones only when asked for."""
        return [place for place in self.places if place.state in ("new", "begun") or (retry_failed and place.state == "failed")]

    def outcomes(self) -> list[Outcome]:
        """What the finished runs came to, a row per cell."""
        return [outcome(cell, place) for cell, place in self.rows if place.state == "finished"]

    def counts(self) -> Mapping[str, int]:
        """{state: runs}"""
        return Counter(place.state for place in self.places)

    def failures(self) -> Iterable[tuple[Cell, str]]:
        """The cells whose run failed, and why."""
        return [(cell, place.reason) for cell, place in self.rows if place.state == "failed"]


def open_study(path: Path, runs: Path, said: Callable[[int, int], None] = lambda done, of: None) -> Sheet:
    """A study's sheet; every case of every run is prepared. `said` hears how many cells have their place.

    Raises:
        ValueError: one line that says which variant is wrong, and what about it.
    """
    study = load_study(path)
    grid = cells(study)
    rows: list[tuple[Cell, Place]] = []
    for cell in grid:
        rows.append((cell, place_of(cell, runs / SHELF)))
        said(len(rows), len(grid))
    return Sheet(study, runs / study.name, tuple(rows))


def write_index(sheet: Sheet) -> None:
    """study.json: which run each cell is, so that the study's folder can be read by itself."""
    rows = [
        {"variant": cell.variant, "seed": cell.seed, "order": cell.order, "run": place.folder.name, "state": place.state}
        for cell, place in sheet.rows
    ]
    facts = {"name": sheet.study.name, "about": sheet.study.about, "reference": sheet.reference, "cells": rows}
    sheet.folder.mkdir(parents=True, exist_ok=True)
    write_whole(
        sheet.folder / "study.json", lambda draft: draft.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    )


def write_tables(sheet: Sheet, outcomes: Sequence[Outcome]) -> list[Path]:
    """table.md, table.csv and table.tex of what is finished; nothing while the reference has no run."""
    from simulations.studies.tables import comma_separated, latex, markdown

    if not any(one.variant == sheet.reference for one in outcomes):
        return []
    written = []
    for name, make in (("table.md", markdown), ("table.csv", comma_separated), ("table.tex", latex)):
        text = make(outcomes, sheet.study.metrics, sheet.reference)
        written.append(sheet.folder / name)
        write_whole(written[-1], lambda draft, text=text: draft.write_text(text, encoding="utf-8"))  # type: ignore[misc]
    return written
