"""A training step: it learns, it touches what the site annotates only, and it can stop and go on without a trace."""

import numpy as np
import pytest
import torch

from clients.losses import weighted_bce_dice
from clients.model import HEAD, load_shared, shared_weights
from clients.objective import Terms
from clients.train import MAX_DROPPED, Trainer
from tests.phantom_steps import CLASSES, RECIPE, content, fresh, make_batches


@pytest.fixture(scope="module")
def batches(phantom_root):
    return make_batches(phantom_root)


def test_the_loss_falls_on_one_batch(batches):
    trainer = Trainer(fresh(), [0, 1], RECIPE.model_copy(update={"lr": 0.03}))
    losses = [trainer.step(*batches[0]).loss_B.mean() for _ in range(10)]
    assert losses[-1] < 0.85 * losses[0]
    assert (trainer.steps, trainer.dropped) == (10, 0)


def test_a_step_tells_what_the_loss_says_of_each_sample(batches):
    model = fresh()
    image, target, weight = batches[0]
    with torch.no_grad():
        logits, feature = model.train()(image)
        loss, bce = weighted_bce_dice(logits[:, :2], target, weight)
    step = Trainer(model, [0, 1], RECIPE).step(image, target, weight)
    np.testing.assert_allclose(step.loss_B, loss.numpy(), rtol=1e-6)
    np.testing.assert_allclose(step.bce_B, bce.numpy(), rtol=1e-6)
    np.testing.assert_allclose(step.feature_BE, feature.numpy(), rtol=1e-5)
    assert step.feature_BE.dtype == np.float32
    assert ((step.entropy_B > 0) & (step.entropy_B <= np.log(2))).all()


# What the site does not annotate --------------------------------------------------------------------------------------


def test_rows_that_are_not_annotated_stay_bit_for_bit(batches):
    model = fresh()
    before = shared_weights(model)
    trainer = Trainer(model, [2, 0], RECIPE)
    for batch in batches:
        trainer.step(*batch)
        for tensor in trainer._head:
            assert (tensor.grad[1] == 0).all() and (tensor.grad[[0, 2]] != 0).any()
    after, moments = shared_weights(model), trainer.moments()
    for name in HEAD:
        np.testing.assert_array_equal(after[name][1], before[name][1])
        assert (after[name][0] != before[name][0]).all() and (after[name][2] != before[name][2]).all()
        for key in ("exp_avg", "exp_avg_sq"):
            assert (moments[f"{name}|{key}"][1] == 0).all()
            assert (moments[f"{name}|{key}"][[0, 2]] != 0).all()


def test_rows_belong_to_the_targets_in_the_sites_own_order(batches):
    """Liver's target at row 2 and spleen's at row 0 is the model whose head is permuted that way."""
    straight, turned = fresh(("liver", "spleen", "kidney")), fresh(("spleen", "kidney", "liver"))
    body = {name: tensor for name, tensor in shared_weights(straight).items() if name not in HEAD}
    load_shared(turned, body | {name: shared_weights(turned)[name] for name in HEAD})
    for batch in batches[:2]:
        Trainer(straight, [0, 1], RECIPE).step(*batch)
        Trainer(turned, [2, 0], RECIPE).step(*batch)
    one, two = shared_weights(straight), shared_weights(turned)
    np.testing.assert_allclose(two["head.weight"][[2, 0, 1]], one["head.weight"], rtol=1e-4, atol=1e-6)


def test_annotated_rows_decay_as_adamw_decays_the_rest(batches):
    """One plain AdamW step on the same gradients, decay on everything: only the row without a target differs."""
    model, reference = fresh(), fresh()
    Trainer(model, [0, 1], RECIPE).step(*batches[0])
    image, target, weight = batches[0]
    loss = weighted_bce_dice(reference.train()(image)[0][:, :2], target, weight)[0].mean()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(reference.parameters(), RECIPE.clip)
    torch.optim.AdamW(reference.parameters(), lr=RECIPE.lr, weight_decay=RECIPE.weight_decay).step()
    ours, theirs = shared_weights(model), shared_weights(reference)
    for name in ours:
        rows = slice(0, 2) if name in HEAD else slice(None)
        np.testing.assert_allclose(ours[name][rows], theirs[name][rows], rtol=1e-5, atol=1e-7)
    assert (ours["head.weight"][2] != theirs["head.weight"][2]).all()


# Steps that are dropped -----------------------------------------------------------------------------------------------


def spoilt(batch):
    return batch[0].clone().fill_(float("nan")), *batch[1:]


def test_a_step_whose_loss_is_not_finite_leaves_no_trace(batches):
    one, other = fresh(), fresh()
    with_gap, without = Trainer(one, [0, 1], RECIPE), Trainer(other, [0, 1], RECIPE)
    with_gap.step(*batches[0])
    assert with_gap.step(*spoilt(batches[1])) is None
    with_gap.step(*batches[2])
    without.step(*batches[0])
    without.step(*batches[2])
    assert content(shared_weights(one)) == content(shared_weights(other))
    assert content(with_gap.moments()) == content(without.moments())
    assert (with_gap.steps, with_gap.dropped) == (2, 1)


def test_a_finite_loss_with_an_infinite_gradient_is_dropped_too(batches):
    def steep(batch, logits):  # zero, and steeper than float32 can say
        return (logits - logits.detach()).sum() * 1e38 * 1e10

    model = fresh()
    before = content(shared_weights(model))
    trainer = Trainer(model, [0, 1], RECIPE, Terms(loss=steep))
    assert trainer.step(*batches[0]) is None
    assert content(shared_weights(model)) == before


def test_ten_in_a_row_end_the_round(batches):
    trainer = Trainer(fresh(), [0, 1], RECIPE)
    bad = spoilt(batches[0])
    for _ in range(MAX_DROPPED - 1):
        assert trainer.step(*bad) is None
    trainer.step(*batches[0])
    for _ in range(MAX_DROPPED - 1):
        assert trainer.step(*bad) is None
    with pytest.raises(ArithmeticError, match="not finite in 10 steps in a row"):
        trainer.step(*bad)
    assert (trainer.steps, trainer.dropped) == (1, 2 * MAX_DROPPED - 1)


# Learning rate and clipping -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "expected"), [("constant", [0.01] * 5), ("rewarmed", [0.0025, 0.005, 0.0075, 0.01, 0.01])]
)
def test_the_learning_rate_warms_up_anew_in_every_round(batches, schedule, expected):
    model, recipe = fresh(), RECIPE.model_copy(update={"schedule": schedule, "warmup": 4})
    moments = {}
    for _ in range(2):
        trainer, found = Trainer(model, [0, 1], recipe), []
        trainer.load_moments(moments)
        for batch in batches[:5]:
            trainer.step(*batch)
            found.append([group["lr"] for group in trainer.optimizer.param_groups])
        np.testing.assert_allclose(found, np.transpose([expected] * 2))
        moments = trainer.moments()


def test_gradients_are_clipped_to_the_norm_asked_for(batches):
    trainer = Trainer(fresh(), [0, 1], RECIPE.model_copy(update={"clip": 0.01}))
    trainer.step(*batches[0])
    norm = torch.stack([tensor.grad.norm() for tensor in trainer._parameters]).norm()
    assert norm.item() == pytest.approx(0.01, rel=1e-3)


# Stop and go on -------------------------------------------------------------------------------------------------------


def resumed(weights, moments, classes):
    model = fresh(classes)
    load_shared(model, weights)
    trainer = Trainer(model, [0, 1], RECIPE)
    trainer.load_moments(moments)
    return trainer


def test_going_on_from_saved_moments_is_never_having_stopped(batches):
    straight = Trainer(fresh(), [0, 1], RECIPE)
    for batch in batches:
        straight.step(*batch)
    half = Trainer(fresh(), [0, 1], RECIPE)
    for batch in batches[:3]:
        half.step(*batch)
    moments = half.moments()
    again = resumed(shared_weights(half.model), moments, CLASSES)
    held = content(moments)
    for batch in batches[3:]:
        again.step(*batch)
    assert content(shared_weights(again.model)) == content(shared_weights(straight.model))
    assert content(again.moments()) == content(straight.moments())
    assert content(moments) == held  # what was handed in is not trained on


def test_going_on_after_the_label_space_has_grown(batches):
    """A row that came since starts with empty moments; the body and the older rows do not notice."""
    straight, half = Trainer(fresh(CLASSES[:2]), [0, 1], RECIPE), Trainer(fresh(CLASSES[:2]), [0, 1], RECIPE)
    for batch in batches:
        straight.step(*batch)
    for batch in batches[:3]:
        half.step(*batch)
    again = resumed(shared_weights(half.model), half.moments(), CLASSES)
    for batch in batches[3:]:
        again.step(*batch)
    grown, whole = shared_weights(again.model), shared_weights(straight.model)
    for name in whole:
        np.testing.assert_array_equal(grown[name][:2] if name in HEAD else grown[name], whole[name])
    np.testing.assert_array_equal(grown["head.weight"][2], shared_weights(fresh())["head.weight"][2])
    assert all((again.moments()[f"{name}|exp_avg"][2] == 0).all() for name in HEAD)


def test_moments_are_named_by_tensor_and_empty_before_the_first_step(batches):
    trainer = Trainer(fresh(), [0, 1], RECIPE)
    assert trainer.moments() == {}
    trainer.step(*batches[0])
    names = {name for name, _ in trainer.model.named_parameters()}
    assert {key.partition("|")[0] for key in trainer.moments()} == names
    assert all(value == 1 for key, value in trainer.moments().items() if key.endswith("|step"))
