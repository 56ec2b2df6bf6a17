"""What a run's folder says, finished or not: the rows of its record sorted by kind, and R."""

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import isnan, nan
from pathlib import Path
from typing import Any

from facts import is_name, short
from server.events import MOVES, why_no_row
from server.metrics import METRICS, START, Measured, ResultMatrix

Row = dict[str, Any]
"""One line of record.jsonl."""


@dataclass(frozen=True, kw_only=True)
class Digest:
    """A run's folder, read."""

    folder: Path
    run: Row
    """The "run" row; empty if there is none yet."""
    sites: dict[str, Row]
    """The "site" rows by site, in order of arrival."""
    moves: list[Row]
    """Arrivals, pauses, returns and departures."""
    trains: list[Row]
    """One row per site and round; the last one counts where a resumed run wrote it twice. By round, then site."""
    rounds: list[Row]
    indexes: list[Row]
    """What the uniqueness index knew after each round, by round; none: the run has no index."""
    evictions: list[Row]
    """The samples that memories dropped, as they were dropped."""
    failures: list[Row]
    """Orders without a reply that could be used."""
    faults: list[Row]
    """What went wrong and was made up for."""
    changes: list[Row]
    """Keys of the recipe that were changed on the way."""
    cases: list[Row]
    """One row per stage, site, case and class, of the sites that tell them."""
    metrics: dict[str, Measured]
    """By id; from R alone as long as the run is unfinished."""
    end: Row | None
    """None: the run is unfinished."""
    matrix: ResultMatrix
    config: str
    sums: list[Row] = field(default_factory=list)
    """One row per stage, site and class, of the sites that keep their cases' results at home."""
    last_tested: str | None = None
    """The last stage of which any result is known."""
    spent: Row = field(default_factory=dict)
    """The last "privacy" row: what the noised merges so far say of any one site; empty without noise."""
    uncertainty: dict[str, dict[str, int]] = field(default_factory=dict)
    """{site: {low, middle, high or never trained on: samples held}}; known to a simulation only, no site tells it."""

    @property
    def name(self) -> str:
        """The run's name, or its folder's."""
        return str(self.run.get("name") or self.folder.name)

    @property
    def last_round(self) -> int:
        """The last round that anything is known of; 0 before the first."""
        return max((row["round"] for row in (*self.rounds, *self.trains, *self.moves)), default=0)

    @property
    def present(self) -> dict[str, list[int]]:
        """{site: the rounds in which it took part}, in order of arrival; no rounds: it has not come yet."""
        pairs = {(site, row["round"]) for row in self.rounds for site in row.get("present") or ()}
        pairs |= {(row["site"], row["round"]) for row in self.trains}
        sites = dict.fromkeys((*self.sites, *self.matrix.sites, *(site for site, _ in sorted(pairs))))
        rounds = {site: sorted(round for other, round in pairs if other == site) for site in sites}
        return dict(sorted(rounds.items(), key=lambda item: item[1][:1] or [self.last_round + 1]))

    @property
    def classes(self) -> list[str]:
        """Every class, in the order in which sites brought them."""
        declared = [name for site in self.sites.values() for name in site.get("classes") or ()]
        return list(dict.fromkeys((*declared, *(row["class"] for row in (*self.cases, *self.sums)))))

    @property
    def last_cases(self) -> list[Row]:
        """The "case" rows of the last stage."""
        return [row for row in self.cases if row["stage"] == self.last_tested]

    @property
    def last_results(self) -> list[Row]:
        """The "case" and the "class" rows of the last stage."""
        return [*self.last_cases, *(row for row in self.sums if row["stage"] == self.last_tested)]

    @property
    def seconds(self) -> float:
        """Wall time; of an unfinished run, that of its rounds."""
        return float(self.end["seconds"] if self.end else sum(row.get("seconds") or 0 for row in self.rounds))


def read_record(folder: Path) -> list[Row]:
    """The rows of record.jsonl. A last line cut off in the middle of writing is left out.

    Raises:
        ValueError: there is no record, or a line before the last cannot be read, or a line says what no run would.
    """
    path = Path(folder) / "record.jsonl"
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        raise ValueError(f"{folder}: holds no readable record.jsonl, so it is no run's folder") from None
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError):
            if number < len(lines):
                raise ValueError(f"{path}: line {number} is no JSON") from None
            break
        if isinstance(row, dict):
            if odd := why_no_row(row):
                raise ValueError(f"{path}: line {number}: {odd}")
            rows.append(row)
    return rows


def read_run(folder: Path) -> Digest:
    """Everything that a run's folder says but its slices. Raises ValueError as `read_record`."""
    folder = Path(folder)
    rows = read_record(folder)
    matrix = _read_matrix(folder, rows)
    sites = {row["site"]: row for row in _kind(rows, "site")}
    arrival = dict(zip(matrix.sites, range(len(matrix.sites)), strict=True))
    run = _kind(rows, "run")
    end = _kind(rows, "end")
    return Digest(
        folder=folder,
        run=run[-1] if run else {},
        sites=dict(sorted(sites.items(), key=lambda item: arrival.get(item[0], len(arrival)))),
        moves=_latest(_kind(rows, *MOVES), "round", "site", "event"),
        trains=sorted(_latest(_kind(rows, "train"), "round", "site"), key=lambda row: row["round"]),
        rounds=sorted(_latest(_kind(rows, "round"), "round"), key=lambda row: row["round"]),
        indexes=sorted(_latest(_kind(rows, "index"), "round"), key=lambda row: row["round"]),
        evictions=sorted(_latest(_kind(rows, "evict"), "round", "site", "id"), key=lambda row: row["round"]),
        failures=_kind(rows, "failure"),
        faults=_kind(rows, "fault"),
        changes=_kind(rows, "changed"),
        cases=_latest(_kind(rows, "case"), "stage", "site", "case", "class"),
        sums=_latest(_kind(rows, "class"), "stage", "site", "class"),
        last_tested=next((row["stage"] for row in reversed(_kind(rows, "case", "class"))), None),
        metrics=_metrics(rows, matrix),
        end=end[-1] if end else None,
        matrix=matrix,
        config=_text(folder / "config.yaml"),
        spent=next(reversed(_kind(rows, "privacy")), {}),
    )


def _kind(rows: Iterable[Row], *events: str) -> list[Row]:
    return [row for row in rows if row.get("event") in events]


def _latest(rows: Iterable[Row], *keys: str) -> list[Row]:
    """The last row of each key: a run resumed after a crash may have written some twice."""
    return list({tuple(row.get(key) for key in keys): row for row in rows}.values())


def _read_matrix(folder: Path, rows: list[Row]) -> ResultMatrix:
    """R from R.csv or, before that is written, from the record."""
    text = _text(folder / "R.csv")
    if text.strip():
        try:
            return _checked(ResultMatrix.from_csv(text))
        except (ValueError, csv.Error) as error:
            raise ValueError(f"{folder / 'R.csv'}: {error}") from None
    by_stage: dict[str, dict[str, float]] = {}
    for row in _kind(rows, "result"):
        by_stage.setdefault(row["stage"], {})[row["site"]] = nan if row["dice"] is None else row["dice"]
    matrix = ResultMatrix()
    for stage, dice in by_stage.items():
        matrix = matrix.with_row(stage, dice)
    return matrix


def _checked(matrix: ResultMatrix) -> ResultMatrix:
    """R as it is, if it could be one."""
    if len({*matrix.sites}) < len(matrix.sites):
        raise ValueError("names a site twice")
    for name in matrix.sites:
        if not is_name(name):
            raise ValueError(f"{short(name)} is no name of a site")
    for dice in (*matrix.values.ravel().tolist(), *matrix.own.values(), *matrix.probe.values()):
        if not (isnan(dice) or 0 <= dice <= 1):
            raise ValueError(f"{dice:g} is no Dice")
    return matrix


def _metrics(rows: list[Row], matrix: ResultMatrix) -> dict[str, Measured]:
    final = {row["id"]: Measured(nan if row["value"] is None else row["value"], row["cells"]) for row in _kind(rows, "metric")}
    trained = any(stage != START for stage in matrix.stages)
    return final or ({name: metric(matrix) for name, metric in METRICS.items()} if trained else {})


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8") if path.is_file() else ""
    except (OSError, UnicodeDecodeError):
        raise ValueError(f"{path}: cannot be read") from None
