"""Augmentation of a batch, on its device. What is drawn comes from the round's numpy generator, so that a CPU and a GPU
see the same flips, angles and gains; it needs no voxel, so it can be drawn before the batch is there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from clients.ahead import pinned, sent
from configs.schema import Augment

MAX_ANGLE = 0.25
"""Radians about each axis."""
MAX_SCALE = 0.15
MAX_SHEAR = 0.05
GIN_LAYERS = 4
GIN_CHANNELS = 2


@dataclass(frozen=True)
class Gin:
    """What chance said for `gin` of N images."""

    seed: int
    """Of the random convolutions."""
    sizes: tuple[int, ...]
    """1 or 3: each layer's kernel."""
    share_N: NDArray[np.float64]
    """Of the convolved image in the result."""


@dataclass(frozen=True)
class Intensity:
    """What chance said for the intensities of N images."""

    seed: int
    """Of the noise."""
    exponent_N: NDArray[np.float64]
    """exp of it is gamma."""
    gain_N: NDArray[np.float64]
    shift_N: NDArray[np.float64]
    """In deviations, as is `noise_N`."""
    noise_N: NDArray[np.float64]


@dataclass(frozen=True)
class Chance:
    """What chance said for a batch: which of its patches are changed, and how. Nothing for those none of which is."""

    flips_B3: NDArray[np.bool_]
    moved: tuple[NDArray[np.intp], NDArray[np.float64]] | None
    """Which N patches, and their affine maps [N, 3, 4]."""
    mixed: tuple[NDArray[np.intp], Gin] | None
    shaded: tuple[NDArray[np.intp], Intensity] | None


def chance(recipe: Augment, batch: int, sides: Sequence[int], rng: Generator) -> Chance:
    """Draw for a batch of patches with these sides."""
    flips_B3 = rng.random((batch, 3)) < np.asarray(recipe.flip)
    moved, mixed, shaded = None, None, None
    chosen = np.flatnonzero(rng.random(batch) < recipe.affine)
    if len(chosen):
        moved = chosen, np.stack([_matrix(sides, rng) for _ in chosen])
    chosen = np.flatnonzero(rng.random(batch) < recipe.gin)
    if len(chosen):
        mixed = chosen, draw_gin(len(chosen), rng)
    chosen = np.flatnonzero(rng.random(batch) < recipe.intensity)
    if len(chosen):
        shaded = chosen, _draw_intensity(len(chosen), rng)
    return Chance(flips_B3, moved, mixed, shaded)


def draw_gin(count: int, rng: Generator) -> Gin:
    """Draw for so many images."""
    seed = int(rng.integers(2**62))
    sizes = tuple(int(rng.choice([1, 3])) for _ in range(GIN_LAYERS))
    return Gin(seed, sizes, rng.random(count))


def _draw_intensity(count: int, rng: Generator) -> Intensity:
    exponent_N, seed = rng.uniform(-0.4, 0.4, count), int(rng.integers(2**62))
    return Intensity(
        seed, exponent_N, rng.uniform(0.85, 1.15, count), rng.uniform(-0.15, 0.15, count), rng.uniform(0, 0.1, count)
    )


def _matrix(sides: Sequence[int], rng: Generator) -> NDArray[np.float64]:
    """[3, 4]: rotation x scale x shear in voxels, expressed in grid_sample's coordinates (ZYX order, -1..1 per axis)."""
    a, b, c = rng.uniform(-MAX_ANGLE, MAX_ANGLE, 3)
    rotate_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    rotate_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    rotate_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    shear = np.eye(3) + np.triu(rng.uniform(-MAX_SHEAR, MAX_SHEAR, (3, 3)), 1)
    scale = np.diag(1 + rng.uniform(-MAX_SCALE, MAX_SCALE, 3))
    half = np.diag([side / 2 for side in reversed(sides)])
    linear = np.linalg.inv(half) @ rotate_x @ rotate_y @ rotate_z @ shear @ scale @ half
    return np.concatenate([linear, np.zeros((3, 1))], axis=1)


def augment(image_BCXYZ: Tensor, label_BXYZ: Tensor, recipe: Augment, rng: Generator) -> tuple[Tensor, Tensor]:
    """Images [B, 1, X, Y, Z] float32 and label values [B, X, Y, Z] uint8, augmented alike."""
    return augmented(image_BCXYZ, label_BXYZ, chance(recipe, len(image_BCXYZ), image_BCXYZ.shape[2:], rng))


def augmented(image_BCXYZ: Tensor, label_BXYZ: Tensor, drawn: Chance) -> tuple[Tensor, Tensor]:
    """The same with what was drawn; on a GPU the host does not wait for any of it."""
    image_BCXYZ, label_BXYZ = _flip(image_BCXYZ, label_BXYZ, drawn.flips_B3)
    if drawn.moved:
        image_BCXYZ, label_BXYZ = _affine(image_BCXYZ, label_BXYZ, *drawn.moved)
    if drawn.mixed:
        mixed, how = drawn.mixed
        image_BCXYZ = _replace(image_BCXYZ, mixed, lambda some: gin(some, how))
    if drawn.shaded:
        shaded, much = drawn.shaded
        image_BCXYZ = _replace(image_BCXYZ, shaded, lambda some: _intensity(some, much))
    return image_BCXYZ, label_BXYZ


def _replace(image_BCXYZ: Tensor, chosen: NDArray[np.intp], change: Callable[[Tensor], Tensor]) -> Tensor:
    index = _there(chosen, image_BCXYZ.device)
    return image_BCXYZ.index_copy(0, index, change(image_BCXYZ.index_select(0, index)))


def _there(numbers: NDArray, device: torch.device) -> Tensor:
    """On the device; numbers with a point as float32."""
    return sent(pinned(numbers.astype(np.float32) if numbers.dtype == np.float64 else numbers, device), device)


def _each(numbers_N: NDArray[np.float64], device: torch.device) -> Tensor:
    """[N, 1, 1, 1, 1] one number for each image."""
    return _there(numbers_N, device).view(-1, 1, 1, 1, 1)


def _flip(image_BCXYZ: Tensor, label_BXYZ: Tensor, flips_B3: np.ndarray) -> tuple[Tensor, Tensor]:
    if not flips_B3.any():
        return image_BCXYZ, label_BXYZ
    axes = [[axis - 3 for axis in range(3) if flips[axis]] for flips in flips_B3]
    images = [image.flip(dims) if dims else image for image, dims in zip(image_BCXYZ, axes, strict=True)]
    labels = [label.flip(dims) if dims else label for label, dims in zip(label_BXYZ, axes, strict=True)]
    return torch.stack(images), torch.stack(labels)


def _affine(
    image_BCXYZ: Tensor, label_BXYZ: Tensor, chosen: NDArray[np.intp], theta_N34: NDArray[np.float64]
) -> tuple[Tensor, Tensor]:
    index = _there(chosen, image_BCXYZ.device)
    image_NCXYZ, label_NXYZ = image_BCXYZ.index_select(0, index), label_BXYZ.index_select(0, index)
    grid = F.affine_grid(_there(theta_N34, image_BCXYZ.device), list(image_NCXYZ.shape), align_corners=False)
    moved = F.grid_sample(image_NCXYZ, grid, mode="bilinear", padding_mode="border", align_corners=False)
    label = F.grid_sample(label_NXYZ[:, None].float(), grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return image_BCXYZ.index_copy(0, index, moved), label_BXYZ.index_copy(0, index, label[:, 0].to(label_BXYZ.dtype))


def _intensity(image_BCXYZ: Tensor, drawn: Intensity) -> Tensor:
    """Gain, shift, gamma within the patch's own range, and noise of up to a tenth of its deviation."""
    device = image_BCXYZ.device
    low, high = image_BCXYZ.amin((1, 2, 3, 4), True), image_BCXYZ.amax((1, 2, 3, 4), True)
    reach = (high - low).clamp_min(1e-6)
    deviation = image_BCXYZ.std((1, 2, 3, 4), keepdim=True)
    image_BCXYZ = ((image_BCXYZ - low) / reach).pow(torch.exp(_each(drawn.exponent_N, device))) * reach + low
    noise = torch.randn(image_BCXYZ.shape, generator=torch.Generator(device).manual_seed(drawn.seed), device=device)
    shift, share = _each(drawn.shift_N, device) * deviation, _each(drawn.noise_N, device)
    return image_BCXYZ * _each(drawn.gain_N, device) + shift + noise * share * deviation


def gin(image_BCXYZ: Tensor, drawn: Gin) -> Tensor:
    """Global intensity non-linear augmentation (Ouyang et al., 2021, arXiv:2111.12525).

    Each image goes through its own shallow network of random convolutions (kernels 1 or 3, leaky ReLU) and is blended
    with itself by a random share; its Frobenius norm is kept.
    """
    batch, device = len(image_BCXYZ), image_BCXYZ.device
    generator = torch.Generator(device).manual_seed(drawn.seed)
    mixed = image_BCXYZ.reshape(1, batch, *image_BCXYZ.shape[2:])
    widths = [1, *[GIN_CHANNELS] * (GIN_LAYERS - 1), 1]
    for layer, (size, (width_in, width_out)) in enumerate(zip(drawn.sizes, pairwise(widths), strict=True)):
        kernel = torch.randn(batch * width_out, width_in, size, size, size, generator=generator, device=device)
        shift = torch.randn(batch * width_out, generator=generator, device=device)
        mixed = F.conv3d(mixed, kernel, shift, padding=size // 2, groups=batch)
        if layer < GIN_LAYERS - 1:
            mixed = F.leaky_relu(mixed)
    mixed = mixed.reshape(image_BCXYZ.shape)
    share = _each(drawn.share_N, device)
    blended = share * mixed + (1 - share) * image_BCXYZ
    norms = [x.flatten(1).norm(dim=1).clamp_min(1e-6).view(-1, 1, 1, 1, 1) for x in (image_BCXYZ, blended)]
    return blended * (norms[0] / norms[1])
