"""Updates made smaller and whole again: by hand, over many rounds, from hostile sites, and in whole runs."""

import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clients import model
from clients.acknowledged import merged
from clients.snapshot import before, commit
from compress import decode, encode
from configs.load import build_run, load_run
from configs.strategy import Wire
from packing import pack_order, pack_reply, pack_weights, unpack_order, unpack_reply
from run_sim import main
from server.spool import Spool
from server.updates import Door, Limits
from simulations.plan import update_bytes
from tests.fakes import ROLES
from tests.site_orders import content, initial, order
from tests.test_end_to_end import SMOKE, assert_same, record, run
from wire import Failure, Reply, size

HOME = Path(__file__).parents[1]
EXACT, HALF, DELTA = Wire(), Wire(dtype="float16"), Wire(delta=True)
HALF_DELTA, BYTES = Wire(dtype="float16", delta=True), Wire(delta=True, int8=True)
RECIPES = {"exact": EXACT, "half": HALF, "delta": DELTA, "half delta": HALF_DELTA, "bytes": BYTES}
INT8 = {"delta": True, "int8": True}


def f32(*numbers):
    return np.array(numbers, np.float32)


def through(update, shared, recipe, residue=None):
    """What the server reads of an update, and what the site keeps."""
    sent, kept = encode(update, shared, recipe, residue or {})
    return decode(sent, shared, recipe), kept


def quickstart():
    """The quickstart's network with five classes."""
    recipe = load_run(HOME / "configs" / "quickstart.yaml")
    return recipe, model.build(recipe.model.network, recipe.model.args, "abcde", recipe.seed)


# By hand ----------------------------------------------------------------------------------------------------------------


def test_float32_is_the_very_same_arrays():
    update = {"body": f32(1.1, np.nan)}
    sent, residue = encode(update, {"body": f32(0, 0)}, EXACT, {})
    assert sent["body"] is update["body"] is decode(sent, {}, EXACT)["body"]
    assert residue == {}


def test_float16_is_half_as_long_and_rounded():
    update, shared = {"body": f32(1.0, 2049.0)}, {"body": f32(0, 0)}
    sent, residue = encode(update, shared, HALF, {})
    assert (sent["body"].dtype, size(sent), residue) == (np.float16, 4, {})
    body = decode(sent, shared, HALF)["body"]
    assert (body.dtype, body.tolist()) == (np.float32, [1.0, 2048.0])  # 11 bits of mantissa


def test_a_change_is_small_where_the_number_is_not():
    update, shared = {"body": f32(2049.0)}, {"body": f32(2048.0)}
    assert encode(update, shared, HALF_DELTA, {})[0]["body"].tolist() == [1.0]
    assert through(update, shared, HALF_DELTA)[0]["body"].tolist() == [2049.0]


def test_eight_bits_by_hand():
    old = np.zeros((2, 8), np.float32)
    new = np.array([[127, -127, 63.4, 0.6, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 254]], np.float32)
    sent, residue = encode({"w": new}, {"w": old}, BYTES, {})
    assert {name: (part.dtype.name, part.shape) for name, part in sent.items()} == {
        "w": ("int8", (2, 8)),
        "w|scale": ("float32", (2, 1)),
    }
    assert sent["w|scale"].tolist() == [[1.0], [2.0]]
    assert sent["w"].tolist() == [[127, -127, 63, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 127]]
    assert residue["w"][0] == pytest.approx([0, 0, 0.4, -0.4, 0, 0, 0, 0], abs=1e-5)
    assert decode(sent, {"w": old}, BYTES)["w"][0, :4].tolist() == [127, -127, 63, 1]


def test_what_was_rounded_away_travels_with_the_next_change():
    shared = {"b": f32(0, 0)}
    got, residue = through({"b": f32(127, 0.4)}, shared, BYTES)  # steps of 1
    assert (got["b"].tolist(), residue["b"].tolist()) == ([127, 0], [0, pytest.approx(0.4)])
    got, residue = through({"b": f32(127, 0.4)}, shared, BYTES, residue)  # 0.4 + 0.4 = 0.8: one step
    assert got["b"].tolist() == [127, 1]
    assert residue["b"].tolist() == [0, pytest.approx(-0.2)]


@pytest.mark.parametrize(
    ("shape", "scales"),
    [((2, 8), (2, 1)), ((3, 2, 2, 2), (3, 1, 1, 1)), ((4, 7), (1, 1)), ((9,), (1,)), ((), ()), ((0, 8), (0, 1))],
)
def test_long_rows_have_step_sizes_of_their_own_and_the_others_share_one(shape, scales):
    old = np.zeros(shape, np.float32)
    sent, residue = encode({"w": old + 2}, {"w": old}, BYTES, {})
    assert sent["w|scale"].shape == scales
    assert decode(sent, {"w": old}, BYTES)["w"] == pytest.approx(old + 2)
    assert all(isinstance(part, np.ndarray) for part in (*sent.values(), *residue.values()))


def test_numbers_too_small_for_a_step_size_stay_with_the_site():
    tiny = f32(1e-45, -1e-45)
    sent, residue = encode({"b": tiny}, {"b": f32(0, 0)}, BYTES, {})
    assert (sent["b|scale"].tolist(), sent["b"].tolist(), residue["b"].tolist()) == ([0], [0, 0], tiny.tolist())


# The head: rows come, and rows that nobody touched stay ------------------------------------------------------------------


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_row_that_the_site_did_not_change_arrives_bit_for_bit(recipe):
    rng = np.random.default_rng(0)
    shared = {"head": rng.normal(size=(3, 8)).astype(np.float32), "bias": rng.normal(size=3).astype(np.float32)}
    update = {name: tensor.copy() for name, tensor in shared.items()}
    residue = {}
    for _ in range(3):
        for tensor in update.values():
            tensor[1] += np.float32(0.01)
        got, residue = through(update, shared, recipe, residue)
        for name, tensor in got.items():
            assert tensor[[0, 2]].tobytes() == shared[name][[0, 2]].tobytes()
            assert tensor[1].tolist() == pytest.approx(update[name][1].tolist(), abs=2e-3)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_row_that_the_server_does_not_know_yet_arrives(recipe):
    shared, update = {"head": f32(1, 2)}, {"head": f32(1.5, 2, -3)}
    got, _ = through(update, shared, recipe)
    assert (got["head"].dtype, got["head"].tolist()) == (np.float32, [1.5, 2, -3])


def test_a_new_row_travels_whole_and_nothing_is_owed_of_it():
    """Else a site would move rows of classes that it does not annotate, by what was rounded when it first sent them."""
    first, second = f32(1), f32(1, -2.944439)
    sent, residue = encode({"bias": second}, {"bias": first}, BYTES, {})
    assert sent["bias|new"].tobytes() == second[1:].tobytes()
    assert residue["bias"].shape == (1,)
    got, residue = through({"bias": second}, {"bias": second}, BYTES, residue)
    assert got["bias"].tobytes() == second.tobytes()
    assert residue["bias"].shape == (2,)


# Over many rounds --------------------------------------------------------------------------------------------------------


def test_what_arrived_and_what_is_owed_is_all_that_changed():
    """Ten rounds of one site whose head grows in the fifth; the federation takes each update as its next model."""
    rng = np.random.default_rng(1)
    shared = {"w": rng.normal(size=(4, 3, 3)).astype(np.float32), "bias": rng.normal(size=2).astype(np.float32)}
    start, wanted, residue = {**shared}, {name: np.zeros(t.shape) for name, t in shared.items()}, {}
    for number in range(10):
        change = {name: rng.normal(0, 0.01, tensor.shape).astype(np.float32) for name, tensor in shared.items()}
        update = {name: tensor + change[name] for name, tensor in shared.items()}
        if number == 5:
            update["bias"] = np.append(update["bias"], np.float32(-3))
            wanted["bias"], start["bias"] = np.append(wanted["bias"], 0), np.append(start["bias"], -3)
        for name, each in change.items():
            wanted[name][: len(each)] += each
        shared, residue = through(update, shared, BYTES, residue)
    for name, total in wanted.items():
        assert shared[name] - start[name] + residue[name] == pytest.approx(total, abs=3e-6)  # ten roundings of float32
        assert np.abs(residue[name]).max() < 0.05 / 127  # about half a step of one round, not of ten
    assert np.abs(residue["w"]).max() > 1e-5  # far more than the roundings: without feedback it would be lost


def test_the_quickstarts_update_is_at_most_a_quarter_and_a_bit():
    recipe, segmenter = quickstart()
    weights = model.shared_weights(segmenter)
    whole, roles = size(weights), model.roles(segmenter)
    said = {name: update_bytes(recipe.model_copy(update={"wire": wire}), weights, roles) for name, wire in RECIPES.items()}
    assert said["exact"] == said["delta"] == whole
    assert said["half"] == said["half delta"] == whole / 2
    assert 3.5 <= whole / said["bytes"] <= 4


def test_a_plan_leaves_out_what_stays_at_home():
    recipe, segmenter = quickstart()
    weights, roles = model.shared_weights(segmenter), model.roles(segmenter)
    head = size({name: tensor for name, tensor in weights.items() if roles[name] == "head"})
    ffl = recipe.model_copy(update={"strategy": recipe.strategy.model_copy(update={"share": "backbone"})})
    assert update_bytes(ffl, weights, roles) == size(weights) - head


# Hostile sites -----------------------------------------------------------------------------------------------------------

SHARED = {"w": np.ones((2, 8), np.float32), "b": f32(1, 2)}
SENT = encode({name: tensor + 1 for name, tensor in SHARED.items()}, SHARED, BYTES, {})[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": f32(1)}, "its tensors are not the model's: x is unknown"),
        ({"x|scale": f32(1)}, "its tensors are not the model's: x|scale is unknown"),
        ({"b|new|scale": f32(1)}, "its tensors are not the model's: b|new|scale is unknown"),
        ({"b|scale": None}, "its tensors are not whole: b|scale is missing beside b"),
        ({"b": None}, "its tensors are not whole: b is missing beside b|scale"),
        ({"b": None, "b|scale": None, "b|new": f32(1)}, "its tensors are not whole: b is missing beside b|new"),
        ({"w": SENT["w"].astype(np.int16)}, "w is int16 [2, 8], not int8 [2, 8]"),
        ({"w": SHARED["w"]}, "w is float32 [2, 8], not int8 [2, 8]"),
        ({"w": SENT["w"][:1]}, "w is int8 [1, 8], not int8 [2, 8]"),
        ({"w|scale": f32(1, 1)}, "w|scale is float32 [2], not float32 [2, 1]"),
        ({"w|scale": np.ones((2, 1))}, "w|scale is float64 [2, 1], not float32 [2, 1]"),
        ({"b|scale": f32(np.nan)}, "b|scale holds what is no size of a step: it must be finite and not below 0"),
        ({"b|scale": f32(np.inf)}, "b|scale holds what is no size of a step: it must be finite and not below 0"),
        ({"b|scale": f32(-1)}, "b|scale holds what is no size of a step: it must be finite and not below 0"),
        (
            {"b|scale": f32(np.finfo(np.float32).tiny / 2) * -1},
            "b|scale holds what is no size of a step: it must be finite and not below 0",
        ),
        ({"b": np.array([-128, 0], np.int8)}, "b has steps of -128; from -127 to 127 they go"),
        ({"w|new": f32(1)}, "w|new is float32 [1], not float32 [1, 8]"),
        ({"b|new": np.ones(1)}, "b|new is float64 [1], not float32 [1]"),
        ({"b|new": np.array(1, np.float32)}, "b|new: a single number is no rows"),
    ],
)
def test_what_is_no_update_in_eight_bits_is_refused_in_words(change, words):
    hostile = {name: part for name, part in (SENT | change).items() if part is not None}
    with pytest.raises(ValueError) as caught:
        decode(hostile, SHARED, BYTES)
    assert str(caught.value) == words


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        ({"x": np.ones(2, np.float16)}, "its tensors are not the model's: x is unknown"),
        ({"b": f32(1, 2)}, "b is float32 [2], not float16 [2]"),
        ({"b": np.ones(1, np.float16)}, "b is float16 [1], not float16 [2]"),
        ({"b": np.array(1, np.float16)}, "b is float16 [], not float16 [2]"),
        ({"w": np.ones((3, 7), np.float16)}, "w is float16 [3, 7], not float16 [3, 8]"),
    ],
)
@pytest.mark.parametrize("recipe", [HALF, HALF_DELTA])
def test_what_is_no_update_in_sixteen_bits_is_refused_in_words(sent, words, recipe):
    with pytest.raises(ValueError) as caught:
        decode(sent, SHARED, recipe)
    assert str(caught.value) == words


def test_the_door_lets_whole_updates_in_and_says_why_others_stay_out(tmp_path):
    shared = {"body": f32(1, 1), "head": f32(5)}
    door = Door(shared, ROLES, ["liver"], (), BYTES, Spool(tmp_path), {"a": Limits(frozenset({"liver"}), 1)})

    def knock(**changes):
        sent = encode({"body": f32(4, 5), "head": f32(5)}, shared, BYTES, {})[0]
        return door(Reply(run="r", round=1, task="train", site="a", classes=("liver",), draws=1, weights={**sent, **changes}))

    assert isinstance(knock(), Reply)
    assert door.norms["a"] == pytest.approx(5, rel=1e-2)  # 3 and 4
    assert door.spool.bytes_up["a"] == (2 + 4) + (1 + 4)  # numbers and a step size: as they travelled
    weights = next(iter(door.spool.updates({}, ("liver",)))).weights
    assert weights["body"].tolist() == pytest.approx([4, 5], abs=4 / 127)
    assert weights["head"].tolist() == [5]
    for change, reason in (
        ({"head|new": f32(7)}, "head is float32 [2], the model's float32 [1]"),
        ({"body|new": f32(7)}, "body is float32 [3], the model's float32 [2]"),
        ({"body|scale": f32(3e38)}, "body is not finite"),
        ({"body|scale": f32(1e11)}, "body has numbers above 1e+12"),
        ({"body": f32(4, 5)}, "body is float32 [2], not int8 [2]"),
    ):
        failure = knock(**change)
        assert isinstance(failure, Failure)
        assert (failure.kind, failure.reason) == ("invalid", reason)


@pytest.mark.parametrize("recipe", [HALF, DELTA, HALF_DELTA, BYTES])
def test_an_update_that_is_not_finite_is_not_sent(recipe):
    with pytest.raises(ArithmeticError, match="b has numbers that .* cannot say"):
        encode({"b": f32(1, np.nan)}, {"b": f32(1, 1)}, recipe, {})


def test_a_number_beyond_sixteen_bits_is_not_sent_as_infinite():
    with pytest.raises(ArithmeticError, match="b has numbers that float16 cannot say"):
        encode({"b": f32(70000)}, {"b": f32(1)}, HALF, {})


# Configs -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wire", "line"),
    [
        ({"int8": True}, "wire: int8 rounds the change since the shared weights; it needs delta: true"),
        (
            {"int8": True, "delta": True, "dtype": "float16"},
            "wire: int8 says how numbers travel, and so does dtype: float16; leave dtype at float32",
        ),
    ],
)
def test_choices_that_do_not_go_together_are_refused(wire, line):
    with pytest.raises(ValueError) as caught:
        build_run({"wire": wire})
    assert str(caught.value) == f"config: {line}"


# A site and whole runs -------------------------------------------------------------------------------------------------


def test_a_site_asked_twice_gives_the_same_bytes_and_keeps_what_it_owes(make_site):
    site = make_site(wire=INT8)
    weights = initial(site)
    first = site.answer(order(round=1), weights)
    second_weights = decode(first.weights, weights, BYTES)
    second = site.answer(order(round=2, merged=1), second_weights)
    owed = merged(before(site.folder / "state", "run1", 2).residue, 1)
    assert owed.keys() == weights.keys() and any(tensor.any() for tensor in owed.values())
    assert content(site.answer(order(round=2, merged=1), second_weights)) == content(second)
    lost = site.answer(order(round=2, merged=0), second_weights)  # round 1 was never merged: nothing of it is owed
    assert content(lost) != content(second)
    forgetful = make_site("forgetful", wire=INT8)
    forgetful.answer(order(round=1), weights)
    state = before(forgetful.folder / "state", "run1", 2)
    commit(forgetful.folder / "state", "run1", 1, replace(state, residue={}), keep=2)
    assert content(forgetful.answer(order(round=2, merged=1), second_weights)) == content(lost)


def test_a_sites_reply_crosses_flower_bit_for_bit(make_site):
    site = make_site(wire=INT8)
    asked, shared = unpack_order(pack_order(order(), pack_weights(initial(site))))
    reply = site.answer(asked, shared)
    there = unpack_reply(pack_reply(reply))
    assert {tensor.dtype.name for tensor in there.weights.values()} == {"int8", "float32"}
    assert content(there) == content(reply)
    assert size(there.weights) < size(shared) / 2.5  # the smallest network there is: 8 numbers a step size


def test_a_site_that_does_not_train_still_owes_what_it_owed(make_site):
    """The server does not count an update without draws, so nothing may be handed over with it."""
    site = make_site(wire=INT8, stream={"cases_per_round": None}, train={"patch": [16, 16, 16], "sampling_rate": 2})
    weights = initial(site)
    first = site.answer(order(round=1), weights)
    weights = decode(first.weights, weights, BYTES)
    quiet = site.answer(order(round=2), weights)
    assert quiet.draws == 0
    assert {name: tensor.tobytes() for name, tensor in decode(quiet.weights, weights, BYTES).items()} == {
        name: tensor.tobytes() for name, tensor in weights.items()
    }
    one, two = (before(site.folder / "state", "run1", round).residue for round in (2, 3))
    assert any(tensor.any() for tensor in one.values())
    assert {name: tensor.tobytes() for name, tensor in one.items()} == {name: tensor.tobytes() for name, tensor in two.items()}


SMALL = ("--set", "wire.delta=true", "--set", "wire.int8=true")
WHOLE = (*SMALL, "--set", "strategy={merge: momentum, share: labelled, objective: ewc, personalise: 3}")
"""What is told beside the weights, kept at the sites, and tuned at the end crosses Ray and a resume too."""


def test_an_interrupted_run_ends_over_ray_with_the_same_bytes(tmp_path, monkeypatch):
    from server import checkpoint

    whole = run(tmp_path / "whole", "local", *WHOLE)
    save = checkpoint.save

    def stop(folder, federation, keep):
        if federation.round == 4:  # the sites have done round 4, and the server does not know
            raise KeyboardInterrupt
        save(folder, federation, keep)

    handler = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as broken:
        broken.setattr(checkpoint, "save", stop)
        assert main(["run", SMOKE, "--engine", "local", "--out", str(tmp_path / "out"), *WHOLE]) == 130
    assert main(["resume", str(tmp_path / "out"), "--engine", "ray", "--actors", "1"]) == 0
    signal.signal(signal.SIGTERM, handler)
    assert_same(tmp_path / "out", whole)
    trained = [row for row in record(whole) if row["event"] == "train"]
    assert not [row for row in record(whole) if row["event"] == "failure"]
    told = {row["round"]: row["bytes_down"] for row in trained}
    assert told[3] > 2.9 * told[1] and told[1] == told[2]  # importances and their place, after the first stage
    names = [site.name for site in sorted((whole / "sites").iterdir())]
    mine, theirs = (
        [(out / "sites" / n / "personal.safetensors").read_bytes() for n in names] for out in (whole, tmp_path / "out")
    )
    assert mine == theirs
