"""The most memory that an order took, of the GPU and of this process. Who does not use torch does not import it for this."""

import resource
import sys
from types import ModuleType
from typing import NamedTuple

RSS_UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes in what `getrusage` counts by."""


class Peak(NamedTuple):
    """What an order took at most."""

    gpu: int
    """Bytes that torch had reserved on this process's GPU since `begin`, cached models of earlier sites among them."""
    total: int
    """Bytes of that GPU; 0: none was used."""
    host: int
    """Bytes of this process in main memory, since it started."""
    short: bool
    """Whether the GPU's memory ran out since `begin`, even if the order was then done with less at a time."""


def begin(anew: bool) -> None:
    """Count from here on. `anew`: the order is another site's, and torch gives back what it kept for the last one's."""
    if cuda := _cuda():
        if anew:
            cuda.empty_cache()
        cuda.reset_peak_memory_stats()
        cuda.reset_accumulated_memory_stats()


def taken() -> Peak:
    """The most since `begin`."""
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT
    if not (cuda := _cuda()):
        return Peak(0, 0, host, False)
    total = cuda.get_device_properties(cuda.current_device()).total_memory
    return Peak(cuda.max_memory_reserved(), total, host, cuda.memory_stats().get("num_ooms", 0) > 0)


def _cuda() -> ModuleType | None:
    """torch.cuda, if this process has used it: asking anything else of it would."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch and torch.cuda.is_initialized() else None
