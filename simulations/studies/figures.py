"""The charts of a study's page: how fast variants forget, and what each costs."""

from collections.abc import Mapping, Sequence
from math import isnan

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from server.axes import WIDTH, dash, one_chart, plain_axes, short
from server.palette import SITE_COLOURS, Colours
from simulations.studies.means import Mean
from simulations.studies.scales import SCALES, scale

MARKERS = "osD^vP"
"""Past the palette's end variants share a colour, never colour and marker."""
LONGEST = 32
"""Letters of a name."""
NAMES = {
    "bytes": "bytes sent both ways",
    "seconds": "wall time",
    "held": "samples held at most",
    "steps": "optimizer steps",
    "cases": "cases trained on",
}
ACROSS = 3
"""Panels of costs side by side."""


def forgetting_bands(curves: Mapping[str, Sequence[Mean]], tints: Colours) -> Figure:
    """A line per variant with its 95 % band; 0 stages since arrival is 0 by definition."""
    figure = bands(curves, tints, "stages since a site's arrival", "change in Dice, mean over sites", zero=True)
    bottom, top = figure.axes[0].get_ylim()
    figure.axes[0].set_ylim(min(bottom, -0.1), max(top, 0.02))  # so that a change of .001 does not look like a cliff
    return figure


def bands(
    curves: Mapping[str, Sequence[Mean]], tints: Colours, across: str, up: str, first: int = 0, zero: bool = False
) -> Figure:
    """A line per variant with its band. `across` and `up` name the axes, `first` is where the lines begin."""
    figure, axes = one_chart(3.6)
    if zero:
        axes.axhline(0, color="#999999", linewidth=0.8)
    names = list(tints)
    for variant, points in curves.items():
        k, x = names.index(variant), np.arange(first, first + len(points))
        means, low, high = ([getattr(point, part) for point in points] for part in ("mean", "low", "high"))
        axes.fill_between(x, low, high, color=tints[variant], alpha=0.14, linewidth=0)
        axes.plot(x, means, dash(k), marker=_marker(k), markersize=4.5, color=tints[variant], label=short(variant, LONGEST))
    axes.set(xlabel=across, ylabel=up)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", color="#E5E5E5", linewidth=0.7)
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def price(metric: str, values: Mapping[str, float], costs: Mapping[str, Mapping[str, float]], tints: Colours) -> Figure:
    """A panel per cost: the metric against it; filled and joined: no variant is as good for less, or better for as much."""
    down = -(-len(costs) // ACROSS)
    wide = WIDTH if len(costs) > 1 else 0.6 * WIDTH
    figure = Figure(figsize=(wide, 3.1 * down + 0.6), layout="constrained", facecolor="none")
    panels = figure.subplots(down, -(-len(costs) // down), sharey=True, squeeze=False)
    names = list(tints)
    for axes, (cost, spent) in zip(panels.flat, costs.items(), strict=False):
        unit, per = (SCALES[cost].unit, SCALES[cost].per) if cost in SCALES else ("", 1.0)
        plain_axes(axes).set_xlabel(f"{NAMES.get(cost, cost)}{f', {unit}' if unit else ''}")
        points = {name: (spent[name] / per, values[name]) for name in names if name in spent and name in values}
        _front(axes, points, scale(metric).higher, tints)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
        axes.tick_params(labelleft=True)
    for axes in panels.flat[len(costs) :]:
        axes.remove()
    for row in panels:
        row[0].set_ylabel(f"{metric}{f', {scale(metric).unit}' if scale(metric).unit else ''}")
    keys = [
        Line2D([], [], marker=_marker(k), linestyle="", color=tints[name], label=short(name, LONGEST))
        for k, name in enumerate(names)
        if name in values
    ]
    figure.legend(handles=keys, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def _front(axes: Axes, points: Mapping[str, tuple[float, float]], higher: bool, tints: Colours) -> None:
    """Marks, filled where undominated, and the line that joins those."""
    names, front = list(tints), undominated(points, higher)
    edge = sorted(points[name] for name in front)
    axes.plot(*zip(*edge, strict=True), color="#AAAAAA", linewidth=1, drawstyle="steps-post", zorder=1)
    for name, (x, y) in points.items():
        k, tint = names.index(name), tints[name]
        fill = tint if name in front else "white"
        axes.plot([x], [y], _marker(k), markersize=8, color=tint, markerfacecolor=fill, markeredgewidth=1.6)
    axes.margins(0.18)
    axes.grid(color="#EEEEEE", linewidth=0.7)


def undominated(points: Mapping[str, tuple[float, float]], higher: bool) -> set[str]:
    """Of {variant: (cost, value)} those that no other beats in one without being worse in the other."""
    sign = 1 if higher else -1
    there = {name: (cost, sign * value) for name, (cost, value) in points.items() if not isnan(cost + value)}

    def beaten(cost: float, value: float) -> bool:
        return any(c <= cost and v >= value and (c, v) != (cost, value) for c, v in there.values())

    return {name for name, point in there.items() if not beaten(*point)}


def _marker(k: int) -> str:
    return MARKERS[k // len(SITE_COLOURS) % len(MARKERS)]
