"""A site's state between rounds, on its own disk: one folder per (run, round), whole or absent.

An order for round r starts from the newest snapshot before r, whatever happened since: asked twice, a site does the
same work twice and gives the same reply.
"""

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

import durable
from memory import store
from memory.sample import Sample

LOG = logging.getLogger("sitestream")
TENSORS = {"moments": "optimizer", "home": "home", "objective": "objective", "residue": "residue"}
"""Groups of tensors and the names of their files."""
FACTS = ("cursor", "served", "micro", "cases")
"""What lies in state.json."""


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
    cases: str = ""
    """The fingerprint of the site's cases (clients/data.py); empty before its first round."""
    restored: int | None = None
    """The round after which this was the state, if a newer snapshot was passed over because it is damaged; never stored."""


def before(folder: Path, run: str, round: int) -> Snapshot:
    """The state before a round: the newest that is whole; empty if the site has not yet taken part in this run.

    Raises:
        ValueError: that state is no longer kept, or none that is kept can be read.
        OSError: this process may open no more files.
    """
    place = _place(folder, run)
    kept = _rounds(place)
    earlier = [number for number in kept if number < round]
    if earlier:
        return _newest_whole(place, earlier)
    if kept and _read(place / _name(kept[0])).served > 1:  # to begin anew would let the stream pass twice
        raise ValueError(f"the state before round {round} is no longer kept in {place} (the oldest: after round {kept[0]})")
    return Snapshot()


def commit(folder: Path, run: str, round: int, state: Snapshot, keep: int) -> None:
    """Write the state after a round, atomically; later rounds are undone, the oldest beyond `keep` + 1 dropped.

    Raises:
        OSError: the disk is full, or fails; the state is as it was.
    """
    place = _place(folder, run)
    with durable.drafted(place) as draft:
        _write(state, draft)
        durable.seal(draft)
        for number in _rounds(place):
            if number >= round:
                durable.put_away(place / _name(number))
        durable.place_folder(draft, place / _name(round))
    for number in _rounds(place)[: -(keep + 1)]:
        durable.put_away(place / _name(number))
    durable.sweep(place)


def _place(folder: Path, run: str) -> Path:
    """The run's folder. Its id comes from the server, which must not choose where a site writes."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", run):
        raise ValueError(f"{run[:100]!r} is no run id: letters, digits, '-', '_' and '.', a letter or digit first")
    return folder / run


def _newest_whole(place: Path, rounds: Sequence[int]) -> Snapshot:
    damage = ""
    for number in reversed(rounds):
        try:
            state = _read(place / _name(number))
        except ValueError as error:
            damage = damage or str(error)
            continue
        if damage:
            LOG.warning("%s; the state after round %d is used", damage, number)
            state = replace(state, restored=number)
        return state
    raise ValueError(f"{damage}, and no older one is whole")


def _write(state: Snapshot, draft: Path) -> None:
    store.save(state.samples, draft)
    for group, name in TENSORS.items():
        tensors = {key: np.asarray(tensor, order="C") for key, tensor in getattr(state, group).items()}
        if tensors:  # a file that is not there costs no wait for the disk; the seal says which ones there are
            save_file(tensors, draft / f"{name}.safetensors")  # safetensors garbles what does not lie row by row (0.8)
    (draft / "state.json").write_text(json.dumps({key: getattr(state, key) for key in FACTS}))


def _read(place: Path) -> Snapshot:
    try:
        durable.check(place)
        facts = json.loads((place / "state.json").read_text())
        files = {group: place / f"{name}.safetensors" for group, name in TENSORS.items()}
        tensors: dict[str, Any] = {group: load_file(file) for group, file in files.items() if file.exists()}
        return Snapshot(samples=tuple(store.load(place)), **tensors, **{key: facts[key] for key in FACTS})
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        if not durable.is_damage(error):
            raise
        raise ValueError(f"the snapshot {place} cannot be read ({error})") from None


def _rounds(place: Path) -> list[int]:
    return sorted(int(path.name) for path in place.glob("[0-9]*") if path.name.isdigit() and path.is_dir())


def _name(round: int) -> str:
    return f"{round:06d}"
