"""Which site is present in which round: written down beforehand, or whoever has connected."""

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Protocol

from configs.schema import Arrivals

Visit = tuple[int, int | None]
"""First and last round of presence, from 1; last None: to the end."""


class ArrivalSchedule(Protocol):
    """Which site is present in which round."""

    @property
    def rounds(self) -> int:
        """How many rounds there are in all."""

    def present(self, round: int, connected: Set[str]) -> Set[str]:
        """The sites that take part in a round."""

    def awaited(self, round: int) -> Set[str] | None:
        """The sites that a round is meant for; None: whoever there is."""

    def departed(self, round: int) -> Set[str]:
        """The sites that have left for good before a round."""

    def in_order(self, sites: Iterable[str]) -> list[str]:
        """Sites in the order in which they are expected to arrive: the columns of R."""


@dataclass(frozen=True)
class Scripted:
    """As written: joining, leaving, pausing, returning, overlapping."""

    visits: Mapping[str, Sequence[Visit]]
    rounds: int

    def present(self, round: int, connected: Set[str]) -> Set[str]:
        """Those whose visits hold the round, if they are connected."""
        return self.awaited(round) & connected

    def awaited(self, round: int) -> set[str]:
        """Those whose visits hold the round."""
        return {
            site
            for site, visits in self.visits.items()
            if any(first <= round and (last is None or round <= last) for first, last in visits)
        }

    def departed(self, round: int) -> Set[str]:
        """Those whose last visit is over."""
        ends = {site: visits[-1][1] for site, visits in self.visits.items() if visits}
        return {site for site, end in ends.items() if end is not None and end < round}

    def in_order(self, sites: Iterable[str]) -> list[str]:
        """By first visit, then as written; a site that is connected but not named comes last."""
        places = {site: (visits[0][0], i) for i, (site, visits) in enumerate(self.visits.items())}
        return sorted(sites, key=lambda site: (*places.get(site, (math.inf, 0)), site))


@dataclass(frozen=True)
class OpenDoor:
    """Whoever has connected takes part. A site that vanishes is paused, not gone."""

    rounds: int

    def present(self, round: int, connected: Set[str]) -> Set[str]:
        """Everybody who is there."""
        return connected

    def awaited(self, round: int) -> None:
        """Nobody by name."""

    def departed(self, round: int) -> Set[str]:
        """Nobody: a site that is away may come back."""
        return set()

    def in_order(self, sites: Iterable[str]) -> list[str]:
        """By name: who will arrive first is not known."""
        return sorted(sites)


def make_schedule(arrivals: Arrivals, sites: Sequence[str]) -> ArrivalSchedule:
    """The schedule that a config describes; `sites` in the config's order."""
    if arrivals.door == "open":
        assert arrivals.rounds is not None, "the schema insists on it"
        return OpenDoor(arrivals.rounds)
    if arrivals.visits is not None:
        visits: dict[str, list[Visit]] = {site: [*turns] for site, turns in arrivals.visits.items() if turns}
    else:
        line = arrivals.order or sites
        visits = {site: [_one_visit(i, len(line), arrivals)] for i, site in enumerate(line)}
    if not visits:
        raise ValueError("arrivals: no site is named, neither there nor in `sites`")
    return Scripted(visits, arrivals.rounds or _last_round(visits, arrivals.rounds_per_stage))


def _one_visit(index: int, count: int, arrivals: Arrivals) -> Visit:
    """One site after another: it joins when its stage begins and stays, or leaves after it (and the overlap with the next)."""
    join = 1 + index * arrivals.rounds_per_stage
    overlap = arrivals.overlap if index < count - 1 else 0
    return (join, None if arrivals.stay else join + arrivals.rounds_per_stage - 1 + overlap)


def _last_round(visits: Mapping[str, Sequence[Visit]], rounds_per_stage: int) -> int:
    """The end of the last stage: a visit that is not told to end lasts at least a stage."""
    turns = [turn for turns in visits.values() for turn in turns]
    return max(first + rounds_per_stage - 1 if last is None else last for first, last in turns)
