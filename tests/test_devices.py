"""Training on one device and another: without Flower and Ray, in bfloat16, and, where there is one, on a GPU."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from clients.model import shared_weights
from clients.train import Trainer, pick_device, place
from tests.phantom_steps import RECIPE, content, fresh, make_batches


@pytest.fixture(scope="module")
def batches(phantom_root):
    return make_batches(phantom_root)


def test_a_device_that_is_not_there_is_refused():
    assert pick_device("cpu") == torch.device("cpu")
    for wanted in ("cuda:99", "gpu", "hpu"):
        with pytest.raises(ValueError, match=f"device '{wanted}' is not to be had here"):
            pick_device(wanted)


def test_bfloat16_on_a_cpu_learns_too(batches):
    trainer = Trainer(fresh(), [0, 1], RECIPE.model_copy(update={"lr": 0.03, "precision": "bfloat16"}))
    losses = [trainer.step(*batches[0]).loss_B.mean() for _ in range(10)]
    assert losses[-1] < 0.85 * losses[0]
    assert all(tensor.dtype == np.float32 for tensor in shared_weights(trainer.model).values())


def test_training_needs_neither_flower_nor_ray():
    program = """
import sys
sys.modules["flwr"] = sys.modules["ray"] = None
import torch
from clients.model import build
from clients.train import Trainer
from configs.schema import Train
torch.set_num_threads(1)
model = build("UNet", {"channels": [4, 8], "strides": [2]}, ("organ",), 0)
step = Trainer(model, [0], Train()).step(torch.rand(1, 1, 8, 8, 8), torch.ones(1, 1, 8, 8, 8), torch.ones(1, 1))
print(step.loss_B.shape)
"""
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "(1,)", done.stderr


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU, and this machine has none")


def trained_on(device, batches, **recipe):
    """Losses of a few steps, and the weights after them."""
    model = place(fresh(), torch.device(device))
    trainer = Trainer(model, [0, 1], RECIPE.model_copy(update={"lr": 1e-3, **recipe}))
    told = [trainer.step(*(part.to(device) for part in batch)) for batch in batches]
    told = trainer.settle() if trainer.deferred else told
    return np.array([step.loss_B for step in told]), shared_weights(model)


@needs_gpu
def test_a_gpu_in_float32_agrees_with_the_cpu(batches, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    (cpu, weights), (gpu, on_gpu) = (trained_on(device, batches, precision="float32") for device in ("cpu", "cuda"))
    np.testing.assert_allclose(gpu, cpu, rtol=1e-3)
    for name in weights:
        np.testing.assert_allclose(on_gpu[name], weights[name], atol=2e-3)


@needs_gpu
def test_a_gpu_in_bfloat16_agrees_roughly(batches):
    (cpu, _), (gpu, on_gpu) = trained_on("cpu", batches), trained_on("cuda", batches)
    np.testing.assert_allclose(gpu, cpu, rtol=0.05)
    assert all(tensor.dtype == np.float32 and tensor.flags.c_contiguous for tensor in on_gpu.values())


@needs_gpu
def test_a_compiled_network_takes_the_same_steps(batches):
    plain, compiled = (trained_on("cuda", batches, precision="float32", compile=compile)[0] for compile in (False, True))
    np.testing.assert_allclose(compiled, plain, rtol=1e-3)


@needs_gpu
def test_moments_of_a_gpu_live_on_as_on_a_cpu(batches):
    model = place(fresh(), torch.device("cuda"))
    trainer = Trainer(model, [0, 1], RECIPE)
    trainer.step(*(part.to("cuda") for part in batches[0]))
    other = Trainer(model, [0, 1], RECIPE)
    other.load_moments(trainer.moments())
    assert content(other.moments()) == content(trainer.moments())
    other.step(*(part.to("cuda") for part in batches[1]))
    assert other.settle()[0] is not None
