"""The nearest of many sketches by cosine: FAISS, behind two classes with the same four methods.

Both find candidates only. Their cosines are float32, so who asks computes them again from the int8 rows and looks as deep
as rounding could matter (`slack`): an answer is then a function of the rows searched, whatever their order in FAISS.
"""

from math import ceil, isqrt
from typing import Any, Protocol

import faiss
import numpy as np
from numpy.typing import NDArray

AWAY = np.float32(-4.0)
"""What a row that is not there adds to its cosine, so that it comes after all that are."""
CHUNK = 8192
"""Rows compared at once."""
LLOYD = 5
"""Passes of k-means; cells are only for searching, so they need not be settled."""
PER_LIST = 16
"""Rows that k-means looks at, per cell."""
ASKED = 1024
"""Rows that are looked up exactly to see how many cells a search must open."""
RECALL = 0.999
"""Share of those whose nearest row must be found: more than the .99 that is promised, as few are asked."""

WORTH = 0.25
"""Share of the cells that a search may open; needing more, cells cost more than one matrix product with every row."""
# From 20 queries on one matrix product, as FAISS used to: on 128 queries and 100,000 rows 4 times faster than its own loop.
faiss.cvar.distance_compute_blas_threshold = 20


class Nearest(Protocol):
    """Rows by slot, searched by cosine. Slots are whole numbers from 0; a slot that is not put is not found."""

    def put(self, slots_N: NDArray, rows_NE: NDArray) -> None:
        """Have int8 rows at slots that are empty."""

    def take(self, slots_N: NDArray) -> None:
        """Empty slots that are full."""

    def search(self, rows_QE: NDArray, k: int) -> tuple[NDArray, NDArray]:
        """[Q, k] cosines (float32), the largest first, and their slots; slot -1 where there is none left."""

    def within(self, rows_QE: NDArray, cosine: float) -> tuple[NDArray, NDArray]:
        """Pairs closer than `cosine`: their queries' positions in `rows_QE` [P], and their slots [P]."""


def slack(size: int) -> float:
    """How far a float32 cosine of `size` numbers may be off, twice over (the usual bound: size * 2^-24)."""
    return (size + 8) * 2.0**-23


def unit(rows_NE: NDArray) -> NDArray:
    """Rows of length 1, float32, each computed alone: a row is the same whatever stands beside it."""
    square_N = np.einsum("ne,ne->n", rows_NE, rows_NE, dtype=np.int64)
    return (rows_NE / np.sqrt(square_N)[:, None]).astype(np.float32)


class Flat:
    """Every row is compared with every query: exact.

    A row has one number more than its sketch, 0 or, where there is none, AWAY; every query has a 1 there. So a site's own
    rows go and come back at the price of one number each, and the search stays one matrix product.
    """

    def __init__(self, size: int) -> None:
        self.index: Any = faiss.IndexFlatIP(size + 1)

    def _table(self) -> NDArray:
        """[slots, size + 1], FAISS's own memory."""
        shape = (self.index.ntotal, self.index.d)
        return faiss.rev_swig_ptr(self.index.get_xb(), shape[0] * shape[1]).reshape(shape)

    def put(self, slots_N: NDArray, rows_NE: NDArray) -> None:
        """See Nearest; slots that are not known yet are added."""
        if (more := int(slots_N.max(initial=-1)) + 1 - self.index.ntotal) > 0:
            empty = np.zeros((more, self.index.d), np.float32)
            empty[:, -1] = AWAY
            self.index.add(empty)
        self._table()[slots_N] = np.pad(unit(rows_NE), ((0, 0), (0, 1)))

    def take(self, slots_N: NDArray) -> None:
        """See Nearest."""
        self._table()[slots_N, -1] = AWAY

    def search(self, rows_QE: NDArray, k: int) -> tuple[NDArray, NDArray]:
        """See Nearest."""
        cosine_QK, slot_QK = self.index.search(self._asked(rows_QE), k)
        slot_QK[cosine_QK < AWAY / 2] = -1
        return cosine_QK, slot_QK

    def within(self, rows_QE: NDArray, cosine: float) -> tuple[NDArray, NDArray]:
        """See Nearest."""
        ends, _, slot_P = self.index.range_search(self._asked(rows_QE), cosine)
        return np.repeat(np.arange(len(rows_QE)), np.diff(ends).astype(np.int64)), slot_P

    def _asked(self, rows_QE: NDArray) -> NDArray:
        return np.pad(unit(rows_QE), ((0, 0), (0, 1)), constant_values=1.0)


class Lists:
    """Rows in cells around centroids (IVF); a search opens the `probes` cells whose centroids are nearest.

    Centroids are int8, like rows: their products are whole numbers below 2^24, exact in float32 in any order, so which cell
    a row is in and which cells a query opens never depends on how many are asked at once, or on threads.
    """

    def __init__(self, centroids_CE: NDArray, probes: int) -> None:
        count, size = centroids_CE.shape
        self.centroids_CE = centroids_CE
        self._cells: Any = faiss.IndexFlatIP(size)  # the index below does not keep it alive
        self._cells.add(centroids_CE.astype(np.float32))
        self.index: Any = faiss.IndexIVFFlat(self._cells, size, count, faiss.METRIC_INNER_PRODUCT)
        self.index.train(centroids_CE.astype(np.float32))  # FAISS finds the cells filled and learns nothing
        # With a table of places, removing costs what is removed, not what is held.
        self.index.set_direct_map_type(faiss.DirectMap.Hashtable)  # type: ignore[attr-defined]
        self.index.nprobe = self.probes = min(probes, count)

    def put(self, slots_N: NDArray, rows_NE: NDArray) -> None:
        """See Nearest."""
        for start in range(0, len(slots_N), CHUNK):
            rows = rows_NE[start : start + CHUNK]
            unit_NE, slots = unit(rows), np.ascontiguousarray(slots_N[start : start + CHUNK], np.int64)
            cells = cell(rows, self.centroids_CE)
            self.index.add_core(len(rows), faiss.swig_ptr(unit_NE), faiss.swig_ptr(slots), faiss.swig_ptr(cells))

    def take(self, slots_N: NDArray) -> None:
        """See Nearest."""
        slots = np.ascontiguousarray(slots_N, np.int64)
        self.index.remove_ids(faiss.IDSelectorArray(len(slots), faiss.swig_ptr(slots)))

    def search(self, rows_QE: NDArray, k: int) -> tuple[NDArray, NDArray]:
        """See Nearest; only the cells that are opened."""
        cosine_QK, slot_QK = self.index.search_preassigned(unit(rows_QE), k, self._opened(rows_QE), None)
        return cosine_QK, slot_QK

    def within(self, rows_QE: NDArray, cosine: float) -> tuple[NDArray, NDArray]:
        """See Nearest; only the cells that are opened."""
        ends, _, slot_P = self.index.range_search_preassigned(unit(rows_QE), cosine, self._opened(rows_QE), None)
        return np.repeat(np.arange(len(rows_QE)), np.diff(ends).astype(np.int64)), slot_P

    def _opened(self, rows_QE: NDArray) -> NDArray:
        """[Q, probes] the cells to open."""
        rank_QC = -ranks(rows_QE, self.centroids_CE)
        return np.argpartition(rank_QC, self.probes - 1, axis=1)[:, : self.probes]


def ranks(rows_QE: NDArray, centroids_CE: NDArray) -> NDArray:
    """[Q, C] whole numbers, larger for nearer centroids and never equal: of two as near, the first counts as nearer."""
    count = len(centroids_CE)
    product_QC = rows_QE.astype(np.float32) @ centroids_CE.astype(np.float32).T
    return product_QC.astype(np.int64) * count - np.arange(count)


def cell(rows_NE: NDArray, centroids_CE: NDArray) -> NDArray:
    """[N] the centroid with the largest product; of equals the first."""
    table_EC = centroids_CE.astype(np.float32).T
    starts = range(0, len(rows_NE), CHUNK)
    parts = [(rows_NE[start : start + CHUNK].astype(np.float32) @ table_EC).argmax(1) for start in starts]
    return np.concatenate([np.zeros(0, np.int64), *parts])


def suited(rows_NE: NDArray, owner_N: NDArray) -> "Flat | Lists":
    """An empty search for many such rows: lists where the rows have structure, else flat (as for uniform directions)."""
    lists = learn(rows_NE, owner_N)
    return lists if lists.probes <= WORTH * len(lists.centroids_CE) else Flat(rows_NE.shape[1])


def learn(rows_NE: NDArray, owner_N: NDArray) -> Lists:
    """Empty lists for such rows: spherical k-means with 4 sqrt(N) cells, and as many probes as these rows need.

    Everything is whole numbers until a mean is rounded to int8, so the same rows in the same order give the same lists.
    """
    count = 4 * isqrt(len(rows_NE))
    sample_ME = rows_NE[_spread(len(rows_NE), count * PER_LIST)]
    centroids_CE = sample_ME[np.random.default_rng(count).permutation(len(sample_ME))[:count]]
    for _ in range(LLOYD):
        cell_M = cell(sample_ME, centroids_CE)
        order_M = np.argsort(cell_M, kind="stable")
        there, starts = np.unique(cell_M[order_M], return_index=True)
        sum_KE = np.add.reduceat(sample_ME[order_M].astype(np.int64), starts)
        length_K = np.sqrt((sum_KE.astype(np.float64) ** 2).sum(1))
        kept = length_K > 0  # a cell without rows, or whose rows cancel, stays where it is
        centroids_CE = centroids_CE.copy()
        centroids_CE[there[kept]] = np.rint(127 * sum_KE[kept] / length_K[kept, None]).astype(np.int8)
    return Lists(centroids_CE, needed(rows_NE, owner_N, centroids_CE))


def needed(rows_NE: NDArray, owner_N: NDArray, centroids_CE: NDArray) -> int:
    """How many cells a search must open to find, for RECALL of some rows spread over all, the nearest of another owner."""
    asked_Q = _spread(len(rows_NE), ASKED)
    asked_QE = rows_NE[asked_Q].astype(np.float32)
    best_Q, nearest_Q = np.full(len(asked_Q), -np.inf, np.float32), asked_Q.copy()
    for start in range(0, len(rows_NE), CHUNK):
        part_NE = rows_NE[start : start + CHUNK].astype(np.float32)
        cosine_QN = asked_QE @ part_NE.T
        cosine_QN /= np.linalg.norm(part_NE, axis=1)  # of the other side too; the query's own length changes no order
        cosine_QN[owner_N[asked_Q, None] == owner_N[start : start + CHUNK]] = -np.inf
        found_Q = cosine_QN.argmax(1)
        top_Q = cosine_QN[np.arange(len(asked_Q)), found_Q]
        better = top_Q > best_Q
        best_Q[better], nearest_Q[better] = top_Q[better], found_Q[better] + start
    rank_QC = ranks(rows_NE[asked_Q], centroids_CE)
    home_Q = cell(rows_NE[nearest_Q], centroids_CE)
    place_Q = (rank_QC > rank_QC[np.arange(len(asked_Q)), home_Q, None]).sum(1)
    return int(np.sort(place_Q)[ceil(RECALL * len(place_Q)) - 1]) + 1


def _spread(count: int, most: int) -> NDArray:
    """At most `most` of `count` positions, evenly spread."""
    return np.arange(count) if count <= most else np.arange(most) * count // most
