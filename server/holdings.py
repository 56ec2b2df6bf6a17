"""Who holds which sketch: rows by slot. A slot whose row goes is used again, so a replacement costs what it replaces."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

LENGTH = 127.0
"""|s| of a sketch, which is round(127 unit(...))."""
TOLERANCE = 0.05
"""How far |s| / 127 may be from 1."""
LONGEST_ID = 100
"""Characters of a sample's id."""

Name = tuple[str, str]
"""(site, id) of a sample."""


class Holdings:
    """The live sites' sketches. Within a site rows are sorted by id, so nothing depends on the order in which they came."""

    def __init__(self) -> None:
        self.size: int | None = None
        """E, fixed by the first row."""
        self.slots: dict[str, NDArray] = {}
        """[N] by live site."""
        self.rows_SE: NDArray = np.zeros((0, 0), np.int8)
        self.square_S: NDArray = np.zeros(0, np.int64)
        """|s|^2."""
        self.since_S: NDArray = np.zeros(0, np.int64)
        """The round in which the site first reported the sample."""
        self.owner_S: NDArray = np.zeros(0, np.int64)
        """Position of the site in `sites`."""
        self.ids: list[str] = []
        self.sites: list[str] = []
        self._numbers: dict[str, int] = {}
        self._free: list[int] = []
        self.count = 0
        """Rows held."""

    def replace(self, site: str, ids: Sequence[str], rows_NE: NDArray, since_N: NDArray) -> None:
        """Hold these rows, with the rounds they are held since, in place of all that the site held."""
        self.drop(site)
        if len(ids) and self.size is None:
            self.size, self.rows_SE = rows_NE.shape[1], np.zeros((0, rows_NE.shape[1]), np.int8)
        order = sorted(range(len(ids)), key=ids.__getitem__)
        slots = np.array([self._free.pop() if self._free else self._another() for _ in ids], np.int64)
        self.slots[site] = slots
        if not len(ids):
            return
        self.rows_SE[slots], self.since_S[slots] = rows_NE[order], since_N[order]
        self.square_S[slots] = np.einsum("ne,ne->n", rows_NE[order], rows_NE[order], dtype=np.int64)
        if site not in self._numbers:
            self._numbers[site] = len(self.sites)
            self.sites.append(site)
        self.owner_S[slots] = self._numbers[site]
        for slot, i in zip(slots.tolist(), order, strict=True):
            self.ids[slot] = ids[i]
        self.count += len(ids)

    def drop(self, site: str) -> NDArray:
        """Hold nothing of a site; returns the slots it had."""
        slots = self.slots.pop(site, np.zeros(0, np.int64))
        self._free.extend(slots[::-1].tolist())
        self.count -= len(slots)
        return slots

    def _another(self) -> int:
        """A new slot at the end; arrays double when they are full, so a row is copied about once in all."""
        if len(self.ids) == len(self.since_S):
            room = max(2 * len(self.ids), 1024)
            for name in ("rows_SE", "square_S", "since_S", "owner_S"):
                old = getattr(self, name)
                new = np.zeros((room, *old.shape[1:]), old.dtype)
                new[: len(old)] = old
                setattr(self, name, new)
        self.ids.append("")
        return len(self.ids) - 1

    def compact(self) -> "Holdings":
        """The same without empty slots, in order of site and id."""
        new = Holdings()
        sites = {site: {"ids": self.ids_of(site), "since": self.since_S[slots]} for site, slots in sorted(self.slots.items())}
        new.restore(self.size, sites, self.rows_SE[self.all_slots()])
        return new

    def restore(self, size: int | None, sites: Mapping[str, Mapping[str, Any]], rows_NE: NDArray) -> None:
        """Hold, from nothing, {site: its ids and the rounds they are held since}, whose rows are stacked by site and id."""
        self.size, start = size, 0
        self.rows_SE = np.zeros((0, size or 0), np.int8)
        for site in sorted(sites):
            ids, since_N = sites[site]["ids"], np.array(sites[site]["since"], np.int64)
            self.replace(site, ids, rows_NE[start : start + len(ids)], since_N)
            start += len(ids)

    def ids_of(self, site: str) -> list[str]:
        """What a site holds, sorted."""
        return [self.ids[slot] for slot in self.slots.get(site, ())]

    def name(self, slot: int) -> Name:
        """Who holds a slot, and as what."""
        return self.sites[self.owner_S[slot]], self.ids[slot]

    def all_slots(self, but: str | None = None) -> NDArray:
        """The slots of all live sites, or of all but one, in order of site and id."""
        return np.concatenate([np.zeros(0, np.int64), *(slots for site, slots in sorted(self.slots.items()) if site != but)])

    def cosines(self, rows_QE: NDArray, slots_QK: NDArray) -> NDArray:
        """[Q, K] float64, -inf at slot -1.

        Products of int8 rows are whole numbers below 2^24, so float32 adds them exactly in any order.
        """
        near_QKE = self.rows_SE[slots_QK].astype(np.float32)
        product_QK = (near_QKE @ rows_QE.astype(np.float32)[:, :, None])[:, :, 0].astype(np.float64)
        square_Q = np.einsum("qe,qe->q", rows_QE, rows_QE, dtype=np.int64)
        # One root of the product of squares, so that equal rows give exactly 1.
        length_QK = np.sqrt((square_Q[:, None] * self.square_S[slots_QK]).astype(np.float64))
        return np.divide(product_QK, length_QK, out=np.full(slots_QK.shape, -np.inf), where=slots_QK >= 0)


def refusal(ids: Any, sketches_NE: Any, size: int | None, limit: int | None) -> str | None:
    """Why a site's sketches cannot be taken, in plain words; None: they can."""
    if not isinstance(sketches_NE, np.ndarray):
        return f"sketches must be an array, not {type(sketches_NE).__name__}"
    if sketches_NE.dtype != np.int8:
        return f"sketches must be int8, not {sketches_NE.dtype}"
    if sketches_NE.ndim != 2:
        return f"sketches must be a table of rows, not of shape {sketches_NE.shape}"
    if not isinstance(ids, list | tuple) or not all(isinstance(name, str) for name in ids):
        return "ids must be a list of texts"
    if len(ids) != len(sketches_NE):
        return f"{len(ids)} ids for {len(sketches_NE)} sketches"
    if len(set(ids)) != len(ids):
        return f"{len(ids) - len(set(ids))} of the {len(ids)} ids come twice"
    if (longest := max(map(len, ids), default=0)) > LONGEST_ID:
        return f"an id of {longest} characters; at most {LONGEST_ID}"
    if limit is not None and len(ids) > limit:
        return f"{len(ids)} sketches, of a site that may keep {limit} samples"
    if len(ids) and size is not None and sketches_NE.shape[1] != size:
        return f"sketches of {sketches_NE.shape[1]} numbers; the federation's have {size}"
    length_N = np.sqrt(np.einsum("ne,ne->n", sketches_NE, sketches_NE, dtype=np.int64)) / LENGTH
    if (length_N == 0).any():
        return f"sketch {int(np.argmin(length_N))} is all zeros"
    off_N = np.abs(length_N - 1)
    if len(ids) and off_N.max() > TOLERANCE:
        worst = int(off_N.argmax())
        return f"sketch {worst} has length {length_N[worst]:.2f} x {LENGTH:.0f}; within {TOLERANCE:.0%} of it is allowed"
    return None
