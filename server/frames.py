"""Axial slices of a test case as a film: one picture, its frames one under the other, for a slider to show one at a time."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.image import imsave
from numpy.typing import NDArray

from server.slices import PLAIN, Slices, height, plane, window

MOST = 24
"""Frames of a film."""
MARGIN = 2
"""Slices shown beyond the first and the last that label or prediction mark."""
WIDE, LINE = 200, 2
"""Pixels: the width of a frame's half, and how thick an outline is."""
QUALITY = {"quality": 60}
"""Of the WebP picture, which is smaller than JPEG and, for scans of many voxels, than PNG."""


@dataclass(frozen=True)
class Film:
    """What a slider scrolls through."""

    webp: bytes
    slices: tuple[int, ...]
    """Which of the volume's axial slices the frames show, counted from 0, from below."""
    wide: int
    tall: int
    """Pixels of one frame: on the left the image with the label's outlines, on the right with the prediction's."""


def film_of(slices: Slices, tints: Mapping[str, str]) -> Film:
    """The film of a test case."""
    shown, shades = frames_of(slices), window(slices)
    painted = [np.concatenate([_half(slices, mask, z, shades, tints) for mask in _masks(slices)], axis=1) for z in shown]
    stream = io.BytesIO()
    imsave(stream, np.concatenate(painted), format="webp", pil_kwargs=dict(QUALITY))
    return Film(stream.getvalue(), shown, painted[0].shape[1], painted[0].shape[0])


def frames_of(slices: Slices) -> tuple[int, ...]:
    """The axial slices around what label and prediction mark, evenly spaced if there are many; all of an empty volume."""
    marked = np.flatnonzero((slices.label_XYZ | slices.prediction_XYZ).any(axis=(0, 1)))
    deep = slices.label_XYZ.shape[2]
    first, last = (int(marked[0]), int(marked[-1])) if marked.size else (0, deep - 1)
    first, last = max(first - MARGIN, 0), min(last + MARGIN, deep - 1)
    return tuple(np.unique(np.linspace(first, last, min(MOST, last - first + 1)).round().astype(int)).tolist())


def _masks(slices: Slices) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    return slices.label_XYZ, slices.prediction_XYZ


def _half(
    slices: Slices, mask_XYZ: NDArray[np.uint8], z: int, shades: tuple[float, float], tints: Mapping[str, str]
) -> NDArray[np.uint8]:
    """[rows, WIDE, RGB] an axial slice as seen, with the outlines of a mask's classes."""
    low, high = shades
    size = (max(round(WIDE * height(slices, 2)), 1), WIDE)
    grey = _enlarged(plane(slices.image_XYZ, 2, z), size)
    picture = np.repeat((255 * np.clip((grey - low) / (high - low), 0, 1)).astype(np.uint8)[..., None], 3, axis=2)
    bits = _enlarged(plane(mask_XYZ, 2, z), size)
    for bit, name in enumerate(slices.classes):
        tint = (255 * np.array(to_rgb(tints.get(name, PLAIN)))).astype(np.uint8)
        picture[_outline((bits >> bit & 1).astype(bool))] = tint
    return picture


def _enlarged(plane: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """A plane at another size, each pixel the nearest voxel; its first row below becomes the last."""
    rows, columns = (np.arange(new) * old // new for new, old in zip(size, plane.shape, strict=True))
    return plane[::-1][np.ix_(rows, columns)]


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask's own pixels that are no more than LINE from its outside."""
    tall, wide = mask.shape
    padded, reach = np.pad(mask, LINE), range(2 * LINE + 1)
    inside = np.all(
        [padded[LINE : LINE + tall, i : i + wide] & padded[i : i + tall, LINE : LINE + wide] for i in reach], axis=0
    )
    return mask & ~inside
