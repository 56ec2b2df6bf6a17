"""A materialised run over the engine that its config names."""

import hashlib
import logging
from pathlib import Path

from configs.load import dump_run
from configs.schema import Run

SITES_FILE = "simulated.yaml"
"""The materialised run in the run's folder: what the simulated sites and their server read."""


def simulate(run: Run, folder: Path) -> None:
    """Run, or go on with, what `folder` holds.

    Raises:
        server.loop.CannotContinue: a round could not be done; what came before it is saved.
    """
    config = (folder / SITES_FILE).absolute()
    config.write_text(dump_run(run), encoding="utf-8")
    folders = {name: (folder / "sites" / name).absolute() for name in run.sites}
    for name, place in folders.items():
        _give_secret(place, run.seed, name)
    if run.strategy.privacy:
        _give_secret(folder, run.seed, "")  # the server's; no site has an empty name
    if run.engine.name == "local":
        _simulate_locally(run, folder, folders)
    else:
        _simulate_on_ray(run, folder, folders, config)


def _give_secret(place: Path, seed: int, site: str) -> None:
    """Pretend hospitals' case ids and noise must be the same in every repetition, so their secrets come from the seed."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "secret").write_bytes(hashlib.sha256(f"pretend {seed} {site}".encode()).digest())
    (place / "progress.json").unlink(missing_ok=True)


def _simulate_locally(run: Run, folder: Path, folders: dict[str, Path]) -> None:
    from server.conduct import conduct
    from simulations.local import LocalSites

    conduct(LocalSites(run, folders), run, folder)


def _simulate_on_ray(run: Run, folder: Path, folders: dict[str, Path], config: Path) -> None:
    from server.app import serve
    from simulations.ray_grid import Node, RayGrid

    nodes = [
        Node(name, {"site-name": name, "site-folder": str(place)}, run.sites[name].cpus, run.sites[name].gpus)
        for name, place in folders.items()
    ]
    told: dict[str, str | int | float | bool] = {"config": str(config), "folder": str(folder.absolute()), "grid-waits": True}
    logging.getLogger("flwr").setLevel(logging.WARNING)
    engine = run.engine
    grid = RayGrid(
        nodes,
        actors=engine.actors,
        address=engine.address,
        deadline_s=engine.deadline_s,
        retries=engine.retries,
        log=folder / "log.txt",
        run_config=told,
    )
    with grid:
        serve(grid, told)
