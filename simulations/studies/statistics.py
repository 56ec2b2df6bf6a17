"""What a study's runs say together: means, paired differences, and how sure they are. Numbers only; no text, no files.

A study is a grid: each variant is run with each seed in each order of the sites' arrival. The seed decides the split, the
stream, the first weights and every draw; the order decides who is forgotten. So two variants are compared run by run, on
equal seed and order, and a result that differs from order to order is not made sure by many seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isinf, isnan, nan

import numpy as np
from numpy.typing import NDArray
from scipy.stats import wilcoxon

from configs.load import nearest

Block = tuple[str, int]
"""(order, seed): the runs of a block differ in nothing but their variant."""

FEWEST = 6
"""Pairs below which nothing is called more than noise: five equal signs in a row come by chance with p = 2 / 2^5 = .062."""
DRAWS = 10_000
"""Of the bootstrap."""


@dataclass(frozen=True)
class Outcome:
    """What one run of a study came to."""

    variant: str
    seed: int
    order: str
    """The name of the order in which the sites arrive."""
    metrics: Mapping[str, float | None]
    """{id: value} in simulations/studies/scales.py's ids; nan, None or no entry: not measured."""

    def __post_init__(self) -> None:
        """Raises ValueError for an infinite value: it would make every mean infinite."""
        for name, value in self.metrics.items():
            if value is not None and isinf(value):
                raise ValueError(f"{self.variant}, seed {self.seed}, order {self.order}: {name} is infinite")


@dataclass(frozen=True)
class Summary:
    """One variant's runs, over all seeds and orders."""

    runs: int
    """How many there are."""
    n: int
    """In how many of them the metric was measured."""
    mean: float
    """nan without any."""
    deviation: float
    """Standard deviation (n - 1 below); nan for fewer than two."""


@dataclass(frozen=True)
class Difference:
    """A variant minus the reference, over the blocks in which both were measured. The sign is the metric's own."""

    pairs: int
    seeds: int
    orders: int
    """How many pairs, and of how many seeds and orders."""
    mean: float
    """nan without any pair."""
    low: float
    high: float
    """The bootstrap's 95 % interval, see `interval`; nan for fewer than two pairs."""
    p: float
    """Wilcoxon's signed-rank p, Holm-corrected over the study's variants; nan for fewer than `FEWEST` pairs. It takes pairs
    for independent, which those of one order are not: the interval leads."""
    least_p: float
    """The smallest p, not corrected, that so many pairs could give: 2 / 2^pairs."""

    @property
    def enough(self) -> bool:
        """Whether there are pairs enough to say anything."""
        return self.pairs >= FEWEST

    @property
    def clear(self) -> bool:
        """More than noise: pairs enough, and the interval leaves out 0."""
        return self.enough and (self.low > 0 or self.high < 0)


def measured(outcomes: Sequence[Outcome], metric: str) -> dict[str, dict[Block, float]]:
    """{variant: {block: value}} of what was measured, both in order of their names, whatever the order of `outcomes`.

    Raises:
        ValueError: a variant has two runs of one seed and order.
    """
    values: dict[str, dict[Block, float]] = {}
    seen = set()
    for outcome in sorted(outcomes, key=lambda one: (one.variant, one.order, one.seed)):
        run = (outcome.variant, outcome.order, outcome.seed)
        if run in seen:
            raise ValueError(f"two runs of {outcome.variant} have seed {outcome.seed} and order {outcome.order}")
        seen.add(run)
        cells = values.setdefault(outcome.variant, {})
        value = outcome.metrics.get(metric)
        if value is not None and not isnan(value):
            cells[outcome.order, outcome.seed] = value
    return values


def summaries(outcomes: Sequence[Outcome], metric: str) -> dict[str, Summary]:
    """Each variant's mean and spread.

    Raises:
        ValueError: as `measured`.
    """
    found = {}
    for variant, cells in measured(outcomes, metric).items():
        runs, values = sum(outcome.variant == variant for outcome in outcomes), list(cells.values())
        mean = float(np.mean(values)) if values else nan
        found[variant] = Summary(runs, len(values), mean, float(np.std(values, ddof=1)) if len(values) > 1 else nan)
    return found


def differences(outcomes: Sequence[Outcome], metric: str, reference: str) -> dict[str, Difference]:
    """Each other variant minus `reference`, pair by pair.

    Raises:
        ValueError: no run is the reference's; or as `measured`.
    """
    values = measured(outcomes, metric)
    if reference not in values:
        raise ValueError(f"reference {reference!r}: no run is of that variant; {nearest(reference, values)}")
    base = values.pop(reference)
    paired = {variant: _paired(cells, base) for variant, cells in values.items()}
    tested = {variant: list(pairs.values()) for variant, pairs in paired.items() if len(pairs) >= FEWEST}
    p_values = holm({variant: signed_rank(pairs) for variant, pairs in tested.items()})
    return {variant: _difference(pairs, p_values.get(variant, nan)) for variant, pairs in paired.items()}


def _paired(cells: Mapping[Block, float], base: Mapping[Block, float]) -> dict[Block, float]:
    """Differences, rounded so that floating point neither makes nor breaks ties."""
    return {block: round(value - base[block], 12) for block, value in cells.items() if block in base}


def _difference(pairs: Mapping[Block, float], p: float) -> Difference:
    orders, seeds = sorted({order for order, _ in pairs}), sorted({seed for _, seed in pairs})
    if not pairs:
        return Difference(0, 0, 0, nan, nan, nan, nan, nan)
    paired_OS = np.array([[pairs.get((order, seed), nan) for seed in seeds] for order in orders])
    low, high = interval(paired_OS)
    mean = float(np.mean(list(pairs.values())))
    return Difference(len(pairs), len(seeds), len(orders), mean, low, high, p, 2.0 ** (1 - len(pairs)))


def interval(paired_OS: NDArray[np.float64]) -> tuple[float, float]:
    """The bootstrap's 95 % interval of the mean of [orders, seeds] paired differences; nan in a cell without a pair.

    Orders are drawn with replacement, all runs of an order together, and so are seeds, all runs of a seed together; a
    cell counts as often as its order times its seed was drawn (the pigeonhole bootstrap: Owen, Ann. Appl. Stat. 2007).
    Both are needed because the grid crosses them. Runs in the same order share who is forgotten, so that they are one
    observation of that order and not many: this is the clustering by order. Runs of the same seed share their split and
    first weights in every order, so that seeds drawn anew within each order would be taken for more than they are.
    With one order this is the plain bootstrap over seeds, with one seed that over orders.

    The interval of k orders never leaves the range of their means: with two or three it tells what these orders have in
    common, little of others. Percentiles of `DRAWS` draws from a fixed seed, so that the same runs give the same interval.
    """
    if np.count_nonzero(~np.isnan(paired_OS)) < 2:
        return nan, nan
    rng = np.random.default_rng(0)
    orders, seeds = paired_OS.shape
    seed_NS = rng.integers(0, seeds, (DRAWS, seeds))
    order_NO = rng.integers(0, orders, (DRAWS, orders))
    drawn_NOS = paired_OS[order_NO[:, :, None], seed_NS[:, None, :]]
    count_N = np.count_nonzero(~np.isnan(drawn_NOS), axis=(1, 2))
    total_N = np.nansum(drawn_NOS, axis=(1, 2))
    mean_N = total_N[count_N > 0] / count_N[count_N > 0]
    low, high = np.quantile(mean_N, (0.025, 0.975))
    return float(low), float(high)


def signed_rank(pairs: Sequence[float]) -> float:
    """Wilcoxon's two-sided signed-rank p of paired differences; those of 0 are left out, and nothing left gives 1.

    Exact up to 50 without ties and up to 13 with, else the normal approximation.
    """
    there = [value for value in pairs if value]
    return float(wilcoxon(there).pvalue) if there else 1.0


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's correction: the smallest p times their number, the next times one less, never falling, at most 1."""
    corrected, least = {}, 0.0
    for i, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: (item[1], item[0]))):
        corrected[name] = least = max(least, min(1.0, p * (len(p_values) - i)))
    return corrected
