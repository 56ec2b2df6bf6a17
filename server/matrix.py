"""R, the result matrix: the Dice on each site's test cases after each stage, as a value and as text."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan, nan
from typing import Self

import numpy as np
from numpy.typing import NDArray

START = "start"
"""The name of R's first row: before training."""
OWN = ".own"
"""How the columns of R.csv end that hold the results of the sites' own models."""
PROBE = ".probe"
"""The same of the copies that held-out sites tuned to their own cases."""


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
    """[K] the row in which each site arrived, its diagonal; 0: it never did, and nobody was trained on its cases."""
    own: Mapping[str, float] = field(default_factory=dict)
    """{site: Dice of the last model after the site tuned it to itself}; no cell of R, and part of `acc.own` alone."""
    probe: Mapping[str, float] = field(default_factory=dict)
    """{site that never arrived: Dice of a copy of the last model, tuned to the site's cases}; no cell of R either."""

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

        What the sites' own models reach stands in the last line, in columns `<site>.own`; what held-out sites' tuned
        copies reach, in columns `<site>.probe`.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        beside = {site + end: dice for end, found in ((OWN, self.own), (PROBE, self.probe)) for site, dice in found.items()}
        writer.writerow(["stage", *self.sites, *beside])
        for t, (stage, row) in enumerate(zip(self.stages, self.values, strict=True)):
            last = beside.values() if t == self.last else [nan] * len(beside)
            writer.writerow([stage, *("" if isnan(value) else f"{value:.6f}" for value in (*row, *last))])
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
        sites = tuple(name for name in columns if not _is_beside(name, columns))
        try:
            cells = [[float(cell) if cell else nan for cell in row[1:]] for row in rows[1:] if row]
            values = np.array(cells, np.float64).reshape(len(stages), len(columns))
        except ValueError as error:
            raise ValueError(f"no result matrix: {error}") from None
        last = dict(zip(columns, values[-1].tolist() if stages else (), strict=False))
        beside = {name: dice for name, dice in last.items() if name not in sites}
        own, probe = ({n.removesuffix(end): d for n, d in beside.items() if n.endswith(end)} for end in (OWN, PROBE))
        values = values[:, [column for column, name in enumerate(columns) if name in sites]]
        return cls(sites, stages, values, _arrivals(sites, stages) if arrival is None else tuple(arrival), own, probe)

    @property
    def learnt(self) -> tuple[str, ...]:
        """The sites that have arrived. The others are held out or, in an unfinished run, still to come."""
        return tuple(site for site, start in zip(self.sites, self.arrival, strict=True) if start)

    @property
    def last(self) -> int:
        """T, the index of the last row."""
        return len(self.stages) - 1


def _is_beside(column: str, columns: Sequence[str]) -> bool:
    """Whether it is no column of R, but stands beside one."""
    return any(column.endswith(end) and column.removesuffix(end) in columns for end in (OWN, PROBE))


def _arrivals(sites: Sequence[str], stages: Sequence[str]) -> tuple[int, ...]:
    """[K] the first stage, counted from 1, whose name holds the site; 0 if none does."""
    named = [{stage, *stage.split("+")} for stage in stages]
    return tuple(next((t for t in range(1, len(named)) if site in named[t]), 0) for site in sites)
