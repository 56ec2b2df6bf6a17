"""Whom the server waits for, in a file that is there as long as it waits."""

import json
import math

import pytest

from server.orders import Orders
from server.record import Record
from server.waiting import FEW, Reminder, Waiting, clock, named
from tests.fakes import Fake, FakeSites
from wire import Failure, Order


def read(folder):
    return json.loads((folder / "waiting.json").read_text())


def test_the_file_says_what_for_and_who_is_left(tmp_path):
    with Waiting(tmp_path, "train", 5, ["west", "east", "north"], 3600.0) as waiting:
        facts = read(tmp_path)
        assert facts.pop("since") > 1e9
        assert facts == {"task": "train", "round": 5, "sites": ["east", "north", "west"], "deadline_s": 3600.0}
        waiting.answered("north")
        waiting.answered("north")
        waiting.answered("nobody")
        assert read(tmp_path)["sites"] == ["east", "west"]
    assert list(tmp_path.iterdir()) == []


def test_without_sites_or_deadline_it_is_the_server_s_own_work(tmp_path):
    with pytest.raises(KeyError), Waiting(tmp_path, "merging", 5):
        facts = read(tmp_path)
        assert (facts["task"], facts["sites"], facts["deadline_s"]) == ("merging", [], None)
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_many_answers_at_once_are_few_writes_and_the_last_are_never_missed(tmp_path):
    names = [f"s{i:03}" for i in range(100)]
    with Waiting(tmp_path, "train", 1, names) as waiting:
        writes, write = [], waiting._write
        waiting._write = lambda: (writes.append(1), write())
        for name in names[:90]:
            waiting.answered(name)
        assert read(tmp_path)["sites"] == names[90:]
        assert len(writes) <= FEW + 4


def test_a_disk_that_takes_nothing_is_no_reason_to_stop(tmp_path):
    with Waiting(tmp_path / "gone", "train", 1, ["a"]) as waiting:
        waiting.answered("a")
    assert not (tmp_path / "gone").exists()


def test_orders_say_whom_they_wait_for_until_all_have_answered(tmp_path):
    class Watched(FakeSites):
        def ask(self, shared, orders):
            yield Failure(site="a", round=2, task="hello", kind="crashed", reason="its process died; tried again", again=True)
            for answer in super().ask(shared, orders):
                seen.append(read(tmp_path)["sites"])
                yield answer

    seen = []
    record = Record(tmp_path)
    orders = Orders(Watched({"a": Fake(), "b": Fake()}), record, (), 3, deadline_s=60.0)
    replies, failures = orders.ask({}, [Order(run="r", round=2, task="hello", site=site) for site in "ab"])
    record.close()
    assert (sorted(replies), failures) == (["a", "b"], [])
    assert seen == [["a", "b"], ["a"]]  # news is no answer; b answers first
    assert not (tmp_path / "waiting.json").exists()
    [fault] = map(json.loads, (tmp_path / "record.jsonl").read_text().splitlines())
    assert fault["event"] == "fault" and "again" not in fault


def test_reminders_come_at_growing_intervals_and_begin_anew_after_news():
    reminder = Reminder(60)
    assert [silence for silence in range(0, 600, 10) if reminder.due(silence)] == [60, 120, 240, 480]
    assert not reminder.due(5)
    assert [silence for silence in range(0, 130, 10) if reminder.due(silence)] == [60, 120]


def test_names_are_counted_where_there_are_too_many():
    assert named(["a", "b"]) == "a, b"
    assert named(list("abcdefg")) == "a, b, c, d, e, and 2 more"


def test_clock():
    assert [clock(s) for s in (0, 65, 3599.6, 7265)] == ["0:00", "1:05", "1:00:00", "2:01:05"]
    assert clock(-math.pi) == "0:00"
