"""Whether a process is at work in a run's folder, found out by looking alone: no lock is taken, nothing is written."""

import os
import re
from contextlib import suppress
from pathlib import Path

from server.alone import FILE

LOCKS = Path("/proc/locks")
"""Linux's table of the locks that this machine's processes hold."""
WHERE = re.compile(r" ([0-9a-f]+):([0-9a-f]+):(\d+) ")
"""In a line of it: the device, in two parts, and the file."""

Held = frozenset[tuple[int, int]]
"""(device, inode) of every file that somebody has locked."""


def held_locks() -> Held:
    """Every lock held on this machine; none where that cannot be known (not Linux, or a process in another container)."""
    try:
        found = WHERE.findall(LOCKS.read_text())
    except OSError:
        return frozenset()
    return frozenset((os.makedev(int(major, 16), int(minor, 16)), int(inode)) for major, minor, inode in found)


def is_held(folder: Path, locks: Held) -> bool:
    """Whether a process of this machine is at work in the folder."""
    with suppress(OSError):
        stat = (folder / FILE).stat()
        return (stat.st_dev, stat.st_ino) in locks
    return False
