"""A hospital that leaves for good: its last update counts, it is sent nothing more, and it comes back only if it says so."""

import json
import logging
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from clients.ledger import FILE, read_ledger
from clients.work import Site
from server import checkpoint
from server.conduct import conduct
from tests.fakes import Fake, FakeSites, fake_run
from tests.site_orders import initial, order
from tests.test_loop import interrupted, model, rows, table, timeless
from tests.test_remembered import EAST, UP, remembered, three_sites
from tests.test_remembered import reply as told_by
from wire import Failure, Order, Reply


def going(reply: Reply) -> Reply:
    return replace(reply, leaving=True)


@dataclass
class Leaving(FakeSites):
    """Sites whose file says `leave: true` from the moment a round is asked for, and false again from another on."""

    leave: dict[str, tuple[int, float]] = field(default_factory=dict)

    def _leave(self, site: Fake, order: Order, shared: Any) -> dict[str, Any]:
        return {}

    def ask(self, shared: Any, orders: Any) -> Any:
        for reply in super().ask(shared, orders):
            first, end = self.leave.get(reply.site, (9**9, 0))
            says = first <= max(reply.round, self.clock) < end
            yield replace(reply, leaving=True) if says and isinstance(reply, Reply) else reply


def asked(sites: FakeSites, site: str) -> list[tuple[str, int]]:
    return [(order.task, order.round) for order in sites.asked if order.site == site]


def three() -> dict[str, Fake]:
    return {"a": Fake(1), "b": Fake(4), "c": Fake(1, classes=("spleen",))}


TOGETHER = {"visits": {name: [[1, None]] for name in "abc"}, "rounds": 4}


# At the server --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arrivals", [TOGETHER, {"door": "open", "rounds": 4}], ids=["scripted", "open"])
def test_the_last_update_counts_and_nothing_more_is_asked(tmp_path, arrivals):
    sites = Leaving(three(), leave={"b": (2, 99)})
    conduct(sites, fake_run("abc", arrivals=arrivals), tmp_path)
    assert asked(sites, "b")[-2:] == [("train", 2), ("leave", 2)]
    assert rows(tmp_path, "leave", "round", "site", "reason") == [(2, "b", "its site file says leave: true")]
    assert rows(tmp_path, "round", "present") == [(["a", "b", "c"],)] * 2 + [(["a", "c"],)] * 2
    assert rows(tmp_path, "pause", "site") == [] == rows(tmp_path, "return", "site")
    # (1 + 4 + 1) / 3 = 2 in each of two rounds, then + 1 in each
    assert model(tmp_path)[0]["body"] == [6.0, 6.0]
    assert [line.split(",")[2] for line in table(tmp_path)[1:]] == ["0.000000", ""]  # no evaluation either


def test_its_classes_keep_their_rows(tmp_path):
    sites = Leaving(three(), leave={"c": (1, 99)})
    conduct(sites, fake_run("abc", arrivals=TOGETHER), tmp_path)
    weights, classes = model(tmp_path)
    assert classes == ["liver", "spleen"] and len(weights["head"]) == 2


def test_what_it_held_becomes_orphans(tmp_path):
    """In the index as if the schedule had said so."""
    known = three_sites()
    known.depart(["b"])
    assert known.words(["a", "c"], ["a"], 0)["a"]["orphans"] == {"a0"}
    sites, told = Leaving(three(), leave={"b": (2, 99)}), []
    run = fake_run("abc", arrivals=TOGETHER)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("server.remembered.Remembered.depart", lambda self, gone: told.append(sorted(gone)))
        conduct(sites, run, tmp_path)
    assert [gone for gone in told if gone] == [["b"]]


def test_it_is_asked_again_only_once_it_connects_anew_and_refused_until_it_says_so(tmp_path, caplog):
    """b leaves in round 1, is away in rounds 3 and 4, there in 5 with `leave: true`, away, and in round 8 there without."""

    class Comes(Leaving):
        def connected(self):
            away = {3, 4, 6, 7}
            return {name for name in self.sites if name != "b" or self.clock + 1 not in away}

    sites = Comes(three(), leave={"b": (1, 7)})
    with caplog.at_level(logging.WARNING):
        conduct(sites, fake_run("abc", arrivals={"visits": TOGETHER["visits"], "rounds": 9}), tmp_path)
    assert asked(sites, "b") == [
        *[("hello", 0), ("evaluate", 0), ("train", 1), ("leave", 1)],
        *[("hello", 5), ("hello", 8), ("train", 8), ("train", 9), ("evaluate", 9)],
    ]
    reason = "it has left for good and is not taken in again: its site file says leave: true; "
    reason += "set leave: false there and start its node again"
    assert rows(tmp_path, "fault", "round", "site", "kind", "reason") == [(5, "b", "refused", reason)]
    assert [record.message for record in caplog.records if "b: it has left" in record.message] == [f"b: {reason}"]
    assert rows(tmp_path, "return", "round", "site") == [(8, "b")] and rows(tmp_path, "pause", "site") == []
    assert rows(tmp_path, "round", "present")[6:] == [(["a", "c"],), (["a", "b", "c"],), (["a", "b", "c"],)]
    assert table(tmp_path)[-1].split(",")[2] != ""


def test_who_comes_back_with_more_classes_brings_their_rows(tmp_path):
    def more(reply: Reply) -> Reply:
        sites.sites["b"].classes = ("liver", "kidney")
        return replace(reply, classes=("liver", "kidney"))

    class Comes(Leaving):
        def connected(self):
            return {name for name in self.sites if name != "b" or self.clock + 1 != 3}

    sites = Comes(three(), leave={"b": (2, 3)}, changes={("b", "hello", 4): more})
    conduct(sites, fake_run("abc", arrivals=TOGETHER), tmp_path)
    assert ("train", 4) in asked(sites, "b") and model(tmp_path)[1] == ["liver", "spleen", "kidney"]


def test_who_says_so_before_it_has_come_is_not_taken_in(tmp_path, caplog):
    sites = Leaving(three(), leave={"b": (0, 99)})
    conduct(sites, fake_run("abc", arrivals=TOGETHER), tmp_path)
    assert asked(sites, "b") == [("hello", 0)] and table(tmp_path)[0] == "stage,a,c"
    assert rows(tmp_path, "fault", "site", "kind") == [("b", "refused")] and rows(tmp_path, "leave", "site") == []


def test_a_site_that_only_evaluates_leaves_with_an_evaluation(tmp_path):
    sites = Leaving({"a": Fake(1), "b": Fake(1), "t": Fake(cases=0)}, leave={"t": (1, 99)})
    conduct(sites, fake_run("abt", arrivals={"visits": {"t": [[1, None]], "a": [[1, None]], "b": [[3, None]]}}), tmp_path)
    assert asked(sites, "t")[-2:] == [("evaluate", 2), ("leave", 3)]
    assert rows(tmp_path, "leave", "round", "site") == [(3, "t")]


def test_a_farewell_that_nobody_hears_ends_no_run(tmp_path):
    def gone(reply: Reply) -> Failure:
        return Failure(site=reply.site, round=reply.round, task="leave", kind="lost", reason="it is gone")

    sites = Leaving(three(), leave={"b": (2, 99)}, changes={("b", "leave", 2): gone})
    conduct(sites, fake_run("abc", arrivals=TOGETHER, faults={"on_failure": "stop"}), tmp_path)
    assert rows(tmp_path, "leave", "site") == [("b",)] and len(rows(tmp_path, "round")) == 4


def test_when_all_have_left_the_run_ends_with_what_they_taught(tmp_path):
    sites = Leaving(three(), leave=dict.fromkeys("abc", (2, 99)))
    conduct(sites, fake_run("abc", arrivals=TOGETHER), tmp_path)
    assert model(tmp_path)[0]["body"] == [4.0, 4.0]
    assert rows(tmp_path, "round", "present")[2:] == [([],), ([],)]


def test_a_run_that_goes_on_knows_who_has_left_and_gives_the_same(tmp_path):
    run = fake_run("abc", arrivals=TOGETHER)
    conduct(Leaving(three(), leave={"b": (1, 99)}), run, tmp_path / "straight")
    for at in (1, 3):
        folder, changes = tmp_path / str(at), {("a", "train", at): interrupted}
        sites = Leaving(three(), leave={"b": (1, 99)}, changes=changes)
        with pytest.raises(KeyboardInterrupt):
            conduct(sites, run, folder)
        assert checkpoint.load(folder).withdrawn == (frozenset("b") if at == 3 else frozenset())
        again = Leaving(three(), leave={"b": (1, 99)}, clock=at - 1)
        conduct(again, run, folder)
        tasks = [task for task, _ in asked(again, "b")]
        assert tasks == (["hello"] if at == 3 else ["train", "leave"])  # a new server asks once whether it is back
        assert model(folder) == model(tmp_path / "straight") and table(folder) == table(tmp_path / "straight")
        plain = [row for row in timeless(folder) if row.get("event") != "fault"]
        assert plain == timeless(tmp_path / "straight")


def test_a_checkpoint_from_before_there_was_leaving_is_read(tmp_path):
    conduct(FakeSites({"a": Fake()}), fake_run("a"), tmp_path)
    facts = checkpoint.load(tmp_path).facts()
    facts = json.loads(json.dumps(facts))
    del facts["withdrawn"], facts["known"]["a"]["withholds"]
    from server.federation import from_facts
    from strategies.base import State

    old = from_facts(facts, State({}), {})
    assert old.withdrawn == frozenset() and old.known["a"].withholds == ()


def test_the_index_takes_back_who_returns():
    known = three_sites()
    known.depart(["b"])
    known.words(["a", "b", "c"], ["b"], 0)
    assert known.take(told_by("b", EAST, UP, round=5)) is None and known.index.count("b") == 2
    assert known.words(["a", "b", "c"], ["a"], 0)["a"]["orphans"] == frozenset()
    assert remembered().index.count("b") == 0


# At the site ----------------------------------------------------------------------------------------------------------


def says(site: Site, leave: bool) -> Site:
    """The site after its operator has edited its site file."""
    return Site(site.name, site.site.model_copy(update={"leave": leave}), site.run, site.folder)


def test_a_site_says_that_it_leaves_and_takes_no_order_of_the_run_after_the_farewell(site):
    weights = initial(site)
    assert not site.answer(order(), weights).leaving
    leaving = says(site, True)
    last = leaving.answer(order(round=2), weights)
    assert last.leaving and last.draws
    assert leaving.answer(order("leave", 2), {}).leaving
    came, left = read_ledger(site.folder / FILE)[0][-2:]
    assert [(line["task"], line["direction"]) for line in (came, left)] == [("leave", "in"), ("leave", "out")]
    for task in ("train", "evaluate"):
        with pytest.raises(ValueError, match=r"this site left the run for good in round 2 \(its site file says leave: true\)"):
            leaving.answer(order(task, 3), weights)
    assert leaving.answer(order("hello", 3), {}).leaving
    again = leaving.answer(order(round=2), weights)  # the server was ended before it had saved the round
    assert {n: w.tobytes() for n, w in again.weights.items()} == {n: w.tobytes() for n, w in last.weights.items()}
    assert leaving.answer(order(round=3, run="another"), weights).draws  # another run knows nothing of it


def test_a_site_comes_back_with_its_memory_and_can_leave_again(site):
    weights = initial(site)
    says(site, True).answer(order(), weights)
    says(site, True).answer(order("leave"), {})
    back = says(site, False).answer(order(round=5), weights)
    assert not back.leaving and back.rows[0]["stream_left"] == 2 and back.rows[0]["new_cases"] == 2
    again = says(site, True).answer(order(round=6), weights)
    assert again.leaving and again.rows[0]["stream_left"] == 0


def test_a_farewell_that_a_site_did_not_ask_for_binds_it_to_nothing(site):
    weights = initial(site)
    site.answer(order("leave", 1), {})
    assert site.answer(order(round=2), weights).draws


def test_a_note_of_leaving_that_cannot_be_read_is_named(site):
    (site.folder / "left.json").write_text("{")
    with pytest.raises(ValueError, match=r"left.json cannot be read .*; delete it if the site has left no run"):
        says(site, True).answer(order(), initial(site))
