"""A Flower grid whose nodes are Ray actors that call a Flower ClientApp: many sites on one machine, or on a Ray cluster.

Unlike Flower's own simulation: sites return to the actor that holds their caches; actors are sized per site and replaced
when they die or hang; weights go into the object store once; replies are handed out as they come.
"""

import math
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from copy import copy
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Literal, Self

import ray
from flwr.app import ArrayRecord, Error, Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run  # internal, but a Grid cannot do without (1.41)
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from server.sites import AGAIN
from simulations.gpu_shares import Shares
from simulations.placement import Size
from simulations.ray_cluster import HOME, Shelf, check_alive, check_folders, cluster, machines, room, worker_environment
from simulations.ray_jobs import Job, Outcome
from simulations.ray_pool import Pool
from simulations.ray_worker import RUN, SERVER, Worker, identify

CODES = {"unloadable": 1, "raised": 2, "late": 4, "lost": 5, "crashed": 8, "memory": 8}  # Flower's for each kind of problem
WAIT_S = 1.0  # longest wait of one `pull_messages`
SMALL_BYTES = 100_000  # records below this travel inside the message


@dataclass(frozen=True)
class Node:
    """One site of the simulation: its name, what its SuperNode would tell it, and the size of its actor."""

    name: str
    config: dict[str, str | int | float | bool] = field(default_factory=dict)
    cpus: float = 1.0
    gpus: float | Literal["auto"] = 0.0
    """auto: a share of one, as it turns out to need (simulations/gpu_shares.py)."""
    data: str = ""
    """The folder of its data, which every machine of a cluster must see."""


class RayGrid(Grid):
    """Context manager: starts Ray on entry, stops it on exit, Ctrl-C included.

    Args:
        nodes: the sites, names distinct.
        app: the ClientApp, "module:attribute".
        actors: processes at most; None: as many as there is room for.
        address: a Ray cluster; None: this machine.
        deadline_s: seconds over one order before its actor is replaced (starting and importing do not count).
        retries: how often an order is given again after its actor died, was late or ran out of memory; no other exception is
            retried. Each time is news: an error message whose code is `AGAIN` higher.
        log: the file that gets what the actors and Ray print; None: nobody does.
        run_config: the app's `context.run_config`.
        folder: the run's: it keeps what the sites' orders took of a GPU, and every machine of a cluster must see it.

    Raises:
        ValueError: a name twice; on entry: a site wants more than a machine has, no cluster answers, or one of its nodes does
            not see a folder that it will need.
        RayStopped: while orders are sent and answers awaited: Ray itself is gone.
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
        folder: Path | None = None,
    ) -> None:
        self.nodes = dict(enumerate(nodes, SERVER + 1))
        names = [node.name for node in self.nodes.values()]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"the site {min(twice)!r} is there twice")
        self.app, self.actors, self.address, self.log, self.folder = app, actors, address, log, folder
        self.deadline_s, self.retries, self.run_config = deadline_s, retries, run_config or {}
        self._run = Run.create_empty(RUN)
        self._ids = count(1)
        self._orders: dict[str, Message] = {}
        self._came: list[Outcome] = []
        self._shelf = Shelf()

    def __enter__(self) -> Self:
        nodes = self.nodes.values()
        least = {node.name: (node.cpus, 0.0 if node.gpus == "auto" else node.gpus) for node in nodes}
        cpus = max((size[0] for size in least.values()), default=1.0) * (self.actors or 1)
        with ExitStack() as stack:
            stack.enter_context(cluster(self.address, math.ceil(cpus), any(node.gpus for node in nodes), self.log))
            identify(self._run.run_id)
            room(least)
            if self.address:
                self._check_folders()
            self._shares = self._open_shares()
            facts: dict[str, Any] = {"local": self.address is None, "larger": self._larger}
            self._pool = Pool(self._start, self.actors, self.deadline_s, self.retries, **facts)
            stack.callback(self._pool.close)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
        for table in (self._shelf.references, self._came, self._orders):
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
        """Replies and news that are there, each fetched when it is asked for; waits up to a second if there is nothing."""
        wanted = set(message_ids)
        self._advance(0.0 if any(outcome.job.id in wanted for outcome in self._came) else WAIT_S)
        while (at := next((i for i, outcome in enumerate(self._came) if outcome.job.id in wanted), None)) is not None:
            yield self._answer(self._came.pop(at))
            self._advance(0.0)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """All replies that come within `timeout` seconds (None: all)."""
        waiting = set(self.push_messages(messages))
        end = time.monotonic() + (math.inf if timeout is None else timeout)
        replies: list[Message] = []
        while waiting and time.monotonic() < end:
            for reply in self.pull_messages(waiting):
                if not (reply.has_error() and reply.error.code >= AGAIN):
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
            self._came.append(Outcome(Job(key, "", (0.0, 0.0), ()), None, ("lost", "there is no such node")))
            return key
        args = (light, {**node.config, "site-name": node.name}, list(heavy), *map(self._shelf.put, heavy.values()))
        task = message.metadata.message_type
        gpus = self._shares.of(node.name, task) if node.gpus == "auto" else node.gpus
        self._pool.submit(Job(key, node.name, (node.cpus, gpus), args, task))
        return key

    def _advance(self, timeout_s: float) -> None:
        for outcome in self._pool.advance(timeout_s):
            self._came.append(outcome)
            job = outcome.job
            if (
                outcome.peak and not outcome.problem and job.site in self._shares.taken
            ):  # what broke off took less than it needs
                self._shares.learn(job.site, job.task, outcome.peak, job.size[1])
            if not outcome.again:
                job.args = ()  # lets go of the references

    def _answer(self, outcome: Outcome) -> Message:
        """News of an order, or its reply."""
        if outcome.again and outcome.problem:
            kind, reason = outcome.problem
            return Message(Error(AGAIN + CODES[kind], reason), reply_to=self._orders[outcome.job.id])
        order, problem = self._orders.pop(outcome.job.id), outcome.problem
        if problem is None:
            try:
                return Message(ray.get(outcome.content), reply_to=order)
            except (RayError, OSError):  # an OSError: the store is gone
                check_alive()
                problem = "lost", "the reply was lost with the machine that held it"
        return Message(Error(CODES[problem[0]], problem[1]), reply_to=order)

    def _start(self, size: Size, machine: str) -> Any:
        """A new actor. `max_restarts` stays 0: replacing is the pool's business."""
        log = str(self.log.resolve()) if self.log else os.devnull
        options: dict[str, Any] = {"runtime_env": {"env_vars": worker_environment(size[0])}}
        if self.address:  # soft: a machine that has just gone is not waited for
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(machine, soft=True)
        actor = ray.remote(Worker).options(num_cpus=size[0], num_gpus=size[1], **options)
        return actor.remote(self.app, self.run_config, self._run.run_id, log)

    def _open_shares(self) -> Shares:
        there = machines()
        most = min(self.actors or math.inf, sum(machine.cpus for machine in there))
        open_ones = {node.name for node in self.nodes.values() if node.gpus == "auto"}
        return Shares(open_ones, sum(machine.gpus for machine in there), max(1, int(most)), self.folder)

    def _larger(self, job: Job) -> Size:
        """The size with which a job is tried again whose memory ran out."""
        if job.site not in self._shares.taken:
            return job.size
        self._shares.ran_out(job.site, job.size[1])
        return job.size[0], max(job.size[1], self._shares.of(job.site, job.task))

    def _check_folders(self) -> None:
        """See that every machine of the cluster has our code and the data, and this very folder of the run."""
        data = {node.data: f"the data of site {node.name!r}" for node in self.nodes.values() if node.data}
        wanted = {str(HOME): "SiteStream's code", **data}
        if self.folder is None:
            return check_folders(wanted)
        with NamedTemporaryFile(prefix=".seen-", dir=self.folder) as mark:  # another folder of the same name has it not
            check_folders({**wanted, mark.name: "written just now into the run's folder"})
        return None


def _bytes(record: object) -> int:
    # `content.array_records` would sort the kinds too, but ties the content into a reference cycle
    return sum(len(array.data) for array in record.values()) if isinstance(record, ArrayRecord) else 0
