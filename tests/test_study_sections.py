"""The sections of a study's page on memory, sites, classes, costs, arrivals and worst cases, and how much fits in it."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from configs.study import Cell, Study
from server.diversity import Mixture
from server.metrics import ResultMatrix
from simulations.studies.arrivals import arrivals, timelines
from simulations.studies.composition import effective, share_bars, shares, tones
from simulations.studies.costs import cost, held
from simulations.studies.findings import Findings
from simulations.studies.gist import Gist
from simulations.studies.means import mean_over
from simulations.studies.memory_section import memory
from simulations.studies.page import write_page
from simulations.studies.sites_section import sites_and_classes
from simulations.studies.study import Sheet
from simulations.studies.worst_section import EACH, worst
from tests.test_study_page import HOSTILE, INERT, Pretend, finish

Row = dict[str, Any]
BUDGETS = {"linear": 4, "spread": 8, "none": 2}
HELD: dict[str, Sequence[Mapping[str, int]]] = {
    "linear": [{"a": 4}, {"b": 4}],
    "spread": [{"a": 8}, {"a": 4, "b": 4}],
    "none": [{"a": 2}, {"b": 2}],
}
"""What is held after each stage."""


def told(variant: str, seed: int, order: Sequence[str]) -> list[Row]:
    """A run of two sites and an extra client that holds `HELD`, if a and b come in this order."""
    names = dict(zip("ab", order, strict=True))
    rows: list[Row] = [{"event": "site", "site": site, "extra": site == "extra"} for site in (*order, "extra")]
    for round, counts in enumerate(HELD[variant], 1):
        domains = {names[site]: count for site, count in counts.items()}
        rows.append(
            {"event": "train", "round": round, "site": "extra", "memory": BUDGETS[variant], "memory_domains": domains,
             "bytes_down": 1_000_000, "bytes_up": 500_000, "steps": 6, "new_cases": 4}
        )  # fmt: skip
        present = [*order[:round], "extra"]
        rows.append({"event": "round", "round": round, "stage": order[round - 1], "present": present})
    for case, dice in (("hard", 0.1), ("easy", 0.9)):
        for kind, less in (("liver", 0.0), ("spleen", 0.05)):
            row = {"event": "case", "stage": order[1], "site": "a", "case": f"{case}{seed}", "class": kind}
            gain = 0.04 if variant == "spread" else 0.0
            rows.append(row | {"dice": dice - less + gain + 0.02 * (order[0] == "b")})
    return [*rows, {"event": "end", "seconds": 10.0}]


def made(root: Path, variants: Sequence[str] = ("linear", "spread"), bounds: Sequence[str] = ("none",)) -> Findings:
    """Three seeds in two orders; a ends with .5 + .1 seed in linear, and .1 more in spread, .2 in the bound; b with .7."""
    orders = {"forth": ["a", "b"], "back": ["b", "a"]}
    tree = {"name": "tiny", "base": root / "base.yaml", "seeds": [0], "orders": orders, "metrics": ["acc"]}
    rows = []
    for variant in (*variants, *bounds):
        for order, sites in orders.items():
            for seed in range(3):
                place = Pretend(folder=root / "cells" / f"{variant}-{order}-{seed}")
                last = {"a": 0.5 + 0.1 * seed + {"linear": 0.0, "spread": 0.1, "none": 0.2}[variant], "b": 0.7}
                matrix = ResultMatrix().with_row("start", dict.fromkeys(sites, 0.0)).with_row(sites[0], {"a": 0.8, "b": 0.2})
                finish(place.folder, matrix.with_row(sites[1], {site: last[site] for site in sites}))
                lines = "".join(json.dumps(row) + "\n" for row in told(variant, seed, sites))
                (place.folder / "record.jsonl").write_text(lines)
                rows.append((Cell(variant, seed, order, None, variant in bounds), place))  # type: ignore[arg-type]
    study = Study(**tree, variants={name: {} for name in variants})
    sheet = Sheet(study, root / "studies" / "tiny", tuple(rows))
    return Findings(sheet, sheet.outcomes(), root / "tiny.yaml")


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    return made(tmp_path_factory.mktemp("study"))


def plain(section: str) -> str:
    return re.sub(r"\s+", " ", unescape(re.sub("<[^>]*>", " ", section)))


def gist(*counts: Mapping[str, int]) -> Gist:
    return Gist([Mixture(str(k), one) for k, one in enumerate(counts)], None, None, {}, {}, {})


# Memory ---------------------------------------------------------------------------------------------------------------------


def test_shares_are_means_over_the_runs_by_place_in_the_order_of_arrival():
    """After two stages the first site has 1/4 in one run and 3/4 in the other, whatever it is called."""
    one, other = gist({"a": 4}, {"a": 1, "b": 3}), gist({"b": 2}, {"b": 3, "a": 1})
    assert shares([one, other]) == [[1, 0], [0.5, 0.5]]
    empty = gist({"a": 0}, {"a": 0, "b": 2})
    assert shares([one, empty]) == [[1, 0], [0.125, 0.875]]  # after the first stage it holds nothing, and does not count
    assert shares([]) == []


def test_the_bars_are_the_shares_with_the_earliest_site_at_the_bottom():
    figure = share_bars({"linear": [[1.0, 0.0], [0.25, 0.75]]}, ["1st site", "2nd site"])
    areas = [[path.get_extents().intervaly.tolist() for path in area.get_paths()] for area in figure.axes[0].collections]
    assert areas == [[[0, 1], [0, 0.25]], [[1, 1], [0.25, 1]]]  # by place, then by stage
    assert len(set(tones(16))) == 16 and [axes.get_visible() for axes in figure.axes] == [True, False, False, False]


def test_the_memory_section_by_hand(findings: Findings) -> None:
    """spread: halves, so two sites with evenness 1; linear: the last site alone. Bounds hold no memory worth a picture."""
    said = plain(memory(findings))
    assert "linear 1.00 0.000 0.000 1.0 4 spread 2.00 1.000 0.500 0.0 8" in said and "none" not in said
    assert "exp(−Σ pₖ ln pₖ)" in said and "worth" not in said  # no run has an index
    lines = effective(findings)
    assert [point.mean for point in lines["spread"]] == pytest.approx([1, 2]) and lines["spread"][1].runs == 6


def test_a_memory_of_one_site_is_no_section(tmp_path: Path) -> None:
    alone = made(tmp_path, variants=(), bounds=("none",))
    assert memory(alone) == ""  # bounds only


# Sites, classes, cases ------------------------------------------------------------------------------------------------------


def test_the_mean_and_its_interval_by_hand() -> None:
    """.5, .6, .7 with three seeds: the draws end there, and are stretched as in test_study_page: .1 becomes .269."""
    one = mean_over({("forth", seed): 0.5 + 0.1 * seed for seed in range(3)})
    assert (one.mean, one.low, one.high) == pytest.approx((0.6, 0.331, 0.869), abs=0.01) and one.runs == 3
    two = mean_over({("forth", 0): 0.5, ("forth", 1): 0.6, ("forth", 2): float("nan")})
    assert two.mean == pytest.approx(0.55) and two.low != two.low and two.runs == 2
    wide = mean_over({("forth", seed): float(seed > 0) for seed in range(3)})
    assert wide.low == 0 and wide.high == 1  # no Dice lies beyond


def test_the_tables_of_sites_and_classes(findings: Findings) -> None:
    """a: .6 and .7; b: .7 in all, so nobody is best. liver: (.1 + .9) / 2, and .02 more in every other run."""
    section = sites_and_classes(findings)
    said = plain(section)
    assert re.search(r"Per site variant a b linear \.600 \.\d+ to \.\d+ \.700 \.700 to \.700 spread \.700 ", said)
    assert "<b>.700</b>" in section and section.count("<b>") == 3  # spread at a, in liver, and in spleen
    assert re.search(r"Per class variant liver spleen linear \.510 \.\d+ to \.\d+ \.460 ", said)
    assert "<i>none</i>" in section


def test_the_worst_cases_are_means_over_the_runs_that_know_them_by_one_id(findings: Findings) -> None:
    """hard in spleen: .05 forth and .07 back in linear; .04 more in spread, as in no bound."""
    said = plain(worst(findings))
    for seed in range(3):
        assert f"linear hard{seed} a spleen {seed} 0.060 0.050 0.080 2" in said
        assert f"spread hard{seed} a spleen {seed} 0.100 0.090 0.060 2" in said
    rows = re.findall("<tr>", worst(findings).split("<tbody>")[1])
    assert len(rows) == 3 * EACH and "easy" not in said


# Costs and arrivals ---------------------------------------------------------------------------------------------------------


def test_the_samples_held_are_a_cost(findings: Findings) -> None:
    assert held(findings) == {"linear": 4, "spread": 8, "none": 2}
    said = plain(cost(findings))
    assert "Not drawn, because all have the same: bytes sent both ways, wall time, optimizer steps, cases trained on." in said
    assert re.search(r"linear \.650 ± \.045 3\.0 ± \.0 10\.0 ± \.0 12 ± 0 8 ± 0 4 6", said)


def test_each_order_has_a_timeline_without_the_extra_client(findings: Findings) -> None:
    said = plain(arrivals(findings))
    assert "forth a → b 2 back b → a 2" in said and "as in the first run of linear in each order" in said
    figure = timelines({"forth": {"a": [1, 2], "b": [2]}, "back": {"b": [1, 2], "a": [2]}})
    spans = [[len(bars.get_paths()) for bars in axes.collections] for axes in figure.axes]
    assert spans == [[2, 1], [1, 2]]  # a's row first in both
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["a", "b"]


# The page -------------------------------------------------------------------------------------------------------------------


def test_the_page_has_them_all_in_order(findings: Findings) -> None:
    document = write_page(findings.sheet, findings.outcomes, findings.source).read_text(encoding="utf-8")
    assert re.findall("<h2>(.*?)</h2>", document) == [
        "Variants", "Ranks", "Arrivals", "Forgetting", "Sites and classes", "Memory", "Cost", "Worst cases",
        "Result matrices", "Runs", "How this was made",
    ]  # fmt: skip
    root = findings.sheet.folder.parents[1]
    assert f"python run_sim.py study {findings.source} --out {root}" in document


def test_no_name_becomes_an_element(findings: Findings) -> None:
    def elements(name: str) -> list[str]:
        rows = tuple(
            (cell._replace(variant=cell.variant + name, order=cell.order + name), there) for cell, there in findings.sheet.rows
        )
        gists = [(cell._replace(variant=cell.variant + name, order=cell.order + name), one) for cell, one in findings.gists]
        laced = [(cell, replace(one, cases=_laced(one.cases, name), classes=_laced(one.classes, name))) for cell, one in gists]
        study = findings.sheet.study.model_copy(update={"variants": {}, "reference": rows[0][0].variant})
        other = Findings(
            replace(findings.sheet, study=study, rows=rows),
            [replace(one, variant=one.variant + name) for one in findings.outcomes],
            findings.source,
        )
        other.__dict__["gists"] = laced
        return re.findall("<[a-z0-9]+", "".join(make(other) for make in (memory, sites_and_classes, worst, cost, arrivals)))

    assert elements(HOSTILE) == elements(INERT) and "<script" not in elements(HOSTILE)


def _laced(found: Mapping[Any, float], name: str) -> dict[Any, float]:
    return {tuple(part + name for part in key) if isinstance(key, tuple) else key + name: value for key, value in found.items()}


def test_twelve_variants_in_five_orders_of_sixteen_sites_stay_below_5_mb(tmp_path: Path) -> None:
    """As many as a large study has; more seeds would change the numbers and not the page."""
    sites = [f"site_{k:02d}" for k in range(16)]
    orders = {f"from {sites[k]}": [*sites[k:], *sites[:k]] for k in range(5)}
    variants = [f"selective, budget {2**k}" for k in range(12)]
    tree = {"name": "large", "base": tmp_path / "base.yaml", "seeds": [0], "orders": orders, "metrics": ["acc"]}
    rows = []
    for v, variant in enumerate(variants):
        for order, there in orders.items():
            matrix = ResultMatrix().with_row("start", dict.fromkeys(there, 0.0))
            for t, site in enumerate(there):
                matrix = matrix.with_row(site, dict.fromkeys(there, 0.3 + 0.02 * t + 0.01 * v))
            place = Pretend(folder=tmp_path / "cells" / f"{v}-{order}")
            finish(place.folder, matrix)
            lines = _large(there, v)
            (place.folder / "record.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
            rows.append((Cell(variant, 0, order, None), place))  # type: ignore[arg-type]
    sheet = Sheet(Study(**tree, variants={name: {} for name in variants}), tmp_path / "studies" / "large", tuple(rows))
    page = write_page(sheet, sheet.outcomes(), tmp_path / "large.yaml")
    assert 300_000 < page.stat().st_size < 5_000_000
    document = page.read_text(encoding="utf-8")
    assert "<h2>Memory" in document and document.count("</figure>") > 12


def _large(sites: Sequence[str], variant: int) -> list[Row]:
    rows: list[Row] = [{"event": "site", "site": site, "extra": False} for site in sites]
    cost = {"bytes_down": 10, "bytes_up": 10, "steps": 3 + variant, "new_cases": 2}
    for t, site in enumerate(sites, 1):
        for other in sites[:t]:
            rows.append({"event": "train", "round": t, "site": other, "memory": 1 + (variant + t) % 7, **cost})
        rows.append({"event": "round", "round": t, "stage": site, "present": sites[:t]})
    for k, site in enumerate(sites):
        for kind in ("liver", "spleen"):
            row = {"event": "case", "stage": sites[-1], "site": site, "case": f"case_{k}", "class": kind}
            rows.append(row | {"dice": (0.1 * k + 0.01 * variant) % 1})
    return [*rows, {"event": "end", "seconds": 10.0}]
