"""The narrow waist: what the server needs of an engine, and the same over any Flower grid (Ray actors or real hospitals)."""

import logging
import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Protocol

from flwr.app import ArrayRecord, Message, RecordDict
from flwr.serverapp import Grid

import packing
from configs.site import is_site_name
from server.away import Away
from server.pins import Node, Pins, node_of
from server.waiting import Reminder, clock, named
from strategies.base import Weights
from wire import Failure, FailureKind, Order, Reply

KINDS: dict[int, FailureKind] = {
    1: "crashed",  # the client app could not be loaded
    2: "crashed",  # it raised an exception
    3: "late",  # the order expired before the site fetched it
    4: "late",  # the reply expired
    5: "lost",  # no heartbeat from the site
    6: "refused",  # a modifier's precondition failed
    7: "refused",  # the app bundle is not valid
    8: "crashed",  # the app's process died
}
"""Flower's error codes in our words; any other code is `lost`."""

AGAIN = 100
"""Higher by this: it happened, and the order is under way again (a simulation's grid says so; no code of Flower's)."""

LOG = logging.getLogger("sitestream")
LONGEST = 300
"""Characters of a failure's reason."""
REFUSALS = ("OtherVersion",)
"""What a site's app raises that is no crash (configs/bundle.py)."""
LOOK_S = 3.0
"""Seconds between two looks at whether the nodes that have not answered were started anew."""


class Sites(Protocol):
    """Whatever carries orders to sites: this process, Ray, or Flower between hospitals."""

    def connected(self) -> AbstractSet[str]:
        """Names of the sites that could be asked now."""

    def ask(self, shared: Weights, orders: Iterable[Order]) -> Iterator[Reply | Failure]:
        """One answer per order, as they come: never raises because of a site, never holds all replies at once.

        Before its answer, failures that say `again` may tell what happened to an order on the way.
        """


class GridSites:
    """Sites behind a Flower grid.

    A site is known by the name that the administrator gave its node, never by what its reply says. A node whose name is no
    site's is left alone: names become file names.

    Args:
        deadline_s: seconds from the orders' departure after which a site without an answer is late; inf: the grid decides.
        pause_s: seconds between two looks for replies when there was none; 0 for a grid that waits by itself.
        max_reply_mb: a larger reply (10^6 bytes) is invalid, unread.
        watch_s: seconds of silence after which the log says who is being waited for.
        pins: whose name is whose; none: the grid's names are sure.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        deadline_s: float,
        pause_s: float,
        max_reply_mb: float = math.inf,
        watch_s: float = 60.0,
        pins: Pins | None = None,
    ) -> None:
        self.grid, self.deadline_s, self.pause_s = grid, deadline_s, pause_s
        self.max_reply_mb, self.watch_s, self.pins = max_reply_mb, watch_s, pins
        self._strange: set[str] = set()

    def connected(self) -> set[str]:
        """Names of the nodes there are now: none, for some seconds, when the server starts."""
        return set(self._nodes())

    def ask(self, shared: Weights, orders: Iterable[Order]) -> Iterator[Reply | Failure]:
        """Send the orders, the shared weights packed once, and yield each answer when it comes.

        A node that was started anew since has lost its order (Flower gives none twice): over a network it is given again.
        """
        nodes, whole, away = self._nodes(), list(orders) if self.pins else orders, Away(self.watch_s)
        waiting, failures = self._push(packing.pack_weights(shared), whole, nodes)
        yield from failures
        began = heard = looked = time.monotonic()
        reminder = Reminder(self.watch_s)
        while (waiting or away.since) and (left := began + self.deadline_s - time.monotonic()) > 0:
            before = len(waiting)
            for answer in self._pull(waiting):
                yield away.held(answer) if self.pins else answer
                del answer
                heard = time.monotonic()
            if self.pins and time.monotonic() - looked > LOOK_S:
                yield from self._give_again(shared, whole, waiting, nodes, away)
                looked = time.monotonic()
            if waiting and reminder.due(time.monotonic() - heard):
                LOG.warning(_still_waiting(waiting, left))
            if len(waiting) == before:
                time.sleep(max(0.0, min(self.pause_s, left)))
        for order in {order.site: order for order in waiting.values()}.values():
            yield _failure(order, "late", f"no answer within {self.deadline_s:g} s")
        for order in (order for order in whole if order.site in away.since):
            yield _failure(order, "lost", f"its node was lost, and the {self.deadline_s:g} s are over")

    def _nodes(self) -> dict[str, Node]:
        nodes = [node_of(info) for info in self.grid.get_nodes() if info.name]
        strange = {node.name for node in nodes if not is_site_name(node.name)}
        for name in sorted(strange - self._strange):
            LOG.warning("the node %r is ignored: its name is no site name (letters, digits, '-' and '_')", name)
        self._strange |= strange
        sound = [node for node in nodes if node.name not in strange]
        return self.pins.owners(sound) if self.pins else {node.name: node for node in sound}

    def _push(
        self, record: ArrayRecord, orders: Iterable[Order], nodes: Mapping[str, Node]
    ) -> tuple[dict[str, Order], list[Failure]]:
        """Orders by message id, and those that could not be sent.

        One message at a time, so that no two sites' own tensors are in memory together; Flower's grid walks through its
        argument twice, so it must be a list.
        """
        waiting: dict[str, Order] = {}
        failures = []
        for order in orders:
            small = replace(order, extra={}, scores={})
            if order.site not in nodes:
                failures.append(_failure(small, "lost", "the site is not connected"))
                continue
            ids = list(self.grid.push_messages([self._message(order, record, nodes[order.site].id)]))
            if ids and ids[0]:
                waiting[ids[0]] = small
            else:
                failures.append(_failure(small, "lost", "the order could not be sent (too large?)"))
        return waiting, failures

    def _give_again(
        self, shared: Weights, orders: Iterable[Order], waiting: dict[str, Order], nodes: dict[str, Node], away: Away
    ) -> Iterator[Failure]:
        """The orders of nodes that were started since, a second time; the first may still be answered, and then counts."""
        now, asked = self._nodes(), {order.site for order in waiting.values()}
        anew = {site for site in asked & now.keys() if now[site].activated != nodes[site].activated}
        anew |= away.since.keys() & now.keys()
        late = away.given_up()
        for order in orders:
            if order.site in anew:
                nodes[order.site] = now[order.site]
                away.since.pop(order.site, None)
                again, failures = self._push(packing.pack_weights(shared), [order], now)
                waiting |= again
                reason = "its node has connected anew since the order was given; the order is given again"
                yield from failures or [replace(_failure(order, "lost", reason), again=True)]
            elif order.site in late:
                yield _failure(order, "lost", f"its node was lost, and has not come back within {away.patience_s:g} s")

    def _message(self, order: Order, record: ArrayRecord, node: int) -> Message:
        kind = order.task if order.task in ("train", "evaluate") else "query"
        ttl = self.deadline_s if math.isfinite(self.deadline_s) else None
        return Message(packing.pack_order(order, record), node, kind, ttl=ttl, group_id=str(order.round))

    def _pull(self, waiting: dict[str, Order]) -> Iterator[Reply | Failure]:
        """What has come; an order answered leaves `waiting`. References are dropped before the next one is fetched."""
        for message in self.grid.pull_messages(list(waiting)) if waiting else ():
            key = message.metadata.reply_to_message_id
            answer = self._read(waiting[key], message) if key in waiting else None
            del message
            if answer is not None:
                twice = self.pins is not None  # over a network an order may have been given again
                given = [id for id, order in waiting.items() if order.site == answer.site] if twice else [key]
                if isinstance(answer, Failure) and not answer.again and key != given[-1]:
                    del waiting[key]  # it has been given again, and that is what counts
                    continue
                if not (isinstance(answer, Failure) and answer.again):
                    for id in given:
                        del waiting[id]
                yield answer
            del answer

    def _read(self, order: Order, message: Message) -> Reply | Failure:
        if message.has_error():
            again, code = divmod(message.error.code, AGAIN)
            reason = message.error.reason or f"Flower's error {code}"
            failure = _failure(order, KINDS.get(code, "lost"), reason)
            kind: FailureKind = "refused" if failure.reason.partition(":")[0] in REFUSALS else failure.kind
            return replace(failure, kind=kind, again=again == 1)
        if (mb := _bytes(message.content) / 1e6) > self.max_reply_mb:
            return _failure(order, "invalid", f"the reply is {mb:.0f} MB; wire.max_reply_mb is {self.max_reply_mb:g}")
        try:
            reply = packing.unpack_reply(message.content)
        except Exception as error:  # whatever a site sends, the round goes on
            return _failure(order, "invalid", f"the reply cannot be read: {error}")
        for name in ("run", "round", "task", "site"):
            if getattr(reply, name) != getattr(order, name):
                told, asked = getattr(reply, name), getattr(order, name)
                return _failure(order, "invalid", f"the reply says {name} {told!r}, the order {asked!r}")
        return reply


def _still_waiting(waiting: Mapping[str, Order], left_s: float) -> str:
    order = next(iter(waiting.values()))
    deadline = f"; deadline in {clock(left_s)}" if math.isfinite(left_s) else ""
    sites = named(sorted(order.site for order in waiting.values()))
    return f"round {order.round}: still waiting for {sites} ({order.task}{deadline})"


def _bytes(content: RecordDict) -> int:
    """Bytes of the arrays and texts of a message, without reading them."""
    # not content.array_records: that ties the message into a cycle, and tensors live on
    arrays = [array for record in content.values() if isinstance(record, ArrayRecord) for array in record.values()]
    others = [value for record in content.values() if not isinstance(record, ArrayRecord) for value in record.values()]
    return sum(len(array.data) for array in arrays) + sum(map(_length, others))


def _length(value: object) -> int:
    """Bytes of a text, or of a list of texts and numbers."""
    if isinstance(value, list):
        return sum(map(_length, value))
    return len(value) if isinstance(value, str | bytes) else 8


def _failure(order: Order, kind: FailureKind, reason: str) -> Failure:
    return Failure(site=order.site, round=order.round, task=order.task, kind=kind, reason=one_line(reason))


def one_line(reason: str) -> str:
    """A reason as a person wants it: of a traceback the last line, of Flower's <class 'ValueError'>:<'text'> the words."""
    lines = [line.strip() for line in reason.strip().splitlines() if line.strip()]
    if lines and lines[0].startswith("Traceback"):
        lines = lines[-1:]
    text = " ".join(lines)
    flower = re.fullmatch(r"<class '(?:[\w.]*\.)?(\w+)'>:<'(.*)'>", text)
    text = f"{flower[1]}: {flower[2]}" if flower else text
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
