"""How updates become the next model: four choices by name (the fourth, the objective, is the client's half)."""

from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from strategies.fits import why_not
from strategies.strategy import Strategy

MERGES = {
    "average": "strategies.average:Average",
    "momentum": "strategies.steps:Momentum",
    "adam": "strategies.steps:Adam",
    "yogi": "strategies.steps:Yogi",
    "cyclic": "strategies.cyclic:Cyclic",
    "anchored": "strategies.anchored:Anchored",
    "median": "strategies.borrowed:Median",
    "trimmed": "strategies.borrowed:Trimmed",
    "krum": "strategies.borrowed:Krum",
    "multikrum": "strategies.borrowed:MultiKrum",
    "bulyan": "strategies.borrowed:Bulyan",
}
WEIGHS = {"draws": "strategies.weighs:draws", "equal": "strategies.weighs:equal", "uniqueness": "strategies.weighs:uniqueness"}
SHARES = {
    "all": "strategies.shares:everything",
    "not-norm": "strategies.shares:not_norm",
    "backbone": "strategies.shares:backbone",
    "labelled": "strategies.shares:labelled",
    "nothing": "strategies.shares:nothing",
}
HALVES = {"scaffold": "strategies.variates:Variates", "ewc": "strategies.importance:Importance"}
"""Name -> "module:attribute". A new choice is one file and one line here; HALVES: objectives that the server takes part in."""


def make_strategy(
    merge: str, weigh: str, share: str, merge_args: Mapping[str, Any] | None = None, objective: str = "plain"
) -> Strategy:
    """The strategy of these choices.

    Raises:
        ValueError: there is no such choice (with the nearest valid name), or they make no sense together.
    """
    rule, args = _find("merge", merge, MERGES), merge_args or {}
    known = [field.name for field in fields(rule) if field.init]
    for arg in args:
        if arg not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise ValueError(f"strategy.merge_args: {arg!r} is no setting of {merge} ({has})")
    try:
        made = rule(**args)
    except (ValueError, TypeError) as error:
        raise ValueError(f"strategy.merge_args: {merge}: {error}") from None
    half = _find("objective", objective, HALVES)() if objective in HALVES else None
    strategy = Strategy(made, _find("weigh", weigh, WEIGHS), _find("share", share, SHARES), half)
    if reason := why_not(merge, weigh, share, objective, strategy):
        raise ValueError(f"strategy: {reason}")
    return strategy


def _find(choice: str, name: str, registry: dict[str, str]) -> Any:
    if name not in registry:
        close = get_close_matches(name, registry, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"valid: {', '.join(registry)}"
        raise ValueError(f"strategy.{choice}: there is no {name!r}; {hint}")
    module, _, attribute = registry[name].partition(":")
    return getattr(import_module(module), attribute)
