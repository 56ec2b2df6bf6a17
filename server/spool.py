"""Replies on disk until the merge: the server's memory does not grow with the number of sites."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from server.tensors import read_tensors, write_tensors
from strategies.base import Update, Weights
from wire import Reply, size

NEEDED = {"hello": {"tests"}, "train": {"memory"}, "evaluate": {"case", "class", "dice"}}
"""What the server reads from a reply's rows, by task."""


class Spool:
    """The updates of one turn, written as they come, read back one at a time in site order."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "spool"
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        self._light: dict[str, Reply] = {}
        self.bytes_up: dict[str, int] = {}

    def take(self, reply: Reply) -> Reply:
        """Write the tensors down; the reply comes back without them."""
        write_tensors(reply.weights, self._path(reply.site, "weights"))
        write_tensors(reply.extra, self._path(reply.site, "extra"))
        self.bytes_up[reply.site] = size(reply.weights) + size(reply.extra)
        self._light[reply.site] = replace(reply, weights={}, extra={})
        return self._light[reply.site]

    def updates(self) -> Iterator[Update]:
        """What a merge reads: neither the order of arrival nor the number of sites matters to it."""
        for site, reply in sorted(self._light.items()):
            weights, extra = (read_tensors(self._path(site, part)) for part in ("weights", "extra"))
            yield Update(site, weights, extra, reply.draws, 1.0, frozenset(reply.classes), reply.round)

    def close(self) -> None:
        """Forget them."""
        shutil.rmtree(self._folder)

    def _path(self, site: str, part: str) -> Path:
        return self._folder / f"{site}.{part}.safetensors"


def why_unfit(update: Weights, model: Weights, roles: dict[str, str], rows: int) -> str | None:
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


def why_incomplete(reply: Reply) -> str | None:
    """What a reply of its task must say and does not, in words; None if nothing is amiss."""
    if reply.task in ("hello", "train") and len(reply.rows) != 1:
        return f"it has {len(reply.rows)} rows of facts, not one"
    for row in reply.rows:
        if missing := sorted(NEEDED.get(reply.task, set()) - set(row)):
            return f"its rows do not say {missing[0]!r}"
    if reply.task == "init" and not reply.weights:
        return "it holds no weights"
    return "its draws are less than none" if reply.draws < 0 else None
