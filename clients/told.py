"""What training steps told of their samples; of deferred ones it stays on the device until the host asks for all of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Step:
    """What a step told of its samples."""

    loss_B: NDArray[np.float64]
    bce_B: NDArray[np.float64]
    entropy_B: NDArray[np.float64]
    feature_BE: NDArray[np.float32]


@dataclass(frozen=True)
class Part:
    """What some patches of a batch gave."""

    loss: Tensor
    """What was descended, weighted by the part's share of the batch."""
    loss_B: Tensor
    bce_B: Tensor
    entropy_B: Tensor
    feature_BE: Tensor


def step_of(parts: Sequence[Part]) -> Step:
    """What all patches of a batch told."""
    return Step(
        _numbers(torch.cat([part.loss_B for part in parts])),
        _numbers(torch.cat([part.bce_B for part in parts])),
        _numbers(torch.cat([part.entropy_B for part in parts])),
        torch.cat([part.feature_BE for part in parts]).cpu().numpy(),
    )


class Untold:
    """Steps of which the host knows nothing yet: each is one row of float32 numbers on the device, finite or not first."""

    def __init__(self) -> None:
        self._rows: list[Tensor] = []
        self._batches: list[int] = []

    def add(self, finite: Tensor, parts: Sequence[Part]) -> None:
        """One step; nothing waits for it."""
        kinds = ([getattr(part, kind).flatten() for part in parts] for kind in ("loss_B", "bce_B", "entropy_B", "feature_BE"))
        self._rows.append(torch.cat([finite.float().view(1), *(piece for kind in kinds for piece in kind)]).detach())
        self._batches.append(sum(len(part.loss_B) for part in parts))

    def take(self) -> list[Step | None]:
        """All of them in one transfer, in order, and none are left; None: the step was not finite."""
        if not self._rows:
            return []
        rows = np.split(torch.cat(self._rows).cpu().numpy(), np.cumsum([len(row) for row in self._rows])[:-1])
        steps = [_step(row, batch) for row, batch in zip(rows, self._batches, strict=True)]
        self._rows, self._batches = [], []
        return steps


def _step(row: NDArray[np.float32], batch: int) -> Step | None:
    if not row[0]:
        return None
    loss_B, bce_B, entropy_B = row[1 : 1 + 3 * batch].astype(np.float64).reshape(3, batch)
    return Step(loss_B, bce_B, entropy_B, row[1 + 3 * batch :].reshape(batch, -1).copy())


def _numbers(values_B: Tensor) -> NDArray[np.float64]:
    return values_B.detach().double().cpu().numpy()
