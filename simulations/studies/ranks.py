"""Which variants come first, run by run: mean ranks, Friedman's test, Nemenyi's critical difference (Demšar, 2006)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, nan, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.stats import friedmanchisquare, rankdata, studentized_range

from simulations.studies.noise import ALPHA
from simulations.studies.scales import scale
from simulations.studies.statistics import Outcome, measured


@dataclass(frozen=True)
class Ranking:
    """The variants in order of their mean rank over the blocks (seed, order)."""

    metric: str
    ranks: Mapping[str, float]
    """{variant: mean rank}, best (1) first; a variant that was measured nowhere is not in it. Empty without any block."""
    blocks: int
    """Seeds x orders in which each of these variants was measured; only they count."""
    left_out: int
    """Blocks in which some but not all were measured."""
    p: float
    """Friedman's, of the variants being all alike (chi-square, corrected for ties); nan for fewer than three variants."""
    critical: float
    """Nemenyi's critical difference at `ALPHA`: mean ranks so far apart differ. nan for fewer than two variants."""
    groups: tuple[tuple[str, ...], ...]
    """Neighbours that do not differ, each group as large as can be, best first; a variant may be in two, or in none.
    Where Friedman's test finds no difference at all, everybody is in one."""


def ranking(outcomes: Sequence[Outcome], metric: str) -> Ranking:
    """Rank the variants of a study by one metric; equal values share the mean of their ranks. Bounds take no part.

    Both tests take blocks for independent, which those of one order are not, and their p is asymptotic: with few blocks
    they are a picture more than a proof, and `statistics.differences` is what counts.

    Raises:
        ValueError: the metric has no direction (it is unknown); or as `statistics.measured`.
    """
    better = -1 if scale(metric).higher else 1
    competing = [one for one in outcomes if not one.bound]
    values = {variant: cells for variant, cells in measured(competing, metric).items() if cells}
    shared = set.intersection(*map(set, values.values())) if values else set()
    left_out = len({block for cells in values.values() for block in cells}) - len(shared)
    if not shared:
        return Ranking(metric, {}, 0, left_out, nan, nan, ())
    values_BV = np.array([[cells[block] for cells in values.values()] for block in sorted(shared)])
    means = rankdata(better * values_BV, axis=1).mean(axis=0).tolist()
    ranks = dict(sorted(zip(values, means, strict=True), key=lambda item: (item[1], item[0])))
    p, critical = friedman(values_BV), critical_difference(len(ranks), len(shared))
    return Ranking(metric, ranks, len(shared), left_out, p, critical, _groups(ranks, inf if p >= ALPHA else critical))


def friedman(values_BV: NDArray[np.float64]) -> float:
    """Friedman's p of [blocks, variants] values; 1 if all are tied in every block, nan for fewer than three variants."""
    if values_BV.shape[1] < 3:
        return nan
    if (values_BV == values_BV[:, :1]).all():
        return 1.0
    return float(friedmanchisquare(*values_BV.T).pvalue)


def critical_difference(variants: int, blocks: int) -> float:
    """Nemenyi's: q sqrt(k (k + 1) / (6 N)), q the studentised range's quantile over sqrt(2); nan for one variant."""
    if variants < 2:
        return nan
    q = float(studentized_range.ppf(1 - ALPHA, variants, inf)) / sqrt(2)
    return q * sqrt(variants * (variants + 1) / (6 * blocks))


def _groups(ranks: Mapping[str, float], critical: float) -> tuple[tuple[str, ...], ...]:
    """Runs of neighbours whose first and last are less than `critical` apart, without those that lie within another."""
    names, found, reached = list(ranks), [], 0
    for i, first in enumerate(names):
        group = [name for name in names[i:] if ranks[name] - ranks[first] < critical]
        if len(group) > 1 and i + len(group) > reached:
            found.append(tuple(group))
            reached = i + len(group)
    return tuple(found)
