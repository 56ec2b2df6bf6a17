"""Metrics against numbers that a person can check by hand."""

from dataclasses import replace
from math import isnan, nan
from typing import Any

import numpy as np
import pytest

from server.metrics import MEANINGS, METRICS, ResultMatrix, drop, final_metrics, mean, normdel, site_dice

Row = dict[str, Any]


def matrix(stages: str, sites: str, rows: list[list[float]]) -> ResultMatrix:
    made = ResultMatrix()
    for stage, row in zip(stages.split(), rows, strict=True):
        made = made.with_row(stage, dict(zip(sites.split(), row, strict=True)))
    return made


@pytest.fixture
def by_hand() -> ResultMatrix:
    """The example of the metrics' definition, after a first row of .10, .20, .30."""
    return matrix("start a b c", "a b c", [[0.10, 0.20, 0.30], [0.90, 0.40, 0.50], [0.80, 0.88, 0.55], [0.70, 0.84, 0.86]])


@pytest.fixture
def grouped() -> ResultMatrix:
    """b and c arrive together in stage 2 of 3; d arrives last."""
    rows = [[0.0, 0.1, 0.2, 0.3], [0.5, 0.2, 0.2, 0.2], [0.6, 0.7, 0.8, 0.4], [0.4, 0.6, 0.9, 0.7]]
    return matrix("start a b+c d", "a b c d", rows)


@pytest.mark.parametrize(
    ("name", "value", "cells"),
    [
        ("acc", (0.70 + 0.84 + 0.86) / 3, 3),
        ("aia", (0.90 + (0.80 + 0.88) / 2 + (0.70 + 0.84 + 0.86) / 3) / 3, 6),
        ("bwt.gem", -0.120, 2),
        ("bwt.lifelong", (-0.20 / 0.90 - 0.04 / 0.88) / 2, 2),
        ("fwt.gem", ((0.40 - 0.20) + (0.55 - 0.30)) / 2, 2),
        ("fgt.chaudhry", 0.120, 2),
        ("plasticity", (0.90 + 0.88 + 0.86) / 3, 3),
    ],
)
def test_the_example_checked_by_hand(by_hand: ResultMatrix, name: str, value: float, cells: int) -> None:
    assert METRICS[name](by_hand) == (pytest.approx(value), cells)


def test_the_published_digits_of_the_example(by_hand: ResultMatrix) -> None:
    shown = {name: f"{METRICS[name](by_hand).value:.3f}" for name in ("bwt.gem", "bwt.lifelong", "fgt.chaudhry")}
    assert shown == {"bwt.gem": "-0.120", "bwt.lifelong": "-0.134", "fgt.chaudhry": "0.120"}


@pytest.mark.parametrize(
    ("name", "value", "cells"),
    [
        ("acc", 2.6 / 4, 4),
        ("aia", (0.5 + 2.1 / 3 + 2.6 / 4) / 3, 8),
        ("bwt.gem", (-0.1 - 0.1 + 0.1) / 3, 3),
        ("bwt.lifelong", (-0.1 / 0.5 - 0.1 / 0.7 + 0.1 / 0.8) / 3, 3),
        ("fwt.gem", (0.1 + 0.0 + 0.1) / 3, 3),
        ("fgt.chaudhry", (0.2 + 0.1 - 0.1) / 3, 3),
        ("plasticity", (0.5 + 0.7 + 0.8 + 0.7) / 4, 4),
    ],
)
def test_sites_that_arrive_together_share_a_diagonal_row(grouped: ResultMatrix, name: str, value: float, cells: int) -> None:
    assert grouped.arrival == (1, 2, 2, 3)
    assert METRICS[name](grouped) == (pytest.approx(value), cells)


def test_empty_cells_are_left_out_and_counted() -> None:
    holes = matrix("start a b c", "a b c", [[0.1, nan, 0.3], [0.9, nan, 0.5], [nan, nan, 0.6], [0.7, nan, 0.8]])
    assert METRICS["acc"](holes) == (pytest.approx(0.75), 2)
    assert METRICS["aia"](holes) == (pytest.approx((0.9 + 0.75) / 2), 3)
    assert METRICS["bwt.gem"](holes) == (pytest.approx(-0.2), 1)
    assert METRICS["fgt.chaudhry"](holes) == (pytest.approx(0.2), 1)
    assert METRICS["fwt.gem"](holes) == (pytest.approx(0.3), 1)
    assert METRICS["plasticity"](holes) == (pytest.approx(0.85), 2)


def test_a_site_learnt_to_nothing_has_no_relative_loss() -> None:
    zero = matrix("start a b c", "a b c", [[0, 0, 0], [0.0, 0.1, 0], [0.2, 0.5, 0], [0.3, 0.4, 0.9]])
    assert METRICS["bwt.gem"](zero) == (pytest.approx((0.3 - 0.1) / 2), 2)
    assert METRICS["bwt.lifelong"](zero) == (pytest.approx(-0.2), 1)


def test_a_single_site_has_nothing_to_forget() -> None:
    one = matrix("start a", "a", [[0.1], [0.8]])
    assert METRICS["acc"](one) == METRICS["aia"](one) == METRICS["plasticity"](one) == (pytest.approx(0.8), 1)
    for name in ("bwt.gem", "bwt.lifelong", "fwt.gem", "fgt.chaudhry"):
        assert isnan(METRICS[name](one).value) and METRICS[name](one).cells == 0


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_takes_a_matrix_without_rows(name: str) -> None:
    assert isnan(METRICS[name](ResultMatrix()).value) and METRICS[name](ResultMatrix()).cells == 0


def test_a_site_that_never_arrives_counts_in_no_metric_of_those_that_were_learnt() -> None:
    guest = matrix("start a", "a guest", [[0.1, 0.2], [0.8, 0.4]])
    assert guest.arrival == (1, 0)
    assert METRICS["acc"](guest) == (pytest.approx(0.8), 1)
    assert METRICS["plasticity"](guest) == (pytest.approx(0.8), 1)


def test_drop_starts_at_the_arrival(grouped: ResultMatrix) -> None:
    expected = [[nan] * 4, [0, nan, nan, nan], [0.1, 0, 0, nan], [-0.1, -0.1, 0.1, 0]]
    np.testing.assert_allclose(drop(grouped), expected, atol=1e-12)


def test_a_row_is_a_new_value_and_new_columns_may_appear() -> None:
    before = ResultMatrix().with_row("start", {"a": 0.1})
    after = before.with_row("a", {"a": 0.5}).with_row("b", {"b": 0.6, "a": 0.4})
    assert before.sites == ("a",) and before.stages == ("start",)
    assert after.sites == ("a", "b") and after.arrival == (1, 2)
    np.testing.assert_allclose(after.values, [[0.1, nan], [0.5, nan], [0.4, 0.6]])


def test_csv_is_exact_and_comes_back(grouped: ResultMatrix) -> None:
    small = matrix("start a b+c", "a b c", [[0, nan, 1 / 3], [0.5, nan, 0.25], [1, nan, 2 / 3]])
    assert small.to_csv() == ("stage,a,b,c\nstart,0.000000,,0.333333\na,0.500000,,0.250000\nb+c,1.000000,,0.666667\n")
    back = ResultMatrix.from_csv(grouped.to_csv())
    assert (back.sites, back.stages, back.arrival) == (grouped.sites, grouped.stages, grouped.arrival)
    np.testing.assert_array_equal(back.values, grouped.values)
    assert ResultMatrix.from_csv(grouped.to_csv(), arrival=[1, 1, 1, 1]).arrival == (1, 1, 1, 1)


@pytest.mark.parametrize("text", ["", "site,a\n", "stage,a,b\nstart,0.1\n", "stage,a\nstart,good\n"])
def test_text_that_is_no_matrix_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no result matrix"):
        ResultMatrix.from_csv(text)


@pytest.mark.parametrize(("retained", "iou", "published"), [(0.05, 0.7095, 0.6626), (1.0, 0.7202, 0.5659)])
def test_normdel_reproduces_both_published_points(retained: float, iou: float, published: float) -> None:
    assert normdel(iou, retained) == pytest.approx(published, abs=5e-4)


def test_site_dice_gives_each_class_the_same_weight() -> None:
    rows: list[Row] = [
        {"class": "liver", "dice": 0.9},
        {"class": "liver", "dice": 0.7},
        {"class": "liver", "dice": None},
        {"class": "tumor", "dice": 0.2},
        {"class": "cyst", "dice": None},
    ]
    assert site_dice(rows) == pytest.approx((0.8 + 0.2) / 2)
    assert isnan(site_dice([])) and isnan(site_dice(rows[4:]))


def test_final_metrics_hold_every_id(by_hand: ResultMatrix) -> None:
    rows: list[Row] = [
        {"class": "liver", "dice": 0.8, "dice.all": 0.8, "iou": 0.7, "hd95": 4.0, "nsd": 0.9},
        {"class": "liver", "dice": 0.6, "dice.all": 0.6, "iou": 0.5, "hd95": None},
        {"class": "tumor", "dice": None, "dice.all": 1.0, "iou": None},
    ]
    final = final_metrics(by_hand, rows, retained=0.5)
    assert list(final) == [*METRICS, "dice", "dice.all", "hd95", "nsd", "normdel"]
    assert final["dice"] == (pytest.approx(0.7), 2)
    assert final["dice.all"] == (pytest.approx(0.8), 3)
    assert final["hd95"] == (4.0, 1) and final["nsd"] == (0.9, 1)
    assert final["normdel"] == (pytest.approx(normdel(0.6, 0.5)), 2)
    assert isnan(final_metrics(by_hand, [], 0.5)["normdel"].value)


def test_a_mean_leaves_out_what_is_missing() -> None:
    assert mean([0.5, None, nan, 1.5]) == (1.0, 2)


# The sites' own models ------------------------------------------------------------------------------------------------


def test_own_results_stand_beside_r_in_its_last_line_and_come_back(by_hand: ResultMatrix) -> None:
    with_own = replace(by_hand, own={"a": 0.75, "c": nan})
    lines = with_own.to_csv().splitlines()
    assert lines[0] == "stage,a,b,c,a.own,c.own"
    assert lines[3:] == ["b,0.800000,0.880000,0.550000,,", "c,0.700000,0.840000,0.860000,0.750000,"]
    back = ResultMatrix.from_csv(with_own.to_csv())
    assert (back.sites, back.arrival, back.own["a"]) == (("a", "b", "c"), (1, 2, 3), 0.75) and isnan(back.own["c"])
    np.testing.assert_array_equal(back.values, by_hand.values)
    assert ResultMatrix.from_csv(by_hand.to_csv()).own == {}


def test_a_site_whose_name_merely_ends_so_keeps_its_column() -> None:
    odd = ResultMatrix().with_row("start", {"x.own": 0.5})
    back = ResultMatrix.from_csv(odd.to_csv())
    assert (back.sites, back.own, back.values.tolist()) == (("x.own",), {}, [[0.5]])


def test_own_results_enter_no_metric_but_their_own(by_hand: ResultMatrix) -> None:
    plain, tuned = (final_metrics(made, [], 0.5) for made in (by_hand, replace(by_hand, own={"a": 0.9, "b": nan, "c": 0.7})))
    assert tuned.pop("acc.own") == (pytest.approx(0.8), 2)
    np.testing.assert_equal(tuned, plain)
    assert "acc.own" in MEANINGS and "acc.own" not in plain


def test_another_stage_leaves_own_results_behind(by_hand: ResultMatrix) -> None:
    assert replace(by_hand, own={"a": 0.9}).with_row("d", {"a": 0.1}).own == {}
