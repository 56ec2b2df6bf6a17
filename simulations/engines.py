"""A materialised run over the engine that its config names."""

import hashlib
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from configs.load import load_run
from configs.schema import Run
from configs.site import PretendSite
from server.alone import alone
from simulations.run_folder import ASKED_FILE as ASKED_FILE
from simulations.run_folder import SITES_FILE
from simulations.run_folder import write_run as write_run


def simulate(run: Run, folder: Path, allow: Iterable[str] = ()) -> None:
    """Run, or go on with, what `folder` holds.

    Args:
        run: materialised.
        folder: of this run alone; if it holds ASKED_FILE, the run is known by that.
        allow: keys that may differ from the recipe with which the run began.

    Raises:
        server.loop.CannotContinue: a round could not be done; what came before it is saved.
        ValueError: the recipe has changed, or another process conducts this run: then nothing in its folder has changed.
    """
    with alone(folder):
        _simulate(run, folder, allow)


def _simulate(run: Run, folder: Path, allow: Iterable[str]) -> None:
    config, asked = (folder / SITES_FILE).absolute(), (folder / ASKED_FILE).absolute()
    write_run(config, run)
    asked = asked if asked.exists() else config
    folders = {name: (folder / "sites" / name).absolute() for name in run.sites}
    for name, place in folders.items():
        _give_secret(place, run.seed, name)
    if run.strategy.privacy:
        _give_secret(folder, run.seed, "")  # the server's; no site has an empty name
    if run.engine.name == "local":
        _simulate_locally(run, folder, folders, asked, allow)
    else:
        told = {"config": str(config), "asked": str(asked), "folder": str(folder.absolute()), "allow": " ".join(allow)}
        _simulate_on_ray(run, folder, folders, {**told, "grid-waits": True})


def _give_secret(place: Path, seed: int, site: str) -> None:
    """Pretend hospitals' case ids and noise must be the same in every repetition, so their secrets come from the seed."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "secret").write_bytes(hashlib.sha256(f"pretend {seed} {site}".encode()).digest())
    (place / "progress.json").unlink(missing_ok=True)


def _simulate_locally(run: Run, folder: Path, folders: dict[str, Path], asked: Path, allow: Iterable[str]) -> None:
    from server.conduct import conduct
    from simulations.local import LocalSites

    conduct(LocalSites(run, folders), run, folder, allow, load_run(asked))


def _simulate_on_ray(run: Run, folder: Path, folders: dict[str, Path], told: dict[str, str | int | float | bool]) -> None:
    from server.app import serve
    from server.orders import CannotContinue
    from simulations.ray_cluster import RayStopped
    from simulations.ray_grid import Node, RayGrid

    nodes = [
        Node(name, {"site-name": name, "site-folder": str(folders[name])}, site.cpus, _gpus(site), _data(run, name))
        for name, site in run.sites.items()
    ]
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
        folder=folder,
    )
    try:
        with grid:
            serve(grid, told)
    except RayStopped as error:
        raise CannotContinue(str(error)) from None


def _gpus(site: PretendSite) -> float | Literal["auto"]:
    """A site that trains on a CPU needs no share of a GPU, unless it says so itself."""
    return 0.0 if site.gpus == "auto" and site.device == "cpu" else site.gpus


def _data(run: Run, name: str) -> str:
    """The folder of a site's data."""
    root = run.sites[name].root or run.data.root
    return str(root.absolute()) if root else ""
