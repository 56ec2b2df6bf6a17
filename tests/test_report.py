"""The report of a pretend run: 4 sites, 5 rounds, a pause, a failure, partly different classes, a hostile name."""

import base64
import json
import re
import zipfile
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock
from xml.etree import ElementTree

import numpy as np
import pytest

from run_sim import main
from server.axes import MOST_PANELS
from server.digest import read_run
from server.memory_figures import effective_samples, memory_age, memory_shares, traffic
from server.memory_section import _some
from server.metrics import ResultMatrix, final_metrics
from server.page import duration, number, size
from server.palette import CLASS_COLOURS, SITE_COLOURS, colours
from server.report import SECTIONS, read_record, write_report
from server.slices import Slices, centre, find_slices, read_slices, slice_figure

Row = dict[str, Any]

ANNOTATED = {
    "north": ("liver", "spleen"),
    "south": ("liver", "kidney", "tumor"),
    "east": ("spleen", "kidney"),
    "<script>west": ("liver", "spleen", "kidney", "tumor & cyst"),
}
NORTH, SOUTH, EAST, WEST = ANNOTATED
PRESENT = {1: [NORTH], 2: [NORTH, SOUTH], 3: [SOUTH, EAST], 4: [NORTH, SOUTH, EAST], 5: [NORTH, EAST, WEST]}
MOVES = [(1, "arrive", NORTH), (2, "arrive", SOUTH), (3, "arrive", EAST), (3, "pause", NORTH), (4, "return", NORTH)]
MOVES += [(5, "arrive", WEST), (5, "leave", SOUTH)]
STAGES = {"start": 0, NORTH: 1, SOUTH: 2, EAST: 4, WEST: 5}
VALUES = [[0.02, 0.03, 0.01, 0.04], [0.81, 0.34, 0.41, 0.28], [0.74, 0.72, 0.39, 0.31], [0.62, 0.61, 0.77, 0.35]]
VALUES += [[0.66, 0.55, 0.71, 0.69]]
BUDGET = 8


def result_matrix() -> ResultMatrix:
    matrix = ResultMatrix()
    for stage, row in zip(STAGES, VALUES, strict=True):
        matrix = matrix.with_row(stage, dict(zip(ANNOTATED, row, strict=True)))
    return matrix


def training_row(round: int, site: str, seen: dict[str, int], rng: np.random.Generator) -> Row:
    new = 6 if seen[site] < 18 else 0
    seen[site] += new
    held = sorted(rng.choice(seen[site], min(BUDGET, seen[site]), replace=False).tolist())
    steps = 4 * max(new, 2)
    return {
        "event": "train", "round": round, "stage": site, "site": site, "draws": 2 * steps, "steps": steps, "dropped": 0,
        "new_cases": new, "stream_left": 18 - seen[site], "loss_sum": steps * (1.4 / round + 0.2 * rng.random()),
        "loss_weight": steps, "memory": len(held), "budget": BUDGET,
        "memory_classes": {name: int(rng.integers(1, len(held) + 1)) for name in ANNOTATED[site]},
        "memory_domains": {site: len(held) - 2, NORTH: 2} if site != NORTH else {site: len(held)},
        "memory_arrived": held, "bytes_down": 480_000, "bytes_up": 480_000, "seconds": 9.5,
    }  # fmt: skip


def case_rows(stage: str, rng: np.random.Generator) -> list[Row]:
    rows: list[Row] = []
    for k, (site, names) in enumerate(ANNOTATED.items()):
        for case in range(3):
            for name in names:
                absent = name == "tumor" and case == 0
                dice = None if absent else float(np.clip(VALUES[list(STAGES).index(stage)][k] + rng.normal(0, 0.05), 0, 1))
                row = {"event": "case", "stage": stage, "site": site, "case": f"case_{case}", "class": name, "dice": dice}
                row |= {"dice.all": dice if dice is not None else 1.0, "iou": dice and dice / (2 - dice), "voxels": 900}
                rows.append(row | ({"hd95": 4.2, "nsd": 0.7} if stage == WEST else {}))
    return rows


def record_rows(last_round: int = 5) -> list[Row]:
    """A run's record up to the end of a round; all of it, with metrics and end, after the fifth."""
    rng, seen = np.random.default_rng(7), dict.fromkeys(ANNOTATED, 0)
    strategy = {"merge": "average", "weigh": "draws", "share": "labelled", "objective": "plain"}
    memory = {"policy": "selective", "args": {"k": 4}, "budget": BUDGET}
    rows: list[Row] = [{"event": "run", "name": "pretend", "seed": 3, "paradigm": "continual", "strategy": strategy,
                        "memory": memory, "versions": {"python": "3.11.7", "torch": "2.13.0"}}]  # fmt: skip
    rows += [{"event": "site", "site": s, "classes": c, "cases": 18, "tests": 3, "extra": False} for s, c in ANNOTATED.items()]
    for stage, after in STAGES.items():
        for round in [r for r in PRESENT if list(STAGES.values())[list(STAGES).index(stage) - 1] < r <= after]:
            if round > last_round:
                return rows
            rows += [{"event": kind, "round": r, "site": site, "stage": site} for r, kind, site in MOVES if r == round]
            failed = SOUTH if round == 4 else None
            rows += [training_row(round, site, seen, rng) for site in PRESENT[round] if site != failed]
            if failed:
                failure = {"event": "failure", "round": 4, "site": failed, "task": "train"}
                rows.append(failure | {"kind": "late", "reason": "<b>30 s"})
            rows.append({"event": "round", "round": round, "stage": stage, "present": PRESENT[round], "seconds": 21.5})
        rows += case_rows(stage, rng)
        results = dict(zip(ANNOTATED, VALUES[list(STAGES).index(stage)], strict=True))
        rows += [{"event": "result", "stage": stage, "site": site, "dice": dice} for site, dice in results.items()]
    last = [row for row in rows if row.get("stage") == WEST and row["event"] == "case"]
    final = final_metrics(result_matrix(), last, 0.4)
    rows += [{"event": "metric", "id": name, "value": value, "cells": cells} for name, (value, cells) in final.items()]
    end = {"event": "end", "seconds": 187.0, "seconds_training": 120.0, "seconds_evaluating": 55.0}
    return [*rows, end | {"seconds_merging": 2.0, "seconds_saving": 0.4}]


def write_slices(folder: Path, site: str, case: str) -> Path:
    """A bright ellipsoid in noise as the label, the same one voxel to the side as the prediction."""
    rng = np.random.default_rng(len(site))
    x, y, z = np.meshgrid(*(np.arange(n) for n in (48, 40, 30)), indexing="ij")
    organ = ((x - 18) / 9) ** 2 + ((y - 20) / 11) ** 2 + ((z - 15) / 8) ** 2 < 1
    tumor = (x - 15) ** 2 + (y - 18) ** 2 + (z - 15) ** 2 < 16
    label = (organ + 2 * tumor).astype(np.uint8)
    image = rng.normal(0, 0.15, label.shape) + organ + 0.6 * tumor
    path = folder / "sites" / site / "slices" / f"{case}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    names = np.array(ANNOTATED[site][:2])
    np.savez(path, image_XYZ=image.astype(np.float16), label_XYZ=label, prediction_XYZ=np.roll(label, 1, 0), classes=names,
             spacing=np.array([2.0, 2.0, 3.0]), case=case, when="after round 5", dice=np.array([0.93, np.nan]))  # fmt: skip
    return path


def write_folder(folder: Path, rows: list[Row], matrix: ResultMatrix | None, slices: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "record.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "config.yaml").write_text("name: pretend\nseed: 3\nmemory: {policy: selective, budget: 8}  # <i>\n")
    if matrix is not None:
        (folder / "R.csv").write_text(matrix.to_csv())
    if slices:
        for site in (NORTH, SOUTH, EAST):
            write_slices(folder, site, "case_0")
        write_slices(folder, NORTH, "case_1")
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("runs") / "pretend", record_rows(), result_matrix())


@pytest.fixture(scope="module")
def document(finished: Path) -> str:
    return write_report(finished).read_text(encoding="utf-8")


def headings(document: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", document)


def test_every_section_is_there(document: str) -> None:
    expected = [
        "Arrivals",
        "Results",
        "Forgetting",
        "Classes",
        "Memory",
        "Training",
        "Worst cases",
        "Test cases",
        "Metrics",
        "What went wrong",
    ]
    assert headings(document) == [*expected, "How this was made"]
    # the headline has no heading; no site has a model of its own, keeps results, or was held out
    assert len(headings(document)) == len(SECTIONS) - 4
    assert document.count("<figure>") == 9 + 4


def test_the_headline_says_the_result(document: str) -> None:
    top = re.sub("<.*?>", "", document[document.index("<body>") : document.index("<h2>")])
    assert "4 sites, 4 stages of arrival, 5 rounds." in top
    assert "ends with a mean Dice of 0.652" in top and "have lost 0.127 Dice" in top
    assert "1 order to a site failed" in top and "3 min 7 s" in top and "share labelled" in top
    assert "Unfinished" not in top


def test_nothing_is_asked_of_the_network(document: str) -> None:
    sources = re.findall(r"""(?:src|href|srcset|url|action)\s*[=(]\s*["']?([^"'\s>)]+)""", document)
    assert sources and all(source.startswith("data:image/") for source in sources)
    assert "http://" not in document and "https://" not in document and "@import" not in document
    assert not re.search(r"<(link|iframe|object)\b", document)
    assert re.findall(r"<script[^>]*>", document) == ["<script>"]  # our own, without a source


def test_names_are_escaped(document: str) -> None:
    assert "<script>west" not in document and "&lt;script&gt;west" in document
    assert "tumor &amp; cyst" in document and "&lt;b&gt;30 s" in document and "# &lt;i&gt;" in document


def test_the_file_is_light_and_the_same_each_time(finished: Path, document: str) -> None:
    assert len(document.encode()) < 3_000_000
    assert write_report(finished).read_text(encoding="utf-8") == document
    assert not list(finished.glob("*.part"))


def test_tables_hold_the_numbers(document: str) -> None:
    plain = re.sub("<.*?>", " ", document)
    assert re.search(r"bwt\.gem\s+−0\.1267\s+3\s", plain)
    assert re.search(r"hd95\s+4\.20\s", plain)
    assert "python run_sim.py run" in plain and "torch 2.13.0" in plain
    west = [cell for cell in re.findall(r"<tr>.*?</tr>", document) if "tumor &amp; cyst</td>" in cell][-1]
    assert west.count("<td class=n></td>") == 3 and "(3)" in west  # three sites do not annotate it, the fourth has three cases


def test_what_each_site_gains_with_a_model_of_its_own(tmp_path: Path) -> None:
    strategy = {"merge": "average", "personalise": 40, "pull": 0.1, "merge_args": {}, "privacy": None}
    rows = [row | {"strategy": strategy} if row["event"] == "run" else row for row in record_rows()]
    matrix = replace(result_matrix(), own={NORTH: 0.72, SOUTH: 0.5, EAST: float("nan"), WEST: 0.69})
    document = write_report(write_folder(tmp_path / "own", rows, matrix, slices=False)).read_text(encoding="utf-8")
    section = re.sub("<.*?>", " ", document[document.index("<h2>Own models") : document.index("<h2>Memory")])
    plain = re.sub(r"\s+", " ", section)
    assert "(40 steps)" in plain
    assert "north 0.660 0.720 +0.060" in plain and "south 0.550 0.500 −0.050" in plain and "east 0.710 – –" in plain
    assert "mean 0.633 0.637 +0.003" in plain  # of the three that have one: (.66 + .55 + .69) / 3, (.72 + .5 + .69) / 3
    top = re.sub("<.*?>", "", document[: document.index("<h2>")])
    assert "own models 40 steps (pull 0.1)" in top and "None" not in top and "{}" not in top


def test_what_the_noised_merges_tell_is_said(tmp_path: Path) -> None:
    spent = [{"event": "privacy", "round": n, "epsilon": 4.0 + n, "delta": 1e-5, "releases": n} for n in (1, 2)]
    page = write_report(write_folder(tmp_path, [*record_rows(), *spent], result_matrix(), slices=False)).read_text()
    assert "After 2 noised merges the models tell of any one site's updates at most epsilon <b>6.000</b>." in page


@pytest.mark.parametrize("last_round", [0, 1, 3])
def test_an_unfinished_run_says_so(tmp_path: Path, last_round: int) -> None:
    folder = write_folder(tmp_path / "half", record_rows(last_round), None, slices=False)
    with (folder / "record.jsonl").open("a") as record:
        record.write('{"event": "round", "rou')
    document = write_report(folder).read_text(encoding="utf-8")
    assert "Unfinished." in document and f"{last_round} round" in document
    assert "Test cases" not in headings(document)
    assert ("Metrics" in headings(document)) == (last_round > 0)


def test_a_record_of_one_line_is_enough(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "bare", record_rows()[:1], None, slices=False)
    document = write_report(folder).read_text(encoding="utf-8")
    assert "No stage has been evaluated yet." in document and "<h1>pretend</h1>" in document


def test_read_record_forgives_the_last_line_only(tmp_path: Path) -> None:
    record = tmp_path / "record.jsonl"
    record.write_bytes(b'{"event": "run"}\n\n{"event": "round", "round": 1}\n{"event": "r\xc3')
    assert [row["event"] for row in read_record(tmp_path)] == ["run", "round"]
    record.write_text('{"event": "run"}\n{"event\n{"event": "end"}\n')
    with pytest.raises(ValueError, match="line 2 is no JSON"):
        read_record(tmp_path)
    with pytest.raises(ValueError, match="no run's folder"):
        read_record(tmp_path / "missing")


def test_a_round_written_twice_by_a_resumed_run_counts_once(tmp_path: Path) -> None:
    rows = record_rows(2)
    run = read_run(write_folder(tmp_path / "again", [*rows, *rows[5:]], None, slices=False))
    assert [(row["round"], row["site"]) for row in run.trains] == [(1, NORTH), (2, NORTH), (2, SOUTH)]
    assert [row["round"] for row in run.rounds] == [1, 2] and run.seconds == pytest.approx(43.0)
    assert run.matrix.stages == ("start", NORTH, SOUTH) and run.matrix.values[2, 0] == 0.74
    assert run.present == {NORTH: [1, 2], SOUTH: [2], EAST: [], WEST: []}


@pytest.mark.parametrize(("many", "shown"), [(20, 20), (21, 20), (64, 20)])
def test_the_20_origins_most_often_held_are_shown_and_the_others_together(tmp_path: Path, many: int, shown: int) -> None:
    """Origin i is held i + 1 times; `others` of a site's own count as others."""
    held = {f"scanner {i}": i + 1 for i in range(many)}
    rows = [row | {"memory_domains": held | {"others": 99}} if row["event"] == "train" else row for row in record_rows()]
    with mock.patch("server.memory_section.memory_shares", wraps=memory_shares) as drawn:
        memory_section(write_folder(tmp_path / "many", rows, result_matrix(), slices=False))
    trains, _, tints = drawn.call_args.args
    assert list(tints) == [f"scanner {i}" for i in range(many - shown, many)]
    (legend,) = memory_shares(trains, "memory_domains", tints).legends
    assert len(legend.get_texts()) == shown + 2  # others, and the line of the samples held


def test_of_many_sites_some_are_drawn_evenly_and_the_caption_says_so() -> None:
    """Of 41 sites, twenty charts: the first, the last, and every second or third between them."""
    trains = [{"round": 1, "site": f"s{i}", "memory": 1, "memory_classes": {"x": 1}, "memory_arrived": [0]} for i in range(41)]
    drawn = [axes.get_title(loc="left") for axes in memory_age(trains, {}).axes if axes.get_visible()]
    assert (len(drawn), drawn[0], drawn[-1]) == (MOST_PANELS, "s0", "s40")
    assert {int(b[1:]) - int(a[1:]) for a, b in pairwise(drawn)} <= {2, 3}
    assert _some(trains) == " 20 of 41 sites, evenly from the first to the last; `run_sim.py memory` shows all."
    assert _some(trains[:MOST_PANELS]) == ""


def test_a_memory_chart_clips_no_bar() -> None:
    counts = [("a", 3), ("b", 20), ("c", 5)]
    trains = [{"round": 1, "site": site, "memory": n, "memory_classes": {"x": n}, "memory_arrived": [n]} for site, n in counts]
    for figure in (memory_shares(trains, "memory_classes", {"x": "#000000"}), memory_age(trains, {})):
        assert all(axes.get_ylim()[1] >= 20 >= 0 >= axes.get_ylim()[0] for axes in figure.axes)


def index_rows(present: dict[int, list[str]] = PRESENT) -> list[Row]:
    """What a run with an index adds: per round what is held and unique, and of every sample dropped why."""
    rows: list[Row] = []
    for round, sites in present.items():
        rows.append({"event": "index", "round": round, "held": dict.fromkeys(sites, 8), "effective": dict.fromkeys(sites, 6.0),
                     "duplicates": round, "quantiles": [0.1, 0.6, 1.0] if round > 1 else [], "orphans": {sites[0]: 1},
                     "quotas": {site: 8 + k for k, site in enumerate(sites)}})  # fmt: skip
        for k in range(8):
            row = {"event": "evict", "round": round, "site": sites[0], "id": f"{round}-{k}", "arrived": k, "visits": k}
            row |= {"uniqueness": 0.1, "twin": "<i>", "similarity": 0.93, "where": None, "where_id": None}
            there = {"where": WEST, "where_id": "elsewhere", "where_similarity": 0.97}
            rows.append(row | (there if k % 2 else {}))
    return rows


def memory_section(folder: Path, **given: Any) -> str:
    document = write_report(folder, **given).read_text(encoding="utf-8")
    return document[document.index("<h2>Memory</h2>") : document.index("<h2>Training</h2>")]


def test_the_memory_section_of_a_run_with_an_index(tmp_path: Path) -> None:
    rows = [
        row | {"bytes_sketches": 800, "bytes_coverage": 80_000} if row["event"] == "train" else row for row in record_rows()
    ]
    folder = write_folder(tmp_path / "index", [*rows, *index_rows()], result_matrix(), slices=False)
    section = memory_section(folder)
    plain = re.sub(r"\s+", " ", re.sub("<.*?>", " ", section))
    named = ["By class", "By origin", "By age", "By site, all memories together"]
    named += ["Uniqueness across sites", "Evictions", "On the wire"]
    assert re.findall("<h3>(.*?)</h3>", section) == named
    assert section.count("<figure>") == 4 + 2 + 1
    assert "After round 5 the sites hold 24 samples worth 18.0 effective ones" in plain and "5 pairs of duplicates" in plain
    assert "north 8 8 6.0 0.750 1 32" in plain  # held, quota, effective, their ratio, stand-ins, dropped in four rounds
    assert "north 16 16 0 0 0 32" in plain and "south 4 4 0 0 0 8" in plain and "all sites 20 20 0 0 0 40" in plain
    assert "40 samples dropped; the last 30:" in plain and plain.count("a twin here (.93)") == 15
    assert "<code>5-7</code>" in section and "<code>2-1</code>" not in section and "<code>2-2</code>" in section
    assert "a twin elsewhere (&lt;script&gt;west, .97)" in plain and "&lt;i&gt;" in plain and "<i>" not in section
    assert "north 1.6 MB 1.9 MB 320.0 kB 3.2 kB 800 B 0.2 %" in plain and "ε" not in plain


def test_noise_and_uncertainty_are_shown_where_they_are_known(tmp_path: Path) -> None:
    spent = {"bytes_sketches": 800, "epsilon": 3.25, "epsilon_total": 7.5}
    rows = [row | spent if row["event"] == "train" else row for row in record_rows()]
    folder = write_folder(tmp_path / "noise", rows, result_matrix(), slices=False)
    section = memory_section(folder, uncertainty={NORTH: {"low": 3, "middle": 2, "high": 1, "never trained on": 0}})
    assert "By uncertainty" in section and section.count("<figure>") == 5 + 1
    assert "<td class=n>3.25</td><td class=n>7.50</td>" in section
    assert "Uniqueness across sites" not in section and "Evictions" not in section


def test_a_run_without_an_index_has_a_log_without_uniqueness(tmp_path: Path) -> None:
    drops = [row for row in index_rows() if row["event"] == "evict"][:3]
    section = memory_section(write_folder(tmp_path / "log", [*record_rows(), *drops, drops[0]], result_matrix(), slices=False))
    assert "3 samples dropped:" in section and "uniqueness" not in section and "selective" in section


def test_what_is_said_of_the_index_is_not_counted_as_weights() -> None:
    row = {"bytes_down": 500, "bytes_up": 300, "bytes_coverage": 120, "bytes_sketches": 64}
    assert list(traffic(row).values()) == [380, 236, 120, 64]
    assert list(traffic({"bytes_down": 500}).values()) == [500, 0, 0, 0]  # a record from before there was an index


def test_a_run_without_duplicates_shows_an_axis_from_naught() -> None:
    rows = [row | {"duplicates": 0} for row in index_rows() if row["event"] == "index"][:1]
    effective, quantiles, pairs = effective_samples(rows, {}).axes
    assert pairs.get_ylim() == (0, 1.05) and quantiles.get_ylim() == (-0.02, 1.02)
    assert effective.get_ylim()[0] == 0 and effective.get_ylim()[1] >= 8  # the samples held fit in


def test_many_sites_and_classes_still_fit(tmp_path: Path) -> None:
    names = [f"site_{k:02d}" for k in range(24)]
    matrix = ResultMatrix().with_row("start", dict.fromkeys(names, 0.0))
    rows: list[Row] = []
    for round, site in enumerate(names, 1):
        matrix = matrix.with_row(site, dict.fromkeys(names, 0.5))
        held = {f"$class_{c}^": 3 for c in range(30)}
        rows += [{"event": "site", "site": site, "classes": list(held), "cases": 9, "tests": 2, "extra": False}]
        rows += [{"event": "arrive", "round": round, "site": site, "stage": site}]
        rows += [{"event": "train", "round": round, "site": site, "stage": site, "memory": 8, "memory_classes": held,
                  "memory_arrived": list(range(8)), "loss_sum": None, "loss_weight": 4}]  # fmt: skip
        rows[-1] |= {"bytes_down": 90_000, "bytes_up": 90_000, "bytes_sketches": 500}
    rows += index_rows({round: names[:round] for round in range(1, 25)})
    path = write_report(write_folder(tmp_path / "many", rows, matrix, slices=False))
    assert 50_000 < path.stat().st_size < 3_000_000


def test_slices_go_round_the_sites_and_a_damaged_file_is_named(finished: Path, tmp_path: Path) -> None:
    found = [(path.parent.parent.name, path.stem) for path in find_slices(finished, [NORTH, SOUTH, EAST])]
    assert found == [(NORTH, "case_0"), (SOUTH, "case_0"), (EAST, "case_0"), (NORTH, "case_1")]
    folder = write_folder(tmp_path / "damaged", record_rows(1), None)
    path = folder / "sites" / SOUTH / "slices" / "case_0.npz"
    path.write_bytes(path.read_bytes()[:500])
    document = write_report(folder).read_text(encoding="utf-8")
    assert "case_0.npz: no slices of a case" in document and "case case_1" in document


def test_the_centre_is_where_the_label_is() -> None:
    label = np.zeros((9, 8, 7), np.uint8)
    assert centre(label) == (4, 4, 3)
    label[1:4, 2:5, 5] = 2
    assert centre(label) == (2, 3, 5)
    two = np.zeros((9, 3, 3), np.uint8)
    two[0], two[8] = 1, 1
    assert centre(two) == (0, 1, 1)  # the middle lies between the two and would show neither


def test_a_slice_figure_shows_three_planes_of_three_pictures(tmp_path: Path) -> None:
    slices = read_slices(write_slices(tmp_path, NORTH, "case_0"))
    axes = slice_figure(slices, colours(slices.classes, CLASS_COLOURS)).axes
    assert [axis.get_title() for axis in axes[:3]] == ["image", "label", "prediction"] and len(axes) == 9
    assert not axes[0].collections and len(axes[1].collections) == 4  # an area and an outline for each of two classes
    blank = np.zeros((5, 5, 5), np.float32)
    empty = Slices(site="a", case="b", when="c", image_XYZ=blank, label_XYZ=blank.astype(np.uint8), spacing=(1, 1, 1),
                   prediction_XYZ=blank.astype(np.uint8), classes=("liver",), dice=(0.0,))  # fmt: skip
    assert len(slice_figure(empty, {}).axes) == 9


def test_colours_go_round() -> None:
    tints = colours([f"s{k}" for k in range(len(SITE_COLOURS) + 1)], SITE_COLOURS)
    assert tints["s0"] == tints[f"s{len(SITE_COLOURS)}"] and len(set(tints.values())) == len(SITE_COLOURS)


def test_numbers_read_well() -> None:
    assert (number(-0.12345), number(0.5, sign=True), number(None), number(float("nan"))) == ("−0.123", "+0.500", "–", "–")
    assert (duration(4.2), duration(59.7), duration(187), duration(7300)) == ("4.2 s", "1 min 0 s", "3 min 7 s", "2 h 1 min")
    assert (size(999), size(1_900_000)) == ("999 B", "1.9 MB")


# Hostile folders ----------------------------------------------------------------------------------------------------------

SCRIPT = "<script>alert(1)</script>\"'&$x$--><img src=x onerror=alert(1)>"
INERT = "x" * len(SCRIPT)
SETTINGS = {"strategy", "memory", "versions"}
"""Their entries have names of the program's own."""


def laced(value: Any, lace: str, key: str = "") -> Any:
    """Every text of a row's, and every name that comes from a site, with something at its end."""
    if isinstance(value, dict):
        own = not key or key in SETTINGS or key.endswith("args")
        return {name if own else name + lace: laced(item, lace, name if own else "x") for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [laced(item, lace, key) for item in value]
    return value if not isinstance(value, str) or key == "event" or value == "start" else value + lace


def laced_folder(folder: Path, lace: str) -> Path:
    """A run with an index in which every text ends so: record, R, config and slices."""
    args = {"memory": {"policy": "selective", "args": {lace: lace}, "budget": lace}, "seed": lace, "paradigm": lace}
    rows = [row | args if row["event"] == "run" else row for row in [*record_rows(), *index_rows()]]
    rows = [laced(row, lace.replace("/", "|")) for row in rows]
    matrix = result_matrix()
    sites = tuple(site + lace.replace("/", "|") for site in matrix.sites)
    stages = tuple(stage if stage == "start" else stage + lace.replace("/", "|") for stage in matrix.stages)
    whole = replace(matrix, sites=sites, stages=stages, own={sites[0]: 0.5})
    write_folder(folder, rows, whole, slices=False)
    (folder / "config.yaml").write_text(f"name: {lace}\n")
    with np.load(write_slices(folder, NORTH, "case_0")) as held:
        texts = {"classes": np.array([name + lace for name in held["classes"]]), "case": lace, "when": lace}
        there = folder / "sites" / sites[0] / "slices"
        there.mkdir(parents=True)
        np.savez(there / f"x{lace.replace('/', '|')}.npz", **{**held, **texts})
    return folder


class Elements(HTMLParser):
    """The elements of a page with the names of their attributes, in order, and every attribute's value."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[str, ...]]] = []
        self.values: list[tuple[str, str | None]] = []
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, tuple(name for name, _ in attrs)))
        self.values += attrs


def test_no_text_of_a_folder_becomes_an_element_or_an_attribute(tmp_path: Path) -> None:
    folders = laced_folder(tmp_path / "hostile", SCRIPT), laced_folder(tmp_path / "inert", INERT)
    uncertainty = [{NORTH + lace: {"low": 3, "high": 1}} for lace in (SCRIPT, INERT)]
    pages = [write_report(folder, given).read_text() for folder, given in zip(folders, uncertainty, strict=True)]
    hostile, inert = map(Elements, pages)
    assert hostile.found == inert.found  # the same page with another text in it
    assert len(hostile.found) > 300 and pages[0].count("&lt;script&gt;alert(1)") > 50
    assert {name for name, value in hostile.values if "alert" in (value or "")} == {"alt"}


def test_no_text_in_a_figure_becomes_an_element_or_an_attribute(tmp_path: Path) -> None:
    document = write_report(laced_folder(tmp_path / "hostile", SCRIPT)).read_text()
    drawings = [base64.b64decode(code) for code in re.findall(r"data:image/svg\+xml;base64,([^\"]+)", document)]
    assert len(drawings) > 8
    elements = [element for drawing in drawings for element in ElementTree.fromstring(drawing).iter()]
    assert not {str(element.tag).rpartition("}")[2] for element in elements} & {"script", "foreignObject", "img", "a"}
    links = [value for element in elements for name, value in element.attrib.items() if name.endswith("href")]
    assert links and all(link.startswith(("#", "data:image/png;base64,")) for link in links)
    assert not [value for element in elements for value in element.attrib.values() if "alert" in value]
    assert not [name for element in elements for name in element.attrib if name.lower().startswith("on")]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2 is no JSON"),
        ("[" * 100_000, "line 2 is no JSON"),
        ('{"event": 5}', "line 2: it names no event"),
        ('{"event": "train", "round": 1}', "line 2: its event 'train' does not say 'site'"),
        ('{"event": "train", "round": "1", "site": "a"}', "line 2: its 'round' is '1', not a round"),
        ('{"event": "train", "round": 1000000000, "site": "a"}', "line 2: its 'round' is 1000000000, not a round"),
        ('{"event": "train", "round": 1, "site": ["a"]}', "line 2: its 'site' is ['a'], not a name"),
        ('{"event": "train", "round": 1, "site": "a", "loss_sum": Infinity}', "its 'loss_sum' is inf, not a number or null"),
        (
            '{"event": "train", "round": 1, "site": "a", "memory_classes": [1]}',
            "its 'memory_classes' is [1], not whole numbers",
        ),
        ('{"event": "case", "stage": "a", "site": "a", "case": "c", "class": "x", "dice": 7}', "its 'dice' is 7, not a number"),
        ('{"event": "metric", "id": "acc", "value": "<b>", "cells": 1}', "its 'value' is '<b>', not a number or null"),
        ('{"event": "metric", "id": "acc", "value": 1, "cells": "<b>"}', "its 'cells' is '<b>', not a whole number from 0"),
        ('{"event": "index", "round": 1, "quantiles": [1]}', "its 'quantiles' is [1], not three numbers or none"),
        ('{"event": "end", "seconds": null}', "line 2: its 'seconds' is None, not a number"),
        ('{"event": "site", "site": "\\ud800"}', "its 'site' is '\\ud800', not a name"),
    ],
)
def test_a_line_that_no_run_writes_is_named_in_one_line(tmp_path: Path, line: str, words: str) -> None:
    (tmp_path / "record.jsonl").write_text(f'{{"event": "run"}}\n{line}\n{{"event": "run"}}\n')
    with pytest.raises(ValueError) as caught:
        write_report(tmp_path)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"stage,a\nstart,7\n", "R.csv: 7 is no Dice"),
        (b"stage,a\nstart,inf\n", "R.csv: inf is no Dice"),
        (b"stage,a\nstart,x\n", "no result matrix"),
        (b"stage,a\nstart,\xff\n", "R.csv: cannot be read"),
        (b"stage,a\nstart," + b"1" * 200_000 + b"\n", "R.csv: "),
        (b"stage,a,a\nstart,0.5,0.5\n", "R.csv: names a site twice"),
        (b"stage," + b"a" * 300 + b"\nstart,0.5\n", "is no name of a site"),
    ],
)
def test_a_matrix_that_is_none_is_named_in_one_line(tmp_path: Path, text: bytes, words: str) -> None:
    (tmp_path / "record.jsonl").write_text('{"event": "run"}\n')
    (tmp_path / "R.csv").write_bytes(text)
    with pytest.raises(ValueError) as caught:
        write_report(tmp_path)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_command_on_a_hostile_folder_ends_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path, [*record_rows(1), {"event": "train", "round": None, "site": "a"}, {"event": "run"}], None)
    assert main(["report", str(tmp_path)]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "its 'round' is None, not a round" in line


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"label_XYZ": np.zeros((48, 40, 30))}, "must be bits of classes"),
        ({"image_XYZ": np.full((48, 40, 30), np.nan)}, "no finite voxels"),
        ({"spacing": np.array([0, 1, 1])}, "the spacing (0.0, 1.0, 1.0) is none"),
        ({"case": "a\nb"}, "its names are none"),
    ],
)
def test_slices_that_cannot_be_shown_are_named(tmp_path: Path, change: Row, words: str) -> None:
    path = write_slices(tmp_path, NORTH, "case_0")
    with np.load(path) as held:
        np.savez(path, **{**held, **change})
    with pytest.raises(ValueError) as caught:
        read_slices(path)
    assert str(caught.value).startswith("case_0.npz: ") and words in str(caught.value) and "\n" not in str(caught.value)


def test_slices_that_would_fill_the_memory_are_not_unpacked(tmp_path: Path) -> None:
    path = write_slices(tmp_path, NORTH, "bomb")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("image_XYZ.npy", "w") as file:
        for _ in range(1025):
            file.write(bytes(2**20))
    with pytest.raises(ValueError, match="it unpacks to more than 1024 MB"):
        read_slices(path)


def test_a_site_of_the_record_leads_to_no_other_folder(tmp_path: Path) -> None:
    write_slices(tmp_path, NORTH, "case")
    assert [path.name for path in find_slices(tmp_path, [NORTH])] == ["case.npz"]
    assert find_slices(tmp_path / "sites", ["../../sites/north", f"{tmp_path}/sites/north", ".."]) == []
