"""Orders on sticky Ray actors: who works on what, and what happens when an actor dies or hangs. Knows nothing of Flower.

An actor answers `ready()` with its process id and spot, and `answer(short, site, *args)` with (content, what it says of it):
simulations/ray_worker.py. Ray stores the latter last: where it cannot store the content, it says so in both places.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, OutOfMemoryError, RayError, RayTaskError

from simulations.placement import Machine, Size, Spot, spot
from simulations.processes import ends, is_there, kill_group, oom_kills
from simulations.ray_cluster import RayStopped, check_alive, machines
from simulations.ray_jobs import Actor, Job, Outcome, Problem

START_S = 300.0
"""Seconds for an actor to start and import the client app."""
GRACE_S = 0.5
"""Seconds for an actor to go when Ray asks it to."""
STOP_S = 10.0
"""Seconds for a killed process to be gone."""
LOOK_S = 5.0
"""Seconds after which a cluster's machines are looked at anew: some may have come, or gone."""


class Pool:
    """Actors up to `limit` and up to what the machines have room for, started when work waits for them.

    Args:
        start: a new actor of this size, on this machine if it is there.
        limit: actors at most.
        deadline_s: seconds over one order.
        retries: how often an order is given again.
        local: whether there is but this machine.
        larger: the size that a job shall have whose memory ran out.
    """

    def __init__(
        self,
        start: Callable[[Size, str], Any],
        limit: int | None,
        deadline_s: float,
        retries: int,
        *,
        local: bool,
        larger: Callable[[Job], Size] = lambda job: job.size,
    ) -> None:
        self.start, self.limit, self.larger = start, limit, larger
        self.deadline_s, self.retries, self.local = deadline_s, retries, local
        self.queue: list[Job] = []
        self.actors: list[Actor] = []
        self._machines, self._looked = list[Machine](), 0.0

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
        """Queued jobs to idle actors: first to those that served the site last, then to fresh ones, then to any.

        One pass over the queue each: with a thousand sites this is done twice per reply.
        """
        choices: list[Callable[[Actor, Job], bool]] = [
            lambda actor, job: actor.site == job.site,
            lambda actor, job: actor.site is None,
            lambda actor, job: True,
        ]
        for fits in choices:
            if not any(actor.pid and not actor.job for actor in self.actors):
                break
            for job in self._runnable():
                idle = (a for a in self.actors if a.pid and not a.job and a.size == job.size and fits(a, job))
                if actor := next(idle, None):
                    self._give(actor, job)
        waiting, full = Counter(job.size for job in self._runnable()), set[Size]()
        for job in self._runnable() if waiting else ():
            if job.size in full:
                continue
            starting = sum(1 for actor in self.actors if actor.pid is None and actor.size == job.size)
            if starting < waiting[job.size] and (where := self._make_room(job.size)):
                handle = self.start(job.size, where.machine)
                self.actors.append(Actor(handle, job.size, handle.ready.remote(), time.monotonic(), where))
            else:
                full.add(job.size)

    def _runnable(self) -> Iterator[Job]:
        """Jobs that may start: the first of each site that is not at work, so that no two run on the same memory."""
        busy = {actor.job.site for actor in self.actors if actor.job}
        for job in list(self.queue):
            if job.site not in busy:
                busy.add(job.site)
                yield job

    def _make_room(self, size: Size) -> Spot | None:
        """Where an actor may start; idle ones of another size are let go for it, one if that is enough."""
        idle = [actor for actor in reversed(self.actors) if actor.pid and not actor.job and actor.size != size]
        for going in ([], *([actor] for actor in idle), *(idle[:count] for count in range(2, len(idle) + 1))):
            if where := self._spot(size, going):
                for actor in going:
                    self._kill(actor)
                    self.actors.remove(actor)
                return where
        return None

    def _spot(self, size: Size, going: Sequence[Actor]) -> Spot | None:
        """Where there would be room without these."""
        staying = [actor for actor in self.actors if actor not in going]
        if self.limit is not None and len(staying) >= self.limit:
            return None
        if not self._machines or (not self.local and time.monotonic() > self._looked + LOOK_S):
            self._machines, self._looked = machines(), time.monotonic()
        return spot(size, self._machines, [(actor.size, actor.spot) for actor in staying])

    def _give(self, actor: Actor, job: Job) -> None:
        self.queue.remove(job)
        job.tries += 1
        actor.job, actor.site, actor.since, actor.kills = job, job.site, time.monotonic(), oom_kills()
        actor.content, actor.watch = actor.handle.answer.remote(job.short, job.site, *job.args)

    def _collect(self, actor: Actor) -> list[Outcome]:
        """An actor has started, answered, or died."""
        job, content = actor.job, actor.content
        problem: Problem | None
        try:
            said = ray.get(actor.watch)
        except RayTaskError as error:  # it raised as it started, or Ray cannot send the reply, say
            kind = "memory" if isinstance(error.cause, MemoryError) else "raised"
            problem, peak = (kind, f"{type(error.cause).__name__}: {error.cause}"), None
            if job is None:
                return self._replace(actor, "crashed", problem[1])
        except RayError as error:
            if isinstance(error, OutOfMemoryError) or (self.local and oom_kills() > actor.kills):
                return self._replace(actor, "memory", "its process was killed: the machine was out of memory")
            return self._replace(actor, "crashed", "its process died (killed by a signal, or out of memory?)")
        else:
            if job is None:
                actor.pid, actor.spot = said
                actor.watch = None
                return []
            problem, peak = said
        if problem and problem[0] == "memory":  # a fresh process begins with all of it
            return self._replace(actor, *problem)
        actor.watch = actor.job = actor.content = None
        return [Outcome(job, None if problem else content, problem, peak=peak)]

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
            if kind == "memory":
                job.short, job.size = True, self.larger(job)
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
