"""Merges borrowed from Flower by name: the median, the trimmed mean, Krum, Multi-Krum and Bulyan.

Flower's own classes do the arithmetic. They need all updates in memory at once, and get them in float64: Krum's distances
are |a|^2 + |b|^2 - 2ab, which in float32 (or float16) is rounding noise for updates that lie close to each other.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, ClassVar, Protocol

import numpy as np
from flwr.app import DEFAULT_TTL, Array, ArrayRecord, Message, MessageType, Metadata, MetricRecord, RecordDict
from flwr.serverapp.strategy import Bulyan as FlowerBulyan
from flwr.serverapp.strategy import FedMedian, FedTrimmedAvg
from flwr.serverapp.strategy import Krum as FlowerKrum
from flwr.serverapp.strategy import MultiKrum as FlowerMultiKrum
from flwr.serverapp.strategy import Strategy as FlowerStrategy

from strategies.base import State, Update, Weigh, Weights, together

Counted = list[tuple[Update, float]]
"""Updates and their weights."""


class Rule(Protocol):
    """One of Flower's strategies, and with how many sites it means anything."""

    @property
    def min_present(self) -> int:
        """The fewest sites with which the merge means anything."""

    def flower(self, present: int) -> FlowerStrategy:
        """Flower's strategy for so many updates."""


def by_flower(self: Rule, state: State, updates: Iterable[Update], weigh: Weigh) -> State:
    """What Flower makes of the updates becomes the model; nothing else is remembered. One without weight is left out.

    Raises:
        ValueError: fewer than `min_present` updates have any weight, or they do not hold the same tensors.
    """
    counted = [(update, float(weigh(update))) for update in updates]
    counted = [(update, weight) for update, weight in counted if weight > 0]
    if len(counted) < max(1, self.min_present):
        raise ValueError(f"{self} needs the updates of {self.min_present} sites, and {len(counted)} trained in this turn")
    first = counted[0][0]
    for update, _ in counted:
        same_tensors(first, update)
    weights = {name: tensor for name, tensor in first.weights.items() if name not in first.owned}
    weights = _aggregated(self, counted, weights, dict.fromkeys(weights, ...))
    for name in first.owned:
        weights[name] = first.weights[name].copy()
        for rows, owners in _owners(counted, name):
            weights[name][rows] = _aggregated(self, owners, {name: first.weights[name]}, {name: rows})[name]
    return State(weights, state.slots, state.step + 1)


def _aggregated(rule: Rule, counted: Counted, wanted: Weights, rows: Mapping[str, Any]) -> Weights:
    """What Flower makes of these rows of the wanted tensors."""
    replies = [as_reply({name: update.weights[name][rows[name]] for name in wanted}, weight) for update, weight in counted]
    arrays, _ = rule.flower(len(replies)).aggregate_train(counted[0][0].round, replies)
    return {name: arrays[name].numpy().astype(tensor.dtype) for name, tensor in wanted.items()}


def _owners(counted: Counted, name: str) -> Iterator[tuple[list[int], Counted]]:
    """A tensor's rows by the updates that own them; with few owners the median and the trimmed mean become the mean."""
    owned = np.array([update.owned[name] for update, _ in counted])
    for pattern in np.unique(owned, axis=1).T:
        if pattern.any():
            rows = np.flatnonzero((owned == pattern[:, None]).all(axis=0))
            yield [int(row) for row in rows], [counted[i] for i in np.flatnonzero(pattern)]


@dataclass(frozen=True)
class Median:
    """The median of each number (Yin et al., 2018, arXiv:1803.01498); weights do not matter, but 0 leaves out."""

    turns = staticmethod(together)
    merge = by_flower
    weighs: ClassVar[bool] = False

    @property
    def min_present(self) -> int:
        """Of two, the median is the mean."""
        return 3

    def flower(self, present: int) -> FlowerStrategy:
        """FedMedian."""
        return FedMedian()


@dataclass(frozen=True)
class Trimmed:
    """The mean of each number without its extremes (Yin et al., 2018); weights do not matter, but 0 leaves out."""

    turns = staticmethod(together)
    merge = by_flower
    weighs: ClassVar[bool] = False

    beta: float = 0.2
    """Share of the updates that is cut off at either end, rounded down to whole updates."""

    def __post_init__(self) -> None:
        if not 0 < self.beta < 0.5:
            raise ValueError(f"beta must be above 0 and below .5, not {self.beta!r}")

    @property
    def min_present(self) -> int:
        """From here on, something is cut off."""
        return next(n for n in count(int(1 / self.beta)) if int(self.beta * n) >= 1)

    def flower(self, present: int) -> FlowerStrategy:
        """FedTrimmedAvg."""
        return FedTrimmedAvg(beta=self.beta)


@dataclass(frozen=True)
class Krum:
    """The one update that lies closest to its neighbours (Blanchard et al., 2017, arXiv:1703.02757)."""

    turns = staticmethod(together)
    merge = by_flower
    weighs: ClassVar[bool] = False
    by_rows: ClassVar[bool] = False

    malicious: int = 1
    """How many sites may send anything at all, together if they like."""

    def __post_init__(self) -> None:
        _whole("malicious", self.malicious, 0)

    @property
    def min_present(self) -> int:
        """The paper's 2f + 3: with fewer, f sites that send the same are each other's closest neighbours, and win."""
        return 2 * self.malicious + 3

    def flower(self, present: int) -> FlowerStrategy:
        """Krum."""
        return FlowerKrum(num_malicious_nodes=self.malicious)


@dataclass(frozen=True)
class MultiKrum:
    """The weighted mean of the updates that lie closest to their neighbours (Blanchard et al., 2017)."""

    turns = staticmethod(together)
    merge = by_flower
    by_rows: ClassVar[bool] = False

    malicious: int = 1
    """How many sites may send anything at all, together if they like."""
    keep: int | None = None
    """How many updates go into the mean; none: all but `malicious`."""

    def __post_init__(self) -> None:
        _whole("malicious", self.malicious, 0)
        if self.keep is not None:
            _whole("keep", self.keep, 1)

    @property
    def min_present(self) -> int:
        """As Krum, and enough that no malicious update has to be kept."""
        return max(2 * self.malicious + 3, (self.keep or 0) + self.malicious)

    def flower(self, present: int) -> FlowerStrategy:
        """MultiKrum."""
        keep = self.keep or present - self.malicious
        return FlowerMultiKrum(num_malicious_nodes=self.malicious, num_nodes_to_select=keep)


@dataclass(frozen=True)
class Bulyan:
    """Multi-Krum, then of each number the mean of those nearest to its median (El Mhamdi et al., 2018, arXiv:1802.07927).

    Weights do not matter, but 0 leaves out.
    """

    turns = staticmethod(together)
    merge = by_flower
    weighs: ClassVar[bool] = False
    by_rows: ClassVar[bool] = False

    malicious: int = 1
    """How many sites may send anything at all, together if they like."""

    def __post_init__(self) -> None:
        _whole("malicious", self.malicious, 0)

    @property
    def min_present(self) -> int:
        """The paper's 4f + 3."""
        return 4 * self.malicious + 3

    def flower(self, present: int) -> FlowerStrategy:
        """Bulyan."""
        return FlowerBulyan(num_malicious_nodes=self.malicious)


def as_reply(weights: Weights, weight: float) -> Message:
    """An update as Flower's strategies read it, in float64."""
    # Flower says of `metadata` that it is internal: the one way to a Message in a process without an identity of Flower's.
    metadata = Metadata(0, "", 0, 0, "", "", 0.0, DEFAULT_TTL, MessageType.TRAIN)
    arrays = ArrayRecord({name: Array(np.asarray(tensor, np.float64)) for name, tensor in weights.items()})
    metrics = MetricRecord({"num-examples": weight})  # the name by which Flower's strategies weigh
    return Message(content=RecordDict({"arrays": arrays, "metrics": metrics}), metadata=metadata)


def same_tensors(first: Update, update: Update) -> None:
    """Raises ValueError if two updates do not hold tensors of the same names and shapes."""
    if odd := sorted(first.weights.keys() ^ update.weights.keys()):
        raise ValueError(f"the update of site {update.site!r} does not hold the same tensors as the others: {odd[0]}")
    for name, tensor in first.weights.items():
        if update.weights[name].shape != tensor.shape:
            raise ValueError(f"site {update.site!r} sent {name} as {update.weights[name].shape}, the others as {tensor.shape}")


def _whole(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number from {least}, not {value!r}")
