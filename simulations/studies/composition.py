"""Whose cases each variant's memories hold after each stage, over all runs: figure 3 of arXiv:2407.04687, and its numbers."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from server.axes import GREY, WIDTH, plain_axes, short
from server.metrics import mean
from server.palette import Colours
from simulations.studies.figures import bands
from simulations.studies.findings import Findings
from simulations.studies.gist import Gist
from simulations.studies.means import Mean, mean_over
from simulations.studies.statistics import Block

ACROSS = 4
"""Panels side by side."""
LONGEST = 28
"""Letters of a panel's title."""
Shares = Sequence[Sequence[float]]
"""[stage][place]: the part of the samples held that are cases of the site that came first, second, ..."""


def shares(gists: Sequence[Gist]) -> Shares:
    """A mean over the runs that hold anything after a stage; sites stand by their place in the order of arrival."""
    stages = max((len(gist.mixtures) for gist in gists), default=0)
    places = max((len(one.by_origin) for gist in gists for one in gist.mixtures), default=0)
    found = []
    for t in range(stages):
        held = [list(gist.mixtures[t].shares.values()) for gist in gists if t < len(gist.mixtures) and gist.mixtures[t].held]
        found.append([mean(one[k] if k < len(one) else 0.0 for one in held).value for k in range(places)])
    return found


def effective(findings: Findings) -> dict[str, list[Mean]]:
    """{variant: the effective number of sites after each stage}; nan where nothing is held."""
    found: dict[str, list[dict[Block, float]]] = {}
    for cell, gist in findings.gists:
        at = found.setdefault(cell.variant, [])
        for t, one in enumerate(gist.mixtures):
            at += [{}] if t == len(at) else []
            at[t][cell.order, cell.seed] = one.effective
    return {variant: [mean_over(values, 1.0, np.inf) for values in at] for variant, at in found.items()}


def effective_lines(found: Mapping[str, Sequence[Mean]], gists: Sequence[Gist], tints: Colours) -> Figure:
    """A line per variant; dotted: how many sites there were to hold something of, a mean over the runs."""
    figure = bands(found, tints, "stage", "effective sites in memory", first=1)
    longest = max(map(len, found.values()))
    there = [[len(gist.mixtures[t].by_origin) for gist in gists if t < len(gist.mixtures)] for t in range(longest)]
    figure.axes[0].plot(range(1, longest + 1), [mean(counts).value for counts in there], ":", color=GREY, zorder=1)
    return figure


def tones(places: int) -> list[str]:
    """A colour per place in the order of arrival, dark blue for the first to yellow for the last."""
    return [to_hex(colormaps["viridis"](0.08 + 0.87 * k / max(places - 1, 1))) for k in range(places)]


def share_bars(found: Mapping[str, Shares], names: Sequence[str]) -> Figure:
    """A panel per variant, a bar per stage, the earliest site at the bottom. `names`: of the places, first to last."""
    down, tints = -(-len(found) // ACROSS), tones(len(names))
    figure = Figure(figsize=(WIDTH, 2.0 * down + 0.5), layout="constrained", facecolor="none")
    panels = figure.subplots(down, ACROSS, sharex=True, sharey=True, squeeze=False)
    for axes, (variant, stages) in zip(panels.flat, found.items(), strict=False):
        _bars(plain_axes(axes), np.array(stages), tints)
        axes.set_title(short(variant, LONGEST), size=9.5, loc="left")
        axes.set_xlabel("stage", size=9)
        axes.tick_params(labelbottom=True)
    for axes in panels.flat[len(found) :]:
        axes.set_visible(False)
    for row in panels:
        row[0].set_ylabel("share of memory", size=9)
    panels[0][0].xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    panels[0][0].set(ylim=(0, 1), yticks=[0, 0.5, 1])
    keys = [Patch(color=tint, label=short(name, LONGEST)) for name, tint in zip(names, tints, strict=True)]
    figure.legend(handles=keys, loc="outside lower center", ncols=min(len(keys), 6), frameon=False, fontsize=9)
    return figure


def _bars(axes: Axes, share_TK: NDArray[np.float64], tints: Sequence[str]) -> None:
    """One area per place with a gap after each stage: drawn much faster than a patch per bar."""
    stages = np.arange(1, len(share_TK) + 1)
    edges = np.stack([stages - 0.43, stages + 0.43, stages + 0.5], axis=1).ravel()
    gaps = np.array([False, False, True] * len(stages))
    bottom = np.zeros(len(stages))
    for tint, heights in zip(tints, np.nan_to_num(share_TK).T, strict=False):
        low, high = (np.where(gaps, np.nan, np.repeat(level, 3)) for level in (bottom, bottom + heights))
        axes.fill_between(edges, low, high, color=tint, linewidth=0)
        bottom = bottom + heights
