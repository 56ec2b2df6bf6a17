"""Who is let in, who is waited for, and what happens when a hospital comes, drops out and comes back while a run goes on."""

import json
import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import Error, Message

from server.away import Away
from server.conduct import conduct
from server.entrance import Gate
from server.pins import FILE, Node, Pins, Refusal, node_of, note_refusals
from server.record import Record
from server.sites import GridSites
from simulations.ray_grid import identify
from tests.fakes import Fake, FakeSites, fake_run
from tests.test_loop import failing, rows, table
from tests.test_sites import WEIGHTS, FakeGrid, order, toy
from wire import Failure, Order, Reply

EAST = Node("east", 7, "k7", "2026-01-01")


# Names ----------------------------------------------------------------------------------------------------------------


def test_a_name_belongs_to_the_first_that_came_and_stays_its(tmp_path, caplog):
    assert Pins(tmp_path).owners([EAST]) == {"east": EAST}
    later = Pins(tmp_path)  # another process
    thief = Node("east", 5, "k5", "2025-01-01")
    assert later.owners([thief, EAST, replace(EAST, name="west", id=8, key="k8")]).keys() == {"east", "west"}
    assert later.owners([thief]) == {}  # although the owner is away
    [refusal] = later.refused
    assert (refusal.site, refusal.node, refusal.pinned) == ("east", 5, 7)
    [warning] = caplog.records  # once
    assert "node 5 bears the name 'east', which is node 7's in this run: it is ignored." in warning.getMessage()
    assert "flwr supernode unregister 5" in warning.getMessage()


def test_of_two_that_come_at_once_the_one_that_registered_first_is_let_in(tmp_path):
    younger = Node("east", 3, "k3", "2026-01-02")
    pins = Pins(tmp_path)
    assert pins.owners([younger, EAST]) == {"east": EAST}
    assert [refusal.node for refusal in pins.refused] == [3]


def test_the_same_key_registered_anew_is_the_same_hospital(tmp_path):
    Pins(tmp_path).owners([EAST])
    again = replace(EAST, id=99)
    assert Pins(tmp_path).owners([again]) == {"east": again}
    assert json.loads((tmp_path / FILE).read_text()) == {"east": {"id": 99, "key": "k7"}}


def test_another_key_under_the_same_id_is_another_node(tmp_path):
    Pins(tmp_path).owners([EAST])
    assert Pins(tmp_path).owners([replace(EAST, key="k8")]) == {}


def test_a_file_of_pins_that_cannot_be_read_is_said_in_words(tmp_path):
    (tmp_path / FILE).write_text('{"east": 7}')
    with pytest.raises(ValueError, match=f"{FILE} cannot be read"):
        Pins(tmp_path)


def test_what_flower_says_of_a_node():
    facts = {"registered_at": "2026-01-01", "last_activated_at": "2026-01-03", "public_key": b"k"}
    node = node_of(SimpleNamespace(node_id=7, name="east", **facts))
    assert (node.name, node.id, node.since, node.activated, len(node.key)) == ("east", 7, "2026-01-01", "2026-01-03", 64)
    assert node_of(SimpleNamespace(node_id=2, name="a")) == Node("a", 2)


def test_a_refusal_is_recorded_once_however_often_the_run_is_resumed(tmp_path):
    refusals = [Refusal("east", 2**63 + 5, 7, "why")]
    for _ in range(2):
        record = Record(tmp_path)
        note_refusals(refusals, record)
        note_refusals(refusals, record)
        record.close()
    assert rows(tmp_path, "refused", "site", "node", "pinned", "reason") == [("east", str(2**63 + 5), "7", "why")]


# Waiting --------------------------------------------------------------------------------------------------------------


@dataclass
class Coming:
    """Who is connected, look by look; the last stays."""

    looks: list[set[str]]
    seen: int = 0

    def connected(self) -> set[str]:
        self.seen += 1
        return self.looks[min(self.seen, len(self.looks)) - 1]

    def ask(self, shared: Any, orders: Any) -> Any:
        raise AssertionError


def gate(looks: list[set[str]], watch_s: float = 60.0) -> tuple[Gate, Coming]:
    sites = Coming(looks)
    return Gate(sites, None, watch_s, poll_s=0.0), sites


@pytest.mark.parametrize(
    ("among", "least", "wanted", "looks", "until", "words"),
    [
        (None, 1, set(), [set(), {"a"}], 2, "waiting for 1 more site(s), whichever to connect (connected: nobody)"),
        (None, 2, set(), [{"a"}, {"a"}, {"a", "b"}], 3, "waiting for 1 more site(s), whichever to connect (connected: a)"),
        ({"b", "c"}, 1, set(), [{"a"}, {"a", "c"}], 2, "waiting for 1 of b, c to connect (connected: nobody)"),
        (None, 1, {"a", "b"}, [{"a"}, {"a", "b"}], 2, "waiting for b to connect (connected: a)"),
    ],
)
def test_it_waits_for_as_many_as_it_was_told_and_says_for_whom(among, least, wanted, looks, until, words, caplog):
    door, sites = gate(looks)
    with caplog.at_level(logging.INFO, "sitestream"):
        door.wait(among, least, wanted)
    assert sites.seen == until
    assert caplog.records[0].getMessage() == words


def test_patience_ends_for_those_who_were_there_but_not_for_the_least():
    door, sites = gate([set(), {"b"}])
    door.wait(None, 1, {"a", "b"}, patience_s=0.0)
    assert sites.seen == 2


def test_nothing_is_said_where_nobody_is_waited_for(caplog):
    with caplog.at_level(logging.INFO, "sitestream"):
        gate([{"a"}])[0].wait(None, 1)
    assert caplog.records == []


# A door that is open while a run goes on --------------------------------------------------------------------------------


@dataclass
class Watched:
    """The entrance of a run in a test: notes what it is asked, and lets time pass at its sites."""

    sites: FakeSites
    asked: list[tuple[Any, int]] = field(default_factory=list)
    pauses: int = 0

    def wait(self, among: Any, least: int) -> None:
        self.asked.append((among and sorted(among), least))

    def again(self) -> bool:
        self.pauses += 1
        self.sites.clock += 1
        return True

    def refusals(self) -> list[Refusal]:
        return [Refusal("a", 5, 7, "stolen")]


OPEN = {"door": "open", "rounds": 4, "rounds_per_stage": 1}


def test_a_hospital_that_connects_while_a_run_goes_on_arrives_in_the_next_round(tmp_path):
    sites = FakeSites({"a": Fake(1), "b": Fake(3, classes=("kidney",), since=2)})
    door = Watched(sites)
    conduct(sites, fake_run((), arrivals=OPEN, memory={"total": 8}, index={"on": True}), tmp_path, entrance=door)
    assert rows(tmp_path, "arrive", "round", "site", "stage") == [(1, "a", "a"), (3, "b", "b")]
    assert rows(tmp_path, "site", "site", "cases", "classes") == [("a", 4, ["liver"]), ("b", 4, ["kidney"])]
    assert [line.split(",")[0] for line in table(tmp_path)] == ["stage", "start", "a", "b"]
    assert [order.classes for order in sites.asked if order.task == "train"][-1] == ("liver", "kidney")
    assert [(o.round, o.site, o.quota) for o in sites.asked if o.task == "train"] == [
        *((1, "a", 8), (2, "a", 8)),
        *((3, "b", 4), (3, "a", 4), (4, "b", 4), (4, "a", 4)),
    ]
    assert rows(tmp_path, "refused", "site", "node") == [("a", "5")]
    assert door.asked[:2] == [(None, 1), (None, 1)]


def test_a_hospital_that_vanishes_is_paused_and_returns(tmp_path):
    sites = FakeSites({"a": Fake(), "b": Fake()}, {("b", "train", 2): failing("lost")})
    connected = sites.connected

    def flapping():
        return {name for name in connected() if name != "b" or sites.clock != 2}

    sites.connected = flapping  # type: ignore[method-assign]
    conduct(sites, fake_run((), arrivals=OPEN), tmp_path, entrance=Watched(sites))
    assert rows(tmp_path, "pause", "round", "site") == [(3, "b")]
    assert rows(tmp_path, "return", "round", "site") == [(4, "b")]
    assert rows(tmp_path, "leave") == []
    assert [order.merged for order in sites.asked if (order.site, order.task, order.round) == ("b", "train", 4)] == [1]


def test_a_round_that_nobody_could_take_part_in_is_not_begun(tmp_path):
    sites = FakeSites({"a": Fake(until=2), "b": Fake(since=5)})
    door = Watched(sites)
    conduct(sites, fake_run((), arrivals=OPEN), tmp_path, entrance=door)
    assert rows(tmp_path, "round", "round", "present") == [(1, ["a"]), (2, ["a"]), (3, ["b"]), (4, ["b"])]
    assert door.pauses == 5  # until the clock says 5: from 2, and, as the fake's clock is set back by a round, from 3


def test_a_gap_in_a_script_is_not_waited_out(tmp_path):
    sites = FakeSites({"a": Fake(), "b": Fake()})
    door = Watched(sites)
    run = fake_run((), arrivals={"visits": {"a": [[1, 1], [3, 3]], "b": [[3, 3]]}})
    conduct(sites, run, tmp_path, entrance=door)
    assert door.asked == [(["a"], 1), (["a", "b"], 1)]
    assert door.pauses == 0


# Orders over a network ------------------------------------------------------------------------------------------------


class Restarting(FakeGrid):
    """Node `a` says nothing to its first order; then it is started anew."""

    def get_nodes(self) -> list[Any]:
        anew = {"last_activated_at": "2" if len(self.given) else "1", "registered_at": "0", "public_key": b"k"}
        return [SimpleNamespace(node_id=i, name=name, **anew) for i, (name, _) in self.nodes.items()]

    def push_messages(self, messages: Any) -> list[str | None]:
        [message] = messages
        self.given.append(message)
        message.metadata.__dict__["_message_id"] = f"m{len(self.given)}"
        if len(self.given) > 1:
            self.pushed.append(message)
        return [message.metadata.message_id]

    given: list[Any]


def test_an_order_whose_node_was_started_anew_is_given_again(tmp_path, monkeypatch):
    identify()
    monkeypatch.setattr("server.sites.LOOK_S", 0.0)
    grid = Restarting({"a": toy("a")})
    grid.given = []
    sites = GridSites(grid, deadline_s=20.0, pause_s=0.0, pins=Pins(tmp_path))  # type: ignore[arg-type]
    news, reply = sites.ask(WEIGHTS, [order("a", quota=3)])
    assert isinstance(news, Failure)
    assert (news.again, news.kind, news.site) == (True, "lost", "a")
    assert "connected anew" in news.reason
    assert isinstance(reply, Reply)
    assert (reply.new_cases, len(grid.given)) == (3, 2)


def test_an_error_of_an_order_that_was_given_again_is_no_answer(tmp_path):
    grid = Restarting({"a": toy("a")})
    grid.given = []
    sites = GridSites(grid, deadline_s=1.0, pause_s=0.0, pins=Pins(tmp_path))  # type: ignore[arg-type]
    waiting: dict[str, Order] = {"m1": order("a"), "m2": order("a")}
    replies = iter(["m1", "m2"])

    def pull(ids: Any) -> list[Any]:
        metadata = SimpleNamespace(reply_to_message_id=next(replies))
        return [SimpleNamespace(metadata=metadata, has_error=lambda: True, error=Error(5, "Node Unavailable"))]

    grid.pull_messages = pull  # type: ignore[method-assign]
    assert (list(sites._pull(waiting)), list(waiting)) == ([], ["m2"])
    [failure] = sites._pull(waiting)
    assert (failure.kind, waiting) == ("lost", {})  # type: ignore[union-attr]


class Lost(Restarting):
    """Node `a` is lost with its first order, and away for so many looks; then it is there again, and answers."""

    looks: int

    def get_nodes(self) -> list[Any]:
        self.looks -= bool(self.given)
        return [] if self.given and self.looks >= 0 else super().get_nodes()

    def pull_messages(self, message_ids: Any) -> list[Any]:
        if len(self.given) == 1:
            assert "m1" in message_ids
            metadata = SimpleNamespace(reply_to_message_id="m1")
            return [SimpleNamespace(metadata=metadata, has_error=lambda: True, error=Error(5, "Node Unavailable."))]
        return super().pull_messages(message_ids)


def lost(folder: Path, monkeypatch: pytest.MonkeyPatch, looks: int, patience_s: float) -> list[Reply | Failure]:
    identify()
    monkeypatch.setattr("server.sites.LOOK_S", 0.0)
    grid = Lost({"a": toy("a")})
    grid.given, grid.looks = [], looks
    sites = GridSites(grid, deadline_s=20.0, pause_s=0.0, watch_s=patience_s, pins=Pins(folder))  # type: ignore[arg-type]
    return list(sites.ask(WEIGHTS, [order("a", quota=3)]))


def test_a_node_that_is_lost_and_comes_back_is_asked_again(tmp_path, monkeypatch):
    news, again, reply = lost(tmp_path, monkeypatch, 3, 1000.0)
    assert isinstance(news, Failure)
    assert isinstance(again, Failure)
    assert isinstance(reply, Reply)
    assert (news.again, news.kind, news.reason) == (True, "lost", "Node Unavailable. It is expected back within 1000 s.")
    assert (again.again, reply.new_cases) == (True, 3)


def test_a_node_that_is_lost_and_stays_away_is_given_up(tmp_path, monkeypatch):
    news, failure = lost(tmp_path, monkeypatch, 10**9, 0.0)
    assert isinstance(news, Failure)
    assert isinstance(failure, Failure)
    assert (news.again, failure.again, failure.kind) == (True, False, "lost")
    assert failure.reason == "its node was lost, and has not come back within 0 s"


def test_a_node_is_expected_back_once_for_an_order():
    away = Away(5.0, clock=lambda: now[0])
    now = [0.0]
    failure = Failure(site="a", round=1, task="train", kind="lost", reason="gone.")
    assert isinstance(held := away.held(failure), Failure)
    assert held.again
    now[0] = 5.0
    assert away.given_up() == []
    now[0] = 5.1
    assert (away.given_up(), away.given_up()) == (["a"], [])
    assert away.held(failure) is failure
    crashed = replace(failure, site="b", kind="crashed")
    assert away.held(crashed) is crashed


def test_a_site_of_another_version_has_refused_and_not_crashed():
    identify()
    words = "<class 'configs.bundle.OtherVersion'>:<'the bundle is of SiteStream 2, installed here is 1'>"
    grid = FakeGrid({"a": lambda message: Message(Error(2, words), reply_to=message)})
    [failure] = GridSites(grid, deadline_s=20.0, pause_s=0.0).ask(WEIGHTS, [order("a")])  # type: ignore[arg-type]
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.reason) == ("refused", "OtherVersion: the bundle is of SiteStream 2, installed here is 1")
