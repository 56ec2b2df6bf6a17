"""Differential privacy of the sites' updates: each is clipped, their mean gets Gaussian noise, and a merge sees that alone.

Flower's `DifferentialPrivacyServerSideFixedClipping` over its `FedAvg` does the arithmetic (McMahan et al., 2018,
arXiv:1710.06963, with a fixed number of sites). What a merge makes of the noised mean, momentum or adaptive steps, costs
no more privacy. All updates are in memory at once, in float64.

The server is trusted: it sees each update before it is clipped. Noise comes from an ordinary generator in floating point,
as everywhere in this code: enough against a reader of the models, not against one who attacks the generator.
"""

import hashlib
import hmac
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import sqrt
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg
from numpy.typing import NDArray

from strategies.base import Merge, State, Update, Weigh, Weights
from strategies.borrowed import as_reply, same_tensors

PRIVACY, RELEASES = "privacy", "releases"
"""The slot that counts how many noised means have been made, and its one number."""
MARK = "|mark"
"""A number beside the tensors, by which every update differs from the model a little: Flower divides by an update's norm."""
LITTLE = 1e-100
"""Its square is 1e-200, a number still, and nothing beside the square of any other."""


@dataclass(frozen=True)
class Private:
    """A merge that is given one update, the noised mean of the clipped ones; it must be one that works on a mean."""

    rule: Merge
    noise: float
    """Deviation of the noise on the sum of the updates, in units of `clip`."""
    clip: float
    """Largest norm of an update's change."""
    sites: int
    """By how many the noise on the sum is divided. With more updates than this there is more noise than `noise` says."""
    delta: float
    """The delta of the epsilon that is told."""
    secret: bytes = field(default=b"", repr=False)
    """Who knows it can take the noise off."""

    @property
    def min_present(self) -> int:
        """With fewer updates one site would move the mean by more than the noise is made for."""
        return self.sites

    def turns(self, present: list[str]) -> list[list[str]]:
        """As the merge has it."""
        return self.rule.turns(present)

    def merge(self, state: State, updates: Iterable[Update], weigh: Weigh) -> State:
        """What the merge makes of the noised mean; one more release is counted.

        Raises:
            ValueError: there is no secret, fewer than `sites` updates have any weight, or they differ in their tensors.
        """
        trained = [update for update in updates if weigh(update) > 0]
        if not self.secret:
            raise ValueError("privacy: noise is drawn from the server's secret, and there is none")
        if len(trained) < self.sites:
            raise ValueError(f"privacy: the noise is made for {self.sites} updates, and {len(trained)} have trained")
        mean = replace(trained[0], site="+".join(update.site for update in trained), weights=self._mean(state, trained))
        mean = replace(mean, extra={}, draws=1, uniqueness=1.0, classes=_taught(trained), owned={})
        merged = self.rule.merge(state, [mean], lambda update: 1.0)
        releases = np.array([self._releases(state) + 1], np.int64)
        return replace(merged, slots={**merged.slots, PRIVACY: {RELEASES: releases}})

    def end_stage(self, state: State, roles: Mapping[str, str]) -> State:
        """As the merge has it: what is made of noised models costs nothing again."""
        end = getattr(self.rule, "end_stage", None)
        return end(state, roles) if end else state

    def spent(self, state: State) -> dict[str, Any]:
        """Epsilon and delta of all releases so far, and how many those were."""
        releases = self._releases(state)
        return {"epsilon": epsilon(self.noise, releases, self.delta), "delta": self.delta, "releases": releases}

    def _releases(self, state: State) -> int:
        return int(state.slots[PRIVACY][RELEASES][0]) if PRIVACY in state.slots else 0

    def _mean(self, state: State, trained: Sequence[Update]) -> Weights:
        """The noised mean of the clipped updates, each tensor in its own type.

        A head row that is new is clipped and noised around 0, which says nothing of any case (the server knows of no other
        such number: networks are made at the sites). If nobody trained its class it stays 0: a site's row may have moved.
        """
        for update in trained:
            same_tensors(trained[0], update)
        model, rows = trained[0].weights, trained[0].rows
        untaught = [row for row, name in enumerate(rows) if name not in _taught(trained)]
        base = {name: _grown(state.weights.get(name), tensor) for name, tensor in model.items()}
        flower = DifferentialPrivacyServerSideFixedClipping(
            FedAvg(), noise_multiplier=self.noise, clipping_norm=self.clip, num_sampled_clients=self.sites
        )
        flower.current_arrays = _arrays(base, 0.0)  # all that configure_train would do, for which Flower asks its own network
        with noise_of(self._seed(base, trained)):
            replies = [as_reply(_flat({name: update.weights[name] for name in base}, LITTLE), 1.0) for update in trained]
            arrays, _ = flower.aggregate_train(trained[0].round, replies)
        assert arrays is not None, "Flower skips replies that are errors, and none is"
        mean = {name: arrays[name].numpy().reshape(tensor.shape).astype(tensor.dtype) for name, tensor in model.items()}
        for name, tensor in mean.items():
            if (old := state.weights.get(name)) is not None and old.shape != tensor.shape:
                tensor[[row for row in untaught if row >= len(old)]] = 0.0
        return mean

    def _seed(self, base: Weights, trained: Sequence[Update]) -> NDArray[np.uint32]:
        """256 bits that only the secret's owner can draw: the same for the same updates, others for any others.

        Were it the round's alone, a round that is done again with another update would have the same noise, and the
        difference of the two models would have none.
        """
        asked = hmac.new(self.secret, repr((trained[0].round, [update.site for update in trained])).encode(), hashlib.sha256)
        for tensors in (base, *(update.weights for update in trained)):
            for name in base:
                asked.update(f"{name} {tensors[name].dtype} {tensors[name].shape}".encode())
                asked.update(np.ascontiguousarray(tensors[name]).tobytes())
        return np.frombuffer(asked.digest(), np.uint32)


def epsilon(noise: float, releases: int, delta: float) -> float:
    """What `releases` noised means say of one site: (epsilon, delta)-differential privacy.

    Neighbours differ in one site, whose updates are there or are changes of nothing (add or remove one, with the number of
    sites fixed): one site moves the sum of the updates by `clip` at most. That a site takes part is no secret. So many Gaussian
    mechanisms are one with the noise divided by the root of their number, exactly (Balle and Wang, 2018, arXiv:1805.06530).
    No amplification by sampling: every site is in every round, and one that is not pays less than this says.
    """
    if releases < 1:
        return 0.0
    import dp_accounting  # type: ignore[import-untyped]  # a second to import, and only private runs need it

    return float(dp_accounting.get_epsilon_gaussian(noise / sqrt(releases), delta))


@contextmanager
def noise_of(seed: NDArray[np.uint32]) -> Iterator[None]:
    """Flower draws from numpy's global generator: seeded within, and afterwards as it was before."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)


def _taught(updates: Iterable[Update]) -> frozenset[str]:
    return frozenset(name for update in updates for name in update.classes)


def _grown(old: NDArray | None, new: NDArray) -> NDArray:
    """The model's tensor with rows of 0 for those that came since."""
    base = np.zeros(new.shape, np.float64)
    if old is None:
        return base
    if old.shape == new.shape:
        return old.astype(np.float64)
    base[: len(old)] = old
    return base


def _arrays(tensors: Weights, mark: float) -> ArrayRecord:
    return ArrayRecord({name: Array(tensor) for name, tensor in _flat(tensors, mark).items()})


def _flat(tensors: Weights, mark: float) -> Weights:
    """In float64 and in one dimension, with the mark as the last: Flower leaves a tensor without any unclipped."""
    return {name: np.asarray(tensor, np.float64).reshape(-1) for name, tensor in tensors.items()} | {MARK: np.array([mark])}
