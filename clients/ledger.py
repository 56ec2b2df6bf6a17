"""A site's ledger: one line for each message that came or left, with what it held and how much, never the content.

`ledger.jsonl` in the site's folder only grows. Every line carries the SHA-256 of the line before it, and `ledger.head` names
how far the file goes and the SHA-256 of its last line: a line that was changed, cut out or cut off shows. Both files belong
to whoever may write into the folder, who could write them anew: the last line's sum, noted elsewhere, guards against that.

A reply's line is on the disk before the reply is handed over: where it cannot be written (a full disk), nothing leaves. The
round itself is saved by then, so the same order, asked again, gives the same reply.
"""

import errno
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from wire import Order, Reply, Weights, finite

FILE, HEAD = "ledger.jsonl", "ledger.head"
FIRST = "0" * 64
"""What the first line says of the line before it."""
BLOCK = 65_536
"""Bytes read at a time to find the last line."""

LINE = {
    **dict.fromkeys(("time", "run", "task", "site", "direction", "before"), str),
    **dict.fromkeys(("round", "bytes"), int),
    "fields": dict,
}
"""What every line says, and as what; a reply's also says `withheld`, or `failed`."""

Entry = dict[str, Any]


class Ledger:
    """Adds lines to the ledger of a site's folder; for the one process that is at work there.

    Raises (each method):
        OSError: the line cannot be written; the ledger is as it was.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE

    def came(self, order: Order, shared: Weights) -> None:
        """An order, with the weights that every site gets."""
        self._add(order, "in", _fields(order) | _fields_of({"weights": shared}))

    def left(self, reply: Reply, withheld: list[str]) -> None:
        """A reply, as it is about to be handed over, and what the site's policy took out of it. Durable when this returns."""
        self._add(reply, "out", _fields(reply), {"withheld": withheld}, durable=True)

    def failed(self, order: Order, error: Exception) -> None:
        """No reply: at most the kind of error leaves, and in a simulation its words."""
        kind = type(error).__name__
        self._add(order, "out", _fields_of({"failure": kind}), {"failed": kind}, durable=True)

    def _add(
        self, message: Order | Reply, direction: str, said: dict[str, Entry], facts: Entry | None = None, durable: bool = False
    ) -> None:
        before, torn = _last_line(self._path)
        entry = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            **{name: getattr(message, name) for name in ("run", "round", "task", "site")},
            "direction": direction,
            "fields": said,
            "bytes": sum(field["bytes"] for field in said.values()),
            **(facts or {}),
            "before": _sum(before) if before else FIRST,
        }
        line = json.dumps(entry).encode()
        try:
            self._append(line, (b"\n" if torn else b"") + line + b"\n", durable)
        except OSError as error:
            words = f"{error.strerror or error}: the site's ledger cannot be written, so nothing leaves"
            raise OSError(error.errno, words, str(self._path)) from error

    def _append(self, line: bytes, text: bytes, durable: bool) -> None:
        """The text at the ledger's end, and the head that names its last line: what needs space comes first."""
        handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            before = os.fstat(handle).st_size
            draft = self._draft({"bytes": before + len(text), "sha256": _sum(line)})
            try:
                if (written := os.write(handle, text)) < len(text):
                    raise OSError(errno.ENOSPC, f"only {written} of {len(text)} bytes could be written")
                if durable:
                    os.fsync(handle)
            except OSError:
                os.ftruncate(handle, before)
                raise
            os.replace(draft, self._path.with_name(HEAD))
        finally:
            os.close(handle)

    def _draft(self, head: Entry) -> Path:
        """The next head, not yet in its place. The old one fits as well, for the ledger only grows."""
        draft = self._path.with_name(f".{HEAD}.part")
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(json.dumps(head))
        return draft


def _last_line(path: Path) -> tuple[bytes, bool]:
    """The last line without its end, empty if there is none, and whether it was cut off in the middle of writing."""
    try:
        with path.open("rb") as file:
            left = file.seek(0, os.SEEK_END)
            tail = b""
            while left and b"\n" not in tail[:-1]:
                step = min(BLOCK, left)
                left = file.seek(left - step)
                tail = file.read(step) + tail
    except FileNotFoundError:
        return b"", False
    lines = tail.split(b"\n")
    return (lines[-1], True) if lines[-1] else (lines[-2] if len(lines) > 1 else b"", False)


def _sum(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


# What a message holds -------------------------------------------------------------------------------------------------


def _fields(message: Order | Reply) -> dict[str, Entry]:
    return _fields_of({field.name: getattr(message, field.name) for field in fields(message)})


def _fields_of(values: Mapping[str, Any]) -> dict[str, Entry]:
    """What is said of each field that is not empty."""
    return {name: _described(value) for name, value in values.items() if isinstance(value, np.ndarray) or value}


def _described(value: Any) -> Entry:
    """A field's kind, shape, number of entries and bytes: of arrays those of their numbers, of the rest those of its JSON."""
    if isinstance(value, np.ndarray):
        return {
            "kind": "array",
            "dtype": str(value.dtype),
            "shape": [*value.shape],
            "entries": len(value),
            "bytes": value.nbytes,
        }
    if isinstance(value, Mapping) and all(isinstance(tensor, np.ndarray) for tensor in value.values()):
        tensors = value.values()
        kinds = sorted({str(tensor.dtype) for tensor in tensors})
        numbers, size = sum(tensor.size for tensor in tensors), sum(tensor.nbytes for tensor in tensors)
        return {"kind": "tensors", "dtype": kinds, "entries": len(value), "numbers": numbers, "bytes": size}
    entries = len(value) if isinstance(value, Mapping | tuple | list | frozenset) else 1
    size = len(json.dumps(finite(sorted(value) if isinstance(value, frozenset) else value)))
    if isinstance(value, tuple) and isinstance(value[0], Mapping):
        return {"kind": "rows", "keys": _keys(value), "entries": entries, "bytes": size}
    if isinstance(value, Mapping) and all(isinstance(inner, Mapping) for inner in value.values()):
        inner = sum(len(numbers) for numbers in value.values())
        return {"kind": "numbers by name and id", "keys": sorted(value), "entries": inner, "bytes": size}
    kind = {bool: "yes or no", int: "number", float: "number", str: "text"}.get(type(value), "names")
    return {"kind": kind, "entries": entries, "bytes": size}


def _keys(rows: tuple[Mapping[str, Any], ...]) -> list[str]:
    """The keys that rows speak of, with those of the samples let go: never class names or other words of the site's own."""
    keys = {key for row in rows for key in row}
    return sorted(keys | {f"evicted.{key}" for row in rows for gone in row.get("evicted") or () for key in gone})


# Reading --------------------------------------------------------------------------------------------------------------


def read_ledger(path: Path) -> tuple[list[Entry], str, str]:
    """A ledger's lines, the SHA-256 of the last, and why the chain is not whole, in words: empty if it is.

    A line that was cut off in the middle of writing is left out: nothing left with it. It breaks no chain, for the next
    line vouches for it.

    Raises:
        OSError: there is no ledger, or it cannot be read.
    """
    lines = path.read_bytes().split(b"\n")
    if not lines[-1]:
        lines.pop()
    entries, before, why, end = [], FIRST, "", 0
    sums: dict[int, str] = {}
    for number, line in enumerate(lines, 1):
        end += len(line) + 1
        entry = _entry(line)
        if entry and entry["before"] != before:
            why = why or f"line {number} does not follow the line before it: that was changed, or lines between are missing"
        entries += [entry] if entry else []
        sums[end] = before = _sum(line)
    return entries, before, why or _why_cut(path.with_name(HEAD), sums)


def _entry(line: bytes) -> Entry | None:
    """A line's facts; None where they cannot be read."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict) or any(not isinstance(entry.get(key), kind) for key, kind in LINE.items()):
        return None
    said = all(isinstance(field, dict) and isinstance(field.get("bytes"), int) for field in entry["fields"].values())
    return entry if said else None


def _why_cut(head: Path, sums: Mapping[int, str]) -> str:
    """Why the ledger does not go as far as its head says; empty if it does."""
    try:
        said = json.loads(head.read_text())
        place, wanted = said["bytes"], said["sha256"]
    except OSError:
        return f"{head.name}, which says how far the ledger goes, is missing"
    except (ValueError, KeyError, TypeError):
        return f"{head.name}, which says how far the ledger goes, cannot be read"
    if place not in sums:
        return "its last lines are missing, or one has another length than when it was written"
    return "" if sums[place] == wanted else "its last line was changed"
