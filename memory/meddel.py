"""MedDEL: semantic deduplication of features (arXiv:2401.17542; SemDeDup: Abbas et al., 2023, arXiv:2303.09540)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from memory.dynamic import BLOCK, FIXED_POINT, fixed_point
from memory.policy import newest_and, uniform
from memory.sample import Sample

ROUNDS = 10
"""Of k-means, at most."""


@dataclass(frozen=True)
class MedDel:
    """In each cluster, farthest from its centre first, a sample is redundant as far as an earlier one is similar to it."""

    clusters: int = 4
    """Clusters of the spherical k-means."""

    draw = staticmethod(uniform)

    def __post_init__(self) -> None:
        if isinstance(self.clusters, bool) or not isinstance(self.clusters, int) or self.clusters < 1:
            raise ValueError(f"clusters must be a whole number from 1, not {self.clusters!r}")

    def keep(self, pool: Sequence[Sample], budget: int, rng: Generator) -> list[Sample]:
        """The unvisited samples, then the least redundant, over all clusters together (ties: the newer)."""

        def least_redundant(old: list[int], n: int) -> list[int]:
            redundancy_N = redundancy(fixed_point(pool, old), self.clusters)
            return [old[i] for i in sorted(range(len(old)), key=lambda i: (redundancy_N[i], -i))[:n]]

        return newest_and(pool, budget, least_redundant)


def redundancy(fixed_NE: NDArray[np.float64], clusters: int) -> NDArray[np.float64]:
    """[N] M_j: the largest cosine to an earlier sample of the same cluster, farthest from its centre first; none: -inf."""
    label_N, to_centre_N = cluster(fixed_NE, clusters)
    redundancy_N = np.full(len(fixed_NE), -np.inf)
    for c in range(clusters):
        members_M = np.flatnonzero(label_N == c)
        members_M = members_M[np.argsort(to_centre_N[members_M], kind="stable")]
        sorted_ME = fixed_NE[members_M]
        for start in range(0, len(members_M), BLOCK):
            stop = min(start + BLOCK, len(members_M))
            dots_BM = sorted_ME[start:stop] @ sorted_ME[:stop].T
            dots_BM[:, start:][np.triu_indices(stop - start)] = -np.inf  # only what comes earlier counts
            redundancy_N[members_M[start:stop]] = dots_BM.max(axis=1)
    return redundancy_N / FIXED_POINT**2


def cluster(fixed_NE: NDArray[np.float64], clusters: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Spherical k-means: [N] each sample's cluster and [N] its similarity to that centre.

    The first centre is the oldest sample, each further one the sample least similar to the centres before it, so the
    same pool always falls into the same clusters.
    """
    centre_KE = fixed_NE[:1]
    while len(centre_KE) < min(clusters, len(fixed_NE)):
        farthest = (fixed_NE @ centre_KE.T).max(axis=1).argmin()
        centre_KE = np.vstack([centre_KE, fixed_NE[farthest]])
    for _ in range(ROUNDS):
        label_N = (fixed_NE @ centre_KE.T).argmax(axis=1)
        sum_KE = np.stack([fixed_NE[label_N == c].sum(axis=0) for c in range(len(centre_KE))])
        norm_K1 = np.linalg.norm(sum_KE, axis=1, keepdims=True)
        # On the features' own grid, so that equal features are equally far. An empty cluster keeps its centre.
        moved_KE = np.where(norm_K1 > 0, np.rint(sum_KE / np.maximum(norm_K1, 1) * FIXED_POINT), centre_KE)
        if (moved_KE == centre_KE).all():
            break
        centre_KE = moved_KE
    similar_NK = fixed_NE @ centre_KE.T
    return similar_NK.argmax(axis=1), similar_NK.max(axis=1)
