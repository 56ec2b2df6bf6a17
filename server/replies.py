"""Whether a reply can be used: whatever a site sends, the run goes on."""

from collections.abc import Callable, Mapping
from reprlib import repr as short
from typing import Any

from wire import EVICTED_KEYS, PRIVACY_KEYS, ROW_KEYS, Failure, Reply

RESERVED = {"event", "round", "site", "stage"}
"""What the server writes into the record beside a site's own words."""
NEEDED = {"hello": {"tests"}, "train": {"memory"}, "evaluate": {"case", "class", "dice"}}
"""What a row must say, by task."""

Kind = tuple[str, Callable[[Any], bool]]
"""What a value has to be, in words and as a check."""


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63  # a longer one is no float


def _is_whole(value: Any) -> bool:
    return _is_integer(value) and value >= 0


def _is_number(value: Any) -> bool:
    return value is None or isinstance(value, float) or _is_integer(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _each(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list | tuple) and all(map(check, value))


def _named(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, Mapping) and all(map(_is_text, value)) and all(map(check, value.values()))


def _is_evicted(value: Any) -> bool:
    """A sample let go, as wire.EVICTED_KEYS: what is said of it goes into the record."""
    kinds = {"id": _is_text, "arrived": _is_whole, "visits": _is_whole}
    if not isinstance(value, Mapping) or not kinds.keys() <= value.keys() <= {*EVICTED_KEYS}:
        return False
    optional = {"twin": lambda twin: twin is None or _is_text(twin), "uniqueness": _is_number, "similarity": _is_number}
    return all(check(value[name]) for name, check in (kinds | optional).items() if name in value)


WHOLE: Kind = ("a whole number from 0", _is_whole)
NUMBER: Kind = ("a number or null", _is_number)
TEXT: Kind = ("text", _is_text)
COUNTS: Kind = ("whole numbers by name", _named(_is_whole))

ENVELOPE: dict[str, Kind] = {
    "draws": WHOLE,
    "new_cases": WHOLE,
    "ids": ("a list of names", _each(_is_text)),
    "classes": ("a list of names", _each(_is_text)),
    "roles": ("names by tensor", _named(_is_text)),
}
ROWS: dict[str, dict[str, Kind]] = {
    "hello": {"tests": WHOLE},
    "train": {
        **dict.fromkeys(("memory", "budget", "steps", "planned", "dropped", "new_cases", "stream_left"), WHOLE),
        **dict.fromkeys(("micro_batch", "restored"), WHOLE),
        **dict.fromkeys(("loss_sum", "loss_weight", "seconds", "saving"), NUMBER),
        **dict.fromkeys(("memory_classes", "memory_domains"), COUNTS),
        "memory_arrived": ("a list of whole numbers", _each(_is_whole)),
        "evicted": ("a list of samples let go", _each(_is_evicted)),
        **dict.fromkeys(PRIVACY_KEYS, NUMBER),
    },
    "evaluate": {
        **dict.fromkeys(("case", "class"), TEXT),
        **dict.fromkeys(("dice", "dice.all", "iou", "hd95", "nsd"), NUMBER),
        "voxels": WHOLE,
    },
}
"""What the server and its report read from rows, by task; wire.ROW_KEYS is all they may say."""


def why_incomplete(reply: Reply) -> str | None:
    """What a reply of its task must say and does not, or says oddly, in words; None if nothing is amiss."""
    if odd := _why_odd(vars(reply), ENVELOPE):
        return odd
    if reply.task in ("hello", "train") and len(reply.rows) != 1:
        return f"it has {len(reply.rows)} rows of facts, not one"
    for row in reply.rows:
        if odd := _why_no_row(row, reply.task):
            return odd
    return "it holds no weights" if reply.task == "init" and not reply.weights else None


def _why_no_row(row: Any, task: str) -> str | None:
    if not isinstance(row, dict) or not all(map(_is_text, row)):
        return f"{short(row)} is no row of facts"
    if missing := sorted(NEEDED.get(task, set()) - set(row)):
        return f"its rows do not say {missing[0]!r}"
    if taken := sorted(RESERVED & set(row)):
        return f"its rows say {taken[0]!r}, which is the server's to say"
    if odd := sorted(set(row) - ROW_KEYS[task]):  # type: ignore[index]  # a task that was asked
        return f"its rows say {short(odd[0])}, which wire.py does not list"
    return _why_odd(row, ROWS.get(task, {}))


def _why_odd(facts: Mapping[str, Any], kinds: Mapping[str, Kind]) -> str | None:
    for name, (words, check) in kinds.items():
        if name in facts and not check(facts[name]):
            return f"its {name!r} is {short(facts[name])}, not {words}"
    return None


def invalid(reply: Reply, reason: str) -> Failure:
    """What a reply that cannot be used becomes."""
    return Failure(site=reply.site, round=reply.round, task=reply.task, kind="invalid", reason=reason)
