"""How updates become the next model, and how they travel, as a config says it."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from configs.site import Strict

HOME = {"not-norm": ("norm",), "backbone": ("head",), "nothing": ("body", "norm", "head")}
"""{share: roles of tensors that stay with their site}; so a site knows it from its own recipe, whatever the server asks."""


class Privacy(Strict):
    """Differential privacy of a site's whole update: clipped and noised at the server (central; the server is trusted)."""

    noise: float = Field(1.0, gt=0)
    """Noise multiplier: the deviation of the noise on the sum of updates, in units of `clip`."""
    clip: float = Field(gt=0)
    """Largest norm of an update's change of the model; longer ones are shortened to it."""
    sites: int = Field(ge=1)
    """How many sites take part in every round: what the noise on the average is divided by."""
    delta: float = Field(1e-5, gt=0, lt=1)
    """The delta of the epsilon in the record."""


class Strategy(Strict):
    """How updates become the next model: four choices, or a preset's name."""

    merge: str = "average"
    """A name in strategies.MERGES."""
    merge_args: dict[str, Any] = Field(default_factory=dict)
    """The merge's own settings, e.g. {beta: 0.9}."""
    weigh: str = "draws"
    """A name in strategies.WEIGHS."""
    share: str = "all"
    """A name in strategies.SHARES."""
    objective: str = "plain"
    """A name in clients.objectives.OBJECTIVES."""
    objective_args: dict[str, Any] = Field(default_factory=dict)
    """The objective's own settings, e.g. {mu: 0.1}."""
    personalise: int = Field(0, ge=0)
    """Steps by which each site tunes the final model on its own memory; results as columns of their own in R."""
    pull: float = Field(0.1, ge=0)
    """How strongly that tuning is held near the final model (Ditto's lambda; Li et al., 2021, arXiv:2012.04221)."""
    privacy: Privacy | None = None
    """Differential privacy of the sites' updates; none: without."""


class Wire(Strict):
    """How a site's update travels, and which one is refused. float32 without `delta` is exact."""

    dtype: Literal["float32", "float16"] = "float32"
    """Numbers of an update."""
    delta: bool = False
    """Send the change since the shared weights instead of the new weights."""
    int8: bool = False
    """Send the change (`delta: true`) in 8 bits per number; what is rounded away is sent with the next one (error feedback)."""
    max_reply_mb: float = Field(1024.0, gt=0)
    """A larger reply is refused unread."""
    max_update_norm: float | None = Field(None, gt=0)
    """An update that changes the model by more than this norm is refused; none: any."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.int8 and self.dtype != "float32":
            raise ValueError(f"int8 says how numbers travel, and so does dtype: {self.dtype}; leave dtype at float32")
        if self.int8 and not self.delta:
            raise ValueError("int8 rounds the change since the shared weights; it needs delta: true")
        return self
