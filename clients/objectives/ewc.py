"""A pull towards what earlier stages need, number by number."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from clients.losses import weighted_bce_dice
from clients.model import Weights
from clients.objective import Batch, Outcome, Start, Terms
from clients.objectives.checks import not_negative


@dataclass(frozen=True)
class Ewc:
    """strength / 2 sum F (w - w_earlier)^2 (Kirkpatrick et al., 2017, arXiv:1612.00796).

    F is the diagonal empirical Fisher information, measured on the memory when a round ends: the mean square of the
    supervised loss's gradient over the samples held. The server sums it over stages (strategies.importance): a site that
    never saw the earlier sites' cases is pulled too. F leaves the site.
    """

    strength: float = 1e6
    """How strong the pull is."""

    def __post_init__(self) -> None:
        not_negative("strength", self.strength)

    def begin(self, start: Start) -> Terms:
        """The pull of this round, and F of what the memory holds when it is over."""
        shared = {name: tensor for name, tensor in start.model.named_parameters() if name not in start.home}
        pairs = [_pair(name, tensor, start.told) for name, tensor in shared.items() if f"importance|{name}" in start.told]

        def loss(batch: Batch, logits_BCXYZ: Tensor) -> Tensor:
            pulls = [(fisher * (now[: len(fisher)] - before).square()).sum() for now, fisher, before in pairs]
            return self.strength / 2 * torch.stack(pulls).sum()

        def finish(batches: Iterable[Batch]) -> Outcome:
            return Outcome(said=_fisher(start, shared, batches))

        return Terms(loss=loss if pairs else None, finish=finish)


def _pair(name: str, tensor: Tensor, told: Weights) -> tuple[Tensor, Tensor, Tensor]:
    """A tensor, its importance and its earlier value; rows that came since are not in the latter two."""
    fisher, before = (torch.from_numpy(told[f"{kind}|{name}"].copy()).to(tensor.device) for kind in ("importance", "around"))
    return tensor, fisher, before


def _fisher(start: Start, shared: Mapping[str, Tensor], batches: Iterable[Batch]) -> Weights:
    squares = {name: torch.zeros_like(tensor) for name, tensor in shared.items()}
    model, rows = start.model.eval(), torch.as_tensor(list(start.rows), device=next(iter(shared.values())).device)
    count = 0
    for batch in batches:  # in evaluation mode: to look at a sample must not move the statistics of a batch norm
        logits_BCXYZ, _ = model(batch.image_BCXYZ)
        loss_B, _ = weighted_bce_dice(logits_BCXYZ.index_select(1, rows).float(), batch.target_BTXYZ, batch.weight_BT)
        gradients = torch.autograd.grad(loss_B.mean(), list(shared.values()), allow_unused=True)
        for name, gradient in zip(shared, gradients, strict=True):
            squares[name] += 0 if gradient is None else gradient.square()
        count += 1
    return {name: (square / max(1, count)).cpu().numpy() for name, square in squares.items()} if count else {}
