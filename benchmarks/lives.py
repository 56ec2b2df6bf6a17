"""A run as its user starts it: one process, all that it starts in turn, and what becomes of them (Linux)."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent
WORKERS = ("default_worker.py", "ray::Worker", "ray::IDLE")
"""In the command of a process that is one of our actors, or about to become one: Ray renames them once they have begun."""


@dataclass
class Life:
    """`run_sim.py ...` from its start to its end. Everything it starts stays in its session, and so can be found."""

    arguments: tuple[str, ...]
    said: Path
    """The file for what it prints."""
    cache: Path
    began: float = field(default_factory=time.time)
    folders: set[str] = field(default_factory=set)
    """Ray's folders of this life that were seen: it leaves them behind when it is killed."""

    lasted: float = float("nan")
    """Seconds from its start to its end, once it has been waited for."""

    def __post_init__(self) -> None:
        environment = os.environ | {"SITESTREAM_CACHE": str(self.cache), "COLUMNS": "300"}
        with self.said.open("wb") as out:
            command = [sys.executable, "run_sim.py", *self.arguments]
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True
            )

    def wait(self, seconds: float) -> int | None:
        """The exit code; None if it is still alive after so many seconds."""
        with suppress(subprocess.TimeoutExpired):
            code = self.process.wait(max(0.0, seconds))
            self.lasted = self.age()
            return code
        return None

    def age(self) -> float:
        """Seconds since its start."""
        return time.time() - self.began

    def parts(self) -> dict[str, list[int]]:
        """Process ids by what they are to the run: driver, actor, raylet, gcs_server, agent."""
        found: dict[str, list[int]] = {}
        for pid, words in _session(self.process.pid).items():
            self.folders |= set(re.findall(r"/tmp/sitestream-\w+", " ".join(words)))
            found.setdefault("driver" if pid == self.process.pid else _part(words), []).append(pid)
        return found

    def last_words(self) -> str:
        """The last line that it printed."""
        lines = self.said.read_text(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "nothing")

    def bury(self) -> None:
        """Kill what is left of it, and delete Ray's folders."""
        while parts := self.parts():
            for pid in (pid for pids in parts.values() for pid in pids):
                kill(pid)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(0.1)
        self.process.wait()
        for folder in self.folders:
            shutil.rmtree(folder, ignore_errors=True)


def kill(pid: int) -> None:
    """kill -9, if it is still there."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _session(session: int) -> dict[int, list[str]]:
    """{process id: its command's words} of the living processes of a session."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # gone meanwhile
            if os.getsid(int(place.name)) == session:
                words = (place / "cmdline").read_bytes().replace(b"\0", b" ").split()
                if words:  # a dead one that nobody has waited for has none
                    found[int(place.name)] = [word.decode(errors="replace") for word in words]
    return found


def _part(words: list[str]) -> str:
    """What a process is to a run: an actor, the raylet, the gcs_server, or one of Ray's agents."""
    name, beginning = Path(words[0]).name, " ".join(words[:3])
    if name in ("raylet", "gcs_server"):
        return name
    return "actor" if any(worker in beginning for worker in WORKERS) else "agent"
