"""Segmentations of image files, with nothing at hand but a model's file."""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from clients.evaluate import logits_of
from clients.image_files import find_images, outputs, write_labels, write_nifti
from clients.micro import out_of_memory
from clients.model import HEAD, Segmenter, build, check_patch, load_shared
from clients.scan import Scan, read_scan
from clients.train import pick_device, place, uses_bfloat16
from configs.card import Card, read_card
from configs.schema import Evaluate, Train

MOST_CLASSES = 255
"""A label map has a byte per voxel, and 0 is background."""


@dataclass(frozen=True)
class Predictor:
    """A model with what its file says of it."""

    model: Segmenter
    card: Card

    def masks(self, scan: Scan, rows: Sequence[int]) -> Iterator[NDArray[np.bool_]]:
        """[X, Y, Z] in the image file's voxels, a mask for each of the head rows."""
        device, window = next(self.model.parameters()).device, Evaluate(overlap=self.card.overlap)
        logits_TXYZ = logits_of(self.model, scan, rows, self.card.patch, window, uses_bfloat16(Train(), device))
        for logits_XYZ in logits_TXYZ:
            yield scan.in_source(logits_XYZ.cpu().numpy())

    def files(self, scan: Scan, each: bool) -> Iterator[NDArray[np.uint8]]:
        """[X, Y, Z] what each file of the image holds: one label map (head row + 1), or ones where a class is."""
        if each:
            yield from (mask_XYZ.view(np.uint8) for mask_XYZ in self.masks(scan, range(len(self.card.classes))))
            return
        label_XYZ, order = np.zeros(scan.header.get_data_shape(), np.uint8), self.card.outer_first()
        for row, mask_XYZ in zip(order, self.masks(scan, order), strict=True):
            label_XYZ[mask_XYZ] = row + 1
        yield label_XYZ


def load_model(path: Path, device: str = "auto") -> Predictor:
    """A run's model.safetensors, ready to predict.

    Raises:
        ValueError: the file is not there or damaged, holds no model of ours, or the device is not to be had.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder; the model of a run's folder is {path / 'model.safetensors'}")
    where = pick_device(device)
    try:
        with safe_open(path, framework="np") as file:
            card = read_card(file.metadata() or {})
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (a file is no dict)
        return Predictor(place(_filled(card, weights), where).eval(), card)
    except (OSError, SafetensorError, ValueError, TypeError, RuntimeError, MemoryError) as error:
        raise ValueError(f"{path} is no model that can be used: {error}") from None


def _filled(card: Card, weights: Mapping[str, NDArray]) -> Segmenter:
    if not 1 <= len(card.classes) <= MOST_CLASSES:
        raise ValueError(f"it has {len(card.classes)} classes; 1 to {MOST_CLASSES} can be")
    model = build(card.network, card.args, card.classes, card.seed)
    check_patch(card.network, card.args, card.patch)
    load_shared(model, dict(weights))
    for name in HEAD:  # a row that is missing would keep its first, random values
        if len(weights[name]) != len(card.classes):
            raise ValueError(f"{name} has {len(weights[name])} rows for {len(card.classes)} classes")
    for name, tensor in weights.items():
        if not np.isfinite(tensor).all():
            raise ValueError(f"{name} holds NaN or infinite numbers")
    return model


def predict_files(
    model: Path, images: Sequence[Path], out: Path, *, each: bool = False, overwrite: bool = False, device: str = "auto"
) -> tuple[int, int]:
    """Segment images into a folder, saying for each how it went; how many failed, and how many there were.

    An image whose files are all there is left out, so the same command goes on where it was stopped.

    Raises:
        ValueError: model, images, folder or device do not fit; nothing has been done then.
    """
    named, predictor = find_images(images, out), load_model(model, device)
    files = {name: [out / file for file in outputs(name, predictor.card.classes, each)] for name in named}
    _check_distinct(files)
    write_labels(predictor.card, model, out, overwrite)
    left = [name for name in named if overwrite or not all(path.exists() for path in files[name])]
    if len(left) < len(named):
        print(f"{len(named) - len(left)} of {len(named)} images have been done before (--overwrite does them again)")
    failed, began = 0, time.monotonic()
    for done, name in enumerate(left, start=1):
        start = time.monotonic()
        if why := _problem(predictor, name, named[name], files[name], each):
            failed += 1
            print(f"{done}/{len(left)} {name} failed: {why}", file=sys.stderr)
            continue
        now = time.monotonic()
        to_go = (now - began) / done * (len(left) - done)
        print(f"{done}/{len(left)} {name}: {now - start:.1f} s, about {_clock(to_go)} to go", flush=True)
    return failed, len(named)


def _problem(predictor: Predictor, name: str, image: Path, files: Sequence[Path], each: bool) -> str:
    """Segment one image; what went wrong with it, if anything. A full disk is not the image's fault, and raises OSError."""
    try:
        scan = read_scan(name, image, predictor.card.preprocess)
        for path, voxels_XYZ in zip(files, predictor.files(scan, each), strict=True):
            write_nifti(path, voxels_XYZ, scan.header)
        return ""
    except ValueError as error:
        return str(error)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        return "out of memory"


def _check_distinct(files: Mapping[str, Sequence[Path]]) -> None:
    owner: dict[Path, str] = {}
    for name, paths in files.items():
        for path in paths:
            if path in owner:
                raise ValueError(f"images {owner[path]!r} and {name!r} would both become {path.name}")
            owner[path] = name


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}" if minutes else f"{rest} s"
