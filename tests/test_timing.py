"""What a run will cost: a trial of a few warm steps stands for it, the cold ones left out."""

import json

import pytest

from configs.load import build_run
from configs.study import Cell
from simulations.studies import timing
from simulations.studies.shelf import place_of
from simulations.studies.timing import Pace, timed

PHANTOMS = {"cases": 5, "shape": [24, 22, 20], "spacing": [8, 8, 9]}
BASE = {
    "name": "tiny",
    "sites": {
        "watcher": {"phantoms": PHANTOMS, "annotates": ["liver"], "learns": False},
        "a": {"phantoms": PHANTOMS, "annotates": ["liver", "liver_tumor"]},
        **{name: {"phantoms": PHANTOMS, "annotates": ["liver", "liver_tumor"]} for name in "bcd"},
    },
    "includes": {"liver": ["liver_tumor"]},
    "model": {"network": "UNet", "args": {"channels": [4, 8], "strides": [2], "num_res_units": 0}},
    "train": {"patch": [16, 16, 16], "batch": 2, "sampling_rate": 2},
    "memory": {"policy": "linear", "budget": 2, "fill_first": True},
    "evaluate": {"surface": True, "slices": 1, "on": "validation"},
    "data": {"split": {"test": 0.2, "validation": 0.2}},
    "arrivals": {"rounds_per_stage": 2},
}


@pytest.fixture
def place(tmp_path):
    return place_of(Cell("base", 0, "as written", build_run(BASE)), tmp_path / "shelf", set())


def told(folder, seconds, tests_s):
    """The record of a trial whose rounds took so many seconds, with two steps each, and which tested one case twice."""
    rows = [{"event": "train", "round": i + 1, "steps": 2, "seconds": s} for i, s in enumerate(seconds)]
    rows += [{"event": "case", "stage": stage, "site": "a", "case": "x", "class": c} for stage in ("start", "a") for c in "pq"]
    rows.append({"event": "end", "seconds_evaluating": tests_s})
    (folder / "record.jsonl").write_text("\n".join(map(json.dumps, rows)))


def test_the_first_trial_and_every_first_round_are_left_out(place, monkeypatch):
    """Cold: 4 s a round; then 9, .4 and .6 s, so 1 s for four steps; two evaluations of a case in 3 s."""
    asked = []

    def simulate(run, folder):
        asked.append(run)
        told(folder, *(((4.0, 4.0, 4.0), 60.0) if len(asked) == 1 else ((9.0, 0.4, 0.6), 3.0)))

    monkeypatch.setattr(timing, "simulate", simulate)
    assert timed(place) == Pace(step_s=pytest.approx(0.25), test_s=pytest.approx(1.5))
    assert [run.train.sampling_rate for run in asked] == [timing.WARM_UP, 2]  # 15 s for three rounds of steps of 2 s


def test_a_fast_recipe_gets_as_many_steps_as_there_may_be(place, monkeypatch):
    asked = []

    def simulate(run, folder):
        asked.append(run)
        told(folder, (0.1, 0.002, 0.002), 1.0)

    monkeypatch.setattr(timing, "simulate", simulate)
    timed(place)
    assert asked[1].train.sampling_rate == timing.MOST


@pytest.mark.parametrize("paradigm", ["continual", "stream", "joint.pooled"])
def test_a_trial_is_one_site_that_learns_and_a_subject_of_a_few(tmp_path, paradigm):
    """What lies inside what may name classes of sites that are left out; the extra client is no site of the recipe."""
    tree = BASE | {"paradigm": paradigm, "arrivals": {}}
    short = timing._shortened(place_of(Cell("base", 0, "as written", build_run(tree)), tmp_path, set()), 3)
    assert len(short.sites) == timing.SITES and [site.learns for site in short.sites.values()] == [True, False, False, False]
    assert "watcher" not in short.sites and (short.train.sampling_rate, short.stream.cases_per_round) == (3, 2)
    held = {name: timing.site_cases(name, site, short.seed) for name, site in short.sites.items()}
    assert {(len(cases.train), len(cases.test)) for cases in held.values()} == {(4, 1), (0, 1)}
    assert not short.memory.fill_first and short.evaluate.on == "test"


def test_a_trial_really_runs(place):
    pace = timed(place)
    assert pace.step_s > 0 and pace.test_s > 0
