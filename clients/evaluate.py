"""Results on full volumes: sliding window, threshold .5, Dice per case and class; surfaces when asked."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clients.losses import targets
from clients.model import Segmenter
from clients.prepare import Volume
from clients.scan import Scan
from configs.schema import Evaluate

NSD_TOLERANCE_MM = 1.0


def predict(
    model: Segmenter, volume: Volume, rows: Sequence[int], patch: Sequence[int], recipe: Evaluate, bfloat16: bool = False
) -> NDArray[np.bool_]:
    """[T, X, Y, Z] what the model sees of the classes at the given head rows, in the prepared volume's space."""
    return (logits_of(model, volume, rows, patch, recipe, bfloat16) > 0).cpu().numpy()


def logits_of(
    model: Segmenter, volume: Volume | Scan, rows: Sequence[int], patch: Sequence[int], recipe: Evaluate, bfloat16: bool = False
) -> Tensor:
    """[T, X, Y, Z] logits on the model's device, blended from overlapping windows: above 0 a class is seen."""
    from monai.inferers import sliding_window_inference

    parameter = next(model.parameters())
    image_BCXYZ = torch.from_numpy(volume.image_XYZ.astype(np.float32))[None, None].to(parameter.device)
    chosen = torch.as_tensor(list(rows), device=parameter.device)

    def window_logits(window_BCXYZ: Tensor) -> Tensor:
        with torch.autocast(parameter.device.type, torch.bfloat16, enabled=bfloat16):
            logits_BCXYZ = model(window_BCXYZ)[0]
        return logits_BCXYZ.index_select(1, chosen).float()

    with torch.inference_mode():
        logits = sliding_window_inference(
            image_BCXYZ, patch, recipe.batch, window_logits, overlap=recipe.overlap, mode="gaussian", cval=volume.floor
        )
    assert isinstance(logits, Tensor)
    return logits[0]


def scores(
    prediction_TXYZ: NDArray[np.bool_], truth_TXYZ: NDArray[np.bool_], classes: Sequence[str], spacing: Sequence[float] | None
) -> Iterator[dict[str, Any]]:
    """One row per annotated class of a case; with a spacing (mm) HD95 and NSD too (SCIENCE: metric ids).

    `dice` is None where the label lacks the class; `dice.all` then is 1 if the prediction lacks it too, else 0.
    """
    for name, guess, truth in zip(classes, prediction_TXYZ, truth_TXYZ, strict=True):
        overlap, mass, voxels = int((guess & truth).sum()), int(guess.sum() + truth.sum()), int(truth.sum())
        dice = 2 * overlap / mass if mass else 1.0
        row: dict[str, Any] = {"class": name, "voxels": voxels, "dice": dice if voxels else None, "dice.all": dice}
        row["iou"] = overlap / (mass - overlap) if voxels else None
        if spacing is not None:
            row |= _surface(guess, truth, spacing)
        yield row


def _surface(guess: NDArray[np.bool_], truth: NDArray[np.bool_], spacing: Sequence[float]) -> dict[str, float | None]:
    """HD95 (mm) and NSD at 1 mm; one side empty: the image's diagonal and 0; both empty: left out."""
    if not guess.any() and not truth.any():
        return {"hd95": None, "nsd": None}
    if not guess.any() or not truth.any():
        return {"hd95": float(np.linalg.norm(np.multiply(truth.shape, spacing))), "nsd": 0.0}
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    pair = [torch.from_numpy(mask)[None, None] for mask in (guess, truth)]
    hd95 = compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=list(spacing))
    nsd = compute_surface_dice(*pair, [NSD_TOLERANCE_MM], include_background=True, spacing=list(spacing))
    return {"hd95": float(hd95), "nsd": float(nsd)}


def truth_of(volume: Volume, labels: Mapping[str, Sequence[int]]) -> NDArray[np.bool_]:
    """[T, X, Y, Z] the annotated classes of a prepared case."""
    label = torch.from_numpy(np.array(volume.label()))
    return targets(label[None], list(labels.values()))[0].bool().numpy()
