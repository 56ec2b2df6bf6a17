"""What noise buys, against the closed formula, and that an upload holds what the count of mechanisms presumes."""

from math import exp, sqrt

import numpy as np
import pytest
from numpy.random import default_rng
from scipy.optimize import brentq
from scipy.stats import norm

from clients.privacy import epsilon, noise_rng, upload
from clients.sketch import blur, centre, noisy_mean, quantise, unit

POINTS = np.array([[0.6, 0.0], [0.0, 0.6], [0.6, 0.6]], np.float32)


def analytic(multiplier, delta):
    """Epsilon of one Gaussian mechanism (Balle and Wang, 2018, arXiv:1805.06530, theorem 8)."""

    def excess(value):
        first, second = 1 / (2 * multiplier), value * multiplier
        return norm.cdf(first - second) - exp(value + norm.logcdf(-first - second)) - delta

    return brentq(excess, 0, 1 / multiplier**2 + 20 / multiplier)


@pytest.mark.parametrize("noise", [0.1, 0.5, 1, 2, 8, 50])
@pytest.mark.parametrize("uploads", [1, 10, 100])
@pytest.mark.parametrize("delta", [1e-5, 1e-3])
def test_epsilon_is_that_of_two_gaussians_per_upload(noise, uploads, delta):
    # n Gaussians of one multiplier are one of multiplier / sqrt(n).
    exact = analytic(noise / sqrt(2 * uploads), delta)
    assert exact * (1 - 1e-6) <= epsilon(noise, uploads, delta) <= exact * 1.001


def test_epsilon_of_a_known_mechanism():
    # Multiplier 1, delta 1e-5: 4.377 (dp_accounting's and the literature's value); sqrt(2) twice is 1 once.
    assert epsilon(sqrt(2), 1, 1e-5) == pytest.approx(4.3772, abs=1e-3)


def test_epsilon_grows_with_uploads_and_falls_with_noise():
    by_uploads = [epsilon(2.0, n, 1e-5) for n in (0, 1, 2, 5, 100)]
    assert by_uploads[0] == 0 and by_uploads == sorted(set(by_uploads))
    by_noise = [epsilon(noise, 10, 1e-5) for noise in (16, 8, 1, 0.2)]
    assert by_noise == sorted(set(by_noise))
    assert epsilon(2.0, 1, 1e-6) > epsilon(2.0, 1, 1e-5)


def test_plain_mean():
    np.testing.assert_allclose(noisy_mean(POINTS, None, default_rng(0)), [0.4, 0.4], rtol=1e-6)


def test_the_means_noise_has_the_said_deviation():
    point_NE = np.zeros((4, 20000), np.float32)  # four cases: one moves the mean by 2/4 at most
    found = noisy_mean(point_NE, 0.01, default_rng(0))
    assert found.dtype == np.float32
    assert found.std() == pytest.approx(0.01 * 2 / 4, rel=0.03) and abs(found.mean()) < 0.0002
    assert np.linalg.norm(noisy_mean(point_NE, 3.0, default_rng(0))) == pytest.approx(1)  # no mean of points lies further out


def test_an_upload_without_noise_is_the_plain_one():
    mu_E = np.array([0.1, 0.2], np.float32)
    sketch_NE, mean_E = upload(POINTS, mu_E, None, default_rng(0))
    assert sketch_NE.tolist() == quantise(unit(POINTS - mu_E)).tolist() and sketch_NE.dtype == np.int8
    np.testing.assert_allclose(mean_E, [0.4, 0.4], rtol=1e-6)
    assert upload(POINTS, None, None, default_rng(0))[0].tolist() == quantise(centre(POINTS, None)).tolist()


def test_with_noise_a_replaced_case_moves_its_own_sketch_and_the_mean_only():
    other, mu_E = POINTS.copy(), np.array([0.1, 0.2], np.float32)
    other[1] = [-0.9, 0.1]
    (one_NE, one_E), (two_NE, two_E) = (upload(points, mu_E, 0.4, default_rng(1)) for points in (POINTS, other))
    assert (one_NE != two_NE).any(axis=1).tolist() == [False, True, False]
    np.testing.assert_allclose(two_E - one_E, (other - POINTS)[1] / 3, atol=1e-6)


def test_the_first_centre_is_the_noisy_mean():
    """The plain one would let a case move every sketch, and the count of two mechanisms per upload would be wrong."""
    sketch_NE, mean_E = upload(POINTS, None, 0.4, default_rng(1))
    assert abs(mean_E - 0.4).max() > 0.05
    rng = default_rng(1)
    assert noisy_mean(POINTS, 0.4, rng).tolist() == mean_E.tolist()
    assert quantise(blur(centre(POINTS, mean_E), 0.4, rng)).tolist() == sketch_NE.tolist()


def test_noise_is_the_sites_own_and_the_same_for_the_same_question():
    mu_E, other = np.zeros(2, np.float32), POINTS + np.float32(1e-6)

    def draw(secret=b"s", points=POINTS, mu=mu_E, noise=0.5):
        return noise_rng(secret, points, mu, noise).normal()

    questions = [draw(), draw(secret=b"t"), draw(points=other), draw(mu=mu_E + 1), draw(mu=None), draw(noise=0.6)]
    assert draw() == questions[0]
    assert len(set(questions)) == 6, "what differs in anything has noise of its own"
