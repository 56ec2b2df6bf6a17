"""The benchmarks of strategies: who annotates what, what the matching annotations are, and what a liar sends."""

import json
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest

from wire import Failure, Order, Reply

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))

from federation_results import Result
from federations import Setting
from malicious import LIAR, Lying, turned_round

# `import strategies` is the package: the benchmark of that name is loaded from its file.
SPEC = spec_from_file_location("strategies_benchmark", BENCHMARKS / "strategies.py")
benchmark = sys.modules[SPEC.name] = module_from_spec(SPEC)
SPEC.loader.exec_module(benchmark)
result = benchmark.result

A, B, C = {"annotates": ["liver", "spleen"]}, {"annotates": ["liver", "spleen", "aorta"]}, {"annotates": ["aorta"]}
THREE = Setting("three", {"name": "three"}, 5, {"a": A, "b": B, "c": C}, {"watch": {}})


def test_classes_that_the_same_sites_annotate_are_a_group():
    assert THREE.groups == {("liver", "spleen"): ("a", "b"), ("aorta",): ("b", "c")}


def test_the_matching_annotations_are_the_groups_sites_and_classes_alone_under_the_same_watchers():
    whole, aorta = THREE.config({}, 0, "test"), THREE.config({}, 0, "test", ("aorta",))
    assert {name: site.get("annotates") for name, site in whole["sites"].items()} == {
        "a": ["liver", "spleen"],
        "b": ["liver", "spleen", "aorta"],
        "c": ["aorta"],
        "watch": None,
    }
    assert aorta["sites"]["watch"] == {"learns": False, "annotates": ["aorta"]}
    assert [(name, site["annotates"]) for name, site in aorta["sites"].items()] == [(s, ["aorta"]) for s in ("b", "c", "watch")]
    assert whole["arrivals"]["visits"] == {name: [[1, None]] for name in whole["sites"]}


def left_behind(folder: Path, share: str) -> Path:
    def case(site: str, name: str, dice: float | None, stage: str = "a+b+c+watch") -> dict:
        return {"event": "case", "stage": stage, "site": site, "class": name, "dice": dice}

    strategy = {"merge": "average", "weigh": "draws", "share": share, "objective": "plain"}
    rows = [
        {"event": "run", "strategy": strategy},
        case("a", "liver", 0.1, "start"),
        {"event": "train", "site": "a", "steps": 3},
        {"event": "train", "site": "a", "steps": 4},
        {"event": "round", "bytes_up": 1_000_000, "bytes_down": 2_000_000},
        case("a", "liver", 0.6),
        case("a", "liver", 0.8),
        case("a", "spleen", 0.3),
        case("c", "aorta", 0.9),
        case("watch", "liver", 0.4),
        case("watch", "spleen", 0.2),
        case("watch", "spleen", None),
    ]
    (folder / "record.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "R.csv").write_text("stage,a,c,watch,a.own,c.own\nstart,0,0,0,,\na+b+c+watch,0.5,0.9,0.3,0.75,0.95\n")
    (folder / "cpu_seconds.txt").write_text("2.5\n0.5\n")
    return folder


def test_a_runs_worth_by_hand(tmp_path):
    found = result(left_behind(tmp_path, "all"), THREE)
    assert found.watched == pytest.approx({"liver": 0.4, "spleen": 0.2})
    assert found.at_watchers(("liver", "spleen")) == pytest.approx(0.3)
    assert found.at_own_tests(("liver", "spleen")) == pytest.approx((0.7 + 0.3) / 2)
    assert found.acc == pytest.approx(((0.7 + 0.3) / 2 + 0.9) / 2)
    assert (found.tuned, found.megabytes, found.seconds, found.steps) == (pytest.approx(0.85), 3.0, 3.0, {"a": 7})


def test_watchers_say_nothing_of_a_model_whose_heads_stay_at_home(tmp_path):
    found = result(left_behind(tmp_path, "backbone"), THREE)
    assert (found.watched, np.isnan(found.at_watchers(("liver",))), found.acc > 0) == ({}, True, True)


def test_a_mean_over_nothing_is_not_a_number():
    assert np.isnan(Result({}, {}, 0.0, 0.0, 0.0, {}).acc)


def test_a_liar_sends_the_opposite_of_what_it_learnt_ten_times_over():
    sent = turned_round({"w": np.array([1.5, 2.0], np.float32)}, {"w": np.array([1.0, 2.0], np.float32)})["w"]
    assert (sent.tolist(), sent.dtype) == ([-4.0, 2.0], np.float32)  # 1 - 10 x .5


def test_only_the_liars_trained_replies_are_turned_round():
    new = {"w": np.ones(1, np.float32)}

    class Two:
        def connected(self):
            return {"honest", LIAR}

        def ask(self, shared, orders):
            for order in orders:
                yield Reply(run="r", round=1, task=order.task, site=order.site, weights=new)
            yield Failure(site=LIAR, round=1, task="train", kind="late", reason="slow")

    orders = [Order(run="r", round=1, task=task, site=site) for task in ("init", "train") for site in ("honest", LIAR)]
    *replies, failure = Lying(Two(), LIAR).ask({"w": np.zeros(1, np.float32)}, orders)
    assert [float(reply.weights["w"][0]) for reply in replies] == [1.0, 1.0, 1.0, -10.0]
    assert isinstance(failure, Failure)
