"""Means over test cases, from sums: the same bits whether a site tells each case's results or only their sums."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from math import fsum, nan
from typing import Any

from wire import class_sums

Row = Mapping[str, Any]


def sums_of_sites(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """The "case" and "class" rows of one stage as one row per site and class (wire.CLASS_KEYS, and the site)."""
    by_site: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_site[row.get("site", "")].append(row)
    return [{**row, "site": site} for site, there in by_site.items() for row in class_sums(there)]


def over_cases(sums: Sequence[Row], metric: str = "dice") -> tuple[float, int]:
    """The mean over all cases of these classes that have the metric, and how many; nan over 0 if none has."""
    there = [row for row in sums if row.get(f"{metric}.cases")]
    cases = sum(row[f"{metric}.cases"] for row in there)
    return (fsum(row[f"{metric}.sum"] for row in there) / cases if cases else nan), cases
