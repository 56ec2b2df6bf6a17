"""The screen tells what the run's folder says, and never more than a look away from it."""

import io
import json
import os
import time

import pytest
from rich.console import Console

from simulations.lines import Lines
from simulations.screen import Screen, frame
from simulations.silence import Silence
from simulations.watch import Row, Watch


class Folder:
    """A run's folder, written as a run writes it."""

    def __init__(self, path):
        self.path = path

    def event(self, event, /, **facts):
        with (self.path / "record.jsonl").open("a") as file:
            file.write(json.dumps({"event": event, **facts}) + "\n")

    def progress(self, site, task, **facts):
        folder = self.path / "sites" / site
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "part").write_text(json.dumps({"site": site, "task": task, **facts}))
        os.replace(folder / "part", folder / "progress.json")

    def train(self, round, site, **facts):
        memory = {"memory": 10, "budget": 16, "memory_classes": {"liver": 6, "spleen": 4}, "memory_domains": {"a": 10}}
        sums = {"loss_sum": 30.0, "loss_weight": 100.0, "bytes_down": 1_000_000, "bytes_up": 500_000}
        self.event("train", round=round, stage=site, site=site, **memory, **sums, **facts)


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def states(watch):
    return {row.site: row.state for row in watch.update()}


def text(watch, rows, width=80, height=None):
    console = Console(file=io.StringIO(), width=width, height=height or 50)
    console.print(frame(watch, rows, width, height))
    return console.file.getvalue()


# Watch ---------------------------------------------------------------------------------------------------------------


def test_states_of_a_site(folder):
    watch = Watch(folder.path, ["a", "b"], 3)
    assert states(watch) == {"a": "waiting", "b": "waiting"}
    folder.progress("a", "prepare", done=1, of=9)
    assert states(watch) == {"a": "preparing", "b": "waiting"}
    folder.event("arrive", round=1, site="a", stage="a")
    folder.progress("a", "idle")
    assert states(watch) == {"a": "present", "b": "waiting"}
    folder.progress("a", "train", round=1, step=3, steps=40, loss=0.5)
    row = watch.update()[0]
    assert (row.state, row.at, row.of, row.loss) == ("training", 3, 40, 0.5)
    folder.train(1, "a")  # the reply has come: what the progress file says is over
    row = watch.update()[0]
    assert (row.state, row.at, row.loss, row.memory, row.budget, row.bytes) == ("present", None, 0.3, 10, 16, 1_500_000)
    assert (row.classes, row.domains) == ({"liver": 6, "spleen": 4}, {"a": 10})
    folder.progress("b", "evaluate", round=1, done=1, of=2, dice=0.25)  # evaluated before it arrives
    row = watch.update()[1]
    assert (row.state, row.at, row.of, row.dice) == ("evaluating", 1, 2, 0.25)
    folder.progress("b", "evaluate", round=1, done=2, of=2)
    folder.event("result", stage="a", site="b", dice=0.5)
    assert [(row.state, row.dice) for row in watch.update()] == [("present", None), ("waiting", 0.5)]
    for kind, state in (("pause", "paused"), ("return", "present"), ("leave", "left")):
        folder.event(kind, round=2, site="a", stage="b")
        assert states(watch)["a"] == state
    folder.event("arrive", round=2, site="b", stage="b")
    folder.event("end", seconds=9.0)
    assert states(watch) == {"a": "left", "b": "done"} and watch.ended


def test_a_failure_and_why_stay_until_the_site_succeeds(folder):
    watch = Watch(folder.path, ["a"], 3)
    folder.event("arrive", round=1, site="a", stage="a")
    folder.progress("a", "train", round=1, step=3, steps=40)
    folder.event("failure", round=1, site="a", task="train", kind="crashed", reason="out of\nmemory \x1b[31m")
    row = watch.update()[0]
    assert (row.state, row.why) == ("failed", "crashed: out of memory [31m")
    folder.progress("a", "evaluate", round=1, done=0, of=2)
    row = watch.update()[0]
    assert (row.state, row.why) == ("evaluating", "crashed: out of memory [31m")
    folder.progress("a", "idle", round=1)
    assert states(watch) == {"a": "failed"}
    folder.progress("a", "train", round=2, step=1, steps=40)
    assert states(watch) == {"a": "training"}
    folder.train(2, "a")
    row = watch.update()[0]
    assert (row.state, row.why) == ("present", "")


def test_a_fault_is_shown_until_the_site_succeeds(folder):
    watch = Watch(folder.path, ["a"], 3)
    folder.event("fault", round=1, site="a", task="train", kind="crashed", reason="its process\ndied; tried again")
    row = watch.update()[0]
    assert (row.state, row.why, row.fault) == ("waiting", "", "its process died; tried again")
    assert "a: its process died; tried again" in text(watch, [row])
    folder.train(1, "a")
    assert watch.update()[0].fault == ""


def test_a_fault_that_a_reply_tells_of_is_shown_until_the_next_reply(folder):
    watch = Watch(folder.path, ["a"], 3)
    folder.event("fault", round=1, site="a", task="train", kind="memory", reason="2 patches at a time")
    folder.train(1, "a")
    assert watch.update()[0].fault == "2 patches at a time"
    folder.train(2, "a")
    assert watch.update()[0].fault == ""


def test_a_fault_of_the_server_s_is_no_site_s(folder):
    watch = Watch(folder.path, ["a"], 3)
    folder.event("fault", round=1, site="", task="resume", kind="damaged", reason="round-1 is damaged")
    assert [(row.site, row.fault) for row in watch.update()] == [("a", "")]


def test_half_lines_and_unreadable_files_are_looked_at_again(folder):
    watch, record = Watch(folder.path, ["a"], 2), folder.path / "record.jsonl"
    line = json.dumps({"event": "arrive", "round": 1, "site": "a", "stage": "a"}) + "\n"
    record.write_text("not json\n[1]\n{}\n" + line[:20])
    assert states(watch) == {"a": "waiting"}
    with record.open("a") as file:
        file.write(line[20:])
    assert states(watch) == {"a": "present"} and [event["event"] for event in watch.news] == ["arrive"]
    watch.update()
    assert watch.news == []
    progress = folder.path / "sites" / "a" / "progress.json"
    progress.parent.mkdir(parents=True)
    for torn in ('{"task": "tra', "[]", "", '{"task": 7, "step": "x", "memory_classes": 3}', '{"task": "train", "step": NaN}'):
        progress.write_text(torn)
        watch.update()
    folder.progress("a", "train", round=1, step=10**400, steps=2, memory_classes={"liver": None})
    row = watch.update()[0]
    assert (row.state, row.at, row.classes) == ("training", None, {})


def test_a_shortened_record_is_read_anew(folder):
    watch, record = Watch(folder.path, ["a", "b"], 3), folder.path / "record.jsonl"
    folder.event("arrive", round=1, site="a", stage="a")
    kept = record.read_text()
    folder.event("arrive", round=2, site="b", stage="b")
    assert states(watch) == {"a": "present", "b": "present"}
    record.write_text(kept)
    assert states(watch) == {"a": "present", "b": "waiting"} and watch.news == []


def test_sites_that_only_the_record_knows_are_shown(folder):
    folder.event("site", site="stream", extra=True)
    assert states(Watch(folder.path, ["a"], 1)) == {"a": "waiting", "stream": "waiting"}


def test_eta(folder):
    now = [100.0]
    watch = Watch(folder.path, ["a", "b"], 4, clock=lambda: now[0])
    watch.update()
    assert watch.eta() is None
    for site in ("a", "b"):
        folder.event("arrive", round=1, site=site, stage="a+b")
    watch.update()
    now[0] += 5
    folder.progress("a", "train", round=1, step=10, steps=20)
    watch.update()
    assert watch.eta() == pytest.approx(5 / 0.25 * 3.75)  # a quarter of the first round took 5 s
    now[0] += 5
    folder.train(1, "a")
    folder.train(1, "b")
    folder.event("round", round=1, stage="a+b", seconds=8.0)
    watch.update()
    assert watch.eta() == pytest.approx(30)  # by the clock 10 s a round, more than the 8 s recorded
    folder.progress("b", "train", round=2, step=10, steps=20)
    watch.update()
    assert watch.eta() == pytest.approx(10 * 2.75)
    for round_ in (2, 3, 4):
        folder.event("round", round=round_, stage="a+b", seconds=8.0)
    watch.update()
    assert watch.eta() is None and watch.elapsed() == 10


def test_eta_of_a_resumed_run_rests_on_the_recorded_rounds(folder):
    for round_ in (1, 2):
        folder.event("round", round=round_, stage="a", seconds=6.0)
    watch = Watch(folder.path, ["a"], 4)
    watch.update()
    assert watch.eta() == pytest.approx(12)


# Table ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 100, 120])
def test_no_number_is_cut(tmp_path, width):
    classes = {"liver": 61, "left kidney": 62, "right adrenal gland": 63}
    row = Row(
        "north-hospital",
        "evaluating",
        "crashed: " + "very long " * 12 + "reason",
        12345,
        20000,
        0.123,
        128,
        129,
        classes,
        {"[red]b": 64},
        0.875,
    )
    watch = Watch(tmp_path, [], 3)
    shown = text(watch, [row, Row("[red]b")], width)
    assert max(map(len, shown.splitlines())) <= width
    for piece in ("north-hospital", "12345/20000", "0.123", "128/129", "0.875", "[red]b", "reason", "evaluating"):
        assert piece in shown, piece
    assert all(f" {count}" in shown for count in (61, 62, 63, 64))


def test_many_sites_fit_a_small_terminal(tmp_path):
    rows = [Row(f"s{i}", classes={"liver": 1, "spleen": 2}) for i in range(64)]
    rows[60].state = "training"
    rows[61].state, rows[61].why = "failed", "late: no reply"
    shown = text(Watch(tmp_path, [], 3), rows, 80, 24).splitlines()
    assert len(shown) <= 24
    assert any("s60" in line and "training" in line for line in shown)
    assert any("s61 failed: late: no reply" in line for line in shown)
    assert shown[-2].rstrip() == "and 46 more: 46 waiting" and len(shown) == 22
    assert len(text(Watch(tmp_path, [], 3), rows, 80).splitlines()) >= 64


# Lines ---------------------------------------------------------------------------------------------------------------


def events():
    yield {"event": "run", "name": "quick", "seed": 3, "paradigm": "continual"}
    yield {"event": "site", "site": "a", "tests": 2}
    yield {"event": "site", "site": "b", "tests": 2}
    yield {"event": "site", "site": "extra", "tests": 0}
    yield {"event": "arrive", "round": 1, "site": "a", "stage": "a"}
    yield {"event": "train", "round": 1, "site": "a", "loss_sum": 30.0, "loss_weight": 100.0}
    yield {"event": "train", "round": 1, "site": "b", "loss_sum": 10.0, "loss_weight": 100.0}
    yield {"event": "failure", "round": 1, "site": "b", "task": "train", "kind": "late", "reason": "no reply in 9 s"}
    yield {"event": "round", "round": 1, "stage": "a", "seconds": 12.34, "draws": 80}
    yield {"event": "case", "stage": "a", "site": "a", "case": "x", "class": "liver", "dice": None}
    yield {"event": "result", "stage": "a", "site": "a", "dice": 0.75}
    yield {"event": "result", "stage": "a", "site": "b", "dice": 0.25}
    yield {"event": "leave", "round": 2, "site": "a", "stage": "b"}
    yield {"event": "round", "round": 2, "stage": "b", "seconds": None, "draws": 80}
    yield {"event": "result", "stage": "b", "site": "a", "dice": None}
    yield {"event": "metric", "id": "acc", "value": 0.5, "cells": 2}
    yield {"event": "metric", "id": "bwt.gem", "value": None, "cells": 0}
    yield {"event": "end", "seconds": 61.2}


TOLD = [
    "quick: 2 rounds, continual, seed 3",
    "round 1: a arrives (stage a)",
    "round 1: b failed to train (late): no reply in 9 s",
    "round 1/2, stage a, 12.3 s, mean loss 0.200, 80 draws",
    "after stage a: Dice a 0.750, b 0.250, mean 0.500",
    "round 2: a leaves (stage b)",
    "round 2/2, stage b, 80 draws",
    "after stage b: Dice a -",
    "done in 61 s, acc 0.500",
]


def test_lines_one_per_event_worth_one():
    lines, told = Lines(2), []
    for event in events():  # however the events fall into looks
        told += lines.tell([event])
    assert told == TOLD == list(Lines(2).tell(events()))


def test_lines_of_what_the_run_made_up_for():
    told = Lines(2).tell(
        [
            {"event": "fault", "round": 3, "site": "east", "kind": "crashed", "reason": "its process died; tried again"},
            {"event": "fault", "round": 2, "site": "", "kind": "damaged", "reason": "round-2 is damaged"},
            {"event": "changed", "key": "train.lr", "before": 0.1, "after": 0.2, "round": 2},
        ]
    )
    assert list(told) == [
        "round 3: east: its process died; tried again",
        "round 2: round-2 is damaged",
        "train.lr was 0.1 and is 0.2 from here on",
    ]


def test_lines_of_a_resumed_run_begin_where_it_goes_on():
    assert Lines(2).first([*events()][:12]) == ["resumed after round 1 of 2", TOLD[4]]


# Silence -------------------------------------------------------------------------------------------------------------


class Wait:
    """A run that waits, with a clock that is moved by hand."""

    def __init__(self, folder, sites):
        self.folder, self.now = folder, 1000.0
        self.watch = Watch(folder.path, sites, 9, clock=lambda: self.now)
        self.silence = Silence(self.watch, 60.0)

    def waits(self, task, sites=(), deadline_s=None, since=1.0):
        facts = {"task": task, "round": 5, "sites": list(sites), "since": since, "deadline_s": deadline_s}
        (self.folder.path / "waiting.json").write_text(json.dumps(facts))

    def look(self, after=0.0):
        self.now += after
        rows = self.watch.update()
        self.silence.look(rows)
        return self.silence.line(rows)


def test_the_head_says_who_is_waited_for(folder):
    run = Wait(folder, ["east", "west"])
    run.look()
    assert run.silence.title() == ""
    run.waits("train", ["east", "west"])
    run.look()
    run.look(80)
    assert run.silence.title() == "waiting for east, west: train, 1:20"
    run.waits("train", ["west"])
    run.look()
    assert run.silence.title() == "waiting for west: train, 1:20"
    run.waits("train")  # all have answered: the updates are being checked
    run.look()
    assert run.silence.title() == ""
    run.waits("merging", since=2.0)
    run.look(5)
    assert run.silence.title() == "merging, 0:00"
    assert run.look(7) == "round 5: still merging, for 0:07"


def test_a_long_silence_names_who_keeps_it_and_since_when(folder):
    run = Wait(folder, ["east", "west"])
    run.waits("train", ["east", "west"], 3600.0)
    run.look()
    folder.progress("east", "train", round=5, step=3, steps=40)
    run.look(10)
    assert run.look(70) == (
        "round 5: still waiting for east (training, step 3/40, last sign of life 70 s ago; deadline in 58:50), "
        "west (no sign of life yet; deadline in 58:40)"
    )
    assert "west (no sign of life yet)" in run.look(3600)  # it has had to wait for its turn


def test_the_deadline_of_an_order_that_is_given_again_begins_anew(folder):
    run = Wait(folder, ["east"])
    run.waits("train", ["east"], 100.0)
    folder.progress("east", "train", round=5, step=3, steps=40)
    run.look()
    folder.event("fault", round=5, site="east", task="train", kind="late", reason="no answer within 100 s; tried again")
    run.look(100)
    assert run.look(30).endswith("deadline in 1:10)")


def test_news_ends_a_silence_and_a_finished_run_has_none(folder):
    run = Wait(folder, ["east"])
    assert run.look(59) == "no news for 0:59" and not run.silence.due()
    run.look(1)
    assert run.silence.due() and run.silence.too_long()
    run.look(1)
    assert not run.silence.due()  # said already
    for news in (
        lambda: folder.progress("east", "train", round=1, step=1, steps=9),
        lambda: folder.event("arrive", round=1, site="east", stage="east"),
        lambda: run.waits("train", ["east"]),
    ):
        news()
        run.look(50)
        assert run.silence.seconds() == 0
    folder.event("end", seconds=1.0)
    run.look()
    run.look(999)
    assert not run.silence.due() and not run.silence.too_long()


def test_the_file_of_a_killed_run_is_not_believed(folder):
    Wait(folder, ["east"]).waits("train", ["east"])
    run = Wait(folder, ["east"])
    run.look(5)
    assert run.silence.title() == ""
    run.waits("train", ["east"], since=7.0)
    run.look()
    assert run.silence.title() == "waiting for east: train, 0:00"


# Screen --------------------------------------------------------------------------------------------------------------


def test_plain_when_not_a_terminal(folder):
    console = Console(file=io.StringIO(), width=40)
    with Screen(folder.path, ["[red]a"], 2, console):
        folder.event("arrive", round=1, site="[red]a", stage=":smile: [red]a" + "x" * 50)
        folder.event("failure", round=1, site="[red]a", task="train", kind="crashed", reason="[bold]two\nlines\x1b[0m")
    assert console.file.getvalue().splitlines() == [
        "round 1: [red]a arrives (stage :smile: [red]a" + "x" * 50 + ")",
        "round 1: [red]a failed to train (crashed): [bold]two lines [0m",
        "stopped in round 1 of 2 after 0:00",
    ]


@pytest.mark.parametrize("terminal", [False, True])
def test_a_silence_is_broken_by_one_line(folder, monkeypatch, terminal):
    monkeypatch.setattr("simulations.screen.PERIOD_S", {"live": 0.05, "plain": 0.05})
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100, height=30, color_system=None)
    with Screen(folder.path, ["[red]a"], 2, console, watch_s=0.2):
        (folder.path / "waiting.json").write_text('{"task": "train", "round": 1, "sites": ["[red]a"], "since": 1}')
        deadline = time.monotonic() + 10
        while "still" not in console.file.getvalue() and time.monotonic() < deadline:
            time.sleep(0.05)
    lines = [line.strip() for line in console.file.getvalue().splitlines() if "still" in line]
    assert lines[0] == "round 1: still waiting for [red]a (no sign of life yet)"
    assert terminal or len(lines) == 1


@pytest.mark.parametrize("terminal", [False, True])
def test_the_last_word_of_a_finished_run_is_each_class_at_each_site(folder, terminal):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100, height=30, color_system=None)
    with Screen(folder.path, ["a", "b"], 2, console):
        (folder.path / "classes.csv").write_text("class,a,b\nliver,0.500000,\n")
        folder.event("end", seconds=1.0)
    last = console.file.getvalue().splitlines()[-1]
    assert last.split() == (["liver", "0.500", "0.500"] if terminal else ["liver:", "Dice", "a", "0.500,", "mean", "0.500"])


def test_an_unfinished_run_has_no_last_word_on_classes(folder):
    console = Console(file=io.StringIO(), width=100)
    with Screen(folder.path, ["a"], 2, console):
        (folder.path / "classes.csv").write_text("class,a\nliver,0.5\n")
    assert "liver" not in console.file.getvalue()


def test_a_site_that_tunes_the_last_model_is_shown_at_it(folder):
    watch = Watch(folder.path, ["a"], 3)
    folder.event("arrive", round=1, site="a", stage="a")
    folder.train(3, "a")
    folder.progress("a", "tune", round=3, done=4, of=40)
    row = watch.update()[0]
    assert (row.state, row.at, row.of) == ("tuning", 4, 40)
    assert "tuning" in text(watch, watch.update())


def test_live_on_a_terminal_and_the_last_state_stays(folder):
    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=30, color_system=None)
    with Screen(folder.path, ["[red]a", "b"], 2, console):
        folder.event("arrive", round=1, site="[red]a", stage="a")
        folder.progress("[red]a", "train", round=1, step=7, steps=40)
        deadline = time.monotonic() + 10
        while "7/40" not in console.file.getvalue() and time.monotonic() < deadline:
            time.sleep(0.05)
        folder.event("end", seconds=1.0)
    shown = console.file.getvalue()
    assert "7/40" in shown and "training" in shown
    last = shown[shown.rindex("done in") :]
    assert "[red]a" in last and "training" not in last and "waiting" in last


def test_the_screen_never_disturbs_the_run(folder, monkeypatch):
    def broken(self):
        raise RuntimeError("the screen is broken")

    monkeypatch.setattr(Watch, "update", broken)
    for terminal in (True, False):
        with Screen(folder.path, ["a"], 2, Console(file=io.StringIO(), force_terminal=terminal)) as screen:
            time.sleep(0.3)
            assert screen._thread.is_alive()


def test_the_run_s_own_error_comes_through(folder):
    with pytest.raises(KeyError, match="mine"), Screen(folder.path, ["a"], 2, Console(file=io.StringIO())):
        raise KeyError("mine")
