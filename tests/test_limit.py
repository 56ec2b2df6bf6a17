"""The floor of a training step, on a network small enough to count by hand."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from clients.objective import Batch
from configs.schema import Train

HOME = Path(__file__).parents[1]
sys.path.append(str(HOME / "benchmarks"))

import limit
import steps

VOXELS, BATCH = 4**3, 2


class Point(torch.nn.Module):
    """One 1x1x1 convolution from one channel to one class: two parameters."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv3d(1, 1, 1)

    def forward(self, image):
        return self.layer(image), None


def point():
    image = torch.rand(BATCH, 1, 4, 4, 4)
    batch = Batch(image, (image > 0.5).float(), torch.ones(BATCH, 1))
    run = SimpleNamespace(train=Train(patch=(4, 4, 4)))
    return SimpleNamespace(network=Point, batch=lambda: batch, rows=(0,), device=torch.device("cpu"), run=run)


def test_operations_and_bytes_of_one_convolution():
    """One multiplication and addition per voxel forward, one backward (the image needs no gradient). Kept for the backward
    pass: the image, the target, the logits, their probabilities; and a few numbers per sample, and the row's index."""
    found = limit.needed(point())
    assert found.flops == 2 * 2 * BATCH * VOXELS
    kept = 4 * 4 * BATCH * VOXELS
    assert 0 < found.bytes - (4 * 9 * 2 + 2 * kept) <= 2 * 100


def test_the_floor_is_the_longer_of_two_times():
    need, fast = limit.Needed(1000, 60), limit.Machine(product=100, convolution=50, copy=10)
    assert (fast.floor(need), fast.floor_of_convolutions(need)) == (10, 20)
    assert limit.Machine(1000, 500, 10).floor(need) == 6
    assert limit.Machine(50, 100, 10).floor(need) == 10  # where a convolution is faster, that is what the machine can do


def test_ceilings_are_rates_of_what_was_done(monkeypatch):
    """With a clock by which everything takes a second, they are the operations and bytes themselves."""
    monkeypatch.setattr(limit, "best", lambda work, device, repeats: work() is not None and 1.0)
    found = limit.machine(torch.device("cpu"), False, small=True)
    assert (found.product, found.copy) == (2 * 64**3, 2 * 4 * 2**16)
    assert found.convolution == 3 * 2 * 27 * 4 * 4 * 2 * 8**3


def test_the_fewest_operations_of_a_real_step_are_those_of_its_convolutions():
    """Smoke's network: three passes over every convolution, but two over the first, whose input is an image."""
    given = steps.task(HOME / "configs" / "smoke.yaml", torch.device("cpu"))
    network, seen = given.network(), []

    def count(layer, inputs, output):
        over = inputs[0] if isinstance(layer, torch.nn.ConvTranspose3d) else output
        first = inputs[0].shape[1] == 1
        seen.append((2 if first else 3) * 2 * layer.weight.numel() * over.numel() // over.shape[1])

    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv3d | torch.nn.ConvTranspose3d):
            layer.register_forward_hook(count)
    network(given.batch().image_BCXYZ)
    assert limit.needed(given).flops == sum(seen) > 1e8


def test_the_command_prints_a_table(tmp_path):
    command = [sys.executable, "benchmarks/limit.py", "--config", "configs/smoke.yaml", "--device", "cpu", "--steps", "1"]
    done = subprocess.run([*command, "--small", "--profile"], cwd=HOME, capture_output=True, text=True, timeout=200, check=True)
    lines = done.stdout.splitlines()
    assert lines[:2] == ["| smoke: UNet, 2 x [24, 20, 16] | CPU, one thread |", "|---|---:|"]
    cells = dict(line.strip("| ").split(" | ") for line in lines[2:12])
    assert float(cells["step / floor"]) > 0 and cells["operations of a step"] == "0.17 GFLOP"
    assert "aten::convolution_backward" in done.stdout


@pytest.mark.parametrize("deferred", [False, True])
def test_without_statistics_a_step_trains_and_tells_nothing(deferred):
    given = steps.task(HOME / "configs" / "smoke.yaml", torch.device("cpu"))
    trainer, batch = steps.Trainer(given.network(), given.rows, given.run.train), given.batch()
    trainer.deferred = deferred
    with steps.without_statistics():
        assert trainer.step(batch.image_BCXYZ, batch.target_BTXYZ, batch.weight_BT) is None
        assert trainer.settle() == [] and trainer.steps == 1
    trainer.step(batch.image_BCXYZ, batch.target_BTXYZ, batch.weight_BT)
    assert trainer.steps == 2 and len(trainer.settle()) == deferred
