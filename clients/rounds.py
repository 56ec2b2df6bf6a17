"""A site's round: its next cases go into the memory, and the model trains on what the memory holds."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from math import ceil
from typing import Any
from zlib import crc32

import numpy as np
from numpy.random import Generator

from clients.ahead import Cut, ahead, pinned
from clients.augment import Chance, augmented, chance
from clients.comparison import twin
from clients.losses import class_weights, targets
from clients.objective import Batch
from clients.patches import cut_batch
from clients.prepare import Volume
from clients.train import Step, Trainer
from configs.schema import Memory, Train
from memory.policy import MemoryPolicy
from memory.sample import Sample
from wire import MOST_DOMAINS, OTHERS

Watch = Callable[[dict[str, Any]], None]

BLOCK = 64
"""Deferred steps at most before what they told is fetched: a screen shows the loss that late."""


@dataclass
class Round:
    """Everything one round needs; `run` does it, and the memory afterwards is in `samples`."""

    trainer: Trainer
    policy: MemoryPolicy
    quota: int
    train: Train
    memory: Memory
    labels: Mapping[str, Sequence[int]]
    """Annotated class -> label values."""
    volume: Callable[[str], Volume]
    rng: Generator
    samples: list[Sample]
    watch: Watch
    replay_steps: int = 0
    """Steps where nothing arrives."""
    evicted: list[tuple[Sample, Sample | None, float | None]] = field(default_factory=list)
    """What the memory let go, and of the samples that stayed the one most like it, with the cosine of the two."""
    draws: int = 0
    planned: int = 0
    loss_sum: float = 0.0
    loss_weight: float = 0.0
    _weights: dict[str, np.ndarray] = field(default_factory=dict)

    def run(self, arriving: Sequence[Sample], stream_left: int) -> None:
        """Insert B cases, cut to the quota, do S steps of batch B; with nothing arriving, replay."""
        self._keep(self.samples)
        groups = [arriving[i : i + self.train.batch] for i in range(0, len(arriving), self.train.batch)]
        self.planned = sum(map(self._steps_for, groups)) if groups else self.replay_steps
        for i, group in enumerate(groups):
            self._keep([*self.samples, *group])
            more_to_come = stream_left > 0 or i + 1 < len(groups)
            if self.memory.fill_first and len(self.samples) < self.quota and more_to_come:
                continue
            self._train(self._steps_for(group))
        if not groups and self.samples:
            self._train(self.replay_steps)

    def _keep(self, pool: Sequence[Sample]) -> None:
        """Cut the memory to the quota, and note what goes."""
        self.samples = self.policy.keep(pool, self.quota, self.rng)
        kept = {sample.case for sample in self.samples}
        self.evicted += [(sample, *twin(sample, self.samples)) for sample in pool if sample.case not in kept]

    def _steps_for(self, group: Sequence[Sample]) -> int:
        """S draws per case, so S steps for B cases, and fewer for the last few."""
        return ceil(self.train.sampling_rate * len(group) / self.train.batch)

    def _train(self, steps: int) -> None:
        block = BLOCK if self.trainer.deferred else 1
        for done in range(0, steps, block):
            self._train_block(min(block, steps - done))

    def _train_block(self, steps: int) -> None:
        """Steps of which nothing is told before the last is done. So no draw among them can depend on another's outcome,
        whatever the policy, and the batches may be made ahead; those of the next block may not."""
        untold: list[Sequence[Sample]] = []
        with closing(ahead(self._next, steps)) as batches:
            for drawn, cut, chances in batches:
                told = self._step(cut, chances)
                untold.append(drawn)
                if len(untold) == steps:
                    for each, now in zip(untold, self.trainer.settle() if self.trainer.deferred else [told], strict=True):
                        self._learn(each, now)
                self.watch(self.facts())

    def _next(self) -> tuple[list[Sample], Cut, Chance]:
        """The next step's samples, their patches, and what chance says for them; the memory stays as it is meanwhile."""
        drawn = self.policy.draw(self.samples, self.train.batch, self.rng)
        cut = self._cut(drawn)
        return drawn, cut, chance(self.train.augment, len(drawn), self.train.patch, self.rng)

    def _step(self, cut: Cut, chances: Chance) -> Step | None:
        image_BCXYZ, label_BXYZ, weight_BT, annotated_BT = cut.on(self.trainer.device)
        image_BCXYZ, label_BXYZ = augmented(image_BCXYZ, label_BXYZ, chances)
        target_BTXYZ = targets(label_BXYZ, list(self.labels.values()))
        return self.trainer.step(image_BCXYZ, target_BTXYZ, weight_BT, annotated_BT)

    def held(self) -> Iterator[Batch]:
        """The memory's samples, one at a time, not augmented."""
        for sample in self.samples:
            image_BCXYZ, label_BXYZ, weight_BT, annotated_BT = self._cut([sample]).on(self.trainer.device)
            yield Batch(image_BCXYZ, targets(label_BXYZ, list(self.labels.values())), weight_BT, annotated_BT)

    def _cut(self, drawn: Sequence[Sample]) -> Cut:
        volumes = [self.volume(sample.case) for sample in drawn]
        values, device = list(self.labels.values()), self.trainer.device
        image, label = cut_batch(volumes, values, self.train.patch, self.train.foreground, self.rng)
        weight_BT = np.stack([self._class_weights(volume) for volume in volumes])
        annotated_BT = np.stack([self._annotated(volume) for volume in volumes])
        told = None if annotated_BT.all() else pinned(annotated_BT, device)
        return Cut(pinned(image, device), pinned(label, device), pinned(weight_BT, device), told)

    def _annotated(self, volume: Volume) -> np.ndarray:
        """[T] whether each class was drawn in this case."""
        return np.array([volume.annotates(name) for name in self.labels])

    def _class_weights(self, volume: Volume) -> np.ndarray:
        """[T] w_c of the classes drawn in this case, and 0 for the others, which so get no gradient from it.

        The loss is a mean over all T classes, and meant over those drawn: hence the factor.
        """
        if volume.case not in self._weights:
            absent = 1.0 if self.train.absent_weight == "one" else 0.0
            there = self._annotated(volume)
            drawn = [values for values, one in zip(self.labels.values(), there, strict=True) if one]
            weight_T = np.zeros(len(there), np.float32)
            weight_T[there] = class_weights([volume.voxels(values) for values in drawn], absent) * (len(there) / len(drawn))
            self._weights[volume.case] = weight_T
        return self._weights[volume.case]

    def _learn(self, drawn: Sequence[Sample], told: Step | None) -> None:
        if told is None:  # a dropped step has trained on nothing
            return
        self.draws += len(drawn)
        uncertainty_B = told.bce_B if self.memory.uncertainty == "loss" else told.entropy_B
        for i, sample in enumerate(drawn):
            sample.visit(float(told.bce_B[i]), float(uncertainty_B[i]), told.feature_BE[i])
        self.loss_sum += float(told.loss_B.sum())
        self.loss_weight += len(drawn)

    def facts(self) -> dict[str, Any]:
        """What the round has done so far, as sums and weights."""
        return {
            "steps": self.trainer.steps,
            "planned": self.planned,
            "dropped": self.trainer.dropped,
            "loss_sum": self.loss_sum,
            "loss_weight": self.loss_weight,
            "memory": len(self.samples),
            "budget": self.quota,
            "memory_classes": dict(sorted(Counter(c for s in self.samples for c in s.classes).items())),
            "memory_domains": _domains(Counter(s.domain for s in self.samples if s.domain)),
            "memory_arrived": [sample.arrived for sample in self.samples],
        }


def _domains(held: Counter[str]) -> dict[str, int]:
    """Samples by domain; of more than a reply may name, the rarest together."""
    ranked = held.most_common()
    told = Counter(dict(ranked if len(ranked) <= MOST_DOMAINS else ranked[: MOST_DOMAINS - 1]))
    if rest := held.total() - told.total():
        told[OTHERS] += rest
    return dict(sorted(told.items()))


def new_samples(
    cases: Sequence[str],
    first: int,
    seed: int,
    site: str,
    volume: Callable[[str], Volume],
    labels: Mapping[str, Sequence[int]],
    domains: Mapping[str, str],
) -> Iterator[Sample]:
    """The stream's next cases as samples; `first` is the stream position of the first of them."""
    for arrived, case in enumerate(cases, first):
        yield Sample(
            case=case,
            arrived=arrived,
            key=float(np.random.default_rng([seed, crc32(site.encode()), crc32(case.encode())]).random()),
            classes=frozenset(name for name, values in labels.items() if volume(case).voxels(values)),
            domain=domains.get(case),
        )


def timer() -> Callable[[], float]:
    """Seconds since now."""
    start = time.perf_counter()
    return lambda: time.perf_counter() - start
