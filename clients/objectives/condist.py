"""Conditional distillation: the incoming model teaches the classes that the site does not annotate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clients.objective import Batch, Start, Terms
from clients.objectives.checks import not_negative, positive
from clients.objectives.teacher import frozen


@dataclass(frozen=True)
class Condist:
    """Supervised loss + lambda_r x masked Dice of local and incoming sigmoid(z / T) for classes not annotated here.

    ConDistFL (Wang et al., 2023, arXiv:2308.04070) for sigmoid rows. The mask leaves out voxels where a class that the
    site annotates is labelled, or seen (> .5) by the incoming model, unless one of the two classes includes the other. lambda_r
    grows linearly over the run's rounds.
    """

    first: float = 0.01
    """lambda in the run's first round."""
    last: float = 1.0
    """lambda in its last."""
    temperature: float = 2.0
    """T: above 1, small differences count more."""

    def __post_init__(self) -> None:
        not_negative("first", self.first)
        not_negative("last", self.last)
        positive("temperature", self.temperature)

    def strength(self, round: int, rounds: int) -> float:
        """lambda_r."""
        done = (round - 1) / (rounds - 1) if rounds > 1 else 1.0
        return self.first + (self.last - self.first) * min(1.0, done)

    def begin(self, start: Start) -> Terms:
        """The incoming model, frozen, as the teacher of the classes that others annotate."""
        unseen = [row for row in start.taught if row not in start.rows]
        if not unseen:
            return Terms()
        teacher, strength = frozen(start.model), self.strength(start.round, start.rounds)
        device = next(start.model.parameters()).device
        rows, unseen_U = (torch.as_tensor(list(some), device=device) for some in (start.rows, unseen))
        blocks_UT = blocking(start.model.classes, unseen, start.rows, start.includes).to(device)

        def loss(batch: Batch, logits_BCXYZ: Tensor) -> Tensor:
            taught_BCXYZ = teacher(batch.image_BCXYZ)
            taken_BTXYZ = (batch.target_BTXYZ > 0.5) | (taught_BCXYZ.index_select(1, rows) > 0)
            free_BUXYZ = ~torch.einsum("ut,btxyz->buxyz", blocks_UT, taken_BTXYZ.float()).bool()
            own, wanted = (torch.sigmoid(z.index_select(1, unseen_U) / self.temperature) for z in (logits_BCXYZ, taught_BCXYZ))
            return strength * masked_dice(own, wanted, free_BUXYZ.float()).mean()

        return Terms(loss=loss)


def blocking(
    classes: Sequence[str], unseen: Sequence[int], annotated: Sequence[int], includes: Mapping[str, Sequence[str]]
) -> Tensor:
    """[U, T] 1 where a voxel of annotated class t cannot be of class u: 0 only where one includes the other."""

    def nested(one: str, other: str) -> bool:
        return one in includes.get(other, ()) or other in includes.get(one, ())

    return torch.tensor([[float(not nested(classes[u], classes[t])) for t in annotated] for u in unseen])


def masked_dice(own_BUXYZ: Tensor, wanted_BUXYZ: Tensor, free_BUXYZ: Tensor) -> Tensor:
    """[B, U] 1 - (2 sum q q' + 1) / (sum q^2 + sum q'^2 + 1) over the free voxels.

    With squares in the denominator the least value, 0, is where the two agree; with plain sums it is not, for
    probabilities between 0 and 1.
    """
    space = (2, 3, 4)
    own, wanted = own_BUXYZ * free_BUXYZ, wanted_BUXYZ * free_BUXYZ
    return 1 - (2 * (own * wanted).sum(space) + 1) / ((own**2).sum(space) + (wanted**2).sum(space) + 1)
