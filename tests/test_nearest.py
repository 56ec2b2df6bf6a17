"""The search behind the uniqueness index, exact and in cells, against every row compared with every query."""

import numpy as np
import pytest
from numpy.random import default_rng

from server import closest as closest_file
from server.closest import anything, closest
from server.holdings import Holdings
from server.nearest import Flat, Lists, cell, learn, needed, ranks, unit


def sketches(rows):
    rows = np.atleast_2d(np.asarray(rows, np.float64))
    return np.rint(127 * rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.int8)


def clusters(seed, n, size=16, modes=30, spread=0.2):
    rng = default_rng(seed)
    return sketches(rng.normal(size=(modes, size))[rng.integers(modes, size=n)] + spread * rng.normal(size=(n, size)))


def uniform(seed, n, size=16):
    return sketches(default_rng(seed).normal(size=(n, size)))


def exact(rows_QE, rows_NE):
    """[Q, N] cosines, by the textbook."""
    a, b = rows_QE.astype(np.float64), rows_NE.astype(np.float64)
    return (a @ b.T) / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)


def every_cell(rows):
    """Lists of which a search opens all."""
    return Lists(rows[:7].copy(), 7)


SEARCHES = {"flat": lambda rows: Flat(rows.shape[1]), "lists": every_cell}


@pytest.mark.parametrize("make", SEARCHES.values(), ids=SEARCHES)
def test_search_finds_the_largest_cosines(make):
    rows, asked = uniform(0, 200), uniform(1, 30)
    near = make(rows)
    near.put(np.arange(200), rows)
    cosine, slot = near.search(asked, 5)
    expected = exact(asked, rows)
    np.testing.assert_allclose(cosine, -np.sort(-expected)[:, :5], atol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(expected, slot, 1), cosine, atol=1e-6)


@pytest.mark.parametrize("make", SEARCHES.values(), ids=SEARCHES)
def test_what_is_taken_away_is_not_found(make):
    rows = sketches([[1, 0], [0, 1], [-1, 0], [0, -1], [1, 1], [2, 1], [1, 2]])
    near = make(rows)
    near.put(np.arange(7), rows)
    near.take(np.array([0, 4, 5]))
    cosine, slot = near.search(rows[:1], 7)
    assert slot[0].tolist()[:1] == [6] and sorted(slot[0].tolist()) == [-1, -1, -1, 1, 2, 3, 6]
    assert cosine[0, 0] == pytest.approx(1 / 5**0.5, abs=0.01)
    near.put(np.array([4]), rows[:1])  # a slot is used again
    assert near.search(rows[:1], 1)[1].tolist() == [[4]]
    query, other = near.within(rows[:2], 0.5)
    assert sorted(zip(query.tolist(), other.tolist(), strict=True)) == [(0, 4), (1, 1), (1, 6)]


@pytest.mark.parametrize("make", SEARCHES.values(), ids=SEARCHES)
def test_nothing_there(make):
    near = make(uniform(0, 7))
    near.put(np.arange(7), uniform(0, 7))
    near.take(np.arange(7))
    near.take(np.zeros(0, np.int64))
    near.put(np.zeros(0, np.int64), np.zeros((0, 16), np.int8))
    assert near.search(uniform(1, 3), 2)[1].tolist() == [[-1, -1]] * 3
    assert [len(found) for found in near.within(uniform(1, 3), 0.0)] == [0, 0]


def test_empty_flat_takes_nothing():
    near = Flat(3)
    near.put(np.zeros(0, np.int64), np.zeros((0, 3), np.int8))
    near.take(np.zeros(0, np.int64))
    assert near.search(sketches([1, 0, 0]), 1)[1].tolist() == [[-1]]


def test_units_are_computed_row_by_row():
    rows = uniform(0, 50)
    np.testing.assert_array_equal(unit(rows)[17:20], unit(rows[17:20]))
    np.testing.assert_allclose(np.linalg.norm(unit(rows), axis=1), 1, atol=1e-6)


# Candidates decided ----------------------------------------------------------------------------------------------------


def held_by_one(rows):
    held, near = Holdings(), Flat(rows.shape[1])
    held.replace("a", [f"{i:05d}" for i in range(len(rows))], rows, np.zeros(len(rows), np.int64))
    near.put(held.slots["a"], rows)
    return held, near


def test_many_equals_are_looked_through_for_the_first_name():
    """The first name is in the last slot, past all candidates that are looked at first."""
    rows = np.repeat(sketches([3, 4]), 500, axis=0)
    held, near = Holdings(), Flat(2)
    for site, table in (("b", rows), ("a", rows[:1])):
        held.replace(site, [f"{i:03d}" for i in range(len(table))], table, np.zeros(len(table), np.int64))
        near.put(held.slots[site], table)
    slot, cosine = closest(held, near, rows[:2], anything)
    assert [held.name(s) for s in slot] == [("a", "000")] * 2 and slot.tolist() == [500, 500]
    assert cosine.tolist() == [1.0, 1.0], "equal int8 rows have cosine 1 exactly"


def test_neighbours_that_do_not_count_hide_none(monkeypatch):
    """300 rows nearer than the only one that counts: the search must go deeper than its first look."""
    monkeypatch.setattr(closest_file, "ROOM", 64)
    rows = np.concatenate([np.repeat(sketches([1, 0]), 300, axis=0), sketches([0.5, 1])])
    held, near = held_by_one(rows)
    slot, cosine = closest(held, near, sketches([[1, 0], [1, 0.1]]), lambda part, cosine, slots: cosine < 0.9)
    assert slot.tolist() == [300, 300]
    np.testing.assert_array_equal(cosine, held.cosines(sketches([[1, 0], [1, 0.1]]), np.array([[300], [300]]))[:, 0])


def test_none_counts():
    held, near = held_by_one(uniform(0, 40))
    slot, cosine = closest(held, near, uniform(1, 3), lambda part, cosine, slots: np.zeros(cosine.shape, bool))
    assert slot.tolist() == [-1] * 3 and np.isneginf(cosine).all()


# Cells -----------------------------------------------------------------------------------------------------------------


def test_nearer_cells_rank_higher_and_never_the_same():
    centroids = sketches([[1, 0], [0, 1], [1, 0], [1, 1]])
    order = np.argsort(-ranks(sketches([[1, 0], [0, 1]]), centroids), axis=1)
    assert order.tolist() == [[0, 2, 3, 1], [1, 3, 0, 2]]
    assert cell(sketches([[1, 0], [0, 1], [2, 1.9]]), centroids).tolist() == [0, 1, 3]


def test_needed_cells_by_hand():
    """Sites a and b hold one row each beside both centroids, and one of a's has its nearest in the other cell."""
    centroids = sketches([[1, 0], [0, 1]])
    rows, owner = sketches([[1, 0], [1, 0.1], [0, 1], [0.1, 1]]), np.array([0, 1, 0, 1])
    assert needed(rows, owner, centroids) == 1
    assert needed(sketches([[1, 0], [0.1, 1], [0, 1]]), np.array([0, 0, 1]), centroids) == 2


@pytest.mark.parametrize("data", [clusters, uniform], ids=["clusters", "uniform"])
def test_recall_of_lists(data):
    rows, owner = data(0, 4000), np.arange(4000) // 8
    near = learn(rows, owner)
    near.put(np.arange(4000), rows)
    assert len(near.centroids_CE) == 4 * 63
    hits = 0
    for site in range(0, 500, 5):
        own = np.arange(8 * site, 8 * site + 8)
        near.take(own)
        found = near.search(rows[own], 1)[1][:, 0]
        near.put(own, rows[own])
        cosines = exact(rows[own], rows)
        cosines[:, own] = -2
        hits += int((cosines[np.arange(8), found] >= cosines.max(1) - 1e-9).sum())
    assert hits / 800 >= 0.99
    assert data is uniform or near.probes < 63 / 3, "clusters are found without opening most cells"


def test_learning_again_gives_the_same():
    rows, owner = clusters(3, 2000), np.arange(2000) // 4
    one, two = learn(rows, owner), learn(rows.copy(), owner + 7)
    np.testing.assert_array_equal(one.centroids_CE, two.centroids_CE)
    assert one.probes == two.probes
