"""Why a sample was dropped, in words: what was most like it, and where that lives."""

from collections import Counter
from collections.abc import Iterable
from math import isfinite

from server.digest import Row

ALIKE = 0.5
"""Cosine from which the nearest sample is called a twin."""
ELSEWHERE, HERE, NO_TWIN = "a twin elsewhere", "a twin here", "no twin"
UNUSED, NEVER_COMPARED = "never trained on", "never compared"
KINDS = (ELSEWHERE, HERE, NO_TWIN, UNUSED, NEVER_COMPARED)
"""Of samples that were compared with others, the first three; of the rest, those that were dropped before a first step."""


def kind(row: Row) -> str:
    """Which of `KINDS` an "evict" row is."""
    here, there = _cosine(row, "similarity"), _cosine(row, "where_similarity")
    if here is None and there is None:
        return UNUSED if row.get("visits") == 0 else NEVER_COMPARED
    if max(-1.0 if here is None else here, -1.0 if there is None else there) < ALIKE:
        return NO_TWIN
    return ELSEWHERE if _is_there(row) else HERE


def reason(row: Row) -> str:
    """The kind with the nearest sample's site and cosine, and whether the memory ever used the sample."""
    cosine = _shown(_cosine(row, "where_similarity" if _is_there(row) else "similarity"))
    place = str(row.get("where") or "another site") if _is_there(row) else "here"
    said = {ELSEWHERE: f"({place}, {cosine})", HERE: f"({cosine})", NO_TWIN: f"(nearest: {place}, {cosine})"}
    found = kind(row)
    if found not in said:
        return found
    return f"{found} {said[found]}{f'; {UNUSED}' if row.get('visits') == 0 else ''}"


def nearest_id(row: Row) -> str | None:
    """The keyed id of the sample that `reason` speaks of."""
    id = row.get("where_id" if _is_there(row) else "twin")
    return None if id is None else str(id)


def counts(rows: Iterable[Row]) -> dict[str, Counter[str]]:
    """{site: {kind: samples dropped}}."""
    found: dict[str, Counter[str]] = {}
    for row in rows:
        found.setdefault(str(row["site"]), Counter())[kind(row)] += 1
    return found


def _is_there(row: Row) -> bool:
    """Whether the nearest sample lives elsewhere. Of two equally near, the one here: only that one can be replayed here."""
    here, there = _cosine(row, "similarity"), _cosine(row, "where_similarity")
    return there is not None and (here is None or there > here)


def _cosine(row: Row, key: str) -> float | None:
    value = row.get(key)
    return float(value) if isinstance(value, int | float) and isfinite(value) else None


def _shown(cosine: float | None) -> str:
    """Such as .93 or -.12."""
    return "" if cosine is None else f"{cosine:.2f}".replace("0.", ".", 1)
