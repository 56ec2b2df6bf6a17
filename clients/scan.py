"""An image without a label: prepared as in training, and the way back to the voxels that it came from."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import affine_transform, find_objects

from clients.nifti import open_nifti
from clients.reading import arranged, read_image, scaled
from configs.schema import Preprocess

DECIMALS = 9
"""Of the way between two grids, in voxels: without resampling it is in whole numbers, and rounding errors must not show."""
NEAR = 1e-4
"""Voxels by which a point may miss the edge of a grid and still lie on it."""


@dataclass(frozen=True)
class Scan:
    """One prepared image."""

    image_XYZ: NDArray[np.float16]
    """RAS, spacing and intensities as in training, dark border cut away."""
    floor: float
    """The darkest value: what lies outside the image."""
    header: Any
    """nibabel's, of the file."""
    to_prepared: NDArray[np.float64]
    """[4, 4] from a voxel of the file to the same place in `image_XYZ`, in voxels."""

    def in_source(self, logits_XYZ: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Where logits of the prepared image are above 0, voxel by voxel of the file; nowhere in what was cut away.

        Logits are read linearly between the prepared voxels, and only then cut at 0: where the grid was coarser, a class
        ends where the model is undecided and not at a step. Without resampling it is each voxel's own logit, untouched.
        """
        mask_XYZ = np.zeros(self.header.get_data_shape(), bool)
        for seen in find_objects((logits_XYZ > 0).view(np.uint8)):  # one box or none: elsewhere nothing is above 0
            start, stop = self._box(seen)
            matrix, offset = self.to_prepared[:3, :3], self.to_prepared[:3, 3]
            near = affine_transform(logits_XYZ, matrix, offset + matrix @ start, tuple(stop - start), order=1, mode="nearest")
            box = tuple(slice(*edges) for edges in zip(start, stop, strict=True))
            mask_XYZ[box] = (near > 0) & self._inside(box, logits_XYZ.shape)
        return mask_XYZ

    def _box(self, seen: Sequence[slice]) -> NDArray[np.int64]:
        """The file's first voxels, and the ones past the last, that prepared voxels in `seen` are next to."""
        corners = np.array(list(product(*((edge.start - 1, edge.stop) for edge in seen))))
        there = np.linalg.solve(self.to_prepared[:3, :3], (corners - self.to_prepared[:3, 3]).T)
        box = np.array([np.floor(there.min(axis=1)), np.ceil(there.max(axis=1)) + 1])
        return np.clip(box, 0, self.header.get_data_shape()).astype(np.int64)

    def _inside(self, box: tuple[slice, ...], prepared: Sequence[int]) -> NDArray[np.bool_]:
        """Which of the file's voxels in a box lie within the prepared image, to the outer faces of its voxels."""
        axes, inside = np.ogrid[box], np.array(True)
        for row, size in zip(self.to_prepared, prepared, strict=False):  # the fourth row is 0 0 0 1
            at = row[3] + sum(step * axis for step, axis in zip(row, axes, strict=False) if step)
            inside = inside & (at > -0.5 - NEAR) & (at < size - 0.5 + NEAR)
        return inside


def read_scan(name: str, path: Path, recipe: Preprocess) -> Scan:
    """An image file, prepared exactly as a case of that image is.

    Raises:
        ValueError: the file cannot be read; the message names it.
    """
    from monai.data import MetaTensor

    file = open_nifti(name, path)
    image, cut = arranged(name, MetaTensor(read_image(file)[None], affine=file.affine), recipe)
    image = cut(image)
    image_XYZ = scaled(name, path, image, recipe).astype(np.float16)
    to_prepared = np.linalg.solve(np.asarray(image.affine, np.float64), file.affine)
    return Scan(image_XYZ, float(image_XYZ.min()), file.header, np.round(to_prepared, DECIMALS))
