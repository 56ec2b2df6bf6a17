"""Augmentation: image and label move together, and everything follows from the generator."""

import numpy as np
import pytest
import torch

from clients.augment import MAX_ANGLE, MAX_SCALE, _matrix, augment, draw_gin, gin
from configs.schema import Augment

OFF = Augment(flip=(0, 0, 0), affine=0, intensity=0, gin=0)


def only(**probabilities):
    return Augment(**{**OFF.model_dump(), **probabilities})


@pytest.fixture
def batch():
    """Three volumes [1, 20, 18, 16] with a bright box, labelled 3, away from every border and off the centre."""
    image = torch.rand((3, 1, 20, 18, 16), generator=torch.Generator().manual_seed(0)) * 0.1
    label = torch.zeros((3, 20, 18, 16), dtype=torch.uint8)
    label[:, 4:11, 5:12, 7:12] = 3
    image[:, 0][label == 3] += 1.0
    return image, label


def run(batch, recipe, seed=0):
    return augment(*(part.clone() for part in batch), recipe, np.random.default_rng(seed))


def overlap(image, label):
    """Dice of what is bright and what is labelled."""
    bright, marked = image[0] > 0.5, label == 3
    return 2 * (bright & marked).sum().item() / (bright.sum() + marked.sum()).item()


def test_with_everything_off_nothing_changes(batch):
    image, label = run(batch, OFF)
    assert torch.equal(image, batch[0])
    assert torch.equal(label, batch[1])


@pytest.mark.parametrize("recipe", [only(flip=(0.5, 0.5, 0.5)), only(affine=1), only(flip=(1, 0, 1), affine=1)])
def test_image_and_label_move_together(batch, recipe):
    for seed in range(8):
        image, label = run(batch, recipe, seed)
        assert not torch.equal(label, batch[1])
        assert set(label.unique().tolist()) == {0, 3}
        for i in range(3):
            assert overlap(image[i], label[i]) > 0.85, (seed, i)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_flip_is_along_its_own_axis(batch, axis):
    image, label = run(batch, only(flip=tuple(float(i == axis) for i in range(3))))
    assert torch.equal(image, batch[0].flip(axis + 2))
    assert torch.equal(label, batch[1].flip(axis + 1))


def test_each_patch_of_a_batch_is_flipped_or_not_for_itself(batch):
    image, _ = run(batch, only(flip=(0.5, 0, 0)), seed=0)
    flipped = [torch.equal(image[i], batch[0][i].flip(1)) for i in range(3)]
    kept = [torch.equal(image[i], batch[0][i]) for i in range(3)]
    assert any(flipped) and any(kept) and all(a != b for a, b in zip(flipped, kept, strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_an_affine_keeps_distances_in_voxels_whatever_the_patchs_sides(seed):
    """Half-sides undone, the matrix is a rotation but for scale and shear: singular values near 1, and small angles."""
    sides = torch.Size([40, 20, 10])
    half = np.diag([side / 2 for side in reversed(sides)])
    voxels = half @ _matrix(sides, np.random.default_rng(seed))[:, :3] @ np.linalg.inv(half)
    assert (abs(np.linalg.svd(voxels)[1] - 1) < MAX_SCALE + 0.08).all()
    assert (abs(voxels - np.eye(3)) < MAX_SCALE + np.sin(2.2 * MAX_ANGLE)).all()


def test_an_affine_of_one_patch_leaves_the_others_alone(batch):
    image, label = run(batch, only(affine=0.4), seed=3)
    moved = [not torch.equal(image[i], batch[0][i]) for i in range(3)]
    assert moved == [not torch.equal(label[i], batch[1][i]) for i in range(3)]
    assert any(moved) and not all(moved)


@pytest.mark.parametrize("recipe", [only(intensity=1), only(gin=1)])
def test_intensities_leave_the_label_alone(batch, recipe):
    image, label = run(batch, recipe)
    assert torch.equal(label, batch[1])
    assert not torch.equal(image, batch[0])
    assert torch.isfinite(image).all()


def test_gin_keeps_the_norm_and_treats_each_image_for_itself(batch):
    changed = gin(batch[0], draw_gin(3, np.random.default_rng(0)))
    norms = [x.flatten(1).norm(dim=1) for x in (batch[0], changed)]
    torch.testing.assert_close(norms[0], norms[1])
    same = gin(batch[0][:1].expand(3, -1, -1, -1, -1).contiguous(), draw_gin(3, np.random.default_rng(0)))
    assert not torch.allclose(same[0], same[1]) and not torch.allclose(same[1], same[2])


def test_gin_of_one_image_does_not_read_its_neighbours(batch):
    other = batch[0].clone()
    other[1:] = 7.0
    first, second = (gin(image, draw_gin(3, np.random.default_rng(0)))[0] for image in (batch[0], other))
    torch.testing.assert_close(first, second)


def test_noise_is_a_share_of_the_images_own_deviation(batch):
    small, large = run(batch, only(intensity=1))[0], run((batch[0] * 1000, batch[1]), only(intensity=1))[0]
    torch.testing.assert_close(small * 1000, large, rtol=1e-3, atol=0.5)


@pytest.mark.parametrize("fill", [0.0, -2.5])
def test_a_constant_image_stays_finite(fill):
    image, label = torch.full((2, 1, 8, 8, 8), fill), torch.zeros((2, 8, 8, 8), dtype=torch.uint8)
    assert torch.isfinite(run((image, label), only(intensity=1, gin=1, affine=1))[0]).all()


def test_everything_at_once_is_deterministic_and_keeps_shapes_and_types(batch):
    recipe = Augment(flip=(0.5, 0.5, 0.5), affine=1, intensity=1, gin=1)
    torch.manual_seed(1)
    image, label = run(batch, recipe, seed=4)
    torch.manual_seed(2)  # the global generator has no say
    again = run(batch, recipe, seed=4)
    other = run(batch, recipe, seed=5)
    assert torch.equal(image, again[0]) and torch.equal(label, again[1])
    assert not torch.equal(image, other[0])
    assert (image.shape, image.dtype) == (batch[0].shape, torch.float32)
    assert (label.shape, label.dtype) == (batch[1].shape, torch.uint8)


def test_probabilities_are_probabilities():
    image, label = torch.rand((400, 1, 4, 4, 4)), torch.zeros((400, 4, 4, 4), dtype=torch.uint8)
    changed = augment(image, label, only(intensity=0.3), np.random.default_rng(0))[0]
    share = (changed != image).flatten(1).any(1).float().mean().item()
    assert abs(share - 0.3) < 0.07
