"""How fast a study's variants forget: the change in Dice against the stages since a site was learnt, over all runs."""

from collections.abc import Sequence

from configs.study import Cell
from server.metrics import ResultMatrix, drop, mean
from simulations.studies.means import Mean, mean_over
from simulations.studies.shelf import Place
from simulations.studies.statistics import Block


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


def curves(cells: Sequence[tuple[Cell, Place, ResultMatrix]]) -> dict[str, list[Mean]]:
    """{variant: its points, from 0 stages on: a mean over the runs of the mean over their sites}.

    Variants without any site that another followed are left out.
    """
    runs: dict[str, dict[Block, list[float]]] = {}
    seen = set()
    for cell, place, matrix in cells:
        if (cell.variant, place.folder) not in seen and (found := curve(matrix)):
            seen.add((cell.variant, place.folder))
            runs.setdefault(cell.variant, {})[cell.order, cell.seed] = found
    return {variant: _points(found) for variant, found in runs.items()}


def _points(runs: dict[Block, list[float]]) -> list[Mean]:
    longest = max(map(len, runs.values()))
    at = ({block: values[later] for block, values in runs.items() if later < len(values)} for later in range(longest))
    return [mean_over(values, -1.0) for values in at]
