"""A study as a table, one row per variant: Markdown for a page, CSV for a program, LaTeX (booktabs) for a paper.

All three hold the same numbers, of the same digits. The rows are sorted by the first metric, best first; that metric is
also the one compared with the reference. The best mean of each metric is bold, and so is what is level with it at the
digits shown. Bounds stand last, in italics and in LaTeX below a rule: they are compared, but neither tested nor best.
"""

import csv
import io
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import isnan

from simulations.studies.scales import rounded, scale, shown, shown_p
from simulations.studies.statistics import Difference, Outcome, Summary, bound_differences, differences, summaries

WILCOXON = ("Wilcoxon's p, Holm", "smallest Wilcoxon's p")
"""Columns."""


@dataclass(frozen=True)
class Row:
    """What all three tables say of one variant."""

    variant: str
    summaries: Mapping[str, Summary]
    """By metric."""
    difference: Difference | None
    """In the first metric; None: this is the reference."""
    best: frozenset[str]
    """The metrics in which nobody is better."""
    bound: bool


def markdown(outcomes: Sequence[Outcome], metrics: Sequence[str], reference: str) -> str:
    """The table as Markdown.

    Raises:
        ValueError: no metric, an unknown one, no run of the reference, or two runs of one seed and order.
    """
    lines = []
    for row in table_rows(outcomes, metrics, reference):
        cells = [f"**{cell}**" if bold else cell for cell, bold in table_cells(row, metrics)]
        name = _markdown_text(row.variant)
        lines.append("| " + " | ".join([f"*{name}*" if row.bound else name, *cells]) + " |")
    heads = [_markdown_text(head) for head in table_heads(metrics, reference)]
    return "\n".join(["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|", *lines]) + "\n"


def latex(outcomes: Sequence[Outcome], metrics: Sequence[str], reference: str) -> str:
    """The table as a LaTeX tabular; needs the package booktabs. Raises as `markdown`."""
    lines, rows = [], table_rows(outcomes, metrics, reference)
    for row, before in zip(rows, [rows[0], *rows], strict=False):
        cells = [(_latex_number(cell), bold) for cell, bold in table_cells(row, metrics)]
        name = rf"\textit{{{_latex_text(row.variant)}}}" if row.bound else _latex_text(row.variant)
        rule = "\\midrule\n" if row.bound and not before.bound else ""
        lines.append([rule + name, *(rf"\textbf{{{cell}}}" if bold else cell for cell, bold in cells)])
    heads = [_latex_text(head) for head in table_heads(metrics, reference)]
    top = [rf"\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}", r"\toprule", " & ".join(heads) + r" \\", r"\midrule"]
    return "\n".join([*top, *(" & ".join(line) + r" \\" for line in lines), r"\bottomrule", r"\end{tabular}"]) + "\n"


def comma_separated(outcomes: Sequence[Outcome], metrics: Sequence[str], reference: str) -> str:
    """The table as CSV, one number per cell, nothing where there is none. Raises as `markdown`."""
    rows, first, text = table_rows(outcomes, metrics, reference), metrics[0], io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    named = [f"{_named(metric)} {what}" for metric in metrics for what in ("mean", "sd", "n")]
    compared = [f"{_named(first)} minus {reference}", "low", "high", "pairs", "p, Holm", *WILCOXON]
    writer.writerow(["variant", "bound", "runs", *named, *compared])
    for row in rows:
        means = [cell for metric in metrics for cell in _csv_summary(row.summaries[metric], metric)]
        against = _csv_against(row.difference, first) if row.difference else [""] * len(compared)
        writer.writerow([row.variant, "yes" if row.bound else "", str(row.summaries[first].runs), *means, *against])
    return text.getvalue()


def _csv_summary(one: Summary, metric: str) -> list[str]:
    return [rounded(one.mean, metric), rounded(one.deviation, metric), str(one.n)]


def _csv_against(difference: Difference, metric: str) -> list[str]:
    mean, low, high = (rounded(value, metric) for value in (difference.mean, difference.low, difference.high))
    chances = ["" if isnan(p) else f"{p:.2g}" for p in (difference.p, difference.wilcoxon, difference.least_p)]
    return [mean, low, high, str(difference.pairs), *chances]


def table_rows(outcomes: Sequence[Outcome], metrics: Sequence[str], reference: str) -> list[Row]:
    """The rows, best first; variants without a value after them, bounds last; by name among equals. Raises as `markdown`."""
    if not metrics:
        raise ValueError("a table needs at least one metric")
    bounds = {one.variant for one in outcomes if one.bound}
    found = {metric: summaries(outcomes, metric) for metric in metrics}
    best = {metric: _best(found[metric], metric, bounds) for metric in metrics}
    against = differences(outcomes, metrics[0], reference) | bound_differences(outcomes, metrics[0], reference)
    made = []
    for variant in sorted(_sorted(found[metrics[0]], metrics[0]), key=lambda name: name in bounds):
        ours = {metric: found[metric][variant] for metric in metrics}
        bold = frozenset(metric for metric in metrics if variant in best[metric])
        made.append(Row(variant, ours, against.get(variant), bold, variant in bounds))
    return made


def _sorted(found: Mapping[str, Summary], metric: str) -> list[str]:
    sign = -1 if scale(metric).higher else 1
    return sorted(found, key=lambda name: (isnan(found[name].mean), sign * found[name].mean, name))


def _best(found: Mapping[str, Summary], metric: str, bounds: Collection[str]) -> set[str]:
    """Who has the best mean as shown; nobody where all have it."""
    there = {name: one for name, one in found.items() if one.n and name not in bounds}
    means = {name: shown(one.mean, metric) for name, one in there.items()}
    if len(set(means.values())) < 2:
        return set()
    first = _sorted(there, metric)[0]
    return {name for name, mean in means.items() if mean == means[first]}


# Cells as people read them --------------------------------------------------------------------------------------------


def table_heads(metrics: Sequence[str], reference: str) -> list[str]:
    """The columns' names: a metric's arrow points to where it is better."""
    named = [f"{_named(metric)} {'↑' if scale(metric).higher else '↓'}" for metric in metrics]
    return ["variant", *named, "n", f"{metrics[0]} minus {reference} (95 %)", "p, Holm", WILCOXON[0]]


def _named(metric: str) -> str:
    """A metric and its unit."""
    unit = scale(metric).unit
    return f"{metric}, {unit}" if unit else metric


def table_cells(row: Row, metrics: Sequence[str]) -> list[tuple[str, bool]]:
    """All but the name, and whether bold."""
    main = row.summaries[metrics[0]]
    cells = [(_spread(row.summaries[metric], metric, main.n), metric in row.best) for metric in metrics]
    count = str(main.n) if main.n == main.runs else f"{main.n} of {main.runs}"
    compared = _against(row.difference, metrics[0], main.n), *_chances(row.difference)
    return [*cells, *((cell, False) for cell in (count, *compared))]


def _spread(one: Summary, metric: str, n: int) -> str:
    """Mean ± standard deviation; its own n where that is not `n`, the column's."""
    spread = "" if isnan(one.deviation) else f" ± {shown(one.deviation, metric)}"
    return f"{shown(one.mean, metric)}{spread}{f' (n {one.n})' if one.n not in (0, n) else ''}"


def _against(difference: Difference | None, metric: str, n: int) -> str:
    """The paired difference and its interval; how many pairs where they are fewer than `n` runs."""
    if difference is None or not difference.pairs:
        return "-"
    mean, low, high = (shown(value, metric, sign=True) for value in (difference.mean, difference.low, difference.high))
    between = "" if isnan(difference.low) else f" ({low} to {high})"
    return f"{mean}{between}{f', {difference.pairs} of {n}' if difference.pairs < n else ''}"


def _chances(difference: Difference | None) -> tuple[str, str]:
    """The corrected p, and Wilcoxon's or the smallest that it could give of so few."""
    if difference is None or not difference.pairs:
        return "-", "-"
    p, signs, least = (shown_p(p) if not isnan(p) else "" for p in (difference.p, difference.wilcoxon, difference.least_p))
    return p or "-", signs or (least and f"≥ {least}") or "-"


# Text that means itself -----------------------------------------------------------------------------------------------

LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}
"""What LaTeX would take for a command or print as something else."""


def _latex_text(name: str) -> str:
    return "".join(LATEX.get(sign, sign) for sign in " ".join(name.split()))


def _latex_number(cell: str) -> str:
    """Signs as mathematics: a hyphen is too short for a minus."""
    signs = {"±": r"$\pm$", "≥": r"$\geq$", "<": "$<$"}
    return "".join(signs.get(sign, sign) for sign in re.sub(r"([+-])(?=[.\d])", r"$\1$", cell))


def _markdown_text(name: str) -> str:
    """One line, in which nothing is markup, HTML or the end of a cell."""
    return re.sub(r"([\\`*_\[\]<>|&~$])", r"\\\1", " ".join(name.split()))
