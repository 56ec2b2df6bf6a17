"""The peers' table: its arithmetic, the timing lines it reads, and what it refuses. No venv is built here."""

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from math import isnan, nan
from pathlib import Path

import pytest

HOME = Path(__file__).parents[1]
sys.path.append(str(HOME / "benchmarks"))


@pytest.fixture(scope="module")
def peers():
    import peers

    return peers


@pytest.fixture
def runs(peers):
    """A bare loop of 16 s after its first step, and a peer's 10 s."""
    return peers.Watched(0, 20.0, 4.0, 400.0), peers.Watched(0, 16.0, 6.0, 900.0)


def test_a_line_against_the_bare_loop_of_its_pair(peers, runs):
    bare, run = runs
    cost = peers.cost_of("ray", 4, run, bare, 2, 2)
    assert (cost.wall, cost.start_up, cost.memory_mb) == (16.0, 6.0, 900.0)
    assert cost.over_bare == 10 / 16
    assert cost.beyond_ms == (2 * 10 - 16) / (4 * 2) * 1000  # two workers, four sites, two rounds
    assert peers.cost_of("local", 4, run, bare, 2, 2).beyond_ms == (10 - 16) / 8 * 1000  # one worker
    itself = peers.cost_of("bare", 4, bare, bare, 2, 2)
    assert (itself.over_bare, itself.beyond_ms) == (1.0, 0.0)


def test_the_median_is_taken_number_by_number(peers):
    costs = [peers.Cost("ray", 4, *numbers) for numbers in ([1, 9, 2, 5, 30], [2, 8, 3, 5, 10], [3, 7, 1, 5, 20])]
    assert peers.median(costs) == peers.Cost("ray", 4, 2, 8, 2, 5, 20)


def test_the_table(peers):
    costs = [peers.Cost("ray", 4, 16.04, 6, 0.625, 500.4, 900), peers.Cost("nvflare", 4, *[nan] * 5)]
    assert peers.markdown(costs).splitlines() == [
        "| peer | sites | wall s | start-up s | over bare | beyond ms | memory MB |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| ray | 4 | 16.0 | 6.0 | 0.62 | 500 | 900 |",
        "| nvflare | 4 | – | – | – | – | – |",
    ]


def test_where_another_peer_is_ahead_is_said(peers):
    ray = peers.Cost("ray", 4, 16, 6, 0.6, 500, 900)
    slower = replace(ray, peer="flower", wall=30, memory_mb=800)
    elsewhere = replace(slower, sites=16, wall=1)
    assert peers.behind([ray, slower, elsewhere]) == ["4 sites, memory MB: flower 800.00 is ahead of ray 900.00"]
    assert peers.behind([ray, replace(ray, peer="nvflare", wall=nan), replace(ray, peer="bare", wall=1)]) == []


def test_timing_lines(peers):
    whole = "step b 12.5\ntrained b 8 3.0\nstep a 11.25\ntrained a 7 3.5\n"
    assert peers.timing_of(whole) == (11.25, 15)
    assert peers.timing_of("") == (None, 0)
    assert peers.timing_of(whole + "step c 1") == (11.25, 15)  # half a line: it is still being written


def test_our_own_steps_and_first_step_come_from_the_runs_folder(peers, tmp_path):
    assert peers.first_step("ray", tmp_path) is None and peers.steps_done("ray", tmp_path) == 0
    site = tmp_path / "run" / "sites" / "one"
    site.mkdir(parents=True)
    rows = [{"event": "train", "steps": 8}, {"event": "round", "round": 1}, {"event": "train", "steps": 3}]
    (tmp_path / "run" / "record.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert peers.steps_done("ray", tmp_path) == 11
    (site / "progress.json").write_text('{"task": "evaluate"}')
    assert peers.first_step("ray", tmp_path) is None
    (site / "progress.json").write_text('{"task": "train"}')
    os.utime(site / "progress.json", (50, 50))
    assert peers.first_step("ray", tmp_path) == 50


def test_a_command_and_its_childs_memory_are_watched(peers, tmp_path):
    hold = "import time; held = b'x' * 60_000_000; time.sleep(1)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hold!r}])"
    run = peers.watch([sys.executable, "-c", parent], tmp_path / "log", lambda: None, 60, os.environ, tmp_path)
    assert run.code == 0 and isnan(run.first) and run.wall >= 1
    assert isnan(run.peak_mb) if not Path("/proc/self/smaps_rollup").exists() else run.peak_mb > 60


def test_what_is_too_slow_is_ended_with_its_children(peers, tmp_path, monkeypatch):
    import watched

    monkeypatch.setattr(watched, "AFTER_S", 1.0)
    child = "import time; print('up', flush=True); time.sleep(600)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    run = peers.watch([sys.executable, "-c", parent], tmp_path / "log", lambda: 1.0, 2, os.environ, tmp_path)
    assert run.code is None
    alive = [path for path in Path("/proc").glob("[0-9]*/cmdline") if child.encode() in _read(path)]
    assert not alive


def _read(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_a_peer_that_left_steps_out_gets_no_line(peers, tmp_path, monkeypatch):
    def written(command, log, *rest):
        log.write_text("all went well\n\n")
        return peers.Watched(0, 2.0, 1.0, 1.0)

    monkeypatch.setattr(peers, "watch", written)
    monkeypatch.setattr(peers, "specification", lambda count, folder: folder / "spec.json")
    with pytest.raises(ValueError, match="bare, 4 sites: exit code 0, 0 of 64 steps; it said: all went well"):
        peers.measured("bare", 4, tmp_path, 60)


@pytest.mark.parametrize(
    "wrong, said",
    [
        (["--peers", "ray", "flwoer"], "--peers: there is no 'flwoer'; valid: ray, local, flower, nvflare"),
        (["--sites", "0"], "--sites and --pairs: at least 1"),
    ],
)
def test_a_wrong_word_is_refused_in_one_line(wrong, said):
    got = subprocess.run([sys.executable, "benchmarks/peers.py", *wrong], cwd=HOME, capture_output=True, text=True)
    assert got.returncode == 2 and got.stdout == ""
    assert got.stderr.strip().splitlines()[-1] == f"peers.py: error: {said}"


def test_the_table_is_written_as_csv_too(peers, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(peers, "measured", lambda peer, *rest: peers.Watched(0, 20.0 if peer == "bare" else 16.0, 4.0, 400.0))
    peers.main(["--sites", "4", "--peers", "ray", "flower", "--csv", str(tmp_path / "t.csv")])
    rows = list(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    assert [row["peer"] for row in rows] == ["bare", "ray", "flower"] and rows[1]["over_bare"] == "0.75"
    assert capsys.readouterr().out.splitlines()[-1] == "SiteStream is ahead in every cell"
