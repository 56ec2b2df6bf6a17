"""What a site keeps, what it tells of it, and what the federation does with that.

The text under a field is its documentation.
"""

from typing import Any, Literal

from pydantic import Field

from configs.site import Strict


class Memory(Strict):
    """What a site keeps."""

    policy: str = "selective"
    """A name in memory.POLICIES."""
    args: dict[str, Any] = Field(default_factory=dict)
    """The policy's own settings, e.g. {k: 4}."""
    budget: int = Field(16, ge=1)
    """N, samples a site may keep."""
    total: int | None = Field(None, ge=1)
    """Samples that all sites together may keep, split evenly or by uniqueness (index.quotas); none: `budget` each."""
    uncertainty: Literal["loss", "entropy"] = "loss"
    """What `uncertainty` means: the weighted BCE (published code), or the mean binary entropy (label-free)."""
    fill_first: bool = False
    """Insert without training until the memory is full, as the published code does."""
    group_by: Literal["none", "class", "domain"] = "none"
    """Split the budget evenly over groups before the policy chooses within each: by rarest class, or by scanner."""
    new_share: float = Field(0.0, ge=0, le=1)
    """Share of each batch that is the newest case; the rest is drawn as the policy says."""


class Sketch(Strict):
    """The small, projected, quantised feature by which the federation compares samples."""

    encoder: Literal["global", "frozen"] = "frozen"
    """Features of the round's global model, or of the model as it was drawn from the run's seed."""
    size: int = Field(64, ge=2)
    """E at most: numbers per sketch."""
    noise: float | None = Field(None, ge=0.01)
    """Gaussian noise per sketch: its deviation over the largest distance of two sketches, 2; none: no noise, no privacy."""
    delta: float = Field(1e-5, gt=0, lt=1)
    """Of the (epsilon, delta) that the noise buys, shown per upload and in total."""


class Index(Strict):
    """The global uniqueness index, and each of its uses, which can be switched off alone."""

    on: bool = False
    """Whether sites send sketches at all."""
    evict: bool = True
    """Sites are told how unique each of their samples is in the federation."""
    admit: int = Field(32, ge=0)
    """Sketches of what the others hold that a site gets along, to judge cases in the round in which they arrive."""
    orphans: bool = True
    """Sites are told which of their samples are the last stand-ins for what departed sites held."""
    quotas: bool = True
    """Split memory.total by summed uniqueness instead of evenly."""
    replay: bool = True
    """Split the replay steps of sites whose stream is over by summed uniqueness instead of evenly."""
    duplicate: float = Field(0.95, gt=0, le=1)
    """Cosine above which two samples are the same; one of the two sites is told."""
    floor: int = Field(2, ge=1)
    """The smallest quota."""
    departed: int = Field(64, ge=1)
    """Sketches kept of a site that has left."""
