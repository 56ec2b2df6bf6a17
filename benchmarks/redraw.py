"""The attacker of benchmarks/leakage.py who draws a scan from its sketch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

PENALTIES = tuple(10.0 ** np.arange(-3, 5))
EPOCHS = (25, 50, 100, 200, 400)
FOLDS = 5
RESAMPLES = 300
Fit = Callable[[NDArray, NDArray, NDArray, float], NDArray]
"""Known sketches, known scans by their principal components, new sketches, a setting: the new scans' components."""


@dataclass(frozen=True)
class Attack:
    """Knows the crops [N, X, Y, Z] of the `public` half of the persons and everyone's sketches, and draws the other crops."""

    crop_NXYZ: NDArray[np.float32]
    side_N: NDArray[np.int64]
    person_N: NDArray[np.int64]
    public_N: NDArray[np.bool_]

    def row(self, sketch_NE: NDArray[np.float32]) -> list[str]:
        """Relative errors of ridge regression, a small network and the scan with the nearest sketch; the best over the last."""
        known_NE, new_NE = sketch_NE[self.public_N], sketch_NE[~self.public_N]
        nearest = self.error(self.image_NV[self.public_N][(new_NE @ known_NE.T).argmax(axis=1)])
        linear = self.error(self._fitted(ridge, PENALTIES, sketch_NE))
        network = self.error(self._fitted(small_network, EPOCHS, sketch_NE))
        ratio = min(linear.mean(), network.mean()) / nearest.mean()
        return [self.told(linear), self.told(network), f"{nearest.mean():.3f}", f"{ratio:.2f}"]

    def bounds(self, size: int) -> str:
        """What the errors are to be read against."""
        known_NV, new_NV = self.image_NV[self.public_N], self.image_NV[~self.public_N]
        side = np.stack([known_NV[self.side_N[self.public_N] == s].mean(axis=0) for s in self.side_N[~self.public_N]])
        mean_V, basis_EV = principal(known_NV, size)
        closest = known_NV[[((known_NV - new_V) ** 2).sum(axis=1).argmin() for new_V in new_NV]]
        best = mean_V + (new_NV - mean_V) @ basis_EV.T @ basis_EV
        a, b, c = (f"{self.error(drawn).mean():.3f}" for drawn in (side, closest, best))
        return (
            f"To read the errors against: {a} is the mean scan of the same side, {b} the public scan that is nearest by its "
            f"voxels, {c} the scan's own first {size} principal components of the public half."
        )

    @cached_property
    def image_NV(self) -> NDArray[np.float32]:
        """[N, voxels] at half the resolution."""
        count, x, y, z = self.crop_NXYZ.shape
        return self.crop_NXYZ.reshape(count, x // 2, 2, y // 2, 2, z // 2, 2).mean(axis=(2, 4, 6)).reshape(count, -1)

    def error(self, drawn_NV: NDArray) -> NDArray[np.float64]:
        """[N] squared error of each new scan, over the mean one of drawing the public half's mean."""
        new_NV, mean_V = self.image_NV[~self.public_N], self.image_NV[self.public_N].mean(axis=0)
        of_N, by_mean_N = (((new_NV - guess) ** 2).sum(axis=1, dtype=np.float64) for guess in (drawn_NV, mean_V))
        return np.asarray(of_N / by_mean_N.mean())

    def told(self, error_N: NDArray[np.float64]) -> str:
        """The mean and its 95 % interval, bootstrap over persons, beside the error of the mean scan of the same persons."""
        by_mean_N = self.error(self.image_NV[self.public_N].mean(axis=0))
        persons, where = np.unique(self.person_N[~self.public_N], return_inverse=True)
        of_P, base_P = (np.bincount(where, values) for values in (error_N, by_mean_N))
        weight_BP = np.random.default_rng(0).multinomial(len(persons), np.full(len(persons), 1 / len(persons)), RESAMPLES)
        low, high = np.percentile((weight_BP @ of_P) / (weight_BP @ base_P), (2.5, 97.5))
        return f"{error_N.mean():.3f} ({low:.2f} to {high:.2f})"

    @cached_property
    def _basis(self) -> tuple[NDArray, NDArray]:
        """Mean and all principal components of the public half: what is fitted is drawn from these, as a mix of its scans."""
        return principal(self.image_NV[self.public_N], int(self.public_N.sum()))

    def _fitted(self, fit: Fit, settings: Sequence[float], sketch_NE: NDArray[np.float32]) -> NDArray:
        """The new scans, drawn with the setting that does best on public persons left out."""
        mean_V, basis_PV = self._basis
        part_NP = (self.image_NV[self.public_N] - mean_V) @ basis_PV.T
        known_NE = sketch_NE[self.public_N]
        fold_N = np.unique(self.person_N[self.public_N], return_inverse=True)[1] % FOLDS

        def loss(setting: float) -> float:
            total = 0.0
            for inside_N in (fold_N != k for k in range(FOLDS)):
                drawn_NP = fit(known_NE[inside_N], part_NP[inside_N], known_NE[~inside_N], setting)
                total += float(((part_NP[~inside_N] - drawn_NP) ** 2).sum())
            return total

        return mean_V + fit(known_NE, part_NP, sketch_NE[~self.public_N], min(settings, key=loss)) @ basis_PV


def principal(image_NV: NDArray, size: int) -> tuple[NDArray, NDArray]:
    """Mean and the first principal components, [size, voxels]."""
    mean_V = image_NV.mean(axis=0)
    return mean_V, np.linalg.svd(image_NV - mean_V, full_matrices=False)[2][: min(size, len(image_NV) - 1)]


def ridge(known_NE: NDArray, part_NP: NDArray, new_NE: NDArray, penalty: float) -> NDArray:
    """Linear, with an intercept that is not penalised."""
    mean_E, mean_P = known_NE.mean(axis=0), part_NP.mean(axis=0)
    a_NE = known_NE - mean_E
    inner_EE = a_NE.T @ a_NE + penalty * np.eye(a_NE.shape[1])
    drawn_NP: NDArray = mean_P + (new_NE - mean_E) @ np.linalg.solve(inner_EE, a_NE.T @ (part_NP - mean_P))
    return drawn_NP


def small_network(known_NE: NDArray, part_NP: NDArray, new_NE: NDArray, epochs: float) -> NDArray:
    """One hidden layer."""
    import torch
    from torch import nn

    scale = float(part_NP.std())
    known, new, target = (torch.from_numpy(np.asarray(a, np.float32)) for a in (known_NE, new_NE, part_NP / scale))
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(known.shape[1], 128), nn.GELU(), nn.Linear(128, target.shape[1]))
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-2)
    for _ in range(int(epochs)):
        optimizer.zero_grad()
        nn.functional.mse_loss(network(known), target).backward()
        optimizer.step()
    with torch.inference_mode():
        return np.asarray(scale * network(new).numpy())
