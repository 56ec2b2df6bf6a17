"""The peers' table: a line is what a run cost against the bare loop of its pair."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan

from venvs import PEERS as OTHERS
from watched import Watched

OURS = ("ray", "local")
NUMBERS = {
    "wall": "wall s",
    "start_up": "start-up s",
    "over_bare": "over bare",
    "beyond_ms": "beyond ms",
    "memory_mb": "memory MB",
}


@dataclass(frozen=True)
class Cost:
    """A line of the table; every number is better when it is smaller."""

    peer: str
    sites: int
    wall: float
    start_up: float
    over_bare: float
    beyond_ms: float
    memory_mb: float


def cost_of(peer: str, sites: int, run: Watched, bare: Watched, rounds: int, processes: int) -> Cost:
    """A run's line, against the bare loop of its pair."""
    after, loop = run.wall - run.first, bare.wall - bare.first
    workers = 1 if peer in ("bare", "local") else processes
    beyond = (workers * after - loop) / (sites * rounds) * 1000
    return Cost(peer, sites, run.wall, run.first, after / loop, beyond, run.peak_mb)


def median(costs: Sequence[Cost]) -> Cost:
    """The medians of a peer's pairs, number by number."""
    numbers = {key: statistics.median(getattr(cost, key) for cost in costs) for key in NUMBERS}
    return Cost(costs[0].peer, costs[0].sites, **numbers)


def markdown(costs: Sequence[Cost]) -> str:
    """The table."""
    lines = [["peer", "sites", *NUMBERS.values()], ["---", *["---:"] * (len(NUMBERS) + 1)]]
    digits = {"wall": 1, "start_up": 1, "over_bare": 2, "beyond_ms": 0, "memory_mb": 0}
    for cost in costs:
        numbers = [getattr(cost, key) for key in NUMBERS]
        shown = ["–" if isnan(x) else f"{x:.{digits[key]}f}" for key, x in zip(NUMBERS, numbers, strict=True)]
        lines.append([cost.peer, str(cost.sites), *shown])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def behind(costs: Sequence[Cost]) -> list[str]:
    """The cells in which another peer is ahead of an engine of ours."""
    found = []
    for ours in (cost for cost in costs if cost.peer in OURS):
        for other in (cost for cost in costs if cost.peer in OTHERS and cost.sites == ours.sites):
            for key, title in NUMBERS.items():
                a, b = getattr(ours, key), getattr(other, key)
                if b < a:
                    found.append(f"{ours.sites} sites, {title}: {other.peer} {b:.2f} is ahead of {ours.peer} {a:.2f}")
    return found
