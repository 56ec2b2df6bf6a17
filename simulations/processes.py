"""Processes by their ids: whether they are there, and making them go."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

VMSTAT = Path("/proc/vmstat")
"""The kernel's counters, `oom_kill` among them since Linux 4.13."""


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


def oom_kills() -> int:
    """How many processes the kernel has killed on this machine because memory ran out (Linux; elsewhere 0).

    It counts before it kills: who has seen such a process dead sees the number grown.
    """
    try:
        lines = VMSTAT.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def kill_group(pid: int) -> None:
    """Kill a process that leads a group, and its children."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
