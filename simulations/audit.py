"""What came to a site and what left it, from its ledger: for whoever at a hospital has to answer for that."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from clients.ledger import FILE, read_ledger

Entry = dict[str, Any]
DIRECTIONS = {"in": "came", "out": "left"}


def audit(folder: Path, round: int | None, as_json: bool, console: Console) -> list[str]:
    """Print the ledger of a site's folder, or of every site below a run's; which of them are not whole, in words.

    Raises:
        ValueError: there is no ledger in the folder or below it.
    """
    paths = sorted(folder.rglob(FILE)) if folder.is_dir() else []
    if not paths:
        raise ValueError(f"{folder}: holds no {FILE}, nor does any folder below it: name a site's folder, or a run's")
    told = [_told(path, round) for path in paths]
    if as_json:
        console.print_json(json.dumps({"ledgers": told}))
    else:
        for ledger in told:
            _print(ledger, console)
    return [f"{ledger['folder']}: {ledger['broken']}" for ledger in told if ledger["broken"]]


def _told(path: Path, round: int | None) -> Entry:
    """A ledger as plain data: its messages (of one round, if one is asked for), totals, and whether the chain is whole."""
    entries, last, broken = read_ledger(path)
    shown = [entry for entry in entries if round is None or entry["round"] == round]
    totals = {
        word: {"messages": len(there), "bytes": sum(entry["bytes"] for entry in there), "fields": _by_field(there)}
        for direction, word in DIRECTIONS.items()
        for there in [[entry for entry in shown if entry["direction"] == direction]]
    }
    withheld = [part for entry in shown for part in _parts(entry)]
    return {
        "folder": str(path.parent),
        "site": entries[-1]["site"] if entries else "",
        "lines": len(entries),
        "last": last,
        "broken": broken,
        "messages": [{name: fact for name, fact in entry.items() if name != "before"} for entry in shown],
        "totals": totals,
        "withheld": {part: withheld.count(part) for part in dict.fromkeys(withheld)},
    }


def _by_field(entries: Iterable[Entry]) -> dict[str, int]:
    """{field: bytes in all}, the heaviest first."""
    sums: dict[str, int] = {}
    for name, field in ((name, field) for entry in entries for name, field in entry["fields"].items()):
        sums[name] = sums.get(name, 0) + field["bytes"]
    return dict(sorted(sums.items(), key=lambda item: (-item[1], item[0])))


def _parts(entry: Mapping[str, Any]) -> list[str]:
    return [str(part) for part in entry.get("withheld") or []]


# For people -----------------------------------------------------------------------------------------------------------


def _print(ledger: Entry, console: Console) -> None:
    def say(line: str, style: str = "") -> None:
        console.print(line, style=style, markup=False, highlight=False)

    say(f"{ledger['site']} ({ledger['folder']})", "bold")
    run = ""
    for entry in ledger["messages"]:
        if entry["run"] != run:
            run = entry["run"]
            say(f"  run {run}")
        say(_line(entry))
    for word, total in ledger["totals"].items():
        fields = ", ".join(f"{name} {count:,}" for name, count in total["fields"].items())
        say(f"  {word} in all: {total['messages']} messages, {total['bytes']:,} bytes ({fields or 'nothing'})")
    if ledger["withheld"]:
        told = ", ".join(f"{part} ({count} times)" for part, count in ledger["withheld"].items())
        say(f"  withheld by the site's policy: {told}")
    whole = f"the chain is whole: {ledger['lines']} lines, the last is {ledger['last']}"
    say(
        f"  THE CHAIN IS NOT WHOLE: {ledger['broken']}" if ledger["broken"] else f"  {whole}", "red" if ledger["broken"] else ""
    )


def _line(entry: Mapping[str, Any]) -> str:
    """A message on a line: when, what, how much, and its fields with their shapes and bytes."""
    direction = DIRECTIONS.get(entry["direction"], entry["direction"])
    fields = "; ".join(_field(name, field) for name, field in entry["fields"].items() if name not in ENVELOPE)
    withheld = f"; withheld: {', '.join(_parts(entry))}" if _parts(entry) else ""
    head = f"  {entry['time'][:19]}Z  round {entry['round']:>3}  {entry['task']:<8}  {direction}  {entry['bytes']:>12,} bytes"
    return f"{head}  {fields or 'nothing but the envelope'}{withheld}"


ENVELOPE = ("run", "round", "task", "site")


def _field(name: str, field: Mapping[str, Any]) -> str:
    shape = field.get("shape")
    said = [
        f"{field.get('dtype')} {shape}" if shape else "",
        f"{field.get('entries')} tensors, {field.get('numbers', 0):,} numbers" if field.get("kind") == "tensors" else "",
        f"{field.get('entries')} rows of {', '.join(map(str, field.get('keys') or []))}" if field.get("kind") == "rows" else "",
    ]
    told = ", ".join([*filter(None, said), f"{field['bytes']:,} bytes"])
    return f"{name} ({told})"
