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
from simulations.ray_cluster import cluster

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
