"""What a paradigm makes of a recipe, checked by counting, and run."""

import csv
import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from clients.snapshot import before
from configs.load import build_run
from configs.schema import Run
from server.arrivals import make_schedule
from simulations.engines import simulate
from simulations.paradigms import PARADIGMS
from simulations.plan import check_names, make_plan, prepare_all
from simulations.pretend import materialise
from simulations.stream import STREAM

SMALL = {"shape": [24, 22, 20], "spacing": [8, 8, 9], "scanner": "ct_window"}
SITE = {"phantoms": {"cases": 5, **SMALL}, "annotates": ["liver", "spleen"]}
BASE = {
    "name": "p",
    "sites": {"a": SITE, "b": {**SITE, "phantoms": {"cases": 7, **SMALL}}},
    "model": {"network": "UNet", "args": {"channels": [4, 8], "strides": [2], "num_res_units": 0}},
    "train": {"patch": [16, 16, 16], "batch": 2, "sampling_rate": 4, "replay_steps": 3},
    "memory": {"policy": "selective", "budget": 2},
    "stream": {"cases_per_round": 2},
    "arrivals": {"rounds_per_stage": 2},
    "evaluate": {"surface": False, "slices": 0},
    "engine": {"name": "local"},
}
"""Site a has 3 training cases, b has 5: a arrives in round 1, b in round 3, and both stay to the end, round 4."""


def make(paradigm, **sections):
    return materialise(build_run({**BASE, "paradigm": paradigm, **sections}))


def plan(run):
    return make_plan(run, prepare_all(run))


def steps(run):
    return {site.name: site.steps for site in plan(run).sites}


def rounds(run):
    schedule, names = make_schedule(run.arrivals, list(run.sites)), set(run.sites)
    return [sorted(schedule.present(number, names)) for number in range(1, schedule.rounds + 1)]


def simulated(run, folder):
    check_names(run)
    folder.mkdir()
    simulate(run, folder)
    with (folder / "R.csv").open() as file:
        return list(csv.reader(file))


def rows(folder, event):
    return [row for row in map(json.loads, (folder / "record.jsonl").read_text().splitlines()) if row["event"] == event]


def test_the_continual_run_is_what_is_written():
    assert steps(make("continual")) == {"a": 4 + 2 + 3 + 3, "b": 4 + 4}  # a: 2 cases, 1 case, then replay; b: 2 cases, 2 cases


def test_without_memory_each_site_trains_on_its_own_cases_once_and_leaves():
    run = make("sequential")
    assert rounds(run) == [["a"], ["a"], ["b"], ["b"]]
    assert {name: site.arriving for name, site in run.sites.items()} == {"a": [2, 1], "b": [3, 2]}
    assert steps(run) == {"a": 4 + 2, "b": (4 + 2) + 4}
    assert (run.memory.policy, run.memory.budget, run.index.on) == ("linear", 2, False)


def test_all_sites_from_the_start_take_the_same_steps_in_all():
    run = make("joint.federated")
    assert rounds(run) == [["a", "b"]] * 5  # one to take the cases in, and the continual run's four
    assert steps(run) == {"a": 4 * 2, "b": 4 * 2}  # 20 over 4 rounds and 2 sites are 2.5, rounded to even
    assert run.memory.budget == 5
    assert plan(run).stages == ("a+b",)


def test_one_client_with_all_cases_takes_the_same_steps_in_all():
    run = make("joint.pooled")
    assert rounds(run) == [["a", "b", STREAM]] * 5
    assert steps(run) == {STREAM: 4 * 5, "a": 0, "b": 0}
    assert run.memory.budget == 3 + 5
    assert plan(run).stages == ("a+b",)


def test_sites_that_train_alone_keep_everything_and_the_model_stays_as_it_was_drawn(tmp_path):
    run = make("specialised")
    assert rounds(run) == [["a"], ["a"], ["a", "b"], ["a", "b"]] and steps(run) == steps(make("continual"))
    simulated(run, tmp_path / "run")
    assert {row["bytes_up"] for row in rows(tmp_path / "run", "train")} == {0}
    run_id = next((tmp_path / "run" / "sites" / "a" / "state").iterdir()).name
    home = {name: before(tmp_path / "run" / "sites" / name / "state", run_id, 9).home for name in "ab"}
    shared = load_file(tmp_path / "run" / "model.safetensors")
    assert home["a"].keys() == home["b"].keys() == shared.keys()
    assert all((home["a"][name] != home["b"][name]).any() for name in shared)
    initial = materialise(build_run({**BASE, "paradigm": "specialised", "arrivals": {"rounds": 1, "order": ["a", "b"]}}))
    simulated(initial, tmp_path / "other")
    assert all(
        np.array_equal(shared[name], tensor) for name, tensor in load_file(tmp_path / "other" / "model.safetensors").items()
    )


@pytest.mark.parametrize("paradigm", ["sequential", "joint.federated", "joint.pooled"])
def test_a_bound_runs_and_takes_the_planned_steps(tmp_path, paradigm):
    run = make(paradigm)
    table = simulated(run, tmp_path / "run")
    assert [line[0] for line in table[1:]] == (["start", "a", "b"] if paradigm == "sequential" else ["start", "a+b"])
    assert sum(row["steps"] for row in rows(tmp_path / "run", "train")) == sum(steps(run).values())
    assert not rows(tmp_path / "run", "failure")


def test_a_round_that_only_takes_cases_in_changes_no_model(tmp_path):
    simulated(make("joint.federated"), tmp_path / "run")
    trained = {
        (row["round"], row["site"]): (row["steps"], row["new_cases"], row["update_norm"])
        for row in rows(tmp_path / "run", "train")
    }
    assert trained[1, "a"] == (0, 3, 0.0) and trained[1, "b"] == (0, 5, 0.0)
    assert trained[2, "a"][:2] == (2, 0) and trained[2, "a"][2] > 0


@pytest.mark.parametrize("arrivals", [{"visits": {"a": [[1, None]], "b": [[2, None]]}}, {"door": "open", "rounds": 3}])
def test_going_from_site_to_site_takes_an_order(arrivals):
    with pytest.raises(ValueError, match="arrivals: the sequential paradigm takes `order`, not `visits` or an open door"):
        make("sequential", arrivals=arrivals)


@pytest.mark.parametrize("paradigm", PARADIGMS)
def test_every_paradigm_is_one_key_away(paradigm):
    """Contract: the plan of each can be made, with what it means shown by check."""
    found = plan(make(paradigm, arrivals={}))
    assert sum(site.steps for site in found.sites) > 0 and found.classes == ("liver", "spleen")


def test_the_schema_knows_every_paradigm():
    with pytest.raises(ValueError, match="paradigm: Input should be 'continual'"):
        build_run({**BASE, "paradigm": "joint"})
    known = Run.model_fields["paradigm"].annotation.__args__
    assert set(known) == set(PARADIGMS)
