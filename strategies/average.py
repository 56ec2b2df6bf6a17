"""Federated averaging."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from strategies.base import State, Update, Weigh, average, together


@dataclass(frozen=True)
class Average:
    """The weighted mean of the updates (McMahan et al., 2017, arXiv:1602.05629)."""

    min_present: ClassVar[int] = 1
    turns = staticmethod(together)

    def merge(self, state: State, updates: Iterable[Update], weigh: Weigh) -> State:
        """The mean becomes the model; nothing else is remembered."""
        return State(average(updates, weigh), state.slots, state.step + 1)
