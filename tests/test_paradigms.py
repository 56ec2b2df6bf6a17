"""What a paradigm makes of a recipe, checked by counting, and run."""

import csv
import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from clients.snapshot import before
from configs.load import build_run, dump_run
from configs.plain import parse
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
    assert steps(run) == {"a": 10, "b": 10} and run.train.replay_steps == 3  # 20 over 4 rounds and 2 sites are 8 times 2.5
    assert {site.name: run.sites[site.name].replaying for site in plan(run).sites} == {
        "a": [0, 3, 3, 2, 2],
        "b": [0, 3, 3, 2, 2],
    }
    assert run.memory.budget == 5
    assert plan(run).stages == ("a+b",)


def test_one_client_with_all_cases_takes_the_same_steps_in_all():
    run = make("joint.pooled")
    assert rounds(run) == [["a", "b", STREAM]] * 5
    assert steps(run) == {STREAM: 4 * 5, "a": 0, "b": 0} and run.sites[STREAM].replaying == [0, 5, 5, 5, 5]
    assert run.memory.budget == 3 + 5
    assert plan(run).stages == ("a+b",)


@pytest.mark.parametrize("paradigm", ["joint.federated", "joint.pooled"])
@pytest.mark.parametrize("train", [{"sampling_rate": 5}, {"replay_steps": 11}, {"sampling_rate": 3, "replay_steps": 0}])
def test_no_step_is_lost_to_rounding(paradigm, train):
    train = BASE["train"] | train
    assert sum(steps(make(paradigm, train=train)).values()) == sum(steps(make("continual", train=train)).values())


def test_few_steps_are_done_in_few_rounds():
    """Two steps in all, which a does when it replays: two sites have one round for them, one client two."""
    train = BASE["train"] | {"sampling_rate": 0, "replay_steps": 1}
    assert steps(make("continual", train=train)) == {"a": 2, "b": 0}
    run = make("joint.federated", train=train)
    assert steps(run) == {"a": 1, "b": 1} and len(rounds(run)) == 2
    run = make("joint.pooled", train=train)
    assert steps(run)[STREAM] == 2 and len(rounds(run)) == 3


def test_filling_the_memory_first_takes_no_steps():
    """a: 2 of its 3 cases only fill, then 2 steps and two replays; b: 2 of its 5 fill the 4, then 4 steps."""
    assert steps(make("continual", memory={"policy": "linear", "budget": 4, "fill_first": True})) == {"a": 2 + 3 + 3, "b": 4}


@pytest.mark.parametrize("paradigm", ["joint.federated", "joint.pooled", "stream"])
def test_where_nobody_learns_one_line_says_so(paradigm):
    """A stage is one round here: the stream knows no longer ones."""
    sites = {name: site | {"learns": False} for name, site in BASE["sites"].items()}
    with pytest.raises(ValueError, match=f"sites: none has a case to train on, and the {paradigm} paradigm needs one"):
        make(paradigm, sites=sites, arrivals={})


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


def test_memory_that_is_filled_first_takes_the_planned_steps(tmp_path):
    run = make("continual", memory={"policy": "linear", "budget": 4, "fill_first": True})
    simulated(run, tmp_path / "run")
    assert sum(row["steps"] for row in rows(tmp_path / "run", "train")) == sum(steps(run).values()) == 12


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
    assert trained[2, "a"][:2] == (3, 0) and trained[5, "a"][:2] == (2, 0) and trained[2, "a"][2] > 0


@pytest.mark.parametrize("arrivals", [{"visits": {"a": [[1, None]], "b": [[2, None]]}}, {"door": "open", "rounds": 3}])
def test_going_from_site_to_site_takes_an_order(arrivals):
    with pytest.raises(ValueError, match="arrivals: the sequential paradigm takes `order`, not `visits` or an open door"):
        make("sequential", arrivals=arrivals)


@pytest.mark.parametrize("paradigm", PARADIGMS)
def test_every_paradigm_is_one_key_away(paradigm):
    """Contract: the plan of each can be made, with what it means shown by check."""
    found = plan(make(paradigm, arrivals={}))
    assert sum(site.steps for site in found.sites) > 0 and found.classes == ("liver", "spleen")


@pytest.mark.parametrize("strategy", ["fedavg", "fedbn", "condist", "ditto", {"preset": "fedavg", "weigh": "uniqueness"}])
@pytest.mark.parametrize("paradigm", PARADIGMS)
def test_what_a_paradigm_makes_of_a_recipe_is_a_recipe(paradigm, strategy):
    if paradigm == "stream" and strategy in ("fedbn", "ditto"):
        pytest.skip("the recipe is refused: what stays at home stays with the extra client")
    run = make(paradigm, strategy=strategy, index={"on": True}, arrivals={})
    assert build_run(parse(dump_run(run))) == run


@pytest.mark.parametrize("paradigm", ["sequential", "joint.federated"])
def test_without_the_index_updates_weigh_by_their_draws(paradigm):
    run = make(paradigm, strategy={"weigh": "uniqueness", "merge": "momentum"}, index={"on": True})
    assert (run.index.on, run.strategy.weigh, run.strategy.merge) == (False, "draws", "momentum")


def test_a_policy_that_asks_the_index_is_refused_where_a_paradigm_has_none():
    with pytest.raises(
        ValueError, match="the specialised paradigm makes of this recipe cannot be: memory.policy: selective-global"
    ):
        make("specialised", memory={"policy": "selective-global", "budget": 2}, index={"on": True})


def test_the_schema_knows_every_paradigm():
    with pytest.raises(ValueError, match="paradigm: Input should be 'continual'"):
        build_run({**BASE, "paradigm": "joint"})
    known = Run.model_fields["paradigm"].annotation.__args__
    assert set(known) == set(PARADIGMS)
