"""Processes by their ids: whether they are there, and making them go."""

import os
import signal
import time
from contextlib import suppress


def is_there(pid: int) -> bool:
    """Whether there is such a process (one that has ended and waits to be collected counts)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def ends(pid: int, within_s: float) -> bool:
    """Whether a process goes in time."""
    end = time.monotonic() + within_s
    while there := is_there(pid):
        if time.monotonic() >= end:
            break
        time.sleep(0.01)
    return not there


def kill_group(pid: int) -> None:
    """Kill a process that leads a group, and its children."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
