"""Replies on disk until the merge: the server's memory does not grow with the number of sites."""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from server.tensors import read_tensors, write_tensors
from strategies.base import Update
from wire import Reply, Weights, size


class Spool:
    """The updates of one turn, written as they come, read back one at a time in site order."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "spool"
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        self._light: dict[str, Reply] = {}
        self.bytes_up: dict[str, int] = {}

    def take(self, reply: Reply, weights: Weights) -> Reply:
        """Write the tensors down, the weights as they are after decompression; the reply comes back without them."""
        write_tensors(weights, self._path(reply.site, "weights"))
        if reply.extra:
            write_tensors(reply.extra, self._path(reply.site, "extra"))
        self.bytes_up[reply.site] = size(reply.weights) + size(reply.extra)
        self._light[reply.site] = replace(reply, weights={}, extra={})
        return self._light[reply.site]

    def updates(self, uniqueness: Mapping[str, float], rows: tuple[str, ...]) -> "Updates":
        """What a merge reads, with the classes of the head's rows: {site: mean uniqueness of what it holds}, else 1."""
        return Updates(self, uniqueness, rows)

    def read(self, uniqueness: Mapping[str, float], rows: tuple[str, ...]) -> Iterator[Update]:
        """One update at a time, in site order: neither the order of arrival nor the number of sites matters to a merge."""
        for site, reply in sorted(self._light.items()):
            weights, said = read_tensors(self._path(site, "weights")), self._path(site, "extra")
            extra = read_tensors(said) if said.exists() else {}
            facts = (reply.draws, uniqueness.get(site, 1.0), frozenset(reply.classes), reply.round, rows)
            yield Update(site, weights, extra, *facts)

    def close(self) -> None:
        """Forget them."""
        shutil.rmtree(self._folder)

    def _path(self, site: str, part: str) -> Path:
        return self._folder / f"{site}.{part}.safetensors"


@dataclass(frozen=True)
class Updates:
    """The updates of a turn; each pass reads them anew."""

    spool: Spool
    uniqueness: Mapping[str, float]
    rows: tuple[str, ...]

    def __iter__(self) -> Iterator[Update]:
        """One pass."""
        return self.spool.read(self.uniqueness, self.rows)
