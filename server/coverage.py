"""Few sketches that leave none of many far away: what a departed site is remembered by, and what the others hold."""

import numpy as np
from numpy.typing import NDArray

from server.holdings import Holdings

POOL = 8_192
"""Sketches that are chosen from at most; past that each site is represented by its own first centres."""


def centres(rows_NE: NDArray, m: int) -> NDArray:
    """Greedy k-center (Gonzalez, 1985): positions of at most `m` int8 rows, in the order chosen.

    First the most central (the largest cosine to the sum of all), then always the one farthest from those chosen; ties: the
    first row. A row that points where a chosen one does is never chosen, so fewer than `m` may come. The first n of m are
    those that n would give.
    """
    if m < 1 or not len(rows_NE):
        return np.zeros(0, np.int64)
    table_NE = rows_NE.astype(np.float32)  # whole numbers: every product below is exact
    square_N = np.einsum("ne,ne->n", rows_NE, rows_NE, dtype=np.int64)
    toward_N = rows_NE.astype(np.float64) @ rows_NE.sum(0, dtype=np.int64).astype(np.float64)
    chosen = [int((toward_N / np.sqrt(square_N)).argmax())]
    nearest_N = np.full(len(rows_NE), -np.inf)
    while len(chosen) < m:
        last = chosen[-1]
        product_N = np.einsum("ne,e->n", table_NE, table_NE[last]).astype(np.float64)  # too small for BLAS's threads
        # One root of the product of squares, so that the same direction gives exactly 1.
        nearest_N = np.maximum(nearest_N, product_N / np.sqrt((square_N * square_N[last]).astype(np.float64)))
        farthest = int(nearest_N.argmin())
        if nearest_N[farthest] >= 1.0:
            break
        chosen.append(farthest)
    return np.array(chosen, np.int64)


class Coverage:
    """What the other live sites hold, in `m` sketches; remembers each site's own centres until the site changes."""

    def __init__(self) -> None:
        self._heads: dict[str, tuple[int, NDArray]] = {}  # how many were asked for, and their ids' places in the site

    def forget(self, site: str) -> None:
        """A site's rows have changed."""
        self._heads.pop(site, None)

    def __call__(self, held: Holdings, site: str, m: int) -> NDArray:
        """[<= m, E] int8, chosen from all rows of others, or from POOL of their sites' first centres (a core-set)."""
        if held.count - len(held.slots.get(site, ())) <= POOL:
            slots = held.all_slots(but=site)
        else:
            others = sorted(held.slots.keys() - {site})
            others = others[:: -(-len(others) // POOL)]
            slots = np.concatenate([held.slots[other][self._head(held, other, POOL // len(others))] for other in others])
        rows_NE = held.rows_SE[slots]
        return rows_NE[centres(rows_NE, m)]

    def _head(self, held: Holdings, site: str, count: int) -> NDArray:
        asked, head = self._heads.get(site, (0, np.zeros(0, np.int64)))
        if asked < count:
            asked, head = count, centres(held.rows_SE[held.slots[site]], count)
            self._heads[site] = asked, head
        return head[:count]
