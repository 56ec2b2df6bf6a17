"""The statistics of studies against numbers that a person can check by hand, and against published ones."""

from math import inf, isnan, nan

import numpy as np
import pytest
from scipy.stats import friedmanchisquare

from simulations.studies.noise import chances, holm, interval, signed_rank
from simulations.studies.ranks import critical_difference, ranking
from simulations.studies.scales import SCALES, rounded, shown
from simulations.studies.statistics import Outcome, bound_differences, differences, summaries
from simulations.studies.verdict import verdict


def runs(metric: str = "acc", /, order: str = "a-first", **values: list[float | None]) -> list[Outcome]:
    """One order; seeds 0, 1, ... in the lists of values by variant; None: measured, but nothing came of it."""
    return [Outcome(name, seed, order, {metric: value}) for name, listed in values.items() for seed, value in enumerate(listed)]


# Means ----------------------------------------------------------------------------------------------------------------


def test_a_mean_and_its_spread_are_over_seeds_and_orders():
    """.1, .2, .3, .4: mean .25; squares of .15 .05 .05 .15 sum to .05, over 3 .016667, its root .129099."""
    outcomes = runs(plain=[0.1, 0.2]) + runs(order="b-first", plain=[0.3, 0.4])
    found = summaries(outcomes, "acc")["plain"]
    assert (found.runs, found.n) == (4, 4)
    assert (found.mean, found.deviation) == (pytest.approx(0.25), pytest.approx(0.129099, abs=1e-6))


def test_what_was_not_measured_is_left_out_and_counted():
    outcomes = [*runs(plain=[0.2, nan, None, 0.4]), Outcome("plain", 9, "a-first", {"steps": 3.0})]
    found = summaries(outcomes, "acc")["plain"]
    assert (found.runs, found.n, found.mean) == (5, 2, pytest.approx(0.3))


def test_one_run_has_a_mean_and_no_spread_and_none_has_neither():
    found = summaries(runs(plain=[0.2], other=[nan]), "acc")
    assert found["plain"].mean == 0.2 and isnan(found["plain"].deviation)
    assert isnan(found["other"].mean) and isnan(found["other"].deviation)


def test_two_runs_of_one_seed_and_order_are_refused():
    with pytest.raises(ValueError, match="two runs of plain have seed 0 and order a-first"):
        summaries(runs(plain=[0.1]) + runs(plain=[0.2]), "acc")


def test_an_infinite_value_is_refused():
    with pytest.raises(ValueError, match="plain, seed 0, order a-first: acc is infinite"):
        runs(plain=[inf])


# Paired differences ---------------------------------------------------------------------------------------------------


def test_pairs_have_equal_seed_and_order_and_the_others_are_left_out():
    """Seed 0: .5 - .1; seed 1: .3 - .2; seed 2 lacks plain, seed 3 gin. So .4 and .1, mean .25."""
    found = differences(runs(plain=[0.1, 0.2, nan, 0.9], gin=[0.5, 0.3, 0.8]), "acc", "plain")["gin"]
    assert (found.pairs, found.seeds, found.orders, found.mean) == (2, 2, 1, pytest.approx(0.25))


def test_with_one_order_the_interval_is_the_bootstrap_over_seeds_stretched_to_students_reach():
    """Five seeds: t(4) 2.776 times the standard error of the mean, where the draws reach 1.96 times their deviation."""
    values = np.array([0.3, -0.1, 0.25, 0.7, 0.05])
    drawn = np.random.default_rng(0).choice(values, (10_000, 5)).mean(axis=1)
    stretch = 2.776 * (values.std(ddof=1) / np.sqrt(5)) / (1.96 * drawn.std())
    assert 1.5 < stretch < 1.7  # root of 5 / 4, times 2.776 / 1.96: 1.58
    wanted = values.mean() + stretch * (np.quantile(drawn, (0.025, 0.975)) - values.mean())
    assert interval(values[None]) == pytest.approx(tuple(wanted), abs=1e-3)


def test_many_seeds_do_not_make_a_result_sure_that_differs_from_order_to_order():
    """Ten seeds say .4 in one order and .6 in the other. Over the seeds nothing varies; over the orders .5 +- .1: t = 5 with
    one degree of freedom, p = 2 / pi atan(1 / 5) = .126."""
    grid = np.array([[0.4] * 10, [0.6] * 10])
    assert chances(grid) == (pytest.approx(2 / np.pi * np.arctan(1 / 5)), 0.0)
    low, high = interval(grid)
    assert low < 0 < 1 < high


def test_student_by_hand():
    """1 and 3: mean 2, standard error 1, one degree of freedom: p = 2 / pi atan(1 / 2). One seed: it is over the orders."""
    expected = pytest.approx(2 / np.pi * np.arctan(1 / 2))
    assert chances(np.array([[1.0, 3.0]])) == (expected, expected)
    assert chances(np.array([[1.0], [3.0]]))[0] == expected and isnan(chances(np.array([[1.0], [3.0]]))[1])
    assert chances(np.zeros((2, 3))) == (1.0, 1.0) and isnan(chances(np.array([[1.0]]))[0])


@pytest.mark.parametrize(("seeds", "orders"), [(3, 2), (6, 1), (5, 3), (10, 2)])
def test_intervals_cover_at_small_numbers(seeds, orders, monkeypatch):
    """Order, seed and run each vary by 1 (with one order it is that order's own effect that is sought)."""
    monkeypatch.setattr("simulations.studies.noise.DRAWS", 400)
    rng = np.random.default_rng(3)
    covered = sum(low <= 0 <= high for low, high in (interval(_noise(rng, 1, orders, seeds)[0]) for _ in range(500)))
    assert covered / 500 > 0.925


def test_an_order_that_repeats_another_makes_nothing_surer():
    """The runs of a seed are drawn together: drawn anew in each order, equal rows would narrow the interval by some 1.2."""
    values = np.array([[0.3, -0.1, 0.25, 0.7, 0.05]])
    assert interval(np.repeat(values, 2, axis=0)) == pytest.approx(interval(values))


def test_an_empty_cell_of_the_grid_weighs_nothing():
    """A draw of nothing but the empty cell does not count either; and an empty row is none."""
    assert interval(np.array([[2.0, 2.0, 2.0], [nan, 2.0, 2.0]])) == (2.0, 2.0)
    values = np.array([[0.3, -0.1, 0.25]])
    assert chances(np.vstack([values, np.full((1, 3), nan)])) == chances(values)
    assert chances(np.array([[1.0, 3.0], [nan, 3.0]]))[1] == chances(np.array([[1.0, 3.0]]))[1]


def test_two_seeds_and_two_orders_have_no_interval():
    assert all(isnan(end) for end in (*interval(np.array([[0.1, 0.2], [0.3, 0.4]])), *interval(np.array([[0.1, 0.2]]))))


def test_one_pair_has_no_interval():
    found = differences(runs(plain=[0.1], gin=[0.5]), "acc", "plain")["gin"]
    assert (found.pairs, found.mean, found.least_p) == (1, pytest.approx(0.4), 1.0)
    assert isnan(found.low) and isnan(found.high) and not found.clear


def test_without_a_pair_everything_is_empty():
    found = differences([*runs(plain=[0.1]), *runs(order="b-first", gin=[0.5])], "acc", "plain")["gin"]
    assert found.pairs == 0 and all(isnan(value) for value in (found.mean, found.low, found.p, found.least_p))


def test_three_pairs_get_the_smallest_p_that_there_is_and_no_p():
    """2 of the 2^3 = 8 ways to give three differences their signs are all alike: .25."""
    found = differences(runs(plain=[0.1, 0.1, 0.1], gin=[0.4, 0.41, 0.42]), "acc", "plain")["gin"]
    assert isnan(found.p) and isnan(found.wilcoxon) and found.least_p == 0.25
    assert found.low > 0 and not found.clear, "an interval of three pairs proves nothing"


def test_pairs_of_one_seed_are_one_observation():
    """Four seeds in three orders are twelve pairs, all better, and still four seeds: 2 / 2^4, and nothing is clear."""
    outcomes = [one for k in "abc" for one in runs(order=k, plain=[0.1] * 4, gin=[0.5, 0.51, 0.52, 0.53])]
    found = differences(outcomes, "acc", "plain")["gin"]
    assert (found.pairs, found.units, found.least_p, found.clear) == (12, 4, 0.125, False)
    assert isnan(found.p) and isnan(found.wilcoxon)


def test_the_signed_rank_test_by_hand():
    """1, 2, 3, 4, 5, -6 (tenths): the ranks of the negative sum to 6. Of the 64 ways to give signs, those whose negative ranks
    sum to 6 or less are 1 + 1 + 1 + 2 + 2 + 3 + 4 = 14 (partitions into unlike parts up to 6); both tails: 28 / 64."""
    assert signed_rank([0.1, 0.2, 0.3, 0.4, 0.5, -0.6]) == pytest.approx(28 / 64)
    assert signed_rank([1.0] * 6) == pytest.approx(2 / 64), "exact with ties too"
    assert signed_rank([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 0.0]) == pytest.approx(2 / 64), "no difference has no sign"
    assert signed_rank([0.0] * 7) == 1.0


def test_holm_by_hand():
    """.01 x 4; .02 x 3; .03 x 2 = .06; .5 x 1. And where the next would fall below the last it stays: .02 x 2, then .03."""
    corrected = holm({"c": 0.03, "a": 0.01, "d": 0.5, "b": 0.02})
    assert corrected == {name: pytest.approx(p) for name, p in {"a": 0.04, "b": 0.06, "c": 0.06, "d": 0.5}.items()}
    assert holm({"a": 0.02, "b": 0.03}) == {"a": 0.04, "b": 0.04}
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}


def test_p_values_are_corrected_over_the_variants_that_were_tested():
    """Six wins of six: Wilcoxon's p = 2 / 64 each, two tests: 4 / 64. Of .1 to .6 the mean is .35, its error .07638, t 4.583,
    p .0059; three tests, that of five (.3, .07071, t 4.243, p .0132) the largest. The fourth has four pairs: not tested."""
    rising = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    found = differences(runs(plain=[0.0] * 6, gin=rising, ewc=rising, five=rising[:5], few=rising[:4]), "acc", "plain")
    assert (found["gin"].wilcoxon, found["ewc"].wilcoxon) == (pytest.approx(4 / 64), pytest.approx(4 / 64))
    assert isnan(found["five"].wilcoxon) and found["five"].least_p == 2 / 32
    assert [found[name].p for name in ("gin", "ewc", "five")] == pytest.approx([0.0178, 0.0178, 0.0178], abs=1e-4)
    assert isnan(found["few"].p) and found["gin"].clear and not found["few"].clear


def test_floating_point_makes_no_difference_of_equal_runs():
    """.1 + .2 is not .3 to a computer, and .3 - .2 is not .2 - .1."""
    found = differences(runs(plain=[0.3] * 6, same=[0.1 + 0.2] * 6), "acc", "plain")["same"]
    assert (found.mean, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)


def test_an_unknown_reference_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="reference 'plian': no run is of that variant; did you mean 'plain'?"):
        differences(runs(plain=[0.1], gin=[0.2]), "acc", "plian")


# How often chance alone wins ------------------------------------------------------------------------------------------


def _noise(rng: np.random.Generator, variants: int, orders: int, seeds: int) -> np.ndarray:
    """[variants, orders, seeds]: each variant has its own luck with an order, with a seed, and with a run, all of size 1."""
    of_order = rng.normal(size=(variants, orders, 1)) if orders > 1 else 0.0
    return of_order + rng.normal(size=(variants, 1, seeds)) + rng.normal(size=(variants, orders, seeds))


def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what a verdict shows and does not rest on."""
    monkeypatch.setattr("simulations.studies.statistics.interval", lambda grid: (nan, nan))
    monkeypatch.setattr("simulations.studies.statistics.signed_rank", lambda units: nan)


def _won(studies: int, variants: int, seeds: int, orders: int, effect: float) -> float:
    """The share of studies in which the verdict names a winner; the first variant is `effect` better than it looks by luck."""
    rng, won = np.random.default_rng(7), 0
    for _ in range(studies):
        values = _noise(rng, variants + 1, orders, seeds)
        values[1] += effect
        outcomes = [Outcome(f"v{v}", s, f"o{o}", {"acc": value}) for (v, o, s), value in np.ndenumerate(values)]
        won += " won over " in verdict(outcomes, "acc", "v0")
    return won / studies


@pytest.mark.parametrize("variants", [1, 8])
@pytest.mark.parametrize(("seeds", "orders"), [(3, 2), (6, 1), (5, 3), (10, 2)])
def test_without_any_difference_at_most_one_study_in_twenty_has_a_winner(seeds, orders, variants, monkeypatch):
    """.05 in the long run; of 200 studies up to .08 by chance (two standard errors). The bootstrap alone gave up to half."""
    _quickly(monkeypatch)
    assert _won(200, variants, seeds, orders, 0.0) <= 0.08


@pytest.mark.parametrize(("seeds", "orders"), [(6, 1), (5, 3), (10, 5)])
def test_a_large_difference_wins_in_most_studies(seeds, orders, monkeypatch):
    """Six times what a run varies by is found whatever the size of the study, against one variant."""
    _quickly(monkeypatch)
    assert _won(100, 1, seeds, orders, 6.0) > 0.8


def test_the_order_of_the_runs_changes_nothing():
    rng = np.random.default_rng(5)
    orders = {order: {name: rng.random(4).tolist() for name in ("plain", "gin", "ewc")} for order in ("a", "b", "c")}
    outcomes = [one for order, values in orders.items() for one in runs(order=order, **values)]
    mixed = [outcomes[i] for i in rng.permutation(len(outcomes))]
    assert mixed != outcomes
    for study in (summaries, ranking):
        assert study(mixed, "acc") == study(outcomes, "acc")
    assert differences(mixed, "acc", "plain") == differences(outcomes, "acc", "plain")
    assert verdict(mixed, "acc", "plain") == verdict(outcomes, "acc", "plain")


# Ranks ----------------------------------------------------------------------------------------------------------------

DEMSAR = """.763 .768 .771 .798|.599 .591 .590 .569|.954 .971 .968 .967|.628 .661 .654 .657|.882 .888 .886 .898
.936 .931 .916 .931|.661 .668 .609 .685|.583 .583 .563 .625|.775 .838 .866 .875|1 1 1 1|.940 .962 .965 .962
.619 .666 .614 .669|.972 .981 .9751 .975|.957 .978 .946 .970"""
"""Demšar, 2006, table 6: four variants of C4.5 on 14 data sets. One .975 is told from another, as its ranks do."""


def demsar(values: str = DEMSAR) -> list[Outcome]:
    names, rows = ("C4.5", "C4.5+m", "C4.5+cf", "C4.5+m+cf"), values.replace("\n", "|").split("|")
    return runs(**{name: [float(row.split()[k]) for row in rows] for k, name in enumerate(names)})


def test_ranks_are_those_of_the_published_example():
    found = ranking(demsar(), "acc")
    assert list(found.ranks) == ["C4.5+m+cf", "C4.5+m", "C4.5+cf", "C4.5"]
    assert [round(rank, 3) for rank in found.ranks.values()] == [1.964, 2.0, 2.893, 3.143]
    assert found.blocks == 14
    # the paper: the difference between the best and the worst is already smaller than 1.25, and nothing can be told apart
    assert round(found.critical, 2) == 1.25 and found.groups == (tuple(found.ranks),)


def test_the_critical_values_are_the_published_ones():
    """q of .05 by number of variants (Demšar, 2006, table 5); with 6 N = k (k + 1) the critical difference is q itself."""
    published = {2: 1.960, 3: 2.343, 4: 2.569, 5: 2.728, 6: 2.850, 10: 3.164}
    for k, q in published.items():
        assert critical_difference(k, 1) / np.sqrt(k * (k + 1) / 6) == pytest.approx(q, abs=1e-3)
    assert critical_difference(2, 16) == pytest.approx(1.96 / 4, abs=1e-3)
    assert isnan(critical_difference(1, 3))


def test_ties_share_their_ranks():
    """Blocks .5 .5 .1 and .3 .2 .2: ranks 1.5 1.5 3 and 1 2.5 2.5."""
    found = ranking(runs(x=[0.5, 0.3], y=[0.5, 0.2], z=[0.1, 0.2]), "acc")
    assert found.ranks == {"x": 1.25, "y": 2.0, "z": 2.75}


def test_where_lower_is_better_the_lowest_comes_first():
    assert list(ranking(runs("hd95", x=[5.0, 4.0], y=[3.0, 2.0]), "hd95").ranks) == ["y", "x"]
    lower = {name for name, scale in SCALES.items() if not scale.higher}
    assert lower == {"fgt.chaudhry", "hd95", "bytes", "seconds", "steps", "cases"}


def test_only_runs_that_all_variants_share_are_ranked():
    """Seed 1 lacks y, seed 2 x; z was never measured and is no reason to leave out the rest."""
    found = ranking(runs(x=[0.1, 0.9, nan, 0.3], y=[0.2, nan, 0.1, 0.4], z=[nan] * 4), "acc")
    assert (found.ranks, found.blocks, found.left_out) == ({"y": 1.0, "x": 2.0}, 2, 2)


def test_friedmans_p_is_scipys_and_all_ties_give_one():
    values = {"x": [0.1, 0.4, 0.3, 0.2], "y": [0.2, 0.5, 0.6, 0.1], "z": [0.7, 0.8, 0.9, 0.4]}
    assert ranking(runs(**values), "acc").p == pytest.approx(friedmanchisquare(*values.values()).pvalue)
    level = ranking(runs(x=[0.1, 0.4], y=[0.1, 0.4], z=[0.1, 0.4]), "acc")
    assert (level.ranks, level.p, level.groups) == ({"x": 2.0, "y": 2.0, "z": 2.0}, 1.0, (("x", "y", "z"),))


def test_groups_are_neighbours_less_than_the_critical_difference_apart():
    """16 seeds, critical difference 2.569 sqrt(20 / 96) = 1.173. v, w, x and y come 1st to 4th, but w and v
    change places in 6 seeds, and x and y in 4: ranks 1.375, 1.625, 3.25, 3.75, so v-w and x-y are near, w-x 1.625 apart."""
    first, second = [0.8] * 10 + [0.7] * 6, [0.7] * 10 + [0.8] * 6
    third, fourth = [0.6] * 12 + [0.5] * 4, [0.5] * 12 + [0.6] * 4
    found = ranking(runs(v=first, w=second, x=third, y=fourth), "acc")
    assert found.ranks == {"v": 1.375, "w": 1.625, "x": 3.25, "y": 3.75}
    assert found.p < 0.05 and found.groups == (("v", "w"), ("x", "y"))


def test_groups_may_overlap_and_none_lies_within_another():
    """Six seeds, always x, y, z: ranks 1, 2, 3, critical difference 2.343 sqrt(12 / 36) = 1.353: x-y and y-z, not x-z."""
    assert ranking(runs(x=[0.9] * 6, y=[0.5] * 6, z=[0.1] * 6), "acc").groups == (("x", "y"), ("y", "z"))
    # forty seeds: .524, nobody is near anybody
    assert ranking(runs(x=[0.9] * 40, y=[0.5] * 40, z=[0.1] * 40), "acc").groups == ()


def test_where_friedmans_test_finds_nothing_nobody_is_told_from_anybody():
    """Six blocks of ranks, sums 10, 18, 18, 18, 26. Chi-square 12 / 180 (100 + 3 x 324 + 676) - 108 = 8.53, 4 degrees
    of freedom, p .074; yet the first and the last are 16 / 6 = 2.67 apart, over the 2.728 sqrt(30 / 36) = 2.49 of Nemenyi."""
    ranks = ["12345", "14325", "21354", "25314", "21354", "25314"]
    found = ranking(runs(**{name: [-float(row[k]) for row in ranks] for k, name in enumerate("vwxyz")}), "acc")
    assert found.ranks["z"] - found.ranks["v"] > found.critical
    assert found.p == pytest.approx(0.074, abs=1e-3) and [set(group) for group in found.groups] == [set("vwxyz")]


def test_with_less_than_two_variants_or_no_shared_run_there_is_nothing_to_rank():
    alone = ranking(runs(x=[0.1, 0.2]), "acc")
    assert alone.ranks == {"x": 1.0} and isnan(alone.p) and isnan(alone.critical) and alone.groups == ()
    apart = ranking([*runs(x=[0.1]), *runs(order="b-first", y=[0.2])], "acc")
    assert (apart.ranks, apart.blocks, apart.left_out) == ({}, 0, 2)
    assert ranking([], "acc").ranks == {}


def test_a_metric_without_a_direction_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="there is no metric 'bwt.gme'; did you mean 'bwt.gem'?"):
        ranking(runs(x=[0.1]), "bwt.gme")


# Numbers and sentences ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "metric", "text"),
    [
        (0.7164, "acc", ".716"), (-0.404, "bwt.gem", "-.404"), (1.0, "acc", "1.000"), (-0.0001, "acc", ".000"),
        (3.456, "hd95", "3.46"), (12_340_000.0, "bytes", "12.3"), (784.0, "steps", "784"), (nan, "acc", "-"),
    ],
)  # fmt: skip
def test_numbers_have_sensible_digits(value, metric, text):
    assert shown(value, metric) == text


def test_a_difference_always_has_its_sign():
    assert (shown(0.2764, "acc", sign=True), shown(-0.25, "hd95", sign=True)) == ("+.276", "-.25")
    assert rounded(0.2764, "acc", sign=True) == "+0.276"


def test_the_verdict_names_winner_lead_and_how_sure():
    """Always .1 better: the interval is .1 to .1, and no chance at all."""
    outcomes = runs(plain=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6], gin=[0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    assert verdict(outcomes, "acc", "plain") == (
        "gin won over plain, acc +.100 (95 % +.100 to +.100; Holm's p <.0001; 6 pairs: 6 seeds, 1 order), "
        "which is more than noise in the 1 order tried."
    )


def test_the_verdict_knows_which_way_is_better():
    lower = runs("hd95", plain=[4.0] * 6, gin=[3.0] * 6)
    worse = runs("hd95", worse=[5.0] * 6)
    assert verdict([*lower, *worse], "hd95", "plain").startswith("gin won over plain, hd95 -1.00 mm (95 % -1.00 to -1.00;")
    assert verdict(lower, "hd95", "gin").startswith("gin, the reference, won over plain, the next best, hd95 +1.00 mm")


def test_a_lead_that_may_be_noise_is_no_win():
    """+.2 and -.1 in turn: mean +.05, its error .0671, t .745, p .49."""
    up_and_down = verdict(runs(plain=[0.5] * 6, gin=[0.7, 0.4] * 3), "acc", "plain")
    assert up_and_down.startswith("No winner: gin looks better than plain, but not surely, acc +.050 (95 % -.")
    assert up_and_down.endswith("which may be noise.")
    behind = verdict(runs(plain=[0.5] * 6, gin=[0.3, 0.6] * 3), "acc", "plain")
    assert behind.startswith("No winner: gin comes nearest to plain, the reference, acc -.050")


def test_what_cannot_be_told_from_the_winner_is_named():
    """ewc is now .1 above gin, now .1 below, and both far above plain; far is behind them in each run."""
    outcomes = runs(plain=[0.1] * 6, gin=[0.51] * 6, ewc=[0.6, 0.4] * 3, far=[0.2] * 6)
    assert verdict(outcomes, "acc", "plain").endswith("; gin cannot be told from ewc.")


def test_too_few_runs_are_too_few_whatever_they_say():
    sentence = verdict(runs(plain=[0.1, 0.1, 0.1], gin=[0.8, 0.8, 0.8]), "acc", "plain")
    assert sentence == (
        "Too few runs to say: gin is ahead of plain, acc +.700 (3 pairs: 3 seeds, 1 order); 5 seeds (or orders) are needed."
    )


def test_one_lucky_run_does_not_outdo_what_many_runs_say():
    sentence = verdict(runs(plain=[0.1] * 6, gin=[0.3] * 6, lucky=[0.9]), "acc", "plain")
    assert sentence.startswith("gin won over plain") and sentence.endswith("; too few runs to say of lucky.")


def test_equal_runs_are_a_tie():
    assert verdict(runs(plain=[0.3] * 6, same=[0.3] * 6), "acc", "plain").startswith(
        "A tie: same and plain are level in every run"
    )


def test_one_variant_alone_is_nothing_to_compare():
    sentence = "Nothing to compare: plain has acc .300 over 2 runs, and no other variant has a run of the same seed and order."
    assert verdict(runs(plain=[0.2, 0.4]), "acc", "plain") == sentence
    assert verdict(runs(plain=[0.2, 0.4], gin=[nan, nan]), "acc", "plain") == sentence


def test_what_is_sure_in_the_orders_tried_only_is_said_to_be():
    """Always better, by .4 in one order and by .6 in the other: p over the orders .126, as above."""
    outcomes = [*runs(plain=[0.1] * 10, gin=[0.5] * 10), *runs(order="b-first", plain=[0.1] * 10, gin=[0.7] * 10)]
    sentence = verdict(outcomes, "acc", "plain")
    assert sentence.startswith("No winner: gin looks better than plain, but not surely, acc +.500 (95 % -")
    assert "Holm's p .13;" in sentence
    assert sentence.endswith("which is more than noise in the 2 orders tried, and may be noise in others.")


def test_one_that_surely_is_better_comes_before_one_that_looks_better_still():
    outcomes = runs(plain=[0.1] * 6, gin=[0.3, 0.31, 0.3, 0.31, 0.3, 0.31], wild=[0.0, 0.9] * 3)
    sentence = verdict(outcomes, "acc", "plain")
    assert sentence.startswith("gin won over plain") and sentence.endswith("; gin cannot be told from wild.")


# Bounds ---------------------------------------------------------------------------------------------------------------


def bound(name: str, values: list[float], order: str = "a-first") -> list[Outcome]:
    """Runs of a yardstick that are the same in every order."""
    return [Outcome(name, seed, order, {"acc": value}, bound=True, run=f"{name}{seed}") for seed, value in enumerate(values)]


def test_a_run_that_several_cells_share_counts_once():
    """.8 and .9 in both orders are two runs, deviation .1 / sqrt 2; four would have .0577."""
    found = summaries(bound("joint", [0.8, 0.9]) + bound("joint", [0.8, 0.9], "b-first"), "acc")["joint"]
    assert (found.runs, found.n, found.mean, found.deviation) == (2, 2, pytest.approx(0.85), pytest.approx(0.1 / np.sqrt(2)))


def test_bounds_take_no_part():
    """The verdict, its correction and the ranks are as if they were not there, and what they differ by is still told."""
    ours = runs(plain=[0.1] * 6, gin=[0.3, 0.31, 0.3, 0.31, 0.3, 0.31])
    all_of_them = [*ours, *bound("joint", [0.9] * 6), *bound("sequential", [0.05] * 6)]
    assert verdict(all_of_them, "acc", "plain") == verdict(ours, "acc", "plain")
    assert differences(all_of_them, "acc", "plain") == differences(ours, "acc", "plain")
    assert ranking(all_of_them, "acc") == ranking(ours, "acc")
    found = bound_differences(all_of_them, "acc", "plain")
    assert list(found) == ["joint", "sequential"] and found["joint"].mean == pytest.approx(0.8)
    assert isnan(found["joint"].p) and not found["joint"].clear


def test_a_bound_may_be_the_reference():
    outcomes = [*runs(plain=[0.1] * 6), *bound("joint", [0.9] * 6)]
    assert verdict(outcomes, "acc", "joint").startswith("joint, the reference, won over plain, the next best, acc -.800")
    assert bound_differences(outcomes, "acc", "joint") == {}
