"""Flower's merges by hand, against Flower itself, and without any identity of Flower's."""

import inspect

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower
from flwr.supercore.task_identity import TaskIdentity

from strategies.base import State, Update
from strategies.borrowed import Bulyan, Krum, Median, MultiKrum, Trimmed
from strategies.weighs import draws, equal

STATE = State({}, {"kept": {"w": np.ones(1)}}, 4)
RULES = [Median(), Trimmed(), Krum(), MultiKrum(), MultiKrum(keep=2), Bulyan()]


def update(number, value, count=1, dtype=np.float32, **more):
    return Update(f"site{number}", {"w": np.array(value, dtype), **more}, {}, count, 1.0, frozenset(), 1)


def updates(*values, **more):
    return [update(number, value, **more) for number, value in enumerate(values)]


def merged(rule, given, weigh=equal):
    return rule.merge(STATE, iter(given), weigh).weights["w"].tolist()


# By hand ---------------------------------------------------------------------------------------------------------------


def test_the_median_of_each_number():
    assert merged(Median(), updates([1, 9], [2, -9], [600, 0])) == [2, 0]
    assert merged(Median(), updates(1, 2, 4, 600)) == 3


def test_the_trimmed_mean_of_each_number():
    assert merged(Trimmed(), updates([1, 0], [2, 7], [3, 8], [7, 9], [-600, 600])) == [2, 8]  # 1, 2, 3 and 7, 8, 9
    assert merged(Trimmed(0.25), updates(1, 2, 4, 600)) == 3


def test_krum_takes_one_of_the_crowd_never_a_flipped_outlier():
    crowd = [[1.0, 1.0], [1.1, 1.0], [1.0, 1.2], [0.7, 1.0]]
    for place in range(5):
        given = [*crowd[:place], [-10.0, -10.0], *crowd[place:]]
        # Of 5 with one malicious, the 2 nearest count: .01 + .04 for the first, .01 + .05, .04 + .05, .09 + .13.
        assert merged(Krum(), updates(*given)) == [1.0, 1.0]
        # The mean of the four that are left; of the first two, the outlier is in neither.
        assert merged(MultiKrum(), updates(*given)) == pytest.approx([0.95, 1.05])
        assert merged(MultiKrum(keep=2), updates(*given)) == pytest.approx([1.05, 1.0])


def test_krum_with_fewer_than_it_needs_would_follow_two_that_agree():
    given = updates(0.0, 1.0, 2.5, -10.0, -10.0)  # one nearest neighbour each: the two malicious ones are at distance 0
    assert flower_alone(flower.Krum(num_malicious_nodes=2), given, np.float64)["w"] == -10
    assert merged(Krum(2), updates(0.0, 1.0, 2.5, 1.7, 0.6, -10.0, -10.0)) != -10


def test_bulyan_by_hand():
    # Krum's scores choose 5 of the 7; of these, the 3 nearest to the median, number by number.
    assert merged(Bulyan(), updates(0, 1, 2, 3, 4, 100, -100)) == 2
    assert merged(Bulyan(0), updates(1, 2, 6)) == 3


def test_only_multi_krum_weighs_and_nobody_counts_an_update_without_weight():
    crowd = [update(0, 1.0, 30), update(1, 1.1), update(2, 1.2, 0), update(3, 1.3), update(4, 1.4), update(5, 90.0)]
    # Without site2 five are left, of which the outlier is not kept.
    assert merged(MultiKrum(), crowd, draws) == pytest.approx((30 * 1.0 + 1.1 + 1.3 + 1.4) / 33)
    assert merged(Median(), crowd, draws) == np.float32(1.3)
    nothing = update(6, np.nan, 0, bad=np.ones(3))
    assert merged(Krum(), [nothing, *crowd], draws) == merged(Krum(), crowd, draws)


# As Flower does it -----------------------------------------------------------------------------------------------------


def flower_alone(strategy, given, dtype, weigh=equal):
    """Flower's own answer, with Messages as Flower's runtimes make them."""
    before = dict(vars(TaskIdentity))
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
    try:
        replies = []
        for node, each in enumerate(given, 2):
            arrays = ArrayRecord({name: Array(tensor.astype(dtype)) for name, tensor in each.weights.items()})
            content = RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": weigh(each)})})
            replies.append(Message(content, dst_node_id=node, message_type="train"))
        arrays, _ = strategy.aggregate_train(1, replies)
    finally:
        for name in ("_run_id", "_node_id", "_task_id"):
            setattr(TaskIdentity, name, before[name])
    return {name: array.numpy() for name, array in arrays.items()}


THEIRS = [
    (Median(), flower.FedMedian()),
    (Trimmed(0.3), flower.FedTrimmedAvg(beta=0.3)),
    (Krum(2), flower.Krum(num_malicious_nodes=2)),
    (MultiKrum(1), flower.MultiKrum(num_malicious_nodes=1, num_nodes_to_select=7)),
    (MultiKrum(1, 3), flower.MultiKrum(num_malicious_nodes=1, num_nodes_to_select=3)),
    (Bulyan(1), flower.Bulyan(num_malicious_nodes=1)),
]


def eight(seed):
    """Updates as they are: a kernel, a norm's 0-d number, a half-precision tensor, a head; one site sends ten times minus."""
    rng = np.random.default_rng(seed)

    def tensors(scale):
        body = {"conv.weight": rng.normal(size=(4, 2, 3, 3, 3)), "head.weight": rng.normal(size=(3, 4, 1, 1, 1))}
        return {name: (scale * (1 + 0.1 * value)).astype(np.float32) for name, value in body.items()}

    def small(scale):
        return {"a.scale": np.array(scale * rng.normal(), np.float32), "w": (scale * rng.normal(size=5)).astype(np.float16)}

    scales = [1, 1, 1, -10, 1, 1, 1, 1]
    return [
        Update(f"s{i}", {**tensors(s), **small(s)}, {}, int(n), 1.0, frozenset(), 1)
        for i, (s, n) in enumerate(zip(scales, rng.integers(1, 99, 8), strict=True))
    ]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("ours", "theirs"), THEIRS, ids=lambda rule: type(rule).__name__)
def test_the_result_is_flowers_in_each_tensors_own_type(ours, theirs, seed):
    given = eight(seed)
    copies = [{name: tensor.copy() for name, tensor in each.weights.items()} for each in given]
    now = ours.merge(STATE, iter(given), draws)
    exact, plain = flower_alone(theirs, given, np.float64, draws), flower_alone(theirs, given, np.float32, draws)
    assert list(now.weights) == list(given[0].weights)
    for name, tensor in given[0].weights.items():
        assert (now.weights[name].dtype, now.weights[name].shape) == (tensor.dtype, tensor.shape)
        assert now.weights[name].tobytes() == exact[name].astype(tensor.dtype).tobytes()
        assert np.allclose(now.weights[name], plain[name], rtol=1e-3 if tensor.dtype == np.float16 else 1e-5, atol=1e-5)
    assert (now.slots, now.step) == (STATE.slots, 5)
    for each, copy in zip(given, copies, strict=True):
        assert all(each.weights[name].tobytes() == copy[name].tobytes() for name in copy)  # inputs are left alone


def test_in_float64_krum_sees_what_float32_cannot():
    rng = np.random.default_rng(0)
    model = rng.normal(size=10_000) * 10  # |model|^2 is 10^6, whose last bit in float32 is .06
    offsets = [0.0, 1e-4, -1e-4, 2e-3, -9e-3]  # times sqrt(10^4): distances^2 of 10^-4 and more; site0 is in the middle
    given = [update(i, model + offset, dtype=np.float64) for i, offset in enumerate(offsets)]
    assert merged(Krum(), given) == given[0].weights["w"].tolist()
    assert (
        flower_alone(flower.Krum(num_malicious_nodes=1), given, np.float32)["w"].tolist()
        != given[0].weights["w"].astype(np.float32).tolist()
    )


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_nothing_of_flowers_is_needed_around_it(rule, monkeypatch):
    """Fails when the internal way to a Message moves: its `metadata`, and what Metadata takes."""
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, None)
    with pytest.raises(RuntimeError, match="not set"):
        Message(RecordDict(), dst_node_id=1, message_type="train")
    assert "metadata" in inspect.signature(Message.__init__).parameters
    assert merged(rule, updates(*[[0.25, 3]] * rule.min_present)) == [0.25, 3]
    assert (TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id) == (None, None, None)


# What is refused -------------------------------------------------------------------------------------------------------


def test_how_many_sites_each_needs():
    assert [rule.min_present for rule in RULES] == [3, 5, 5, 5, 5, 7]
    assert [Trimmed(beta).min_present for beta in (0.49, 0.25, 0.1, 0.07, 1 / 49)] == [3, 4, 10, 15, 50]
    assert int(1 / 49 * 49) == 0  # why it is not 1 / beta
    assert [Krum(0).min_present, Krum(2).min_present, MultiKrum(1, 9).min_present, Bulyan(2).min_present] == [3, 7, 10, 11]


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_too_few_sites_are_refused(rule):
    few = [*updates(*range(rule.min_present - 1)), update(99, 5, count=0)]
    with pytest.raises(ValueError, match=rf"needs the updates of {rule.min_present} sites, and {rule.min_present - 1} trained"):
        rule.merge(STATE, iter(few), draws)
    with pytest.raises(ValueError, match=rf"^{type(rule).__name__}\(.*and 0 trained in this turn"):
        rule.merge(STATE, iter([]), draws)


def test_updates_of_different_models_are_refused():
    with pytest.raises(ValueError, match="the update of site 'site2' does not hold the same tensors as the others: extra"):
        Median().merge(STATE, [*updates(1, 2), update(2, 3, extra=np.zeros(1))], equal)
    with pytest.raises(ValueError, match=r"site 'site1' sent w as \(2,\), the others as \(\)"):
        Median().merge(STATE, updates(1, [2, 3], 4), equal)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Trimmed(0.0), "beta must be above 0 and below .5, not 0.0"),
        (lambda: Trimmed(0.5), "beta must be above 0 and below .5, not 0.5"),
        (lambda: Krum(-1), "malicious must be a whole number from 0, not -1"),
        (lambda: Bulyan(1.5), "malicious must be a whole number from 0, not 1.5"),
        (lambda: MultiKrum(1, 0), "keep must be a whole number from 1, not 0"),
        (lambda: MultiKrum(True), "malicious must be a whole number from 0, not True"),
    ],
)
def test_settings_that_mean_nothing_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
