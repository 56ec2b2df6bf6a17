"""A case from its NIfTI files to arrays: one orientation, one grid, one scale."""

from collections.abc import Callable, Sequence
from itertools import product
from math import inf, prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients.data import Case
from clients.micro import out_of_memory
from clients.nifti import MAX_VOXELS, Volume3D, open_nifti
from configs.schema import Preprocess

BRIGHTEST = 1e12
"""Of an image's voxels, either side of 0: the sum of a volume's squares still fits float32."""
NEAR = 1e-3
"""How far a label's value may be from a whole number."""
APART = 0.5
"""Voxels between a label's place and its image's: programs round what they write, and no more than that."""


def read_case(case: Case, recipe: Preprocess) -> tuple[NDArray[np.float32], NDArray[np.uint8], tuple[float, ...]]:
    """Image and label on one grid in RAS, spacing as asked, intensities as asked, dark border cut away.

    Raises:
        ValueError: a file cannot be read, image and label do not fit, or memory ran out; the message names the case.
    """
    from monai import transforms as mt  # 1.5 s to import, and a second run never needs it

    try:
        image, label = _load(case)
        image, cut = arranged(case.name, image, recipe)
        label = _oriented(label)
        if recipe.spacing is not None:
            label = mt.SpatialResample(mode="nearest", padding_mode="border")(
                label, dst_affine=image.affine, spatial_size=image.shape[1:]
            )
        spacing = tuple(float(size) for size in _sides_mm(image))
        return scaled(case.name, case.image, cut(image), recipe), cut(label)[0].numpy().astype(np.uint8), spacing
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
    raise ValueError(f"case {case.name!r}: out of memory while it was pre-processed ({case.image})")


def arranged(name: str, image: Any, recipe: Preprocess) -> tuple[Any, Callable[[Any], Any]]:
    """An image [1, X, Y, Z] in RAS at the spacing asked for, and what cuts the dark border from it and all on its grid.

    Raises:
        ValueError: the resampled image would have too many voxels; the message names the case.
    """
    from monai import transforms as mt

    image = _oriented(image)
    if recipe.spacing is not None:
        _check_spacing(name, image, recipe.spacing)
        image = mt.Spacing(pixdim=recipe.spacing, mode="bilinear", padding_mode="border")(image)
    start, end = np.zeros(3, int), np.asarray(image.shape[1:])
    if recipe.crop:
        found = mt.CropForeground(select_fn=lambda x: x > x.min()).compute_bounding_box(image)
        if (found[1] > found[0]).all():  # else all is equally dark
            start, end = found
    return image, mt.SpatialCrop(roi_start=start, roi_end=end)


def scaled(name: str, path: Path, image: Any, recipe: Preprocess) -> NDArray[np.float32]:
    """[X, Y, Z] an image's intensities as asked. Raises ValueError if float16, in which they are kept, cannot say one."""
    image_XYZ: NDArray[np.float32] = _intensity(recipe)(image)[0].numpy().astype(np.float32)
    most = float(np.finfo(np.float16).max)
    if not (np.abs(image_XYZ) <= most).all():  # NaN is not either
        raise ValueError(f"case {name!r}: a voxel is too bright to be scaled with the rest ({path})")
    return image_XYZ


def read_image(file: Volume3D) -> NDArray[np.float32]:
    """[X, Y, Z] as stored. Raises ValueError if a voxel is not a finite number, or beyond what can be reckoned with."""
    image_XYZ = file.read()
    if not np.isfinite(image_XYZ).all():
        raise ValueError(f"case {file.case!r}: the image holds NaN or infinite voxels ({file.path})")
    if max(image_XYZ.max(), -image_XYZ.min()) > BRIGHTEST:
        raise ValueError(f"case {file.case!r}: the image holds voxels beyond {BRIGHTEST:g} ({file.path})")
    return image_XYZ


def _load(case: Case) -> tuple[Any, Any]:
    """Image and label as MONAI tensors [1, X, Y, Z], checked: the headers first."""
    from monai.data import MetaTensor

    image_file, label_file = open_nifti(case.name, case.image), open_nifti(case.name, case.label)
    if image_file.shape != label_file.shape:
        raise ValueError(f"case {case.name!r}: the label is {label_file.shape} voxels, its image {image_file.shape}")
    _check_places(image_file, label_file)
    image, label = read_image(image_file), _read_label(label_file)
    return tuple(MetaTensor(array[None], affine=image_file.affine) for array in (image, label))


def _check_places(image: Volume3D, label: Volume3D) -> None:
    """Raises ValueError if, where a label has its corners, its image has not: half a voxel of the image is let pass."""
    corners = np.array([[*corner, 1] for corner in product(*((0, side - 1) for side in image.shape))]).T
    apart_mm = ((label.affine - image.affine) @ corners)[:3]
    if (abs(np.linalg.solve(image.affine[:3, :3], apart_mm)) > APART).any():
        far = np.linalg.norm(apart_mm, axis=0).max()
        words = f"the label lies elsewhere than its image: corners differ by up to {far:.3g} mm"
        raise ValueError(f"case {image.case!r}: {words} ({label.path})")


def _read_label(file: Volume3D) -> NDArray[np.float32]:
    """[X, Y, Z] whole numbers; a scale in the header leaves them a little off. Raises ValueError for what is no label."""
    label_XYZ = file.read()
    whole_XYZ = np.round(label_XYZ)
    near = np.isfinite(label_XYZ).all() and (abs(label_XYZ - whole_XYZ) <= NEAR).all()
    if not near or whole_XYZ.min() < 0 or whole_XYZ.max() > 255:
        raise ValueError(f"case {file.case!r}: label values must be whole numbers from 0 to 255 ({file.path})")
    return whole_XYZ


def _oriented(volume: Any) -> Any:
    from monai import transforms as mt

    return mt.Orientation(axcodes="RAS", labels=(("L", "R"), ("P", "A"), ("I", "S")))(volume)


def _sides_mm(image: Any) -> NDArray[np.float64]:
    """Millimetres per voxel along each axis."""
    return np.linalg.norm(np.asarray(image.affine)[:3, :3], axis=0)


def _check_spacing(name: str, image: Any, spacing: Sequence[float]) -> None:
    """Raises ValueError if the resampled volume would not fit anywhere."""
    if not all(0 < side < inf for side in spacing):
        raise ValueError(f"preprocess.spacing: {list(spacing)} must be millimetres above 0")
    finer = zip(image.shape[1:], _sides_mm(image), spacing, strict=True)
    voxels = prod(max(1.0, count * side / wanted) for count, side, wanted in finer)
    if voxels > MAX_VOXELS:
        would = f"at preprocess.spacing {list(spacing)} it would have {voxels:,.0f} voxels"
        raise ValueError(f"case {name!r}: {would}; {MAX_VOXELS:,} can be")


def _intensity(recipe: Preprocess) -> Any:
    from monai import transforms as mt

    if recipe.intensity == "zscore":
        return mt.NormalizeIntensity()
    if recipe.intensity == "percentile":
        return mt.ScaleIntensityRangePercentiles(1, 99, 0.0, 1.0, clip=True)
    return mt.ScaleIntensityRange(*recipe.window, 0.0, 1.0, clip=True)
