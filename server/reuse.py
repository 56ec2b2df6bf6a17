"""Results of a model that was evaluated already: they are copied, not asked for again.

A model is the same where nothing was merged since the last evaluation: nobody trains, the updates were too few or refused, or
the round had no draws. All that this rests on is in the record, so a run that was killed copies what it would have copied.
"""

import json
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any

import numpy as np

from server.record import FILE, Record
from strategies.base import Weights

CaseRows = list[dict[str, Any]]
OF_THE_STAGE = ("event", "stage", "site")
"""What the record adds to a site's row."""


def fingerprint(weights: Weights, classes: Iterable[str]) -> str:
    """16 hexadecimal digits: other weights or another label space, other digits."""
    found = sha256(repr(list(classes)).encode())
    for name, tensor in sorted(weights.items()):
        found.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
        found.update(np.ascontiguousarray(tensor).data)
    return found.hexdigest()[:16]


def told_before(record: Record, model: str, sites: Iterable[str]) -> tuple[str, Mapping[str, CaseRows]]:
    """The last evaluation's stage, and the rows of those of the sites that took part in it; none if it was of another model.

    Nor where the recipe was changed on purpose since then: it may say how results are measured.
    """
    lines = (record.folder / FILE).read_bytes().splitlines()
    found: dict[str, CaseRows] = {}
    last: dict[str, Any] = {}
    for line in reversed(lines):
        if not last and line.startswith(b'{"event": "changed"'):
            break
        if not line.startswith((b'{"event": "result"', b'{"event": "case"', b'{"event": "class"')):
            continue
        row = json.loads(line)
        last = last or row
        if row["stage"] != last["stage"] or last.get("model") != model:
            break
        if row["event"] == "result":
            found[row["site"]] = []
        elif row["site"] in found:
            found[row["site"]].append({key: value for key, value in row.items() if key not in OF_THE_STAGE})
    return str(last.get("stage", "")), {site: found[site][::-1] for site in sites if site in found}
