"""How fast a training step could be on this machine, and how fast it is.

    python benchmarks/limit.py [--config configs/quickstart.yaml] [--device auto] [--steps 10] [--profile]

The floor of a step is the longer of two times, at the machine's own measured best:

- its floating-point operations, forward and backward (torch counts those of convolutions and matrix products, 2 for a
  multiplication and addition), over those of a large matrix product in the precision that the step has, or of a large 3D
  convolution, forward and backward, where that is faster (on a CPU they come from different libraries);
- the fewest bytes it must move, over those of a large copy, where

      bytes = 4 x 9 P + 2 A

  P: parameters, float32. Each is read forward and backward (2), its gradient written and read (2), AdamW's two moments
  read and written (4), the parameter written (1). A: bytes of what the forward pass keeps for the backward pass, each
  storage once, parameters left out: written once, read once.

No step reaches it: element-wise operations cost nothing in it, everything overlaps, and convolutions are no matrix
products. So the floor at the large convolution's speed stands beside it.
A CPU is measured on one thread, as a site has it, in seconds of computing.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from steps import ROOT, Task, clock, seconds, task, top_operations, trainers, wait
from torch.utils.flop_counter import FlopCounterMode

from clients.losses import weighted_bce_dice
from clients.train import pick_device, uses_bfloat16

PARAMETER_PASSES = 9


@dataclass(frozen=True)
class Needed:
    """What a step cannot do without."""

    flops: int
    bytes: int


@dataclass(frozen=True)
class Machine:
    """Measured ceilings: operations per second of a matrix product and of a convolution, bytes per second of a copy."""

    product: float
    convolution: float
    copy: float

    def floor(self, needed: Needed) -> float:
        """Seconds that no step can beat."""
        return max(needed.flops / max(self.product, self.convolution), needed.bytes / self.copy)

    def floor_of_convolutions(self, needed: Needed) -> float:
        """The same, if convolutions are no faster than a large one."""
        return max(needed.flops / self.convolution, needed.bytes / self.copy)


def needed(task: Task) -> Needed:
    """Counted in one step's forward and backward pass."""
    network, batch = task.network().train(), task.batch()
    rows, half = torch.tensor(task.rows, device=task.device), uses_bfloat16(task.run.train, task.device)
    own = {tensor.untyped_storage().data_ptr() for tensor in network.parameters()}
    kept: dict[int, int] = {}
    held = []  # else a storage that is freed on the way gives its address to the next

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)
        return tensor

    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            with torch.autocast(task.device.type, torch.bfloat16, enabled=half):
                logits = network(batch.image_BCXYZ)[0]
            logits = logits.index_select(1, rows).float()
            loss = weighted_bce_dice(logits, batch.target_BTXYZ, batch.weight_BT)[0].mean()
        loss.backward()
    parameters = sum(tensor.numel() for tensor in network.parameters())
    return Needed(counter.get_total_flops(), 4 * PARAMETER_PASSES * parameters + 2 * sum(kept.values()))


def best(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Shortest seconds: a ceiling is what the machine can do, not what it did beside others."""
    work()
    wait(device)
    taken, now = [], clock(device)
    for _ in range(repeats):
        began = now()
        work()
        wait(device)
        taken.append(now() - began)
    return min(taken)


def machine(device: torch.device, half: bool, small: bool = False, repeats: int = 5) -> Machine:
    """The ceilings of a device, in float32 or bfloat16; small: for a test, which does not believe them."""
    gpu, kind = device.type == "cuda", torch.bfloat16 if half else torch.float32
    side = 64 if small else 8192 if gpu else 1024
    numbers = 2**16 if small else 2**28 if gpu else 2**25  # 128 MB, past every cache
    channels, patch = (4, 8) if small else (64, 96) if gpu else (32, 32)
    square = torch.rand(side, side, device=device, dtype=kind)
    product = best(lambda: square @ square, device, repeats)
    source, target = torch.rand(numbers, device=device), torch.empty(numbers, device=device)
    copy = best(lambda: target.copy_(source), device, repeats)
    layer = torch.nn.Conv3d(channels, channels, 3, padding=1, bias=False).to(device, kind)
    image = torch.rand(2, channels, *[patch] * 3, device=device, dtype=kind, requires_grad=True)
    if gpu:
        layer = layer.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        image = image.detach().to(memory_format=torch.channels_last_3d).requires_grad_()
    ones = torch.ones_like(layer(image))
    convolution = best(lambda: torch.autograd.grad(layer(image), [image, layer.weight], ones), device, repeats)
    passes = 3 * 2 * 27 * channels**2 * 2 * patch**3  # forward, to the image, to the weights
    return Machine(2 * side**3 / product, passes / convolution, 2 * source.nbytes / copy)


def table(task: Task, steps: int, small: bool = False) -> tuple[str, float]:
    """The Markdown table, and the measured step over its floor."""
    half = uses_bfloat16(task.run.train, task.device)
    need, here, step = needed(task), machine(task.device, half, small), trainers(task)
    step(3)
    took, floor, real = seconds(step, steps, clock(task.device)), here.floor(need), here.floor_of_convolutions(need)
    bound = "operations" if floor > need.bytes / here.copy else "bytes"
    rows = [
        ("operations of a step", f"{need.flops / 1e9:.2f} GFLOP"),
        ("fewest bytes of a step", f"{need.bytes / 1e6:.1f} MB"),
        (f"matrix product, {'bfloat16' if half else 'float32'}", f"{here.product / 1e9:.0f} GFLOP/s"),
        ("3D convolution, forward and backward", f"{here.convolution / 1e9:.0f} GFLOP/s"),
        ("copy", f"{here.copy / 1e9:.1f} GB/s"),
        (f"floor (by {bound})", f"{1e3 * floor:.2f} ms"),
        ("floor at the convolution's speed", f"{1e3 * real:.2f} ms"),
        ("step", f"{1e3 * took:.2f} ms"),
        ("step / floor", f"{took / floor:.2f}"),
        ("step / floor at the convolution's speed", f"{took / real:.2f}"),
    ]
    where = f"{task.run.name}: {task.run.model.network}, {task.run.train.batch} x {list(task.run.train.patch)}"
    lines = [f"| {where} | {device_name(task.device)} |", "|---|---:|", *(f"| {what} | {value} |" for what, value in rows)]
    return "\n".join(lines), took / floor


def device_name(device: torch.device) -> str:
    """How people call it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, one thread"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "quickstart.yaml")
    parser.add_argument("--device", default="auto", help="auto: the CPU, and the GPU where there is one")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--small", action="store_true", help="ceilings of a size for a test")
    parser.add_argument("--profile", action="store_true", help="and the operations by their own time")
    args = parser.parse_args()
    both = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    for name in both if args.device == "auto" else [args.device]:
        given = task(args.config, pick_device(name))
        print(table(given, args.steps, args.small)[0], end="\n\n", flush=True)
        if args.profile:
            print(top_operations(trainers(given), args.steps))
    if args.device == "auto" and both == ["cpu"]:
        print("No GPU on this machine.")


if __name__ == "__main__":
    main()
