"""The incoming model as a teacher."""

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor

from clients.model import Segmenter


def frozen(model: Segmenter) -> Callable[[Tensor], Tensor]:
    """Logits [B, C, X, Y, Z] (float32) of images under the model as it is now, whatever becomes of it."""
    teacher = deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def logits(image_BCXYZ: Tensor) -> Tensor:
        return teacher(image_BCXYZ)[0].float()

    return logits
