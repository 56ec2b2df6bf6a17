"""What the lines of record.jsonl say that the report reads, by event: the file may be torn, edited, or another program's."""

from collections.abc import Callable, Mapping
from math import isfinite, isinf
from typing import Any

from facts import COUNTS, NAME, NAMES, ROUND, SHARE, TEXT, WHOLE, Kind, each, is_name, is_number, is_whole, named, why_odd
from wire import CASE_METRICS

MOVES = ("arrive", "pause", "return", "leave")
PHASES = ("training", "evaluating", "personalising", "merging", "saving")


def _is_real(value: Any) -> bool:
    return value is not None and is_number(value) and isfinite(value)


def _or_null(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or check(value)


NUMBER: Kind = ("a number or null", lambda value: is_number(value) and not (isinstance(value, float) and isinf(value)))
REAL: Kind = ("a number", _is_real)
MEASURED: Kind = ("a number or null", _or_null(lambda value: isinstance(value, float | int) and not isinstance(value, bool)))
NUMBERS: Kind = ("numbers by name", named(_is_real))
MAPPING: Kind = ("settings by name", _or_null(lambda value: isinstance(value, Mapping)))
QUANTILES: Kind = ("three numbers or none", lambda value: each(_is_real)(value) and len(value) in (0, 3))
WHERE: dict[str, Kind] = {"round": ROUND, "site": NAME}
STAGE: dict[str, Kind] = {"stage": TEXT}
"""As long as the names of all who arrive in it."""

NEEDED: dict[str, dict[str, Kind]] = {
    "site": {"site": NAME},
    **dict.fromkeys((*MOVES, "train", "evict", "failure"), WHERE),
    "round": {"round": ROUND},
    "index": {"round": ROUND},
    "case": {**STAGE, **dict.fromkeys(("site", "case", "class"), NAME), "dice": SHARE},
    "class": {**STAGE, **dict.fromkeys(("site", "class"), NAME), "dice.sum": REAL, "dice.cases": WHOLE},
    "result": {**STAGE, "site": NAME, "dice": SHARE},
    "metric": {"id": NAME, "value": MEASURED, "cells": WHOLE},
    "end": {"seconds": REAL},
    "privacy": {"epsilon": REAL, "releases": WHOLE},
}
"""What a row must say; None is said by a number that is none."""
OPTIONAL: dict[str, dict[str, Kind]] = {
    "run": {"name": TEXT, **dict.fromkeys(("strategy", "memory", "versions"), MAPPING)},
    "site": {"withholds": NAMES, "classes": NAMES, "cases": WHOLE, "tests": WHOLE},
    **dict.fromkeys(MOVES, STAGE),
    "train": {
        **dict.fromkeys(("draws", "steps", "dropped", "memory", "budget"), WHOLE),
        **dict.fromkeys(("bytes_down", "bytes_up", "bytes_coverage", "bytes_sketches"), WHOLE),
        **dict.fromkeys(("loss_sum", "loss_weight", "seconds", "epsilon", "epsilon_total"), NUMBER),
        **dict.fromkeys(("memory_classes", "memory_domains"), COUNTS),
        "memory_arrived": ("whole numbers", each(is_whole)),
        "withholds": NAMES,
    },
    "round": {"present": NAMES, "seconds": NUMBER},
    "index": {
        **dict.fromkeys(("held", "orphans", "quotas"), COUNTS),
        "effective": NUMBERS,
        "duplicates": WHOLE,
        "quantiles": QUANTILES,
    },
    "evict": {
        **dict.fromkeys(("id", "twin", "where", "where_id"), NAME),
        **dict.fromkeys(("arrived", "visits"), WHOLE),
        **dict.fromkeys(("uniqueness", "similarity", "where_similarity"), NUMBER),
    },
    "failure": dict.fromkeys(("task", "kind", "reason"), TEXT),
    "fault": {"round": ROUND, **dict.fromkeys(("site", "task", "kind", "reason"), TEXT)},
    "changed": {"round": ROUND},
    "case": {**dict.fromkeys(("dice.all", "iou", "nsd"), SHARE), "hd95": NUMBER, "voxels": WHOLE},
    "class": {f"{metric}.{part}": kind for metric in CASE_METRICS for part, kind in (("sum", REAL), ("cases", WHOLE))},
    "end": dict.fromkeys((f"seconds_{phase}" for phase in PHASES), REAL),
}
"""What a row may say beside it, or leave empty."""


def why_no_row(row: Mapping[str, Any]) -> str | None:
    """Why a row cannot be told, in words; None if it can. Events of other names say nothing that the report reads."""
    event: Any = row.get("event")
    if not is_name(event):
        return "it names no event"
    needed = NEEDED.get(event, {})
    if missing := sorted(needed.keys() - row.keys()):
        return f"its event {event!r} does not say {missing[0]!r}"
    said = {name: value for name, value in row.items() if name in needed or value is not None}
    return why_odd(said, {**OPTIONAL.get(event, {}), **needed})
