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
FORK_S = 1.0
"""Seconds for a process that is being started to become what it is to be."""
KILL_S = 5.0
"""Seconds for killed processes to be gone."""
SHOW_CURSOR = "\033[?25h\n"
MARK = "SITESTREAM_STARTED_BY"
"""An environment variable: the process id of the run to which a process of Ray's belongs."""


class Interrupt:
    """What the two signals mean to this process."""

    def __init__(self) -> None:
        self.go_on = ""
        """How to go on with the run under way, for the one line; empty: there is none yet."""
        self._rolls_back = False
        self._came: float | None = None

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

    def ignore(self) -> None:
        """From now on the signals mean nothing: all is done and said, and the interpreter takes a moment to go."""
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def _answer(self, number: int, frame: object) -> None:
        now = time.monotonic()
        if not self._rolls_back:
            self._leave("interrupted")
        if self._came is None:
            self._came = now
            raise KeyboardInterrupt
        if now - self._came > TOGETHER_S:
            self._leave("interrupted twice: left at once; finished rounds are saved")

    def _leave(self, why: str) -> NoReturn:
        """Past every `finally`: what is written is whole at any moment."""
        kill_started()
        line = f"run_sim: {why}. {self.go_on}\n" if self.go_on else f"run_sim: {why}\n"
        for stream, text in ((sys.stdout, SHOW_CURSOR), (sys.stderr, line)):
            with suppress(OSError, ValueError, AttributeError):  # closed, or there is none
                if text is line or stream.isatty():  # a live table hides the cursor
                    os.write(stream.fileno(), text.encode())
        os._exit(INTERRUPTED)


def kill_started() -> None:
    """Kill the processes that were started for this one (with MARK in their environment) and have not ended, wherever their
    parents are. Linux; elsewhere they are left to notice by themselves."""
    begin = time.monotonic()
    while _forked() and time.monotonic() < begin + FORK_S:
        time.sleep(0.01)
    while (started := _started()) and time.monotonic() < begin + KILL_S:  # one that dies may just have started another
        for process in started:
            with suppress(OSError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.01)


def _started() -> list[int]:
    mark, found = f"{MARK}={os.getpid()}".encode(), []
    for place in _processes():
        with suppress(OSError):  # gone meanwhile, or somebody else's; one that is dead has no environment any more
            if mark in (place / "environ").read_bytes().split(b"\0"):
                found.append(int(place.name))
    return found


def _forked() -> bool:
    """Whether a child still is our likeness: interrupted in a start, it has its own program and environment in a moment."""
    ours = Path("/proc/self/cmdline").read_bytes() if Path("/proc/self/cmdline").exists() else b""
    for place in _processes():
        with suppress(OSError, ValueError, IndexError):
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and (place / "cmdline").read_bytes() == ours:
                return True
    return False


def _processes() -> Iterator[Path]:
    return Path("/proc").glob("[0-9]*")
