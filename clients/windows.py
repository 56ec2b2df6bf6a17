"""Sliding windows over several volumes: MONAI's geometry and blending, in full batches whichever volume a window is of.

MONAI's sliding_window_inference takes one volume at a time, so that a volume of one window is a batch of one. The logits are
its logits: the same windows, added up in the same order; only a network that computes another batch size in another way
(rounding) can tell the difference. They stay on the device.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Network = Callable[[Tensor], Tensor]
"""Windows [B, 1, X, Y, Z] to logits [B, T, X, Y, Z], both float32."""
Window = tuple[slice, ...]
Image = tuple[NDArray[np.float16], float]
"""[X, Y, Z] and its darkest value, which is what lies outside it."""


@dataclass
class _Canvas:
    """A volume under way."""

    image_XYZ: Tensor
    """float16, at least as large as a window."""
    inside: Window
    """Where the volume lies in it."""
    windows: list[Window]
    painted: int = 0
    """Windows that are done, the first ones."""
    sum_TXYZ: Tensor | None = None
    """Weighted logits."""


def blended(
    images: Iterable[Image], network: Network, patch: Sequence[int], overlap: float, batch: int, device: torch.device
) -> Iterator[Tensor]:
    """[T, X, Y, Z] logits of each volume in order, on the device, blended from overlapping windows with Gaussian weights.

    A volume is read when its first window has a place in a batch, and given back after its last: with one window at a time
    there is one volume on the device.
    """
    weight_XYZ = _importance(tuple(patch), device)
    open_ones: deque[_Canvas] = deque()
    waiting: list[tuple[_Canvas, Window]] = []
    for image in images:
        open_ones.append(canvas := _begin(image, patch, overlap, device))
        for window in canvas.windows:
            waiting.append((canvas, window))
            if len(waiting) == batch:
                _paint(waiting, network, weight_XYZ)
                waiting.clear()
        del canvas  # a finished volume is not held while the caller works on its logits
        while open_ones and _is_done(open_ones[0]):
            yield _finish(open_ones.popleft(), weight_XYZ)
    if waiting:
        _paint(waiting, network, weight_XYZ)
        waiting.clear()
    while open_ones:
        yield _finish(open_ones.popleft(), weight_XYZ)


@lru_cache(maxsize=4)
def _importance(patch: tuple[int, ...], device: torch.device) -> Tensor:
    """[X, Y, Z] Gaussian weight of a window's voxels."""
    from monai.data.utils import compute_importance_map

    return compute_importance_map(patch, mode="gaussian", sigma_scale=0.125, device=device, dtype=torch.float32)


@torch.inference_mode()
def _begin(image: Image, patch: Sequence[int], overlap: float, device: torch.device) -> _Canvas:
    from monai.data.utils import dense_patch_slices

    stored_XYZ, floor = image
    image_XYZ = torch.from_numpy(np.array(stored_XYZ)).to(device)  # a copy: what is memory-mapped is read-only
    short = [max(side - size, 0) for side, size in zip(patch, stored_XYZ.shape, strict=True)]
    before = [missing // 2 for missing in short]
    inside = tuple(slice(start, start + size) for start, size in zip(before, stored_XYZ.shape, strict=True))
    if any(short):
        edges = [edge for start, missing in zip(before, short, strict=True) for edge in (missing - start, start)]
        image_XYZ = F.pad(image_XYZ, edges[::-1], value=floor)
    sizes = tuple(image_XYZ.shape)
    strides = [side if side == size else max(int(side * (1 - overlap)), 1) for side, size in zip(patch, sizes, strict=True)]
    return _Canvas(image_XYZ, inside, list(dense_patch_slices(sizes, patch, strides)))


@torch.inference_mode()
def _paint(batch: Sequence[tuple[_Canvas, Window]], network: Network, weight_XYZ: Tensor) -> None:
    windows_BXYZ = torch.stack([canvas.image_XYZ[window] for canvas, window in batch])
    logits_BTXYZ = network(windows_BXYZ[:, None].float())
    logits_BTXYZ *= weight_XYZ
    for (canvas, window), logits_TXYZ in zip(batch, logits_BTXYZ, strict=True):
        if canvas.sum_TXYZ is None:
            canvas.sum_TXYZ = logits_TXYZ.new_zeros((len(logits_TXYZ), *canvas.image_XYZ.shape))
        canvas.sum_TXYZ[(slice(None), *window)] += logits_TXYZ
        canvas.painted += 1


def _is_done(canvas: _Canvas) -> bool:
    return canvas.painted == len(canvas.windows)


@torch.inference_mode()
def _finish(canvas: _Canvas, weight_XYZ: Tensor) -> Tensor:
    """[T, X, Y, Z] a finished volume's logits, without what lies outside it."""
    assert canvas.sum_TXYZ is not None and _is_done(canvas)
    total_XYZ = torch.zeros_like(canvas.image_XYZ, dtype=torch.float32)
    for window in canvas.windows:
        total_XYZ[window] += weight_XYZ
    canvas.sum_TXYZ /= total_XYZ
    return canvas.sum_TXYZ[(slice(None), *canvas.inside)]
