"""`check RECIPE --site FILE`: what a hospital sees of itself before its node connects."""

import re

import pytest
import yaml

from run_sim import main

RECIPE = "configs/smoke_deployed.yaml"


@pytest.fixture
def site_file(phantom_root, tmp_path):
    """A site file with so many facts changed; phantom_root holds MSD phantoms."""

    def write(**facts):
        path = tmp_path / "site.yaml"
        path.write_text(yaml.safe_dump({"root": str(phantom_root), "annotates": ["liver", "spleen"], **facts}))
        return str(path)

    return write


def test_it_says_what_the_site_has_and_what_would_leave(site_file, phantom_root, capsys):
    assert main(["check", RECIPE, "--site", site_file(budget=1, shares={"case_metrics": False})]) == 0
    said = " ".join(capsys.readouterr().out.split())
    cases = len(list((phantom_root / "imagesTr").glob("*.nii.gz")))
    found = re.search(r"cases (\d+) train, (\d+) validation, (\d+) test, split by subject", said)
    train, validation, test = map(int, found.groups())
    assert train + validation + test == cases and train > test > validation == 0
    assert f"│ liver │ {train} │ 0 │ {test} │" in said
    assert "its memory 1 samples, selective" in said
    assert "but for `shares`: case_metrics: false" in said


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        ({"annotates": ["livre"]}, "'livre'"),
        ({"device": "cuda:99"}, "site.yaml: device: device 'cuda:99' is not to be had here"),
        ({"root": "/nowhere"}, "site 'site': the data folder /nowhere does not exist"),
        ({"bugdet": 3}, "budget"),
    ],
)
def test_what_is_wrong_with_it_is_one_line(site_file, capsys, facts, line):
    assert main(["check", RECIPE, "--site", site_file(**facts)]) == 2
    err = capsys.readouterr().err
    assert line in err and err.count("\n") == 1


def test_a_recipe_without_sites_says_how_to_look_at_one(capsys):
    assert main(["check", RECIPE]) == 2
    line = "configs/smoke_deployed.yaml names no site: each hospital has a site file; look at one with --site site.yaml"
    assert capsys.readouterr().err == f"run_sim: {line}\n"
