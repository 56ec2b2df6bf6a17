"""What a site does with an order. Knows nothing of Flower: clients/app.py and simulations/local.py call `Site.answer`.

Training is clients/learn.py, evaluating clients/examine.py; here is what both need of the site.
"""

import json
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from clients import examine, learn, model
from clients.data import Case, SiteCases, site_cases
from clients.keyed import Keyed
from clients.labels import check_values
from clients.leaving import left_after, note_back, note_left
from clients.ledger import Ledger
from clients.networks import network
from clients.prepare import Volume, checked, prepare
from clients.progress import Progress
from clients.snapshot import Snapshot, before
from clients.train import pick_device
from clients.withhold import taken_out, withhold
from configs.load import cache_root
from configs.schema import Run, SiteFile
from configs.strategy import HOME
from wire import Order, Reply, Weights

LOG = logging.getLogger("sitestream")
LOCK_WAIT_S = 60.0
"""Seconds for whoever is still at work in the site's folder to be gone: a killed process may take so long to die."""
LOCK_SILENT_S = 0.5
"""After so many the site says that it waits."""
MOST_TIMES = 1000
"""An order's steps beside the recipe's: the index may give one site the replay of as many others. What is more holds the
site's folder for ever."""
OPEN_VOLUMES = 128
"""Memory-mapped cases per site: each holds two open files, and a process may have about a thousand."""


class Site:
    """One hospital at work: its cases, its folder (memory, snapshots, secret) and the recipe."""

    def __init__(self, name: str, site: SiteFile, run: Run, folder: Path) -> None:
        if site.includes is None:  # a hospital's own file may leave that to the recipe
            site = site.model_copy(update={"includes": run.includes})
        self.name, self.site, self.run, self.folder = name, site, run, folder
        folder.mkdir(parents=True, exist_ok=True)
        self.progress = Progress(folder, name)
        self.keyed = Keyed(folder)
        self.ledger = Ledger(folder)
        self._prepared = False
        self.volume = lru_cache(maxsize=OPEN_VOLUMES)(self._open)
        """A prepared case by name."""
        self.frozen_points: learn.FrozenPoints = {}
        """What the frozen encoder says of each case: worked out once."""

    def answer(self, order: Order, weights: Weights, short: bool = False) -> Reply:
        """Do what the order says, as one transaction, alone in the site's folder.

        `short`: a process that did this order was ended because memory ran out; it is done with less at a time.

        Raises:
            ValueError: data, weights or order do not fit.
            ArithmeticError: training diverged.
            MemoryError: memory runs out even with one patch at a time.
            OSError: the disk is full: what cannot be entered in the ledger does not leave.
        """
        work: dict[str, Callable[[Order, Weights], Reply]] = {
            "hello": self._hello,
            "init": self._init,
            "train": partial(self._train, short=short),
            "evaluate": partial(self._evaluate, short=short),
            "leave": self._leave,
        }
        torch.set_num_threads(max(1, int(self.site.cpus)))
        with self._lock(order.round):
            self.ledger.came(order, weights)
            try:
                self._check(order)
                whole = work[order.task](order, weights)
            except Exception as error:
                self.ledger.failed(order, error)
                raise
            reply = withhold(whole, self.site.shares, self.run.sketch.noise)
            self.ledger.left(reply, taken_out(whole, reply))
            return reply

    def _check(self, order: Order) -> None:
        """Raises ValueError for an order that is another site's, or goes beyond this site's own recipe."""
        if order.site != self.name:
            raise ValueError(f"the order is for site {order.site!r}, this is {self.name!r}")
        if not self.site.leave:
            note_back(self.folder, order.run)
        elif order.task != "hello" and order.round > (left := left_after(self.folder, order.run)):
            raise ValueError(f"this site left the run for good in round {left} (its site file says leave: true)")
        if order.task == "train" and (away := sorted({*HOME.get(self.run.strategy.share, ())} - {*order.home})):
            raise ValueError(f"the order would take the {away[0]}, which this site's recipe (strategy.share) keeps at home")
        recipe = {"train.replay_steps": self.run.train.replay_steps, "strategy.personalise": self.run.strategy.personalise}
        for (key, own), asked in zip(recipe.items(), (order.replay or 0, order.personalise), strict=True):
            if asked > (most := MOST_TIMES * max(own, 1)):
                raise ValueError(f"the order asks for {asked} steps; {most} are the most ({MOST_TIMES} times its {key}: {own})")

    def prepare(self) -> None:
        """Bring every case into the cache, saying how far it is.

        Raises:
            ValueError: a case cannot be read, or its label holds a value that no class has.
        """
        cases = [*self.cases.train, *self.tests]
        for done, volume in enumerate(prepare(cases, self.run.preprocess, cache_root()), 1):
            check_values(volume.case, volume.counts, self.cases.values)
            self.progress.show("prepare", done=done, of=len(cases))

    @cached_property
    def cases(self) -> SiteCases:
        """The site's cases; read once."""
        return site_cases(self.name, self.site, self.run.seed)

    @property
    def tests(self) -> tuple[Case, ...]:
        """The cases on which the site evaluates."""
        return self.cases.test if self.run.evaluate.on == "test" else self.cases.validation

    def _lock(self, round: int) -> AbstractContextManager[Any]:
        """The site's folder, for this process alone; raises ValueError if another one is at work in it and does not end."""
        lock = FileLock(self.folder / "lock")
        with suppress(Timeout):
            return lock.acquire(timeout=LOCK_SILENT_S)
        self.progress.show("waiting", force=True, round=round)
        try:
            held = lock.acquire(timeout=LOCK_WAIT_S)
        except Timeout:
            raise ValueError(f"site {self.name!r}: another process is at work in {self.folder}") from None
        self.progress.show("idle", force=True, round=round)
        return held

    def _open(self, case: str) -> Volume:
        if not self._prepared:
            self.prepare()
            self._prepared = True
        return checked(self._by_name[case], self.run.preprocess, cache_root())

    @cached_property
    def _by_name(self) -> dict[str, Case]:
        return {case.name: case for case in (*self.cases.train, *self.tests)}

    # Tasks ------------------------------------------------------------------------------------------------------------

    def _hello(self, order: Order, weights: Weights) -> Reply:
        return self.reply(order, new_cases=len(self.cases.train), rows=({"tests": len(self.tests)},))

    def _init(self, order: Order, weights: Weights) -> Reply:
        fresh = model.build(self.run.model.network, self.run.model.args, order.classes, self.run.seed)
        return self.reply(order, weights=model.shared_weights(fresh), roles=model.roles(fresh))

    def _leave(self, order: Order, weights: Weights) -> Reply:
        """The server lets the site go: from the next round on it takes no order of this run."""
        if self.site.leave:
            note_left(self.folder, order.run, order.round)
        return self.reply(order)

    def _train(self, order: Order, weights: Weights, short: bool) -> Reply:
        self.progress.keep(refused=order.refused or None)
        if order.refused:
            LOG.warning("site %s: its last update was refused: %s", self.name, order.refused)
        return learn.learn(self, order, weights, short)

    def _evaluate(self, order: Order, weights: Weights, short: bool) -> Reply:
        return examine.examine(self, order, weights, short)

    # What both training and evaluating need --------------------------------------------------------------------------------

    def before(self, order: Order, round: int) -> Snapshot:
        """What the site remembers of the rounds before this one; raises ValueError if it began with other cases."""
        found = before(self.folder / "state", order.run, round)
        if found.cases not in ("", now := self.cases.fingerprint):
            words = "its cases are not those with which it began in this run"
            raise ValueError(
                f"site {self.name!r}: {words} (then {found.cases}, now {now}); put them back, or begin another run"
            )
        return found

    def model(self, order: Order, weights: Weights, snapshot: Snapshot) -> model.Segmenter:
        """The network for the label space, with the shared weights in it, overlaid by what stays at home."""
        recipe, device = self.run.model, str(pick_device(self.site.device))
        segmenter = network(recipe.network, json.dumps(recipe.args), self.classes(order), self.run.seed, device)
        model.load_shared(segmenter, {**weights, **snapshot.home})
        return segmenter

    def classes(self, order: Order) -> tuple[str, ...]:
        """The order's label space, and after it the classes that only this site knows yet."""
        return (*order.classes, *(name for name in self.cases.labels if name not in order.classes))

    def rows(self, order: Order) -> list[int]:
        """The head rows of the classes that this site annotates."""
        return [self.classes(order).index(name) for name in self.cases.labels]

    def reply(self, order: Order, **facts: Any) -> Reply:
        """A reply to the order."""
        said: dict[str, Any] = {"classes": tuple(self.cases.labels), "leaving": self.site.leave}
        return Reply(run=order.run, round=order.round, task=order.task, site=self.name, **said, **facts)
