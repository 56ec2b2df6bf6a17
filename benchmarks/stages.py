"""Where a run was when it was hit, as its folder shows."""

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PHASES = {
    "train": "training",
    "evaluate": "evaluating",
    "merging": "merging",
    "saving": "saving",
    "idle": "between",
}
"""By the word for it in what the server waits for (waiting.json) and in what a site does (progress.json)."""


@dataclass(frozen=True)
class Where:
    """The last round that is safe, and what was going on after it."""

    round: int
    phase: str
    """start-up, training, evaluating, merging, saving, between (the record, say) or report."""


def where(folder: Path, since: float) -> Where:
    """What the life that began at `since` (seconds since the epoch) was doing."""
    safe = [int(path.name) for path in (folder / "checkpoints").glob("[0-9]*")]
    return Where(max(safe, default=0), _phase(folder, since))


def _phase(folder: Path, since: float) -> str:
    def fresh(pattern: str) -> list[Path]:
        return [path for path in folder.glob(pattern) if _changed(path) >= since]

    if fresh("summary.json"):
        return "report"
    if fresh("checkpoints/.draft-*") or fresh("sites/*/state/*/.draft-*"):
        return "saving"
    for path in (*fresh("waiting.json"), *fresh("sites/*/progress.json")):
        with suppress(OSError, ValueError):
            if phase := PHASES.get(json.loads(path.read_text())["task"]):
                return phase
    return "start-up"


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # gone meanwhile
        return 0.0
