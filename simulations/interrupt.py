"""Ctrl-C and SIGTERM: the first rolls back what is under way, the second leaves at once. Imports nothing slow."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)
INTERRUPTED = 130
"""The exit code."""
TOGETHER_S = 0.3
"""A signal that comes with the first is the same one: `timeout` sends its own twice."""
KILL_S = 5.0
"""Seconds for killed processes to be gone."""
SHOW_CURSOR = "\033[?25h\n"
_FOLDERS: list[str] = []
"""See `ended_with`."""


class Interrupt:
    """What the two signals mean to this process."""

    def __init__(self) -> None:
        self.go_on = ""
        """How to go on with the run under way, for the one line; empty: there is none yet."""
        self._rolls_back = False
        self._came: float | None = None
        self._ended: int | None = None

    def listen(self) -> None:
        """From now on a signal ends this process with one line, whatever it is at; one that is ignored stays so (nohup)."""
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._answer)

    @contextmanager
    def rolled_back(self) -> Iterator[None]:
        """In this block the first signal raises KeyboardInterrupt."""
        meant = {number: signal.getsignal(number) for number in SIGNALS}
        self.go_on, self._came, self._rolls_back = "", None, True
        try:
            self.listen()
            yield
        finally:
            self._rolls_back = False
            for number, handler in meant.items():
                if handler is not None:  # not Python's: it cannot be put back
                    signal.signal(number, handler)

    def end(self, code: int) -> None:
        """All is done and said, and the interpreter takes a moment to go with this exit code: a first signal means nothing any
        more, a second ends the process at once, with the same code and without a word (something hangs)."""
        self._ended = code
        with suppress(OSError, ValueError, AttributeError):  # closed, or there is none
            sys.stdout.flush()  # a hook that hangs comes before Python's own
        self.listen()

    def _answer(self, number: int, frame: object) -> None:
        now = time.monotonic()
        if not self._rolls_back and self._ended is None:
            self._leave("interrupted")
        if self._came is None:
            self._came = now
            if self._ended is None:
                raise KeyboardInterrupt
        elif now - self._came > TOGETHER_S:
            if self._ended is not None:
                os._exit(self._ended)
            self._leave("interrupted twice: left at once; finished rounds are saved")

    def _leave(self, why: str) -> NoReturn:
        """Past every `finally`: what is written is whole at any moment."""
        for folder in _FOLDERS:
            _kill_holders(folder)
        line = f"run_sim: {why}. {self.go_on}\n" if self.go_on else f"run_sim: {why}\n"
        for stream, text in ((sys.stdout, SHOW_CURSOR), (sys.stderr, line)):
            with suppress(OSError, ValueError, AttributeError):  # closed, or there is none
                if text is line or stream.isatty():  # a live table hides the cursor
                    os.write(stream.fileno(), text.encode())
        os._exit(INTERRUPTED)


@contextmanager
def ended_with(folder: str) -> Iterator[None]:
    """Processes that hold a file below this folder open are killed at the end of the block, and where we leave at once.

    Wherever their parents are, and whatever they call themselves: Ray's agents outlive a raylet that was interrupted in its
    start. Linux; elsewhere they are left to notice by themselves.
    """
    place = os.path.realpath(folder)
    _FOLDERS.append(place)
    try:
        yield
    finally:
        _kill_holders(place)
        _FOLDERS.remove(place)


def _kill_holders(folder: str) -> None:
    end = time.monotonic() + KILL_S
    while (holders := _holders(folder)) and time.monotonic() < end:  # one that dies may just have started another
        for process in holders:
            with suppress(OSError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.01)


def _holders(folder: str) -> list[int]:
    return [
        int(place.name) for place in Path("/proc").glob("[0-9]*") if int(place.name) != os.getpid() and _holds(place, folder)
    ]


def _holds(process: Path, folder: str) -> bool:
    with suppress(OSError):  # gone meanwhile, or somebody else's
        for handle in os.scandir(process / "fd"):
            with suppress(OSError):
                if os.readlink(handle.path).startswith(folder + os.sep):
                    return True
    return False
