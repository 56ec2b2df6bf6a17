"""What a run gives TensorBoard and MLflow: the record's numbers, once each, whatever happened; and never a reason to stop."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from filelock import FileLock

from configs.load import build_run, dump_run, load_run
from configs.plain import parse, read
from configs.schema import Run
from server import exports
from server.changes import accepted
from server.conduct import conduct, is_finished
from server.export_points import Point, Scalars, flat, plain
from server.exports import Ending, Exports, Outlet, Reader
from server.orders import CannotContinue
from server.record import Record
from simulations.studies.address import address, sources
from tests.fakes import Fake, FakeSites
from tests.test_changes import begun
from tests.test_loop import interrupted
from wire import Failure

HOME = Path(__file__).parents[1]
Series = dict[str, list[tuple[int, float]]]
"""{key: (step, value) in the order in which they were written}"""


def pair(**changes: Any) -> FakeSites:
    return FakeSites({"a": Fake(1, 1), "b": Fake(4, 3)}, **changes)


def four(where: Path | None = None, **sections: Any) -> Run:
    """Four rounds of two sites; exported into a folder, if one is given."""
    export = {"tensorboard": str(where / "events"), "mlflow": str(where / "mlruns")} if where else {}
    sites = {"a": {"root": "none"}, "b": {"root": "none"}}
    return build_run({"name": "fake", "sites": sites, "arrivals": {"rounds": 4}, "export": export, **sections})


def recorded(folder: Path) -> Series:
    """What should be exported of a run's record."""
    scalars, series = Scalars(), Series()
    for line in (folder / "record.jsonl").read_text().splitlines():
        for key, value, step in scalars.of(json.loads(line)):
            series.setdefault(key, []).append((step, value))
    return series


def single(series: Series) -> Series:
    """As TensorBoard keeps them: in single precision."""
    return {key: [(step, float(np.float32(value))) for step, value in points] for key, points in series.items()}


def shown(folder: Path) -> Series:
    """What TensorBoard reads from a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    found = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    found.Reload()
    tags = found.Tags()["tensors"]
    return {tag: [(e.step, float(make_ndarray(e.tensor_proto))) for e in found.Tensors(tag)] for tag in tags}


def only_run(store: Path) -> Path:
    """The folder of the one run of the one experiment."""
    (place,) = (path.parent for path in store.glob("*/*/meta.yaml"))
    return place


def stored(place: Path) -> Series:
    """The metrics of a run in a file store."""
    paths = [path for path in (place / "metrics").rglob("*") if path.is_file()]
    lines = {path.relative_to(place / "metrics").as_posix(): path.read_text().splitlines() for path in paths}
    return {key: [(int(line.split()[2]), float(line.split()[1])) for line in text] for key, text in lines.items()}


def values(place: Path, part: str) -> dict[str, str]:
    return {path.name: path.read_text() for path in (place / part).iterdir()}


# The config -----------------------------------------------------------------------------------------------------------


def test_true_is_a_place_of_its_own_and_a_folder_is_a_whole_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert build_run({}).export.model_dump() == {"tensorboard": False, "mlflow": False}
    export = build_run({"export": {"tensorboard": True, "mlflow": True}}).export
    assert (export.tensorboard, export.mlflow) == (True, tmp_path / "mlruns")
    export = build_run({"export": {"tensorboard": "tb", "mlflow": "/srv/mlruns"}}).export
    assert (export.tensorboard, export.mlflow) == (tmp_path / "tb", Path("/srv/mlruns"))


def test_what_is_written_down_is_read_again_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = build_run({"name": "run", "export": {"tensorboard": True, "mlflow": "here"}})
    (tmp_path / "run.yaml").write_text(dump_run(run))
    monkeypatch.chdir("/")
    assert load_run(tmp_path / "run.yaml") == run


@pytest.mark.parametrize(
    ("export", "line"),
    [
        ({"mlflow": 1}, "export.mlflow: write true or false, or a folder"),
        ({"tensorboard": " "}, "export.tensorboard: write true or false, or a folder"),
        ({"tensorboard": "off"}, "export.tensorboard: write true or false, or a folder"),
        ({"mlfow": True}, "export.mlfow: unknown key; did you mean 'mlflow'?"),
    ],
)
def test_what_is_neither_is_refused_in_a_line(export, line):
    with pytest.raises(ValueError) as refusal:
        build_run({"export": export})
    assert str(refusal.value) == f"config: {line}"


def test_a_run_may_go_on_with_other_exports_and_is_known_by_the_same_address(make_run, tmp_path):
    assert accepted(begun(four()), four(tmp_path), []) == []
    assert address(make_run()) == address(make_run(export={"tensorboard": True, "mlflow": str(tmp_path)}))


def test_no_result_depends_on_the_exporters_code():
    found = {path.relative_to(HOME).as_posix() for path in sources()}
    assert "server/conduct.py" in found and "configs/export.py" in found
    assert not {path for path in found if path.startswith("server/export")}


# Rows in, points out --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "points"),
    [
        (
            {
                "event": "train",
                "round": 3,
                "site": "a",
                "steps": 4,
                "draws": 8,
                "loss_sum": 6.0,
                "loss_weight": 8.0,
                "memory": 2,
            },
            [Point("loss/a", 0.75, 3), Point("draws/a", 8, 3), Point("steps/a", 4, 3), Point("memory/a", 2, 3)],
        ),
        (
            {"event": "train", "round": 3, "site": "a", "loss_sum": None, "loss_weight": 0.0, "draws": 0},
            [Point("draws/a", 0, 3)],
        ),
        ({"event": "result", "stage": "a", "site": "b", "dice": 0.5}, [Point("R/b", 0.5, 7)]),
        ({"event": "result", "stage": "a", "site": "b", "dice": None}, []),
        ({"event": "own", "stage": "a", "site": "b", "dice": 0.5, "steps": 3}, [Point("own/b", 0.5, 7)]),
        (
            {"event": "metric", "id": "bwt.gem", "value": -0.1, "cells": 2},
            [Point("bwt.gem", -0.1, 7), Point("cells/bwt.gem", 2, 7)],
        ),
        ({"event": "metric", "id": "acc", "value": None, "cells": 0}, [Point("cells/acc", 0, 7)]),
        ({"event": "round", "round": 8, "stage": "a", "present": ["a"], "draws": 8}, [Point("round/draws", 8, 8)]),
        ({"event": "index", "round": 8, "held": {"a": 3}, "quotas": {}}, [Point("index/held/a", 3, 8)]),
        ({"event": "privacy", "round": 8, "epsilon": 2.5}, [Point("privacy/epsilon", 2.5, 8)]),
        ({"event": "end", "seconds": 9.5}, [Point("end/seconds", 9.5, 7)]),
        ({"event": "site", "site": "a", "cases": 3, "extra": False}, []),
        ({"event": "case", "stage": "a", "site": "a", "case": "x", "dice": 0.5}, []),
        ({"event": "something newer", "round": 8, "value": 1}, []),
    ],
)
def test_each_row_gives_its_numbers_at_its_round(row, points):
    assert list(Scalars(round=7).of(row)) == points


def test_a_row_without_a_round_belongs_to_the_last_that_is_over():
    scalars, cell = Scalars(), {"event": "result", "stage": "s", "site": "a", "dice": 0.5}
    rows = [cell, {"event": "round", "round": 1}, {"event": "train", "round": 2, "site": "a"}, cell]
    assert [point.step for row in rows for point in scalars.of(row)] == [0, 1]


@pytest.mark.parametrize(
    ("key", "kept"),
    [
        ("loss/Köln-2", "loss/Köln-2"),
        ("R/a b", "R/a_b"),
        ("R/../../x", "R/_/_/x"),
        ("R/\n", "R/_"),
        ("a//b", "a/_/b"),
        ("/a", "_/a"),
    ],
)
def test_a_key_leads_out_of_no_folder(key, kept):
    assert plain(key) == kept


def test_nested_keys_are_joined_and_what_is_empty_stays():
    assert dict(flat({"a": {"b": 1, "c": {}}, "d": [2]}, ".")) == {"a.b": 1, "a.c": {}, "d": [2]}


# A run ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def finished(tmp_path) -> Path:
    """A folder with `run`, `events` and `mlruns`."""
    conduct(pair(), four(tmp_path), tmp_path / "run")
    return tmp_path


def test_both_hold_what_the_record_says_and_the_result_is_the_same(finished, tmp_path):
    expected = recorded(finished / "run")
    assert expected["draws/b"] == [(2, 3.0), (3, 3.0), (4, 3.0)]
    assert [step for step, _ in expected["R/a"]] == [0, 1, 4]
    assert len(expected["acc"]) == 1 and expected["acc"][0] == (4, expected["R/a"][2][1])
    assert stored(only_run(finished / "mlruns")) == expected
    (events,) = (finished / "events").iterdir()
    assert shown(events) == single(expected)
    conduct(pair(), four(), tmp_path / "without")
    assert (tmp_path / "without" / "model.safetensors").read_bytes() == (finished / "run" / "model.safetensors").read_bytes()


def test_the_store_has_the_config_the_tags_and_what_a_run_leaves(finished):
    place, run = only_run(finished / "mlruns"), finished / "run"
    params = values(place, "params")
    assert (params["seed"], params["memory.policy"], params["train.patch"]) == ("0", "selective", "[64, 64, 64]")
    assert params["sites.a.root"] == "none" and set(params) == {plain(key) for key, _ in flat(parse(dump_run(four())), ".")}
    tags = values(place, "tags")
    assert (tags["mlflow.runName"], tags["paradigm"], tags["folder"]) == ("run", "continual", str(run))
    assert tags["version.numpy"] == np.__version__ and len(tags["run"]) == 12
    meta, experiment = read(place / "meta.yaml"), read(place.parent / "meta.yaml")
    assert (meta["status"], meta["run_id"], meta["experiment_id"]) == (3, place.name, place.parent.name)
    assert meta["start_time"] <= meta["end_time"] and meta["artifact_uri"] == f"file://{place}/artifacts"
    assert (experiment["name"], experiment["experiment_id"], experiment["lifecycle_stage"]) == (
        "fake",
        place.parent.name,
        "active",
    )
    left = {path.name: path.read_bytes() for path in (place / "artifacts").iterdir()}
    assert left == {name: (run / name).read_bytes() for name in ("model.safetensors", "R.csv", "report.html")}


def test_mlflow_itself_reads_the_store(finished, monkeypatch):
    pytest.importorskip("mlflow", reason="mlflow is not installed (it is no requirement: server/export_mlflow.py says why)")
    script = (
        "import json, sys; from mlflow.tracking import MlflowClient; client = MlflowClient(tracking_uri=sys.argv[1]);"
        "found = client.search_experiments(filter_string=\"name = 'fake'\");"
        "where = \"metrics.acc > 0 and tags.paradigm = 'continual' and params.seed = '0' and attributes.status = 'FINISHED'\";"
        "(run,) = client.search_runs([e.experiment_id for e in found], where); id = run.info.run_id;"
        "series = {k: [(m.step, m.value) for m in client.get_metric_history(id, k)] for k in run.data.metrics};"
        "print(json.dumps([series, sorted(a.path for a in client.list_artifacts(id))]))"
    )
    told = {"MLFLOW_ALLOW_FILE_STORE": "true", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    command = [sys.executable, "-c", script, (finished / "mlruns").as_uri()]
    output = subprocess.run(command, env={**os.environ, **told}, capture_output=True, text=True, check=True).stdout
    series, artifacts = json.loads(output)
    assert {key: [tuple(point) for point in points] for key, points in series.items()} == recorded(finished / "run")
    assert artifacts == ["R.csv", "model.safetensors", "report.html"]


def test_a_long_parameter_is_cut(tmp_path):
    run = four(tmp_path, classes=["c" * 600], sites={"a": {"root": "none", "annotates": ["c" * 600]}, "b": {"root": "none"}})
    conduct(pair(), run, tmp_path / "run")
    text = values(only_run(tmp_path / "mlruns"), "params")["classes"]
    assert len(text) == 500 and text == '["' + "c" * 495 + "..."


def test_true_is_a_folder_in_the_runs_own(tmp_path):
    conduct(pair(), four(export={"tensorboard": True}), tmp_path / "run")
    assert shown(tmp_path / "run" / "tensorboard") == single(recorded(tmp_path / "run"))


# Killed and taken up again --------------------------------------------------------------------------------------------


BEGUN = """
import json, os, signal, sys, time
from pathlib import Path
from configs.load import build_run
from server import exports
from server.conduct import conduct
from tests.fakes import Fake, FakeSites
where, name, run = Path(sys.argv[1]), sys.argv[2], build_run(json.loads(sys.argv[3]))
def kill(reply):
    files = [*where.glob("mlruns/*/*/metrics/draws/b"), *where.glob("events/*/*")]
    while len(files) < 2 or any(path.stat().st_size < 10 for path in files) or b"draws/b" not in files[1].read_bytes():
        time.sleep(0.01)
        files = [*where.glob("mlruns/*/*/metrics/draws/b"), *where.glob("events/*/*")]
    os.kill(os.getpid(), signal.SIGKILL)
exports.POLL_S = 0.01
changes = {("b", "train", 3): kill} if len(sys.argv) > 4 else {}
conduct(FakeSites({"a": Fake(1, 1), "b": Fake(4, 3)}, changes), run, where / name)
"""


def begin(where: Path, name: str, *kill: str) -> subprocess.Popen[bytes]:
    """`four` in a process of its own, in the folder of that name."""
    return subprocess.Popen([sys.executable, "-c", BEGUN, str(where), name, four(where).model_dump_json(), *kill], cwd=HOME)


def add(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def kill_one(where: Path) -> None:
    """A run that is killed in its third round, when all before it has been exported."""
    assert begin(where, "run", "kill").wait(250) == -signal.SIGKILL


def test_killed_and_resumed_nothing_is_there_twice_and_nothing_is_lost(tmp_path):
    kill_one(tmp_path)
    place = only_run(tmp_path / "mlruns")
    assert [step for step, _ in stored(place)["draws/b"]] == [2] and read(place / "meta.yaml")["status"] == 1
    began = read(place / "meta.yaml")["start_time"]
    record = tmp_path / "run" / "record.jsonl"
    unsaved = {"event": "train", "round": 3, "site": "b", "draws": 99}
    add(place / "metrics" / "draws" / "b", f"1 {unsaved['draws']} {unsaved['round']}\n")
    add(record, json.dumps(unsaved) + "\n")  # written, exported, and killed before the checkpoint
    (place / "metrics" / "of another life").write_text("1 1 1\n")
    (place / "params" / "seed").write_text("9")
    (place / "tags" / "mlflow.note.content").write_text("a person's words")
    conduct(pair(), four(tmp_path), tmp_path / "run")
    assert only_run(tmp_path / "mlruns") == place
    expected = recorded(tmp_path / "run")
    assert expected["draws/b"] == [(2, 3.0), (3, 3.0), (4, 3.0)]
    assert stored(place) == expected
    (events,) = (tmp_path / "events").iterdir()
    assert len(list(events.iterdir())) == 1 and shown(events) == single(expected)
    meta = read(place / "meta.yaml")
    assert (meta["status"], meta["start_time"]) == (3, began)
    assert values(place, "params")["seed"] == "0" and values(place, "tags")["mlflow.note.content"] == "a person's words"


def test_it_begins_after_the_record_was_cut_and_is_done_before_the_run_is(tmp_path, monkeypatch):
    kill_one(tmp_path)
    seen: list[str] = []

    class Watched(Noted):
        def begin(self) -> None:
            seen.append("cut" if b"unsaved" not in (tmp_path / "run" / "record.jsonl").read_bytes() else "uncut")

        def end(self, how: Ending) -> None:
            seen.append(f"{how}, {'finished' if is_finished(tmp_path / 'run') else 'not closed'}")

    monkeypatch.setattr(exports, "OUTLETS", {"mlflow": lambda *_: Watched()})
    add(tmp_path / "run" / "record.jsonl", '{"event": "unsaved"}\n')
    conduct(pair(), four(tmp_path), tmp_path / "run")
    assert seen == ["cut", "finished, not closed"] and is_finished(tmp_path / "run")


def test_how_it_ended_is_told(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        conduct(pair(changes={("b", "train", 3): interrupted}), four(tmp_path), tmp_path / "run")
    place = only_run(tmp_path / "mlruns")
    assert read(place / "meta.yaml")["status"] == 5 and values(place, "artifacts") == {}
    refused = {("a", "train", 2): lambda reply: Failure(site="a", round=2, task="train", kind="crashed", reason="it rains")}
    with pytest.raises(CannotContinue, match="it rains"):
        conduct(pair(changes=refused), four(tmp_path, faults={"on_failure": "stop"}), tmp_path / "failed")
    assert sorted(read(path)["status"] for path in (tmp_path / "mlruns").glob("*/*/meta.yaml")) == [4, 5]


def test_a_run_that_is_called_otherwise_now_stays_where_it_was(tmp_path):
    kill_one(tmp_path)
    place, events = only_run(tmp_path / "mlruns"), list((tmp_path / "events").iterdir())
    conduct(pair(), four(tmp_path, name="other"), tmp_path / "run")
    assert only_run(tmp_path / "mlruns") == place and list((tmp_path / "events").iterdir()) == events
    assert events[0].name.startswith("fake-")


# Several at once ------------------------------------------------------------------------------------------------------


def test_runs_of_one_name_that_begin_together_are_runs_of_one_experiment(tmp_path):
    for process in [begin(tmp_path, f"run-{number}") for number in range(3)]:
        assert process.wait(250) == 0
    (experiment,) = (tmp_path / "mlruns").glob("*/meta.yaml")
    names = [values(path.parent, "tags")["mlflow.runName"] for path in experiment.parent.glob("*/meta.yaml")]
    assert sorted(names) == ["run-0", "run-1", "run-2"]
    for path in experiment.parent.glob("*/meta.yaml"):
        assert stored(path.parent) == recorded(tmp_path / values(path.parent, "tags")["mlflow.runName"])
    assert len(list((tmp_path / "events").iterdir())) == 3


def test_who_finds_the_store_locked_waits_and_does_it_later(tmp_path, monkeypatch, caplog):
    from server import export_mlflow

    monkeypatch.setattr(export_mlflow, "LOCK_S", 0.01)
    (tmp_path / "mlruns").mkdir()
    rows_of(tmp_path, [1]).close()
    store = export_mlflow.Store(tmp_path / "mlruns", four(tmp_path), tmp_path, "id")
    reader = reader_of(store, tmp_path)
    with FileLock(tmp_path / "mlruns" / export_mlflow.LOCK):
        reader.look()
    assert "lock" in warned(caplog)[0] and not list((tmp_path / "mlruns").glob("*/meta.yaml"))
    reader.look("failed")
    assert stored(only_run(tmp_path / "mlruns")) == {"round/draws": [(1, 1.0)]}


# What goes wrong ------------------------------------------------------------------------------------------------------


class Noted:
    """An outlet that keeps what it is given."""

    def __init__(self) -> None:
        self.points: list[Point] = []
        self.ended: list[Ending] = []

    def begin(self) -> None:
        self.points = []

    def add(self, points: Sequence[Point]) -> None:
        self.points += points

    def end(self, how: Ending) -> None:
        self.ended.append(how)


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_a_missing_package_is_a_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "tensorboard.summary", None)
    monkeypatch.delitem(sys.modules, "server.export_tensorboard", raising=False)
    conduct(pair(), four(tmp_path), tmp_path / "run")
    (warning,) = warned(caplog)
    assert warning.startswith("export.tensorboard: ModuleNotFoundError: ") and warning.endswith("; the run goes on without it")
    assert is_finished(tmp_path / "run") and stored(only_run(tmp_path / "mlruns")) == recorded(tmp_path / "run")


def test_a_full_disk_is_a_warning(tmp_path, monkeypatch, caplog):
    from server import export_tensorboard

    real = export_tensorboard.Records

    def full(file: BinaryIO) -> Any:
        file.close()
        return real(os.fdopen(os.open("/dev/full", os.O_WRONLY), "wb"))

    monkeypatch.setattr(export_tensorboard, "Records", full)
    conduct(pair(), four(tmp_path), tmp_path / "run")
    assert warned(caplog) == ["export.tensorboard: OSError: [Errno 28] No space left on device; the run goes on without it"]
    assert is_finished(tmp_path / "run")


def test_a_folder_that_is_none_is_a_warning(tmp_path, caplog):
    for name in ("events", "mlruns"):
        (tmp_path / name).write_text("a file")
    conduct(pair(), four(tmp_path), tmp_path / "run")
    assert {line.partition(":")[0] for line in warned(caplog)} == {"export.tensorboard", "export.mlflow"}
    assert is_finished(tmp_path / "run")


def test_what_hangs_is_left_behind(tmp_path, monkeypatch, caplog):
    let_go = threading.Event()

    class Hanging(Noted):
        def add(self, points: Sequence[Point]) -> None:
            let_go.wait(60)

    monkeypatch.setattr(exports, "OUTLETS", {"mlflow": lambda *_: Hanging()})
    monkeypatch.setattr(exports, "GRACE_S", {"finished": 0.05})
    conduct(pair(), four(tmp_path), tmp_path / "run")
    let_go.set()
    assert warned(caplog) == ["export: not done after 0 s; the run does not wait for it any longer"]
    assert is_finished(tmp_path / "run")


def rows_of(folder: Path, rounds: Sequence[int]) -> Record:
    record = Record(folder)
    for number in rounds:
        record.append("round", round=number, draws=number)
    return record


def reader_of(outlet: Outlet, folder: Path) -> Reader:
    return Reader("mlflow", lambda: outlet, folder / "record.jsonl")


def test_one_that_failed_begins_anew_and_says_so_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(exports, "RETRY_S", 0.0)

    class Shaky(Noted):
        calls = 0

        def add(self, points: Sequence[Point]) -> None:
            super().add(points)
            self.calls += 1
            if self.calls in (2, 3):
                raise OSError("the share is away")

    outlet = Shaky()
    reader, record = reader_of(outlet, tmp_path), rows_of(tmp_path, [1])
    reader.look()
    for number in (2, 3):
        record.append("round", round=number, draws=number)
        reader.look()
    reader.look("finished")
    record.close()
    assert [point.value for point in outlet.points] == [1, 2, 3] and outlet.ended == ["finished"]
    assert warned(caplog) == ["export.mlflow: OSError: the share is away; the run goes on without it"]


def test_one_that_failed_is_left_alone_for_a_while_but_tried_at_the_end(tmp_path, caplog):
    class Once(Noted):
        calls = 0

        def begin(self) -> None:
            super().begin()
            self.calls += 1
            if self.calls == 1:
                raise OSError("not yet")

    outlet = Once()
    reader = reader_of(outlet, tmp_path)
    rows_of(tmp_path, [1, 2]).close()
    for _ in range(3):
        reader.look()
    assert outlet.calls == 1 and outlet.points == []
    reader.look("finished")
    assert outlet.calls == 2 and [point.value for point in outlet.points] == [1, 2]
    assert len(warned(caplog)) == 1


def test_half_a_line_waits_and_a_line_that_was_taken_back_is_forgotten(tmp_path):
    outlet = Noted()
    reader, record = reader_of(outlet, tmp_path), rows_of(tmp_path, [1, 2])
    reader.look()
    whole = record.length
    with (tmp_path / "record.jsonl").open("a") as file:
        file.write('{"event": "round", "round": 3, ')
    reader.look()
    assert [point.value for point in outlet.points] == [1, 2]
    with (tmp_path / "record.jsonl").open("a") as file:
        file.write('"draws": 3}\n')
    reader.look()
    assert [point.value for point in outlet.points] == [1, 2, 3]
    record.cut(whole)
    reader.look()
    record.close()
    assert [point.value for point in outlet.points] == [1, 2]


# Nothing beside -------------------------------------------------------------------------------------------------------

ALONE = """
import sys, threading
from pathlib import Path
def refuse(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        tried.append((event, args[1:]))
        raise OSError("no network here")
tried = []
sys.addaudithook(refuse)
from server.conduct import conduct
from tests.fakes import Fake, FakeSites
from configs.load import build_run
where, on = Path(sys.argv[1]), sys.argv[2] == "on"
export = {"tensorboard": str(where / "events"), "mlflow": str(where / "mlruns")} if on else {}
run = build_run({"sites": {"a": {"root": "none"}}, "arrivals": {"rounds": 2}, "export": export})
alive = []
class Watched(FakeSites):
    def ask(self, *args):
        alive.extend(thread.name for thread in threading.enumerate())
        return super().ask(*args)
conduct(Watched({"a": Fake()}), run, where / "run")
mine = sorted(name for name in sys.modules if name.startswith("server.export_") or name.partition(".")[0] in
              ("tensorboard", "mlflow", "torch", "tensorflow", "requests"))
print(tried, "exports" in alive, [name for name in mine if "." not in name or name.startswith("server")])
"""


@pytest.mark.parametrize(
    ("on", "said"),
    [
        ("off", "[] False ['server.export_points']"),
        ("on", "[] True ['server.export_mlflow', 'server.export_points', 'server.export_tensorboard', 'tensorboard']"),
    ],
)
def test_off_nothing_is_imported_and_on_nobody_is_called(tmp_path, on, said):
    command = [sys.executable, "-c", ALONE, str(tmp_path), on]
    done = subprocess.run(command, cwd=HOME, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == said
    assert (tmp_path / "mlruns").exists() == (on == "on")


def test_without_outlets_there_is_no_thread(tmp_path):
    before = threading.active_count()
    with Exports([]) as none:
        assert threading.active_count() == before
        none.close("finished")
