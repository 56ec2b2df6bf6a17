"""What the server leaves on its disk between rounds: checkpoints, the record, the spool."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from server import checkpoint
from server.conduct import conduct
from server.federation import Federation, Known
from server.metrics import ResultMatrix
from server.record import Record
from server.spool import Spool
from server.tensors import read_tensors, write_tensors
from strategies.base import State
from tests import disk
from tests.fakes import Fake, FakeSites, fake_run
from tests.test_loop import interrupted, timeless
from wire import Reply

WEIGHTS = {"w|odd": np.array([0.1, -0.0, 3e38], np.float32), "half": np.ones((2, 2), np.float16), "scalar": np.array(2.5)}


def federation(round: int = 3) -> Federation:
    matrix = ResultMatrix().with_row("start", {"a": 0.1, "b": math.nan}).with_row("a+b", {"a": 1 / 3, "b": 0.25, "c": 1.0})
    return Federation(
        run="r",
        round=round,
        state=State(WEIGHTS, {"velocity": {"w|odd": np.ones(3)}}, 7),
        roles={"w|odd": "body"},
        classes=("liver", "ü"),
        known={"a": Known(5, 2, ("liver",)), "b": Known(0, 0, ())},
        arrived=("b", "a"),
        present=frozenset({"a"}),
        left=frozenset({"b"}),
        stage="a+b",
        results=matrix,
        held={"a": 4},
        seconds={"training": 1.5},
        record=123,
    )


def rounds(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


# Checkpoints ----------------------------------------------------------------------------------------------------------


def test_a_federation_comes_back_whole(tmp_path):
    before = federation()
    checkpoint.save(tmp_path, before, keep=2)
    after = checkpoint.load(tmp_path)
    assert after is not None
    for name, tensor in WEIGHTS.items():
        assert after.state.weights[name].tobytes() == tensor.tobytes()
        assert (after.state.weights[name].dtype, after.state.weights[name].shape) == (tensor.dtype, tensor.shape)
    assert after.state.slots["velocity"]["w|odd"].tolist() == [1, 1, 1]
    assert after.state.step == 7
    assert after.results.to_csv() == before.results.to_csv()
    assert np.array_equal(after.results.values, before.results.values, equal_nan=True)
    assert (after.results.arrival, after.results.sites) == (before.results.arrival, before.results.sites)
    simple = {name for name in vars(before) if name not in ("state", "results")}
    assert {name: getattr(after, name) for name in simple} == {name: getattr(before, name) for name in simple}


def test_an_empty_folder_holds_none(tmp_path):
    assert checkpoint.load(tmp_path) is None


def test_checkpoints_that_are_all_torn_are_an_error_not_a_new_run(tmp_path):
    (tmp_path / "checkpoints" / "000001").mkdir(parents=True)
    with pytest.raises(ValueError, match="no checkpoint .* can be read"):
        checkpoint.load(tmp_path)


def test_only_the_newest_are_kept_and_a_dead_process_leaves_no_drafts(tmp_path):
    for number in range(9, 13):
        (tmp_path / "checkpoints" / ".draft-dead").mkdir(parents=True, exist_ok=True)
        checkpoint.save(tmp_path, federation(number), keep=2)
    assert rounds(tmp_path) == ["000011", "000012"]
    checkpoint.save(tmp_path, federation(12), keep=2)  # the same round again
    assert rounds(tmp_path) == ["000011", "000012"]
    checkpoint.save(tmp_path, federation(13), keep=1)
    assert rounds(tmp_path) == ["000013"]


def test_a_checkpoint_is_on_disk_before_it_is_there_by_name(tmp_path, monkeypatch):
    log = disk.watch(monkeypatch)
    checkpoint.save(tmp_path, federation(3), keep=2)
    disk.assert_durable(tmp_path / "checkpoints" / "000003", log)


TEARS = {
    "no tensors": lambda place: (place / "state.safetensors").unlink(),
    "half the tensors": lambda place: (place / "state.safetensors").write_bytes(
        (place / "state.safetensors").read_bytes()[:-5]
    ),
    "empty tensors": lambda place: (place / "state.safetensors").write_bytes(b""),
    "no facts": lambda place: (place / "state.json").unlink(),
    "half the facts": lambda place: (place / "state.json").write_text((place / "state.json").read_text()[:40]),
    "facts of something else": lambda place: (place / "state.json").write_text("{}"),
    "binary facts": lambda place: (place / "state.json").write_bytes(b"\xff\xfe\x00"),
}


@pytest.mark.parametrize("tear", TEARS)
def test_if_the_newest_is_torn_the_one_before_it_is_used(tmp_path, tear):
    for number in (1, 2):
        checkpoint.save(tmp_path, federation(number), keep=2)
    TEARS[tear](tmp_path / "checkpoints" / "000002")
    found = checkpoint.load(tmp_path)
    assert found is not None
    assert found.round == 1


def test_a_run_goes_on_from_before_a_torn_checkpoint_and_ends_the_same(tmp_path):
    def sites(**changes):
        return FakeSites({"a": Fake(0.1, 1), "b": Fake(0.7, 3)}, changes.get("changes", {}))

    run = fake_run(arrivals={"rounds": 5})
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    for folder in (whole, torn):
        folder.mkdir()
    conduct(sites(), run, whole)
    with pytest.raises(KeyboardInterrupt):
        conduct(sites(changes={("b", "train", 5): interrupted}), run, torn)
    TEARS["half the tensors"](torn / "checkpoints" / "000004")
    again = sites()
    conduct(again, run, torn)
    assert [order.round for order in again.asked if order.task == "train"] == [4, 4, 5, 5]
    assert (torn / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert timeless(torn) == timeless(whole)


# The record -----------------------------------------------------------------------------------------------------------


def lines(folder: Path) -> list[str]:
    return (folder / "record.jsonl").read_text().splitlines()


def test_a_line_is_one_json_object_and_missing_numbers_are_null(tmp_path):
    record = Record(tmp_path)
    record.append("x", value=math.nan, deep={"a": [1.0, math.inf], "b": (-math.inf, "ü")}, n=None)
    record.close()
    assert json.loads(lines(tmp_path)[0]) == {
        "event": "x",
        "value": None,
        "deep": {"a": [1.0, None], "b": [None, "ü"]},
        "n": None,
    }


def test_a_line_is_on_disk_when_it_is_written(tmp_path):
    record = Record(tmp_path)
    record.append("a")
    assert lines(tmp_path) == ['{"event": "a"}']
    assert record.length == len('{"event": "a"}\n')
    record.close()


def test_what_came_after_the_checkpoint_is_cut_off(tmp_path):
    record = Record(tmp_path)
    record.append("a")
    length = record.length
    record.append("b")
    record.close()
    with (tmp_path / "record.jsonl").open("a") as file:
        file.write('{"event": "ha')  # a process that was killed
    again = Record(tmp_path)
    again.cut(length)
    again.append("c")
    again.close()
    assert lines(tmp_path) == ['{"event": "a"}', '{"event": "c"}']


def test_a_record_that_is_shorter_than_the_checkpoint_says_keeps_its_whole_lines(tmp_path):
    (tmp_path / "record.jsonl").write_text('{"event": "a"}\n{"eve')  # power lost before the disk had it all
    record = Record(tmp_path)
    record.cut(100)
    record.append("b")
    record.close()
    assert lines(tmp_path) == ['{"event": "a"}', '{"event": "b"}']


# The spool and tensors ------------------------------------------------------------------------------------------------


def reply(site: str, value: float, draws: int = 1) -> Reply:
    weights = {"w": np.full(3, value, np.float32)}
    extra = {"v": np.array([value])}
    return Reply(run="r", round=2, task="train", site=site, weights=weights, extra=extra, draws=draws, classes=("liver",))


def taken(spool: Spool, reply: Reply) -> Reply:
    """Into the spool as it came, without compression."""
    return spool.take(reply, reply.weights)


def test_what_is_merged_is_what_was_made_whole_and_what_is_counted_is_what_travelled(tmp_path):
    spool, short = Spool(tmp_path), reply("a", 1.0)
    spool.take(short, {"w": np.full(3, 2.0, np.float64)})
    (update,) = spool.updates({}, ())
    assert (update.weights["w"].tolist(), spool.bytes_up) == ([2, 2, 2], {"a": 3 * 4 + 8})


def test_updates_come_back_in_site_order_whatever_came_first(tmp_path):
    spool = Spool(tmp_path)
    light = [taken(spool, reply("b", 2.0)), taken(spool, reply("a", 1.0, 5))]
    assert [(r.site, r.weights, r.extra) for r in light] == [("b", {}, {}), ("a", {}, {})]
    assert spool.bytes_up == {"b": 20, "a": 20}
    first, second = updates = spool.updates({"a": 0.5}, ("liver", "spleen"))
    assert [update.site for update in updates] == ["a", "b"]  # a second pass reads them anew
    assert (first.site, first.weights["w"].tolist(), first.extra["v"].tolist(), first.draws) == ("a", [1, 1, 1], [1.0], 5)
    assert (second.site, second.classes, second.round) == ("b", frozenset({"liver"}), 2)
    assert (first.uniqueness, second.uniqueness) == (0.5, 1.0)
    assert first.rows == second.rows == ("liver", "spleen")
    spool.close()
    assert list(tmp_path.iterdir()) == []


def test_a_new_spool_holds_nothing_of_a_dead_one(tmp_path):
    taken(Spool(tmp_path), reply("old", 9.0))
    spool = Spool(tmp_path)
    taken(spool, reply("a", 1.0))
    assert [update.site for update in spool.updates({}, ())] == ["a"]


def test_updates_are_read_one_at_a_time(tmp_path):
    spool = Spool(tmp_path)
    for site in "ab":
        taken(spool, reply(site, 1.0))
    updates = iter(spool.updates({}, ()))
    next(updates)
    (tmp_path / "spool" / "b.weights.safetensors").unlink()
    with pytest.raises(FileNotFoundError):
        next(updates)


def test_a_transposed_tensor_is_written_as_it_reads(tmp_path):
    tensors = {"t": np.arange(6.0, dtype=np.float32).reshape(2, 3).T, "s": np.arange(9.0)[::2], "scalar": np.array(1.5)}
    write_tensors(tensors, tmp_path / "x", {"k": "v"})
    for name, tensor in read_tensors(tmp_path / "x").items():
        assert tensor.tolist() == tensors[name].tolist()
        assert tensor.shape == tensors[name].shape
