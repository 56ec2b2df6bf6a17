"""A turn: some sites train side by side, their updates go into the spool as they come, and one merge makes the next model."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

from configs.schema import Run
from server.federation import Federation
from server.orders import Orders
from server.record import Record
from server.remembered import Remembered
from server.spool import Spool
from server.updates import Door, Limits
from server.waiting import Waiting
from strategies import Strategy
from wire import Failure, Order, Reply, size, sketch_bytes, told_bytes, with_extra

Cost = dict[str, int]


@dataclass(frozen=True)
class Turn:
    """What the turns of a run have in common."""

    run: Run
    folder: Path
    orders: Orders
    strategy: Strategy
    record: Record
    remembered: Remembered

    def __call__(self, federation: Federation, number: int, sites: Sequence[str]) -> tuple[Federation, Cost, list[Failure]]:
        """Orders out, updates in, one merge in site order; what it cost, and who failed."""
        state, spool = federation.state, Spool(self.folder)
        shared = with_extra(state.weights, self.strategy.told(state))
        orders = self.written(federation, number, sites)
        door = self.door(federation, orders, spool)
        clock = time.perf_counter()
        replies, failures = self.orders.ask(shared, orders, door)
        federation = federation.spend("training", time.perf_counter() - clock)
        clock = time.perf_counter()
        down = {order.site: size(shared) + told_bytes(order) for order in orders}
        up = {site: spool.bytes_up[site] + sketch_bytes(reply) for site, reply in replies.items()}
        for order in (order for order in orders if order.site in replies):
            cost = {"bytes_down": down[order.site], "bytes_coverage": told_bytes(order), "bytes_up": up[order.site]}
            self.note_reply(federation, replies[order.site], number, cost, door.norms[order.site])
        with Waiting(self.folder, "merging", number):
            federation = self.merged(federation, number, replies, spool, len(orders))
        spool.close()
        held = federation.held | {site: int(reply.rows[0]["memory"]) for site, reply in replies.items()}
        refused = federation.refused | {failure.site: failure.reason for failure in failures}
        federation = replace(federation, held=held, refused=refused)
        draws = sum(reply.draws for reply in replies.values())
        cost = {"draws": draws, "bytes_down": sum(down.values()), "bytes_up": sum(up.values())}
        return federation.spend("merging", time.perf_counter() - clock), cost, failures

    def written(self, federation: Federation, number: int, sites: Sequence[str]) -> list[Order]:
        """The sites' orders, with what each is told of its memory and of its last update."""
        words = self.remembered.words(federation.live, sites, self.run.train.replay_steps)
        return [
            replace(
                self.orders.order(federation, site, "train", number), **words[site], refused=federation.refused.get(site, "")
            )
            for site in sites
        ]

    def door(self, federation: Federation, orders: Sequence[Order], spool: Spool) -> Door:
        """Who may say what in this turn."""
        train = self.run.train
        replay = {order.site: train.replay_steps if order.replay is None else order.replay for order in orders}
        most = {site: train.sampling_rate * federation.known[site].cases + steps for site, steps in replay.items()}
        annotated = {site: frozenset(federation.known[site].classes) for site in most}
        limits = {o.site: Limits(annotated[o.site], train.batch * most[o.site], o.quota) for o in orders}
        facts = (federation.state.weights, federation.roles, federation.classes, self.strategy.share.home)
        return Door(*facts, self.run.wire, spool, limits, self.strategy.half, train.clip)

    def too_few(self, trained: int, answered: int, asked: int) -> str | None:
        """Why there are too few updates for a merge, in words; None if they are enough."""
        quorum, needed = ceil(round(self.run.faults.quorum * asked, 9)), self.strategy.min_present  # .07 * 100 is above 7
        if answered < quorum:
            return f"faults.quorum wants {quorum} of {asked} sites and {answered} answered: the model stays as it was"
        if trained < needed:
            return f"the merge needs the updates of {needed} sites and has {trained}: the model stays as it was"
        return None

    def merged(self, federation: Federation, number: int, replies: dict[str, Reply], spool: Spool, asked: int) -> Federation:
        """The federation after the merge; its model as it was if nobody trained, or fewer sites than the merge works with."""
        trained = [site for site, reply in replies.items() if reply.draws]
        reason = self.too_few(len(trained), len(replies), asked)
        refused = {site: reason for site, reason in federation.refused.items() if site not in replies}
        if trained and reason:
            for site in trained:
                self.record.append("failure", round=number, site=site, task="train", kind="refused", reason=reason)
            return replace(federation, refused=refused | dict.fromkeys(trained, reason))
        if not trained:
            return replace(federation, refused=refused)
        updates = spool.updates(self.remembered.uniqueness(replies), federation.classes)
        facts = (federation.roles, federation.classes, federation.learners)
        state = self.strategy.merge(federation.state, updates, *facts)
        if spent := self.strategy.spent(state):
            self.record.append("privacy", round=number, **spent)
        taught = federation.taught.union(*(replies[site].classes for site in trained))
        merged = federation.merged | dict.fromkeys(trained, number)
        return replace(federation, state=state, refused=refused, merged=merged, taught=taught)

    def note_reply(self, federation: Federation, reply: Reply, number: int, cost: Cost, norm: float) -> None:
        """A reply's facts into the record, its sketches into the index."""
        where = {"round": number, "site": reply.site}
        for gone in self.remembered.evictions(reply):
            self.record.append("evict", **gone | where)
        if problem := self.remembered.take(reply):
            self.record.append("failure", **where, task="train", kind="invalid", reason=f"{problem}; its update counts")
        for kind, reason in survived(reply.rows[0]):
            self.record.append("fault", **where, task="train", kind=kind, reason=reason)
        facts = {name: fact for name, fact in reply.rows[0].items() if name != "evicted"}
        facts |= {"withholds": reply.withholds} if reply.withholds else {}
        facts |= where | {"stage": federation.stage, "draws": reply.draws, "bytes_sketches": sketch_bytes(reply)}
        self.record.append("train", **facts | cost, update_norm=norm)


def survived(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What went wrong at a site in a round that it finished all the same: kind and words."""
    if "restored" in row:
        yield "damaged", f"its newest state was damaged; it went on from the one after round {row['restored']}"
    if "micro_batch" in row:
        yield "memory", f"memory ran out; it takes fewer patches at a time ({row['micro_batch']}), added up to the same batch"
