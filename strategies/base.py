"""The words of aggregation: weights, a site's update, the server's state, and what a strategy choice looks like.

Numpy only: the server holds no model code.
"""

from collections.abc import Callable, Iterable, Mapping
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
    rows: tuple[str, ...] = ()
    """The head's rows by class, in order of arrival."""
    owned: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    """{tensor: [rows] which of its rows count in a merge}; tensors that are not named count whole (strategies.shares)."""


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

    @property
    def min_present(self) -> int:
        """The fewest sites with which the merge means anything."""

    def turns(self, present: list[str]) -> list[list[str]]:
        """Who is asked together: one turn of all sites, or one site at a time (cyclic)."""

    def merge(self, state: State, updates: Iterable[Update], weigh: Weigh) -> State:
        """The next state. Updates come in site order, one in memory at a time."""


class Share(Protocol):
    """Which tensors or rows an update may change."""

    @property
    def home(self) -> tuple[str, ...]:
        """Roles (body, norm, head) whose tensors never leave their site."""

    @property
    def by_rows(self) -> bool:
        """Whether some rows of a tensor may be owned and others not."""

    def owned(self, name: str, role: str, update: Update) -> bool | NDArray[np.bool_]:
        """Whether a tensor counts, or which of its rows do."""


class Half(Protocol):
    """The server's half of an objective: what every site is told, and what becomes of what the sites say in `extra`."""

    tells: int
    """How many times the model's size is told, beside the weights; a site says once its size."""
    together: bool
    """Whether it means something only where sites train side by side; else only where a stage follows another."""

    def told(self, state: State) -> Weights:
        """Tensors for every site, beside the weights."""

    def why_not(self, extra: Weights, clip: float) -> str | None:
        """Why what a site says cannot be used, in words; None if it can. Names, shapes and finite numbers are checked.

        clip: the largest norm of a step's gradient (train.clip).
        """

    def hear(
        self, state: State, updates: Iterable[Update], roles: Mapping[str, str], arrived: Iterable[frozenset[str]]
    ) -> State:
        """The state after a merge; `arrived` are the classes of each site that has arrived and learns."""


def together(present: list[str]) -> list[list[str]]:
    """All sites at once."""
    return [present]


def average(updates: Iterable[Update], weigh: Weigh) -> Weights:
    """Weighted mean of the updates, summed in float64 in the order given, returned in each tensor's own dtype.

    Federated averaging (McMahan et al., 2017, arXiv:1602.05629). A row is averaged over the updates that own it; one that
    no update owns is the first update's.

    Raises:
        ValueError: no update has any weight, or the updates do not hold the same tensors.
    """
    sums: dict[str, NDArray[np.float64]] = {}
    totals: dict[str, NDArray[np.float64]] = {}
    first: Weights = {}
    for update in updates:
        weight = float(weigh(update))
        if weight <= 0:
            continue
        if sums and sums.keys() != update.weights.keys():
            odd = sorted(sums.keys() ^ update.weights.keys())
            raise ValueError(f"the update of site {update.site!r} does not hold the same tensors as the others: {odd[0]}")
        first = first or update.weights
        for name, tensor in update.weights.items():
            if name not in sums:
                sums[name], totals[name] = np.zeros(tensor.shape, np.float64), np.zeros((), np.float64)
            elif sums[name].shape != tensor.shape:
                raise ValueError(f"site {update.site!r} sent {name} as {tensor.shape}, the others as {sums[name].shape}")
            counted = weight * _rows(update, name)
            sums[name] += np.multiply(counted, tensor, dtype=np.float64)
            totals[name] = totals[name] + counted
    if not sums:
        raise ValueError("no update has any weight: nothing was trained on in this round")
    return {name: _mean(value, totals[name], first[name]) for name, value in sums.items()}


def _rows(update: Update, name: str) -> NDArray[np.float64]:
    """1 where the update counts, as a column beside the tensor; a single 1 where all of it does."""
    owned = update.owned.get(name)
    return np.ones(()) if owned is None else as_column(owned.astype(np.float64), update.weights[name].ndim)


def as_column(row_values: NDArray, dimensions: int) -> NDArray:
    """One value per row, shaped to stand beside a tensor of so many dimensions."""
    return row_values.reshape(-1, *[1] * (dimensions - 1))


def _mean(sum_: NDArray[np.float64], total: NDArray[np.float64], otherwise: NDArray) -> NDArray:
    if not total.ndim:  # the whole tensor counts, and some update has weight
        return np.asarray(np.divide(sum_, total, out=sum_).astype(otherwise.dtype))
    mean = sum_ / np.where(total > 0, total, 1.0)
    return np.where(total > 0, mean.astype(otherwise.dtype), otherwise)
