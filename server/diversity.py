"""Whose cases the memories hold after each stage, and how evenly: the composition of memory by site of origin."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, log, nan

from server.digest import Digest, Row


@dataclass(frozen=True)
class Mixture:
    """What all memories hold together after a stage."""

    stage: str
    by_origin: Mapping[str, int]
    """{site: samples of its cases}, in order of arrival, of every site of which a memory has ever held one."""

    @property
    def held(self) -> int:
        """Samples in all."""
        return sum(self.by_origin.values())

    @property
    def shares(self) -> dict[str, float]:
        """{site: part of the samples that are its cases}; all 0 where nothing is held."""
        return {site: count / max(self.held, 1) for site, count in self.by_origin.items()}

    @property
    def effective(self) -> float:
        """How many sites the memory is worth: exp of Shannon's entropy of the shares. 1: one site's cases only; nan: empty."""
        return exp(-sum(share * log(share) for share in self.shares.values() if share)) if self.held else nan

    @property
    def evenness(self) -> float:
        """Pielou's: log(effective sites) / log(sites so far), 1 where all have the same share; nan for fewer than two sites."""
        return log(self.effective) / log(len(self.by_origin)) if len(self.by_origin) > 1 else nan


def mixtures(run: Digest) -> list[Mixture]:
    """What is held after each stage that the record knows, the first stage first.

    A site that does not train holds what it held, until it leaves: it takes its memory along. A sample's origin is the site
    that its domain names, where domains name sites (an extra client holds all sites' cases), else the site that holds it.
    """
    ends = {str(row["stage"]): int(row["round"]) for row in run.rounds if row.get("stage")}
    left = {row["site"]: row["round"] for row in run.moves if row["event"] == "leave"}
    known = set(run.matrix.sites) or set(run.sites)
    ordered = list(dict.fromkeys((*run.matrix.sites, *run.sites, *(row["site"] for row in run.trains))))
    held: dict[str, Mapping[str, int]] = {}
    ever: set[str] = set()
    found, trains = [], list(run.trains)
    for stage, last in ends.items():
        while trains and trains[0]["round"] <= last:
            row = trains.pop(0)
            held[row["site"]] = _origins(row, known)
            ever |= {site for site, count in held[row["site"]].items() if count}
        total: Counter[str] = Counter()
        for site, counts in held.items():
            if last < left.get(site, last + 1):
                total.update(counts)
        found.append(Mixture(stage, {site: total[site] for site in ordered if site in ever}))
    return found


def most_held(run: Digest) -> int | None:
    """Samples held at once at most, over all sites that are there; None: no memory was told of."""
    left = {row["site"]: row["round"] for row in run.moves if row["event"] == "leave"}
    held: dict[str, int] = {}
    most = None
    for row in run.trains:
        if row.get("memory") is not None:
            gone = {site for site, round in left.items() if round <= row["round"]}
            held = {site: count for site, count in held.items() if site not in gone} | {row["site"]: int(row["memory"])}
            most = max(most or 0, sum(held.values()))
    return most


def _origins(row: Row, known: set[str]) -> Mapping[str, int]:
    """{site: samples} of one memory."""
    domains: Mapping[str, int] = row.get("memory_domains") or {}
    if domains and domains.keys() <= known:
        return domains
    return {row["site"]: int(row.get("memory") or 0)}
