"""What may change within a run: a recipe that differs is refused by its keys, or allowed on purpose and said in the record."""

import json
from pathlib import Path
from typing import Any

import pytest

from configs.load import build_run, check_key
from configs.schema import Run
from server import checkpoint
from server.changes import Change, accepted, changes, recipe_of, what_changed
from server.conduct import conduct, is_finished
from server.federation import Federation
from tests.fakes import Fake, FakeSites, fake_run
from tests.test_loop import interrupted, model, rows

LR = {"train": {"lr": 0.01}}


def begun(run: Run, round: int = 2) -> Federation:
    return Federation(run="r", round=round, recipe=json.loads(json.dumps(recipe_of(run))))


def why_not(before: Run, now: Run, *allow: str) -> str:
    with pytest.raises(ValueError) as refusal:
        accepted(begun(before), now, allow)
    told = str(refusal.value)
    assert "\n" not in told
    return told


def pair(**changes: Any) -> FakeSites:
    return FakeSites({"a": Fake(1, 1), "b": Fake(4, 3)}, **changes)


def interrupted_here(*_: Any) -> None:
    raise KeyboardInterrupt


@pytest.fixture
def stopped(tmp_path) -> Path:
    """A run of four rounds, stopped in its third."""
    with pytest.raises(KeyboardInterrupt):
        conduct(pair(changes={("b", "train", 3): interrupted}), four(), tmp_path)
    return tmp_path


def four(**sections: Any) -> Run:
    sites = {"a": {"root": "none"}, "b": {"root": "none"}}
    return build_run({"name": "fake", "sites": sites, "arrivals": {"rounds": 4}, **LR, **sections})


# Which keys differ ----------------------------------------------------------------------------------------------------


def test_keys_are_dotted_and_what_only_one_side_has_is_none_on_the_other():
    one, other = {"a": {"b": 1, "c": [1, 2]}, "d": 0}, {"a": {"b": 2, "c": [1, 2]}, "e": {"f": 3}}
    assert list(changes(one, other)) == [Change("a.b", 1, 2), Change("d", 0, None), Change("e", None, {"f": 3})]


def test_the_same_recipe_has_not_changed_and_nothing_need_be_allowed():
    assert accepted(begun(four()), four(), []) == []
    assert accepted(begun(four()), four(), ["train.lr", "memory"]) == []


def test_every_key_that_differs_is_named_with_both_values_and_the_way_out():
    assert why_not(four(), four(train={"lr": 0.02, "batch": 3})) == (
        "train.batch: 2 when the run began, now 3; train.lr: 0.01 when the run began, now 0.02 "
        "(go on with it on purpose: --allow train.batch=3 --allow train.lr=0.02)"
    )


def test_a_long_value_is_shortened_and_allowed_by_its_key():
    visits = {"a": [[1, None]], "b": [[n, n] for n in range(2, 40, 2)]}
    told = why_not(fake_run(arrivals={"visits": {**visits, "b": [[1, 1]]}}), fake_run(arrivals={"visits": visits}))
    assert told == (
        "arrivals.visits.b: [[1, 1]] when the run began, now [[2, 2], [4, 4], [6, 6], [8, 8], [10,... "
        "(go on with it on purpose: --allow arrivals.visits.b)"
    )


ENGINE = {"name": "local", "actors": 7, "address": "auto", "deadline_s": 5, "retries": 3, "watch_s": 9}


@pytest.mark.parametrize("free", [{"engine": ENGINE}, {"keep": 9}, {"name": "other"}])
def test_another_engine_and_how_much_is_kept_change_no_result(free):
    assert accepted(begun(four()), four(**free), []) == []


@pytest.mark.parametrize(("key", "before", "now"), [("cpus", "1.0", "2.0"), ("gpus", "0.0", "0.5")])
def test_other_threads_or_a_gpu_add_up_in_another_order(key, before, now):
    one = four(engine={**ENGINE, key: float(before)})
    other = one.model_copy(
        update={"engine": one.engine.model_copy(update={key: float(now)})}
    )  # the sites' own are as they were
    told = f"engine.{key}: {before} when the run began, now {now} (go on with it on purpose: --allow engine.{key}={now})"
    assert why_not(one, other) == told
    assert [change.key for change in accepted(begun(one), other, ["engine"])] == [f"engine.{key}"]


def test_a_data_folder_below_the_cache_may_lie_in_another_cache(tmp_path, monkeypatch):
    def run(cache: str) -> Run:
        monkeypatch.setenv("SITESTREAM_CACHE", str(tmp_path / cache))
        return four(sites={"a": {"root": str(tmp_path / cache / "phantoms" / "0123")}, "b": {"root": "/data/b"}})

    before = begun(run("one"))
    assert accepted(before, run("two"), []) == []
    assert before.recipe["sites"]["b"]["root"] == "/data/b"


def test_a_key_that_is_newer_than_the_run_has_its_default_in_it():
    before = begun(four())
    del before.recipe["train"]["clip"], before.recipe["faults"]
    assert accepted(before, four(), []) == []


# What is allowed ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("allow", ["train.lr", "train"])
def test_an_allowed_key_or_its_section_may_differ(allow):
    assert accepted(begun(four()), four(train={"lr": 0.02}), [allow]) == [Change("train.lr", 0.01, 0.02)]


def test_another_policy_takes_its_arguments_along_and_nothing_else():
    now = four(memory={"policy": "linear", "args": {}, "budget": 5})
    before = four(memory={"policy": "selective", "args": {"k": 2}, "budget": 5})
    assert [key for key, *_ in accepted(begun(before), now, ["memory.policy"])] == ["memory.policy", "memory.args.k"]
    more = now.model_copy(update={"memory": now.memory.model_copy(update={"budget": 6})})
    assert why_not(before, more, "memory.policy").startswith("memory.budget: 5 when the run began, now 6 (go on")


FIXED = {
    "seed": {"seed": 1},
    "model.network": {"model": {"network": "SegResNet"}},
    "model.args.channels": {"model": {"args": {"channels": [4, 8]}}},
    "strategy.share": {"strategy": {"share": "backbone"}},
    "sketch.size": {"sketch": {"size": 32}},
    "data.split.test": {"data": {"split": {"test": 0.5}}},
    "evaluate.on": {"evaluate": {"on": "validation"}},
    "sites.a.annotates": {"sites": {"a": {"root": "none", "annotates": ["liver"]}, "b": {"root": "none"}}},
    "sites.b.shift": {"sites": {"a": {"root": "none"}, "b": {"root": "none", "shift": "gamma"}}},
    "sites.b": {"sites": {"a": {"root": "none"}}},
}


@pytest.mark.parametrize("key", FIXED)
def test_what_a_run_is_made_of_cannot_change_whatever_is_allowed(key):
    told = why_not(four(), four(**FIXED[key]), key, key.partition(".")[0])
    assert told.startswith(f"{key} cannot change within a run: ")
    assert told.endswith("; begin another run")


def test_a_site_may_come_to_a_run_and_its_data_may_move():
    moved = four(sites={"a": {"root": "elsewhere"}, "b": {"root": "none"}, "c": {"root": "none"}})
    assert [key for key, *_ in accepted(begun(four()), moved, ["sites"])] == ["sites.a.root", "sites.c"]


def test_the_order_of_the_sites_is_a_change_where_they_arrive_in_it():
    assert why_not(fake_run("ab"), fake_run("ba")).startswith('sites: ["a", "b"] when the run began, now ["b", "a"]')
    arrivals = {"arrivals": {"order": ["a", "b"]}}
    assert accepted(begun(fake_run("ab", **arrivals)), fake_run("ba", **arrivals), []) == []


def test_fewer_rounds_than_are_done_are_refused():
    assert why_not(four(), four(arrivals={"rounds": 1}), "arrivals") == "arrivals: 1 rounds in all, and this run has done 2"


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("train.bach", "train.bach: unknown key; did you mean 'batch'?"),
        ("trian", "trian: unknown key; did you mean 'train'?"),
        ("seed.x", "seed.x: unknown key; nothing is below it"),
        ("sites.a.rot", "sites.a.rot: unknown key; did you mean 'root'?"),
    ],
)
def test_an_unknown_key_gets_the_nearest_name(key, line):
    with pytest.raises(ValueError, match=line.replace("?", r"\?")):
        check_key(key)
    for valid in ("train.lr", "strategy.privacy.noise", "memory.args.k", "arrivals.visits.a", "sites.a.root", "model"):
        check_key(valid)


# A run that goes on ---------------------------------------------------------------------------------------------------


def test_a_changed_recipe_is_refused_and_nothing_is_written(stopped):
    before = {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"train.lr: 0.01 when the run began, now 0.02"):
        conduct(pair(), four(train={"lr": 0.02}), stopped)
    assert {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()} == before


def test_an_allowed_change_is_said_once_and_is_the_recipe_from_then_on(stopped):
    now = four(strategy={"weigh": "equal"})
    with pytest.raises(KeyboardInterrupt):
        conduct(pair(changes={("b", "train", 4): interrupted}), now, stopped, ["strategy"])
    with pytest.raises(ValueError, match="strategy.weigh: equal when the run began, now draws"):
        conduct(pair(), four(), stopped)
    conduct(pair(), now, stopped)
    assert rows(stopped, "changed") == [
        {"event": "changed", "key": "strategy.weigh", "before": "draws", "after": "equal", "round": 2}
    ]
    # rounds 1 and 2 by draws: 1, then (2 + 3 * 5) / 4 = 4.25; 3 and 4 alike: + 2.5 each
    assert model(stopped)[0]["body"] == [9.25, 9.25]


def test_an_allowed_change_is_durable_before_anything_is_done_by_it(stopped):
    with pytest.raises(KeyboardInterrupt):
        conduct(pair(changes={("a", "train", 3): interrupted}), four(train={"lr": 0.02}), stopped, ["train.lr"])
    found = checkpoint.load(stopped)
    assert found is not None
    assert (found.round, found.recipe["train"]["lr"]) == (2, 0.02)
    assert what_changed(stopped, four(train={"lr": 0.02}), []) == []


def test_what_people_asked_for_is_compared_not_what_was_made_of_it(tmp_path):
    asked, made = four(), four(sites={"a": {"root": "made/1"}, "b": {"root": "made/2"}})
    with pytest.raises(KeyboardInterrupt):
        conduct(pair(changes={("b", "train", 3): interrupted}), made, tmp_path, asked=asked)
    again = four(sites={"a": {"root": "made/3"}, "b": {"root": "made/4"}})
    conduct(pair(), again, tmp_path, asked=asked)
    assert rows(tmp_path, "changed") == []


def test_where_nothing_is_saved_yet_anything_may_be_different(tmp_path):
    assert what_changed(tmp_path, four(), []) == []


# The end --------------------------------------------------------------------------------------------------------------


def test_a_run_is_finished_when_its_results_are_there_and_its_record_is_closed(tmp_path):
    assert not is_finished(tmp_path)
    conduct(pair(), four(), tmp_path)
    assert is_finished(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert not is_finished(tmp_path)


def test_a_run_that_gets_more_rounds_is_not_finished_by_its_old_results(tmp_path, monkeypatch):
    conduct(pair(), four(), tmp_path)
    more = four(arrivals={"rounds": 6})
    with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
        broken.setattr("server.conduct.save_model", interrupted_here)
        conduct(pair(), more, tmp_path, ["arrivals.rounds"])
    assert len(rows(tmp_path, "end")) == 1  # its record is closed, and the model is still that of four rounds
    assert not is_finished(tmp_path)
    conduct(pair(), more, tmp_path)
    assert is_finished(tmp_path)
    assert len(rows(tmp_path, "end")) == 1
    assert [row["id"] for row in rows(tmp_path, "metric")].count("acc") == 1
    whole = tmp_path / "whole"
    whole.mkdir()
    conduct(pair(), more, whole)
    assert model(tmp_path) == model(whole)
