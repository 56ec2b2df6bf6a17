"""The running mean over stages, for sites that leave for good: what a stage taught stays in the model by a fixed share."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from strategies.base import State, Update, Weigh, Weights, average, together
from strategies.steps import grown

ANCHOR, STAGES = "anchor", "stages"


@dataclass(frozen=True)
class Anchored:
    """Averages within a stage; when a stage ends, the model becomes the mean of all stages' models (DESIGN)."""

    min_present: ClassVar[int] = 1
    turns = staticmethod(together)

    share: float | None = None
    """Of the newest stage in the mean; none: 1 / stages so far, so that all stages count alike."""
    only: Literal["all", "body"] = "all"
    """Average everything, or the body alone: norms and head stay as the last stage left them."""

    def __post_init__(self) -> None:
        if self.share is not None and not 0 < self.share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, not {self.share!r}")
        if self.only not in ("all", "body"):
            raise ValueError(f"only must be 'all' or 'body', not {self.only!r}")

    def merge(self, state: State, updates: Iterable[Update], weigh: Weigh) -> State:
        """The mean becomes the model."""
        return State(average(updates, weigh), state.slots, state.step + 1)

    def end_stage(self, state: State, roles: Mapping[str, str]) -> State:
        """The model becomes the running mean; a head row that came in this stage is taken as it is."""
        stages = int(state.slots.get(STAGES, {}).get("count", np.zeros(1))[0]) + 1
        share = 1 / stages if self.share is None or stages == 1 else self.share
        anchor = state.slots.get(ANCHOR, {})
        weights: Weights = {
            name: self._mean(anchor.get(name), tensor, share) if self._averages(roles.get(name)) else tensor
            for name, tensor in state.weights.items()
        }
        slots = {**state.slots, ANCHOR: dict(weights), STAGES: {"count": np.array([stages], np.float64)}}
        return State(weights, slots, state.step)

    def _averages(self, role: str | None) -> bool:
        return self.only == "all" or role == "body"

    def _mean(self, anchor: NDArray | None, tensor: NDArray, share: float) -> NDArray:
        before = grown(anchor, tensor)
        return (before + share * (tensor.astype(np.float64) - before)).astype(tensor.dtype)
