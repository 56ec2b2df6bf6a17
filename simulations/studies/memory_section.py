"""The section of a study's page on memory: what each policy holds of each earlier site's data, and how diverse that is."""

from collections.abc import Callable

from server.diversity_section import FORMULA
from server.page import embed, section, swatch, table, text
from simulations.studies.composition import effective, effective_lines, share_bars, shares
from simulations.studies.findings import Findings
from simulations.studies.gist import Gist
from simulations.studies.means import Mean, mean_over

NUMBERED = ("1st", "2nd", "3rd")


def memory(findings: Findings) -> str:
    """Bars of what is held per variant, how diverse it is over the stages, and a table of it at the end."""
    bounds = {cell.variant for cell, _ in findings.sheet.rows if cell.bound}
    gists: dict[str, list[Gist]] = {name: [] for name in findings.variants if name not in bounds}
    for cell, gist in findings.gists:
        if cell.variant in gists and any(one.held for one in gist.mixtures):
            gists[cell.variant].append(gist)
    found = {name: shares(own) for name, own in gists.items() if own}
    places = max((len(stage) for stages in found.values() for stage in stages), default=0)
    if places < 2:
        return ""
    names = _places(findings, places)
    caption = (
        "After each stage, the part of all samples held that are cases of the site that came first, second, ...: a mean over "
        "the runs. A site that leaves takes its memory along. Bounds are not shown."
    )
    parts = [embed(share_bars(found, names), "What each variant's memories hold of each site after each stage", caption)]
    lines = {name: points for name, points in effective(findings).items() if name in found}
    about = f"{FORMULA} Lines: means over the runs, dotted: the sites so far; bands: the 95 % interval over orders and seeds."
    drawn = effective_lines(lines, [gist for own in gists.values() for gist in own], findings.tints)
    parts.append(embed(drawn, "Effective number of sites in memory", about))
    return section("Memory", "".join([*parts, _table(findings, list(found))]))


def _places(findings: Findings, places: int) -> list[str]:
    """What to call the sites in the order of arrival; their names where it is the same in all runs."""
    names = [f"{NUMBERED[k] if k < 3 else f'{k + 1}th'} site" for k in range(places)]
    orders = {tuple(gist.mixtures[-1].by_origin) for _, gist in findings.gists if gist.mixtures and gist.mixtures[-1].held}
    if len(orders) == 1 and len(order := orders.pop()) == places:
        return [f"{name}: {site}" for name, site in zip(names, order, strict=True)]
    return names


def _table(findings: Findings, variants: list[str]) -> str:
    """At the end of the runs, per variant."""
    endless = float("inf")
    columns: dict[str, tuple[Callable[[Gist], float | None], int, float, float]] = {
        "effective sites": (lambda gist: gist.mixtures[-1].effective, 2, 1.0, endless),
        "evenness": (lambda gist: gist.mixtures[-1].evenness, 3, 0.0, 1.0),
        "share of the first site": (lambda gist: next(iter(gist.mixtures[-1].shares.values())), 3, 0.0, 1.0),
        "sites of which nothing is left": (_lost, 1, 0.0, endless),
        "samples held": (lambda gist: gist.mixtures[-1].held, 0, 0.0, endless),
        "worth (uniqueness)": (lambda gist: gist.worth, 1, 0.0, endless),
    }
    cells: dict[str, dict[str, str]] = {}
    for name, (value, digits, *ends) in columns.items():
        found = findings.over_runs(_of_last(value))
        cells[name] = {variant: _cell(mean_over(found[variant], *ends), digits) for variant in variants if variant in found}
    heads = [name for name, there in cells.items() if there]
    rows = [
        [f"{swatch(findings.tints[variant])}{text(variant)}", *(cells[name].get(variant, "–") for name in heads)]
        for variant in variants
    ]
    return f"<h3>At the end</h3>{table(['variant', *heads], rows, range(1, len(heads) + 1))}"


def _of_last(value: Callable[[Gist], float | None]) -> Callable[[Gist], float | None]:
    """A value of the last mixture, where there is one."""
    return lambda gist: value(gist) if gist.mixtures and gist.mixtures[-1].by_origin else None


def _lost(gist: Gist) -> float:
    return list(gist.mixtures[-1].by_origin.values()).count(0)


def _cell(one: Mean, digits: int) -> str:
    """A mean, and under it its interval where there is one that is more than a point."""
    if one.low != one.low or one.low == one.high:
        return f"{one.mean:.{digits}f}"
    return f'{one.mean:.{digits}f}<br><span class="soft">{one.low:.{digits}f} to {one.high:.{digits}f}</span>'
