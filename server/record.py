"""record.jsonl: one JSON object per line, one per event, metric and case."""

import json
import os
from pathlib import Path
from typing import Any

from wire import finite


class Record:
    """Appends whole lines; knows how long the file is, so that a resumed run can cut off what came after its checkpoint."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "record.jsonl"
        self._file = self._path.open("ab")

    @property
    def length(self) -> int:
        """Bytes written so far."""
        return self._file.tell()

    def append(self, event: str, /, **facts: Any) -> None:
        """Write one line; numbers that are not finite become null."""
        self._file.write((json.dumps({"event": event, **finite(facts)}) + "\n").encode())
        self._file.flush()

    def cut(self, length: int) -> None:
        """Forget everything after the first `length` bytes, and never leave half a line (the file itself may be torn)."""
        whole = self._path.read_bytes()[:length]
        self._file.truncate(whole.rfind(b"\n") + 1)
        self._file.seek(0, os.SEEK_END)

    def close(self) -> None:
        """Make it durable and let go."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
