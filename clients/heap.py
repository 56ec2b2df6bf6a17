"""The C library's heap, told to keep what a training step frees: the next step asks for the same again."""

import ctypes
import sys

TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4  # malloc.h
GROW_BYTES = 64 << 20


def keep_freed_memory() -> bool:
    """Let glibc hold on to freed memory instead of returning it to the system; False on another C library.

    A step on a CPU frees all its activations. Handed back, they are faulted in again page by page: about 14,500 faults
    a step of the quickstart's model, a sixth of its time (benchmarks/overhead.py).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # musl has none
        return False
    settings = ((MMAP_MAX, 0), (TRIM_THRESHOLD, 2**31 - 1), (TOP_PAD, GROW_BYTES))
    return all(mallopt(option, value) for option, value in settings)
