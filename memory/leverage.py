"""Leverage memory: what the federation's sketches cannot be spanned without (FedCBDR, 2025, arXiv:2507.07712)."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from typing import ClassVar

from numpy.random import Generator

from memory.policy import highest, uniform
from memory.sample import Sample


@dataclass(frozen=True)
class Leverage:
    """The samples with the highest leverage |U_i,:r|^2, of the SVD of all sites' stacked sketches, told by the server."""

    needs: ClassVar[frozenset[str]] = frozenset({"leverage", "sketch"})
    draw = staticmethod(uniform)

    def keep(self, pool: Sequence[Sample], budget: int, rng: Generator) -> list[Sample]:
        """The unvisited samples, then the highest leverages; one not told yet counts as the median (ties: the newer)."""
        return highest(pool, budget, lambda sample: sample.scores.get("leverage", nan))
