"""The report's axes, plain and alike, and what its charts share."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from server.digest import Row
from server.palette import SITE_COLOURS

WIDTH = 10.1
"""Inches; the page is as wide, so type comes out at its own size."""
GREY = "#666666"
MOST_PANELS = 20
"""Small charts in a figure: more are not looked at one by one, and their layout takes time with the square of their number."""


def one_chart(height: float, width: float = WIDTH) -> tuple[Figure, Axes]:
    """A figure with one pair of axes; inches."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="none")
    return figure, plain_axes(figure.add_subplot())


def plain_axes(axes: Axes) -> Axes:
    """Without a frame and in the background."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#999999")
    axes.tick_params(labelsize=9, color="#999999")
    axes.set_facecolor("none")
    return axes


def round_axis(axes: Axes, first: int, last: int) -> None:
    """Rounds from left to right."""
    axes.set(xlabel="round", xlim=(first - 0.6, last + 0.6))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, nbins=7))


def site_panels(trains: Sequence[Row], across: int = 4) -> tuple[Figure, list[tuple[Axes, list[Row]]]]:
    """One small chart per site, all with the same axes; of more than MOST_PANELS sites some."""
    sites = evenly(list(dict.fromkeys(row["site"] for row in trains)))
    down, across = -(-len(sites) // across), min(across, len(sites))
    figure = Figure(figsize=(WIDTH, 1.9 * down + 0.6), layout="constrained", facecolor="none")
    grid = figure.subplots(down, max(across, 2), sharex=True, sharey=True, squeeze=False).flat
    last, panels = max(row["round"] for row in trains), []
    for axes, site in zip(grid, sites, strict=False):
        plain_axes(axes).set_title(short(site), size=10, loc="left")
        round_axis(axes, 1, last)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        axes.tick_params(labelbottom=True)
        panels.append((axes, [row for row in trains if row["site"] == site]))
    for axes in list(figure.axes)[len(sites) :]:
        axes.set_visible(False)
    return figure, panels


def evenly(sites: Sequence[str], most: int = MOST_PANELS) -> list[str]:
    """At most so many of the sites, evenly from the first to the last.

    >>> evenly(["a", "b", "c", "d", "e"], 3)
    ['a', 'c', 'e']
    """
    if len(sites) <= most:
        return list(sites)
    return [sites[i * (len(sites) - 1) // (most - 1)] for i in range(most)]


def shared_legend(figure: Figure, panels: Sequence[Axes], extra: Mapping[str, Artist] | None = None) -> Figure:
    """One legend under all panels, each name once; `extra` handles come last."""
    handles = {name: handle for axes in panels for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    handles |= extra or {}
    columns = min(len(handles), 7)
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
    return figure


def with_legend(figure: Figure, axes: Axes) -> Figure:
    """Lines across, and the sites named beside the chart."""
    axes.grid(axis="y", color="#E5E5E5", linewidth=0.7)
    axes.set_axisbelow(True)
    if axes.get_legend_handles_labels()[0]:
        columns = 1 + len(axes.get_legend_handles_labels()[0]) // 14
        outside: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1), "borderaxespad": 0}
        axes.legend(**outside, frameon=False, fontsize=9, title="site", alignment="left", ncols=columns)
    return figure


def dash(k: int) -> str:
    """Past the palette's end sites share a colour, never colour and dash."""
    return ("-", "--", "-.")[k // len(SITE_COLOURS) % 3]


def short(name: str, longest: int = 18) -> str:
    """A name as plain text: not too long, and never TeX."""
    return (name if len(name) <= longest else name[: longest - 1] + "…").replace("$", r"\$")
