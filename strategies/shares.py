"""Which tensors or rows of an update may change the federation's model, and which never leave their site."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from strategies.base import Update


@dataclass(frozen=True)
class ByRole:
    """All tensors are shared but those of some roles, which stay with their site."""

    home: tuple[str, ...] = ()
    """Roles (body, norm, head) that stay."""
    by_rows: bool = False
    """Whether some rows of a tensor may be owned and others not."""

    def owned(self, name: str, role: str, update: Update) -> bool | NDArray[np.bool_]:
        """Every site changes what leaves it."""
        return role not in self.home


everything = ByRole()
"""Every site changes everything."""
not_norm = ByRole(home=("norm",))
"""A site's normalisation stays with it (FedBN; Li et al., 2021, arXiv:2102.07623)."""
backbone = ByRole(home=("head",))
"""The body is common, every site keeps its own head (FFL; Tayebi Arasteh et al., 2023, arXiv:2211.13606)."""

nothing = ByRole(home=("body", "norm", "head"))
"""Every site keeps its whole model: each trains alone."""


@dataclass(frozen=True)
class Labelled:
    """A class's head row is changed by the sites that annotate the class, the body by all (ours)."""

    home: tuple[str, ...] = ()
    by_rows: bool = True

    def owned(self, name: str, role: str, update: Update) -> bool | NDArray[np.bool_]:
        """[rows] of the head; True for every other tensor."""
        return np.array([row in update.classes for row in update.rows]) if role == "head" else True


labelled = Labelled()
"""Row-wise averaging of the head."""
