"""Loss-aware reservoir sampling (Buzzega et al., 2020, "Rethinking Experience Replay", arXiv:2010.05595)."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isnan, log

from numpy.random import Generator

from memory.policy import highest, uniform
from memory.sample import Sample


@dataclass(frozen=True)
class Lars:
    """A random sample of the stream in which a case with twice the loss is about twice as likely.

    It is drawn as a weighted reservoir (Efraimidis and Spirakis, 2006): the largest key^(1 / loss) stay. The key was
    drawn once, on arrival, so the same samples with the same losses always make the same memory.
    """

    draw = staticmethod(uniform)

    def keep(self, pool: Sequence[Sample], budget: int, rng: Generator) -> list[Sample]:
        """The unvisited samples, then the largest key^(1 / loss) (ties: the newer)."""
        return highest(pool, budget, _rank)


def _rank(sample: Sample) -> float:
    """log(key) / loss, which orders as key^(1 / loss) and does not underflow; an unknown loss is no reason to go."""
    if isnan(sample.loss):
        return inf
    return log(sample.key) / sample.loss if sample.key > 0 and sample.loss > 0 else -inf
