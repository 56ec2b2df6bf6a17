"""Entropy memory: what the model is least sure of (uncertainty sampling: Lewis and Gale, 1994, arXiv:cmp-lg/9407020)."""

from collections.abc import Sequence
from dataclasses import dataclass

from numpy.random import Generator

from memory.policy import highest, uniform
from memory.sample import Sample


@dataclass(frozen=True)
class Entropy:
    """The samples with the highest uncertainty, which is the entropy if the config says `memory.uncertainty: entropy`."""

    draw = staticmethod(uniform)

    def keep(self, pool: Sequence[Sample], budget: int, rng: Generator) -> list[Sample]:
        """The unvisited samples, then the `budget` most uncertain (ties: the newer)."""
        return highest(pool, budget, lambda sample: sample.uncertainty)
