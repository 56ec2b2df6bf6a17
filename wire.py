"""Everything that crosses a hospital's boundary: an Order to a site, a Reply (or a Failure) back.

This is the file for a data officer to read. What a site can say of a case is a keyed id (HMAC with the site's own
secret), a sketch and per-case metrics, as far as the site's own policy lets it (clients/withhold.py): never a voxel, a path or
a file name. packing.py writes both into Flower's records, and the site's ledger (clients/ledger.py) keeps account of them.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from numpy.typing import NDArray

from strategies.base import Weights

PROTOCOL = 4
"""Version of this file's fields; a site refuses an order of another version."""

Task = Literal["hello", "init", "train", "evaluate", "leave"]
ROUND_KEYS = ("steps", "planned", "dropped", "loss_sum", "loss_weight", "new_cases", "stream_left", "seconds")
FAULT_KEYS = ("saving", "micro_batch", "restored")
"""Seconds spent on making the round durable; patches at a time, once memory ran out; the round after whose state the site
began, where a newer one was damaged."""
MEMORY_KEYS = ("memory", "budget", "memory_classes", "memory_domains", "memory_arrived", "evicted")
"""How many samples, of which classes, of which domains (names, if the site declares them), their positions in the stream."""
EVICTED_KEYS = ("id", "arrived", "visits", "uniqueness", "twin", "similarity")
"""Of a sample that the memory let go: keyed id, stream position, how often it was trained on, how unique it was, and the
sample most like it that stayed."""
MOST_DOMAINS = 64
"""Domains that `memory_domains` may name: hospitals have fewer scanners and protocols, and a name is not for counting cases.
Of more, a site puts the rarest together as OTHERS."""
OTHERS = "others"
PRIVACY_KEYS = ("epsilon", "epsilon_total")
"""What this upload of noisy sketches and all so far cost each case (configs.memory.Sketch.delta)."""
CASE_METRICS = ("dice", "dice.all", "iou", "hd95", "nsd")
"""Overlap and surface metrics of a test case and class (SCIENCE: metric ids)."""
CASE_KEYS = ("case", "class", *CASE_METRICS, "voxels")
"""Of a test case and class: keyed id, metrics, voxels of the label."""
CLASS_KEYS = ("class", *(f"{metric}.{part}" for metric in CASE_METRICS for part in ("sum", "cases")))
"""Of a class, from a site that keeps its cases' results at home: each metric's sum over the test cases that have it, and how
many these are. No id, no result of a case; but the sum of a single case is its result."""
WITHHELD = ("sketches", "case_metrics", "domains", "evictions")
"""What a site's own policy (configs.site.Shares) may keep at home, whatever the recipe asks for."""
ROW_KEYS: dict[Task, frozenset[str]] = {
    "hello": frozenset({"tests"}),
    "init": frozenset(),
    "train": frozenset((*ROUND_KEYS, *FAULT_KEYS, *MEMORY_KEYS, *PRIVACY_KEYS)),
    "evaluate": frozenset((*CASE_KEYS, *CLASS_KEYS)),
    "leave": frozenset(),
}
"""All that a reply's rows may say; anything else is refused before it leaves the site. A row of an evaluation speaks of a
test case and class (CASE_KEYS) or, by the site's policy, of a class (CLASS_KEYS)."""

EXTRA = "extra|"
"""How names begin of tensors that travel with the shared weights and are not the model's."""

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
    """What every site is told for its objective (control variates, importances); travels with the shared weights."""
    classes: tuple[str, ...] = ()
    """The union label space by head row, in order of arrival."""
    taught: tuple[str, ...] = ()
    """The classes that the shared weights have been taught so far."""
    home: tuple[str, ...] = ()
    """Roles whose tensors stay with the site: they are neither sent nor replaced by what is shared."""
    rounds: int = 0
    """How many rounds the run has."""
    merged: int = 0
    """The last round of which the site's update was merged; 0: none was."""
    refused: str = ""
    """Why the site's last update was not used; empty: it was."""
    personalise: int = 0
    """With an evaluation: steps of training on the site's memory before it; the model so made stays with the site."""
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
    """The update, compressed as the recipe says (compress.py)."""
    extra: Weights = field(default_factory=dict)
    """What the objective tells the server, by the model's tensor names."""
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
    """Metrics as sums and weights: one row for the round, or one per test case and class, or one per class. ROW_KEYS is all
    they may hold."""
    roles: dict[str, str] = field(default_factory=dict)
    """{tensor: body | norm | head}: all that the server knows of the model (init only)."""
    classes: tuple[str, ...] = ()
    """The classes that the site annotates, in its own order."""
    withholds: tuple[str, ...] = ()
    """What the site's policy keeps at home in this run, of WITHHELD: said in every reply, so that nobody waits for it."""
    leaving: bool = False
    """The site leaves for good: this reply still counts, and it is to be sent no more orders."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """What comes instead of a reply. Errors travel as data and are shown."""

    site: str
    round: int
    task: Task
    kind: FailureKind
    reason: str
    again: bool = False
    """The order is under way again: news, not yet an answer."""


def with_extra(weights: Weights, extra: Weights) -> Weights:
    """The shared weights and, under names of their own, what every site is told beside them."""
    return {**weights, **{EXTRA + name: tensor for name, tensor in extra.items()}}


def split_extra(shared: Weights) -> tuple[Weights, Weights]:
    """The inverse of `with_extra`."""
    weights = {name: tensor for name, tensor in shared.items() if not name.startswith(EXTRA)}
    return weights, {name.removeprefix(EXTRA): tensor for name, tensor in shared.items() if name not in weights}


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


def class_sums(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A site's rows of one evaluation as one per class (CLASS_KEYS); rows that are so already stay as they are.

    Sums are correctly rounded, in whatever order the cases come: made at the site or at the server, they are the same bits.
    A metric that a case does not have (None, NaN) counts in neither part.
    """
    sums, by_class = [], dict[str, list[Mapping[str, Any]]]()
    for row in rows:
        if "dice.sum" in row:
            sums.append(dict(row))
        else:
            by_class.setdefault(row["class"], []).append(row)
    for name, cases in by_class.items():
        told: dict[str, Any] = {"class": name}
        for metric in (metric for metric in CASE_METRICS if any(metric in row for row in cases)):
            there = [value for row in cases if (value := row.get(metric)) is not None and not math.isnan(value)]
            told |= {f"{metric}.sum": math.fsum(there), f"{metric}.cases": len(there)}
        sums.append(told)
    return sums


def finite(value: Any) -> Any:
    """Plain data in which numbers that are not finite are None: JSON has no word for them."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value
