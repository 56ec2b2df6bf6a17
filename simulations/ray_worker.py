"""The actor of simulations/ray_grid.py: a process of its own that calls the Flower ClientApp for one order after another."""

import os
import socket
import sys
import traceback
from contextlib import suppress
from importlib import import_module
from typing import Any

import ray
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity  # internal: only Flower's runtimes can set an identity (1.41)

from clients import peak
from simulations.placement import Spot
from simulations.ray_jobs import Problem, Said

SERVER = RUN = 1
"""The server's node id, and Flower's run id; the sites are nodes 2, 3, ..."""
SHORT = "short-of-memory"
"""Node config: the order's last try ran out of memory; the site makes do with less."""


def identify(run: int = RUN, node: int = SERVER) -> None:
    """Give this process the identity without which Flower refuses to build a message."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run, node, 1


class Worker:
    """The actor: one process that serves one order after another, of one site after another."""

    def __init__(self, app: str, run_config: dict[str, Any], run: int, log: str) -> None:
        with suppress(OSError):
            os.setpgid(0, 0)  # so that Ctrl-C is the server's alone, and a kill takes our children too
        with suppress(OSError):  # on another machine of a cluster there may be no such folder
            file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            for stream in (1, 2):
                os.dup2(file, stream)
            os.close(file)
        identify(run)
        self.name, self.run_config = app, run_config
        self.app: Any = None
        self.problem: Problem | None = None
        self.site = ""

    def ready(self) -> tuple[int, Spot]:
        """Import the app, which may take seconds; the process id, and where it is."""
        module, _, attribute = self.name.partition(":")
        try:
            self.app = getattr(import_module(module), attribute)
        except Exception as error:
            self.problem = "unloadable", f"the client app {self.name} cannot be loaded: {_words(error)}"
        place = ray.get_runtime_context()
        return os.getpid(), Spot(place.get_node_id(), tuple(place.get_accelerator_ids().get("GPU", ())))

    @ray.method(num_returns=2)
    def answer(
        self, short: bool, site: str, message: Message, config: dict[str, Any], names: list[str], *records: ArrayRecord
    ) -> tuple[RecordDict | None, Said]:
        """Call the app. (content of the reply, (problem, memory that it took)); an exception does not end the process."""
        peak.begin(anew=site != self.site)
        self.site = site
        content, problem = self._called(short, message, config, dict(zip(names, records, strict=True)))
        return content, (problem, peak.taken())

    def _called(
        self, short: bool, message: Message, config: dict[str, Any], records: dict[str, ArrayRecord]
    ) -> tuple[RecordDict | None, Problem | None]:
        """(content of the reply, problem), one of them None."""
        if problem := self.problem or _unreachable(config):
            return None, problem
        if short:
            config = {**config, SHORT: True}
        for name, record in records.items():
            message.content[name] = record
        told = message.metadata
        try:
            reply = self.app(message, Context(told.run_id, told.dst_node_id, config, RecordDict(), self.run_config))
        except (Exception, SystemExit) as error:
            return None, ("memory" if _out_of_memory(error) else "raised", _words(error))
        finally:
            sys.stdout.flush()
        return (None, ("raised", reply.error.reason or "")) if reply.has_error() else (reply.content, None)


def _unreachable(config: dict[str, Any]) -> Problem | None:
    """A node that has come to the cluster late must not begin a site anew in a folder of its own."""
    folder = str(config.get("site-folder", ""))
    if not folder or os.path.isdir(folder):
        return None
    return "raised", f"the node {socket.gethostname()} has no {folder}: the nodes of a cluster must see the run's folder"


def _out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, this process's or a GPU's (torch's words; it is not imported here)."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "out of memory" in str(error)


def _words(error: BaseException) -> str:
    traceback.print_exception(error)  # into the log
    sys.stderr.flush()
    return f"{type(error).__name__}: {error}"
