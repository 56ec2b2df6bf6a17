"""Pre-processing, once per case: NIfTI to memory-mapped arrays on the site's own disk, under a hash of their content.

A prepared case is a folder: image.npy (float16, XYZ, RAS), label.npy (uint8, the label files' own values),
positions.npz (voxels of each value, at most MAX_POSITIONS) and meta.json. It is written beside its place and renamed,
so a folder that exists is whole. A small index from (path, size, time) to the hash lets a second run start without
touching NIfTI.
"""

import hashlib
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients.data import Case
from configs.schema import Preprocess

VERSION = 1
"""Raise it when the same files would be prepared differently."""
MAX_POSITIONS = 4096
"""Foreground voxels remembered per label value: enough to centre patches evenly."""


@dataclass(frozen=True)
class Volume:
    """One prepared case; the arrays are memory-mapped."""

    case: str
    image_XYZ: NDArray[np.float16]
    label_XYZ: NDArray[np.uint8]
    positions: dict[int, NDArray[np.int32]]
    """Label value -> [N, 3] voxels."""
    counts: dict[int, int]
    """Label value -> voxels in the whole volume."""
    spacing: tuple[float, float, float]
    """Millimetres per voxel."""
    floor: float
    """The darkest value: what lies outside the volume."""

    def voxels(self, values: Sequence[int]) -> int:
        """How many voxels carry any of the label values."""
        return sum(self.counts.get(value, 0) for value in values)


def prepare(cases: Sequence[Case], recipe: Preprocess, cache: Path, workers: int = 2) -> Iterator[Volume]:
    """The prepared cases in order; those not in the cache are read from NIfTI first, several at a time.

    Raises:
        ValueError: a file cannot be read, or image and label do not fit; the message names the case.
    """
    with ThreadPoolExecutor(workers) as pool:
        folders = [pool.submit(_prepared_folder, case, recipe, cache) for case in cases]
        try:
            for case, folder in zip(cases, folders, strict=True):
                yield open_volume(case.name, folder.result())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def open_volume(case: str, folder: Path) -> Volume:
    """Memory-map a prepared case."""
    meta = json.loads((folder / "meta.json").read_text())
    with np.load(folder / "positions.npz", allow_pickle=False) as archive:
        positions = {int(value): archive[value] for value in archive.files}
    return Volume(
        case,
        np.load(folder / "image.npy", mmap_mode="r", allow_pickle=False),
        np.load(folder / "label.npy", mmap_mode="r", allow_pickle=False),
        positions,
        {int(value): count for value, count in meta["counts"].items()},
        tuple(meta["spacing"]),
        meta["floor"],
    )


def _prepared_folder(case: Case, recipe: Preprocess, cache: Path) -> Path:
    pointer = cache / "index" / _digest(repr(_stamp(case)), recipe.model_dump_json(), str(VERSION))
    if pointer.is_file() and (folder := cache / "cases" / pointer.read_text().strip()).is_dir():
        return folder
    content = _digest(_file_hash(case, case.image), _file_hash(case, case.label), recipe.model_dump_json(), str(VERSION))
    folder = cache / "cases" / content
    if not folder.is_dir():
        _write_folder(folder, *_read(case, recipe))
    pointer.parent.mkdir(parents=True, exist_ok=True)
    _write_text(pointer, content)
    return folder


def _stamp(case: Case) -> list[Any]:
    try:
        stats = [(path.resolve(), path.stat()) for path in (case.image, case.label)]
    except OSError as error:
        raise _unreadable(case, error.filename, error.strerror) from None
    return [(str(path), stat.st_size, stat.st_mtime_ns) for path, stat in stats]


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _file_hash(case: Case, path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(case, path, error.strerror) from None


def _unreadable(case: Case, path: object, why: object) -> ValueError:
    return ValueError(f"case {case.name!r}: {path} cannot be read ({' '.join(str(why).split())})")


# Reading --------------------------------------------------------------------------------------------------------------


def _read(case: Case, recipe: Preprocess) -> tuple[NDArray[np.float32], NDArray[np.uint8], tuple[float, ...]]:
    """Image and label on one grid in RAS, spacing as asked, intensities as asked, dark border cut away."""
    from monai import transforms as mt  # 1.5 s to import, and a second run never needs it

    image, label = _load(case)
    orient = mt.Orientation(axcodes="RAS", labels=(("L", "R"), ("P", "A"), ("I", "S")))
    image, label = orient(image), orient(label)
    if recipe.spacing is not None:
        image = mt.Spacing(pixdim=recipe.spacing, mode="bilinear", padding_mode="border")(image)
        label = mt.SpatialResample(mode="nearest", padding_mode="border")(
            label, dst_affine=image.affine, spatial_size=image.shape[1:]
        )
    spacing = tuple(float(size) for size in np.linalg.norm(np.asarray(image.affine)[:3, :3], axis=0))
    if recipe.crop:
        start, end = mt.CropForeground(select_fn=lambda x: x > x.min()).compute_bounding_box(image)
        if (np.asarray(end) > np.asarray(start)).all():
            box = mt.SpatialCrop(roi_start=start, roi_end=end)
            image, label = box(image), box(label)
    image_XYZ = _intensity(recipe)(image)[0].numpy().astype(np.float32)
    return image_XYZ, label[0].numpy().astype(np.uint8), spacing


def _load(case: Case) -> tuple[Any, Any]:
    """Image and label as MONAI tensors [1, X, Y, Z], checked."""
    from monai.data import MetaTensor
    from nibabel.orientations import aff2axcodes

    image, affine = _load_nifti(case, case.image, np.float32)
    label, label_affine = _load_nifti(case, case.label, np.float32)
    if image.shape != label.shape:
        raise ValueError(f"case {case.name!r}: the label is {label.shape} voxels, its image {image.shape}")
    axes, label_axes = ("".join(map(str, aff2axcodes(matrix))) for matrix in (affine, label_affine))
    if axes != label_axes:
        raise ValueError(f"case {case.name!r}: the label is stored as {label_axes}, its image as {axes}")
    if not np.isfinite(image).all():
        raise ValueError(f"case {case.name!r}: the image holds NaN or infinite voxels ({case.image})")
    if not np.isfinite(label).all() or (label != np.round(label)).any() or label.min() < 0 or label.max() > 255:
        raise ValueError(f"case {case.name!r}: label values must be whole numbers from 0 to 255 ({case.label})")
    return MetaTensor(image[None], affine=affine), MetaTensor(label[None], affine=affine)


def _load_nifti(case: Case, path: Path, dtype: Any) -> tuple[NDArray, NDArray]:
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    try:
        file: Any = nibabel.load(path)
        if len(file.shape) == 3:
            return np.asarray(file.dataobj, dtype=dtype), np.asarray(file.affine)
    except (OSError, EOFError, ValueError, TypeError, zlib.error, ImageFileError, HeaderDataError) as error:
        raise _unreadable(case, path, error) from None
    raise ValueError(f"case {case.name!r}: {path} has {len(file.shape)} axes, not 3")


def _intensity(recipe: Preprocess) -> Any:
    from monai import transforms as mt

    if recipe.intensity == "zscore":
        return mt.NormalizeIntensity()
    if recipe.intensity == "percentile":
        return mt.ScaleIntensityRangePercentiles(1, 99, 0.0, 1.0, clip=True)
    return mt.ScaleIntensityRange(*recipe.window, 0.0, 1.0, clip=True)


# Writing --------------------------------------------------------------------------------------------------------------


def _write_folder(folder: Path, image_XYZ: NDArray, label_XYZ: NDArray[np.uint8], spacing: tuple[float, ...]) -> None:
    values, counts = np.unique(label_XYZ, return_counts=True)
    foreground = {int(value): int(count) for value, count in zip(values, counts, strict=True) if value}
    positions: dict[str, Any] = {str(value): _positions(label_XYZ, value) for value in foreground}
    meta = {"counts": foreground, "spacing": spacing, "floor": float(np.float16(image_XYZ.min()))}
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=folder.parent))
    try:
        np.save(draft / "image.npy", image_XYZ.astype(np.float16))
        np.save(draft / "label.npy", label_XYZ)
        np.savez(draft / "positions.npz", **positions)
        (draft / "meta.json").write_text(json.dumps(meta))
        os.replace(draft, folder)
    except OSError:
        if not folder.is_dir():  # else another site of the same disk was faster
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _positions(label_XYZ: NDArray[np.uint8], value: int) -> NDArray[np.int32]:
    found = np.argwhere(label_XYZ == value).astype(np.int32)
    if len(found) > MAX_POSITIONS:
        found = found[np.sort(np.random.default_rng(value).choice(len(found), MAX_POSITIONS, replace=False))]
    return found


def _write_text(path: Path, text: str) -> None:
    handle, draft = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "w") as file:
        file.write(text)
    os.replace(draft, path)
