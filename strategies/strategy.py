"""A strategy at work: one merge by one merge rule, with what the share and the objective's server half make of it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from strategies.base import Half, Merge, Share, State, Update, Weigh, Weights, as_column

Arrived = Sequence[frozenset[str]]
"""The classes that each site annotates, of the sites that have arrived and learn."""


@dataclass(frozen=True)
class Strategy:
    """The server's half of a strategy."""

    merge_rule: Merge
    weigh: Weigh
    share: Share
    half: Half | None = None
    """The server's half of the objective, if it has one."""

    @property
    def min_present(self) -> int:
        """The fewest sites with which a merge means anything."""
        return self.merge_rule.min_present

    def turns(self, present: Iterable[str]) -> list[list[str]]:
        """Who is asked together in a round."""
        return self.merge_rule.turns(sorted(present))

    def told(self, state: State) -> Weights:
        """What every site is told beside the weights."""
        return self.half.told(state) if self.half else {}

    def merge(
        self,
        state: State,
        updates: Iterable[Update],
        roles: Mapping[str, str],
        classes: Sequence[str],
        arrived: Arrived = (),
    ) -> State:
        """The federation's next state. Updates come in site order, and can be gone through twice.

        Tensors that no update owns stay as they are. Head rows of classes that nobody annotated in this merge stay bit
        for bit as they were, in the weights and in every slot: no momentum carries on what nobody teaches.
        """
        if "body" in self.share.home:
            return replace(state, step=state.step + 1)  # each site keeps its whole model: nothing came
        taught: set[str] = set()

        def owned() -> Iterator[Update]:
            for update in updates:
                if update.draws:
                    taught.update(update.classes)
                yield self.owned(update, roles)

        merged = self.merge_rule.merge(state, owned(), self.weigh)
        weights = {**state.weights, **merged.weights}
        untaught = [row for row, name in enumerate(classes) if name not in taught]
        heads = [name for name, role in roles.items() if role == "head"]
        slots = {slot: _with_rows_of(state.slots.get(slot, {}), now, heads, untaught) for slot, now in merged.slots.items()}
        state = State(_with_rows_of(state.weights, weights, heads, untaught), slots, merged.step)
        return self.half.hear(state, (heard(update, roles) for update in updates), roles, arrived) if self.half else state

    def owned(self, update: Update, roles: Mapping[str, str]) -> Update:
        """The part of an update that counts."""
        owned = {name: self.share.owned(name, roles.get(name, "body"), update) for name in update.weights}
        weights = {name: tensor for name, tensor in update.weights.items() if owned[name] is not False}
        return replace(update, weights=weights, owned={n: rows for n, rows in owned.items() if not isinstance(rows, bool)})

    def end_stage(self, state: State, roles: Mapping[str, str]) -> State:
        """What becomes of the model when a stage ends: as it is, unless the merge or the objective's half says otherwise."""
        for part in (self.merge_rule, self.half):
            end = getattr(part, "end_stage", None)
            state = end(state, roles) if end else state
        return state

    def spent(self, state: State) -> dict[str, Any]:
        """What the releases so far have cost in privacy (strategies.private); nothing without noise."""
        spent = getattr(self.merge_rule, "spent", None)
        return spent(state) if spent else {}


def heard(update: Update, roles: Mapping[str, str]) -> Update:
    """What an objective's server half hears: of a head row that a site does not annotate, the site has nothing to say."""
    annotated = np.array([row in update.classes for row in update.rows], bool)
    heads = {name: tensor for name, tensor in update.extra.items() if roles.get(name) == "head"}
    own = {name: np.where(as_column(annotated, tensor.ndim), tensor, 0) for name, tensor in heads.items()}
    return replace(update, extra={**update.extra, **own})


def _with_rows_of(before: Weights, now: Weights, names: Iterable[str], rows: Sequence[int]) -> Weights:
    """The tensors of now, in which these rows of the named ones are as they were before; a row that is new stays."""
    kept = dict(now)
    for name in names:
        if name in now and name in before and (old := [row for row in rows if row < len(before[name])]):
            kept[name] = now[name].copy()
            kept[name][old] = before[name][old]
    return kept
