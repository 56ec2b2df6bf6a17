"""Held-out sites: in-domain, cross-domain and cross-task by hand, how they are declared, and the probe at the site."""

import re
from dataclasses import replace
from math import isnan, nan

import numpy as np
import pytest

from clients import personal, rounds
from clients.personal import FILE
from configs.load import build_run, dump_run
from server.metrics import MEANINGS, METRICS, ResultMatrix, final_metrics, generalisation, held_out
from simulations.plan import make_plan, prepare_all
from simulations.pretend import materialise
from simulations.studies.scales import scale
from tests.site_orders import content, initial, order, through

# By hand ----------------------------------------------------------------------------------------------------------------

DICE = {"start": (0.0, 0.1, 0.2, 0.05, nan, 0.0), "a": (0.8, 0.3, 0.4, 0.1, nan, 0.0), "b": (0.6, 0.7, 0.5, 0.3, nan, 0.1)}
CLASSES = {
    "a": ("liver",),
    "b": ("liver", "spleen"),
    "near": ("spleen",),
    "far": ("liver",),
    "shut": ("liver",),
    "other": ("liver", "aorta"),
}
"""near, far and shut draw what a and b taught (shut has no test case), other draws an aorta too."""


@pytest.fixture
def matrix() -> ResultMatrix:
    made = ResultMatrix()
    for stage, dice in DICE.items():
        made = made.with_row(stage, dict(zip(CLASSES, dice, strict=True)))
    return made


def test_the_three_columns_by_hand(matrix):
    assert matrix.arrival == (1, 2, 0, 0, 0, 0) and matrix.learnt == ("a", "b")
    untaught = held_out(matrix, CLASSES)
    assert untaught == {"near": (), "far": (), "shut": (), "other": ("aorta",)}
    assert generalisation(matrix, untaught) == {
        "in_domain": (pytest.approx((0.6 + 0.7) / 2), 2),
        "cross_domain": (pytest.approx((0.5 + 0.3) / 2), 2),  # shut has no cell
        "cross_task": (pytest.approx(0.1), 1),
    }


def test_the_probe_stands_beside_each(matrix):
    probed = replace(matrix, probe={"near": 0.7, "far": nan, "other": 0.6})
    found = generalisation(probed, held_out(probed, CLASSES))
    assert list(found) == ["in_domain", "cross_domain", "cross_domain.probe", "cross_task", "cross_task.probe"]
    assert (found["cross_domain.probe"], found["cross_task.probe"]) == ((0.7, 1), (0.6, 1))


def test_what_there_is_none_of_has_no_cell(matrix):
    alone = {name: CLASSES[name] for name in ("a", "b", "other")}
    found = generalisation(matrix, held_out(matrix, alone))
    assert isnan(found["cross_domain"].value) and found["cross_domain"].cells == 0 and found["cross_task"].cells == 1


def test_no_other_metric_knows_of_a_held_out_site(matrix):
    bare = ResultMatrix()
    for stage, dice in DICE.items():
        bare = bare.with_row(stage, dict(zip("ab", dice, strict=False)))
    for name, metric in METRICS.items():
        assert metric(matrix) == metric(bare), name
    case = {"class": "liver", "dice": 0.6, "dice.all": 0.6, "iou": 0.5, "hd95": 4.0, "nsd": 0.5}
    stray = {"class": "liver", "dice": 0.0, "dice.all": 1.0, "iou": 0.1, "hd95": 90.0, "nsd": 0.1}
    told = [{"site": "a", **case}, {"site": "near", **stray}, {"site": "other", **stray}]
    found = final_metrics(matrix, told, 0.5, CLASSES)
    plain = final_metrics(bare, told[:1], 0.5, {name: CLASSES[name] for name in "ab"})
    assert {name: found[name] for name in plain} == plain
    assert found.keys() - plain.keys() == {"in_domain", "cross_domain", "cross_task"}


def test_a_run_without_a_held_out_site_has_the_ids_that_it_always_had(matrix):
    both = {name: CLASSES[name] for name in "ab"}
    assert list(final_metrics(matrix, [], 0.5, both)) == [*METRICS, "dice", "dice.all", "hd95", "nsd", "normdel"]


@pytest.mark.parametrize("id", ["in_domain", "cross_domain", "cross_domain.probe", "cross_task", "cross_task.probe"])
def test_reports_and_studies_know_the_ids(id):
    assert MEANINGS[id] and scale(id).higher


def test_the_probe_stands_in_the_last_line_of_r_and_comes_back(matrix):
    probed = replace(matrix, own={"a": 0.75}, probe={"near": 0.7, "other": nan})
    lines = probed.to_csv().splitlines()
    assert lines[0] == "stage,a,b,near,far,shut,other,a.own,near.probe,other.probe"
    assert lines[1].endswith(",,,") and lines[3].endswith("0.100000,0.750000,0.700000,")
    back = ResultMatrix.from_csv(probed.to_csv())
    assert (back.sites, back.own, back.arrival) == (matrix.sites, {"a": 0.75}, matrix.arrival)
    assert back.probe["near"] == 0.7 and isnan(back.probe["other"])
    np.testing.assert_array_equal(back.values, probed.values)
    odd = ResultMatrix.from_csv(ResultMatrix().with_row("start", {"x.probe": 0.5}).to_csv())
    assert (odd.sites, odd.probe) == (("x.probe",), {})


# The recipe -------------------------------------------------------------------------------------------------------------

SMALL = {"shape": [24, 22, 20], "spacing": [8, 8, 9], "scanner": "ct_window"}
LEARN = {
    "a": {"phantoms": {"cases": 4, **SMALL}, "annotates": ["liver", "spleen"]},
    "b": {"phantoms": {"cases": 5, **SMALL}, "annotates": ["liver", "spleen"]},
}
OUT = {
    "held": {"phantoms": {"cases": 4, **SMALL, "scanner": "mr"}, "annotates": ["spleen"], "learns": False},
    "new": {"phantoms": {"cases": 4, **SMALL}, "annotates": ["liver", "aorta"], "learns": False},
}
BASE = {
    "name": "g",
    "model": {"network": "UNet", "args": {"channels": [4, 8], "strides": [2], "num_res_units": 0}},
    "train": {"patch": [16, 16, 16], "batch": 2, "sampling_rate": 4, "replay_steps": 2},
    "memory": {"policy": "selective", "budget": 2},
    "evaluate": {"surface": False, "slices": 0},
    "engine": {"name": "local"},
}
TOGETHER = {"held": OUT["held"], **LEARN, "new": OUT["new"]}
"""A held-out site comes first: it would arrive first, and give the first weights."""


def make(paradigm="continual", sites=TOGETHER, **sections):
    return materialise(build_run({**BASE, "paradigm": paradigm, "sites": sites, **sections}))


def test_a_site_that_learns_must_be_named():
    with pytest.raises(ValueError, match=r"sites\.b: is never present \(arrivals does not name it\)"):
        make(arrivals={"order": ["a"]})


def test_where_nobody_learns_nothing_is_held_out_and_sites_arrive_as_they_did():
    run = make(sites={name: {**site, "learns": False} for name, site in TOGETHER.items()})
    assert run.arrivals.order is None and make_plan(run, prepare_all(run)).stages == ("held", "a", "b", "new")


def test_the_keys_of_a_run_without_a_probe_are_those_it_had():
    assert "probe" not in dump_run(make(sites=LEARN)) and make(sites=LEARN).arrivals.order is None
    assert "probe: 3" in dump_run(make(evaluate={"probe": 3}))


@pytest.mark.parametrize(("steps", "line"), [(-1, "greater than or equal to 0"), (1001, "less than or equal to 1000")])
def test_a_probe_has_a_number_of_steps_that_a_site_will_do(steps, line):
    with pytest.raises(ValueError, match=f"evaluate.probe: .*{line}"):
        build_run({**BASE, "sites": TOGETHER, "evaluate": {"probe": steps}})


# At the site ------------------------------------------------------------------------------------------------------------


def everything(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def taught(make_site):
    """What another site made of the model in two rounds."""
    return through(make_site("teacher"), (1, 2))[-1].weights


def test_a_probe_asked_twice_is_the_same_and_leaves_nothing(make_site, monkeypatch):
    site, weights = make_site(site={"learns": False}), taught(make_site)
    sent = {name: tensor.copy() for name, tensor in weights.items()}
    plain = content(site.answer(order("evaluate", 2), weights))
    left = everything(site.folder)
    drawn = set()
    cut = rounds.cut_batch
    monkeypatch.setattr(rounds, "cut_batch", lambda volumes, *f: (drawn.update(v.case for v in volumes), cut(volumes, *f))[1])
    first = site.answer(order("evaluate", 2, personalise=5), weights)
    assert content(site.answer(order("evaluate", 2, personalise=5), weights)) == content(first) != plain
    assert (first.weights, first.extra, first.draws) == ({}, {}, 0)
    trained = {case.name for case in make_site("other").cases.train}
    assert drawn and drawn <= trained and site.cases.train == ()
    assert everything(site.folder).keys() == left.keys() and not (site.folder / FILE).exists()
    assert all((weights[name] == tensor).all() for name, tensor in sent.items())
    assert content(site.answer(order("evaluate", 2), weights)) == plain


def test_a_probe_asks_no_memory_policy(make_site):
    answers, weights = set(), taught(make_site)
    for number, policy in enumerate(({"policy": "linear", "budget": 2}, {"policy": "dynamic", "budget": 5, "new_share": 0.5})):
        site = make_site(f"site{number}", site={"learns": False}, memory=policy)
        answers.add(content(site.answer(order("evaluate", 2, personalise=5), weights)))
    assert len({re.sub(rb'"case": "\w+"', b"", answer) for answer in answers}) == 1


def test_a_site_that_learns_tunes_to_its_memory_as_ever(make_site, monkeypatch):
    monkeypatch.setattr(personal, "_probe", lambda *facts: pytest.fail("it is no held-out site"))
    site = make_site()
    site.answer(order("evaluate", 2, personalise=2), initial(site))
    assert (site.folder / FILE).exists()
