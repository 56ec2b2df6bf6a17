"""Starts a quiet Ray of our own (no dashboard, no telemetry, loopback only, nothing left behind), or joins a cluster."""

import logging
import math
import os
import signal
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants
from ray._private import worker as ray_worker
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from simulations.for_a_while import environment, set_sigterm, sigterm, swapped, unwarned
from simulations.interrupt import ended_with
from simulations.placement import Machine, spot

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a site with `gpus: 0` may still see the GPU: its own `device` decides
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # everywhere, not only there: Ray's servers listen on loopback alone
    "RAY_enable_worker_prestart": "0",  # else one idle process per core
    "RAY_prestart_worker_first_driver": "0",
    "RAY_worker_niceness": "0",  # else 15: a simulation would yield to anything else that runs
    "RAY_gcs_rpc_server_reconnect_timeout_s": "86400",  # else Ray ends us 60 s after its head, without a word
}
HEAP = {"hugetlb": 1, "mmap_max": 0, "trim_threshold": 2**31 - 1, "top_pad": 64 << 20}
"""glibc's settings of a worker's heap: what a step frees is kept (clients/heap.py), in pages of 2 MB where the system lends
them; a training step on a CPU takes a tenth to a quarter less time. Other C libraries do not read it."""
VITAL = {"gcs_server": "head", "raylet": "raylet"}
"""Ray's processes without which nothing goes on, and what people call them."""
STORE_BYTES = 2 * 1024**3
"""Largest size of the object store; it holds one copy of the weights and the replies not yet fetched, and spills to disk."""
LOOK_S = 60.0
"""Seconds for a node of a cluster to say which folders it sees."""
HOME = Path(__file__).resolve().parent.parent
"""Where our packages are: on the workers' path, whatever the working directory."""


class RayStopped(RuntimeError):
    """Ray is gone, and with it every actor; the message says why, in words."""


@contextmanager
def cluster(address: str | None, cpus: int, gpus: bool, log: Path | None) -> Iterator[None]:
    """A running Ray, stopped at exit, exceptions, Ctrl-C and SIGTERM included.

    Args:
        address: a cluster to join; None: start one here.
        cpus: with at least so many (pretended, if need be) cores.
        gpus: look for GPUs.
        log: the file for what Ray would print; None: nowhere.

    Raises:
        ValueError: no cluster answers at the address.
    """
    home = tempfile.TemporaryDirectory(prefix="sitestream-", dir=_short(), ignore_cleanup_errors=True)
    with home as folder, ended_with(folder):
        meant = signal.getsignal(signal.SIGTERM)
        try:
            with _silent_driver(log):
                with unwarned(), sigterm(meant):
                    _join(address) if address else _start(folder, cpus, gpus)
                yield
        finally:
            try:
                with unwarned():
                    ray.shutdown()
            finally:  # an interrupt in there, say
                set_sigterm(meant)


def check_alive() -> None:
    """See whether the Ray that was started here still lives; takes microseconds.

    Ask before everything that goes into the object store: without its raylet Ray ends this very process there, without a
    word, and elsewhere it may wait for ever (2.55).

    Raises:
        RayStopped: one of its processes has died.
    """
    node = ray_worker._global_node
    dead = {name for name, _ in node.dead_processes()} & VITAL.keys() if node else set()
    if dead:
        raise RayStopped(f"Ray stopped: its {' and its '.join(sorted(VITAL[name] for name in dead))} died")


def cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_environment(cpus: float) -> dict[str, str]:
    """Environment variables of an actor with so many cores."""
    threads = str(max(1, math.floor(cpus)))
    path = os.pathsep.join([str(HOME), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {
        "PYTHONPATH": path,
        "HOME": os.path.expanduser("~"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES") or ":".join(f"glibc.malloc.{key}={HEAP[key]}" for key in HEAP),
        **{f"{library}_NUM_THREADS": threads for library in ("OMP", "MKL", "OPENBLAS")},
    }


def machines() -> list[Machine]:
    """What each living machine has."""
    nodes = [(node["NodeID"], node["Resources"]) for node in ray.nodes() if node["Alive"]]
    return [Machine(name, has.get("CPU", 0.0), int(has.get("GPU", 0))) for name, has in nodes]


def room(sites: Mapping[str, tuple[float, float]]) -> None:
    """See whether each of these (CPU cores, GPUs) fits on a machine.

    Raises:
        ValueError: one of the sites wants more for itself.
    """
    there = machines()
    for name, wanted in sites.items():
        if spot(wanted, there, ()):
            continue
        most_cpus, most_gpus = max(machine.cpus for machine in there), max(machine.gpus for machine in there)
        for i, (what, most) in enumerate((("CPU cores", most_cpus), ("GPUs", most_gpus))):
            if wanted[i] > most:
                where = "" if len(there) == 1 else " at the node with the most"
                raise ValueError(f"the site {name!r} wants {wanted[i]:g} {what}, there are {most:g}{where}")
        raise ValueError(f"the site {name!r} wants {wanted[0]:g} CPU cores and {wanted[1]:g} GPUs: no node has both")


def check_folders(wanted: Mapping[str, str]) -> None:
    """See whether every machine that has cores sees these: {path: what it is, in words}.

    Raises:
        ValueError: one does not; the line names the first such node and path.
    """

    def missing(paths: list[str]) -> list[str]:  # not a module's function: a node without our code must be able to say so
        import os

        return [path for path in paths if not os.path.exists(path)]

    named = {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes()}
    look = ray.remote(num_cpus=0, max_retries=0)(missing)
    at = {machine.name: NodeAffinitySchedulingStrategy(machine.name, soft=False) for machine in machines() if machine.cpus}
    asked = {name: look.options(scheduling_strategy=where).remote(list(wanted)) for name, where in at.items()}
    for name, answer in asked.items():
        try:
            gone = ray.get(answer, timeout=LOOK_S)
        except RayError as error:
            raise ValueError(f"the node {named[name]} does not answer ({type(error).__name__})") from None
        if gone:
            why = "the nodes of a cluster must see code, data and runs under the same paths: a shared file system"
            raise ValueError(f"the node {named[name]} has no {gone[0]} ({wanted[gone[0]]}); {why}")


class Shelf:
    """Puts an object into the object store once, however often it is sent while it lives."""

    def __init__(self) -> None:
        self.references: dict[int, tuple[weakref.ref[Any], Any]] = {}

    def put(self, thing: Any) -> Any:
        """A reference to a copy in the store; we let go of it when the original is gone."""
        key = id(thing)
        if key not in self.references:
            check_alive()
            original = weakref.ref(thing, lambda _: self.references.pop(key, None))
            self.references[key] = original, ray.put(thing)
        return self.references[key][1]


def _start(folder: str, cpus: int, gpus: bool) -> None:
    # Ray asks three cloud providers' metadata addresses who they are, unless it finds this file at home (even with its
    # usage statistics off). So for the moment of starting, home is the folder of the session; actors get theirs back.
    (Path(folder) / "ray_bootstrap_config.yaml").write_text("{}")
    alone = swapped(ray_constants, "ENABLE_RAY_CLUSTER", False)  # read from the environment when ray was imported; see QUIET
    with environment({**QUIET, "HOME": folder}), alone:
        ray.init(
            "local",
            num_cpus=max(cpus, cores()),
            num_gpus=None if gpus else 0,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=STORE_BYTES,
            _node_ip_address="127.0.0.1",
            _temp_dir=folder,
        )


def _join(address: str) -> None:
    with environment({"RAY_USAGE_STATS_ENABLED": "0"}):
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        except ConnectionError as error:
            raise ValueError(f"no Ray cluster answers at {address!r}: {error}") from None


def _short() -> str | None:
    """A folder with a short name: the paths of Ray's sockets below it must stay under 104 characters."""
    return "/tmp" if os.path.isdir("/tmp") else None


def _silent_driver(log: Path | None) -> AbstractContextManager[None]:
    """What Ray says of dead actors goes to the log: `log_to_driver=False` leaves it on the screen (2.55)."""

    def say(data: Mapping[str, Any], ignore_prefix: bool = False) -> None:
        if log:
            with open(log, "a") as file:
                file.write("\n".join(map(str, data["lines"])) + "\n")

    return swapped(ray_worker, "print_to_stdstream", say)
