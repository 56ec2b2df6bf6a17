"""Merges that take the average as a direction: momentum, Adam and Yogi on the server.

A head row that came since the last merge has no past: it is taken as it is, and its slots start at zero.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from strategies.base import State, Update, Weigh, average, together

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Momentum:
    """Average, then momentum on the server (Hsu et al., 2019, arXiv:1909.06335)."""

    min_present: ClassVar[int] = 1
    turns = staticmethod(together)

    beta: float = 0.9
    """Share of the last round's velocity that stays."""
    lr: float = 1.0
    """Length of a step along the velocity."""

    def __post_init__(self) -> None:
        _within("beta", self.beta, 0, 1)
        _positive("lr", self.lr)

    def merge(self, state: State, updates: Iterable[Update], weigh: Weigh) -> State:
        """One step along the velocity."""
        weights, velocity = {}, {}
        for name, new in average(updates, weigh).items():
            old = grown(state.weights.get(name), new)
            before = padded(state.slots.get("velocity", {}).get(name), new)
            step = self.beta * before + (new.astype(np.float64) - old)
            weights[name], velocity[name] = (old + self.lr * step).astype(new.dtype), step
        return State(weights, {**state.slots, "velocity": velocity}, state.step + 1)


@dataclass(frozen=True)
class Adam:
    """Adam on the server (Reddi et al., 2021, arXiv:2003.00295, algorithm 2), without bias correction, as published."""

    min_present: ClassVar[int] = 1
    turns = staticmethod(together)

    lr: float = 0.1
    """Length of a step."""
    beta_1: float = 0.9
    """Share of the first moment that stays."""
    beta_2: float = 0.99
    """Share of the second moment that stays."""
    tau: float = 1e-3
    """How adaptive: smaller is more; tau^2 is where the second moment starts."""

    def __post_init__(self) -> None:
        _within("beta_1", self.beta_1, 0, 1)
        _within("beta_2", self.beta_2, 0, 1)
        _positive("lr", self.lr)
        _positive("tau", self.tau)

    def merge(self, state: State, updates: Iterable[Update], weigh: Weigh) -> State:
        """One adaptive step along the average of the updates."""
        weights, first, second = {}, {}, {}
        for name, new in average(updates, weigh).items():
            old = grown(state.weights.get(name), new)
            delta = new.astype(np.float64) - old
            first[name] = self.beta_1 * padded(state.slots.get("first", {}).get(name), new) + (1 - self.beta_1) * delta
            second[name] = self.second(padded(state.slots.get("second", {}).get(name), new, self.tau**2), delta**2)
            stepped = old + self.lr * first[name] / (np.sqrt(second[name]) + self.tau)
            weights[name] = stepped.astype(new.dtype)
        return State(weights, {**state.slots, "first": first, "second": second}, state.step + 1)

    def second(self, before: Array, square: Array) -> Array:
        """The second moment."""
        return self.beta_2 * before + (1 - self.beta_2) * square


@dataclass(frozen=True)
class Yogi(Adam):
    """Adam whose second moment moves by no more than the new square (the same paper)."""

    def second(self, before: Array, square: Array) -> Array:
        """The second moment."""
        return before - (1 - self.beta_2) * square * np.sign(before - square)


def grown(old: NDArray | None, new: NDArray) -> Array:
    """The model's tensor with the rows that came since, as they are in the average: they have moved by nothing yet."""
    if old is None:
        return new.astype(np.float64)
    if old.shape == new.shape:
        return old.astype(np.float64)
    return np.concatenate([old.astype(np.float64), new[len(old) :]])


def padded(slot: NDArray | None, new: NDArray, start: float = 0.0) -> Array:
    """A slot with rows that came since at their start."""
    full = np.full(new.shape, start, np.float64)
    if slot is None:
        return full
    if slot.shape == new.shape:
        return slot.astype(np.float64)
    full[: len(slot)] = slot
    return full


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value < high:
        raise ValueError(f"{name} must be from {low} to below {high}, not {value!r}")


def _positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name} must be above 0, not {value!r}")
