"""Merges by hand: small numbers that a person can check, and settings that are refused."""

import numpy as np
import pytest

from strategies import make_strategy
from strategies.anchored import Anchored
from strategies.base import State, Update
from strategies.cyclic import Cyclic
from strategies.steps import Adam, Momentum, Yogi
from strategies.weighs import draws, uniqueness


def update(site, value, count=1, sure=1.0):
    return Update(site, {"w": np.array([value], np.float32)}, {}, count, sure, frozenset(), 1)


def state(value):
    return State({"w": np.array([value], np.float32)})


def w(made):
    return made.weights["w"].tolist()


def test_momentum_goes_on_in_the_direction_it_had():
    rule = Momentum(beta=0.5)
    first = rule.merge(state(0.0), [update("a", 2.0)], draws)
    assert (w(first), first.slots["velocity"]["w"].tolist()) == ([2.0], [2.0])  # without a past, the average
    second = rule.merge(first, [update("a", 2.0)], draws)
    assert (w(second), second.slots["velocity"]["w"].tolist()) == ([3.0], [1.0])  # stands still, and half of 2 goes on
    assert w(Momentum(beta=0.5, lr=0.1).merge(state(0.0), [update("a", 2.0)], draws)) == pytest.approx([0.2])


def test_adam_by_hand():
    made = Adam(lr=0.1, beta_1=0.5, beta_2=0.75, tau=1.0).merge(state(1.0), [update("a", 3.0)], draws)
    # delta 2, m = .5 * 2 = 1, v = .75 * 1 + .25 * 4 = 1.75, step .1 * 1 / (sqrt(1.75) + 1)
    assert w(made) == pytest.approx([1 + 0.1 / (np.sqrt(1.75) + 1)])
    assert (made.slots["first"]["w"].tolist(), made.slots["second"]["w"].tolist()) == ([1.0], [1.75])


def test_yogi_moves_its_second_moment_by_the_new_square_at_most():
    made = Yogi(lr=0.1, beta_1=0.5, beta_2=0.75, tau=1.0).merge(state(1.0), [update("a", 3.0)], draws)
    assert made.slots["second"]["w"].tolist() == [2.0]  # 1 - .25 * 4 * sign(1 - 4)
    far = Yogi(lr=0.1, beta_1=0.5, beta_2=0.75, tau=3.0).merge(state(1.0), [update("a", 3.0)], draws)
    assert far.slots["second"]["w"].tolist() == [8.0]  # 9 - .25 * 4 * sign(9 - 4)


def test_cyclic_weights_travel():
    rule = Cyclic()
    assert rule.turns(["a", "b"]) == [["a"], ["b"]]
    made = rule.merge(rule.merge(state(0.0), [update("a", 2.0)], draws), [update("b", 5.0)], draws)
    assert (w(made), made.step) == ([5.0], 2)
    assert w(rule.merge(state(1.0), [update("a", 9.0, count=0)], draws)) == [1.0]


def test_anchored_is_the_mean_of_the_stages_models():
    rule, at = Anchored(), state(0.0)
    for value, mean in ((3.0, 3.0), (6.0, 4.5), (0.0, 3.0)):  # 3, (3 + 6) / 2, (3 + 6 + 0) / 3
        at = rule.merge(at, [update("a", value)], draws)
        assert w(at) == [value]  # within a stage, the average
        at = rule.end_stage(at, {"w": "body"})
        assert w(at) == [mean]


def test_anchored_by_a_fixed_share_is_exponential():
    rule = Anchored(share=0.25)
    at = rule.end_stage(state(4.0), {"w": "body"})
    at = rule.end_stage(rule.merge(at, [update("a", 8.0)], draws), {"w": "body"})
    assert w(at) == [5.0]  # .75 * 4 + .25 * 8


def test_anchored_body_alone_leaves_the_rest_as_the_last_stage_left_it():
    rule, roles = Anchored(only="body"), {"w": "body", "n": "norm"}

    def both(value):
        return State({"w": np.array([value]), "n": np.array([value])})

    first = rule.end_stage(both(2.0), roles)
    second = rule.end_stage(State(both(4.0).weights, first.slots), roles)
    assert (w(second), second.weights["n"].tolist()) == ([3.0], [4.0])


def test_uniqueness_weighs_what_a_site_alone_remembers():
    assert uniqueness(update("a", 0.0, count=8, sure=0.25)) == 2.0
    merged = make_strategy("average", "uniqueness", "all").merge(
        state(0.0), [update("a", 4.0, 1, 0.5), update("b", 0.0, 1, 1.0)], {}, ()
    )
    assert w(merged) == pytest.approx([4 / 3])
    assert uniqueness(update("a", 0.0, count=8, sure=0.0)) == 0.008  # never nothing: it may be the only one that trained


@pytest.mark.parametrize(
    ("merge", "args", "line"),
    [
        ("momentum", {"beta": 1.0}, "strategy.merge_args: momentum: beta must be from 0 to below 1, not 1.0"),
        ("momentum", {"speed": 1.0}, r"strategy.merge_args: 'speed' is no setting of momentum \(it has beta, lr\)"),
        ("adam", {"tau": 0}, "strategy.merge_args: adam: tau must be above 0, not 0"),
        ("anchored", {"share": 2}, "strategy.merge_args: anchored: share must be above 0 and at most 1, not 2"),
        ("anchored", {"only": "head"}, "strategy.merge_args: anchored: only must be 'all' or 'body', not 'head'"),
        ("average", {"beta": 1}, r"'beta' is no setting of average \(it has none\)"),
    ],
)
def test_settings_that_make_no_sense_are_refused(merge, args, line):
    with pytest.raises(ValueError, match=line):
        make_strategy(merge, "draws", "all", args)
