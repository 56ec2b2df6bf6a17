"""The words of aggregation: weights, a site's update, the server's state, and what a strategy choice looks like.

Numpy only: the server holds no model code.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Weights = dict[str, NDArray]
"""Tensor name -> array. Floating-point body, normalisation and head tensors only: counters never travel."""


@dataclass(frozen=True)
class Update:
    """What one site's round contributes to a merge."""

    site: str
    weights: Weights
    extra: Weights
    draws: int
    uniqueness: float
    classes: frozenset[str]
    round: int


@dataclass(frozen=True)
class State:
    """The federation's model and what its merge remembers between rounds (momentum, variates, anchors): a value."""

    weights: Weights
    slots: dict[str, Weights] = field(default_factory=dict)
    step: int = 0


Weigh = Callable[[Update], float]
"""How much an update counts in a merge; never negative."""


class Merge(Protocol):
    """How updates become the next model."""

    min_present: int
    """The fewest sites with which the merge means anything."""

    def turns(self, present: list[str]) -> list[list[str]]:
        """Who is asked together: one turn of all sites, or one site at a time (cyclic)."""

    def merge(self, state: State, updates: Iterable[Update], weigh: Weigh) -> State:
        """The next state. Updates come in site order, one in memory at a time."""


def together(present: list[str]) -> list[list[str]]:
    """All sites at once."""
    return [present]


def average(updates: Iterable[Update], weigh: Weigh) -> Weights:
    """Weighted mean of the updates, summed in float64 in the order given, returned in each tensor's own dtype.

    Federated averaging (McMahan et al., 2017, arXiv:1602.05629).

    Raises:
        ValueError: no update has any weight, or the updates do not hold the same tensors.
    """
    sums: dict[str, NDArray[np.float64]] = {}
    dtypes: dict[str, np.dtype] = {}
    total = 0.0
    for update in updates:
        weight = float(weigh(update))
        if weight <= 0:
            continue
        if sums and sums.keys() != update.weights.keys():
            odd = sorted(sums.keys() ^ update.weights.keys())
            raise ValueError(f"the update of site {update.site!r} does not hold the same tensors as the others: {odd[0]}")
        for name, tensor in update.weights.items():
            if name not in sums:
                sums[name], dtypes[name] = np.zeros(tensor.shape, np.float64), tensor.dtype
            elif sums[name].shape != tensor.shape:
                raise ValueError(f"site {update.site!r} sent {name} as {tensor.shape}, the others as {sums[name].shape}")
            sums[name] += weight * tensor.astype(np.float64)
        total += weight
    if total == 0:
        raise ValueError("no update has any weight: nothing was trained on in this round")
    return {name: (value / total).astype(dtypes[name]) for name, value in sums.items()}
