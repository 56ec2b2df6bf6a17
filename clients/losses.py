"""The supervised loss, masked to what a site annotates, and the two uncertainties.

Source: Chou, Zhou, Yuille, MICCAI 2024 (arXiv:2407.04687), with its code's slips mended: Dice over the whole crop with a
smoothing term above and below the line, statistics per sample for any batch size, negative supervision where an
annotated class is absent.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F


def class_weights(voxels: Sequence[int], absent: float = 1.0) -> NDArray[np.float32]:
    """[T] weight of each annotated class from its voxels in the whole volume.

    w_c = max(1, T (1/V_c) / sum_{V_j > 0} 1/V_j) where V_c > 0, else `absent` (the published code: 0).

    >>> class_weights([100, 300, 0]).tolist()
    [2.25, 1.0, 1.0]
    """
    inverse_T = np.array([1 / v if v else 0.0 for v in voxels])
    if not inverse_T.any():
        return np.full(len(voxels), absent, np.float32)
    weight_T = np.maximum(1.0, len(voxels) * inverse_T / inverse_T.sum())
    return np.where(inverse_T > 0, weight_T, absent).astype(np.float32)


def targets(label_BXYZ: Tensor, values: Sequence[Sequence[int]]) -> Tensor:
    """[B, T, X, Y, Z] float 0/1 per annotated class from label values; classes may overlap."""
    rows = []
    for wanted in values:
        row = label_BXYZ == wanted[0]
        for value in wanted[1:]:
            row = row | (label_BXYZ == value)
        rows.append(row)
    return torch.stack(rows, dim=1).float()


def weighted_bce_dice(logits_BTXYZ: Tensor, target_BTXYZ: Tensor, weight_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Loss [B] = mean_c w_c (BCE_c + Dice_c), and its BCE part [B], the published "uncertainty".

    Only the logits of annotated classes are given, so no other row gets a gradient.
    """
    space = (2, 3, 4)
    bce_BT = F.binary_cross_entropy_with_logits(logits_BTXYZ, target_BTXYZ, reduction="none").mean(space)
    p = torch.sigmoid(logits_BTXYZ)
    overlap_BT, mass_BT = (p * target_BTXYZ).sum(space), p.sum(space) + target_BTXYZ.sum(space)
    dice_BT = 1 - (2 * overlap_BT + 1) / (mass_BT + 1)
    return (weight_BT * (bce_BT + dice_BT)).mean(1), (weight_BT * bce_BT).mean(1)


def binary_entropy(logits_BTXYZ: Tensor, annotated_BT: Tensor | None = None) -> Tensor:
    """[B] mean over annotated classes (0/1; none: all) and voxels of the binary entropy, in nats: needs no label."""
    z = logits_BTXYZ
    entropy_BTXYZ = F.softplus(z) - z * torch.sigmoid(z)
    if annotated_BT is None:
        return entropy_BTXYZ.mean((1, 2, 3, 4))
    return (annotated_BT * entropy_BTXYZ.mean((2, 3, 4))).sum(1) / annotated_BT.sum(1)
