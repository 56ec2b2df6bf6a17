"""The report's charts: small functions from data to a matplotlib Figure, without pyplot and its global state."""

from collections.abc import Mapping, Sequence
from math import nan
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from server.axes import GREY, WIDTH, dash, one_chart, short, with_legend
from server.digest import Row
from server.metrics import ResultMatrix, drop
from server.palette import Colours

MARKS = {"arrive": ">", "return": ">", "pause": "|", "leave": "X"}


def timeline(present: Mapping[str, Sequence[int]], moves: Sequence[Row], failures: Sequence[Row], tints: Colours) -> Figure:
    """Who is present in which round. `present`: {site: rounds}, first arrival on top."""
    sites = list(present)
    failed = {(row["site"], row["round"]) for row in failures if row.get("task") != "evaluate"}
    figure, axes = one_chart(0.34 * len(sites) + 1.3)
    for y, site in enumerate(sites):
        tint = tints.get(site, GREY)
        missed = sorted(round for other, round in failed if other == site)
        trained = [round for round in present[site] if round not in missed]
        for rounds, fill, hatch in ((trained, tint, None), (missed, "none", "////")):
            spans = [(round - 0.47, 0.94) for round in rounds]
            axes.broken_barh(spans, (y - 0.3, 0.6), facecolor=fill, edgecolor=tint, hatch=hatch)
    for move in moves:
        if move["site"] in present:
            inside = move["round"] in present[move["site"]]
            full = inside and (move["site"], move["round"]) not in failed
            x = move["round"] - (0.36 if inside else 0.5)
            _mark(axes, x, sites.index(move["site"]), MARKS[move["event"]], "white" if full else "black")
    _stages(axes, moves)
    axes.set(yticks=range(len(sites)), yticklabels=[short(s) for s in sites], xlabel="round", ylim=(len(sites) - 0.4, -0.6))
    last = max((*(r for rounds in present.values() for r in rounds), *(m["round"] for m in moves), 1))
    axes.set_xlim(0.4, last + 0.6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.tick_params(axis="y", length=0)
    return figure


def _mark(axes: Axes, x: float, y: float, marker: str, colour: str) -> None:
    axes.plot([x], [y], marker, color=colour, markersize=9 if marker == "|" else 6, markeredgewidth=2 if marker == "|" else 0.5)


def _stages(axes: Axes, moves: Sequence[Row]) -> None:
    """A line and a name where each stage begins."""
    begins: dict[str, int] = {}
    for move in moves:
        if move["event"] == "arrive":
            begins.setdefault(move.get("stage") or move["site"], move["round"])
    for stage, first in begins.items():
        axes.axvline(first - 0.5, color="#BBBBBB", linewidth=0.8, zorder=0)
        if len(begins) <= 10 or stage in list(begins)[:: -(-len(begins) // 10)]:  # names side by side, not over one another
            axes.text(first - 0.46, -0.66, short(stage, 120 // min(len(begins), 10)), size=8, color=GREY, va="bottom")


def heat_map(matrix: ResultMatrix) -> Figure:
    """R with its numbers; the diagonal, where a site has just been learnt, is outlined."""
    rows, columns = matrix.values.shape
    figure, axes = one_chart(0.36 * rows + 1.3, min(WIDTH, 0.8 * columns + 2.4))
    image = axes.imshow(matrix.values, cmap="YlGnBu", vmin=0, vmax=1, aspect="auto")
    for t, k in np.ndindex(rows, columns):
        value = matrix.values[t, k]
        shown = "–" if np.isnan(value) else f"{value:.2f}" if columns > 12 else f"{value:.3f}"
        ink = "white" if value > 0.55 else "black"
        axes.text(k, t, shown, ha="center", va="center", size=7 if columns > 12 else 9, color=ink)
    for k, t in enumerate(matrix.arrival):
        if t:
            axes.add_patch(Rectangle((k - 0.47, t - 0.45), 0.94, 0.9, fill=False, edgecolor="black", linewidth=1.8))
    axes.set(xticks=range(columns), yticks=range(rows), xlabel="test cases of site", ylabel="after stage")
    slanted: dict[str, Any] = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if columns > 8 else {}
    axes.set_xticklabels([short(s) for s in matrix.sites], **slanted)
    axes.set_yticklabels([short(s) for s in matrix.stages])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, label="Dice", fraction=0.05, pad=0.02).outline.set_visible(False)
    return figure


def dice_over_stages(matrix: ResultMatrix, tints: Colours) -> Figure:
    """R's columns as lines: thin and dotted before the site's arrival, a disc at it."""
    figure, axes = one_chart(3.6)
    steps = np.arange(len(matrix.stages))
    for k, site in enumerate(matrix.sites):
        start, column = matrix.arrival[k], matrix.values[:, k]
        before = start or len(steps) - 1
        axes.plot(steps[: before + 1], column[: before + 1], ":", color=tints[site], linewidth=1.2)
        axes.plot(steps[start:], column[start:], dash(k), color=tints[site], linewidth=2 if start else 0, label=short(site))
        if start:
            axes.plot([start], [column[start]], "o", color=tints[site], markersize=8, markeredgecolor="white")
    axes.set(xticks=steps, xlabel="after stage", ylabel="Dice on the site's test cases", ylim=(0, 1))
    slanted: dict[str, Any] = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if len(steps) > 8 else {}
    axes.set_xticklabels([short(s) for s in matrix.stages], **slanted)
    return with_legend(figure, axes)


def forgetting(matrix: ResultMatrix, tints: Colours, reaches: Mapping[str, Sequence[float]] | None = None) -> Figure:
    """drop(k, t): what is left of what was learnt at a site, by how many stages have passed since its arrival.

    `reaches`: {site: how far the interval of each point of its curve reaches to either side}; drawn as bands.
    """
    figure, axes = one_chart(3.3)
    dropped = drop(matrix)
    axes.axhline(0, color="#999999", linewidth=0.8)
    longest = 1
    for k, site in enumerate(matrix.sites):
        start = matrix.arrival[k]
        if 1 <= start < matrix.last:
            curve = dropped[start:, k]
            longest = max(longest, len(curve) - 1)
            axes.plot(np.arange(len(curve)), curve, dash(k), marker="o", markersize=4, color=tints[site], label=short(site))
            half = np.array((reaches or {}).get(site, np.full(len(curve), nan)))
            axes.fill_between(np.arange(len(curve)), curve - half, curve + half, color=tints[site], alpha=0.13, linewidth=0)
    axes.set(xlabel="stages since the site's arrival", ylabel="change in Dice, R[t,k] − R[k,k]", xlim=(-0.05, longest + 0.05))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, -0.1), max(high, 0.02))  # so that a change of .001 does not look like a cliff
    return with_legend(figure, axes)


def loss_over_rounds(trains: Sequence[Row], tints: Colours) -> Figure:
    """Mean training loss of each site and round; a gap is a round in which the site did not train."""
    figure, axes = one_chart(3.0)
    last = max(row["round"] for row in trains)
    for k, site in enumerate(dict.fromkeys(row["site"] for row in trains)):
        curve = np.full(last + 1, nan)
        for row in trains:
            if row["site"] == site and row.get("loss_weight"):
                curve[row["round"]] = (nan if row["loss_sum"] is None else row["loss_sum"]) / row["loss_weight"]
        axes.plot(curve, dash(k), marker="o", markersize=4, color=tints.get(site, GREY), label=short(site))
    axes.set(xlabel="round", ylabel="mean training loss", xlim=(0.7, last + 0.3), ylim=(0, None))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return with_legend(figure, axes)
