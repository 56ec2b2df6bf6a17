"""What every peer trains, and the bare loop too: the network, the data set and the steps. Knows nothing of SiteStream.

Read by each peer in its own venv, so it needs torch, MONAI and numpy only. The specification is a JSON file named by
$PEERS_SPEC; each call adds two timing lines (`peers.timing_of` reads them) to the file that it names.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import DataLoader, Dataset
from monai.losses import DiceLoss
from monai.networks.nets import UNet
from torch import Tensor, nn


def read_spec() -> dict[str, Any]:
    """The work: folders of prepared cases by site, steps, rounds, patch, network (peers.specification)."""
    spec: dict[str, Any] = json.loads(Path(os.environ["PEERS_SPEC"]).read_text())
    return spec


class Net(nn.Module):
    """SiteStream's default: a MONAI UNet without its last layer, and a 1x1x1 convolution with one row per class."""

    def __init__(self, channels: list[int], strides: list[int], classes: int) -> None:
        super().__init__()
        facts: dict[str, Any] = {"channels": channels, "strides": strides, "num_res_units": 0}
        norm = ("INSTANCE", {"affine": True})
        self.net = UNet(spatial_dims=3, in_channels=1, out_channels=channels[0], norm=norm, **facts)
        self.head = nn.Conv3d(channels[0], classes, 1)

    def forward(self, image_BCXYZ: Tensor) -> Tensor:
        """Volumes [B, 1, X, Y, Z] to logits [B, C, X, Y, Z]."""
        logits_BCXYZ: Tensor = self.head(self.net(image_BCXYZ))
        return logits_BCXYZ


def build(spec: dict[str, Any]) -> Net:
    """A fresh network, the same at every peer."""
    torch.manual_seed(0)
    return Net(spec["channels"], spec["strides"], len(spec["values"]))


class Patch:
    """A MONAI transform: a folder with a prepared case to one patch of it, cut from the memory map."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.patch, self.values, self.foreground = spec["patch"], spec["values"], spec["foreground"]
        self.rng = np.random.default_rng()

    def __call__(self, folder: str) -> dict[str, Tensor]:
        """Image [1, X, Y, Z] and target [C, X, Y, Z], both float32."""
        image, label = (np.load(f"{folder}/{part}.npy", mmap_mode="r") for part in ("image", "label"))
        centre = self._centre(folder, image.shape)
        starts = [min(max(c - p // 2, 0), side - p) for c, p, side in zip(centre, self.patch, image.shape, strict=True)]
        part = tuple(slice(start, start + p) for start, p in zip(starts, self.patch, strict=True))
        target = np.stack([np.isin(label[part], some) for some in self.values])
        return {"image": torch.from_numpy(image[part][None].astype(np.float32)), "label": torch.from_numpy(target).float()}

    def _centre(self, folder: str, shape: tuple[int, ...]) -> list[int]:
        if self.rng.random() < self.foreground:
            with np.load(f"{folder}/positions.npz") as archive:
                some = self.values[self.rng.integers(len(self.values))]
                found = [archive[str(value)] for value in some if str(value) in archive.files]
            if found:
                positions = found[self.rng.integers(len(found))]
                return [int(x) for x in positions[self.rng.integers(len(positions))]]
        return [int(x) for x in self.rng.integers(shape)]


def load_data(spec: dict[str, Any], site: str) -> DataLoader:
    """What a user builds in each call: a data set with one draw per sample of the round, and its loader."""
    draws = spec["steps"] * spec["batch"]
    cases = spec["folders"][site]
    return DataLoader(
        Dataset([cases[i % len(cases)] for i in range(draws)], Patch(spec)), batch_size=spec["batch"], shuffle=True
    )


def train(network: nn.Module, spec: dict[str, Any], site: str) -> int:
    """A site's steps of one round, with an optimizer of their own. Returns how many there were."""
    torch.set_num_threads(1)
    began, first, steps = time.time(), 0.0, 0
    optimizer = torch.optim.AdamW(network.parameters(), lr=spec["lr"], weight_decay=spec["weight_decay"], fused=True)
    dice, entropy = DiceLoss(sigmoid=True), nn.BCEWithLogitsLoss()
    network.train()
    for batch in load_data(spec, site):
        optimizer.zero_grad(set_to_none=True)
        logits = network(batch["image"])
        loss = dice(logits, batch["label"]) + entropy(logits, batch["label"])
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), spec["clip"])
        optimizer.step()
        steps += 1
        first = first or time.time()
    with Path(spec["timing"]).open("a") as file:  # one write, shorter than a page: lines of several processes do not mix
        file.write(f"step {site} {first:.4f}\ntrained {site} {steps} {time.time() - began:.4f}\n")
    return steps


def bare(spec: dict[str, Any]) -> None:
    """The loop that a careful person writes without a framework: all sites' rounds after one another, in one process."""
    network = build(spec)
    for _ in range(spec["rounds"]):
        for site in spec["folders"]:
            train(network, spec, site)


if __name__ == "__main__":
    bare(read_spec())
