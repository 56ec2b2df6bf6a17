"""Several runs at once on this machine: a Ray task each, taken up where it stopped, its failure a line and not the end."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from server.alone import Busy, alone
from server.conduct import is_finished
from simulations.studies.shelf import FAILED, LOOK_S, Place, our_turn


@dataclass
class Work:
    """How far the runs of a study are; `watch` in `run_all` is told after every look."""

    places: Sequence[Place]
    """What is to be done."""
    began: float = field(default_factory=time.monotonic)
    running: dict[Path, int] = field(default_factory=dict)
    """{folder: rounds done}"""
    ended: dict[Path, str] = field(default_factory=dict)
    """{folder: why it failed; empty: it is finished}"""
    before: dict[Path, int] = field(default_factory=dict)
    """{folder: rounds that were done when its turn came}"""

    def share(self, place: Place) -> float:
        """How much of a run is done, 0 to 1."""
        return 1.0 if place.folder in self.ended else self.running.get(place.folder, 0) / (place.rounds + 1)

    def eta(self) -> float | None:
        """Seconds that are left, from the steps done so far; None while there is nothing to judge by."""
        done = left = 0.0
        for place in self.places:
            steps, share = max(place.steps, 1), self.share(place)
            done += steps * (share - self.before.get(place.folder, 0) / place.rounds)
            left += steps * (1 - share)
        return (time.monotonic() - self.began) / done * left if done > 0 else None


def run_all(places: Sequence[Place], workers: int | None, log: Path, watch: Callable[[Work], None]) -> Work:
    """Do the runs, `workers` at once (None: one per core, or as the sites' GPUs allow); KeyboardInterrupt stops them all.

    A run that fails leaves its reason in its folder and the others go on.

    Raises:
        ValueError: a site wants more GPUs than there are.
    """
    import ray

    from simulations.ray_cluster import cluster, cores, machines, room, worker_environment

    work = Work(places)
    with cluster(None, workers or cores(), any(_most_gpus(places, 1.0).values()), log):
        auto = float(any(machine.gpus for machine in machines()))  # a run is one process: a GPU to itself, if there is one
        room({name: (1.0, most) for name, most in _most_gpus(places, auto).items()})  # Ray would wait for them for ever
        do = ray.remote(max_calls=0, max_retries=0)(_do)
        queue, tasks = list(places), dict[Any, Place]()
        while queue or tasks:
            while queue and len(tasks) < (workers or cores()):
                place = queue.pop(0)
                work.before[place.folder] = work.running[place.folder] = rounds_done(place.folder)
                need = max(_most_gpus([place], auto).values(), default=0.0)
                options = {"num_cpus": 1, "num_gpus": need, "runtime_env": {"env_vars": worker_environment(1)}}
                tasks[do.options(**options).remote(str(place.folder))] = place
            ready, _ = ray.wait(list(tasks), timeout=LOOK_S)
            for task in ready:
                place = tasks.pop(task)
                work.running.pop(place.folder)
                work.ended[place.folder] = _result(task, place)
            for folder in work.running:
                work.running[folder] = rounds_done(folder)
            watch(work)
    return work


def rounds_done(folder: Path) -> int:
    """Rounds of a run that its record holds."""
    with suppress(OSError):
        return (folder / "record.jsonl").read_bytes().count(b'{"event": "round"')
    return 0


def _most_gpus(places: Sequence[Place], auto: float) -> dict[str, float]:
    """{site: the most that it wants in any of the runs}, with so many for one that leaves it open."""
    found: dict[str, float] = {}
    for place in places:
        for name, site in place.run.sites.items():
            found[name] = max(auto if site.gpus == "auto" else site.gpus, found.get(name, 0.0))
    return found


def _result(task: Any, place: Place) -> str:
    """Why a run failed, which its folder keeps; empty if it is finished."""
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        return str(ray.get(task))
    except RayTaskError as error:
        reason = str(error.cause or error)
    except RayError:
        reason = "its process died (killed by a signal, or out of memory?)"
    with suppress(Busy), alone(place.folder):  # else another study has taken it up
        if not is_finished(place.folder):
            _note(place.folder, reason)
    return reason


def _note(folder: Path, reason: str) -> None:
    (folder / FAILED).write_text(" ".join(reason.split()) + "\n", encoding="utf-8")


def _do(folder: str) -> str:
    """In a process of its own: do the run, or go on with it; why it failed, empty if it is finished.

    Whoever else is at it, another study or a person, is waited for, and may have finished it by then.
    """
    from simulations.chatter import chatter_to

    place = Path(folder)
    with our_turn(place), chatter_to(place / "log.txt"):
        if is_finished(place):
            return ""
        (place / FAILED).unlink(missing_ok=True)
        if reason := _simulated(place):
            _note(place, reason)
        return reason


def _simulated(place: Path) -> str:
    """Why the run in a folder failed; empty if it is finished."""
    import logging

    from configs.load import load_run
    from simulations.engines import ASKED_FILE, simulate
    from simulations.pretend import materialise
    from simulations.studies.address import address

    try:
        whole = materialise(load_run(place / ASKED_FILE))
        if address(whole) != place.name:
            raise ValueError("its data or our code have changed since the study began; begin the study again")
        simulate(whole, place)
    except Exception as error:
        logging.getLogger("sitestream").exception("the run stopped")
        return f"{type(error).__name__}: {error}"
    return ""


def in_turn(places: Sequence[Place]) -> Iterator[Place]:
    """Each run once, the begun ones first, then the longest: at the end no core waits for a long one."""
    once = {place.folder: place for place in places}
    yield from sorted(once.values(), key=lambda place: (place.state != "begun", -place.steps))
