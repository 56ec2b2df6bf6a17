"""Pretend hospitals: procedural abdomens, written as Medical Segmentation Decathlon folders.

A patient is drawn first (simulations.anatomy: which tissue is where), then scanned: a `Look` says how bright each
tissue is, and how the scanner blurs, shades and adds noise. Everything follows from (seed, site, case number).
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from configs.load import nearest
from configs.schema import Phantoms
from simulations.anatomy import LABELS, TISSUES, draw_patient, smooth_field
from simulations.partition import Files, publish, write_manifest

VERSION = 1
"""Part of the hash of phantom folders: raise it when anatomy or looks change."""


@dataclass(frozen=True)
class Look:
    """How a scanner shows tissues. Brightness and deviations in HU, or in arbitrary units before `gain` (MR)."""

    tissues: Mapping[str, float]
    """Mean brightness of every tissue but air."""
    air: float = 0.0
    spread: float = 0.0
    """Deviation of a tissue's mean between patients (contrast phase, age, fat)."""
    texture: float = 0.0
    """Deviation of the coarse texture inside tissues."""
    noise: float = 0.0
    grain: float = 0.5
    """Voxels over which the noise is correlated."""
    blur: float = 0.5
    """Deviation of the point spread, in voxels."""
    streaks: float = 0.0
    """Deviation of left-right streaks where the body is widest (photon starvation)."""
    bias: float = 0.0
    """Log deviation of the smooth coil sensitivity."""
    gain: float = 0.0
    """Log deviation of the overall scale between patients."""
    magnitude: bool = False
    """Noise of a magnitude image (Rician): never negative, and brighter air."""
    window: tuple[float, float] = (-1024, 30000)
    """Brightness is clipped to it on export."""
    axes: str = "RAS"
    """Orientation of the stored array."""


BRIGHTNESS = {  # CT in the portal phase (HU); MR T1-weighted; MR T2-weighted with fat suppressed
    "lung": (-820, 25, 20),
    "gas": (-900, 15, 10),
    "fat": (-100, 820, 170),
    "muscle": (58, 330, 200),
    "bone": (420, 90, 50),
    "marrow": (190, 520, 220),
    "disc": (85, 300, 420),
    "csf": (15, 130, 1150),
    "fluid": (12, 150, 1200),
    "bowel": (45, 360, 520),
    "vein": (138, 230, 120),
    "liver": (108, 520, 310),
    "spleen": (122, 350, 650),
    "kidney": (168, 430, 690),
    "medulla": (128, 330, 860),
    "pancreas": (92, 590, 420),
    "aorta": (150, 170, 70),
    "liver_tumor": (58, 360, 570),
    "rim": (78, 420, 440),
}
CT, MR, MR_FATSAT = ({tissue: float(row[column]) for tissue, row in BRIGHTNESS.items()} for column in range(3))

SOFT_TISSUE = (-175, 250)
FULL_DOSE = Look(CT, air=-1000, spread=7, texture=9, noise=16, grain=0.6, axes="LPS")
LOW_DOSE = Look(CT, air=-1000, spread=9, texture=9, noise=34, grain=0.7, blur=0.6, streaks=22, axes="LPS")

SCANNERS: dict[str, Look] = {
    "ct": FULL_DOSE,
    "ct_lowdose": LOW_DOSE,
    "ct_window": replace(FULL_DOSE, window=SOFT_TISSUE),  # as viewing stations export: for z-scoring beside MR
    "ct_lowdose_window": replace(LOW_DOSE, window=SOFT_TISSUE),
    "mr": Look(MR, spread=28, texture=26, noise=32, bias=0.22, gain=0.35, blur=0.6, magnitude=True),
    "mr_fatsat": Look(MR_FATSAT, spread=38, texture=36, noise=40, bias=0.28, gain=0.35, blur=0.7, magnitude=True, axes="LAS"),
}


def write_phantoms(site: str, phantoms: Phantoms, annotates: Sequence[str] | None = None) -> Path:
    """The MSD folder of a pretend hospital, with only the classes in its label files that it annotates (none: all).

    Raises:
        ValueError: there is no such scanner or class.
    """
    if phantoms.scanner not in SCANNERS:
        raise ValueError(f"sites.{site}.phantoms.scanner: no {phantoms.scanner!r}; {nearest(phantoms.scanner, SCANNERS)}")
    labels = _annotated(site, annotates)
    look = SCANNERS[phantoms.scanner]

    def write(folder: Path) -> None:
        cases = [_write_case(folder, site, index, phantoms, labels) for index in range(phantoms.cases)]
        write_manifest(folder, site, labels, cases, description=f"Procedural abdomens, {phantoms.scanner}")

    facts = {"version": VERSION, "site": site, "labels": labels, "phantoms": phantoms.model_dump(), "look": asdict(look)}
    return publish("phantoms", facts, write)


def draw_case(site: str, index: int, phantoms: Phantoms) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Image and complete label [X, Y, Z], RAS+, of a site's case number `index` (from 0)."""
    rng = np.random.default_rng([phantoms.seed, zlib.crc32(site.encode()), index])
    tissue, label = draw_patient(phantoms.shape, rng)
    return scan(tissue, SCANNERS[phantoms.scanner], rng), label


def scan(tissue: NDArray[np.uint8], look: Look, rng: Generator) -> NDArray[np.int16]:
    """The image [X, Y, Z] that a scanner makes of a tissue map (indices into TISSUES)."""
    inside = tissue > 0
    means = np.array([look.tissues.get(name, look.air) for name in TISSUES], dtype=float)
    means[1:] += look.spread * rng.standard_normal(len(TISSUES) - 1)
    image = means.astype(np.float32)[tissue]
    image += look.texture * inside * _correlated(tissue.shape, 1.1, rng)
    image = gaussian_filter(image, look.blur)
    image *= np.exp(look.bias * smooth_field(tissue.shape, 2, rng))
    image += look.noise * _correlated(tissue.shape, look.grain, rng)
    if look.streaks:
        image += look.streaks * _streaks(inside, rng)
    if look.magnitude:
        image = np.hypot(image, look.noise * _correlated(tissue.shape, look.grain, rng))
    image *= np.exp(look.gain * rng.standard_normal())
    return np.rint(np.clip(image, *look.window)).astype(np.int16)


def _correlated(shape: tuple[int, ...], grain: float, rng: Generator) -> NDArray[np.float32]:
    """Noise of unit deviation, correlated over `grain` voxels."""
    noise = gaussian_filter(rng.standard_normal(shape, dtype=np.float32), grain)
    return noise / max(float(noise.std()), 1e-6)


def _streaks(inside: NDArray[np.bool_], rng: Generator) -> NDArray[np.float32]:
    """Left-right streaks of about unit deviation, stronger in the rows of a slice that cross more body."""
    thickness = inside.sum(0, keepdims=True) / inside.shape[0]
    lines = gaussian_filter(rng.standard_normal(inside.shape, dtype=np.float32), (8.0, 0.4, 0.2))
    return (lines / lines.std() * 2 * thickness**2).astype(np.float32)


def _annotated(site: str, annotates: Sequence[str] | None) -> dict[str, int]:
    """{class: value} of the classes that a site draws, by value."""
    for name in annotates or ():
        if name not in LABELS:
            raise ValueError(f"sites.{site}.annotates: phantoms have no {name!r}; {nearest(name, LABELS)}")
    if annotates is not None and not annotates:
        raise ValueError(f"sites.{site}.annotates: names no class")
    return {name: value for name, value in LABELS.items() if annotates is None or name in annotates}


def _as_drawn(label: NDArray[np.uint8], labels: Mapping[str, int]) -> NDArray[np.uint8]:
    """What a site's experts write: its own classes only. Who draws the liver but no tumour draws through the tumour."""
    values = np.zeros(max(LABELS.values()) + 1, np.uint8)
    values[list(labels.values())] = list(labels.values())
    if "liver_tumor" not in labels:
        values[LABELS["liver_tumor"]] = labels.get("liver", 0)
    return values[label]


def _write_case(folder: Path, site: str, index: int, phantoms: Phantoms, labels: Mapping[str, int]) -> Files:
    image, label = draw_case(site, index, phantoms)
    placed = folder / "imagesTr" / f"{site}_{index + 1:03d}.nii.gz", folder / "labelsTr" / f"{site}_{index + 1:03d}.nii.gz"
    affine = np.diag([*phantoms.spacing, 1.0])
    affine[:3, 3] = [-spacing * (n - 1) / 2 for n, spacing in zip(phantoms.shape, phantoms.spacing, strict=True)]
    turn = ornt_transform(io_orientation(affine), axcodes2ornt(SCANNERS[phantoms.scanner].axes))
    for voxels, path in zip((image, _as_drawn(label, labels)), placed, strict=True):
        nib.nifti1.save(nib.nifti1.Nifti1Image(voxels, affine).as_reoriented(turn), path)
    return placed
