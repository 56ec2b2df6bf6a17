"""Ctrl-C and SIGTERM: one line, exit code 130, nobody left behind, and the run goes on to the same bytes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from run_sim import main
from simulations.interrupt import TOGETHER_S
from simulations.local import LocalSites
from simulations.ray_cluster import cluster
from tests.test_ray_cluster import within
from wire import Order

HOME = Path(__file__).parents[1]
SMOKE = str(HOME / "configs" / "smoke.yaml")
GO_ON = "run_sim: interrupted; finished rounds are saved. go on with: "
TWICE = "run_sim: interrupted twice: left at once; finished rounds are saved. go on with: "

ROLLS_BACK = """
import os, subprocess, sys, time
from simulations.interrupt import Interrupt, ended_with
it, folder = Interrupt(), sys.argv[2]
it.listen()
with it.rolled_back(), ended_with(folder), open(os.path.join(folder, "log"), "w") as log:
    it.go_on = "go on with: this"
    subprocess.Popen(["sleep", "9"], stdout=log, stderr=log)
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
        process = subprocess.Popen([sys.executable, *command], cwd=HOME, start_new_session=True, **pipes)
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


def left(process: subprocess.Popen[str]) -> list[str]:
    """Command lines of the living processes of its session, but for itself: all that it has started stays in it."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # gone by now
            if int(place.name) != process.pid and os.getsid(int(place.name)) == process.pid:
                found.append((place / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return [words for words in found if words]  # one that is dead and waited for has none


def smoke(folder: Path, engine: str) -> tuple[str, ...]:
    return ("run_sim.py", "run", SMOKE, "--engine", engine, "--actors", "1", "--out", str(folder))


def in_round(folder: Path, number: int) -> Callable[[], bool]:
    """Whether a round is under way: the one before it is in the record."""
    record = folder / "record.jsonl"
    return lambda: record.exists() and f'"round", "round": {number - 1},' in record.read_text()


# What the two signals mean --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_rolls_back_and_the_second_leaves_at_once_with_all_that_was_started(tmp_path, number):
    with started("-c", ROLLS_BACK, "60", str(tmp_path)) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.readline() == "rolling back\n"
        assert left(process) == ["sleep 9 "]
        time.sleep(2 * TOGETHER_S)
        process.send_signal(number)
        code, told = ended(process, 5)
        assert (code, told) == (130, "run_sim: interrupted twice: left at once; finished rounds are saved. go on with: this\n")
        assert within(5, lambda: not left(process))


def test_a_signal_that_comes_with_the_first_is_the_same_one(tmp_path):
    with started("-c", ROLLS_BACK, "1", str(tmp_path)) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "rolling back\n"
        process.send_signal(signal.SIGTERM)  # as `timeout` does
        assert process.stdout.readline() == "done\n"
        process.send_signal(signal.SIGTERM)  # nothing is under way any more
        assert ended(process, 5)[0] == 130


def test_a_signal_that_was_ignored_stays_ignored(tmp_path):
    """`nohup`, and a shell's background, start us so."""
    script = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n" + ROLLS_BACK
    with started("-c", script, "0", str(tmp_path)) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "rolling back\n"


HANGS_AT_ITS_END = """
import atexit, sys, time
from simulations.interrupt import Interrupt
it = Interrupt()
it.listen()
with it.rolled_back():
    try:
        if sys.argv[1] == "interrupted":
            print("ready", flush=True)
            time.sleep(60)
    except KeyboardInterrupt:
        pass
atexit.register(time.sleep, 60)
print("report: here")
it.end(3)
print("said", flush=True)
"""


@pytest.mark.parametrize(("way", "ignored"), [("finished", 1), ("interrupted", 0)])
def test_at_the_end_a_second_signal_leaves_at_once_with_the_exit_code_and_without_a_word(way, ignored):
    with started("-c", HANGS_AT_ITS_END, way) as process:
        assert process.stdout is not None
        if way == "interrupted":
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGINT)
        assert [process.stdout.readline() for _ in range(2)] == ["report: here\n", "said\n"]
        for _ in range(ignored):
            process.send_signal(signal.SIGTERM)
        time.sleep(2 * TOGETHER_S)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert ended(process, 5) == (3, "")


def test_an_interrupt_while_ray_shuts_down_still_puts_the_handler_back(monkeypatch):
    def interrupt() -> None:
        raise KeyboardInterrupt

    def ours(*_: Any) -> None:
        pass

    monkeypatch.setattr("simulations.ray_cluster._start", lambda *_: signal.signal(signal.SIGTERM, signal.SIG_IGN))
    monkeypatch.setattr("ray.shutdown", interrupt)
    before = signal.signal(signal.SIGTERM, ours)
    try:
        with pytest.raises(KeyboardInterrupt), cluster(None, 1, False, None):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        assert signal.getsignal(signal.SIGTERM) is ours
    finally:
        signal.signal(signal.SIGTERM, before)


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


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds processes in /proc")
def test_a_second_ctrl_c_takes_the_actors_along_and_the_run_still_goes_on(tmp_path, undisturbed):
    folder = tmp_path / "out"
    with started(*smoke(folder, "ray")) as process:
        assert within(90, in_round(folder, 2))
        assert [line for line in left(process) if "raylet" in line]
        process.send_signal(signal.SIGINT)
        time.sleep(1.5 * TOGETHER_S)
        process.send_signal(signal.SIGINT)
        code, told = ended(process, 10)
        assert (code, told.startswith(TWICE), told.count("\n")) == (130, True, 1), told
        assert within(5, lambda: not left(process)), left(process)
    assert_goes_on(folder, undisturbed)


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds processes in /proc")
def test_sigterm_while_ray_starts_leaves_no_process(tmp_path):
    folder = tmp_path / "out"
    with started(*smoke(folder, "ray")) as process:
        assert within(60, lambda: any("raylet" in line for line in left(process)))
        process.terminate()
        code, told = ended(process)
        assert (code, told.startswith(GO_ON), told.count("\n")) == (130, True, 1), told
        assert within(5, lambda: not left(process)), left(process)
        assert not os.path.exists(folder / "checkpoints")
