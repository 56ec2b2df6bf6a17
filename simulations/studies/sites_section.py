"""The section of a study's page on where variants differ: at which site, and in which class."""

from collections.abc import Mapping, Sequence
from math import isnan

from server.page import section, swatch, table, text
from simulations.studies.findings import Findings
from simulations.studies.means import Mean, mean_over
from simulations.studies.scales import without_nought
from simulations.studies.statistics import Block

ABOUT = (
    "Mean Dice at the end over the runs, below it the 95 % interval over orders and seeds (it takes three of either). Bold: "
    "the highest in its column as shown; bounds do not compete."
)
ABREAST = 8
"""Columns that fit the page; more go into a table below."""
Cells = Mapping[str, Mapping[str, Mapping[Block, float]]]
"""{column: {variant: {(order, seed): Dice}}}"""


def sites_and_classes(findings: Findings) -> str:
    """Two tables, variants by sites and variants by classes; nothing before the first finished run."""
    sites, classes = _by_site(findings), _by_class(findings)
    parts = []
    for title, found in (("Per site", sites), ("Per class", classes)):
        columns = list(found)
        parts += [f"<h3>{title}</h3>"] if columns else []
        for k in range(0, len(columns), ABREAST):
            parts.append(_table(findings, {column: found[column] for column in columns[k : k + ABREAST]}))
    if not parts:
        return ""
    return section("Sites and classes", f'<p class="soft">{ABOUT}</p>{"".join(parts)}')


def _by_site(findings: Findings) -> Cells:
    """The last row of each run's R."""
    found: dict[str, dict[str, dict[Block, float]]] = {}
    seen = set()
    for cell, place, matrix in findings.matrices:
        if (cell.variant, place.folder) not in seen:
            seen.add((cell.variant, place.folder))
            for k, site in enumerate(matrix.sites):
                found.setdefault(site, {}).setdefault(cell.variant, {})[cell.order, cell.seed] = float(matrix.values[-1, k])
    return found


def _by_class(findings: Findings) -> Cells:
    found: dict[str, dict[str, dict[Block, float]]] = {}
    for cell, gist in findings.gists:
        for name, dice in gist.classes.items():
            found.setdefault(name, {}).setdefault(cell.variant, {})[cell.order, cell.seed] = dice
    return found


def _table(findings: Findings, found: Cells) -> str:
    means = {column: {name: mean_over(there) for name, there in by_variant.items()} for column, by_variant in found.items()}
    bounds = {cell.variant for cell, _ in findings.sheet.rows if cell.bound}
    best = {column: _best({name: one for name, one in there.items() if name not in bounds}) for column, there in means.items()}
    rows = []
    for name in (name for name in findings.variants if any(name in there for there in means.values())):
        cells = [_cell(means[column].get(name), name in best[column]) for column in found]
        shown = f"<i>{text(name)}</i>" if name in bounds else text(name)
        rows.append([f"{swatch(findings.tints[name])}{shown}", *cells])
    return table(["variant", *map(text, found)], rows, range(1, len(found) + 1))


def _best(there: Mapping[str, Mean]) -> Sequence[str]:
    """Who has the highest mean as shown; nobody where all have it."""
    shown = {name: _shown(one.mean) for name, one in there.items() if not isnan(one.mean)}
    highest = max(shown.values(), key=float, default="")
    return [name for name, dice in shown.items() if dice == highest] if len(set(shown.values())) > 1 else []


def _cell(one: Mean | None, bold: bool) -> str:
    if one is None or isnan(one.mean):
        return "–"
    mean = f"<b>{_shown(one.mean)}</b>" if bold else _shown(one.mean)
    return mean if isnan(one.low) else f'{mean}<br><span class="soft">{_shown(one.low)} to {_shown(one.high)}</span>'


def _shown(dice: float) -> str:
    return without_nought(f"{dice:.3f}")
