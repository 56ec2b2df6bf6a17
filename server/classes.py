"""Which site is how good at which class: what the mean over a site's classes hides."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from server.metrics import Measured
from server.sums import over_cases, sums_of_sites

ClassDice = dict[str, dict[str, Measured]]
"""{class: {site that annotates it: its Dice there}}."""


def class_dice(rows: Iterable[Mapping[str, Any]]) -> ClassDice:
    """Each class's mean Dice at every site that annotates it, over the cases whose label has the class.

    `rows` are the "case" and "class" rows of one stage; a class whose site has no such case is there, as nan over 0 cases.
    Classes and sites stand in the order in which the rows bring them.
    """
    found: ClassDice = {}
    for row in sums_of_sites(rows):
        found.setdefault(row["class"], {})[row["site"]] = Measured(*over_cases([row]))
    return found


def to_csv(table: ClassDice, classes: Sequence[str], sites: Sequence[str]) -> str:
    """The table as text: `class,<site>,...`, 6 decimals; nothing where a site does not annotate the class.

    A class that some site annotates and no label has is nan there.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["class", *sites])
    for name in (name for name in classes if name in table):
        writer.writerow([name, *(f"{table[name][site].value:.6f}" if site in table[name] else "" for site in sites)])
    return text.getvalue()


def from_csv(text: str) -> dict[str, dict[str, float]]:
    """{class: {site that annotates it: Dice}} from the text of `to_csv`. Raises ValueError if it is no such text."""
    rows = [row for row in csv.reader(io.StringIO(text)) if row]
    if not rows or rows[0][:1] != ["class"] or any(len(row) != len(rows[0]) for row in rows):
        raise ValueError("no table of classes: the first line should be `class,<site>,<site>,...`")
    return {row[0]: {site: float(cell) for site, cell in zip(rows[0][1:], row[1:], strict=True) if cell} for row in rows[1:]}
