"""Which node a site's name belongs to: the first that connected under it, for as long as the run lasts.

A name is a word that an administrator typed, and two nodes may come to bear the same one. What cannot be typed is the key that
a node has registered; so the run's folder keeps, for each name, the node and its key, and every other node is turned away.
"""

import hashlib
import json
import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from durable import write_whole
from server.record import FILE as RECORD
from server.record import Record

FILE = "nodes.json"
LOG = logging.getLogger("sitestream")


@dataclass(frozen=True)
class Node:
    """A node of the grid: who the administrator says it is, and what it proved to hold."""

    name: str
    id: int
    key: str = ""
    """SHA-256 of its registered public key; empty: the grid registers none."""
    since: str = ""
    """When it was registered: ISO 8601, so that the order of words is that of times."""
    activated: str = ""
    """When its SuperNode last started."""


@dataclass(frozen=True)
class Refusal:
    """A node that is not let in, because its name is another's."""

    site: str
    node: int
    pinned: int
    reason: str


def node_of(info: Any) -> Node:
    """What Flower's NodeInfo says; a grid of our own says less."""
    key = bytes(getattr(info, "public_key", b""))
    times = [str(getattr(info, f"{name}_at", "") or "") for name in ("registered", "last_activated")]
    return Node(info.name, info.node_id, hashlib.sha256(key).hexdigest() if key else "", *times)


class Pins:
    """The names of a run and their nodes, in a file that survives every restart."""

    def __init__(self, folder: Path) -> None:
        """`folder`: the run's. Raises ValueError if the file there cannot be read."""
        self._path = folder / FILE
        self._refused: dict[tuple[str, int], Refusal] = {}
        self._nodes: dict[str, Node] = {}
        if self._path.exists():
            try:
                entries = json.loads(self._path.read_text())
                self._nodes = {name: Node(name, int(entry["id"]), str(entry["key"])) for name, entry in entries.items()}
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise ValueError(f"{self._path} cannot be read ({error}); put a copy of it back, or delete it") from None

    @property
    def refused(self) -> list[Refusal]:
        """The nodes turned away so far by this process."""
        return list(self._refused.values())

    def owners(self, nodes: Iterable[Node]) -> dict[str, Node]:
        """The one node of each name; a name that is new belongs to whoever registered first, from now on."""
        owners: dict[str, Node] = {}
        for node in sorted(nodes, key=lambda node: (node.since, node.id)):
            pinned = self._nodes.get(node.name)
            if pinned is None or (pinned.key == node.key and node.key and pinned.id != node.id):
                self._pin(node)  # new, or the same key registered anew: the SuperLink's database was lost
                owners[node.name] = node
            elif pinned.id == node.id and (not pinned.key or pinned.key == node.key):
                owners[node.name] = node
            else:
                self._refuse(node, pinned)
        return owners

    def _pin(self, node: Node) -> None:
        self._nodes[node.name] = node
        entries = {name: {key: asdict(node)[key] for key in ("id", "key")} for name, node in sorted(self._nodes.items())}
        write_whole(self._path, lambda draft: draft.write_text(json.dumps(entries, indent=1) + "\n"))

    def _refuse(self, node: Node, pinned: Node) -> None:
        if (node.name, node.id) in self._refused:
            return
        reason = (
            f"node {node.id} bears the name {node.name!r}, which is node {pinned.id}'s in this run: it is ignored. If it is an "
            f"impostor or a slip: flwr supernode unregister {node.id}. If the hospital has a new key: unregister {pinned.id}, "
            f"take {node.name!r} out of {FILE} in the run's folder, and start the run again"
        )
        LOG.warning("%s", reason)
        self._refused[node.name, node.id] = Refusal(node.name, node.id, pinned.id, reason)


def note_refusals(refusals: Iterable[Refusal], record: Record) -> None:
    """A `refused` row for each, once in a run, however often it is resumed."""
    for refusal in refusals:
        row = {"site": refusal.site, "node": str(refusal.node), "pinned": str(refusal.pinned)}  # JSON's numbers are too short
        if json.dumps(row)[1:-1].encode() not in (record.folder / RECORD).read_bytes():
            record.append("refused", **row, reason=refusal.reason)
