"""Tensors as safetensors files."""

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file as read_tensors
from safetensors.numpy import save_file

from strategies.base import Weights

__all__ = ["read_tensors", "write_tensors"]


def write_tensors(tensors: Weights, path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write them down, row by row: safetensors takes an array's memory as it lies and garbles a transposed one (0.8)."""
    save_file({name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}, path, metadata)
