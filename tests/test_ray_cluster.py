"""Ray comes and goes quietly, and a signal means what it meant."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from simulations import ray_cluster
from simulations.ray_cluster import Shelf, cluster

HOME = Path(__file__).parents[1]
SMOKE = str(HOME / "configs" / "smoke.yaml")


def rays_way(number: int, frame: object) -> None:
    sys.exit(number)


def interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def _afterwards() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(("meant", "inside"), [(interrupt, interrupt), (signal.SIG_DFL, rays_way)])
def test_sigterm_means_what_it_meant_and_never_sudden_death(monkeypatch: pytest.MonkeyPatch, meant: Any, inside: Any) -> None:
    monkeypatch.setattr(ray_cluster, "_start", lambda *_: signal.signal(signal.SIGTERM, rays_way))
    signal.signal(signal.SIGTERM, meant)
    with cluster(None, 1, False, None):
        assert signal.getsignal(signal.SIGTERM) is inside
    assert signal.getsignal(signal.SIGTERM) is meant


def test_sigterm_while_ray_starts_means_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: object) -> None:
        signal.signal(signal.SIGTERM, rays_way)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(ray_cluster, "_start", start)
    signal.signal(signal.SIGTERM, interrupt)
    with pytest.raises(KeyboardInterrupt), cluster(None, 1, False, None):
        pass


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes by their environment")
def test_sigterm_in_a_round_saves_says_how_to_go_on_and_leaves_no_process(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    mark = f"SITESTREAM_TEST={folder}"
    command = [sys.executable, "run_sim.py", "run", SMOKE, "--engine", "ray", "--actors", "1", "--out", str(folder)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=HOME, env=os.environ | dict([mark.split("=")]), **pipes)
    try:
        record = folder / "record.jsonl"
        assert within(90, lambda: record.exists() and '"round", "round": 1' in record.read_text())
        assert len(marked(mark)) > 2
        process.terminate()
        _, told = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, told
    assert told.startswith("run_sim: interrupted; finished rounds are saved. go on with: ")
    assert told.endswith(f"run_sim.py resume {folder}\n")
    assert told.count("\n") == 1
    assert within(10, lambda: not marked(mark)), marked(mark)


RUN = """
import math, os, signal, time
from ray._private import worker
from server.sites import GridSites
from simulations.ray_cluster import RayStopped
from simulations.ray_grid import Node, RayGrid
from wire import Order

def orders(number):
    return [Order(run="r", round=number, task="train", site=site) for site in "ab"]

try:
    with RayGrid([Node("a", {"sleep": 1000}), Node("b")], app="tests.toy_client:app", actors=2) as grid:
        for answer in GridSites(grid, deadline_s=math.inf, pause_s=0).ask({}, orders(1)):  # b has answered, a never will
            [raylet] = worker._global_node.all_processes["raylet"]
            os.kill(raylet.process.pid, signal.SIGKILL)
            killed = time.monotonic()
except RayStopped as stopped:
    print(stopped, "at once" if time.monotonic() - killed < 20 else "late")
"""


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes by their environment")
def test_a_ray_that_is_killed_ends_the_run_in_words_and_leaves_no_process(tmp_path: Path) -> None:
    mark = f"SITESTREAM_TEST={tmp_path}"
    told = {"capture_output": True, "text": True, "timeout": 90, "env": os.environ | dict([mark.split("=")])}
    done = subprocess.run([sys.executable, "-c", RUN], cwd=HOME, **told)  # type: ignore[call-overload]
    assert (done.returncode, done.stdout, done.stderr) == (0, "Ray stopped: its raylet died at once\n", "")
    assert within(10, lambda: not marked(mark)), marked(mark)


@pytest.mark.parametrize(
    ("dead", "words"),
    [
        (["gcs_server"], "Ray stopped: its head died"),
        (["raylet", "gcs_server", "log_monitor"], "Ray stopped: its head and its raylet died"),
    ],
)
def test_nothing_is_put_into_the_store_of_a_ray_that_is_gone(
    monkeypatch: pytest.MonkeyPatch, dead: list[str], words: str
) -> None:
    class Node:
        def dead_processes(self) -> list[tuple[str, None]]:
            return [(name, None) for name in dead]

    monkeypatch.setattr(ray_cluster.ray, "put", lambda thing: pytest.fail("Ray would end this process here"))
    monkeypatch.setattr(ray_cluster.ray_worker, "_global_node", Node())
    with pytest.raises(ray_cluster.RayStopped, match=f"^{words}$"):
        Shelf().put(Shelf())
    dead[:] = ["log_monitor"]
    ray_cluster.check_alive()


def marked(mark: str) -> list[str]:
    """Command lines of the processes that have inherited the mark."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (place / "environ").read_bytes().split(b"\0"):
                found.append((place / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # gone by now, or somebody else's
            continue
    return found


def within(seconds: float, check: Callable[[], bool]) -> bool:
    """Whether it comes true in time."""
    end = time.monotonic() + seconds
    while not (true := check()) and time.monotonic() < end:
        time.sleep(0.02)
    return true
