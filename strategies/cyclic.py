"""Weights that travel from site to site (Chang et al., 2018, "Distributed deep learning networks among institutions")."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from strategies.base import State, Update, Weigh


@dataclass(frozen=True)
class Cyclic:
    """One site at a time, each from where the one before it stopped; who comes last has the last word of the round."""

    min_present: ClassVar[int] = 1
    weighs: ClassVar[bool] = False

    def turns(self, present: list[str]) -> list[list[str]]:
        """Every site is a turn."""
        return [[site] for site in present]

    def merge(self, state: State, updates: Iterable[Update], weigh: Weigh) -> State:
        """A turn's one update becomes the model; one that trained on nothing changes nothing."""
        for update in updates:
            if weigh(update) > 0:
                state = State(update.weights, state.slots, state.step + 1)
        return state
