"""A study from its file: what there is to do, doing it, and the tables that come of it."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from configs.study import Cell, Study, cells, load_study
from durable import write_whole
from simulations.plan import Seen, check_names
from simulations.run_folder import is_taken
from simulations.studies.scales import scale
from simulations.studies.shelf import Place, outcome, place_of
from simulations.studies.statistics import Outcome

SHELF, STUDIES = "cells", "studies"
"""The folders of all studies' runs, and of what the studies say of them: neither is among the runs that have a name."""
INDEX = "study.json"
"""In a study's folder: which run each cell is."""


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
    _check_words(study, grid)
    folder = runs / STUDIES / study.name
    _refuse_taken(runs, folder, path)
    rows: list[tuple[Cell, Place]] = []
    seen: set[Seen] = set()
    for cell in grid:
        rows.append((cell, place_of(cell, runs / SHELF, seen)))
        said(len(rows), len(grid))
    _refuse_twins(rows)
    return Sheet(study, folder, tuple(rows))


def _check_words(study: Study, grid: Sequence[Cell]) -> None:
    """Look up every name, of each variant once. Raises ValueError with the nearest valid one."""
    for metric in study.metrics:
        try:
            scale(metric)
        except ValueError as error:
            raise ValueError(f"metrics: {error}") from None
    for variant, cell in {cell.variant: cell for cell in grid}.items():
        try:
            check_names(cell.run)
        except ValueError as error:
            raise ValueError(f"variant {variant!r}: {error}") from None


def _refuse_taken(runs: Path, folder: Path, path: Path) -> None:
    """Raises ValueError if a run lies where the studies' folders are to be, or the folder is another study's."""
    for place in (runs / SHELF, runs / STUDIES):
        if is_taken(place):
            raise ValueError(f"{place} holds a run, and studies need that folder; move it, or choose another --out")
    other = _study_in(folder)
    if other and other.is_file() and not other.samefile(path):
        raise ValueError(f"{folder} belongs to the study {other}; give this one another `name`, or choose another --out")


def _study_in(folder: Path) -> Path | None:
    """The file of the study whose folder this is; None if it is nobody's yet."""
    with suppress(OSError, ValueError, LookupError, TypeError):
        return Path(json.loads((folder / INDEX).read_text(encoding="utf-8"))["file"])
    return None


def _refuse_twins(rows: Iterable[tuple[Cell, Place]]) -> None:
    """Raises ValueError if two variants are the same runs under two names."""
    runs: dict[str, dict[tuple[int, str], Path]] = {}
    for cell, place in rows:
        runs.setdefault(cell.variant, {})[cell.seed, cell.order] = place.folder
    for one, other in combinations(runs, 2):
        if runs[one] == runs[other]:
            raise ValueError(f"variants {one!r} and {other!r} are the same runs: nothing that they say makes a difference")


def write_index(sheet: Sheet, path: Path) -> None:
    """study.json: which run each cell is, so that the study's folder can be read by itself; `path` is the study's file."""
    rows = [
        {"variant": cell.variant, "seed": cell.seed, "order": cell.order, "run": place.folder.name, "state": place.state}
        for cell, place in sheet.rows
    ]
    about = {"name": sheet.study.name, "file": str(path.absolute()), "about": sheet.study.about}
    facts = about | {"reference": sheet.reference, "cells": rows}
    sheet.folder.mkdir(parents=True, exist_ok=True)
    write_whole(sheet.folder / INDEX, lambda draft: draft.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8"))


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
