"""Selective memory: protect what the model is unsure of, drop what it holds twice (arXiv:2407.04687)."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isnan

from numpy.random import Generator

from memory.dynamic import redundant
from memory.policy import uniform, visited
from memory.sample import Sample


@dataclass(frozen=True)
class Selective:
    """The most uncertain 1/k of the visited samples are safe from dynamic memory's rule, which decides about the others.

    Its fallback (too few visited samples left: the oldest go) still looks at the whole memory, protected or not.
    """

    k: int = 4
    """One in k is protected: 8, 4, 2 are the paper's top 12.5, 25 and 50 %; with 1 all are, which is linear memory."""

    draw = staticmethod(uniform)

    def __post_init__(self) -> None:
        if isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 1:
            raise ValueError(f"k must be a whole number from 1 (one in k samples is protected), not {self.k!r}")

    def keep(self, pool: Sequence[Sample], budget: int, rng: Generator) -> list[Sample]:
        """The pool without its `len(pool) - budget` most redundant unprotected samples."""
        candidates = visited(pool)
        safe = most_uncertain(pool, candidates, len(candidates) // self.k)
        dropped = redundant(pool, [i for i in candidates if i not in safe], len(pool) - budget)
        return [sample for i, sample in enumerate(pool) if i not in dropped]


def most_uncertain(pool: Sequence[Sample], candidates: Sequence[int], n: int) -> set[int]:
    """The `n` candidates with the largest uncertainty; ties: the older; not a number counts as the lowest."""

    def rank(i: int) -> tuple[float, int]:
        value = pool[i].uncertainty
        return (inf if isnan(value) else -value, i)

    return set(sorted(candidates, key=rank)[:n])
