"""Runs with held-out sites: nobody trains on them, in any paradigm; they never arrive; the probe; what the report says."""

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from zlib import crc32

import pytest

from clients import rounds
from clients.data import site_cases
from clients.prepare import prepare
from configs.load import cache_root, load_run
from server.conduct import conduct
from server.digest import read_run
from server.generalisation import how_far
from server.report import write_report
from simulations.engines import simulate
from simulations.paradigms import PARADIGMS
from simulations.plan import make_plan, prepare_all
from simulations.pretend import materialise
from tests.fakes import Fake, FakeSites, fake_run
from tests.test_generalisation import BASE, LEARN, OUT, TOGETHER, make
from tests.test_loop import failing, interrupted, rows, table, timeless


@pytest.mark.parametrize(
    "arrivals",
    [
        {},
        {"order": ["a", "b"]},
        {"order": ["a", "new", "held", "b"]},
        {"visits": {"a": [[1, None]], "b": [[2, None]]}},
        {"visits": {"new": [[1, 9]], "a": [[1, None]], "held": [[1, None]], "b": [[2, None]]}},
        {"door": "open", "rounds": 2},
    ],
)
def test_a_held_out_site_need_not_be_named_and_never_arrives(arrivals):
    run = make(arrivals=arrivals)
    plan = make_plan(run, prepare_all(run))
    assert {site.name: site.rounds for site in plan.sites if site.name in OUT} == {"held": (), "new": ()}
    assert plan.stages == (("a+b",) if "door" in arrivals else ("a", "b")) and plan.rounds == 2


# Over every paradigm ------------------------------------------------------------------------------------------------------


def images(run, name):
    """The prepared images of all cases of a site, as checksums."""
    found = site_cases(name, run.sites[name].model_copy(update={"learns": True}), run.seed)
    cases = [*found.train, *found.validation, *found.test]
    return {crc32(volume.image_XYZ.tobytes()) for volume in prepare(cases, run.preprocess, cache_root())}


def simulated(run, folder):
    folder.mkdir()
    simulate(run, folder)
    return list(csv.DictReader(io.StringIO((folder / "R.csv").read_text())))


@pytest.mark.parametrize("paradigm", PARADIGMS)
def test_a_held_out_site_is_trained_on_by_nobody_and_changes_nothing(paradigm, tmp_path, monkeypatch):
    """Contract: what the others learn, and every number of theirs, is as if it were not there; and it is tested."""
    drawn = set()
    cut = rounds.cut_batch

    def watched(volumes, *facts):
        drawn.update(crc32(volume.image_XYZ.tobytes()) for volume in volumes)
        return cut(volumes, *facts)

    monkeypatch.setattr(rounds, "cut_batch", watched)
    run, without = make(paradigm), make(paradigm, sites=LEARN)
    mine = {name: images(run, name) for name in TOGETHER}
    assert not mine["held"] & (mine["a"] | mine["b"])
    found = simulated(run, tmp_path / "with")
    assert drawn and drawn <= mine["a"] | mine["b"]
    alone = simulated(without, tmp_path / "without")
    assert [{name: row[name] for name in ("stage", "a", "b")} for row in found] == alone
    assert all(row["held"] and row["new"] for row in found)
    one, other = (tmp_path / name / "model.safetensors" for name in ("with", "without"))
    assert one.read_bytes() == other.read_bytes()
    numbers, plain = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("with", "without"))
    for name in plain.keys() - {"seconds", "peak_memory_mb"}:
        assert numbers[name] == plain[name], name
    assert numbers["in_domain"] == numbers["acc"]
    assert numbers["cross_domain"] == pytest.approx(float(found[-1]["held"]), abs=1e-6)
    assert numbers["cross_task"] == pytest.approx(float(found[-1]["new"]), abs=1e-6)
    cells = {row["id"]: row["cells"] for row in rows(tmp_path / "with", "metric")}
    assert (cells["in_domain"], cells["cross_domain"], cells["cross_task"]) == (2, 1, 1)
    assert {row["site"] for row in rows(tmp_path / "with", "arrive")} == {
        row["site"] for row in rows(tmp_path / "without", "arrive")
    }


@pytest.mark.parametrize("paradigm", ["continual", "stream", "specialised"])
def test_a_probe_flows_back_to_nobody(paradigm, tmp_path):
    plain, probed = make(paradigm), make(paradigm, evaluate={**BASE["evaluate"], "probe": 6})
    before, after = simulated(plain, tmp_path / "plain"), simulated(probed, tmp_path / "probed")
    for row, same in zip(after, before, strict=True):
        assert {name: row[name] for name in same} == same
    assert after[-1]["held.probe"] and after[-1]["new.probe"] and not after[0]["held.probe"]
    assert (tmp_path / "probed" / "model.safetensors").read_bytes() == (tmp_path / "plain" / "model.safetensors").read_bytes()
    memory = ["train", "evict", "case", "result", "arrive"]
    for event in memory:
        assert [timed(row) for row in rows(tmp_path / "probed", event)] == [timed(r) for r in rows(tmp_path / "plain", event)]
    for name in TOGETHER:
        assert states(tmp_path / "probed" / "sites" / name) == states(tmp_path / "plain" / "sites" / name)
    assert rows(tmp_path / "probed", "probe", "site", "steps") == [("held", 6), ("new", 6)]
    numbers = json.loads((tmp_path / "probed" / "summary.json").read_text())
    assert numbers["cross_task.probe"] == pytest.approx(float(after[-1]["new.probe"]), abs=1e-6)


def timed(row):
    return {name: fact for name, fact in row.items() if not name.startswith(("seconds", "saving"))}


def states(folder):
    """What a site keeps from round to round, by file, without the name of the run; and what lies beside it."""
    beside = sorted(path.name for path in folder.iterdir() if path.name not in ("state", "slices"))
    files = [path for path in sorted((folder / "state").rglob("*")) if path.is_file() and path.suffix == ".safetensors"]
    return beside, [("/".join(path.parts[-2:]), path.read_bytes()) for path in files]


# At the server ----------------------------------------------------------------------------------------------------------

PROBED = {"evaluate": {"probe": 3}}


def three(changes=None) -> FakeSites:
    new = Fake(cases=0, classes=("liver", "kidney"))
    return FakeSites({"a": Fake(1), "b": Fake(1), "far": Fake(cases=0), "new": new}, changes or {})


@pytest.mark.parametrize("arrivals", [{"order": ["a", "b"]}, {"order": ["a", "far", "b"]}, {"door": "open", "rounds": 2}])
def test_a_hospital_without_training_cases_is_held_out_in_a_deployment_too(arrivals, tmp_path):
    """There the server's config has no sites: what a hospital says when it comes is all that is known."""
    sites = three()
    metrics = conduct(sites, fake_run((), arrivals=arrivals), tmp_path)
    assert rows(tmp_path, "arrive", "site") == [("a",), ("b",)]
    assert {order.site for order in sites.asked if order.task in ("train", "init")} == {"a", "b"}
    assert (metrics["in_domain"].cells, metrics["cross_domain"].cells, metrics["cross_task"].cells) == (2, 1, 1)
    assert "cross_task.probe" not in metrics and not any(order.personalise for order in sites.asked)


def test_probes_are_asked_of_held_out_sites_alone_and_last(tmp_path):
    sites = three()
    metrics = conduct(sites, fake_run((), arrivals={"order": ["a", "b"]}, **PROBED), tmp_path)
    assert [(order.site, order.last, order.personalise) for order in sites.asked[-2:]] == [("new", False, 3), ("far", False, 3)]
    assert sum(bool(order.personalise) for order in sites.asked) == 2
    assert table(tmp_path)[-1] == "b,0.020000,0.020000,0.020000,0.020000,0.050000,0.050000"
    assert metrics["cross_task.probe"] == (pytest.approx(0.05), 1)
    assert rows(tmp_path, "probe-case", "site", "class") == [("far", "liver"), ("new", "liver"), ("new", "kidney")]


def test_own_models_and_probes_go_together(tmp_path):
    run = fake_run((), arrivals={"order": ["a", "b"]}, strategy={"personalise": 4}, **PROBED)
    metrics = conduct(three(), run, tmp_path)
    assert table(tmp_path)[0] == "stage,a,b,far,new,a.own,b.own,far.probe,new.probe"
    assert (metrics["acc.own"], metrics["cross_domain.probe"]) == ((pytest.approx(0.06), 2), (pytest.approx(0.05), 1))


def second(change):
    """The site's second evaluation after round 2, that is its probe, goes otherwise."""
    seen = []

    def answer(reply):
        seen.append(reply)
        return reply if len(seen) == 1 else change(reply)

    return {("far", "evaluate", 2): answer}


def test_a_probe_that_fails_leaves_an_empty_cell_and_the_run_is_done(tmp_path):
    metrics = conduct(three(second(failing())), fake_run((), arrivals={"order": ["a", "b"]}, **PROBED), tmp_path)
    assert table(tmp_path)[-1] == "b,0.020000,0.020000,0.020000,0.020000,,0.050000"
    assert (metrics["cross_domain"].cells, metrics["cross_domain.probe"].cells) == (1, 0)
    assert rows(tmp_path, "failure", "site", "task") == [("far", "evaluate")]


def test_a_run_interrupted_during_the_probes_is_taken_up_and_ends_the_same(tmp_path):
    run = fake_run((), arrivals={"order": ["a", "b"]}, **PROBED)
    for name in ("whole", "torn"):
        (tmp_path / name).mkdir()
    conduct(three(), run, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        conduct(three(second(interrupted)), run, tmp_path / "torn")
    conduct(three(), run, tmp_path / "torn")
    assert timeless(tmp_path / "torn") == timeless(tmp_path / "whole")
    assert table(tmp_path / "torn") == table(tmp_path / "whole")


# In the report ------------------------------------------------------------------------------------------------------------


def test_the_report_says_which_sites_are_in_which_line_and_what_a_class_that_nobody_taught_means(tmp_path):
    conduct(three(), fake_run((), arrivals={"order": ["a", "b"]}, strategy={"share": "not-norm"}, **PROBED), tmp_path)
    text = write_report(tmp_path).read_text()
    part = text[text.index("<h2>Generalisation") :].partition("</section>")[0].replace("&nbsp;", " ")
    lines = [re.sub(r"\s+", " ", re.sub("<.*?>", " ", line)).strip() for line in part.split("<tr>")[2:]]
    assert lines == [
        "in-domain in_domain a 0.020 , b 0.020 0.020 2 0",
        "cross-domain cross_domain far 0.020 0.020 1 0 0.050",
        "cross-task cross_task new 0.020 0.020 1 0 0.050",
    ]
    assert "Taught by nobody (new: kidney)" in part and "The norm tensors stay with the site that trained them" in part
    assert "<code>cross_task.probe</code>" in text


@pytest.mark.parametrize("held", [True, False])
def test_an_unfinished_run_and_one_that_holds_nobody_out_say_nothing_of_it(held, tmp_path):
    sites = FakeSites({"a": Fake(1), "b": Fake(1), **({"far": Fake(cases=0)} if held else {})})
    conduct(sites, fake_run((), arrivals={"order": ["a", "b"]}), tmp_path)
    digest = read_run(tmp_path)
    assert bool(how_far(digest)) == held and how_far(replace(digest, end=None)) == ""


# What is shipped ------------------------------------------------------------------------------------------------------------


def test_the_shipped_config_of_a_held_out_class_has_a_site_for_each_line():
    run = materialise(load_run(Path(__file__).parents[1] / "configs" / "heldout_class.yaml"))
    assert run.arrivals.order == ["north", "east"]
    taught = {name for site in ("north", "east") for name in run.sites[site].annotates}
    assert {*run.sites["abroad"].annotates} <= taught and not {*run.sites["newcomer"].annotates} & taught
