"""Whole runs of the smoke config: the same bytes over every engine and after every interruption, and all that a run leaves.

Ray is started once for all its runs.
"""

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from clients import model
from configs.load import load_run
from run_sim import main
from server.conduct import METADATA
from tests.test_loop import timeless

HOME = Path(__file__).parents[1]
SMOKE = str(HOME / "configs" / "smoke.yaml")
SITES = ("first", "second", "third")
RESULTS = ("model.safetensors", "R.csv")


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One Ray with two cores for all runs."""
    from simulations import ray_grid
    from simulations.ray_cluster import cluster

    @contextmanager
    def already(*_: object) -> Iterator[None]:
        yield

    with cluster(None, 2, False, tmp_path_factory.mktemp("ray") / "log.txt"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_grid, "cluster", already)
        yield


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run over the local engine."""
    return run(tmp_path_factory.mktemp("local") / "out", "local")


def run(folder: Path, engine: str, *more: str, config: str = SMOKE) -> Path:
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert main(["run", config, "--engine", engine, *more, "--out", str(folder)]) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    return folder


def assert_same(one: Path, other: Path) -> None:
    for name in RESULTS:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    assert timeless(one) == timeless(other)


def record(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "record.jsonl").read_text().splitlines()]


# The engines agree ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("actors", [1, 2])
def test_local_and_ray_give_the_same_bytes(tmp_path, local, started, actors):
    assert_same(run(tmp_path / "out", "ray", "--actors", str(actors)), local)


def test_the_run_learns_and_nothing_fails(local):
    rows = [line.split(",") for line in (local / "R.csv").read_text().splitlines()]
    assert rows[0] == ["stage", *SITES]
    assert [row[0] for row in rows[1:]] == ["start", *SITES]
    assert sum(float(cell) for cell in rows[-1][1:]) > sum(float(cell) for cell in rows[1][1:]) + 0.1
    assert [row for row in record(local) if row["event"] == "failure"] == []


def test_another_seed_is_another_model(tmp_path, local):
    other = run(tmp_path / "out", "local", "--seed", "1")
    assert (other / "model.safetensors").read_bytes() != (local / "model.safetensors").read_bytes()


# What a run leaves ----------------------------------------------------------------------------------------------------


def test_the_model_says_all_that_predicting_needs(local):
    run = load_run(local / "config.yaml")
    with safe_open(local / "model.safetensors", "np") as file:
        facts = json.loads(file.metadata()[METADATA])
    assert facts == {
        "network": "UNet",
        "args": run.model.args,
        "classes": ["liver", "spleen", "kidney"],
        "preprocess": run.preprocess.model_dump(mode="json"),
        "patch": list(run.train.patch),
        "overlap": run.evaluate.overlap,
        "seed": 0,
        "includes": {},
    }
    weights = load_file(local / "model.safetensors")
    segmenter = model.build(facts["network"], facts["args"], facts["classes"], seed=99)
    model.load_shared(segmenter, weights)
    assert {name: tensor.tobytes() for name, tensor in model.shared_weights(segmenter).items()} == {
        name: tensor.tobytes() for name, tensor in weights.items()
    }


def test_the_folder_holds_what_was_promised(local):
    there = {path.name for path in local.iterdir()}
    assert {"config.yaml", "record.jsonl", "R.csv", "summary.json", "model.safetensors", "report.html", "log.txt"} <= there
    assert {path.name for path in (local / "sites").iterdir()} == set(SITES)
    assert len(list((local / "checkpoints").iterdir())) == 2
    report = (local / "report.html").read_text()
    for site in SITES:
        assert site in report
        progress = json.loads((local / "sites" / site / "progress.json").read_text())
        assert (progress["site"], progress["task"]) == (site, "idle")
        assert list((local / "sites" / site / "slices").glob("*.npz"))
    summary = json.loads((local / "summary.json").read_text())
    assert {
        "acc",
        "aia",
        "bwt.gem",
        "fgt.chaudhry",
        "dice",
        "hd95",
        "nsd",
        "normdel",
        "seed",
        "versions",
        "seconds",
    } <= summary.keys()


def test_the_record_tells_no_case_names_and_adds_up(local):
    rows = record(local)
    assert {row["event"] for row in rows} == {
        "run",
        "site",
        "arrive",
        "evict",
        "train",
        "round",
        "case",
        "result",
        "metric",
        "end",
    }
    known = {path.name.removesuffix(".nii.gz") for path in Path(os.environ["SITESTREAM_CACHE"]).rglob("*.nii.gz")}
    assert known
    text = (local / "record.jsonl").read_text()
    assert not [name for name in known if f'"{name}"' in text]
    trained = [row for row in rows if row["event"] == "train"]
    for site in SITES:
        assert sum(row["new_cases"] for row in trained if row["site"] == site) == 3
        assert [row["stream_left"] for row in trained if row["site"] == site][:2] == [1, 0]
    for row in rows:
        if row["event"] == "round":
            assert row["draws"] == sum(each["draws"] for each in trained if each["round"] == row["round"])


# Interruptions --------------------------------------------------------------------------------------------------------


def test_ctrl_c_saves_and_resume_ends_with_the_same_bytes(tmp_path, local):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what is ignored here would be ignored there
    try:
        command = [sys.executable, "run_sim.py", "run", SMOKE, "--engine", "local", "--out", str(tmp_path / "out")]
        process = subprocess.Popen(command, cwd=HOME, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    end, written = time.monotonic() + 60, tmp_path / "out" / "record.jsonl"
    while (
        process.poll() is None
        and time.monotonic() < end
        and not (written.exists() and '"round", "round": 2' in written.read_text())
    ):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert told.startswith("run_sim: interrupted; finished rounds are saved. go on with: ")
    assert told.endswith(f" run_sim.py resume {tmp_path / 'out'}\n")
    assert not (tmp_path / "out" / "model.safetensors").exists()
    assert main(["resume", str(tmp_path / "out")]) == 0
    assert_same(tmp_path / "out", local)


def test_a_run_may_be_resumed_over_another_engine(tmp_path, local, started, monkeypatch):
    from server import checkpoint

    save = checkpoint.save

    def stop(folder: Path, federation: Any, keep: int) -> None:
        if federation.round == 4:  # the sites have done round 4, and the server does not know
            raise KeyboardInterrupt
        save(folder, federation, keep)

    with monkeypatch.context() as broken:
        broken.setattr(checkpoint, "save", stop)
        assert main(["run", SMOKE, "--engine", "local", "--out", str(tmp_path / "out")]) == 130
    assert main(["resume", str(tmp_path / "out"), "--engine", "ray", "--actors", "1"]) == 0
    assert_same(tmp_path / "out", local)


# The stream paradigm --------------------------------------------------------------------------------------------------


def test_a_stream_of_pretend_hospitals(tmp_path):
    config = tmp_path / "paper.yaml"
    looks = {"first": "ct_window", "second": "mr"}
    sites = {
        name: {
            "phantoms": {"cases": 4, "shape": [32, 28, 24], "spacing": [6, 6, 8], "scanner": look},
            "annotates": ["liver", "spleen"],
        }
        for name, look in looks.items()
    }
    text = f"extends: {SMOKE}\nname: paper\nparadigm: stream\narrivals: {{rounds_per_stage: 1}}\n"
    config.write_text(text + f"sites: {json.dumps(sites | {'third': None})}\n")
    folder = run(tmp_path / "out", "local", config=str(config))
    rows = record(folder)
    assert [(row["round"], row["site"], row["stage"]) for row in rows if row["event"] == "arrive"] == [
        (1, "stream", "first"),
        (1, "first", "first"),
        (3, "second", "second"),
    ]
    trained = [row for row in rows if row["event"] == "train"]
    assert {row["site"] for row in trained} == {"stream"}
    assert [row["new_cases"] for row in trained] == [2, 1, 2, 1]
    assert trained[0]["memory_domains"] == {"first": 2}
    assert "second" in trained[-1]["memory_domains"]
    assert (folder / "R.csv").read_text().splitlines()[0] == "stage,first,second"
    assert [line.split(",")[0] for line in (folder / "R.csv").read_text().splitlines()[1:]] == ["start", "first", "second"]
    report = (folder / "report.html").read_text()
    assert all(site in report for site in looks)


# `flwr run` -----------------------------------------------------------------------------------------------------------


def test_flower_can_load_the_apps():
    from flwr.clientapp import ClientApp
    from flwr.common.config import validate_config
    from flwr.serverapp import ServerApp
    from flwr.supercore.object_ref import load_app

    config = tomllib.loads((HOME / "pyproject.toml").read_text())
    assert validate_config(config, check_module=True, project_dir=HOME) == (True, [], [])
    components = config["tool"]["flwr"]["app"]["components"]
    assert isinstance(load_app(components["serverapp"], ValueError, HOME), ServerApp)
    assert isinstance(load_app(components["clientapp"], ValueError, HOME), ClientApp)
    assert (HOME / config["tool"]["flwr"]["app"]["config"]["config"]).is_file()
