"""The end of a run on the terminal: which site is how good at which class."""

from math import nan
from pathlib import Path

from rich.table import Table
from rich.text import Text

from server.classes import from_csv
from server.metrics import mean
from simulations.watch import plain

ClassTable = dict[str, dict[str, float]]
"""{class: {site that annotates it: Dice}}."""


def read_classes(folder: Path) -> ClassTable:
    """What a finished run's classes.csv says; nothing if there is none yet, or none that can be read."""
    try:
        return from_csv((folder / "classes.csv").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def class_lines(table: ClassTable) -> list[str]:
    """One line per class, for logs and pipes."""
    return [
        f"{name}: Dice " + ", ".join(f"{site} {_shown(dice)}" for site, dice in [*there.items(), ("mean", _mean(there))])
        for name, there in table.items()
    ]


def class_table(table: ClassTable, width: int) -> Table | Text:
    """Classes as rows and sites as columns, empty where a site does not annotate the class; as lines if that is too wide."""
    sites = list(dict.fromkeys(site for there in table.values() for site in there))
    needed = max(map(len, table)) + sum(2 + max(5, len(plain(site))) for site in (*sites, "mean"))
    if needed > width:
        return Text("\n".join(map(plain, class_lines(table))))
    shown = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    shown.add_column("Dice")
    for site in (*sites, "mean"):
        shown.add_column(Text(plain(site)), justify="right")
    for name, there in table.items():
        cells = ["" if site not in there else _shown(there[site]) for site in sites]
        shown.add_row(*map(Text, (plain(name), *cells, _shown(_mean(there)))))
    return shown


def _mean(there: dict[str, float]) -> float:
    return mean(there.values()).value if there else nan


def _shown(dice: float) -> str:
    return "-" if dice != dice else f"{dice:.3f}"
