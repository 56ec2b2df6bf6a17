"""Several runs at once on this machine: a Ray task each, taken up where it stopped, its failure a line and not the end."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simulations.studies.shelf import FAILED, Place

LOOK_S = 0.5
"""Between two looks at how far the runs are."""


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
    """
    import ray

    from simulations.ray_cluster import cluster, cores, worker_environment

    work, gpus = Work(places), any(site.gpus for place in places for site in place.run.sites.values())
    with cluster(None, workers or cores(), gpus, log):
        do = ray.remote(max_calls=0, max_retries=0)(_do)
        queue, tasks = list(places), dict[Any, Place]()
        while queue or tasks:
            while queue and len(tasks) < (workers or cores()):
                place = queue.pop(0)
                work.before[place.folder] = work.running[place.folder] = rounds_done(place.folder)
                need = max((site.gpus for site in place.run.sites.values()), default=0.0)
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


def _result(task: Any, place: Place) -> str:
    """Why a run failed, which its folder keeps; empty if it is finished."""
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        reason = str(ray.get(task))
    except RayTaskError as error:
        reason = str(error.cause or error)
    except RayError:
        reason = "its process died (killed by a signal, or out of memory?)"
    if reason:
        (place.folder / FAILED).write_text(" ".join(reason.split()) + "\n", encoding="utf-8")
    return reason


def _do(folder: str) -> str:
    """In a process of its own: do the run, or go on with it; why it failed, empty if it is finished."""
    import logging

    from configs.load import load_run
    from simulations.chatter import chatter_to
    from simulations.engines import ASKED_FILE, simulate
    from simulations.pretend import materialise

    place = Path(folder)
    (place / FAILED).unlink(missing_ok=True)
    with chatter_to(place / "log.txt"):
        try:
            simulate(materialise(load_run(place / ASKED_FILE)), place)
        except Exception as error:
            logging.getLogger("sitestream").exception("the run stopped")
            return f"{type(error).__name__}: {error}"
    return ""


def in_turn(places: Sequence[Place]) -> Iterator[Place]:
    """Each run once, the begun ones first, then the longest: at the end no core waits for a long one."""
    once = {place.folder: place for place in places}
    yield from sorted(once.values(), key=lambda place: (place.state != "begun", -place.steps))
