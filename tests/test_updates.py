"""What the server does not take from a site, that the site is told why, and that it says so."""

import json
import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from server import checkpoint
from server.conduct import conduct
from server.orders import CannotContinue
from tests.fakes import Change, Fake, FakeSites, fake_run
from tests.site_orders import initial, order
from tests.test_loop import failing, interrupted, model, rows, timeless
from wire import Reply

BOTH = {"a": [[1, None]], "b": [[1, None]]}
NAN = np.array([1, np.nan], np.float32)


def changed(**tensors: Any) -> Change:
    return lambda reply: replace(reply, weights={**reply.weights, **tensors})


def saying(**tensors: Any) -> Change:
    return lambda reply: replace(reply, extra=tensors)


def told(sites: FakeSites) -> dict[str, list[str]]:
    """{site: why its last update was refused, order by order}"""
    train = [order for order in sites.asked if order.task == "train"]
    return {site: [order.refused for order in train if order.site == site] for site in sites.sites}


REFUSED = [
    (changed(body=NAN), "body is not finite"),
    (changed(body=NAN * np.float32(np.inf)), "body is not finite"),
    (changed(body=np.zeros(3, np.float32)), "body is float32 [3], the model's float32 [2]"),
    (changed(body=np.array([3e38, 0], np.float32)), "body has numbers above 1e+12"),
    (changed(body=np.array([0, -2e12], np.float32)), "body has numbers above 1e+12"),
    (changed(odd=NAN), "its tensors are not the model's: odd is unknown"),
    (saying(body=np.zeros(3, np.float32)), "what it says beside its weights: body is float32 [3], the model's float32 [2]"),
    (saying(body=NAN), "what it says beside its weights: body is not finite"),
    (saying(odd=np.zeros(2, np.float32)), "what it says beside its weights: its tensors are not the model's: odd is unknown"),
    (changed(body=np.array([33, 43], np.float32)), "it changes the model by a norm of 50.01; wire.max_update_norm is 50"),
]


@pytest.mark.parametrize(("change", "reason"), REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_a_refused_update_changes_nothing_and_its_site_is_told_once(tmp_path, change, reason):
    sites = FakeSites({"a": Fake(1), "b": Fake(5)}, {("a", "train", 2): change})
    conduct(sites, fake_run(arrivals={"visits": BOTH, "rounds": 4}, wire={"max_update_norm": 50}), tmp_path)
    assert rows(tmp_path, "failure", "round", "site", "task", "kind", "reason") == [(2, "a", "train", "invalid", reason)]
    assert told(sites) == {"a": ["", "", reason, ""], "b": ["", "", "", ""]}
    assert model(tmp_path)[0]["body"] == [14.0, 14.0]  # 3; b alone 8; 11; 14


def test_how_far_an_update_goes_is_measured_and_up_to_the_limit_it_counts(tmp_path):
    # Three numbers change by the site's step: 4 * sqrt(3) = 6.93 is let in at 7, 4.1 * sqrt(3) = 7.1 is not.
    sites = FakeSites({"a": Fake(4), "b": Fake(-4.1)})
    conduct(sites, fake_run(arrivals={"visits": BOTH, "rounds": 1}, wire={"max_update_norm": 7}), tmp_path)
    (only,) = rows(tmp_path, "train", "site", "update_norm")
    assert only == ("a", pytest.approx(4 * 3**0.5))
    assert rows(tmp_path, "failure", "site") == [("b",)]


def test_rows_that_are_new_do_not_count_as_a_change(tmp_path):
    sites = FakeSites({"a": Fake(1), "b": Fake(1, classes=("kidney",))})
    conduct(sites, fake_run(), tmp_path)  # in round 2 the head grows by a row of 30 or 31
    norms = rows(tmp_path, "train", "round", "site", "update_norm")
    assert norms == [(1, "a", pytest.approx(3**0.5)), (2, "a", pytest.approx(3**0.5)), (2, "b", pytest.approx(2**0.5))]


def test_who_is_away_or_fails_is_told_when_it_answers_again(tmp_path):
    visits = {"a": [[1, None]], "b": [[1, 2], [4, None]]}
    sites = FakeSites({"a": Fake(), "b": Fake()}, {("b", "train", 2): changed(body=NAN), ("b", "train", 4): failing()})
    conduct(sites, fake_run(arrivals={"visits": visits, "rounds": 6}), tmp_path)
    assert told(sites)["b"] == ["", "", "body is not finite", "it rains", ""]  # rounds 1, 2, 4, 5 and 6


def test_a_refusal_survives_a_checkpoint(tmp_path):
    def sites(last: Change = lambda reply: reply) -> FakeSites:
        changes = {("a", "train", 2): changed(body=NAN), ("b", "train", 3): last}
        return FakeSites({"a": Fake(), "b": Fake()}, changes)

    run = fake_run(arrivals={"visits": BOTH, "rounds": 3})
    for name in ("undisturbed", "stopped"):
        (tmp_path / name).mkdir()
    conduct(sites(), run, tmp_path / "undisturbed")
    with pytest.raises(KeyboardInterrupt):
        conduct(sites(interrupted), run, tmp_path / "stopped")
    assert checkpoint.load(tmp_path / "stopped").refused == {"a": "body is not finite"}
    again = sites()
    conduct(again, run, tmp_path / "stopped")
    assert told(again)["a"] == ["body is not finite"]
    assert timeless(tmp_path / "stopped") == timeless(tmp_path / "undisturbed")


def test_the_site_says_that_its_update_was_refused(site, caplog):
    def progress() -> dict[str, Any]:
        return json.loads((site.folder / "progress.json").read_text())

    with caplog.at_level(logging.WARNING, "sitestream"):
        site.answer(order(round=1), initial(site))
        assert (caplog.messages, progress().get("refused")) == ([], None)
        site.answer(order(round=2, refused="body is not finite"), initial(site))
        assert caplog.messages == ["site tiny: its last update was refused: body is not finite"]
        assert progress()["refused"] == "body is not finite"
        site.answer(order(round=3), initial(site))
    assert (len(caplog.messages), progress().get("refused")) == (1, None)


# Who may say what -------------------------------------------------------------------------------------------------------


def test_a_refused_update_of_the_only_site_leaves_the_model_and_the_run_goes_on(tmp_path):
    sites = FakeSites({"a": Fake(1)}, {("a", "train", 2): changed(body=NAN)})
    conduct(sites, fake_run(["a"], arrivals={"rounds": 3, "visits": {"a": [[1, None]]}}), tmp_path)
    assert model(tmp_path)[0]["body"] == [2.0, 2.0]  # rounds 1 and 3
    assert told(sites) == {"a": ["", "", "body is not finite"]}


def claiming(**facts: Any) -> Change:
    return lambda reply: replace(reply, **facts)


def test_a_site_annotates_what_it_said_when_it_came(tmp_path):
    """Else it could own the head row of a class that others annotate."""
    sites = FakeSites({"a": Fake(1), "b": Fake(5, classes=("kidney",))}, {("b", "train", 1): claiming(classes=("liver",))})
    conduct(sites, fake_run(arrivals={"visits": BOTH, "rounds": 1}, strategy={"share": "labelled"}), tmp_path)
    assert rows(tmp_path, "failure", "reason") == [("it annotates liver; when it came it said kidney",)]
    assert model(tmp_path)[0]["head"] == [11.0, 30.0]


def test_more_draws_than_the_stream_allows_are_refused(tmp_path):
    """4 cases, 4 draws each, batches of 2: 32 at most, replay steps left out."""
    sites = FakeSites({"a": Fake(1), "b": Fake(5)}, {("b", "train", 1): claiming(draws=33)})
    conduct(sites, fake_run(arrivals={"visits": BOTH, "rounds": 1}), tmp_path)
    assert rows(tmp_path, "failure", "reason") == [("it says 33 draws; 32 are possible",)]
    assert model(tmp_path)[0]["body"] == [1.0, 1.0]


def test_a_memory_larger_than_was_asked_for_is_refused(tmp_path):
    """It would count as held cases, in normdel and in quotas."""
    sites = FakeSites({"a": Fake(1), "b": Fake(5)}, {("b", "train", 1): claiming(rows=({"memory": 6},))})
    conduct(sites, fake_run(arrivals={"visits": BOTH, "rounds": 1}, memory={"budget": 5}), tmp_path)
    assert rows(tmp_path, "failure", "reason") == [("it says that it keeps 6 samples; it was asked to keep 5",)]
    assert model(tmp_path)[0]["body"] == [1.0, 1.0]


@pytest.mark.parametrize(("many", "refused"), [(64, 0), (65, 1)])
def test_a_memory_of_more_domains_than_a_reply_may_name_is_refused(tmp_path, many, refused):
    row = {"memory": 1, "memory_domains": {f"scanner {i}": 1 for i in range(many)}}
    sites = FakeSites({"a": Fake(1), "b": Fake(5)}, {("b", "train", 1): claiming(rows=(row,))})
    conduct(sites, fake_run(arrivals={"visits": BOTH, "rounds": 1}), tmp_path)
    reasons = [reason for (reason,) in rows(tmp_path, "failure", "reason")]
    assert len(reasons) == refused and all(reason.endswith("not whole numbers by name, 64 at most") for reason in reasons)


def test_a_stream_of_more_cases_than_any_hospital_has_is_refused(tmp_path):
    """It would let in as many draws."""
    sites = FakeSites({"a": Fake(1), "b": Fake(5)}, {("b", "hello", n): claiming(new_cases=1_000_001) for n in (0, 1)})
    conduct(sites, fake_run(["a"], arrivals={"visits": {"a": [[1, None]]}, "rounds": 1}), tmp_path)
    reason = "its 'new_cases' is 1000001, not a whole number from 0 to 1000000"
    assert set(rows(tmp_path, "failure", "site", "reason")) == {("b", reason)}


@pytest.mark.parametrize("task", ["evaluate", "personalise"])
def test_an_evaluation_speaks_of_classes_that_the_site_annotates(tmp_path, task):
    """Each would be a row of the report's tables. With its reply the site cannot say that it annotates more."""

    def other(reply: Reply) -> Reply:
        own = reply.rows[0]["dice"] > 0.02  # the tuned model's
        return replace(reply, rows=({**reply.rows[0], "class": "x"},), classes=("x",)) if own == (task != "evaluate") else reply

    sites = FakeSites({"a": Fake(1), "b": Fake(1)}, {("b", "evaluate", 2): other})
    run = fake_run(arrivals={"visits": BOTH, "rounds": 2}, strategy={"personalise": 1})
    conduct(sites, run, tmp_path)
    assert rows(tmp_path, "failure", "site", "reason") == [("b", "it evaluates 'x', a class that it does not annotate")]


@pytest.mark.parametrize(
    ("objective", "said", "reason"),
    [
        ("plain", 1.0, "nobody asked for it"),
        ("ewc", -1.0, "body has importances below 0"),
        ("ewc", 1e13, "body has numbers above 1e+12"),
        ("scaffold", 2.5, "a change of 2.5; clipped gradients change by 2 at most"),
    ],
)
def test_what_is_said_beside_the_weights_must_make_sense(tmp_path, objective, said, reason):
    change = saying(body=np.array([said, 0], np.float32))
    sites = FakeSites({"a": Fake(1), "b": Fake(1)}, {("b", "train", 1): change})
    conduct(sites, fake_run(arrivals={"visits": BOTH, "rounds": 1}, strategy={"objective": objective}), tmp_path)
    assert rows(tmp_path, "failure", "site", "reason") == [("b", f"what it says beside its weights: {reason}")]


def test_updates_that_are_too_few_to_merge_teach_nothing_and_each_site_is_told(tmp_path):
    """Three are needed; in round 2 one is late, so nothing is merged, and the order of round 3 says so."""
    sites = FakeSites({name: Fake(1) for name in "abc"}, {("c", "train", 2): failing()})
    visits = {name: [[1, None]] for name in "abc"}
    strategy = {"merge": "median", "weigh": "equal"}
    conduct(sites, fake_run("abc", arrivals={"visits": visits, "rounds": 3}, strategy=strategy), tmp_path)
    reason = "the merge needs the updates of 3 sites and has 2: the model stays as it was"
    assert told(sites) == {"a": ["", "", reason], "b": ["", "", reason], "c": ["", "", "it rains"]}
    train = [order for order in sites.asked if order.task == "train" and order.site == "a"]
    assert [(order.taught, order.merged) for order in train] == [((), 0), (("liver",), 1), (("liver",), 1)]


@pytest.mark.parametrize("merge", ["average", "momentum", "adam", "yogi", "median", "trimmed", "krum"])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_numbers_that_are_let_in_never_make_the_model_infinite(tmp_path, merge, sign):
    """1e12 from every site, with both signs in turn: squares, sums and distances stay finite for as long as a run lasts."""
    site = [Fake(tests=0) for _ in range(5)]  # their Dice would be none

    def huge(reply: Reply) -> Reply:
        number = np.float32(1e12) * sign * (-1) ** reply.round
        return replace(reply, weights={name: np.full_like(tensor, number) for name, tensor in reply.weights.items()})

    names = "abcde"
    changes = {(name, "train", n): huge for name in names for n in range(1, 7)}
    visits = {name: [[1, None]] for name in names}
    strategy = {"merge": merge} if merge in ("average", "momentum", "adam", "yogi") else {"merge": merge, "weigh": "equal"}
    conduct(
        FakeSites(dict(zip(names, site, strict=True)), changes),
        fake_run(names, arrivals={"visits": visits, "rounds": 6}, strategy=strategy),
        tmp_path,
    )
    assert rows(tmp_path, "failure", "reason") == []
    assert all(np.isfinite(numbers).all() for numbers in model(tmp_path)[0].values())


FIRST = {"body": np.zeros(2, np.float32), "head": np.zeros(1, np.float32)}


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"weights": {}}, "it holds no weights"),
        ({"weights": FIRST | {"body": NAN}}, "body is not finite"),
        ({"weights": FIRST | {"body": np.full(2, 1e13, np.float32)}}, "body has numbers above 1e+12"),
        ({"weights": FIRST | {"body": np.zeros(2, np.int64)}}, "body is int64, not of floats"),
        ({"weights": FIRST | {"head": np.array(0, np.float32)}}, "head is a single number, not the rows of a head"),
        ({"weights": FIRST, "roles": {"body": "body"}}, "its roles are not its tensors': head is missing"),
        ({"weights": FIRST, "roles": {"body": "body", "head": "boss"}}, "head is a 'boss', not one of body, head, norm"),
    ],
)
def test_first_weights_that_are_no_model_stop_the_run_in_words(tmp_path, said, reason):
    sites = FakeSites({"a": Fake()}, {("a", "init", 0): claiming(**said)})
    with pytest.raises(CannotContinue) as caught:
        conduct(sites, fake_run(["a"]), tmp_path)
    assert str(caught.value) == f"no initial weights: a: {reason}"


def test_a_reason_is_one_line_whatever_a_site_says(tmp_path):
    names = tuple(f"class {i}\u00a0" * 20 for i in range(40))
    sites = FakeSites({"a": Fake(1), "b": Fake(5)}, {("b", "train", 1): claiming(classes=names)})
    conduct(sites, fake_run(arrivals={"visits": BOTH, "rounds": 1}), tmp_path)
    ((reason,),) = rows(tmp_path, "failure", "reason")
    assert reason.startswith("it annotates class 0") and len(reason) <= 300


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"classes": ("a\nb",)}, r"its 'classes' is ('a\nb',), not a list of names"),
        (
            {"classes": tuple(map(str, range(2000)))},
            "its 'classes' is ('0', '1', '2', '3', '4', '5', ...), not a list of names",
        ),
        ({"ids": ("x" * 201,)}, "its 'ids' is ('xxxxxxxxxxxx...xxxxxxxxxxxxx',), not a list of names"),
        ({"ids": ("x",) * 100_001}, "its 'ids' is ('x', 'x', 'x', 'x', 'x', 'x', ...), not a list of names"),
        ({"draws": 2**53 + 1}, "its 'draws' is 9007199254740993, not a whole number from 0"),
    ],
)
def test_what_no_record_could_hold_is_refused(tmp_path, said, reason):
    sites = FakeSites({"a": Fake(1), "b": Fake(5)}, {("b", "train", 1): claiming(**said)})
    conduct(sites, fake_run(arrivals={"visits": BOTH, "rounds": 1}), tmp_path)
    assert rows(tmp_path, "failure", "site", "reason") == [("b", reason)]
