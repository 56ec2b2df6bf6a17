"""Orders on sticky Ray actors: who works on what, and what happens when an actor dies or hangs. Knows nothing of Flower.

An actor answers `ready()` with its process id, and `answer(short, *args)` with (content, problem): simulations/ray_worker.py.
Ray stores the problem last: where it cannot store the content, it says so in both places.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, OutOfMemoryError, RayError, RayTaskError

from simulations.processes import ends, is_there, kill_group, oom_kills
from simulations.ray_cluster import RayStopped, check_alive

Size = tuple[float, float]
"""(CPU cores, GPUs) of an actor; sites of the same size share actors."""
Problem = tuple[str, str]
"""(raised | memory | crashed | late, reason)."""

START_S = 300.0
"""Seconds for an actor to start and import the client app."""
GRACE_S = 0.5
"""Seconds for an actor to go when Ray asks it to."""
STOP_S = 10.0
"""Seconds for a killed process to be gone."""


@dataclass(eq=False)
class Job:
    """One order: the arguments of the actor's `answer`, object references among them."""

    id: str
    site: str
    size: Size
    args: tuple[Any, ...]
    tries: int = 0
    short: bool = False
    """Whether memory ran out at the last try: the next is told, so that it makes do with less."""


@dataclass(frozen=True)
class Outcome:
    """What became of a job: a reference to the reply's content, or a problem in words."""

    job: Job
    content: Any = None
    problem: Problem | None = None
    again: bool = False
    """The job is in the queue again: news of it, not its end."""


@dataclass(eq=False)
class Actor:
    """One process, at work on at most one job."""

    handle: Any
    size: Size
    watch: Any
    """What to wait for: its start, then the second half of its answer."""
    since: float
    pid: int | None = None
    """None while it starts."""
    site: str | None = None
    """Whom it served last."""
    job: Job | None = None
    content: Any = None
    kills: int = field(default_factory=oom_kills)
    """The kernel's, for want of memory, when the present work began."""


class Pool:
    """Actors up to `limit` and up to what the cluster has room for, started when work waits for them."""

    def __init__(
        self, start: Callable[[Size], Any], limit: int | None, room: Size, deadline_s: float, retries: int, *, local: bool
    ) -> None:
        self.start, self.limit, self.room = start, limit, room
        self.deadline_s, self.retries, self.local = deadline_s, retries, local
        self.queue: list[Job] = []
        self.actors: list[Actor] = []

    def submit(self, job: Job) -> None:
        """Put a job into the queue; `advance` sets it going."""
        self.queue.append(job)

    def advance(self, timeout_s: float) -> list[Outcome]:
        """Give out work and collect what is done; waits up to `timeout_s` for something to happen.

        Raises:
            RayStopped: Ray is gone, and nothing will ever be done.
        """
        check_alive()
        self._let_go_of_the_dead()
        self._assign()
        watched = {actor.watch: actor for actor in self.actors if actor.watch is not None}
        if not watched:
            return []
        limit = min((self._time_left(actor) for actor in watched.values()), default=timeout_s)
        ray.wait(list(watched), num_returns=1, timeout=max(0.0, min(timeout_s, limit)))
        check_alive()
        ready, _ = ray.wait(list(watched), num_returns=len(watched), timeout=0)
        outcomes = [outcome for ref in ready for outcome in self._collect(watched[ref])]
        for actor in [actor for actor in self.actors if actor.watch is not None and self._time_left(actor) <= 0]:
            outcomes += self._replace(actor, "late", f"no answer within {self._patience(actor):g} s")
        self._assign()
        return outcomes

    def close(self) -> None:
        """Kill every actor."""
        try:
            check_alive()
        except RayStopped:  # nobody is there to ask, and nobody will see them off
            for actor in self.actors:
                if actor.pid:
                    kill_group(actor.pid)
        else:
            for actor in self.actors:
                self._kill(actor)
        self.actors.clear()

    def _let_go_of_the_dead(self) -> None:
        """An idle actor whose process was killed is no actor: no job's try is lost on it."""
        dead = [actor for actor in self.actors if self.local and actor.pid and not actor.job and not is_there(actor.pid)]
        for actor in dead:
            self._kill(actor)
            self.actors.remove(actor)

    def _assign(self) -> None:
        """Queued jobs to idle actors: first to those that served the site last, then to fresh ones, then to any."""
        choices: list[Callable[[Actor, Job], bool]] = [
            lambda actor, job: actor.site == job.site,
            lambda actor, job: actor.site is None,
            lambda actor, job: True,
        ]
        for fits in choices:
            for job in self._runnable():
                idle = (a for a in self.actors if a.pid and not a.job and a.size == job.size and fits(a, job))
                if actor := next(idle, None):
                    self._give(actor, job)
        for job in self._runnable():
            starting = sum(1 for actor in self.actors if actor.pid is None and actor.size == job.size)
            waiting = sum(1 for other in self._runnable() if other.size == job.size)
            if starting < waiting and self._make_room(job.size):
                handle = self.start(job.size)
                self.actors.append(Actor(handle, job.size, handle.ready.remote(), time.monotonic()))

    def _runnable(self) -> Iterator[Job]:
        """Jobs that may start: the first of each site that is not at work, so that no two run on the same memory."""
        busy = {actor.job.site for actor in self.actors if actor.job}
        for job in list(self.queue):
            if job.site not in busy:
                busy.add(job.site)
                yield job

    def _make_room(self, size: Size) -> bool:
        """Whether an actor may start; idle ones of another size are let go for it."""
        idle = [actor for actor in self.actors if actor.pid and not actor.job and actor.size != size]
        while not self._fits(size):
            if not idle:
                return False
            actor = idle.pop()
            self._kill(actor)
            self.actors.remove(actor)
        return True

    def _fits(self, size: Size) -> bool:
        if self.limit is not None and len(self.actors) >= self.limit:
            return False
        taken = [sum(actor.size[i] for actor in self.actors) for i in (0, 1)]
        return all(taken[i] + size[i] <= self.room[i] + 1e-6 for i in (0, 1))

    def _give(self, actor: Actor, job: Job) -> None:
        self.queue.remove(job)
        job.tries += 1
        actor.job, actor.site, actor.since, actor.kills = job, job.site, time.monotonic(), oom_kills()
        actor.content, actor.watch = actor.handle.answer.remote(job.short, *job.args)

    def _collect(self, actor: Actor) -> list[Outcome]:
        """An actor has started, answered, or died."""
        job, content = actor.job, actor.content
        try:
            value = ray.get(actor.watch)
        except RayTaskError as error:  # it raised as it started, or Ray cannot send the reply, say
            kind = "memory" if isinstance(error.cause, MemoryError) else "raised"
            value = kind, f"{type(error.cause).__name__}: {error.cause}"
            if job is None:
                return self._replace(actor, "crashed", value[1])
        except RayError as error:
            if isinstance(error, OutOfMemoryError) or (self.local and oom_kills() > actor.kills):
                return self._replace(actor, "memory", "its process was killed: the machine was out of memory")
            return self._replace(actor, "crashed", "its process died (killed by a signal, or out of memory?)")
        if job and value and value[0] == "memory":  # a fresh process begins with all of it
            return self._replace(actor, *value)
        actor.watch = actor.job = actor.content = None
        if job is None:
            actor.pid = value
            return []
        return [Outcome(job, None if value else content, value)]

    def _time_left(self, actor: Actor) -> float:
        return actor.since + self._patience(actor) - time.monotonic()

    def _patience(self, actor: Actor) -> float:
        return START_S if actor.pid is None else self.deadline_s

    def _replace(self, actor: Actor, kind: str, reason: str) -> list[Outcome]:
        """Put an actor away for good; its job goes back to the head of the queue, or has failed."""
        gone = self._kill(actor)
        self.actors.remove(actor)
        job = actor.job
        if job is None:  # it never started: that counts against whoever waits for it
            job = next((job for job in self._runnable() if job.size == actor.size), None)
            if job is None:
                return []
            self.queue.remove(job)
            job.tries += 1
            reason = f"its process did not start ({reason})"
        if gone and job.tries <= self.retries:
            job.short = job.short or kind == "memory"
            self.queue.insert(0, job)
            return [Outcome(job, None, (kind, f"{reason}; tried again"), again=True)]
        times = f", {job.tries} times" if job.tries > 1 else ""
        return [Outcome(job, None, (kind, reason + times + ("" if gone else "; the process cannot be stopped")))]

    def _kill(self, actor: Actor) -> bool:
        """Kill an actor's process, and its children; whether it is surely gone."""
        with suppress(RayError):
            ray.kill(actor.handle)
        if actor.pid is None:  # it has never been given work
            return True
        if not self.local:
            return _refuses(actor.handle)
        ends(actor.pid, GRACE_S)
        kill_group(actor.pid)
        return ends(actor.pid, STOP_S)


def _refuses(handle: Any) -> bool:
    try:
        ray.get(handle.ready.remote(), timeout=STOP_S)
    except GetTimeoutError:
        return False
    except RayError:
        return True
    return False
