"""A site's state between rounds, on its own disk: one folder per (run, round), whole or absent.

An order for round r starts from the newest snapshot before r, whatever happened since: asked twice, a site does the
same work twice and gives the same reply.
"""

import json
import os
import re
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from memory import store
from memory.sample import Sample

TENSORS = {"moments": "optimizer", "home": "home", "objective": "objective", "residue": "residue"}
"""Groups of tensors and the names of their files."""


@dataclass(frozen=True)
class Snapshot:
    """What a site remembers of its rounds so far."""

    cursor: int = 0
    """How many cases of the stream have arrived."""
    served: int = 0
    """In how many rounds the site was present."""
    samples: tuple[Sample, ...] = ()
    moments: dict[str, NDArray] = field(default_factory=dict)
    """The optimizer's state by tensor name."""
    home: dict[str, NDArray] = field(default_factory=dict)
    """Tensors of the model that never leave the site."""
    objective: dict[str, NDArray] = field(default_factory=dict)
    """What the objective keeps from round to round."""
    residue: dict[str, NDArray] = field(default_factory=dict)
    """What compression rounded away from the last update."""
    micro: int = 0
    """Patches at a time, since memory ran out; 0: the whole batch."""


def before(folder: Path, run: str, round: int) -> Snapshot:
    """The state before a round; empty if the site has not yet taken part in this run.

    Raises:
        ValueError: that state is no longer kept, or cannot be read.
    """
    place = _place(folder, run)
    kept = _rounds(place)
    earlier = [number for number in kept if number < round]
    if earlier:
        return _read(place / _name(max(earlier)))
    if kept and _read(place / _name(min(kept))).served > 1:  # to begin anew would let the stream pass twice
        raise ValueError(f"the state before round {round} is no longer kept in {place} (the oldest: after round {min(kept)})")
    return Snapshot()


def commit(folder: Path, run: str, round: int, state: Snapshot, keep: int) -> None:
    """Write the state after a round, atomically; later rounds are undone, the oldest beyond `keep` + 1 dropped."""
    place = _place(folder, run)
    place.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=place))
    store.save(state.samples, draft)
    for group, name in TENSORS.items():
        tensors = {key: np.asarray(tensor, order="C") for key, tensor in getattr(state, group).items()}
        save_file(tensors, draft / f"{name}.safetensors")  # safetensors garbles what does not lie row by row (0.8)
    facts = {"cursor": state.cursor, "served": state.served, "micro": state.micro}
    (draft / "state.json").write_text(json.dumps(facts))
    _seal(draft)
    for number in _rounds(place):
        if number >= round:
            _undo(place / _name(number))
    os.replace(draft, place / _name(round))
    store.sync_folder(place)
    for number in sorted(_rounds(place))[: -(keep + 1)]:
        _undo(place / _name(number))
    for stale in place.glob(".draft-*"):
        shutil.rmtree(stale)


def _seal(draft: Path) -> None:
    """On disk, file by file, before it is there by name: the power may fail."""
    for path in draft.iterdir():
        with path.open("rb+") as file:
            os.fsync(file.fileno())
    store.sync_folder(draft)


def _place(folder: Path, run: str) -> Path:
    """The run's folder. Its id comes from the server, which must not choose where a site writes."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", run):
        raise ValueError(f"{run[:100]!r} is no run id: letters, digits, '-', '_' and '.', a letter or digit first")
    return folder / run


def _undo(snapshot: Path) -> None:
    """Out of the way in one step, so that a snapshot is never there in part; `commit` deletes it in the end."""
    os.replace(snapshot, Path(tempfile.mkdtemp(prefix=".draft-", dir=snapshot.parent)))


def _read(place: Path) -> Snapshot:
    try:
        facts = json.loads((place / "state.json").read_text())
        tensors = {group: load_file(place / f"{name}.safetensors") for group, name in TENSORS.items()}
        return Snapshot(facts["cursor"], facts["served"], tuple(store.load(place)), **tensors, micro=facts["micro"])
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ValueError(f"the snapshot {place} cannot be read ({error})") from None


def _rounds(place: Path) -> list[int]:
    return [int(path.name) for path in place.glob("[0-9]*") if path.is_dir()]


def _name(round: int) -> str:
    return f"{round:06d}"
