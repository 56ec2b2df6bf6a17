"""Pre-processing, once per case: NIfTI to memory-mapped arrays on the site's own disk, under a hash of their content.

A prepared case is a folder: image.npy (float16, XYZ, RAS), label.npy (uint8, the label files' own values),
positions.npz (voxels of each value, at most MAX_POSITIONS) and meta.json. It is sealed, written beside its place and
renamed, so a folder that exists was whole. `checked` compares it with its checksums when a process first uses it, and one
that has been damaged is made again. A small index from (path, size, time) to the hash lets a second run start without
touching NIfTI.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache as once
from pathlib import Path
from stat import S_ISREG
from typing import Any

import numpy as np
from numpy.typing import NDArray

import durable
from clients.data import Case
from clients.labels import Origin, check_values
from clients.nifti import unreadable
from clients.reading import read_case
from configs.schema import Preprocess

LOG = logging.getLogger("sitestream")
VERSION = 2
"""Raise it when the same files would be prepared, or kept, differently."""
MAX_POSITIONS = 4096
"""Foreground voxels remembered per label value: enough to centre patches evenly."""

DAY_S = 86_400.0
"""Drafts that have not changed for so long were left by killed processes: no case takes a day."""


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
    origin: Origin | None = None
    """What the label means, where it is not the same for all of a site's cases: then all but label_XYZ is in its numbers."""

    def voxels(self, values: Sequence[int]) -> int:
        """How many voxels carry any of the label values."""
        return sum(self.counts.get(value, 0) for value in values)

    def label(self, part: tuple[slice, ...] = ()) -> NDArray[np.uint8]:
        """The label values in a part of the volume, or in all of it."""
        stored = self.label_XYZ[part]
        return stored if self.origin is None else self.origin.table[stored]

    def annotates(self, name: str) -> bool:
        """Whether this class, one of those that the site annotates, was drawn in this case."""
        return self.origin is None or name in self.origin.annotates


def prepare(cases: Sequence[Case], recipe: Preprocess, cache: Path, workers: int = 2) -> Iterator[Volume]:
    """The prepared cases in order; those not in the cache, or not to be opened there, are read from NIfTI, several at a time.

    Their voxels are not looked at: that is `checked`, for the cases that are used.

    Raises:
        ValueError: a file cannot be read, or image and label do not fit; the message names the case.
    """
    with ThreadPoolExecutor(workers) as pool:
        folders = [pool.submit(_prepared_folder, case, recipe, cache) for case in cases]
        try:
            for case, folder in zip(cases, folders, strict=True):
                yield _renumbered(_opened(case, folder.result(), recipe, cache), case.origin)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def checked(case: Case, recipe: Preprocess, cache: Path) -> Volume:
    """A prepared case to work with: the first time in this process, its files are compared with their checksums.

    Raises:
        ValueError: as `prepare` does.
    """
    return _renumbered(_opened(case, _prepared_folder(case, recipe, cache), recipe, cache, sums=True), case.origin)


def content_of(case: Case, recipe: Preprocess, cache: Path) -> str:
    """32 hexadecimal digits that change with the bytes of a case's files and with the recipe, and with nothing else.

    Raises:
        ValueError: as `prepare` does.
    """
    return _prepared_folder(case, recipe, cache).name


def open_volume(case: str, folder: Path) -> Volume:
    """Memory-map a prepared case; whatever is raised, its folder is not as it was written."""
    meta = json.loads((folder / "meta.json").read_text())
    with (folder / "positions.npz").open("rb") as file, np.load(file, allow_pickle=False) as archive:
        positions = {int(value): archive[value] for value in archive.files}
    image_XYZ, label_XYZ = (np.load(folder / f"{part}.npy", mmap_mode="r", allow_pickle=False) for part in ("image", "label"))
    if image_XYZ.shape != label_XYZ.shape:
        raise ValueError(f"the label is {label_XYZ.shape} voxels, its image {image_XYZ.shape}")
    return Volume(
        case,
        image_XYZ,
        label_XYZ,
        positions,
        {int(value): count for value, count in meta["counts"].items()},
        tuple(meta["spacing"]),
        meta["floor"],
    )


def _renumbered(volume: Volume, origin: Origin | None) -> Volume:
    """The volume in its origin's numbers. Raises ValueError where its label holds a value that the origin does not know."""
    if origin is None:
        return volume
    check_values(volume.case, volume.counts, origin.numbers.keys())
    counts: dict[int, int] = {}
    positions: dict[int, list[NDArray[np.int32]]] = {}
    for value, number in origin.numbers.items():
        if number and value in volume.counts:
            counts[number] = counts.get(number, 0) + volume.counts[value]
            positions.setdefault(number, []).append(volume.positions[value])
    joined = {number: np.concatenate(found) for number, found in positions.items()}
    return replace(volume, origin=origin, counts=counts, positions=joined)


@once
def _check_once(folder: Path) -> None:
    """A gigabyte a second. What raises is no answer to be kept: the next use looks again."""
    durable.check(folder)


def _opened(case: Case, folder: Path, recipe: Preprocess, cache: Path, sums: bool = False) -> Volume:
    """The case from its folder; if that is damaged, from NIfTI once more: a cache must never be what stops a run."""
    try:
        if sums:
            _check_once(folder)
        return open_volume(case.name, folder)
    except Exception as error:  # damaged numbers and archives raise nearly anything
        if not durable.is_damage(error):
            raise
        LOG.warning("case %r: the prepared folder %s is damaged (%s) and is made again", case.name, folder, error)
    with suppress(FileNotFoundError):  # another process may make it again too
        shutil.rmtree(durable.put_away(folder), ignore_errors=True)
    return open_volume(case.name, _prepared_folder(case, recipe, cache))


def _prepared_folder(case: Case, recipe: Preprocess, cache: Path) -> Path:
    pointer = cache / "index" / _digest(repr(_stamp(case)), recipe.model_dump_json(), str(VERSION))
    known = pointer.read_bytes() if pointer.is_file() else b""
    if re.fullmatch(rb"[0-9a-f]{32}", known) and (folder := cache / "cases" / known.decode()).is_dir():
        return folder
    content = _digest(_file_hash(case, case.image), _file_hash(case, case.label), recipe.model_dump_json(), str(VERSION))
    folder = cache / "cases" / content
    if not folder.is_dir():
        for place in (folder.parent, pointer.parent):
            durable.sweep(place, DAY_S)
        _write_folder(folder, *read_case(case, recipe))
    with durable.drafted(pointer.parent) as draft:
        (draft / content).write_text(content)
        os.replace(draft / content, pointer)
    return folder


def _stamp(case: Case) -> list[Any]:
    try:
        stats = [(path.resolve(), path.stat()) for path in (case.image, case.label)]
    except OSError as error:
        raise unreadable(case.name, error.filename, error.strerror) from None
    for path, stat in stats:
        if not S_ISREG(stat.st_mode):  # a pipe would be waited for
            raise unreadable(case.name, path, "not a file")
    return [(str(path), stat.st_size, stat.st_mtime_ns) for path, stat in stats]


def _digest(*parts: str) -> str:
    """32 hexadecimal digits."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _file_hash(case: Case, path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(case.name, path, error.strerror) from None


# Writing --------------------------------------------------------------------------------------------------------------


def _write_folder(folder: Path, image_XYZ: NDArray, label_XYZ: NDArray[np.uint8], spacing: tuple[float, ...]) -> None:
    values, counts = np.unique(label_XYZ, return_counts=True)
    foreground = {int(value): int(count) for value, count in zip(values, counts, strict=True) if value}
    positions: dict[str, Any] = {str(value): _positions(label_XYZ, value) for value in foreground}
    meta = {"counts": foreground, "spacing": spacing, "floor": float(np.float16(image_XYZ.min()))}
    with durable.drafted(folder.parent) as draft:
        np.save(draft / "image.npy", image_XYZ.astype(np.float16))
        np.save(draft / "label.npy", label_XYZ)
        np.savez(draft / "positions.npz", **positions)
        (draft / "meta.json").write_text(json.dumps(meta))
        durable.seal(draft)
        try:
            os.replace(draft, folder)
        except OSError:
            if not folder.is_dir():  # else another site of the same disk was faster
                raise
    durable.sync_folder(folder.parent)


def _positions(label_XYZ: NDArray[np.uint8], value: int) -> NDArray[np.int32]:
    found = np.argwhere(label_XYZ == value).astype(np.int32)
    if len(found) > MAX_POSITIONS:
        found = found[np.sort(np.random.default_rng(value).choice(len(found), MAX_POSITIONS, replace=False))]
    return found
