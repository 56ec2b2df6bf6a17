"""The critical-difference picture: variants on the line of their mean ranks, a bar over those that do not differ."""

from math import isnan

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from server.axes import GREY, WIDTH, short
from server.palette import SITE_COLOURS
from simulations.studies.noise import ALPHA
from simulations.studies.ranks import Ranking
from simulations.studies.scales import shown_p

INK, BAR = "#1b1f24", SITE_COLOURS[0]
LINE = 0.3
"""Inches from one name, bar or scale to the next; one unit of the picture's height."""
LONGEST = 28
"""Letters of a name."""


def rank_figure(ranking: Ranking) -> Figure:
    """Best on the left; the better half is named on the left, the others on the right. Dark ink for a light ground.

    Raises:
        ValueError: fewer than two variants, or no block that all of them share.
    """
    if len(ranking.ranks) < 2:
        raise ValueError(f"no picture of ranks in {ranking.metric}: it takes two variants and a seed and order of both")
    names, deepest = list(ranking.ranks), 0.5 * len(ranking.groups) + 0.4  # below the bars
    half = -(-len(names) // 2)
    bottom = deepest + half + 1
    figure = Figure(figsize=(WIDTH, LINE * (bottom + 2.6)), layout="constrained", facecolor="none")
    axes = figure.add_subplot(facecolor="none")
    last = len(names)
    axes.set(xlim=(1 - 0.42 * (last - 1), last + 0.42 * (last - 1)), ylim=(bottom, -2.6))
    axes.set_axis_off()
    _scale(axes, last)
    _critical(axes, ranking)
    for level, group in enumerate(ranking.groups):
        ends = [ranking.ranks[group[0]], ranking.ranks[group[-1]]]
        pad = 0.012 * (last - 1)
        axes.plot([ends[0] - pad, ends[1] + pad], [0.5 * level + 0.5] * 2, color=BAR, linewidth=4, solid_capstyle="butt")
    for i, name in enumerate(names):
        left = i < half
        depth = deepest + 0.4 + (i if left else last - 1 - i)
        _name(axes, short(name, LONGEST), ranking.ranks[name], depth, last, left)
    tested = "" if isnan(ranking.p) else f", Friedman's p {shown_p(ranking.p)}"
    about = f"mean rank in {ranking.metric} over {ranking.blocks} pairs of seed and order{tested}"
    axes.text((1 + last) / 2, bottom, about, ha="center", va="bottom", size=9, color=GREY)
    return figure


def _scale(axes: Axes, last: int) -> None:
    """The line of ranks, 1 (best) to the number of variants."""
    axes.plot([1, last], [0, 0], color=INK, linewidth=1.2)
    step = -(-last // 20)
    for rank in range(1, last + 1, step):
        axes.plot([rank, rank], [0, -0.25], color=INK, linewidth=1.2)
        axes.text(rank, -0.35, str(rank), ha="center", va="bottom", size=9, color=INK)


def _critical(axes: Axes, ranking: Ranking) -> None:
    """The critical difference as a ruler over the scale; open at its end where the scale is shorter."""
    last, end = len(ranking.ranks), 1 + ranking.critical
    axes.plot([1, min(end, last)], [-1.75, -1.75], color=INK, linewidth=1.2)
    for x in (1, end) if end <= last else (1,):
        axes.plot([x, x], [-1.6, -1.9], color=INK, linewidth=1.2)
    axes.text(1, -2.0, f"critical difference {ranking.critical:.2f} ({ALPHA:g})", ha="left", va="bottom", size=9, color=INK)


def _name(axes: Axes, name: str, rank: float, depth: float, last: int, left: bool) -> None:
    """A variant's name beside the picture, an elbow up to its rank, and the rank."""
    edge, away = (1, -1) if left else (last, 1)
    end = edge + away * 0.06 * (last - 1)
    axes.plot([rank, rank, end], [0, depth, depth], color=GREY, linewidth=0.9, zorder=0)
    axes.plot([rank], [0], "o", color=INK, markersize=4)
    axes.text(end + away * 0.012 * (last - 1), depth, name, ha="right" if left else "left", va="center", size=10, color=INK)
    axes.text(end - away * 0.004 * (last - 1), depth - 0.08, f"{rank:.2f}", ha="left" if left else "right", va="bottom",
              size=7.5, color=GREY)  # fmt: skip
