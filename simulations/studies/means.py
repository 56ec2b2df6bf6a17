"""A mean over a study's runs with its interval: what its curves, pictures and tables draw."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isnan, nan

import numpy as np

from server.metrics import mean
from simulations.studies.noise import interval
from simulations.studies.statistics import Block


@dataclass(frozen=True)
class Mean:
    """Over the runs of a variant in which the value was measured."""

    mean: float
    """nan without any."""
    low: float
    high: float
    """The 95 % interval over orders and seeds (noise.interval); nan for fewer than three seeds and three orders."""
    runs: int
    """How many; cells that share a run count it once."""


def mean_over(values: Mapping[Block, float], least: float = 0.0, most: float = 1.0) -> Mean:
    """The mean of {(order, seed): value}; what was not measured is nan. No interval reaches beyond `least` and `most`."""
    there = {block: value for block, value in values.items() if not isnan(value)}
    orders, seeds = sorted({order for order, _ in there}), sorted({seed for _, seed in there})
    grid_OS = np.array([[there.get((order, seed), nan) for seed in seeds] for order in orders], np.float64)
    low, high = interval(grid_OS.reshape(len(orders), len(seeds)))
    return Mean(mean(there.values()).value, float(np.clip(low, least, most)), float(np.clip(high, least, most)), len(there))
