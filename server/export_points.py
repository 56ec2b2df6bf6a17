"""What of a run's record is exported: rows in, numbered points out."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, NamedTuple

SITE_FACTS = ("draws", "steps", "seconds", "memory", "bytes_up", "bytes_down")
"""What is exported of a site's round beside its loss, as the record calls it."""
WHOLE = ("round", "index", "privacy")
"""Events that speak of a round as a whole: every number in them is exported."""


class Point(NamedTuple):
    """One number of a run."""

    key: str
    value: float
    step: int
    """The round."""


@dataclass
class Scalars:
    """The points of a record whose rows are given one after another.

    `loss/<site>`, `draws/<site>` ... of a site's round; `round/seconds` ... of all; `R/<site>` and, of sites' own models,
    `own/<site>`, after each stage; at the end every metric under its id, and under `cells/<id>` how many terms its mean had.
    (A cell of R is not called dice/<site>: `dice` is a metric's id, and a file store has no file and folder of one name.)
    """

    round: int = 0
    """The last that is over."""

    def of(self, row: Mapping[str, Any]) -> Iterator[Point]:
        """A row's points: numbers that are finite."""
        if row.get("event") == "round":
            self.round = int(row["round"])
        step = int(row.get("round", self.round))
        for key, value in _numbers(row):
            if isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value):
                yield Point(plain(key), float(value), step)


def _numbers(row: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """What a row says by its exported key, be it a number or not."""
    event, site = row.get("event"), row.get("site")
    if event == "train":
        facts = {"loss": _loss(row)} | {name: row.get(name) for name in SITE_FACTS}
        return [(f"{name}/{site}", fact) for name, fact in facts.items()]
    if event in ("result", "own"):
        return [(f"{'R' if event == 'result' else event}/{site}", row["dice"])]
    if event == "metric":
        return [(row["id"], row["value"]), (f"cells/{row['id']}", row["cells"])]
    if event in (*WHOLE, "end"):
        return [(f"{event}/{name}", fact) for name, fact in flat(row, "/") if name not in ("event", "round")]
    return []


def _loss(row: Mapping[str, Any]) -> float | None:
    """Mean loss of a site's round; sums travel, not means."""
    total, weight = row.get("loss_sum"), row.get("loss_weight")
    return total / weight if total is not None and weight else None


def flat(tree: Mapping[str, Any], between: str, above: str = "") -> Iterator[tuple[str, Any]]:
    """The values in nested mappings by their joined keys."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, between, f"{above}{key}{between}")
        else:
            yield f"{above}{key}", value


def plain(key: str) -> str:
    """A key as every outlet takes it, and that leads out of no folder: letters, digits and `_ - . /`."""
    parts = (re.sub(r"[^\w.-]", "_", part) for part in key.split("/"))
    return "/".join(part if part.strip(".") else "_" for part in parts)
