"""What a site does with an order. Knows nothing of Flower: clients/app.py and simulations/local.py call `Site.answer`."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from clients import evaluate, model, snapshot
from clients.bregman import bregman_information
from clients.comparison import Comparison, Points, evictions
from clients.data import Case, SiteCases, site_cases
from clients.keyed import Keyed
from clients.objectives import make_objective
from clients.prepare import Volume, prepare
from clients.privacy import epsilon
from clients.progress import Progress
from clients.rounds import Round, new_samples, timer
from clients.sketch import Sketcher
from clients.slices import keep_slices
from clients.train import Trainer, pick_device, place, uses_bfloat16
from configs.load import cache_root
from configs.schema import Run, SiteFile
from memory import make_policy
from memory.policy import MemoryPolicy, needs
from memory.sample import Sample
from wire import Order, Reply, Weights

LOCK_WAIT_S = 10.0
OPEN_VOLUMES = 128
"""Memory-mapped cases per site: each holds two open files, and a process may have about a thousand."""
FROZEN = ("frozen",)
"""The frozen encoder's classes: its head is never read."""


class Site:
    """One hospital at work: its cases, its folder (memory, snapshots, secret) and the recipe."""

    def __init__(self, name: str, site: SiteFile, run: Run, folder: Path) -> None:
        self.name, self.site, self.run, self.folder = name, site, run, folder
        folder.mkdir(parents=True, exist_ok=True)
        self.progress = Progress(folder, name)
        self.keyed = Keyed(folder)
        self._prepared = False
        self.volume = lru_cache(maxsize=OPEN_VOLUMES)(self._open)
        """A prepared case by name."""
        self._frozen_points: dict[str, NDArray[np.float32]] = {}

    def answer(self, order: Order, weights: Weights) -> Reply:
        """Do what the order says, as one transaction, alone in the site's folder.

        Raises:
            ValueError: data, weights or order do not fit.
            ArithmeticError: training diverged.
        """
        work = {
            "hello": self._hello,
            "init": self._init,
            "train": self._train,
            "evaluate": self._evaluate,
            "leave": self._leave,
        }
        if order.site != self.name:
            raise ValueError(f"the order is for site {order.site!r}, this is {self.name!r}")
        torch.set_num_threads(max(1, int(self.site.cpus)))
        try:
            with FileLock(self.folder / "lock", timeout=LOCK_WAIT_S):
                return work[order.task](order, weights)
        except Timeout:
            raise ValueError(f"site {self.name!r}: another process is at work in {self.folder}") from None

    def prepare(self) -> None:
        """Bring every case into the cache, saying how far it is."""
        cases = [*self.cases.train, *self._tests]
        for done, _ in enumerate(prepare(cases, self.run.preprocess, cache_root()), 1):
            self.progress.show("prepare", done=done, of=len(cases))

    @cached_property
    def cases(self) -> SiteCases:
        """The site's cases; read once."""
        return site_cases(self.name, self.site, self.run.seed)

    def _open(self, case: str) -> Volume:
        if not self._prepared:
            self.prepare()
            self._prepared = True
        return next(prepare([self._by_name[case]], self.run.preprocess, cache_root()))

    @cached_property
    def _by_name(self) -> dict[str, Case]:
        return {case.name: case for case in (*self.cases.train, *self._tests)}

    # Tasks ------------------------------------------------------------------------------------------------------------

    def _hello(self, order: Order, weights: Weights) -> Reply:
        return self._reply(order, new_cases=len(self.cases.train), rows=({"tests": len(self._tests)},))

    def _init(self, order: Order, weights: Weights) -> Reply:
        fresh = model.build(self.run.model.network, self.run.model.args, order.classes, self.run.seed)
        return self._reply(order, weights=model.shared_weights(fresh), roles=model.roles(fresh))

    def _leave(self, order: Order, weights: Weights) -> Reply:
        return self._reply(order)

    def _train(self, order: Order, weights: Weights) -> Reply:
        seconds = timer()
        before = snapshot.before(self.folder / "state", order.run, order.round)
        rng = np.random.default_rng([self.run.seed, crc32(self.name.encode()), order.round])
        torch.manual_seed(int(rng.integers(2**62)))
        segmenter = self._model(order, weights)
        held, arriving = [replace(sample) for sample in before.samples], self._arriving(before)
        left = len(self.cases.train) - before.cursor - len(arriving)
        policy = self._policy()
        comparison = self._comparison(order, segmenter) if self.run.index.on else None
        if comparison:
            comparison.look(held, arriving)
        if "bregman" in needs(policy):
            self._look_again([*held, *arriving], segmenter, order)
        trainer = Trainer(segmenter, self._rows(order), self.run.train, make_objective(self.run.strategy.objective))
        if self.run.train.optimizer == "keep":
            trainer.load_moments(before.moments)
        work = self._round(order, trainer, policy, held, rng)
        work.run(arriving, left)
        moments = trainer.moments() if self.run.train.optimizer == "keep" else {}
        after = snapshot.Snapshot(before.cursor + len(arriving), before.served + 1, tuple(work.samples), moments)
        snapshot.commit(self.folder / "state", order.run, order.round, after, self.run.keep)
        told = comparison.told(work.samples) if comparison else {}
        row = work.facts() | {
            "evicted": evictions(work.evicted, self.keyed, self.run.sketch.noise),
            "new_cases": len(arriving),
            "stream_left": left,
        }
        row |= self._spent(after.served) if comparison else {}
        self.progress.show("idle", force=True, round=order.round, memory=len(work.samples), budget=work.quota)
        shared = model.shared_weights(segmenter)
        row["seconds"] = seconds()
        return self._reply(order, weights=shared, draws=work.draws, new_cases=len(arriving), rows=(row,), **told)

    def _round(
        self, order: Order, trainer: Trainer, policy: MemoryPolicy, held: list[Sample], rng: np.random.Generator
    ) -> Round:
        def watch(facts: dict[str, Any]) -> None:
            loss = facts["loss_sum"] / facts["loss_weight"] if facts["loss_weight"] else None
            shown = {key: facts[key] for key in ("memory", "budget", "memory_classes", "memory_domains")}
            self.progress.show("train", round=order.round, step=facts["steps"], steps=facts["planned"], loss=loss, **shown)

        quota = min(order.quota, self.site.budget or order.quota)
        replay = self.run.train.replay_steps if order.replay is None else order.replay
        recipe, labels = self.run.memory, self.cases.labels
        return Round(trainer, policy, quota, self.run.train, recipe, labels, self.volume, rng, held, watch, replay_steps=replay)

    def _evaluate(self, order: Order, weights: Weights) -> Reply:
        segmenter, rows = self._model(order, weights).eval(), self._rows(order)
        half = uses_bfloat16(self.run.train, pick_device(self.site.device))
        told: list[dict[str, Any]] = []
        for done, case in enumerate(self._tests):
            self.progress.show("evaluate", round=order.round, done=done, of=len(self._tests))
            volume = self.volume(case.name)
            prediction = evaluate.predict(segmenter, volume, rows, self.run.train.patch, self.run.evaluate, half)
            truth = evaluate.truth_of(volume, self.cases.labels)
            spacing = volume.spacing if order.last and self.run.evaluate.surface else None
            found = list(evaluate.scores(prediction, truth, list(self.cases.labels), spacing))
            told += [{"case": self.keyed(case.name), **row} for row in found]
            if order.last and done < self.run.evaluate.slices:
                keep_slices(self.folder / "slices", self.keyed(case.name), volume, prediction, truth, found, order.round)
        self.progress.show("idle", force=True, round=order.round)
        return self._reply(order, rows=tuple(told))

    # Parts ------------------------------------------------------------------------------------------------------------

    @property
    def _tests(self) -> tuple[Case, ...]:
        return self.cases.test if self.run.evaluate.on == "test" else self.cases.validation

    def _policy(self) -> MemoryPolicy:
        recipe = self.run.memory
        return make_policy(recipe.policy, recipe.args, recipe.group_by, recipe.new_share)

    def _arriving(self, before: snapshot.Snapshot) -> list[Sample]:
        """The cases that arrive in this round of presence, as samples."""
        portions = self.site.arriving
        count = portions[before.served] if portions and before.served < len(portions) else self.run.stream.cases_per_round
        end = None if count is None else before.cursor + count
        cases = [case.name for case in self.cases.train[before.cursor : end]]
        facts = (before.cursor, self.run.seed, self.name, self.volume, self.cases.labels, self.cases.domains)
        return list(new_samples(cases, *facts))

    def _comparison(self, order: Order, segmenter: model.Segmenter) -> Comparison:
        """The site's half of the index, under the round's global model or the frozen one."""
        recipe, run = self.run.sketch, self.run
        if recipe.encoder == "global":
            encoder, known = segmenter, {}
        else:
            encoder = _network(run.model.network, json.dumps(run.model.args), FROZEN, run.seed, "cpu")
            known = self._frozen_points
        points = Points(Sketcher(encoder.eval(), run.train.patch, run.seed, recipe.size), self.volume, known)
        return Comparison(order, points, self.keyed, recipe.noise, self.keyed.secret)

    def _look_again(self, samples: Sequence[Sample], segmenter: model.Segmenter, order: Order) -> None:
        """Bregman information of each case under the round's model."""
        rng = np.random.default_rng([self.run.seed, crc32(self.name.encode()), order.round, crc32(b"bregman")])
        for sample in samples:
            facts = (segmenter.eval(), self._rows(order), self.volume(sample.case), self.run.train.patch, rng)
            sample.scores["bregman"] = bregman_information(*facts)

    def _spent(self, uploads: int) -> dict[str, float]:
        """What the noise of this upload and of all so far has bought."""
        noise, delta = self.run.sketch.noise, self.run.sketch.delta
        if noise is None:
            return {}
        return {"epsilon": epsilon(noise, 1, delta), "epsilon_total": epsilon(noise, uploads, delta)}

    def _classes(self, order: Order) -> tuple[str, ...]:
        """The order's label space, and after it the classes that only this site knows yet."""
        return (*order.classes, *(name for name in self.cases.labels if name not in order.classes))

    def _model(self, order: Order, weights: Weights) -> model.Segmenter:
        """The network for the label space, with the given weights in it."""
        recipe, device = self.run.model, str(pick_device(self.site.device))
        segmenter = _network(recipe.network, json.dumps(recipe.args), self._classes(order), self.run.seed, device)
        model.load_shared(segmenter, weights)
        return segmenter

    def _rows(self, order: Order) -> list[int]:
        """The head rows of the classes that this site annotates."""
        return [self._classes(order).index(name) for name in self.cases.labels]

    def _reply(self, order: Order, **facts: Any) -> Reply:
        classes = tuple(self.cases.labels)
        return Reply(run=order.run, round=order.round, task=order.task, site=self.name, classes=classes, **facts)


@lru_cache(maxsize=2)
def _network(network: str, args: str, classes: tuple[str, ...], seed: int, device: str) -> model.Segmenter:
    """One network per label space and process: every order loads its own weights into it."""
    return place(model.build(network, json.loads(args), classes, seed), torch.device(device))
