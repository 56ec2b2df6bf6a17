"""The networks of this process: built once, filled anew by every order."""

import json
from functools import lru_cache

import torch

from clients.model import Segmenter, build
from clients.train import place

FROZEN = ("frozen",)
"""The frozen encoder's classes: its head is never read."""


@lru_cache(maxsize=2)
def network(name: str, args: str, classes: tuple[str, ...], seed: int, device: str) -> Segmenter:
    """One network per label space and process: every order loads its own weights into it."""
    return place(build(name, json.loads(args), classes, seed), torch.device(device))
