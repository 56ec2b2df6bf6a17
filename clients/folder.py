"""What a data folder's own files may point at: files inside that folder, and JSON of a size and depth that people write."""

import json
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

MAX_JSON = 64 * 2**20
"""Bytes of a listing; a case takes about 100."""


def inside(root: Path, name: str) -> Path:
    """The file that a listing names, relative to the data folder. Raises ValueError for a name that leads out of it."""
    if _leads_out(name):
        raise ValueError(f"{name!r} leads out of the data folder {root}; its files must lie inside it")
    return root / name


@lru_cache(maxsize=2**16)  # a study reads the same listings many times
def _leads_out(name: str) -> bool:
    absolute = PurePosixPath(name).is_absolute() or PureWindowsPath(name).is_absolute()
    return absolute or ".." in PurePosixPath(name).parts or "\0" in name


def refuse_links_out(root: Path, paths: Iterable[Path]) -> None:
    """Raises ValueError for the first path that is, through a symbolic link, a file outside the data folder."""
    home = root.resolve()
    for path in paths:
        try:
            real = path.resolve()
        except (OSError, RuntimeError) as error:  # links in a circle
            raise ValueError(f"{path} cannot be followed ({error})") from None
        if not real.is_relative_to(home):
            where = "follow_links: true in the site's settings, or data.follow_links: true for all of a simulation's sites"
            raise ValueError(f"{path} is a link out of the data folder, to {real} ({where}, allows links)")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ValueError with path and fault."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_JSON + 1)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror})") from None
    if len(content) > MAX_JSON:
        raise ValueError(f"{path} is larger than {MAX_JSON >> 20} MB")
    try:
        tree = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits is a ValueError as well
        why = "it nests too deep" if isinstance(error, RecursionError) else error
        raise ValueError(f"{path} is not valid JSON ({why})") from None
    if not isinstance(tree, dict):
        raise ValueError(f"{path} must hold a JSON object")
    return tree
