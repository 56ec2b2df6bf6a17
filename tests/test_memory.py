"""What every policy promises, and each published rule against a plain, slow reading of its text."""

from copy import deepcopy
from dataclasses import replace
from itertools import product
from math import isnan, nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import default_rng

from memory import POLICIES, make_policy
from memory.bregman import Bregman
from memory.dynamic import BLOCK, FIXED_POINT, Dynamic, fixed_point, most_similar
from memory.fresh import Fresh
from memory.grouped import Grouped
from memory.linear import Linear
from memory.policy import NEEDS, needs, uniform
from memory.reservoir import Reservoir
from memory.sample import Sample
from memory.selective import Selective


def unit(*values):
    vector = np.array(values, np.float64)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def sample(i, feature=None, uncertainty=nan, key=0.0):
    visits = 0 if feature is None else 1
    return Sample(case=f"c{i:03d}", arrived=i, feature=feature, visits=visits, uncertainty=uncertainty, key=key)


def random_pool(seed, length, unvisited=0.2, ties=0.3):
    """Random unit features; some samples unvisited, some equal to an earlier one, some uncertainties equal or missing."""
    rng, pool = default_rng(seed), []
    exact = [unit(*row) for row in np.vstack([np.eye(4), -np.eye(4), np.ones((1, 4)), [[1, -1, 1, -1]]])]
    for i in range(length):
        feature = exact[rng.integers(len(exact))] if rng.random() < ties else unit(*rng.normal(size=4))
        uncertainty = [nan, 0.5, rng.random()][rng.integers(3)]
        pool.append(sample(i, None if rng.random() < unvisited else feature, uncertainty, rng.random()))
    return pool


def told(seed, pool):
    """The same samples as a run with an index knows them: sketches, scores, classes and domains, with ties and gaps."""
    rng = default_rng(seed)
    for s in pool:
        vector = s.feature if s.feature is not None and rng.random() < 0.5 else unit(*rng.normal(size=4))
        s.sketch = np.rint(127 * vector).astype(np.int8)
        s.uniqueness = float(rng.choice([1.0, 0.5, 0.03, rng.random()]))
        s.orphan = bool(s.visits) and rng.random() < 0.3
        s.loss = s.uncertainty if s.visits else nan
        s.scores = {name: float(rng.choice([0.2, rng.random()])) for name in ("bregman", "leverage") if rng.random() < 0.7}
        s.classes = frozenset(name for name in ("liver", "spleen", "kidney") if rng.random() < 0.5)
        s.domain = [None, "ct", "mr"][rng.integers(3)]
    return pool


def cases(samples):
    return [s.case for s in samples]


# Contract ------------------------------------------------------------------------------------------------------------

POOLS = {
    "empty": [],
    "one": random_pool(0, 1),
    "unvisited": random_pool(1, 9, unvisited=1.0),
    "visited": random_pool(2, 12, unvisited=0.0),
    "mixed": random_pool(3, 15),
    "identical": [sample(i, unit(3, 4), 0.5, 0.5) for i in range(10)],
    "long": random_pool(4, 60),
    "told": told(5, random_pool(5, 15)),
    "told, visited": told(6, random_pool(6, 12, unvisited=0.0)),
    "told, unvisited": told(7, random_pool(7, 9, unvisited=1.0)),
    "told, long": told(8, random_pool(8, 60)),
}
WRAPPED = {"plain": {}, "by class": {"group_by": "class"}, "by domain, fresh": {"group_by": "domain", "new_share": 0.5}}


@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)
@pytest.mark.parametrize("name", POLICIES)
def test_keep_is_a_pure_choice_within_the_budget(name, pool):
    before, order, ids = deepcopy(pool), list(pool), [id(s) for s in pool]
    for around, budget in product(WRAPPED.values(), [1, 2, 7, 8, 50, 100]):
        policy = make_policy(name, {}, **around)
        kept = policy.keep(pool, budget, default_rng(7))
        assert len(kept) == min(len(pool), budget)
        positions = [ids.index(id(s)) for s in kept]
        assert positions == sorted(set(positions)), "a subset of the pool's own samples, each once, in order of arrival"
        assert cases(policy.keep(deepcopy(pool), budget, default_rng(8))) == cases(kept), "samples decide, not chance"
    assert all(a is b for a, b in zip(pool, order, strict=True))
    for a, b in zip(pool, before, strict=True):
        np.testing.assert_equal(vars(a), vars(b))


@pytest.mark.parametrize("name", POLICIES)
def test_no_budget_keeps_nothing(name):
    assert make_policy(name, {}).keep(POOLS["mixed"], 0, default_rng(0)) == []


@pytest.mark.parametrize("scores", [{}, {"bregman": 0.0, "leverage": 0.0}], ids=["unscored", "scored"])
@pytest.mark.parametrize("name", [name for name in POLICIES if name != "reservoir"])
def test_new_samples_are_not_thrown_away(name, scores):
    """Three just arrived: they stay, and of a budget smaller than that the newest do. (A reservoir goes by its keys.)"""
    pool = told(9, random_pool(9, 8, unvisited=0.0))
    for s in pool:
        s.orphan = False
    for s in pool[-3:]:
        s.visits, s.feature, s.loss, s.uncertainty, s.scores, s.uniqueness = 0, None, nan, nan, dict(scores), 1.0
        s.classes, s.key = frozenset({"liver"}), 0.0  # nothing speaks for them
    for known, budget in product((pool, [replace(s, sketch=None) for s in pool]), range(1, 9)):
        kept = cases(make_policy(name, {}).keep(known, budget, default_rng(0)))
        assert kept[-3:] == cases(pool)[-min(budget, 3) :]


@pytest.mark.parametrize("around", WRAPPED.values(), ids=WRAPPED)
@pytest.mark.parametrize("name", POLICIES)
def test_needs_are_known_words(name, around):
    policy = make_policy(name, {}, **around)
    assert needs(policy) == needs(make_policy(name, {})) <= NEEDS


def test_needs_by_hand():
    of = {name: set(needs(make_policy(name, {}))) for name in POLICIES}
    assert {name: words for name, words in of.items() if words} == {
        "bregman": {"bregman"},
        "leverage": {"leverage", "sketch"},
        "selective-global": {"sketch", "uniqueness"},
    }


@pytest.mark.parametrize("name", POLICIES)
def test_draw_fills_a_batch(name):
    policy, kept = make_policy(name, {}), POOLS["visited"]
    for n in range(1, 30):
        drawn = policy.draw(kept, n, default_rng(n))
        counts = [sum(d is s for d in drawn) for s in kept]
        assert sum(counts) == len(drawn) == n
        assert max(counts) - min(counts) <= 1
        assert cases(drawn) == cases(policy.draw(kept, n, default_rng(n)))


def test_draw_is_uniform():
    rng, kept = default_rng(0), random_pool(0, 5)
    counts = dict.fromkeys(cases(kept), 0)
    for _ in range(2000):
        for s in uniform(kept, 2, rng):
            counts[s.case] += 1
    assert all(abs(count - 800) < 5 * (2000 * 0.4 * 0.6) ** 0.5 for count in counts.values())


def test_draw_from_nothing():
    assert uniform([], 0, default_rng(0)) == []
    with pytest.raises(ValueError, match="cannot draw 2 samples from an empty memory"):
        uniform([], 2, default_rng(0))


@pytest.mark.parametrize("name", POLICIES)
def test_policies_are_values(name):
    policy = make_policy(name, {})
    assert policy == make_policy(name, {}) and hash(policy) == hash(make_policy(name, {}))


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("dinamic", {}, r"no 'dinamic' \(did you mean 'dynamic'\?\); the policies are linear, dynamic, selective"),
        ("selective", {"kk": 4}, r"'kk' is no setting of selective \(it has k\) \(did you mean 'k'\?\)"),
        ("linear", {"k": 4}, r"'k' is no setting of linear \(it has none\)"),
        ("selective", {"k": 0}, "k must be a whole number from 1"),
        ("selective", {"k": 2.5}, "not 2.5"),
        ("selective", {"k": True}, "not True"),
        ("selective", {"k": "four"}, "not 'four'"),
        ("selective-global", {"k": 0}, "k must be a whole number from 1"),
        ("selective-global", {"orphan_share": 1.5}, "orphan_share must be within 0 and 1, not 1.5"),
        ("selective-global", {"duplicate": 0}, "duplicate must be above 0 and at most 1, not 0"),
        ("meddel", {"clusters": 0}, "clusters must be a whole number from 1, not 0"),
        ("bregman", {"keep": "both"}, "keep must be low or high, not 'both'"),
        ("bregman", {"end": "low"}, r"'end' is no setting of bregman \(it has keep\)"),
    ],
)
def test_mistakes_are_told(name, args, message):
    with pytest.raises(ValueError, match=message):
        make_policy(name, args)


@pytest.mark.parametrize(
    ("around", "message"),
    [
        ({"group_by": "scanner"}, "memory.group_by must be none, class or domain, not 'scanner'"),
        ({"new_share": 1.5}, "memory.new_share must be within 0 and 1, not 1.5"),
        ({"new_share": "half"}, "memory.new_share must be within 0 and 1, not 'half'"),
    ],
)
def test_mistakes_around_a_policy_are_told(around, message):
    with pytest.raises(ValueError, match=message):
        make_policy("linear", {}, **around)


def test_settings_arrive():
    assert make_policy("selective", {"k": 2}) == Selective(k=2)
    assert make_policy("bregman", {"keep": "low"}) == Bregman(end="low") != Bregman()
    assert make_policy("linear", {}, "class", 0.5) == Fresh(Grouped(Linear(), "class"), 0.5)
    assert make_policy("linear", {}) == Linear()
    assert Selective().k == 4


# Reservoir -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75]), max_size=12), st.integers(1, 12), st.randoms(use_true_random=False))
def test_reservoir_ignores_order_and_merges_exactly(keys, budget, random):
    pool = [sample(i, key=key) for i, key in enumerate(keys)]
    rng, policy = default_rng(0), Reservoir()
    kept = set(cases(policy.keep(pool, budget, rng)))
    shuffled = random.sample(pool, len(pool))
    assert set(cases(policy.keep(shuffled, budget, rng))) == kept
    half = len(pool) // 2
    parts = policy.keep(shuffled[:half], budget, rng) + policy.keep(shuffled[half:], budget, rng)
    assert set(cases(policy.keep(parts, budget, rng))) == kept


def test_reservoir_keeps_the_largest_keys_and_of_equals_the_first_name():
    pool = [sample(0, key=0.1), sample(3, key=0.5), sample(2, key=0.5), sample(1, key=0.9)]
    assert cases(Reservoir().keep(pool, 2, default_rng(0))) == ["c002", "c001"]


# The published rules, read slowly ------------------------------------------------------------------------------------


def slow_dynamic_removals(pool, candidates, n):
    """SCIENCE.md, word for word, in plain Python."""
    if len(candidates) < 2 * n:
        return list(range(n))
    left, removed = list(candidates), []
    for _ in range(n):
        best, worst = -20.0, None
        for i in left:
            row = [-10.0 if i == j else (dot(pool[i].feature, pool[j].feature) + 1) / 2 for j in left]
            if max(row) > best:  # strictly: of equals the lower index
                best, worst = max(row), i
        left.remove(worst)
        removed.append(worst)
    return removed


def dot(a, b):
    return sum(float(x) * float(y) for x, y in zip(a, b, strict=True))


def slow_keep(rule, pool, budget, k=4):
    n = len(pool) - budget
    if n <= 0:
        return pool
    candidates = [i for i, s in enumerate(pool) if s.visits >= 1]
    if rule == "linear":
        removed = list(range(n))
    elif rule == "dynamic":
        removed = slow_dynamic_removals(pool, candidates, n)
    else:
        rest = list(candidates)
        for _ in range(len(candidates) // k if len(candidates) >= k else 0):
            top = rest[0]
            for i in rest[1:]:
                u, v = pool[i].uncertainty, pool[top].uncertainty
                if not isnan(u) and (isnan(v) or u > v):
                    top = i
            rest.remove(top)
        removed = slow_dynamic_removals(pool, rest, n)
    return [s for i, s in enumerate(pool) if i not in removed]


@settings(max_examples=300, derandomize=True, deadline=None)
@given(seed=st.integers(0, 2**32), length=st.integers(1, 24), share=st.floats(0, 1), unvisited=st.floats(0, 0.6))
def test_rules_as_published(seed, length, share, unvisited):
    pool = random_pool(seed, length, unvisited)
    budget, rng = max(1, round(share * length)), default_rng(0)
    assert cases(Linear().keep(pool, budget, rng)) == cases(slow_keep("linear", pool, budget))
    assert cases(Dynamic().keep(pool, budget, rng)) == cases(slow_keep("dynamic", pool, budget))
    for k in (1, 2, 4, 8):
        assert cases(Selective(k).keep(pool, budget, rng)) == cases(slow_keep("selective", pool, budget, k))


# By hand -------------------------------------------------------------------------------------------------------------

EAST, NORTH, WEST = unit(1, 0), unit(0, 1), unit(-1, 0)


def test_linear_by_hand():
    assert cases(Linear().keep([sample(i) for i in range(5)], 2, default_rng(0))) == ["c003", "c004"]


def exact(fixed_NE):
    return lambda rows: fixed_NE[rows] @ fixed_NE.T


def test_similarity_by_hand():
    fixed_NE = fixed_point([sample(0, EAST), sample(1, unit(3, 4)), sample(2, WEST)], [0, 2])
    assert (exact(fixed_NE)(np.arange(2)) / FIXED_POINT**2).tolist() == [[1, -1], [-1, 1]]


def test_most_similar_by_hand():
    similar_NN = np.array([[9, 0.5, 0.2, 0.1], [0.5, 9, 0.4, 0.3], [0.2, 0.4, 9, 0.3], [0.1, 0.3, 0.3, 9]])
    everything = np.arange(4)
    # 0 and 1 are nearest: 0 goes. Then 1 and 2 (.4): 1 goes. Then 2 and 3: 2.
    assert most_similar(lambda rows: similar_NN[rows], everything, 3) == [0, 1, 2]
    # 0 is no candidate, but it counts as a neighbour: 1 goes for its sake, then 2 and 3 tie (.3).
    assert most_similar(lambda rows: similar_NN[rows], everything[1:], 2) == [1, 2]
    # 3 is like something elsewhere (.45), still after 1 has left.
    elsewhere = np.array([0, 0, 0, 0.45])
    assert most_similar(lambda rows: similar_NN[rows], everything, 2, elsewhere) == [0, 3]


def test_dynamic_by_hand():
    # 1 and 3 are equal: the older, 1, goes first; then 0 and 2 are nearest to 3 and 4 alike (.5): 0 is the lower index.
    pool = [sample(i, f) for i, f in enumerate([EAST, NORTH, WEST, NORTH, unit(0, -1)])]
    assert cases(Dynamic().keep(pool, 4, default_rng(0))) == ["c000", "c002", "c003", "c004"]
    assert cases(Dynamic().keep(pool, 3, default_rng(0))) == ["c002", "c003", "c004"]


def test_dynamic_falls_back_to_the_oldest_of_all():
    # Two to remove, three visited: fewer than 2n, so the oldest go although unvisited.
    pool = [sample(0), sample(1), sample(2, EAST), sample(3, EAST), sample(4, NORTH)]
    assert cases(Dynamic().keep(pool, 3, default_rng(0))) == ["c002", "c003", "c004"]
    assert cases(Dynamic().keep(pool, 4, default_rng(0))) == ["c000", "c001", "c003", "c004"]  # n = 1: 2 is redundant


def test_selective_protects_the_uncertain():
    # Four visited, k = 4: one is protected. Dynamic drops c000 (equal to c001); uncertain, it stays and c001 has no twin left.
    rest = [sample(1, EAST, 0.1), sample(2, NORTH, 0.2), sample(3, unit(0.6, 0.8), 0.3)]
    sure, unsure = [sample(0, EAST, 0.0), *rest], [sample(0, EAST, 0.9), *rest]
    assert cases(Selective().keep(sure, 3, default_rng(0))) == ["c001", "c002", "c003"]
    assert cases(Selective().keep(unsure, 3, default_rng(0))) == [
        "c000",
        "c001",
        "c003",
    ]  # 2 and 3 are nearest (.9): 2 is older


def test_selective_fallback_looks_at_the_whole_memory():
    # k = 2 protects c000 and c001; two are left, n = 2: fewer than 2n, and the oldest go, protected or not.
    pool = [sample(i, f, u) for i, (f, u) in enumerate([(EAST, 0.9), (EAST, 0.8), (NORTH, 0.1), (WEST, 0.2)])]
    assert cases(Selective(2).keep(pool, 2, default_rng(0))) == ["c002", "c003"]


def test_selective_ties_and_missing_uncertainty():
    # All equal: the older is protected. c000's uncertainty is not a number: it counts as the lowest.
    pool = [sample(0, EAST, nan), sample(1, EAST, 0.5), sample(2, EAST, 0.5), sample(3, EAST, 0.5)]
    assert cases(Selective().keep(pool, 3, default_rng(0))) == ["c001", "c002", "c003"]
    pool[0].uncertainty = 0.5
    assert cases(Selective().keep(pool, 3, default_rng(0))) == ["c000", "c002", "c003"]


def test_equal_features_tie_exactly_whatever_their_place():
    rng = default_rng(0)
    twins = [unit(*rng.normal(size=257))] * 3
    pool = [
        sample(i, feature) for i, feature in enumerate([unit(*rng.normal(size=257)) for _ in range(2 * BLOCK + 41)] + twins)
    ]
    for _ in range(20):
        pool = [pool[i] for i in rng.permutation(len(pool))]
        where = [i for i, s in enumerate(pool) if (s.feature == twins[0]).all()]
        fixed_NE = fixed_point(pool, range(len(pool)))
        mixed_NE = fixed_NE[:, rng.permutation(257)]
        assert (mixed_NE @ mixed_NE.T == fixed_NE @ fixed_NE.T).all(), "the order of summation does not matter"
        assert most_similar(exact(fixed_NE), np.arange(len(pool)), 2) == where[:2]
