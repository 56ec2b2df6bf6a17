"""Balanced memory: as many samples of each annotated class as there are (Chrysakis and Moens, 2020, ICML)."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from numpy.random import Generator

from memory.policy import newest_unvisited, uniform
from memory.sample import Sample

NO_CLASS = frozenset({""})
"""The class of the samples in which nothing annotated is present: they are balanced against the others too."""


@dataclass(frozen=True)
class Balanced:
    """One by one, drop the visited sample whose classes are the most over-represented in what is left.

    A case holds several classes (class-balanced reservoir sampling knows one each), so it is judged by its rarest: as
    long as that one is scarce, the sample stays. Of equal rarest classes the second rarest decide, and so on; one
    that has no further class goes first. Ties: the smallest key goes, a uniform choice that was drawn on arrival.
    """

    draw = staticmethod(uniform)

    def keep(self, pool: Sequence[Sample], budget: int, rng: Generator) -> list[Sample]:
        """The unvisited samples, and the visited ones that are left when the budget is met."""
        kept = set(newest_unvisited(pool, budget))
        alike: dict[frozenset[str], list[int]] = {}  # visited samples by what they hold; the last of a list goes first
        for i in sorted(range(len(pool)), key=lambda i: (-pool[i].key, pool[i].case)):
            if pool[i].visits > 0:
                alike.setdefault(pool[i].classes or NO_CLASS, []).append(i)
                kept.add(i)
        counts = Counter(name for i in kept for name in pool[i].classes or NO_CLASS)

        def crowded(classes: frozenset[str]) -> tuple[tuple[float, ...], float, str]:
            last = pool[alike[classes][-1]]
            return (*sorted(counts[name] for name in classes), inf), -last.key, last.case

        for _ in range(len(kept) - max(budget, 0)):
            most = max(alike, key=crowded)
            kept.remove(alike[most].pop())
            counts.subtract(most)
            if not alike[most]:
                del alike[most]
        return [pool[i] for i in sorted(kept)]
