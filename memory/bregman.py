"""Bregman memory: by the Bregman information, the generalised variance of the predictions under test-time augmentation
(Serra et al., 2024, arXiv:2407.07668).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import nan
from typing import ClassVar, Literal

from numpy.random import Generator

from memory.policy import highest, uniform
from memory.sample import Sample


@dataclass(frozen=True)
class Bregman:
    """The samples with the highest Bregman information (the least stable predictions), or with the lowest.

    Low is the published default, and the opposite of selective memory; high is ours.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"bregman"})

    end: Literal["low", "high"] = field(default="high", metadata={"setting": "keep"})
    """Which end stays. In a config it is called `keep`, which in Python is the method."""

    draw = staticmethod(uniform)

    def __post_init__(self) -> None:
        if self.end not in ("low", "high"):
            raise ValueError(f"keep must be low or high, not {self.end!r}")

    def keep(self, pool: Sequence[Sample], budget: int, rng: Generator) -> list[Sample]:
        """The unvisited samples, then that end of the visited ones (ties: the newer)."""
        sign = 1.0 if self.end == "high" else -1.0
        return highest(pool, budget, lambda sample: sign * sample.scores.get("bregman", nan))
