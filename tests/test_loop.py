"""The server's rounds over sites of a few numbers: what comes out can be worked out by hand."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from configs.schema import Run
from server import checkpoint
from server.conduct import METADATA, conduct
from server.loop import CannotContinue
from tests import disk
from tests.fakes import Change, Fake, FakeSites, fake_run
from wire import Failure, Reply


def rows(folder: Path, event: str, *keys: str) -> list[Any]:
    """The record's lines of one event: whole, or the values of some keys."""
    found = [row for row in map(json.loads, (folder / "record.jsonl").read_text().splitlines()) if row["event"] == event]
    return [tuple(row[key] for key in keys) for row in found] if keys else found


def model(folder: Path) -> tuple[dict[str, list[float]], list[str]]:
    """Weights as lists, and the classes by row."""
    path = folder / "model.safetensors"
    with safe_open(path, "np") as file:
        facts = json.loads(file.metadata()[METADATA])
    return {name: tensor.tolist() for name, tensor in load_file(path).items()}, facts["classes"]


def table(folder: Path) -> list[str]:
    return (folder / "R.csv").read_text().splitlines()


def timeless(folder: Path) -> list[Any]:
    """The record and the summary without what a clock or a new process changes."""

    def strip(tree: Any) -> Any:
        if isinstance(tree, dict):
            return {key: strip(value) for key, value in tree.items() if not key.startswith(("seconds", "saving", "peak"))}
        return [strip(item) for item in tree] if isinstance(tree, list) else tree

    lines = (folder / "record.jsonl").read_text().splitlines()
    return [strip(json.loads(text)) for text in (*lines, (folder / "summary.json").read_text())]


def failing(kind: str = "crashed") -> Change:
    return lambda reply: Failure(site=reply.site, round=reply.round, task=reply.task, kind=kind, reason="it rains")  # type: ignore[arg-type]


def interrupted(reply: Reply) -> Reply:
    raise KeyboardInterrupt


# What comes out -------------------------------------------------------------------------------------------------------


def test_the_weights_are_those_worked_out_by_hand(tmp_path):
    sites = FakeSites({"a": Fake(1, draws=1), "b": Fake(4, draws=3)})
    conduct(sites, fake_run(), tmp_path)
    # round 1: a alone, 0 + 1 = 1; round 2: a 2 with 1 draw, b 5 with 3 draws, (2 + 3 * 5) / 4 = 4.25
    assert model(tmp_path) == ({"body": [4.25, 4.25], "head": [14.25]}, ["liver"])
    assert table(tmp_path) == ["stage,a,b", "start,0.000000,0.000000", "a,0.010000,0.010000", "b,0.042500,0.042500"]
    assert rows(tmp_path, "round", "round", "stage", "present", "draws") == [(1, "a", ["a"], 1), (2, "b", ["a", "b"], 4)]


def test_equal_weights_and_three_rounds_by_hand(tmp_path):
    sites = FakeSites({"a": Fake(1, draws=1), "b": Fake(4, draws=3)})
    conduct(sites, fake_run(strategy={"weigh": "equal"}, arrivals={"rounds": 3}), tmp_path)
    assert model(tmp_path)[0]["body"] == [6.0, 6.0]  # 1; (2 + 5) / 2 = 3.5; (4.5 + 7.5) / 2 = 6


def test_sites_that_arrive_together_share_a_stage(tmp_path):
    run = fake_run("abc", arrivals={"visits": {"c": [[2, None]], "b": [[1, None]], "a": [[1, None]]}})
    conduct(FakeSites({"a": Fake(), "b": Fake(), "c": Fake()}), run, tmp_path)
    assert [line.split(",")[0] for line in table(tmp_path)] == ["stage", "start", "b+a", "c"]
    assert table(tmp_path)[0] == "stage,b,a,c"
    assert rows(tmp_path, "arrive", "round", "site", "stage") == [(1, "b", "b+a"), (1, "a", "b+a"), (2, "c", "c")]
    assert rows(tmp_path, "train", "round", "site", "stage")[:2] == [(1, "a", "b+a"), (1, "b", "b+a")]


def test_coming_and_going_is_recorded_once_each(tmp_path):
    visits = {"a": [[1, 1], [3, None]], "b": [[2, 3]], "c": [[5, 5]]}
    conduct(FakeSites({"a": Fake(), "b": Fake(), "c": Fake()}), fake_run("abc", arrivals={"visits": visits}), tmp_path)
    assert rows(tmp_path, "arrive", "round", "site") == [(1, "a"), (2, "b"), (5, "c")]
    assert rows(tmp_path, "pause", "round", "site") == [(2, "a")]
    assert rows(tmp_path, "return", "round", "site") == [(3, "a")]
    assert rows(tmp_path, "leave", "round", "site") == [(4, "b")]
    assert rows(tmp_path, "round", "present") == [(["a"],), (["b"],), (["a", "b"],), (["a"],), (["a", "c"],)]
    assert [line.split(",")[0] for line in table(tmp_path)] == ["stage", "start", "a", "b", "c"]


def test_a_round_without_anybody_changes_nothing(tmp_path):
    visits = {"a": [[1, 1], [4, 4]], "b": [[4, 4]]}
    conduct(FakeSites({"a": Fake(), "b": Fake()}), fake_run(arrivals={"visits": visits}), tmp_path)
    assert rows(tmp_path, "round", "present", "draws") == [(["a"], 1), ([], 0), ([], 0), (["a", "b"], 2)]
    assert model(tmp_path)[0]["body"] == [2.0, 2.0]


def test_a_new_class_grows_the_classes_and_the_head(tmp_path):
    sites = FakeSites({"a": Fake(1, classes=("liver", "spleen")), "b": Fake(3, classes=("kidney", "liver"))})
    conduct(sites, fake_run(), tmp_path)
    weights, classes = model(tmp_path)
    assert classes == ["liver", "spleen", "kidney"]
    # liver 10 + 1, then (12 + 14) / 2; spleen 20 + 1, then (22 + 21) / 2; kidney (30 + 33) / 2
    assert weights["head"] == [13.0, 21.5, 31.5]
    assert next(order.classes for order in sites.asked if order.task == "train") == ("liver", "spleen")
    assert next(order.classes for order in sites.asked if order.task == "evaluate") == ("liver", "spleen")


def test_a_class_that_nobody_has_trained_has_no_row_in_the_model(tmp_path):
    sites = FakeSites({"a": Fake(classes=("liver",)), "b": Fake(classes=("kidney",), cases=0)})
    run = fake_run(arrivals={"visits": {"a": [[1, 1]], "b": [[2, 2]]}})
    conduct(sites, run, tmp_path)
    assert model(tmp_path) == ({"body": [1.0, 1.0], "head": [11.0]}, ["liver"])


def test_a_site_without_draws_does_not_count_and_all_without_change_nothing(tmp_path):
    sites = FakeSites({"a": Fake(1, draws=0), "b": Fake(4, draws=2)})
    conduct(sites, fake_run(), tmp_path)
    assert model(tmp_path)[0]["body"] == [4.0, 4.0]


def test_a_site_without_tests_has_an_empty_column(tmp_path):
    conduct(FakeSites({"a": Fake(), "b": Fake(tests=0)}), fake_run(), tmp_path)
    assert table(tmp_path) == ["stage,a,b", "start,0.000000,", "a,0.010000,", "b,0.020000,"]
    assert rows(tmp_path, "result", "stage", "site") == [("start", "a"), ("a", "a"), ("b", "a")]


def test_extra_clients_name_no_stage_and_no_column_and_are_not_evaluated(tmp_path):
    visits = {"x": [[1, None]], "a": [[1, None]], "b": [[3, None]], "y": [[2, None]]}
    run = fake_run("xaby", arrivals={"visits": visits, "extra": ["x", "y"]})
    sites = FakeSites({"x": Fake(2), "y": Fake(2), "a": Fake(cases=0), "b": Fake(cases=0)})
    conduct(sites, run, tmp_path)
    assert table(tmp_path) == ["stage,a,b", "start,0.000000,0.000000", "a,0.040000,0.040000", "b,0.060000,0.060000"]
    assert rows(tmp_path, "arrive", "site", "stage") == [("x", "a"), ("a", "a"), ("y", "a"), ("b", "b")]
    assert {order.site for order in sites.asked if order.task == "evaluate"} == {"a", "b"}
    assert rows(tmp_path, "site", "site", "extra") == [("x", True), ("a", False), ("y", True), ("b", False)]
    assert rows(tmp_path, "metric")[0]["cells"] == 2


def test_whoever_connects_later_is_greeted_then_and_gets_a_column(tmp_path):
    sites = FakeSites({"a": Fake(until=3), "b": Fake(2, since=2)})
    run = fake_run(arrivals={"door": "open", "rounds": 4})
    conduct(sites, run, tmp_path)
    assert rows(tmp_path, "arrive", "round", "site") == [(1, "a"), (3, "b")]
    assert rows(tmp_path, "pause", "round", "site") == [(4, "a")]
    assert rows(tmp_path, "leave") == []
    assert table(tmp_path) == ["stage,a,b", "start,0.000000,", "a,0.020000,0.020000", "b,,0.055000"]
    assert model(tmp_path)[0]["body"] == [5.5, 5.5]  # 1, 2, (3 + 4) / 2, 5.5


def test_a_stranger_to_the_script_is_evaluated_but_never_trains(tmp_path):
    conduct(FakeSites({"a": Fake(), "b": Fake(), "z": Fake(100)}), fake_run(), tmp_path)
    assert table(tmp_path)[0] == "stage,a,b,z"
    assert model(tmp_path)[0]["body"] == [2.0, 2.0]


def test_the_last_evaluation_alone_asks_for_surfaces(tmp_path):
    sites = FakeSites({"a": Fake(), "b": Fake()})
    metrics = conduct(sites, fake_run(), tmp_path)
    assert [order.last for order in sites.asked if order.task == "evaluate"] == [False] * 4 + [True] * 2
    assert ["hd95" in row for row in rows(tmp_path, "case")] == [False] * 4 + [True] * 2
    assert (metrics["hd95"].value, metrics["acc"].value) == (1.0, pytest.approx(0.02))
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["acc"], summary["seed"], summary["bwt.lifelong"]) == (pytest.approx(0.02), 0, pytest.approx(1.0))
    assert rows(tmp_path, "end")[0].keys() >= {
        "seconds",
        "seconds_training",
        "seconds_evaluating",
        "seconds_merging",
        "seconds_saving",
    }


def test_what_a_departed_site_held_is_not_held_any_more(tmp_path):
    run = fake_run(arrivals={"visits": {"a": [[1, 1]], "b": [[2, 2]]}}, memory={"budget": 2})
    metrics = conduct(FakeSites({"a": Fake(), "b": Fake(59)}), run, tmp_path)
    # body 1 + 59 = 60, so IoU .6 / 2; b's 2 samples of the 8 cases streamed
    assert metrics["normdel"].value == pytest.approx(1 / (1 + math.exp(-0.3 * math.exp(-2 / 8))), abs=1e-6)


def test_results_are_whole_or_absent(tmp_path, monkeypatch):
    log = disk.watch(monkeypatch)
    conduct(FakeSites({"a": Fake(), "b": Fake()}), fake_run(), tmp_path)
    for name in ("R.csv", "summary.json", "model.safetensors"):
        disk.assert_durable(tmp_path / name, log)
    assert not list(tmp_path.glob(".*"))


def test_what_an_order_says_and_what_it_costs(tmp_path):
    sites = FakeSites({"a": Fake(), "b": Fake()})
    conduct(sites, fake_run(memory={"budget": 5}), tmp_path)
    last = [order for order in sites.asked if order.task == "train"][-1]
    assert (last.round, last.quota, last.classes) == (2, 5, ("liver",))
    assert len({order.run for order in sites.asked}) == 1
    assert rows(tmp_path, "train", "bytes_down", "bytes_up") == [(12, 12)] * 3  # two numbers and a row, float32
    assert rows(tmp_path, "round", "bytes_down", "bytes_up") == [(12, 12), (24, 24)]
    assert rows(tmp_path, "train", "loss_sum") == [(None,)] * 3


def test_the_order_in_which_sites_finish_does_not_matter(tmp_path):
    def both(reverse: bool) -> list[float]:
        folder = tmp_path / str(reverse)
        folder.mkdir()
        steps = {"a": 1e12, "b": -1e12, "c": 1e-5}  # summed as a, b, c this is 1e-5; as c, b, a it is 0
        sites = FakeSites({name: Fake(step) for name, step in steps.items()})
        if reverse:
            ask = sites.ask
            sites.ask = lambda shared, orders: iter(list(ask(shared, orders))[::-1])  # type: ignore[method-assign]
        conduct(sites, fake_run("abc", arrivals={"visits": {name: [[1, 1]] for name in "abc"}}), folder)
        return model(folder)[0]["body"]

    assert both(False) == both(True) == [pytest.approx(1e-5 / 3)] * 2


# Failures -------------------------------------------------------------------------------------------------------------


def test_a_failure_is_recorded_and_the_round_goes_on(tmp_path):
    sites = FakeSites({"a": Fake(1), "b": Fake(4)}, {("a", "train", 2): failing("late"), ("b", "evaluate", 1): failing()})
    conduct(sites, fake_run(), tmp_path)
    assert model(tmp_path)[0]["body"] == [5.0, 5.0]
    assert rows(tmp_path, "failure", "round", "site", "task", "kind", "reason") == [
        (1, "b", "evaluate", "crashed", "it rains"),
        (2, "a", "train", "late", "it rains"),
    ]
    assert table(tmp_path)[2:] == ["a,0.010000,", "b,0.050000,0.050000"]


def test_weights_travel_from_site_to_site_and_past_one_that_fails(tmp_path):
    cyclic = {"strategy": {"merge": "cyclic"}}
    for folder in ("both", "one"):
        (tmp_path / folder).mkdir()
    conduct(FakeSites({"a": Fake(1), "b": Fake(4)}), fake_run(**cyclic), tmp_path / "both")
    assert model(tmp_path / "both")[0]["body"] == [6.0, 6.0]  # a: 1; then a: 2, b: 2 + 4
    failed = FakeSites({"a": Fake(1), "b": Fake(4)}, {("b", "train", 2): failing()})
    conduct(failed, fake_run(**cyclic), tmp_path / "one")
    assert model(tmp_path / "one")[0]["body"] == [2.0, 2.0]
    assert rows(tmp_path / "one", "failure", "round", "site") == [(2, "b")]


def test_an_anchored_run_ends_each_stage_in_the_mean_of_the_stages(tmp_path):
    conduct(FakeSites({"a": Fake(2), "b": Fake(2)}), fake_run(strategy={"merge": "anchored"}), tmp_path)
    assert table(tmp_path)[2:] == ["a,0.020000,0.020000", "b,0.030000,0.030000"]  # a: 2; b: 2 + 2 = 4, and (2 + 4) / 2 = 3
    assert model(tmp_path)[0]["body"] == [3.0, 3.0]


def test_a_round_in_which_all_fail_is_lost_and_a_second_in_a_row_ends_the_run_which_can_be_taken_up(tmp_path):
    long = {"arrivals": {"order": ["a", "b"], "rounds": 6}}
    sites = FakeSites({"a": Fake(), "b": Fake()}, {(site, "train", round): failing() for site in "ab" for round in (2, 4, 5)})
    with pytest.raises(CannotContinue, match=r"no site answered in round 5, as in the round before \(a: it rains\)"):
        conduct(sites, fake_run(**long), tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
    conduct(FakeSites({"a": Fake(), "b": Fake()}), fake_run(**long), tmp_path)
    assert model(tmp_path)[0]["body"] == [4.0, 4.0]  # rounds 1, 3, 5, 6
    assert rows(tmp_path, "failure", "round", "site") == [(2, "a"), (2, "b"), (4, "a"), (4, "b")]  # round 5 was done again


@pytest.mark.parametrize(("task", "round"), [("train", 2), ("evaluate", 1), ("evaluate", 2), ("hello", 0)])
def test_a_run_that_is_to_stop_at_the_first_failure_stops_and_can_be_taken_up(tmp_path, task, round):
    strict = {"faults": {"on_failure": "stop"}}
    line = rf"b failed to {task} in round {round} \(crashed: it rains\); faults.on_failure is stop"
    with pytest.raises(CannotContinue, match=line):
        conduct(FakeSites({"a": Fake(), "b": Fake()}, {("b", task, round): failing()}), fake_run(**strict), tmp_path)
    conduct(FakeSites({"a": Fake(), "b": Fake()}), fake_run(**strict), tmp_path)
    assert model(tmp_path)[0]["body"] == [2.0, 2.0]
    assert rows(tmp_path, "failure") == []  # of work that was done again


@pytest.mark.parametrize(
    ("quorum", "body"),
    [
        (0.0, 4.0),
        (0.66, 4.0),
        (0.67, 3.0),
        (1.0, 3.0),
    ],  # two of three answer in round 2: .66 x 3 is less than that, .67 x 3 is more
)
def test_a_merge_with_fewer_sites_than_its_quorum_leaves_the_model_as_it_was(tmp_path, quorum, body):
    sites = FakeSites({name: Fake() for name in "abc"}, {("b", "train", 2): failing()})
    run = fake_run("abc", arrivals={"visits": {name: [[1, None]] for name in "abc"}, "rounds": 4}, faults={"quorum": quorum})
    conduct(sites, run, tmp_path)
    assert model(tmp_path)[0]["body"] == [body, body]
    lost = [("b", "crashed", "it rains")]
    if body == 3.0:
        reason = "faults.quorum wants 3 of 3 sites and 2 answered: the model stays as it was"
        lost += [("a", "refused", reason), ("c", "refused", reason)]
        assert [order.refused for order in sites.asked if order.round == 3 and order.site == "a"] == [reason]
    assert rows(tmp_path, "failure", "site", "kind", "reason") == lost


def test_what_went_wrong_on_the_way_is_told_and_costs_no_answer(tmp_path):
    """A retry under way, a damaged state passed over, memory that ran out: rows for people, beside the round's own."""

    class Retrying(FakeSites):
        def ask(self, shared, orders):
            for answer in super().ask(shared, orders):
                if (answer.site, answer.task, answer.round) == ("a", "train", 2):
                    yield Failure(site="a", round=2, task="train", kind="crashed", reason="its process died", again=True)
                yield answer

    def said(**facts: int) -> Change:
        return lambda reply: replace(reply, rows=({**reply.rows[0], **facts},))

    changes = {("b", "train", 2): said(restored=0), ("a", "train", 1): said(micro_batch=1)}
    conduct(Retrying({"a": Fake(), "b": Fake()}, changes), fake_run(), tmp_path)
    assert rows(tmp_path, "fault", "round", "site", "kind", "reason") == [
        (1, "a", "memory", "memory ran out; it takes fewer patches at a time (1), added up to the same batch"),
        (2, "a", "crashed", "its process died"),
        (2, "b", "damaged", "its newest state was damaged; it went on from the one after round 0"),
    ]
    assert rows(tmp_path, "failure") == []
    assert model(tmp_path)[0]["body"] == [2.0, 2.0]


@pytest.mark.parametrize(("round", "stage"), [(0, "start"), (1, "a"), (2, "b")])
def test_if_no_site_can_be_evaluated_the_run_cannot_go_on_and_can_be_taken_up(tmp_path, round, stage):
    sites = FakeSites({"a": Fake(), "b": Fake()}, {(site, "evaluate", round): failing() for site in "ab"})
    with pytest.raises(CannotContinue, match=rf"no site answered the evaluation of stage '{stage}' \(a: it rains\)"):
        conduct(sites, fake_run(), tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
    conduct(FakeSites({"a": Fake(), "b": Fake()}), fake_run(), tmp_path)
    assert table(tmp_path) == ["stage,a,b", "start,0.000000,0.000000", "a,0.010000,0.010000", "b,0.020000,0.020000"]
    assert rows(tmp_path, "failure") == []


def test_if_the_first_site_cannot_give_the_initial_weights_another_does(tmp_path):
    together = {"arrivals": {"visits": {"a": [[1, None]], "b": [[1, None]]}, "rounds": 1}}
    conduct(FakeSites({"a": Fake(), "b": Fake()}, {("a", "init", 0): failing()}), fake_run(**together), tmp_path)
    assert model(tmp_path)[0]["body"] == [1.0, 1.0]
    assert rows(tmp_path, "failure", "site", "task") == [("a", "init")]


def test_no_site_no_weights_no_run(tmp_path):
    with pytest.raises(CannotContinue, match="no initial weights: a: it rains"):
        conduct(FakeSites({"a": Fake(), "b": Fake()}, {("a", "init", 0): failing()}), fake_run(), tmp_path)
    with pytest.raises(CannotContinue, match="no site is there to begin with"):
        conduct(FakeSites({"a": Fake(since=9), "b": Fake(since=9)}), fake_run(), tmp_path)


def changed(**weights: Any) -> Change:
    return lambda reply: replace(reply, weights={n: t for n, t in (reply.weights | weights).items() if t is not None})


NAN = np.array([np.nan, 1], np.float32)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (changed(body=NAN), "body is not finite"),
        (changed(body=np.zeros(3, np.float32)), "body is float32 [3], the model's float32 [2]"),
        (changed(body=np.zeros(2)), "body is float64 [2], the model's float32 [2]"),
        (changed(head=np.zeros(5, np.float32)), "head is float32 [5], the model's float32 [1]"),
        (changed(body=None), "its tensors are not the model's: body is missing"),
        (changed(odd=NAN), "its tensors are not the model's: odd is unknown"),
        (lambda reply: replace(reply, weights={}), "its tensors are not the model's: body is missing"),
        (lambda reply: replace(reply, rows=()), "it has 0 rows of facts, not one"),
        (lambda reply: replace(reply, rows=({"steps": 1},)), "its rows do not say 'memory'"),
        (lambda reply: replace(reply, draws=-1), "its 'draws' is -1, not a whole number from 0"),
    ],
)
def test_an_unfit_update_becomes_a_failure_and_the_others_are_merged(tmp_path, change, reason):
    sites = FakeSites({"a": Fake(1), "b": Fake(4)}, {("a", "train", 2): change})
    conduct(sites, fake_run(), tmp_path)
    assert rows(tmp_path, "failure", "round", "site", "task", "kind", "reason") == [(2, "a", "train", "invalid", reason)]
    assert model(tmp_path)[0]["body"] == [5.0, 5.0]
    assert rows(tmp_path, "round")[-1]["draws"] == 1


@pytest.mark.parametrize("task", ["hello", "evaluate"])
def test_an_answer_without_its_facts_does_not_end_the_run(tmp_path, task):
    bare: Change = lambda reply: replace(reply, rows=({},))  # noqa: E731
    sites = FakeSites({"a": Fake(), "b": Fake()}, {("b", task, 0): bare})
    conduct(sites, fake_run(), tmp_path)
    assert rows(tmp_path, "failure", "site", "task", "kind") == [("b", task, "invalid")]
    assert rows(tmp_path, "arrive", "round", "site") == [(1, "a"), (2, "b")]


def told(**facts: Any) -> Change:
    """The same reply with these words in its rows."""
    return lambda reply: replace(reply, rows=tuple({**row, **facts} for row in reply.rows))


@pytest.mark.parametrize("word", ["event", "round", "site", "stage"])
@pytest.mark.parametrize("task", ["hello", "train", "evaluate"])
def test_a_site_cannot_write_the_servers_words(tmp_path, task, word):
    round = 2 if task == "train" else 0
    conduct(FakeSites({"a": Fake(), "b": Fake()}, {("b", task, round): told(**{word: "a"})}), fake_run(), tmp_path)
    reason = f"its rows say {word!r}, which is the server's to say"
    assert rows(tmp_path, "failure", "site", "task", "kind", "reason") == [("b", task, "invalid", reason)]


def test_a_site_cannot_count_for_the_server(tmp_path):
    """What the server writes itself no site can say, nor anything else that wire.py does not list."""
    lying = {("a", "train", 2): told(bytes_up=0), ("a", "train", 3): told(draws=99)}
    conduct(FakeSites({"a": Fake(), "b": Fake()}, lying), fake_run(arrivals={"rounds": 4}), tmp_path)
    assert rows(tmp_path, "failure", "round", "site", "reason") == [
        (2, "a", "its rows say 'bytes_up', which wire.py does not list"),
        (3, "a", "its rows say 'draws', which wire.py does not list"),
    ]
    assert [row[:2] for row in rows(tmp_path, "train", "round", "site")] == [(1, "a"), (2, "b"), (3, "b"), (4, "a"), (4, "b")]


@pytest.mark.parametrize(
    ("task", "change", "reason"),
    [
        ("hello", told(tests=-1), "its 'tests' is -1, not a whole number from 0 to 1000000"),
        ("hello", told(tests=True), "its 'tests' is True, not a whole number from 0 to 1000000"),
        (
            "hello",
            lambda reply: replace(reply, new_cases=None),
            "its 'new_cases' is None, not a whole number from 0 to 1000000",
        ),
        ("hello", lambda reply: replace(reply, classes=(["liver"],)), "its 'classes' is (['liver'],), not a list of names"),
        ("train", told(memory="many"), "its 'memory' is 'many', not a whole number from 0 to 1000000"),
        ("train", told(memory=2.5), "its 'memory' is 2.5, not a whole number from 0 to 1000000"),
        (
            "train",
            told(memory_classes={"liver": None}),
            "its 'memory_classes' is {'liver': None}, not whole numbers by name, 1024 at most",
        ),
        ("train", told(memory_arrived=["x"]), "its 'memory_arrived' is ['x'], not a list of whole numbers"),
        ("train", told(loss_weight="1"), "its 'loss_weight' is '1', not a number or null"),
        ("train", lambda reply: replace(reply, draws="x"), "its 'draws' is 'x', not a whole number from 0"),
        ("train", lambda reply: replace(reply, rows=("odd",)), "'odd' is no row of facts"),
        ("evaluate", told(dice="x"), "its 'dice' is 'x', not a number from 0 to 1, or null"),
        ("evaluate", told(iou=[]), "its 'iou' is [], not a number from 0 to 1, or null"),
        ("evaluate", told(**{"class": ["liver"]}), "its 'class' is ['liver'], not a name"),
        ("evaluate", told(case=None), "its 'case' is None, not a name"),
    ],
)
def test_an_odd_word_is_a_failure_of_its_site_and_the_run_goes_on(tmp_path, task, change, reason):
    round = 2 if task == "train" else 0
    conduct(FakeSites({"a": Fake(), "b": Fake()}, {("b", task, round): change}), fake_run(), tmp_path)
    assert rows(tmp_path, "failure", "site", "task", "kind", "reason") == [("b", task, "invalid", reason)]
    assert table(tmp_path)[-1].startswith("b,0.02")


def test_a_number_may_be_missing(tmp_path):
    sites = FakeSites({"a": Fake(), "b": Fake()}, {("b", "evaluate", 0): told(dice=None, iou=None)})
    conduct(sites, fake_run(), tmp_path)
    assert rows(tmp_path, "failure") == []
    assert table(tmp_path)[1] == "start,0.000000,"


# Initial weights from a file ------------------------------------------------------------------------------------------


@pytest.fixture
def given(tmp_path) -> Callable[..., Run]:
    def write(classes: list[str] | None = None, **weights: Any) -> Run:
        path = tmp_path / "given.safetensors"
        facts = {"body": np.array([5, 5], np.float32), "head": np.array([1, 2], np.float32)} | weights
        metadata = None if classes is None else {METADATA: json.dumps({"classes": classes})}
        save_file(facts, path, metadata)
        return fake_run(model={"weights": str(path)})

    return write


def test_weights_from_a_file_keep_their_rows_by_name(tmp_path, given):
    sites = FakeSites({"a": Fake(1, classes=("liver", "spleen")), "b": Fake(3, classes=("kidney", "lung"))})
    conduct(sites, given(["lung", "liver"]), tmp_path)
    weights, classes = model(tmp_path)
    assert classes == ["lung", "liver", "spleen", "kidney"]
    assert weights["body"] == [8.0, 8.0]  # 5, 6, (7 + 9) / 2
    assert weights["head"] == [2.5, 3.5, 21.5, 31.5]  # lung (1 + 4) / 2; liver 2, 3, (4 + 3) / 2; spleen 20, 21, (22 + 21) / 2
    assert table(tmp_path)[1] == "start,0.050000,0.050000"


def test_weights_of_another_network_are_the_users_mistake(tmp_path, given):
    with pytest.raises(ValueError, match=r"model.weights: they do not belong to model.network: body is float32 \[3\]"):
        conduct(FakeSites({"a": Fake(), "b": Fake()}), given(["liver", "lung"], body=np.zeros(3, np.float32)), tmp_path)
    with pytest.raises(ValueError, match=r"head is float32 \[2\], the model's float32 \[1\]"):
        conduct(FakeSites({"a": Fake(), "b": Fake()}), given(["liver"]), tmp_path)


def test_a_file_without_our_metadata_is_no_model_of_ours(tmp_path, given):
    with pytest.raises(ValueError, match=r"model.weights: .*given.safetensors is no model of ours"):
        conduct(FakeSites({"a": Fake(), "b": Fake()}), given(), tmp_path)
    with pytest.raises(ValueError, match=r"is no model of ours"):
        conduct(FakeSites({"a": Fake(), "b": Fake()}), fake_run(model={"weights": str(tmp_path / "gone")}), tmp_path)


# Resume ---------------------------------------------------------------------------------------------------------------

VISITS = {"a": [[1, 2], [4, None]], "b": [[3, None]], "c": [[3, 4]]}
STOPS = [("a", "hello", 0), ("a", "init", 0), ("b", "evaluate", 0), *((site, "train", r) for r, site in enumerate("aabca", 1))]


def trio(changes: dict[tuple[str, str, int], Change] | None = None) -> FakeSites:
    sites = {"a": Fake(0.1, 1), "b": Fake(0.7, 3, ("kidney", "liver")), "c": Fake(-0.3, 2, ("lung",), tests=2)}
    return FakeSites(sites, changes or {})


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    conduct(trio(), fake_run("abc", arrivals={"visits": VISITS, "rounds": 5}), folder)
    return folder


@pytest.mark.parametrize("keep", [1, 2])
@pytest.mark.parametrize(
    "stop", [*STOPS, ("c", "evaluate", 2), ("c", "evaluate", 5)], ids=lambda stop: "-".join(map(str, stop))
)
def test_a_run_taken_up_again_is_the_undisturbed_run(tmp_path, undisturbed, stop, keep):
    run = fake_run("abc", arrivals={"visits": VISITS, "rounds": 5}, keep=keep)
    with pytest.raises(KeyboardInterrupt):
        conduct(trio({stop: interrupted}), run, tmp_path)
    sites = trio()
    conduct(sites, run, tmp_path)
    assert min((order.round for order in sites.asked if order.task == "train"), default=6) >= min(stop[2], 5)
    for name in ("model.safetensors", "R.csv"):
        assert (tmp_path / name).read_bytes() == (undisturbed / name).read_bytes()
    assert timeless(tmp_path) == timeless(undisturbed)


def test_a_run_that_stops_in_every_round_is_the_undisturbed_run(tmp_path, undisturbed):
    run = fake_run("abc", arrivals={"visits": VISITS, "rounds": 5})
    runs = set()
    for stop in (*STOPS, ("c", "evaluate", 5)):
        sites = trio({stop: interrupted})
        with pytest.raises(KeyboardInterrupt):
            conduct(sites, run, tmp_path)
        runs.add(sites.asked[-1].run)
    conduct(trio(), run, tmp_path)
    assert timeless(tmp_path) == timeless(undisturbed)
    assert len(runs) <= 4  # before the first checkpoint there is nothing to go on with; from then on the run keeps its id


def test_a_finished_run_can_be_taken_up_and_stays_what_it_was(tmp_path):
    run = fake_run()
    conduct(FakeSites({"a": Fake(), "b": Fake()}), run, tmp_path)
    before, spent = timeless(tmp_path), checkpoint.load(tmp_path).seconds["total"]
    again = FakeSites({"a": Fake(), "b": Fake()})
    conduct(again, run, tmp_path)
    assert timeless(tmp_path) == before
    assert {order.task for order in again.asked} == {"evaluate"}
    assert rows(tmp_path, "end", "seconds")[0][0] > spent > 0  # earlier rounds count, though another process did them


def test_a_run_that_another_process_conducts_is_left_alone(tmp_path):
    """Two drivers of one folder would both write its record."""
    with FileLock(tmp_path / "lock"), pytest.raises(ValueError, match="another process conducts this run"):
        conduct(FakeSites({"a": Fake()}), fake_run(["a"]), tmp_path)
    assert not (tmp_path / "record.jsonl").exists()
    conduct(FakeSites({"a": Fake()}), fake_run(["a"]), tmp_path)
    assert rows(tmp_path, "round", "round") == [(1,)]
