"""A site's answers: what each order gives, and that nothing but what wire.py says leaves the site."""

import json
import shutil
import stat
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest

from clients import work
from clients.snapshot import before
from packing import pack_order, pack_reply, pack_weights, unpack_order, unpack_reply
from simulations.watch import Watch
from tests import disk
from tests.site_orders import CLASSES, content, initial, order


def test_hello_tells_the_stream_the_tests_and_the_classes(site):
    reply = site.answer(order("hello", 0, classes=()), {})
    assert (reply.new_cases, reply.rows, reply.classes) == (6, ({"tests": 2},), CLASSES)
    assert (reply.run, reply.round, reply.task, reply.site) == ("run1", 0, "hello", "tiny")


def test_initial_weights_are_the_seeds_and_come_with_roles(make_site):
    one, other = make_site("a"), make_site("b")
    reply, again = one.answer(order("init", 0), {}), other.answer(order("init", 0), {})
    assert content(reply) == content(again)
    assert reply.roles.keys() == reply.weights.keys()
    assert content(make_site("c", seed=1).answer(order("init", 0), {})) != content(reply)


def test_a_round_takes_the_next_cases_and_trains_on_them(site):
    weights = initial(site)
    reply = site.answer(order(), weights)
    (row,) = reply.rows
    assert (reply.new_cases, row["new_cases"], row["stream_left"]) == (2, 2, 4)
    assert (row["steps"], row["dropped"], reply.draws) == (2, 0, 4)  # two cases: S = 2 steps of batch 2
    assert (row["memory"], row["budget"], row["memory_arrived"]) == (2, 3, [0, 1])
    assert row["memory_classes"] == {"liver": 2, "spleen": 2}
    assert row["loss_weight"] == 4 and row["loss_sum"] > 0
    assert any((reply.weights[name] != weights[name]).any() for name in weights)
    samples = before(site.folder / "state", "run1", 2).samples
    assert [sample.visits for sample in samples] == [2, 2]
    assert all(abs(np.linalg.norm(sample.feature) - 1) < 1e-5 and sample.loss > 0 for sample in samples)


def test_an_odd_case_at_the_end_gets_its_share_of_steps(make_site):
    site = make_site(stream={"cases_per_round": 3}, train={"patch": [16, 16, 16], "batch": 2, "sampling_rate": 3})
    reply = site.answer(order(), initial(site))
    assert reply.rows[0]["steps"] == 3 + 2  # S for the first two, ceil(S / 2) for the third


def test_the_input_weights_are_not_written_to(site):
    weights = initial(site)
    held = {name: tensor.copy() for name, tensor in weights.items()}
    site.answer(order(), weights)
    assert all((weights[name] == held[name]).all() for name in held)


# Label spaces ---------------------------------------------------------------------------------------------------------


def test_rows_that_others_annotate_come_back_untouched(make_site):
    site = make_site(site={"annotates": ["spleen"]})
    wide = ("liver", "spleen", "kidney")
    weights = site.answer(order("init", 0, classes=wide), {}).weights
    reply = site.answer(order(classes=wide), weights)
    for name in ("head.weight", "head.bias"):
        assert (reply.weights[name][[0, 2]] == weights[name][[0, 2]]).all()
        assert (reply.weights[name][1] != weights[name][1]).all()
    assert reply.rows[0]["memory_classes"] == {"spleen": 2}


def test_a_class_that_only_the_site_knows_yet_is_evaluated_with_its_seeded_row(make_site):
    """The reply's extra row, which the server would refuse in training, never leaves an evaluation."""
    site, narrow = make_site(), make_site("narrow", site={"annotates": ["liver"]})
    weights = narrow.answer(order("init", 0, classes=("liver",)), {}).weights
    assert len(weights["head.bias"]) == 1
    reply = site.answer(order("evaluate", 0, classes=("liver",)), weights)
    whole = site.answer(order("evaluate", 0), initial(site))
    assert {row["class"] for row in reply.rows} == {"liver", "spleen"}
    assert content(reply) == content(whole)


# Evaluation -----------------------------------------------------------------------------------------------------------


def test_evaluation_has_a_row_per_test_case_and_class_and_leaves_no_state(site):
    weights = initial(site)
    reply = site.answer(order("evaluate", 0), weights)
    assert len(reply.rows) == 4 and len({row["case"] for row in reply.rows}) == 2
    assert all(row.keys() == {"case", "class", "voxels", "dice", "dice.all", "iou"} for row in reply.rows)
    assert content(site.answer(order("evaluate", 0), weights)) == content(reply)
    assert not (site.folder / "state").exists() and not (site.folder / "slices").exists()
    assert not reply.weights


def test_the_last_evaluation_measures_surfaces_and_keeps_slices(site):
    reply = site.answer(order("evaluate", 3, last=True), initial(site))
    assert all({"hd95", "nsd"} <= row.keys() for row in reply.rows)
    (path,) = (site.folder / "slices").glob("*.npz")
    assert path.stem in {row["case"] for row in reply.rows}
    with np.load(path, allow_pickle=False) as kept:
        volume = next(v for v in (site.volume(case.name) for case in site.cases.test) if site.keyed(v.case) == path.stem)
        assert kept["classes"].tolist() == list(CLASSES)
        np.testing.assert_array_equal(kept["image_XYZ"], volume.image_XYZ)
        np.testing.assert_array_equal(kept["label_XYZ"] & 1, volume.label_XYZ == 1)
        np.testing.assert_array_equal(kept["label_XYZ"] >> 1, volume.label_XYZ == 2)
        assert kept["prediction_XYZ"].dtype == np.uint8 and kept["prediction_XYZ"].max() < 4
        told = [row["dice"] for row in reply.rows if row["case"] == path.stem]
        np.testing.assert_array_equal(kept["dice"], told)
        assert (str(kept["case"]), kept["spacing"].tolist()) == (path.stem, list(volume.spacing))


def test_validation_cases_count_where_the_recipe_says_so(make_site):
    site = make_site(site={"split": {"test": 0.25, "validation": 0.5}}, evaluate={"on": "validation", "surface": False})
    assert site.answer(order("hello", 0), {}).rows == ({"tests": 3},)
    reply = site.answer(order("evaluate", 0, last=True), initial(site))
    assert {row["case"] for row in reply.rows} == {site.keyed(case.name) for case in site.cases.validation}
    assert "hd95" not in reply.rows[0]


# What leaves the site -------------------------------------------------------------------------------------------------


def test_no_case_name_and_no_path_is_in_any_reply(site, phantom_root):
    weights = initial(site)
    facts = []
    for task in ("hello", "init", "train", "evaluate", "leave"):
        reply = unpack_reply(pack_reply(site.answer(order(task, last=True), weights)))
        facts.append(json.dumps([reply.rows, reply.ids, reply.roles, reply.classes, reply.extra]))
        facts.append(str(pack_reply(reply).config_records))
    for case in (*site.cases.train, *site.cases.test):
        assert all(case.name not in text and case.image.name not in text for text in facts)
    assert not any(word in text for text in facts for word in ("/", ".nii", phantom_root.name, "tiny_0"))


def test_ids_are_keyed_with_the_sites_own_secret(make_site):
    one, two = make_site("one"), make_site("two")
    assert one.keyed("tiny_001") != two.keyed("tiny_001")
    assert one.keyed("tiny_001") != one.keyed("tiny_002")
    assert make_site("one").keyed("tiny_001") == one.keyed("tiny_001")
    secret = one.folder / "secret"
    assert len(secret.read_bytes()) == 32
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert sorted(path.name for path in one.folder.iterdir()) == ["secret"]


def test_a_secret_is_on_disk_before_it_is_there_by_name(site, monkeypatch):
    log = disk.watch(monkeypatch)
    assert len(site.keyed.secret) == 32
    disk.assert_durable(site.folder / "secret", log)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_secret_of_another_length_is_one_line_and_is_left_alone(site, length):
    (site.folder / "secret").write_bytes(b"x" * length)
    with pytest.raises(ValueError, match=f"secret has {length} bytes, a secret has 32; put it back, or delete it"):
        site.keyed("tiny_001")
    assert (site.folder / "secret").read_bytes() == b"x" * length


def test_an_order_survives_the_wire(site):
    weights = initial(site)
    sent, shared = unpack_order(pack_order(order(), pack_weights(weights)))
    assert content(site.answer(sent, shared)) == content(site.answer(order(), weights))


@pytest.mark.parametrize("run", ["../escape", "/tmp/escape", "a/b", "", "..", ".hidden", "x" * 200])
def test_the_server_does_not_choose_where_a_site_writes(site, run):
    with pytest.raises(ValueError, match="is no run id"):
        site.answer(order(run=run), initial(site))
    assert not (site.folder / "state").exists() and not (site.folder / "escape").exists()


# When things go wrong -------------------------------------------------------------------------------------------------


def test_training_that_diverges_ends_the_round_and_the_next_order_is_done(site, monkeypatch):
    weights = initial(site)
    bad = {name: tensor * np.float32("nan") for name, tensor in weights.items()}
    site.run = site.run.model_copy(update={"train": site.run.train.model_copy(update={"sampling_rate": 12})})
    with pytest.raises(ArithmeticError, match="not finite"):
        site.answer(order(), bad)
    assert site.answer(order(), weights).draws == 24


@contextmanager
def busy(site):
    """Another process at work in the site's folder, until its input ends."""
    program = "import sys, filelock\nwith filelock.FileLock(sys.argv[1]):\n    print('held', flush=True)\n    sys.stdin.read()"
    command = [sys.executable, "-c", program, str(site.folder / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        yield other
        other.stdin.close()
        other.wait(10)


def test_a_folder_in_which_another_process_works_is_left_alone(site, monkeypatch):
    monkeypatch.setattr(work, "LOCK_WAIT_S", 0.2)
    with busy(site), pytest.raises(ValueError, match="site 'tiny': another process is at work in "):
        site.answer(order("hello", 0), {})
    assert site.answer(order("hello", 0), {}).new_cases == 6


def test_a_site_waits_for_a_process_that_ends_and_says_so(site, monkeypatch, tmp_path):
    monkeypatch.setattr(work, "LOCK_SILENT_S", 0.1)
    said, show = [], type(site.progress).show

    def let_go(progress, task, **facts):
        """What is said; at the first word the other process ends."""
        show(progress, task, **facts)
        said.append(json.loads((site.folder / "progress.json").read_text()))
        other.stdin.close()

    monkeypatch.setattr(type(site.progress), "show", let_go)
    with busy(site) as other:
        assert site.answer(order("hello", 4), {}).new_cases == 6
    assert said == [{"site": "tiny", "task": task, "round": 4} for task in ("waiting", "idle")]


def test_the_screen_shows_a_site_that_waits_until_it_has_failed(tmp_path):
    (folder := tmp_path / "sites" / "a").mkdir(parents=True)
    watch = Watch(tmp_path, ["a"], 3)
    events = [{"event": "arrive", "round": 1, "site": "a"}, {"event": "failure", "round": 1, "site": "a", "task": "train"}]
    (folder / "progress.json").write_text('{"site": "a", "task": "waiting", "round": 1}')
    states = []
    for known in (1, 2):
        (tmp_path / "record.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events[:known]))
        states += [row.state for row in watch.update()]
    assert states == ["waiting", "failed"]


def test_a_case_that_cannot_be_read_is_named(make_site, phantom_root, tmp_path):
    root = shutil.copytree(phantom_root, tmp_path / "data")
    site = make_site(site={"root": str(root)})
    path = site.cases.train[0].image
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=f"case '{site.cases.train[0].name}'"):
        site.answer(order(), initial(site))


# What the screen reads ------------------------------------------------------------------------------------------------


def test_progress_is_told_in_a_file(site, monkeypatch):
    seen = []
    monkeypatch.setattr("clients.progress.INTERVAL_S", 0.0)
    show = type(site.progress).show

    def look(progress, task, **facts):
        show(progress, task, **facts)
        seen.append(json.loads((site.folder / "progress.json").read_text()))

    monkeypatch.setattr(type(site.progress), "show", look)
    site.answer(order(), initial(site))
    site.answer(order("evaluate"), initial(site))
    assert [told["task"] for told in seen] == [*["prepare"] * 8, "train", "train", "idle", "evaluate", "evaluate", "idle"]
    assert seen[7] == {"site": "tiny", "task": "prepare", "done": 8, "of": 8}
    training = seen[9]
    assert training.keys() == {
        *("site", "task", "round", "step", "steps", "loss", "memory", "budget", "memory_classes", "memory_domains")
    }
    assert (training["step"], training["steps"], training["memory"], training["budget"]) == (2, 2, 2, 3)
    assert (seen[11]["done"], seen[11]["of"]) == (0, 2)
    assert None not in training.values()


def test_a_disk_that_takes_no_progress_stops_no_round(site, monkeypatch):
    def full(self, text):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(type(site.folder), "write_text", full)
        site.progress.show("train", force=True, step=1)
    assert not (site.folder / "progress.json").exists()
    site.progress.show("train", force=True, step=2)
    assert json.loads((site.folder / "progress.json").read_text()) == {"site": "tiny", "task": "train", "step": 2}


def test_few_volumes_are_open_at_a_time(make_site, monkeypatch):
    """Each holds two open files: a site of a thousand cases must not open them all."""
    monkeypatch.setattr(work, "OPEN_VOLUMES", 2)
    site = make_site("careful")
    site.answer(order(), initial(site))
    site.answer(order("evaluate"), initial(site))
    assert site.volume.cache_info().currsize == 2
