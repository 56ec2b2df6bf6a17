"""Patches: where they are centred, and what they hold at and beyond the volume's border."""

import numpy as np
import pytest

from clients.patches import cut, cut_batch
from clients.prepare import Volume


def volume(shape, label=None, floor=-3.0):
    """A volume whose every voxel says where it is: 100 x + 10 y + z (sides up to 10)."""
    x, y, z = np.indices(shape)
    label = np.zeros(shape, np.uint8) if label is None else label
    values = [int(value) for value in np.unique(label) if value]
    positions = {value: np.argwhere(label == value).astype(np.int32) for value in values}
    counts = {value: len(found) for value, found in positions.items()}
    return Volume("case", (100 * x + 10 * y + z).astype(np.float16), label, positions, counts, (1, 1, 1), floor)


def patch_at(whole, centre, side):
    image, label = np.empty(side, np.float16), np.empty(side, np.uint8)
    cut(whole, centre, image, label)
    return image, label


@pytest.mark.parametrize(
    ("centre", "start"),
    [((5, 5, 5), (3, 3, 3)), ((0, 1, 2), (0, 0, 0)), ((9, 8, 7), (6, 6, 5)), ((2, 0, 9), (0, 0, 6))],
)
def test_a_patch_is_moved_inside_the_volume(centre, start):
    whole = volume((10, 10, 10))
    image, _ = patch_at(whole, centre, (4, 4, 4))
    x, y, z = start
    np.testing.assert_array_equal(image, whole.image_XYZ[x : x + 4, y : y + 4, z : z + 4])
    assert all(begin <= middle < begin + 4 for begin, middle in zip(start, centre, strict=True))


def test_where_the_volume_is_smaller_it_is_centred_in_the_darkest_value():
    label = np.ones((2, 10, 3), np.uint8)
    image, found = patch_at(volume((2, 10, 3), label), (1, 9, 0), (5, 4, 4))
    assert image.shape == found.shape == (5, 4, 4)
    np.testing.assert_array_equal(image[1:3, :, 0:3], volume((2, 10, 3)).image_XYZ[:, 6:10])
    outside = np.ones(image.shape, bool)
    outside[1:3, :, 0:3] = False
    assert (image[outside] == -3).all() and (found[outside] == 0).all() and (found[~outside] == 1).all()


def test_a_batch_has_one_patch_of_each_volume_in_order():
    near, far = volume((6, 6, 6)), volume((9, 9, 9), floor=0)
    image, label = cut_batch([near, far], [[1]], (6, 6, 6), 0.5, np.random.default_rng(0))
    assert (image.shape, image.dtype) == ((2, 1, 6, 6, 6), np.float16)
    assert (label.shape, label.dtype) == ((2, 6, 6, 6), np.uint8)
    np.testing.assert_array_equal(image[0, 0], near.image_XYZ)


def centres(whole, values, foreground, n=2000):
    """Label values under the centres of n patches of one voxel."""
    rng = np.random.default_rng(1)
    return np.array([cut_batch([whole], values, (1, 1, 1), foreground, rng)[1].item() for _ in range(n)])


@pytest.fixture
def scattered():
    """1000 voxels: class 1 is 40 of them, class 2 is 2 and class 3 is 10."""
    label = np.zeros((10, 10, 10), np.uint8)
    label[0:4, 0], label[9, 9, 8:], label[5, 5] = 1, 2, 3
    return volume(label.shape, label)


def test_the_share_of_centred_patches_is_as_asked_and_classes_come_alike(scattered):
    found = centres(scattered, [[1], [2], [3]], 0.6)
    for value, count in ((1, 40), (2, 2), (3, 10)):
        assert abs((found == value).mean() - (0.6 / 3 + 0.4 * count / 1000)) < 0.04, value


def test_always_and_never(scattered):
    assert (centres(scattered, [[1], [2]], 1.0, 200) > 0).all()
    assert abs((centres(scattered, [[1], [2]], 0.0) > 0).mean() - 0.052) < 0.02


def test_classes_that_are_not_annotated_attract_no_patch(scattered):
    found = centres(scattered, [[2]], 1.0, 200)
    assert set(found) == {2}


def test_a_class_that_the_case_lacks_leaves_its_share_to_the_others(scattered):
    assert set(centres(scattered, [[7], [2]], 1.0, 200)) == {2}
    assert abs((centres(scattered, [[7]], 1.0) > 0).mean() - 0.052) < 0.02


def test_a_class_of_several_values_counts_once(scattered):
    found = centres(scattered, [[1, 3], [2]], 1.0)
    assert abs((found == 2).mean() - 0.5) < 0.04
    assert set(found) == {1, 2, 3}


def test_the_same_generator_cuts_the_same_patches(scattered):
    first, second = (cut_batch([scattered] * 3, [[1]], (4, 4, 4), 0.7, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
