"""A sample's sketch: what the federation may know of a case's looks, int8(127 unit(P (f - mu))).

f is read from a fixed crop, without augmentation: the mean and deviation over space of the deepest convolution's output,
unit length. Before the normalisation on purpose: behind an instance norm every case has nearly the same mean
(docs/findings.md). P has orthonormal rows, so P (f - mu) = P f - P mu, and the centre travels in E numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from clients.model import Segmenter
from clients.patches import cut
from clients.prepare import Volume

LARGEST_DISTANCE = 2.0
"""Of two unit vectors: what one case can change at most, the sensitivity that noise is measured in."""


@dataclass(frozen=True)
class Sketcher:
    """Sketches of cases under one encoder."""

    encoder: Segmenter
    patch: tuple[int, int, int]
    seed: int
    size: int

    def points(self, volumes: Sequence[Volume]) -> NDArray[np.float32]:
        """[N, E] projected features P f, not yet centred; one case at a time, so that a case's is always the same.

        Raises:
            ArithmeticError: the encoder's features are not finite.
        """
        if not volumes:
            return np.zeros((0, 0), np.float32)
        features = [self._feature(volume) for volume in volumes]
        project_ED = projection(len(features[0]), self.size, self.seed)
        return np.stack([project_ED @ feature_D for feature_D in features])  # all at once, the last bits depend on N

    def _feature(self, volume: Volume) -> NDArray[np.float32]:
        device = next(self.encoder.parameters()).device
        image_BCXYZ = torch.from_numpy(central_crop(volume, self.patch))[None, None].to(device)
        seen: list[Tensor] = []
        training = self.encoder.training
        self.encoder.eval()  # a batch norm would take statistics from the case, a dropout would be drawn
        hook = self.encoder.deepest_convolution.register_forward_hook(lambda module, inputs, output: seen.append(output))
        try:
            with torch.inference_mode():
                self.encoder(image_BCXYZ)
        finally:
            hook.remove()
            self.encoder.train(training)
        level_DV = seen[0][0].float().flatten(1)
        feature_D = torch.cat([level_DV.mean(1), level_DV.std(1, correction=0)])
        if not torch.isfinite(feature_D).all():  # a comparison with NaN would pass for a zero vector
            raise ArithmeticError(f"case {volume.case!r}: the encoder's features are not finite")
        return torch.nn.functional.normalize(feature_D, dim=0).cpu().numpy()


def central_crop(volume: Volume, patch: tuple[int, int, int]) -> NDArray[np.float32]:
    """[X, Y, Z] the patch around the middle of a volume."""
    image_XYZ, label_XYZ = np.empty(patch, np.float16), np.empty(patch, np.uint8)
    cut(volume, [side // 2 for side in volume.image_XYZ.shape], image_XYZ, label_XYZ)
    return image_XYZ.astype(np.float32)


def projection(width: int, size: int, seed: int) -> NDArray[np.float32]:
    """[min(size, width), width] orthonormal rows, the same at every site of a run."""
    rng = np.random.default_rng([seed, crc32(b"sketch")])
    columns, triangle = np.linalg.qr(rng.standard_normal((width, min(size, width))))
    return (columns * np.sign(np.diag(triangle))).T.astype(np.float32)


def centre(point_NE: NDArray[np.float32], mu_E: NDArray | None) -> NDArray[np.float32]:
    """[N, E] unit vectors from the federation's mean; before there is one, from the given points' own."""
    if mu_E is None:
        mu_E = point_NE.mean(axis=0)
    return unit(point_NE - mu_E)


def unit(vector_NE: NDArray) -> NDArray[np.float32]:
    """Rows of unit length; a row of zeros, which has no direction, becomes the first axis."""
    length_N1 = np.linalg.norm(vector_NE, axis=1, keepdims=True)
    first_E = np.eye(1, vector_NE.shape[1])
    return np.where(length_N1 > 1e-9, vector_NE / np.maximum(length_N1, 1e-9), first_E).astype(np.float32)


def blur(unit_NE: NDArray[np.float32], noise: float | None, rng: Generator) -> NDArray[np.float32]:
    """Unit vectors behind Gaussian noise, unit length again (the Gaussian mechanism; its price is in clients.privacy)."""
    if noise is None:
        return unit_NE
    return unit(unit_NE + rng.normal(0, noise * LARGEST_DISTANCE, unit_NE.shape))


def noisy_mean(point_NE: NDArray[np.float32], noise: float | None, rng: Generator) -> NDArray[np.float32]:
    """[E] mean of a site's points (|Pf| <= 1), behind noise of `noise` times what one replaced case can move it, 2/N.

    Noise that carries it out of the unit ball, where every mean of points lies, is cut back to its surface.
    """
    mean_E = point_NE.mean(axis=0)
    if noise is not None:
        mean_E = mean_E + rng.normal(0, noise * LARGEST_DISTANCE / len(point_NE), mean_E.shape)
        mean_E = mean_E / max(1.0, float(np.linalg.norm(mean_E)))
    return mean_E.astype(np.float32)


def quantise(unit_NE: NDArray[np.float32]) -> NDArray[np.int8]:
    """[N, E] int8. Up to E = 160 rounding changes a length by less than .05, which the index allows."""
    return np.rint(127 * unit_NE).astype(np.int8)


def elsewhere(unit_E: NDArray, coverage_ME: NDArray | None) -> float:
    """How unique a case is beside what the other sites' coverage shows: 1 - the largest cosine, in [0, 1]."""
    if coverage_ME is None or not len(coverage_ME):
        return 1.0
    cosine_M = unit(coverage_ME.astype(np.float32)) @ unit_E
    return float(1 - max(0.0, min(1.0, cosine_M.max())))
