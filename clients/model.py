"""The shared network: a MONAI body, one sigmoid row per class of the union label space, and a feature vector.

A body is built without its last layer, so that every network ends in the same head: a 1x1x1 convolution with one row
per class. Rows are addressed by name and drawn from the class's own seed, so a row is the same wherever it is grown.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any
from zlib import crc32

import numpy as np
import torch
from monai.networks import nets
from monai.networks.layers.simplelayers import SkipConnection
from numpy.typing import NDArray
from torch import Tensor, nn

Weights = dict[str, NDArray]  # wire's word, which is not to be had without Flower; this file is

INSTANCE = ("INSTANCE", {"affine": True})
"""MONAI's UNet default has no parameters; ours has."""
HEAD = ("head.weight", "head.bias")
NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


@dataclass(frozen=True)
class Body:
    """A network without its last layer."""

    net: nn.Module
    width: int
    """Channels that it hands to the head."""
    deepest: nn.Module
    """The module whose output is the deepest feature map."""
    divisor: tuple[int, int, int]
    """A patch's sides must be multiples of these, and more than once that."""


def build_unet(args: Mapping[str, Any]) -> Body:
    """MONAI UNet (Kerfoot et al., 2018)."""
    given: dict[str, Any] = {"channels": [16, 32, 64], "strides": [2, 2], "num_res_units": 1, "norm": INSTANCE} | dict(args)
    if len(given["strides"]) != len(given["channels"]) - 1:
        raise ValueError("`strides` must be one fewer than `channels`")
    width = given["channels"][0]
    net = nets.UNet(spatial_dims=3, in_channels=1, out_channels=width, **given)
    deepest: nn.Module = net.model
    while isinstance(deepest, nn.Sequential) and isinstance(deepest[1], SkipConnection):  # down, around the next level, up
        deepest = deepest[1].submodule  # type: ignore[assignment]
    return Body(net, width, deepest, _downsampling(given["strides"]))


def build_dynunet(args: Mapping[str, Any]) -> Body:
    """MONAI DynUNet, the reimplementation of nnU-Net's network (Isensee et al., 2021)."""
    given: dict[str, Any] = {"filters": [16, 32, 64], "strides": [1, 2, 2], "kernel_size": [3, 3, 3]} | dict(args)
    given.setdefault("upsample_kernel_size", given["strides"][1:])
    if given.get("deep_supervision"):
        raise ValueError("deep_supervision would need a loss at every level")
    net = nets.DynUNet(spatial_dims=3, in_channels=1, out_channels=1, **given)
    net.output_block = nn.Identity()  # type: ignore[assignment]
    return Body(net, given["filters"][0], net.bottleneck, _downsampling(given["strides"]))


def build_segresnet(args: Mapping[str, Any]) -> Body:
    """MONAI SegResNet (Myronenko, 2018)."""
    given: dict[str, Any] = {"init_filters": 8, "norm": INSTANCE} | dict(args)
    net = nets.SegResNet(spatial_dims=3, in_channels=1, out_channels=1, **given)
    net.conv_final[-1] = nn.Identity()
    return Body(net, given["init_filters"], net.down_layers[-1], (2 ** (len(net.blocks_down) - 1),) * 3)


def build_swinunetr(args: Mapping[str, Any]) -> Body:
    """MONAI SwinUNETR (Hatamizadeh et al., 2022)."""
    given: dict[str, Any] = {"feature_size": 24, "norm_name": INSTANCE} | dict(args)
    net = nets.SwinUNETR(spatial_dims=3, in_channels=1, out_channels=1, **given)
    net.out = nn.Identity()  # type: ignore[assignment]
    return Body(net, given["feature_size"], net.encoder10, (32, 32, 32))


NETWORKS: dict[str, Callable[[Mapping[str, Any]], Body]] = {
    "UNet": build_unet,
    "DynUNet": build_dynunet,
    "SegResNet": build_segresnet,
    "SwinUNETR": build_swinunetr,
}


class Segmenter(nn.Module):
    """Volumes [B, 1, X, Y, Z] to logits [B, C, X, Y, Z] and the pooled deepest feature map [B, E], unit length."""

    def __init__(self, body: Body, classes: Sequence[str], seed: int) -> None:
        super().__init__()
        self.net = body.net
        self.head = nn.Conv3d(body.width, len(classes), 1)
        self.classes, self.seed = tuple(classes), seed
        self._deepest: Tensor | None = None
        body.deepest.register_forward_hook(self._remember)
        # In a list, so that it does not become a second name of a part of `net`.
        self._before_norm = [part for part in body.deepest.modules() if isinstance(part, nn.Conv3d)][-1:]
        self.draw_head()

    def draw_head(self) -> None:
        """Give every head row its seeded first values."""
        with torch.no_grad():
            for row, name in enumerate(self.classes):
                weight_row, bias = head_row(name, self.head.in_channels, self.seed)
                self.head.weight[row] = torch.from_numpy(weight_row)
                self.head.bias[row] = bias  # type: ignore[index]

    @property
    def deepest_convolution(self) -> nn.Conv3d:
        """The last convolution of the deepest level: what it puts out has not passed a normalisation yet."""
        return self._before_norm[0]

    def _remember(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self._deepest = output

    def forward(self, image_BCXYZ: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and feature vectors of a batch."""
        logits_BCXYZ = self.head(self.net(image_BCXYZ))
        assert self._deepest is not None
        pooled_BE = self._deepest.detach().float().mean(dim=(2, 3, 4))
        self._deepest = None
        return logits_BCXYZ, nn.functional.normalize(pooled_BE, dim=1)


def build(network: str, args: Mapping[str, Any], classes: Sequence[str], seed: int) -> Segmenter:
    """A network with freshly drawn weights: the same for the same seed, whatever was drawn before.

    Raises:
        ValueError: no such network, or arguments that it does not take.
    """
    if network not in NETWORKS:
        raise ValueError(f"model.network: there is no {network!r}; valid: {', '.join(NETWORKS)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            body = NETWORKS[network](args)
        except (TypeError, ValueError, KeyError, IndexError, AssertionError) as error:
            raise ValueError(f"model.args: {network} does not take them: {error}") from None
        return Segmenter(body, classes, seed)


def head_row(name: str, width: int, seed: int) -> tuple[NDArray[np.float32], float]:
    """A class's first head row, [width, 1, 1, 1] and bias, drawn from [seed, crc32(name)].

    Uniform within 1/sqrt(width), as torch draws a convolution. The bias starts at a foreground share of 5 %, so that
    the first steps are not spent on learning that most voxels are background.
    """
    bound = 1 / np.sqrt(width)
    rng = np.random.default_rng([seed, crc32(name.encode())])
    return rng.uniform(-bound, bound, (width, 1, 1, 1)).astype(np.float32), float(np.log(0.05 / 0.95))


def nearest_patch(patch: Sequence[int], divisor: Sequence[int]) -> tuple[int, ...]:
    """The nearest patch whose sides are multiples of the network's divisor and leave more than one voxel at its bottom."""
    return tuple(max(2, round(side / step)) * step if step > 1 else side for side, step in zip(patch, divisor, strict=True))


def check_patch(network: str, args: Mapping[str, Any], patch: Sequence[int]) -> None:
    """Raises ValueError with the nearest valid patch if the network cannot take this one."""
    with torch.random.fork_rng(devices=[]):
        divisor = NETWORKS[network](args).divisor
    valid = nearest_patch(patch, divisor)
    if any(side % step or side < 2 * step for side, step in zip(patch, divisor, strict=True) if step > 1):
        raise ValueError(f"train.patch: {network} cannot take {list(patch)}; the nearest that it can is {list(valid)}")


def shared_weights(model: nn.Module) -> Weights:
    """The tensors that travel: floating-point parameters and statistics, as numpy copies on the CPU. Counters stay."""
    return {
        name: tensor.detach().cpu().numpy().copy() for name, tensor in model.state_dict().items() if tensor.is_floating_point()
    }


def load_shared(model: Segmenter, weights: Weights) -> None:
    """Put travelling tensors into the model; head rows that the weights lack keep their seeded first values.

    Raises:
        ValueError: a tensor is missing, unknown, or of another shape.
    """
    own = model.state_dict()
    wanted = {name for name, tensor in own.items() if tensor.is_floating_point()}
    if wanted != weights.keys():
        odd = sorted(wanted ^ weights.keys())[0]
        raise ValueError(f"the weights do not belong to this network: {odd} is {'missing' if odd in wanted else 'unknown'}")
    model.draw_head()
    with torch.no_grad():
        for name, array in weights.items():
            target = own[name][: len(array)] if name in HEAD and array.ndim else own[name]
            if target.shape != array.shape:
                raise ValueError(
                    f"the weights do not belong to this network: {name} is {array.shape}, not {tuple(target.shape)}"
                )
            target.copy_(torch.from_numpy(np.array(array)))  # a copy: what is memory-mapped may be read-only


def roles(model: nn.Module) -> dict[str, str]:
    """{travelling tensor: body | norm | head}: all that the server knows of the model."""
    norms = {prefix for prefix, module in model.named_modules() if isinstance(module, NORMS)}
    return {
        name: "head" if name in HEAD else "norm" if name.rpartition(".")[0] in norms else "body"
        for name, tensor in model.state_dict().items()
        if tensor.is_floating_point()
    }


def _downsampling(strides: Sequence[Any]) -> tuple[int, int, int]:
    per_axis = [[stride] * 3 if isinstance(stride, int) else list(stride) for stride in strides]
    x, y, z = (prod(axis) for axis in zip(*per_axis, strict=True))
    return x, y, z
