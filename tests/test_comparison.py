"""A site's half of the index: sketches of what it holds and of what arrives, the server's word, and what goes back."""

import numpy as np
import pytest

from clients.comparison import Comparison, evictions, twin
from memory.sample import Sample
from tests.site_orders import order

POINTS = {"old": [1.0, 0, 0], "other": [0, 1.0, 0], "new": [0.0, 0, 1.0]}


def points(cases):
    return np.array([POINTS[case] for case in cases], np.float32)


def compared(noise=None, **facts):
    return Comparison(order(mu_E=np.zeros(3, np.float32), **facts), points, lambda case: f"id-{case}", noise, b"secret")


def sample(case, visits=3, **facts):
    return Sample(case=case, arrived=0, visits=visits, **facts)


def test_held_samples_get_the_servers_word_and_keep_the_last_if_it_says_none():
    old, other = sample("old"), sample("other", uniqueness=0.4, orphan=True)
    scores = {"uniqueness": {"id-old": 0.25, "id-gone": 0.5}, "leverage": {"id-old": 0.75}}
    compared(scores=scores, orphans=frozenset({"id-old"})).look([old, other], [])
    assert (old.uniqueness, old.scores, old.orphan) == (0.25, {"leverage": 0.75}, True)
    assert (other.uniqueness, other.orphan) == (0.4, False)
    assert old.sketch.tolist() == [127, 0, 0] and old.sketch.dtype == np.int8


def test_arriving_cases_are_judged_by_what_the_others_hold():
    old, new = sample("old"), sample("new", visits=0)
    compared(coverage_ME=np.array([[0, 76, 102], [127, 0, 0]], np.int8)).look([old], [new])
    assert new.uniqueness == pytest.approx(0.2, abs=0.01)  # cosine .8 to the first
    assert old.uniqueness == 1.0  # what is held waits for the server's word


def test_the_reply_tells_of_what_is_held_in_the_end():
    comparison, old, new = compared(), sample("old"), sample("new", visits=0)
    comparison.look([old], [new])
    told = comparison.told([new])
    assert told["ids"] == ("id-new",)
    assert told["sketches_NE"].tolist() == [[0, 0, 127]] and told["mean_E"].tolist() == [0, 0, 1]
    assert comparison.told([]) == {}


def test_noise_changes_what_leaves_and_not_what_stays():
    comparison, old = compared(noise=0.5), sample("old")
    comparison.look([old], [])
    told = comparison.told([old])
    assert old.sketch.tolist() == [127, 0, 0]
    assert told["sketches_NE"].tolist() != [[127, 0, 0]] and told["mean_E"].tolist() != [1, 0, 0]


def test_before_there_is_a_mean_the_site_centres_by_its_own():
    comparison = Comparison(order(), points, str, None, b"secret")
    old, other = sample("old"), sample("other")
    comparison.look([old, other], [])
    assert old.sketch.tolist() == [90, -90, 0] and other.sketch.tolist() == [-90, 90, 0]


def test_a_twin_is_sought_by_sketch_then_by_feature():
    features = {"a": [1.0, 0.0], "b": [0.8, 0.6], "c": [0.0, 1.0]}
    a, b, c = (sample(case, feature=np.array(f, np.float32)) for case, f in features.items())
    assert twin(a, [b, c]) == (b, pytest.approx(0.8))
    for each, sketch in {"a": [127, 0], "b": [0, 127], "c": [127, 0]}.items():
        {"a": a, "b": b, "c": c}[each].sketch = np.array(sketch, np.int8)
    assert twin(a, [b, c]) == (c, pytest.approx(1))
    assert twin(Sample(case="d", arrived=1), [a, b]) == (None, None)


def test_evictions_name_keyed_ids_only():
    gone, stays = sample("old", uniqueness=0.123456), sample("other")
    (row,) = evictions([(gone, stays, 0.98765)], lambda case: f"id-{case}")
    assert row == {
        "id": "id-old",
        "arrived": 0,
        "visits": 3,
        "uniqueness": 0.1235,
        "twin": "id-other",
        "similarity": 0.9877,
    }


def test_with_noise_nothing_is_said_of_likeness():
    (row,) = evictions([(sample("old"), sample("other"), 0.9)], str, noise=0.5)
    assert row == {"id": "old", "arrived": 0, "visits": 3}
