"""A Flower grid whose nodes are Ray actors that call a Flower ClientApp: many sites on one machine, or on a Ray cluster.

Unlike Flower's own simulation: sites return to the actor that holds their caches; actors are sized per site and replaced
when they die or hang; weights go into the object store once; replies are handed out as they come.
"""

import math
import os
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from copy import copy
from dataclasses import dataclass, field
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any, Self

import ray
from flwr.app import ArrayRecord, Context, Error, Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run  # internal, like the next: only Flower's runtimes can set an identity (1.41)
from flwr.supercore.task_identity import TaskIdentity
from ray.exceptions import RayError

from simulations.ray_cluster import Shelf, cluster, room, worker_environment
from simulations.ray_pool import Job, Outcome, Pool, Problem, Size

SERVER = RUN = 1  # our node id, and Flower's run id; the sites are nodes 2, 3, ...
CODES = {"unloadable": 1, "raised": 2, "late": 4, "lost": 5, "crashed": 8}  # Flower's error code for each kind of problem
WAIT_S = 1.0  # longest wait of one `pull_messages`
SMALL_BYTES = 100_000  # records below this travel inside the message


@dataclass(frozen=True)
class Node:
    """One site of the simulation: its name, what its SuperNode would tell it, and the size of its actor."""

    name: str
    config: dict[str, str | int | float | bool] = field(default_factory=dict)
    cpus: float = 1.0
    gpus: float = 0.0


def identify(run: int = RUN, node: int = SERVER) -> None:
    """Give this process the identity without which Flower refuses to build a message."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run, node, 1


class RayGrid(Grid):
    """Context manager: starts Ray on entry, stops it on exit, Ctrl-C included.

    Args:
        nodes: the sites, names distinct.
        app: the ClientApp, "module:attribute".
        actors: processes at most; None: as many as there is room for.
        address: a Ray cluster; None: this machine.
        deadline_s: seconds over one order before its actor is replaced (starting and importing do not count).
        retries: how often an order is given again after its actor died or was late; an exception is not retried.
        log: the file that gets what the actors and Ray print; None: nobody does.
        run_config: the app's `context.run_config`.

    Raises:
        ValueError: a name twice; on entry: a site wants more than the machine has, no cluster answers.
    """

    def __init__(
        self,
        nodes: Iterable[Node],
        *,
        app: str = "clients.app:app",
        actors: int | None = None,
        address: str | None = None,
        deadline_s: float = 3600.0,
        retries: int = 1,
        log: Path | None = None,
        run_config: dict[str, str | int | float | bool] | None = None,
    ) -> None:
        self.nodes = dict(enumerate(nodes, SERVER + 1))
        names = [node.name for node in self.nodes.values()]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"the site {min(twice)!r} is there twice")
        self.app, self.actors, self.address, self.log = app, actors, address, log
        self.deadline_s, self.retries, self.run_config = deadline_s, retries, run_config or {}
        self._run = Run.create_empty(RUN)
        self._ids = count(1)
        self._orders: dict[str, Message] = {}
        self._done: dict[str, Outcome] = {}
        self._shelf = Shelf()

    def __enter__(self) -> Self:
        sizes = {node.name: (node.cpus, node.gpus) for node in self.nodes.values()}
        cpus = max((size[0] for size in sizes.values()), default=1.0) * (self.actors or 1)
        with ExitStack() as stack:
            stack.enter_context(cluster(self.address, math.ceil(cpus), any(size[1] for size in sizes.values()), self.log))
            identify(self._run.run_id)
            there = room(sizes)
            self._pool = Pool(self._start, self.actors, there, self.deadline_s, self.retries, local=self.address is None)
            stack.callback(self._pool.close)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
        for table in (self._shelf.references, self._done, self._orders):
            table.clear()

    @property
    def run(self) -> Run:
        """Flower's run; ours has its own id."""
        return self._run

    def set_run(self, run: Run) -> None:
        """Replace Flower's run."""
        self._run = run
        identify(run.run_id)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Flower's older way to write `Message(...)`."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """All nodes: a simulated site is always connected."""
        return list(self.nodes)

    def get_nodes(self) -> list[NodeInfo]:
        """All nodes, by their sites' names."""
        return [NodeInfo(node_id=i, name=node.name, status="online") for i, node in self.nodes.items()]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Queue messages; returns their ids. Work is given out by `pull_messages`, when all orders of a round are known."""
        return [self._push(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        """Replies that are there, each fetched when it is asked for; waits up to a second if there is none."""
        wanted = set(message_ids)
        self._advance(0.0 if wanted & self._done.keys() else WAIT_S)
        while ready := next((i for i in self._done if i in wanted), None):
            yield self._reply(ready)
            self._advance(0.0)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """All replies that come within `timeout` seconds (None: all)."""
        waiting = set(self.push_messages(messages))
        end = time.monotonic() + (math.inf if timeout is None else timeout)
        replies: list[Message] = []
        while waiting and time.monotonic() < end:
            for reply in self.pull_messages(waiting):
                replies.append(reply)
                waiting.discard(reply.metadata.reply_to_message_id)
        return replies

    def _push(self, message: Message) -> str:
        key = str(next(self._ids))
        message.metadata.__dict__["_message_id"] = key  # as Flower's own grid does: there is no public way
        heavy = {name: record for name, record in message.content.items() if _bytes(record) >= SMALL_BYTES}
        light, order = copy(message), copy(message)
        light.content = RecordDict({name: record for name, record in message.content.items() if name not in heavy})
        order.content = RecordDict()
        self._orders[key] = order
        node = self.nodes.get(message.metadata.dst_node_id)
        if node is None:
            self._done[key] = Outcome(Job(key, "", (0.0, 0.0), ()), None, ("lost", "there is no such node"))
            return key
        args = (light, {**node.config, "site-name": node.name}, list(heavy), *map(self._shelf.put, heavy.values()))
        self._pool.submit(Job(key, node.name, (node.cpus, node.gpus), args))
        return key

    def _advance(self, timeout_s: float) -> None:
        for outcome in self._pool.advance(timeout_s):
            self._done[outcome.job.id] = outcome
            outcome.job.args = ()  # lets go of the references

    def _reply(self, key: str) -> Message:
        outcome, order = self._done.pop(key), self._orders.pop(key)
        problem = outcome.problem
        if problem is None:
            try:
                return Message(ray.get(outcome.content), reply_to=order)
            except RayError:
                problem = "lost", "the reply was lost with the machine that held it"
        return Message(Error(CODES[problem[0]], problem[1]), reply_to=order)

    def _start(self, size: Size) -> Any:
        """A new actor; Ray places it. `max_restarts` stays 0: replacing is the pool's business."""
        environment = {"env_vars": worker_environment(size[0])}
        log = str(self.log.resolve()) if self.log else os.devnull
        actor = ray.remote(Worker).options(num_cpus=size[0], num_gpus=size[1], runtime_env=environment)
        return actor.remote(self.app, self.run_config, self._run.run_id, log)


def _bytes(record: object) -> int:
    # `content.array_records` would sort the kinds too, but ties the content into a reference cycle
    return sum(len(array.data) for array in record.values()) if isinstance(record, ArrayRecord) else 0


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

    def ready(self) -> int:
        """Import the app, which may take seconds; the process id."""
        module, _, attribute = self.name.partition(":")
        try:
            self.app = getattr(import_module(module), attribute)
        except Exception as error:
            self.problem = "unloadable", f"the client app {self.name} cannot be loaded: {_words(error)}"
        return os.getpid()

    @ray.method(num_returns=2)
    def answer(
        self, message: Message, config: dict[str, Any], names: list[str], *records: ArrayRecord
    ) -> tuple[Problem | None, RecordDict | None]:
        """Call the app. (problem, content of the reply), one of them None; an exception does not end the process."""
        if self.problem:
            return self.problem, None
        for name, record in zip(names, records, strict=True):
            message.content[name] = record
        told = message.metadata
        try:
            reply = self.app(message, Context(told.run_id, told.dst_node_id, config, RecordDict(), self.run_config))
        except (Exception, SystemExit) as error:
            return ("raised", _words(error)), None
        finally:
            sys.stdout.flush()
        return (("raised", reply.error.reason or ""), None) if reply.has_error() else (None, reply.content)


def _words(error: BaseException) -> str:
    traceback.print_exception(error)  # into the log
    sys.stderr.flush()
    return f"{type(error).__name__}: {error}"
