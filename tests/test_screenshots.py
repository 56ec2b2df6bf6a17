"""What a reader of README sees of the reports: pages of real runs, in a browser that shows nothing, as pictures.

SITESTREAM_SCREENSHOTS=RUN_FOLDER:STUDY_FOLDER takes the pictures from the report.html of these folders and puts them into
docs/; without it they are taken of a small run and a small study that are made here, looked at, and thrown away.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from matplotlib.image import imread
from numpy.typing import NDArray

from configs.schema import Run
from run_sim import main
from simulations.engines import simulate
from simulations.pretend import materialise
from simulations.studies.page import write_page
from simulations.studies.study import open_study
from tests.test_studies import BASE, STUDY

HOME = Path(__file__).parents[1]
DOCS = HOME / "docs"
ASKED = "SITESTREAM_SCREENSHOTS"
NAMES = ("run_report.png", "study_report.png")
WIDE, HIGH = 1100, 1500
"""Pixels."""
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"),
    *("--disable-component-update", "--hide-scrollbars", "--virtual-time-budget=2000", f"--window-size={WIDE},{HIGH}"),
]
needs_browser = pytest.mark.skipif(not CHROMIUM, reason="there is no chromium here to take pictures with")


def screenshot(page: Path, to: Path, profile: Path) -> Path:
    """The top of a page as PNG."""
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", f"--screenshot={to}", page.absolute().as_uri()]
    subprocess.run(command, capture_output=True, timeout=120, check=True)
    return to


def pixels(path: Path) -> NDArray[np.uint8]:
    """[height, width, 3]"""
    return (255 * imread(path)[:, :, :3]).round().astype(np.uint8)


def bands_with_ink(picture: NDArray[np.uint8]) -> float:
    """The part of its bands of 100 lines in which anything differs from the page's own colour, that of the first corner."""
    ink = (picture != picture[0, 0]).any(axis=(1, 2))
    return float(np.mean([band.any() for band in np.array_split(ink, len(ink) // 100)]))


def colours_in(picture: NDArray[np.uint8]) -> int:
    """How many different ones."""
    return len(np.unique(picture.reshape(-1, 3), axis=0))


def asked_for() -> list[Path]:
    """The pages that the environment names; raises ValueError if it names anything else."""
    folders = [Path(part) for part in os.environ[ASKED].split(":")]
    pages = [folder / "report.html" for folder in folders]
    if len(pages) != len(NAMES) or not all(page.is_file() for page in pages):
        raise ValueError(f"{ASKED} should be RUN_FOLDER:STUDY_FOLDER, each with a report.html, not {os.environ[ASKED]!r}")
    return pages


def a_run(root: Path) -> Path:
    """The report of the smoke run, over the local engine."""
    few = ["--set", "evaluate.surface=false", "--set", "train.sampling_rate=4", "--set", "train.replay_steps=2"]
    assert main(["run", str(HOME / "configs" / "smoke.yaml"), "--engine", "local", "--out", str(root / "run"), *few]) == 0
    return root / "run" / "report.html"


def a_study(root: Path) -> Path:
    """The page of two variants in two orders, one run after another in this process."""
    (root / "tiny.yaml").write_text(yaml.safe_dump(BASE, sort_keys=False))
    path = root / "study.yaml"
    path.write_text(yaml.safe_dump({**STUDY, "bounds": [], "seeds": [0]}, sort_keys=False))
    sheet = open_study(path, root / "runs")
    for place in sheet.places:
        place.write()
        assert isinstance(place.run, Run)
        simulate(materialise(place.run), place.folder)
    return write_page(sheet, sheet.outcomes(), path)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    """The two pictures; they are put into docs/ only if the environment names the folders that they are of."""
    root = tmp_path_factory.mktemp("pictures")
    pages = asked_for() if ASKED in os.environ else [a_run(root), a_study(root)]
    yield [screenshot(page, root / name, root / "profile") for page, name in zip(pages, NAMES, strict=True)]


@needs_browser
def test_the_pages_of_real_runs_can_be_seen(pictures):
    for path in pictures:
        picture = pixels(path)
        assert picture.shape == (HIGH, WIDE, 3)
        assert bands_with_ink(picture) > 0.9, f"{path.name} is blank in part"
        assert colours_in(picture) > 200, f"{path.name} shows no figure"
    run, study = map(pixels, pictures)
    assert (run != study).any(axis=2).mean() > 0.02  # two pages, and not one twice
    if ASKED in os.environ:
        for path in pictures:
            shutil.copyfile(path, DOCS / path.name)


@needs_browser
def test_a_blank_page_would_be_seen(tmp_path):
    (tmp_path / "blank.html").write_text("<body style='background:#fff'><p>not found</p>")
    picture = pixels(screenshot(tmp_path / "blank.html", tmp_path / "blank.png", tmp_path / "profile"))
    assert bands_with_ink(picture) < 0.2 and colours_in(picture) < 200


@pytest.mark.parametrize("name", NAMES)
def test_the_pictures_in_docs_are_what_this_test_takes(name):
    picture = pixels(DOCS / name)
    assert picture.shape == (HIGH, WIDE, 3) and bands_with_ink(picture) > 0.9 and colours_in(picture) > 200


@pytest.mark.parametrize("given", ["", "one", "one:two", "one:two:three"])
def test_what_names_no_two_pages_is_one_line(monkeypatch, given):
    monkeypatch.setenv(ASKED, given)
    with pytest.raises(ValueError, match="should be RUN_FOLDER:STUDY_FOLDER, each with a report.html"):
        asked_for()
