"""Orders and replies as Flower's records: arrays as arrays, everything else as one JSON text. Nothing is pickled."""

import json
from collections.abc import Mapping
from typing import Any

from flwr.app import Array as FlowerArray
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from numpy.typing import NDArray

from wire import EVICTED_KEYS, PROTOCOL, ROW_KEYS, Order, Reply, Weights, finite, split_extra


def pack_weights(weights: Weights) -> ArrayRecord:
    """Tensors as a Flower record; pack the shared weights once and hand the same record to every order."""
    return ArrayRecord({name: FlowerArray(tensor) for name, tensor in weights.items()})


def unpack_weights(record: ArrayRecord) -> Weights:
    """The inverse of `pack_weights`."""
    return {name: array.numpy() for name, array in record.items()}


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
    weights, extra = split_extra(_arrays(content, "weights"))
    arrays = _arrays(content, "arrays")
    try:
        for name in ("classes", "taught", "home"):
            facts[name] = tuple(facts[name])
        facts["orphans"] = frozenset(facts["orphans"])
        return Order(**facts, extra=extra, coverage_ME=arrays.get("coverage_ME"), mu_E=arrays.get("mu_E")), weights
    except (KeyError, TypeError) as error:
        raise ValueError(f"not an order: {error}") from None


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
    }
    return _pack(facts, pack_weights(reply.weights), reply.extra, {"sketches_NE": reply.sketches_NE, "mean_E": reply.mean_E})


def unpack_reply(content: RecordDict) -> Reply:
    """A reply.

    Raises:
        ValueError: the message is no reply.
    """
    facts = _facts(content)
    weights, extra, arrays = (_arrays(content, name) for name in ("weights", "extra", "arrays"))
    try:
        for name in ("ids", "rows", "classes"):
            facts[name] = tuple(facts.get(name, ()))
        return Reply(**facts, weights=weights, extra=extra, sketches_NE=arrays.get("sketches_NE"), mean_E=arrays.get("mean_E"))
    except TypeError as error:
        raise ValueError(f"not a reply: {error}") from None


def _pack(facts: Mapping[str, Any], weights: ArrayRecord, extra: Weights, arrays: Mapping[str, NDArray | None]) -> RecordDict:
    given = {name: array for name, array in arrays.items() if array is not None}
    records = {"weights": weights, "extra": pack_weights(extra), "arrays": pack_weights(given)}
    return RecordDict({"facts": ConfigRecord({"json": json.dumps(finite(facts), allow_nan=False)}), **records})


def _facts(content: RecordDict) -> dict[str, Any]:
    try:
        record = content["facts"]  # not content.config_records: that ties the message into a cycle, and tensors live on
        facts = json.loads(str(record["json"]))
    except (KeyError, ValueError):
        raise ValueError("the message holds no readable facts") from None
    if not isinstance(facts, dict):
        raise ValueError("the message holds no readable facts")
    return facts


def _arrays(content: RecordDict, name: str) -> Weights:
    record = content.get(name, ArrayRecord())
    return unpack_weights(record) if isinstance(record, ArrayRecord) else {}
