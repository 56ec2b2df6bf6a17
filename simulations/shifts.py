"""Acquisition shifts: one hospital's images as another hospital's scanner would have taken them. Labels stay as they are.

A shift belongs to a site; what varies within it from case to case (the noise, the bias field) is drawn from
[seed, crc32(site), crc32(case)], so a case looks the same however it is asked for.
"""

import shutil
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

from clients.nifti import open_nifti
from configs.load import nearest
from simulations.partition import (
    case_name,
    choose_cases,
    publish,
    read_cases,
    read_labels,
    read_manifest,
    stamps,
    write_manifest,
)

VERSION = 1
"""Part of the hash of shifted folders: raise it when a shift changes its result."""
LARGEST_JSON = 16 * 2**20
"""Bytes of the largest JSON file beside dataset.json that is taken along (partition files)."""

Volume = NDArray[np.float32]
"""[X, Y, Z], RAS+."""


class Shift(Protocol):
    """How a scanner changes a volume that was rescaled to 0..1. Pure: the input is left alone."""

    def __call__(self, volume: Volume, rng: Generator) -> Volume: ...


@dataclass(frozen=True)
class Unchanged:
    """No shift: the image as it is."""

    def __call__(self, volume: Volume, rng: Generator) -> Volume:
        return volume


@dataclass(frozen=True)
class Gamma:
    """Another display curve, after `noise` (deviation; none by default) was added."""

    power: float
    noise: float = 0.0

    def __call__(self, volume: Volume, rng: Generator) -> Volume:
        noisy = _with_noise(volume, self.noise, rng) if self.noise else volume
        return np.clip(noisy, 0, 1) ** np.float32(self.power)


@dataclass(frozen=True)
class Invert:
    """Inverted contrast: what was bright is dark."""

    def __call__(self, volume: Volume, rng: Generator) -> Volume:
        return 1 - volume


@dataclass(frozen=True)
class LowResolution:
    """Blurred (deviation in voxels), every n-th slice kept, interpolated back to the same grid."""

    blur: float
    every: int

    def __call__(self, volume: Volume, rng: Generator) -> Volume:
        kept = gaussian_filter(volume, self.blur)[:, :, :: self.every]
        at = np.minimum(np.arange(volume.shape[2]) / self.every, kept.shape[2] - 1)
        below = np.floor(at).astype(int)
        above = np.minimum(below + 1, kept.shape[2] - 1)
        part = (at - below).astype(np.float32)
        return kept[:, :, below] * (1 - part) + kept[:, :, above] * part


@dataclass(frozen=True)
class Bias:
    """A smooth coil sensitivity, exp(+-strength), over the volume, then noise of the given deviation."""

    strength: float
    noise: float

    def __call__(self, volume: Volume, rng: Generator) -> Volume:
        field = np.exp(self.strength * _smooth_field(volume.shape, rng))
        return _with_noise(volume * field, self.noise, rng)


SHIFTS: dict[str, Shift] = {
    "none": Unchanged(),
    "gamma": Gamma(2.5),
    "invert": Invert(),
    "lowres": LowResolution(blur=1.0, every=3),
    "bias": Bias(strength=0.7, noise=0.08),
    "noise_gamma": Gamma(2.5, noise=0.08),
}


def rescale(volume: NDArray) -> Volume:
    """The 0.5th to 99.5th percentile to 0..1, clipped; a constant volume becomes 0."""
    low, high = np.percentile(volume, (0.5, 99.5))
    return np.clip((volume - low) / max(high - low, 1e-12), 0, 1).astype(np.float32)


def shifted_folder(root: Path, shift: str, site: str, seed: int, cases: Iterable[str] | None = None) -> Path:
    """An MSD folder of a site's cases (none: all) as its scanner shows them; partition files are taken along.

    Raises:
        ValueError: there is no such shift or case, or an image cannot be read, is not 3D or holds NaN.
    """
    if shift not in SHIFTS:
        raise ValueError(f"sites.{site}.shift: there is no shift {shift!r}; {nearest(shift, SHIFTS)}")
    wanted = None if cases is None else choose_cases(root, cases)
    chosen = {case: files for case, files in read_cases(root).items() if wanted is None or case in wanted}  # as listed
    beside = sorted(p for p in root.glob("*.json") if p.name != "dataset.json" and p.stat().st_size <= LARGEST_JSON)

    def write(folder: Path) -> None:
        for case, (image, label) in chosen.items():
            rng = np.random.default_rng([seed, zlib.crc32(site.encode()), zlib.crc32(case.encode())])
            _write_shifted(image, folder / "imagesTr" / image.name, shift, rng)
            shutil.copyfile(label, folder / "labelsTr" / label.name)
        for file in beside:
            shutil.copyfile(file, folder / file.name)
        manifest = read_manifest(root)
        more = {key: manifest[key] for key in ("description", "reference", "licence", "modality") if key in manifest}
        write_manifest(folder, f"{manifest.get('name', site)}, {shift}", read_labels(root), chosen.values(), **more)

    facts = {"version": VERSION, "shift": [shift, repr(SHIFTS[shift])], "seed": seed, "site": site, "cases": list(chosen)}
    files = [root / "dataset.json", *beside, *(file for pair in chosen.values() for file in pair)]
    return publish("shifted", facts | {"root": str(root.resolve()), "sources": stamps(files)}, write)


def _write_shifted(source: Path, target: Path, shift: str, rng: Generator) -> None:
    """One image, shifted in RAS+ and written back onto its own grid."""
    if shift == "none":
        shutil.copyfile(source, target)  # its units too: a CT stays in HU
        return
    image = open_nifti(case_name(source), source)
    stored = image.read()
    if not np.isfinite(stored).all():
        raise ValueError(f"{source}: holds voxels that are no finite number")
    own, ras = io_orientation(image.affine), axcodes2ornt("RAS")
    shifted = SHIFTS[shift](rescale(apply_orientation(stored, own)), rng)
    back = apply_orientation(shifted, ornt_transform(ras, own))
    nib.nifti1.save(nib.nifti1.Nifti1Image(back.astype(np.float32), image.affine), target)


def _with_noise(volume: Volume, deviation: float, rng: Generator) -> Volume:
    return volume + np.float32(deviation) * rng.standard_normal(volume.shape, dtype=np.float32)


def _smooth_field(shape: tuple[int, ...], rng: Generator) -> Volume:
    """A random field in -1..1 that turns about once over the volume: cubic between 4 x 4 x 4 random knots."""
    knots = rng.uniform(-1, 1, (4, 4, 4)).astype(np.float32)
    at = np.meshgrid(*(np.linspace(0, 3, n, dtype=np.float32) for n in shape), indexing="ij")
    return np.clip(map_coordinates(knots, at, order=3, mode="nearest"), -1, 1)
