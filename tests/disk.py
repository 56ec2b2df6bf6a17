"""What becomes durable, and in which order, and what is damaged later: for the tests of all that must survive a power cut."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Log = list[tuple[str, int]]
"""("sync" | "place", inode), in order."""


def watch(monkeypatch: pytest.MonkeyPatch) -> Log:
    """From now on, every fsync, and every renaming of a file or folder."""
    log: Log = []
    sync, place = os.fsync, os.replace

    def synced(handle: int) -> None:
        log.append(("sync", os.fstat(handle).st_ino))
        sync(handle)

    def placed(source: Any, target: Any) -> None:
        log.append(("place", os.stat(source).st_ino))
        place(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", placed)
    return log


def assert_durable(path: Path, log: Log) -> None:
    """A file or folder and all in it was on disk before it was in its place, and the place was synced afterwards."""
    there = _placed(path, log)
    before, after = log[:there], log[there + 1 :]
    for part in (path, *path.rglob("*")):
        assert ("sync", part.stat().st_ino) in before, part
    assert ("sync", path.parent.stat().st_ino) in after


def assert_synced_before(file: Path, path: Path, log: Log) -> None:
    """What a file held was on disk before `path` was in its place."""
    there = _placed(path, log)
    assert ("sync", file.stat().st_ino) in log[:there], file


def _placed(path: Path, log: Log) -> int:
    """When it came to its place: the last time, for the inodes of files that are gone are used again."""
    return len(log) - 1 - log[::-1].index(("place", path.stat().st_ino))


# Damage ---------------------------------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    """One bit in the middle of a file is another."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    """The last byte of a file is gone."""
    os.truncate(path, path.stat().st_size - 1)


DAMAGES: dict[str, Callable[[Path], None]] = {"flipped": flip, "truncated": truncate, "deleted": Path.unlink}
"""What can happen to a file on a disk."""
