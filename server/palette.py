"""One colour per site and per class, the same in every figure of a report."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import cycle

from server.digest import Digest

Colours = Mapping[str, str]

SITE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#333333", "#8C6D31")
"""Okabe and Ito's palette, safe for colour-blind readers; its yellow is too pale for lines."""
CLASS_COLOURS = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#EE9955", "#BBBBBB")
"""Paul Tol's bright palette and an orange: legible on grey slices too."""


def colours(names: Sequence[str], palette: Sequence[str]) -> dict[str, str]:
    """A colour per name; past the palette's end it starts again."""
    return dict(zip(names, cycle(palette), strict=False))


def site_colours(run: Digest) -> dict[str, str]:
    """A colour per site, in order of arrival."""
    return colours(list(dict.fromkeys((*run.matrix.sites, *run.sites, *(row["site"] for row in run.trains)))), SITE_COLOURS)


def class_colours(run: Digest) -> dict[str, str]:
    """A colour per class; of more classes than colours, those most often held come first."""
    held: Counter[str] = Counter()
    for row in run.trains:
        held.update(row.get("memory_classes") or {})
    names = run.classes
    return colours(names if len(names) <= len(CLASS_COLOURS) else sorted(names, key=lambda name: -held[name]), CLASS_COLOURS)
