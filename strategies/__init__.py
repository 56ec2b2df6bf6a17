"""How updates become the next model: four choices by name (the fourth, the objective, is the client's half)."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from strategies.base import Merge, State, Update, Weigh, Weights

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

    def merge(self, state: State, updates: Iterable[Update], roles: Mapping[str, str], classes: Sequence[str]) -> State:
        """The federation's next state. Updates come in site order.

        Head rows of classes that nobody annotated in this merge stay bit for bit as they were, in the weights and in
        every slot: no momentum carries on what nobody teaches.
        """
        taught: set[str] = set()

        def noted() -> Iterator[Update]:
            for update in updates:
                if update.draws:
                    taught.update(update.classes)
                yield update

        merged = self.merge_rule.merge(state, noted(), self.weigh)
        untaught = [row for row, name in enumerate(classes) if name not in taught]
        heads = [name for name, role in roles.items() if role == "head"]
        slots = {slot: _with_rows_of(state.slots.get(slot, {}), now, heads, untaught) for slot, now in merged.slots.items()}
        return State(_with_rows_of(state.weights, merged.weights, heads, untaught), slots, merged.step)

    def end_stage(self, state: State, roles: Mapping[str, str]) -> State:
        """What becomes of the model when a stage ends: as it is, unless the merge says otherwise."""
        end: Callable[[State, Mapping[str, str]], State] = getattr(self.merge_rule, "end_stage", lambda state, roles: state)
        return end(state, roles)


def make_strategy(merge: str, weigh: str, share: str, merge_args: Mapping[str, Any] | None = None) -> Strategy:
    """The strategy of these choices. Raises ValueError with the nearest valid name."""
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
    return Strategy(made, _find("weigh", weigh, WEIGHS), _find("share", share, SHARES))


def _with_rows_of(before: Weights, now: Weights, names: Iterable[str], rows: Sequence[int]) -> Weights:
    """The tensors of now, in which these rows of the named ones are as they were before; a row that is new stays."""
    kept = dict(now)
    for name in names:
        if name in now and name in before and (old := [row for row in rows if row < len(before[name])]):
            kept[name] = now[name].copy()
            kept[name][old] = before[name][old]
    return kept


def _find(choice: str, name: str, registry: dict[str, str]) -> Any:
    if name not in registry:
        close = get_close_matches(name, registry, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"valid: {', '.join(registry)}"
        raise ValueError(f"strategy.{choice}: there is no {name!r}; {hint}")
    module, _, attribute = registry[name].partition(":")
    return getattr(import_module(module), attribute)
