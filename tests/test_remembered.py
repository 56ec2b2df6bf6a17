"""What the server tells sites of the federation's memory: quotas, scores, coverage, replay, and the mean."""

from dataclasses import replace

import numpy as np
import pytest

from configs.memory import Index, Memory
from server.remembered import Remembered, evenly
from wire import Reply

EAST, NORTH, UP = np.eye(3)


def sketches(*vectors):
    return np.rint(127 * np.stack([v / np.linalg.norm(v) for v in vectors])).astype(np.int8)


def reply(site, *vectors, round=1, mean=None, stream_left=1, evicted=(), sketches_NE=None):
    ids = tuple(f"{site}{i}" for i in range(len(vectors)))
    rows = ({"memory": len(vectors), "stream_left": stream_left, "evicted": list(evicted)},)
    rows_NE = sketches(*vectors) if sketches_NE is None else sketches_NE
    mean_E = np.zeros(3, np.float32) if mean is None else np.asarray(mean, np.float32)
    return Reply(run="r", round=round, task="train", site=site, ids=ids, sketches_NE=rows_NE, mean_E=mean_E, rows=rows)


LIVE = ("a", "b", "c", "d")


def remembered(total=None, budget=8, policy="selective", size=8, **index):
    """After a first round in which site d told a mean, so that from now on all centre alike."""
    known = Remembered(Index(**{"on": True, **index}), Memory(policy=policy, total=total, budget=budget), size)
    known.words(LIVE, LIVE, 0)
    known.take(reply("d", EAST))
    known.words(LIVE, LIVE, 0)
    return known


def three_sites(**facts):
    """a and b hold the same thing; c is like neither."""
    known = remembered(**facts)
    for site, vectors in {"a": [EAST, NORTH], "b": [EAST], "c": [UP]}.items():
        assert known.take(reply(site, *vectors)) is None
    return known


def test_without_an_index_every_site_gets_the_budget_and_no_word():
    known = remembered(on=False)
    assert known.take(reply("a", EAST)) is None
    assert known.words(["a", "b"], ["a"], 12) == {"a": {"quota": 8, "replay": None}}
    assert known.summary(["a"], {"a": 8}) is None and known.uniqueness(["a"]) == {}


def test_a_total_is_split_evenly_unless_quotas_are_on():
    assert evenly(["b", "a", "c"], 8) == {"a": 3, "b": 3, "c": 2}
    assert three_sites(total=12, quotas=False).quotas(["a", "b", "c"]) == {"a": 4, "b": 4, "c": 4}


def test_who_holds_what_others_hold_gets_a_smaller_share():
    shares = three_sites(total=12, floor=1).quotas(["a", "b", "c"])
    assert sum(shares.values()) == 12 and shares == {"a": 6, "b": 1, "c": 5}


def test_a_smaller_quota_alone_does_not_make_the_next_one_smaller():
    """By the mean uniqueness of what a site holds, not by its sum, which would shrink with the quota."""
    known = remembered(total=12, floor=1)
    for site, vectors in {"a": [EAST, EAST + 0.4 * NORTH, NORTH], "c": [UP]}.items():
        known.take(reply(site, *vectors))
    assert known.quotas(["a", "c"]) == {"a": 6, "c": 6}


def test_replay_steps_follow_uniqueness_and_their_sum_stays():
    known = remembered()
    known.take(reply("a", EAST, stream_left=0))
    known.take(reply("b", EAST, stream_left=0))
    known.take(reply("c", UP, stream_left=0))
    known.take(reply("d", NORTH, stream_left=3))
    steps = known.replays(["a", "b", "c", "d"], 12)
    assert sum(steps.values()) == 36 and "d" not in steps
    assert steps["c"] > steps["b"] and min(steps.values()) >= 3
    assert remembered(replay=False).replays(["a"], 12) == {}


def test_an_order_says_how_unique_things_are_and_what_the_others_hold():
    words = three_sites().words(["a", "b", "c"], ["b", "c"], 0)
    assert words["c"]["scores"]["uniqueness"] == {"c0": 1.0}
    assert words["b"]["scores"]["uniqueness"]["b0"] == pytest.approx(0, abs=1e-6)  # b is told of the pair, a is not
    assert {tuple(row) for row in words["c"]["coverage_ME"]} == {(127, 0, 0), (0, 127, 0)}


@pytest.mark.parametrize(
    ("off", "field"),
    [({"evict": False}, "scores"), ({"admit": 0}, "coverage_ME"), ({"orphans": False}, "orphans")],
)
def test_each_use_can_be_switched_off_alone(off, field):
    assert field in three_sites().words(["a", "b", "c"], ["b"], 0)["b"]
    assert field not in three_sites(**off).words(["a", "b", "c"], ["b"], 0)["b"]


def test_leverage_is_told_to_those_who_ask_for_it():
    told = three_sites(policy="leverage").words(["a", "b", "c"], ["c"], 0)["c"]["scores"]
    assert told["leverage"] == {"c0": pytest.approx(1)} and "uniqueness" in told
    assert "leverage" not in three_sites().words(["a", "b", "c"], ["c"], 0)["c"]["scores"]


def test_the_mean_is_weighted_by_what_each_site_holds():
    known = remembered()
    known.take(reply("a", EAST, NORTH, mean=[0.6, 0, 0]))
    known.take(reply("b", UP, mean=[0, 0, 0.4]))
    assert known.words(["a"], ["a"], 0)["a"]["mu_E"].tolist() == pytest.approx([0.3, 0, 0.1])  # and d's 0 for one sample
    fresh = Remembered(Index(on=True), Memory(), 8)
    assert fresh.words(["a"], ["a"], 0)["a"]["mu_E"] is None


@pytest.mark.parametrize(
    ("mean", "problem"),
    [(np.zeros(2), "not float32"), (np.array([np.nan, 0, 0]), "no mean"), (np.array([9.0, 0, 0]), "no mean")],
)
def test_a_bad_mean_is_refused_in_words(mean, problem):
    known = remembered()
    assert problem in known.take(reply("a", EAST, mean=mean))
    assert known.words(["a"], ["a"], 0)["a"]["mu_E"].tolist() == [0, 0, 0]  # still d's alone
    assert known.words(["a"], ["a"], 0)["a"]["scores"]["uniqueness"] == {}


def test_bad_or_missing_sketches_are_refused_in_words():
    assert remembered().take(reply("a", EAST, sketches_NE=np.zeros((1, 3), np.int8)))
    bare = Reply(run="r", round=1, task="train", site="a", rows=({"memory": 2, "stream_left": 0},))
    assert remembered().take(bare) == "it sent no sketches"


def test_who_leaves_counts_no_more_and_leaves_orphans():
    known = three_sites()
    known.depart(["b"])
    words = known.words(["a", "c"], ["a"], 0)["a"]
    assert words["scores"]["uniqueness"]["a0"] == 1.0 and words["orphans"] == {"a0"}


def test_evictions_say_where_the_nearest_lives():
    known = three_sites()
    gone = {"id": "b0", "arrived": 0, "visits": 2, "uniqueness": 0.0, "twin": None, "similarity": None}
    known.words(LIVE, LIVE, 0)
    (row,) = known.evictions(reply("b", UP, evicted=[gone]))
    assert (row["where"], row["where_id"], row["where_similarity"]) == ("a", "a0", pytest.approx(1, abs=1e-3))


def test_a_restored_one_says_the_same():
    known = three_sites(total=12, floor=1)
    known.take(reply("c", UP, NORTH, round=2, mean=[0, 0, 0.5], stream_left=0))
    known.depart(["b"])
    again = Remembered(Index(on=True, floor=1), Memory(total=12), 8)
    again.restore(*known.state())
    live = ["a", "c"]
    one, other = (each.words(live, live, 10) for each in (known, again))
    for site in live:
        assert {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in one[site].items()} == {
            k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in other[site].items()
        }
    assert known.summary(live, {}) == again.summary(live, {})


def test_a_site_whose_stream_is_over_leaves_what_it_cannot_fill_to_the_others():
    known = remembered(total=12, floor=1)
    known.take(reply("a", EAST, stream_left=0))
    known.take(reply("c", UP, stream_left=5))
    assert known.quotas(["a", "c"]) == {"a": 1, "c": 11}
    known.take(reply("c", UP, stream_left=0))  # now nobody could fill it
    assert sum(known.quotas(["a", "c"]).values()) == 12


def test_in_a_first_round_every_site_centres_by_itself_so_only_the_means_count():
    known = Remembered(Index(on=True), Memory(total=12, budget=12), 8)
    known.words(["a", "b"], ["a", "b"], 0)
    for site in "ab":  # one case each: both centre it away, and both sketches are the first axis
        assert known.take(reply(site, EAST, mean=[0.5, 0, 0])) is None
    words = known.words(["a", "b"], ["a", "b"], 0)
    assert words["b"]["scores"]["uniqueness"] == {} and "coverage_ME" not in words["b"]
    assert words["b"]["mu_E"].tolist() == [0.5, 0, 0] and words["a"]["quota"] == words["b"]["quota"] == 6
    assert known.summary(["a", "b"], {"a": 1, "b": 1})["effective"] == {"a": 1.0, "b": 1.0}


def test_a_site_may_tell_of_no_more_than_it_may_keep_and_of_no_longer_sketches():
    known = remembered(budget=1)
    assert known.take(reply("a", EAST, NORTH)) == "it sent 2 sketches, and may keep 1 samples"
    assert remembered(size=2).take(reply("a", EAST)) == "its sketches have 3 numbers; sketch.size is 2"


def test_who_holds_nothing_any_more_is_no_longer_compared_with():
    known = three_sites()
    nothing = Reply(run="r", round=2, task="train", site="a", rows=({"memory": 0, "stream_left": 0},))
    assert known.take(nothing) is None
    assert known.words(["a", "b", "c"], ["b"], 0)["b"]["scores"]["uniqueness"] == {"b0": 1.0}


def test_no_site_that_learns_gets_nothing():
    assert remembered(total=2, quotas=False).quotas(LIVE) == {"a": 1, "b": 1, "c": 1, "d": 1}
    known = remembered(total=12, floor=1)
    assert known.take(reply("a", EAST, sketches_NE=np.zeros((1, 3), np.int8), stream_left=0))  # refused, and its stream is over
    assert known.quotas(["a", "b"])["a"] > 1


ODD = [
    ({"sketches_NE": np.array(1, np.int8)}, "sketches must be a table of rows, not of shape ()"),
    ({"sketches_NE": np.zeros((1, 3), np.float32)}, "sketches must be int8, not float32"),
    ({"sketches_NE": np.zeros((1, 3), np.int8)}, "sketch 0 is all zeros"),
    ({"sketches_NE": np.full((1, 3), 127, np.int8)}, "sketch 0 has length 1.73 x 127; within 5% of it is allowed"),
    (
        {"sketches_NE": np.array([[127, 0]], np.int8), "mean_E": np.zeros(2, np.float32)},
        "sketches of 2 numbers; the federation's have 3",
    ),
    ({"sketches_NE": np.zeros((0, 3), np.int8)}, "1 ids for 0 sketches"),
    ({"ids": ("x", "x"), "sketches_NE": sketches(EAST, UP)}, "1 of the 2 ids come twice"),
    ({"ids": ("x" * 101,)}, "an id of 101 characters; at most 100"),
    ({"mean_E": None}, "the mean feature is missing, not float32 [3]"),
    ({"mean_E": np.zeros(3)}, "the mean feature is float64 [3], not float32 [3]"),
    ({"mean_E": np.zeros(2, np.float32)}, "the mean feature is float32 [2], not float32 [3]"),
    ({"mean_E": np.array([np.nan, 0, 0], np.float32)}, "the mean feature is no mean of unit vectors"),
    ({"mean_E": np.array([3e38, 3e38, 0], np.float32)}, "the mean feature is no mean of unit vectors"),
    ({"mean_E": np.array([0.8, 0.8, 0], np.float32)}, "the mean feature is no mean of unit vectors"),
]


@pytest.mark.parametrize(("odd", "reason"), ODD, ids=lambda value: value if isinstance(value, str) else "")
@pytest.mark.parametrize("first", [True, False])
def test_odd_sketches_are_refused_in_one_line_in_a_first_round_too(odd, reason, first):
    """There they are not kept, but their mean would be: of another length it could not be added to the others'."""
    known = remembered()
    if first:
        known._centred = False
    before = known.state()[0], known._mu().tolist()
    assert known.take(replace(reply("a", EAST), **odd)) == reason
    assert (known.state()[0], known._mu().tolist()) == before
