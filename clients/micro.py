"""Where memory runs out, the same work is done again in smaller parts."""

import gc
import logging
from collections.abc import Callable
from typing import TypeVar

import torch

LOG = logging.getLogger("sitestream")
WORDS = ("out of memory", "can't allocate memory", "DefaultCPUAllocator", "STATUS_ALLOC_FAILED")
"""How torch says on a CPU, and CUDA's libraries on a GPU, that there is no memory: not all of it has an error of its own."""

ONE_PATCH = "one patch at a time (a smaller train.patch or a smaller network may fit)"

Result = TypeVar("Result")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on the machine or on its GPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in WORDS)


def halved(whole: int, micro: int) -> int:
    """Half as many at a time, as long as that is fewer; `micro` is how many now, 0: the whole."""
    return (min(micro or whole, whole) // 2) or micro


def with_fewer(work: Callable[[int], Result], whole: int, micro: int, what: str) -> tuple[Result, int]:
    """What `work(micro)` returns, and the number at a time that went through: halved each time that memory runs out.

    `work` begins anew each time and must leave nothing of the attempt before. `what` is done one at a time, in words.

    Raises:
        MemoryError: even one at a time is too many.
    """
    while True:
        try:
            return work(micro), micro
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            LOG.warning("memory ran out with %d at a time: %s", min(micro or whole, whole), str(error).partition("\n")[0])
        # Only here is the error gone, and with it its traceback, which held what filled the memory.
        if min(micro or whole, whole) == 1:
            raise MemoryError(f"out of memory with {what}")
        micro = halved(whole, micro)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
