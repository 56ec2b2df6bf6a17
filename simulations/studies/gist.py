"""What a study's page takes from one finished run beside its metrics and R: its memories, classes, cases and rounds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from server.classes import class_dice
from server.digest import Digest, read_run
from server.diversity import Mixture, mixtures, most_held
from server.metrics import mean

CaseKey = tuple[str, str, str]
"""(site, id of a test case, class)."""


@dataclass(frozen=True)
class Gist:
    """One run, read once."""

    mixtures: Sequence[Mixture]
    """What the memories hold after each stage."""
    held: float | None
    """Samples held at once at most, all sites together; None: no memory was told of."""
    worth: float | None
    """What the samples held at the end are worth, uniqueness summed; None without an index."""
    classes: Mapping[str, float]
    """{class: Dice at the end, a mean over the sites that annotate it}."""
    cases: Mapping[CaseKey, float]
    """Dice at the end, of the classes that a case's label has."""
    present: Mapping[str, Sequence[int]]
    """{site: the rounds in which it took part}, in order of arrival; an extra client is no site."""


def read_gist(folder: Path) -> Gist:
    """Read a run's folder. Raises ValueError if it is none."""
    run = read_run(folder)
    classes = {name: mean(cell.value for cell in there.values()).value for name, there in class_dice(run.last_results).items()}
    known = [row for row in run.last_cases if row["dice"] is not None]
    cases = {(row["site"], str(row["case"]), row["class"]): float(row["dice"]) for row in known}
    there = {site: rounds for site, rounds in run.present.items() if not run.sites.get(site, {}).get("extra")}
    return Gist(mixtures(run), most_held(run), _worth(run), classes, cases, there)


def _worth(run: Digest) -> float | None:
    return sum((run.indexes[-1].get("effective") or {}).values()) if run.indexes else None
