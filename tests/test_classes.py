"""Each class's Dice at every site that annotates it: worked out, written, shown on a terminal."""

import io
from math import isnan

import pytest
from rich.console import Console

from server.classes import class_dice, from_csv, to_csv
from server.conduct import conduct
from simulations.by_class import class_lines, class_table, read_classes
from tests.fakes import Fake, FakeSites, fake_run

ROWS = [
    {"site": "a", "class": "liver", "dice": 0.9},
    {"site": "a", "class": "liver", "dice": 0.7},
    {"site": "a", "class": "liver", "dice": None},
    {"site": "a", "class": "tumor", "dice": None},
    {"site": "b", "class": "spleen", "dice": 0.25},
    {"site": "b", "class": "liver", "dice": 0.5},
]
CSV = "class,a,b\nliver,0.800000,0.500000\nspleen,,0.250000\ntumor,nan,\n"


def shown(table, width):
    console = Console(file=io.StringIO(), width=width)
    console.print(class_table(table, width))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_a_class_has_a_mean_at_each_site_that_annotates_it():
    found = class_dice(ROWS)
    assert {name: list(there) for name, there in found.items()} == {"liver": ["a", "b"], "tumor": ["a"], "spleen": ["b"]}
    assert found["liver"] == {"a": (pytest.approx(0.8), 2), "b": (0.5, 1)}
    assert isnan(found["tumor"]["a"].value) and found["tumor"]["a"].cells == 0
    assert class_dice([]) == {}


def test_the_text_is_exact_and_comes_back():
    assert to_csv(class_dice(ROWS), ("liver", "spleen", "kidney", "tumor"), ("a", "b")) == CSV
    back = from_csv(CSV)
    assert (back["liver"], back["spleen"], list(back)) == ({"a": 0.8, "b": 0.5}, {"b": 0.25}, ["liver", "spleen", "tumor"])
    assert isnan(back["tumor"]["a"])  # annotated, and no label has it


@pytest.mark.parametrize("text", ["", "stage,a\n", "class,a\nliver\n", "class,a\nliver,good\n"])
def test_text_that_is_no_such_table_is_refused(text, tmp_path):
    with pytest.raises(ValueError):
        from_csv(text)
    (tmp_path / "classes.csv").write_text(text)
    assert read_classes(tmp_path) == {}


def test_a_run_leaves_it_in_its_folder_by_the_sites_of_r_and_the_rows_of_the_head(tmp_path):
    classes = {"a": ("liver", "spleen"), "b": ("kidney", "liver"), "c": ("lung",)}
    sites = FakeSites({name: Fake(2, classes=some, tests=0 if name == "c" else 2) for name, some in classes.items()})
    conduct(sites, fake_run("cba", arrivals={"order": ["a", "b", "c"]}), tmp_path)
    lines = ["class,a,b,c", "liver,0.060000,0.060000,", "spleen,0.060000,,", "kidney,,0.060000,"]
    assert (tmp_path / "classes.csv").read_text().splitlines() == lines  # c has no test case, and lung no other site


def test_the_terminal_shows_sites_as_columns_where_there_is_room():
    table = from_csv(CSV)
    assert shown(table, 80) == [
        "Dice        a      b   mean",
        "liver   0.800  0.500  0.650",
        "spleen         0.250  0.250",
        "tumor       -             -",
    ]
    lines = ["liver: Dice a 0.800, b 0.500, mean 0.650", "spleen: Dice b 0.250, mean 0.250", "tumor: Dice a -, mean -"]
    assert class_lines(table) == lines
    assert " ".join(shown(table, 20)) == " ".join(lines)  # wrapped, nothing cut


def test_names_cannot_draw_on_the_terminal():
    assert shown({"[red]liver\x1b[31m": {"a\nb": 0.5}}, 80)[0].split() == ["Dice", "a", "b", "mean"]
    assert shown({"[red]liver\x1b[31m": {"a\nb": 0.5}}, 80)[1].split() == ["[red]liver", "[31m", "0.500", "0.500"]
