"""The Flower ServerApp: the same under Ray and on a SuperLink.

The run config names the recipe (`config`), the run's folder (`folder`) and, for a run that goes on with another recipe on
purpose, the keys that may differ (`allow`: dotted, separated by spaces). A simulation also names what its recipe was made
from (`asked`).
"""

import os

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")

import logging
import math
import time
from pathlib import Path

from flwr.app import Context, RecordDict
from flwr.serverapp import Grid, ServerApp

from configs.load import load_run
from configs.schema import Run
from server import checkpoint
from server.arrivals import make_schedule
from server.conduct import conduct
from server.sites import GridSites
from server.waiting import Reminder, clock, named

app = ServerApp()
LOG = logging.getLogger("sitestream")

POLL_S = 0.5


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Wait for the sites that the schedule expects, then conduct the run."""
    told = context.run_config
    run = load_run(Path(str(told.get("config", "configs/quickstart.yaml"))))
    asked = load_run(Path(str(told["asked"]))) if "asked" in told else run
    folder = Path(str(told.get("folder") or f"runs/{run.name}"))
    folder.mkdir(parents=True, exist_ok=True)
    waits = bool(told.get("grid-waits", False))  # a simulation's grid keeps deadlines and waits by itself
    limits = {"max_reply_mb": run.wire.max_reply_mb, "watch_s": run.engine.watch_s}
    deadline = math.inf if waits else run.engine.deadline_s
    sites = GridSites(grid, deadline_s=deadline, pause_s=0.0 if waits else POLL_S, **limits)
    _wait_for(expected(run, folder), sites, run.engine.watch_s)
    conduct(sites, run, folder, str(told.get("allow", "")).split(), asked)


def serve(grid: Grid, told: dict[str, str | int | float | bool]) -> None:
    """Call the app over a grid that is here already (a simulation's), with this run config."""
    app(grid, Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=told))


def expected(run: Run, folder: Path) -> set[str]:
    """The sites without which a run cannot begin or go on: none if the door is open, nor one that has left for good."""
    if run.arrivals.door == "open":
        return set()
    known = checkpoint.load(folder)
    departed = make_schedule(run.arrivals, list(run.sites)).departed(known.round + 1 if known else 1)
    return {*run.sites, *(run.arrivals.visits or run.arrivals.order or ())} - departed


def _wait_for(wanted: set[str], sites: GridSites, watch_s: float) -> None:
    """Node ids are never there at once: wait for these sites, or for any at all; now and then the log says who is missing."""
    reminder, began = Reminder(watch_s), time.monotonic()
    while (missing := sorted(wanted - (there := sites.connected()))) or not there:
        if reminder.due(silence := time.monotonic() - began):
            LOG.warning("waiting for %s to connect, %s so far", named(missing) or "a site", clock(silence))
        time.sleep(POLL_S)
