"""Ctrl-C and SIGTERM: one line, exit code 130, nobody left behind, and the run goes on to the same bytes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from run_sim import main
from simulations.interrupt import MARK, TOGETHER_S
from simulations.local import LocalSites
from tests.test_ray_cluster import marked, within
from wire import Order

HOME = Path(__file__).parents[1]
SMOKE = str(HOME / "configs" / "smoke.yaml")
GO_ON = "run_sim: interrupted; finished rounds are saved. go on with: "
TWICE = "run_sim: interrupted twice: left at once; finished rounds are saved. go on with: "

ROLLS_BACK = """
import os, subprocess, sys, time
from simulations.interrupt import MARK, Interrupt
it = Interrupt()
it.listen()
with it.rolled_back():
    it.go_on = "go on with: this"
    env, quiet = {**os.environ, MARK: str(os.getpid())}, subprocess.DEVNULL
    subprocess.Popen(["sleep", "9"], env=env, stdout=quiet, stderr=quiet, start_new_session=True)
    try:
        print("ready", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        print("rolling back", flush=True)
        time.sleep(float(sys.argv[1]))
print("done", flush=True)
time.sleep(60)
"""


@contextmanager
def started(*command: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has both signals, as a shell in the foreground starts it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what is ignored here would be ignored there
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    try:
        process = subprocess.Popen([sys.executable, *command], cwd=HOME, **pipes)
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def ended(process: subprocess.Popen[str], within_s: float = 30) -> tuple[int, str]:
    """Exit code and stderr."""
    _, told = process.communicate(timeout=within_s)
    return process.returncode, told


def smoke(folder: Path, engine: str) -> tuple[str, ...]:
    return ("run_sim.py", "run", SMOKE, "--engine", engine, "--actors", "1", "--out", str(folder))


def in_round(folder: Path, number: int) -> Callable[[], bool]:
    """Whether a round is under way: the one before it is in the record."""
    record = folder / "record.jsonl"
    return lambda: record.exists() and f'"round", "round": {number - 1},' in record.read_text()


# What the two signals mean --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_rolls_back_and_the_second_leaves_at_once_with_all_that_was_started(number):
    with started("-c", ROLLS_BACK, "60") as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        mark = f"{MARK}={process.pid}"
        process.send_signal(number)
        assert process.stdout.readline() == "rolling back\n"
        assert marked(mark) == ["sleep 9 "]
        time.sleep(2 * TOGETHER_S)
        process.send_signal(number)
        code, told = ended(process, 5)
        assert (code, told) == (130, "run_sim: interrupted twice: left at once; finished rounds are saved. go on with: this\n")
        assert within(5, lambda: not marked(mark))


def test_a_signal_that_comes_with_the_first_is_the_same_one():
    with started("-c", ROLLS_BACK, "1") as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "rolling back\n"
        process.send_signal(signal.SIGTERM)  # as `timeout` does
        assert process.stdout.readline() == "done\n"
        process.send_signal(signal.SIGTERM)  # nothing is under way any more
        assert ended(process, 5)[0] == 130


def test_a_signal_that_was_ignored_stays_ignored():
    """`nohup`, and a shell's background, start us so."""
    script = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n" + ROLLS_BACK
    with started("-c", script, "0") as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "rolling back\n"


def test_an_interrupt_in_a_sites_work_is_no_fault_of_the_site(make_run, tmp_path, monkeypatch):
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("clients.work.Site.answer", interrupt)
    sites = LocalSites(make_run(), {"tiny": tmp_path})
    with pytest.raises(KeyboardInterrupt):
        list(sites.ask({}, [Order(run="r", round=1, task="train", site="tiny")]))


# A run ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "out"
    assert main(list(smoke(folder, "local")[1:])) == 0
    return folder


def assert_goes_on(folder: Path, undisturbed: Path) -> None:
    assert main(["resume", str(folder), "--engine", "local"]) == 0
    for name in ("model.safetensors", "R.csv", "classes.csv"):
        assert (folder / name).read_bytes() == (undisturbed / name).read_bytes(), name


def test_before_the_slow_imports_are_done_one_line_and_nothing_else(tmp_path):
    with started(*smoke(tmp_path / "out", "local")) as process:
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert ended(process) == (130, "run_sim: interrupted\n")
        assert not (tmp_path / "out").exists()


def test_sigterm_in_a_round_of_the_local_engine(tmp_path, undisturbed):
    folder = tmp_path / "out"
    with started(*smoke(folder, "local")) as process:
        assert within(60, in_round(folder, 3))
        process.terminate()
        code, told = ended(process)
    assert (code, told.startswith(GO_ON), told.count("\n")) == (130, True, 1), told
    assert_goes_on(folder, undisturbed)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes by their environment")
def test_a_second_ctrl_c_takes_the_actors_along_and_the_run_still_goes_on(tmp_path, undisturbed):
    folder = tmp_path / "out"
    with started(*smoke(folder, "ray")) as process:
        assert within(90, in_round(folder, 2))
        mark = f"{MARK}={process.pid}"
        assert [line for line in marked(mark) if "raylet" in line]
        process.send_signal(signal.SIGINT)
        time.sleep(1.5 * TOGETHER_S)
        process.send_signal(signal.SIGINT)
        code, told = ended(process, 10)
        assert (code, told.startswith(TWICE), told.count("\n")) == (130, True, 1), told
        assert within(5, lambda: not marked(mark)), marked(mark)
    assert_goes_on(folder, undisturbed)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes by their environment")
def test_sigterm_while_ray_starts_leaves_no_process(tmp_path):
    folder = tmp_path / "out"
    with started(*smoke(folder, "ray")) as process:
        mark = f"{MARK}={process.pid}"
        assert within(60, lambda: any("raylet" in line for line in marked(mark)))
        process.terminate()
        code, told = ended(process)
        assert (code, told.startswith(GO_ON), told.count("\n")) == (130, True, 1), told
        assert within(5, lambda: not marked(mark)), marked(mark)
        assert not os.path.exists(folder / "checkpoints")
