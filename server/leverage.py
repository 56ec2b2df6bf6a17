"""How much of the federation's main directions each sample carries (FedCBDR, arXiv:2507.07712)."""

import numpy as np
from numpy.typing import NDArray

CHUNK = 16_384
"""Rows multiplied at once."""

Axes = tuple[NDArray, NDArray]
"""Squared singular values [E], rising, and right singular vectors [E, E] in columns, of stacked sketches."""


def axes(rows_NE: NDArray) -> Axes:
    """Of the E x E Gram matrix of int8 rows: its whole numbers are exact, so the rows' order makes no difference."""
    gram_EE = np.zeros((rows_NE.shape[1], rows_NE.shape[1]))
    for start in range(0, len(rows_NE), CHUNK):
        part_NE = rows_NE[start : start + CHUNK].astype(np.float64)
        gram_EE += part_NE.T @ part_NE
    value_E, axis_EE = np.linalg.eigh(gram_EE)
    return value_E, axis_EE


def leverage(rows_NE: NDArray, axes: Axes, r: int) -> NDArray:
    """[N] tau_i = |U_i,:r|^2 of the stacked sketches' SVD, U = S V / sigma; fewer columns than r if the rank is lower."""
    value_E, axis_EE = axes
    top = np.argsort(-value_E, kind="stable")[:r]
    top = top[value_E[top] > value_E.max() * len(value_E) * np.finfo(np.float64).eps]
    along_NR = rows_NE.astype(np.float64) @ axis_EE[:, top]
    return (along_NR**2 / value_E[top]).sum(1)
