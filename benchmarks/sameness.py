"""Whether two runs came to the same: model, results, memories and record, byte by byte where bytes are what counts."""

import hashlib
import json
from pathlib import Path
from typing import Any

FILES = ("model.safetensors", "R.csv", "classes.csv")
"""Results whose bytes must be the same."""
CLOCK = ("seconds", "saving", "peak")
"""How names of facts begin that tell of the machine and the clock."""
NEWS = ("fault", "changed")
"""Events that tell people what happened on the way; no result depends on them."""


def differences(run: Path, reference: Path) -> list[str]:
    """What is not the same in two finished runs' folders, one line each; none: they are one and the same run."""
    found = [f"{name} differs" for name in FILES if _bytes(run / name) != _bytes(reference / name)]
    sites = sorted({path.name for folder in (run, reference) for path in (folder / "sites").iterdir()})
    for site in sites:
        ours, theirs = memory(run / "sites" / site), memory(reference / "sites" / site)
        unlike = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
        found += [f"the last snapshot of site {site} differs in {name}" for name in unlike]
    found += torn(run / "record.jsonl")
    return found + ([] if found else _unlike_rows(rows(run), rows(reference)))


def memory(site: Path) -> dict[str, str]:
    """{file: checksum} of a site's newest snapshot; the folder above it bears the run's id, which is random."""
    snapshots = [path for path in (site / "state").glob("*/[0-9]*") if path.is_dir()]
    newest = max(snapshots, key=lambda path: (path.parent.stat().st_mtime_ns, path.name), default=None)
    if newest is None:
        return {}
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(newest.iterdir())}


def torn(record: Path) -> list[str]:
    """Half lines of a record, and lines that are no JSON."""
    text = record.read_bytes()
    found = [] if text.endswith(b"\n") else ["the record ends in half a line"]
    for number, line in enumerate(text.splitlines(), 1):
        try:
            json.loads(line)
        except ValueError:
            found.append(f"line {number} of the record is no JSON: {line[:60]!r}")
    return found


def rows(folder: Path) -> list[Any]:
    """The record and the summary without the clock's facts and without news."""
    lines = [json.loads(line) for line in (folder / "record.jsonl").read_text().splitlines()]
    summary = json.loads((folder / "summary.json").read_text())
    return [_timeless(row) for row in (*lines, summary) if row.get("event") not in NEWS]


def _unlike_rows(ours: list[Any], theirs: list[Any]) -> list[str]:
    """The first row in which two records differ: rows that are doubled, missing or in another order show here too."""
    for number, (one, other) in enumerate(zip(ours, theirs, strict=False), 1):
        if one != other:
            keys = sorted(key for key in {*one, *other} if one.get(key) != other.get(key))
            return [f"row {number} of the record ({one.get('event', 'summary')}) differs in {', '.join(keys)}"]
    return [] if len(ours) == len(theirs) else [f"the record has {len(ours)} rows instead of {len(theirs)}"]


def _timeless(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _timeless(value) for key, value in tree.items() if not key.startswith(CLOCK)}
    return [_timeless(item) for item in tree] if isinstance(tree, list) else tree


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None
