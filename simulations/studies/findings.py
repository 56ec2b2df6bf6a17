"""What a study's page is made from: its sheet, what the finished runs came to, and their result matrices."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from math import isnan
from pathlib import Path

import numpy as np

from configs.study import Cell
from server.metrics import ResultMatrix
from server.palette import SITE_COLOURS, colours
from simulations.studies.gist import Gist, read_gist
from simulations.studies.shelf import Place, State
from simulations.studies.statistics import Block, Outcome, summaries
from simulations.studies.study import Sheet


@dataclass(frozen=True)
class Findings:
    """A study as far as it is. It looks at the runs once: what they do meanwhile changes nothing."""

    sheet: Sheet
    outcomes: Sequence[Outcome]
    source: Path
    """The study's file."""

    @cached_property
    def states(self) -> dict[Path, State]:
        """{a run's folder: how far it is}, every run once."""
        return {place.folder: place.state for place in self.sheet.places}

    @property
    def counts(self) -> Counter[State]:
        """{state: runs}"""
        return Counter(self.states.values())

    @property
    def metric(self) -> str:
        """The one that decides."""
        return self.sheet.study.metrics[0]

    @property
    def variants(self) -> list[str]:
        """In the study's order, whether they have a run or not."""
        return list(dict.fromkeys(cell.variant for cell, _ in self.sheet.rows))

    @property
    def tints(self) -> dict[str, str]:
        """A colour per variant, the same in every figure."""
        return colours(self.variants, SITE_COLOURS)

    @property
    def compared(self) -> bool:
        """Whether the reference has a run, so that anything can be compared with it."""
        return any(one.variant == self.sheet.reference for one in self.outcomes)

    @cached_property
    def matrices(self) -> list[tuple[Cell, Place, ResultMatrix]]:
        """R of every cell that is finished; one that cannot be read is left out, and `unreadable` says so."""
        return [(cell, place, self._read[place.folder]) for cell, place in self.sheet.rows if place.folder in self._read]

    @property
    def unreadable(self) -> list[Path]:
        """R.csv of the finished runs that lack a whole one."""
        return [folder / "R.csv" for folder, state in self.states.items() if state == "finished" and folder not in self._read]

    @cached_property
    def gists(self) -> list[tuple[Cell, Gist]]:
        """What else is known of the finished cells; runs that cells of one variant share are there once for it."""
        once = {(cell.variant, place.folder): (cell, place.folder) for cell, place in reversed(self.sheet.rows)}
        return [(cell, self._told[folder]) for cell, folder in reversed(once.values()) if folder in self._told]

    def over_runs(self, value: Callable[[Gist], float | None]) -> dict[str, dict[Block, float]]:
        """{variant: {(order, seed): a value of its run}}, of the runs that have it, in the study's order."""
        found: dict[str, dict[Block, float]] = {}
        for cell, gist in self.gists:
            if (known := value(gist)) is not None and not isnan(known):
                found.setdefault(cell.variant, {})[cell.order, cell.seed] = known
        return found

    @cached_property
    def _told(self) -> dict[Path, Gist]:
        """Of the runs whose R can be read; the others are named already."""
        found: dict[Path, Gist] = {}
        for folder in self._read:
            with suppress(OSError, ValueError):
                found[folder] = read_gist(folder)
        return found

    @cached_property
    def _read(self) -> dict[Path, ResultMatrix]:
        found: dict[Path, ResultMatrix] = {}
        for folder, state in self.states.items():
            try:
                found |= {folder: _matrix(folder)} if state == "finished" else {}
            except (OSError, ValueError):
                continue
        return found


@dataclass(frozen=True)
class MeanMatrix:
    """R of a variant in one order of arrival, a mean over its runs."""

    variant: str
    order: str
    matrix: ResultMatrix
    """A cell's mean is over the runs in which it is not empty."""
    runs: int
    """How many; cells that share a run count it once."""


def mean_matrices(cells: Sequence[tuple[Cell, Place, ResultMatrix]]) -> list[MeanMatrix]:
    """The mean of R over runs of one variant and order; runs whose sites or stages differ make a mean of their own."""
    alike: dict[tuple[str, str, tuple[str, ...], tuple[str, ...]], dict[Path, ResultMatrix]] = {}
    for cell, place, matrix in cells:
        alike.setdefault((cell.order, cell.variant, matrix.sites, matrix.stages), {})[place.folder] = matrix
    return [_mean(variant, order, list(runs.values())) for (order, variant, _, _), runs in alike.items()]


def _mean(variant: str, order: str, runs: Sequence[ResultMatrix]) -> MeanMatrix:
    values_NTK = np.stack([run.values for run in runs])
    there_TK = (~np.isnan(values_NTK)).sum(axis=0)
    means_TK = np.where(there_TK, np.nansum(values_NTK, axis=0) / np.maximum(there_TK, 1), np.nan)
    return MeanMatrix(variant, order, ResultMatrix(runs[0].sites, runs[0].stages, means_TK, runs[0].arrival), len(runs))


def _matrix(folder: Path) -> ResultMatrix:
    matrix = ResultMatrix.from_csv((folder / "R.csv").read_text(encoding="utf-8"))
    known = matrix.values[~np.isnan(matrix.values)]
    if not (known.size and (known >= 0).all() and (known <= 1).all()):
        raise ValueError(f"{folder / 'R.csv'}: holds what is no Dice, or nothing")
    return matrix


def by_variant(findings: Findings, metric: str) -> Mapping[str, float]:
    """{variant: mean of a metric over its finished runs}, of those in which it was measured."""
    found = summaries(findings.outcomes, metric)
    return {name: found[name].mean for name in findings.variants if name in found and found[name].n}
