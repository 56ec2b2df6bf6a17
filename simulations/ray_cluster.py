"""Starts a quiet Ray of our own (no dashboard, no telemetry, loopback only, nothing left behind), or joins a cluster."""

import logging
import math
import os
import signal
import tempfile
import threading
import warnings
import weakref
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import ray
from ray._private import ray_constants
from ray._private import worker as ray_worker

from simulations.interrupt import ended_with

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
                with _unwarned(), _sigterm(meant):
                    _join(address) if address else _start(folder, cpus, gpus)
                yield
        finally:
            try:
                with _unwarned():
                    ray.shutdown()
            finally:  # an interrupt in there, say
                _set_sigterm(meant)


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


def room(sites: Mapping[str, tuple[float, float]]) -> tuple[float, float]:
    """(CPU cores, GPUs) that there are.

    Raises:
        ValueError: one of the sites wants more for itself.
    """
    there = ray.cluster_resources()
    have = there.get("CPU", 0.0), there.get("GPU", 0.0)
    for name, wanted in sites.items():
        for i, what in enumerate(("CPU cores", "GPUs")):
            if wanted[i] > have[i]:
                raise ValueError(f"the site {name!r} wants {wanted[i]:g} {what}, there are {have[i]:g}")
    return have


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
    alone = _swapped(ray_constants, "ENABLE_RAY_CLUSTER", False)  # read from the environment when ray was imported; see QUIET
    with _environment({**QUIET, "HOME": folder}), alone:
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
    with _environment({"RAY_USAGE_STATS_ENABLED": "0"}):
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        except ConnectionError as error:
            raise ValueError(f"no Ray cluster answers at {address!r}: {error}") from None


def _short() -> str | None:
    """A folder with a short name: the paths of Ray's sockets below it must stay under 104 characters."""
    return "/tmp" if os.path.isdir("/tmp") else None


@contextmanager
def _unwarned() -> Iterator[None]:
    """Ray leaves open files and processes to the garbage collector, which warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _silent_driver(log: Path | None) -> AbstractContextManager[None]:
    """What Ray says of dead actors goes to the log: `log_to_driver=False` leaves it on the screen (2.55)."""

    def say(data: Mapping[str, Any], ignore_prefix: bool = False) -> None:
        if log:
            with open(log, "a") as file:
                file.write("\n".join(map(str, data["lines"])) + "\n")

    return _swapped(ray_worker, "print_to_stdstream", say)


@contextmanager
def _swapped(module: ModuleType, name: str, value: object) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _sigterm(meant: Any) -> Iterator[None]:
    """Ray's start makes SIGTERM a SystemExit of its own: while it starts that is made what the signal `meant`, and
    afterwards the signal means it again. Where it meant sudden death Ray's way stays, for it stops Ray properly."""
    try:
        yield
    except SystemExit:
        if callable(meant):
            meant(signal.SIGTERM, None)
        raise
    finally:
        if meant is not signal.SIG_DFL:
            _set_sigterm(meant)


def _set_sigterm(handler: Any) -> None:
    """None: a handler that is not Python's, which Python cannot set."""
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)
