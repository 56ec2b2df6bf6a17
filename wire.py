"""Everything that crosses a hospital's boundary: an Order to a site, a Reply (or a Failure) back.

This is the file for a data officer to read. What a site can say of a case is a keyed id (HMAC with the site's own
secret), a sketch and per-case metrics: never a voxel, a path or a file name. The second half packs both into Flower's
records: arrays as arrays, everything else as one JSON text. Nothing is pickled.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from flwr.app import Array as FlowerArray
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from numpy.typing import NDArray

from strategies.base import Weights

PROTOCOL = 2
"""Version of this file's fields; a site refuses an order of another version."""

Task = Literal["hello", "init", "train", "evaluate", "leave"]
ROUND_KEYS = ("steps", "planned", "dropped", "loss_sum", "loss_weight", "new_cases", "stream_left", "seconds")
MEMORY_KEYS = ("memory", "budget", "memory_classes", "memory_domains", "memory_arrived", "evicted")
"""How many samples, of which classes, of which domains (names, if the site declares them), their positions in the stream."""
EVICTED_KEYS = ("id", "arrived", "visits", "uniqueness", "twin", "similarity")
"""Of a sample that the memory let go: keyed id, stream position, how often it was trained on, how unique it was, and the
sample most like it that stayed."""
PRIVACY_KEYS = ("epsilon", "epsilon_total")
"""What this upload of noisy sketches and all so far cost each case (configs.memory.Sketch.delta)."""
CASE_KEYS = ("case", "class", "dice", "dice.all", "iou", "hd95", "nsd", "voxels")
"""Of a test case and class: keyed id, overlap and surface metrics, voxels of the label."""
ROW_KEYS: dict[Task, frozenset[str]] = {
    "hello": frozenset({"tests"}),
    "init": frozenset(),
    "train": frozenset((*ROUND_KEYS, *MEMORY_KEYS, *PRIVACY_KEYS)),
    "evaluate": frozenset(CASE_KEYS),
    "leave": frozenset(),
}
"""All that a reply's rows may say; anything else is refused before it leaves the site."""

FailureKind = Literal["crashed", "late", "refused", "invalid", "lost"]


@dataclass(frozen=True, kw_only=True)
class Order:
    """What the server asks of one site. The shared weights travel beside it, packed once per round."""

    run: str
    """Our own run id: it survives a resume, which Flower's does not."""
    round: int
    task: Task
    site: str
    extra: Weights = field(default_factory=dict)
    """Tensors for this site alone (control variates)."""
    classes: tuple[str, ...] = ()
    """The union label space by head row, in order of arrival."""
    last: bool = False
    """The last evaluation of the run: surface distances and slices too."""
    quota: int = 0
    """How many samples the site's memory may keep."""
    replay: int | None = None
    """Steps of a site whose stream is over; None: as the recipe says."""
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """{score name: {sample id: value}}, the index's last word on what the site holds."""
    orphans: frozenset[str] = frozenset()
    """Ids of samples that stand in for what a departed site knew."""
    coverage_ME: NDArray | None = None
    """[M, E] int8 sketches that cover what the other live sites hold."""
    mu_E: NDArray | None = None
    """[E] the federation's mean feature, projected (clients/sketch.py)."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a site answers."""

    run: str
    round: int
    task: Task
    site: str
    weights: Weights = field(default_factory=dict)
    extra: Weights = field(default_factory=dict)
    draws: int = 0
    """What the site trained on in the round, steps x batch, replay included."""
    new_cases: int = 0
    """Cases that arrived in the round; for hello, the length of the stream."""
    ids: tuple[str, ...] = ()
    """Keyed ids of the samples the sketches belong to."""
    sketches_NE: NDArray | None = None
    """[N, E] int8 sketches of the samples the site holds."""
    mean_E: NDArray | None = None
    """[E] mean projected feature of the samples the site holds; its weight is their number."""
    rows: tuple[dict[str, Any], ...] = ()
    """Metrics as sums and weights: one row for the round, or one per test case and class. ROW_KEYS is all they may hold."""
    roles: dict[str, str] = field(default_factory=dict)
    """{tensor: body | norm | head}: all that the server knows of the model (init only)."""
    classes: tuple[str, ...] = ()
    """The classes that the site annotates, in its own order."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """What comes instead of a reply. Errors travel as data and are shown."""

    site: str
    round: int
    task: Task
    kind: FailureKind
    reason: str


def size(weights: Weights) -> int:
    """Bytes of a set of tensors on the wire, without headers."""
    return sum(tensor.nbytes for tensor in weights.values())


def sketch_bytes(reply: Reply) -> int:
    """Bytes of a reply's sketches on the wire, with their mean and ids."""
    arrays = [array.nbytes for array in (reply.sketches_NE, reply.mean_E) if array is not None]
    return sum(arrays) + sum(map(len, reply.ids))


def told_bytes(order: Order) -> int:
    """Bytes of what an order says of the index: coverage, mean, and scores by id (an id and a number of 8 bytes)."""
    arrays = [array.nbytes for array in (order.coverage_ME, order.mu_E) if array is not None]
    scores = [len(id) + 8 for values in order.scores.values() for id in values]
    return sum(arrays) + sum(scores) + sum(map(len, order.orphans))


def finite(value: Any) -> Any:
    """Plain data in which numbers that are not finite are None: JSON has no word for them."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value


# Packing into Flower's records -------------------------------------------------------------------------------------


def pack_weights(weights: Weights) -> ArrayRecord:
    """Tensors as a Flower record; pack the shared weights once and hand the same record to every order."""
    return ArrayRecord({name: FlowerArray(tensor) for name, tensor in weights.items()})


def unpack_weights(record: ArrayRecord) -> Weights:
    """The inverse of `pack_weights`."""
    return {name: array.numpy() for name, array in record.items()}


def pack_order(order: Order, shared: ArrayRecord) -> RecordDict:
    """An order and the round's shared weights as the content of a Flower message."""
    facts = {
        "protocol": PROTOCOL,
        "run": order.run,
        "round": order.round,
        "task": order.task,
        "site": order.site,
        "classes": order.classes,
        "last": order.last,
        "quota": order.quota,
        "replay": order.replay,
        "scores": order.scores,
        "orphans": sorted(order.orphans),
    }
    return _pack(facts, shared, order.extra, {"coverage_ME": order.coverage_ME, "mu_E": order.mu_E})


def unpack_order(content: RecordDict) -> tuple[Order, Weights]:
    """An order and the shared weights.

    Raises:
        ValueError: the message is no order, or one of another protocol version.
    """
    facts = _facts(content)
    if facts.pop("protocol", None) != PROTOCOL:
        raise ValueError(f"the server speaks another version of the protocol (this site: {PROTOCOL})")
    weights, extra, arrays = (_arrays(content, name) for name in ("weights", "extra", "arrays"))
    try:
        facts["classes"], facts["orphans"] = tuple(facts["classes"]), frozenset(facts["orphans"])
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
