"""Batches of which a share is the newest case (`memory.new_share`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor

from numpy.random import Generator

from memory.policy import MemoryPolicy, needs
from memory.sample import Sample


@dataclass(frozen=True)
class Fresh:
    """`policy`, which draws only the rest of each batch; what is kept is as it says."""

    policy: MemoryPolicy
    new_share: float
    """Share of a batch that is the newest case, a crop of it each time. 0: none. 1: nothing else is trained on."""

    def __post_init__(self) -> None:
        share = self.new_share
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise ValueError(f"new_share must be within 0 and 1, not {share!r}")

    @property
    def needs(self) -> frozenset[str]:
        """What the policy needs."""
        return needs(self.policy)

    def keep(self, pool: Sequence[Sample], budget: int, rng: Generator) -> list[Sample]:
        """As the policy keeps."""
        return self.policy.keep(pool, budget, rng)

    def draw(self, kept: Sequence[Sample], n: int, rng: Generator) -> list[Sample]:
        """The newest case new_share * n times, rounded (a half up), then the policy's draw from the others.

        A share above 0 is at least one of a batch of two or more; a batch of one is the newest with probability
        `new_share`. With nothing but the newest in the memory, all of the batch is.
        """
        if not kept or n <= 0 or self.new_share == 0:
            return self.policy.draw(kept, n, rng)
        times = max(1, floor(self.new_share * n + 0.5)) if n > 1 else int(rng.random() < self.new_share)
        newest = max(range(len(kept)), key=lambda i: kept[i].arrived)
        others = [*kept[:newest], *kept[newest + 1 :]]
        if not others:
            times = n
        return [kept[newest]] * times + self.policy.draw(others, n - times, rng)
