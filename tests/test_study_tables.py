"""A study's tables and picture: the same numbers in Markdown, CSV and LaTeX, sorted, with the best in bold."""

import csv
import re
from math import isnan, nan

import pytest

from server.page import embed
from simulations.studies.rank_figure import rank_figure
from simulations.studies.ranks import ranking
from simulations.studies.statistics import Outcome
from simulations.studies.tables import comma_separated, latex, markdown

METRICS = ("acc", "bwt.gem", "bytes")
HOSTILE = "a_b & <i>|$x$\n100 %"


def study(**names: str) -> list[Outcome]:
    """Two seeds in one order. plain: .4, .6; gin: .7, .8; ewc: .5 and a run that failed to measure."""
    values = {"plain": [(0.4, -0.3, 2e6), (0.6, -0.1, 2e6)], "gin": [(0.7, -0.2, 5e6), (0.8, -0.25, 5.2e6)]}
    values["ewc"] = [(0.5, nan, 2e6), (nan, -0.05, 2e6)]
    return [
        Outcome(names.get(name, name), seed, "a-first", dict(zip(METRICS, cells, strict=True)))
        for name, runs in values.items()
        for seed, cells in enumerate(runs)
    ]


def many(variants: int, seeds: int = 12) -> list[Outcome]:
    """v0 is always best, v1 second..."""
    return [Outcome(f"v{k}", seed, "a-first", {"acc": 0.9 - 0.01 * k}) for k in range(variants) for seed in range(seeds)]


def test_the_markdown_by_hand():
    """gin: .75, spread .1 / sqrt 2 = .071; minus plain .3 and .2: .25, of two pairs without an interval; two equal signs of
    two come with a p of .5. ewc has one value of acc, and one pair: .1. bwt.gem: plain -.2 +- .141, gin -.225 +- .035."""
    assert markdown(study(), METRICS, "plain") == (
        "| variant | acc ↑ | bwt.gem ↑ | bytes, MB ↓ | n | acc minus plain (95 %) | p, Holm | Wilcoxon's p, Holm |\n"
        "|---|---|---|---|---|---|---|---|\n"
        "| gin | **.750 ± .071** | -.225 ± .035 | 5.1 ± .1 | 2 | +.250 | - | ≥ .5 |\n"
        "| ewc | .500 | **-.050** | **2.0 ± .0 (n 2)** | 1 of 2 | +.100 | - | ≥ 1 |\n"
        "| plain | .500 ± .141 | -.200 ± .141 | **2.0 ± .0** | 2 | - | - | - |\n"
    )


def test_many_pairs_have_both_p_and_an_interval_in_the_table():
    """Twelve wins of twelve by as much: Student's p is none at all, Wilcoxon's 2 / 2^12 = .00049."""
    row = "| v0 | **.900 ± .000** | 12 | +.010 (+.010 to +.010) | <.0001 | .00049 |"
    assert markdown(many(2), ("acc",), "v1").splitlines()[2] == row
    assert latex(many(2), ("acc",), "v1").splitlines()[4].endswith(r"& $<$.0001 & .00049 \\")


def with_bounds() -> list[Outcome]:
    """joint is best of all, the same two runs in both orders."""
    joint = [
        Outcome("joint", k, order, {"acc": 0.9 + 0.02 * k, "bytes": 1e6}, bound=True, run=f"joint{k}")
        for k in (0, 1)
        for order in ("a-first", "b-first")
    ]
    return [*study(), *joint, Outcome("alone", 0, "a-first", {"acc": 0.2}, bound=True)]


def test_bounds_stand_apart_and_are_neither_best_nor_tested():
    """joint: .90 and .92, two runs and not four; minus plain .5 and .32, so .41. The variants' rows are as without bounds."""
    rows = markdown(with_bounds(), ("acc",), "plain").splitlines()
    assert rows[:5] == markdown(study(), ("acc",), "plain").splitlines()
    assert rows[5] == "| *joint* | .910 ± .014 | 2 | +.410 | - | - |"
    assert rows[6] == "| *alone* | .200 | 1 | -.200 | - | - |"
    lines = latex(with_bounds(), ("acc",), "plain").splitlines()
    assert lines[7] == r"\midrule" and lines[8].startswith(r"\textit{joint} & .910") and lines.count(r"\midrule") == 2
    table = csv.DictReader(comma_separated(with_bounds(), ("acc",), "plain").splitlines())
    assert [(row["variant"], row["bound"]) for row in table][2:] == [("plain", ""), ("joint", "yes"), ("alone", "yes")]


def test_the_latex_by_hand():
    lines = latex(study(), ("acc", "bwt.gem"), "plain").splitlines()
    assert lines[:4] == [
        r"\begin{tabular}{lrrrrrr}",
        r"\toprule",
        r"variant & acc $\uparrow$ & bwt.gem $\uparrow$ & n & acc minus plain (95 \%) & p, Holm & Wilcoxon's p, Holm \\",
        r"\midrule",
    ]
    assert lines[4] == r"gin & \textbf{.750 $\pm$ .071} & $-$.225 $\pm$ .035 & 2 & $+$.250 & - & $\geq$ .5 \\"
    assert lines[-2:] == [r"\bottomrule", r"\end{tabular}"]


def test_the_csv_has_one_number_per_cell():
    rows = {row["variant"]: row for row in csv.DictReader(comma_separated(study(), METRICS, "plain").splitlines())}
    gin = {"acc mean": "0.750", "acc sd": "0.071", "acc n": "2", "bytes, MB mean": "5.1"}
    gin |= {"acc minus plain": "0.250", "low": "", "pairs": "2", "p, Holm": "", "smallest Wilcoxon's p": "0.5"}
    assert gin.items() <= rows["gin"].items()
    assert rows["ewc"]["runs"] == "2" and rows["ewc"]["acc n"] == "1" and rows["ewc"]["acc sd"] == ""
    assert rows["plain"]["acc minus plain"] == rows["plain"]["pairs"] == ""


def test_all_three_hold_the_same_numbers_in_the_same_order():
    def numbers(text: str) -> list[float]:
        plain = text.replace("$", "").replace("**", "")
        return [float(number) for number in re.findall(r"[+-]?\d*\.\d+", plain)]

    outcomes = study()
    by_markdown = [numbers(line) for line in markdown(outcomes, ("acc",), "plain").splitlines()[2:]]
    by_latex = [numbers(line) for line in latex(outcomes, ("acc",), "plain").splitlines()[4:-2]]
    by_csv = [numbers(",".join(row[3:])) for row in csv.reader(comma_separated(outcomes, ("acc",), "plain").splitlines()[1:])]
    assert by_markdown == by_latex
    assert by_markdown[0] == [0.75, 0.071, 0.25, 0.5] == by_csv[0]
    assert by_markdown[1][:2] == by_csv[1][:2] == [0.5, 0.1]


def test_lower_is_sorted_first_where_lower_is_better_and_what_was_not_measured_last():
    outcomes = [*study(), Outcome("aaa", 0, "a-first", {})]
    rows = markdown(outcomes, ("bytes", "acc"), "plain").splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == ["| ewc", "| plain", "| gin", "| aaa"]
    assert rows[-1] == "| aaa | - | - | 0 of 1 | - | - | - |"


def test_nobody_is_best_where_all_are_level_and_all_that_are_level_with_the_best_are():
    level = [Outcome(name, 0, "a-first", {"acc": 0.5}) for name in ("x", "y")]
    assert "**" not in markdown(level, ("acc",), "x")
    near = [*level, Outcome("z", 0, "a-first", {"acc": 0.4}), Outcome("w", 0, "a-first", {"acc": 0.4999})]
    assert markdown(near, ("acc",), "x").count("**.500**") == 3


def test_names_are_text_and_never_markup():
    assert r"a\_b \& \<i\>\|\$x\$ 100 %" in markdown(study(gin=HOSTILE), METRICS, "plain").splitlines()[2]
    assert r"a\_b \& \textless{}i\textgreater{}\textbar{}\$x\$ 100 \% & \textbf" in latex(study(gin=HOSTILE), METRICS, "plain")
    assert list(csv.reader(comma_separated(study(gin=HOSTILE), METRICS, "plain").splitlines(keepends=True)))[1][0] == HOSTILE
    assert r"\textbackslash{}input\{x\}" in latex(study(gin=r"\input{x}"), METRICS, "plain")


def test_the_order_of_the_runs_changes_no_table():
    for table in (markdown, latex, comma_separated):
        assert table(study()[::-1], METRICS, "plain") == table(study(), METRICS, "plain")


@pytest.mark.parametrize("table", [markdown, latex, comma_separated])
def test_what_no_table_can_be_made_of_is_refused_in_words(table):
    with pytest.raises(ValueError, match="at least one metric"):
        table(study(), (), "plain")
    with pytest.raises(ValueError, match="no metric 'ac'; did you mean 'acc'?"):
        table(study(), ("ac",), "plain")
    with pytest.raises(ValueError, match="did you mean 'plain'?"):
        table(study(), ("acc",), "plan")


# The picture ----------------------------------------------------------------------------------------------------------


def bars(variants: int) -> list[tuple[float, float]]:
    """From where to where on the scale the thick bars reach."""
    figure = rank_figure(ranking(many(variants), "acc"))
    return [tuple(line.get_xdata()) for line in figure.axes[0].lines if line.get_linewidth() == 4]


def test_the_picture_has_a_bar_over_each_group_and_every_name():
    """Twelve seeds, v0, v1, v2 always in this order: critical difference 2.343 sqrt(12 / 72) = .957, so nobody is near anybody;
    five: 2.728 sqrt(30 / 72) = 1.761, so all neighbours are: four bars, from k to k + 1 and a little more."""
    assert bars(3) == []
    assert [(round(low), round(high)) for low, high in bars(5)] == [(1, 2), (2, 3), (3, 4), (4, 5)]
    words = [text.get_text() for text in rank_figure(ranking(many(5), "acc")).axes[0].texts]
    assert {"v0", "v1", "v2", "v3", "v4", "critical difference 1.76 (0.05)"} <= set(words)


def test_the_picture_goes_into_a_report():
    assert embed(rank_figure(ranking(many(4), "acc")), "ranks").startswith('<figure><img src="data:image/svg+xml;base64,')


def test_a_picture_of_nothing_is_refused_in_words():
    with pytest.raises(ValueError, match="no picture of ranks in acc: it takes two variants"):
        rank_figure(ranking(many(1), "acc"))
    assert isnan(ranking(many(1), "acc").critical)
