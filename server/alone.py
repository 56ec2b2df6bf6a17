"""One process at a time in a run's folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

FILE = "lock"


class Busy(ValueError):
    """Another process is at work in the folder."""


@contextmanager
def alone(folder: Path) -> Iterator[Path]:
    """The folder, made if there is none, in which no other process begins or goes on with a run until the block ends.

    Who is in such a block may enter another: whoever writes into the folder can make sure of it.

    Raises:
        Busy: another process is in such a block; nothing in the folder has changed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / FILE, timeout=0, is_singleton=True)
    try:
        lock.acquire()
    except Timeout:
        raise Busy(f"{folder}: another process conducts this run; wait for it, or stop it") from None
    try:
        yield folder
    finally:
        lock.release()
