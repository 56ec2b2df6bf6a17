"""Reservoir memory: a uniform sample of the whole stream (Vitter, 1985), by random keys."""

from collections.abc import Sequence
from dataclasses import dataclass

from numpy.random import Generator

from memory.policy import uniform
from memory.sample import Sample


@dataclass(frozen=True)
class Reservoir:
    """The samples with the largest keys; each key was drawn once, on arrival.

    The largest keys of a union are the largest of each part's largest: memories of several sites merge exactly.
    """

    draw = staticmethod(uniform)

    def keep(self, pool: Sequence[Sample], budget: int, rng: Generator) -> list[Sample]:
        """The `budget` samples with the largest keys (ties: the first case name), whatever the pool's order."""
        ranked = sorted(range(len(pool)), key=lambda i: (-pool[i].key, pool[i].case))
        return [pool[i] for i in sorted(ranked[: max(budget, 0)])]
