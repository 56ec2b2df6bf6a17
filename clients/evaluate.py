"""Results on full volumes: sliding window, threshold .5, Dice per case and class; surfaces when asked."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clients.losses import targets
from clients.model import Segmenter
from clients.prepare import Volume
from clients.scan import Scan
from clients.windows import blended
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
    (logits_TXYZ,) = logits_of_each(model, [volume], rows, patch, recipe.overlap, recipe.batch or 1, bfloat16)
    return logits_TXYZ


def logits_of_each(
    model: Segmenter,
    volumes: Iterable[Volume | Scan],
    rows: Sequence[int],
    patch: Sequence[int],
    overlap: float,
    batch: int,
    bfloat16: bool,
) -> Iterator[Tensor]:
    """As `logits_of`, of volume after volume: a batch holds so many windows, whichever volume they are of."""
    device = next(model.parameters()).device
    chosen = torch.as_tensor(list(rows), device=device)

    def window_logits(window_BCXYZ: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            logits_BCXYZ = model(window_BCXYZ)[0]
        return logits_BCXYZ.index_select(1, chosen).float()

    images = ((volume.image_XYZ, volume.floor) for volume in volumes)
    return blended(images, window_logits, patch, overlap, batch, device)


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
    from monai.metrics.utils import get_edge_surface_distance

    pair = [torch.from_numpy(mask) for mask in (guess, truth)]
    _, distances, _ = get_edge_surface_distance(*pair, spacing=list(spacing), symmetric=True)  # both ways, once for both
    hd95 = max(float(torch.quantile(mm, 0.95)) for mm in distances)
    near = sum((mm <= NSD_TOLERANCE_MM).sum() for mm in distances)
    return {"hd95": hd95, "nsd": float(near / sum(map(len, distances)))}


def truth_of(volume: Volume, labels: Mapping[str, Sequence[int]]) -> NDArray[np.bool_]:
    """[T, X, Y, Z] the annotated classes of a prepared case."""
    label = torch.from_numpy(np.array(volume.label()))
    return targets(label[None], list(labels.values()))[0].bool().numpy()
