"""The report's part on whose cases the memories hold together, after each stage, and how evenly."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from server.axes import GREY, WIDTH, plain_axes, shared_legend, short
from server.digest import Digest
from server.diversity import Mixture, mixtures
from server.page import embed, number, swatch, table, text
from server.palette import Colours, site_colours

FORMULA = (
    "Effective sites: exp(−Σ pₖ ln pₖ), where pₖ is the share of the samples held that are site k's cases: 1 if all are one "
    "site's, K if each of K sites has the same share. Evenness: ln(effective sites) / ln(sites so far), 0 to 1."
)
"""What the numbers mean, here and on a study's page; HTML."""


def diversity(run: Digest) -> str:
    """What the memories together hold of each earlier site; nothing while they know one site only."""
    found = mixtures(run)
    if not found or len(found[-1].by_origin) < 2:
        return ""
    tints = site_colours(run)
    sites = list(found[-1].by_origin)
    drawn = embed(composition(found, tints), "Whose cases the memories hold after each stage", "Dotted: the sites so far.")
    rows = [
        [text(one.stage), *(str(one.by_origin.get(site, "")) for site in sites), str(one.held), *_diverse(one)] for one in found
    ]
    heads = ["after stage", *(f"{swatch(tints[site])}{text(site)}" for site in sites), "held", "effective sites", "evenness"]
    note = f'<p class="soft">{FORMULA} A site that leaves takes its memory along.</p>'
    return f"<h3>By site, all memories together</h3>{drawn}{table(heads, rows, range(1, len(heads)))}{note}"


def composition(found: list[Mixture], tints: Colours) -> Figure:
    """Left: whose cases are held after each stage, as shares; right: the effective number of sites."""
    figure = Figure(figsize=(WIDTH, 3.1), layout="constrained", facecolor="none")
    shares, effective = figure.subplots(1, 2, width_ratios=[2, 1])
    x, bottom = np.arange(len(found)), np.zeros(len(found))
    for site in found[-1].by_origin:
        heights = np.array([one.shares.get(site, 0.0) for one in found])
        tint = tints.get(site, GREY)
        plain_axes(shares).bar(x, heights, 0.86, bottom, color=tint, edgecolor="white", linewidth=0.5, label=short(site))
        bottom += heights
    shares.set(ylim=(0, 1), ylabel="share of the samples held")
    shares.set_xlabel("after stage")
    slanted = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if len(x) > 8 else {}
    shares.set_xticks(x, [short(one.stage, 12) for one in found], **slanted)
    plain_axes(effective).plot(x + 1, [one.effective for one in found], color="black", marker="o", markersize=4)
    effective.plot(x + 1, [len(one.by_origin) for one in found], ":", color=GREY)
    effective.set(ylim=(0, None), xlabel="stage")
    effective.set_title("effective sites", size=10, loc="left")
    for axis in (effective.xaxis, effective.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    return shared_legend(figure, [shares])


def _diverse(one: Mixture) -> tuple[str, str]:
    return number(one.effective, 2), number(one.evenness, 2)
