"""Where memory runs out a site does the same work with less at a time, and the attempt that failed leaves no trace."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from flwr.app import Context, Message, RecordDict

from clients import app, snapshot
from clients.micro import halved, out_of_memory, with_fewer
from clients.model import Segmenter
from clients.objectives import OBJECTIVES, make_objective
from clients.personal import FILE
from clients.train import Trainer
from configs.load import dump_run
from packing import pack_order, pack_weights, unpack_reply
from simulations.ray_grid import identify
from tests.phantom_steps import RECIPE, fresh
from tests.site_orders import content, initial, order, remembered
from tests.test_objectives import CLASSES, LIVER, batches, late

FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
BATCH = {"patch": [16, 16, 16], "batch": 4, "sampling_rate": 8, "replay_steps": 2, "lr": 0.003}
MEMORY = {"policy": "selective", "args": {"k": 2}, "budget": 5}


# A step in parts --------------------------------------------------------------------------------------------------------


def three():
    """A batch of three patches."""
    one, other, _ = batches()
    parts = zip(*((part.image_BCXYZ, part.target_BTXYZ, part.weight_BT) for part in (one, other)), strict=True)
    return tuple(torch.cat(part)[:3] for part in parts)


def stepped(name, micro):
    """A step on three patches in a round that the objective has something to add to: gradients and what the step told."""
    model = fresh(CLASSES)
    terms = make_objective(name).begin(late(model))
    with torch.no_grad():
        for tensor in model.parameters():  # away from the weights that the objectives hold it to
            tensor += 0.05 * torch.sin(torch.arange(tensor.numel())).reshape(tensor.shape)
    told = Trainer(model, LIVER, RECIPE, terms, micro).step(*three())
    return {name: tensor.grad.numpy() for name, tensor in model.named_parameters()}, told


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("micro", [1, 2])
def test_a_batch_in_parts_is_the_same_step_up_to_rounding(name, micro):
    """With two at a time the parts are of two patches and of one."""
    (whole, told), (parted, again) = stepped(name, 0), stepped(name, micro)
    for tensor in whole:
        np.testing.assert_allclose(parted[tensor], whole[tensor], rtol=1e-3, atol=1e-5, err_msg=tensor)
    for part in ("loss_B", "bce_B", "entropy_B", "feature_BE"):
        np.testing.assert_allclose(getattr(again, part), getattr(told, part), rtol=1e-4, atol=1e-6)
    assert len(set(told.loss_B)) == 3  # else their order would not show


def test_no_part_is_larger_than_asked_for(monkeypatch):
    seen, forward = [], Segmenter.forward
    monkeypatch.setattr(Segmenter, "forward", lambda self, image: (seen.append(len(image)), forward(self, image))[1])
    Trainer(fresh(CLASSES), LIVER, RECIPE, micro=2).step(*three())
    Trainer(fresh(CLASSES), LIVER, RECIPE).step(*three())
    assert seen == [2, 1, 3]


# Again with fewer -------------------------------------------------------------------------------------------------------


def limited(most, error=FULL):
    """Work that memory is enough for with at most so many of eight at a time, and what was tried."""
    tried = []

    def work(micro):
        tried.append(micro)
        if (micro or 8) > most:
            raise error
        return "done"

    return work, tried


def test_half_as_many_until_it_fits():
    work, tried = limited(3)
    assert with_fewer(work, 8, 0, "one") == ("done", 2)
    assert tried == [0, 4, 2]
    assert with_fewer(limited(8)[0], 8, 0, "one") == ("done", 0)
    assert [halved(4, 0), halved(3, 0), halved(4, 9), halved(4, 1), halved(1, 0)] == [2, 1, 2, 1, 0]


def test_one_that_is_too_many_is_said_in_one_line():
    with pytest.raises(MemoryError, match="^out of memory with one cake at a time$") as caught:
        with_fewer(limited(0)[0], 8, 0, "one cake at a time")
    assert caught.value.__context__ is None  # else its traceback would hold on to what filled the memory


def test_what_torch_and_numpy_raise_is_known_for_what_it_is():
    for allocate in (lambda: torch.empty(2**50), lambda: np.empty(2**56)):
        with pytest.raises((RuntimeError, MemoryError)) as caught:
            allocate()
        assert out_of_memory(caught.value)
    work, tried = limited(3, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes"):
        with_fewer(work, 8, 0, "one")
    assert tried == [0]
    assert not out_of_memory(ValueError("out of memory"))


# At the site ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def too_large(monkeypatch):
    """From the n-th forward pass on, more than one patch does not fit; returns how often that happened."""
    forward, passes, failed = Segmenter.forward, [], []

    def start(after):
        def limited(self, image):
            if len(image) > 1:
                passes.append(len(image))
                if len(passes) > after:
                    failed.append(len(image))
                    raise FULL
            return forward(self, image)

        monkeypatch.setattr(Segmenter, "forward", limited)
        return failed

    return start


def one_at_a_time(site, round):
    """The site as it is after this round if memory ran out before."""
    state = snapshot.before(site.folder / "state", "run1", round + 1)
    snapshot.commit(site.folder / "state", "run1", round, replace(state, micro=1), 2)


def micro(site, round):
    return snapshot.before(site.folder / "state", "run1", round + 1).micro


def quiet(reply):
    """The reply without the word that memory ran out."""
    return replace(reply, rows=tuple({key: row[key] for key in row if key != "micro_batch"} for row in reply.rows))


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"memory": {"policy": "bregman", "budget": 5}, "index": {"on": True}},
        {"strategy": {"objective": "prox"}, "wire": {"int8": True, "delta": True}},
    ],
    ids=["plain", "index", "prox"],
)
@pytest.mark.parametrize("broken", [2, 3])
def test_a_round_that_broke_off_leaves_no_trace(make_site, too_large, sections, broken):
    """After two of its four steps four, then two at a time are too many: the site ends as one that began with one."""
    sections = {"train": BATCH, "memory": MEMORY, "stream": {"cases_per_round": 2}} | sections
    site, twin = make_site("site", **sections), make_site("twin", **sections)
    weights, orders = initial(twin), [order(round=round, quota=5) for round in (1, 2, 3)]
    expected = [twin.answer(before, weights) for before in orders[: broken - 1]]
    one_at_a_time(twin, broken - 1)
    expected += [twin.answer(after, weights) for after in orders[broken - 1 :]]
    failed = too_large(after=4 * (broken - 1) + 2)
    found = [site.answer(each, weights) for each in orders]
    assert [row.get("micro_batch") for reply in found for row in reply.rows] == [1 if i == broken else None for i in (1, 2, 3)]
    assert list(map(content, map(quiet, found))) == list(map(content, expected))
    assert remembered(site, 3) == remembered(twin, 3)
    assert failed == [4, 2]
    assert [micro(site, round) for round in (1, 2, 3)] == [int(round >= broken) for round in (1, 2, 3)]


def test_a_round_that_fits_says_nothing_of_memory(site):
    assert "micro_batch" not in site.answer(order(), initial(site)).rows[0]
    assert micro(site, 1) == 0


def test_one_patch_too_many_is_one_line_and_leaves_the_site_as_it_was(site, monkeypatch):
    weights = initial(site)
    site.answer(order(), weights)
    left = remembered(site, 1)
    with monkeypatch.context() as patch:
        patch.setattr(Segmenter, "forward", lambda self, image: torch.empty(2**50))
        with pytest.raises(MemoryError, match=r"^out of memory with one patch at a time \(a smaller train.patch"):
            site.answer(order(round=2), weights)
    assert remembered(site, 1) == left
    assert site.answer(order(round=2), weights).rows[0]["steps"] == 2


def test_a_site_whose_process_was_ended_for_memory_begins_with_half(make_site):
    site = make_site(train=BATCH, memory=MEMORY, stream={"cases_per_round": 4})
    weights = initial(site)
    assert site.answer(order(), weights, short=True).rows[0]["micro_batch"] == 2
    assert site.answer(order(round=2), weights, short=True).rows[0]["micro_batch"] == 1
    assert "micro_batch" not in site.answer(order(round=3), weights, short=True).rows[0]
    assert micro(site, 3) == 1


def test_windows_come_one_at_a_time_where_more_are_too_many(make_site, too_large):
    recipe = {"overlap": 0.25}
    site, plain = make_site("site", evaluate=recipe | {"batch": 4}), make_site("plain", evaluate=recipe)
    weights = initial(site)
    expected = plain.answer(order("evaluate"), weights)
    failed = too_large(after=0)
    found = site.answer(order("evaluate"), weights)
    strip = [[{**row, "case": None} for row in reply.rows] for reply in (found, expected)]
    assert strip[0] == strip[1] and len(strip[0]) == 4
    assert failed == [4, 2]  # and not again at the second case
    assert site.answer(order("evaluate"), weights, short=True) == found and failed == [4, 2]


def test_a_model_tuned_in_parts_is_tuned_from_the_beginning(make_site, too_large):
    site, twin = make_site("site"), make_site("twin")
    weights = initial(site)
    for one in (site, twin):
        one.answer(order(), weights)
    one_at_a_time(twin, 1)
    tuned = order("evaluate", personalise=3)
    twin.answer(tuned, weights)
    failed = too_large(after=1)
    site.answer(tuned, weights)
    assert failed == [2, 2]  # the tuning's patches, then the evaluation's windows
    assert (site.folder / FILE).read_bytes() == (twin.folder / FILE).read_bytes()


def test_the_simulations_word_reaches_the_site_and_opens_no_second_one(make_run, tmp_path):
    (tmp_path / "config.yaml").write_text(dump_run(make_run()))
    identify()
    weights, told, opened = None, [], set()
    for facts in ({}, {"short-of-memory": True}):
        config = {"site-name": "tiny", "site-folder": str(tmp_path / "site"), **facts}
        context = Context(1, 2, config, RecordDict(), {"config": str(tmp_path / "config.yaml")})
        site = app._site(context, tmp_path / "config.yaml")
        opened.add(id(site))
        weights = weights or initial(site)
        reply = app.answer(Message(pack_order(order(), pack_weights(weights)), 2, "train"), context)
        told.append(unpack_reply(reply.content).rows[0].get("micro_batch"))
    assert told == [None, 1] and len(opened) == 1
