"""That a site has left a run for good, on its own disk: what the hospital decided holds whatever the server asks for later."""

import json
from math import inf
from pathlib import Path

from durable import is_damage, write_whole

FILE = "left.json"
"""{run: the round after which the site left it}."""


def note_left(folder: Path, run: str, round: int) -> None:
    """The server has let the site go after this round."""
    _write(folder, _read(folder) | {run: round})


def note_back(folder: Path, run: str) -> None:
    """The hospital has thought better of it."""
    if run in (rounds := _read(folder)):
        _write(folder, {other: round for other, round in rounds.items() if other != run})


def left_after(folder: Path, run: str) -> float:
    """The round after which the site left the run; infinity if it has not."""
    return _read(folder).get(run, inf)


def _write(folder: Path, rounds: dict[str, int]) -> None:
    write_whole(folder / FILE, lambda draft: draft.write_text(json.dumps(rounds)))


def _read(folder: Path) -> dict[str, int]:
    try:
        return dict(json.loads((folder / FILE).read_text()))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        if not is_damage(error):
            raise
        raise ValueError(f"{folder / FILE} cannot be read ({error}); delete it if the site has left no run") from None
