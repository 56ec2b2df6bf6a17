"""The section of a study's page on who was there when: each order of arrival, as it was in the reference's runs."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from server.axes import GREY, WIDTH, plain_axes, short
from server.page import embed, section, table, text
from simulations.studies.findings import Findings

ACROSS = 3
MOST = 9
"""Orders drawn; the table has all."""
Presence = Mapping[str, Sequence[int]]
"""{site: the rounds in which it took part}, in order of arrival."""


def arrivals(findings: Findings) -> str:
    """A timeline per order, and the orders in words; nothing before the first finished run."""
    found: dict[str, Presence] = {}
    whose = ""
    for cell, gist in sorted(findings.gists, key=lambda one: one[0].variant != findings.sheet.reference):
        whose = whose or cell.variant
        if cell.variant == whose:
            found.setdefault(cell.order, {site: rounds for site, rounds in gist.present.items() if rounds})
    found = {order: present for order, present in found.items() if present}
    if not found:
        return ""
    caption = f"Filled: the site takes part in the round; as in the first run of {text(whose)} in each order."
    drawn = embed(timelines(dict(list(found.items())[:MOST])), "Which site is present in which round", caption)
    rows = [[text(order), " → ".join(map(text, present)), str(_last(present))] for order, present in found.items()]
    return section("Arrivals", drawn + table(["order", "sites as they arrive", "rounds"], rows, (2,)))


def timelines(found: Mapping[str, Presence]) -> Figure:
    """A panel per order; a site has the same row in all."""
    sites = list(dict.fromkeys(site for present in found.values() for site in present))
    across = min(ACROSS, len(found))
    down = -(-len(found) // across)
    tall = 0.24 * len(sites) + 0.75
    figure = Figure(figsize=(WIDTH, tall * down + 0.1), layout="constrained", facecolor="none")
    panels = figure.subplots(down, max(across, 2), sharey=True, squeeze=False)
    for axes in panels.flat[len(found) :]:
        axes.set_visible(False)
    for axes, (order, present) in zip(panels.flat, found.items(), strict=False):
        for y, site in enumerate(sites):
            spans = [(round - 0.47, 0.94) for round in present.get(site, ())]
            plain_axes(axes).broken_barh(spans, (y - 0.33, 0.66), facecolor=GREY)
        axes.set(yticks=range(len(sites)), ylim=(len(sites) - 0.4, -0.6), xlim=(0.4, _last(present) + 0.6), xlabel="round")
        axes.set_yticklabels([short(site) for site in sites])
        axes.set_title(short(order, 30), size=9.5, loc="left")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, nbins=6))
        axes.tick_params(axis="y", length=0)
    return figure


def _last(present: Presence) -> int:
    return max(round for rounds in present.values() for round in rounds)
