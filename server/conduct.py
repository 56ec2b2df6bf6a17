"""A run from its folder: begin or take up again, go through the rounds, leave the results."""

import json
import logging
import platform
import resource
import time
import uuid
from collections.abc import Iterable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from configs.card import METADATA as METADATA
from configs.card import model_card
from configs.schema import Run
from durable import write_whole
from server import checkpoint
from server.alone import alone
from server.arrivals import make_schedule
from server.changes import Change, Recipe, accepted, recipe_of
from server.classes import class_dice, to_csv
from server.entrance import Entrance, Open
from server.exports import Exports, exports_of
from server.federation import Federation
from server.loop import CannotContinue, CaseRows, Loop
from server.metrics import Measured, final_metrics
from server.record import FILE as RECORD
from server.record import Record
from server.remembered import Remembered
from server.secret import secret_of
from server.sites import Sites
from server.strategy import strategy_of
from server.tensors import read_tensors, write_tensors
from strategies.base import Weights

LOG = logging.getLogger("sitestream")
MODEL, SUMMARY = "model.safetensors", "summary.json"
"""What a finished run leaves, in this order."""
PACKAGES = ("torch", "monai", "flwr", "ray", "numpy")


def conduct(
    sites: Sites,
    run: Run,
    folder: Path,
    allow: Iterable[str] = (),
    asked: Run | None = None,
    entrance: Entrance | None = None,
) -> dict[str, Measured]:
    """Run, or go on with, what `folder` holds; returns the metrics by id.

    Args:
        sites: whom to ask.
        run: what the server and its sites read.
        folder: of this run alone.
        allow: keys that may differ from the recipe with which the run began (server.changes).
        asked: the run in the words of the person who asked for it, where `run` was made from that; none: `run` itself.
        entrance: who waits for sites and turns some away; none: they are all there.

    Raises:
        server.loop.CannotContinue: a round could not be done, whatever the cause; what came before it is saved.
        ValueError: nothing was done: initial weights cannot be read or do not fit, the recipe has changed, or another process
            conducts this run.
    """
    with alone(folder):
        return _conduct(sites, run, folder, allow, asked or run, entrance or Open())


def _conduct(sites: Sites, run: Run, folder: Path, allow: Iterable[str], asked: Run, entrance: Entrance) -> dict[str, Measured]:
    began = time.perf_counter()
    record = Record(folder)
    try:
        found, damaged = checkpoint.newest(folder)
        changes = accepted(found, asked, allow) if found else []
        (folder / SUMMARY).unlink(missing_ok=True)
        federation = found or _begin(run, record, recipe_of(asked))
        record.cut(federation.record)
        _tell(damaged, record)
        if changes:
            federation = _changed(federation, changes, asked, folder, record)
        schedule = make_schedule(run.arrivals, list(run.sites))
        strategy = strategy_of(run, secret_of(folder) if run.strategy.privacy else b"")
        remembered = Remembered(run.index, run.memory, run.sketch.size)
        if federation.index[0]:
            remembered.restore(*federation.index)
        loop = Loop(run, folder, sites, schedule, strategy, record, remembered, _given_weights(run), began, entrance)
        with exports_of(asked, folder, federation.run) as exports:
            return _go_through(loop, federation, exports)
    finally:
        record.close()


def _go_through(loop: Loop, federation: Federation, exports: Exports) -> dict[str, Measured]:
    try:
        federation, rows = loop(federation)
        federation = federation.spend("total", time.perf_counter() - loop.clock)
        return _leave_results(federation, rows, loop.run, loop.folder, loop.record, exports)
    except ValueError as error:
        if not (loop.folder / checkpoint.FOLDER).exists():  # the start found fault with what was asked
            raise
        raise CannotContinue(f"the run stopped: {type(error).__name__}: {error}") from error


def _tell(damaged: checkpoint.Damaged, record: Record) -> None:
    """What is wrong with which checkpoints, or with the record that they vouch for."""
    for round, reason in damaged.items():
        LOG.warning("%s", reason)
        record.append("fault", site="", round=round, task="resume", kind="damaged", reason=reason)


def _changed(federation: Federation, changes: Iterable[Change], asked: Run, folder: Path, record: Record) -> Federation:
    """From here on it is another recipe: said in the record, and saved before anything is done by it."""
    for change in changes:
        record.append("changed", **change._asdict(), round=federation.round)
    federation = replace(federation, recipe=recipe_of(asked), record=record.length)
    checkpoint.save(folder, federation, asked.keep)
    return federation


def _begin(run: Run, record: Record, recipe: Recipe) -> Federation:
    if record.holds("round"):  # rounds were done: to begin anew would wipe them out without a word
        place = record.folder / checkpoint.FOLDER
        raise ValueError(f"{place} has no checkpoint, and {RECORD} has rounds; put it back, or begin another run")
    record.cut(0)
    choices, memory = run.strategy.model_dump(), run.memory
    record.append(
        "run",
        name=run.name,
        seed=run.seed,
        paradigm=run.paradigm,
        strategy=choices,
        memory={"policy": memory.policy, "args": memory.args, "budget": memory.budget},
        versions=versions(),
    )
    return Federation(run=uuid.uuid4().hex[:12], record=record.length, recipe=recipe)


def _given_weights(run: Run) -> tuple[Weights, tuple[str, ...]]:
    """Initial weights from a file, with its classes by row."""
    path = run.model.weights
    if path is None:
        return {}, ()
    try:
        with safe_open(path, framework="np") as file:
            classes = json.loads((file.metadata() or {})[METADATA])["classes"]
        return read_tensors(path), tuple(classes)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"model.weights: {path} is no model of ours ({error})") from None


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _leave_results(
    federation: Federation, rows: CaseRows, run: Run, folder: Path, record: Record, exports: Exports
) -> dict[str, Measured]:
    streamed = sum(federation.known[site].cases for site in federation.arrived)
    held = sum(count for site, count in federation.held.items() if site not in federation.left)  # who leaves takes it along
    retained = held / streamed if streamed else 0.0
    annotated = {site: known.classes for site, known in federation.known.items()}
    metrics = final_metrics(federation.results, rows, retained, annotated)
    by_class = to_csv(class_dice(rows), federation.classes, federation.results.sites)
    write_whole(folder / "classes.csv", lambda draft: draft.write_text(by_class))
    for name, measured in metrics.items():
        record.append("metric", id=name, value=measured.value, cells=measured.cells)
    seconds = {f"seconds_{phase}": spent for phase, spent in federation.seconds.items() if phase != "total"}
    record.append("end", seconds=federation.seconds["total"], **seconds)
    save_model(federation, run, folder / MODEL)
    exports.close("finished")  # before the run is: a killed one begins them anew
    summary: dict[str, Any] = {name: _or_null(measured.value) for name, measured in metrics.items()}
    summary["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    summary |= {"seed": run.seed, "versions": versions(), "seconds": federation.seconds}
    write_whole(folder / SUMMARY, lambda draft: draft.write_text(json.dumps(summary, indent=1) + "\n"))
    return metrics


def is_finished(folder: Path) -> bool:
    """Whether the run in a folder has done all that it was asked for: its record is closed, its results are there and whole."""
    try:
        last = (folder / RECORD).read_bytes().splitlines()[-1]
        summary = json.loads((folder / SUMMARY).read_text())
        with safe_open(folder / MODEL, framework="np") as model:
            return bool(model.keys()) and bool(summary) and json.loads(last)["event"] == "end"
    except (OSError, SafetensorError, ValueError, LookupError, TypeError):
        return False


def save_model(federation: Federation, run: Run, path: Path) -> None:
    """The model, with everything that predicting needs: network, pre-processing, window, classes by row."""
    weights, roles = federation.state.weights, federation.roles
    rows = next((len(tensor) for name, tensor in weights.items() if roles.get(name) == "head"), None)
    card = model_card(run, federation.classes[:rows])  # a class that nobody has trained yet has no row
    write_whole(path, lambda draft: write_tensors(weights, draft, card))


def _or_null(value: float) -> float | None:
    return value if value == value else None
