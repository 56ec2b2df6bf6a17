"""A site's own model: the final one, tuned to what the site remembers. It never leaves the site.

A site that is held out remembers nothing. It tunes a copy to its training cases, which nobody else may do, and keeps nothing
of it: a probe of what the model is worth as a beginning, where by itself it can do nothing (a class that nobody taught).
"""

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
import torch
from safetensors.numpy import save_file

from clients import model
from clients.objective import Start, Terms
from clients.objectives.prox import Prox
from clients.rounds import Round, Watch, new_samples
from clients.snapshot import Snapshot
from clients.train import Trainer
from configs.card import model_card
from configs.memory import Memory
from memory import make_policy
from wire import Order

if TYPE_CHECKING:
    from clients.work import Site

FILE = "personal.safetensors"
"""In the site's folder; read as a run's model.safetensors is."""


def tune(site: "Site", order: Order, segmenter: model.Segmenter, after: Snapshot, micro: int) -> None:
    """Train the model in place for `order.personalise` steps on the site's memory, held near where it was, and keep it.
    `micro`: patches at a time (clients.train.Trainer).

    Ditto's personal model (Li et al., 2021, arXiv:2012.04221), tuned once at the end. What stays at home is not held: it
    is the site's own already. The memory is only drawn from, on copies of its samples: asked twice, the site gives the
    same bytes. Without a memory the model stays as it is. At a held-out site this is `_probe`.
    """
    if not site.site.learns:
        return _probe(site, order, segmenter, micro)
    rng = np.random.default_rng([site.run.seed, crc32(site.name.encode()), order.round, crc32(b"personalise")])
    torch.manual_seed(int(rng.integers(2**62)))
    _round(site, order, segmenter, after, rng, micro).run([], 0)  # with an empty memory it does nothing
    draft = site.folder / f".{FILE}"
    save_file(model.shared_weights(segmenter), draft, model_card(site.run, site.classes(order)))
    os.replace(draft, site.folder / FILE)


def _probe(site: "Site", order: Order, segmenter: model.Segmenter, micro: int) -> None:
    """Train the model in place for `order.personalise` steps on all of the site's training cases, alike at every site and
    whatever the memory policy; nothing is written down. Without such a case the model stays as it is."""
    rng = np.random.default_rng([site.run.seed, crc32(site.name.encode()), order.round, crc32(b"probe")])
    torch.manual_seed(int(rng.integers(2**62)))
    learner = type(site)(site.name, site.site.model_copy(update={"learns": True}), site.run, site.folder)
    cases, labels = learner.cases, learner.cases.labels
    held = list(new_samples([c.name for c in cases.train], 0, site.run.seed, site.name, learner.volume, labels, cases.domains))
    trainer = Trainer(segmenter, site.rows(order), site.run.train, Terms(), micro)
    recipe = Memory(policy="linear", uncertainty=site.run.memory.uncertainty)
    facts = (trainer, make_policy(recipe.policy, {}), len(held), site.run.train, recipe, labels, learner.volume, rng, held)
    Round(*facts, _watch(site, order), replay_steps=order.personalise).run([], 0)


def _watch(site: "Site", order: Order) -> Watch:
    def watch(facts: dict[str, Any]) -> None:
        site.progress.show("tune", round=order.round, done=facts["steps"], of=facts["planned"])

    return watch


def _round(
    site: "Site", order: Order, segmenter: model.Segmenter, after: Snapshot, rng: np.random.Generator, micro: int
) -> Round:
    """A round of replay in which nothing arrives and nothing is dropped."""
    recipe, run = site.run.memory, site.run
    policy = make_policy(recipe.policy, recipe.args, recipe.group_by, recipe.new_share)
    home = frozenset(name for name, role in model.roles(segmenter).items() if role in order.home)
    terms = Prox(mu=run.strategy.pull).begin(Start(segmenter, site.rows(order), home=home))
    trainer = Trainer(segmenter, site.rows(order), run.train, terms, micro)
    if run.train.optimizer == "keep":
        trainer.load_moments(after.moments)
    held = [replace(sample) for sample in after.samples]
    facts = (trainer, policy, len(held), run.train, recipe, site.cases.labels, site.volume, rng, held)
    return Round(*facts, _watch(site, order), replay_steps=order.personalise)
