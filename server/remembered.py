"""What the whole federation remembers, and what each site is told of it: the loop's half of the uniqueness index.

With `index.on: false` nothing is asked of the sites and every method answers as a federation without an index would.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.memory import Index, Memory
from server.holdings import refusal
from server.uniqueness import UniquenessIndex
from strategies.base import Weights
from wire import Reply

LARGEST_MEAN = 1.001
"""Norm of a mean of projected unit features: 1 at most, and room for rounding."""


class Remembered:
    """The index, the federation's mean, and the uses that the config switches on."""

    def __init__(self, index: Index, memory: Memory, size: int) -> None:
        self.recipe, self.memory, self.size = index, memory, size
        self.index = UniquenessIndex(index.duplicate, index.departed)
        self._means: dict[str, tuple[int, NDArray[np.float64]]] = {}
        self._over: set[str] = set()
        """Sites whose stream is over."""
        self._asked: dict[str, int] = {}
        """Quotas in the orders that are out."""
        self._centred = False
        """Whether those orders said where to centre."""
        self._apart: set[str] = set()
        """Sites that keep their sketches at home: they are told nothing of the others', and count as others do on average."""

    # What a site is told ------------------------------------------------------------------------------------------------

    def quotas(self, live: Sequence[str]) -> dict[str, int]:
        """{site: how many samples it may keep}, for every site that has come and not left for good."""
        total = self.memory.total
        if total is None:
            return dict.fromkeys(live, self.memory.budget)
        by_uniqueness = self.recipe.on and self.recipe.quotas and len(live) > 0
        shares = self._by_uniqueness(live, total) if by_uniqueness else evenly(live, total)
        return {site: max(1, share) for site, share in shares.items()}  # a site that learns needs a sample to learn from

    def _by_uniqueness(self, live: Sequence[str], total: int) -> dict[str, int]:
        """Shares of the total; a site whose stream is over cannot fill more than it holds, so the others get what is left."""
        open_ended, fixed = list(live), dict[str, int]()
        while True:
            rest = total - sum(fixed.values())
            shares = self.index.quotas(open_ended, rest, min(self.recipe.floor, rest // len(open_ended)))
            held = {site: self.index.count(site) for site in open_ended if site in self._over}
            full = {site: count for site, count in held.items() if 0 < count < shares[site]}
            if not full or len(full) == len(open_ended):
                return shares | fixed
            fixed |= full
            open_ended = [site for site in open_ended if site not in full]

    def replays(self, present: Sequence[str], steps: int) -> dict[str, int]:
        """{site whose stream is over: its steps}: together as many as if each did `steps`, more where more is unique."""
        over = [site for site in present if site in self._over]
        if not (self.recipe.on and self.recipe.replay) or not over or not steps:
            return {}
        return self.index.quotas(over, steps * len(over), max(1, steps // 4))

    def words(self, live: Sequence[str], asked: Sequence[str], replay_steps: int) -> dict[str, dict[str, Any]]:
        """{site: the fields of its order that speak of its memory}."""
        quotas, replays = self.quotas(live), self.replays(asked, replay_steps)
        mu_E = self._mu()
        self._asked, self._centred = {site: quotas[site] for site in asked}, mu_E is not None
        compared = [site for site in asked if self.recipe.on and site not in self._apart]
        told = {site: self._uniqueness_of(site) | {"mu_E": mu_E} for site in compared}
        return {site: {"quota": quotas[site], "replay": replays.get(site), **told.get(site, {})} for site in asked}

    def _uniqueness_of(self, site: str) -> dict[str, Any]:
        told: dict[str, Any] = {}
        if self.recipe.evict:
            told["scores"] = {"uniqueness": self.index.score(site)}
        if self.memory.policy == "leverage":
            told["scores"] = told.get("scores", {}) | {"leverage": self.index.leverage(site)}
        if self.recipe.admit and len(coverage_ME := self.index.coverage(site, self.recipe.admit)):
            told["coverage_ME"] = coverage_ME
        if self.recipe.orphans:
            told["orphans"] = frozenset(self.index.orphans(site))
        return told

    def _mu(self) -> NDArray[np.float32] | None:
        """[E] the mean of what the sites said last, by how much each holds."""
        if not self._means:
            return None
        total = sum(count for count, _ in self._means.values())
        mean_E = sum(count * mean_E for _, (count, mean_E) in sorted(self._means.items())) / total
        return np.asarray(mean_E, np.float32)

    # What the sites tell ------------------------------------------------------------------------------------------------

    def meet(self, reply: Reply) -> None:
        """Hear whether a site keeps its sketches at home; if it does, what the index held of it goes."""
        if "sketches" not in reply.withholds:
            self._apart.discard(reply.site)
            return
        self._apart.add(reply.site)
        self._means.pop(reply.site, None)
        if self.index.count(reply.site):
            self.index.add(reply.site, (), np.zeros((0, self.size), np.int8), reply.round)

    def take(self, reply: Reply) -> str | None:
        """Take in a reply's sketches; why they are refused, in words, or None. The update counts either way."""
        if reply.rows[0].get("stream_left") == 0:
            self._over.add(reply.site)
        if not self.recipe.on:
            return None
        alone = reply.site in self._apart  # it was not told where to centre
        self.meet(reply)
        if reply.site in self._apart:
            return None
        if reply.sketches_NE is None:
            if reply.rows[0]["memory"]:
                return "it sent no sketches"
            self.index.add(reply.site, (), np.zeros((0, self.size), np.int8), reply.round)
            return None
        return self._why_no_sketches(reply) or self._why_no_mean(reply) or self._keep(reply, alone)

    def _why_no_sketches(self, reply: Reply) -> str | None:
        numbers = [int(length) for length in getattr(reply.sketches_NE, "shape", ())][1:]
        if numbers and numbers[0] > self.size:
            return f"its sketches have {numbers[0]} numbers; sketch.size is {self.size}"
        quota = self._asked.get(reply.site, 0)
        if len(reply.ids) > quota:
            return f"it sent {len(reply.ids)} sketches, and may keep {quota} samples"
        length = next((len(mean_E) for _, mean_E in self._means.values()), None)  # also before there is anything in the index
        return refusal(reply.ids, reply.sketches_NE, length, None)

    def _keep(self, reply: Reply, alone: bool) -> str | None:
        """The mean, and the sketches if all were centred alike: in a run's first round each site used its own mean."""
        if len(reply.ids):
            self._means[reply.site] = (len(reply.ids), np.asarray(reply.mean_E, np.float64))
        if not self._centred or alone:
            return None
        return self.index.add(reply.site, reply.ids, np.asarray(reply.sketches_NE), reply.round)

    def _why_no_mean(self, reply: Reply) -> str | None:
        mean_E, wanted = reply.mean_E, getattr(reply.sketches_NE, "shape", ())[1:]
        if mean_E is None or mean_E.shape != wanted or mean_E.dtype != np.float32:
            found = "missing" if mean_E is None else f"{mean_E.dtype} {list(mean_E.shape)}"
            return f"the mean feature is {found}, not float32 {list(wanted)}"
        if not np.isfinite(mean_E).all() or float(np.linalg.norm(mean_E.astype(np.float64))) > LARGEST_MEAN:
            return "the mean feature is no mean of unit vectors"
        return None

    def depart(self, sites: Iterable[str]) -> None:
        """These have left for good: what they held becomes orphans."""
        for site in sites:
            self._over.discard(site)
            if self.recipe.on:
                self.index.depart(site)

    def uniqueness(self, sites: Iterable[str]) -> dict[str, float]:
        """{site: mean uniqueness of what it holds}, 1 where the index knows nothing of it."""
        if not self.recipe.on:
            return {}
        scores = {site: list(self.index.score(site).values()) for site in sites}
        return {site: float(np.mean(values)) if values else 1.0 for site, values in scores.items()}

    # What is recorded -----------------------------------------------------------------------------------------------------

    def evictions(self, reply: Reply) -> list[dict[str, Any]]:
        """Rows of the record: what a site let go and where the nearest sample elsewhere lives (before `take`)."""
        near = self.index.nearest(reply.site) if self.recipe.on and reply.rows[0].get("evicted") else {}
        rows = []
        for gone in reply.rows[0].get("evicted") or ():
            where, where_id, cosine = near.get(gone.get("id"), (None, None, None))
            rows.append({**gone, "where": where, "where_id": where_id, "where_similarity": _rounded(cosine)})
        return rows

    def summary(self, live: Sequence[str], held: Mapping[str, int]) -> dict[str, Any] | None:
        """The record's row of a round; None without an index. What was not compared yet counts as unique."""
        if not self.recipe.on:
            return None
        scores = {site: list(self.index.score(site).values()) or [1.0] * held.get(site, 0) for site in sorted(live)}
        all_N = [value for values in scores.values() for value in values]
        return {
            "held": {site: len(values) for site, values in scores.items()},
            "effective": {site: _rounded(sum(values)) for site, values in scores.items()},
            "duplicates": self.index.duplicates(),
            "quantiles": [_rounded(float(np.quantile(all_N, q))) for q in (0.1, 0.5, 0.9)] if all_N else [],
            "orphans": {site: len(self.index.orphans(site)) for site in sorted(live)},
            "quotas": dict(sorted(self.quotas(live).items())),
        }

    # Between rounds -------------------------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Any], Weights]:
        """Plain facts and tensors, from which `restore` goes on exactly."""
        facts, tensors = self.index.state()
        means = {f"mean|{site}": mean_E for site, (_, mean_E) in self._means.items()}
        counts = {site: count for site, (count, _) in self._means.items()}
        said = {"over": sorted(self._over), "apart": sorted(self._apart)}
        return {"index": facts, "counts": counts, **said}, {**tensors, **means}

    def restore(self, facts: Mapping[str, Any], tensors: Weights) -> None:
        """The inverse of `state`."""
        means = {name: tensor for name, tensor in tensors.items() if name.startswith("mean|")}
        rest = {name: tensor for name, tensor in tensors.items() if name not in means}
        self.index = UniquenessIndex.from_state(facts["index"], rest)
        self._means = {site: (count, means[f"mean|{site}"]) for site, count in facts["counts"].items()}
        self._over, self._apart = set(facts["over"]), set(facts.get("apart", ()))


def evenly(sites: Sequence[str], total: int) -> dict[str, int]:
    """Shares of `total` that differ by at most 1; the first names get the more."""
    share, rest = divmod(total, len(sites)) if sites else (0, 0)
    return {site: share + (i < rest) for i, site in enumerate(sorted(sites))}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 4)
