"""The server's rounds on disk: one folder each, whole or absent. Nothing is pickled."""

import json
import shutil
import tempfile
from pathlib import Path

from safetensors import SafetensorError

from server.durable import place_folder
from server.federation import Federation, from_facts
from server.tensors import read_tensors, write_tensors
from strategies.base import State, Weights

INDEX = "index"
"""The group of the uniqueness index's tensors: no slot of a merge is called so."""


def save(folder: Path, federation: Federation, keep: int) -> None:
    """Write the state after a round, atomically, and drop the oldest beyond `keep`."""
    place = folder / "checkpoints"
    place.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=place))
    write_tensors(_flat(federation.state, federation.index[1]), draft / "state.safetensors")
    (draft / "state.json").write_text(json.dumps(federation.facts()))
    place_folder(draft, place / f"{federation.round:06d}")
    for old in (*_rounds(place)[:-keep], *place.glob(".draft-*")):  # drafts are left behind by a process that was killed
        shutil.rmtree(old)


def load(folder: Path) -> Federation | None:
    """The newest checkpoint that can be read; None if there is none yet.

    Raises:
        ValueError: there are checkpoints, and none can be read: to begin anew silently would lose what was done.
    """
    places = _rounds(folder / "checkpoints")
    for place in reversed(places):
        try:
            facts = json.loads((place / "state.json").read_text())
            return from_facts(facts, *_state(read_tensors(place / "state.safetensors"), facts["step"]))
        except (OSError, ValueError, KeyError, SafetensorError):
            continue  # torn: the one before it is whole
    if places:
        raise ValueError(f"no checkpoint in {folder / 'checkpoints'} can be read; delete that folder to begin anew")
    return None


def _rounds(place: Path) -> list[Path]:
    return sorted(path for path in place.glob("[0-9]*") if path.is_dir())


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
