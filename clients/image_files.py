"""Images to predict and what becomes of them: which files are meant, and how results are written down."""

import gzip
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients.nifti import CONVERT, is_half
from configs.card import Card
from durable import write_whole

LABELS = "labels.json"
GEOMETRY = (
    *("pixdim", "xyzt_units", "sform_code", "srow_x", "srow_y", "srow_z", "qform_code"),
    *("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
)
"""What of an image's header is written again as it stands: where its voxels lie. Descriptions may name a patient."""


def find_images(given: Sequence[Path], out: Path) -> dict[str, Path]:
    """{name: path} of the images that are given, or that lie in the folders that are given, in order.

    Raises:
        ValueError: one is no image file or not there, two have the same name, or one lies where the results are to go.
    """
    found: dict[str, Path] = {}
    for path in (path for one in given for path in _images_in(one)):
        name = path.name.removesuffix(".gz").removesuffix(".nii")
        if name in found:
            raise ValueError(f"{found[name]} and {path} would both become {name}.nii.gz")
        if out.resolve() in (path.absolute().parent.resolve(), path.resolve().parent):
            raise ValueError(f"{path} lies in {out} itself, where the results are to go; choose another folder with -o")
        found[name] = path
    return found


def _images_in(given: Path) -> list[Path]:
    if given.is_dir():
        inside = sorted(path for path in given.iterdir() if _is_image(path) and not path.name.startswith("."))
        if not inside:
            raise ValueError(f"there is no .nii or .nii.gz file in {given}")
        return inside
    if not given.exists():
        raise ValueError(f"there is no {given}")
    if not _is_image(given):
        raise ValueError(f"{given} is {CONVERT if is_half(given) else 'not a .nii or .nii.gz file'}")
    return [given]


def _is_image(path: Path) -> bool:
    return path.name.endswith((".nii", ".nii.gz"))


def outputs(name: str, classes: Sequence[str], each: bool) -> list[str]:
    """The files that an image becomes: its label map or, with `each`, one mask per class, by head row."""
    if not each:
        return [f"{name}.nii.gz"]
    words = [re.sub(r"[^\w.-]", "_", word) for word in classes]
    if len(set(words)) < len(words):
        words = [f"{row + 1}_{word}" for row, word in enumerate(words)]
    return [f"{name}_{word}.nii.gz" for word in words]


def write_labels(card: Card, model: Path, out: Path, overwrite: bool) -> None:
    """Write down what the values mean, and of which model. Raises ValueError where the results of another one lie already."""
    with model.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    facts = {
        "labels": {"0": "background"} | {str(row + 1): name for row, name in enumerate(card.classes)},
        "order": [card.classes[row] for row in card.outer_first()],
        "overlaps": "a class covers those before it in `order`; with --each every class is whole, in a file of its own",
        "model_sha256": digest,
    }
    text, path = json.dumps(facts, indent=1, ensure_ascii=False) + "\n", out / LABELS
    if path.exists() and not overwrite and path.read_bytes() != text.encode():
        raise ValueError(f"{out} holds the results of another model ({path}); choose another folder, or --overwrite")
    out.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda draft: draft.write_text(text, encoding="utf-8"))


def write_nifti(path: Path, voxels_XYZ: NDArray[np.uint8], header: Any) -> None:
    """Write voxels on the grid of the file whose header is given. The same voxels are the same bytes."""
    from nibabel.nifti1 import Nifti1Image
    from nibabel.nifti2 import Nifti2Header, Nifti2Image

    image = (Nifti2Image if isinstance(header, Nifti2Header) else Nifti1Image)(voxels_XYZ, header.get_best_affine())
    for field in GEOMETRY:
        image.header[field] = header[field]
    content = gzip.compress(image.to_bytes(), compresslevel=6, mtime=0)
    write_whole(path, lambda draft: draft.write_bytes(content))
