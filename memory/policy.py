"""What a memory policy is, and what policies have in common: the uniform draw, and new samples before old ones."""

from collections.abc import Callable, Iterable, Sequence
from math import isnan
from typing import Protocol

import numpy as np
from numpy.random import Generator

from memory.sample import Sample

NEEDS = frozenset({"sketch", "uniqueness", "bregman", "leverage"})
"""All that a policy may need (see `needs`)."""


class MemoryPolicy(Protocol):
    """The rule that chooses what a site keeps. Pure: it reads samples and changes none.

    A policy that reads more than training tells of a sample says so: `needs: ClassVar[frozenset[str]]`, words of NEEDS.
    """

    def keep(self, pool: Sequence[Sample], budget: int, rng: Generator) -> list[Sample]:
        """The min(len(pool), budget) samples to keep; `pool` is in order of arrival, and so is the answer."""

    def draw(self, kept: Sequence[Sample], n: int, rng: Generator) -> list[Sample]:
        """The `n` samples of the next training step."""


def needs(policy: MemoryPolicy) -> frozenset[str]:
    """What the site must compute, or the server must tell, of every sample before `keep` is called: words of NEEDS."""
    return getattr(policy, "needs", frozenset())


def uniform(kept: Sequence[Sample], n: int, rng: Generator) -> list[Sample]:
    """Draw `n` samples uniformly without replacement.

    A memory smaller than `n` still fills a batch: every sample comes floor(n / len(kept)) times, and the rest is drawn
    without replacement, so no sample comes twice more often than another.

    Raises:
        ValueError: the memory is empty.
    """
    if n > 0 and not kept:
        raise ValueError(f"cannot draw {n} samples from an empty memory")
    times, rest = divmod(n, len(kept)) if kept else (0, 0)
    drawn = np.tile(np.arange(len(kept)), times).tolist() + rng.choice(len(kept), rest, replace=False).tolist()
    return [kept[i] for i in drawn]


def visited(pool: Sequence[Sample]) -> list[int]:
    """Indices of the samples that were trained on at least once, and so have a feature."""
    return [i for i, sample in enumerate(pool) if sample.visits > 0]


def newest_unvisited(pool: Sequence[Sample], budget: int) -> list[int]:
    """Indices of the samples never trained on; of more than `budget`, the newest.

    They are kept before the visited ones: nothing speaks against them yet, and the stream passes each case once.
    """
    new = [i for i, sample in enumerate(pool) if sample.visits == 0]
    return new[max(len(new) - max(budget, 0), 0) :]


def newest_and(pool: Sequence[Sample], budget: int, choose: Callable[[list[int], int], Iterable[int]]) -> list[Sample]:
    """The unvisited samples (`newest_unvisited`), and `choose(visited indices, n)` for the room that they leave."""
    kept, old = newest_unvisited(pool, budget), visited(pool)
    left = max(budget, 0) - len(kept)
    if left >= len(old):
        kept += old
    elif left > 0:
        kept += choose(old, left)
    return [pool[i] for i in sorted(kept)]


def highest(pool: Sequence[Sample], budget: int, value: Callable[[Sample], float]) -> list[Sample]:
    """The `budget` samples with the highest value, in order of arrival; unvisited ones first (`newest_unvisited`).

    A visited sample whose value is not a number (nobody has told it yet) counts as the median of the known ones: were
    it kept for that alone, a round of many arrivals would wash everything that is known out of the memory. Ties: the
    newer stays.
    """
    new, old = newest_unvisited(pool, budget), visited(pool)
    values = [value(pool[i]) for i in old]
    known = [v for v in values if not isnan(v)]
    middle = sorted(known)[len(known) // 2] if known else 0.0
    ranked = sorted(zip(values, old, strict=True), key=lambda pair: (middle if isnan(pair[0]) else pair[0], pair[1]))
    best = [i for _, i in ranked[len(ranked) - min(max(budget, 0) - len(new), len(ranked)) :]]
    return [pool[i] for i in sorted(new + best)]
