"""The next batch, made by another thread while this one trains on the last, and its way to the device."""

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor

Made = TypeVar("Made")


def ahead(make: Callable[[], Made], count: int) -> Generator[Made, None, None]:
    """What `make()` returns, `count` times and no more; each is made while the caller works with the one before.

    One thread makes them, one after another: with a generator of its own, `make` draws what it would draw without it. The
    first is made by the caller, so a count of 1 starts no thread. Close it (contextlib.closing) and nothing is under way.
    """
    with ThreadPoolExecutor(1, "ahead") as thread:
        made = make() if count else None
        for left in reversed(range(count)):
            under_way = thread.submit(make) if left else None
            yield made  # type: ignore[misc]
            made = under_way.result() if under_way else None


def pinned(array: NDArray[Any], device: torch.device) -> Tensor:
    """An array as a tensor that a GPU can fetch by itself; for a CPU it is the array's own memory."""
    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor
    with torch.cuda.device(device):  # a new thread begins on the first GPU, and would open it
        return tensor.pin_memory()


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A `pinned` tensor on its device; nothing waits for it, and what is asked of the device next comes after it."""
    return tensor.to(device, non_blocking=True)


@dataclass(frozen=True)
class Cut:
    """Patches on the host, pinned where a GPU is to fetch them, and what the loss must know of their cases."""

    image_BCXYZ: Tensor
    """float16."""
    label_BXYZ: Tensor
    """uint8, label values."""
    weight_BT: Tensor
    annotated_BT: Tensor | None
    """Which classes were drawn in which of them; none: all in all."""

    def on(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """The same in the same order, on the device; the images float32."""
        told = None if self.annotated_BT is None else sent(self.annotated_BT, device)
        image_BCXYZ = sent(self.image_BCXYZ, device).float()
        return image_BCXYZ, sent(self.label_BXYZ, device), sent(self.weight_BT, device), told
