"""A Flower grid within this process: what crosses it is packed and unpacked as between hospitals, and may be changed there."""

from collections.abc import Callable, Iterable, Iterator
from itertools import count
from typing import Any

from flwr.app import Error, Message
from flwr.proto.node_pb2 import NodeInfo

from packing import pack_reply, unpack_order
from server.sites import GridSites, Sites
from simulations.ray_worker import identify
from strategies.base import Weights
from wire import Failure, Order, Reply, with_extra

CODES = {"crashed": 2, "late": 4, "lost": 5}
"""Flower's codes for what may come instead of a reply."""
Change = Callable[[Reply | Failure, Order], Reply | Failure]
"""What comes instead of an answer."""


class Straight:
    """As much of a grid as `GridSites` asks of one; the sites behind it answer at once."""

    def __init__(self, sites: Sites, change: Change) -> None:
        identify()
        self.sites, self.change = sites, change
        self.nodes = dict(enumerate(sorted(sites.connected()), 2))
        self.answers: dict[str, Message] = {}
        self.ids = count(1)

    def get_nodes(self) -> list[NodeInfo]:
        """One node per site, under its name."""
        return [NodeInfo(node_id=number, name=name) for number, name in self.nodes.items()]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Have orders done."""
        return [self._push(message) for message in messages]

    def pull_messages(self, ids: Iterable[str]) -> Iterator[Message]:
        """Their answers."""
        yield from [self.answers.pop(key) for key in ids if key in self.answers]

    def _push(self, message: Message) -> str:
        key = str(next(self.ids))
        message.metadata.__dict__["_message_id"] = key
        order, weights = unpack_order(message.content)
        self.answers[key] = self._answer(message, order, with_extra(weights, order.extra))
        return key

    def _answer(self, message: Message, order: Order, shared: Weights) -> Message:
        answer = self.change(next(iter(self.sites.ask(shared, [order]))), order)
        if isinstance(answer, Failure):
            return Message(Error(CODES[answer.kind], answer.reason), reply_to=message)
        return Message(pack_reply(answer), reply_to=message)


def straight(sites: Sites, change: Change, max_reply_mb: float) -> GridSites:
    """The sites behind such a grid."""
    grid: Any = Straight(sites, change)
    return GridSites(grid, deadline_s=3600, pause_s=0, max_reply_mb=max_reply_mb)
