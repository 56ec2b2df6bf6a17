"""What a hospital may keep at home: nothing else changes, and the server's numbers are the very same."""

import json
from dataclasses import replace

import numpy as np
import pytest

from clients.withhold import kept_home, taken_out, withhold
from configs.load import load_site
from configs.site import Shares, SiteFile
from packing import pack_reply, unpack_reply
from server.classes import class_dice
from server.conduct import conduct
from server.digest import read_run
from server.metrics import ResultMatrix, final_metrics, site_dice
from server.replies import why_incomplete
from server.report import write_report
from simulations.local import LocalSites
from tests.site_orders import initial, order
from tests.test_loop import rows, table
from tests.test_remembered import EAST, NORTH, UP, remembered, three_sites
from tests.test_remembered import reply as told
from wire import Reply, class_sums

GONE = {"id": "x", "arrived": 0, "visits": 2, "uniqueness": 0.5, "twin": "y", "similarity": 0.9}
ROW = {"memory": 2, "memory_domains": {"scanner a": 2}, "evicted": [GONE], "epsilon": 1.0, "epsilon_total": 2.0}
TRAIN = Reply(
    run="r",
    round=1,
    task="train",
    site="a",
    weights={"w": np.ones(2, np.float32)},
    ids=("x", "y"),
    sketches_NE=np.ones((2, 3), np.int8),
    mean_E=np.zeros(3, np.float32),
    rows=(ROW,),
)
CASES = (
    {"case": "c1", "class": "liver", "dice": 0.1, "dice.all": 0.1, "iou": 0.05, "hd95": 7.1, "nsd": 0.3, "voxels": 9},
    {"case": "c1", "class": "tumor", "dice": None, "dice.all": 1.0, "iou": None, "hd95": None, "nsd": None, "voxels": 0},
    {"case": "c2", "class": "liver", "dice": 0.2, "dice.all": 0.2, "iou": 0.1, "hd95": 2.9, "nsd": 0.7, "voxels": 4},
    {"case": "c3", "class": "liver", "dice": 0.7, "dice.all": 0.7, "iou": 0.5, "hd95": 1.3, "nsd": 0.9, "voxels": 5},
)
EVALUATED = Reply(run="r", round=1, task="evaluate", site="a", rows=CASES, classes=("liver", "tumor"))


# The policy -----------------------------------------------------------------------------------------------------------


def test_as_shipped_nothing_is_kept_at_home():
    assert withhold(TRAIN, Shares(), None) == TRAIN
    assert kept_home(SiteFile().shares, 0.5) == ()


@pytest.mark.parametrize(
    ("shares", "noise", "home"),
    [
        ({"sketches": "never"}, 2.0, ("sketches",)),
        ({"sketches": "noisy"}, None, ("sketches",)),
        ({"sketches": "noisy"}, 0.02, ()),
        ({"sketches": "noisy", "least_noise": 2}, 1.9, ("sketches",)),
        ({"sketches": "noisy", "least_noise": 2}, 2.0, ()),
        ({"case_metrics": False, "domains": False, "evictions": False}, None, ("case_metrics", "domains", "evictions")),
    ],
)
def test_what_stays_at_home_follows_from_the_policy_and_the_recipe_s_noise(shares, noise, home):
    assert kept_home(Shares(**shares), noise) == home


def test_without_sketches_nothing_leaves_that_was_found_by_comparing():
    left = withhold(TRAIN, Shares(sketches="never"), None)
    assert (left.ids, left.sketches_NE, left.mean_E) == ((), None, None)
    kept = {key: value for key, value in ROW.items() if "epsilon" not in key}
    assert left.rows == ({**kept, "evicted": [{"id": "x", "arrived": 0, "visits": 2}]},)
    assert left.weights is TRAIN.weights and left.withholds == ("sketches",)
    assert taken_out(TRAIN, left) == ["sketches"]


def test_domains_and_evictions_go_each_by_itself():
    domains = withhold(TRAIN, Shares(domains=False), None)
    evictions = withhold(TRAIN, Shares(evictions=False), None)
    assert domains.rows[0].keys() == ROW.keys() - {"memory_domains"} and taken_out(TRAIN, domains) == ["domains"]
    assert evictions.rows[0].keys() == ROW.keys() - {"evicted"} and taken_out(TRAIN, evictions) == ["evictions"]
    assert taken_out(EVALUATED, withhold(EVALUATED, Shares(evictions=False), None)) == []  # an evaluation has none


def test_case_metrics_leave_as_sums_over_the_cases_of_a_class():
    left = withhold(EVALUATED, Shares(case_metrics=False), None)
    liver, tumor = left.rows
    assert "c1" not in json.dumps(left.rows) and "voxels" not in json.dumps(left.rows)
    assert (liver["class"], liver["dice.sum"], liver["dice.cases"]) == ("liver", pytest.approx(1.0), 3)
    assert (liver["hd95.sum"], liver["hd95.cases"], liver["nsd.cases"]) == (pytest.approx(11.3), 3, 3)
    assert (tumor["dice.sum"], tumor["dice.cases"], tumor["dice.all.sum"], tumor["dice.all.cases"]) == (0, 0, 1, 1)
    assert unpack_reply(pack_reply(left)).rows == left.rows and why_incomplete(left) is None


def test_the_policy_is_read_from_the_site_file_and_mistakes_are_named(tmp_path):
    (tmp_path / "site.yaml").write_text("root: /data\nshares: {sketches: noisy, least_noise: 2, case_metrics: false}\n")
    assert load_site(tmp_path / "site.yaml").shares == Shares(sketches="noisy", least_noise=2, case_metrics=False)
    for text, words in [
        ("shares: {sketch: never}", "shares.sketch: unknown key; did you mean 'sketches'"),
        ("shares: {least_noise: 2}", "shares: least_noise belongs to sketches: noisy (given: sketches: as_asked)"),
        ("shares: {sketches: no}", "shares.sketches: "),
    ]:
        (tmp_path / "site.yaml").write_text(text)
        with pytest.raises(ValueError) as caught:
            load_site(tmp_path / "site.yaml")
        assert words in str(caught.value) and "\n" not in str(caught.value)


# At the site ----------------------------------------------------------------------------------------------------------


def test_a_site_applies_its_policy_to_every_reply_and_trains_the_same(make_site):
    index = {"index": {"on": True}}
    open_, closed = (
        make_site("open", **index),
        make_site("closed", {"shares": {"sketches": "never", "evictions": False}}, **index),
    )
    weights = initial(open_)
    one, other = (site.answer(order(), weights) for site in (open_, closed))
    assert one.sketches_NE is not None and "evicted" in one.rows[0] and one.withholds == ()
    assert other.sketches_NE is None and "evicted" not in other.rows[0] and other.withholds == ("sketches", "evictions")
    assert {name: w.tobytes() for name, w in one.weights.items()} == {name: w.tobytes() for name, w in other.weights.items()}
    assert closed.answer(order("hello", 0), {}).withholds == ("sketches", "evictions")  # so nobody waits for them


# At the server --------------------------------------------------------------------------------------------------------


def rng_rows(site, cases, seed):
    """Per-case rows whose sums depend on the order in which they are added."""
    rng = np.random.default_rng(seed)
    told = []
    for i in range(cases):
        for name in ("liver", "spleen"):
            value = None if rng.random() < 0.2 else float(rng.random())
            told.append({"site": site, "case": f"{site}{i}", "class": name, "dice": value, "dice.all": value or 1.0,
                         "iou": value, "hd95": value and 30 * value, "nsd": value})  # fmt: skip
    return told


def test_sums_give_the_same_bits_as_cases():
    cases = [rng_rows(site, count, seed) for seed, (site, count) in enumerate({"a": 40, "b": 7, "c": 1}.items())]
    summed = [[{**row, "site": rows_[0]["site"]} for row in class_sums(rows_)] for rows_ in cases]
    plain = [row for rows_ in cases for row in rows_]
    for mixed in ([*summed[0], *cases[1], *summed[2]], [*cases[0], *summed[1], *cases[2]], [r for s in summed for r in s]):
        one, other = (final_metrics(ResultMatrix(), rows_, 0.5) for rows_ in (plain, mixed))
        assert [one[name] for name in ("dice", "dice.all", "hd95", "nsd", "normdel")] == [
            other[name] for name in ("dice", "dice.all", "hd95", "nsd", "normdel")
        ]
        assert class_dice(mixed) == class_dice(plain)
    assert [site_dice(rows_) for rows_ in cases] == [site_dice(rows_) for rows_ in summed]
    assert site_dice(class_sums(CASES)) == pytest.approx(1 / 3)  # liver alone: no label has a tumour


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows_: (*rows_, CASES[0]), "some of its rows are of cases, some of classes"),
        (lambda rows_: (*rows_, rows_[0]), "it sums up a class twice"),
        (lambda rows_: ({**rows_[0], "dice.sum": 3.5},), "its sum of dice over 3 cases is 3.5"),
        (lambda rows_: ({**rows_[0], "dice.sum": -1.0},), "its 'dice.sum' is -1.0, not a sum from 0"),
        (lambda rows_: ({**rows_[0], "voxels": 3},), "its rows say 'voxels' beside sums"),
        (lambda rows_: ({k: v for k, v in rows_[0].items() if k != "dice.cases"},), "its rows do not say 'dice.cases'"),
        (lambda rows_: ({k: v for k, v in rows_[0].items() if k != "nsd.cases"},), "its sum of nsd over no cases is 1.9"),
        (lambda rows_: ({"case": "c1", "class": "liver"},), "its rows do not say 'dice'"),
        (lambda rows_: ({**CASES[0], "nsd.sum": 0.5, "nsd.cases": 1},), "its rows say 'nsd.cases' beside a case"),
    ],
)
def test_sums_that_no_site_would_send_are_refused_in_words(change, words):
    rows_ = tuple(class_sums(CASES))
    assert why_incomplete(replace(EVALUATED, rows=rows_)) is None
    assert why_incomplete(replace(EVALUATED, rows=change(rows_))) == words


def test_what_a_site_says_it_withholds_is_checked():
    assert "withholds" in why_incomplete(replace(TRAIN, withholds=("brains",)))
    assert "leaving" in why_incomplete(replace(TRAIN, leaving="yes"))  # type: ignore[arg-type]


def apart(reply):
    return withhold(reply, Shares(sketches="never"), None)


def test_a_site_without_sketches_is_told_nothing_of_the_index_and_takes_its_share():
    known = three_sites(total=12, floor=1)
    known.meet(apart(told("b", EAST)))
    words = known.words(["a", "b", "c"], ["a", "b", "c"], 0)
    assert words["b"] == {"quota": words["b"]["quota"], "replay": None}
    assert words["a"]["scores"]["uniqueness"] == {"a0": 1.0, "a1": 1.0}  # nothing of b's to be like any more
    assert {site: word["quota"] for site, word in words.items()} == {"a": 4, "b": 4, "c": 4}
    assert known.take(apart(told("b", EAST))) is None  # no complaint
    assert known.summary(["a", "b", "c"], {"b": 3})["held"] == {"a": 2, "b": 3, "c": 1}


def test_a_site_that_shares_again_is_compared_only_once_it_was_told_where_to_centre():
    known = three_sites()
    known.take(apart(told("b", EAST)))
    known.words(["a", "b", "c"], ["a", "b", "c"], 0)
    assert known.take(told("b", EAST)) is None and known.index.count("b") == 0
    assert "mu_E" in known.words(["a", "b", "c"], ["b"], 0)["b"]
    assert known.take(told("b", EAST)) is None and known.index.count("b") == 1


def test_who_keeps_its_sketches_at_home_is_remembered():
    known, again = three_sites(), remembered()
    known.meet(apart(told("b", EAST)))
    again.restore(*known.state())
    assert "scores" not in again.words(["a", "b"], ["b"], 0)["b"] and "scores" in again.words(["a", "b"], ["a"], 0)["a"]
    assert known.take(apart(told("b", NORTH, UP))) is None


# A whole run ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def both(tmp_path_factory, phantom_root):
    """The same run of two tiny sites, open and with everything kept at home; the index is off."""
    from configs.load import build_run

    def conducted(folder, shares):
        tree = {
            "name": "tiny",
            "sites": {
                "one": {"root": str(phantom_root), "annotates": ["liver", "spleen"], "max_cases": 3, "shares": shares},
                "two": {"root": str(phantom_root), "annotates": ["liver", "kidney"], "max_cases": 3},
            },
            "model": {"network": "UNet", "args": {"channels": [4, 8], "strides": [2], "num_res_units": 0}},
            "train": {"patch": [16, 16, 16], "batch": 2, "sampling_rate": 4, "lr": 0.01},
            "memory": {"budget": 2},
            "evaluate": {"surface": True},
        }
        run = build_run(tree)
        conduct(LocalSites(run, {name: folder / "sites" / name for name in run.sites}), run, folder)
        return folder

    closed = {"sketches": "never", "case_metrics": False, "domains": False, "evictions": False}
    return [conducted(tmp_path_factory.mktemp(name), shares) for name, shares in {"open": {}, "closed": closed}.items()]


def test_a_policy_changes_neither_the_model_nor_r_nor_any_metric(both):
    one, other = both
    for name in ("model.safetensors", "R.csv", "classes.csv"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    assert rows(one, "metric", "id", "value", "cells") == rows(other, "metric", "id", "value", "cells")
    assert {"hd95", "nsd"} <= {id for id, value, _ in rows(one, "metric", "id", "value", "cells") if value is not None}
    assert len(table(one)) == 4


def test_the_record_says_who_withholds_what_and_holds_nothing_of_it(both):
    one, other = both
    home = ["sketches", "case_metrics", "domains", "evictions"]
    assert rows(other, "site", "site", "withholds") == [("one", home), ("two", [])]
    assert {row["site"] for row in rows(one, "case")} == {"one", "two"} and rows(one, "class") == []
    assert {row["site"] for row in rows(other, "case")} == {"two"} and {row["site"] for row in rows(other, "class")} == {"one"}
    assert rows(one, "evict", "site")[0] == ("one",) and ("one",) not in rows(other, "evict", "site")
    trained = rows(other, "train")
    assert [row.get("withholds") for row in trained if row["site"] == "one"] == [home, home]
    assert all("withholds" not in row for row in trained if row["site"] == "two")


def test_the_report_says_so_and_shows_the_rest(both):
    page = write_report(both[1]).read_text()
    assert "Kept at home" in page and "no worst cases" in page
    assert "Kept at home" not in write_report(both[0]).read_text()
    run = read_run(both[1])
    assert {row["site"] for row in run.last_results} == {"one", "two"} and {row["site"] for row in run.last_cases} == {"two"}
    assert any((both[1] / "sites" / "one" / "slices").iterdir())  # they are the site's own
    assert "<b>one</b>, case" not in page and "<b>two</b>, case" in page
