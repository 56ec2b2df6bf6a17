"""Global selective memory: selective memory that also knows what the other sites hold (server/uniqueness.py)."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, isnan
from typing import ClassVar

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from memory.dynamic import Similar, most_similar
from memory.policy import uniform, visited
from memory.sample import Sample
from memory.selective import Selective, most_uncertain


@dataclass(frozen=True)
class SelectiveGlobal:
    """Drop what is held twice, be it in this memory or elsewhere; protect the uncertain and the last of their kind.

    A sample's similarity is the larger of the cosine to its nearest neighbour in the pool and 1 - uniqueness. What
    makes the rule hold:
    - Sketches are centred and of one network for all, so both halves are cosines on one scale; features of a model
      that moves while it trains are not, and are used only in a run without an index, where this is selective memory.
    - Neighbours are sought in the whole pool, protected and unvisited samples too: a twin of a protected sample is
      redundant whatever protects the other. A twin that was dropped no longer counts; one elsewhere does, and only
      one of two sites is told of a common duplicate, so both copies cannot go at once.
    - An unvisited case is dropped only as a duplicate of something held elsewhere, never for a likeness within the
      pool alone: the stream does not bring it again.
    - Stand-ins for what departed sites held are protected up to a share, so that they cannot fill the memory.
    - With fewer than 2n candidates the oldest go, as in selective memory, but protected stand-ins last.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"sketch", "uniqueness"})

    k: int = 4
    """One in k visited samples, the most uncertain, is protected (as in selective memory)."""
    orphan_share: float = 0.25
    """Share of the budget that stand-ins for what departed sites held may claim, the most unique first."""
    admit: bool = True
    """Whether a case that is held elsewhere may be dropped before it was ever trained on."""
    duplicate: float = 0.95
    """Similarity to something elsewhere from which `admit` takes a case for the same."""

    draw = staticmethod(uniform)

    def __post_init__(self) -> None:
        Selective(self.k)  # says what k may be
        if not 0 <= self.orphan_share <= 1:
            raise ValueError(f"orphan_share must be within 0 and 1, not {self.orphan_share!r}")
        if not 0 < self.duplicate <= 1:
            raise ValueError(f"duplicate must be above 0 and at most 1, not {self.duplicate!r}")

    def keep(self, pool: Sequence[Sample], budget: int, rng: Generator) -> list[Sample]:
        """The pool without its `len(pool) - budget` most redundant unprotected samples."""
        n = len(pool) - max(budget, 0)
        sketches = [sample.sketch for sample in pool if sample.sketch is not None]
        if n <= 0 or len(sketches) < len(pool):
            return Selective(self.k).keep(pool, budget, rng)
        elsewhere_N = np.array([0.0 if isnan(sample.uniqueness) else 1.0 - sample.uniqueness for sample in pool])
        old, orphans = visited(pool), self._orphans(pool, budget)
        safe = orphans | most_uncertain(pool, old, len(old) // self.k)
        held = {i for i, sample in enumerate(pool) if sample.visits == 0 and elsewhere_N[i] >= self.duplicate}
        candidates = sorted({*old, *(held if self.admit else ())} - safe)
        if len(candidates) < 2 * n:
            dropped = set(sorted(range(len(pool)), key=lambda i: (i in orphans, i))[:n])
        else:
            dropped = set(most_similar(cosine(np.stack(sketches)), np.array(candidates), n, elsewhere_N[candidates]))
        return [sample for i, sample in enumerate(pool) if i not in dropped]

    def _orphans(self, pool: Sequence[Sample], budget: int) -> set[int]:
        """Indices of the protected stand-ins (ties in uniqueness: the older)."""
        orphans = [i for i, sample in enumerate(pool) if sample.orphan]
        return set(sorted(orphans, key=lambda i: (-pool[i].uniqueness, i))[: floor(self.orphan_share * budget + 1e-9)])


def cosine(sketch_NE: NDArray[np.int8]) -> Similar:
    """Cosines of sketches; one that is zero is like no other.

    Dot products of int8 vectors are whole numbers far below 2^53: exact, so equal sketches tie.
    """
    whole_NE = sketch_NE.astype(np.float64)
    norm_N = np.sqrt((whole_NE**2).sum(axis=1))
    norm_N[norm_N == 0] = np.inf

    def similar(rows_R: NDArray[np.intp]) -> NDArray[np.float64]:
        return (whole_NE[rows_R] @ whole_NE.T) / (norm_N[rows_R, None] * norm_N)

    return similar
