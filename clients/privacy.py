"""What noise buys: how much more likely an upload of sketches can be because of one case, and never more.

An upload says two things that depend on a case: its own sketch, and the mean of the site's N points. Of unit vectors a
replaced case moves its sketch by at most 2 and the mean by at most 2/N; both get Gaussian noise of `noise` times that. So
an upload is two Gaussian mechanisms of multiplier `noise`. The centre of a sketch is made of earlier noisy means, which
costs nothing again.

Covered: what the sketches and means of a run say of one case that is replaced by another, each upload with noise of its
own, for one who has all of them. Not covered: the weights, the rows (metrics, classes, positions, what was evicted), and
which cases a memory holds: a policy looks at the cases to choose. Noise comes from an ordinary generator in floating
point, as everywhere in this code: enough against a reader of the uploads, not against one who attacks the generator.
"""

import hashlib
import hmac
from functools import lru_cache
from math import sqrt

import numpy as np
from numpy.random import Generator, default_rng
from numpy.typing import NDArray

from clients.sketch import blur, centre, noisy_mean, quantise

PER_UPLOAD = 2
"""Gaussian mechanisms that look at a case in one upload: its sketch, the site's mean."""
FINENESS = 1e-3
"""Steps in which the accountant counts the privacy loss, in its deviations: epsilon comes out up to .1 % too large."""


@lru_cache(maxsize=256)
def epsilon(noise: float, uploads: int, delta: float) -> float:
    """What `uploads` uploads cost one case: (epsilon, delta)-differential privacy, neighbours differ in one replaced case.

    Composed by the accountant of Google's dp_accounting (privacy loss distributions; Koskela et al., 2020,
    arXiv:1906.03049). Its own "replace one" doubles a sensitivity of "add or remove"; ours is a replaced case's already.
    """
    if uploads < 1:
        return 0.0
    import dp_accounting  # type: ignore[import-untyped]  # a second to import, and only noisy runs need it
    from dp_accounting import pld  # type: ignore[import-untyped]

    events = PER_UPLOAD * uploads
    accountant = pld.PLDAccountant(value_discretization_interval=FINENESS * sqrt(events) / noise)
    accountant.compose(dp_accounting.SelfComposedDpEvent(dp_accounting.GaussianDpEvent(noise), events))
    return float(accountant.get_epsilon(delta))


def upload(
    point_NE: NDArray[np.float32], mu_E: NDArray | None, noise: float | None, rng: Generator
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """The sketches [N, E] and the mean [E] that a reply says of the cases held.

    Before the federation has a mean, a site with noise centres at its own *noisy* one: at the plain one, every case would
    move every sketch, and the count of two per upload would be wrong.
    """
    mean_E = noisy_mean(point_NE, noise, rng)
    unit_NE = centre(point_NE, mean_E if mu_E is None else mu_E)
    return quantise(blur(unit_NE, noise, rng)), mean_E


def noise_rng(secret: bytes, point_NE: NDArray[np.float32], mu_E: NDArray | None, noise: float | None) -> Generator:
    """Where an upload's noise is drawn from: nobody without the site's secret can draw it and take it off.

    Not from the run's seed, which the server knows. The same question gets the same noise, so a repeated order tells
    nothing new; a question that differs in anything gets noise of its own, so that two answers cannot be subtracted.
    """
    asked = hashlib.sha256(repr((point_NE.shape, None if mu_E is None else mu_E.shape, noise)).encode())
    asked.update(np.ascontiguousarray(point_NE).tobytes())
    asked.update(b"" if mu_E is None else np.ascontiguousarray(mu_E).tobytes())
    return default_rng(int.from_bytes(hmac.new(secret, asked.digest(), hashlib.sha256).digest()))
