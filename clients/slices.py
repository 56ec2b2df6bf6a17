"""Test cases for the eye: image, label and prediction, in the site's own folder. They never cross the wire."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients.prepare import Volume

MOST = 8
"""Classes at most: one bit each."""


@dataclass(frozen=True)
class Seen:
    """A test case as the model saw it."""

    name: str
    """Its keyed id."""
    volume: Volume
    truth_XYZ: NDArray[np.uint8]
    prediction_XYZ: NDArray[np.uint8]
    rows: Sequence[Mapping[str, Any]]
    """Its scores by class."""

    @property
    def dice(self) -> float:
        """The mean over the classes that its label has; inf if there is none."""
        measured = [row["dice"] for row in self.rows if row["dice"] is not None]
        return sum(measured) / len(measured) if measured else inf


class Worst:
    """The cases of the lowest Dice, at most so many, gathered one by one; of equals the first."""

    def __init__(self, most: int) -> None:
        self.most, self.cases = most, list[Seen]()

    def add(
        self,
        name: str,
        volume: Volume,
        prediction_TXYZ: NDArray[np.bool_],
        truth_TXYZ: NDArray[np.bool_],
        rows: Sequence[Mapping[str, Any]],
    ) -> None:
        """Take a case in, and let go of the one that is then too many."""
        seen = Seen(name, volume, _coded(truth_TXYZ), _coded(prediction_TXYZ), rows[:MOST])
        self.cases = sorted([*self.cases, seen], key=lambda case: case.dice)[: self.most]

    def write(self, folder: Path, round: int) -> None:
        """Write them, each as <its name>.npz; whatever other case an earlier evaluation wrote there goes."""
        folder.mkdir(exist_ok=True)
        for path in folder.glob("*.npz"):
            if path.stem not in {case.name for case in self.cases}:
                path.unlink()
        for case in self.cases:
            np.savez_compressed(
                folder / f"{case.name}.npz",
                image_XYZ=case.volume.image_XYZ,
                label_XYZ=case.truth_XYZ,
                prediction_XYZ=case.prediction_XYZ,
                spacing=np.asarray(case.volume.spacing),
                classes=np.asarray([row["class"] for row in case.rows]),
                case=np.asarray(case.name),
                when=np.asarray(f"after round {round}"),
                dice=np.asarray([np.nan if row["dice"] is None else row["dice"] for row in case.rows]),
            )


def _coded(mask_TXYZ: NDArray[np.bool_]) -> NDArray[np.uint8]:
    bits = 1 << np.arange(min(MOST, len(mask_TXYZ)), dtype=np.uint8)
    return np.tensordot(bits, mask_TXYZ[:MOST].astype(np.uint8), 1).astype(np.uint8)
