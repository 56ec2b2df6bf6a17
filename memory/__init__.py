"""What a site keeps: the policies by name."""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from memory.policy import MemoryPolicy

POLICIES = {
    "linear": "memory.linear:Linear",
    "dynamic": "memory.dynamic:Dynamic",
    "selective": "memory.selective:Selective",
    "reservoir": "memory.reservoir:Reservoir",
}
"""Name -> "module:class". A new policy is one file and one line here."""


def make_policy(name: str, args: Mapping[str, Any]) -> MemoryPolicy:
    """The policy called `name` with its own settings (`memory.policy` and `memory.args` of a config).

    Raises:
        ValueError: no such policy, no such setting, or a value that the policy refuses.
    """
    if name not in POLICIES:
        raise ValueError(
            f"memory.policy: there is no {name!r}{_nearest(name, POLICIES)}; the policies are {', '.join(POLICIES)}"
        )
    module, _, cls = POLICIES[name].partition(":")
    policy = getattr(import_module(module), cls)
    known = [field.name for field in fields(policy) if field.init]
    for arg in args:
        if arg not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise ValueError(f"memory.args: {arg!r} is no setting of {name} ({has}){_nearest(arg, known)}")
    try:
        return policy(**args)
    except (ValueError, TypeError) as error:
        raise ValueError(f"memory.args: {name}: {error}") from None


def _nearest(word: Any, known: Iterable[str]) -> str:
    close = get_close_matches(str(word), known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
