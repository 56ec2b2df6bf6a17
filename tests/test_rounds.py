"""Round after round: each goes on from the one before, and the memory keeps within its quota."""

import shutil
from zlib import crc32

import numpy as np
import pytest
import torch

from clients import networks
from clients.prepare import Volume
from clients.rounds import Round, new_samples
from clients.snapshot import Snapshot, before
from clients.train import Step, Trainer
from configs.schema import Memory, Train
from memory.linear import Linear
from memory.sample import Sample
from tests.site_orders import content, initial, order, remembered, rounds_kept, through


def test_a_round_goes_on_from_the_one_before(site):
    replies = through(site, [1, 2, 3, 4])
    assert [reply.rows[0]["stream_left"] for reply in replies] == [4, 2, 0, 0]
    assert [reply.new_cases for reply in replies] == [2, 2, 2, 0]
    third = before(site.folder / "state", "run1", 4)
    assert (third.cursor, third.served) == (6, 3)
    steps = [moment for name, moment in third.moments.items() if name.endswith("|step")]
    assert steps and all(moment == 6 for moment in steps)  # the optimizer's state lived on


def test_an_order_asked_twice_gives_the_same_bytes(site):
    weights = initial(site)
    first = site.answer(order(), weights)
    left = remembered(site, 1)
    again = site.answer(order(), weights)
    assert content(first) == content(again)
    assert left == remembered(site, 1)


def test_a_new_process_gives_the_same_bytes(make_site):
    """Another object over a copy of the folder, other things drawn in between."""
    one = make_site("one")
    weights = initial(one)
    first = one.answer(order(round=1), weights)
    shutil.copytree(one.folder, one.folder.parent / "two")
    second = one.answer(order(round=2), first.weights)
    networks.network.cache_clear()
    torch.rand(5)
    two = make_site("two")
    two.answer(order("evaluate", 1), weights)
    assert content(two.answer(order(round=2), first.weights)) == content(second)


def test_an_earlier_round_starts_from_before_it_whatever_happened_since(site):
    weights = initial(site)
    first = site.answer(order(round=1), weights)
    second = site.answer(order(round=2), first.weights)
    site.answer(order(round=3), second.weights)
    assert content(site.answer(order(round=2), first.weights)) == content(second)
    assert rounds_kept(site) == ["000001", "000002"]  # round 3 is undone
    assert before(site.folder / "state", "run1", 9).cursor == 4


def test_another_run_starts_from_nothing(site):
    weights = initial(site)
    first = site.answer(order(), weights)
    other = site.answer(order(run="run2", round=5), weights)
    assert (first.new_cases, other.new_cases) == (2, 2)
    assert other.rows[0]["memory_arrived"] == [0, 1]
    assert rounds_kept(site) == ["000001"] and rounds_kept(site, "run2") == ["000005"]


def test_rounds_differ_in_what_they_draw(make_site):
    """The same weights, cases and memory in round 1 and, elsewhere, in round 2: other patches."""
    one, two = make_site("one"), make_site("two")
    weights = initial(one)
    assert content(one.answer(order(round=1), weights)) != content(two.answer(order(round=2), weights))


def test_old_snapshots_are_dropped(make_site):
    site = make_site(keep=1)
    through(site, [1, 2, 3, 4])
    assert rounds_kept(site) == ["000003", "000004"]


def test_moments_are_forgotten_where_the_recipe_says_so(make_site):
    train = {"patch": [16, 16, 16], "batch": 2, "sampling_rate": 2, "optimizer": "reset"}
    site = make_site(train=train)
    through(site, [1, 2])
    assert before(site.folder / "state", "run1", 3).moments == {}


# Memory, stream, budget -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["linear", "dynamic", "selective", "reservoir"])
def test_the_memory_never_exceeds_the_quota(make_site, policy):
    site = make_site(memory={"policy": policy, "budget": 3})
    replies = through(site, [1, 2, 3])
    assert [reply.rows[0]["memory"] for reply in replies] == [2, 3, 3]
    fewer = site.answer(order(round=4, quota=2), replies[-1].weights)
    assert fewer.rows[0]["memory"] == 2
    held = [sample.arrived for sample in before(site.folder / "state", "run1", 5).samples]
    assert held == sorted(held) == fewer.rows[0]["memory_arrived"]


def test_the_sites_own_budget_caps_the_quota(make_site):
    replies = through(make_site(site={"budget": 2}), [1, 2], quota=5)
    assert [(reply.rows[0]["memory"], reply.rows[0]["budget"]) for reply in replies] == [(2, 2), (2, 2)]
    assert through(make_site("b", site={"budget": 3}), [1], quota=2)[0].rows[0]["budget"] == 2


def test_a_memory_without_room_is_refused_and_leaves_nothing(site):
    with pytest.raises(ValueError, match="empty memory"):
        site.answer(order(quota=0), initial(site))
    assert before(site.folder / "state", "run1", 2) == Snapshot()


def test_fill_first_inserts_without_training(make_site):
    site = make_site(memory={"policy": "linear", "budget": 5, "fill_first": True})
    replies = through(site, [1, 2, 3], quota=5)
    assert [reply.draws for reply in replies] == [0, 0, 4]  # full in the third round
    assert [reply.rows[0]["memory"] for reply in replies] == [2, 4, 5]
    assert all((replies[0].weights[name] == replies[1].weights[name]).all() for name in replies[0].weights)


def test_fill_first_trains_when_the_stream_ends_before_the_memory_is_full(make_site):
    site = make_site(memory={"policy": "linear", "budget": 20, "fill_first": True})
    replies = through(site, [1, 2, 3], quota=20)
    assert [reply.draws for reply in replies] == [0, 0, 4]


def test_a_site_whose_stream_is_over_only_replays(make_site):
    site = make_site(stream={"cases_per_round": None})
    replies = through(site, [1, 2])
    assert [(reply.new_cases, reply.rows[0]["steps"]) for reply in replies] == [(6, 6), (0, 3)]
    assert replies[1].rows[0]["memory_arrived"] == replies[0].rows[0]["memory_arrived"]
    quiet = make_site("b", stream={"cases_per_round": None}, train={"patch": [16, 16, 16]})
    assert [reply.draws for reply in through(quiet, [1, 2])] == [24, 0]


def test_portions_arrive_by_round_of_presence_and_then_as_the_recipe_says(make_site):
    site = make_site(site={"arriving": [1, 3]}, stream={"cases_per_round": 2})
    replies = through(site, [1, 4, 5, 9])  # pauses do not count
    assert [reply.new_cases for reply in replies] == [1, 3, 2, 0]


def test_each_case_arrives_once_in_the_streams_order(make_site):
    site = make_site(memory={"policy": "linear", "budget": 9})
    through(site, [1, 2, 3], quota=9)
    samples = before(site.folder / "state", "run1", 4).samples
    assert [sample.case for sample in samples] == [case.name for case in site.cases.train]
    assert [sample.arrived for sample in samples] == list(range(6))
    assert len({sample.key for sample in samples}) == 6 and all(0 <= sample.key < 1 for sample in samples)


def test_uncertainty_is_what_the_recipe_calls_it(make_site):
    for name in ("loss", "entropy"):
        site = make_site(name, memory={"policy": "linear", "budget": 3, "uncertainty": name})
        through(site, [1])
        for sample in before(site.folder / "state", "run1", 2).samples:
            assert (sample.uncertainty == sample.loss) == (name == "loss")
            assert name == "loss" or 0 < sample.uncertainty < np.log(2)


def test_a_dropped_step_counts_neither_as_draws_nor_as_a_visit(site, monkeypatch):
    steps, step = iter(range(100)), Trainer.step

    def sometimes(trainer, image, *rest):
        return step(trainer, image * float("nan") if next(steps) == 0 else image, *rest)

    weights = initial(site)
    monkeypatch.setattr(Trainer, "step", sometimes)
    reply = site.answer(order(), weights)
    assert (reply.draws, reply.rows[0]["steps"], reply.rows[0]["dropped"], reply.rows[0]["loss_weight"]) == (2, 1, 1, 2)
    assert sum(sample.visits for sample in before(site.folder / "state", "run1", 2).samples) == 2


# A round on its own -----------------------------------------------------------------------------------------------------


class Teller:
    """A trainer that says 10, 20, ... of the samples of a batch, in their order."""

    device, steps, dropped, deferred = torch.device("cpu"), 0, 0, False

    def __init__(self):
        self.weights = []

    def step(self, image, target, weight, annotated=None):
        self.weights.append(weight.tolist())
        told = 10.0 * np.arange(1, len(image) + 1)
        return Step(told, told, told / 100, np.eye(len(image), dtype=np.float32))


class Backwards(Linear):
    """First in, first out, but drawn from the newest."""

    def draw(self, kept, n, rng):
        return list(kept[::-1][:n])


def small_volume(name):
    """Case a has both classes, 1 and 3 voxels of them; case b has the first only."""
    label = np.zeros((4, 4, 4), np.uint8)
    label[0, 0, 0], label[1, 0, :3] = 1, 2 if name == "a" else 0
    counts = {1: 1, 2: 3} if name == "a" else {1: 1}
    return Volume(name, label.astype(np.float16), label, {}, counts, (1, 1, 1), 0.0)


def round_of(trainer, **memory):
    recipe, labels = Train(patch=(4, 4, 4), sampling_rate=1), {"one": [1], "two": [2]}
    rng = np.random.default_rng(0)
    return Round(trainer, Backwards(), 4, recipe, Memory(**memory), labels, small_volume, rng, [], lambda facts: None)


def test_each_sample_learns_what_was_said_of_it():
    a, b = (Sample(case=name, arrived=i) for i, name in enumerate("ab"))
    trainer = Teller()
    work = round_of(trainer, uncertainty="entropy")
    work.run([a, b], 0)
    assert (b.loss, a.loss, b.uncertainty, a.uncertainty) == (10, 20, 0.1, 0.2)
    assert (b.feature.tolist(), a.feature.tolist()) == ([1, 0], [0, 1])
    assert (a.visits, b.visits, work.draws, work.loss_sum, work.loss_weight) == (1, 1, 2, 30, 2)
    assert trainer.weights == [[[2, 1], [1.5, 1]]]  # in b, 2 (1/1) / (1/1), and 1: absent; in a, 2 (1/1) / (1/1 + 1/3)


@pytest.mark.parametrize(("domains", "told"), [(64, 64), (65, 64), (100, 64)])
def test_of_more_domains_than_a_reply_may_name_the_rarest_are_told_together(domains, told):
    """Domain 0 has two samples, the others one: beside 62 of them the rest are `others`."""
    work = round_of(Teller())
    work.samples = [Sample(case=f"{i}", arrived=i, domain=f"d{i % domains}") for i in range(domains + 1)]
    held = work.facts()["memory_domains"]
    assert (len(held), held["d0"], sum(held.values())) == (told, 2, domains + 1)
    assert held.get("others", 0) == (domains - 63 if domains > 64 else 0)


def test_new_samples_know_their_place_their_classes_and_their_origin():
    made = list(new_samples(["a", "b"], 5, 0, "tiny", small_volume, {"one": [1], "two": [2]}, {"b": "scanner 2"}))
    assert [(sample.case, sample.arrived, sample.domain) for sample in made] == [("a", 5, None), ("b", 6, "scanner 2")]
    assert [sorted(sample.classes) for sample in made] == [["one", "two"], ["one"]]
    keys = [np.random.default_rng([0, crc32(b"tiny"), crc32(name)]).random() for name in (b"a", b"b")]
    assert [sample.key for sample in made] == keys
