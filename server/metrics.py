"""What a run is worth: the result matrix R, and every metric by the id of its formula.

Peers disagree on what "BWT" or "forgetting" means, so a number without an id means nothing. Empty cells of R (a site that
was away, or that has no test cases) are left out, and every number says how many terms its mean had.
"""

import csv
import io
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, isnan, nan
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

START = "start"
"""The name of R's first row: before training."""
OWN = ".own"
"""How the columns of R.csv end that hold the results of the sites' own models."""


class Measured(NamedTuple):
    """A mean, and over how many terms it was taken."""

    value: float
    """nan if there was nothing to average."""
    cells: int
    """How many sites (aia: cells of R; case metrics: cases x classes) entered."""


@dataclass(frozen=True, eq=False)
class ResultMatrix:
    """R[t, k] = Dice on site k's test cases after stage t; row 0 is before training. A value: adding a row makes a new one."""

    sites: tuple[str, ...] = ()
    """The columns, in order of arrival."""
    stages: tuple[str, ...] = ()
    """The rows: "start", then the site or sites ("a+b") that arrived."""
    values: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0)))
    """[T + 1, K] Dice, nan where a cell is empty."""
    arrival: tuple[int, ...] = ()
    """[K] the row in which each site arrived, its diagonal; 0: it never did."""
    own: Mapping[str, float] = field(default_factory=dict)
    """{site: Dice of the last model after the site tuned it to itself}; no cell of R, and part of `acc.own` alone."""

    def __post_init__(self) -> None:
        """Names and values must fit each other."""
        assert self.values.shape == (len(self.stages), len(self.sites)), "R's names do not fit its values"
        assert len(self.arrival) == len(self.sites), "R's arrivals do not fit its columns"

    def with_row(self, stage: str, dice: Mapping[str, float]) -> Self:
        """R after one more stage. A site named for the first time gets a column whose earlier rows are empty."""
        sites = (*self.sites, *(site for site in dice if site not in self.sites))
        values = np.full((len(self.stages) + 1, len(sites)), nan)
        values[:-1, : len(self.sites)] = self.values
        values[-1] = [dice.get(site, nan) for site in sites]
        stages = (*self.stages, stage)
        return type(self)(sites, stages, values, _arrivals(sites, stages))

    def to_csv(self) -> str:
        """R as text: `stage,<site>,...`, one line per stage, 6 decimals, nothing where a cell is empty.

        What the sites' own models reach stands in the last line, in columns `<site>.own`.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["stage", *self.sites, *(f"{site}{OWN}" for site in self.own)])
        for t, (stage, row) in enumerate(zip(self.stages, self.values, strict=True)):
            own = self.own.values() if t == self.last else [nan] * len(self.own)
            writer.writerow([stage, *("" if isnan(value) else f"{value:.6f}" for value in (*row, *own))])
        return text.getvalue()

    @classmethod
    def from_csv(cls, text: str, arrival: Sequence[int] | None = None) -> Self:
        """The inverse of `to_csv`; who arrived when is read from the stages' names unless it is given.

        Raises:
            ValueError: the text is no result matrix.
        """
        rows = list(csv.reader(io.StringIO(text)))
        if not rows or rows[0][:1] != ["stage"]:
            raise ValueError("no result matrix: the first line should be `stage,<site>,<site>,...`")
        columns, stages = rows[0][1:], tuple(row[0] for row in rows[1:] if row)
        sites = tuple(name for name in columns if not _is_own(name, columns))
        try:
            cells = [[float(cell) if cell else nan for cell in row[1:]] for row in rows[1:] if row]
            values = np.array(cells, np.float64).reshape(len(stages), len(columns))
        except ValueError as error:
            raise ValueError(f"no result matrix: {error}") from None
        last = dict(zip(columns, values[-1].tolist() if stages else (), strict=False))
        own = {name.removesuffix(OWN): dice for name, dice in last.items() if _is_own(name, columns)}
        values = values[:, [column for column, name in enumerate(columns) if not _is_own(name, columns)]]
        return cls(sites, stages, values, _arrivals(sites, stages) if arrival is None else tuple(arrival), own)

    @property
    def last(self) -> int:
        """T, the index of the last row."""
        return len(self.stages) - 1


def _is_own(column: str, columns: Sequence[str]) -> bool:
    return column.endswith(OWN) and column.removesuffix(OWN) in columns


def _arrivals(sites: Sequence[str], stages: Sequence[str]) -> tuple[int, ...]:
    """[K] the first stage, counted from 1, whose name holds the site; 0 if none does."""
    named = [{stage, *stage.split("+")} for stage in stages]
    return tuple(next((t for t in range(1, len(named)) if site in named[t]), 0) for site in sites)


# Metrics of R ----------------------------------------------------------------------------------------------------


def mean(values: Iterable[float | None]) -> Measured:
    """Mean of what is there, and how much that was; None and nan are left out."""
    there = [value for value in values if value is not None and not isnan(value)]
    return Measured(float(np.mean(there)) if there else nan, len(there))


def drop(matrix: ResultMatrix) -> NDArray[np.float64]:
    """[T + 1, K] R[t, k] - R[k, k] from the stage of site k's arrival on, nan elsewhere: the curves of forgetting."""
    out = np.full(matrix.values.shape, nan)
    for k, start in enumerate(matrix.arrival):
        if start:
            out[start:, k] = matrix.values[start:, k] - matrix.values[start, k]
    return out


def acc(matrix: ResultMatrix) -> Measured:
    """mean_k R[T,k]"""
    return mean(matrix.values[-1] if matrix.stages else ())


def aia(matrix: ResultMatrix) -> Measured:
    """mean_t mean_{k<=t} R[t,k]; a stage without any cell is left out"""
    stages, known = [], matrix.arrival
    for t in range(1, matrix.last + 1):
        stages.append(mean(matrix.values[t, k] for k, start in enumerate(known) if 1 <= start <= t))
    return Measured(mean(stage.value for stage in stages).value, sum(stage.cells for stage in stages))


def bwt_gem(matrix: ResultMatrix) -> Measured:
    """mean_{k<T} (R[T,k] - R[k,k])"""
    return mean(now - then for then, now in _then_and_now(matrix))


def bwt_lifelong(matrix: ResultMatrix) -> Measured:
    """mean_{k<T} (R[T,k] - R[k,k]) / R[k,k]; sites with R[k,k] = 0 are left out"""
    return mean((now - then) / then for then, now in _then_and_now(matrix) if then != 0)


def fwt_gem(matrix: ResultMatrix) -> Measured:
    """mean_{k>=2} (R[k-1,k] - R[0,k])"""
    values = matrix.values
    return mean(values[start - 1, k] - values[0, k] for k, start in enumerate(matrix.arrival) if start >= 2)


def fgt_chaudhry(matrix: ResultMatrix) -> Measured:
    """mean_{k<T} (max_{k<=l<T} R[l,k] - R[T,k])"""
    last = matrix.last
    earlier = {k: matrix.values[start:last, k] for k, start in enumerate(matrix.arrival) if 1 <= start < last}
    return mean(np.nanmax(past) - matrix.values[last, k] for k, past in earlier.items() if not np.isnan(past).all())


def plasticity(matrix: ResultMatrix) -> Measured:
    """mean_k R[k,k]"""
    return mean(matrix.values[start, k] for k, start in enumerate(matrix.arrival) if start)


def _then_and_now(matrix: ResultMatrix) -> list[tuple[float, float]]:
    """(R[k,k], R[T,k]) of every site that arrived before the last stage."""
    return [
        (matrix.values[start, k], matrix.values[-1, k]) for k, start in enumerate(matrix.arrival) if 1 <= start < matrix.last
    ]


def acc_own(matrix: ResultMatrix) -> Measured:
    """mean_k of the Dice that site k's own model reaches there"""
    return mean(matrix.own.values())


METRICS: dict[str, Callable[[ResultMatrix], Measured]] = {
    "acc": acc,
    "aia": aia,
    "bwt.gem": bwt_gem,
    "bwt.lifelong": bwt_lifelong,
    "fwt.gem": fwt_gem,
    "fgt.chaudhry": fgt_chaudhry,
    "plasticity": plasticity,
}

MEANINGS = {
    "acc": "mean Dice over the sites at the end",
    "aia": "mean over the stages of the mean Dice over the sites known by then",
    "bwt.gem": "change since a site was learnt, in Dice (below 0: forgotten)",
    "bwt.lifelong": "change since a site was learnt, relative to what was learnt",
    "fwt.gem": "what earlier sites taught about a site before it arrived, in Dice over the untrained model",
    "fgt.chaudhry": "loss since a site's best stage, in Dice (above 0: forgotten)",
    "plasticity": "mean Dice on a site when it has just been learnt",
    "acc.own": "mean Dice over the sites at the end, each with the last model tuned to its own memory",
    "dice": "mean over test cases and classes whose label has the class",
    "dice.all": "the same, also counting absent classes: 1 if the prediction lacks them too, else 0",
    "hd95": "95th percentile of the surface distance, mm (below is better)",
    "nsd": "share of the surface within 1 mm",
    "normdel": "score for the share of data kept (0.5 is nothing learnt; mean IoU discounted by the data held at the end)",
}
"""What each id means, in one line."""

# Metrics of cases ------------------------------------------------------------------------------------------------


def site_dice(rows: Iterable[Mapping[str, Any]]) -> float:
    """One cell of R: the mean over a site's classes of the mean over its cases whose label has the class.

    `rows` are the "case" rows of one site and stage; nan if no label has any class.
    """
    by_class: dict[str, list[float | None]] = defaultdict(list)
    for row in rows:
        by_class[row["class"]].append(row["dice"])
    return mean(mean(values).value for values in by_class.values()).value


def normdel(mean_iou: float, retained: float) -> float:
    """Normalised data-effective learning (arXiv:2401.17542), alpha = 1: what the score costs in data kept.

    `mean_iou` and `retained` (the share of the stream's cases still held at the end) are fractions.
    """
    return 1 / (1 + exp(-mean_iou * exp(-retained)))


def final_metrics(matrix: ResultMatrix, rows: Sequence[Mapping[str, Any]], retained: float) -> dict[str, Measured]:
    """Every metric by id after the last stage; `acc.own` where sites tuned models of their own.

    `rows` are all "case" rows of that stage; the case metrics are plain means over cases and classes, where `acc`
    gives each site the same weight. `retained` is as in `normdel`.
    """
    metrics = {name: metric(matrix) for name, metric in METRICS.items()}
    metrics |= {"acc.own": acc_own(matrix)} if matrix.own else {}
    metrics |= {name: mean(row.get(name) for row in rows) for name in ("dice", "dice.all", "hd95", "nsd")}
    iou = mean(row.get("iou") for row in rows)
    return metrics | {"normdel": Measured(normdel(iou.value, retained), iou.cells)}
