"""What an objective is: the supervised loss and, beside it, what the objective adds in one round.

An objective is a dataclass of settings with one method, `begin`. What it needs of the round (the incoming weights, what
it kept, what the server told) it is given there; what it adds it hands out as functions. Runs without Flower and Ray.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from clients.model import Segmenter, Weights


@dataclass(frozen=True)
class Batch:
    """One batch of patches, augmented."""

    image_BCXYZ: Tensor
    target_BTXYZ: Tensor
    """0/1 of each annotated class."""
    weight_BT: Tensor
    annotated_BT: Tensor | None = None
    """0/1: whether a class was drawn in a sample; none: all were. Where it was not, its weight is 0."""


@dataclass(frozen=True)
class Start:
    """What an objective may know when a site's round begins."""

    model: Segmenter
    """The incoming weights are in it."""
    rows: Sequence[int]
    """Head rows of the classes that the site annotates."""
    taught: Sequence[int] = ()
    """Head rows that the incoming weights have been taught by anybody."""
    includes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """{class: classes that lie inside it}."""
    home: frozenset[str] = frozenset()
    """Tensors that never leave the site."""
    round: int = 1
    rounds: int = 1
    """This round and how many there are in the run."""
    merged: int = 0
    """The last round of which the site's update was merged; 0: none was."""
    told: Weights = field(default_factory=dict)
    """What the server told every site beside the weights."""
    kept: Weights = field(default_factory=dict)
    """What the objective kept after the site's last round."""


@dataclass(frozen=True)
class Outcome:
    """What an objective has when the round is over."""

    kept: Weights = field(default_factory=dict)
    """For the site's next round."""
    said: Weights = field(default_factory=dict)
    """For the server, by the model's tensor names."""


@dataclass(frozen=True)
class Terms:
    """What an objective adds in one round; what it does not need stays None."""

    loss: Callable[[Batch, Tensor], Tensor] | None = None
    """Of a batch and its logits [B, C, X, Y, Z] (all rows), a number to add to the supervised loss: a mean over the samples, or
    one that does not depend on them, because where memory is short a batch comes in parts."""
    correct: Callable[[], None] | None = None
    """Changes the gradients after they were clipped."""
    finish: Callable[[Iterable[Batch]], Outcome] | None = None
    """After the last step; the batches are the memory's samples, one at a time, not augmented."""


class Objective(Protocol):
    """What a site descends."""

    def begin(self, start: Start) -> Terms:
        """What is added in a round that starts so."""
