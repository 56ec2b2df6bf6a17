"""Where a recipe is found in a process of Flower's, and when a site refuses a bundle."""

import io
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from configs import bundle
from configs.bundle import OtherVersion, recipe_path
from configs.load import load_run
from configs.version import VERSION

HOME = Path(__file__).parents[1]
PROJECT = tomllib.loads((HOME / "pyproject.toml").read_text())


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    """A bundle as Flower unpacks it: pyproject.toml and the recipes, and another folder on the path before it."""
    folder = tmp_path / "apps" / "sitestream.sitestream.0.1.0.12345678"
    (folder / "configs").mkdir(parents=True)
    (folder / "pyproject.toml").write_bytes((HOME / "pyproject.toml").read_bytes())
    for recipe in (HOME / "configs").glob("*.yaml"):
        (folder / "configs" / recipe.name).write_bytes(recipe.read_bytes())
    return folder


def test_the_version_is_said_once_in_code_and_once_for_flower():
    assert PROJECT["project"]["version"] == VERSION


def test_a_recipe_is_read_from_the_bundle_with_what_it_extends(unpacked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = recipe_path("configs/smoke_deployed.yaml", ["/nowhere", str(unpacked), str(HOME)])
    assert found == unpacked / "configs" / "smoke_deployed.yaml"
    run = load_run(found)
    assert (run.sites, run.arrivals.order, run.train.sampling_rate) == ({}, ["first", "second", "third"], 12)


def test_without_a_bundle_and_with_a_whole_path_a_recipe_is_where_it_says(unpacked):
    assert recipe_path("configs/smoke.yaml", [str(HOME)]) == Path("configs/smoke.yaml")  # a checkout is no bundle
    assert recipe_path("/etc/smoke.yaml", [str(unpacked)]) == Path("/etc/smoke.yaml")


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ("configs/smok.yaml", "config: 'configs/smok.yaml' is not in the app bundle; "),
        (
            "../../secret.yaml",
            "config: '../../secret.yaml' leads out of the app bundle; put the recipe into the app's configs/",
        ),
    ],
)
def test_a_recipe_that_is_not_there_is_said_in_words(unpacked, told, words):
    with pytest.raises(ValueError) as raised:
        recipe_path(told, [str(unpacked)])
    assert str(raised.value).startswith(words)


@pytest.mark.parametrize(
    ("old", "new", "theirs"),
    [
        (f'version = "{VERSION}"', 'version = "9.9.9"', "SiteStream 9.9.9"),
        ('name = "sitestream"', 'name = "x"', "SiteStream another"),
    ],
)
def test_a_bundle_of_another_version_is_refused_in_one_line(unpacked, old, new, theirs):
    text = (unpacked / "pyproject.toml").read_text()
    assert old in text
    (unpacked / "pyproject.toml").write_text(text.replace(old, new, 1))
    bundle._version.cache_clear()
    with pytest.raises(OtherVersion, match=f"the run's bundle is of {theirs}.*, installed here is {VERSION}"):
        recipe_path("configs/smoke.yaml", [str(unpacked)])
    bundle._version.cache_clear()


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")
def test_flower_packs_recipes_and_no_code():
    """The real thing: what `flwr run .` would send."""
    from flwr.cli.build import build_fab_from_disk

    content = build_fab_from_disk(HOME)
    names = set(zipfile.ZipFile(io.BytesIO(content)).namelist())
    recipes = {f"configs/{path.name}" for path in (HOME / "configs").glob("*.yaml")}
    assert names == {"pyproject.toml", ".info/CONTENT", *recipes}
    assert len(content) < 100_000


def test_the_apps_that_pyproject_names_are_there():
    for reference in PROJECT["tool"]["flwr"]["app"]["components"].values():
        module, _, name = reference.partition(":")
        code = f"import {module} as m; assert type(m.{name}).__name__ in ('ServerApp', 'ClientApp')"
        subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=HOME, check=True)
