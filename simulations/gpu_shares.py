"""`gpus: auto`: what share of a GPU each site gets, from the memory that its orders took. Knows nothing of Ray.

Until a site has been seen at a kind of work it has a GPU to itself: only then is what it took what it takes, not what its
neighbours left it. From then on it has as much as it took at most, and a margin, in sixteenths. Ray's shares are bookkeeping:
nothing keeps a site within its own. Where memory runs out all the same, the site's share is doubled.
"""

import json
import math
from collections.abc import Collection
from pathlib import Path

from clients.peak import Peak
from durable import write_whole
from simulations.placement import at_once

FILE = "placement.json"
"""In the run's folder: bytes that the sites' orders took, for whoever goes on with the run."""
PARTS = 16
"""Parts of a GPU: few enough that sites of about the same need share actors, and exact when added up."""
MARGIN = 1.1
"""Of what torch reserved: a later case may be larger, and a freed block is not always one that can be used again."""
CONTEXT = 768 * 2**20
"""Bytes that every process takes of a GPU beside what torch counts: CUDA's context, the kernels of cuDNN and cuBLAS."""
WORK = ("train", "evaluate")
"""The kinds of orders that take a GPU's memory."""
LEAST = "ran out below"
"""Beside the kinds of work in the file: bytes with which memory did not suffice, doubled."""


class Shares:
    """The shares of the sites that leave theirs open.

    Args:
        sites: their names.
        gpus: GPUs that there are, of all machines.
        most: sites that can be at work at once, for cores or actors.
        folder: the run's; None: what is measured is forgotten with the process.
    """

    def __init__(self, sites: Collection[str], gpus: int, most: int, folder: Path | None) -> None:
        self.gpus, self.path = gpus, folder / FILE if folder else None
        self.most = max(1, min(len(sites), most))
        self.even = min(PARTS, PARTS * gpus // self.most)
        self.total, self.taken = 0, {site: dict[str, int]() for site in sites}
        self._read()

    def of(self, site: str, task: str) -> float:
        """The share that an order of this kind (train, evaluate, or another) is to have."""
        if not self.gpus:
            return 0.0
        known = self.taken[site].keys() & {*WORK}
        if not known or (task in WORK and task not in known):
            return 1.0
        own = {name: self._parts(name) for name, facts in self.taken.items() if facts}
        wide = {name: max(parts, self.even) for name, parts in own.items()}  # else Ray fills one GPU, and others stay idle
        fit_own, fit_wide = (min(self.most, at_once(parts.values(), self.gpus, PARTS)) for parts in (own, wide))
        return (wide if fit_wide >= fit_own else own)[site] / PARTS

    def learn(self, site: str, task: str, peak: Peak, share: float) -> None:
        """Note what an order took that was done with this share."""
        if not self.gpus or task not in WORK:
            return
        before = self._facts()
        facts = self.taken[site]
        facts[task] = max(facts.get(task, 0), peak.gpu)
        if peak.total:
            self.total = min(self.total or peak.total, peak.total)
        if peak.short:
            self._double(site, share)
        self._keep(before)

    def ran_out(self, site: str, share: float) -> None:
        """Note that memory ran out, the GPU's or the machine's: the site gets twice as much, at most a GPU to itself."""
        before = self._facts()
        self._double(site, share)
        self._keep(before)

    def _double(self, site: str, share: float) -> None:
        facts = self.taken[site]
        facts[LEAST] = max(facts.get(LEAST, 0), math.floor(min(1.0, 2 * share) * self.total))

    def _parts(self, site: str) -> int:
        """Sixteenths that hold what the site took, from 1 to 16; of the smallest GPU that was met."""
        facts = self.taken[site]
        took = max(facts.get(task, 0) for task in WORK)
        need = max(MARGIN * took + CONTEXT, facts.get(LEAST, 0))
        return max(1, min(PARTS, math.ceil(PARTS * need / self.total))) if self.total else 1

    def _facts(self) -> str:
        return json.dumps({"total": self.total, "sites": self.taken}, indent=1)

    def _keep(self, before: str) -> None:
        if self.path and (text := self._facts()) != before:
            write_whole(self.path, lambda draft: draft.write_text(text, encoding="utf-8"))

    def _read(self) -> None:
        """What an earlier process measured; a file that cannot be read is none."""
        try:
            found = json.loads(self.path.read_text(encoding="utf-8")) if self.path else {}
            total, sites = int(found.get("total", 0)), found.get("sites", {})
            known = {name: {key: int(sites[name][key]) for key in sites[name]} for name in self.taken if name in sites}
        except (OSError, ValueError, TypeError, LookupError, AttributeError):
            return
        self.total = total
        self.taken |= known
