"""Averages that a person can check, and a contract over every choice by name."""

import gc
from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
import yaml

from clients.objectives import make_objective
from configs.load import PRESETS, load_run
from configs.strategy import Strategy as Choices
from server.strategy import strategy_of
from strategies import HALVES, MERGES, SHARES, WEIGHS, Strategy, _find, make_strategy
from strategies.base import State, Update, average
from strategies.weighs import draws, equal

PRESENT = ["a", "b", "c"]


@pytest.fixture(scope="module", autouse=True)
def nothing_old_to_collect():
    """Flower collects garbage with every array it unpacks, which takes a tenth of a second where torch is loaded."""
    gc.freeze()
    yield
    gc.unfreeze()


def update(site: str, value: float | Sequence[float], draws: int = 1, dtype: type = np.float32, **more: np.ndarray) -> Update:
    return Update(site, {"w": np.array(value, dtype), **more}, {}, draws, 1.0, frozenset(), 1)


def test_the_average_by_hand():
    merged = average([update("a", [1, 4], 1), update("b", [5, 0], 3)], draws)
    assert merged["w"].tolist() == [4.0, 1.0]  # (1 * 1 + 3 * 5) / 4, (1 * 4 + 3 * 0) / 4
    assert average([update("a", [1, 4], 1), update("b", [5, 0], 3)], equal)["w"].tolist() == [3.0, 2.0]


def test_sums_are_in_float64_and_the_result_in_the_tensors_own_type():
    large, small = float(2**24), 1.0  # in float32, 2**24 + 1 is 2**24
    merged = average([update("a", large), update("b", small), update("c", small), update("d", -large)], equal)["w"]
    assert (merged.tolist(), merged.dtype) == (0.5, np.float32)
    half = average([update("a", 60000, dtype=np.float16), update("b", 60000, dtype=np.float16)], equal)["w"]
    assert (half.dtype, half.tolist()) == (np.float16, 60000)  # the sum overflows float16


@pytest.mark.parametrize("seed", range(20))
def test_equal_values_stay_the_same_bits_whatever_the_weights(seed):
    rng = np.random.default_rng(seed)
    value = rng.normal(size=50) * 10.0 ** rng.integers(-30, 30, 50)
    counts = rng.integers(1, 10**6, 7)
    merged = average([update(str(i), value, int(n)) for i, n in enumerate(counts)], draws)
    assert merged["w"].tobytes() == value.astype(np.float32).tobytes()
    uneven = average([update(str(i), value, 1) for i in range(5)], lambda u: 0.1 * (1 + int(u.site)))
    assert uneven["w"].tobytes() == value.astype(np.float32).tobytes()


def test_an_update_without_weight_is_not_even_looked_at():
    nothing = update("b", [np.nan, np.nan], 0)
    assert average([update("a", [1, 2], 5), nothing], draws)["w"].tolist() == [1.0, 2.0]
    assert average([nothing, update("c", [1, 2], 5)], equal)["w"].tolist() == [1.0, 2.0]


def test_a_merge_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no update has any weight"):
        average([update("a", 1, 0)], draws)
    with pytest.raises(ValueError, match="no update has any weight"):
        average([], equal)


def test_updates_of_different_models_are_refused():
    with pytest.raises(ValueError, match="the update of site 'b' does not hold the same tensors as the others: extra"):
        average([update("a", [1, 2]), update("b", [1, 2], extra=np.zeros(1))], equal)
    with pytest.raises(ValueError, match=r"site 'b' sent w as \(3,\), the others as \(2,\)"):
        average([update("a", [1, 2]), update("b", [1, 2, 3])], equal)


def test_inputs_are_left_alone():
    first, second = update("a", [1, 2]), update("b", [3, 4])
    average([first, second], equal)
    assert (first.weights["w"].tolist(), second.weights["w"].tolist()) == ([1, 2], [3, 4])


# The contract: a new choice is tested by being listed --------------------------------------------------------------------


@pytest.mark.parametrize("name", MERGES)
def test_a_merge_asks_each_present_site_once_a_round(name):
    rule = make_strategy(name, "draws", "all")
    for present in (PRESENT, ["a"], []):
        turns = rule.turns(reversed(present))
        assert sorted(site for turn in turns for site in turn) == present
    assert rule.merge_rule.min_present >= 1


def many(rule: Strategy) -> list[str]:
    """As many sites as the merge needs, two at least."""
    return [f"s{i:02d}" for i in range(max(2, rule.merge_rule.min_present))]


def through_a_round(
    rule: Strategy, state: State, updates: Sequence[Update], roles: dict[str, str], classes: Sequence[str]
) -> State:
    for turn in rule.turns(update.site for update in updates):
        state = rule.merge(state, [each for each in updates if each.site in turn], roles, classes, [frozenset(classes)])
    return state


@pytest.mark.parametrize("name", MERGES)
def test_a_merge_is_a_value_of_the_same_tensors(name):
    state = State({"w": np.array([1.0, 2.0], np.float32)})
    rule = make_strategy(name, "draws", "all")
    updates = [update(site, [2 + i, 2 - i], 1) for i, site in enumerate(many(rule))]
    merged, again = (through_a_round(rule, state, updates, {}, ()) for _ in range(2))
    assert merged.weights["w"].tobytes() == again.weights["w"].tobytes()
    assert {n: (t.shape, t.dtype) for n, t in merged.weights.items()} == {"w": ((2,), np.float32)}
    assert (merged.step, state.step, state.weights["w"].tolist()) == (len(rule.turns(many(rule))), 0, [1.0, 2.0])


def fitting() -> list[tuple[str, str, str]]:
    """Every merge with every share and every objective that the server takes part in, but those that are refused."""
    found = []
    for choice in product(MERGES, SHARES, ("plain", *HALVES)):
        try:
            make_strategy(choice[0], "draws", choice[1], objective=choice[2])
        except ValueError:
            continue
        found.append(choice)
    return found


def test_few_choices_do_not_fit_together():
    every = set(product(MERGES, SHARES, ("plain", *HALVES)))
    refused = {(merge, share, half) for merge, share, half in every if merge == "cyclic" and half == "scaffold"}
    refused |= {choice for choice in every if choice[0] in ("krum", "multikrum", "bulyan") and choice[1] == "labelled"}
    robust = ("median", "trimmed", "krum", "multikrum", "bulyan")
    refused |= {choice for choice in every if choice[0] in robust and choice[2] in HALVES}
    refused |= {choice for choice in every if choice[1] == "nothing" and choice[::2] != ("average", "plain")}
    assert set(fitting()) == every - refused


@pytest.mark.parametrize("merge", ["cyclic", "median", "trimmed", "krum", "bulyan"])
def test_a_weight_that_would_change_nothing_is_refused(merge):
    with pytest.raises(ValueError, match=f"merge {merge} weighs no updates, so weigh uniqueness would change nothing"):
        make_strategy(merge, "uniqueness", "all")
    make_strategy("multikrum", "uniqueness", "all")


@pytest.mark.parametrize(("merge", "share", "objective"), fitting())
def test_a_row_that_nobody_present_annotates_stays_bit_for_bit_under_every_merge(merge, share, objective):
    """Three rounds: all classes taught, then liver alone, so that momentum has something to carry on."""
    rule, classes = make_strategy(merge, "draws", share, objective=objective), ("liver", "spleen")
    roles = {"w": "body", "n": "norm", "head": "head"}
    shapes = {"w": (3,), "n": (2,), "head": (2, 4)}
    rng, state = np.random.default_rng(1), State({name: np.ones(shape, np.float32) for name, shape in shapes.items()})

    def tensors() -> dict[str, np.ndarray]:
        sent = [name for name in shapes if roles[name] not in rule.share.home]
        return {name: rng.normal(size=shapes[name]).astype(np.float32) for name in sent}

    def taught(annotated: frozenset[str], round: int) -> list[Update]:
        extra = tensors if objective in HALVES else dict
        return [Update(site, tensors(), extra(), 2, 1.0, annotated, round, classes) for site in many(rule)]

    before = after = rule.end_stage(through_a_round(rule, state, taught(frozenset(classes), 1), roles, classes), roles)
    for round in (2, 3):
        after = through_a_round(rule, after, taught(frozenset({"liver"}), round), roles, classes)
    after = rule.end_stage(after, roles)
    assert after.weights["head"][1].tobytes() == before.weights["head"][1].tobytes()
    assert (after.weights["head"][0].tobytes() == before.weights["head"][0].tobytes()) == ("head" in rule.share.home)
    assert (after.weights["w"].tobytes() == before.weights["w"].tobytes()) == ("body" in rule.share.home)
    for slot, held in before.slots.items():
        if "head" in held:
            assert after.slots[slot]["head"][1].tobytes() == held["head"][1].tobytes(), slot


@pytest.mark.parametrize("name", MERGES)
def test_a_head_grows_by_a_row_under_every_merge(name):
    """The old rows go on as they would have; the new one is what the sites made of it."""
    rule, roles = make_strategy(name, "draws", "all"), {"head": "head"}

    def updates(rows: int) -> list[Update]:
        head = np.arange(2.0 * rows, dtype=np.float32).reshape(rows, 2)
        return [Update(site, {"head": head}, {}, 2, 1.0, frozenset({"liver", "spleen"}), 1) for site in many(rule)]

    state = through_a_round(rule, State({"head": np.zeros((1, 2), np.float32)}), updates(1), roles, ("liver",))
    narrow = through_a_round(rule, state, updates(1), roles, ("liver",))
    wide = through_a_round(rule, state, updates(2), roles, ("liver", "spleen"))
    assert wide.weights["head"][:1].tobytes() == narrow.weights["head"].tobytes()
    assert wide.weights["head"][1].tolist() == [2.0, 3.0]
    ended = rule.end_stage(rule.end_stage(state, roles), roles)
    assert ended.weights["head"].shape == (1, 2)


def test_the_average_of_one_update_is_that_update_and_slots_live_on():
    state = State({"w": np.zeros(2, np.float32)}, {"anchor": {"w": np.ones(2)}}, 4)
    merged = make_strategy("average", "draws", "all").merge(state, [update("a", [0.1, -7], 3)], {}, ())
    assert merged.weights["w"].tobytes() == np.array([0.1, -7], np.float32).tobytes()
    assert (merged.slots["anchor"]["w"].tolist(), merged.step) == ([1, 1], 5)


@pytest.mark.parametrize("name", WEIGHS)
def test_a_weight_is_never_negative_and_nothing_for_nothing(name):
    weigh = _find("weigh", name, WEIGHS)
    assert weigh(update("a", 1, 7)) > 0
    assert weigh(update("a", 1, 0)) == 0


@pytest.mark.parametrize("choice", ["merge", "weigh", "share"])
def test_an_unknown_choice_names_the_nearest(choice):
    given = {"merge": "average", "weigh": "draws", "share": "all"}
    right = given[choice]
    with pytest.raises(ValueError, match=f"strategy.{choice}: there is no '{right}x'; did you mean '{right}'?"):
        make_strategy(**given | {choice: right + "x"})


def test_every_preset_can_be_made(tmp_path):
    for name, choices in yaml.safe_load(PRESETS.read_text()).items():
        (tmp_path / "run.yaml").write_text(f"strategy: {name}\n")
        run = load_run(tmp_path / "run.yaml")
        assert run.strategy == Choices(**choices)
        strategy_of(run)
        make_objective(run.strategy.objective, run.strategy.objective_args)
