"""Batches made ahead by another thread: the very same batches, and no more of them."""

import threading
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from clients import rounds
from clients.ahead import Cut, ahead, pinned, sent
from clients.augment import augment, augmented, chance
from clients.model import shared_weights
from clients.prepare import Volume
from clients.rounds import Round
from clients.train import Trainer
from configs.schema import Augment, Memory
from memory.policy import uniform
from memory.sample import Sample
from tests.phantom_steps import RECIPE, content, fresh

CPU = torch.device("cpu")
ALL = Augment(flip=(0.5, 0.5, 0.5), affine=0.5, intensity=0.5, gin=0.5)


def test_what_is_made_comes_in_order_and_nothing_more_is_made():
    made = []

    def make():
        made.append(len(made))
        return made[-1]

    assert list(ahead(make, 5)) == made == [0, 1, 2, 3, 4]
    assert list(ahead(make, 0)) == [] and len(made) == 5


def test_the_next_is_made_while_the_caller_works_with_the_last():
    """It would wait for ever if the second were made only when it is asked for."""
    second = threading.Event()

    def make(made=[]):  # noqa: B006
        made.append(threading.current_thread())
        if len(made) == 2:
            second.set()
        return made[-1]

    with closing(ahead(make, 3)) as things:
        first = next(things)
        assert second.wait(10)
        rest = list(things)
    assert first is threading.main_thread() and threading.main_thread() not in rest


def test_one_alone_starts_no_thread():
    before = threading.active_count()
    with closing(ahead(threading.active_count, 1)) as things:
        assert next(things) == before == threading.active_count()


def test_what_breaks_while_it_is_made_reaches_the_caller_where_it_would_be_used():
    told = iter([1, 2])
    with closing(ahead(lambda: next(told), 3)) as things:
        assert [next(things), next(things)] == [1, 2]
        with pytest.raises((StopIteration, RuntimeError)):
            next(things)


def test_a_closed_one_has_no_thread_at_work():
    before = threading.active_count()
    with pytest.raises(KeyError), closing(ahead(list, 9)) as things:
        next(things)
        raise KeyError
    assert threading.active_count() == before


def test_a_cpu_takes_the_arrays_own_memory():
    array = np.zeros((2, 3), np.float16)
    sent(pinned(array, CPU), CPU)[0, 0] = 7
    assert array[0, 0] == 7
    cut = Cut(pinned(array, CPU), torch.ones(2), torch.ones(2), None)
    image, _, _, told = cut.on(CPU)
    assert image.dtype == torch.float32 and image[0, 0] == 7 and told is None


@pytest.mark.parametrize("seed", range(10))
def test_chance_drawn_before_the_batch_leaves_the_generator_where_augmenting_does(seed):
    image, label = torch.rand((3, 1, 8, 6, 4)), torch.ones((3, 8, 6, 4), dtype=torch.uint8)
    one, other = np.random.default_rng(seed), np.random.default_rng(seed)
    said = chance(ALL, 3, (8, 6, 4), one)
    both = augment(image, label, ALL, other)
    assert one.bit_generator.state == other.bit_generator.state
    assert all(torch.equal(a, b) for a, b in zip(both, augmented(image, label, said), strict=True))


# A round --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hardest:
    """The sample with the highest loss, and others: what it draws depends on what training told."""

    def keep(self, pool, budget, rng):
        return list(pool[-budget:])

    def draw(self, kept, n, rng):
        return [max(kept, key=lambda sample: (sample.loss, sample.case)), *uniform(kept, n - 1, rng)]


def volume(name):
    label = np.zeros((10, 9, 12), np.uint8)
    label[:4] = 1
    image = np.random.default_rng(ord(name)).normal(size=label.shape).astype(np.float16)
    return Volume(name, image, label, {1: np.argwhere(label == 1).astype(np.int32)}, {1: 432}, (1, 1, 1), 0.0)


def in_turn(make, count):
    return (make() for _ in range(count))


def trained(deferred):
    """The model, the memory and the generator after two groups of cases, seven steps each, in blocks of three."""
    recipe = RECIPE.model_copy(update={"patch": (8, 8, 8), "sampling_rate": 7, "augment": ALL})
    trainer, drawn = Trainer(fresh(), [0, 1], recipe), np.random.default_rng(0)
    trainer.deferred = deferred
    labels, watched = {"liver": [1], "spleen": [2]}, []
    facts = (trainer, Hardest(), 3, recipe, Memory(), labels, volume, drawn, [], lambda facts: watched.append(facts))
    work = Round(*facts)
    work.run([Sample(case=case, arrived=i) for i, case in enumerate("abcd")], 0)
    statistics = [(sample.case, sample.visits, sample.loss, sample.feature.tobytes()) for sample in work.samples]
    return content(shared_weights(trainer.model)), statistics, drawn.bit_generator.state, watched, work.loss_sum


@pytest.mark.parametrize("deferred", [True, False])
def test_a_round_is_the_same_whether_its_batches_are_made_ahead_or_in_turn(monkeypatch, deferred):
    """Also with a policy that draws by what training told: within a block nothing is told, and no batch is of the next."""
    monkeypatch.setattr(rounds, "BLOCK", 3)
    threads = []
    monkeypatch.setattr(
        rounds, "cut_batch", lambda *a, cut=rounds.cut_batch: (threads.append(threading.get_ident()), cut(*a))[1]
    )
    before = trained(deferred)
    assert (len(set(threads) - {threading.main_thread().ident}) > 0) == deferred
    monkeypatch.setattr(rounds, "ahead", in_turn)
    threads.clear()
    after = trained(deferred)
    assert set(threads) == {threading.main_thread().ident}
    assert before == after
