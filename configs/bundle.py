"""The recipe as Flower hands it out: in an app bundle, beside the pyproject.toml of the SiteStream that it was written for.

Whoever starts a run sends a bundle of recipes and no code (pyproject.toml, fab-include); every site runs the SiteStream that
its hospital has installed, and only if that is the version the bundle names. Flower puts the bundle's folder first on the
path where modules are looked for; where its processes work, nobody knows.
"""

import sys
import tomllib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from configs.version import VERSION
from configs.words import nearest

PROJECT = "pyproject.toml"
CHECKOUT = Path(__file__).resolve().parents[1]
"""Where this code lies: with a pyproject.toml of its own if nobody has installed it."""


class OtherVersion(ValueError):
    """The bundle was made for another SiteStream than the one installed here."""


def recipe_path(told: str, path: Iterable[str] | None = None) -> Path:
    """Where the recipe is that a run config names: in the bundle; absolute, or without a bundle as it is.

    Raises:
        OtherVersion: there is a bundle, of another version than what is installed here.
        ValueError: the name leads out of the bundle, or it is not in there.
    """
    name, bundle = Path(told), bundle_folder(path)
    if name.is_absolute() or bundle is None:
        return name
    check_version(bundle)
    found = (bundle / name).resolve()
    if not found.is_relative_to(bundle):
        raise ValueError(f"config: {told!r} leads out of the app bundle; put the recipe into the app's configs/ folder")
    if not found.is_file():
        there = sorted(f"configs/{file.name}" for file in (bundle / "configs").glob("*.yaml"))
        raise ValueError(f"config: {told!r} is not in the app bundle; {nearest(told, there)}")
    return found


def bundle_folder(path: Iterable[str] | None = None) -> Path | None:
    """The first folder on `path` (sys.path) that Flower unpacked a bundle into; None: this is no process of Flower's."""
    for entry in sys.path if path is None else path:
        folder = Path(entry or ".").resolve()
        if (folder / PROJECT).is_file() and folder != CHECKOUT:
            return folder
    return None


def check_version(bundle: Path) -> None:
    """Raises OtherVersion if the bundle names another version than the one installed here."""
    if (theirs := _version(bundle / PROJECT)) != VERSION:
        raise OtherVersion(f"the run's bundle is of SiteStream {theirs}, installed here is {VERSION}; install the same version")


@lru_cache(maxsize=16)
def _version(path: Path) -> str:
    project = tomllib.loads(path.read_text(encoding="utf-8")).get("project", {})
    return str(project.get("version", "unknown")) if project.get("name") == "sitestream" else "another app"
