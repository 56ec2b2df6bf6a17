"""record.jsonl: one JSON object per line, one per event, metric and case."""

import json
import os
from hashlib import sha256
from pathlib import Path
from typing import Any

from wire import finite

FILE = "record.jsonl"
CHUNK = 1 << 20
"""Bytes of the record that are read at a time."""


class Record:
    """Appends whole lines; knows how long the file is, so that a resumed run can cut off what came after its checkpoint."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._file = self._path.open("ab", buffering=0)

    @property
    def folder(self) -> Path:
        """The run's."""
        return self._path.parent

    @property
    def length(self) -> int:
        """Bytes written so far."""
        return self._file.tell()

    def append(self, event: str, /, **facts: Any) -> None:
        """Write one line, or nothing of it; numbers that are not finite become null."""
        before = self.length
        line = memoryview((json.dumps({"event": event, **finite(facts)}) + "\n").encode())
        try:
            while line:  # a disk that runs full takes a part first and complains at the rest
                line = line[self._file.write(line) :]
        except BaseException:
            self._end_at(before)
            raise

    def cut(self, length: int) -> None:
        """Forget everything after the first `length` bytes, and never leave half a line (the file itself may be torn)."""
        whole = self._path.read_bytes()[:length]
        self._end_at(whole.rfind(b"\n") + 1)

    def holds(self, event: str) -> bool:
        """Whether there is a row of this event."""
        return f'{{"event": "{event}"'.encode() in self._path.read_bytes()

    def close(self) -> None:
        """Make it durable and let go."""
        os.fsync(self._file.fileno())
        self._file.close()

    def _end_at(self, length: int) -> None:
        self._file.truncate(length)
        self._file.seek(length)


def prefix_sum(folder: Path, length: int) -> str:
    """SHA-256 of the first `length` bytes of a run's record.

    Raises:
        ValueError: the record is shorter.
        OSError: it cannot be read.
    """
    digest, left = sha256(), length
    with (folder / FILE).open("rb") as file:
        while left and (chunk := file.read(min(left, CHUNK))):
            digest.update(chunk)
            left -= len(chunk)
    if left:
        raise ValueError(f"{FILE} has {length - left} bytes, and had {length} when this was saved")
    return digest.hexdigest()
