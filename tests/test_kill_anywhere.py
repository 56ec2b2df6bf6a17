"""Kill it anywhere, in short: the benchmark of that name with few kills; and that it sees what it looks for."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from run_sim import main

HOME = Path(__file__).parents[1]
sys.path.append(str(HOME / "benchmarks"))

from kill_anywhere import CONFIG, Trial
from sameness import differences
from stages import Where, where

pytestmark = pytest.mark.timeout(900)  # each life of a run imports torch: seconds on a quiet machine, many on a busy one


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to."""
    folder, before = tmp_path_factory.mktemp("reference") / "out", signal.getsignal(signal.SIGTERM)
    try:
        assert main(["run", str(HOME / CONFIG), "--engine", "local", "--out", str(folder)]) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    return folder


def trial(place: Path, engine: str, reference: Path, duration_s: float) -> Trial:
    cache = Path(os.environ["SITESTREAM_CACHE"])
    rng = np.random.default_rng(0)
    return Trial(place, engine, rng, cache=cache, reference=reference, duration_s=duration_s)


def test_killed_and_resumed_it_ends_with_the_same_bytes(tmp_path, reference):
    with trial(tmp_path, "local", reference, 8.0) as local:
        local.kill(4)
    assert local.found == []
    assert len(local.kills) == 4 and {kill.victim for kill in local.kills} == {"driver"}
    assert all(kill.code == -signal.SIGKILL for kill in local.kills)


def test_over_ray_a_killed_driver_and_a_killed_actor_change_no_byte(tmp_path, reference):
    with trial(tmp_path, "ray", reference, 12.0) as ray:
        ray.kinds = ("driver",)
        ray.kill(1)
        ray.kinds = ("actor",)
        ray.kill(2)
    assert ray.found == []
    assert [(kill.victim, kill.code) for kill in ray.kills] == [("driver", -signal.SIGKILL), ("actor", 0)]
    assert not any(life.parts() for life in ray.lives)


# What it looks for ------------------------------------------------------------------------------------------------------


@pytest.fixture
def other(tmp_path: Path, reference: Path) -> Path:
    """The same run's folder, to be tampered with."""
    return Path(shutil.copytree(reference, tmp_path / "other"))


def test_a_run_is_the_same_as_itself_whatever_the_clock_and_the_news_say(other, reference):
    path = other / "record.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows = [row | {"seconds": 99.0} if "seconds" in row else row for row in rows]
    news = {"event": "fault", "site": "first", "round": 1, "task": "train", "kind": "crashed", "reason": "it rains"}
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows[:5], news, *rows[5:]]))
    assert differences(other, reference) == []


def test_a_model_that_differs_in_one_byte_is_seen(other, reference):
    content = bytearray((other / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (other / "model.safetensors").write_bytes(content)
    assert differences(other, reference) == ["model.safetensors differs"]


def test_a_memory_that_differs_is_seen(other, reference):
    newest = max((other / "sites" / "second" / "state").glob("*/[0-9]*"))
    (newest / "state.json").write_text("{}")
    assert differences(other, reference) == ["the last snapshot of site second differs in state.json"]


def test_a_doubled_row_and_a_half_line_are_seen(other, reference):
    path = other / "record.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    at = next(number for number, line in enumerate(lines) if '"event": "train"' in line)
    path.write_text("".join([*lines[: at + 1], *lines[at:]]))
    assert [line.partition(" differs ")[0] for line in differences(other, reference)] == [f"row {at + 2} of the record (train)"]
    path.write_text("".join(lines)[:-9])
    assert differences(other, reference)[0] == "the record ends in half a line"


def test_where_a_run_is_shows_in_its_folder(other):
    since = (other / "record.jsonl").stat().st_mtime
    for path in (*other.rglob("summary.json"), *other.rglob("progress.json")):
        os.utime(path, (since - 10, since - 10))
    assert where(other, since) == Where(6, "start-up")
    (other / "sites" / "first" / "progress.json").write_text('{"site": "first", "task": "train"}')
    assert where(other, since).phase == "training"
    (other / "checkpoints" / ".draft-x").mkdir()
    assert where(other, since).phase == "saving"
    (other / "summary.json").write_text("{}")
    assert where(other, since).phase == "report"
