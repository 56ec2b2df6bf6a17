"""Sites of a few numbers, for the server's tests: no torch, no disk, and everything they do can be done by hand.

A site adds its `step` to the body and to the head rows of its classes. Its Dice is (the body's first number + the steps of
tuning ordered) / 100.
"""

from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from configs.load import build_run
from configs.schema import Run
from strategies.base import Weights
from wire import Failure, Order, Reply

ROLES = {"body": "body", "head": "head"}
ROWS = {"liver": 10.0, "spleen": 20.0, "kidney": 30.0, "lung": 40.0}
"""A class's first head row."""
Change = Callable[[Reply], Reply | Failure]


@dataclass
class Fake:
    """One site."""

    step: float = 1.0
    draws: int = 1
    classes: tuple[str, ...] = ("liver",)
    cases: int = 4
    tests: int = 1
    since: int = 0
    """Connected from the moment that a round this late has been trained."""
    until: float = np.inf
    """Not connected any more from then on."""


@dataclass
class FakeSites:
    """Answers orders, the last one first; `changes` replaces or breaks the answer to (site, task, round)."""

    sites: dict[str, Fake]
    changes: dict[tuple[str, str, int], Change] = field(default_factory=dict)
    asked: list[Order] = field(default_factory=list)
    clock: int = 0

    def connected(self) -> Set[str]:
        return {name for name, site in self.sites.items() if site.since <= self.clock < site.until}

    def ask(self, shared: Weights, orders: Iterable[Order]) -> Iterator[Reply | Failure]:
        for order in reversed(list(orders)):
            self.asked.append(order)
            if order.task == "train":
                self.clock = order.round
            facts = getattr(self, f"_{order.task}")(self.sites[order.site], order, shared)
            classes = self.sites[order.site].classes
            reply = Reply(run=order.run, round=order.round, task=order.task, site=order.site, classes=classes, **facts)
            yield self.changes.get((order.site, order.task, order.round), lambda reply: reply)(reply)

    def _hello(self, site: Fake, order: Order, shared: Weights) -> dict[str, Any]:
        return {"new_cases": site.cases, "rows": ({"tests": site.tests},)}

    def _init(self, site: Fake, order: Order, shared: Weights) -> dict[str, Any]:
        head = np.array([ROWS[name] for name in order.classes], np.float32)
        return {"weights": {"body": np.zeros(2, np.float32), "head": head}, "roles": ROLES}

    def _train(self, site: Fake, order: Order, shared: Weights) -> dict[str, Any]:
        new = np.array([ROWS[name] for name in order.classes[len(shared["head"]) :]], np.float32)
        head = np.concatenate([shared["head"], new])
        head[[order.classes.index(name) for name in site.classes]] += site.step
        row = {"steps": 1, "memory": min(order.quota, site.cases), "loss_sum": float("nan"), "seconds": 0.5}
        return {"weights": {"body": shared["body"] + np.float32(site.step), "head": head}, "draws": site.draws, "rows": (row,)}

    def _evaluate(self, site: Fake, order: Order, shared: Weights) -> dict[str, Any]:
        dice = (float(shared["body"][0]) + order.personalise) / 100
        surface = {"hd95": 1.0, "nsd": 0.5} if order.last else {}
        rows = [
            {"case": f"{order.site}{i}", "class": name, "dice": dice, "dice.all": dice, "iou": dice / 2} | surface
            for i in range(site.tests)
            for name in site.classes
        ]
        return {"rows": tuple(rows)}


def fake_run(sites: Iterable[str] = ("a", "b"), **sections: Any) -> Run:
    """A run over sites whose data nobody reads."""
    return build_run({"name": "fake", "sites": {name: {"root": "none"} for name in sites}, **sections})
