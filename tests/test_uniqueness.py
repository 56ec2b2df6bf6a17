"""The uniqueness index on sketches in the plane, whose cosines can be read off, and against a plain reading of its rules."""

import json
from itertools import pairwise
from math import cos, radians
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import default_rng

from server import coverage as coverage_file
from server import nearest as nearest_file
from server.coverage import centres
from server.quotas import split
from server.uniqueness import UniquenessIndex


def at(*degrees):
    """[N, 2] sketches at these angles."""
    angle = np.radians(np.array(degrees, np.float64))
    return np.rint(127 * np.stack([np.cos(angle), np.sin(angle)], axis=1)).astype(np.int8)


def axis(*signed):
    """[N, 3] sketches along the axes: 1, 2, 3 or -1, -2, -3."""
    return np.stack([np.sign(i) * 127 * np.eye(3, dtype=np.int8)[abs(i) - 1] for i in signed]).astype(np.int8)


def index_of(sites, round=1, **settings):
    """{site: {id: degrees}} as an index; every add is taken."""
    index = UniquenessIndex(**settings)
    for site, held in sites.items():
        assert index.add(site, list(held), at(*held.values()), round) is None
    return index


@pytest.fixture
def always_cells(monkeypatch):
    """Past `exact` sketches, cells even where opening most of them is needed."""
    monkeypatch.setattr(nearest_file, "WORTH", 1.0)


def near(value, by=0.01):
    """Rounding to int8 moves a cosine by less than .01."""
    return pytest.approx(value, abs=by)


# What is refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ids", "sketches", "reason"),
    [
        (["a"], [[127, 0]], "sketches must be an array, not list"),
        (["a"], None, "sketches must be an array, not NoneType"),
        (["a"], np.array([[1.0, 0.0]]), "sketches must be int8, not float64"),
        (["a"], np.array([[np.nan, 0.0]], np.float32), "sketches must be int8, not float32"),
        (["a"], np.array([[127, 0]], np.uint8), "sketches must be int8, not uint8"),
        (["a", "b"], at(0)[0], "sketches must be a table of rows, not of shape (2,)"),
        (["a"], at(0)[None], "sketches must be a table of rows, not of shape (1, 1, 2)"),
        ("a", at(0), "ids must be a list of texts"),
        ([7], at(0), "ids must be a list of texts"),
        ([["a"]], at(0), "ids must be a list of texts"),
        (["a"], at(0, 90), "1 ids for 2 sketches"),
        (["a", "b", "a", "a"], at(0, 30, 60, 90), "2 of the 4 ids come twice"),
        (["a" * 101], at(0), "an id of 101 characters; at most 100"),
        (list("abcd"), at(0, 30, 60, 90), "4 sketches, of a site that may keep 3 samples"),
        (["a"], axis(1), "sketches of 3 numbers; the federation's have 2"),
        (["a", "b"], np.array([[127, 0], [0, 0]], np.int8), "sketch 1 is all zeros"),
        (["a"], np.array([[120, 0]], np.int8), "sketch 0 has length 0.94 x 127; within 5% of it is allowed"),
        (["a", "b"], np.array([[127, 0], [100, 90]], np.int8), "sketch 1 has length 1.06 x 127; within 5% of it is allowed"),
        (["a"], np.zeros((1, 0), np.int8), "sketches of 0 numbers; the federation's have 2"),
    ],
)
def test_a_refused_set_changes_nothing(ids, sketches, reason):
    index = index_of({"one": {"x": 0, "y": 40}, "two": {"z": 90}})
    before, tensors = index.state()
    assert index.add("one", ids, sketches, 2, limit=3) == reason
    after, tensors_after = index.state()
    assert after == before and index.score("one").keys() == {"x", "y"}
    np.testing.assert_equal(tensors_after, tensors)


def test_the_first_sketches_must_have_numbers():
    assert UniquenessIndex().add("one", ["a"], np.zeros((1, 0), np.int8), 1) == "sketch 0 is all zeros"


def test_what_is_just_allowed():
    index = UniquenessIndex()
    sketches = np.array([[121, 0], [94, 94]], np.int8)  # .953 and 1.047 times 127
    assert index.add("one", ("a" * 100, ""), sketches, 1, limit=2) is None
    assert index.add("two", [], np.zeros((0, 5), np.int8), 1) is None, "a site may hold nothing, of any size"
    assert index.score("two") == {}


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"duplicate": 0.0}, "index.duplicate must be a cosine above 0 and at most 1, not 0.0"),
        ({"duplicate": 1.1}, "not 1.1"),
        ({"departed": 0}, "index.departed must be at least 1, not 0"),
    ],
)
def test_settings_are_checked(settings, reason):
    with pytest.raises(ValueError, match=reason):
        UniquenessIndex(**settings)


def test_the_sites_array_is_copied():
    index, mine = UniquenessIndex(), at(0)
    index.add("one", ["a"], mine, 1)
    index.add("two", ["b"], at(60), 1)
    before = index.score("one")
    mine[:] = at(60)
    index.add("two", ["b"], at(60), 2)
    assert index.score("one") == before


# Scores ----------------------------------------------------------------------------------------------------------------


def test_scores_by_hand():
    index = index_of({"one": {"a": 0, "b": 180}, "two": {"c": 60, "d": 90}, "three": {"e": 270}})
    assert index.score("one") == {"a": near(0.5), "b": 1.0}, "b is nearest to d and e, at right angles"
    assert index.score("two") == {"c": near(0.5), "d": near(1)}, "its own c, 30 degrees from d, does not count"
    assert index.score("three") == {"e": near(1)}
    found = index.nearest("one")
    assert found["a"] == ("two", "c", near(0.5)) and found["b"][:2] == ("three", "e"), "of equals the first site"
    assert index.summed("one") == near(1.5) and index.effective() == near(4)
    assert index.duplicates() == 0


def test_alone_everything_is_unique():
    index = index_of({"one": {"a": 0, "b": 1}})
    assert index.score("one") == {"a": 1.0, "b": 1.0} and index.nearest("one") == {}
    assert index.effective() == 2.0 and index.duplicates() == 0
    assert index.score("nobody") == {} and index.nearest("nobody") == {} and index.summed("nobody") == 0.0


def test_an_opposite_neighbour_is_a_neighbour_still():
    index = index_of({"one": {"a": 0}, "two": {"b": 180}})
    assert index.score("one") == {"a": 1.0} and index.nearest("one") == {"a": ("two", "b", -1.0)}


def test_a_replacement_replaces():
    index = index_of({"one": {"a": 0, "b": 90}, "two": {"c": 0}})
    assert index.add("one", ["b"], at(60), 2) is None
    assert index.score("one") == {"b": near(0.5)} and index.score("two") == {"c": near(0.5)}


def test_a_duplicate_is_told_to_who_has_held_it_for_fewer_rounds():
    index = UniquenessIndex()
    index.add("two", ["x", "far"], at(0, 60), 1)
    index.add("one", ["y"], at(1), 2)
    assert index.score("one") == {"y": near(0)} and index.nearest("one")["y"][:2] == ("two", "x")
    assert index.score("two") == {"x": 1.0, "far": near(1 - cos(radians(59)))}, "x's only neighbour does not count"
    assert index.duplicates() == 1 and index.effective() == near(1 + 1 - cos(radians(59)))


def test_the_older_side_gets_its_next_neighbour():
    index = UniquenessIndex()
    for round, (site, degrees) in enumerate({"one": 0, "two": 1, "three": 60}.items()):
        index.add(site, ["x"], at(degrees), round)
    assert index.nearest("one")["x"] == ("three", "x", near(0.5))
    assert index.nearest("two")["x"] == ("one", "x", near(1))


def test_between_equals_the_larger_site_is_told():
    index = index_of({"b": {"x": 0}, "a": {"y": 0}})
    assert index.score("a") == {"y": 1.0} and index.score("b") == {"x": 0.0}


def test_held_since_outlives_replacements_but_not_a_gap():
    index = UniquenessIndex()
    index.add("two", ["x"], at(0), 1)
    index.add("one", ["y"], at(0), 2)
    index.add("two", ["x", "z"], at(1, 90), 3)
    assert (index.score("one")["y"], index.score("two")["x"]) == (near(0), 1.0), "two has held x since round 1"
    index.add("two", ["z"], at(90), 4)
    index.add("two", ["x", "z"], at(0, 90), 5)
    assert (index.score("one")["y"], index.score("two")["x"]) == (near(1), 0.0), "two dropped x, and has it again since 5"


def test_the_order_within_a_site_makes_no_difference():
    one, two = index_of({"one": {"a": 0, "b": 180}, "two": {"c": 90}}), index_of({"two": {"c": 90}, "one": {"b": 180, "a": 0}})
    np.testing.assert_equal(one.state(), two.state())
    assert one.coverage("two", 2).tolist() == two.coverage("two", 2).tolist() == at(0, 180).tolist()


def test_the_border_of_duplicates():
    cosine = index_of({"one": {"a": 0}, "two": {"b": 60}}).nearest("one")["a"][2]
    index = index_of({"one": {"a": 0}, "two": {"b": 60}}, duplicate=cosine)
    assert index.duplicates() == 0 and index.score("one") == {"a": 1 - cosine}, "closer than, not as close as"
    index = index_of({"one": {"a": 0}, "two": {"b": 60}}, duplicate=cosine - 1e-9)
    assert index.duplicates() == 1 and index.score("one") == {"a": 1.0} and index.score("two") == {"b": 1 - cosine}


def test_duplicates_are_pairs_across_sites():
    index = index_of({"one": {"a": 0, "b": 1}, "two": {"c": 0, "d": 90}, "three": {"e": 2}})
    assert index.duplicates() == 5, "ac, bc, ae, be, ce; not ab, of one site"
    index.depart("three")
    assert index.duplicates() == 2, "ac, bc"


# Against a plain reading -----------------------------------------------------------------------------------------------


def plainly(sites, since, duplicate):
    """{(site, id): (u, neighbour or None)}, pair by pair, with whole-number products."""
    rows = {
        (site, name): row.astype(int) for site, (names, table) in sites.items() for name, row in zip(names, table, strict=True)
    }
    answer = {}
    for me, mine in rows.items():
        ranked = []
        for you, yours in rows.items():
            cosine = float(mine @ yours) / float(np.sqrt(float((mine @ mine) * (yours @ yours))))
            older = (since[you], you) < (since[me], me)
            if you[0] != me[0] and (cosine <= duplicate or older):
                ranked.append((-cosine, you))
        best = min(ranked, default=(0.0, None))
        answer[me] = (1 - max(0.0, -best[0]), best[1])
    return answer


@st.composite
def federations(draw):
    """A few sites, each with a few sketches in space, some equal, first reported in round 1, 2 or 3."""
    directions = st.sampled_from([tuple(row) for row in default_rng(0).normal(size=(7, 3)).round(1)] + [(1, 0, 0), (1, 0.2, 0)])
    sites = draw(st.dictionaries(st.sampled_from("abcde"), st.lists(directions, max_size=5), min_size=1, max_size=5))
    tables = {}
    for site, rows in sites.items():
        unit = np.array(rows, np.float64).reshape(-1, 3)
        unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-9)
        tables[site] = ([f"i{i}" for i in range(len(rows))], np.rint(127 * unit).astype(np.int8))
    return tables, {site: draw(st.integers(1, 3)) for site in sites}


@given(federations(), st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_every_rule_in_any_order(federation, random):
    tables, rounds = federation
    since = {(site, name): rounds[site] for site, (names, _) in tables.items() for name in names}
    expected = plainly(tables, since, 0.9)
    answers = []
    for exact in (100, 100, 0):  # in two orders, and in cells of which all are opened
        with patch.object(nearest_file, "WORTH", 1.0), patch.object(nearest_file, "needed", lambda *given: 99):
            index = UniquenessIndex(duplicate=0.9, exact=exact)
            for site in random.sample(sorted(tables), len(tables)):
                assert index.add(site, *tables[site], rounds[site]) is None
        assert exact or len(index.state()[1]["centroids_CE"]) or not since
        scores = {(site, name): u for site in tables for name, u in index.score(site).items()}
        names = {(site, name): other[:2] for site in tables for name, other in index.nearest(site).items()}
        covers = {site: index.coverage(site, 3).tolist() for site in tables}
        answers.append((scores, names, index.duplicates(), index.effective(), covers))
    assert answers[0] == answers[1] == answers[2]
    scores, names, count, _, _ = answers[0]
    assert scores == {me: u for me, (u, _) in expected.items()}
    assert names == {me: other for me, (_, other) in expected.items() if other}
    assert_pairs_are_told_once(tables, names, count)


def assert_pairs_are_told_once(tables, names, count):
    rows = {
        (site, name): row.astype(int) for site, (ids, table) in tables.items() for name, row in zip(ids, table, strict=True)
    }
    close = [
        (me, you)
        for me in rows
        for you in rows
        if me < you
        and me[0] != you[0]
        and rows[me] @ rows[you] / np.sqrt(float(rows[me] @ rows[me]) * float(rows[you] @ rows[you])) > 0.9
    ]
    assert count == len(close)
    assert not [pair for pair in close if names.get(pair[0]) == pair[1] and names.get(pair[1]) == pair[0]]


# Departed sites --------------------------------------------------------------------------------------------------------


def test_the_departed_count_for_nobody():
    index = index_of({"one": {"a": 0}, "two": {"b": 0}, "three": {"c": 60}})
    index.depart("one")
    assert index.score("two") == {"b": near(0.5)} and index.score("one") == {} and index.effective() == near(1)
    index.depart("one")
    index.depart("nobody")
    assert index.orphans("one") == frozenset() and index.orphans("two") == {"b"}


def test_a_stand_in_is_bound_kept_and_bound_again():
    index = index_of({"gone": {"g": 0}, "one": {"a": 20, "b": 90}, "two": {"c": 40}})
    assert index.orphans("one") == frozenset(), "nothing is orphaned while its site is here"
    index.depart("gone")
    assert (index.orphans("one"), index.orphans("two")) == ({"a"}, frozenset())
    index.add("two", ["c", "d"], at(40, 0), 2)
    assert (index.orphans("one"), index.orphans("two")) == ({"a"}, frozenset()), "a nearer one changes nothing"
    index.add("one", ["a", "b"], at(170, 90), 3)
    assert index.orphans("one") == {"a"}, "nor does a's new sketch"
    index.add("one", ["b"], at(90), 4)
    assert (index.orphans("one"), index.orphans("two")) == (frozenset(), {"d"}), "a was dropped"
    index.depart("two")
    assert index.orphans("one") == {"b"}, "g and c and d: one has nothing else"
    index.add("gone", ["g"], at(0), 5)
    assert (index.orphans("one"), index.orphans("gone")) == ({"b"}, frozenset()), "still for what two knew"
    index.add("two", [], at(), 6)
    assert index.orphans("one") == frozenset(), "everybody is back"


def test_of_two_as_near_the_first_name_stands_in():
    index = index_of({"gone": {"g": 0}, "two": {"a": 30}, "one": {"z": 30, "y": 30}})
    index.depart("gone")
    assert (index.orphans("one"), index.orphans("two")) == ({"y"}, frozenset())


def test_duplicates_stand_in_whoever_held_it_longer():
    index = UniquenessIndex()
    index.add("gone", ["g"], at(0), 1)
    index.add("one", ["a"], at(0), 2)
    index.add("two", ["b"], at(45), 0)
    index.depart("gone")
    assert index.orphans("one") == {"a"}


def test_the_last_site_leaves_its_stand_ins_to_the_next():
    index = index_of({"gone": {"g": 0}})
    index.depart("gone")
    assert index.coverage("one", 3).shape == (0, 2) and index.effective() == 0.0
    index.add("one", [], at(), 2)
    assert index.orphans("one") == frozenset()
    index.add("one", ["a", "b"], at(90, 80), 3)
    assert index.orphans("one") == {"b"}


def test_only_so_much_is_kept_of_a_departed_site():
    index = index_of({"gone": {"a": 0, "b": 5, "c": 10, "d": 90, "e": 180}}, departed=3)
    index.depart("gone")
    frozen = index.state()[1]["frozen_NE"]
    assert frozen.tolist() == at(10, 90, 180).tolist(), "the sum is at 33 degrees: first c, then e, then d"


def test_centres_by_hand():
    assert centres(axis(1, 1, 2, -1), 4).tolist() == [0, 3, 2], "rows 0 to 2 are as central; row 1 is row 0 again"
    assert centres(axis(1, 2, 3, 2), 2).tolist() == [1, 0], "2 is there twice; of the others the first"
    assert centres(axis(1, 2), 0).tolist() == [] and centres(axis(1)[:0], 3).tolist() == []


@given(st.lists(st.integers(0, 359), min_size=1, max_size=12), st.integers(1, 6), st.integers(0, 6))
def test_the_first_centres_are_those_of_fewer(degrees, n, more):
    chosen = centres(at(*degrees), n + more).tolist()
    assert chosen[:n] == centres(at(*degrees), n).tolist()
    assert len({tuple(row) for row in at(*degrees)[chosen].tolist()}) == len(chosen)


# Coverage --------------------------------------------------------------------------------------------------------------


def test_coverage_is_of_the_other_live_sites():
    index = index_of({"one": {"a": 0}, "two": {"b": 90, "c": 95}, "three": {"d": 170}})
    assert index.coverage("one", 2).tolist() == at(95, 170).tolist(), "the sum is at 116 degrees"
    assert index.coverage("one", 9).tolist() == at(95, 170, 90).tolist()
    assert index.coverage("new", 1).tolist() == at(90).tolist(), "the sum of all is at 92 degrees"
    index.depart("three")
    assert index.coverage("one", 9).tolist() == at(95, 90).tolist(), "rounding puts 95 nearer to their sum"
    assert index.coverage("two", 9).tolist() == at(0).tolist()
    assert index.coverage("two", 0).shape == (0, 2) and index.coverage("two", 0).dtype == np.int8
    assert UniquenessIndex().coverage("one", 3).shape == (0, 0)


def test_past_the_pool_each_site_is_represented_by_its_centres(monkeypatch):
    monkeypatch.setattr(coverage_file, "POOL", 4)
    index = index_of({"one": {"a": 0, "b": 10, "c": 60}, "two": {"d": 90, "e": 100, "f": 160}, "three": {"g": 180}})
    assert index.coverage("three", 9).tolist() == at(100, 10, 160, 60).tolist(), "of one b and c, of two e and f"
    index.add("one", ["a", "b", "c"], at(260, 210, 200), 2)
    assert at(260).tolist()[0] in index.coverage("three", 9).tolist(), "the site's centres are found anew"
    monkeypatch.setattr(coverage_file, "POOL", 1)
    assert index.coverage("three", 9).tolist() == at(210).tolist(), "more sites than that: some of them"


# Quotas ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "total", "floor", "shares"),
    [
        ({"a": 3.0, "b": 1.0}, 8, 1, {"a": 6, "b": 2}),
        ({"a": 1.0, "b": 1.0, "c": 1.0}, 8, 2, {"a": 3, "b": 3, "c": 2}),
        ({"c": 1.0, "b": 1.0, "a": 1.0}, 7, 2, {"a": 3, "b": 2, "c": 2}),
        ({"a": 100.0, "b": 1.0, "c": 1.0}, 20, 4, {"a": 12, "b": 4, "c": 4}),
        ({"a": 10.0, "b": 2.5, "c": 0.1}, 12, 3, {"a": 6, "b": 3, "c": 3}),
        ({"a": 0.0, "b": 0.0}, 5, 1, {"a": 3, "b": 2}),
        ({"a": 0.0, "b": 1.0}, 5, 0, {"a": 0, "b": 5}),
        ({"a": 5.0, "b": 1.0}, 4, 2, {"a": 2, "b": 2}),
        ({"a": 2.6, "b": 2.4}, 5, 0, {"a": 3, "b": 2}),
    ],
)
def test_shares_by_hand(weights, total, floor, shares):
    assert split(weights, total, floor) == shares


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1e6), min_size=1, max_size=8), st.integers(0, 99), st.integers(0, 9))
def test_shares_sum_to_the_total_and_none_is_below_the_floor(weights, more, floor):
    total = floor * len(weights) + more
    shares = split(weights, total, floor)
    assert sum(shares.values()) == total and min(shares.values()) >= floor and shares.keys() == weights.keys()
    assert shares == split(dict(reversed(weights.items())), total, floor)
    ranked = sorted(weights, key=lambda name: weights[name])
    assert all(shares[a] <= shares[b] for a, b in pairwise(ranked) if weights[a] < weights[b])


def test_quotas_follow_mean_uniqueness_not_its_sum():
    index = index_of({"one": {"a": 0, "b": 90}, "two": {"d": 60}, "empty": {}})  # u: 1/2 and .134; .134
    assert index.quotas(["two", "one"], 9, 1) == {"one": 6, "two": 3}  # .317 to .134
    assert index.quotas(["one", "two", "new"], 9, 1) == {"one": 4, "two": 2, "new": 3}  # .317, .134, and their mean
    assert index.quotas(["one", "two", "empty"], 9, 1) == {"one": 4, "two": 2, "empty": 3}
    far = index_of({"one": {"a": 0, "b": 180, "c": 270}, "two": {"d": 90}})  # u is 1 for all
    assert far.quotas(["one", "two"], 8, 1) == {"one": 4, "two": 4}
    assert index.quotas(["new", "newer"], 5, 1) == {"new": 3, "newer": 2}
    assert index.quotas([], 5, 1) == {}


def test_too_small_a_total_is_told():
    with pytest.raises(ValueError, match=r"memory.total is 5, but 3 sites with at least 2 samples each \(index.floor\) need 6"):
        UniquenessIndex().quotas(["a", "b", "c"], 5, 2)


# Leverage --------------------------------------------------------------------------------------------------------------


def test_leverage_by_hand():
    index = UniquenessIndex()
    index.add("one", ["a", "b"], axis(1, 2), 1)
    index.add("two", ["c", "d"], axis(1, -1), 1)
    assert index.leverage("one") == {"a": pytest.approx(1 / 3), "b": pytest.approx(1)}, "the rank is 2"
    assert index.leverage("two") == {"c": pytest.approx(1 / 3), "d": pytest.approx(1 / 3)}
    assert index.leverage("two", r=1) == index.leverage("two") and index.leverage("one", r=1)["b"] == pytest.approx(0)
    assert index.leverage("nobody") == {}


def test_leverage_is_that_of_the_stacked_svd():
    rng, index = default_rng(0), UniquenessIndex()
    unit = rng.normal(size=(60, 12)) * np.linspace(3, 1, 12)
    rows = np.rint(127 * unit / np.linalg.norm(unit, axis=1, keepdims=True)).astype(np.int8)
    for site in (2, 0, 1):
        index.add(str(site), [f"{i:02d}" for i in range(20)], rows[20 * site : 20 * site + 20], 1)
    left = np.linalg.svd(rows.astype(np.float64), full_matrices=False)[0]
    found = [value for site in "012" for value in index.leverage(site, r=5).values()]
    np.testing.assert_allclose(found, (left[:, :5] ** 2).sum(1), atol=1e-9)
    assert sum(found) == pytest.approx(5)


# State -----------------------------------------------------------------------------------------------------------------


def everything(index, sites):
    return {
        site: (
            index.score(site),
            index.nearest(site),
            index.coverage(site, 5).tolist(),
            index.orphans(site),
            index.leverage(site),
        )
        for site in sites
    } | {"whole": (index.effective(), index.duplicates(), index.quotas(sites, 60, 2))}


def events(index, start, stop):
    """A life: sites report, drift, grow, shrink, depart and come back, each event from its own number."""
    for step in range(start, stop):
        rng = default_rng(step)
        site = f"s{rng.integers(8)}"
        if rng.random() < 0.15:
            index.depart(site)
            continue
        count = int(rng.integers(0, 30))
        modes = default_rng(7).normal(size=(6, 8))
        rows = modes[rng.integers(6, size=count)] + 0.3 * rng.normal(size=(count, 8))
        table = np.rint(127 * rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.int8)
        ids = [f"c{i}" for i in rng.permutation(40)[:count]]
        assert index.add(site, ids, table, step // 4) is None


@pytest.mark.parametrize(("exact", "worth"), [(100_000, 1.0), (40, 1.0), (80, 1.0), (40, 0.0)])
@pytest.mark.parametrize("stop", [0, 5, 13, 38])
def test_a_restored_index_goes_on_as_if_nothing_had_been(exact, stop, worth, monkeypatch):
    monkeypatch.setattr(nearest_file, "WORTH", worth)
    sites = [f"s{i}" for i in range(8)]
    whole, first = (UniquenessIndex(duplicate=0.9, departed=5, exact=exact) for _ in range(2))
    events(whole, 0, 60)
    events(first, 0, stop)
    facts, tensors = first.state()
    second = UniquenessIndex.from_state(
        json.loads(json.dumps(facts, allow_nan=False)), {n: t.copy() for n, t in tensors.items()}
    )
    assert everything(second, sites) == everything(first, sites)
    np.testing.assert_equal(second.state(), (facts, tensors))
    events(second, stop, 60)
    assert everything(second, sites) == everything(whole, sites)
    np.testing.assert_equal(second.state(), whole.state())


def test_cells_come_and_go_with_the_number_of_sketches(always_cells):
    index = UniquenessIndex(exact=50)
    modes = [("a", 0), ("b", 90), ("c", 180)]
    for site, degrees in modes:
        index.add(site, [f"{i:02d}" for i in range(20)], at(*(degrees + np.arange(20))), 1)
        assert (index.state()[0]["probes"] is None) == (site != "c")
    assert index.state()[0]["learnt"] == 60 and len(index.state()[1]["centroids_CE"]) == 28
    index.depart("c")
    assert index.state()[0]["probes"] is not None, "40 of 50: not yet"
    index.add("b", ["x", "y"], at(0, 60), 2)
    assert index.state()[0]["probes"] is None and index.score("b") == {"x": 0.0, "y": near(1 - cos(radians(41)))}


def test_cells_are_learnt_again_when_the_sketches_have_changed(always_cells):
    index, ids = UniquenessIndex(exact=50), [f"{i:02d}" for i in range(40)]
    for site in ("a", "b"):
        index.add(site, ids, at(*range(40)), 1)
    before = index.state()[1]["centroids_CE"]
    for round, site in enumerate(("a", "b"), start=2):
        index.add(site, ids, at(*range(180, 220)), round)
    after = index.state()[1]["centroids_CE"]
    assert before[:, 0].min() > 0 > after[:, 0].max()
    assert index.score("b").keys() == set(ids) and index.summed("b") == near(0), "b is told of a"


def test_without_structure_every_row_is_compared():
    """Past `exact`, uniform directions need most cells opened: flat is as good and faster, and it is tried again later."""
    rng, index = default_rng(0), UniquenessIndex(exact=200)
    tables = [np.rint(127 * rows / np.linalg.norm(rows, axis=1, keepdims=True)) for rows in rng.normal(size=(4, 150, 32))]
    ids = [f"{i:03d}" for i in range(150)]
    for site, table in enumerate(tables):
        index.add(str(site), ids, table.astype(np.int8), 1)
    facts, _ = index.state()
    assert facts["probes"] is None and facts["learnt"] == 600
    scores = plainly(
        {str(i): (ids, table) for i, table in enumerate(tables)}, {(str(i), n): 1 for i in range(4) for n in ids}, 0.95
    )
    assert index.score("2") == {name: scores["2", name][0] for name in ids}


def test_empty_slots_are_closed():
    index = UniquenessIndex()
    for site in range(30):
        index.add(f"s{site:02d}", [f"{i}" for i in range(100)], at(*np.linspace(site, site + 300, 100)), 1)
    scores = index.score("s29")
    for site in range(28):
        index.depart(f"s{site:02d}")
    assert len(index._held.ids) < 1400
    fresh = UniquenessIndex()
    for site in (28, 29):
        fresh.add(f"s{site:02d}", [f"{i}" for i in range(100)], at(*np.linspace(site, site + 300, 100)), 1)
    assert index.score("s29") == fresh.score("s29") != scores
    assert index.nearest("s28") == fresh.nearest("s28")


# Nobody there -----------------------------------------------------------------------------------------------------------


def test_many_may_leave_before_anybody_comes():
    rng, index = np.random.default_rng(0), UniquenessIndex()
    unit_NE = rng.normal(size=(1200, 8))
    rows_NE = np.rint(127 * unit_NE / np.linalg.norm(unit_NE, axis=1, keepdims=True)).astype(np.int8)
    assert index.add("a", [f"{i:04d}" for i in range(1200)], rows_NE, 1) is None
    index.depart("a")
    again = UniquenessIndex.from_state(*index.state())
    for each in (index, again):
        assert each.add("b", [], np.zeros((0, 8), np.int8), 2) is None
        assert each.add("b", ["x"], rows_NE[:1], 3) is None
        assert each.orphans("b") == {"x"}
