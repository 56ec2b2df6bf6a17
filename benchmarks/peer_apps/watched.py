"""A command run and watched: its wall time, when something first happened, and the memory of its whole process tree."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import nan
from pathlib import Path

PROC = Path("/proc")
POLL_S = 0.05
SAMPLE_S = 0.2
"""Seconds between two looks at the memory, and at least SPARE times as long as the last look took."""
SPARE = 20
AFTER_S = 10.0
"""Seconds that processes may outlive their command before they are killed."""


@dataclass(frozen=True)
class Watched:
    """What a command cost."""

    code: int | None
    """Exit code; none: it was killed at the limit."""
    wall: float
    """Seconds from its start to its end."""
    first: float
    """Seconds from its start to the first sign; nan: there was none."""
    peak_mb: float
    """Largest PSS (shared pages counted once) of all its processes together, as sampled; nan where there is no /proc."""


def watch(
    command: Sequence[str], log: Path, sign: Callable[[], float | None], limit_s: float, env: Mapping[str, str], cwd: Path
) -> Watched:
    """Run the command to its end, its output to `log`; `sign`: when (time.time()) the first step was done, once known."""
    tree, peak, next_look, first = Tree(), nan, 0.0, None
    began = time.time()
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
        try:
            while process.poll() is None and time.time() - began < limit_s:
                first = first or sign()
                if time.time() >= next_look:
                    looking = time.time()
                    peak = max(tree.memory_mb(process.pid), 0.0 if peak != peak else peak)
                    next_look = time.time() + max(SAMPLE_S, SPARE * (time.time() - looking))
                time.sleep(POLL_S)
            code, wall = process.poll(), time.time() - began
        finally:
            tree.see(process.pid)
            if process.poll() is None:
                process.kill()
                process.wait()
            tree.end()
    first = first or sign()
    return Watched(code, wall, first - began if first else nan, peak if (PROC / "self/smaps_rollup").exists() else nan)


class Tree:
    """All processes that ever descended from one, known by id and start, so that no other's is ever touched."""

    def __init__(self) -> None:
        self._known: dict[int, str] = {}

    def see(self, root: int) -> None:
        """Take note of who descends from the root or from anybody seen before."""
        stats = dict(_stats())
        self._known = {pid: start for pid, start in self._known.items() if pid in stats and stats[pid][1] == start}
        seen = set(self._known) | ({root} & stats.keys())
        while more := {pid for pid, (parent, _) in stats.items() if parent in seen} - seen:
            seen |= more
        self._known |= {pid: stats[pid][1] for pid in seen}

    def memory_mb(self, root: int) -> float:
        """PSS of the tree now, in MB."""
        self.see(root)
        return sum(map(_pss_kb, self._known)) / 1000

    def end(self) -> None:
        """Wait for what is left, and kill what stays."""
        self._wait()
        for pid in self._left():
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        self._wait()

    def _wait(self) -> None:
        until = time.time() + AFTER_S
        while self._left() and time.time() < until:
            time.sleep(POLL_S)

    def _left(self) -> list[int]:
        stats = dict(_stats())
        return [pid for pid, start in self._known.items() if pid in stats and stats[pid][1] == start]


def _stats() -> list[tuple[int, tuple[int, str]]]:
    """(id, (parent's id, start)) of every process but the dead that nobody has asked after yet."""
    found = []
    for folder in PROC.glob("[0-9]*"):
        with suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()  # the name before it may hold blanks
            if fields[0] != "Z":
                found.append((int(folder.name), (int(fields[1]), fields[19])))
    return found


def _pss_kb(pid: int) -> int:
    with suppress(OSError):
        for line in (PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024 // 1000
    return 0
