"""A model that was evaluated already is not evaluated again, and the record says so."""

import json

import numpy as np
import pytest

from server.conduct import conduct
from server.record import Record
from server.reuse import fingerprint, told_before
from server.shares import evaluation_share
from tests.fakes import Fake, FakeSites, fake_run
from wire import Failure

PLAIN = {"surface": False, "slices": 0}


def run_of(tmp_path, sites, changes=None, **sections):
    """Runs it; the sites that were asked to evaluate, in order, and the record's results."""
    sections = {"evaluate": PLAIN, "arrivals": {"rounds_per_stage": 1}} | sections
    there = FakeSites(sites, changes or {})
    conduct(there, fake_run(sites, **sections), tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "record.jsonl").read_text().splitlines()]
    asked = [(order.round, order.site) for order in there.asked if order.task == "evaluate"]
    return sorted(asked), rows


def results(rows, *keys):
    return [tuple(row.get(key) for key in keys) for row in rows if row["event"] == "result"]


def cases(rows, stage):
    return [{k: v for k, v in row.items() if k != "stage"} for row in rows if row["event"] == "case" and row["stage"] == stage]


def test_where_nothing_was_merged_the_rows_are_copied(tmp_path):
    """Site a has no draws: after its stage the model is that of the start. b's are merged, so the last stage is measured."""
    asked, rows = run_of(tmp_path, {"a": Fake(draws=0), "b": Fake(tests=2, since=0)})
    assert asked == [(0, "a"), (0, "b"), (2, "a"), (2, "b")]
    found = results(rows, "stage", "site", "reused")
    copied = [("a", "a", "start"), ("a", "b", "start")]
    assert found == [("start", "a", None), ("start", "b", None), *copied, ("b", "a", None), ("b", "b", None)]
    assert cases(rows, "a") == cases(rows, "start") and len(cases(rows, "a")) == 3
    models = [row["model"] for row in rows if row["event"] == "result"]
    assert models[0] == models[2] != models[4]


def test_who_was_not_there_is_asked(tmp_path):
    """b did not answer the first evaluation: only a's row can be copied."""
    lost = {("b", "evaluate", 0): lambda reply: Failure(site="b", round=0, task="evaluate", kind="lost", reason="it rains")}
    asked, rows = run_of(tmp_path, {"a": Fake(draws=0), "b": Fake()}, lost)
    assert asked == [(0, "a"), (0, "b"), (1, "b"), (2, "a"), (2, "b")]
    assert ("a", "a", "start") in results(rows, "stage", "site", "reused")


@pytest.mark.parametrize(
    "sections", [{"evaluate": {"surface": True}}, {"evaluate": {"surface": False, "slices": 1}}], ids=["surfaces", "slices"]
)
def test_the_last_evaluation_measures_what_no_other_does(tmp_path, sections):
    asked, _ = run_of(tmp_path, {"a": Fake(draws=0)}, **sections)
    assert asked == [(0, "a"), (1, "a")]


def test_the_last_is_copied_too_where_it_measures_nothing_more(tmp_path):
    asked, rows = run_of(tmp_path, {"a": Fake(draws=0)})
    assert asked == [(0, "a")] and results(rows, "stage", "reused") == [("start", None), ("a", "start")]
    assert (tmp_path / "R.csv").read_text().splitlines() == ["stage,a", "start,0.000000", "a,0.000000"]


def test_what_stays_at_home_changes_without_a_merge(tmp_path):
    """Heads at home: a site's own head may have moved though nothing was merged."""
    asked, _ = run_of(tmp_path, {"a": Fake(draws=0)}, strategy={"share": "backbone"})
    assert asked == [(0, "a"), (1, "a")]


def test_a_resumed_run_copies_what_it_would_have_copied(tmp_path):
    """Killed in round 2, it asks nobody again for the model of the start, which the process before it had evaluated."""
    sites = {"a": Fake(draws=0), "b": Fake(draws=0)}

    def killed(reply):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_of(tmp_path, sites, {("b", "train", 2): killed})
    asked, rows = run_of(tmp_path, sites)
    assert asked == [] and [stage for stage, told in results(rows, "stage", "reused") if told] == ["a", "a", "b", "b"]


def test_after_a_change_of_the_recipe_everybody_is_asked(tmp_path):
    """Another overlap gives other results of the same model."""
    record = Record(tmp_path)
    record.append("case", stage="start", case="x", dice=0.5, site="a", **{"class": "liver"})
    record.append("result", stage="start", site="a", dice=0.5, model="m")
    assert told_before(record, "m", ["a", "b"]) == ("start", {"a": [{"case": "x", "dice": 0.5, "class": "liver"}]})
    assert told_before(record, "other", ["a"])[1] == {}
    record.append("changed", key="evaluate.overlap", before=0.5, after=0.25, round=1)
    assert told_before(record, "m", ["a"])[1] == {}
    record.close()


def test_the_fingerprint_sees_numbers_names_shapes_and_classes():
    one = {"w": np.zeros((2, 3), np.float32), "v": np.ones(2, np.float32)}
    others = [one | {"w": np.full((2, 3), 1e-30, np.float32)}, one | {"w": np.zeros((3, 2), np.float32)}, {"w": one["w"]}]
    found = {fingerprint(weights, ["liver"]) for weights in (one, *others)} | {fingerprint(one, ["spleen"])}
    assert len(found) == 5 and fingerprint(dict(reversed(one.items())), ["liver"]) in found


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ({"seconds": 200.0, "seconds_evaluating": 28.0}, "evaluation 14 %"),
        ({"seconds": 200.0}, ""),
        ({"seconds": 0.0, "seconds_evaluating": 0.0}, ""),
        ({"seconds": "long", "seconds_evaluating": 1.0}, ""),
        (None, ""),
    ],
)
def test_the_share_of_evaluation(end, said):
    assert evaluation_share(end) == said
