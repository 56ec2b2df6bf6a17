"""A run's folder: where it lies, whether it is taken, and how its configs come into it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain, count
from pathlib import Path

from configs.load import dump_run
from configs.schema import Run
from durable import write_whole
from server.alone import Busy, alone

ASKED_FILE, SITES_FILE = "config.yaml", "simulated.yaml"
"""The run as people asked for it, and what was made of it for the simulated sites and their server."""


def write_run(path: Path, run: Run) -> None:
    """A run as YAML, on the disk whole or not at all."""
    write_whole(path, lambda draft: draft.write_text(dump_run(run), encoding="utf-8"))


def config_of(folder: Path) -> Path:
    """The config of the run in a folder. Raises ValueError if there is no run."""
    path = folder / ASKED_FILE
    if not path.is_file():
        raise ValueError(f"{folder} holds no run (it has no {ASKED_FILE})")
    return path


def is_taken(folder: Path) -> bool:
    """Whether there is a run; what else lies there counts for nothing."""
    return any((folder / name).exists() for name in (ASKED_FILE, "checkpoints"))


@contextmanager
def free_folder(wanted: Path) -> Iterator[Path]:
    """runs/<name>, or the first of runs/<name>-2, -3 ... that is free; in the block no other process takes it."""
    for folder in chain([wanted], (wanted.with_name(f"{wanted.name}-{number}") for number in count(2))):
        with ExitStack() as ours:
            if not is_taken(folder) and _is_ours(folder, ours) and not is_taken(folder):  # taken just before it was ours
                yield folder
                return


def _is_ours(folder: Path, until: ExitStack) -> bool:
    try:
        until.enter_context(alone(folder))
    except Busy:
        return False
    return True


def with_absolute_paths(run: Run) -> Run:
    """So that a run's folder can be resumed from anywhere."""

    def absolute(path: Path | None) -> Path | None:
        return None if path is None else path.expanduser().absolute()

    sites = {name: site.model_copy(update={"root": absolute(site.root)}) for name, site in run.sites.items()}
    data = run.data.model_copy(update={"root": absolute(run.data.root)})
    model = run.model.model_copy(update={"weights": absolute(run.model.weights)})
    return run.model_copy(update={"sites": sites, "data": data, "model": model})
