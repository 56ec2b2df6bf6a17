"""A run's points as an event file that TensorBoard shows.

The package's own output writes in a thread whose failure would go to the terminal in the middle of the run's screen, so
that records are written here, at once: `tensorboard.summary.Output` is made for that.
"""

import os
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]
from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_SCALAR, SummaryMetadata  # type: ignore[import-untyped]
from tensorboard.summary import Output, Writer  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]
from tensorboard.util import tensor_util  # type: ignore[import-untyped]

from server.export_points import Point
from server.exports import Ending


class Records(Output):  # type: ignore[misc]
    """One event file, new."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = RecordWriter(file)
        self._emit(Event(wall_time=time.time(), file_version="brain.Event:2"))
        begun = SessionLog(status=SessionLog.START)  # who shows an older file of the run lets go of it
        self._emit(Event(wall_time=time.time(), step=0, session_log=begun))

    def emit_scalar(self, *, plugin_name: str, tag: str, data: Any, step: Any, wall_time: float, **_: Any) -> None:
        """One point."""
        about = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=plugin_name), data_class=DATA_CLASS_SCALAR)
        event = Event(wall_time=wall_time, step=int(step))
        event.summary.value.add(tag=tag, tensor=tensor_util.make_tensor_proto(data), metadata=about)
        self._emit(event)

    def flush(self) -> None:
        """Bring what was emitted to its file."""
        self._file.flush()

    def close(self) -> None:
        """Flush, and let go."""
        self._file.close()

    def _emit(self, event: Any) -> None:
        self._file.write(event.SerializeToString())


class Events:
    """The outlet."""

    def __init__(self, folder: Path, shared: bool, name: str, id: str) -> None:
        """`shared`: other runs' events lie there too, so that this run needs a folder of its own, whatever it is called."""
        self._folder = next(iter(sorted(folder.glob(f"*-{id}"))), folder / f"{name}-{id}") if shared else folder
        self._writer: Any = None

    def begin(self) -> None:
        """A new file; those of earlier lives go."""
        self._let_go()
        self._folder.mkdir(parents=True, exist_ok=True)
        before = sorted(self._folder.glob("events.out.tfevents.*"))
        path = self._folder / f"events.out.tfevents.{time.time_ns():019d}.{socket.gethostname()}.{os.getpid()}"
        self._writer = Writer(Records(path.open("xb")))
        for old in before:
            old.unlink()

    def add(self, points: Sequence[Point]) -> None:
        """As scalars; the step is the round."""
        try:
            for key, value, step in points:
                self._writer.add_scalar(key, value, step)
            self._writer.flush()
        except OSError:
            self._let_go()  # its file would stay open until the next beginning, which may never come
            raise

    def end(self, how: Ending) -> None:
        """Nothing but the file's end: TensorBoard knows of no endings."""
        self._let_go()

    def _let_go(self) -> None:
        with suppress(OSError, ValueError):  # what a full disk did not take is lost, and is made anew
            if self._writer is not None:
                self._writer.close()
        self._writer = None
