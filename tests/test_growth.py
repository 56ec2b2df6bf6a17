"""A site with a new class: the head, the optimizer's moments and every slot grow by a row, and older rows keep their bits."""

import numpy as np
import pytest

from clients.snapshot import before
from strategies import HALVES, MERGES, make_strategy
from strategies.base import State, Update
from tests.site_orders import CLASSES, initial, order

HEAD = ("head.weight", "head.bias")
WIDE = (*CLASSES, "kidney")

# At the site ------------------------------------------------------------------------------------------------------------


def rows_of(tensors, name, rows):
    return tensors[name][rows].tobytes()


def moments_after(site, round):
    return before(site.folder / "state", "run1", round + 1).moments


def test_the_head_and_the_moments_of_a_site_grow_by_a_row(make_site):
    """Its replay steps in round 2 are none, so what it replies is what it took up."""
    site = make_site(train={"patch": [16, 16, 16], "batch": 2, "sampling_rate": 2}, stream={"cases_per_round": None})
    first = site.answer(order(), initial(site))
    old = moments_after(site, 1)
    wide = site.answer(order(round=2, classes=WIDE), first.weights)
    assert wide.draws == 0
    seeded = site.answer(order("init", 0, classes=WIDE), {}).weights
    new = moments_after(site, 2)
    assert new.keys() == old.keys()
    for name in HEAD:
        assert len(wide.weights[name]) == len(first.weights[name]) + 1 == 3
        assert rows_of(wide.weights, name, slice(2)) == rows_of(first.weights, name, slice(2))
        assert rows_of(wide.weights, name, 2) == rows_of(seeded, name, 2)
        for moment in ("exp_avg", "exp_avg_sq"):
            key = f"{name}|{moment}"
            assert np.any(old[key]) and rows_of(new, key, slice(2)) == old[key].tobytes()
            assert not np.any(new[key][2]) and len(new[key]) == 3
    for key in (key for key in old if not key.startswith("head") or key.endswith("|step")):
        assert new[key].tobytes() == old[key].tobytes()


# At the server ----------------------------------------------------------------------------------------------------------

ROLES = {"body": "body", "head": "head"}
OF_STAGES = ("anchor", "importance", "around")
"""Slots that speak of the stages that have ended."""
ARRIVED = [frozenset({"liver"}), frozenset({"liver", "spleen"})]


def updates(rule, rows, round, heard=False):
    """From as many sites as the merge needs; the same numbers in the rows that there are, however many there are."""
    found = []
    for k in range(max(2, rule.min_present)):
        rng = np.random.default_rng([round, k])
        body, head = rng.normal(size=3).astype(np.float32), rng.normal(size=(3, 4)).astype(np.float32)[:rows]
        weights, classes = {"body": body, "head": head}, ("liver", "spleen", "kidney")[:rows]
        extra = {name: tensor**2 for name, tensor in weights.items()} if heard else {}
        found.append(Update(f"s{k}", weights, extra, 2, 1.0, frozenset(classes), round, rows=classes))
    return found


def merged(rule, state, rows, round, heard=False):
    given, classes = updates(rule, rows, round, heard), ("liver", "spleen", "kidney")[:rows]
    for turn in rule.turns(update.site for update in given):
        state = rule.merge(state, [update for update in given if update.site in turn], ROLES, classes, ARRIVED)
    return state


def before_growth(rule, heard=False):
    """Two rounds and the end of a stage, so that every slot holds something."""
    state = State({"body": np.zeros(3, np.float32), "head": np.zeros((2, 4), np.float32)})
    state = merged(rule, merged(rule, state, 2, 1, heard), 2, 2, heard)
    return rule.end_stage(state, ROLES)


def assert_grown(wide: State, narrow: State, growing: tuple[str, ...] = ()):
    """In the weights and in every slot: a third row, and the first two as they are without it; those `growing` may wait."""
    assert wide.slots.keys() == narrow.slots.keys()
    for place, tensors in {"weights": wide.weights, **wide.slots}.items():
        other = narrow.weights if place == "weights" else narrow.slots[place]
        assert tensors.keys() == other.keys(), place
        for name, tensor in ((name, np.atleast_1d(tensor)) for name, tensor in tensors.items()):
            rows = np.atleast_1d(other[name]).shape[0]
            assert len(tensor) == rows + (name == "head") or place in growing, (place, name)
            assert tensor[:rows].tobytes() == other[name].tobytes(), (place, name)


@pytest.mark.parametrize("name", MERGES)
def test_every_slot_of_a_merge_grows_by_a_row_and_older_rows_go_on_as_without_it(name):
    rule = make_strategy(name, "draws", "all")
    state = before_growth(rule)
    wide, narrow = merged(rule, state, 3, 3), merged(rule, state, 2, 3)
    if name in ("krum", "multikrum", "bulyan"):  # who measures how far updates lie apart, measures the new row too
        assert (len(wide.weights["head"]), wide.slots) == (3, {})
        return
    assert_grown(wide, narrow, growing=OF_STAGES)
    assert_grown(rule.end_stage(wide, ROLES), rule.end_stage(narrow, ROLES))


@pytest.mark.parametrize("name", HALVES)
def test_every_slot_of_an_objectives_half_grows_by_a_row_and_older_rows_go_on_as_without_it(name):
    rule = make_strategy("average", "draws", "all", objective=name)
    state = before_growth(rule, heard=True)
    assert any("head" in key for slot in state.slots.values() for key in slot), "a slot that could grow"
    wide, narrow = (merged(rule, state, rows, 3, heard=True) for rows in (3, 2))
    assert_grown(wide, narrow, growing=OF_STAGES)
    assert_grown(rule.end_stage(wide, ROLES), rule.end_stage(narrow, ROLES))
    told, less = rule.told(wide), rule.told(narrow)
    assert told.keys() == less.keys()


@pytest.mark.parametrize("name", MERGES)
def test_rows_that_nobody_teaches_any_more_keep_their_bits_while_the_head_grows(name):
    """Only the new class is taught: the old rows of the weights and of every slot are the ones from before."""
    rule = make_strategy(name, "draws", "all")
    state = before_growth(rule)
    given = [Update(**{**vars(each), "classes": frozenset({"kidney"})}) for each in updates(rule, 3, 3)]
    after = state
    for turn in rule.turns(update.site for update in given):
        after = rule.merge(after, [u for u in given if u.site in turn], ROLES, ("liver", "spleen", "kidney"), ARRIVED)
    for place, tensors in {"weights": after.weights, **after.slots}.items():
        old = state.weights if place == "weights" else state.slots.get(place, {})
        if "head" in old:
            assert tensors["head"][:2].tobytes() == old["head"].tobytes(), place
    assert len(after.weights["head"]) == 3
