"""SCAFFOLD's server half: the mean of the sites' control variates (Karimireddy et al., 2020, arXiv:1910.06378)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from strategies.base import State, Update, Weights, as_column
from strategies.steps import padded

SUM, SITES = "variates", "variate-sites"
"""Slots: the sum of the sites' variates, and among how many sites it is shared out, by row for a head."""


@dataclass(frozen=True)
class Variates:
    """c: what the sites' gradients are on average; each site says by how much its own has changed.

    The sum is kept and divided when it is told: with sites that arrive one after another, a mean of changes, each by
    the number of sites of its day, would count the first sites more than once.
    """

    tells: ClassVar[int] = 1
    together: ClassVar[bool] = True

    def told(self, state: State) -> Weights:
        """c, as the sites have it so far."""
        sites = state.slots.get(SITES, {})
        return {name: (sum_ / sites[name]).astype(np.float32) for name, sum_ in state.slots.get(SUM, {}).items()}

    def why_not(self, extra: Weights, clip: float) -> str | None:
        """A variate is a mean of clipped gradients, so it changes by twice the clip at most."""
        norm = float(np.sqrt(sum(np.square(change, dtype=np.float64).sum() for change in extra.values())))
        return f"a change of {norm:.4g}; clipped gradients change by {2 * clip:g} at most" if norm > 2.001 * clip else None

    def hear(
        self, state: State, updates: Iterable[Update], roles: Mapping[str, str], arrived: Iterable[frozenset[str]]
    ) -> State:
        """The changes join the sum, which is for all sites that have arrived; a head row for those that annotate its class.

        Were a row divided by all sites, the correction would cancel the gradient of a class that one site annotates.
        """
        annotated, rows = list(arrived), tuple[str, ...]()
        sums: Weights = dict(state.slots.get(SUM, {}))
        for update in updates:
            rows = update.rows
            for name, change in update.extra.items():
                sums[name] = padded(sums.get(name), change) + change
        if not rows:
            return state
        sites = {name: _sites(annotated, rows[: len(sum_)], roles.get(name), sum_.ndim) for name, sum_ in sums.items()}
        floats = {name: sum_.astype(np.float32) for name, sum_ in sums.items()}
        return replace(state, slots={**state.slots, SUM: floats, SITES: sites})


def _sites(annotated: list[frozenset[str]], rows: tuple[str, ...], role: str | None, dimensions: int) -> NDArray[np.float32]:
    if role != "head":
        return np.array(max(1, len(annotated)), np.float32)
    counts = [max(1, sum(name in classes for classes in annotated)) for name in rows]
    return as_column(np.array(counts, np.float32), dimensions)
