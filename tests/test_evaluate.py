"""Results on full volumes, against numbers worked out by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from clients.evaluate import predict, scores, truth_of
from clients.prepare import Volume
from configs.schema import Evaluate

SIDE = (8, 8, 8)


def box(*corners):
    """A mask [8, 8, 8] with a box; corners are (start, end) per axis, none: empty."""
    mask = np.zeros(SIDE, bool)
    if corners:
        mask[tuple(slice(*corner) for corner in corners)] = True
    return mask


def score(guess, truth, spacing=None):
    (row,) = scores(guess[None], truth[None], ["organ"], spacing)
    return row


HALF = box((0, 4), (0, 4), (0, 4)), box((2, 6), (0, 4), (0, 4))
"""Two boxes of 64 voxels that share 32."""


def test_dice_and_iou_by_hand():
    row = score(*HALF)
    assert row == {"class": "organ", "voxels": 64, "dice": 0.5, "dice.all": 0.5, "iou": 32 / 96}
    assert score(box((0, 4), (0, 4), (0, 4)), box((0, 8), (0, 4), (0, 4)))["dice"] == 2 * 64 / (64 + 128)
    assert score(HALF[0], HALF[0])["dice"] == score(HALF[0], HALF[0])["iou"] == 1
    missed = score(box(), HALF[0])
    assert (missed["dice"], missed["dice.all"], missed["iou"]) == (0, 0, 0)


def test_where_the_label_lacks_the_class_only_dice_all_speaks():
    absent, invented = score(box(), box()), score(box((1, 2), (1, 2), (1, 2)), box())
    assert (absent["dice"], absent["dice.all"], absent["iou"], absent["voxels"]) == (None, 1, None, 0)
    assert (invented["dice"], invented["dice.all"], invented["iou"]) == (None, 0, None)


def test_surfaces_are_measured_only_when_asked():
    assert "hd95" not in score(*HALF) and "nsd" not in score(*HALF)
    assert score(*HALF, (1, 1, 1)).keys() == {"class", "voxels", "dice", "dice.all", "iou", "hd95", "nsd"}


def test_identical_surfaces():
    row = score(HALF[0], HALF[0], (1, 1, 1))
    assert (row["hd95"], row["nsd"]) == (0, 1)


@pytest.mark.parametrize(("spacing", "hd95"), [((1, 1, 1), 3), ((2, 1, 1), 6), ((1, 5, 5), 3)])
def test_surface_distances_are_in_millimetres(spacing, hd95):
    """Two plates one voxel thick, three voxels apart along x."""
    row = score(box((1, 2), (0, 8), (0, 8)), box((4, 5), (0, 8), (0, 8)), spacing)
    assert row["hd95"] == pytest.approx(hd95)
    assert row["nsd"] == 0


def test_nsd_counts_what_lies_within_a_millimetre():
    """Plates one voxel apart: all within 1 mm at 1 mm a voxel, none at 2 mm."""
    plates = box((1, 2), (0, 8), (0, 8)), box((2, 3), (0, 8), (0, 8))
    assert score(*plates, (1, 1, 1))["nsd"] == pytest.approx(1)
    assert score(*plates, (2, 2, 2))["nsd"] == 0


@pytest.mark.parametrize(("guess", "truth"), [(box(), HALF[0]), (HALF[0], box())])
def test_one_side_empty_is_the_images_diagonal(guess, truth):
    row = score(guess, truth, (1, 2, 3))
    assert row["hd95"] == pytest.approx(np.sqrt(8**2 + 16**2 + 24**2))
    assert row["nsd"] == 0


def test_both_sides_empty_are_left_out():
    row = score(box(), box(), (1, 1, 1))
    assert (row["hd95"], row["nsd"]) == (None, None)


def test_each_class_has_its_row_in_order():
    rows = list(scores(np.stack([HALF[0], box()]), np.stack([HALF[0], HALF[1]]), ["a", "b"], None))
    assert [(row["class"], row["dice"]) for row in rows] == [("a", 1), ("b", 0)]
    for row in rows:
        assert all(isinstance(value, str | int | float) and not isinstance(value, np.generic) for value in row.values())


class Threshold(nn.Module):
    """A model of two rows: what is brighter than a half, and what is darker. It remembers the windows that it saw."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(10.0))
        self.windows = []

    def forward(self, image):
        self.windows.append(image.shape[2:])
        logits = self.scale * (image - 0.5)
        return torch.cat([logits, -logits], dim=1), image.flatten(1)[:, :2]


def volume(shape, floor=0.0):
    image = np.random.default_rng(0).random(shape).astype(np.float16)
    label = (image > 0.5).astype(np.uint8) + 2 * (image > 0.9).astype(np.uint8)
    return Volume("case", image, label, {}, {}, (1, 1, 1), floor)


@pytest.mark.parametrize("shape", [(20, 18, 13), (16, 16, 16), (9, 20, 5), (7, 5, 3)])
@pytest.mark.parametrize("rows", [[0], [1, 0]])
def test_a_volume_of_any_size_is_predicted_whole(shape, rows):
    model, whole = Threshold().eval(), volume(shape)
    prediction = predict(model, whole, rows, (16, 16, 16), Evaluate(overlap=0.5, batch=2))
    assert prediction.dtype == bool and prediction.shape == (len(rows), *shape)
    bright = whole.image_XYZ.astype(np.float32) > 0.5
    clear = abs(whole.image_XYZ.astype(np.float32) - 0.5) > 1e-3
    for found, row in zip(prediction, rows, strict=True):
        np.testing.assert_array_equal(found[clear], (bright if row == 0 else ~bright)[clear])
    assert set(model.windows) == {(16, 16, 16)}
    assert model.scale.grad is None


def test_outside_the_volume_is_its_darkest_value():
    seen = []

    class Eye(Threshold):
        def forward(self, image):
            seen.append(image.min().item())
            return super().forward(image)

    predict(Eye().eval(), volume((6, 6, 6), floor=-7.0), [0], (8, 8, 8), Evaluate())
    assert seen == [-7.0]


def test_the_truth_is_what_the_site_annotates_overlaps_and_all():
    whole = volume(SIDE)
    truth = truth_of(whole, {"bright": (1, 3), "very bright": (3,), "nowhere": (7,)})
    assert truth.dtype == bool and truth.shape == (3, *SIDE)
    np.testing.assert_array_equal(truth[0], whole.label_XYZ > 0)
    np.testing.assert_array_equal(truth[1], whole.label_XYZ == 3)
    assert not truth[2].any()
