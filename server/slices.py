"""Slices of a test case for a simulation's report: image, label and prediction side by side, in three planes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from facts import is_name

LARGEST = 2**30
"""Bytes of one case, unpacked: 270 million voxels."""
PLAIN = "#BBBBBB"
"""The colour of a class that has none of its own."""
PLANES = (("axial", 2), ("coronal", 1), ("sagittal", 0))


@dataclass(frozen=True, kw_only=True)
class Slices:
    """One test case as a site kept it."""

    site: str
    case: str
    when: str
    image_XYZ: NDArray[np.float32]
    """Float, RAS+."""
    label_XYZ: NDArray[np.uint8]
    """Bit c is set where `classes[c]` is."""
    prediction_XYZ: NDArray[np.uint8]
    spacing: tuple[float, float, float]
    """Millimetres."""
    classes: tuple[str, ...]
    dice: tuple[float, ...]
    """Per class; nan where the label lacks it."""


def find_slices(folder: Path, sites: Sequence[str]) -> list[Path]:
    """Slice files of a run's folder, the first of every site before the second of any."""
    inside = [site for site in sites if Path(site).name == site != ".."]  # a record's names are not to lead elsewhere
    files = [(site, path) for site in inside for path in sorted((folder / "sites" / site / "slices").glob("*.npz"))]
    rank = {path: sum(other == site for other, _ in files[:i]) for i, (site, path) in enumerate(files)}
    return sorted(rank, key=lambda path: rank[path])


def read_slices(path: Path) -> Slices:
    """A slice file, which lies at <site>/slices/<case>.npz. Raises ValueError if it is none, or is damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
            if sum(part.file_size for part in held.zip.infolist()) > LARGEST:
                raise ValueError(f"it unpacks to more than {LARGEST // 2**20} MB")
            x_mm, y_mm, z_mm = (float(mm) for mm in held["spacing"])
            slices = Slices(
                site=path.parent.parent.name,
                case=str(held["case"]),
                when=str(held["when"]),
                image_XYZ=held["image_XYZ"].astype(np.float32),
                label_XYZ=held["label_XYZ"],
                prediction_XYZ=held["prediction_XYZ"],
                spacing=(x_mm, y_mm, z_mm),
                classes=tuple(str(name) for name in held["classes"]),
                dice=tuple(float(value) for value in held["dice"]),
            )
    except Exception as error:  # a damaged archive raises whatever zipfile, zlib and numpy come upon
        raise ValueError(f"{path.name}: no slices of a case ({' '.join(str(error).split())[:200]})") from None
    if not slices.image_XYZ.shape == slices.label_XYZ.shape == slices.prediction_XYZ.shape or slices.image_XYZ.ndim != 3:
        raise ValueError(f"{path.name}: image, label and prediction differ in shape")
    if odd := _why_odd(slices):
        raise ValueError(f"{path.name}: {odd}")
    return slices


def _why_odd(slices: Slices) -> str | None:
    """Why planes through a volume cannot be shown, in words; None if they can."""
    if not slices.image_XYZ.size or not np.isfinite(slices.image_XYZ).all():
        return "the image holds no finite voxels"
    if any(mask.dtype != np.uint8 for mask in (slices.label_XYZ, slices.prediction_XYZ)):
        return "label and prediction must be bits of classes"
    if not all(1e-3 < mm < 1e3 for mm in slices.spacing):
        return f"the spacing {slices.spacing} is none"
    return None if all(map(is_name, (slices.case, slices.when, *slices.classes))) else "its names are none"


def centre(label_XYZ: NDArray[np.uint8]) -> tuple[int, int, int]:
    """The voxel at the label's centre of mass; on an axis where that plane misses the label, the plane that shows most."""
    marked = label_XYZ > 0
    if not marked.any():
        x, y, z = (length // 2 for length in label_XYZ.shape)
        return x, y, z
    places = []
    for axis in range(3):
        counts = marked.sum(axis=tuple(other for other in range(3) if other != axis))
        middle = round(float(np.average(np.arange(len(counts)), weights=counts)))
        places.append(middle if counts[middle] else int(counts.argmax()))
    return places[0], places[1], places[2]


def slice_figure(slices: Slices, tints: Mapping[str, str]) -> Figure:
    """Rows: axial, coronal, sagittal through the label's centre. Columns: image, label, prediction."""
    at = centre(slices.label_XYZ if slices.label_XYZ.any() else slices.prediction_XYZ)
    tall = [height(slices, axis) for _, axis in PLANES]
    figure = Figure(figsize=(5.4, 1.75 * sum(tall) + 0.3), layout="constrained", facecolor="none")
    grid = figure.subplots(3, 3, gridspec_kw={"height_ratios": tall}, squeeze=False)
    shades = window(slices)
    for (name, axis), row in zip(PLANES, grid, strict=True):
        columns = (("image", None), ("label", slices.label_XYZ), ("prediction", slices.prediction_XYZ))
        for axes, (title, mask_XYZ) in zip(row, columns, strict=True):
            _grey(axes, plane(slices.image_XYZ, axis, at[axis]), shades, _aspect(slices, axis))
            if mask_XYZ is not None:
                _paint(axes, plane(mask_XYZ, axis, at[axis]), [tints.get(name, PLAIN) for name in slices.classes])
            if axis == PLANES[0][1]:
                axes.set_title(title, size=10)
        row[0].set_ylabel(name, size=9)
    return figure


def plane(volume_XYZ: NDArray[Any], axis: int, at: int) -> NDArray[Any]:
    """A plane across an axis, rows upwards: x or y to the right, y or z up."""
    across: NDArray[Any] = volume_XYZ.take(at, axis=axis).T
    return across


def window(slices: Slices) -> tuple[float, float]:
    """What is shown black and what is shown white."""
    low, high = np.nanpercentile(slices.image_XYZ, [0.5, 99.5])
    return float(low), float(max(high, low + 1e-6))


def _aspect(slices: Slices, axis: int) -> float:
    across, up = (slices.spacing[other] for other in range(3) if other != axis)
    return up / across


def height(slices: Slices, axis: int) -> float:
    """Height over width of a plane in millimetres, within what fits a page."""
    across, up = (slices.image_XYZ.shape[other] for other in range(3) if other != axis)
    return float(np.clip(up / across * _aspect(slices, axis), 0.4, 1.8))


def _grey(axes: Axes, plane: NDArray[Any], window: tuple[float, float], aspect: float) -> None:
    axes.imshow(plane, cmap="gray", vmin=window[0], vmax=window[1], origin="lower", aspect=aspect)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def _paint(axes: Axes, mask: NDArray[np.uint8], tints: Sequence[str]) -> None:
    """A tint and an outline per class; classes may overlap."""
    for bit, tint in enumerate(tints):
        marked = (mask >> bit & 1).astype(np.float32)
        if not marked.any():
            continue
        padded = np.pad(marked, 1)  # an outline needs an outside, also at the image's border
        x, y = np.arange(-1, marked.shape[1] + 1), np.arange(-1, marked.shape[0] + 1)
        axes.contourf(x, y, padded, levels=[0.5, 2], colors=[tint], alpha=0.35)
        axes.contour(x, y, padded, levels=[0.5], colors=[tint], linewidths=1.1)
    axes.set(xlim=(-0.5, mask.shape[1] - 0.5), ylim=(-0.5, mask.shape[0] - 0.5))
