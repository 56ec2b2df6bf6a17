"""The Flower ServerApp: the same under Ray and on a SuperLink. The run config names the recipe (`config`) and the run's
folder (`folder`)."""

import os

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")

import math
import time
from pathlib import Path

from flwr.app import Context, RecordDict
from flwr.serverapp import Grid, ServerApp

from configs.load import load_run
from configs.schema import Run
from server.conduct import conduct
from server.sites import GridSites

app = ServerApp()

POLL_S = 0.5


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Wait for the sites that the schedule expects, then conduct the run."""
    run = load_run(Path(str(context.run_config.get("config", "configs/quickstart.yaml"))))
    folder = Path(str(context.run_config.get("folder") or f"runs/{run.name}"))
    folder.mkdir(parents=True, exist_ok=True)
    waits = bool(context.run_config.get("grid-waits", False))  # a simulation's grid keeps deadlines and waits by itself
    sites = GridSites(grid, deadline_s=math.inf if waits else run.engine.deadline_s, pause_s=0.0 if waits else POLL_S)
    _wait_for(run, sites)
    conduct(sites, run, folder)


def serve(grid: Grid, told: dict[str, str | int | float | bool]) -> None:
    """Call the app over a grid that is here already (a simulation's), with this run config."""
    app(grid, Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=told))


def _wait_for(run: Run, sites: GridSites) -> None:
    """Node ids are never there at once: scripted runs wait for every site, an open door for the first."""
    wanted = {*run.sites, *(run.arrivals.visits or run.arrivals.order or ())} if run.arrivals.door == "scripted" else set()
    while not (sites.connected() and wanted <= sites.connected()):
        time.sleep(POLL_S)
