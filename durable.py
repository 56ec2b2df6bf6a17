"""Files and folders that are on the disk whole or not at all, even if the power fails; and whether they are still whole.

The server's checkpoints and the sites' snapshots, prepared cases and secrets are kept so; this file knows nothing of them.
"""

import hashlib
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SUMS = "SHA256SUMS"
"""In a sealed folder: a line for each file, as `sha256sum --check` reads them, and a comment with the sum of these lines."""
GONE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
DRAFT = ".draft-"
"""How the names of folders begin that are not finished, or not wanted any more."""


# Files ----------------------------------------------------------------------------------------------------------------


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` write a draft beside `path`, then put it there: a reader sees the old file or the new one, never a half.

    One process at a time may write a path: the draft's name is always the same, and a leftover of a killed one is overwritten.
    """
    draft = path.with_name(f".{path.name}.part")
    try:
        write(draft)
        sync_file(draft)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(path.parent)


def drawn_once(path: Path, size: int) -> bytes:
    """Random bytes that are drawn when they are first needed and then stay, in a file for its owner's eyes only.

    Raises:
        ValueError: the file has another length; it is left as it is.
    """
    if not path.exists():
        write_whole(path, lambda draft: _write_private(draft, os.urandom(size)))
    found = path.read_bytes()
    if len(found) != size:
        raise ValueError(f"{path} has {len(found)} bytes, a secret has {size}; put it back, or delete it to draw another")
    return found


def sync_file(path: Path) -> None:
    """Bring what has been written to a file to the disk, whoever wrote it."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


# Folders --------------------------------------------------------------------------------------------------------------


@contextmanager
def drafted(place: Path) -> Iterator[Path]:
    """A new folder in `place` to write into; whatever stops the block, nothing is left of it that has not been placed."""
    _make_folder(place)
    draft = Path(tempfile.mkdtemp(prefix=DRAFT, dir=place))
    try:
        yield draft
    finally:
        if draft.exists():
            shutil.rmtree(draft, ignore_errors=True)


def seal(draft: Path) -> None:
    """Write down the checksums of a draft's files, and bring all of it to the disk."""
    sums = "".join(f"{_sum(path)}  {path.name}\n" for path in sorted(draft.iterdir()))
    (draft / SUMS).write_bytes(f"{sums}# {hashlib.sha256(sums.encode()).hexdigest()}\n".encode())
    sync_files(draft)


def check(folder: Path) -> None:
    """Nothing, if every file of a sealed folder is as it was written.

    Raises:
        ValueError: a file is missing or has changed, or the folder was never sealed; the message names the file.
        OSError: a file cannot be read.
    """
    if not (folder / SUMS).is_file():
        raise ValueError(f"{SUMS} is missing: the folder is torn, or an older version wrote it")
    sums, _, own = (folder / SUMS).read_bytes().rpartition(b"# ")
    if own != f"{hashlib.sha256(sums).hexdigest()}\n".encode():
        raise ValueError(f"{SUMS} does not match its own checksum")
    for line in sums.decode().splitlines():
        expected, _, name = line.partition("  ")
        if not (folder / name).is_file():
            raise ValueError(f"{name} is missing")
        if _sum(folder / name) != expected:
            raise ValueError(f"{name} does not match its checksum")


def is_damage(error: Exception) -> bool:
    """Whether what went wrong at reading is that files are missing or not as they were written.

    A disk that fails at the moment, or a process that has run out of memory or of open files, says nothing of the files.
    """
    return isinstance(error, GONE) if isinstance(error, OSError) else not isinstance(error, MemoryError)


def place_folder(draft: Path, target: Path) -> None:
    """Move a draft that is on the disk to its place beside it; what was there before is put away."""
    if target.exists():
        put_away(target)
    os.replace(draft, target)
    sync_folder(target.parent)


def put_away(folder: Path) -> Path:
    """Out of the way in one step, so that a folder is never there in part; `sweep` deletes it. Needs no space on the disk."""
    away = folder.with_name(f"{DRAFT}{secrets.token_hex(8)}")
    os.replace(folder, away)
    return away


def sweep(place: Path, older_s: float = 0.0) -> None:
    """Delete what was put away and the drafts of killed processes, if they have not changed for `older_s` seconds."""
    for path in place.glob(f"{DRAFT}*"):
        with suppress(FileNotFoundError):  # another process may sweep too
            if not older_s or time.time() - path.stat().st_mtime > older_s:
                shutil.rmtree(path, ignore_errors=True)


def sync_files(folder: Path) -> None:
    """Bring a folder and the files in it to the disk."""
    for path in folder.iterdir():
        sync_file(path)
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Make names in a folder durable (POSIX; elsewhere a folder cannot be opened)."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _make_folder(folder: Path) -> None:
    """Make it and the folders above it, each on disk by name before anything lies in it."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def _write_private(path: Path, content: bytes) -> None:
    """Nobody else may read it from the first byte on."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
