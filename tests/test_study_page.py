"""A study's page: who won and whether it is sure on top, the numbers of the tables, and whatever half a study can say."""

import json
import re
from dataclasses import dataclass, field, replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from configs.study import Cell, Study
from server.metrics import ResultMatrix, acc
from simulations.studies.curves import curve, curves
from simulations.studies.figures import forgetting_bands, price, undominated
from simulations.studies.findings import mean_matrices
from simulations.studies.forest import variant_table
from simulations.studies.headline import headline
from simulations.studies.page import Findings, write_page
from simulations.studies.shelf import Place, outcome
from simulations.studies.study import Sheet
from simulations.studies.tables import markdown
from simulations.studies.verdict import verdict

METRICS = ["acc", "bytes"]
HOSTILE = "<script>alert(1)</script>\"'&$x$<img src=x>"
INERT = "x" * len(HOSTILE)


def matrix(first: float, second: float, lace: str = "") -> ResultMatrix:
    """Two sites; `first` is what is left of a's .8 after b."""
    a, b = f"a{lace}", f"b{lace}"
    return ResultMatrix().with_row("start", {a: 0.0, b: 0.0}).with_row(a, {a: 0.8, b: 0.2}).with_row(b, {a: first, b: second})


@dataclass(frozen=True)
class Pretend(Place):
    """A place of the shelf that needs no data."""

    run: Any = None
    plan: Any = None
    folder: Path = field(kw_only=True)
    rounds: int = 3


def finish(folder: Path, found: ResultMatrix, seconds: float = 10.0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    train = {
        "event": "train",
        "round": 1,
        "site": "a",
        "bytes_down": 1_000_000,
        "bytes_up": 500_000,
        "steps": 6,
        "new_cases": 4,
    }
    rows = [train, {"event": "round", "round": 1}, {"event": "end", "seconds": seconds}]
    (folder / "record.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    facts = {"acc": acc(found).value, "seconds": {"total": seconds}, "versions": {"torch": "2.13.0"}}
    (folder / "summary.json").write_text(json.dumps(facts))
    (folder / "R.csv").write_text(found.to_csv())
    save_file({"w": np.zeros(1, np.float32)}, folder / "model.safetensors")


def pretend(root: Path, seeds: int = 6, lace: str = "", done: tuple[str, ...] = ("plain", "gin")) -> Sheet:
    """plain ends with (.50 + .01 seed, .7), gin, of which the first variant's seeds are pairs, .1 higher at both sites."""
    tree = {"name": "tiny", "about": f"Does gin help?{lace}", "base": root / "base.yaml", "seeds": list(range(seeds)),
            "variants": {f"plain{lace}": {}, f"gin{lace}": {}}, "metrics": METRICS}  # fmt: skip
    root.mkdir(parents=True, exist_ok=True)
    (root / "base.yaml").write_text(f"seed: 0 # {lace}\n")
    (root / "tiny.yaml").write_text("base: base.yaml\n")
    rows = []
    for name, gain in (("plain", 0.0), ("gin", 0.1)):
        for seed in range(seeds):
            place = Pretend(folder=root / "cells" / f"{name}{seed}")
            if name in done:
                finish(place.folder, matrix(0.5 + 0.01 * seed + gain, 0.7 + gain, lace))
            rows.append((Cell(f"{name}{lace}", seed, "as written", None), place))  # type: ignore[arg-type]
    return Sheet(Study(**tree), root / "tiny", tuple(rows))


def written(sheet: Sheet) -> str:
    return write_page(sheet, sheet.outcomes(), sheet.folder.parent / "tiny.yaml").read_text(encoding="utf-8")


def plain(document: str) -> str:
    """What a reader reads, each space one."""
    body = document[document.index("<body>") : document.index("<script>")]
    return re.sub(r"\s+", " ", unescape(re.sub("<[^>]*>", " ", body)))


@pytest.fixture(scope="module")
def sheet(tmp_path_factory: pytest.TempPathFactory) -> Sheet:
    return pretend(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def document(sheet: Sheet) -> str:
    return written(sheet)


def test_the_top_says_who_won_by_how_much_and_whether_that_is_more_than_noise(sheet: Sheet, document: str) -> None:
    """acc: plain (.5 + .025 + .7) / 2 = .6125 in the mean (written .612), gin .1 more in each of six pairs."""
    top = plain(document[: document.index("<h2>")] + "<script>")
    assert "tiny Does gin help? gin won over plain" in top
    assert verdict(sheet.outcomes(), "acc", "plain") in top
    assert ".712 acc of gin" in top and ".612 acc of plain, the reference" in top
    assert "+.100 difference from the reference, 95 % +.100 to +.100" in top and "yes more than noise?" in top
    assert "12 of 12 runs finished" in top and "2 · 6 · 1 variants · seeds · orders" in top


def test_the_table_has_the_numbers_of_the_markdown(sheet: Sheet, document: str) -> None:
    section = document[document.index("<h2>Variants") : document.index("<h2>Ranks")]
    rows = re.findall("<tr>(.*?)</tr>", re.sub("<t(head|foot)>.*?</t(head|foot)>", "", section))
    by_page = [sorted(re.findall(r"[+−]?\.?\d+", re.sub("<[^>]*>", " ", row))) for row in rows]
    there = markdown(sheet.outcomes(), METRICS, "plain").replace("-", "−").splitlines()[2:]
    assert by_page == [sorted(re.findall(r"[+−]?\.?\d+", row)) for row in there] and len(by_page[0]) == 11
    assert section.index("gin</td>") < section.index("plain <span") and "(reference)" in section


def test_the_forest_is_to_scale(sheet: Sheet) -> None:
    """The axis reaches from 0 to +.1: from pixel 8 to 182; gin's whole interval is +.1."""
    table = variant_table(Findings(sheet, sheet.outcomes(), Path("tiny.yaml")))
    gin, reference = re.findall(r"<svg.*?</svg>", table)[:2]
    assert '<g class="better"><path d="M182.0 10.0H182.0' in gin and 'cx="182.0"' in gin and 'd="M8.0 0V20"' in gin
    assert "circle" not in reference and 'aria-label="nothing to compare"' in reference
    assert '<text x="8.0" y="14" text-anchor="start">0</text><text x="182.0" y="14" text-anchor="end">+.100</text>' in table


def test_a_bound_is_shown_last_and_does_not_compete(sheet: Sheet) -> None:
    outcomes = [replace(one, bound=one.variant == "gin") for one in sheet.outcomes()]
    findings = Findings(sheet, outcomes, Path("tiny.yaml"))
    table = variant_table(findings)
    assert table.index("(reference)") < table.index('<i>gin</i> <span class="soft">(bound)</span>')
    assert '<g class="unsure"' in table and "<b>" not in table
    assert "Nothing to compare: plain has acc .612" in headline(findings) and "more than noise?" not in headline(findings)


def test_matrices_are_means_over_the_runs_of_an_order(sheet: Sheet, document: str) -> None:
    rows = [(cell, place, matrix(value, 0.7)) for (cell, place), value in zip(sheet.rows[:2], (0.5, 0.7), strict=True)]
    (one,) = mean_matrices([*rows, rows[0]])  # a run that two cells share counts once
    assert one.runs == 2 and one.matrix.values[2].tolist() == pytest.approx([0.6, 0.7])
    assert "plain mean of 6 runs after a b start .000 .000 a .800 .200 b .525 .700" in plain(document)
    assert document.count("<td class=own") == 2 * 2  # both sites' arrivals in both variants


def test_a_matrix_of_other_sites_is_a_mean_of_its_own_and_empty_cells_are_left_out(sheet: Sheet) -> None:
    (cell, place), (_, other) = sheet.rows[:2]
    found = mean_matrices([(cell, place, matrix(0.5, np.nan)), (cell, other, matrix(0.7, 0.4))])
    assert found[0].matrix.values[2].tolist() == pytest.approx([0.6, 0.4])
    strange = ResultMatrix().with_row("start", {"a": 0.1})
    assert [one.runs for one in mean_matrices([(cell, place, matrix(0.5, 0.7)), (cell, other, strange)])] == [1, 1]


def test_a_curve_is_the_mean_change_by_stages_since_a_site_was_learnt(sheet: Sheet) -> None:
    """a: .8, .7, .5 and b: .6, .5; c is followed by nobody. One stage later: (-.1 - .1) / 2; two: -.3, a alone."""
    found = ResultMatrix().with_row("start", dict.fromkeys("abc", 0.0)).with_row("a", {"a": 0.8, "b": 0.1})
    found = found.with_row("b", {"a": 0.7, "b": 0.6}).with_row("c", {"a": 0.5, "b": 0.5, "c": 0.9})
    assert curve(found) == pytest.approx([0, -0.1, -0.3])
    assert curve(ResultMatrix().with_row("start", {"a": 0.0}).with_row("a", {"a": 0.8})) == []
    rows = [(*sheet.rows[k], matrix(last, 0.7)) for k, last in enumerate((0.5, 0.6, 0.7))]
    points = curves([*rows, (rows[0][0]._replace(order="turned"), *rows[0][1:])])["plain"]  # a run that two cells share
    assert [point.mean for point in points] == pytest.approx([0, -0.2]) and points[1].runs == 3
    # -.3, -.2, -.1: the draws end there (all three the same: 1 of 27), and their deviation is .1 sqrt(2) / 3 = .0471;
    # t(2) 4.303 times an error of .1 / sqrt 3, over 1.96 x .0471, stretches .1 to .269
    assert (points[1].low, points[1].high) == pytest.approx((-0.469, 0.069), abs=0.01)
    wild = [(*sheet.rows[k], matrix(last, 0.7)) for k, last in enumerate((0.0, 0.8, 0.8))]
    assert curves(wild)["plain"][1].low == -1  # no Dice changes by more


def test_nobody_beats_what_is_undominated() -> None:
    points = {"cheap": (1.0, 0.5), "good": (3.0, 0.9), "dear": (4.0, 0.9), "bad": (2.0, 0.4), "poor": (3.0, 0.8)}
    points["level"] = points["cheap"]
    assert undominated(points, higher=True) == {"cheap", "good", "level"}  # good costs as much as poor and is better
    assert undominated(points, higher=False) == {"cheap", "bad", "level"}
    assert undominated({"a": (1.0, float("nan"))}, higher=True) == set()


def test_the_charts_show_every_variant(sheet: Sheet) -> None:
    (cell, place), (_, other) = sheet.rows[:2]
    found = curves([(cell, place, matrix(0.5, 0.7)), (cell._replace(variant="gin"), other, matrix(0.7, 0.7))])
    axes = forgetting_bands(found, {"plain": "#000000", "gin": "#0072B2"}).axes[0]
    assert [line.get_label() for line in axes.lines[1:]] == ["plain", "gin"]
    costs = {"bytes": {"plain": 2e6, "gin": 3e6}, "steps": {"plain": 9.0}}
    figure = price("acc", {"plain": 0.5, "gin": 0.6}, costs, {"plain": "red", "gin": "blue"})
    assert [axes.get_xlabel() for axes in figure.axes] == ["bytes sent both ways, MB", "optimizer steps"]
    assert [line.get_xdata()[0] for line in figure.axes[0].lines[1:]] == [2, 3]  # in MB


def test_it_is_one_light_file_that_asks_for_nothing_and_leads_to_the_runs(sheet: Sheet, document: str) -> None:
    assert len(document.encode()) < 5_000_000 and written(sheet) == document
    sources = re.findall(r"""(?:src|srcset|url|action)\s*[=(]\s*["']?([^"'\s>)]+)""", document)
    assert sources and all(source.startswith("data:image/") for source in sources)
    assert "http://" not in document and "https://" not in document and document.count("<script>") == 1
    links = re.findall(r'href="([^"]+)"', document)
    assert len(links) == 12 and all((sheet.folder / link).is_dir() for link in links)
    (sheet.places[0].folder / "report.html").write_text("")
    assert 'href="../cells/plain0/report.html"' in written(sheet)


def test_it_says_how_it_was_made(sheet: Sheet, document: str) -> None:
    said = plain(document)
    assert f"python run_sim.py study {sheet.folder.parent}/tiny.yaml" in said and "Versions: torch 2.13.0." in said
    assert "tiny.yaml base: base.yaml" in said and "base.yaml seed: 0" in said and "Time: 2 min 0 s of runs" in said


# Half a study -------------------------------------------------------------------------------------------------------------


def test_half_a_study_says_what_is_missing_and_why(tmp_path: Path) -> None:
    sheet = pretend(tmp_path, seeds=3)
    failed, begun, new = (place.folder for place in sheet.places[-3:])
    for folder in (failed, begun, new):
        (folder / "model.safetensors").unlink()
    (failed / "failed.txt").write_text("ValueError: <b>no disk</b>\n")
    (begun / "checkpoints").mkdir()
    said = plain(written(sheet))
    assert "3 of 6 runs are finished (1 begun, 1 not begun, 1 failed); the numbers may still change." in said
    assert "gin 0 as written failed ValueError: <b>no disk</b>" in said and "--retry-failed" in said
    assert "gin 1 as written begun 1 of 3 rounds are done" in said
    assert "Nothing to compare: plain has acc .605 over 3 runs" in said


def test_without_the_reference_nothing_is_compared_and_the_rest_is_there(tmp_path: Path) -> None:
    sheet = pretend(tmp_path, seeds=2, done=("gin",))
    document = written(sheet)
    assert "The reference, plain, has no finished run yet" in plain(document)
    assert re.findall("<h2>(.*?)</h2>", document) == [
        "Failed and missing runs", "Arrivals", "Forgetting", "Sites and classes", "Cost", "Result matrices", "Runs",
        "How this was made",
    ]  # fmt: skip


def test_before_the_first_run_there_is_a_page_too(tmp_path: Path) -> None:
    document = written(pretend(tmp_path, seeds=2, done=()))
    assert "No run is finished yet." in plain(document) and "0 of 4 runs are finished" in plain(document)
    assert re.findall("<h2>(.*?)</h2>", document) == ["Failed and missing runs", "Runs", "How this was made"]


@pytest.mark.parametrize("broken", ["", "stage,a\nstart,7\n", "nonsense", None])
def test_a_matrix_that_cannot_be_read_is_named_and_left_out(tmp_path: Path, broken: str | None) -> None:
    sheet = pretend(tmp_path, seeds=2)
    path = sheet.places[0].folder / "R.csv"
    path.unlink() if broken is None else path.write_text(broken)
    said = plain(written(sheet))
    assert f"{path} cannot be read; its run is not in these means." in said and "plain 1 run after" in said


# Hostile words ------------------------------------------------------------------------------------------------------------


class Elements(HTMLParser):
    """The elements of a page with the names of their attributes, in order."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[str, ...]]] = []
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, tuple(name for name, _ in attrs)))


def test_no_name_becomes_an_element_or_an_attribute(tmp_path: Path) -> None:
    pages = [written(pretend(tmp_path / str(k), seeds=2, lace=lace)) for k, lace in enumerate((HOSTILE, INERT))]
    hostile, inert = map(Elements, pages)
    assert hostile.found == inert.found and len(hostile.found) > 100
    assert pages[0].count("&lt;script&gt;alert(1)") > 10


def test_a_study_of_one_variant_and_one_run_has_a_page(tmp_path: Path) -> None:
    sheet = pretend(tmp_path, seeds=1)
    alone = Sheet(sheet.study, sheet.folder, sheet.rows[:1])
    assert "Nothing to compare: plain has acc .600 over 1 run" in plain(written(alone))


def test_what_does_not_fit_is_counted(sheet: Sheet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulations.studies.page.HEAT_CELLS", 6)
    monkeypatch.setattr("simulations.studies.provenance.LONGEST", 5)
    said = plain(written(sheet))
    assert "1 more are in the runs' folders, as R.csv." in said and "And 7 more." in said


def test_the_outcome_of_a_pretend_run_is_what_it_should_be(sheet: Sheet) -> None:
    """The other tests stand on it."""
    one = outcome(*sheet.rows[0])
    assert (one.metrics["acc"], one.metrics["bytes"], one.metrics["steps"]) == (pytest.approx(0.6), 1.5e6, 6)
