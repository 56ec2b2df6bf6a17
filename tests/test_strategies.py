"""Averages that a person can check, and a contract over every choice by name."""

import inspect
from collections.abc import Sequence

import numpy as np
import pytest

from configs.load import load_run
from strategies import MERGES, SHARES, WEIGHS, Strategy, _find, make_strategy
from strategies.base import State, Update, average
from strategies.weighs import draws, equal

PRESENT = ["a", "b", "c"]


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
        state = rule.merge(state, (each for each in updates if each.site in turn), roles, classes)
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


@pytest.mark.parametrize("name", MERGES)
def test_a_row_that_nobody_present_annotates_stays_bit_for_bit_under_every_merge(name):
    """Three rounds: all classes taught, then liver alone, so that momentum has something to carry on."""
    rule, roles, classes = make_strategy(name, "draws", "all"), {"w": "body", "head": "head"}, ("liver", "spleen")
    rng, state = np.random.default_rng(1), State({"w": np.ones(3, np.float32), "head": np.ones((2, 4), np.float32)})

    def taught(annotated: frozenset[str]) -> list[Update]:
        tensors = [
            {"w": rng.normal(size=3).astype(np.float32), "head": rng.normal(size=(2, 4)).astype(np.float32)} for _ in many(rule)
        ]
        return [Update(site, weights, {}, 2, 1.0, annotated, 1) for site, weights in zip(many(rule), tensors, strict=True)]

    first = through_a_round(rule, state, taught(frozenset(classes)), roles, classes)
    before, after = first, first
    for _ in range(2):
        after = through_a_round(rule, after, taught(frozenset({"liver"})), roles, classes)
    assert after.weights["head"][1].tobytes() == before.weights["head"][1].tobytes()
    assert after.weights["head"][0].tobytes() != before.weights["head"][0].tobytes()
    for slot, tensors in before.slots.items():
        if "head" in tensors:
            assert after.slots[slot]["head"][1].tobytes() == tensors["head"][1].tobytes(), slot


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


@pytest.mark.parametrize("name", SHARES)
def test_a_share_says_yes_or_no_or_which_rows(name):
    owned = _find("share", name, SHARES)("head.weight", "head", update("a", [1, 2]))
    assert isinstance(owned, bool) or (isinstance(owned, np.ndarray) and owned.dtype == bool)
    assert len(inspect.signature(_find("share", name, SHARES)).parameters) == 3


@pytest.mark.parametrize("choice", ["merge", "weigh", "share"])
def test_an_unknown_choice_names_the_nearest(choice):
    given = {"merge": "average", "weigh": "draws", "share": "all"}
    right = given[choice]
    with pytest.raises(ValueError, match=f"strategy.{choice}: there is no '{right}x'; did you mean '{right}'?"):
        make_strategy(**given | {choice: right + "x"})


def test_every_preset_can_be_made(tmp_path):
    import yaml

    from configs.load import PRESETS

    for name, choices in yaml.safe_load(PRESETS.read_text()).items():
        (tmp_path / "run.yaml").write_text(f"strategy: {name}\n")
        strategy = load_run(tmp_path / "run.yaml").strategy
        assert strategy.model_dump() == {"merge_args": {}, **choices}
        make_strategy(strategy.merge, strategy.weigh, strategy.share, strategy.merge_args)
