"""Whom the server waits for before it begins, or goes on."""

import logging
from pathlib import Path

import pytest
from filelock import FileLock

from server import app, checkpoint, entrance
from server.conduct import conduct
from server.orders import CannotContinue
from tests.fakes import Fake, FakeSites, fake_run
from tests.test_loop import failing

HOME = Path(__file__).parents[1]
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
    monkeypatch.setattr(entrance.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(entrance.time, "sleep", lambda seconds: None)
    answers = iter([set(), {"a"}, {"a"}, {"a"}, {"a"}, {"a", "b"}])
    sites = type("Sites", (), {"connected": lambda self: next(answers)})()
    with caplog.at_level(logging.WARNING, "sitestream"):
        entrance.Gate(sites, None, 20.0).wait(None, 1, {"a", "b"})
    assert [record.getMessage() for record in caplog.records] == [
        "waiting for b to connect, 0:20 so far",
        "waiting for b to connect, 0:40 so far",
    ]


def test_a_deployment_refuses_a_recipe_that_embeds_sites(tmp_path):
    with pytest.raises(ValueError, match=r"smoke.yaml: embeds sites \(first\.\.\.\).*each hospital has its own file"):
        app.deploy(None, {"config": str(HOME / "configs" / "smoke.yaml"), "folder": str(tmp_path / "out")})  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_it_waits_for_a_process_that_is_about_to_leave_the_folder(tmp_path, monkeypatch, caplog):
    """As after a SuperLink was killed: its ServerApp dies a moment later."""
    lock = FileLock(tmp_path / "lock")
    lock.acquire()
    monkeypatch.setattr(app.time, "sleep", lambda seconds: lock.release())
    with caplog.at_level(logging.INFO, "sitestream"), app._once_alone(tmp_path):
        assert "another process is still at work" in caplog.text


def test_it_does_not_wait_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(app, "BUSY_S", -1.0)
    with (
        FileLock(tmp_path / "lock"),
        pytest.raises(ValueError, match="another process conducts this run"),
        app._once_alone(tmp_path),
    ):
        raise AssertionError
