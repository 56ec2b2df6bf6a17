"""Who comes in, and who leaves for good by its own word: hello to whoever has connected, farewell to whoever says so.

A site leaves when its site file says `leave: true`: its reply says so, still counts, and is the last. It is asked again only
once it has been away and connects anew (or the server was started anew): then it is taken in as before if its file no
longer says so, with the memory that it has kept, and refused in one line if it does.
"""

import logging
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

from server.federation import Federation, Known
from server.orders import Orders
from server.record import Record
from server.remembered import Remembered
from wire import Failure, Reply

LOG = logging.getLogger("sitestream")
WHY = "its site file says leave: true"


@dataclass
class Reception:
    """Keeps the federation's list of sites."""

    orders: Orders
    record: Record
    remembered: Remembered
    extra: AbstractSet[str] = frozenset()
    """Clients that are no hospital."""
    idle: set[str] = field(default_factory=set)
    """Sites that are connected and have said that they leave."""

    def greet(
        self, federation: Federation, number: int, there: AbstractSet[str], in_order: Callable[[Iterable[str]], list[str]]
    ) -> Federation:
        """Hello to whoever has connected since: each says its stream, its test cases, its classes and what it keeps at home."""
        self.idle &= there
        wanted = there - self.idle - (federation.known.keys() - federation.withdrawn)
        replies, _ = self.orders.ask({}, [self.orders.order(federation, site, "hello", number) for site in in_order(wanted)])
        for reply in (replies[site] for site in in_order(wanted) if site in replies):
            federation = self._refused(federation, reply) if reply.leaving else self._taken_in(federation, reply)
        return federation

    def let_go(self, federation: Federation, number: int) -> Federation:
        """Farewell to whoever has said in this round that it leaves: what it held becomes orphans, its head rows stay."""
        going = sorted(self.orders.leaving & federation.known.keys() - federation.withdrawn)
        if not going:
            return federation
        farewell = replace(self.orders, stop=False)  # who is gone before it hears of it has failed at nothing
        farewell.ask({}, [self.orders.order(federation, site, "leave", number) for site in going])
        for site in going:
            self.record.append("leave", round=number, site=site, stage=federation.stage, reason=WHY)
        self.remembered.depart(site for site in going if site not in federation.left)
        self.idle |= {*going}
        gone = frozenset(going)
        left, withdrawn = federation.left | gone, federation.withdrawn | gone
        return replace(federation, present=federation.present - gone, left=left, withdrawn=withdrawn)

    def _taken_in(self, federation: Federation, reply: Reply) -> Federation:
        known = Known(reply.new_cases, int(reply.rows[0]["tests"]), reply.classes, reply.withholds)
        self.record.append("site", site=reply.site, **vars(known), extra=reply.site in self.extra)
        self.remembered.meet(reply)
        federation = replace(federation, known=federation.known | {reply.site: known})
        if reply.site not in federation.withdrawn:
            return federation
        back, classes = {reply.site}, dict.fromkeys((*federation.classes, *reply.classes))
        left, withdrawn = federation.left - back, federation.withdrawn - back
        return replace(federation, left=left, withdrawn=withdrawn, classes=tuple(classes))

    def _refused(self, federation: Federation, reply: Reply) -> Federation:
        self.idle.add(reply.site)
        told = "has left for good and is not taken in again" if reply.site in federation.known else "is not taken in"
        reason = f"it {told}: {WHY}; set leave: false there and start its node again"
        LOG.warning("%s: %s", reply.site, reason)
        self.orders.fault(Failure(site=reply.site, round=reply.round, task="hello", kind="refused", reason=reason))
        return federation
