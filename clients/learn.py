"""A site's training round, as one transaction: take up the last state, train, commit, reply."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray

from clients import acknowledged, model, snapshot
from clients.bregman import bregman_information
from clients.comparison import Comparison, Points, evictions
from clients.micro import ONE_PATCH, halved, with_fewer
from clients.networks import FROZEN, network
from clients.objective import Outcome, Start, Terms
from clients.objectives import make_objective
from clients.privacy import epsilon
from clients.rounds import Round, new_samples, timer
from clients.sketch import Sketcher
from clients.train import Trainer
from compress import encode
from configs.site import within
from memory import make_policy
from memory.policy import MemoryPolicy, needs
from memory.sample import Sample
from wire import Order, Reply, Weights

if TYPE_CHECKING:
    from clients.work import Site

FrozenPoints = dict[str, NDArray[np.float32]]


def learn(site: "Site", order: Order, weights: Weights, short: bool = False) -> Reply:
    """Train as the order says; the site's state advances only when the reply is made.

    Where memory runs out the round begins anew with half as many patches at a time; `short`: it ran out before, and the
    process was ended for it. Raises MemoryError if one patch is too many.
    """
    seconds, batch = timer(), site.run.train.batch
    before = site.before(order, order.round)
    micro = halved(batch, before.micro) if short else before.micro
    reply, _ = with_fewer(lambda some: _learn(site, order, weights, before, some), batch, micro, ONE_PATCH)
    reply.rows[0]["seconds"] = seconds()
    return reply


def _learn(site: "Site", order: Order, weights: Weights, before: snapshot.Snapshot, micro: int) -> Reply:
    """The round with so many patches at a time, from its beginning: `before` is as it was when it ends, or breaks off."""
    rng = np.random.default_rng([site.run.seed, crc32(site.name.encode()), order.round])
    torch.manual_seed(int(rng.integers(2**62)))
    segmenter = site.model(order, weights, before)
    held = [replace(sample, scores={**sample.scores}) for sample in before.samples]
    arriving = _arriving(site, before)
    left = len(site.cases.train) - before.cursor - len(arriving)
    comparison = _comparison(site, order, segmenter) if site.run.index.on else None
    if comparison:
        comparison.look(held, arriving)
    recipe = site.run.memory
    policy = make_policy(recipe.policy, recipe.args, recipe.group_by, recipe.new_share)
    if "bregman" in needs(policy):
        _look_again(site, order, [*held, *arriving], segmenter)
    work = _round(site, order, segmenter, before, policy, held, rng, micro)
    work.run(arriving, left)
    outcome = work.trainer.terms.finish(work.held()) if work.trainer.terms.finish else Outcome()
    home, update = _parted(order, segmenter)
    owed = acknowledged.merged(before.residue, order.merged) if work.draws else {}
    sent, residue = encode(update, weights, site.run.wire, owed)
    moments = work.trainer.moments() if site.run.train.optimizer == "keep" else {}
    facts = (before.cursor + len(arriving), before.served + 1, tuple(work.samples))
    kept: dict[str, Any] = {"home": home, "objective": outcome.kept, "micro": micro, "cases": site.cases.fingerprint}
    # An update without draws does not count: what is owed stays owed.
    residue = acknowledged.kept(residue, owed, order.round) if work.draws and residue else before.residue
    after = snapshot.Snapshot(*facts, moments=moments, residue=residue, **kept)
    safety = _commit(site, order, before, after)
    told = comparison.told(work.samples) if comparison else {}
    row = work.facts() | {
        **safety,
        "evicted": evictions(work.evicted, site.keyed, site.run.sketch.noise),
        "new_cases": len(arriving),
        "stream_left": left,
    }
    row |= _spent(site, after.served) if comparison else {}
    site.progress.show("idle", force=True, round=order.round, memory=len(work.samples), budget=work.quota)
    facts_told = {"draws": work.draws, "new_cases": len(arriving), "rows": (row,), "extra": outcome.said}
    return site.reply(order, weights=sent, **facts_told, **told)


def _commit(site: "Site", order: Order, before: snapshot.Snapshot, after: snapshot.Snapshot) -> dict[str, float]:
    """Make the round durable; what is said of what went wrong on the way, and the seconds that this took (wire.FAULT_KEYS)."""
    seconds = timer()
    snapshot.commit(site.folder / "state", order.run, order.round, after, site.run.keep)
    told: dict[str, float] = {"saving": seconds()}
    if after.micro != before.micro:
        told["micro_batch"] = after.micro
    if before.restored is not None:
        told["restored"] = before.restored
    return told


def _round(
    site: "Site",
    order: Order,
    segmenter: model.Segmenter,
    before: snapshot.Snapshot,
    policy: MemoryPolicy,
    held: list[Sample],
    rng: np.random.Generator,
    micro: int,
) -> Round:
    def watch(facts: dict[str, Any]) -> None:
        loss = facts["loss_sum"] / facts["loss_weight"] if facts["loss_weight"] else None
        shown = {key: facts[key] for key in ("memory", "budget", "memory_classes", "memory_domains")}
        site.progress.show("train", round=order.round, step=facts["steps"], steps=facts["planned"], loss=loss, **shown)

    quota = min(order.quota, site.site.budget or order.quota)
    trainer = Trainer(segmenter, site.rows(order), site.run.train, _terms(site, order, segmenter, before), micro)
    if site.run.train.optimizer == "keep":
        trainer.load_moments(before.moments)
    facts = (trainer, policy, quota, site.run.train, site.run.memory, site.cases.labels, site.volume, rng, held, watch)
    return Round(*facts, replay_steps=_replay_steps(site, order, before))


def _replay_steps(site: "Site", order: Order, before: snapshot.Snapshot) -> int:
    """The steps of this round of presence if nothing arrives."""
    said = site.site.replaying
    if said and before.served < len(said):
        return said[before.served]
    return site.run.train.replay_steps if order.replay is None else order.replay


def _terms(site: "Site", order: Order, segmenter: model.Segmenter, before: snapshot.Snapshot) -> Terms:
    """What the objective adds in this round."""
    strategy, classes, roles = site.run.strategy, site.classes(order), model.roles(segmenter)
    includes = {**site.run.includes, **(site.site.includes or {})}
    taught: Sequence[str] = order.taught
    if "head" in order.home:  # the head is the site's own: it has been taught what the site annotates, once it has trained
        taught = list(site.cases.labels) if before.home else ()
    start = Start(
        segmenter,
        site.rows(order),
        taught=[classes.index(name) for name in taught if name in classes],
        includes={name: within(name, includes) for name in includes},
        home=frozenset(name for name, role in roles.items() if role in order.home),
        round=order.round,
        rounds=order.rounds,
        merged=order.merged,
        told=order.extra,
        kept=before.objective,
    )
    return make_objective(strategy.objective, strategy.objective_args).begin(start)


def _parted(order: Order, segmenter: model.Segmenter) -> tuple[Weights, Weights]:
    """The model's tensors that stay with the site, and those that are sent."""
    roles, tensors = model.roles(segmenter), model.shared_weights(segmenter)
    home = {name: tensor for name, tensor in tensors.items() if roles[name] in order.home}
    return home, {name: tensor for name, tensor in tensors.items() if name not in home}


def _arriving(site: "Site", before: snapshot.Snapshot) -> list[Sample]:
    """The cases that arrive in this round of presence, as samples."""
    portions = site.site.arriving
    count = portions[before.served] if portions and before.served < len(portions) else site.run.stream.cases_per_round
    end = None if count is None else before.cursor + count
    cases = [case.name for case in site.cases.train[before.cursor : end]]
    facts = (before.cursor, site.run.seed, site.name, site.volume, site.cases.labels, site.cases.domains)
    return list(new_samples(cases, *facts))


def _comparison(site: "Site", order: Order, segmenter: model.Segmenter) -> Comparison:
    """The site's half of the index, under the round's global model or the frozen one."""
    recipe, run = site.run.sketch, site.run
    if recipe.encoder == "global":
        encoder, known = segmenter, FrozenPoints()
    else:
        encoder = network(run.model.network, json.dumps(run.model.args), FROZEN, run.seed, "cpu")
        known = site.frozen_points
    points = Points(Sketcher(encoder.eval(), run.train.patch, run.seed, recipe.size), site.volume, known)
    return Comparison(order, points, site.keyed, recipe.noise, site.keyed.secret)


def _look_again(site: "Site", order: Order, samples: Sequence[Sample], segmenter: model.Segmenter) -> None:
    """Bregman information of each case under the round's model."""
    rng = np.random.default_rng([site.run.seed, crc32(site.name.encode()), order.round, crc32(b"bregman")])
    for sample in samples:
        volume = site.volume(sample.case)
        rows = [row for row, name in zip(site.rows(order), site.cases.labels, strict=True) if volume.annotates(name)]
        facts = (segmenter.eval(), rows, volume, site.run.train.patch, rng)
        sample.scores["bregman"] = bregman_information(*facts)


def _spent(site: "Site", uploads: int) -> dict[str, float]:
    """What the noise of this upload and of all so far has bought."""
    noise, delta = site.run.sketch.noise, site.run.sketch.delta
    if noise is None:
        return {}
    return {"epsilon": epsilon(noise, 1, delta), "epsilon_total": epsilon(noise, uploads, delta)}
