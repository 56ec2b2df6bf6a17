"""How updates become the next model: four choices by name (the fourth, the objective, is the client's half)."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from strategies.base import Merge, State, Update, Weigh

MERGES = {"average": "strategies.average:Average"}
WEIGHS = {"draws": "strategies.weighs:draws", "equal": "strategies.weighs:equal", "uniqueness": "strategies.weighs:uniqueness"}
SHARES = {"all": "strategies.shares:everything"}
"""Name -> "module:attribute". A new choice is one file and one line here."""


@dataclass(frozen=True)
class Strategy:
    """The server's half of a strategy."""

    merge_rule: Merge
    weigh: Weigh
    share: Callable[..., Any]

    def turns(self, present: Iterable[str]) -> list[list[str]]:
        """Who is asked together in a round."""
        return self.merge_rule.turns(sorted(present))

    def merge(self, state: State, updates: Iterable[Update]) -> State:
        """The federation's next state. Updates come in site order."""
        return self.merge_rule.merge(state, updates, self.weigh)


def make_strategy(merge: str, weigh: str, share: str) -> Strategy:
    """The strategy of these choices. Raises ValueError with the nearest valid name."""
    rule = _find("merge", merge, MERGES)()
    return Strategy(rule, _find("weigh", weigh, WEIGHS), _find("share", share, SHARES))


def _find(choice: str, name: str, registry: dict[str, str]) -> Any:
    if name not in registry:
        close = get_close_matches(name, registry, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"valid: {', '.join(registry)}"
        raise ValueError(f"strategy.{choice}: there is no {name!r}; {hint}")
    module, _, attribute = registry[name].partition(":")
    return getattr(import_module(module), attribute)
