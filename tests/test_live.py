"""The live page: what it says of a run or a study at any moment of its life, that it only reads, and who may ask for it."""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.load import load_run
from run_sim import main
from server.alone import alone
from simulations import at_work, live_painter, live_run
from simulations.at_work import held_locks, is_held
from simulations.engines import simulate
from simulations.live import Page, watched_in
from simulations.live_page import LiveRunPage, ago, lasted
from simulations.live_painter import DRAWING, Painter
from simulations.live_run import LiveRun
from simulations.pretend import materialise
from simulations.run_folder import write_run
from tests.test_interrupt import HOME, started
from tests.test_screen import Folder
from tests.test_studies import BASE
from tests.test_study_page import finish, matrix

NOW = 1_800_000_000.0
SMALL = ["engine.name=local", "train.sampling_rate=2", "train.replay_steps=2"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, session_cache: None) -> Path:
    """A real run of the smoke config, with few steps."""
    folder = tmp_path_factory.mktemp("runs") / "smoke"
    folder.mkdir()
    run = load_run(HOME / "configs" / "smoke.yaml", SMALL)
    write_run(folder / "config.yaml", run)
    simulate(materialise(run), folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A run of a and b over 4 rounds, as simulated.yaml says; nothing has happened yet."""
    (tmp_path / "run").mkdir()
    sites = {name: {"root": str(tmp_path)} for name in "ab"}
    recipe = {"name": "two", "sites": sites, "arrivals": {"rounds_per_stage": 2}}
    (tmp_path / "run" / "simulated.yaml").write_text(yaml.safe_dump(recipe))
    os.utime(tmp_path / "run" / "simulated.yaml", (NOW - 300, NOW - 300))
    return Folder(tmp_path / "run")


def aged(folder: Folder, name: str, seconds: float) -> None:
    """A file was last written so long before NOW."""
    os.utime(folder.path / name, (NOW - seconds, NOW - seconds))


def waiting(folder: Folder, task: str, sites: list[str], seconds: float, **facts: Any) -> None:
    wait = {"task": task, "round": 1, "since": NOW - seconds, "deadline_s": None, "sites": sites, **facts}
    (folder.path / "waiting.json").write_text(json.dumps(wait))
    aged(folder, "waiting.json", seconds)


def words(html: str) -> str:
    """What a reader reads, each space one."""
    return re.sub(r"\s+", " ", unescape(re.sub("<[^>]*>", " ", html))).strip()


def shown(folder: Path) -> str:
    face = LiveRunPage(folder, lambda: NOW).face()
    return words(f"<p>{face.said}</p>{face.live}")


def everything(folder: Path) -> dict[str, tuple[int, int, int]]:
    """{path: inode, bytes and time of the last writing} of all that lies in a folder, and of itself."""
    found = [folder, *folder.rglob("*")]
    return {str(path): ((stat := path.stat()).st_ino, stat.st_size, stat.st_mtime_ns) for path in found}


# What it says of a run -------------------------------------------------------------------------------------------------


def test_a_finished_run_says_so_and_its_report_is_the_one_that_is_written(finished, tmp_path):
    page = LiveRunPage(finished)
    face = page.face()
    assert re.fullmatch(r"Finished after 6 rounds, in \d+:\d\d\.", face.said) and face.title == "finished · smoke"
    assert words(face.live).count("done") == 3 and page.hurry()
    assert (finished / "simulated.yaml").is_file()
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    assert main(["report", str(copy)]) == 0
    document = (copy / "report.html").read_text()
    sections = list(page.draw())
    assert len(sections) > 6 and "<h2>Report</h2>" in sections[0]
    assert [part for part in sections[1:-1] if part not in document] == []  # the last names its folder
    assert sections[0].split("</h2>")[1] in document


def test_before_it_begins_and_as_soon_as_it_does(tmp_path):
    folder = Folder(tmp_path / "run")
    folder.path.mkdir()
    run = LiveRun(folder.path, lambda: NOW)
    assert run.look().phase == "not begun" and run.look().rows == ()
    assert "This run has not begun yet; the page fills itself when it does." in shown(folder.path)
    assert LiveRunPage(folder.path).version() is None
    recipe = {"sites": {"a": {"root": "/x"}, "b": {"root": "/y"}}, "arrivals": {"rounds_per_stage": 3}}
    (folder.path / "config.yaml").write_text(yaml.safe_dump(recipe))
    moment = run.look()
    assert (moment.phase, [row.site for row in moment.rows], moment.rounds) == ("not begun", ["a", "b"], 6)
    folder.event("run", name="lately")
    folder.event("arrive", round=1, site="a", stage="a")
    aged(folder, "record.jsonl", 1)
    moment = run.look()
    assert (moment.phase, moment.name, moment.round, moment.stage) == ("going on", "lately", 1, "a")
    with alone(folder.path):
        (folder.path / "record.jsonl").unlink()
        assert words(LiveRunPage(folder.path).face().said) == "It is starting."


def test_every_site_with_its_state_and_what_it_last_told(folder):
    folder.event("run", name="two")
    folder.event("arrive", round=1, site="a", stage="a")
    folder.train(1, "a")  # memory 10 of 16, loss .3, 1.5 MB
    folder.event("round", round=1, stage="a", seconds=30.0)
    folder.event("result", stage="a", site="a", dice=0.75)
    folder.event("result", stage="a", site="b", dice=0.125)
    folder.progress("a", "train", round=2, step=3, steps=40, loss=0.5)
    folder.progress("b", "prepare", done=1, of=9)
    for name, seconds in (("record.jsonl", 20), ("sites/a/progress.json", 5), ("sites/b/progress.json", 130)):
        aged(folder, name, seconds)
    with alone(folder.path):
        said = shown(folder.path)
    assert said.startswith("Round 2 of 4, stage a. 2 of 4 round a stage 5:00 since it was started")
    assert "1.5 MB sent both ways 5 s since the last sign of life" in said
    assert "a training, step 3/40 0.500 0.750 10/16 1.5 MB 5 s ago" in said
    assert "b preparing, case 1/9 – 0.125 – 0 B 20 s ago" in said  # its result came last
    assert 'value="3" max="40" aria-label="step: 3 of 40"' in LiveRunPage(folder.path).face().live


@pytest.mark.parametrize(("event", "state"), [("pause", "paused"), ("leave", "left")])
def test_who_is_away(folder, event, state):
    folder.event("arrive", round=1, site="a", stage="a")
    folder.event(event, round=2, site="a", stage="a")
    aged(folder, "record.jsonl", 3)
    assert f"a {state} –" in shown(folder.path) and "b waiting –" in shown(folder.path)


def test_a_failure_and_a_fault_with_their_reasons(folder):
    folder.event("arrive", round=1, site="a", stage="a")
    folder.event("failure", round=1, site="a", task="train", kind="crashed", reason="<b>out of memory")
    folder.event("fault", round=1, site="b", task="train", kind="crashed", reason="its process died; tried again")
    aged(folder, "record.jsonl", 3)
    said = shown(folder.path)
    assert "a failed: crashed: <b>out of memory –" in said and "b: its process died; tried again" in said
    folder.progress("a", "train", round=2, step=1, steps=40)
    aged(folder, "sites/a/progress.json", 3)
    assert "a training, step 1/40" in shown(folder.path)
    assert "a failed: crashed: <b>out of memory" in shown(folder.path)  # below the table, until the site succeeds


def test_a_stall_and_its_cause_in_words(folder):
    folder.event("arrive", round=1, site="a", stage="a")
    folder.progress("a", "train", round=1, step=3, steps=40)
    waiting(folder, "train", ["a", "b"], 95, deadline_s=3600.0)
    aged(folder, "record.jsonl", 100)
    aged(folder, "sites/a/progress.json", 70)
    with alone(folder.path):
        said = shown(folder.path)
    assert said.startswith("Round 1 of 4, stage a: no news for too long.")
    a = "a (training, step 3/40, last sign of life 70 s ago; deadline in 58:25)"
    assert f"round 1: still waiting for {a}, b (no sign of life yet; deadline in 58:25)" in said
    aged(folder, "sites/a/progress.json", 59)  # news
    with alone(folder.path):
        said = shown(folder.path)
    assert said.startswith("Round 1 of 4, stage a. ") and "still waiting" not in said
    assert "waiting for a, b: train, 1:35" in said and "b waiting, asked to train 1:35 ago" in said


def test_a_stall_in_which_nobody_is_waited_for(folder):
    folder.event("arrive", round=1, site="a", stage="a")
    aged(folder, "record.jsonl", 75)
    with alone(folder.path):
        assert "round 1: no news for 1:15" in shown(folder.path)


def test_what_is_left_is_told_once_it_can_be_judged(folder):
    folder.event("arrive", round=1, site="a", stage="a")
    folder.progress("a", "train", round=1, step=20, steps=40)
    aged(folder, "record.jsonl", 1)
    aged(folder, "sites/a/progress.json", 1)
    late = LiveRun(folder.path, lambda: NOW)
    assert late.look().eta is None  # half a round is done, since nobody knows when
    folder.train(1, "a")
    folder.event("round", round=1, stage="a", seconds=30.0)
    aged(folder, "record.jsonl", 1)
    assert late.look().eta == 90.0 == LiveRun(folder.path, lambda: NOW).look().eta


def test_a_deployment_is_told_by_its_record_and_by_whom_the_server_waits_for(folder):
    """Nothing of the sites lies there: the record's rounds say how old a site's last reply is."""
    (folder.path / "simulated.yaml").unlink()
    place = folder.path / "checkpoints" / "000001"
    place.mkdir(parents=True)
    sites = {"arrivals": {"door": "open", "rounds": 9}, "sites": {}}
    (place / "state.json").write_text(json.dumps({"recipe": sites}))
    for site in "ab":
        folder.event("arrive", round=1, site=site, stage="a+b")
    for number in (1, 2):
        for site in "ab" if number == 1 else "a":
            folder.train(number, site)
        folder.event("round", round=number, stage="a+b", seconds=40.0)
    waiting(folder, "train", ["b"], 8)
    aged(folder, "record.jsonl", 10)
    assert not (folder.path / "sites").exists()
    said = shown(folder.path)
    assert said.startswith("Round 2 of 9, stage a+b.")
    assert "a present 0.300 – 10/16 3.0 MB 10 s ago" in said
    assert "b present, asked to train 0:08 ago 0.300 – 10/16 1.5 MB 50 s ago" in said  # a round of 40 s has passed since


def test_stopped_is_not_going_on(folder):
    folder.event("arrive", round=1, site="a", stage="a")
    folder.progress("a", "train", round=1, step=3, steps=40)
    waiting(folder, "train", ["a"], 90)
    for name in ("record.jsonl", "sites/a/progress.json"):
        aged(folder, name, 80)
    with alone(folder.path):
        assert is_held(folder.path, held_locks()) and LiveRun(folder.path, lambda: NOW).look().phase == "going on"
    assert not is_held(folder.path, held_locks())
    said = shown(folder.path)
    assert said.startswith("Stopped: no process of this machine is at work on this run, and nothing has been heard of it.")
    assert "It was in round 1 of 4, stage a." in said and "waiting for" not in said
    assert "a was training, step 3/40" in said


def test_where_locks_cannot_be_seen_what_is_fresh_goes_on(folder, monkeypatch, tmp_path):
    monkeypatch.setattr(at_work, "LOCKS", tmp_path / "nowhere")
    folder.event("arrive", round=1, site="a", stage="a")
    for seconds, phase in ((59, "going on"), (61, "stopped")):
        aged(folder, "record.jsonl", seconds)
        with alone(folder.path):
            assert LiveRun(folder.path, lambda: NOW).look().phase == phase


def test_a_record_that_was_cut_and_grew_again_is_read_anew(folder):
    """A resumed run's, between two looks: nothing is counted twice."""
    for number in (1, 2):
        folder.train(number, "a")
    run = LiveRun(folder.path, lambda: NOW)
    assert run.look().rows[0].bytes == 3_000_000
    record = folder.path / "record.jsonl"
    record.write_text(record.read_text().splitlines(keepends=True)[0])
    folder.event("failure", round=2, site="a", task="train", kind="crashed", reason="x" * 400)
    folder.train(3, "a")
    assert run.look().rows[0].bytes == 3_000_000  # of rounds 1 and 3
    folder.train(4, "a")
    assert run.look().rows[0].bytes == 4_500_000


TORN = [
    '{"event": "tra',
    "[]",
    "",
    "{}",
    "null",
    "\0\0",
    '{"event": 3}',
    '{"task": 7, "step": "x"}',
    '{"sites": 3}',
]


@pytest.mark.parametrize("torn", TORN)
@pytest.mark.parametrize("name", ["record.jsonl", "waiting.json", "config.yaml", "simulated.yaml", "sites/a/progress.json"])
def test_no_torn_file_is_an_error(folder, name, torn):
    folder.event("arrive", round=1, site="a", stage="a")
    folder.progress("a", "train", round=1, step=3, steps=40)
    run = LiveRunPage(folder.path)
    (folder.path / name).write_text(torn)
    with served(run) as ask:
        code, _, body = ask("/state", draw=True)
        assert code == 200 and "cannot be read (" not in json.loads(body)["said"]
        assert json.loads(body)["live"] and ask("/")[0] == 200


def test_what_nobody_thought_of_is_a_line_on_the_page(folder, monkeypatch):
    run = LiveRunPage(folder.path)
    with served(run) as ask:
        before = json.loads(ask("/state")[2])
        monkeypatch.setattr(live_run.LiveRun, "look", lambda self: 1 / 0)
        monkeypatch.setattr("simulations.live.FRESH_S", 0.0)
        state = json.loads(ask("/state")[2])
    assert state["said"] == "What is there cannot be read (ZeroDivisionError: division by zero)."
    assert state["live"] == before["live"]


def test_the_ages_count_on():
    assert [lasted(seconds, "age") for seconds in (-3, 0.9, 119.9, 120, 3661)] == ["0 s", "0 s", "119 s", "2:00", "1:01:01"]
    assert lasted(70, "clock") == "1:10" and ago(None, NOW) == "–"
    assert ago(NOW - 5, NOW) == f'<span data-at="{NOW - 5:.3f}" data-kind="age">5 s</span>'


# The server ------------------------------------------------------------------------------------------------------------


@contextmanager
def served(watched: Any) -> Iterator[Callable[..., tuple[int, dict[str, str], str]]]:
    """Asks a served page: (status, headers, body). Its report is made only when `draw` says so."""
    with Page(watched, 0) as server:
        server.painter.wanted = lambda: None  # type: ignore[method-assign]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()

        def ask(path: str, method: str = "GET", host: str | None = None, draw: bool = False, **headers: str) -> Any:
            if draw:
                server.painter.look()
            connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
            connection.putrequest(method, path, skip_host=host is not None)
            for name, value in {**({"Host": host} if host else {}), **headers}.items():
                connection.putheader(name.replace("_", "-"), value)
            connection.endheaders()
            answer = connection.getresponse()
            found = answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read().decode()
            connection.close()
            return found

        try:
            yield ask
        finally:
            server.shutdown()
            thread.join()


def test_a_page_then_news_of_it_and_nothing_while_there_are_none(folder):
    folder.event("arrive", round=1, site="a", stage="a")
    folder.progress("a", "train", round=1, step=3, steps=40)
    clock = iter(range(int(NOW), int(NOW) + 10_000))
    for name in ("record.jsonl", "sites/a/progress.json"):
        aged(folder, name, 5)
    with (
        alone(folder.path),
        served(LiveRunPage(folder.path, lambda: float(next(clock)))) as ask,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr("simulations.live.FRESH_S", 0.0)
        document = ask("/")[2]
        assert "Round 1 of 4, stage a." in document and DRAWING in document
        tag = unescape(re.findall('data-tag="(.*?)"', document)[0])
        ages = [re.findall('data-kind="age">(.*?)<', json.loads(ask("/state")[2])["live"])[0] for _ in range(2)]
        assert ages[0] != ages[1]
        code, headers, body = ask("/state", If_None_Match=tag)  # clocks alone are no news
        assert (code, body, headers["etag"], headers.get("content-length")) == (304, "", tag, None)
        folder.event("failure", round=1, site="a", task="train", kind="crashed", reason="x")
        code, headers, body = ask("/state", If_None_Match=tag)
        assert code == 200 and headers["etag"] != tag and "crashed: x" in json.loads(body)["live"]
        tag = headers["etag"]
        code, headers, body = ask("/state", If_None_Match=tag, draw=True)
        sections = json.loads(body)["sections"]
        assert code == 200 and headers["etag"] != tag and sections
        html = [ask(f"/section/{checksum}") for checksum in sections]
        assert [code for code, _, _ in html] == [200] * len(sections) and "Report so far" in html[0][2]
        assert [part for _, _, part in html if part not in ask("/")[2]] == []


def test_a_section_that_was_just_replaced_can_still_be_had(folder):
    folder.event("run", name="two")
    with served(LiveRunPage(folder.path)) as ask:
        first = json.loads(ask("/state", draw=True)[2])["sections"]
        folder.event("arrive", round=1, site="a", stage="a")
        second = json.loads(ask("/state", draw=True)[2])["sections"]
        assert first != second and {ask(f"/section/{checksum}")[0] for checksum in (*first, *second)} == {200}


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8765", "localhost.evil.example", "127.0.0.1.evil.example", "[::1]", "x"]
)
def test_a_foreign_name_that_leads_here_is_refused(folder, host):
    with served(LiveRunPage(folder.path)) as ask:
        for path in ("/", "/state", "/section/x"):
            assert ask(path, host=host)[::2] == (403, "This page is for localhost alone.\n")


@pytest.mark.parametrize("host", ["localhost", "LocalHost:9000", "127.0.0.1:1"])
def test_this_machine_by_any_port_is_served(folder, host):
    """`ssh -L 9000:localhost:8765` asks for localhost:9000."""
    with served(LiveRunPage(folder.path)) as ask:
        assert ask("/state", host=host)[0] == 200


@pytest.mark.parametrize(
    "path",
    ["/../config.yaml", "/config.yaml", "/record.jsonl", "/section/../../config.yaml", "/section/%2e%2e/config.yaml",
     "//etc/passwd", "/section/", "/state/", "/report.html", "/%00", "/section//etc/passwd", "/.", "/favicon.ico"],
)  # fmt: skip
def test_nothing_but_the_page_is_there(finished, path):
    with served(LiveRunPage(finished)) as ask:
        assert ask(path)[::2] == (404, "There is nothing here but /\n")


def test_what_a_browser_may_do_with_it_and_what_it_may_ask(folder):
    with served(LiveRunPage(folder.path)) as ask:
        code, headers, body = ask("/")
        policy = headers["content-security-policy"]
        assert code == 200 and "default-src 'none'" in policy and "connect-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy and "unsafe-inline'; script-src 'sha256-" in policy
        assert headers["x-content-type-options"] == "nosniff" and headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in headers and headers["server"].strip() == "SiteStream"
        code, headers, body = ask("/", "HEAD")
        assert (code, body) == (200, "") and int(headers["content-length"]) > 1000
        assert [ask("/", method)[0] for method in ("POST", "PUT", "DELETE", "OPTIONS")] == [501] * 4


def test_only_this_machine_can_connect(folder):
    with Page(LiveRunPage(folder.path), 0) as server:
        assert server.socket.getsockname()[0] == "127.0.0.1"


def test_it_writes_nothing_and_holds_no_lock(finished):
    before = everything(finished)
    with served(LiveRunPage(finished)) as ask:
        sections = json.loads(ask("/state", draw=True)[2])["sections"]
        assert ask("/")[0] == 200 and ask(f"/section/{sections[0]}")[0] == 200
        assert not is_held(finished, held_locks())
    assert everything(finished) == before and len(sections) > 6


# The report's painter --------------------------------------------------------------------------------------------------


def test_a_report_is_made_once_for_what_it_depends_on_and_a_bad_one_leaves_the_last_good_one():
    version, made = [1], []

    def draw() -> Iterator[str]:
        made.append(version[0])
        yield f"<p>{version[0]}"
        if version[0] == 2:
            raise ValueError("line 3 is no JSON")

    painter = Painter(lambda: version[0] or None, draw, lambda: True, "nothing yet")
    assert painter.painted.note == DRAWING
    version[0] = 0
    painter.look()
    assert (painter.painted.note, painter.painted.sections) == ("nothing yet", {})
    version[0] = 1
    painter.look()
    painter.look()
    good = painter.painted
    assert made == [1] and list(good.sections.values()) == ["<p>1"] and good.note == ""
    version[0] = 2
    painter.look()
    assert painter.painted.sections == good.sections
    assert painter.painted.note == "The report cannot be made of what is there now: line 3 is no JSON"
    version[0] = 3
    painter.look()
    assert list(painter.painted.sections.values()) == ["<p>3"] and made == [1, 2, 3] and len(painter.spent) == 3


def test_its_thread_draws_only_while_somebody_looks_and_rests_between_two_reports(monkeypatch):
    monkeypatch.setattr(live_painter, "PAUSE_S", 0.0)
    version, drawn, rests = [0], threading.Event(), []
    painter = Painter(lambda: version[0], lambda: [drawn.set() or "x"], lambda: True, "")
    rested = threading.Event()
    painter._rest = lambda seconds: (rests.append(seconds), rested.set())  # type: ignore[method-assign,assignment,func-returns-value]
    assert not drawn.is_set()
    painter.wanted()
    assert rested.wait(30) and drawn.is_set()
    assert rests == [painter.spent[0] * (1 / live_painter.SHARE - 1)]  # a tenth of the time, at most
    painter.stop()
    assert not painter._thread.is_alive()
    painter.wanted()  # a request that comes late
    assert not painter._thread.is_alive()


# A study ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """The folder of a study of two variants and two seeds: one run finished, one failed, one begun, one new."""
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(BASE, sort_keys=False))
    tree = {"base": "base.yaml", "variants": {"plain": {}, "<gin>": {"memory.budget": 3}}, "seeds": [0, 1], "metrics": ["acc"]}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    rows = [("plain", 0, "one"), ("plain", 1, "two"), ("<gin>", 0, "three"), ("<gin>", 1, "four")]
    cells = [
        {"variant": variant, "seed": seed, "order": "as written", "run": run, "state": "new"} for variant, seed, run in rows
    ]
    folder = tmp_path / "runs" / "studies" / "tiny"
    folder.mkdir(parents=True)
    index = {"name": "tiny", "file": str(tmp_path / "tiny.yaml"), "about": "", "reference": "plain", "cells": cells}
    (folder / "study.json").write_text(json.dumps(index))
    shelf = tmp_path / "runs" / "cells"
    finish(shelf / "one", matrix(0.5, 0.7))
    for name in ("two", "three"):
        (shelf / name / "checkpoints").mkdir(parents=True)
    (shelf / "two" / "failed.txt").write_text("ValueError: the lr is too large\n")
    recipe = {"sites": {"a": {"root": "/x"}, "b": {"root": "/y"}}, "arrivals": {"rounds_per_stage": 3}}
    (shelf / "three" / "simulated.yaml").write_text(yaml.safe_dump(recipe))
    (shelf / "three" / "record.jsonl").write_text('{"event": "run"}\n{"event": "round", "round": 1}\n')
    os.utime(shelf / "three" / "record.jsonl", (NOW - 300, NOW - 300))
    return folder


def test_how_many_runs_of_a_study_are_how_far_and_which_are_at_work(study, monkeypatch):
    monkeypatch.chdir(study.parents[2])
    page = watched_in(study)
    page._now = lambda: NOW  # type: ignore[attr-defined]
    face = page.face()
    assert (face.name, face.title) == ("tiny", "1/4 · tiny")
    assert face.said == "1 of 4 runs are finished, 1 failed, no run is at work." and page.hurry()
    assert words(face.live) == "1 finished 0 at work 1 begun, not at work 1 new 1 failed No run is at work."
    three = study.parents[1] / "cells" / "three"
    with alone(three):
        face = page.face()
    assert face.said == "1 of 4 runs are finished, 1 at work, 1 failed." and not page.hurry()
    assert "1 finished 1 at work 0 begun, not at work 1 new 1 failed" in words(face.live)
    assert "<gin> 0 as written 1 of 6 5:00 ago run_sim.py watch runs/cells/three --port 8766" in words(face.live)
    finish(three, matrix(0.6, 0.8))
    assert page.face().title == "2/4 · tiny"


def test_the_report_of_a_study_is_its_page_as_far_as_it_is_without_links_and_without_a_trace(study):
    page = watched_in(study)
    before = everything(study.parents[2])
    html = "".join(page.draw())
    assert everything(study.parents[2]) == before and not (study / "report.html").exists()
    said = words(html)
    assert said.startswith("Report so far") and "1 of 4 runs are finished" in said and "ValueError: the lr is too large" in said
    assert "1 of 6 rounds are done" in said and "Result matrices" in said and "&lt;gin&gt;" in html
    assert "<a " not in html and "<h1>" not in html
    version = page.version()
    assert page.version() == version
    finish(study.parents[1] / "cells" / "three", matrix(0.6, 0.8))
    assert page.version() != version


def test_a_study_whose_file_is_gone_or_has_changed_says_so(study):
    file, page = study.parents[2] / "tiny.yaml", watched_in(study)
    version = page.version()
    tree = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump({**tree, "seeds": [1, 2]}, sort_keys=False))
    what = "2 of its cells are in it no more, and 2 new ones have no run yet"
    assert f"is not what it was when the study was last begun: {what}" in words("".join(page.draw()))
    file.write_text("seeds: [")
    with pytest.raises(ValueError, match="tiny.yaml"):
        list(page.draw())
    file.unlink()
    said = words("".join(page.draw()))
    assert said.startswith(f"The study's file, {file}, is gone: there is no report without it. Runs")
    assert "plain 0 as written finished one" in said and "<gin> 1 as written new four" in said
    assert page.version() != version and page.face().title == "1/4 · tiny"


@pytest.mark.parametrize("torn", TORN)
def test_a_torn_index_of_a_study_is_no_error(study, torn):
    page = watched_in(study)
    with served(page) as ask:
        assert json.loads(ask("/state")[2])["title"] == "1/4 · tiny"
    (study / "study.json").write_text(torn)
    for watched in (page, watched_in(study)):
        with served(watched) as ask:
            assert "cannot be read (" not in json.loads(ask("/state", draw=True)[2])["said"]
    assert page.face().title == "1/4 · tiny"  # as it last was


@pytest.mark.parametrize("name", ["../studies/tiny", "/etc", "..", ".", "", "a/b", "a\0b"])
def test_no_run_of_a_study_lies_outside_the_shelf(study, name):
    index = json.loads((study / "study.json").read_text())
    index["cells"][0]["run"] = name
    (study / "study.json").write_text(json.dumps(index))
    places = watched_in(study)._shelf.places()  # type: ignore[attr-defined]
    assert [path.name for path in places.values()] == ["two", "three", "four"]


# The command -----------------------------------------------------------------------------------------------------------


def test_a_folder_that_is_not_there_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("signal.signal", lambda *_: None)
    (tmp_path / "hippocampus").mkdir()
    assert main(["watch", str(tmp_path / "hipocampus")]) == 2
    assert capsys.readouterr().err.endswith("hipocampus: there is no such folder; did you mean 'hippocampus'?\n")
    with pytest.raises(ValueError, match="there is no such folder$"):
        watched_in(tmp_path / "x" / "y")


def test_a_port_that_cannot_be_had_is_one_line_with_the_way_out(folder, capsys, monkeypatch):
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["watch", str(folder.path), "--port", str(port)]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"run_sim: port {port} is taken, by another `watch` perhaps: choose another, --port ")
    assert told.count("\n") == 1
    for port in (65536, -1):
        assert main(["watch", str(folder.path), "--port", str(port)]) == 2
        assert capsys.readouterr().err == f"run_sim: --port {port}: ports go from 1 to 65535\n"


def test_the_command_says_where_and_ctrl_c_ends_it_quietly(folder):
    with started("-u", "run_sim.py", "watch", str(folder.path), "--port", "0") as process:
        assert process.stdout is not None
        where = re.fullmatch(r".*run: http://127\.0\.0\.1:(\d+)\n", process.stdout.readline())
        assert where
        assert f"ssh -L {where[1]}:127.0.0.1:{where[1]} " in process.stdout.readline()
        connection = http.client.HTTPConnection("127.0.0.1", int(where[1]), timeout=30)
        connection.request("GET", "/")
        assert b"has not begun yet" in connection.getresponse().read()
        connection.close()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out, err) == (130, "", "run_sim: interrupted\n")
