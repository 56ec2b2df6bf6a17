"""Whom the server waits for before it begins, or goes on."""

import logging

import pytest

from server import app, checkpoint
from server.conduct import conduct
from server.orders import CannotContinue
from tests.fakes import Fake, FakeSites, fake_run
from tests.test_loop import failing

LEAVES = {"visits": {"a": [[1, 1]], "b": [[1, None]], "c": [[3, None]]}, "rounds": 4}


def test_a_run_that_begins_waits_for_every_site_that_it_names(tmp_path):
    assert app.expected(fake_run("abc", arrivals=LEAVES), tmp_path) == {"a", "b", "c"}
    assert app.expected(fake_run("abc", arrivals={"door": "open", "rounds": 2}), tmp_path) == set()


def test_a_run_that_goes_on_waits_for_nobody_who_has_left_for_good(tmp_path):
    run = fake_run("abc", arrivals=LEAVES)
    broken = FakeSites({name: Fake() for name in "abc"}, {(name, "train", r): failing() for name in "bc" for r in (2, 3)})
    with pytest.raises(CannotContinue):
        conduct(broken, run, tmp_path)
    known = checkpoint.load(tmp_path)
    assert known is not None and known.round == 2
    assert app.expected(run, tmp_path) == {"b", "c"}


def test_the_log_says_who_is_missing(monkeypatch, caplog):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(app.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(app.time, "sleep", lambda seconds: None)
    answers = iter([set(), {"a"}, {"a"}, {"a"}, {"a"}, {"a", "b"}])
    sites = type("Sites", (), {"connected": lambda self: next(answers)})()
    with caplog.at_level(logging.WARNING, "sitestream"):
        app._wait_for({"a", "b"}, sites, 20.0)
    assert [record.getMessage() for record in caplog.records] == [
        "waiting for b to connect, 0:20 so far",
        "waiting for b to connect, 0:40 so far",
    ]
