"""What a memory knows of a case: a pointer and statistics, never voxels."""

from dataclasses import dataclass, field
from math import nan

import numpy as np
from numpy.typing import NDArray


@dataclass(kw_only=True)
class Sample:
    """One remembered case. Policies read it; only training (`visit`) and the server's scores change it."""

    case: str
    """Name of the case, unique within the site. It never leaves the site: a keyed id does."""
    arrived: int
    """Position in the stream; the oldest has the longest lifespan."""
    key: float = 0.0
    """Uniform in [0, 1), drawn once on arrival (reservoir)."""
    visits: int = 0
    """How often it was trained on."""
    feature: NDArray | None = None
    """[E] float32, unit length, running mean of the pooled deepest feature map; None until first visited."""
    sketch: NDArray | None = None
    """[E] int8, the feature that the federation compares (clients/sketch.py); None unless the run has an index."""
    loss: float = nan
    """Running mean of the weighted BCE, without Dice: the published "uncertainty"."""
    uncertainty: float = nan
    """Running mean of the chosen uncertainty."""
    uniqueness: float = 1.0
    """Last word of the server's index, in [0, 1]."""
    orphan: bool = False
    """Last live stand-in for something a departed site knew."""
    scores: dict[str, float] = field(default_factory=dict)
    """Other scores by name (leverage, bregman)."""
    classes: frozenset[str] = frozenset()
    """Annotated classes present in the case."""
    domain: str | None = None
    """Scanner, protocol or site of origin, where the site declares it."""

    def visit(self, loss: float, uncertainty: float, feature_E: NDArray[np.float32]) -> None:
        """Take in what a training step told: the first visit copies, later ones average, v <- (v + v_new) / 2."""
        first = self.visits == 0 or self.feature is None
        self.loss = loss if first else 0.5 * (self.loss + loss)
        self.uncertainty = uncertainty if first else 0.5 * (self.uncertainty + uncertainty)
        mean_E = feature_E if first or self.feature is None else 0.5 * (self.feature + feature_E)
        self.feature = (mean_E / max(float(np.linalg.norm(mean_E)), 1e-12)).astype(np.float32)
        self.visits += 1
