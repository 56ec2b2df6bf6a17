"""GridSites over a grid of a few lines in this very process: no Ray, no network."""

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict

import packing
import wire
from server.sites import AGAIN, GridSites, one_line
from simulations.local import LocalSites
from simulations.ray_grid import identify
from tests import toy_client
from wire import Failure, Order, Reply, Weights

WEIGHTS = {"body": np.arange(6, dtype=np.float32).reshape(2, 3), "head": np.array([0.1], np.float32)}
Answer = Callable[[Message], Message | None]


class FakeGrid:
    """Nodes are functions; a node that returns None stays silent. Replies come in reverse order, one per pull."""

    def __init__(self, nodes: dict[str, Answer]) -> None:
        self.nodes = dict(enumerate(nodes.items(), 2))
        self.pushed: list[Message] = []

    def get_nodes(self) -> list[Any]:
        return [SimpleNamespace(node_id=i, name=name) for i, (name, _) in self.nodes.items()]

    def push_messages(self, messages: Iterable[Message]) -> list[str | None]:
        assert isinstance(messages, list)  # Flower's own grid walks through it twice
        for message in messages:
            message.metadata.__dict__["_message_id"] = f"m{message.metadata.dst_node_id}"
        self.pushed += messages
        return [message.metadata.message_id for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        wanted = set(message_ids)
        while self.pushed:
            message = self.pushed.pop()
            assert message.metadata.message_id in wanted
            if reply := self.nodes[message.metadata.dst_node_id][1](message):
                return [reply]
        return []


def toy(site: str, **config: Any) -> Answer:
    return lambda message: toy_client.app(message, Context(1, 2, {"site-name": site, **config}, RecordDict(), {}))


def error(code: int, reason: str | None) -> Answer:
    return lambda message: Message(Error(code, reason), reply_to=message)


def order(site: str, **given: Any) -> Order:
    return Order(**{"run": "r", "round": 3, "task": "train", "site": site, **given})


def ask(
    nodes: dict[str, Answer], orders: list[Order], deadline_s: float = 0.05, extra: Weights | None = None
) -> list[Reply | Failure]:
    identify()
    sites = GridSites(FakeGrid(nodes), deadline_s=deadline_s, pause_s=0.01)  # type: ignore[arg-type]
    return list(sites.ask(wire.with_extra(WEIGHTS, extra or {}), orders))


def test_replies_come_as_they_arrive_with_the_weights_intact() -> None:
    extra = {"variate": np.ones(2, np.float64)}
    answers = ask({"a": toy("a"), "b": toy("b")}, [order("a"), order("b", quota=7)], extra=extra)
    assert [answer.site for answer in answers] == ["b", "a"]
    first, second = answers
    assert isinstance(first, Reply)
    assert isinstance(second, Reply)
    assert first.new_cases == 7
    assert [list(answer.extra) for answer in (first, second)] == [["variate"]] * 2  # both sites are told
    assert second.extra["variate"].tolist() == [1.0, 1.0]
    assert first.weights.keys() == WEIGHTS.keys()
    assert first.weights["body"].tolist() == [[0, 2, 4], [6, 8, 10]]
    assert first.weights["body"].dtype == np.float32


def test_connected_is_what_the_administrator_named() -> None:
    grid = FakeGrid({"a": toy("a"), "": toy("nameless")})
    assert GridSites(grid, deadline_s=1, pause_s=0).connected() == {"a"}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("task", "kind"), [("train", "train"), ("evaluate", "evaluate"), ("hello", "query"), ("leave", "query")]
)
def test_tasks_travel_as_flowers_three_message_types(task: str, kind: str) -> None:
    seen = []

    def node(message: Message) -> Message | None:
        seen.append((message.metadata.message_type, message.metadata.group_id, message.metadata.ttl))
        return toy("a")(message)

    [reply] = ask({"a": node}, [order("a", task=task)])
    assert isinstance(reply, Reply)
    assert reply.task == task
    assert seen == [(kind, "3", 0.05)]


@pytest.mark.parametrize(
    ("node", "kind", "reason"),
    [
        (error(5, "Error: Node Unavailable"), "lost", "Error: Node Unavailable"),
        (error(2, "<class 'pkg.BadCase'>:<'label and image differ'>"), "crashed", "BadCase: label and image differ"),
        (error(2, "Traceback (most recent call last):\n  File x\nValueError: no"), "crashed", "ValueError: no"),
        (error(8, "ClientApp stopped responding."), "crashed", "ClientApp stopped responding."),
        (error(4, None), "late", "Flower's error 4"),
        (error(0, None), "lost", "Flower's error 0"),
        (toy("a", lie="b"), "invalid", "the reply says site 'b', the order 'a'"),
        (lambda message: Message(RecordDict(), reply_to=message), "invalid", "the reply cannot be read: the message holds no"),
        (
            lambda message: Message(facts('{"nonsense": 1}'), reply_to=message),
            "invalid",
            "the reply cannot be read: not a reply",
        ),
        (lambda message: None, "late", "no answer within 0.05 s"),
    ],
)
def test_errors_become_failures_and_the_others_are_not_hindered(node: Answer, kind: str, reason: str) -> None:
    failure, other = sorted(ask({"a": node, "b": toy("b")}, [order("a"), order("b")]), key=lambda answer: answer.site)
    assert isinstance(failure, Failure)
    assert isinstance(other, Reply)
    assert (failure.site, failure.round, failure.task, failure.kind) == ("a", 3, "train", kind)
    assert failure.reason.startswith(reason)


@pytest.mark.parametrize(
    ("name", "told", "asked"), [("run", "q", "r"), ("round", 2, 3), ("task", "evaluate", "train"), ("site", "b", "a")]
)
def test_a_reply_that_was_meant_for_another_order_is_invalid(name: str, told: object, asked: object) -> None:
    def replayed(message: Message) -> Message:
        facts: dict[str, Any] = {"run": "r", "round": 3, "task": "train", "site": "a", name: told}
        return Message(packing.pack_reply(Reply(**facts)), reply_to=message)

    [failure] = ask({"a": replayed}, [order("a")])
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.reason) == ("invalid", f"the reply says {name} {told!r}, the order {asked!r}")


def test_a_message_that_answers_nothing_and_a_second_answer_are_ignored() -> None:
    class Chatty(FakeGrid):
        def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
            stray = Message(Error(2, "nobody asked"), reply_to=self.pushed[-1])
            stray.metadata.__dict__["_reply_to_message_id"] = "m77"
            [reply] = super().pull_messages(message_ids)
            return [stray, reply, reply]

    identify()
    answers = list(GridSites(Chatty({"a": toy("a")}), deadline_s=1, pause_s=0).ask(WEIGHTS, [order("a")]))  # type: ignore[arg-type]
    assert [type(answer) for answer in answers] == [Reply]


def test_news_of_an_order_leaves_it_open() -> None:
    class Twice(FakeGrid):
        def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
            message = self.pushed[-1]
            told = [Message(Error(AGAIN + 8, "its process died; tried again"), reply_to=message)]
            return [*told, *super().pull_messages(message_ids)]

    identify()
    news, reply = GridSites(Twice({"a": toy("a")}), deadline_s=1, pause_s=0).ask(WEIGHTS, [order("a")])  # type: ignore[arg-type]
    reason = "its process died; tried again"
    assert news == Failure(site="a", round=3, task="train", kind="crashed", reason=reason, again=True)
    assert isinstance(reply, Reply)


def test_a_reply_that_is_too_large_is_refused_unread() -> None:
    def bulky(message: Message) -> Message:
        big = Array(dtype="float32", shape=(1,), stype="nonsense", data=b"x" * 1_200_000)
        content = RecordDict({"weights": ArrayRecord({"w": big}), "facts": ConfigRecord({"json": "{" * 300_000})})
        return Message(content, reply_to=message)

    identify()
    for limit, reason in ((1.0, "the reply is 2 MB; wire.max_reply_mb is 1"), (1.6, "the reply cannot be read: ")):
        grid = FakeGrid({"a": bulky})
        [failure] = GridSites(grid, deadline_s=1, pause_s=0, max_reply_mb=limit).ask(WEIGHTS, [order("a")])  # type: ignore[arg-type]
        assert isinstance(failure, Failure)
        assert failure.kind == "invalid"
        assert failure.reason.startswith(reason)


def test_a_node_whose_name_cannot_be_a_site_s_is_left_alone_and_the_log_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    grid = FakeGrid({"a": toy("a"), "../x": toy("../x"), "<b>": toy("<b>"), "-": toy("-"), "élan_1-b": toy("élan_1-b")})
    sites = GridSites(grid, deadline_s=1, pause_s=0)  # type: ignore[arg-type]
    assert sites.connected() == sites.connected() == {"a", "élan_1-b"}
    said = [record.message for record in caplog.records]
    assert [line.partition(" is ")[0] for line in said] == ["the node '-'", "the node '../x'", "the node '<b>'"]


def test_a_silence_is_told_with_who_keeps_it(caplog: pytest.LogCaptureFixture) -> None:
    identify()
    silent: Answer = lambda message: None  # noqa: E731
    grid = FakeGrid({"a": toy("a"), "east": silent, "west": silent})
    sites = GridSites(grid, deadline_s=0.5, pause_s=0.01, watch_s=0.1)  # type: ignore[arg-type]
    assert len(list(sites.ask(WEIGHTS, [order("a"), order("west"), order("east")]))) == 3
    said = [record.message for record in caplog.records]
    assert 1 <= len(said) <= 3  # after .1, .2 and .4 s
    assert set(said) == {"round 3: still waiting for east, west (train; deadline in 0:00)"}


def test_a_site_unknown_to_the_grid_is_lost() -> None:
    [failure] = ask({"a": toy("a")}, [order("z")])
    assert failure == Failure(site="z", round=3, task="train", kind="lost", reason="the site is not connected")


def test_an_order_that_cannot_be_pushed_is_lost() -> None:
    class Refusing(FakeGrid):
        def push_messages(self, messages: Iterable[Message]) -> list[str | None]:
            return []  # as Flower's grid does when the message is too large

    identify()
    [failure] = GridSites(Refusing({"a": toy("a")}), deadline_s=1, pause_s=0).ask(WEIGHTS, [order("a")])  # type: ignore[arg-type]
    assert isinstance(failure, Failure)
    assert failure.kind == "lost"


def test_a_long_reason_is_cut() -> None:
    assert one_line("x" * 1000).endswith("...")
    assert len(one_line("x" * 1000)) == 300
    assert one_line("two\n lines") == "two lines"


# This very process ---------------------------------------------------------------------------------------------------


class Raising:
    """A site that raises."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def answer(self, order: Order, weights: Weights) -> Reply:
        raise self.error


def local(error: BaseException) -> LocalSites:
    sites = LocalSites.__new__(LocalSites)
    sites._sites = {"a": Raising(error)}  # type: ignore[dict-item]
    return sites


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "out of memory"),
        (RuntimeError("two\nlines"), "two lines"),
        (AssertionError(), "AssertionError"),
    ],
)
def test_whatever_a_site_here_raises_is_its_failure(error: Exception, reason: str) -> None:
    [failure] = local(error).ask(WEIGHTS, [order("a")])
    assert failure == Failure(site="a", round=3, task="train", kind="crashed", reason=reason)


def test_an_interrupt_is_no_fault_of_a_site_s() -> None:
    with pytest.raises(KeyboardInterrupt):
        list(local(KeyboardInterrupt()).ask(WEIGHTS, [order("a")]))


def facts(text: str) -> RecordDict:
    return RecordDict({"facts": ConfigRecord({"json": text})})
