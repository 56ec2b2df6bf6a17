"""The server's halves of objectives: by hand, and in runs of two tiny sites that go on after an interruption."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from server import checkpoint
from server.conduct import conduct
from simulations.local import LocalSites
from strategies import make_strategy
from strategies.base import State, Update
from strategies.importance import Importance
from strategies.variates import Variates
from wire import Reply

ROLES = {"w": "body", "head": "head"}
LIVER, BOTH = frozenset({"liver"}), frozenset({"liver", "spleen"})
ROWS = ("liver", "spleen")


def says(site, classes=BOTH, round=1, rows=ROWS, **extra):
    """An update of which only what it says beside its weights matters."""
    said = {name: np.array(value, np.float32) for name, value in extra.items()}
    return Update(site, {}, said, 1, 1.0, classes, round, rows)


def told(half, state):
    return {name: tensor.tolist() for name, tensor in half.told(state).items()}


# SCAFFOLD: the mean of the sites' variates ------------------------------------------------------------------------------


def test_the_variate_is_the_mean_over_all_that_have_arrived_whoever_comes_when():
    half, state = Variates(), State({})
    assert told(half, state) == {}
    state = half.hear(state, [says("a", w=[4.0])], ROLES, [BOTH])
    assert told(half, state) == {"w": [4.0]}
    state = half.hear(state, [says("a", w=[-2.0]), says("b", w=[6.0])], ROLES, [BOTH, BOTH])
    assert told(half, state) == {"w": [4.0]}  # a: 4 - 2 = 2; b: 6; not (4 + (-2 + 6) / 2): b was not there before
    state = half.hear(state, [says("b", w=[2.0])], ROLES, [BOTH, BOTH])
    assert told(half, state) == {"w": [5.0]}  # a is away, and counts with the 2 that it said last
    assert half.told(state)["w"].dtype == np.float32


def test_a_head_row_is_shared_out_among_those_that_annotate_it():
    """a and c annotate liver alone: spleen's row is b's."""
    half = Variates()
    sent = [says("a", LIVER, head=[[3.0], [0.0]], w=[3.0]), says("b", BOTH, head=[[6.0], [8.0]], w=[6.0])]
    state = half.hear(State({}), sent, ROLES, [LIVER, BOTH, LIVER])
    assert told(half, state) == {"head": [[3.0], [8.0]], "w": [3.0]}  # (3 + 6 + 0) / 3, 8 / 1; (3 + 6 + 0) / 3


def test_the_variate_of_a_head_grows_by_a_row():
    half = Variates()
    state = half.hear(State({}), [says("a", LIVER, rows=("liver",), head=[[2.0]])], ROLES, [LIVER])
    state = half.hear(state, [says("b", head=[[4.0], [5.0]])], ROLES, [LIVER, BOTH])
    assert told(half, state) == {"head": [[3.0], [5.0]]}
    state = half.hear(state, [says("a", rows=(*ROWS, "kidney"))], ROLES, [LIVER, BOTH])  # a took no step, and says nothing
    assert told(half, state) == {"head": [[3.0], [5.0]]}


@pytest.mark.parametrize("objective", ["scaffold", "ewc"])
def test_of_a_row_that_a_site_does_not_annotate_it_has_nothing_to_say(objective):
    rule = make_strategy("average", "draws", "all", objective=objective)
    weights = {"w": np.zeros(1, np.float32), "head": np.zeros((2, 1), np.float32)}
    sent = [Update("a", weights, {"head": np.array([[2.0], [9.0]], np.float32)}, 1, 1.0, LIVER, 1, ROWS)]
    state = rule.end_stage(rule.merge(State(weights), sent, ROLES, ROWS, [LIVER]), ROLES)
    (head,) = [tensor.tolist() for name, tensor in rule.told(state).items() if name in ("head", "importance|head")]
    assert head == [[2.0], [0.0]]


# EWC: the sum of the stages' importances --------------------------------------------------------------------------------


def test_importance_by_hand_over_two_stages():
    half, state = Importance(), State({"w": np.array([10.0], np.float32)})
    state = half.hear(state, [says("a", w=[8.0])], ROLES, [])
    state = half.hear(state, [says("a", round=2, w=[2.0]), says("b", round=2, w=[4.0])], ROLES, [])
    assert told(half, state) == {}  # the stage is under way
    state = half.end_stage(state, ROLES)
    assert told(half, state) == {"importance|w": [3.0], "around|w": [10.0]}  # (2 + 4) / 2: its newest round
    state = half.hear(State({"w": np.array([20.0], np.float32)}, state.slots), [says("b", round=3, w=[1.0])], ROLES, [])
    assert told(half, state) == {"importance|w": [3.0], "around|w": [10.0]}
    state = half.end_stage(state, ROLES)
    assert told(half, state) == {"importance|w": [4.0], "around|w": [20.0]}  # 3 + 1, around where the second ended
    assert half.told(state)["importance|w"].dtype == np.float32


def test_sites_that_come_one_after_another_in_a_round_count_alike():
    half, state = Importance(), State({"w": np.array([10.0], np.float32)})
    for round, site, value in ((1, "a", 50.0), (2, "a", 2.0), (2, "b", 4.0)):
        state = half.hear(state, [says(site, round=round, w=[value])], ROLES, [])
    assert told(half, half.end_stage(state, ROLES))["importance|w"] == [3.0]


def test_the_importance_of_a_head_grows_by_a_row():
    half = Importance()
    state = half.hear(State({"head": np.ones((1, 1), np.float32)}), [says("a", rows=("liver",), head=[[2.0]])], ROLES, [])
    state = half.end_stage(state, ROLES)
    wide = State({"head": np.full((2, 1), 7, np.float32)}, state.slots)
    state = half.end_stage(half.hear(wide, [says("b", round=2, head=[[1.0], [5.0]])], ROLES, []), ROLES)
    assert told(half, state) == {"importance|head": [[3.0], [5.0]], "around|head": [[7.0], [7.0]]}


def test_a_stage_in_which_nothing_was_measured_changes_nothing():
    half, state = Importance(), State({"w": np.array([10.0], np.float32)})
    state = half.end_stage(half.hear(state, [says("a", w=[3.0])], ROLES, []), ROLES)
    again = half.end_stage(
        half.hear(State({"w": np.zeros(1, np.float32)}, state.slots), [says("b", round=2)], ROLES, []), ROLES
    )
    assert told(half, again) == told(half, state) == {"importance|w": [3.0], "around|w": [10.0]}


def test_importance_lies_around_the_mean_of_the_stages_where_the_merge_makes_one():
    rule = make_strategy("anchored", "draws", "all", objective="ewc")

    def stage(state, value, round):
        weights = {"w": np.array([value], np.float32)}
        sent = [Update("a", weights, {"w": np.array([1.0], np.float32)}, 1, 1.0, LIVER, round, ("liver",))]
        return rule.end_stage(rule.merge(state, sent, ROLES, ("liver",)), ROLES)

    state = stage(stage(State({"w": np.zeros(1, np.float32)}), 2.0, 1), 6.0, 2)
    assert {name: tensor.tolist() for name, tensor in rule.told(state).items()} == {"importance|w": [2.0], "around|w": [4.0]}


# Runs: two tiny sites, the second comes in round 2 ------------------------------------------------------------------------


@dataclass
class Listening:
    """Local sites, and what they were told and said, by (site, round) of training."""

    sites: LocalSites
    shared: dict = field(default_factory=dict)
    told: dict = field(default_factory=dict)
    said: dict = field(default_factory=dict)

    def connected(self):
        return self.sites.connected()

    def ask(self, shared, orders):
        answers = self.sites.ask(shared, orders)
        for answer in answers:
            assert isinstance(answer, Reply), answer
            if answer.task == "train":
                where = (answer.site, answer.round)
                self.told[where] = {n.removeprefix("extra|"): t for n, t in shared.items() if n.startswith("extra|")}
                self.shared[where], self.said[where] = shared, answer.extra
            yield answer


@pytest.fixture
def go(make_run, tmp_path):
    """Runs, or takes up, three rounds with an objective in a folder; what the sites were told and said."""

    def run(objective, folder):
        root = str(make_run().sites["tiny"].root)
        config = make_run(
            sites={"a": {"root": root, "annotates": ["liver"]}, "b": {"root": root, "annotates": ["liver", "spleen"]}},
            strategy={"objective": objective},
            arrivals={"visits": {"a": [[1, None]], "b": [[2, None]]}, "rounds": 3},
            evaluate={"surface": False},
        )
        (tmp_path / folder).mkdir(exist_ok=True)
        sites = Listening(LocalSites(config, {name: tmp_path / folder / name for name in config.sites}))
        conduct(sites, config, tmp_path / folder)
        return sites

    return run


def same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-5, atol=1e-9, err_msg=name)


def test_a_scaffold_run_tells_the_sites_the_mean_of_what_they_said(go):
    run = go("scaffold", "run")
    assert (run.told["a", 1], run.told["a", 2].keys()) == ({}, run.said["a", 1].keys())
    same(run.told["a", 2], run.said["a", 1])
    same(run.told["b", 2], run.told["a", 2])
    first, second, other = run.said["a", 1], run.said["a", 2], run.said["b", 2]
    for name, tensor in run.told["a", 3].items():
        if name.startswith("head"):
            np.testing.assert_allclose(tensor[0], (first[name][0] + second[name][0] + other[name][0]) / 2, rtol=1e-5, atol=1e-9)
            np.testing.assert_allclose(tensor[1], other[name][1], rtol=1e-5)  # spleen is b's alone
            assert (first[name].shape[0], (second[name][1] == 0).all()) == (1, True)
        else:
            np.testing.assert_allclose(tensor, (first[name] + second[name] + other[name]) / 2, rtol=1e-5, atol=1e-9)


def test_an_ewc_run_tells_what_the_first_stage_needs(go):
    """a's rounds: stage a is round 1, stage b rounds 2 and 3."""
    run = go("ewc", "run")
    assert run.told["a", 1] == {}
    for where in (("a", 2), ("b", 2), ("a", 3), ("b", 3)):
        told = run.told[where]
        same({n.removeprefix("importance|"): t for n, t in told.items() if n.startswith("importance|")}, run.said["a", 1])
        same({n: told[f"around|{n}"] for n in run.said["a", 1]}, {n: run.shared["a", 2][n] for n in run.said["a", 1]})
    assert all((tensor >= 0).all() for tensor in run.said["a", 1].values())
    assert any((tensor > 0).any() for tensor in run.said["a", 1].values())


@pytest.mark.parametrize("objective", ["scaffold", "ewc"])
def test_a_run_that_is_taken_up_again_ends_with_the_same_bytes(go, tmp_path, monkeypatch, objective):
    go(objective, "straight")
    save = checkpoint.save

    def stop(folder, federation, keep):
        if federation.round == 3:  # the sites have done round 3, and the server does not know
            raise KeyboardInterrupt
        save(folder, federation, keep)

    with monkeypatch.context() as broken:
        broken.setattr(checkpoint, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            go(objective, "broken")
    assert not (tmp_path / "broken" / "model.safetensors").exists()
    taken_up = go(objective, "broken")
    assert {round for _, round in taken_up.told} == {3} and taken_up.told["b", 3]
    go("plain", "plain")
    one, other, plain = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("straight", "broken", "plain"))
    assert one == other != plain


def test_a_class_whose_sites_are_away_keeps_the_importance_they_told():
    """Spleen is b's alone: b is away in the stage's last round, in which liver is a's."""
    half = Importance()
    state = State({"head": np.zeros((2, 1), np.float32), "w": np.zeros(1, np.float32)})
    sent = [says("a", LIVER, head=[[4.0], [0.0]], w=[2.0]), says("b", frozenset({"spleen"}), head=[[0.0], [6.0]], w=[4.0])]
    state = half.hear(state, sent, ROLES, [])
    state = half.end_stage(half.hear(state, [says("a", LIVER, round=2, head=[[8.0], [0.0]], w=[1.0])], ROLES, []), ROLES)
    assert told(half, state)["importance|head"] == [[8.0], [6.0]]  # by row among those that annotate it
    assert told(half, state)["importance|w"] == [1.0]


def test_what_one_site_leaves_out_is_not_forgotten():
    half, state = Importance(), State({name: np.zeros(1, np.float32) for name in "wv"})
    state = half.end_stage(half.hear(state, [says("a", w=[2.0], v=[3.0])], ROLES, []), ROLES)
    state = half.end_stage(half.hear(state, [says("b", round=2, w=[1.0])], ROLES, []), ROLES)
    assert told(half, state) == {"importance|w": [3.0], "importance|v": [3.0], "around|w": [0.0], "around|v": [0.0]}
