"""Linear memory: first in, first out."""

from collections.abc import Sequence
from dataclasses import dataclass

from numpy.random import Generator

from memory.policy import uniform
from memory.sample import Sample


@dataclass(frozen=True)
class Linear:
    """First in, first out: the newest `budget` samples."""

    draw = staticmethod(uniform)

    def keep(self, pool: Sequence[Sample], budget: int, rng: Generator) -> list[Sample]:
        """The newest `budget` samples."""
        return list(pool[max(len(pool) - budget, 0) :])
