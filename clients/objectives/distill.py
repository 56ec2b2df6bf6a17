"""Learning without forgetting: what the incoming model sees is a second teacher."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from clients.objective import Batch, Start, Terms
from clients.objectives.checks import not_negative, positive
from clients.objectives.teacher import frozen


@dataclass(frozen=True)
class Distill:
    """strength x BCE(sigmoid(z / T), sigmoid(z_incoming / T)) over every class that the incoming model was taught.

    LwF (Li, Hoiem, 2016, arXiv:1606.09282) for sigmoid rows. Nothing is added until something was taught.
    """

    strength: float = 5.0
    """Weight beside the supervised loss."""
    temperature: float = 2.0
    """T: above 1, small differences count more."""

    def __post_init__(self) -> None:
        not_negative("strength", self.strength)
        positive("temperature", self.temperature)

    def begin(self, start: Start) -> Terms:
        """The incoming model, frozen, as the teacher of this round."""
        if not start.taught:
            return Terms()
        teacher = frozen(start.model)
        rows = torch.as_tensor(list(start.taught), device=next(start.model.parameters()).device)

        def loss(batch: Batch, logits_BCXYZ: Tensor) -> Tensor:
            wanted = torch.sigmoid(teacher(batch.image_BCXYZ).index_select(1, rows) / self.temperature)
            seen = logits_BCXYZ.index_select(1, rows) / self.temperature
            return self.strength * F.binary_cross_entropy_with_logits(seen, wanted)

        return Terms(loss=loss)
