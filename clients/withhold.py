"""What a hospital's own policy keeps at home: the last thing that is done to a reply, whatever the recipe and the server ask.

The site file's `shares` (configs.site.Shares) says what. The server is told which parts it need not wait for
(Reply.withholds), and the ledger which of them this reply would have held (`taken_out`).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from configs.site import Shares
from wire import PRIVACY_KEYS, WITHHELD, Reply, class_sums

LIKENESS = ("uniqueness", "twin", "similarity")
"""What is said of a sample let go that was found by comparing it with others."""


def withhold(reply: Reply, shares: Shares, noise: float | None) -> Reply:
    """The reply without what the policy keeps at home. `noise`: the recipe's `sketch.noise`, None where it asks for none."""
    home = kept_home(shares, noise)
    for part in home:
        reply = WITHOUT[part](reply)
    return replace(reply, withholds=home)


def kept_home(shares: Shares, noise: float | None) -> tuple[str, ...]:
    """What stays at home in a run whose sketches have so much noise: names of wire.WITHHELD."""
    loud = noise is not None and noise >= (shares.least_noise or 0)
    sketches = shares.sketches == "as_asked" or (shares.sketches == "noisy" and loud)
    leaves = {
        "sketches": sketches,
        "case_metrics": shares.case_metrics,
        "domains": shares.domains,
        "evictions": shares.evictions,
    }
    return tuple(part for part in WITHHELD if not leaves[part])


def taken_out(whole: Reply, left: Reply) -> list[str]:
    """Which parts of a reply the policy has taken out of it: of what it keeps at home, those that were there."""
    return [part for part in left.withholds if HOLDS[part](whole)]


def _without_sketches(reply: Reply) -> Reply:
    """No sketch, no id, no mean, nothing found by comparing, and no account of noise that was not needed."""
    rows = tuple(
        {key: _plainly(value) if key == "evicted" else value for key, value in row.items() if key not in PRIVACY_KEYS}
        for row in reply.rows
    )
    return replace(reply, ids=(), sketches_NE=None, mean_E=None, rows=rows)


def _plainly(evicted: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in gone.items() if key not in LIKENESS} for gone in evicted]


def _without_case_metrics(reply: Reply) -> Reply:
    """Sums over a class's cases instead of a row per case."""
    return replace(reply, rows=tuple(class_sums(reply.rows))) if reply.task == "evaluate" else reply


def _without(key: str) -> Callable[[Reply], Reply]:
    return lambda reply: replace(reply, rows=tuple({name: row[name] for name in row if name != key} for row in reply.rows))


WITHOUT: dict[str, Callable[[Reply], Reply]] = {
    "sketches": _without_sketches,
    "case_metrics": _without_case_metrics,
    "domains": _without("memory_domains"),
    "evictions": _without("evicted"),
}
"""A reply without a part; each leaves a reply that lacks it as it is."""
HOLDS: dict[str, Callable[[Reply], bool]] = {
    "sketches": lambda reply: reply.sketches_NE is not None,
    "case_metrics": lambda reply: any("case" in row for row in reply.rows),
    "domains": lambda reply: any(row.get("memory_domains") for row in reply.rows),
    "evictions": lambda reply: any(row.get("evicted") for row in reply.rows),
}
"""Whether a reply says something of a part."""
