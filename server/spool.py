"""Replies on disk until the merge: the server's memory does not grow with the number of sites."""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from server.tensors import read_tensors, write_tensors
from strategies.base import Update
from wire import Reply, size


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

    def updates(self, uniqueness: Mapping[str, float]) -> Iterator[Update]:
        """What a merge reads: neither the order of arrival nor the number of sites matters to it.

        uniqueness: {site: mean uniqueness of what it holds}; 1 where nothing is known.
        """
        for site, reply in sorted(self._light.items()):
            weights, extra = (read_tensors(self._path(site, part)) for part in ("weights", "extra"))
            yield Update(site, weights, extra, reply.draws, uniqueness.get(site, 1.0), frozenset(reply.classes), reply.round)

    def close(self) -> None:
        """Forget them."""
        shutil.rmtree(self._folder)

    def _path(self, site: str, part: str) -> Path:
        return self._folder / f"{site}.{part}.safetensors"
