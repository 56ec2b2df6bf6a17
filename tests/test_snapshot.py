"""What a site remembers between rounds is whole or absent, whatever stops it."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from clients import snapshot
from clients.snapshot import Snapshot, before, commit
from clients.train import Trainer
from memory.sample import Sample
from tests import disk
from tests.site_orders import content, initial, order, remembered, rounds_kept, through


def kept(cursor, served=1):
    groups = {group: {"w|step": np.float32([cursor])} for group in snapshot.TENSORS}
    return Snapshot(cursor, served, (Sample(case="a", arrived=0),), **groups)


def test_a_snapshot_comes_back_as_it_was(tmp_path):
    commit(tmp_path, "r", 3, kept(5), keep=2)
    found = before(tmp_path, "r", 4)
    assert (found.cursor, found.served, found.samples[0].case) == (5, 1, "a")
    np.testing.assert_array_equal(found.moments["w|step"], [5])
    assert before(tmp_path, "r", 3) == before(tmp_path, "other", 9) == Snapshot()


def test_a_snapshot_is_on_disk_before_it_is_there_by_name(tmp_path, monkeypatch):
    log = disk.watch(monkeypatch)
    commit(tmp_path, "r", 3, kept(5), keep=2)
    disk.assert_durable(tmp_path / "r" / "000003", log)
    assert ("sync", tmp_path.stat().st_ino) in log  # the name of the run's folder


def test_optimizer_scalars_keep_their_shape(tmp_path):
    commit(tmp_path, "r", 1, replace(kept(1), moments={"w|step": np.array(7, np.float32)}), keep=2)
    assert before(tmp_path, "r", 2).moments["w|step"].shape == ()


def test_a_state_that_is_no_longer_kept_is_not_taken_for_the_beginning(tmp_path):
    for round in (1, 2, 3, 4):
        commit(tmp_path, "r", round, kept(2 * round, served=round), keep=1)
    assert before(tmp_path, "r", 4).cursor == 6
    with pytest.raises(ValueError, match="the state before round 2 is no longer kept"):
        before(tmp_path, "r", 2)


def test_the_first_round_can_be_asked_again_while_it_is_the_first_that_is_kept(tmp_path):
    commit(tmp_path, "r", 7, kept(2, served=1), keep=1)
    commit(tmp_path, "r", 8, kept(4, served=2), keep=1)
    assert before(tmp_path, "r", 7) == before(tmp_path, "r", 2) == Snapshot()


def test_a_crash_while_later_rounds_are_undone_leaves_whole_snapshots(tmp_path, monkeypatch):
    for round in (1, 2, 3):
        commit(tmp_path, "r", round, kept(2 * round, served=round), keep=5)

    def half(path, **how):
        (next(iter(path.iterdir()))).unlink()
        raise OSError("a crash in the middle of deleting")

    monkeypatch.setattr(shutil, "rmtree", half)
    with pytest.raises(OSError, match="a crash"):
        commit(tmp_path, "r", 2, kept(99, served=2), keep=5)
    assert before(tmp_path, "r", 2).cursor == 2
    assert before(tmp_path, "r", 3).cursor == before(tmp_path, "r", 4).cursor == 99


def test_drafts_of_killed_processes_are_swept_and_never_read(tmp_path):
    (tmp_path / "r" / ".draft-killed").mkdir(parents=True)
    assert before(tmp_path, "r", 9) == Snapshot()
    commit(tmp_path, "r", 1, kept(2), keep=2)
    assert [path.name for path in (tmp_path / "r").iterdir()] == ["000001"]


# Damage -----


def test_a_snapshot_writes_no_file_for_tensors_that_are_not_there(tmp_path):
    commit(tmp_path, "r", 1, Snapshot(cursor=3, home={"head.bias": np.ones(2, np.float32)}), keep=2)
    names = {path.name for path in (tmp_path / "r" / "000001").iterdir()}
    assert names == {"home.safetensors", "memory.safetensors", "state.json", "SHA256SUMS"}
    found = before(tmp_path, "r", 2)
    assert (found.cursor, found.moments, found.objective, found.residue) == (3, {}, {}, {})
    assert found.home["head.bias"].tolist() == [1.0, 1.0]


FILES = ("SHA256SUMS", "memory.safetensors", "state.json", *(f"{name}.safetensors" for name in snapshot.TENSORS.values()))


def test_the_files_of_a_snapshot_are_those_that_are_damaged_below(tmp_path):
    commit(tmp_path, "r", 1, kept(2), keep=2)
    assert {path.name for path in (tmp_path / "r" / "000001").iterdir()} == set(FILES)


@pytest.mark.parametrize("damage", disk.DAMAGES)
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_snapshot_is_named_and_passed_over_for_the_newest_whole_one(tmp_path, caplog, file, damage):
    for round in (1, 2, 4):
        commit(tmp_path, "r", round, kept(2 * round, served=round), keep=2)
    disk.DAMAGES[damage](tmp_path / "r" / "000004" / file)
    found = before(tmp_path, "r", 5)
    assert (found.cursor, found.restored) == (4, 2)
    assert f"the snapshot {tmp_path / 'r' / '000004'} cannot be read ({file} " in caplog.text
    assert "the state after round 2 is used" in caplog.text
    assert before(tmp_path, "r", 4).restored is None  # the damage is not in what that round begins from


def test_where_no_snapshot_is_whole_a_site_does_not_begin_anew(tmp_path):
    for round in (1, 2):
        commit(tmp_path, "r", round, kept(2 * round, served=round), keep=2)
        disk.flip(tmp_path / "r" / f"{round:06d}" / "memory.safetensors")
    words = r"000002 cannot be read \(memory.safetensors does not match its checksum\), and no older one is whole"
    with pytest.raises(ValueError, match=words):
        before(tmp_path, "r", 3)


def test_a_snapshot_of_an_older_version_is_named(tmp_path):
    commit(tmp_path, "r", 1, kept(2), keep=2)
    (tmp_path / "r" / "000001" / "SHA256SUMS").unlink()
    with pytest.raises(ValueError, match=r"000001 cannot be read \(SHA256SUMS is missing: .*an older version wrote it\)"):
        before(tmp_path, "r", 2)


def test_too_many_open_files_are_no_damage(tmp_path, monkeypatch):
    for round in (1, 2):
        commit(tmp_path, "r", round, kept(2 * round), keep=2)

    def exhausted(folder):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("durable.check", exhausted)
    with pytest.raises(OSError, match="Too many open files"):
        before(tmp_path, "r", 3)


def test_a_site_says_from_where_it_began_and_how_long_it_took_to_be_safe(site):
    first, second = through(site, [1, 2])
    assert "restored" not in second.rows[0] and 0 < second.rows[0]["saving"] < second.rows[0]["seconds"]
    disk.truncate(site.folder / "state" / "run1" / "000002" / "state.json")
    again = site.answer(order(round=3), first.weights)
    assert again.rows[0]["restored"] == 1
    # what round 3 does after the state of round 1: two more cases, as round 2 did
    assert again.rows[0]["stream_left"] == second.rows[0]["stream_left"]


# Other cases than before -----


def other_cases(site, **parts):
    """The site as another process would find it, its data changed between."""
    site.cases = replace(site.cases, **parts)


def test_a_site_whose_cases_have_changed_is_refused_until_they_are_put_back(make_site):
    site, twin = make_site("site"), make_site("twin")
    first = through(site, [1])[0]
    expected = through(twin, [1, 2])[1]
    cases = site.cases
    assert before(site.folder / "state", "run1", 2).cases == cases.fingerprint
    for changed in (
        {"train": (*cases.train, cases.test[0])},
        {"train": cases.train[::-1]},
        {"train": cases.train[:5], "test": (*cases.test, cases.train[5])},
    ):
        other_cases(site, **changed)
        count = len(site.cases.train)
        words = rf"site 'tiny': its cases are not those with .* \(then 6 train, .* now {count} train, .*\); put them back, or"
        with pytest.raises(ValueError, match=words):
            site.answer(order(round=2), first.weights)
        assert rounds_kept(site) == ["000001"]
        site.cases = cases
    assert content(site.answer(order(round=2), first.weights)) == content(expected)


def test_another_run_may_begin_with_other_cases(site):
    through(site, [1])
    other_cases(site, train=site.cases.train[:5])
    assert site.answer(order(run="run2"), initial(site)).rows[0]["stream_left"] == 3


# Crashes -----


@pytest.mark.parametrize("fatal", [RuntimeError("a crash"), KeyboardInterrupt()])
def test_a_crash_in_the_middle_of_a_round_leaves_the_one_before(make_site, monkeypatch, fatal):
    site, twin = make_site("site"), make_site("twin")
    first = through(site, [1])[0]
    expected = through(twin, [1, 2])[1]
    left, steps, step = remembered(site, 1), iter(range(100)), Trainer.step

    def crash(*args):
        if next(steps) == 1:
            raise fatal
        return step(*args)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", crash)
        with pytest.raises(type(fatal)):
            site.answer(order(round=2), first.weights)
    assert remembered(site, 1) == left and rounds_kept(site) == ["000001"]
    assert content(site.answer(order(round=2), first.weights)) == content(expected)


@pytest.mark.parametrize("part", ["clients.snapshot.store.save", "clients.snapshot.save_file", "durable.seal", "os.replace"])
def test_a_full_disk_while_the_snapshot_is_written_leaves_the_one_before(site, monkeypatch, part):
    first = through(site, [1])[0]
    left = remembered(site, 1)

    def crash(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(part, crash)
        with pytest.raises(OSError, match="No space"):
            site.answer(order(round=2), first.weights)
    assert remembered(site, 1) == left and rounds_kept(site) == ["000001"]
    assert before(site.folder / "state", "run1", 3).cursor == 2
    site.answer(order(round=2), first.weights)
    assert rounds_kept(site) == ["000001", "000002"]
