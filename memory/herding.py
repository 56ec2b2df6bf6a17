"""Herding: samples whose mean feature is that of all (iCaRL; Rebuffi et al., 2017, arXiv:1611.07725)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from memory.dynamic import fixed_point
from memory.policy import newest_and, uniform
from memory.sample import Sample


@dataclass(frozen=True)
class Herding:
    """One by one, choose the visited sample that brings the mean of the chosen nearest to the mean of all visited."""

    draw = staticmethod(uniform)

    def keep(self, pool: Sequence[Sample], budget: int, rng: Generator) -> list[Sample]:
        """The unvisited samples, and as many of the visited as the budget has left."""
        return newest_and(pool, budget, lambda old, n: (old[i] for i in herd(fixed_point(pool, old), n)))


def herd(fixed_NE: NDArray[np.float64], n: int) -> list[int]:
    """Indices of the first `n` samples of the herd, in the order in which they are chosen (ties: the lower index).

    The k-th minimises |mean - (sum + f_i) / k|, that is, maximises 2 f_i . (k mean - sum) - |f_i|^2. Only dot products
    of two features enter, which are exact (`fixed_point`), so equal features tie.
    """
    dots_NN = fixed_NE @ fixed_NE.T
    to_mean_N, to_sum_N = dots_NN.mean(axis=1), np.diagonal(dots_NN) / 2
    chosen = []
    for k in range(1, n + 1):
        best = int((k * to_mean_N - to_sum_N).argmax())
        chosen.append(best)
        to_sum_N = to_sum_N + dots_NN[best]
        to_mean_N[best] = -np.inf
    return chosen
