"""The loss and the uncertainties, against numbers worked out by hand."""

from math import exp, log

import numpy as np
import pytest
import torch

from clients.losses import binary_entropy, class_weights, targets, weighted_bce_dice
from clients.objectives import OBJECTIVES, make_objective


@pytest.mark.parametrize(
    ("voxels", "weights"),
    [
        ([100, 300, 0], [2.25, 1, 1]),  # 3 (1/100) / (1/100 + 1/300) = 2.25; 3 (1/300) / ... = .75 -> 1
        ([10, 10], [1, 1]),
        ([1, 99], [1.98, 1]),  # 2 / (1 + 1/99) = 1.98
        ([5], [1]),
        ([0, 0], [1, 1]),
    ],
)
def test_rare_classes_weigh_more_and_none_less_than_one(voxels, weights):
    np.testing.assert_allclose(class_weights(voxels), weights, rtol=1e-6)
    assert class_weights(voxels).dtype == np.float32


def test_an_absent_class_weighs_one_or_as_published_zero():
    np.testing.assert_allclose(class_weights([100, 300, 0], absent=0.0), [2.25, 1, 0])
    np.testing.assert_allclose(class_weights([0, 0], absent=0.0), [0, 0])


def test_targets_of_overlapping_classes():
    label = torch.tensor([0, 1, 5, 9], dtype=torch.uint8).reshape(1, 4, 1, 1)
    found = targets(label, [[1, 5], [5], [7]])
    assert found.dtype == torch.float32
    assert found[0, :, :, 0, 0].tolist() == [[0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]


def voxels(*rows):
    """[B, T, X, 1, 1] from nested lists [B][T][X]."""
    return torch.tensor(rows)[..., None, None]


def test_two_voxels_by_hand():
    """p = .5 and .75 where y = 1 and 0: BCE = (ln 2 + ln 4)/2, Dice = 1 - (2 x .5 + 1)/(1.25 + 1 + 1)."""
    loss, bce = weighted_bce_dice(voxels([[0.0, log(3)]]), voxels([[1.0, 0.0]]), torch.tensor([[1.0]]))
    assert bce.item() == pytest.approx(1.5 * log(2), rel=1e-6)
    assert loss.item() == pytest.approx(1.5 * log(2) + 1 - 2 / 3.25, rel=1e-6)


def test_classes_are_averaged_with_their_weights():
    """Both voxels at logit 0. Class a (y = 1, 1): Dice = 1 - 3/4; class b, absent: 1 - 1/2. Weights 3 and 1."""
    loss, bce = weighted_bce_dice(
        voxels([[0.0, 0.0], [0.0, 0.0]]), voxels([[1.0, 1.0], [0.0, 0.0]]), torch.tensor([[3.0, 1.0]])
    )
    assert bce.item() == pytest.approx((3 + 1) / 2 * log(2), rel=1e-6)
    assert loss.item() == pytest.approx((3 * (log(2) + 0.25) + (log(2) + 0.5)) / 2, rel=1e-6)


def test_a_perfect_prediction_costs_nothing_also_where_the_class_is_absent():
    target = voxels([[1.0, 0.0], [0.0, 0.0]])
    loss, bce = weighted_bce_dice((target - 0.5) * 200, target, torch.ones((1, 2)))
    assert (loss.item(), bce.item()) == (pytest.approx(0, abs=1e-6), pytest.approx(0, abs=1e-6))


def test_dice_is_over_the_whole_crop_and_not_per_slice():
    """One of four slices holds the class: the empty ones add their mistakes, not a loss of 1 each."""
    target = torch.zeros((1, 1, 4, 2, 2))
    target[0, 0, 1] = 1
    loss, bce = weighted_bce_dice(torch.zeros_like(target), target, torch.ones((1, 1)))
    assert (loss - bce).item() == pytest.approx(1 - (2 * 2 + 1) / (8 + 4 + 1), rel=1e-6)


def test_statistics_are_each_samples_own():
    generator = torch.Generator().manual_seed(0)
    logits, target = torch.randn((3, 2, 4, 4, 4), generator=generator), torch.rand((3, 2, 4, 4, 4), generator=generator).round()
    weight = torch.tensor([[1.0, 2.0], [1.5, 1.0], [1.0, 0.0]])
    together = (*weighted_bce_dice(logits, target, weight), binary_entropy(logits))
    for i in range(3):
        one = slice(i, i + 1)
        alone = (*weighted_bce_dice(logits[one], target[one], weight[one]), binary_entropy(logits[one]))
        for both, single in zip(together, alone, strict=True):
            assert both.shape == (3,)
            torch.testing.assert_close(both[one], single)


def test_a_class_without_weight_gets_exactly_no_gradient():
    logits = torch.randn((1, 2, 3, 3, 3), generator=torch.Generator().manual_seed(0)).requires_grad_()
    weighted_bce_dice(logits, torch.zeros_like(logits), torch.tensor([[1.0, 0.0]]))[0].sum().backward()
    assert (logits.grad[:, 0] != 0).all()
    assert (logits.grad[:, 1] == 0).all()


def test_an_absent_class_with_weight_one_is_pushed_down():
    logits = torch.zeros((1, 1, 2, 2, 2), requires_grad=True)
    weighted_bce_dice(logits, torch.zeros_like(logits), torch.ones((1, 1)))[0].sum().backward()
    assert (logits.grad > 0).all()


def test_entropy_is_ln_2_in_doubt_and_0_in_certainty():
    assert binary_entropy(voxels([[0.0, 0.0]])).item() == pytest.approx(log(2), rel=1e-6)
    for logit in (60.0, -60.0, 1e4, -1e4):
        assert binary_entropy(voxels([[logit]])).item() == pytest.approx(0, abs=1e-6)
    p = 0.75
    expected = -(p * log(p) + (1 - p) * log(1 - p))
    assert binary_entropy(voxels([[log(3), -log(3)]])).item() == pytest.approx(expected, rel=1e-6)
    assert binary_entropy(voxels([[0.0], [200.0]])).item() == pytest.approx(log(2) / 2, rel=1e-6)


def test_huge_logits_stay_finite():
    loss, bce = weighted_bce_dice(voxels([[1e4, -1e4]]), voxels([[0.0, 1.0]]), torch.ones((1, 1)))
    assert bce.item() == pytest.approx(1e4)
    assert loss.item() == pytest.approx(1e4 + 1 - 1 / 3)
    assert exp(-loss.item()) == 0


def test_objectives_are_looked_up_by_name():
    assert all(type(make_objective(name)).__name__.lower() == name for name in OBJECTIVES)
    with pytest.raises(ValueError, match="there is no 'plane'; did you mean 'plain'"):
        make_objective("plane")
