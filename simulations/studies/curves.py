"""How fast a study's variants forget: the change in Dice against the stages since a site was learnt, over all runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan, nan

import numpy as np

from configs.study import Cell
from server.metrics import ResultMatrix, drop, mean
from simulations.studies.noise import interval
from simulations.studies.shelf import Place


@dataclass(frozen=True)
class Point:
    """A variant so many stages after its sites were learnt."""

    mean: float
    """Change in Dice, a mean over the runs of the mean over their sites."""
    low: float
    high: float
    """Its 95 % interval over orders and seeds (noise.interval), as far as a change in Dice can reach (-1 to 1); nan for fewer
    than three seeds and three orders."""
    runs: int
    """How many; cells that share a run count it once."""


def curve(matrix: ResultMatrix) -> list[float]:
    """Mean over sites of drop(k, t), by t minus the stage of k's arrival; nan where no site was evaluated so late.

    Sites of the last stage, which nothing has followed yet, do not count; nothing is left where all are.
    """
    dropped, last = drop(matrix), matrix.last
    known = [(k, start) for k, start in enumerate(matrix.arrival) if 1 <= start < last]
    longest = max((last - start for _, start in known), default=-1)
    return [
        mean(float(dropped[start + later, k]) for k, start in known if start + later <= last).value
        for later in range(longest + 1)
    ]


def curves(cells: Sequence[tuple[Cell, Place, ResultMatrix]]) -> dict[str, list[Point]]:
    """{variant: its points, from 0 stages on}; variants without any site that another followed are left out."""
    runs: dict[str, dict[tuple[str, int], list[float]]] = {}
    seen = set()
    for cell, place, matrix in cells:
        if (cell.variant, place.folder) not in seen and (found := curve(matrix)):
            seen.add((cell.variant, place.folder))
            runs.setdefault(cell.variant, {})[cell.order, cell.seed] = found
    return {variant: _points(found) for variant, found in runs.items()}


def _points(runs: dict[tuple[str, int], list[float]]) -> list[Point]:
    orders, seeds = sorted({order for order, _ in runs}), sorted({seed for _, seed in runs})
    points = []
    for later in range(max(map(len, runs.values()))):
        at = {block: values[later] for block, values in runs.items() if later < len(values) and not isnan(values[later])}
        grid_OS = np.array([[at.get((order, seed), nan) for seed in seeds] for order in orders])
        low, high = (float(np.clip(end, -1, 1)) for end in interval(grid_OS))
        points.append(Point(mean(at.values()).value, low, high, len(at)))
    return points
