"""What a memory policy is, and the draw that every policy has unless it says otherwise."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.random import Generator

from memory.sample import Sample


class MemoryPolicy(Protocol):
    """The rule that chooses what a site keeps. Pure: it reads samples and changes none."""

    def keep(self, pool: Sequence[Sample], budget: int, rng: Generator) -> list[Sample]:
        """The min(len(pool), budget) samples to keep; `pool` is in order of arrival, and so is the answer."""

    def draw(self, kept: Sequence[Sample], n: int, rng: Generator) -> list[Sample]:
        """The `n` samples of the next training step."""


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
