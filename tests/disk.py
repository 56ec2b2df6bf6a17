"""What becomes durable, and in which order: for the tests of everything that must survive a power cut."""

import os
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
    there = log.index(("place", path.stat().st_ino))
    before, after = log[:there], log[there + 1 :]
    for part in (path, *path.rglob("*")):
        assert ("sync", part.stat().st_ino) in before, part
    assert ("sync", path.parent.stat().st_ino) in after
