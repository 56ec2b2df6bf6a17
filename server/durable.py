"""Files and folders that are on the disk whole or not at all, even if the power fails."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path


def place_folder(draft: Path, target: Path) -> None:
    """Move a finished draft folder to its place beside it, on disk file by file before it is there by name."""
    for path in draft.iterdir():
        _sync_file(path)
    _sync_folder(draft)
    if target.exists():
        shutil.rmtree(target)
    os.replace(draft, target)
    _sync_folder(target.parent)


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` write a draft beside `path`, then put it there: a reader sees the old file or the new one, never a half."""
    draft = path.with_name(f".{path.name}.part")  # one writer per run folder; a leftover of a killed one is overwritten
    try:
        write(draft)
        _sync_file(draft)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_file(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make names durable (POSIX; elsewhere a folder cannot be opened)."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
