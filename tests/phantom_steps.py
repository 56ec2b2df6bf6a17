"""A tiny network and a few batches of phantom patches, for the tests of training."""

import numpy as np
import torch

from clients.data import read_msd
from clients.losses import class_weights, targets
from clients.model import build
from clients.patches import cut_batch
from clients.prepare import prepare
from configs.load import cache_root
from configs.schema import Preprocess, Train

NETWORK = ("UNet", {"channels": [4, 8], "strides": [2], "num_res_units": 0})
CLASSES = ("liver", "spleen", "kidney")
VALUES = [[1, 6], [2]]
RECIPE = Train(patch=(16, 16, 16), lr=0.01, weight_decay=0.1)


def make_batches(root):
    """Six batches of two phantom patches: image, target of liver and spleen, weights."""
    volumes = list(prepare(read_msd(root)[0][:4], Preprocess(), cache_root()))
    rng, made = np.random.default_rng(0), []
    for i in range(6):
        pair = [volumes[i % 4], volumes[(i + 1) % 4]]
        image, label = cut_batch(pair, VALUES, RECIPE.patch, 1.0, rng)
        weight = np.stack([class_weights([volume.voxels(v) for v in VALUES]) for volume in pair])
        made.append((torch.from_numpy(image).float(), targets(torch.from_numpy(label), VALUES), torch.from_numpy(weight)))
    return made


def fresh(classes=CLASSES, seed=0):
    return build(*NETWORK, classes, seed)


def content(weights):
    return b"".join(weights[name].tobytes() for name in sorted(weights))
