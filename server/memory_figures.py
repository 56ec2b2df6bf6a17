"""The report's charts of what the memories hold, what of it is unique, and what the federation was told of it."""

from collections.abc import Mapping, Sequence
from math import nan

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from server.axes import GREY, WIDTH, dash, one_chart, plain_axes, round_axis, shared_legend, short, site_panels, with_legend
from server.digest import Row
from server.page import size
from server.palette import Colours

OTHERS = "others"
HELD = Line2D([], [], color="black", linewidth=1.4)
LEVELS = {"low": "#9ECAE1", "middle": "#4292C6", "high": "#08519C", "never trained on": "#DDDDDD"}
TRAFFIC = {
    "weights to the site": ("#4477AA", "v", -0.2),
    "weights back": ("#EE6677", "^", 0.2),
    "index to the site": ("#999999", "v", -0.2),
    "sketches": ("#228833", "^", 0.2),
}
"""Colour, marker, and how far beside its round it stands: what goes to a site left of it, what comes back right."""


def memory_shares(trains: Sequence[Row], key: str, tints: Colours) -> Figure:
    """What each site's memory holds after each round, stacked. `key`: memory_classes or memory_domains."""
    figure, panels = site_panels(trains)
    for axes, rows in panels:
        rounds = np.array([row["round"] for row in rows], float)
        edges = np.stack([rounds - 0.43, rounds + 0.43, rounds + 0.5], axis=1).ravel()
        bottom = np.zeros(len(rows))
        counts = [_grouped(row.get(key) or {}, tints) for row in rows]
        for name in [name for name in (*tints, OTHERS) if any(name in count for count in counts)]:
            heights = np.array([count.get(name, 0) for count in counts])
            tint = tints.get(name, "#DDDDDD")
            axes.fill_between(edges, _bars(bottom), _bars(bottom + heights), color=tint, linewidth=0, label=short(name))
            bottom += heights
        axes.hlines([row.get("memory") or 0 for row in rows], rounds - 0.46, rounds + 0.46, color="black", linewidth=1.4)
    panels[0][0].set_ylim(bottom=0)  # last: the panels share the axis, and this ends its scaling
    panels[0][0].set_ylabel("samples" if key == "memory_domains" else "samples per class", size=9)
    return shared_legend(figure, [axes for axes, _ in panels], {"samples held": HELD})


def memory_age(trains: Sequence[Row], tints: Colours) -> Figure:
    """When the samples that each memory holds had arrived: an even spread keeps the past, a band at the top forgets it."""
    figure, panels = site_panels(trains)
    for axes, rows in panels:
        points = [(row["round"], arrived) for row in rows for arrived in row.get("memory_arrived") or ()]
        if points:
            x, y = np.array(points, float).T
            tint = tints.get(rows[0]["site"], GREY)
            axes.scatter(x, y, s=9, color=tint, alpha=0.7, linewidths=0, rasterized=len(points) > 500)
    panels[0][0].set_ylim(bottom=-0.5)
    panels[0][0].set_ylabel("position in the stream (cases)", size=9)
    return figure


def memory_uncertainty(held: Mapping[str, Mapping[str, int]]) -> Figure:
    """{site: {level: samples}} as one bar per site."""
    figure, axes = one_chart(0.3 * len(held) + 1.1)
    left = np.zeros(len(held))
    for level, tint in LEVELS.items():
        counts = np.array([counts.get(level, 0) for counts in held.values()], float)
        if counts.any():
            axes.barh(np.arange(len(held)), counts, 0.7, left, color=tint, label=level)
        left += counts
    axes.set(
        yticks=range(len(held)), yticklabels=[short(site) for site in held], xlabel="samples held", ylim=(len(held) - 0.4, -0.6)
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(axis="y", length=0)
    return shared_legend(figure, [axes])


def effective_samples(indexes: Sequence[Row], tints: Colours) -> Figure:
    """Summed uniqueness per site beside the samples held, the quantiles of uniqueness, and the pairs of duplicates."""
    legend = 0.2 * (len(indexes[-1].get("effective") or {}) // 7)
    figure = Figure(figsize=(WIDTH, 3.1 + legend), layout="constrained", facecolor="none")
    panels = figure.subplots(1, 3, width_ratios=[2, 1, 1])
    rounds = np.array([row["round"] for row in indexes], float)
    for axes in panels:
        round_axis(plain_axes(axes), int(rounds.min()), int(rounds.max()))
    _stacked(panels[0], rounds, indexes, tints)
    low, middle, high = np.array([row.get("quantiles") or [nan] * 3 for row in indexes], float).T
    panels[1].fill_between(rounds, low, high, color="#CCCCCC", linewidth=0)
    panels[1].vlines(rounds, low, high, color="#BBBBBB", linewidth=1)
    panels[1].plot(rounds, middle, color="black", marker="o", markersize=3)
    panels[1].set(ylim=(-0.02, 1.02))
    panels[1].set_title("uniqueness: 10, 50, 90 %", size=10, loc="left")
    pairs = [row.get("duplicates") or 0 for row in indexes]
    panels[2].bar(rounds, pairs, 0.86, color=GREY)
    panels[2].set_ylim(0, 1.05 * max(*pairs, 1))
    panels[2].yaxis.set_major_locator(MaxNLocator(integer=True))
    panels[2].set_title("duplicates across sites (pairs)", size=10, loc="left")
    return shared_legend(figure, [panels[0]], {"samples held": HELD})


def _stacked(axes: Axes, rounds: NDArray[np.float64], indexes: Sequence[Row], tints: Colours) -> None:
    edges = np.stack([rounds - 0.43, rounds + 0.43, rounds + 0.5], axis=1).ravel()
    bottom = np.zeros(len(rounds))
    for site in dict.fromkeys(site for row in indexes for site in row.get("effective") or {}):
        heights = np.array([(row.get("effective") or {}).get(site) or 0.0 for row in indexes])
        tint = tints.get(site, GREY)
        axes.fill_between(edges, _bars(bottom), _bars(bottom + heights), color=tint, linewidth=0, label=short(site))
        bottom += heights
    held = [sum((row.get("held") or {}).values()) for row in indexes]
    axes.hlines(held, rounds - 0.46, rounds + 0.46, color="black", linewidth=1.4)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title("effective samples (uniqueness summed)", size=10, loc="left")


def quotas_over_rounds(indexes: Sequence[Row], tints: Colours) -> Figure:
    """How many samples each site may keep; a gap is a round in which it had no quota."""
    figure, axes = one_chart(2.6)
    rounds = [row["round"] for row in indexes]
    for k, site in enumerate(dict.fromkeys(site for row in indexes for site in row.get("quotas") or {})):
        curve = [(row.get("quotas") or {}).get(site, nan) for row in indexes]
        axes.plot(rounds, curve, dash(k), marker="o", markersize=4, color=tints.get(site, GREY), label=short(site))
    axes.set(ylabel="quota (samples)", ylim=(0, None))
    round_axis(axes, min(rounds), max(rounds))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    return with_legend(figure, axes)


def traffic(row: Row) -> dict[str, int]:
    """Bytes of a site and round by kind, as in `TRAFFIC`; what is said of the index is part of down and up."""
    down, up, told, sketches = (row.get(f"bytes_{key}") or 0 for key in ("down", "up", "coverage", "sketches"))
    return dict(zip(TRAFFIC, (down - told, up - sketches, told, sketches), strict=True))


def traffic_over_rounds(trains: Sequence[Row]) -> Figure:
    """Bytes of each site and round on a logarithmic axis: weights both ways, and sketches."""
    figure, panels = site_panels(trains)
    for axes, rows in panels:
        bytes_by_row = [(row["round"], traffic(row)) for row in rows]
        for name, (tint, marker, aside) in TRAFFIC.items():
            points = [(round + aside, count[name]) for round, count in bytes_by_row if count[name] > 0]
            if points:
                axes.plot(*zip(*points, strict=True), marker, color=tint, markersize=4, linewidth=0, alpha=0.8, label=name)
    panels[0][0].set_yscale("log")  # the panels share the axis
    panels[0][0].yaxis.set_major_formatter(FuncFormatter(lambda count, _: size(count)))
    panels[0][0].yaxis.minorticks_off()
    return shared_legend(figure, [axes for axes, _ in panels])


def _bars(heights: NDArray[np.float64]) -> NDArray[np.float64]:
    """[3 R] a bar's two corners and a gap for each of R heights: one area is drawn much faster than R bars."""
    return np.stack([heights, heights, np.full(len(heights), nan)], axis=1).ravel()


def _grouped(counts: Mapping[str, int], tints: Colours) -> dict[str, int]:
    """Names without a colour of their own put together."""
    known = {name: count for name, count in counts.items() if name in tints}
    rest = sum(counts.values()) - sum(known.values())
    return known | ({OTHERS: rest} if rest else {})
