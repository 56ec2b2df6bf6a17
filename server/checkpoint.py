"""The server's rounds on disk: one folder each, whole or absent. Nothing is pickled.

A checkpoint also vouches for the record: it holds the length and the checksum of what had been written, and is of use only
while the record still begins so.
"""

import json
from pathlib import Path

from safetensors import SafetensorError

import durable
from server.federation import Federation, from_facts
from server.record import FILE as RECORD
from server.record import prefix_sum
from server.tensors import read_tensors, write_tensors
from strategies.base import State, Weights

FOLDER = "checkpoints"
INDEX = "index"
"""The group of the uniqueness index's tensors: no slot of a merge is called so."""

Damaged = dict[int, str]
"""{round: why its checkpoint cannot be gone on from}, the newest first."""


def save(folder: Path, federation: Federation, keep: int) -> None:
    """Write the state after a round, atomically, and drop the oldest beyond `keep`; the record is on the disk before it.

    Raises:
        OSError: the disk is full, or fails; the checkpoints are as they were.
    """
    durable.sync_file(folder / RECORD)
    facts = federation.facts() | {"record_sum": prefix_sum(folder, federation.record)}
    place = folder / FOLDER
    with durable.drafted(place) as draft:
        write_tensors(_flat(federation.state, federation.index[1]), draft / "state.safetensors")
        (draft / "state.json").write_text(json.dumps(facts))
        durable.seal(draft)
        durable.place_folder(draft, place / f"{federation.round:06d}")
    for old in _rounds(place)[:-keep]:
        durable.put_away(old)
    durable.sweep(place)


def load(folder: Path) -> Federation | None:
    """What `newest` finds, whatever was passed over."""
    return newest(folder)[0]


def newest(folder: Path) -> tuple[Federation | None, Damaged]:
    """The newest checkpoint that is whole and fits the record, None if there is none yet; and those passed over.

    Where the record fits none, it is the record that is damaged: then the newest one that is whole, with what there is of it.

    Raises:
        ValueError: there are checkpoints, and none can be read: to begin anew silently would lose what was done.
        OSError: the disk fails, or this process may open no more files.
    """
    damaged: Damaged = {}
    whole: Federation | None = None
    for place in reversed(_rounds(folder / FOLDER)):
        try:
            federation, sum_then = _read(place)
            whole = whole or federation
            if prefix_sum(folder, federation.record) != sum_then:
                raise ValueError(
                    f"{RECORD} is not what it was when this was saved: its first {federation.record} bytes have changed"
                )
            return federation, damaged
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            if not durable.is_damage(error):
                raise
            why = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
            damaged[int(place.name)] = f"{FOLDER}/{place.name}: {why}"
    if damaged and not whole:
        first = next(iter(damaged.values()))
        raise ValueError(
            f"no checkpoint in {folder / FOLDER} can be read ({first}); put a copy of it back, or begin another run"
        )
    return whole, damaged


def _read(place: Path) -> tuple[Federation, str]:
    """A checkpoint that is whole, and the checksum of the record up to there."""
    durable.check(place)
    facts = json.loads((place / "state.json").read_text())
    return from_facts(facts, *_state(read_tensors(place / "state.safetensors"), facts["step"])), facts["record_sum"]


def _rounds(place: Path) -> list[Path]:
    return sorted(path for path in place.glob("[0-9]*") if path.name.isdigit() and path.is_dir())


def _flat(state: State, index: Weights) -> Weights:
    """`weights|name`, `slot|name` and `index|name`, in one file."""
    groups = {"weights": state.weights, INDEX: index, **state.slots}
    return {f"{group}|{name}": tensor for group, tensors in groups.items() for name, tensor in tensors.items()}


def _state(flat: Weights, step: int) -> tuple[State, Weights]:
    groups: dict[str, Weights] = {"weights": {}, INDEX: {}}
    for key, tensor in flat.items():
        group, _, name = key.partition("|")
        groups.setdefault(group, {})[name] = tensor
    index = groups.pop(INDEX)
    return State(groups.pop("weights"), groups, step), index
