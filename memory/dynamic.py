"""Dynamic memory: drop what the memory already holds twice (Chou, Zhou, Yuille, 2024, arXiv:2407.04687)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from memory.policy import uniform, visited
from memory.sample import Sample

FIXED_POINT = 2.0**26
"""Features are compared in steps of 2^-26 (see `fixed_point`)."""
BLOCK = 128
"""Rows of similarities held at once: they stay in the cache, and the whole matrix is never stored."""

Similar = Callable[[NDArray[np.intp]], NDArray[np.float64]]
"""Indices [R] -> [R, N] similarities of these samples to all; what it says of a sample and itself is not read."""


@dataclass(frozen=True)
class Dynamic:
    """Of the samples visited at least once, drop those most similar to another; with too few of them, the oldest."""

    draw = staticmethod(uniform)

    def keep(self, pool: Sequence[Sample], budget: int, rng: Generator) -> list[Sample]:
        """The pool without its `len(pool) - budget` most redundant samples."""
        dropped = redundant(pool, visited(pool), len(pool) - budget)
        return [sample for i, sample in enumerate(pool) if i not in dropped]


def redundant(pool: Sequence[Sample], candidates: Sequence[int], n: int) -> set[int]:
    """Indices of the `n` samples to drop, chosen among `candidates` (ascending indices into `pool`, all visited).

    With fewer than 2n candidates the n oldest of the whole pool go, whether candidates or not.
    """
    if n <= 0:
        return set()
    if len(candidates) < 2 * n:
        return set(range(n))
    fixed_NE = fixed_point(pool, candidates)

    def similar(rows_R: NDArray[np.intp]) -> NDArray[np.float64]:
        return fixed_NE[rows_R] @ fixed_NE.T  # grows with the published (f_i . f_j + 1) / 2

    return {candidates[i] for i in most_similar(similar, np.arange(len(candidates)), n)}


def fixed_point(pool: Sequence[Sample], indices: Sequence[int]) -> NDArray[np.float64]:
    """[N, E] features of these visited samples of the pool, as whole numbers of steps of 2^-26.

    Every product and every partial sum of a dot product of such unit vectors is a whole number below 2^53, exact in
    float64 whatever the order of summation: equal features are equally similar to a third on every machine, in every
    block and with any number of threads, and ties are ties.
    """
    features = [feature for i in indices if (feature := pool[i].feature) is not None]
    assert len(features) == len(indices), "a visited sample has a feature"
    return np.rint(np.stack(features).astype(np.float64) * FIXED_POINT)


def most_similar(
    similar: Similar, candidates_C: NDArray[np.intp], n: int, elsewhere_C: NDArray[np.float64] | None = None
) -> list[int]:
    """`n` times: the candidate most similar to another sample (ties: the lower index), which then counts no longer.

    `elsewhere_C`: the similarity of each candidate to something outside the pool; it counts too, and stays.
    """
    gone: list[int] = []
    left_C = np.ones(len(candidates_C), bool)
    best_C, nearest_C = _nearest(similar, candidates_C, gone)
    for _ in range(n):
        value_C = best_C if elsewhere_C is None else np.maximum(best_C, elsewhere_C)
        most = int(np.where(left_C, value_C, -np.inf).argmax())
        left_C[most] = False
        gone.append(int(candidates_C[most]))
        # Only those whose nearest neighbour has just left need another look.
        stale = np.flatnonzero(left_C & (nearest_C == gone[-1]))
        best_C[stale], nearest_C[stale] = _nearest(similar, candidates_C[stale], gone)
    return gone


def _nearest(similar: Similar, rows_R: NDArray[np.intp], gone: Sequence[int]) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """[R] similarity to the nearest other sample that is not gone, and [R] its index."""
    best_R, nearest_R = np.full(len(rows_R), -np.inf), np.full(len(rows_R), -1)
    for start in range(0, len(rows_R), BLOCK):
        rows = rows_R[start : start + BLOCK]
        similar_BN, here = similar(rows), np.arange(len(rows))
        similar_BN[here, rows] = -np.inf
        similar_BN[:, gone] = -np.inf
        nearest = similar_BN.argmax(axis=1)
        best_R[start : start + BLOCK], nearest_R[start : start + BLOCK] = similar_BN[here, nearest], nearest
    return best_R, nearest_R
