"""Shares: who may change what, by hand and under every merge; and what stays at a real site when it is told to."""

from itertools import product

import numpy as np
import pytest

from clients.model import HEAD, roles
from clients.networks import network
from clients.objectives.distill import Distill
from clients.snapshot import before
from configs import strategy as recipe
from server.conduct import conduct
from server.tensors import read_tensors
from simulations.local import LocalSites
from strategies import MERGES, SHARES, make_strategy
from strategies.base import State, Update
from tests.site_orders import content, initial, order
from tests.test_strategies import many, nothing_old_to_collect, through_a_round

__all__ = ["nothing_old_to_collect"]  # a fixture

ROLES = {"w": "body", "n": "norm", "head": "head"}
CLASSES = ("liver", "spleen", "kidney")


def update(site, value, classes=CLASSES, draws=1, rows=CLASSES):
    """A site that sends the same number everywhere."""
    tensors = {"w": np.full(2, value), "n": np.full(2, value), "head": np.full((len(rows), 1), value)}
    weights = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
    return Update(site, weights, {}, draws, 1.0, frozenset(classes), 1, tuple(rows))


def state():
    return State({"w": np.zeros(2, np.float32), "n": np.full(2, 0.1, np.float32), "head": np.full((3, 1), 0.3, np.float32)})


def merged(share, *updates, merge="average", weigh="draws"):
    made = make_strategy(merge, weigh, share).merge(state(), updates, ROLES, CLASSES)
    return {name: tensor.ravel().tolist() for name, tensor in made.weights.items()}


HOME = {"all": (), "not-norm": ("norm",), "backbone": ("head",), "labelled": (), "nothing": ("body", "norm", "head")}


@pytest.mark.parametrize("name", SHARES)
def test_a_share_says_what_stays_and_owns_the_rest(name):
    share = make_strategy("average", "draws", name).share
    assert share.home == HOME[name]
    for role in ("body", "norm", "head"):
        owned = share.owned("t", role, update("a", 1.0, ["liver"]))
        if isinstance(owned, np.ndarray):
            assert share.by_rows
            assert (owned.dtype, owned.tolist()) == (bool, [True, False, False])
        else:
            assert owned == (role not in share.home)


@pytest.mark.parametrize(
    ("merge", "share"),
    sorted(
        {*product(MERGES, SHARES)}
        - {*product(("krum", "multikrum", "bulyan"), ["labelled"])}
        - {*product({*MERGES} - {"average"}, ["nothing"])}
    ),
)
def test_what_no_update_owns_stays_bit_for_bit_under_every_merge(merge, share):
    """Even if a site sends it all the same. Liver is annotated by all, spleen by nobody, kidney by the first site alone."""
    rule, sent = make_strategy(merge, "draws", share), []
    for i, site in enumerate(many(rule)):
        sent.append(update(site, 1.0 + i, ["liver", "kidney"] if i == 0 else ["liver"]))
    after = through_a_round(rule, state(), sent, ROLES, CLASSES)
    after = rule.end_stage(through_a_round(rule, after, sent, ROLES, CLASSES), ROLES)
    for name, role in ROLES.items():
        assert (after.weights[name].tobytes() == state().weights[name].tobytes()) == (role in rule.share.home), name
        assert after.weights[name].dtype == np.float32
    assert after.weights["head"][1].tobytes() == state().weights["head"][1].tobytes()
    for slot, tensors in after.slots.items():
        if slot != "anchor":  # which is the model itself
            assert not [name for name in tensors if ROLES.get(name) in rule.share.home], slot


def test_ffl_averages_the_body_and_leaves_the_head():
    """The published code's last version averages nothing, because of a condition that is always true."""
    assert merged("backbone", update("a", 2.0), update("b", 6.0, draws=3), weigh="equal") == {
        "w": [4.0, 4.0],
        "n": [4.0, 4.0],  # the backbone's normalisation is averaged too
        "head": pytest.approx([0.3, 0.3, 0.3]),
    }


def test_fedbn_averages_all_but_the_norms():
    made = merged("not-norm", update("a", 2.0), update("b", 6.0))
    assert made == {"w": [4.0, 4.0], "n": pytest.approx([0.1, 0.1]), "head": [4.0, 4.0, 4.0]}


def test_a_row_is_the_mean_over_those_that_annotate_it():
    sent = update("a", 1.0, ["liver"]), update("b", 5.0, ["liver", "spleen"], draws=3), update("c", 9.0, ["spleen"], draws=0)
    made = merged("labelled", *sent)
    assert made["w"] == [4.0, 4.0]  # (1 + 3 * 5) / 4: c has not trained
    assert made["head"] == [4.0, 5.0, pytest.approx(0.3)]  # spleen by b alone, kidney by nobody
    assert merged("all", *sent)["head"] == [4.0, 4.0, pytest.approx(0.3)]


def test_the_row_of_an_annotator_that_has_not_trained_stays():
    made = merged("labelled", update("a", 1.0, ["liver"]), update("b", 5.0, ["spleen"], draws=0))
    assert made["head"] == [1.0, pytest.approx(0.3), pytest.approx(0.3)]


@pytest.mark.parametrize("merge", ["momentum", "adam"])
def test_a_row_steps_along_its_annotators_alone(merge):
    """What b sends of liver, which it does not annotate, counts for nothing."""
    one, other = (merged("labelled", update("a", 1.0, ["liver"]), update("b", v, ["spleen"]), merge=merge) for v in (3.0, 7.0))
    assert one["head"][0] == other["head"][0] and one["head"][1] != other["head"][1] and one["w"] != other["w"]


def test_the_median_of_a_row_is_over_those_that_annotate_it():
    sent = [
        update("a", 1.0, ["liver"]),
        update("b", 2.0, CLASSES[:2]),
        update("c", 9.0, CLASSES[:2]),
        update("d", 4.0, ["kidney"]),
    ]
    made = merged("labelled", *sent, merge="median", weigh="equal")
    assert made["w"] == [3.0, 3.0]  # of 1, 2, 4, 9
    assert made["head"] == [2.0, 5.5, 4.0]  # of 1, 2, 9; of 2, 9; of 4


def test_the_trimmed_mean_of_a_row_is_over_those_that_annotate_it():
    sent = [update(str(i), float(v), ["liver"] if i < 5 else ["spleen"]) for i, v in enumerate([0, 1, 2, 3, 100, 7, 9])]
    made = merged("labelled", *sent, merge="trimmed", weigh="equal")
    assert made["head"] == [2.0, 8.0, pytest.approx(0.3)]  # of 0, 1, 2, 3, 100 without the ends; of 7, 9 nothing is cut


def test_a_new_row_that_no_present_site_annotates_begins_as_the_sites_have_it():
    """Both know the row's seeded first value, and neither has trained it."""
    rule = make_strategy("average", "draws", "labelled")
    narrow = State({"head": np.zeros((1, 1), np.float32)})
    sent = [
        Update(s, {"head": np.array([[2.0], [0.7]], np.float32)}, {}, 1, 1.0, frozenset({"liver"}), 1, CLASSES[:2])
        for s in "ab"
    ]
    assert rule.merge(narrow, sent, {"head": "head"}, CLASSES[:2]).weights["head"].tolist() == [[2.0], [pytest.approx(0.7)]]


@pytest.mark.parametrize(
    ("merge", "share", "objective", "line"),
    [
        *(
            (
                merge,
                "labelled",
                "plain",
                f"merge {merge} takes a site's update whole or not at all, share labelled takes it row",
            )
            for merge in ("krum", "multikrum", "bulyan")
        ),
        ("cyclic", "all", "scaffold", "scaffold mends the drift between sites that train side by side; with merge cyclic they"),
        (
            "average",
            "backbone",
            "condist",
            "condist learns other sites' classes from the incoming head, and with share backbone",
        ),
    ],
)
def test_choices_that_do_not_fit_are_refused_with_the_reason(merge, share, objective, line):
    with pytest.raises(ValueError, match=f"^strategy: .*{line}"):
        make_strategy(merge, "draws", share, objective=objective)


# At a real site -----------------------------------------------------------------------------------------------------------


def kept_at_home(role):
    """Names of a tiny site's tensors that stay with it."""
    found = roles(network("UNet", '{"channels": [4, 8], "strides": [2], "num_res_units": 0}', ("liver", "spleen"), 0, "cpu"))
    return {name for name, its in found.items() if its == role}


@pytest.mark.parametrize("role", ["head", "norm"])
def test_what_stays_at_home_is_not_in_the_reply_and_is_back_after_a_restart(make_site, role):
    site, names = make_site(), kept_at_home(role)
    weights = initial(site)
    assert names and names < weights.keys()
    reply = site.answer(order(home=(role,)), weights)
    assert reply.weights.keys() == weights.keys() - names
    home = before(site.folder / "state", "run1", 2).home
    assert home.keys() == names
    assert all((home[name] != weights[name]).any() for name in names)  # it has been trained
    shared = {**weights, **reply.weights}
    there = site.answer(order(round=2, home=(role,)), shared)
    odd = {**shared, **{name: shared[name] + 1 for name in names}}  # the server's word on it does not matter any more
    again = make_site().answer(order(round=2, home=(role,)), odd)  # another process over the same folder
    assert content(again) == content(there)
    assert content(there) != content(reply)


@pytest.mark.parametrize("role", ["head", "norm"])
def test_a_site_is_evaluated_with_what_stays_at_home(make_site, role):
    site = make_site(evaluate={"surface": False})
    weights = initial(site)
    weights["head.bias"][:] = 0  # so that a good part of the voxels is found at once
    reply = site.answer(order(home=(role,)), weights)
    shared = {**weights, **reply.weights}
    home = before(site.folder / "state", "run1", 2).home
    there = site.answer(order("evaluate", home=(role,)), shared)
    stranger = make_site("stranger", evaluate={"surface": False})

    def dice(reply):
        return [row["dice.all"] for row in reply.rows]

    assert dice(there) == dice(stranger.answer(order("evaluate"), {**shared, **home}))
    assert dice(there) != dice(stranger.answer(order("evaluate"), shared))


def test_a_head_at_home_grows_by_the_classes_that_come(make_site):
    site = make_site()
    weights = initial(site)
    site.answer(order(home=("head",)), weights)
    site.answer(order(round=2, home=("head",), classes=("liver", "spleen", "kidney")), weights)
    first, second = (before(site.folder / "state", "run1", round).home["head.weight"] for round in (2, 3))
    assert (len(first), len(second)) == (2, 3)
    wide = make_site("wide").answer(order("init", 0, classes=("liver", "spleen", "kidney")), {}).weights["head.weight"]
    assert second[2].tobytes() == wide[2].tobytes() and (second[:2] != first).any()


def test_a_head_at_home_was_taught_what_its_site_annotates_once_it_has_trained(make_site, monkeypatch):
    """What others taught is in their heads: there is nothing of it to distil here."""
    site, seen, begin = make_site(strategy={"share": "backbone", "objective": "distill"}), [], Distill.begin
    monkeypatch.setattr(Distill, "begin", lambda self, start: seen.append(start.taught) or begin(self, start))
    wide = {"classes": ("kidney", "liver", "spleen"), "taught": ("kidney", "liver", "spleen"), "home": ("head",)}
    weights = site.answer(order("init", 0, classes=wide["classes"]), {}).weights
    for round in (1, 2):
        site.answer(order(round=round, **wide), weights)
    assert seen == [[], [1, 2]]


def test_in_an_ffl_run_the_body_is_the_mean_and_the_head_never_moves(make_run, tmp_path):
    facts = {"root": str(make_run().sites["tiny"].root)}
    sites = {"a": {**facts, "annotates": ["liver"]}, "b": {**facts, "annotates": ["spleen"]}}
    run = make_run(
        sites=sites,
        strategy={"share": "backbone", "weigh": "equal"},
        arrivals={"visits": {"a": [[1, None]], "b": [[1, None]]}, "rounds": 1},
        evaluate={"surface": False},
    )
    (tmp_path / "run").mkdir()
    local, replies = LocalSites(run, {name: tmp_path / name for name in sites}), {}
    ask = local.ask

    def listening(shared, orders):
        for reply in ask(shared, orders):
            replies[reply.task, reply.site] = reply
            yield reply

    local.ask = listening
    conduct(local, run, tmp_path / "run")
    after, start = read_tensors(tmp_path / "run" / "model.safetensors"), replies["init", "a"].weights
    a, b = (replies["train", site].weights for site in sites)
    assert a.keys() == b.keys() == start.keys() - {*HEAD}
    for name in a:
        np.testing.assert_allclose(after[name], (a[name].astype(float) + b[name]) / 2, rtol=1e-6)
        assert (a[name] != b[name]).any() and (after[name] != start[name]).any()
    for name in HEAD:
        assert after[name].tobytes() == start[name].tobytes()


@pytest.mark.parametrize("name", SHARES)
def test_sites_know_from_their_own_recipe_what_stays_at_home(name):
    assert recipe.HOME.get(name, ()) == make_strategy("average", "draws", name).share.home


def test_a_server_cannot_ask_for_what_stays_at_home(make_site):
    site = make_site(strategy={"share": "backbone"})
    with pytest.raises(ValueError, match="the order would take the head, which this site's recipe"):
        site.answer(order(home=("norm",)), initial(site))
