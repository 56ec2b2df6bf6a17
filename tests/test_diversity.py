"""What the memories hold together, how far chance in the test cases reaches, and the report's parts that say so."""

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from html import unescape
from math import isnan, log, nan, sqrt
from pathlib import Path
from typing import Any

import pytest

from configs.load import load_run
from server.digest import Digest, read_run
from server.diversity import Mixture, mixtures, most_held
from server.repeat import HOME, again
from server.report import write_report
from server.site_table import site_table
from server.spread import case_dice, half_width, reach_of_change, reach_of_mean
from server.worst_section import LONGEST, worst
from tests.test_report import EAST, NORTH, SOUTH, WEST, record_rows, result_matrix, write_folder

Row = dict[str, Any]


def run_of(folder: Path, rows: Sequence[Row], sites: str = "abc") -> Digest:
    """A run of these sites; rows of the kinds that the tests are about."""
    there = [{"event": "site", "site": site, "extra": False} for site in sites]
    return read_run(write_folder(folder, [*there, *rows], None, slices=False))


def train(round: int, site: str, memory: int, **domains: int) -> Row:
    return {"event": "train", "round": round, "site": site, "memory": memory, "memory_domains": domains}


def ends(*stages: str) -> list[Row]:
    return [{"event": "round", "round": k, "stage": stage} for k, stage in enumerate(stages, 1)]


def plain(document: str) -> str:
    return re.sub(r"\s+", " ", unescape(re.sub("<[^>]*>", " ", document)))


# Whose cases ----------------------------------------------------------------------------------------------------------------


def test_effective_sites_by_hand():
    """Halves are worth two sites; a half and two quarters: 2^1.5."""
    assert Mixture("t", {"a": 4, "b": 4}).effective == pytest.approx(2)
    one = Mixture("t", {"a": 4, "b": 2, "c": 2})
    assert one.effective == pytest.approx(2**1.5) and one.evenness == pytest.approx(1.5 * log(2) / log(3))
    alone = Mixture("t", {"a": 0, "b": 5})
    assert alone.effective == 1 and alone.evenness == 0 and alone.shares == {"a": 0, "b": 1}
    empty = Mixture("t", {"a": 0, "b": 0})
    assert isnan(empty.effective) and isnan(empty.evenness) and isnan(Mixture("t", {"a": 3}).evenness)


def test_a_site_that_does_not_train_holds_what_it_held_until_it_leaves(tmp_path):
    rows = [train(1, "a", 4), *ends("a", "b", "b", "c")]
    rows += [train(2, "b", 2), train(3, "b", 3), train(4, "c", 1), {"event": "leave", "round": 4, "site": "a"}]
    run = run_of(tmp_path, rows)
    assert [(one.stage, dict(one.by_origin)) for one in mixtures(run)] == [
        ("a", {"a": 4}),
        ("b", {"a": 4, "b": 3}),  # after its second round
        ("c", {"a": 0, "b": 3, "c": 1}),
    ]
    assert most_held(run) == 7


def test_an_extra_client_holds_the_cases_of_the_sites_that_its_domains_name(tmp_path):
    rows = [train(1, "stream", 4, a=4), train(2, "stream", 4, a=1, b=3), *ends("a", "b")]
    assert [dict(one.by_origin) for one in mixtures(run_of(tmp_path / "sites", rows))] == [{"a": 4}, {"a": 1, "b": 3}]
    scanners = [train(1, "a", 4, mr=4), train(2, "b", 2, mr=1, ct=1), *ends("a", "b")]
    assert [dict(one.by_origin) for one in mixtures(run_of(tmp_path / "scanners", scanners))] == [{"a": 4}, {"a": 4, "b": 2}]


def test_nothing_is_said_where_nothing_is_told(tmp_path):
    run = run_of(tmp_path, ends("a", "b"))
    assert [dict(one.by_origin) for one in mixtures(run)] == [{}, {}] and most_held(run) is None
    assert "all memories together" not in write_report(run.folder).read_text()


def test_the_report_says_how_diverse_memory_is(tmp_path):
    """north holds 8 of its own and nobody else's after its stage; see record_rows for the rest."""
    said = plain(write_report(write_folder(tmp_path, record_rows(), result_matrix(), slices=False)).read_text())
    first = mixtures(read_run(tmp_path))[0]
    assert first.held == 6 and f"{NORTH} 6 6 1.00 –" in said and "exp(−Σ pₖ ln pₖ)" in said


# How sure ------------------------------------------------------------------------------------------------------------------


def test_the_interval_by_hand():
    """1, 2, 3: deviation 1, Student's t(2) at .975 is 4.303."""
    assert half_width([1.0, 2.0, 3.0, nan]) == pytest.approx(4.3027 / sqrt(3), abs=1e-3)
    assert isnan(half_width([1.0, 2.0])) and half_width([0.5] * 4) == 0
    assert reach_of_mean([3.0, 4.0]) == pytest.approx(2.5) and isnan(reach_of_mean([3.0, nan])) and isnan(reach_of_mean([]))


def case(stage: str, name: str, dice: float | None, kind: str = "liver", site: str = "a") -> Row:
    return {"event": "case", "stage": stage, "site": site, "case": name, "class": kind, "dice": dice}


def test_a_change_is_taken_case_by_case(tmp_path):
    """Cases that differ widely but all change by -.1: no doubt about the change."""
    rows = [case("a", name, dice) for name, dice in zip("xyz", (0.9, 0.5, 0.2), strict=True)]
    rows += [case("b", name, dice) for name, dice in zip("zyx", (0.1, 0.4, 0.8), strict=True)]
    found = case_dice(run_of(tmp_path, [*rows, case("a", "w", 0.3)]))
    assert reach_of_change(found, "a", "b", "a") == pytest.approx(0, abs=1e-9)
    assert half_width(list(found["b", "a"].values())) > 0.8


def test_a_case_is_the_mean_of_the_classes_that_its_label_has(tmp_path):
    rows = [case("a", "x", 0.8), case("a", "x", 0.4, "spleen"), case("a", "x", None, "kidney")]
    assert case_dice(run_of(tmp_path, rows)) == {("a", "a"): {"x": pytest.approx(0.6)}}


def test_the_table_of_sites(tmp_path):
    """R: north .81 when learnt and .66 in the end; west has just come."""
    run = read_run(write_folder(tmp_path, record_rows(), result_matrix(), slices=False))
    said = plain(site_table(run))
    assert re.search(r"north 0\.660 \(0\.\d+ to [01]\.\d+\) 0\.810 −0\.150 \(−0\.\d+ to [+−]0\.\d+\) 0\.\d+ 3 ", said)
    assert re.search(r"<script>west 0\.690 \([^)]*\) 0\.690 – 0\.\d+ 3 ", unescape(said))
    few = replace(run, cases=[row for row in run.cases if row["case"] == "case_0"])
    assert "north 0.660 0.810 −0.150 0." in plain(site_table(few))  # of one case no interval
    assert site_table(replace(run, matrix=type(run.matrix)())) == ""


def test_the_headline_says_what_the_mean_lies_between(tmp_path):
    said = plain(write_report(write_folder(tmp_path, record_rows(), result_matrix(), slices=False)).read_text())
    assert re.search(r"0\.652 mean Dice \(acc\), 95.% 0\.\d+ to 0\.\d+ over the test cases", said)


def test_the_worst_cases_come_first_and_say_whether_they_are_shown(tmp_path):
    folder = write_folder(tmp_path, record_rows(), result_matrix())
    run = read_run(folder)
    section = worst(run)
    shown = [float(dice) for dice in re.findall(r"<td class=n>(0\.\d{3})</td>", section)]
    known = sorted(row["dice"] for row in run.last_cases if row["dice"] is not None)
    assert shown == [pytest.approx(dice, abs=6e-4) for dice in known[:LONGEST]]
    assert f"The {LONGEST} of {len(known)} lowest Dice after stage {WEST}" in unescape(section) and "HD95" in section
    for row in re.findall("<tr>(.*?)</tr>", section.split("<tbody>")[1]):
        assert ("below" in row) == (
            ("case_0" in row and (EAST in row or SOUTH in row or NORTH in row)) or ("case_1" in row and NORTH in row)
        )
    assert worst(replace(run, cases=[])) == ""


# Again ---------------------------------------------------------------------------------------------------------------------


def test_the_command_that_does_it_again_is_one_that_works_from_anywhere(tmp_path, monkeypatch):
    """Its words are a shell's: the code's folder, this Python, and a config that can be read."""
    folder = write_folder(tmp_path / "a run's folder", record_rows(), result_matrix(), slices=False)
    monkeypatch.chdir(tmp_path)
    (line,) = re.findall("<pre>(.*?)</pre>", again(read_run(Path("a run's folder"))))
    words = shlex.split(unescape(line))
    if words[0] == "cd":
        assert words[1:3] == [str(HOME), "&&"] and (HOME / words[3]).samefile(sys.executable) and words[4] == "run_sim.py"
    else:
        assert words[:2] == [sys.executable, str(HOME / "run_sim.py")]
    assert words[-2] == "run" and Path(words[-1]).is_absolute() and Path(words[-1]).samefile(folder / "config.yaml")
    (folder / "config.yaml").unlink()
    assert again(read_run(folder)) == ""


def test_a_run_of_the_command_reads_what_it_names(make_run, tmp_path):
    """As run_sim.py leaves it: with_absolute_paths, so that load_run needs no folder to be in."""
    from simulations.run_folder import ASKED_FILE, with_absolute_paths, write_run

    write_run(tmp_path / ASKED_FILE, with_absolute_paths(make_run()))
    assert load_run(tmp_path / ASKED_FILE) == with_absolute_paths(make_run())
