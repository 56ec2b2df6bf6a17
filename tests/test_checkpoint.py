"""What the server leaves on its disk between rounds: checkpoints, the record, the spool."""

import errno
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import durable
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


RECORD = b'{"event": "x"}\n' * 8
"""What had been recorded when the checkpoints below were saved."""


@pytest.fixture
def folder(tmp_path):
    """A run's folder in which the record has been begun."""
    (tmp_path / "record.jsonl").write_bytes(RECORD)
    return tmp_path


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
        record=len(RECORD),
    )


def rounds(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


# Checkpoints ----------------------------------------------------------------------------------------------------------


def test_a_federation_comes_back_whole(folder):
    before = federation()
    checkpoint.save(folder, before, keep=2)
    after = checkpoint.load(folder)
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


def test_checkpoints_that_are_all_torn_are_an_error_that_names_the_newest(folder):
    for number in (1, 2):
        checkpoint.save(folder, federation(number), keep=2)
        (folder / "checkpoints" / f"00000{number}" / "state.json").unlink()
    with pytest.raises(ValueError, match=r"no checkpoint in .* can be read \(checkpoints/000002: state.json is missing\)"):
        checkpoint.load(folder)


def test_a_checkpoint_of_an_older_version_is_refused_in_one_line(folder):
    checkpoint.save(folder, federation(1), keep=2)
    (folder / "checkpoints" / "000001" / "SHA256SUMS").unlink()
    with pytest.raises(ValueError, match=r"\(checkpoints/000001: SHA256SUMS is missing: .* older version wrote it\)"):
        checkpoint.load(folder)


def test_a_checkpoint_that_lacks_a_fact_is_refused_in_one_line(folder, monkeypatch):
    facts = Federation.facts
    monkeypatch.setattr(Federation, "facts", lambda self: {k: v for k, v in facts(self).items() if k != "held"})
    checkpoint.save(folder, federation(1), keep=2)
    with pytest.raises(ValueError, match=r"\(checkpoints/000001: it lacks 'held'\)"):
        checkpoint.load(folder)


def test_only_the_newest_are_kept_and_a_dead_process_leaves_no_drafts(folder):
    for number in range(9, 13):
        (folder / "checkpoints" / ".draft-dead").mkdir(parents=True, exist_ok=True)
        checkpoint.save(folder, federation(number), keep=2)
    assert rounds(folder) == ["000011", "000012"]
    checkpoint.save(folder, federation(12), keep=2)  # the same round again
    assert rounds(folder) == ["000011", "000012"]
    checkpoint.save(folder, federation(13), keep=1)
    assert rounds(folder) == ["000013"]


def test_a_checkpoint_is_on_disk_before_it_is_there_by_name_and_the_record_before_it(folder, monkeypatch):
    log = disk.watch(monkeypatch)
    checkpoint.save(folder, federation(3), keep=2)
    disk.assert_durable(folder / "checkpoints" / "000003", log)
    disk.assert_synced_before(folder / "record.jsonl", folder / "checkpoints" / "000003", log)
    assert ("sync", folder.stat().st_ino) in log  # the name "checkpoints" itself


@pytest.mark.parametrize("broken", ["server.checkpoint.write_tensors", "os.fsync", "os.replace"])
def test_a_full_disk_leaves_the_checkpoints_as_they_were(folder, monkeypatch, broken):
    checkpoint.save(folder, federation(1), keep=2)

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(broken, full)
        with pytest.raises(OSError, match="No space"):
            checkpoint.save(folder, federation(2), keep=1)
    assert rounds(folder) == ["000001"]
    found, damaged = checkpoint.newest(folder)
    assert found is not None and (found.round, damaged) == (1, {})
    checkpoint.save(folder, federation(2), keep=1)
    assert rounds(folder) == ["000002"]


@pytest.mark.parametrize("damage", disk.DAMAGES)
def test_whatever_file_of_the_newest_is_damaged_it_is_named_and_the_one_before_is_used(folder, damage):
    checkpoint.save(folder, federation(1), keep=2)
    checkpoint.save(folder, federation(2), keep=2)
    files = sorted(path.name for path in (folder / "checkpoints" / "000002").iterdir())
    assert files == ["SHA256SUMS", "state.json", "state.safetensors"]
    for file in files:
        checkpoint.save(folder, federation(2), keep=2)
        disk.DAMAGES[damage](folder / "checkpoints" / "000002" / file)
        found, damaged = checkpoint.newest(folder)
        assert found is not None and found.round == 1
        assert list(damaged) == [2] and damaged[2].startswith(f"checkpoints/000002: {file} ")


def torn_and_whole(tmp_path: Path, tear: Callable[[Path], object]) -> tuple[Path, Path, FakeSites]:
    """A run that was interrupted in round 5, then damaged, then resumed; the same run undisturbed; who was asked again."""

    def sites(**changes):
        return FakeSites({"a": Fake(0.1, 1), "b": Fake(0.7, 3)}, changes.get("changes", {}))

    run, whole, torn = fake_run(arrivals={"rounds": 5}), tmp_path / "whole", tmp_path / "torn"
    for place in (whole, torn):
        place.mkdir()
    conduct(sites(), run, whole)
    with pytest.raises(KeyboardInterrupt):
        conduct(sites(changes={("b", "train", 5): interrupted}), run, torn)
    tear(torn)
    again = sites()
    conduct(again, run, torn)
    return torn, whole, again


def flip_tensors(folder: Path) -> None:
    disk.flip(folder / "checkpoints" / "000004" / "state.safetensors")


def lose_a_row(folder: Path) -> None:
    disk.truncate(folder / "record.jsonl")


def alter_the_last_round(folder: Path) -> None:
    text = (folder / "record.jsonl").read_text()
    (folder / "record.jsonl").write_text(text.replace('"event": "round", "round": 4', '"event": "round", "round": 7'))


TEARS = {
    flip_tensors: "checkpoints/000004: state.safetensors does not match its checksum",
    lose_a_row: r"checkpoints/000004: record.jsonl has (\d+) bytes, and had (\d+) when this was saved",
    alter_the_last_round: r"checkpoints/000004: record.jsonl is not what it was when this was saved: "
    r"its first \d+ bytes have changed",
}


@pytest.mark.parametrize("tear", TEARS)
def test_a_run_goes_on_from_before_the_damage_says_so_and_ends_the_same(tmp_path, tear, caplog):
    torn, whole, again = torn_and_whole(tmp_path, tear)
    assert [order.round for order in again.asked if order.task == "train"] == [4, 4, 5, 5]
    assert (torn / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    (fault,) = [row for row in timeless(torn) if row.get("event") == "fault"]
    assert re.fullmatch(TEARS[tear], fault.pop("reason"))
    assert fault == {"event": "fault", "site": "", "round": 4, "task": "resume", "kind": "damaged"}
    assert "checkpoints/000004: " in caplog.text
    assert [row for row in timeless(torn) if row.get("event") != "fault"] == timeless(whole)


@pytest.mark.parametrize("damage", ["gone", "its first bytes"])
def test_a_record_that_fits_no_checkpoint_costs_no_round(tmp_path, damage):
    """The states are whole: days of training are not thrown away for a row that people read."""
    run, sites = fake_run(arrivals={"rounds": 3}), FakeSites({"a": Fake(), "b": Fake()})
    conduct(sites, run, tmp_path)
    before, path = (tmp_path / "model.safetensors").read_bytes(), tmp_path / "record.jsonl"
    path.write_bytes(b"" if damage == "gone" else b"X" + path.read_bytes()[1:])
    sites.asked.clear()
    conduct(sites, run, tmp_path)
    assert {order.task for order in sites.asked} == {"evaluate"}
    assert (tmp_path / "model.safetensors").read_bytes() == before
    reasons = [json.loads(line)["reason"] for line in lines(tmp_path) if '"fault"' in line]
    assert len(reasons) == 2 and all("record.jsonl" in reason and "when this was saved" in reason for reason in reasons)


def test_rounds_without_a_checkpoint_are_not_wiped_out(tmp_path):
    run, sites = fake_run(arrivals={"rounds": 3}), FakeSites({"a": Fake(), "b": Fake()})
    conduct(sites, run, tmp_path)
    record = (tmp_path / "record.jsonl").read_bytes()
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(ValueError, match=r"checkpoints has no checkpoint, and record.jsonl has rounds; put it back, or begin"):
        conduct(sites, run, tmp_path)
    assert (tmp_path / "record.jsonl").read_bytes() == record


def test_a_disk_that_fails_for_a_moment_says_nothing_of_the_files():
    assert not durable.is_damage(OSError(errno.EIO, "Input/output error")) and not durable.is_damage(MemoryError())
    assert durable.is_damage(FileNotFoundError()) and durable.is_damage(ValueError())


def test_a_kill_between_the_rows_of_a_round_and_its_checkpoint_doubles_no_row(tmp_path, monkeypatch):
    run, whole, killed = fake_run(arrivals={"rounds": 3}), tmp_path / "whole", tmp_path / "killed"
    for place in (whole, killed):
        place.mkdir()
    conduct(FakeSites({"a": Fake(), "b": Fake()}), run, whole)
    save = checkpoint.save

    def kill(folder: Path, federation: Federation, keep: int) -> None:
        if federation.round == 2:
            raise KeyboardInterrupt
        save(folder, federation, keep)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", kill)
        with pytest.raises(KeyboardInterrupt):
            conduct(FakeSites({"a": Fake(), "b": Fake()}), run, killed)
    assert json.loads(lines(killed)[-1])["round"] == 2
    with (killed / "record.jsonl").open("a") as file:
        file.write('{"event": "tra')
    conduct(FakeSites({"a": Fake(), "b": Fake()}), run, killed)
    assert timeless(killed) == timeless(whole)


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


def test_a_disk_that_runs_full_in_the_middle_of_a_line_leaves_none_of_it(tmp_path):
    record = Record(tmp_path)
    record.append("a")
    file = record._file

    class Full:
        """Takes five bytes, then nothing more."""

        tell, truncate, seek = file.tell, file.truncate, file.seek
        room = 5

        def write(self, line: memoryview) -> int:
            if not self.room:
                raise OSError(28, "No space left on device")
            written = file.write(line[: self.room])
            self.room -= written
            return written

    record._file = Full()  # type: ignore[assignment]
    with pytest.raises(OSError, match="No space"):
        record.append("b")
    record._file = file
    assert lines(tmp_path) == ['{"event": "a"}']
    record.append("c")
    record.close()
    assert lines(tmp_path) == ['{"event": "a"}', '{"event": "c"}']


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
