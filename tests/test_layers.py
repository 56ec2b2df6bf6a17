"""The house rules that a machine can check: which way imports point, how long things grow, what is never used."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

HOME = Path(__file__).parents[1]
PACKAGES = ("clients", "configs", "memory", "server", "simulations", "strategies")
FILES = sorted([*HOME.glob("*.py"), *(path for package in PACKAGES for path in (HOME / package).rglob("*.py"))])
OURS = {*PACKAGES, "run_sim", "wire", "durable", "facts", "packing", "compress", "tests", "benchmarks"}

MAY_IMPORT = {
    "memory": {"memory"},
    "strategies": {"strategies"},
    "configs": {"configs"},
    "wire": {"strategies"},
    "durable": set(),
    "facts": set(),
    "packing": {"wire", "facts"},
    "compress": {"wire", "configs"},
    "clients": {"clients", "memory", "wire", "durable", "packing", "compress", "configs"},
    "server": {"server", "strategies", "wire", "durable", "facts", "packing", "compress", "configs"},
    "simulations": {"simulations", "server", "clients", "wire", "durable", "configs"},
    "simulations/plan.py": {
        "simulations",
        "server",
        "clients",
        "wire",
        "compress",
        "configs",
        "memory",
    },  # looks all names up
    "run_sim": {"simulations", "server", "clients", "configs"},
}
FLOWER = {
    "packing.py",
    "clients/app.py",
    "clients/door.py",
    "clients/parcel.py",
    "clients/supernode.py",
    "clients/worker.py",
    "server/app.py",
    "server/sites.py",
    "strategies/borrowed.py",
    "strategies/private.py",
    "simulations/ray_grid.py",
    "simulations/ray_worker.py",
}
RAY = {f"simulations/ray_{part}.py" for part in ("cluster", "grid", "pool", "worker")} | {"simulations/studies/several.py"}
LONGEST_FILE, LONGEST_FUNCTION = 250, 40


def name(path: Path) -> str:
    return path.relative_to(HOME).as_posix()


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(path: Path) -> Iterator[str]:
    """Full names of the modules (or of what is imported from them), wherever in the file the import stands."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (str(given.value) for given in node.args if isinstance(given, ast.Constant))


def tops(path: Path) -> set[str]:
    return {module.partition(".")[0] for module in imported(path)}


@pytest.mark.parametrize("path", FILES, ids=name)
def test_arrows_point_one_way(path):
    layer = path.relative_to(HOME).parts[0].removesuffix(".py")
    assert tops(path) & OURS <= MAY_IMPORT.get(name(path), MAY_IMPORT[layer]), f"{name(path)} imports what it may not"


def test_wire_takes_only_the_word_weights_from_strategies():
    assert [module for module in imported(HOME / "wire.py") if module.startswith("strategies")] == ["strategies.base.Weights"]


@pytest.mark.parametrize("path", FILES, ids=name)
def test_torch_and_monai_live_with_the_clients(path):
    if not name(path).startswith("clients/"):
        assert not tops(path) & {"torch", "monai"}


@pytest.mark.parametrize("path", FILES, ids=name)
def test_flower_and_ray_stay_where_they_are(path):
    assert "flwr" not in tops(path) or name(path) in FLOWER
    assert "ray" not in tops(path) or name(path) in RAY


@pytest.mark.parametrize("path", FILES, ids=name)
def test_files_and_functions_stay_short(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST_FILE, f"{name(path)} has {lines} lines: look for the second thing it does"
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= LONGEST_FUNCTION, f"{name(path)}: {node.name} has {length} lines"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_no_drawer_for_everything(path):
    assert path.stem not in {"utils", "util", "common", "core", "helpers", "helper", "misc"}


@pytest.mark.parametrize("path", FILES, ids=name)
def test_nothing_is_pickled(path):
    assert not tops(path) & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            called, given = ast.unparse(node.func), {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert called not in {"torch.load", "torch.save", "eval", "exec", "np.fromregex"}, f"{name(path)}: {called}"
            assert given.get("allow_pickle") != "True", f"{name(path)}: {called} would unpickle"
            assert called != "np.load" or given.get("allow_pickle") == "False", (
                f"{name(path)}: np.load must say allow_pickle=False"
            )
            assert called != "yaml.load" or "_Loader" in ast.unparse(node), f"{name(path)}: yaml.load with a safe loader only"


def test_the_checks_see_what_they_should(tmp_path):
    """The rules above read syntax trees: a sample that breaks them must be seen."""
    sample = tmp_path / "sample.py"
    sample.write_text("import torch.nn\n\ndef f():\n    from server.loop import Loop\n    import_module('clients.app')\n")
    assert set(imported(sample)) == {"torch.nn", "server.loop.Loop", "clients.app"}


def test_every_registered_name_can_be_found():
    from importlib import import_module

    from memory import POLICIES
    from strategies import MERGES, SHARES, WEIGHS

    for registry in (POLICIES, MERGES, SHARES, WEIGHS):
        for place in registry.values():
            module, _, attribute = place.partition(":")
            assert hasattr(import_module(module), attribute)


def test_every_package_is_shipped():
    import tomllib

    setup = tomllib.loads((HOME / "pyproject.toml").read_text())["tool"]["setuptools"]
    inits = [path.parent.relative_to(HOME) for package in PACKAGES for path in (HOME / package).rglob("__init__.py")]
    there = {folder.as_posix().replace("/", ".") for folder in inits}
    assert set(setup["packages"]) == there
    assert set(setup["py-modules"]) == {path.stem for path in HOME.glob("*.py")}
