"""The table of a study's variants, with the differences from the reference drawn as a forest plot that sorts along."""

from collections.abc import Sequence
from math import isnan

from server.page import swatch, table, text
from simulations.studies.findings import Findings
from simulations.studies.scales import scale, shown
from simulations.studies.statistics import Difference
from simulations.studies.tables import Row, table_cells, table_heads, table_rows

WIDE, TALL, EDGE, APART = 190, 20, 8, 45
"""Pixels of a row's drawing; no mark is nearer to its sides than EDGE, no two words of the axis nearer than APART."""

DRAWN = 3
"""The column that is also drawn."""


def variant_table(findings: Findings) -> str:
    """The study's table, the numbers of table.md. Raises ValueError if the reference has no run."""
    metrics, reference = findings.sheet.study.metrics, findings.sheet.reference
    rows = table_rows(findings.outcomes, metrics, reference)
    span = _span([row.difference for row in rows if row.difference is not None])
    heads, lines = (
        _reading([text(head) for head in table_heads(metrics, reference)]),
        [_cells(findings, row, span) for row in rows],
    )
    axis = [_axis(findings.metric, span) if column == DRAWN else "" for column in range(len(heads))]
    return table(heads, lines, range(1, len(heads)), axis)


def _reading(cells: list[str]) -> list[str]:
    """A row's cells with the comparison right after the metric that it is in: the other metrics may not fit the screen."""
    name, first, *others, count, difference, chance, signs = cells
    return [name, first, count, difference, chance, signs, *others]


def _cells(findings: Findings, row: Row, span: tuple[float, float]) -> list[str]:
    """A row's cells; the difference is also drawn, under its numbers, so that it is sorted with them."""
    name = text(row.variant)
    name = f"{swatch(findings.tints[row.variant])}{f'<i>{name}</i>' if row.bound else name}"
    role = "reference" if row.variant == findings.sheet.reference else "bound" if row.bound else ""
    role = f' <span class="soft">({role})</span>' if role else ""
    found = [(minus(cell), bold) for cell, bold in table_cells(row, findings.sheet.study.metrics)]
    cells = _reading([name + role, *(f"<b>{cell}</b>" if bold else cell for cell, bold in found)])
    cells[DRAWN] += _drawn(row.difference, findings.metric, span)
    return cells


def minus(cell: str) -> str:
    """A cell of a table as HTML: with a true minus, a dash where nothing was measured."""
    return text("–" if cell == "-" else cell.replace("-", "−"))


def _span(differences: Sequence[Difference]) -> tuple[float, float]:
    """What the drawings' axis reaches from and to; 0 is on it."""
    ends = [end for one in differences for end in (one.mean, one.low, one.high) if not isnan(end)]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    return (low, high) if high > low else (-1.0, 1.0)


def _at(value: float, span: tuple[float, float]) -> str:
    """Where a value is drawn."""
    return f"{EDGE + (WIDE - 2 * EDGE) * (value - span[0]) / (span[1] - span[0]):.1f}"


def _drawn(one: Difference | None, metric: str, span: tuple[float, float]) -> str:
    """A disc for the mean difference, a line for its interval, dashes where 0 is."""
    zero = f'<path class="zero" d="M{_at(0, span)} 0V{TALL}"/>'
    if one is None or isnan(one.mean):
        return _svg(zero, "nothing to compare")
    better = one.mean > 0 if scale(metric).higher else one.mean < 0
    kind = ("better" if better else "worse") if one.clear else "unsure"
    middle, line = TALL / 2, ""
    if not isnan(one.low):
        low, high = _at(one.low, span), _at(one.high, span)
        line = f'<path d="M{low} {middle}H{high}M{low} {middle - 4}v8M{high} {middle - 4}v8"/>'
    disc = f'<circle cx="{_at(one.mean, span)}" cy="{middle}" r="4"/>'
    between = "" if isnan(one.low) else f" ({shown(one.low, metric, True)} to {shown(one.high, metric, True)})"
    return _svg(f'{zero}<g class="{kind}">{line}{disc}</g>', f"{shown(one.mean, metric, True)}{between}")


def _axis(metric: str, span: tuple[float, float]) -> str:
    """What stands under the drawings: where 0 is, and the ends where there is room for their words."""
    words = _word(0, span, "0")
    for end in span:
        if abs(float(_at(end, span)) - float(_at(0, span))) > APART:
            words += _word(end, span, minus(shown(end, metric, True)))
    return _svg(words, "axis of the differences")


def _word(value: float, span: tuple[float, float], word: str) -> str:
    anchor = {span[0]: "start", span[1]: "end"}.get(value, "middle")
    return f'<text x="{_at(value, span)}" y="14" text-anchor="{anchor}">{word}</text>'


def _svg(body: str, label: str) -> str:
    return f'<svg class="forest" width="{WIDE}" height="{TALL}" role="img" aria-label="{text(label)}">{body}</svg>'
