"""What a site keeps: the policies by name."""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from memory.fresh import Fresh
from memory.grouped import Grouped
from memory.policy import MemoryPolicy

POLICIES = {
    "linear": "memory.linear:Linear",
    "dynamic": "memory.dynamic:Dynamic",
    "selective": "memory.selective:Selective",
    "reservoir": "memory.reservoir:Reservoir",
    "balanced": "memory.balanced:Balanced",
    "herding": "memory.herding:Herding",
    "lars": "memory.lars:Lars",
    "entropy": "memory.entropy:Entropy",
    "bregman": "memory.bregman:Bregman",
    "meddel": "memory.meddel:MedDel",
    "leverage": "memory.leverage:Leverage",
    "selective-global": "memory.selective_global:SelectiveGlobal",
}
"""Name -> "module:class". A new policy is one file and one line here."""


def make_policy(name: str, args: Mapping[str, Any], group_by: str = "none", new_share: float = 0.0) -> MemoryPolicy:
    """The policy called `name` with its own settings, and around it the groups and the share of new cases, if any.

    The arguments are `memory.policy`, `memory.args`, `memory.group_by` and `memory.new_share` of a config. A setting is
    called as the dataclass's field, or as the field's metadata say (`setting`) where that name is taken.

    Raises:
        ValueError: no such policy, no such setting, or a value that the policy refuses.
    """
    policy = _chosen(name, args)
    try:
        if group_by != "none":
            policy = Grouped(policy, group_by)  # type: ignore[arg-type]  # it says what it may be
        return Fresh(policy, new_share) if new_share else policy
    except ValueError as error:
        raise ValueError(f"memory.{error}") from None


def _chosen(name: str, args: Mapping[str, Any]) -> MemoryPolicy:
    if name not in POLICIES:
        raise ValueError(
            f"memory.policy: there is no {name!r}{_nearest(name, POLICIES)}; the policies are {', '.join(POLICIES)}"
        )
    module, _, cls = POLICIES[name].partition(":")
    policy = getattr(import_module(module), cls)
    known = {field.metadata.get("setting", field.name): field.name for field in fields(policy) if field.init}
    for arg in args:
        if arg not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise ValueError(f"memory.args: {arg!r} is no setting of {name} ({has}){_nearest(arg, known)}")
    try:
        return policy(**{known[arg]: value for arg, value in args.items()})
    except (ValueError, TypeError) as error:
        raise ValueError(f"memory.args: {name}: {error}") from None


def _nearest(word: Any, known: Iterable[str]) -> str:
    close = get_close_matches(str(word), known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
