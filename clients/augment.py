"""Augmentation of a batch, on its device. What is drawn comes from the round's numpy generator, so that a CPU and a GPU
see the same flips, angles and gains."""

from itertools import pairwise

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor
from torch.nn import functional as F

from configs.schema import Augment

MAX_ANGLE = 0.25
"""Radians about each axis."""
MAX_SCALE = 0.15
MAX_SHEAR = 0.05
GIN_LAYERS = 4
GIN_CHANNELS = 2


def augment(image_BCXYZ: Tensor, label_BXYZ: Tensor, recipe: Augment, rng: Generator) -> tuple[Tensor, Tensor]:
    """Images [B, 1, X, Y, Z] float32 and label values [B, X, Y, Z] uint8, augmented alike."""
    batch = len(image_BCXYZ)
    image_BCXYZ, label_BXYZ = _flip(image_BCXYZ, label_BXYZ, rng.random((batch, 3)) < np.asarray(recipe.flip))
    chosen = np.flatnonzero(rng.random(batch) < recipe.affine)
    if len(chosen):
        image_BCXYZ, label_BXYZ = _affine(image_BCXYZ, label_BXYZ, chosen, rng)
    chosen = np.flatnonzero(rng.random(batch) < recipe.gin)
    if len(chosen):
        image_BCXYZ = _replace(image_BCXYZ, chosen, gin(image_BCXYZ[chosen], rng))
    chosen = np.flatnonzero(rng.random(batch) < recipe.intensity)
    if len(chosen):
        image_BCXYZ = _replace(image_BCXYZ, chosen, _intensity(image_BCXYZ[chosen], rng))
    return image_BCXYZ, label_BXYZ


def _replace(image_BCXYZ: Tensor, chosen: np.ndarray, changed: Tensor) -> Tensor:
    return image_BCXYZ.index_copy(0, torch.as_tensor(chosen, device=image_BCXYZ.device), changed)


def _flip(image_BCXYZ: Tensor, label_BXYZ: Tensor, flips_B3: np.ndarray) -> tuple[Tensor, Tensor]:
    if not flips_B3.any():
        return image_BCXYZ, label_BXYZ
    axes = [[axis - 3 for axis in range(3) if flips[axis]] for flips in flips_B3]
    images = [image.flip(dims) if dims else image for image, dims in zip(image_BCXYZ, axes, strict=True)]
    labels = [label.flip(dims) if dims else label for label, dims in zip(label_BXYZ, axes, strict=True)]
    return torch.stack(images), torch.stack(labels)


def _affine(image_BCXYZ: Tensor, label_BXYZ: Tensor, chosen: np.ndarray, rng: Generator) -> tuple[Tensor, Tensor]:
    sides = image_BCXYZ.shape[2:]
    theta = np.stack([_matrix(sides, rng) for _ in chosen])
    theta_N34 = torch.as_tensor(theta, dtype=torch.float32, device=image_BCXYZ.device)
    image_NCXYZ, label_NXYZ = image_BCXYZ[chosen], label_BXYZ[chosen]
    grid = F.affine_grid(theta_N34, list(image_NCXYZ.shape), align_corners=False)
    moved = F.grid_sample(image_NCXYZ, grid, mode="bilinear", padding_mode="border", align_corners=False)
    label = F.grid_sample(label_NXYZ[:, None].float(), grid, mode="nearest", padding_mode="zeros", align_corners=False)
    index = torch.as_tensor(chosen, device=image_BCXYZ.device)
    return image_BCXYZ.index_copy(0, index, moved), label_BXYZ.index_copy(0, index, label[:, 0].to(label_BXYZ.dtype))


def _matrix(sides: torch.Size, rng: Generator) -> np.ndarray:
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


def _intensity(image_BCXYZ: Tensor, rng: Generator) -> Tensor:
    """Gain, shift, gamma within the patch's own range, and noise of up to a tenth of its deviation."""
    batch, device = len(image_BCXYZ), image_BCXYZ.device

    def drawn(low: float, high: float) -> Tensor:
        return torch.as_tensor(rng.uniform(low, high, (batch, 1, 1, 1, 1)), dtype=torch.float32, device=device)

    low, high = image_BCXYZ.amin((1, 2, 3, 4), True), image_BCXYZ.amax((1, 2, 3, 4), True)
    reach = (high - low).clamp_min(1e-6)
    deviation = image_BCXYZ.std((1, 2, 3, 4), keepdim=True)
    image_BCXYZ = ((image_BCXYZ - low) / reach).pow(torch.exp(drawn(-0.4, 0.4))) * reach + low
    noise = torch.randn(image_BCXYZ.shape, generator=_generator(rng, device), device=device)
    return image_BCXYZ * drawn(0.85, 1.15) + drawn(-0.15, 0.15) * deviation + noise * drawn(0, 0.1) * deviation


def gin(image_BCXYZ: Tensor, rng: Generator) -> Tensor:
    """Global intensity non-linear augmentation (Ouyang et al., 2021, arXiv:2111.12525).

    Each image goes through its own shallow network of random convolutions (kernels 1 or 3, leaky ReLU) and is blended
    with itself by a random share; its Frobenius norm is kept.
    """
    batch, device = len(image_BCXYZ), image_BCXYZ.device
    generator = _generator(rng, device)
    mixed = image_BCXYZ.reshape(1, batch, *image_BCXYZ.shape[2:])
    widths = [1, *[GIN_CHANNELS] * (GIN_LAYERS - 1), 1]
    for layer, (width_in, width_out) in enumerate(pairwise(widths)):
        size = int(rng.choice([1, 3]))
        kernel = torch.randn(batch * width_out, width_in, size, size, size, generator=generator, device=device)
        shift = torch.randn(batch * width_out, generator=generator, device=device)
        mixed = F.conv3d(mixed, kernel, shift, padding=size // 2, groups=batch)
        if layer < GIN_LAYERS - 1:
            mixed = F.leaky_relu(mixed)
    mixed = mixed.reshape(image_BCXYZ.shape)
    share = torch.as_tensor(rng.random((batch, 1, 1, 1, 1)), dtype=torch.float32, device=device)
    blended = share * mixed + (1 - share) * image_BCXYZ
    norms = [x.flatten(1).norm(dim=1).clamp_min(1e-6).view(-1, 1, 1, 1, 1) for x in (image_BCXYZ, blended)]
    return blended * (norms[0] / norms[1])


def _generator(rng: Generator, device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(int(rng.integers(2**62)))
