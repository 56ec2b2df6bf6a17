"""Which tensors or rows an update may change."""

from numpy.typing import NDArray

from strategies.base import Update


def everything(name: str, role: str, update: Update) -> bool | NDArray:
    """Every site changes everything."""
    return True
