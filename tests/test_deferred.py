"""Steps that the host does not wait for: the same numbers as steps that it waits for, told later."""

import numpy as np
import pytest
import torch

from clients import rounds
from clients.model import load_shared, shared_weights
from clients.objective import Terms
from clients.prepare import Volume
from clients.rounds import Round
from clients.train import MAX_DROPPED, Trainer, compiled, defers, place
from configs.schema import Memory
from memory.linear import Linear
from memory.sample import Sample
from tests.phantom_steps import RECIPE, content, fresh, make_batches

ANNOTATED = torch.tensor([[True, False], [True, False]])
KINDS = ("loss_B", "bce_B", "entropy_B", "feature_BE")


@pytest.fixture(scope="module")
def batches(phantom_root):
    return make_batches(phantom_root)


def spoilt(batch):
    return batch[0] * float("nan"), *batch[1:]


def both(steps, terms=None, micro=0):
    """The same steps at once and deferred: the trainers, and what each told."""
    trainers, told = [], []
    for deferred in (False, True):
        trainer = Trainer(fresh(), [2, 0], RECIPE, terms, micro)
        trainer.deferred = deferred
        said = [trainer.step(*step) for step in steps]
        trainers.append(trainer)
        told.append(trainer.settle() if deferred else said)
        assert not deferred or said == [None] * len(steps)
    return trainers, told


@pytest.mark.parametrize("micro", [0, 1])
def test_deferred_steps_are_the_same_steps_bit_for_bit(batches, micro):
    """Among them one that is not finite, and one whose second class nobody drew: its row does not decay."""
    steps = [batches[0], spoilt(batches[1]), (*batches[2], ANNOTATED), batches[3]]
    (once, later), (said, told) = both(steps, micro=micro)
    assert content(shared_weights(once.model)) == content(shared_weights(later.model))
    assert content(once.moments()) == content(later.moments())
    assert said[1] is None and told[1] is None and (later.steps, later.dropped) == (once.steps, once.dropped) == (3, 1)
    for i in (0, 2, 3):
        for kind in KINDS:
            np.testing.assert_array_equal(getattr(told[i], kind), getattr(said[i], kind))
            assert getattr(told[i], kind).dtype == getattr(said[i], kind).dtype
    assert later.settle() == []


def test_an_objectives_term_masks_what_it_must(batches):
    """Its gradient reaches the row that the site does not annotate."""

    def loss(batch, logits):
        return logits.square().mean()

    (once, later), _ = both(batches[:3], Terms(loss=loss))
    assert content(shared_weights(once.model)) == content(shared_weights(later.model))
    assert (shared_weights(later.model)["head.weight"][1] == shared_weights(fresh())["head.weight"][1]).all()


def test_a_dropped_first_step_leaves_weights_and_empty_moments(batches):
    (_, later), _ = both([spoilt(batches[0])])
    assert content(shared_weights(later.model)) == content(shared_weights(fresh()))
    assert not any(moment.any() for moment in later.moments().values())


def test_ten_in_a_row_end_the_round_when_they_are_told(batches):
    """Also where some of them were told before: nine, a good one, nine, and one."""
    trainer = Trainer(fresh(), [0, 1], RECIPE)
    trainer.deferred = True
    bad = spoilt(batches[0])
    for step in [*[bad] * (MAX_DROPPED - 1), batches[0], *[bad] * (MAX_DROPPED - 1)]:
        trainer.step(*step)
    assert [step is None for step in trainer.settle()].count(False) == 1
    assert (trainer.steps, trainer.dropped) == (1, 2 * MAX_DROPPED - 2)
    trainer.step(*bad)
    with pytest.raises(ArithmeticError, match="not finite in 10 steps in a row"):
        trainer.settle()


def test_steps_are_deferred_on_a_gpu_unless_gradients_are_corrected():
    assert not Trainer(fresh(), [0], RECIPE).deferred
    assert not defers(torch.device("cpu"), Terms()) and defers(torch.device("cuda"), Terms(loss=lambda *facts: 0))
    assert not defers(torch.device("cuda"), Terms(correct=lambda: None))


# A round --------------------------------------------------------------------------------------------------------------


def volume(name):
    label = np.zeros((8, 8, 8), np.uint8)
    label[:4] = 1
    image = np.random.default_rng(ord(name)).normal(size=label.shape).astype(np.float16)
    return Volume(name, image, label, {}, {1: 256}, (1, 1, 1), 0.0)


def round_of(deferred, model, watch):
    recipe = RECIPE.model_copy(update={"patch": (8, 8, 8), "sampling_rate": 5})
    trainer = Trainer(model, [0, 1], recipe)
    trainer.deferred = deferred
    labels, rng = {"liver": [1], "spleen": [2]}, np.random.default_rng(0)
    return Round(trainer, Linear(), 4, recipe, Memory(uncertainty="entropy"), labels, volume, rng, [], watch)


def test_a_round_of_deferred_steps_is_the_same_round(monkeypatch):
    """Five steps for the first two cases, in blocks of two and what is left; then three for the last one."""
    monkeypatch.setattr(rounds, "BLOCK", 2)
    found, seen = [], []
    for deferred in (False, True):
        model, shown = fresh(), []
        work = round_of(deferred, model, lambda facts, shown=shown: shown.append((facts["steps"], facts["loss_weight"])))
        samples = [Sample(case=name, arrived=i) for i, name in enumerate("abc")]
        work.run(samples, 0)
        told = [(s.visits, s.loss, s.uncertainty, s.feature.tolist()) for s in samples]
        found.append((content(shared_weights(model)), told, work.draws, work.loss_sum, work.facts()))
        seen.append(shown)
    assert found[0] == found[1] and found[0][2] == 16
    assert [steps for steps, _ in seen[0]] == [steps for steps, _ in seen[1]] == list(range(1, 9))
    assert [weight for _, weight in seen[0]] == [2, 4, 6, 8, 10, 12, 14, 16]
    assert [weight for _, weight in seen[1]] == [0, 4, 4, 8, 10, 10, 14, 16]


# Compiled -------------------------------------------------------------------------------------------------------------


def test_a_network_is_compiled_once_and_new_weights_do_not_change_that(batches, monkeypatch):
    """torch traces it anew for nothing: not for another round's trainer, and not for other weights."""
    from torch._dynamo.testing import CompileCounter

    seen, compile = CompileCounter(), torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: compile(model, backend=seen))
    compiled.cache_clear()
    model, recipe, counts = fresh(), RECIPE.model_copy(update={"compile": True}), []
    for seed in (0, 1):
        load_shared(model, shared_weights(fresh(seed=seed)))
        plain = Trainer(fresh(seed=seed), [0, 1], RECIPE).step(*batches[0])
        told = Trainer(model, [0, 1], recipe).step(*batches[0])
        np.testing.assert_allclose(told.loss_B, plain.loss_B, rtol=1e-5)
        np.testing.assert_allclose(told.feature_BE, plain.feature_BE, rtol=1e-4, atol=1e-6)
        counts.append(seen.frame_count)
    compiled.cache_clear()
    torch._dynamo.reset()
    assert counts[0] == counts[1] > 0


# On a GPU -------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU, and this machine has none")
def test_the_host_waits_for_no_step(batches):
    trainer = Trainer(place(fresh(), torch.device("cuda")), [2, 0], RECIPE)
    there = [tuple(part.to("cuda") for part in (*batch, ANNOTATED)[: 4 if i % 2 else 3]) for i, batch in enumerate(batches)]
    trainer.step(*there[0])
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in there[1:]:
            trainer.step(*batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(trainer.settle()) == len(batches) and trainer.steps == len(batches)
