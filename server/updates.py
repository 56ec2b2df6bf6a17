"""Whether an update may take part in a merge: made whole, measured, let in or refused with a reason."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

import numpy as np

from compress import decode
from configs.strategy import Wire
from server.replies import invalid, why_too_large
from server.spool import Spool
from strategies.base import Half, Weights
from wire import Failure, Reply


@dataclass(frozen=True)
class Limits:
    """What one site may say in this turn."""

    classes: frozenset[str]
    """What it annotates, as it said when it came: whose head rows it may change."""
    draws: int
    """The most that its order and its stream allow: more would make it the whole model."""
    memory: float = inf
    """The most samples that it was asked to keep."""

    def why_not(self, reply: Reply) -> str | None:
        """Why a reply goes past them, in words; None if it does not."""
        if frozenset(reply.classes) != self.classes:
            return f"it annotates {', '.join(reply.classes)}; when it came it said {', '.join(sorted(self.classes))}"
        if reply.draws > self.draws:
            return f"it says {reply.draws} draws; {self.draws} are possible"
        held = next((row["memory"] for row in reply.rows), 0)
        return f"it says that it keeps {held} samples; it was asked to keep {self.memory:g}" if held > self.memory else None


@dataclass
class Door:
    """Takes the updates of one turn, or says why not."""

    model: Weights
    roles: Mapping[str, str]
    classes: Sequence[str]
    home: Sequence[str]
    """Roles that no update may hold."""
    recipe: Wire
    spool: Spool
    limits: Mapping[str, Limits]
    """What each site may say."""
    half: Half | None = None
    """The server's half of the objective, which hears what is said beside the weights."""
    clip: float = 1.0
    """The largest norm of a step's gradient."""
    norms: dict[str, float] = field(default_factory=dict)
    """{site: how far its update changes the model}"""

    def __call__(self, reply: Reply) -> Reply | Failure:
        """The reply without its tensors, which are spooled; or why not."""
        try:
            weights = decode(reply.weights, self.model, self.recipe)
            reason = self.limits[reply.site].why_not(reply) or self.why_not(weights, reply.extra)
        except ValueError as error:
            weights, reason = {}, str(error)
        if reason is None:
            self.norms[reply.site] = norm = change(weights, self.model)
            most = self.recipe.max_update_norm
            if most is None or norm <= most:
                return self.spool.take(reply, weights)
            reason = f"it changes the model by a norm of {norm:.4g}; wire.max_update_norm is {most:g}"
        return invalid(reply, reason)

    def why_not(self, weights: Weights, extra: Weights) -> str | None:
        """Why an update and what its objective says cannot be used, in words; None if they can."""
        expected = {name: tensor for name, tensor in self.model.items() if self.roles.get(name) not in self.home}
        said = {name: tensor for name, tensor in expected.items() if name in extra}
        rows = len(self.classes)
        if reason := why_unfit(weights, expected, self.roles, rows) or why_too_large(weights):
            return reason
        reason = why_unfit(extra, said, self.roles, rows) or why_too_large(extra)
        reason = reason or (self.half.why_not(extra, self.clip) if self.half else "nobody asked for it" if extra else None)
        return reason and f"what it says beside its weights: {reason}"


def why_unfit(update: Weights, model: Weights, roles: Mapping[str, str], rows: int) -> str | None:
    """Why an update cannot be merged into the model with `rows` head rows, in words; None if it can."""
    if odd := sorted(update.keys() ^ model.keys()):
        return f"its tensors are not the model's: {odd[0]} is {'unknown' if odd[0] in update else 'missing'}"
    for name, tensor in update.items():
        shape = model[name].shape
        wanted = (rows, *shape[1:]) if roles.get(name) == "head" else shape
        if tensor.shape != wanted or tensor.dtype != model[name].dtype:
            return f"{name} is {tensor.dtype} {list(tensor.shape)}, the model's {model[name].dtype} {list(wanted)}"
        if not np.isfinite(tensor).all():
            return f"{name} is not finite"
    return None


def change(update: Weights, model: Weights) -> float:
    """Euclidean norm of an update's change of the model; rows that the model does not have yet are not counted."""
    squares = [np.square(new[: len(old)].astype(np.float64) - old).sum() for old, new in _pairs(update, model)]
    return float(np.sqrt(sum(squares)))


def _pairs(update: Weights, model: Weights) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(np.atleast_1d(model[name]), np.atleast_1d(tensor)) for name, tensor in update.items()]
