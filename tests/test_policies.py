"""Each policy beyond the published ones, groups and draws, on cases that a person can check by hand."""

from collections import Counter
from math import inf, nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import default_rng

from memory import make_policy
from memory.balanced import Balanced
from memory.bregman import Bregman
from memory.dynamic import FIXED_POINT, fixed_point
from memory.entropy import Entropy
from memory.fresh import Fresh
from memory.grouped import Grouped, group_of, split
from memory.herding import Herding, herd
from memory.lars import Lars
from memory.leverage import Leverage
from memory.linear import Linear
from memory.meddel import MedDel, redundancy
from memory.reservoir import Reservoir
from memory.sample import Sample
from memory.selective_global import SelectiveGlobal


def unit(*values):
    return (np.array(values) / np.linalg.norm(values)).astype(np.float32)


EAST, NORTH, WEST, SOUTH = unit(1, 0), unit(0, 1), unit(-1, 0), unit(0, -1)


def old(i, feature=EAST, **known):
    return Sample(case=f"c{i}", arrived=i, visits=1, feature=feature, **known)


def new(i, **known):
    return Sample(case=f"c{i}", arrived=i, **known)


def kept(policy, pool, budget):
    return [s.arrived for s in policy.keep(pool, budget, default_rng(0))]


def has(*classes):
    return frozenset(classes)


# One number per sample -----------------------------------------------------------------------------------------------


def test_entropy_keeps_the_most_uncertain_and_of_equals_the_newer():
    pool = [old(i, uncertainty=u) for i, u in enumerate([0.3, 0.9, 0.3, 0.1])]
    assert [kept(Entropy(), pool, n) for n in (1, 2, 3)] == [[1], [1, 2], [0, 1, 2]]


def test_bregman_keeps_either_end():
    pool = [old(i, scores={"bregman": b}) for i, b in enumerate([0.5, 0.1, 0.9])]
    assert (kept(Bregman(), pool, 2), kept(Bregman("low"), pool, 2)) == ([0, 2], [0, 1])
    assert kept(make_policy("bregman", {"keep": "low"}), pool, 1) == [1]


def test_leverage_that_is_not_told_yet_counts_as_the_median():
    pool = [old(i, scores={"leverage": v}) for i, v in enumerate([0.2, 0.9, 0.5])] + [old(3), new(4), new(5)]
    # The new ones first, then .9, then 3 (the median, .5, and newer than 2), 2, 0.
    assert [kept(Leverage(), pool, n) for n in range(1, 6)] == [[5], [4, 5], [1, 4, 5], [1, 3, 4, 5], [1, 2, 3, 4, 5]]


def test_nothing_told_at_all_is_first_in_first_out():
    assert kept(Leverage(), [old(i) for i in range(5)], 3) == [2, 3, 4]


def test_lars_by_hand():
    # key^(1/loss): .5, .25^(1/2) = .5 too, .5^(1/2) = .71, .9, 0 (no loss at all), and one whose loss nobody knows.
    facts = [(0.5, 1.0), (0.25, 2.0), (0.5, 2.0), (0.9, 1.0), (0.99, 0.0), (0.1, nan)]
    pool = [old(i, key=key, loss=loss) for i, (key, loss) in enumerate(facts)]
    assert [kept(Lars(), pool, n) for n in range(1, 6)] == [[5], [3, 5], [2, 3, 5], [1, 2, 3, 5], [0, 1, 2, 3, 5]]


def test_lars_keeps_in_proportion_to_the_loss():
    rng = default_rng(0)
    wins = sum(kept(Lars(), [old(0, key=a, loss=1.0), old(1, key=b, loss=3.0)], 1) == [1] for a, b in rng.random((4000, 2)))
    assert abs(wins - 3000) < 5 * (4000 * 0.75 * 0.25) ** 0.5  # 3 / (1 + 3)


# Classes -------------------------------------------------------------------------------------------------------------


def test_balanced_by_hand():
    facts = [(has("liver"), 0.9), (has("liver"), 0.1), (has("liver", "spleen"), 0.0), (has("spleen"), 0.5), (has(), 0.3)]
    pool = [old(i, classes=classes, key=key) for i, (classes, key) in enumerate(facts)]
    # Liver 3, spleen 2, nothing 1: of the two with liver only, the smaller key goes.
    assert kept(Balanced(), pool, 4) == [0, 2, 3, 4]
    # Liver 2, spleen 2: 0 and 3 have no second class as 2 has; 3's key is the smaller.
    assert kept(Balanced(), pool, 3) == [0, 2, 4]
    # Liver 2, spleen 1: 0. Then everything is there once: 4 holds less than 2.
    assert kept(Balanced(), pool, 2) == [2, 4]
    assert kept(Balanced(), pool, 1) == [2]


def test_balanced_counts_new_samples_but_keeps_them():
    pool = [old(0, classes=has("liver")), old(1, classes=has("spleen"))] + [new(i, classes=has("liver")) for i in (2, 3)]
    assert kept(Balanced(), pool, 3) == [1, 2, 3]
    assert kept(Balanced(), pool, 1) == [3]


@settings(max_examples=100, derandomize=True, deadline=None)
@given(seed=st.integers(0, 2**32), length=st.integers(1, 15), budget=st.integers(1, 15))
def test_balanced_from_scratch_each_time(seed, length, budget):
    rng = default_rng(seed)
    names = [has(*(name for name in "abc" if rng.random() < 0.5)) for _ in range(length)]
    pool = [old(i, classes=classes, key=float(rng.choice([0.5, rng.random()]))) for i, classes in enumerate(names)]
    left = list(pool)
    while len(left) > budget:
        counts = Counter(name for s in left for name in (s.classes or {"nothing"}))
        crowds = [[*sorted(counts[name] for name in (s.classes or {"nothing"})), inf] for s in left]
        worst = [s for s, crowd in zip(left, crowds, strict=True) if crowd == max(crowds)]
        least = min(s.key for s in worst)
        left.remove(max((s for s in worst if s.key == least), key=lambda s: s.case))
    assert kept(Balanced(), pool, budget) == [s.arrived for s in left]


# Features ------------------------------------------------------------------------------------------------------------


def test_herding_by_hand():
    # The mean points north-east: 2 is nearest to it. East and north then are as good as each other: the older.
    pool = [old(0, EAST), old(1, NORTH), old(2, unit(1, 1))]
    assert [kept(Herding(), pool, n) for n in (1, 2, 3)] == [[2], [0, 2], [0, 1, 2]]
    assert kept(Herding(), [*pool, new(3)], 2) == [2, 3]
    assert kept(Herding(), [*pool, new(3), new(4)], 1) == [4]


@settings(max_examples=50, derandomize=True, deadline=None)
@given(seed=st.integers(0, 2**32), length=st.integers(1, 20))
def test_each_of_the_herd_brings_the_mean_nearest(seed, length):
    feature_NE = default_rng(seed).normal(size=(length, 3))
    pool = [old(i, unit(*feature)) for i, feature in enumerate(feature_NE)]
    chosen = herd(fixed_point(pool, range(length)), length)
    assert sorted(chosen) == list(range(length))
    feature_NE = np.stack([s.feature for s in pool]).astype(float)
    for k, best in enumerate(chosen, 1):
        total = feature_NE[chosen[: k - 1]].sum(axis=0)
        gap_N = np.linalg.norm(feature_NE.mean(axis=0) - (total + feature_NE) / k, axis=1)
        assert gap_N[best] <= min(gap_N[i] for i in chosen[k - 1 :]) + 1e-6


def test_meddel_by_hand():
    # Two clusters: {0, 1} around east, {2, 3, 4} around north; 3 is farthest from its centre and so comes first.
    pool = [old(i, f) for i, f in enumerate([EAST, EAST, NORTH, unit(5, 12), NORTH])]
    np.testing.assert_allclose(redundancy(fixed_point(pool, range(5)), 2), [-inf, 1, 12 / 13, -inf, 1], atol=1e-7)
    assert [kept(MedDel(2), pool, n) for n in (1, 2, 3, 4)] == [[3], [0, 3], [0, 2, 3], [0, 2, 3, 4]]
    assert kept(MedDel(2), [*pool, new(5)], 3) == [0, 3, 5]


def test_meddel_in_one_cluster_word_for_word():
    rng = default_rng(0)
    pool = [old(i, unit(*vector)) for i, vector in enumerate(rng.normal(size=(300, 5)) + 1)]
    feature_NE = fixed_point(pool, range(300)) / FIXED_POINT
    order = np.argsort(feature_NE @ feature_NE.sum(axis=0))
    wanted = {j: max((feature_NE[i] @ feature_NE[j] for i in order[:place]), default=-inf) for place, j in enumerate(order)}
    np.testing.assert_allclose(redundancy(fixed_point(pool, range(300)), 1), [wanted[j] for j in range(300)], atol=1e-9)


def test_more_clusters_than_samples():
    assert kept(MedDel(9), [old(0, EAST), old(1, EAST), old(2, NORTH)], 2) == [0, 2]


# Global selective ----------------------------------------------------------------------------------------------------


def at(degrees):
    return np.rint(127 * np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])).astype(np.int8)


def pool_at(*degrees):
    """Visited samples with such sketches, whose features say nothing; 0 is the least uncertain."""
    return [old(i, sketch=at(angle), uncertainty=i / 100) for i, angle in enumerate(degrees)]


def test_global_selective_drops_a_twin_here_or_elsewhere():
    rule, pool = SelectiveGlobal(k=9), pool_at(0, 5, 90, 180, 270)
    assert kept(rule, pool, 4) == [1, 2, 3, 4]  # 0 and 1 are nearest: the older
    pool[3].uniqueness = 0.001  # cosine .999 to something elsewhere; 0 and 1 have .996
    assert kept(rule, pool, 4) == [0, 1, 2, 4]
    assert kept(rule, pool, 3) == [1, 2, 4]


def test_a_twin_that_left_no_longer_counts_and_one_elsewhere_does():
    pool = pool_at(0, 5, 60, 125, 240, 310)
    # 1 without its twin is nearest to 2 (55 degrees: .57); 3, 4 and 5 are farther from theirs.
    assert kept(SelectiveGlobal(k=9), pool, 4) == [2, 3, 4, 5]
    pool[3].uniqueness = 0.4
    assert kept(SelectiveGlobal(k=9), pool, 4) == [1, 2, 4, 5]


def test_the_most_uncertain_are_safe_and_their_twins_are_not():
    pool = pool_at(0, 90, 180, 270)
    pool[0].uniqueness, pool[0].uncertainty = 0.0, 1.0
    assert kept(SelectiveGlobal(k=4), pool, 3) == [0, 2, 3]  # the others are alike: the older
    assert kept(SelectiveGlobal(k=5), pool, 3) == [1, 2, 3]
    pool[2].sketch = at(1)
    assert kept(SelectiveGlobal(k=4), pool, 3) == [0, 1, 3]


def test_a_case_held_elsewhere_need_not_be_admitted():
    pool = [*pool_at(0, 60, 120, 180), new(4, sketch=at(240), uniqueness=0.04)]
    assert kept(SelectiveGlobal(), pool, 4) == [0, 1, 2, 3]
    assert kept(SelectiveGlobal(admit=False), pool, 4) == [1, 2, 3, 4]
    assert 4 in kept(SelectiveGlobal(duplicate=0.97), pool, 4)
    pool[4].uniqueness, pool[4].sketch = 1.0, at(0)  # a twin of 0, but nowhere else: it stays, and 0 goes
    assert kept(SelectiveGlobal(), pool, 4) == [1, 2, 3, 4]


def test_orphans_are_protected_up_to_their_share_the_most_unique_first():
    pool = pool_at(0, 0, 0, 0, 90, 180)
    for i, uniqueness in enumerate([0.5, 0.9, 0.9, 0.7]):
        pool[i].orphan, pool[i].uniqueness = True, uniqueness
    # Four twins, one of which must go: with a share of one, 1 is safe (of the most unique the older) and 0 is the oldest.
    assert kept(SelectiveGlobal(k=9, orphan_share=0.2), pool, 5) == [1, 2, 3, 4, 5]
    assert kept(SelectiveGlobal(k=9, orphan_share=0.6), pool, 5) == [1, 2, 3, 4, 5]
    pool[0].uniqueness = 1.0
    assert kept(SelectiveGlobal(k=9, orphan_share=0.2), pool, 5) == [0, 2, 3, 4, 5]
    assert kept(SelectiveGlobal(k=9, orphan_share=0.4), pool, 5) == [0, 1, 3, 4, 5]
    assert kept(SelectiveGlobal(k=9, orphan_share=0.0), pool, 5) == [1, 2, 3, 4, 5]


def test_with_too_few_candidates_the_oldest_go_and_orphans_last():
    pool = [*pool_at(0, 90, 180), new(3, sketch=at(0)), new(4, sketch=at(0))]
    pool[0].orphan = True
    assert kept(SelectiveGlobal(orphan_share=0.4), pool, 3) == [0, 3, 4]
    assert kept(SelectiveGlobal(orphan_share=0.0), pool, 3) == [2, 3, 4]


@settings(max_examples=100, derandomize=True, deadline=None)
@given(seed=st.integers(0, 2**32), length=st.integers(1, 14), budget=st.integers(1, 14))
def test_without_sketches_it_is_selective(seed, length, budget):
    rng = default_rng(seed)
    pool = [old(i, unit(*rng.normal(size=3)), uncertainty=rng.random(), uniqueness=rng.random()) for i in range(length)]
    for s in pool[1:]:
        s.orphan, s.sketch = True, at(rng.integers(360))  # the first has none
    assert kept(SelectiveGlobal(k=2), pool, budget) == kept(make_policy("selective", {"k": 2}), pool, budget)


def slow_global(pool, budget, k, share, duplicate):
    """The rule's text, in plain Python, drop by drop from scratch."""
    n = len(pool) - budget
    seen = sorted((i for i, s in enumerate(pool) if s.visits), key=lambda i: -pool[i].uncertainty)
    orphans = sorted((i for i, s in enumerate(pool) if s.orphan), key=lambda i: -pool[i].uniqueness)[: int(share * budget)]
    safe = {*seen[: len(seen) // k], *orphans}
    like_elsewhere = [1 - s.uniqueness for s in pool]
    candidates = [i for i, s in enumerate(pool) if i not in safe and (s.visits or like_elsewhere[i] >= duplicate)]
    there = list(range(len(pool)))
    if len(candidates) < 2 * n:
        return sorted([i for i in there if i not in orphans] + orphans, key=lambda i: i in orphans)[n:]
    for _ in range(max(n, 0)):
        value = {i: max([like_elsewhere[i], *(cos(pool[i], pool[j]) for j in there if j != i)]) for i in candidates}
        gone = next(i for i in candidates if value[i] == max(value.values()))
        candidates.remove(gone)
        there.remove(gone)
    return there


def cos(a, b):
    pairs = ((a, b), (a, a), (b, b))
    dot, aa, bb = (sum(int(x) * int(y) for x, y in zip(p.sketch, q.sketch, strict=True)) for p, q in pairs)
    return dot / (aa**0.5 * bb**0.5)


@settings(max_examples=200, derandomize=True, deadline=None)
@given(seed=st.integers(0, 2**32), length=st.integers(1, 16), budget=st.integers(1, 16))
def test_global_selective_as_written(seed, length, budget):
    rng, pool = default_rng(seed), []
    for i in range(length):
        known = {"sketch": at(30 * rng.integers(12)), "uniqueness": float(rng.choice([1.0, 0.5, 0.02, rng.random()]))}
        s = new(i, **known) if rng.random() < 0.2 else old(i, uncertainty=float(rng.choice([0.5, rng.random()])), **known)
        s.orphan = bool(s.visits) and rng.random() < 0.3
        pool.append(s)
    wanted = slow_global(pool, budget, 4, 0.25, 0.95)
    assert kept(SelectiveGlobal(), pool, budget) == sorted(wanted)


# Groups --------------------------------------------------------------------------------------------------------------


def test_split_by_hand():
    sizes = {"b": 10, "a": 1, None: 10}
    assert split(sizes, 11) == {"a": 1, "b": 5, None: 5}
    assert split(sizes, 12) == {"a": 1, "b": 6, None: 5}  # the odd one to the first name; no name comes last
    assert split(sizes, 2) == {"a": 1, "b": 1, None: 0}
    assert split(sizes, 100) == sizes
    assert split({}, 3) == {}


@given(sizes=st.dictionaries(st.text("abcd", max_size=2), st.integers(1, 9), max_size=6), budget=st.integers(0, 30))
def test_split_is_exact_and_even(sizes, budget):
    parts = split(sizes, budget)
    assert sum(parts.values()) == min(budget, sum(sizes.values()))
    assert all(0 <= parts[group] <= sizes[group] for group in sizes)
    most = max(parts.values(), default=0)
    assert all(part >= most - 1 or part == sizes[group] for group, part in parts.items())


def test_a_sample_belongs_to_its_rarest_class():
    held = [has("liver", "spleen"), has("liver", "kidney"), has("liver"), has(), has("kidney", "spleen")]
    # Liver 3, spleen 2, kidney 2: the last is a tie, and kidney is the first name.
    assert group_of([old(i, classes=c) for i, c in enumerate(held)], "class") == ["spleen", "kidney", "liver", None, "kidney"]


def test_grouped_by_domain():
    pool = [old(i, domain=domain) for i, domain in enumerate(["ct", "ct", None, "mr", "mr", "mr", "mr"])]
    # None has one sample and gets one; of the other three places ct, the smaller, gets two and mr one.
    assert kept(Grouped(Linear(), "domain"), pool, 4) == [0, 1, 2, 6]
    assert kept(Linear(), pool, 4) == [3, 4, 5, 6]


def test_the_policy_chooses_within_its_group():
    pool = [old(i, key=key, domain=domain) for i, (key, domain) in enumerate([(0.9, "a"), (0.8, "a"), (0.1, "b"), (0.2, "b")])]
    assert kept(Reservoir(), pool, 2) == [0, 1]
    assert kept(Grouped(Reservoir(), "domain"), pool, 2) == [0, 3]


# Draws ---------------------------------------------------------------------------------------------------------------


def drawn(policy, memory, n, seed=0):
    return [s.arrived for s in policy.draw(memory, n, default_rng(seed))]


@pytest.mark.parametrize(
    ("share", "n", "newest"),
    [(0.5, 2, 1), (0.5, 4, 2), (0.1, 2, 1), (0.25, 6, 2), (0.2, 6, 1), (1.0, 3, 3), (0.0, 3, 0)],
)
def test_a_share_of_each_batch_is_the_newest_case(share, n, newest):
    memory = [old(7), *(old(i) for i in range(7))]  # the newest by arrival, wherever it stands
    policy, seen = Fresh(Linear(), share), Counter()
    for seed in range(50):
        batch = drawn(policy, memory, n, seed)
        assert len(batch) == n
        if share:
            assert batch.count(7) == newest
            assert max(Counter(batch[newest:]).values(), default=0) <= 1
        seen.update(batch)
    assert set(seen) == ({7} if share == 1 else set(range(8)))


def test_a_batch_of_one_is_the_newest_as_often_as_its_share():
    rng, policy, memory = default_rng(0), Fresh(Linear(), 0.3), [old(0), old(1)]
    newest = sum(policy.draw(memory, 1, rng)[0].arrived for _ in range(2000))
    assert abs(newest - 600) < 5 * (2000 * 0.3 * 0.7) ** 0.5


def test_a_memory_of_one_fills_the_batch():
    assert drawn(Fresh(Linear(), 0.5), [old(3)], 4) == [3, 3, 3, 3]
    with pytest.raises(ValueError, match="cannot draw 2 samples from an empty memory"):
        drawn(Fresh(Linear(), 0.5), [], 2)
