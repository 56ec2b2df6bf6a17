"""The Flower ServerApp: the same under Ray and on a SuperLink.

The run config names the recipe (`config`), the run's folder (`folder`) and, for a run that goes on with another recipe on
purpose, the keys that may differ (`allow`: dotted, separated by spaces). A simulation also names what its recipe was made
from (`asked`), and says that its grid keeps deadlines by itself (`grid-waits`).
"""

import os

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flwr.app import Context, RecordDict
from flwr.serverapp import Grid, ServerApp

from configs.bundle import recipe_path
from configs.load import dump_run, load_run
from configs.schema import Run
from durable import write_whole
from server import checkpoint
from server.alone import Busy, alone
from server.arrivals import make_schedule
from server.changes import what_changed
from server.conduct import conduct, is_finished
from server.entrance import POLL_S, Gate
from server.pins import Pins
from server.sites import GridSites

app = ServerApp()
LOG = logging.getLogger("sitestream")
Told = dict[str, str | int | float | bool]
"""A run config."""

CONFIG = "config.yaml"
"""The recipe, in the run's folder."""
BUSY_S = 60.0
"""Seconds for another process to leave the run's folder."""
LINE = "%(asctime)s %(levelname)s %(message)s"


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Conduct the run that the run config names, with whoever is at the other end of the grid."""
    if context.run_config.get("grid-waits"):
        simulate(grid, context.run_config)
    else:
        deploy(grid, context.run_config)


def serve(grid: Grid, told: Told) -> None:
    """Call the app over a grid that is here already (a simulation's), with this run config."""
    app(grid, Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=told))


def simulate(grid: Grid, told: Told) -> None:
    """A run over a simulation's grid: it keeps deadlines and waits by itself, and its nodes are sure."""
    run, folder = load_run(Path(str(told["config"]))), Path(str(told["folder"]))
    asked = load_run(Path(str(told["asked"]))) if "asked" in told else run
    folder.mkdir(parents=True, exist_ok=True)
    sites = GridSites(grid, deadline_s=math.inf, pause_s=0.0, max_reply_mb=run.wire.max_reply_mb, watch_s=run.engine.watch_s)
    Gate(sites, None, run.engine.watch_s).wait(None, 1, expected(run, folder))
    conduct(sites, run, folder, str(told.get("allow", "")).split(), asked)


def deploy(grid: Grid, told: Told) -> None:
    """A run over a SuperLink: hospitals come when they like, and each is known by its node's name and key.

    Raises:
        ValueError: the recipe cannot be used here; nothing was done.
        server.loop.CannotContinue: what came before is saved: the same command, with the same folder, goes on.
    """
    run = load_run(recipe_path(str(told["config"])))
    if run.sites:
        what = f"{told['config']}: embeds sites ({next(iter(run.sites))}...), as a simulation's recipe does"
        raise ValueError(f"{what}; here each hospital has its own file: write `sites: null` (configs/smoke_deployed.yaml)")
    folder = Path(str(told.get("folder") or f"runs/{run.name}")).absolute()
    with _told_in(folder), _once_alone(folder):
        allow = str(told.get("allow", "")).split()
        if not what_changed(folder, run, allow) and is_finished(folder):
            LOG.info("run %s in %s is finished: nothing to go on with", run.name, folder)
            return
        write_whole(folder / CONFIG, lambda draft: draft.write_text(dump_run(run), encoding="utf-8"))
        LOG.info("run %s in %s", run.name, folder)
        pins = Pins(folder)
        limits = {"max_reply_mb": run.wire.max_reply_mb, "watch_s": run.engine.watch_s}
        sites = GridSites(grid, deadline_s=run.engine.deadline_s, pause_s=POLL_S, pins=pins, **limits)
        gate = Gate(sites, pins, run.engine.watch_s)
        _gather(gate, run, folder)
        conduct(sites, run, folder, allow, run, gate)
        LOG.info("the run is finished")


def expected(run: Run, folder: Path) -> set[str]:
    """The sites without which a run cannot begin or go on: none if the door is open, nor one that has left for good."""
    if run.arrivals.door == "open":
        return set()
    known = checkpoint.load(folder)
    departed = make_schedule(run.arrivals, list(run.sites)).departed(known.round + 1 if known else 1)
    return {*run.sites, *(run.arrivals.visits or run.arrivals.order or ())} - departed - (known.left if known else frozenset())


def _gather(gate: Gate, run: Run, folder: Path) -> None:
    """At the start, all that a script names; at an open door, enough, and for a while those of the last round."""
    known = checkpoint.load(folder) if run.arrivals.door == "open" else None
    patience_s = run.engine.watch_s if known else math.inf
    gate.wait(None, run.arrivals.at_least, set(known.present) if known else expected(run, folder), patience_s)


@contextmanager
def _once_alone(folder: Path) -> Iterator[None]:
    """As `alone`; a process whose SuperLink was killed may take a while to end."""
    began = time.monotonic()
    while True:
        try:
            with alone(folder):
                yield
                return
        except Busy:
            if time.monotonic() - began > BUSY_S:
                raise
        LOG.info("another process is still at work in %s; it is waited for", folder)
        time.sleep(BUSY_S / 12)


@contextmanager
def _told_in(folder: Path) -> Iterator[None]:
    """Whatever SiteStream says goes into a file and to the screen, where Flower's own log takes it up."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "log.txt"
    handlers: list[logging.Handler] = [logging.FileHandler(path, encoding="utf-8"), logging.StreamHandler()]
    level = LOG.level
    for handler in handlers:
        handler.setFormatter(logging.Formatter(LINE))
        LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
    try:
        yield
    except Exception as error:
        LOG.error("the run stopped: %s", error)
        raise
    finally:
        LOG.setLevel(level)
        for handler in handlers:
            LOG.removeHandler(handler)
            handler.close()
