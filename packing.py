"""Orders and replies as Flower's records: arrays as arrays, everything else as one JSON text. Nothing is pickled.

Neither side trusts the other: what is unpacked is checked first, and what cannot be right is refused in one line.
"""

import json
from collections.abc import Mapping
from io import BytesIO
from math import prod
from typing import Any, get_args

import numpy as np
from flwr.app import Array as FlowerArray
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from numpy.lib import format as npy
from numpy.typing import NDArray

from facts import NAME, NAMES, ROUND, TEXT, WHOLE, Kind, is_name, is_number, is_whole, named, read_facts, short, why_odd
from wire import EVICTED_KEYS, PROTOCOL, ROW_KEYS, Order, Reply, Task, Weights, finite, split_extra

MOST_TENSORS = 65_536
"""Tensors in one record: the largest networks have some thousands, and beside its numbers each takes about a kilobyte."""
MOST_AXES = 32
NUMPY = "numpy.ndarray"
"""Flower's word for an array in numpy's own format."""
DTYPES = {"bool", *(f"{kind}int{bits}" for kind in ("", "u") for bits in (8, 16, 32, 64)), "float16", "float32", "float64"}
"""What a tensor may be made of: plain numbers, as this machine lays them out."""

ENVELOPE: dict[str, Kind] = {"run": NAME, "round": ROUND, "task": ("a task", get_args(Task).__contains__), "site": NAME}
ORDER: dict[str, Kind] = {
    **ENVELOPE,
    **dict.fromkeys(("classes", "taught", "home", "orphans"), NAMES),
    **dict.fromkeys(("rounds", "merged", "personalise", "quota"), WHOLE),
    "replay": ("a whole number from 0, or null", lambda value: value is None or is_whole(value)),
    "refused": TEXT,
    "last": ("true or false", lambda value: isinstance(value, bool)),
    "scores": ("numbers by name and sample", named(named(is_number))),
}
"""What a site reads in an order. What the server reads in a reply, and how much of it, is server/replies.py's to say."""


def pack_weights(weights: Weights) -> ArrayRecord:
    """Tensors as a Flower record; pack the shared weights once and hand the same record to every order."""
    return ArrayRecord({name: _packed(tensor) for name, tensor in weights.items()})


def _packed(tensor: NDArray) -> FlowerArray:
    """The very bytes that Flower makes of a tensor (numpy's format), with one copy of its numbers instead of three."""
    head, facts = BytesIO(), npy.header_data_from_array_1_0(tensor)
    npy.write_array_header_1_0(head, facts)
    rows = np.ascontiguousarray(tensor.T if facts["fortran_order"] else tensor)
    data = b"".join((head.getvalue(), rows.reshape(-1).view(np.uint8).data))
    return FlowerArray(str(tensor.dtype), tensor.shape, NUMPY, data)


def unpack_weights(record: ArrayRecord) -> Weights:
    """The inverse of `pack_weights`.

    Raises:
        ValueError: an array is not what it says it is; nothing is allocated for what is not there.
    """
    if len(record) > MOST_TENSORS:
        raise ValueError(f"{len(record)} tensors in one record; {MOST_TENSORS} are the most")
    tensors = {}
    for name, array in record.items():
        if not is_name(name):
            raise ValueError(f"{short(name)} is no name of a tensor")
        try:
            _check(array)
            tensors[name] = array.numpy()
        except Exception as error:  # numpy reads the header as Python: whatever that comes upon
            raise ValueError(f"{name} is no array that can be read ({_words(error)})") from None
    return tensors


def _check(array: FlowerArray) -> None:
    """Raise where the bytes are not as many as their header says, or what it says are no plain numbers."""
    data = BytesIO(array.data)
    if npy.read_magic(data) != (1, 0):
        raise ValueError("an unknown version of numpy's format")
    shape, _, dtype = npy.read_array_header_1_0(data)
    if dtype.name not in DTYPES or not dtype.isnative:
        raise ValueError(f"{dtype} are no plain numbers")
    if len(shape) > MOST_AXES or not all(map(is_whole, shape)):
        raise ValueError("no shape")
    promised, there = prod(shape) * dtype.itemsize, len(array.data) - data.tell()
    if promised != there:
        raise ValueError(f"{there} bytes for {dtype} {list(shape)}")


def pack_order(order: Order, shared: ArrayRecord) -> RecordDict:
    """An order and the round's shared tensors (`wire.with_extra`) as the content of a Flower message."""
    facts = {
        "protocol": PROTOCOL,
        "run": order.run,
        "round": order.round,
        "task": order.task,
        "site": order.site,
        "classes": order.classes,
        "taught": order.taught,
        "home": order.home,
        "rounds": order.rounds,
        "merged": order.merged,
        "refused": order.refused,
        "personalise": order.personalise,
        "last": order.last,
        "quota": order.quota,
        "replay": order.replay,
        "scores": order.scores,
        "orphans": sorted(order.orphans),
    }
    return _pack(facts, shared, {}, {"coverage_ME": order.coverage_ME, "mu_E": order.mu_E})


def unpack_order(content: RecordDict) -> tuple[Order, Weights]:
    """An order and the shared weights.

    Raises:
        ValueError: the message is no order, or one of another protocol version.
    """
    facts = _facts(content)
    if facts.pop("protocol", None) != PROTOCOL:
        raise ValueError(f"the server speaks another version of the protocol (this site: {PROTOCOL})")
    if odd := why_odd(facts, ORDER):
        raise ValueError(f"not an order: {odd}")
    weights, extra = split_extra(_arrays(content, "weights"))
    arrays = _arrays(content, "arrays")
    _check_told(arrays.get("coverage_ME"), arrays.get("mu_E"))
    try:
        for name in ("classes", "taught", "home"):
            facts[name] = tuple(facts[name])
        facts["orphans"] = frozenset(facts["orphans"])
        return Order(**facts, extra=extra, coverage_ME=arrays.get("coverage_ME"), mu_E=arrays.get("mu_E")), weights
    except (KeyError, TypeError) as error:
        raise ValueError(f"not an order: {_words(error)}") from None


def _check_told(coverage_ME: NDArray | None, mu_E: NDArray | None) -> None:
    """What an order says of the index: rows of int8, and a mean of finite numbers."""
    if coverage_ME is not None and (coverage_ME.dtype != np.int8 or coverage_ME.ndim != 2):
        raise ValueError(f"not an order: its coverage is {coverage_ME.dtype} {list(coverage_ME.shape)}, not int8 [M, E]")
    if mu_E is not None and (mu_E.dtype != np.float32 or mu_E.ndim != 1 or not np.isfinite(mu_E).all()):
        raise ValueError(f"not an order: its mean is {mu_E.dtype} {list(mu_E.shape)}, not float32 [E] of finite numbers")


def pack_reply(reply: Reply) -> RecordDict:
    """A reply as the content of a Flower message.

    Raises:
        ValueError: a row says more than ROW_KEYS allows.
    """
    for row in reply.rows:
        evicted = {key for sample in row.get("evicted", ()) for key in sample}
        if odd := sorted((row.keys() - ROW_KEYS[reply.task]) | (evicted - {*EVICTED_KEYS})):
            raise ValueError(f"a reply to {reply.task} may not say {odd[0]!r} (wire.py lists what may leave a site)")
    facts = {
        "run": reply.run,
        "round": reply.round,
        "task": reply.task,
        "site": reply.site,
        "draws": reply.draws,
        "new_cases": reply.new_cases,
        "ids": reply.ids,
        "rows": reply.rows,
        "roles": reply.roles,
        "classes": reply.classes,
        "withholds": reply.withholds,
        "leaving": reply.leaving,
    }
    return _pack(facts, pack_weights(reply.weights), reply.extra, {"sketches_NE": reply.sketches_NE, "mean_E": reply.mean_E})


def unpack_reply(content: RecordDict) -> Reply:
    """A reply.

    Raises:
        ValueError: the message is no reply.
    """
    facts = _facts(content)
    if odd := why_odd(facts, ENVELOPE):
        raise ValueError(f"not a reply: {odd}")
    weights, extra, arrays = (_arrays(content, name) for name in ("weights", "extra", "arrays"))
    try:
        for name in ("ids", "rows", "classes", "withholds"):
            facts[name] = tuple(facts.get(name, ()))
        return Reply(**facts, weights=weights, extra=extra, sketches_NE=arrays.get("sketches_NE"), mean_E=arrays.get("mean_E"))
    except TypeError as error:
        raise ValueError(f"not a reply: {_words(error)}") from None


def _pack(facts: Mapping[str, Any], weights: ArrayRecord, extra: Weights, arrays: Mapping[str, NDArray | None]) -> RecordDict:
    given = {name: array for name, array in arrays.items() if array is not None}
    records = {"weights": weights, "extra": pack_weights(extra), "arrays": pack_weights(given)}
    return RecordDict({"facts": ConfigRecord({"json": json.dumps(finite(facts), allow_nan=False)}), **records})


def _facts(content: RecordDict) -> dict[str, Any]:
    try:
        record = content["facts"]  # not content.config_records: that ties the message into a cycle, and tensors live on
        return read_facts(record["json"])
    except KeyError:
        raise ValueError("the message holds no readable facts") from None
    except ValueError as error:
        raise ValueError(f"the message holds {error}") from None


def _words(error: Exception) -> str:
    """What an error says, on one line that is not too long."""
    return (" ".join(str(error).split()) or type(error).__name__)[:200]


def _arrays(content: RecordDict, name: str) -> Weights:
    record = content.get(name, ArrayRecord())
    if not isinstance(record, ArrayRecord):
        raise ValueError(f"the message's {name} are no arrays")
    return unpack_weights(record)
