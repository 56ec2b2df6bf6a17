"""Training patches, cut from the memory map with class-aware sampling. Numpy only: nothing here knows a device."""

from collections.abc import Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from clients.prepare import Volume


def cut_batch(
    volumes: Sequence[Volume],
    values: Sequence[Sequence[int]],
    patch: tuple[int, int, int],
    foreground: float,
    rng: Generator,
) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
    """One patch of each volume: images [B, 1, X, Y, Z] and label values [B, X, Y, Z].

    values: the label values of each annotated class. With probability `foreground` a patch is centred on a voxel of an
    annotated class that the case has, classes alike, else anywhere.
    """
    image_BCXYZ = np.empty((len(volumes), 1, *patch), np.float16)
    label_BXYZ = np.empty((len(volumes), *patch), np.uint8)
    for i, volume in enumerate(volumes):
        centre = _centre(volume, values, foreground, rng)
        cut(volume, centre, image_BCXYZ[i, 0], label_BXYZ[i])
    return image_BCXYZ, label_BXYZ


def _centre(volume: Volume, values: Sequence[Sequence[int]], foreground: float, rng: Generator) -> Sequence[int]:
    present = [found for wanted in values if (found := [value for value in wanted if value in volume.positions])]
    if present and rng.random() < foreground:
        chosen = present[rng.integers(len(present))]
        positions = volume.positions[chosen[rng.integers(len(chosen))]]
        return [int(x) for x in positions[rng.integers(len(positions))]]
    return [int(x) for x in rng.integers(volume.image_XYZ.shape)]


def cut(volume: Volume, centre: Sequence[int], image_XYZ: NDArray[np.float16], label_XYZ: NDArray[np.uint8]) -> None:
    """Fill the given arrays with the patch around a voxel, moved inside the volume where it is large enough.

    An axis on which the volume is smaller than the patch is centred and filled with the darkest value and background.
    """
    source, target = [], []
    for middle, side, length in zip(centre, volume.image_XYZ.shape, image_XYZ.shape, strict=True):
        if side >= length:
            start = min(max(middle - length // 2, 0), side - length)
            source.append(slice(start, start + length))
            target.append(slice(0, length))
        else:
            before = (length - side) // 2
            source.append(slice(0, side))
            target.append(slice(before, before + side))
    image_XYZ.fill(volume.floor)
    label_XYZ.fill(0)
    image_XYZ[tuple(target)] = volume.image_XYZ[tuple(source)]
    label_XYZ[tuple(target)] = volume.label(tuple(source))
