"""Orders out, replies in: what the server says to a site as the federation stands, and which answers it takes."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from facts import short
from server.federation import Federation
from server.record import Record
from server.replies import invalid, why_incomplete
from server.sites import Sites
from server.waiting import Waiting
from strategies.base import Weights
from wire import Failure, Order, Reply, Task


class CannotContinue(RuntimeError):
    """The run could not be completed; what was done so far is saved."""


Take = Callable[[Reply], Reply | Failure]


def as_it_is(reply: Reply) -> Reply | Failure:
    """Takes every reply."""
    return reply


def of_its_classes(federation: Federation) -> Take:
    """Takes an evaluation whose rows speak of classes that the site named when it came, and of no others."""

    def take(reply: Reply) -> Reply | Failure:
        annotated = set(federation.known[reply.site].classes)
        odd = next((row["class"] for row in reply.rows if row["class"] not in annotated), None)
        return reply if odd is None else invalid(reply, f"it evaluates {short(odd)}, a class that it does not annotate")

    return take


@dataclass(frozen=True)
class Orders:
    """The server's desk: writes orders, reads replies, records failures."""

    sites: Sites
    record: Record
    home: tuple[str, ...]
    """Roles whose tensors stay with their site."""
    rounds: int
    """How many rounds the run has."""
    stop: bool = False
    """Whether a site's failure ends the run."""
    deadline_s: float = math.inf
    """Seconds that a site may take over an order; only told to people."""
    leaving: set[str] = field(default_factory=set)
    """Sites whose last reply said that they leave for good."""

    def order(self, federation: Federation, site: str, task: Task, number: int) -> Order:
        """An order to a site as the federation stands."""
        return Order(
            run=federation.run,
            round=number,
            task=task,
            site=site,
            classes=federation.classes,
            taught=tuple(name for name in federation.classes if name in federation.taught),
            merged=federation.merged.get(site, 0),
            home=self.home,
            rounds=self.rounds,
        )

    def ask(self, shared: Weights, orders: Iterable[Order], take: Take = as_it_is) -> tuple[dict[str, Reply], list[Failure]]:
        """Replies by site, in site order, and failures, which are recorded. `take` handles each as it comes.

        Raises:
            CannotContinue: a site failed, and the recipe says that the run stops then.
        """

        def checked(reply: Reply) -> Reply | Failure:
            reason = why_incomplete(reply)
            return invalid(reply, reason) if reason else take(reply)

        answers, asked = [], list(orders)
        with self.waiting(asked) as waiting:
            for answer in self.sites.ask(shared, asked):
                if isinstance(answer, Failure) and answer.again:
                    self.fault(answer)
                    continue
                waiting.answered(answer.site)
                answers.append(answer if isinstance(answer, Failure) else checked(answer))
        answers.sort(key=lambda answer: answer.site)
        failures = [answer for answer in answers if isinstance(answer, Failure)]
        for failure in failures:
            self.record.append("failure", **_facts(failure))
        if failures and self.stop:
            first = failures[0]
            facts = f"{first.site} failed to {first.task} in round {first.round} ({first.kind}: {first.reason})"
            raise CannotContinue(f"{facts}; faults.on_failure is stop")
        replies = {answer.site: answer for answer in answers if isinstance(answer, Reply)}
        self.leaving.difference_update(replies)
        self.leaving.update(site for site, reply in replies.items() if reply.leaving)
        return replies, failures

    def waiting(self, orders: Sequence[Order]) -> Waiting:
        """Lets people see who is waited for."""
        task, number = (orders[0].task, orders[0].round) if orders else ("", 0)
        return Waiting(self.record.folder, task, number, [order.site for order in orders], self.deadline_s)

    def fault(self, failure: Failure) -> None:
        """Something went wrong and the run made up for it: into the record, for people; no result depends on it."""
        self.record.append("fault", **_facts(failure))


def _facts(failure: Failure) -> dict[str, Any]:
    return {name: fact for name, fact in vars(failure).items() if name != "again"}
