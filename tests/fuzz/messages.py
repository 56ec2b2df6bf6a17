"""What crosses the wire: replies, orders, updates and sketches."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from compress import decode
from configs.memory import Index, Memory
from configs.strategy import Wire
from packing import pack_order, pack_reply, pack_weights, unpack_order, unpack_reply
from server.remembered import Remembered
from server.replies import MOST_CLASSES, why_incomplete
from server.spool import Spool
from server.updates import Door, Limits
from strategies.base import average
from tests.fuzz.mutate import edited, mutated
from tests.fuzz.targets import FILES, Reader, Target
from wire import MOST_DOMAINS, Failure, Order, Reply

MODEL = {"body": np.ones((2, 8), np.float32), "head": np.zeros(1, np.float32)}
ROW = {"memory": 2, "steps": 3, "loss_sum": 1.0, "loss_weight": 3.0, "memory_classes": {"liver": 2}, "memory_arrived": [0, 1],
       "stream_left": 0, "evicted": [{"id": "x", "arrived": 0, "visits": 1, "twin": None}]}  # fmt: skip
SKETCHES = np.array([[127, 0, 0], [0, 127, 0]], np.int8)
REPLY = Reply(run="r", round=1, task="train", site="a", weights=MODEL, extra={"body": MODEL["body"]}, draws=4, ids=("x", "y"),
              sketches_NE=SKETCHES, mean_E=np.zeros(3, np.float32), rows=(ROW,), classes=("liver",))  # fmt: skip
FULL = replace(REPLY, rows=(ROW | {"memory_domains": {f"d{i}": 1 for i in range(MOST_DOMAINS)},
                                   "memory_classes": {f"c{i}": 1 for i in range(MOST_CLASSES)}},))  # fmt: skip
"""As many names as a reply may hold: one more is refused."""
ORDER = Order(run="r", round=1, task="train", site="a", classes=("liver",), scores={"uniqueness": {"x": 0.5}}, quota=3,
              orphans=frozenset({"x"}), coverage_ME=SKETCHES, mu_E=np.zeros(3, np.float32))  # fmt: skip
RECIPES = (Wire(), Wire(dtype="float16"), Wire(delta=True), Wire(delta=True, int8=True))
DTYPES = st.sampled_from(["float32", "float16", "int8", "float64", "int64", "bool", "uint8", ">f4", "complex64"])


@st.composite
def messages(draw: st.DrawFn, valid: RecordDict) -> RecordDict:
    """A message whose facts or arrays were spoilt."""
    spoilt = RecordDict(dict(valid))
    for name in draw(st.lists(st.sampled_from(sorted(valid)), min_size=1, max_size=2)):
        record = valid[name]
        if name == "facts":
            text = str(record["json"])
            as_text = mutated(text.encode()).map(lambda data: data.decode("utf-8", "replace"))
            spoilt[name] = ConfigRecord({"json": draw(st.one_of(edited(json.loads(text)).map(json.dumps), as_text))})
        else:
            spoilt[name] = ArrayRecord({key: draw(_array(array)) for key, array in record.items()})
    return spoilt


def _array(array: Array) -> st.SearchStrategy[Array]:
    said = st.sampled_from(("numpy.ndarray", "pickle", ""))
    bytes_ = st.one_of(
        st.just(array.data), mutated(array.data), mutated(array.data[:128]).map(lambda head: head + array.data[128:])
    )
    return st.builds(lambda data, stype: Array(array.dtype, array.shape, stype, data), bytes_, said)


def tensors(names: tuple[str, ...]) -> st.SearchStrategy[dict[str, Any]]:
    """A set of tensors of any kind, shape and numbers."""
    shapes = st.one_of(st.sampled_from([(2, 8), (1,), (2, 1), (), (2,), (0, 8), (3, 8)]), arrays.array_shapes(max_side=4))
    return st.dictionaries(st.sampled_from(names), arrays.arrays(DTYPES, shapes), max_size=len(names))


def replies(folder: Path) -> tuple[st.SearchStrategy[Any], Reader]:
    """A reply as far as the index."""

    def read(content: RecordDict) -> None:
        reply = unpack_reply(content)
        if why_incomplete(reply) is None and reply.task == "train" and reply.site == "a":
            assert len(reply.rows[0].get("memory_domains", ())) <= MOST_DOMAINS
            known = Remembered(Index(on=True), Memory(total=4, budget=2), 8)
            for _ in range(2):
                known.words(["a", "b"], ["a", "b"], 4)
                known.evictions(reply)
                known.take(reply)
            known.summary(["a", "b"], {"a": int(reply.rows[0]["memory"])})
            json.dumps(known.state()[0])

    return messages(pack_reply(REPLY)) | messages(pack_reply(FULL)), read


def orders(folder: Path) -> tuple[st.SearchStrategy[Any], Reader]:
    """An order as a site reads it."""
    return messages(pack_order(ORDER, pack_weights(MODEL))), unpack_order


def updates(folder: Path) -> tuple[st.SearchStrategy[Any], Reader]:
    """Arbitrary tensors in every recipe."""
    parts = ("body", "head", "body|scale", "head|scale", "head|new", "odd")
    return st.tuples(tensors(parts), st.sampled_from(RECIPES)), lambda example: decode(example[0], MODEL, example[1])


def doors(folder: Path) -> tuple[st.SearchStrategy[Any], Reader]:
    """An update at the door: let in, it can be merged; else the reason is one line."""
    limits = {"a": Limits(frozenset({"liver"}), 8)}
    roles = {"body": "body", "head": "head"}

    def knock(example: tuple[dict[str, Any], dict[str, Any], Wire, dict[str, Any]]) -> None:
        weights, extra, recipe, facts = example
        spool = Spool(folder)
        door = Door(MODEL, roles, ["liver"], (), recipe, spool, limits)
        answer = door(
            Reply(run="r", round=1, task="train", site="a", weights={**_like(recipe), **weights}, extra=extra, **facts)
        )
        if isinstance(answer, Failure):
            assert answer.reason and "\n" not in answer.reason and len(answer.reason) <= 300
            return
        merged = average(spool.updates({}, ("liver",)), lambda update: 1.0)
        assert all(np.isfinite(tensor).all() for tensor in merged.values()) and np.isfinite(door.norms["a"])

    floats = st.floats(width=32)
    gigantic = st.fixed_dictionaries({"body": arrays.arrays("float32", (2, 8), elements=floats)})
    weights = st.one_of(tensors(("body", "head", "body|scale", "head|new", "odd")), gigantic)
    facts = st.fixed_dictionaries({"draws": st.integers(0, 9), "classes": st.sampled_from([("liver",), (), ("x" * 900,) * 9])})
    return st.tuples(weights, tensors(("body", "odd")), st.sampled_from(RECIPES), facts), knock


def _like(recipe: Wire) -> dict[str, Any]:
    """A whole update in a recipe."""
    if recipe.int8:
        kinds = {
            "body": ("int8", (2, 8)),
            "head": ("int8", (1,)),
            "body|scale": ("float32", (2, 1)),
            "head|scale": ("float32", (1,)),
        }
        return {name: np.ones(shape, dtype) for name, (dtype, shape) in kinds.items()}
    return {name: tensor.astype(recipe.dtype) for name, tensor in MODEL.items()}


TARGETS: dict[str, Target] = FILES | {
    "replies": Target(replies),
    "orders": Target(orders),
    "updates": Target(updates),
    "doors": Target(doors),
}
