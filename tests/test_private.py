"""Noised updates by hand, against Flower itself, and what they are said to cost."""

import stat
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg

from configs.schema import Run
from run_sim import main
from server.conduct import conduct
from server.secret import secret_of
from server.strategy import strategy_of
from simulations.engines import simulate
from strategies.anchored import Anchored
from strategies.average import Average
from strategies.base import State, Update
from strategies.private import PRIVACY, RELEASES, Private, _arrays, _grown, epsilon, noise_of
from strategies.shares import everything
from strategies.steps import Momentum
from strategies.strategy import Strategy
from strategies.weighs import equal
from tests.fakes import Fake, FakeSites, fake_run
from tests.test_borrowed import flower_alone
from tests.test_cli import SMOKE
from tests.test_loop import failing, interrupted, model, rows, timeless
from tests.test_privacy import analytic

SECRET = b"s" * 32
QUIET = 1e-9
"""A noise that no float32 shows."""


def private(rule=None, noise=QUIET, clip=1.0, sites=2, secret=SECRET):
    return Private(rule or Average(), noise, clip, sites, 1e-5, secret)


def update(site, weights, classes=(), rows=(), draws=1, round=1):
    tensors = {name: np.array(value, np.float32) for name, value in weights.items()}
    return Update(site, tensors, {}, draws, 1.0, frozenset(classes), round, rows)


def state(**weights):
    return State({name: np.array(value, np.float32) for name, value in weights.items()})


# By hand ---------------------------------------------------------------------------------------------------------------


def test_each_update_is_clipped_as_a_whole_and_the_mean_is_taken():
    before = state(w=[1.0, 1.0], n=10.0)
    given = [update("a", {"w": [4, 1], "n": 14}), update("b", {"w": [1, 1.5], "n": 10})]
    now = private(clip=1.0).merge(before, iter(given), equal)
    # a moves by (3, 0) and 4, a norm of 5: a fifth of that counts; b by (0, .5) and 0, which is short enough.
    assert now.weights["w"].tolist() == pytest.approx([1 + 0.6 / 2, 1 + 0.5 / 2])
    assert now.weights["n"].tolist() == pytest.approx(10 + 0.8 / 2)  # a number without dimensions is clipped too
    assert {(tensor.dtype, tensor.shape) for tensor in now.weights.values()} == {(np.dtype("f4"), (2,)), (np.dtype("f4"), ())}
    assert (now.step, now.slots[PRIVACY][RELEASES].tolist()) == (1, [1])
    assert (given[0].weights["w"].tolist(), before.weights["n"].tolist()) == ([4, 1], 10)  # inputs are left alone


def test_updates_that_change_nothing_get_noise_of_the_said_deviation():
    model = np.random.default_rng(0).normal(size=(40, 500)).astype(np.float32)
    given = [update(site, {"w": model}) for site in "abcd"]
    now = private(noise=2.0, clip=0.3, sites=4).merge(state(w=model), given, equal)
    noise = now.weights["w"] - model
    assert noise.std() == pytest.approx(2.0 * 0.3 / 4, rel=0.03) and abs(noise.mean()) < 0.005
    with pytest.raises(ZeroDivisionError):  # why there is a mark: Flower alone divides by the norm of a change
        flower_alone(flower(2.0, 0.3, 4, {"w": model}), given, np.float64)


def test_a_site_that_trained_on_nothing_is_not_in_the_mean():
    given = [update("a", {"w": [0.5]}), update("b", {"w": [9.0]}, draws=0), update("c", {"w": [0.25]})]
    assert private().merge(state(w=[0.0]), given, equal).weights["w"].tolist() == [0.375]
    with pytest.raises(ValueError, match="the noise is made for 3 updates, and 2 have trained"):
        private(sites=3).merge(state(w=[0.0]), given, equal)


def test_merges_work_on_the_noised_mean():
    momentum, anchored = private(Momentum(beta=0.5)), private(Anchored())
    far = [update(site, {"w": [100.0]}) for site in "ab"]
    at = momentum.merge(momentum.merge(state(w=[0.0]), far, equal), far, equal)
    assert at.weights["w"].tolist() == [2.5]  # 1, then 1 + .5 * 1 further
    assert at.slots["velocity"]["w"].tolist() == pytest.approx([1.5]) and at.slots[PRIVACY][RELEASES].tolist() == [2]
    at = anchored.end_stage(anchored.merge(state(w=[0.0]), far, equal), {"w": "body"})
    at = anchored.end_stage(anchored.merge(at, far, equal), {"w": "body"})
    assert at.weights["w"].tolist() == [1.5]  # the mean of 1 and 2
    assert anchored.spent(at)["releases"] == 2


def test_no_noise_enters_a_row_that_nobody_present_annotates():
    roles, classes = {"w": "body", "head": "head"}, ("liver", "spleen", "lung", "kidney")
    before = state(w=[0.0], head=[[1.0], [2.0]])
    heads = {"head": [[1.0], [2.5], [0.7], [0.3]], "w": [0.0]}
    given = [update(site, heads, ("liver", "kidney"), classes) for site in "ab"]
    rule = Strategy(private(noise=1.0, clip=0.1), equal, everything)
    now = rule.merge(before, given, roles, classes).weights["head"]
    assert now[1].tobytes() == before.weights["head"][1].tobytes()  # the spleen's, untaught: as it was
    assert now[2].tolist() == [0.0]  # the lung's, new and untaught: nothing of what the sites hold there
    assert now[0] != 1 and now[3] != 0  # the others have noise
    quiet = Strategy(private(clip=1.0), equal, everything).merge(before, given, roles, classes).weights["head"]
    scale = 1 / np.sqrt(0.5**2 + 0.7**2 + 0.3**2)  # a new row's change is its distance from 0
    assert scale > 1 and quiet[3] == np.float32(0.3)
    tight = Strategy(private(clip=0.1), equal, everything).merge(before, given, roles, classes).weights["head"]
    assert tight[3] == pytest.approx(0.3 * 0.1 * scale)


def test_what_stays_at_home_is_neither_clipped_nor_noised():
    before = state(w=[0.0], norm=[5.0])
    given = [update(site, {"w": [0.5]}) for site in "ab"]
    now = Strategy(private(noise=1.0), equal, everything).merge(before, given, {"w": "body", "norm": "norm"}, ())
    assert now.weights["norm"].tolist() == [5.0] and now.weights["w"] != 0.5


# As Flower does it -----------------------------------------------------------------------------------------------------


def flower(noise, clip, sites, model):
    """Flower's own class, told of the model in Flower's own way: by `configure_train`."""
    theirs = DifferentialPrivacyServerSideFixedClipping(FedAvg(fraction_train=0.0), noise, clip, sites)
    arrays = ArrayRecord({name: Array(np.array(tensor, np.float64)) for name, tensor in model.items()})
    assert theirs.configure_train(1, arrays, ConfigRecord(), None) == []
    return theirs


@pytest.mark.parametrize("seed", range(5))
def test_the_result_is_flowers_with_the_same_seed(seed):
    rng = np.random.default_rng(seed)
    shapes = {"conv": (4, 2, 3, 3, 3), "bias": (4,), "head": (3, 4, 1, 1, 1)}
    before = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    sites = [{name: tensor + 10.0**-i * rng.normal(size=tensor.shape) for name, tensor in before.items()} for i in range(4)]
    given = [update(f"s{i}", weights) for i, weights in enumerate(sites)]
    rule = private(noise=0.7, clip=1.5, sites=4)
    now = rule.merge(State(before), iter(given), equal)
    base = {name: _grown(before[name], tensor) for name, tensor in given[0].weights.items()}
    with noise_of(rule._seed(base, given)):
        theirs = flower_alone(flower(0.7, 1.5, 4, before), given, np.float64)
    for name, tensor in theirs.items():
        assert now.weights[name].tobytes() == tensor.astype(np.float32).tobytes()
        assert np.abs(now.weights[name] - before[name]).max() > 0.1  # and it is not the model itself


def test_flower_still_keeps_the_model_where_it_is_put():
    """Fails when the one attribute moves that is set here instead of by `configure_train`."""
    arrays = _arrays({"w": np.ones(2)}, 0.0)
    theirs = DifferentialPrivacyServerSideFixedClipping(FedAvg(fraction_train=0.0), 1.0, 1.0, 2)
    assert list(vars(theirs)["current_arrays"]) == []
    theirs.configure_train(1, arrays, ConfigRecord(), None)
    assert theirs.current_arrays is arrays


# Noise is the server's own -----------------------------------------------------------------------------------------------


def noised(secret=SECRET, value=0.5, round=1):
    given = [update(site, {"w": [value, 0.0]}, round=round) for site in "ab"]
    return private(noise=1.0, secret=secret).merge(state(w=[0.0, 0.0]), given, equal).weights["w"]


def test_the_same_updates_get_the_same_noise_and_others_get_others():
    once = noised()
    assert noised().tobytes() == once.tobytes()
    other = [noised(secret=b"t" * 32), noised(round=2), noised(value=0.25)]
    assert len({float(weights[1]) for weights in (once, *other)}) == 4  # the second number is noise alone


def test_numpys_own_generator_is_left_as_it_was():
    np.random.seed(5)
    expected = np.random.normal(size=3).tolist()
    np.random.seed(5)
    first = [np.random.normal()]
    noised()
    with pytest.raises(RuntimeError), noise_of(np.ones(8, np.uint32)):
        np.random.normal()
        raise RuntimeError
    assert [*first, *np.random.normal(size=2).tolist()] == expected


def test_without_a_secret_there_is_no_noise_to_be_had():
    with pytest.raises(ValueError, match="drawn from the server's secret, and there is none"):
        noised(secret=b"")


def test_the_secret_is_drawn_once_for_its_owners_eyes(tmp_path):
    first = secret_of(tmp_path)
    assert len(first) == 32 and secret_of(tmp_path) == first
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600
    (tmp_path / "b").mkdir()
    assert secret_of(tmp_path / "b") != first
    (tmp_path / "secret").write_bytes(b"short")
    with pytest.raises(ValueError, match="secret has 5 bytes, a secret has 32"):
        secret_of(tmp_path)


# What it costs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [0.5, 1, 4])
@pytest.mark.parametrize("delta", [1e-5, 1e-3])
def test_epsilon_is_that_of_the_gaussian_mechanism(noise, delta):
    assert epsilon(noise, 1, delta) == pytest.approx(analytic(noise, delta), rel=1e-6)
    assert epsilon(noise, 9, delta) == pytest.approx(analytic(noise / 3, delta), rel=1e-6)
    assert epsilon(noise, 0, delta) == 0


def test_nine_releases_cost_what_an_accountant_of_compositions_says():
    import dp_accounting
    from dp_accounting import pld

    accountant = pld.PLDAccountant(value_discretization_interval=1e-3)
    accountant.compose(dp_accounting.SelfComposedDpEvent(dp_accounting.GaussianDpEvent(3.0), 9))
    assert epsilon(3.0, 9, 1e-5) == pytest.approx(accountant.get_epsilon(1e-5), rel=2e-3)
    assert epsilon(3.0, 9, 1e-5) == pytest.approx(4.3772, abs=1e-3)  # multiplier 1, one release


# A whole run -------------------------------------------------------------------------------------------------------------


def noisy(rounds=4, **more: Any) -> Run:
    privacy = {"noise": 0.5, "clip": 2.0, "sites": 2, "delta": 1e-4}
    arrivals = {"visits": {"a": [[1, None]], "b": [[1, None]]}, "rounds": rounds}
    return fake_run(strategy={"merge": "momentum", "weigh": "equal", "privacy": privacy} | more, arrivals=arrivals)


def folder(tmp_path, name):
    place = tmp_path / name
    place.mkdir()
    (place / "secret").write_bytes(SECRET)
    return place


def pair(changes=None):
    return FakeSites({"a": Fake(0.1), "b": Fake(0.3)}, changes or {})


def test_a_run_says_what_its_releases_cost(tmp_path):
    place = folder(tmp_path, "run")
    conduct(pair(), noisy(), place)
    spent = rows(place, "privacy", "round", "releases", "delta", "epsilon")
    assert [row[:3] for row in spent] == [(1, 1, 1e-4), (2, 2, 1e-4), (3, 3, 1e-4), (4, 4, 1e-4)]
    assert [row[3] for row in spent] == pytest.approx([analytic(0.5 / n**0.5, 1e-4) for n in (1, 2, 3, 4)], rel=1e-6)
    (tmp_path / "plain").mkdir()
    conduct(pair(), noisy(privacy=None), tmp_path / "plain")
    apart = np.array(model(place)[0]["body"]) - model(tmp_path / "plain")[0]["body"]
    assert 0 < np.abs(apart).max() < 20  # four rounds of noise of deviation .5, with momentum
    assert rows(tmp_path / "plain", "privacy") == [] and not (tmp_path / "plain" / "secret").exists()


@pytest.mark.parametrize("stop", [("a", "train", 1), ("b", "train", 3), ("a", "evaluate", 4)])
def test_a_private_run_taken_up_again_is_the_undisturbed_run(tmp_path, stop):
    undisturbed, stopped = folder(tmp_path, "undisturbed"), folder(tmp_path, "stopped")
    conduct(pair(), noisy(), undisturbed)
    with pytest.raises(KeyboardInterrupt):
        conduct(pair({stop: interrupted}), noisy(), stopped)
    conduct(pair(), noisy(), stopped)
    assert (stopped / "model.safetensors").read_bytes() == (undisturbed / "model.safetensors").read_bytes()
    assert timeless(stopped) == timeless(undisturbed)


def test_a_round_with_too_few_updates_costs_nothing_and_changes_nothing(tmp_path):
    place = folder(tmp_path, "run")
    sites = pair({("b", "train", 2): failing()})
    conduct(sites, noisy(3), place)
    reason = "the merge needs the updates of 2 sites and has 1: the model stays as it was"
    assert (2, "refused", reason) in rows(place, "failure", "round", "kind", "reason")
    assert rows(place, "privacy", "round", "releases") == [(1, 1), (3, 2)]


def test_a_simulations_secret_is_the_seeds(tmp_path, make_run):
    privacy = {"clip": 1.0, "sites": 1}
    for name in "ab":
        (tmp_path / name).mkdir()
        simulate(make_run(strategy={"weigh": "equal", "privacy": privacy}, engine={"name": "local"}), tmp_path / name)
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()
    assert (tmp_path / "a" / "secret").read_bytes() not in {(tmp_path / "a/sites/tiny/secret").read_bytes(), b""}


# What is refused -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"merge": "cyclic"}, "merge cyclic takes one site at a time"),
        ({"merge": "median"}, "merge median takes several updates"),
        ({"merge": "krum", "merge_args": {"malicious": 0}}, "merge krum takes several updates"),
        ({"weigh": "draws"}, "weigh must be equal, not draws"),
        ({"share": "labelled"}, "share labelled averages a head row over fewer sites than the noise is made for"),
        ({"objective": "scaffold"}, "objective scaffold sends tensors of its own beside the update"),
        ({"objective": "ewc"}, "objective ewc sends tensors of its own beside the update"),
    ],
)
def test_what_noise_does_not_cover_is_refused(choices, words):
    with pytest.raises(ValueError, match=f"^strategy.privacy: .*{words}"):
        strategy_of(noisy(**choices))


def test_the_index_would_go_past_the_noise():
    with pytest.raises(ValueError, match="strategy.privacy: a site's sketches steer what others train on, past all noise"):
        fake_run(strategy={"weigh": "equal", "privacy": {"clip": 1.0, "sites": 2}}, index={"on": True})


@pytest.mark.parametrize("merge", ["average", "momentum", "adam", "yogi", "anchored"])
@pytest.mark.parametrize("share", ["all", "not-norm", "backbone"])
def test_what_noise_covers_is_allowed(merge, share):
    rule = strategy_of(noisy(merge=merge, share=share, objective="prox"), SECRET)
    assert (rule.min_present, rule.turns("ba")) == (2, [["a", "b"]])


def test_a_schedule_that_the_noise_is_not_made_for_is_refused(capsys):
    def told(*edits):
        assert main(["check", SMOKE, *(word for edit in ("strategy.weigh=equal", *edits) for word in ("--set", edit))]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    line = told("strategy.privacy={clip: 1.0, sites: 2}")
    assert "strategy.privacy.sites: 2, and in round 1 there is 1 to learn (arrivals says who is there)" in line
    line = told("strategy.privacy={clip: 1.0, sites: 1}")
    assert "strategy.privacy.sites: 1, and in round 3 there are 2 to learn" in line
    assert "strategy.privacy.noise" in told("strategy.privacy={clip: 1.0, sites: 1, noise: 0}")
