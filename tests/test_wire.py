"""What crosses the boundary arrives as it left, bit for bit; anything else is refused in words."""

import json
import struct
import tracemalloc
import warnings
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array as FlowerArray
from flwr.app import ArrayRecord, ConfigRecord, RecordDict

import wire
from packing import pack_order, pack_reply, pack_weights, unpack_order, unpack_reply, unpack_weights
from wire import PROTOCOL, Order, Reply

WEIGHTS = {
    "body.weight": np.random.default_rng(0).normal(size=(2, 3, 1, 1, 1)).astype(np.float32),
    "odd": np.array([np.nan, np.inf, -0.0, 1e-45], np.float32),
    "scalar": np.array(np.pi, np.float64),
    "half": np.array([[1, 2], [3, 4]], np.float16),
    "empty": np.zeros((0, 4), np.float32),
}
ORDER = Order(
    run="r1",
    round=3,
    task="train",
    site="a",
    extra={"variate": np.array([1.5, -2.5])},
    classes=("liver", "ünïcode"),
    taught=("liver",),
    home=("norm", "head"),
    rounds=9,
    merged=2,
    refused="its norm is too long",
    personalise=4,
    last=True,
    quota=7,
    replay=5,
    scores={"uniqueness": {"id1": 0.25, "id2": 1 / 3}},
    orphans=frozenset({"id2", "id1"}),
    coverage_ME=np.arange(6, dtype=np.int8).reshape(2, 3),
    mu_E=np.array([0.1, 0.2], np.float32),
)
REPLY = Reply(
    run="r1",
    round=3,
    task="train",
    site="a",
    weights=WEIGHTS,
    extra={"variate": np.array([1.5, -2.5])},
    draws=12,
    new_cases=2,
    ids=("id1", "id2"),
    sketches_NE=np.array([[1, -128], [127, 0]], np.int8),
    mean_E=np.array([0.5, -0.5], np.float32),
    rows=({"memory": 2, "loss_sum": 0.1 + 0.2, "memory_classes": {"liver": 2}}, {"loss_sum": None}),
    roles={"body.weight": "body", "odd": "norm"},
    classes=("liver",),
    withholds=("sketches", "domains"),
    leaving=True,
)


def bits(value: Any) -> Any:
    """Something comparable, in which arrays are their type, shape and bytes."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    return {key: bits(item) for key, item in value.items()} if isinstance(value, dict) else value


def same(one: Any, other: Any) -> bool:
    return all(bits(getattr(one, field.name)) == bits(getattr(other, field.name)) for field in fields(one))


def text(content: RecordDict) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(str(content["facts"]["json"]), parse_constant=refuse)


def edited(content: RecordDict, **facts: Any) -> RecordDict:
    content["facts"] = ConfigRecord({"json": json.dumps(text(content) | facts)})
    return content


def test_every_field_of_an_order_and_of_a_reply_is_tried_here():
    bare_order, bare_reply = Order(run="", round=0, task="hello", site=""), Reply(run="", round=0, task="hello", site="")
    for full, bare in ((ORDER, bare_order), (REPLY, bare_reply)):
        assert [f.name for f in fields(full) if bits(getattr(full, f.name)) == bits(getattr(bare, f.name))] == []


def test_an_order_and_the_shared_weights_arrive_bit_for_bit():
    """What an objective is told travels with the weights, packed once for all sites, and is the order's again at the site."""
    order, shared = unpack_order(pack_order(replace(ORDER, extra={}), pack_weights(wire.with_extra(WEIGHTS, ORDER.extra))))
    assert same(order, ORDER)
    assert bits(shared) == bits(WEIGHTS)
    assert list(shared) == list(WEIGHTS)


def test_a_reply_arrives_bit_for_bit():
    assert same(unpack_reply(pack_reply(REPLY)), REPLY)


def test_what_is_not_given_stays_away():
    order, shared = unpack_order(pack_order(Order(run="r", round=0, task="hello", site="a"), pack_weights({})))
    assert same(order, Order(run="r", round=0, task="hello", site="a"))
    assert shared == {}
    assert same(
        unpack_reply(pack_reply(Reply(run="r", round=0, task="hello", site="a"))),
        Reply(run="r", round=0, task="hello", site="a"),
    )


def test_an_array_that_lies_otherwise_in_memory_arrives_in_the_same_places():
    lying = {
        "f": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "t": np.arange(6.0).reshape(2, 3).T,
        "s": np.arange(9.0)[::2],
    }
    for name, tensor in unpack_weights(pack_weights(lying)).items():
        assert tensor.tolist() == lying[name].tolist()


def test_the_json_holds_no_nan():
    content = pack_reply(replace(REPLY, rows=({"loss_sum": float("nan"), "memory_domains": {"x": [float("inf"), 1.0]}},)))
    assert text(content)["rows"] == [{"loss_sum": None, "memory_domains": {"x": [None, 1.0]}}]
    assert unpack_reply(content).rows == ({"loss_sum": None, "memory_domains": {"x": [None, 1.0]}},)


def test_nothing_but_numbers_and_one_text_crosses():
    for content in (pack_order(ORDER, pack_weights(WEIGHTS)), pack_reply(REPLY)):
        assert set(content) == {"facts", "weights", "extra", "arrays"}
        assert list(content["facts"]) == ["json"]


def test_the_shared_record_is_packed_once_and_handed_on():
    record = pack_weights(WEIGHTS)
    assert pack_order(ORDER, record)["weights"] is record
    assert pack_order(replace(ORDER, site="b"), record)["weights"] is record


@pytest.mark.parametrize("version", [0, PROTOCOL - 1, PROTOCOL + 1, str(PROTOCOL), None])
def test_another_version_of_the_protocol_is_refused(version):
    content = edited(pack_order(ORDER, pack_weights({})), protocol=version)
    with pytest.raises(ValueError, match="another version of the protocol"):
        unpack_order(content)


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({"facts": ConfigRecord({"json": "{"})}),
        RecordDict({"facts": ConfigRecord({"json": "[1, 2]"})}),
        RecordDict({"facts": ConfigRecord({"text": "{}"})}),
        RecordDict({"facts": ArrayRecord()}),
        RecordDict({"facts": ConfigRecord({"json": '{"protocol": 1}'})}),
        RecordDict({"facts": ConfigRecord({"json": '{"protocol": 1, "nonsense": 1, "classes": [], "orphans": []}'})}),
        RecordDict({"facts": ConfigRecord({"json": '{"protocol": 1, "classes": 5, "orphans": [], "ids": 5}'})}),
        RecordDict({"facts": ConfigRecord({"json": '{"protocol": 1, "classes": [], "orphans": [[]], "rows": null}'})}),
    ],
)
def test_garbage_is_refused_in_words(content):
    with pytest.raises(ValueError, match=r"not an order|not a reply|no readable facts|another version"):
        unpack_order(content)
    with pytest.raises(ValueError, match=r"not an order|not a reply|no readable facts"):
        unpack_reply(content)


def test_size_is_the_bytes_of_the_tensors():
    assert wire.size({}) == 0
    assert wire.size(WEIGHTS) == 6 * 4 + 4 * 4 + 8 + 4 * 2 + 0


def test_a_row_that_says_more_than_the_list_stays_at_the_site():
    with pytest.raises(ValueError, match="may not say 'file'"):
        pack_reply(replace(REPLY, rows=({"memory": 2, "file": "/data/patient_7.nii"},)))


# Hostile messages ---------------------------------------------------------------------------------------------------------


def array(data: bytes, dtype: str = "float32", shape: tuple[int, ...] = (2,), stype: str = "numpy.ndarray") -> FlowerArray:
    return FlowerArray(dtype, shape, stype, data)


def npy(header: str, numbers: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    """An array file with this header, whatever it says."""
    return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header.encode("latin1") + numbers


def said(descr: str, shape: str, order: bool = False) -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n"


@pytest.mark.parametrize(
    ("hostile", "words"),
    [
        (array(b""), "EOF"),
        (array(b"\x80\x05."), "EOF"),
        (array(b"\x80\x05" + bytes(20)), "magic string is not correct"),
        (array(npy(said("'<f4'", "(2,)"), bytes(8), b"\x02\x00")), "an unknown version of numpy's format"),
        (array(npy(said("'<f4'", "(1000000000000,)"), bytes(8))), "8 bytes for float32 [1000000000000]"),
        (array(npy(said("'<f4'", "(2,)"), bytes(7))), "7 bytes for float32 [2]"),
        (array(npy(said("'<f4'", "(2,)"), bytes(9))), "9 bytes for float32 [2]"),
        (array(npy(said("'|O'", "(2,)"), bytes(16))), "object are no plain numbers"),
        (array(npy(said("'|V4'", "(2,)"), bytes(8))), "no plain numbers"),
        (array(npy(said("[('a', '<f4')]", "(2,)"), bytes(8))), "no plain numbers"),
        (array(npy(said("'<U1'", "(2,)"), bytes(8))), "<U1 are no plain numbers"),
        (array(npy(said("'<c8'", "(1,)"), bytes(8))), "complex64 are no plain numbers"),
        (array(npy(said("'<f16'", "(1,)"), bytes(16))), "float128 are no plain numbers"),
        (array(npy(said("'<M8[s]'", "(1,)"), bytes(8))), "no plain numbers"),
        (array(npy(said("'>f4'", "(2,)"), bytes(8))), ">f4 are no plain numbers"),
        (array(npy(said("'<f4'", "(-1, -2)"), bytes(8))), "no shape"),
        (array(npy(said("'<f4'", "(True, 2)"), bytes(8))), "no shape"),
        (array(npy(said("'<f4'", f"(0, {10**30})"))), "no shape"),
        (array(npy(said("'<f4'", f"(0, {2**53}, {2**53})"))), "array is too big"),
        (array(npy(said("'<f4'", "(" + "1," * 40 + ")"), bytes(4))), "no shape"),
        (array(npy("(" * 9000)), "EOF in multi-line statement"),
        (array(npy("-" * 9000 + "1")), ""),
        (array(npy("{}")), "Header does not contain the correct keys"),
        (array(npy(said("'<f4'", "(2,)"), bytes(8)), stype="pickle"), "Unsupported serialization type"),
    ],
)
def test_an_array_that_is_not_what_it_says_is_refused_in_one_line_and_nothing_is_allocated(hostile, words):
    tracemalloc.start()
    with pytest.raises(ValueError) as caught, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        unpack_weights(ArrayRecord({"body": hostile}))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert str(caught.value).startswith("body is no array that can be read (") and words in str(caught.value)
    assert len(str(caught.value)) < 300 and "\n" not in str(caught.value)
    assert peak < 3_000_000


@pytest.mark.parametrize("name", ["a\nb", "\x1b[2J", "x" * 201, "\ud800"])
def test_a_tensors_name_is_one_short_line(name):
    with pytest.raises(ValueError, match="is no name of a tensor"):
        unpack_weights(ArrayRecord({name: FlowerArray(np.zeros(1))}))


def test_more_tensors_than_any_network_has_are_refused():
    one = FlowerArray(np.zeros(0))
    with pytest.raises(ValueError, match="65537 tensors in one record; 65536 are the most"):
        unpack_weights(ArrayRecord({str(i): one for i in range(65_537)}))


def said_by(facts: Any) -> RecordDict:
    content = pack_reply(Reply(run="r", round=1, task="hello", site="a"))
    content["facts"] = ConfigRecord({"json": facts if isinstance(facts, str | bytes | int) else json.dumps(facts)})
    return content


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ("null", "the message holds no readable facts (NoneType, not values by name)"),
        ("[" * 100_000, "the message holds no readable facts (nested too deeply)"),
        ('{"a":' * 100_000, "the message holds no readable facts (nested too deeply)"),
        ('{"round": ' + "1" * 5000 + "}", "the message holds no readable facts (Exceeds the limit"),
        ('{"round": NaN}', "the message holds no readable facts (NaN is no number)"),
        ('{"rows": [{"loss_sum": -Infinity}]}', "the message holds no readable facts (-Infinity is no number)"),
        ('{"rows": [{"loss_sum": 1e999}]}', "the message holds no readable facts (a number is too large)"),
        ('{"rows": [' + "{}," * 1_500_000 + "{}]}", "the message holds some 3000003 facts; 2000000 are the most that are read"),
        (b"{}", "the message holds no readable facts (bytes, not text)"),
        (7, "the message holds no readable facts (int, not text)"),
        ({"run": "r", "round": 1.0, "task": "hello", "site": "a"}, "not a reply: its 'round' is 1.0, not a round"),
        ({"run": "r", "round": True, "task": "hello", "site": "a"}, "not a reply: its 'round' is True, not a round"),
        ({"run": "r", "round": 1, "task": ["hello"], "site": "a"}, "not a reply: its 'task' is ['hello'], not a task"),
        ({"run": "r\n", "round": 1, "task": "hello", "site": "a"}, r"not a reply: its 'run' is 'r\n', not a name"),
        ({"x" * 10**6: 1}, "not a reply: Reply.__init__() got an unexpected keyword argument 'xxx"),
    ],
    ids=lambda value: "" if isinstance(value, str) else None,
)
def test_facts_that_no_site_would_say_are_refused_in_one_line(facts, words):
    with pytest.raises(ValueError) as caught:
        unpack_reply(said_by(facts))
    assert str(caught.value).startswith(words)
    assert len(str(caught.value)) < 300 and "\n" not in str(caught.value)


def test_of_a_key_given_twice_the_last_counts():
    assert unpack_reply(said_by('{"run": "r", "round": 1, "task": "hello", "site": "b", "site": "a"}')).site == "a"


def test_tensors_that_are_no_arrays_are_refused():
    content = pack_reply(REPLY)
    content["weights"] = ConfigRecord({"body": 1.0})
    with pytest.raises(ValueError, match="the message's weights are no arrays"):
        unpack_reply(content)


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"round": -1}, "its 'round' is -1, not a round"),
        ({"round": 10**9}, "its 'round' is 1000000000, not a round"),
        ({"quota": 1.5}, "its 'quota' is 1.5, not a whole number from 0"),
        ({"task": "steal"}, "its 'task' is 'steal', not a task"),
        ({"classes": ["liver", 3]}, "its 'classes' is ['liver', 3], not a list of names"),
        ({"classes": "liver"}, "its 'classes' is 'liver', not a list of names"),
        ({"last": "no"}, "its 'last' is 'no', not true or false"),
        ({"replay": "all"}, "its 'replay' is 'all', not a whole number from 0, or null"),
        (
            {"scores": {"uniqueness": {"id1": "x"}}},
            "its 'scores' is {'uniqueness': {'id1': 'x'}}, not numbers by name and sample",
        ),
        ({"orphans": [["id1"]]}, "its 'orphans' is [['id1']], not a list of names"),
        ({"refused": None}, "its 'refused' is None, not text"),
    ],
)
def test_an_order_that_no_server_would_give_is_refused_in_one_line(facts, words):
    with pytest.raises(ValueError) as caught:
        unpack_order(edited(pack_order(ORDER, pack_weights({})), **facts))
    assert str(caught.value) == f"not an order: {words}"


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"coverage_ME": np.zeros((2, 3))}, "its coverage is float64 [2, 3], not int8 [M, E]"),
        ({"coverage_ME": np.zeros(3, np.int8)}, "its coverage is int8 [3], not int8 [M, E]"),
        ({"mu_E": np.zeros(2)}, "its mean is float64 [2], not float32 [E] of finite numbers"),
        ({"mu_E": np.array([0, np.nan], np.float32)}, "its mean is float32 [2], not float32 [E] of finite numbers"),
    ],
)
def test_what_an_order_says_of_the_index_is_of_its_kind(told, words):
    with pytest.raises(ValueError) as caught:
        unpack_order(pack_order(replace(ORDER, **told), pack_weights({})))
    assert str(caught.value) == f"not an order: {words}"
