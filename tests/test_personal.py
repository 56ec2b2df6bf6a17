"""A model of its own for each site at the end: what the site does, what the server makes of it, what is refused."""

import json

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from clients.personal import FILE
from configs.card import METADATA
from configs.load import build_run
from configs.schema import Run
from server.conduct import conduct
from server.metrics import ResultMatrix
from simulations.plan import check_names
from tests.fakes import Fake, FakeSites, fake_run
from tests.site_orders import CLASSES, content, order, remembered, through
from tests.test_loop import failing, interrupted, rows, table, timeless
from wire import Failure, Reply

# At the site ------------------------------------------------------------------------------------------------------------


def trained(make_site, folder="site", **sections):
    """A site after two rounds, and the weights that it then evaluates."""
    site = make_site(folder, **sections)
    return site, through(site, (1, 2))[-1].weights


def tune(site, weights, steps=4, **facts):
    return site.answer(order("evaluate", 2, personalise=steps, **facts), weights)


def own(site):
    return load_file(site.folder / FILE)


def distance(one, other):
    return sum(float(np.square(one[name] - other[name]).sum()) for name in one)


def test_tuning_is_asked_twice_gives_the_same_bytes_and_changes_nothing_that_is_remembered(make_site):
    site, weights = trained(make_site)
    before, plain = remembered(site, 2), content(site.answer(order("evaluate", 2), weights))
    assert not (site.folder / FILE).exists()
    first = tune(site, weights)
    kept = (site.folder / FILE).read_bytes()
    assert (content(tune(site, weights)), (site.folder / FILE).read_bytes()) == (content(first), kept)
    assert content(first) != plain
    assert remembered(site, 2) == before
    assert content(site.answer(order("evaluate", 2), weights)) == plain  # the shared model is not touched
    assert content(site.answer(order(round=3), weights)) == content(
        trained(make_site, "other")[0].answer(order(round=3), weights)
    )


def test_only_the_results_leave_the_site(make_site):
    site, weights = trained(make_site)
    reply = tune(site, weights)
    assert (reply.weights, reply.extra, reply.draws) == ({}, {}, 0)
    assert len(reply.rows) == 4 and not (site.folder / "slices").exists()


def test_the_model_in_the_folder_is_the_one_tested_and_says_what_predicting_needs(make_site):
    site, weights = trained(make_site)
    reply = tune(site, weights)
    model = own(site)
    assert model.keys() == weights.keys() and distance(model, weights) > 0
    assert content(site.answer(order("evaluate", 2), model)) == content(reply)
    with safe_open(site.folder / FILE, "np") as file:
        facts = json.loads(file.metadata()[METADATA])
    assert (facts["classes"], facts["network"], facts["patch"]) == (list(CLASSES), "UNet", [16, 16, 16])


def test_the_pull_keeps_the_model_near_the_shared_one(make_site):
    gone = []
    for pull in (0, 1000):
        site, weights = trained(make_site, f"pull{pull}", strategy={"pull": pull, "personalise": 20})
        tune(site, weights, steps=20)
        gone.append(distance(own(site), weights))
    assert gone[1] < gone[0] / 2


def test_rows_of_classes_that_others_annotate_stay_as_they_are(make_site):
    wide = (*CLASSES, "kidney")
    site, weights = trained(make_site)
    head = {name: np.concatenate([weights[name], np.ones_like(weights[name][:1])]) for name in ("head.weight", "head.bias")}
    tune(site, weights | head, classes=wide)
    for name, before in head.items():
        assert own(site)[name][2].tobytes() == before[2].tobytes()
        assert (own(site)[name][:2] != before[:2]).all()


def test_tuning_begins_with_what_stays_at_home(make_site):
    site = make_site()
    facts = {"home": ("head",)}
    weights = site.answer(order("init", 0), {}).weights
    site.answer(order(**facts), weights)
    shared = {name: tensor for name, tensor in weights.items() if not name.startswith("head")}
    home = load_file(site.folder / "state" / "run1" / "000001" / "home.safetensors")
    site.run = site.run.model_copy(update={"train": site.run.train.model_copy(update={"lr": 1e-12, "weight_decay": 0.0})})
    site.answer(order("evaluate", 1, personalise=2, **facts), shared)
    assert home.keys() == {"head.weight", "head.bias"}
    for name, tensor in own(site).items():
        np.testing.assert_allclose(tensor, (shared | home)[name], atol=1e-9)


def test_a_site_without_a_memory_tests_the_model_as_it_is(site):
    weights = site.answer(order("init", 0), {}).weights
    assert content(site.answer(order("evaluate", 0, personalise=5), weights)) == content(
        site.answer(order("evaluate", 0), weights)
    )
    assert distance(own(site), weights) == 0


# At the server ----------------------------------------------------------------------------------------------------------

TUNED = {"strategy": {"personalise": 3}}


def pair(changes=None) -> FakeSites:
    return FakeSites({"a": Fake(1), "b": Fake(1)}, changes or {})


def test_own_results_are_columns_beside_r_and_no_part_of_it(tmp_path):
    plain, tuned = tmp_path / "plain", tmp_path / "tuned"
    for folder in (plain, tuned):
        folder.mkdir()
    without, metrics = conduct(pair(), fake_run(), plain), conduct(pair(), fake_run(**TUNED), tuned)
    assert table(tuned) == [  # two rounds of step 1: .02; and three steps of tuning
        "stage,a,b,a.own,b.own",
        "start,0.000000,0.000000,,",
        "a,0.010000,0.010000,,",
        "b,0.020000,0.020000,0.050000,0.050000",
    ]
    assert metrics.pop("acc.own") == (pytest.approx(0.05), 2)
    np.testing.assert_equal(metrics, without)
    assert (tuned / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()
    assert "own" not in (plain / "R.csv").read_text() and rows(plain, "own") == []
    assert rows(tuned, "own", "stage", "site", "dice", "steps") == [("b", "a", 0.05, 3), ("b", "b", 0.05, 3)]
    assert rows(tuned, "own-case", "stage", "site", "class") == [("b", "a", "liver"), ("b", "b", "liver")]
    assert rows(tuned, "case") == rows(plain, "case")
    assert json.loads((tuned / "summary.json").read_text())["acc.own"] == pytest.approx(0.05)


def test_the_order_to_tune_comes_last_and_only_to_hospitals_with_tests(tmp_path):
    visits = {"x": [[1, None]], "a": [[1, None]], "b": [[2, None]]}
    sites = FakeSites({"x": Fake(), "a": Fake(), "b": Fake(tests=0)})
    conduct(sites, fake_run("xab", arrivals={"visits": visits, "extra": ["x"]}, **TUNED), tmp_path)
    asked = [(order.site, order.last, order.round) for order in sites.asked if order.personalise]
    assert asked == [("a", False, 2)] and sites.asked[-1].personalise == 3
    assert table(tmp_path)[0] == "stage,a,b,a.own"


def fails_when_tuned() -> dict:
    """Site a answers its third evaluation after round 2, that is its tuning, with a failure."""
    seen = []

    def change(reply: Reply) -> Reply | Failure:
        seen.append(reply)
        return reply if len(seen) == 1 else failing()(reply)

    return {("a", "evaluate", 2): change}


def test_a_site_that_cannot_tune_leaves_an_empty_cell_and_the_run_is_done(tmp_path):
    metrics = conduct(pair(fails_when_tuned()), fake_run(**TUNED), tmp_path)
    assert table(tmp_path)[-1] == "b,0.020000,0.020000,,0.050000"
    assert (metrics["acc"].cells, metrics["acc.own"]) == (2, (pytest.approx(0.05), 1))
    assert rows(tmp_path, "failure", "site", "task") == [("a", "evaluate")]
    assert ResultMatrix.from_csv((tmp_path / "R.csv").read_text()).own.keys() == {"a", "b"}


def test_a_run_interrupted_while_sites_tune_is_taken_up_and_ends_the_same(tmp_path):
    seen = []

    def change(reply: Reply) -> Reply | Failure:
        seen.append(reply)
        return reply if len(seen) == 1 else interrupted(reply)

    for name in ("whole", "torn"):
        (tmp_path / name).mkdir()
    conduct(pair(), fake_run(**TUNED), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        conduct(pair({("a", "evaluate", 2): change}), fake_run(**TUNED), tmp_path / "torn")
    conduct(pair(), fake_run(**TUNED), tmp_path / "torn")
    assert timeless(tmp_path / "torn") == timeless(tmp_path / "whole")
    assert table(tmp_path / "torn") == table(tmp_path / "whole")


# What is refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "line"),
    [
        (
            {"personalise": 5},
            "strategy.personalise: means nothing in the stream paradigm (the one memory is the extra",
        ),
        ({"share": "not-norm"}, "strategy.share: not-norm means nothing in the stream paradigm (the sites only evaluate, so"),
        ({"share": "backbone"}, "strategy.share: backbone means nothing in the stream paradigm (the sites only evaluate, so"),
    ],
)
def test_what_belongs_to_a_site_alone_is_refused_in_the_stream_paradigm(strategy, line):
    with pytest.raises(ValueError) as caught:
        fake_run(paradigm="stream", strategy=strategy)
    assert line in str(caught.value) and "\n" not in str(caught.value)
    fake_run(strategy=strategy)
    fake_run(paradigm="stream", strategy={"share": "labelled"})


def network(norm) -> Run:
    args = {"channels": [4, 8], "strides": [2], "num_res_units": 0, **norm}
    facts = {"model": {"network": "UNet", "args": args}, "train": {"patch": [16, 16, 16]}, "strategy": {"share": "not-norm"}}
    return build_run({"name": "x", "sites": {"a": {"root": "none"}}, **facts})


def test_norms_cannot_stay_at_home_where_there_are_none():
    check_names(network({}))
    with pytest.raises(ValueError, match="strategy.share: not-norm keeps the norm tensors at their site, and UNet has none"):
        check_names(network({"norm": "instance"}))
