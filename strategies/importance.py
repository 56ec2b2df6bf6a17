"""Elastic weight consolidation's server half: which numbers earlier stages need, for sites that never saw them.

EWC (Kirkpatrick et al., 2017, arXiv:1612.00796) protects what one machine learnt before; here the diagonal Fisher
information of a stage is the mean of its sites', and travels to those that come after (as in FedCurv, arXiv:1910.07796).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from strategies.base import State, Update, Weights, as_column
from strategies.steps import padded

IMPORTANCE, AROUND = "importance", "around"
"""Slots: the sum over the stages that have ended, and the weights at the last one's end."""
STAGE, SITES, ROUND = "stage-importance", "stage-importance-sites", "stage-importance-round"
"""Slots of the stage under way: the sum over the sites of the newest round, how many they were and which round it was; by
row for a head, so that a class whose sites were away in that round keeps what they said before."""


@dataclass(frozen=True)
class Importance:
    """The sum of the stages' Fisher information, and the weights that it was measured around."""

    tells: ClassVar[int] = 2
    together: ClassVar[bool] = False

    def told(self, state: State) -> Weights:
        """`importance|tensor` and `around|tensor`; nothing until a stage has ended."""
        return {f"{slot}|{name}": t for slot in (IMPORTANCE, AROUND) for name, t in state.slots.get(slot, {}).items()}

    def why_not(self, extra: Weights, clip: float) -> str | None:
        """A square is not below 0: a negative importance would push where it should hold."""
        return next((f"{name} has importances below 0" for name, fisher in extra.items() if (fisher < 0).any()), None)

    def hear(
        self, state: State, updates: Iterable[Update], roles: Mapping[str, str], arrived: Iterable[frozenset[str]]
    ) -> State:
        """The newest round's sites stand for the stage, whether they came in one turn or one after another (cyclic)."""
        sums, sites, rounds = (dict(state.slots.get(slot, {})) for slot in (STAGE, SITES, ROUND))
        for update in updates:
            for name, fisher in update.extra.items():
                told = annotated(update, fisher.ndim) if roles.get(name) == "head" else np.ones(())
                before, count, round = (
                    padded(slot.get(name), like) for slot, like in ((sums, fisher), (sites, told), (rounds, told))
                )
                stale = (told > 0) & (round != update.round)
                sums[name] = (np.where(stale, 0, before) + told * fisher).astype(np.float32)
                sites[name] = np.where(stale, 0, count) + told
                rounds[name] = np.where(told > 0, float(update.round), round)
        return replace(state, slots={**state.slots, STAGE: sums, SITES: sites, ROUND: rounds}) if sums else state

    def end_stage(self, state: State, roles: Mapping[str, str]) -> State:
        """The mean over the stage's sites joins the sum, around the weights as they are now."""
        if STAGE not in state.slots:
            return state
        slots = {name: slot for name, slot in state.slots.items() if name not in (STAGE, SITES, ROUND)}
        importance = dict(slots.get(IMPORTANCE, {}))
        for name, total in state.slots[STAGE].items():
            mean = total / np.maximum(state.slots[SITES][name], 1)
            importance[name] = (padded(importance.get(name), mean) + mean).astype(np.float32)
        slots |= {IMPORTANCE: importance, AROUND: {name: state.weights[name] for name in importance}}
        return replace(state, slots=slots)


def annotated(update: Update, dimensions: int) -> NDArray[np.float64]:
    """1 for the head's rows whose class the update's site annotates, as a column beside a tensor."""
    return as_column(np.array([row in update.classes for row in update.rows], np.float64), dimensions)
