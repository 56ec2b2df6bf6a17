"""How far chance in the choice of test cases reaches: 95 % intervals of a run's results over its test cases."""

from collections import defaultdict
from collections.abc import Mapping
from math import nan, sqrt

import numpy as np
from scipy.special import stdtrit

from server.digest import Digest
from server.metrics import mean

FEWEST = 3
"""Test cases below which nothing is said."""

CaseDice = Mapping[tuple[str, str], Mapping[str, float]]
"""{(stage, site): {case: mean Dice over the classes that its label has}}."""


def case_dice(run: Digest) -> CaseDice:
    """The Dice of every test case after every stage that was recorded."""
    rows: dict[tuple[str, str], dict[str, list[float | None]]] = defaultdict(lambda: defaultdict(list))
    for row in run.cases:
        rows[row["stage"], row["site"]][row["case"]].append(row["dice"])
    return {where: {case: mean(values).value for case, values in there.items()} for where, there in rows.items()}


def reach(found: CaseDice, stage: str, site: str) -> float:
    """How far the 95 % interval (Student's, over test cases) reaches to either side of a cell of R; nan for too few cases."""
    return half_width(list(found.get((stage, site), {}).values()))


def reach_of_change(found: CaseDice, before: str, after: str, site: str) -> float:
    """The same of the change between two stages, case by case: what is hard about a case is in both and drops out."""
    old, new = found.get((before, site), {}), found.get((after, site), {})
    return half_width([new[case] - old[case] for case in old if case in new])


def reaches(run: Digest) -> dict[str, list[float]]:
    """{site: `reach_of_change` of each point of its curve of forgetting, from its own stage on}; of the sites that came."""
    matrix, found = run.matrix, case_dice(run)
    return {
        site: [reach_of_change(found, matrix.stages[start], later, site) for later in matrix.stages[start:]]
        for site, start in zip(matrix.sites, matrix.arrival, strict=True)
        if start
    }


def reach_of_mean(reaches: list[float]) -> float:
    """Of a mean over sites, each with an interval of its own; nan if one has none."""
    return sqrt(sum(one * one for one in reaches)) / len(reaches) if reaches else nan


def half_width(values: list[float]) -> float:
    """Half of Student's 95 % interval of a mean; nan for too few values."""
    known = np.array([value for value in values if value == value])
    if len(known) < FEWEST:
        return nan
    return float(stdtrit(len(known) - 1, 0.975) * known.std(ddof=1) / sqrt(len(known)))
