"""Test cases for the eye: image, label and prediction, in the site's own folder. They never cross the wire."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients.prepare import Volume

MOST = 8
"""Classes at most: one bit each."""


def keep_slices(
    folder: Path,
    name: str,
    volume: Volume,
    prediction_TXYZ: NDArray[np.bool_],
    truth_TXYZ: NDArray[np.bool_],
    rows: Sequence[Mapping[str, Any]],
    round: int,
) -> None:
    """Write a case, named by its keyed id; `rows` are its scores by class."""
    folder.mkdir(exist_ok=True)
    dice = [row["dice"] for row in rows[:MOST]]
    np.savez_compressed(
        folder / f"{name}.npz",
        image_XYZ=volume.image_XYZ,
        label_XYZ=_coded(truth_TXYZ),
        prediction_XYZ=_coded(prediction_TXYZ),
        spacing=np.asarray(volume.spacing),
        classes=np.asarray([row["class"] for row in rows[:MOST]]),
        case=np.asarray(name),
        when=np.asarray(f"after round {round}"),
        dice=np.asarray([np.nan if value is None else value for value in dice]),
    )


def _coded(mask_TXYZ: NDArray[np.bool_]) -> NDArray[np.uint8]:
    bits = 1 << np.arange(min(MOST, len(mask_TXYZ)), dtype=np.uint8)
    return np.tensordot(bits, mask_TXYZ[:MOST].astype(np.uint8), 1).astype(np.uint8)
