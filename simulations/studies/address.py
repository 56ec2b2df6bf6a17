"""What a run of a study is known by: an address made of all that its results depend on."""

import ast
import hashlib
import json
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from clients.data import site_cases
from clients.prepare import content_of
from clients.train import pick_device
from configs.load import build_run, cache_root
from configs.schema import PretendSite, Run
from server.changes import FREE, recipe_of

HOME = Path(__file__).parents[2]
"""Where our packages are."""
BEGINNINGS = ("clients/work.py", "server/conduct.py", "simulations/local.py", "simulations/pretend.py")
NAMED = ("clients/objectives", "memory", "strategies")
"""Packages whose files are found by the names in a recipe: no import statement leads to them."""
ASIDE = ("server/exports.py",)
"""What the server imports and no result depends on; all that this alone imports is no part of a run either."""
PACKAGES = ("torch", "monai", "numpy")
DIGITS = 16


def address(run: Run) -> str:
    """16 hexadecimal digits that change with whatever could change the results of a materialised run.

    That is its recipe (but for the keys that a run may change freely), its data (which cases each site has, in which order,
    and what is in their files, wherever they lie), the bytes of its initial weights, the device that `auto` is here, our own
    code as far as a run uses it (`sources`), and the versions of torch, monai and numpy. Reports, figures, tables, the
    command and the docs are no part of it: to change them costs no run.

    Raises:
        ValueError: a file of the data cannot be read.
    """
    recipe = recipe_of(build_run(run.model_dump()))  # 1 and 1.0 are the same number of cores
    for key in FREE:
        _drop(recipe, key.split("."))
    recipe["data"].pop("root", None)  # every site has its own by now
    for name, site in recipe["sites"].items():
        if site["device"] == "auto":
            site["device"] = pick_device("auto").type
        site.pop("root")  # the same files elsewhere are the same run
        site["holds"] = _held(name, run.sites[name], run)
    if run.model.weights is not None:
        recipe["model"]["weights"] = _digest([run.model.weights.read_bytes()])
    facts = {"recipe": recipe, "code": _code(), "versions": {name: version(name) for name in PACKAGES}}
    return _digest([json.dumps(facts).encode()])


def sources() -> list[Path]:
    """The files of ours that a run's results depend on: all that its engine, server and sites import, and what they look up."""
    todo = [HOME / name for name in BEGINNINGS] + [path for package in NAMED for path in (HOME / package).glob("*.py")]
    found, aside = set[Path](), {HOME / name for name in ASIDE}
    while todo:
        path = todo.pop()
        if path not in found | aside:
            found.add(path)
            todo += _imported(path)
    return sorted(found)


@cache
def _code() -> str:
    """A digest of `sources`, read once: what this process runs was loaded when it began."""
    return _digest(part for path in sources() for part in (path.relative_to(HOME).as_posix().encode(), path.read_bytes()))


def _imported(path: Path) -> Iterator[Path]:
    """Our own files among what a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}", *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            place = HOME.joinpath(*name.split("."))
            yield from (file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file())


def _held(name: str, site: PretendSite, run: Run) -> dict[str, Any]:
    """What a site has, as its listings say, and what is in its files."""
    held = site_cases(name, site, run.seed)
    cases = [case for part in (held.train, held.validation, held.test) for case in part]
    listed = [held.fingerprint, held.labels, held.domains, sorted(held.values)]
    return {"listed": listed, "files": [content_of(case, run.preprocess, cache_root()) for case in cases]}


def _drop(tree: Any, path: list[str]) -> None:
    """Take one dotted key out of nested mappings, if it is there."""
    *above, last = path
    for part in above:
        tree = tree.get(part, {})
    tree.pop(last, None)


def _digest(parts: Iterable[bytes]) -> str:
    whole = hashlib.sha256()
    for part in parts:
        whole.update(len(part).to_bytes(8) + part)
    return whole.hexdigest()[:DIGITS]
