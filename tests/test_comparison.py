"""A site's half of the index: sketches of what it holds and of what arrives, the server's word, and what goes back."""

import numpy as np
import pytest

from clients.comparison import Comparison, evictions, twin
from clients.snapshot import before
from memory import POLICIES
from memory.sample import Sample
from tests.site_orders import initial, order

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
    compared().look([old], [])  # a server that says nothing of uniqueness: what it once said need not hold any more
    assert old.uniqueness == 1.0
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


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_works_at_a_site_and_tells_sketches_of_what_it_holds(make_site, policy):
    site = make_site(memory={"policy": policy, "budget": 3}, index={"on": True}, sketch={"size": 8})
    weights, replies = initial(site), []
    for round in (1, 2, 3):
        replies.append(site.answer(order(round=round, mu_E=np.zeros(8, np.float32)), weights))
        weights = replies[-1].weights
    last, held = replies[-1], before(site.folder / "state", "run1", 4).samples
    assert last.rows[0]["memory"] == len(held) == 3 and last.rows[0]["steps"] > 0
    assert last.ids == tuple(site.keyed(sample.case) for sample in held)
    assert last.sketches_NE.shape == (3, 8) and last.sketches_NE.dtype == np.int8
    assert [sample.sketch.tolist() for sample in held] == last.sketches_NE.tolist()
    assert len({gone["id"] for reply in replies for gone in reply.rows[0]["evicted"]} | set(last.ids)) == 6


def test_a_frozen_encoder_sees_the_same_whatever_the_weights_and_the_global_one_does_not(make_site):
    def points(encoder, scale):
        site = make_site(f"{encoder}{scale}", index={"on": True}, sketch={"encoder": encoder})
        weights = {name: tensor * scale for name, tensor in initial(site).items()}
        return site.answer(order(), weights).mean_E.tolist()

    assert points("frozen", 1.0) == points("frozen", 0.5)
    assert points("global", 1.0) != points("global", 0.5)


def test_replay_steps_are_the_servers_if_it_says_so(make_site):
    site = make_site()
    weights = initial(site)
    for round in (1, 2, 3):
        site.answer(order(round=round), weights)
    assert site.answer(order(round=4, replay=5), weights).rows[0]["steps"] == 5
    assert site.answer(order(round=4), weights).rows[0]["steps"] == 3  # as the recipe says
