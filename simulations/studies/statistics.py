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

from configs.load import nearest
from simulations.studies.noise import ALPHA, FEWEST, FEWEST_SIGNS, chances, holm, interval, signed_rank, units

Block = tuple[str, int]
"""(order, seed): the runs of a block differ in nothing but their variant."""


@dataclass(frozen=True)
class Outcome:
    """What one run of a study came to."""

    variant: str
    seed: int
    order: str
    """The name of the order in which the sites arrive."""
    metrics: Mapping[str, float | None]
    """{id: value} in simulations/studies/scales.py's ids; nan, None or no entry: not measured."""
    bound: bool = False
    """Whether this is a yardstick (joint.pooled, say): it is shown beside the variants and competes with none."""
    run: str = ""
    """The run's address: outcomes with the same are one run, counted once; empty: this one is its own."""

    def __post_init__(self) -> None:
        """Raises ValueError for an infinite value: it would make every mean infinite."""
        for name, value in self.metrics.items():
            if value is not None and isinf(value):
                raise ValueError(f"{self.variant}, seed {self.seed}, order {self.order}: {name} is infinite")


@dataclass(frozen=True)
class Summary:
    """One variant's runs, over all seeds and orders; a run that several outcomes share counts once."""

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
    """The bootstrap's 95 % interval of this difference alone, see `noise.interval`; nan where there are too few."""
    p: float = nan
    """Of no difference, over seeds and orders alike (`noise.chances`), Holm-corrected over the study's variants: of all
    studies without any difference one in twenty has a p below .05. nan where there are too few, and for a bound."""
    p_here: float = nan
    """The same over the seeds alone: it says nothing of orders that were not tried."""
    wilcoxon: float = nan
    """Wilcoxon's signed-rank p of the `units`, Holm-corrected; nan for fewer than six, and for a bound. It knows only signs
    and ranks, and as `p_here` only these orders (or seeds): it is shown, and decides nothing."""
    least_p: float = nan
    """The smallest p, not corrected, that Wilcoxon's test could give of so many units: 2 / 2^units. nan for a bound."""

    @property
    def units(self) -> int:
        """How many seeds, or orders if they are more: pairs of one seed are not independent, nor are those of one order."""
        return max(self.seeds, self.orders)

    @property
    def enough(self) -> bool:
        """Whether there are units enough to say anything."""
        return self.units >= FEWEST

    @property
    def clear(self) -> bool:
        """More than noise: units enough, and a corrected p of at most .05."""
        return self.enough and self.p <= ALPHA


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
        mine = sorted((one for one in outcomes if one.variant == variant), key=lambda one: (one.order, one.seed), reverse=True)
        once = {one.run or (one.order, one.seed): (one.order, one.seed) for one in mine}
        values = [cells[block] for block in sorted(once.values()) if block in cells]
        mean = float(np.mean(values)) if values else nan
        found[variant] = Summary(len(once), len(values), mean, float(np.std(values, ddof=1)) if len(values) > 1 else nan)
    return found


def differences(outcomes: Sequence[Outcome], metric: str, reference: str) -> dict[str, Difference]:
    """Each other variant minus `reference`, pair by pair; bounds are left out, and do not count in Holm's correction.

    Raises:
        ValueError: no run is the reference's; or as `measured`.
    """
    grids = _grids(outcomes, metric, reference, bounds=False)
    tested = {name: chances(grid) for name, grid in grids.items() if len(units(grid)) >= FEWEST}
    p, p_here = (holm({name: both[k] for name, both in tested.items() if not isnan(both[k])}) for k in (0, 1))
    signs = holm({name: signed_rank(list(units(grid))) for name, grid in grids.items() if len(units(grid)) >= FEWEST_SIGNS})
    found = {}
    for name, grid in grids.items():
        least = 2.0 ** (1 - len(units(grid))) if grid.size else nan
        found[name] = _difference(grid, p.get(name, nan), p_here.get(name, nan), signs.get(name, nan), least)
    return found


def bound_differences(outcomes: Sequence[Outcome], metric: str, reference: str) -> dict[str, Difference]:
    """Each bound but `reference` minus `reference`, untested: nobody asks whether having all data helps.

    Raises:
        ValueError: as `differences`.
    """
    return {name: _difference(grid) for name, grid in _grids(outcomes, metric, reference, bounds=True).items()}


def _grids(outcomes: Sequence[Outcome], metric: str, reference: str, bounds: bool) -> dict[str, NDArray[np.float64]]:
    """{variant: [orders, seeds] its paired differences}, of the bounds or of the others; a grid without a pair is empty."""
    values = measured(outcomes, metric)
    if reference not in values:
        raise ValueError(f"reference {reference!r}: no run is of that variant; {nearest(reference, values)}")
    base, asked = values.pop(reference), {one.variant for one in outcomes if one.bound is bounds}
    return {name: _grid(cells, base) for name, cells in values.items() if name in asked}


def _grid(cells: Mapping[Block, float], base: Mapping[Block, float]) -> NDArray[np.float64]:
    """Differences, rounded so that floating point neither makes nor breaks ties."""
    pairs = {block: round(value - base[block], 12) for block, value in cells.items() if block in base}
    orders, seeds = sorted({order for order, _ in pairs}), sorted({seed for _, seed in pairs})
    grid_OS = np.array([[pairs.get((order, seed), nan) for seed in seeds] for order in orders], dtype=np.float64)
    return grid_OS.reshape(len(orders), len(seeds))


def _difference(grid_OS: NDArray[np.float64], *chance: float) -> Difference:
    """`chance`: p, p_here, wilcoxon and least_p, where they are known."""
    orders, seeds = grid_OS.shape
    mean = float(np.nanmean(grid_OS)) if grid_OS.size else nan
    return Difference(int((~np.isnan(grid_OS)).sum()), seeds, orders, mean, *interval(grid_OS), *chance)
