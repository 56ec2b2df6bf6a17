"""What departed sites knew, and which live sample stands in for each of it."""

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.holdings import Name

Orphan = tuple[str, int]
"""(departed site, row)."""


class Orphans:
    """Frozen sketches of departed sites. Nobody can replay them any more, so a bound stand-in is protected from eviction."""

    def __init__(self) -> None:
        self.frozen: dict[str, NDArray] = {}
        """[F, E] int8 by departed site."""
        self._bound: dict[Orphan, Name] = {}
        self._by_site: dict[str, set[Orphan]] = {}
        self._waiting: set[Orphan] = set()

    def freeze(self, site: str, rows_FE: NDArray) -> None:
        """Remember what a site held that departs; its rows wait for stand-ins."""
        self.frozen[site] = rows_FE
        self._waiting |= {(site, i) for i in range(len(rows_FE))}

    def thaw(self, site: str) -> None:
        """Forget what a site held, and who stood in for it: it is back."""
        for orphan in [(site, i) for i in range(len(self.frozen.pop(site, ())))]:
            self._waiting.discard(orphan)
            if stand_in := self._bound.pop(orphan, None):
                self._by_site[stand_in[0]].discard(orphan)

    def loosen(self, site: str, held: Set[str]) -> None:
        """Free the rows whose stand-in this site held and holds no longer."""
        gone = {orphan for orphan in self._by_site.get(site, ()) if self._bound[orphan][1] not in held}
        for orphan in gone:
            del self._bound[orphan]
        self._by_site.get(site, set()).difference_update(gone)
        self._waiting |= gone

    def waiting(self) -> list[Orphan]:
        """Rows that nobody stands in for, sorted."""
        return sorted(self._waiting)

    def rows(self, orphans: Sequence[Orphan]) -> NDArray:
        """[len(orphans), E] int8."""
        return np.stack([self.frozen[site][i] for site, i in orphans])

    def bind(self, orphan: Orphan, stand_in: Name) -> None:
        """Let a live sample stand in for a row."""
        self._bound[orphan] = stand_in
        self._by_site.setdefault(stand_in[0], set()).add(orphan)
        self._waiting.discard(orphan)

    def of(self, site: str) -> frozenset[str]:
        """The ids of a live site's samples that stand in for something."""
        return frozenset(self._bound[orphan][1] for orphan in self._by_site.get(site, ()))

    def state(self) -> dict[str, list[Name | None]]:
        """{departed site: its rows' stand-ins}; the rows themselves are `frozen`."""
        return {site: [self._bound.get((site, i)) for i in range(len(rows))] for site, rows in sorted(self.frozen.items())}

    @classmethod
    def from_state(cls, stand_ins: Mapping[str, Iterable[Any]], rows_FE: NDArray) -> "Orphans":
        """What `state` told, with the frozen rows stacked in the same order."""
        orphans, start = cls(), 0
        for site in sorted(stand_ins):
            names = list(stand_ins[site])
            orphans.freeze(site, rows_FE[start : start + len(names)])
            start += len(names)
            for i, name in enumerate(names):
                if name is not None:
                    orphans.bind((site, i), (name[0], name[1]))
        return orphans
