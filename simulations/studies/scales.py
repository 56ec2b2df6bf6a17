"""The metrics that studies compare: which way is better, in what unit, and with how many digits they are written."""

from dataclasses import dataclass
from math import isnan

from configs.load import nearest


@dataclass(frozen=True)
class Scale:
    """How a metric is read."""

    higher: bool
    """Whether higher is better."""
    digits: int = 3
    """After the point."""
    unit: str = ""
    """As written in tables; empty for shares and counts."""
    per: float = 1.0
    """How many of what a run measures make one `unit`: a run counts bytes, a table says MB."""


SCALES = {
    "acc": Scale(higher=True),
    "acc.own": Scale(higher=True),
    "in_domain": Scale(higher=True),
    "cross_domain": Scale(higher=True),
    "cross_domain.probe": Scale(higher=True),
    "cross_task": Scale(higher=True),
    "cross_task.probe": Scale(higher=True),
    "aia": Scale(higher=True),
    "bwt.gem": Scale(higher=True),
    "bwt.lifelong": Scale(higher=True),
    "fwt.gem": Scale(higher=True),
    "fgt.chaudhry": Scale(higher=False),
    "plasticity": Scale(higher=True),
    "dice": Scale(higher=True),
    "dice.all": Scale(higher=True),
    "hd95": Scale(higher=False, digits=2, unit="mm"),
    "nsd": Scale(higher=True),
    "normdel": Scale(higher=True),
    "bytes": Scale(higher=False, digits=1, unit="MB", per=1e6),
    "seconds": Scale(higher=False, digits=1, unit="s"),
    "steps": Scale(higher=False, digits=0),
    "cases": Scale(higher=False, digits=0),
}
"""By metric id. The first ones are server/metrics.py's; then what a run cost: bytes sent both ways, wall seconds,
optimizer steps, and cases trained on."""


def scale(metric: str) -> Scale:
    """How a metric is read.

    Raises:
        ValueError: nobody knows the metric; names the nearest.
    """
    if metric not in SCALES:
        raise ValueError(f"there is no metric {metric!r}; {nearest(metric, SCALES)}")
    return SCALES[metric]


def rounded(value: float, metric: str, sign: bool = False) -> str:
    """A measured value in its table's unit and digits (0.716); nothing where nothing was measured."""
    if isnan(value):
        return ""
    known = scale(metric)
    there = round(value / known.per, known.digits) + 0.0  # the sum turns -0.0, which would be written as -0.000, into 0.0
    return f"{there:{'+' if sign else ''}.{known.digits}f}"


def shown(value: float, metric: str, sign: bool = False) -> str:
    """The same for the eye: .716, and a dash where nothing was measured."""
    return without_nought(rounded(value, metric, sign)) or "-"


def shown_p(p: float) -> str:
    """A probability in two digits (.018), down to .0001."""
    return "<.0001" if p < 0.0001 else without_nought(f"{p:.2g}")


def without_nought(number: str) -> str:
    """.716 for 0.716, as everywhere in docs/findings.md's text."""
    signs = number[:1] if number[:1] in ("+", "-") else ""
    rest = number.removeprefix(signs)
    return signs + (rest[1:] if rest.startswith("0.") else rest)
