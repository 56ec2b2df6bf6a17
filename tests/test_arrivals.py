"""Who is present in which round."""

import pytest

from configs.schema import Arrivals
from server.arrivals import OpenDoor, make_schedule

ALL = {"a", "b", "c"}


def table(arrivals: Arrivals, connected: set[str] = ALL) -> list[str]:
    """Each round's sites as letters: ["a", "ab", ...]."""
    schedule = make_schedule(arrivals, ["a", "b", "c"])
    return ["".join(sorted(schedule.present(r, connected))) for r in range(1, schedule.rounds + 1)]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ["a", "ab", "abc"]),
        ({"rounds_per_stage": 2}, ["a", "a", "ab", "ab", "abc", "abc"]),
        ({"order": ["c", "a", "b"]}, ["c", "ac", "abc"]),
        ({"rounds": 5}, ["a", "ab", "abc", "abc", "abc"]),
        ({"rounds": 2}, ["a", "ab"]),
        ({"stay": False}, ["a", "b", "c"]),
        ({"stay": False, "rounds_per_stage": 2, "overlap": 1}, ["a", "a", "ab", "b", "bc", "c"]),  # the last has no next
        ({"stay": False, "rounds": 5}, ["a", "b", "c", "", ""]),
        ({"visits": {"a": [[1, 2], [4, None]], "b": [[2, 3]], "c": [[2, 2]]}}, ["a", "abc", "b", "a"]),
        ({"visits": {"a": [[2, None]], "b": [[1, 5]]}, "rounds_per_stage": 3}, ["b", "ab", "ab", "ab", "ab"]),
        ({"visits": {"a": [[1, None]], "b": [[3, None]]}, "rounds_per_stage": 2}, ["a", "a", "ab", "ab"]),
        ({"visits": {"a": [[2, 2]], "b": []}}, ["", "a"]),
    ],
)
def test_a_schedule_is_what_was_written(given, expected):
    assert table(Arrivals(**given)) == expected


def test_a_site_that_is_not_connected_is_not_present():
    assert table(Arrivals(), {"a", "c"}) == ["a", "a", "ac"]


def test_departed_is_gone_for_good_and_a_pause_is_not():
    schedule = make_schedule(Arrivals(visits={"a": [(1, 1), (3, 3)], "b": [(1, None)], "c": [(2, 2)]}), ["a", "b", "c"])
    assert [sorted(schedule.departed(r)) for r in range(1, 6)] == [[], [], ["c"], ["a", "c"], ["a", "c"]]
    staying = make_schedule(Arrivals(), ["a", "b"])
    assert staying.departed(100) == set()


def test_columns_stand_in_order_of_arrival_and_a_stranger_comes_last():
    schedule = make_schedule(Arrivals(visits={"b": [(2, None)], "a": [(2, None)], "c": [(1, 1)]}), [])
    assert schedule.in_order({"a", "b", "c"}) == ["c", "b", "a"]
    assert schedule.in_order({"z", "a", "y", "c"}) == ["c", "a", "y", "z"]


def test_an_open_door_lets_in_whoever_is_there():
    door = make_schedule(Arrivals(door="open", rounds=3), ["a"])
    assert door == OpenDoor(3)
    assert (door.rounds, door.present(1, set()), door.present(2, {"x", "y"}), door.departed(3)) == (3, set(), {"x", "y"}, set())
    assert door.in_order({"b", "a"}) == ["a", "b"]


def test_nobody_to_wait_for_is_said_in_words():
    with pytest.raises(ValueError, match="arrivals: no site is named"):
        make_schedule(Arrivals(), [])
