"""What the sites of a simulation hold, read from their folders: a run may be under way, stopped or finished."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from pathlib import Path

import numpy as np

from clients import snapshot
from clients.keyed import Keyed
from clients.snapshot import Sample, Snapshot
from server import checkpoint
from server.digest import Digest, Row, read_run

AFTER_ALL = 10**9
"""A round after every other."""
THIRDS = ("low", "middle", "high")
UNVISITED = "never trained on"
ABSENT = {"pause": "paused", "leave": "left"}


@dataclass(frozen=True)
class Holding:
    """One site's memory after its last round."""

    site: str
    folder: Path
    snapshot: Snapshot | None
    """None: the site's folder holds no state of this run, or none that can be read."""
    told: Row
    """The site's last "train" row; empty if it has not trained yet."""
    absent: str = ""
    """paused or left; empty: it is present, or has not come yet."""
    fault: str = ""
    """Why the state cannot be read."""

    @property
    def samples(self) -> tuple[Sample, ...]:
        """In the order of arrival."""
        return self.snapshot.samples if self.snapshot else ()

    @property
    def held(self) -> int | None:
        """How many samples; None: nothing is known yet."""
        return len(self.samples) if self.snapshot else self.told.get("memory")

    @property
    def classes(self) -> dict[str, int]:
        """{class: samples that show it}, most often held first."""
        return _ordered(self.told.get("memory_classes"), (name for sample in self.samples for name in sample.classes))

    @property
    def domains(self) -> dict[str, int]:
        """{scanner, protocol or site of origin: samples}, where the site declares them."""
        return _ordered(self.told.get("memory_domains"), (sample.domain for sample in self.samples if sample.domain))

    @property
    def arrived(self) -> list[int]:
        """Stream positions of the samples."""
        return [sample.arrived for sample in self.samples] if self.snapshot else list(self.told.get("memory_arrived") or ())

    @property
    def uncertainties(self) -> list[float]:
        """Of the samples that were trained on."""
        return [sample.uncertainty for sample in self.samples if isfinite(sample.uncertainty)]

    @cached_property
    def ids(self) -> dict[str, str]:
        """{case: the id by which the federation knows it}; empty where the site's secret is not here."""
        if not (self.folder / "secret").is_file():  # to ask for an id would write one
            return {}
        keyed = Keyed(self.folder)
        return {sample.case: keyed(sample.case) for sample in self.samples}


def read_holdings(run: Digest) -> list[Holding]:
    """Every site that the record or the run's folder knows, in order of arrival.

    Raises:
        ValueError: the sites hold states of several runs, and no checkpoint says which is this one.
    """
    places = {path.name: path for path in sorted((run.folder / "sites").glob("*")) if path.is_dir()}
    recorded = (*run.sites, *run.matrix.sites, *(row["site"] for row in run.trains))
    known = dict.fromkeys((*recorded, *places))
    told = {row["site"]: row for row in run.trains}
    moved = {row["site"]: ABSENT.get(row["event"], "") for row in sorted(run.moves, key=lambda row: row["round"])}
    id = _run_id(run.folder)
    holdings = []
    for site in known:
        folder = places.get(site, run.folder / "sites" / "nowhere")
        state, fault = _newest(folder / "state", id)
        holdings.append(Holding(site, folder, state, told.get(site, {}), moved.get(site, ""), fault))
    return holdings


def cuts(holdings: Iterable[Holding]) -> tuple[float, float]:
    """The uncertainties between low and middle, and middle and high: thirds of what the sites that are not gone hold."""
    every = [value for holding in holdings if holding.absent != "left" for value in holding.uncertainties]
    low, high = np.percentile(every, [100 / 3, 200 / 3]) if every else (np.nan, np.nan)
    return float(low), float(high)


def third(sample: Sample, cut: tuple[float, float]) -> str:
    """low, middle, high, or never trained on."""
    if not isfinite(sample.uncertainty):
        return UNVISITED
    return THIRDS[(sample.uncertainty > cut[0]) + (sample.uncertainty > cut[1])]


def by_uncertainty(samples: Sequence[Sample], cut: tuple[float, float]) -> dict[str, int]:
    """{low | middle | high | never trained on: samples}."""
    counts = Counter(third(sample, cut) for sample in samples)
    return {name: counts[name] for name in (*THIRDS, UNVISITED)}


def held_by_uncertainty(folder: Path) -> dict[str, dict[str, int]]:
    """{site: `by_uncertainty`} for the report: of the sites whose state is here and can be read, never an error."""
    try:
        holdings = read_holdings(read_run(folder))
    except (ValueError, OSError):
        return {}
    cut = cuts(holdings)
    return {holding.site: by_uncertainty(holding.samples, cut) for holding in holdings if holding.samples}


def _run_id(folder: Path) -> str | None:
    """The run that the sites' states belong to; only a run that was begun anew has left several."""
    found = sorted({place.name for place in folder.glob("sites/*/state/*") if place.is_dir()})
    if len(found) < 2:
        return found[0] if found else None
    federation = checkpoint.load(folder)
    if federation is None:
        raise ValueError(f"{folder}: the sites hold states of {len(found)} runs, and no checkpoint says which is this one")
    return federation.run


def _newest(place: Path, id: str | None) -> tuple[Snapshot | None, str]:
    """A site's last state, and why it cannot be read. A site at work may replace it at this moment: look twice."""
    fault = ""
    for _ in range(2):
        if id is None or not any((place / id).glob("[0-9]*")):
            return None, ""
        try:
            return snapshot.before(place, id, AFTER_ALL), ""
        except ValueError as error:
            fault = str(error)
    return None, fault


def _ordered(told: dict[str, int] | None, names: Iterable[str | None]) -> dict[str, int]:
    """Counts of what is held; without samples, what the site last told."""
    counts = Counter(names) or Counter(told or {})
    return {str(name): count for name, count in sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))}
