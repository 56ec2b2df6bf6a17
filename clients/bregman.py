"""How a model's word on a case changes when the case is looked at differently: Bregman information."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.random import Generator
from torch.nn import functional as F

from clients.augment import augment
from clients.model import Segmenter
from clients.prepare import Volume
from clients.sketch import central_crop
from configs.schema import Augment

VIEWS = 8
LOOKS = Augment(flip=(0, 0, 0), affine=0, intensity=1)
"""Intensities only: the views of a voxel stay in its place."""


def bregman_information(
    model: Segmenter, rows: Sequence[int], volume: Volume, patch: tuple[int, int, int], rng: Generator
) -> float:
    """Mean over annotated classes and voxels of E softplus(z) - softplus(E z), over views z of the central crop, in nats.

    Test-time augmentation; Bregman information of the binary log-likelihood (Gruber and Buettner, 2023, arXiv:2210.12256).
    Never below 0: 0 where all views agree.
    """
    device = next(model.parameters()).device
    image_BCXYZ = torch.from_numpy(central_crop(volume, patch))[None, None].expand(VIEWS, -1, -1, -1, -1).to(device)
    seen_BCXYZ, _ = augment(image_BCXYZ.clone(), torch.zeros((VIEWS, *patch), dtype=torch.uint8, device=device), LOOKS, rng)
    chosen = torch.as_tensor(list(rows), device=device)
    with torch.inference_mode():
        logits_BTXYZ = torch.cat([model(view[None])[0].index_select(1, chosen).float() for view in seen_BCXYZ])
        information_TXYZ = F.softplus(logits_BTXYZ).mean(0) - F.softplus(logits_BTXYZ.mean(0))
    return float(np.maximum(information_TXYZ.mean().cpu().numpy(), 0.0))
