"""Control variates against the drift of sites that train side by side; the server's half is strategies.variates."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from clients.acknowledged import kept, merged
from clients.objective import Batch, Outcome, Start, Terms


@dataclass(frozen=True)
class Scaffold:
    """Each step's gradient g becomes g + c - c_i (Karimireddy et al., 2020, arXiv:1910.06378).

    c_i is the mean of the site's clipped, uncorrected gradients over its last round, c the mean of all c_i. The paper's
    second option, (w_incoming - w) / (steps x lr), is a gradient only where the site descends by plain SGD; ours descends
    by AdamW. A site's first round is not corrected: it has no c_i yet, and c alone would push it towards the others.
    """

    def begin(self, start: Start) -> Terms:
        """The correction of this round."""
        shared = {name: tensor for name, tensor in start.model.named_parameters() if name not in start.home}
        sums = {name: torch.zeros_like(tensor) for name, tensor in shared.items()}
        corrections = _corrections(start, shared)
        steps = 0

        def correct() -> None:
            nonlocal steps
            steps += 1
            for name, tensor in shared.items():
                if tensor.grad is None:
                    continue
                sums[name] += tensor.grad
                if name in corrections:
                    tensor.grad += corrections[name]

        def finish(batches: Iterable[Batch]) -> Outcome:
            if not steps:
                return Outcome(kept=start.kept)
            own = {name: (total / steps).cpu().numpy() for name, total in sums.items()}
            heard = merged(start.kept, start.merged)
            said = {name: now - _grown(heard.get(name), now) for name, now in own.items()}
            return Outcome(kept=kept(own, heard, start.round), said=said)

        return Terms(correct=correct, finish=finish)


def _corrections(start: Start, shared: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """c - c_i, where the site has a c_i that the server knows; rows that came since are not corrected."""
    corrections, heard = {}, merged(start.kept, start.merged)
    for name, tensor in shared.items():
        if name in start.told and name in heard:
            like = np.zeros(tensor.shape, np.float32)
            difference = _grown(start.told[name], like) - _grown(heard[name], like)
            corrections[name] = torch.from_numpy(difference).to(tensor.device)
    return corrections


def _grown(before: np.ndarray | None, like: np.ndarray) -> np.ndarray:
    """The tensor with rows that came since at zero."""
    full = np.zeros(like.shape, np.float32)
    if before is not None:
        full[: len(before)] = before
    return full
