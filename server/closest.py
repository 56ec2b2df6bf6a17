"""The nearest sketch that counts, for each of some sketches: candidates from FAISS, decided on exact cosines."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from server.holdings import Holdings
from server.nearest import Nearest, slack

FIRST = 16
"""Candidates looked at first; the few queries that this does not settle look eight times deeper, and so on."""
ROOM = 1 << 18
"""Candidates whose rows are gathered at once."""
AT_ONCE = 256
"""Rows whose pairs are looked for at once."""

Counts = Callable[[NDArray, NDArray, NDArray], NDArray]
"""(positions of the queries [P], cosines [P, K], slots [P, K]) -> whether each candidate counts, [P, K] bool."""


def closest(held: Holdings, near: Nearest, rows_QE: NDArray, counts: Counts) -> tuple[NDArray, NDArray]:
    """Slot and cosine (float64) of the nearest row in `near` that counts; ties: site, then id. Slot -1: there is none.

    A query is settled when its best is nearer than rounding could put anything that FAISS did not return, or when FAISS has
    no more: so the answer is a function of the rows in `near` (for lists: in the cells opened), not of their layout.
    """
    slot_Q, cosine_Q = np.full(len(rows_QE), -1), np.full(len(rows_QE), -np.inf)
    pending, depth = np.arange(len(rows_QE)), FIRST
    while len(pending):
        open_parts = []
        for part in np.array_split(pending, -(-len(pending) * depth // ROOM)):
            approx_PK, found_PK = near.search(rows_QE[part], depth)
            cosine_PK = held.cosines(rows_QE[part], found_PK)
            cosine_PK[~counts(part, cosine_PK, found_PK)] = -np.inf
            best_P = cosine_PK.max(1)
            settled = (found_PK[:, -1] < 0) | (best_P > approx_PK[:, -1] + slack(rows_QE.shape[1]))
            there = settled & (best_P > -np.inf)
            slot_Q[part[there]] = _first(held, cosine_PK[there] == best_P[there, None], found_PK[there])
            cosine_Q[part[there]] = best_P[there]
            open_parts.append(part[~settled])
        pending, depth = np.concatenate(open_parts), 8 * depth
    return slot_Q, cosine_Q


def _first(held: Holdings, best_PK: NDArray, slots_PK: NDArray) -> NDArray:
    """[P] of the slots that are best, the first by site and id."""
    first_P = slots_PK[np.arange(len(slots_PK)), best_PK.argmax(1)] if len(slots_PK) else np.zeros(0, np.int64)
    for p in np.flatnonzero(best_PK.sum(1) > 1):
        first_P[p] = min(slots_PK[p, best_PK[p]].tolist(), key=held.name)
    return first_P


def told(held: Holdings, slots_Q: NDArray, duplicate: float) -> Counts:
    """What counts for the holder of `slots_Q`: everything, but of a pair of duplicates only the one held for longer.

    So the sample first reported later is told of the other, and the other is not told of it (ties: the larger site name).
    """

    def counts(part: NDArray, cosine_PK: NDArray, slots_PK: NDArray) -> NDArray:
        counted = cosine_PK <= duplicate
        p, k = np.nonzero(~counted & (slots_PK >= 0))
        mine, other = slots_Q[part[p]], slots_PK[p, k]
        counted[p, k] = held.since_S[other] < held.since_S[mine]
        for i in np.flatnonzero(held.since_S[other] == held.since_S[mine]):
            counted[p[i], k[i]] = held.name(other[i]) < held.name(mine[i])
        return counted

    return counts


def anything(part: NDArray, cosine_PK: NDArray, slots_PK: NDArray) -> NDArray:
    """Every candidate counts."""
    return np.ones(cosine_PK.shape, bool)


def pairs(held: Holdings, near: Nearest, cosine: float) -> int:
    """Pairs of rows of two sites closer than `cosine`; each is found from the side that is first by site and id."""
    slots, count = held.all_slots(), 0
    place = np.zeros(len(held.ids), np.int64)
    place[slots] = np.arange(len(slots))
    for start in range(0, len(slots), AT_ONCE):
        mine = slots[start : start + AT_ONCE]
        query, other = near.within(held.rows_SE[mine], cosine - slack(held.rows_SE.shape[1]))
        later = (held.owner_S[mine[query]] != held.owner_S[other]) & (place[other] > start + query)
        query, other = query[later], other[later]
        for i in range(0, len(query), ROOM):
            rows_PE = held.rows_SE[mine[query[i : i + ROOM]]]
            count += int((held.cosines(rows_PE, other[i : i + ROOM, None]) > cosine).sum())
    return count
