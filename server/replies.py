"""Whether a reply can be used: whatever a site sends, the run goes on."""

from collections.abc import Mapping
from math import inf
from typing import Any

import numpy as np

from facts import NAME, NAMES, NUMBER, SHARE, WHOLE, Kind, each, is_name, is_number, is_whole, named, short, why_odd
from server.sites import one_line
from strategies.base import Weights
from wire import (
    CASE_KEYS,
    CASE_METRICS,
    CLASS_KEYS,
    EVICTED_KEYS,
    MOST_DOMAINS,
    PRIVACY_KEYS,
    ROW_KEYS,
    WITHHELD,
    Failure,
    Reply,
)

RESERVED = {"event", "round", "site", "stage"}
"""What the server writes into the record beside a site's own words."""
NEEDED = {"hello": {"tests"}, "train": {"memory"}, "evaluate": {"class"}}
"""What a row must say, by task."""
OF_CASE, OF_CLASS = {"case", "class", "dice"}, {"class", "dice.sum", "dice.cases"}
"""The same of an evaluation's row on a test case, and of one on a class, of a site that keeps its cases' results at home."""

ROLES = {"body", "norm", "head"}
MOST_ROWS = 200_000
"""Rows of one reply: 1000 test cases of 100 classes make half as many."""
MOST_SAMPLES = 1_000_000
"""What one memory may say that it holds: the server makes room for as many numbers."""
MOST_CLASSES = 1024
"""Classes of one site: each is a row of the head at every site."""
MOST_CASES = 1_000_000
"""Cases of one site: they bound its draws, and with them the weight of its updates."""
LARGEST = 1e12
"""Of a tensor's numbers: no network that works has any such; their squares, summed over many sites and rounds, stay far from
the end of float32, so no update can turn the merged model, or what a merge remembers, into infinity or NaN."""


def _is_evicted(value: Any) -> bool:
    """A sample let go, as wire.EVICTED_KEYS: what is said of it goes into the record."""
    kinds = {"id": is_name, "arrived": is_whole, "visits": is_whole}
    if not isinstance(value, Mapping) or not kinds.keys() <= value.keys() <= {*EVICTED_KEYS}:
        return False
    optional = {"twin": lambda twin: twin is None or is_name(twin), "uniqueness": is_number, "similarity": is_number}
    return all(check(value[name]) for name, check in (kinds | optional).items() if name in value)


def _up_to(most: int) -> Kind:
    return f"a whole number from 0 to {most}", lambda value: is_whole(value) and value <= most


def _counts(most: int) -> Kind:
    return f"whole numbers by name, {most} at most", named(is_whole, most)


ENVELOPE: dict[str, Kind] = {
    "draws": WHOLE,
    "new_cases": _up_to(MOST_CASES),
    "ids": NAMES,
    "classes": ("a list of names", each(is_name, MOST_CLASSES)),
    "roles": ("names by tensor", named(is_name)),
    "withholds": (f"a list of {', '.join(WITHHELD)}", each(WITHHELD.__contains__, len(WITHHELD))),
    "leaving": ("true or false", lambda value: isinstance(value, bool)),
}
SUM: Kind = ("a sum from 0", lambda value: value is not None and is_number(value) and value >= 0)
ROWS: dict[str, dict[str, Kind]] = {
    "hello": {"tests": _up_to(MOST_CASES)},
    "train": {
        "memory": _up_to(MOST_SAMPLES),
        **dict.fromkeys(("budget", "steps", "planned", "dropped", "new_cases", "stream_left"), WHOLE),
        **dict.fromkeys(("micro_batch", "restored"), WHOLE),
        **dict.fromkeys(("loss_sum", "loss_weight", "seconds", "saving"), NUMBER),
        "memory_classes": _counts(MOST_CLASSES),
        "memory_domains": _counts(MOST_DOMAINS),
        "memory_arrived": ("a list of whole numbers", each(is_whole)),
        "evicted": ("a list of samples let go", each(_is_evicted)),
        **dict.fromkeys(PRIVACY_KEYS, NUMBER),
    },
    "evaluate": {
        **dict.fromkeys(("case", "class"), NAME),
        **dict.fromkeys(("dice", "dice.all", "iou", "nsd"), SHARE),
        "hd95": NUMBER,
        "voxels": WHOLE,
        **{f"{metric}.sum": SUM for metric in CASE_METRICS},
        **{f"{metric}.cases": _up_to(MOST_CASES) for metric in CASE_METRICS},
    },
}
"""What the server and its report read from rows, by task; wire.ROW_KEYS is all they may say."""


def why_incomplete(reply: Reply) -> str | None:
    """What a reply of its task must say and does not, or says oddly, in words; None if nothing is amiss."""
    if odd := why_odd(vars(reply), ENVELOPE):
        return odd
    if len(reply.rows) > MOST_ROWS:
        return f"it has {len(reply.rows)} rows; {MOST_ROWS} are the most"
    if reply.task in ("hello", "train") and len(reply.rows) != 1:
        return f"it has {len(reply.rows)} rows of facts, not one"
    for row in reply.rows:
        if odd := _why_no_row(row, reply.task):
            return odd
    if reply.task == "evaluate" and (odd := _why_no_results(reply.rows)):
        return odd
    return _why_no_model(reply) if reply.task == "init" else None


def _why_no_results(rows: tuple[dict[str, Any], ...]) -> str | None:
    """Why rows of an evaluation are neither all of cases nor one for each class, or say sums of what cannot be."""
    forms = {"case" in row for row in rows}
    if len(forms) > 1:
        return "some of its rows are of cases, some of classes"
    keys, needed = (CASE_KEYS, OF_CASE) if True in forms else (CLASS_KEYS, OF_CLASS)
    for row in rows:
        if missing := sorted(needed - row.keys()):
            return f"its rows do not say {missing[0]!r}"
        if odd := sorted(row.keys() - {*keys}):
            return f"its rows say {odd[0]!r} beside {'a case' if True in forms else 'sums'}"
        for metric in (metric for metric in CASE_METRICS if f"{metric}.sum" in row):
            most = inf if metric == "hd95" else row.get(f"{metric}.cases", 0)
            if f"{metric}.cases" not in row or row[f"{metric}.sum"] > most:
                return f"its sum of {metric} over {row.get(f'{metric}.cases', 'no')} cases is {row[f'{metric}.sum']:g}"
    if False in forms and len({row["class"] for row in rows}) < len(rows):
        return "it sums up a class twice"
    return None


def _why_no_model(reply: Reply) -> str | None:
    """Why the first weights are no model to begin with."""
    if not reply.weights:
        return "it holds no weights"
    if odd := sorted(reply.weights.keys() ^ reply.roles.keys()):
        return f"its roles are not its tensors': {odd[0]} is {'unknown' if odd[0] in reply.roles else 'missing'}"
    for name, role in reply.roles.items():
        if role not in ROLES:
            return f"{name} is a {role!r}, not one of {', '.join(sorted(ROLES))}"
        if role == "head" and not reply.weights[name].ndim:
            return f"{name} is a single number, not the rows of a head"
        if reply.weights[name].dtype.kind != "f":
            return f"{name} is {reply.weights[name].dtype}, not of floats"
        if not np.isfinite(reply.weights[name]).all():
            return f"{name} is not finite"
    return why_too_large(reply.weights)


def why_too_large(tensors: Weights) -> str | None:
    """Why numbers are too large to be added up, in words; None if they are not."""
    for name, tensor in tensors.items():
        if tensor.size and max(float(tensor.max()), -float(tensor.min())) > LARGEST:
            return f"{name} has numbers above {LARGEST:g}"
    return None


def _why_no_row(row: Any, task: str) -> str | None:
    if not isinstance(row, dict) or not all(map(is_name, row)):
        return f"{short(row)} is no row of facts"
    if missing := sorted(NEEDED.get(task, set()) - set(row)):
        return f"its rows do not say {missing[0]!r}"
    if taken := sorted(RESERVED & set(row)):
        return f"its rows say {taken[0]!r}, which is the server's to say"
    if odd := sorted(set(row) - ROW_KEYS[task]):  # type: ignore[index]  # a task that was asked
        return f"its rows say {short(odd[0])}, which wire.py does not list"
    return why_odd(row, ROWS.get(task, {}))


def invalid(reply: Reply, reason: str) -> Failure:
    """What a reply that cannot be used becomes."""
    return Failure(site=reply.site, round=reply.round, task=reply.task, kind="invalid", reason=one_line(reason))
