"""What crosses the boundary arrives as it left, bit for bit; anything else is refused in words."""

import json
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
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
