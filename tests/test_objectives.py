"""Objectives: a contract that each keeps by being listed, and what each adds, in numbers that a person can check."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from clients.model import HEAD, build, shared_weights
from clients.objective import Batch, Outcome, Start, Terms
from clients.objectives import OBJECTIVES, make_objective
from clients.objectives.condist import Condist, blocking, masked_dice
from clients.train import Trainer
from tests.phantom_steps import NETWORK, RECIPE, content, fresh

CLASSES = ("liver", "spleen")
LIVER = [0]
"""The site annotates liver; spleen is somebody else's row."""


def batches(count=3):
    """Patches of noise with noise for a liver."""
    rng, made = np.random.default_rng(0), []
    for _ in range(count):
        image = torch.from_numpy(rng.normal(size=(2, 1, 8, 8, 8)).astype(np.float32))
        target = torch.from_numpy((rng.random((2, 1, 8, 8, 8)) > 0.8).astype(np.float32))
        made.append(Batch(image, target, torch.ones(2, 1)))
    return made


def drawn(model, seed, rows=2):
    """Numbers in the shape of the model's parameters; of its head, so many rows."""
    rng, tensors = np.random.default_rng(seed), {}
    for name, tensor in model.named_parameters():
        shape = (rows, *tensor.shape[1:]) if name in HEAD else tuple(tensor.shape)
        tensors[name] = np.abs(rng.normal(size=shape)).astype(np.float32)
    return tensors


def late(model, rows=2):
    """A later round: everything was taught, and the objective was told something and kept something, whichever it is."""
    told = drawn(model, 1, rows)
    told |= {f"{kind}|{name}": tensor for kind in ("importance", "around") for name, tensor in drawn(model, 2, rows).items()}
    return Start(model, LIVER, taught=[0, 1], round=2, rounds=3, merged=1, told=told, kept=own(drawn(model, 3, rows), 1))


def own(tensors, round):
    """What scaffold keeps of a round."""
    return {f"new|{name}": tensor for name, tensor in tensors.items()} | {"round": np.array(round)}


def through(name, start, steps=3):
    """A round of steps with an objective; the trainer, and what was kept and said."""
    terms = make_objective(name).begin(start)
    trainer = Trainer(start.model, start.rows, RECIPE, terms)
    for batch in batches(steps):
        trainer.step(batch.image_BCXYZ, batch.target_BTXYZ, batch.weight_BT)
    assert trainer.steps == steps
    return trainer, terms.finish(iter(batches())) if terms.finish else Outcome()


# The contract: a new objective is tested by being listed ------------------------------------------------------------------


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_first_step_of_a_first_round_is_the_supervised_one(name):
    """Nothing was taught, told or kept yet."""
    plain, _ = through("plain", Start(fresh(CLASSES), LIVER), steps=1)
    trainer, outcome = through(name, Start(fresh(CLASSES), LIVER), steps=1)
    assert content(shared_weights(trainer.model)) == content(shared_weights(plain.model))
    shapes = {name: tuple(tensor.shape) for name, tensor in trainer.model.named_parameters()}
    kept = {name.partition("|")[2]: tensor for name, tensor in outcome.kept.items() if name != "round"}
    for tensors in (outcome.said, kept):
        assert {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()} == {
            name: (shapes[name], np.float32) for name in tensors
        }


@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_was_learnt_before_counts_in_a_later_round(name):
    plain, _ = through("plain", late(fresh(CLASSES)))
    trainer, _ = through(name, late(fresh(CLASSES)))
    assert (content(shared_weights(trainer.model)) == content(shared_weights(plain.model))) == (name == "plain")


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("rows", [1, 2])
def test_rows_that_the_site_does_not_annotate_stay_bit_for_bit(name, rows):
    """Rows of 1: spleen's came after what was told and kept."""
    model = fresh(CLASSES)
    before = shared_weights(model)
    trainer, outcome = through(name, late(model, rows))
    after, moments = shared_weights(model), trainer.moments()
    for part in HEAD:
        assert after[part][1].tobytes() == before[part][1].tobytes()
        assert (after[part][0] != before[part][0]).all()
        gradient = dict(model.named_parameters())[part].grad
        assert (gradient[1] == 0).all() and (gradient[0] != 0).all()
        for moment in ("exp_avg", "exp_avg_sq"):
            assert (moments[f"{part}|{moment}"][1] == 0).all() and (moments[f"{part}|{moment}"][0] != 0).all()
        if part in outcome.kept and rows == 1:
            assert (outcome.kept[part][1] == 0).all()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_same_round_twice_is_the_same_bits(name):
    (one, said), (two, again) = (through(name, late(fresh(CLASSES))) for _ in range(2))
    assert content(shared_weights(one.model)) == content(shared_weights(two.model))
    assert (content(said.said), content(said.kept)) == (content(again.said), content(again.kept))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_stays_at_home_is_neither_said_nor_kept(name):
    model = fresh(CLASSES)
    _, outcome = through(name, replace(late(model), home=frozenset(HEAD)))
    assert not {*outcome.said, *outcome.kept} & {*HEAD}


@pytest.mark.parametrize(
    ("name", "args", "line"),
    [
        ("prox", {"mu": -1}, "strategy.objective_args: prox: mu must be a number from 0, not -1"),
        ("prox", {"mu": "much"}, "strategy.objective_args: prox: mu must be a number from 0, not 'much'"),
        ("prox", {"mu": float("inf")}, "mu must be a number from 0, not inf"),
        ("prox", {"my": 1}, r"strategy.objective_args: 'my' is no setting of prox \(it has mu\)"),
        ("plain", {"mu": 1}, r"strategy.objective_args: 'mu' is no setting of plain \(it has none\)"),
        ("ewc", {"strength": float("nan")}, "ewc: strength must be a number from 0, not nan"),
        ("distill", {"temperature": 0}, "distill: temperature must be a number above 0, not 0"),
        ("distill", {"strength": True}, "distill: strength must be a number from 0, not True"),
        ("condist", {"first": -0.1}, "condist: first must be a number from 0, not -0.1"),
        ("condist", {"temperature": -2}, "condist: temperature must be a number above 0, not -2"),
        ("proxy", {}, "strategy.objective: there is no 'proxy'; did you mean 'prox'?"),
    ],
)
def test_settings_that_make_no_sense_are_refused(name, args, line):
    with pytest.raises(ValueError, match=line):
        make_objective(name, args)


# Each by hand -----------------------------------------------------------------------------------------------------------


class Line(nn.Module):
    """The logits of class c are w_c x, so that all can be worked out by hand; `idle` takes no part in them."""

    def __init__(self, *w: float) -> None:
        super().__init__()
        self.classes = CLASSES[: len(w)]
        self.w, self.idle = nn.Parameter(torch.tensor(w)), nn.Parameter(torch.ones(1))

    def forward(self, image_BCXYZ):
        return self.w.reshape(1, -1, 1, 1, 1) * image_BCXYZ, image_BCXYZ

    def move(self, *w: float) -> None:
        with torch.no_grad():
            self.w.copy_(torch.tensor(w))


def voxels(*values, labelled=()):
    """A batch of one image of so many voxels, and which of them are liver."""
    image = torch.tensor(values).reshape(1, 1, -1, 1, 1)
    target = torch.tensor([float(i in labelled) for i in range(len(values))]).reshape(1, 1, -1, 1, 1)
    return Batch(image, target, torch.ones(1, 1))


def added(terms: Terms, model: Line, batch: Batch):
    """What is added to the loss, and its gradient at w."""
    model.w.grad = None
    loss = terms.loss(batch, model(batch.image_BCXYZ)[0])
    loss.backward()
    return loss.item(), model.w.grad.tolist()


def test_prox_pulls_by_mu_times_the_distance():
    model = Line(1.0, 2.0)
    terms = make_objective("prox", {"mu": 0.5}).begin(Start(model, LIVER))
    assert added(terms, model, voxels(1.0)) == (0.0, [0.0, 0.0])
    model.move(4.0, 0.0)
    assert added(terms, model, voxels(1.0)) == (0.5 / 2 * (9 + 4), [0.5 * 3, 0.5 * -2])


def test_prox_does_not_pull_what_stays_at_home():
    model = Line(1.0)
    terms = make_objective("prox", {"mu": 1.0}).begin(Start(model, LIVER, home=frozenset({"w"})))
    model.move(4.0)
    with torch.no_grad():
        model.idle += 2.0
    terms.loss(voxels(1.0), model(voxels(1.0).image_BCXYZ)[0]).backward()
    assert (model.w.grad, model.idle.grad.tolist()) == (None, [2.0])


def test_ewc_measures_the_mean_square_of_the_gradient():
    """At w = 0, p is .5: the gradient of BCE is -.5 x, of 1 - (2p + 1) / (p + 2) it is -3 / 2.5^2 * .25 x = -.12 x."""
    model = Line(0.0)
    terms = make_objective("ewc").begin(Start(model, LIVER))
    assert terms.loss is None  # no stage has ended yet
    outcome = terms.finish([voxels(1.0, labelled=[0]), voxels(2.0, labelled=[0])])
    assert outcome.said["w"].tolist() == pytest.approx([(0.62**2 + 1.24**2) / 2])
    assert outcome.said["idle"].tolist() == [0.0]
    assert terms.finish([]).said == {}  # a site without samples has measured nothing


def test_ewc_pulls_by_the_importance_of_each_number():
    model = Line(3.0, 7.0)
    told = {"importance|w": np.array([4.0], np.float32), "around|w": np.array([1.0], np.float32)}
    terms = make_objective("ewc", {"strength": 10}).begin(Start(model, LIVER, told=told))
    # 10 / 2 * 4 * (3 - 1)^2, and 10 * 4 * (3 - 1); the second row has come since
    assert added(terms, model, voxels(1.0)) == (80.0, [80.0, 0.0])
    at_home = make_objective("ewc").begin(Start(model, LIVER, told=told, home=frozenset({"w"})))
    assert at_home.loss is None


def test_ewc_leaves_the_statistics_of_a_batch_norm_alone():
    network, args = NETWORK
    model = build(network, {**args, "norm": "BATCH"}, CLASSES, 0).train()
    before = shared_weights(model)
    make_objective("ewc").begin(Start(model, LIVER)).finish(batches())
    assert content(shared_weights(model)) == content(before)
    assert any("running_mean" in name for name in before)


def test_distillation_by_hand():
    """sigmoid(z / 2) is .5 for the teacher and .75 for the student."""
    model, batch = Line(0.0, 5.0), voxels(1.0)
    terms = make_objective("distill", {"strength": 0.5}).begin(Start(model, LIVER, taught=[0]))
    assert added(terms, model, batch)[1] == [0.0, 0.0]  # the student is its teacher still
    model.move(2 * np.log(3.0), -9.0)
    loss, gradient = added(terms, model, batch)
    assert loss == pytest.approx(0.5 * -(np.log(0.75) + np.log(0.25)) / 2)
    assert gradient == pytest.approx([0.5 * (0.75 - 0.5) / 2, 0.0])  # nobody has taught spleen: it is not distilled


def test_distillation_teaches_what_the_site_does_not_annotate_too():
    model = Line(0.0, 0.0)
    terms = make_objective("distill", {"temperature": 1, "strength": 1}).begin(Start(model, LIVER, taught=[0, 1]))
    model.move(0.0, np.log(3.0))
    assert added(terms, model, voxels(1.0))[1] == pytest.approx([0.0, (0.75 - 0.5) / 2])  # the mean over two classes


def test_the_masked_dice_by_hand():
    own, wanted = torch.tensor([1.0, 0.5]), torch.tensor([0.5, 0.5])
    shaped = [each.reshape(1, 1, 2, 1, 1) for each in (own, wanted, torch.tensor([1.0, 0.0]))]
    assert masked_dice(*shaped).tolist() == [[pytest.approx(1 - (2 * 0.5 + 1) / (1 + 0.25 + 1))]]
    assert masked_dice(shaped[0], shaped[1], torch.zeros(1, 1, 2, 1, 1)).tolist() == [[0.0]]  # no voxel is free


def test_the_masked_dice_is_least_where_the_two_agree():
    q = torch.tensor([0.2, 0.7]).reshape(1, 1, 2, 1, 1).requires_grad_()
    dice = masked_dice(q, q.detach(), torch.ones(1, 1, 2, 1, 1))
    dice.sum().backward()
    assert dice.item() == 0.0
    assert q.grad.flatten().tolist() == pytest.approx([0.0, 0.0], abs=1e-7)


def test_lambda_grows_over_the_rounds():
    rule = Condist()
    assert [rule.strength(round, 11) for round in (1, 6, 11)] == pytest.approx([0.01, 0.505, 1.0])
    assert Condist(first=0.2, last=0.4).strength(2, 3) == pytest.approx(0.3)
    assert rule.strength(1, 1) == 1.0


def test_classes_exclude_each_other_unless_one_includes_the_other():
    classes = ("liver", "spleen", "tumour", "kidney")
    # rows: tumour, kidney (not annotated); columns: liver, spleen (annotated)
    assert blocking(classes, [2, 3], [0, 1], {"liver": ["tumour"]}).tolist() == [[0, 1], [1, 1]]
    assert blocking(classes, [0], [2, 3], {"liver": ["tumour"]}).tolist() == [[0, 1]]


def sigmoid(z):
    return 1 / (1 + np.exp(-np.array(z)))


@pytest.mark.parametrize(
    ("includes", "free"), [({}, [2]), ({"spleen": ["liver"]}, [0, 1, 2]), ({"liver": ["spleen"]}, [0, 1, 2])]
)
def test_conditional_distillation_leaves_out_what_is_liver_by_label_or_teacher(includes, free):
    """The teacher says liver where x > 0, the label at the second voxel: the third alone can be spleen."""
    batch, model = voxels(1.0, -1.0, -2.0, labelled=[1]), Line(1.0, 2.0)
    terms = make_objective("condist").begin(Start(model, LIVER, taught=[0, 1], includes=includes, round=1, rounds=2))
    loss, gradient = added(terms, model, batch)
    assert (loss, gradient) == (pytest.approx(0.0, abs=1e-9), pytest.approx([0.0, 0.0], abs=1e-9))
    model.move(-8.0, 0.0)
    x = np.array([1.0, -1.0, -2.0])[free]
    own, wanted = sigmoid(0 * x / 2), sigmoid(2 * x / 2)
    dice = 1 - (2 * (own * wanted).sum() + 1) / ((own**2).sum() + (wanted**2).sum() + 1)
    loss, gradient = added(terms, model, batch)
    assert loss == pytest.approx(0.01 * dice)
    assert gradient[0] == 0 and gradient[1] != 0  # liver is the label's to teach


def test_conditional_distillation_adds_nothing_where_the_site_annotates_all_that_was_taught():
    assert make_objective("condist").begin(Start(Line(1.0, 2.0), LIVER, taught=[0])).loss is None


def corrected(terms: Terms, model: Line, *gradients: float):
    """The gradient of each step after its correction."""
    found = []
    for gradient in gradients:
        model.w.grad = torch.tensor([gradient])
        terms.correct()
        found.append(model.w.grad.item())
    return found


def test_scaffold_by_hand():
    model, rule = Line(0.0), make_objective("scaffold")
    first = rule.begin(Start(model, LIVER, told={"w": np.array([5.0], np.float32)}))
    assert corrected(first, model, 3.0, 5.0) == [3.0, 5.0]  # without a c_i yet, no correction
    outcome = first.finish([])
    assert (outcome.kept["new|w"].tolist(), outcome.said["w"].tolist()) == ([4.0], [4.0])  # c_i = (3 + 5) / 2, from 0
    told = {"w": np.array([1.0], np.float32)}
    second = rule.begin(Start(model, LIVER, round=2, merged=1, told=told, kept=outcome.kept))
    assert corrected(second, model, 2.0, 8.0, 2.0) == [2.0 + 1 - 4, 8.0 + 1 - 4, 2.0 + 1 - 4]
    outcome = second.finish([])
    assert (outcome.kept["new|w"].tolist(), outcome.said["w"].tolist()) == ([4.0], [0.0])  # of what was not corrected, 12 / 3
    third = rule.begin(Start(model, LIVER, round=3, merged=2, kept=outcome.kept))
    corrected(third, model, 1.0)
    assert third.finish([]).said["w"].tolist() == [1.0 - 4]


def test_scaffold_goes_on_from_what_the_server_has_heard():
    """The update of round 2 was refused: the server still has round 1's c_i, and so the change is told from there."""
    model, rule = Line(0.0), make_objective("scaffold")
    one = rule.begin(Start(model, LIVER, round=1))
    corrected(one, model, 4.0)
    two = rule.begin(Start(model, LIVER, round=2, merged=1, kept=one.finish([]).kept))
    corrected(two, model, 10.0)
    told = {"w": np.array([1.0], np.float32)}
    three = rule.begin(Start(model, LIVER, round=3, merged=1, told=told, kept=two.finish([]).kept))
    assert corrected(three, model, 6.0) == [6.0 + 1 - 4]
    four = three.finish([])
    assert four.said["w"].tolist() == [6.0 - 4]
    after = rule.begin(Start(model, LIVER, round=4, merged=1, kept=four.kept))  # refused once more
    corrected(after, model, 5.0)
    assert after.finish([]).said["w"].tolist() == [5.0 - 4]


def test_scaffold_without_a_step_keeps_what_it_had_and_says_nothing():
    kept = own({"w": np.array([4.0], np.float32)}, 1)
    outcome = make_objective("scaffold").begin(Start(Line(0.0), LIVER, kept=kept)).finish([])
    assert (outcome.kept["new|w"].tolist(), outcome.said) == ([4.0], {})


def test_scaffold_corrects_after_clipping():
    """What is clipped is the site's own gradient: c - c_i comes on top, whatever its length."""
    model = fresh(CLASSES)
    start = late(model)
    terms = make_objective("scaffold").begin(start)
    trainer = Trainer(model, LIVER, RECIPE.model_copy(update={"clip": 0.01}), terms)
    (batch,) = batches(1)
    trainer.step(batch.image_BCXYZ, batch.target_BTXYZ, batch.weight_BT)
    kept = terms.finish([]).kept
    mine = {name: kept[f"new|{name}"] for name, _ in model.named_parameters()}
    assert np.sqrt(sum(np.square(tensor).sum() for tensor in mine.values())) == pytest.approx(0.01, rel=1e-3)
    for name, tensor in model.named_parameters():
        rows = LIVER if name in HEAD else slice(None)
        wanted = mine[name] + start.told[name] - start.kept[f"new|{name}"]
        np.testing.assert_allclose(tensor.grad.numpy()[rows], wanted[rows], rtol=1e-5, atol=1e-6)
