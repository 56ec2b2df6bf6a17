"""The report's section on what went wrong: what the run survived, what it went on without, what was changed on the way."""

from collections.abc import Iterable, Sequence

from server.digest import Digest, Row
from server.page import section, table, text

LONGEST = 60
"""Lines of a table; the others are counted."""
KEYS = ("site", "task", "kind", "reason")


def went_wrong(run: Digest) -> str:
    """Failures, faults that were made up for, and changes of the recipe; nothing where all went well."""
    parts = [
        _part("Lost", "The run went on without these replies.", run.failures),
        _part("Made up for", "The round has the update of each of these sites all the same.", run.faults),
        _changes(run.changes),
    ]
    body = "".join(parts)
    return section("What went wrong", body) if body else ""


def _part(title: str, about: str, rows: Sequence[Row]) -> str:
    """A table with a line for each site and cause, and the rounds in which it struck."""
    if not rows:
        return ""
    struck: dict[tuple[str, ...], list[int]] = {}
    for row in rows:
        struck.setdefault(tuple(str(row.get(key, "")) for key in KEYS), []).append(int(row.get("round") or 0))
    lines = [[text(spans(rounds)), str(len(rounds)), *map(text, cause)] for cause, rounds in struck.items()]
    rest = (
        f'<p class="soft">And {len(lines) - LONGEST} more lines; record.jsonl has them all.</p>' if len(lines) > LONGEST else ""
    )
    shown = table(["rounds", "times", *KEYS], lines[:LONGEST], (1,))
    return f"<h3>{title}: {len(rows)}</h3><p>{about}</p>{shown}{rest}"


def _changes(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    keys = ("round", "key", "before", "after")
    lines = [[text(row.get(key, "")) for key in keys] for row in rows]
    return f"<h3>Changed on the way</h3><p>After the round, the recipe is another.</p>{table(keys, lines)}"


def spans(rounds: Iterable[int]) -> str:
    """Rounds as a person writes them.

    >>> spans([1, 5, 2, 3, 7, 7])
    '1-3, 5, 7'
    """
    runs: list[list[int]] = []
    for number in sorted({*rounds}):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
