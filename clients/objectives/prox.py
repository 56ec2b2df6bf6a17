"""A pull towards the incoming weights."""

from dataclasses import dataclass

import torch
from torch import Tensor

from clients.objective import Batch, Start, Terms
from clients.objectives.checks import not_negative


@dataclass(frozen=True)
class Prox:
    """mu / 2 |w - w_incoming|^2 (FedProx; Li et al., 2020, arXiv:1812.06127), over all that leaves the site."""

    mu: float = 0.01
    """How strong the pull is."""

    def __post_init__(self) -> None:
        not_negative("mu", self.mu)

    def begin(self, start: Start) -> Terms:
        """The pull of this round."""
        shared = [tensor for name, tensor in start.model.named_parameters() if name not in start.home]
        incoming = [tensor.detach().clone() for tensor in shared]

        def loss(batch: Batch, logits_BCXYZ: Tensor) -> Tensor:
            pairs = zip(shared, incoming, strict=True)
            return self.mu / 2 * torch.stack([(now - before).square().sum() for now, before in pairs]).sum()

        return Terms(loss=loss)
