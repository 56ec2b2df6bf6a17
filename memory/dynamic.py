"""Dynamic memory: drop what the memory already holds twice (Chou, Zhou, Yuille, 2024, arXiv:2407.04687)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from memory.policy import uniform
from memory.sample import Sample

FIXED_POINT = 2.0**26
"""Features are compared in steps of 2^-26 (see `similarity`)."""
DIAGONAL = -10.0
"""A sample's similarity to itself: below every real one."""


@dataclass(frozen=True)
class Dynamic:
    """Of the samples visited at least once, drop those most similar to another; with too few of them, the oldest."""

    draw = staticmethod(uniform)

    def keep(self, pool: Sequence[Sample], budget: int, rng: Generator) -> list[Sample]:
        """The pool without its `len(pool) - budget` most redundant samples."""
        dropped = redundant(pool, visited(pool), len(pool) - budget)
        return [sample for i, sample in enumerate(pool) if i not in dropped]


def visited(pool: Sequence[Sample]) -> list[int]:
    """Indices of the samples that were trained on at least once, and so have a feature."""
    return [i for i, sample in enumerate(pool) if sample.visits > 0]


def redundant(pool: Sequence[Sample], candidates: Sequence[int], n: int) -> set[int]:
    """Indices of the `n` samples to drop, chosen among `candidates` (ascending indices into `pool`, all visited).

    With fewer than 2n candidates the n oldest of the whole pool go, whether candidates or not.
    """
    if n <= 0:
        return set()
    if len(candidates) < 2 * n:
        return set(range(n))
    features = [feature for i in candidates if (feature := pool[i].feature) is not None]
    assert len(features) == len(candidates), "a visited sample has a feature"
    return {candidates[i] for i in most_similar(similarity(np.stack(features)), n)}


def similarity(feature_NE: NDArray) -> NDArray[np.float64]:
    """[N, N] similarities (f_i . f_j + 1) / 2 in [0, 1] of unit features, -10 on the diagonal.

    Components are rounded to multiples of 2^-26. Then every product and every partial sum of a dot product of unit
    vectors is a whole number below 2^53, exact in float64 whatever the order of summation: equal features are equally
    similar to a third on every machine and with any number of threads, and ties are ties.
    """
    fixed_NE = np.rint(feature_NE.astype(np.float64) * FIXED_POINT)
    similarity_NN = (fixed_NE @ fixed_NE.T / FIXED_POINT**2 + 1) / 2
    np.fill_diagonal(similarity_NN, DIAGONAL)
    return similarity_NN


def most_similar(similarity_NN: NDArray[np.float64], n: int) -> list[int]:
    """`n` times: the row with the largest entry (ties: the lower index), which leaves with its column."""
    similarity_NN = similarity_NN.copy()
    nearest_N, best_N = similarity_NN.argmax(axis=1), similarity_NN.max(axis=1)
    dropped = []
    for _ in range(n):
        gone = int(best_N.argmax())
        dropped.append(gone)
        similarity_NN[gone] = similarity_NN[:, gone] = best_N[gone] = -np.inf
        nearest_N[gone] = -1
        # Only the rows whose nearest neighbour has just left need another look.
        for i in np.flatnonzero(nearest_N == gone):
            nearest_N[i], best_N[i] = similarity_NN[i].argmax(), similarity_NN[i].max()
    return dropped
