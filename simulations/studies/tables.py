"""A study as a table, one row per variant: Markdown for a page, CSV for a program, LaTeX (booktabs) for a paper.

All three hold the same numbers, of the same digits. The rows are sorted by the first metric, best first; that metric is
also the one compared with the reference. The best mean of each metric is bold, and so is what is level with it at the
digits shown.
"""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan

from simulations.studies.scales import rounded, scale, shown, shown_p
from simulations.studies.statistics import Difference, Outcome, Summary, differences, summaries


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


def markdown(outcomes: Sequence[Outcome], metrics: Sequence[str], reference: str) -> str:
    """The table as Markdown.

    Raises:
        ValueError: no metric, an unknown one, no run of the reference, or two runs of one seed and order.
    """
    lines = []
    for row in table_rows(outcomes, metrics, reference):
        cells = [f"**{cell}**" if bold else cell for cell, bold in table_cells(row, metrics)]
        lines.append("| " + " | ".join([_markdown_text(row.variant), *cells]) + " |")
    heads = [_markdown_text(head) for head in table_heads(metrics, reference)]
    return "\n".join(["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|", *lines]) + "\n"


def latex(outcomes: Sequence[Outcome], metrics: Sequence[str], reference: str) -> str:
    """The table as a LaTeX tabular; needs the package booktabs. Raises as `markdown`."""
    lines = []
    for row in table_rows(outcomes, metrics, reference):
        cells = [(_latex_number(cell), bold) for cell, bold in table_cells(row, metrics)]
        lines.append([_latex_text(row.variant), *(rf"\textbf{{{cell}}}" if bold else cell for cell, bold in cells)])
    heads = [_latex_text(head) for head in table_heads(metrics, reference)]
    top = [rf"\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}", r"\toprule", " & ".join(heads) + r" \\", r"\midrule"]
    return "\n".join([*top, *(" & ".join(line) + r" \\" for line in lines), r"\bottomrule", r"\end{tabular}"]) + "\n"


def comma_separated(outcomes: Sequence[Outcome], metrics: Sequence[str], reference: str) -> str:
    """The table as CSV, one number per cell, nothing where there is none. Raises as `markdown`."""
    rows, first, text = table_rows(outcomes, metrics, reference), metrics[0], io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    named = [f"{_named(metric)} {what}" for metric in metrics for what in ("mean", "sd", "n")]
    compared = [f"{_named(first)} minus {reference}", "low", "high", "pairs", "p, Holm", "smallest p"]
    writer.writerow(["variant", "runs", *named, *compared])
    for row in rows:
        means = [cell for metric in metrics for cell in _csv_summary(row.summaries[metric], metric)]
        against = _csv_against(row.difference, first) if row.difference else [""] * len(compared)
        writer.writerow([row.variant, str(row.summaries[first].runs), *means, *against])
    return text.getvalue()


def _csv_summary(one: Summary, metric: str) -> list[str]:
    return [rounded(one.mean, metric), rounded(one.deviation, metric), str(one.n)]


def _csv_against(difference: Difference, metric: str) -> list[str]:
    mean, low, high = (rounded(value, metric) for value in (difference.mean, difference.low, difference.high))
    chances = ["" if isnan(p) else f"{p:.2g}" for p in (difference.p, difference.least_p)]
    return [mean, low, high, str(difference.pairs), *chances]


def table_rows(outcomes: Sequence[Outcome], metrics: Sequence[str], reference: str) -> list[Row]:
    """The rows, best first; variants without a value last; by name among equals. Raises as `markdown`."""
    if not metrics:
        raise ValueError("a table needs at least one metric")
    found = {metric: summaries(outcomes, metric) for metric in metrics}
    best = {metric: _best(found[metric], metric) for metric in metrics}
    compared = differences(outcomes, metrics[0], reference)
    made = []
    for variant in _sorted(found[metrics[0]], metrics[0]):
        ours = {metric: found[metric][variant] for metric in metrics}
        bold = frozenset(metric for metric in metrics if variant in best[metric])
        made.append(Row(variant, ours, compared.get(variant), bold))
    return made


def _sorted(found: Mapping[str, Summary], metric: str) -> list[str]:
    sign = -1 if scale(metric).higher else 1
    return sorted(found, key=lambda name: (isnan(found[name].mean), sign * found[name].mean, name))


def _best(found: Mapping[str, Summary], metric: str) -> set[str]:
    """Who has the best mean as shown; nobody where all have it."""
    means = {name: shown(one.mean, metric) for name, one in found.items() if one.n}
    if len(set(means.values())) < 2:
        return set()
    first = _sorted(found, metric)[0]
    return {name for name, mean in means.items() if mean == means[first]}


# Cells as people read them --------------------------------------------------------------------------------------------


def table_heads(metrics: Sequence[str], reference: str) -> list[str]:
    """The columns' names: a metric's arrow points to where it is better."""
    named = [f"{_named(metric)} {'↑' if scale(metric).higher else '↓'}" for metric in metrics]
    return ["variant", *named, "n", f"{metrics[0]} minus {reference} (95 %)", "p, Holm"]


def _named(metric: str) -> str:
    """A metric and its unit."""
    unit = scale(metric).unit
    return f"{metric}, {unit}" if unit else metric


def table_cells(row: Row, metrics: Sequence[str]) -> list[tuple[str, bool]]:
    """All but the name, and whether bold."""
    main = row.summaries[metrics[0]]
    cells = [(_spread(row.summaries[metric], metric, main.n), metric in row.best) for metric in metrics]
    count = str(main.n) if main.n == main.runs else f"{main.n} of {main.runs}"
    compared = (_against(row.difference, metrics[0], main.n), _chance(row.difference))
    return [*cells, *((cell, False) for cell in (count, *compared))]


def _spread(one: Summary, metric: str, n: int) -> str:
    """Mean ± standard deviation; its own n where that is not `n`, the column's."""
    spread = "" if isnan(one.deviation) else f" ± {shown(one.deviation, metric)}"
    return f"{shown(one.mean, metric)}{spread}{f' (n {one.n})' if one.n not in (0, n) else ''}"


def _against(difference: Difference | None, metric: str, n: int) -> str:
    """The paired difference and its interval; how many pairs where that is not `n`."""
    if difference is None or not difference.pairs:
        return "-"
    mean, low, high = (shown(value, metric, sign=True) for value in (difference.mean, difference.low, difference.high))
    between = "" if isnan(difference.low) else f" ({low} to {high})"
    return f"{mean}{between}{f', {difference.pairs} of {n}' if difference.pairs != n else ''}"


def _chance(difference: Difference | None) -> str:
    """The corrected p, or the smallest that so few pairs could give."""
    if difference is None or not difference.pairs:
        return "-"
    return f"≥ {shown_p(difference.least_p)}" if isnan(difference.p) else shown_p(difference.p)


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
    signs = {"±": r"$\pm$", "≥": r"$\geq$"}
    return "".join(signs.get(sign, sign) for sign in re.sub(r"([+-])(?=[.\d])", r"$\1$", cell))


def _markdown_text(name: str) -> str:
    """One line, in which nothing is markup, HTML or the end of a cell."""
    return re.sub(r"([\\`*_\[\]<>|&~$])", r"\\\1", " ".join(name.split()))
