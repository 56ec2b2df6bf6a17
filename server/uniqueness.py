"""What the whole federation remembers: how unique each sample is, and who stands in for what departed sites knew."""

from collections.abc import Iterable, Mapping, Sequence
from math import fsum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.closest import anything, closest, pairs, told
from server.coverage import Coverage, centres
from server.holdings import Holdings, refusal
from server.leverage import Axes, axes, leverage
from server.nearest import Flat, Lists, suited
from server.orphans import Orphans
from server.quotas import split


class UniquenessIndex:
    """Sketches by live site, and frozen ones of departed sites. A value: the same calls give the same answers, bit for bit.

    Sites and samples are compared by name wherever something ties, so up to `exact` sketches, which are searched one and
    all, the order in which sites report within a round makes no difference. More sketches are searched in cells
    (server/nearest.py), opened so far that .99 of nearest neighbours or more are found.
    """

    def __init__(self, duplicate: float = 0.95, departed: int = 64, exact: int = 100_000) -> None:
        if not 0 < duplicate <= 1:
            raise ValueError(f"index.duplicate must be a cosine above 0 and at most 1, not {duplicate}")
        if departed < 1:
            raise ValueError(f"index.departed must be at least 1, not {departed}")
        self.duplicate, self.departed, self.exact = duplicate, departed, exact
        self._held, self._orphans = Holdings(), Orphans()
        self._near: Flat | Lists | None = None
        self._learnt, self._written = 0, 0  # rows when lists were last tried (0: too few), and rows written since
        self._coverage = Coverage()
        self._forget()

    # Who holds what ---------------------------------------------------------------------------------------------------

    def add(self, site: str, ids: Sequence[str], sketches_NE: NDArray, round: int, *, limit: int | None = None) -> str | None:
        """Replace all that a site holds: sketches int8 round(127 unit(...)) and their ids. None: taken; else why not.

        A sample that stays is held since the round in which the site first reported it. A site that had departed is live
        again, starts anew, and what was frozen of it goes.
        """
        if reason := refusal(ids, sketches_NE, self._held.size, limit):
            return reason
        known = self._held.slots.get(site, np.zeros(0, np.int64))
        since = dict(zip(self._held.ids_of(site), self._held.since_S[known].tolist(), strict=True))
        self._orphans.thaw(site)
        if self._near is not None:
            self._near.take(known)
        self._held.replace(site, ids, sketches_NE, np.array([since.get(name, round) for name in ids], np.int64))
        self._put(self._held.slots[site])
        self._changed(site)
        return None

    def depart(self, site: str) -> None:
        """A site has left: at most `departed` of its rows (greedy k-center) freeze, and each gets a live stand-in."""
        if site not in self._held.slots:
            return
        rows_NE = self._held.rows_SE[self._held.slots[site]]
        if len(rows_NE) > self.departed:
            rows_NE = rows_NE[np.sort(centres(rows_NE, self.departed))]
        slots = self._held.drop(site)
        if self._near is not None:
            self._near.take(slots)
        self._orphans.freeze(site, rows_NE)
        self._changed(site)

    def _changed(self, site: str) -> None:
        """After a site's rows changed: bind who lost a stand-in, and search the way that suits the number of rows."""
        self._orphans.loosen(site, set(self._held.ids_of(site)))
        self._coverage.forget(site)
        self._forget()
        self._arrange()
        waiting = self._orphans.waiting()
        if not waiting or self._near is None or not self._held.count:
            return
        for orphan, slot in zip(waiting, self._closest(self._orphans.rows(waiting))[0].tolist(), strict=True):
            if slot >= 0:
                self._orphans.bind(orphan, self._held.name(slot))

    def _forget(self) -> None:
        self._found: dict[str, tuple[NDArray, NDArray]] = {}  # the counted neighbours by site: slots, cosines
        self._pairs: int | None = None
        self._axes: Axes | None = None

    def _put(self, slots: NDArray) -> None:
        if self._held.size is None:
            return
        if self._near is None:
            self._near = Flat(self._held.size)
        self._near.put(slots, self._held.rows_SE[slots])
        self._written += len(slots)

    def _arrange(self) -> None:
        """Try lists past `exact` rows, and anew once as many were written as they were learnt from; close gaps in flat."""
        count, many = self._held.count, self._learnt > 0
        stale = count > self.exact // 2 and self._written >= self._learnt if many else count > self.exact
        small = count <= self.exact // 2 if many else len(self._held.ids) > 2 * count + 1024
        size = self._held.size
        if size is None or not (stale or small):
            return
        self._held = self._held.compact()
        slots = self._held.all_slots()
        self._near = suited(self._held.rows_SE[slots], self._held.owner_S[slots]) if stale else Flat(size)
        self._put(slots)
        self._learnt, self._written = count if stale else 0, 0

    def count(self, site: str) -> int:
        """How many samples a live site holds."""
        return len(self._held.slots.get(site, ()))

    # How unique it is -------------------------------------------------------------------------------------------------

    def score(self, site: str) -> dict[str, float]:
        """{id: u}, u = 1 - max(0, cosine to the nearest sketch of another live site that counts), in [0, 1].

        Of a pair closer than `duplicate` the other counts only for the side that first reported its sample later (ties:
        the larger site name, then id).
        """
        cosine_N = self._neighbours(site)[1]
        return dict(zip(self._held.ids_of(site), (1.0 - np.clip(cosine_N, 0.0, 1.0)).tolist(), strict=True))

    def nearest(self, site: str) -> dict[str, tuple[str, str, float]]:
        """{id: (other site, other id, cosine)}: the neighbour that counted; samples without one are left out."""
        found = zip(self._held.ids_of(site), *self._neighbours(site), strict=True)
        return {name: (*self._held.name(slot), float(cosine)) for name, slot, cosine in found if slot >= 0}

    def summed(self, site: str) -> float:
        """The sum of a site's u."""
        return fsum(self.score(site).values())

    def effective(self) -> float:
        """The sum of all live sites' u: how many samples the federation holds, a pair of duplicates counted once."""
        return fsum(self.summed(site) for site in sorted(self._held.slots))

    def duplicates(self) -> int:
        """Pairs of samples, of two live sites, closer than `duplicate`; past `exact` sketches, those in cells opened."""
        if self._pairs is None:
            self._pairs = 0 if self._near is None else pairs(self._held, self._near, self.duplicate)
        return self._pairs

    def _neighbours(self, site: str) -> tuple[NDArray, NDArray]:
        """Slots and cosines of the neighbours that counted, in the site's order; found once per change."""
        if site not in self._found:
            slots = self._held.slots.get(site, np.zeros(0, np.int64))
            self._found[site] = self._closest(self._held.rows_SE[slots], slots)
        return self._found[site]

    def _closest(self, rows_QE: NDArray, own: NDArray | None = None) -> tuple[NDArray, NDArray]:
        """The nearest live rows; if the rows are held (`own`: their slots), elsewhere, and by the rule for duplicates."""
        if self._near is None:
            return np.full(len(rows_QE), -1), np.full(len(rows_QE), -np.inf)
        if own is None:
            return closest(self._held, self._near, rows_QE, anything)
        self._near.take(own)
        try:
            return closest(self._held, self._near, rows_QE, told(self._held, own, self.duplicate))
        finally:
            self._near.put(own, rows_QE)

    def leverage(self, site: str, r: int = 8) -> dict[str, float]:
        """{id: |U_i,:r|^2} of the SVD of all live sketches stacked (server/leverage.py)."""
        slots = self._held.slots.get(site, np.zeros(0, np.int64))
        if not len(slots):
            return {}
        if self._axes is None:
            self._axes = axes(self._held.rows_SE[self._held.all_slots()])
        tau_N = leverage(self._held.rows_SE[slots], self._axes, r)
        return dict(zip(self._held.ids_of(site), tau_N.tolist(), strict=True))

    # What follows from it ---------------------------------------------------------------------------------------------

    def coverage(self, site: str, m: int) -> NDArray:
        """[<= m, E] int8: greedy k-center of what the other live sites hold, whether or not this one is known."""
        return self._coverage(self._held, site, m)

    def orphans(self, site: str) -> frozenset[str]:
        """The site's samples that are the live stand-ins of something a departed site knew."""
        return self._orphans.of(site)

    def quotas(self, sites: Iterable[str], total: int, floor: int) -> dict[str, int]:
        """{site: samples it may keep}, in proportion to mean u; a site that holds nothing yet counts like the others' mean.

        By the mean, not the sum: a sum grows with the quota that it sets, and the small would get ever smaller.

        Raises:
            ValueError: the floors alone are more than the total.
        """
        scores = {site: list(self.score(site).values()) for site in sorted(set(sites))}
        known = {site: fsum(values) / len(values) for site, values in scores.items() if values}
        mean = fsum(known.values()) / len(known) if known else 1.0
        return split({site: known.get(site, mean) for site in sites}, total, floor)

    # As data ----------------------------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray]]:
        """Everything, as plain facts and int8 tensors: rows and frozen rows by site and id, centroids if there are lists."""
        held, lists = self._held, self._near if isinstance(self._near, Lists) else None
        sites = {
            site: {"ids": held.ids_of(site), "since": held.since_S[held.slots[site]].tolist()} for site in sorted(held.slots)
        }
        facts = {
            "duplicate": self.duplicate,
            "departed": self.departed,
            "exact": self.exact,
            "size": held.size,
            "sites": sites,
            "stand_ins": self._orphans.state(),
            "probes": None if lists is None else lists.probes,
            "learnt": self._learnt,
            "written": self._written,
        }
        none_NE = held.rows_SE[:0]
        frozen = [rows_FE for _, rows_FE in sorted(self._orphans.frozen.items()) if len(rows_FE)]
        tensors = {"rows_NE": held.rows_SE[held.all_slots()], "frozen_NE": np.concatenate([none_NE, *frozen])}
        return facts, tensors | {"centroids_CE": none_NE if lists is None else lists.centroids_CE}

    @classmethod
    def from_state(cls, facts: Mapping[str, Any], tensors: Mapping[str, NDArray]) -> "UniquenessIndex":
        """The index that `state` told of: it goes on exactly as the first would have."""
        index = cls(facts["duplicate"], facts["departed"], facts["exact"])
        index._held.restore(facts["size"], facts["sites"], tensors["rows_NE"])
        index._orphans = Orphans.from_state(facts["stand_ins"], tensors["frozen_NE"])
        if facts["probes"] is not None:
            index._near = Lists(tensors["centroids_CE"], facts["probes"])
        index._put(index._held.all_slots())
        index._learnt, index._written = facts["learnt"], facts["written"]
        return index
