"""The Flower ClientApp of a hospital: hands each order to the site's worker (clients/worker.py), which lives on between orders.

A SuperNode starts a new process for every message, and one with torch and MONAI takes seconds to be ready. So this one holds
neither: it finds the worker through the site's folder, starts one if none answers, and passes its reply on. It waits without
a deadline, which is the server's to keep, but notices at once when the worker dies.

Node config, beside clients/app.py's: `worker-idle`, the seconds after which a worker that was started here ends if it gets no
order. A worker that the hospital's own supervisor has started is used as it is.
"""

import os

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")

import builtins
import logging
import re
import site
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from clients import doorstep, parcel
from configs.bundle import recipe_path

app = ClientApp()
LOG = logging.getLogger("sitestream")
TRIES = 50
"""Times that a worker may end before it has greeted, while others start it."""
POLL_S = 0.05
SILENT_S = 10.0
"""After so many a worker that is there but cannot be reached is asked to end, and the log says so."""
MOST_LOG = 10 << 20
"""Bytes of the worker's log after which a new worker begins another; one older one is kept."""
LONGEST_CHAIN, LONGEST_RECIPE = 8, 1 << 20
"""Files that extend one another, and bytes of each (configs/load.py refuses more)."""
EXTENDS = re.compile(r"""^["']?extends["']?\s*:\s*(["']?)([^"'#\n]+?)\1\s*(?:#.*)?$""", re.MULTILINE)
STARTED: list[subprocess.Popen[bytes]] = []
"""The workers that this process has started: they outlive it, and are not to be missed while it lives."""


@app.query()
@app.train()
@app.evaluate()
def answer(message: Message, context: Context) -> Message:
    """Hand the order to the worker and its reply to Flower. What goes wrong is raised and reaches the server as an error.

    Raises:
        ValueError: the node config, or the run's bundle, is not right.
        RuntimeError: the worker died, or could not do the order; its log says why.
    """
    worker = Worker.of(context.node_config)
    recipe = recipe_path(str(context.run_config.get("config", "configs/quickstart.yaml")))
    told = {"recipe": chain(Path(os.path.abspath(recipe))), "short": bool(context.node_config.get("short-of-memory"))}
    try:
        return Message(worker.answer(told, message.content), reply_to=message)
    except (OSError, ValueError) as error:
        if not worker.file:
            raise
        LOG.exception("site %s: its worker cannot be asked", worker.name)  # these words name the site's folders
        raise RuntimeError(f"{type(error).__name__} at the site; its own log says more") from None


def chain(recipe: Path) -> list[tuple[str, str]]:
    """A recipe and the files that it extends, as (path, text): an app bundle's folder may be gone when the worker reads them.

    What cannot be read is left to the worker to complain of: its words stay at the site.
    """
    files: list[tuple[str, str]] = []
    here: Path | None = recipe
    while here is not None and len(files) <= LONGEST_CHAIN:
        try:
            with here.open(encoding="utf-8") as file:
                text = file.read(LONGEST_RECIPE + 1)
        except (OSError, UnicodeDecodeError):
            break
        files.append((os.path.normpath(here), text))
        base = EXTENDS.search(text)
        here = here.parent / base[2] if base else None
    return files


@dataclass(frozen=True)
class Worker:
    """The worker of a site, there already or yet to be started."""

    name: str
    folder: Path
    file: str
    """The site file; empty: the recipe embeds the site."""
    idle: str

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> "Worker":
        """From a node config; raises ValueError if something is missing."""
        for key in ("site-name", "site-folder"):
            if key not in facts:
                raise ValueError(f"the node config lacks {key!r} (flower-supernode --node-config)")
        folder, file = os.path.abspath(str(facts["site-folder"])), str(facts.get("site-file") or "")
        idle = str(facts.get("worker-idle", ""))
        return cls(str(facts["site-name"]), Path(folder), os.path.abspath(file) if file else "", idle)

    def answer(self, told: Mapping[str, Any], content: RecordDict) -> RecordDict:
        """The contents of a message, for those of an order."""
        hello = {"edition": doorstep.edition(), "site": self.name, "file": self.file, "since": time.time()}
        with self._greeted(hello) as line, line.makefile("rb") as stream:
            try:
                parcel.send(line, told, content)
                facts, reply = parcel.receive(stream)
            except parcel.Gone:
                raise RuntimeError("the site's worker died while it did the order; its log says more") from None
        if reply is None:
            _raise(*facts["error"])
        return reply

    def _greeted(self, hello: Mapping[str, Any]) -> Any:
        """A line to a worker of this very edition and site file; others end, and a fresh one is started."""
        for _ in range(TRIES):
            line, child = self._reached()
            theirs = _greet(line, hello)
            if theirs is not None and theirs["site"] != self.name:
                line.close()
                raise ValueError("the site's folder is in use by another site; every site needs a folder of its own")
            if theirs is not None and all(theirs[key] == hello[key] for key in ("edition", "file")):
                return line
            line.close()
            if child is not None:
                _check_own(child, theirs)
            elif theirs is not None:
                LOG.warning("site %s: its worker began with another SiteStream or site file, and ends", self.name)
            time.sleep(POLL_S)
        raise RuntimeError("the site's workers end before they take an order; their log says more")

    def _reached(self) -> tuple[Any, subprocess.Popen[bytes] | None]:
        """A line to a worker, and its process if it was started here. Two doors never start two."""
        room = doorstep.room(self.folder)
        if (line := doorstep.connect(room)) is not None:
            return line, None
        child, began = None, time.monotonic()
        with doorstep.taken(room / doorstep.STARTING):
            while (line := doorstep.connect(room)) is None:
                if child is None and not doorstep.is_taken(room / doorstep.LOCK):
                    child = self._start()
                elif child is not None and child.poll() is not None:
                    if not doorstep.is_taken(room / doorstep.LOCK):
                        raise RuntimeError(f"the site's worker ended at once (status {child.poll()}); its log says more")
                    child = None  # another one was faster
                elif child is None and time.monotonic() - began > SILENT_S:
                    began = time.monotonic()
                    LOG.warning("site %s: its worker is there but cannot be reached; it is asked to end", self.name)
                    (room / doorstep.UNREACHABLE).touch()
                time.sleep(POLL_S)
        return line, child

    def _start(self) -> subprocess.Popen[bytes]:
        """A new worker: a session of its own, so that it outlives this process and Flower's. Its words go to worker.log."""
        log = self.folder / "worker.log"
        if log.exists() and log.stat().st_size > MOST_LOG:
            log.replace(log.with_suffix(".log.1"))
        command = [sys.executable, "-P", "-m", "clients.worker", "--site-name", self.name, "--site-folder", str(self.folder)]
        command += ["--site-file", self.file] if self.file else []
        command += ["--idle", self.idle] if self.idle else []
        environment = dict(os.environ)
        if doorstep.HOME not in map(Path, map(os.path.realpath, site.getsitepackages())):  # a checkout: it must be made known
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(doorstep.HOME), environment.get("PYTHONPATH"))))
        LOG.info("site %s: no worker answers, so one is started (its log: %s)", self.name, log)
        with os.fdopen(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "wb") as file:
            streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": file}
            STARTED.append(subprocess.Popen(command, env=environment, start_new_session=True, **streams))
        return STARTED[-1]


def _greet(line: Any, hello: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the worker says of itself; None if it ended before it came to that."""
    try:
        parcel.send(line, hello)
        with line.makefile("rb") as stream:  # nothing else comes before the order, so no byte is lost with the buffer
            return parcel.receive(stream)[0]
    except (parcel.Gone, ValueError):
        return None


def _check_own(child: subprocess.Popen[bytes], theirs: dict[str, Any] | None) -> None:
    """Raise RuntimeError where it is of no use to start yet another worker."""
    if theirs is not None:
        raise RuntimeError("the site's worker is of another SiteStream than the door, although just started")
    with suppress(subprocess.TimeoutExpired):  # it is another's worker that has ended, and this one is about to begin
        raise RuntimeError(f"the site's worker ended at once (status {child.wait(SILENT_S)}); its log says more")


def _raise(kind: str, words: str) -> NoReturn:
    """What the worker's order raised, as far as it may leave the site."""
    found = getattr(builtins, kind, None)
    raise (found if isinstance(found, type) and issubclass(found, Exception) else RuntimeError)(words)
