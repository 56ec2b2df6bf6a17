"""The studies that come with the repository can be done: they load, their cells are what they say, their data fit."""

from pathlib import Path

import pytest

from clients.data import site_cases
from configs.load import load_run
from configs.study import Study, cells, load_study
from simulations.plan import check_names
from simulations.pretend import materialise
from simulations.stream import STREAM
from simulations.studies.study import open_study

HOME = Path(__file__).parents[1]
STUDIES = sorted((HOME / "studies").glob("*.yaml"))
CELLS = {
    "smoke": 16,
    "embracing": (5 + 1) * 3 * 5,
    "embracing_one_site": (3 + 1) * 6,
    "embracing_sixteen": 5 + 1,
    "data_effective": (4 * 4 + 1) * 3,
    "policies": (2 * 7 * 5 + 3) * 3,
}
"""Variants and bounds x seeds x orders."""


def named(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("path", STUDIES, ids=named)
def test_every_study_loads_and_all_its_names_are_right(path):
    study = load_study(path)
    grid = cells(study)
    assert len(grid) == CELLS[path.stem] and study.name == path.stem
    assert study.about and study.reference in {cell.variant for cell in grid}
    for run in {cell.variant: cell.run for cell in grid}.values():
        check_names(run.model_copy(update={"sites": {}}))  # a site's device is this machine's matter


def test_every_config_of_the_folder_loads():
    for path in sorted((HOME / "configs").glob("*.yaml")):
        if path.stem != "strategies":  # presets, no runs
            assert load_run(path).name, path.name


@pytest.mark.parametrize("path", STUDIES, ids=named)
def test_a_study_whose_data_are_here_can_be_opened(path, tmp_path, monkeypatch):
    """Of each variant one seed and one order, with a few cases of each site."""
    monkeypatch.chdir(HOME)
    study = load_study(path)
    run = cells(study)[0].run
    roots = {site.root or run.data.root for site in run.sites.values() if site.phantoms is None}
    if missing := [str(root) for root in roots if root is None or not root.is_dir()]:
        pytest.skip(f"the data are not here: {missing[0]}")
    few = {**study.set, **{f"sites.{name}.max_cases": 4 for name in run.sites}}
    once = study.model_copy(update={"seeds": study.seeds[:1], "orders": dict(list(study.orders.items())[:1]), "set": few})
    monkeypatch.setattr("simulations.studies.study.load_study", lambda path: fewer(once))
    sheet = open_study(path, tmp_path / "runs")
    assert all(place.steps > 0 for place in sheet.places)
    steps = {cell.variant: place.steps for cell, place in sheet.rows}
    if path.stem.startswith(("embracing", "data_effective")):  # the same steps, or the comparison means nothing
        assert len(set(steps.values())) == 1


MOST = 8


def fewer(study: Study) -> Study:
    """Of a large grid the corners: the first and the last value of each key that varies."""
    names = list(dict.fromkeys(name for name, _ in study.named()))
    if len(names) <= MOST or not study.vary:
        return study
    vary = {key: [values[0], values[-1]] for key, values in study.vary.items()}
    return study.model_copy(update={"vary": vary})


def test_data_effective_says_what_its_budgets_are_of_the_stream(real_root):
    """R = .05, .1, .2 and .5 of the cases that stream by."""
    study = load_study(HOME / "studies" / "data_effective.yaml")
    run = load_run(study.base, changes={"data.root": str(real_root)})
    whole = materialise(run)
    streamed = len(site_cases(STREAM, whole.sites[STREAM], whole.seed).train)
    assert [round(budget / streamed, 2) for budget in study.vary["memory.budget"]] == [0.05, 0.1, 0.2, 0.5]
    assert f"{streamed} cases" in study.about
