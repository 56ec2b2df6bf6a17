"""A site's memory on its own disk: one safetensors file, replaced atomically.

Numbers are arrays in the order of the samples, everything else is JSON in the file's metadata. Nothing is pickled.
"""

import json
import os
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from memory.sample import Sample

FILE = "memory.safetensors"
METADATA = "memory"
FLOATS = ("key", "loss", "uncertainty", "uniqueness")
COUNTS = ("arrived", "visits")
VECTORS = {"feature": np.float32, "sketch": np.int8}
VECTOR_TENSORS = tuple(name for vector in VECTORS for name in (f"has_{vector}", f"{vector}_NE"))


def save(samples: Sequence[Sample], folder: Path) -> None:
    """Write the memory into `folder`; a reader sees the old file or the new one, never a half.

    Raises:
        ValueError: the samples' features (float32) or sketches (int8) are not vectors of one length.
    """
    facts = json.dumps([_facts(sample) for sample in samples])
    tensors = _tensors(samples)
    told = {"samples": facts, "sha256": _digest(tensors, facts)}
    content = to_bytes(tensors, {METADATA: json.dumps(told)})  # one key: safetensors writes several in no fixed order
    folder.mkdir(parents=True, exist_ok=True)
    # One writer per site folder, so the name is free; a leftover of a killed writer is overwritten.
    part = folder / f".{FILE}.part"
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, folder / FILE)
    finally:
        part.unlink(missing_ok=True)
    _sync_folder(folder)


def load(folder: Path) -> list[Sample]:
    """The samples that `save` wrote, bit for bit and in the same order.

    Raises:
        ValueError: the file is missing, torn, or not what was written.
    """
    path = folder / FILE
    if not path.is_file():
        raise ValueError(f"{path}: no memory is stored here")
    try:
        with safe_open(path, framework="np") as file:
            told = json.loads((file.metadata() or {})[METADATA])
            tensors = {name: file.get_tensor(name) for name in (*FLOATS, *COUNTS, *VECTOR_TENSORS)}
        if told["sha256"] != _digest(tensors, told["samples"]):
            raise ValueError("its content does not match its checksum")
        return _samples(tensors, json.loads(told["samples"]))
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: the stored memory is damaged ({error})") from None


def _facts(sample: Sample) -> dict[str, Any]:
    scores = {name: float(value) for name, value in sample.scores.items()}
    return {
        "case": sample.case,
        "orphan": bool(sample.orphan),
        "scores": scores,
        "classes": sorted(sample.classes),
        "domain": sample.domain,
    }


def _tensors(samples: Sequence[Sample]) -> dict[str, NDArray]:
    tensors: dict[str, NDArray] = {name: np.array([getattr(s, name) for s in samples], np.float64) for name in FLOATS}
    tensors |= {name: np.array([getattr(s, name) for s in samples], np.int64) for name in COUNTS}
    for name, dtype in VECTORS.items():
        tensors[f"has_{name}"] = np.array([getattr(s, name) is not None for s in samples], np.bool_)
        tensors[f"{name}_NE"] = _vectors(samples, name, np.dtype(dtype))
    return tensors


def _vectors(samples: Sequence[Sample], name: str, dtype: np.dtype) -> NDArray:
    """[N, E] of a vector field, zero where a sample has none; E is 0 when none has."""
    present = {i: vector for i, sample in enumerate(samples) if (vector := getattr(sample, name)) is not None}
    length = len(next(iter(present.values()), ()))
    vector_NE = np.zeros((len(samples), length), dtype)
    for i, vector in present.items():
        if vector.dtype != dtype or vector.shape != (length,):
            found = f"{vector.dtype} {vector.shape}"
            raise ValueError(f"the {name} of case {samples[i].case!r} is {found}, not {dtype} ({length},) as the first")
        vector_NE[i] = vector
    return vector_NE


def _samples(tensors: Mapping[str, NDArray], facts: Sequence[Mapping[str, Any]]) -> list[Sample]:
    columns = {name: tensors[name].tolist() for name in (*FLOATS, *COUNTS)}
    samples = []
    for i, fact in enumerate(facts):
        numbers = {name: column[i] for name, column in columns.items()}
        # A copy, so that a sample that stays does not hold the whole matrix.
        vectors: dict[str, Any] = {
            name: tensors[f"{name}_NE"][i].copy() if tensors[f"has_{name}"][i] else None for name in VECTORS
        }
        samples.append(Sample(**{**fact, "classes": frozenset(fact["classes"])}, **numbers, **vectors))
    return samples


def _digest(tensors: Mapping[str, NDArray], facts: str) -> str:
    digest = sha256(facts.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
        digest.update(np.ascontiguousarray(tensor).tobytes())
    return digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    """Make a renaming in it durable (POSIX; elsewhere a folder cannot be opened)."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
