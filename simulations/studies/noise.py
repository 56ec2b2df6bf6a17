"""What chance alone could make of paired differences: tests that hold at few seeds and orders, and an interval.

The differences are a grid [orders, seeds], nan where there is no pair. A grid of ten seeds and two orders is not twenty
observations: the runs of a seed share their split and first weights, those of an order who is forgotten. So a difference
is sure if it is so twice: over the seeds, each with the mean of its orders, and over the orders, each with that of its
seeds. With one order it is about that order only, with one seed about that seed.
"""

from collections.abc import Mapping, Sequence
from math import nan, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t, wilcoxon

ALPHA = 0.05
FEWEST = 5
"""Seeds, or orders where they are more, below which nothing is called more than noise, whatever its p: the t test of fewer
means stands on their being normally distributed, which nobody knows."""
FEWEST_SIGNS = 6
"""Pairs that Wilcoxon's test needs: five equal signs in a row come by chance with p = 2 / 2^5 = .062."""
DRAWS = 10_000
"""Of the bootstrap."""


def units(grid_OS: NDArray[np.float64]) -> NDArray[np.float64]:
    """The means by seed, or by order where there are more orders: the observations that may be taken for independent."""
    seeds, orders = _means(grid_OS, 0), _means(grid_OS, 1)
    return seeds if len(seeds) >= len(orders) else orders


def chances(grid_OS: NDArray[np.float64]) -> tuple[float, float]:
    """Two-sided p of no difference: over seeds and orders alike, and over seeds in these very orders.

    Each is Student's of means; the first is the larger of that over the seeds' and that over the orders' means, so that
    seeds do not make sure what differs from order to order. nan where nothing was repeated.
    """
    seeds, orders = (_student(_means(grid_OS, axis)) for axis in (0, 1))
    return max((p for p in (seeds, orders) if not np.isnan(p)), default=nan), seeds


def interval(grid_OS: NDArray[np.float64]) -> tuple[float, float]:
    """The bootstrap's 95 % interval of the mean; nan for fewer than three seeds and three orders, which cannot bound it.

    Orders are drawn with replacement, all runs of an order together, and so are seeds, all runs of a seed together; a
    cell counts as often as its order times its seed was drawn (the pigeonhole bootstrap: Owen, Ann. Appl. Stat. 2007).
    Percentiles of `DRAWS` draws from a fixed seed, so that the same runs give the same interval.

    Percentiles alone are too narrow at this size (of six runs they cover 87 %, of two orders nothing beyond the two), so
    they are stretched about the mean as far as Student's interval reaches beyond the draws' normal one, over seeds or
    over orders, whichever is wider. So it leaves out 0 about where `chances` fall below .05.
    """
    margins = [means for axis in (0, 1) if len(means := _means(grid_OS, axis)) > 1]
    if max(map(len, margins), default=0) < 3:
        return nan, nan
    mean, drawn_N = float(np.nanmean(grid_OS)), _drawn(grid_OS)
    reach = max(float(t.ppf(1 - ALPHA / 2, len(means) - 1)) * _error(means) for means in margins)
    normal = float(norm.ppf(1 - ALPHA / 2) * drawn_N.std())
    stretch = reach / normal if normal else 0.0
    low, high = mean + stretch * (np.quantile(drawn_N, (ALPHA / 2, 1 - ALPHA / 2)) - mean)
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


def _drawn(grid_OS: NDArray[np.float64]) -> NDArray[np.float64]:
    """The means of the bootstrap's draws, without those of empty cells only."""
    rng = np.random.default_rng(0)
    orders, seeds = grid_OS.shape
    seed_NS = rng.integers(0, seeds, (DRAWS, seeds))
    order_NO = rng.integers(0, orders, (DRAWS, orders))
    drawn_NOS = grid_OS[order_NO[:, :, None], seed_NS[:, None, :]]
    count_N = np.count_nonzero(~np.isnan(drawn_NOS), axis=(1, 2))
    means: NDArray[np.float64] = np.nansum(drawn_NOS, axis=(1, 2))[count_N > 0] / count_N[count_N > 0]
    return means


def _means(grid_OS: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """By seed (axis 0) or by order (1), of those that have a pair; rounded, so that floating point makes no difference."""
    there = (~np.isnan(grid_OS)).any(axis=axis)
    kept = grid_OS[:, there] if axis == 0 else grid_OS[there]
    return np.asarray(np.nanmean(kept, axis=axis) if there.any() else [], dtype=np.float64).round(12)


def _student(means: NDArray[np.float64]) -> float:
    """Student's p; nan for fewer than two."""
    if len(means) < 2:
        return nan
    mean, error = abs(float(means.mean())), _error(means)
    if not error:
        return 0.0 if mean else 1.0
    return float(2 * t.sf(mean / error, len(means) - 1))


def _error(means: NDArray[np.float64]) -> float:
    """Their mean's standard error."""
    return float(means.std(ddof=1)) / sqrt(len(means))
