"""One site's training step, as the Trainer does it and as a bare loop does: what limit.py and gpu.py time.

Without Flower and Ray, on random patches that lie on the device already.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from unittest.mock import patch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import torch
from torch import Tensor

from clients import model
from clients.heap import keep_freed_memory
from clients.losses import weighted_bce_dice
from clients.objective import Batch
from clients.train import Trainer, place, uses_bfloat16
from configs.load import load_run
from configs.schema import Run

WARM = 3
"""Steps before any is timed: choice of algorithms, allocations."""
Steps = Callable[[int], None]
"""Do so many steps and wait until they are done."""


@dataclass(frozen=True)
class Task:
    """What a site of a recipe trains: its recipe, its network on a device, and one batch."""

    run: Run
    device: torch.device
    classes: tuple[str, ...]
    rows: tuple[int, ...]
    """Head rows of the classes that the site annotates."""

    def network(self) -> model.Segmenter:
        """A fresh network on the device, as a site has it."""
        return place(model.build(self.run.model.network, self.run.model.args, self.classes, self.run.seed), self.device)

    def batch(self) -> Batch:
        """Patches of noise, one voxel in ten of each class; on a GPU as memory gives them."""
        rng, train = torch.Generator().manual_seed(0), self.run.train
        image = torch.rand(train.batch, 1, *train.patch, generator=rng)
        target = (torch.rand(train.batch, len(self.rows), *train.patch, generator=rng) < 0.1).float()
        return Batch(*(part.to(self.device) for part in (image, target, torch.ones(train.batch, len(self.rows)))))


def task(config: Path, device: torch.device) -> Task:
    """The first site of a recipe; classes that nobody names are two."""
    run = load_run(config)
    sites = list(run.sites.values())
    classes = tuple(dict.fromkeys(name for site in sites for name in site.annotates or ())) or ("one", "two")
    own = sites[0].annotates or classes
    if device.type == "cpu":
        torch.set_num_threads(1)
        keep_freed_memory()
    return Task(run, device, classes, tuple(classes.index(name) for name in own))


def wait(device: torch.device) -> None:
    """Until all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def trainers(task: Task) -> Steps:
    """The Trainer's steps, and what they told fetched as a site's round does."""
    trainer, batch = Trainer(task.network(), task.rows, task.run.train), task.batch()

    def steps(count: int) -> None:
        for _ in range(count):
            trainer.step(batch.image_BCXYZ, batch.target_BTXYZ, batch.weight_BT)
        trainer.settle()
        wait(task.device)

    return steps


def bare(task: Task, channels_last: bool = True, compile: bool = False, bfloat16: bool | None = None) -> Steps:
    """What a careful person writes without a framework: the same network, loss, clipping and AdamW, and nothing else.

    On a GPU bfloat16 (none: as the recipe says) and channels last; no look at the loss, no finite check.
    """
    network, train, batch = task.network(), task.run.train, task.batch()
    if not channels_last:
        network = network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(network.parameters(), lr=train.lr, weight_decay=train.weight_decay, fused=True)
    rows, half = torch.tensor(task.rows, device=task.device), uses_bfloat16(train, task.device)
    forward = torch.compile(network) if compile else network
    network.train()

    def steps(count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(task.device.type, torch.bfloat16, enabled=half if bfloat16 is None else bfloat16):
                logits = forward(batch.image_BCXYZ)[0]
            logits = logits.index_select(1, rows).float()
            weighted_bce_dice(logits, batch.target_BTXYZ, batch.weight_BT)[0].mean().backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), train.clip)
            optimizer.step()
        wait(task.device)

    return steps


@contextmanager
def without_statistics() -> Iterator[None]:
    """Within it a step tells nothing of its samples: no entropy, no features, nothing fetched."""

    def forward(self: model.Segmenter, image_BCXYZ: Tensor) -> tuple[Tensor, Tensor]:
        logits_BCXYZ, self._deepest = self.head(self.net(image_BCXYZ)), None
        return logits_BCXYZ, logits_BCXYZ.new_empty(len(logits_BCXYZ), 0)

    with (
        patch("clients.train.binary_entropy", lambda logits_BTXYZ, annotated_BT: logits_BTXYZ.new_empty(0)),
        patch("clients.train.step_of", lambda parts: None),
        patch("clients.told.Untold.add", lambda *told: None),
        patch.object(model.Segmenter, "forward", forward),
    ):
        yield


def clock(device: torch.device) -> Callable[[], float]:
    """Wall seconds; on a CPU those that this process computed: one thread's are the same, and others on the machine are not
    in them."""
    return time.perf_counter if device.type == "cuda" else time.process_time


def seconds(steps: Steps, count: int, now: Callable[[], float]) -> float:
    """Of one of so many steps."""
    began = now()
    steps(count)
    return (now() - began) / count


def paired(one: Steps, other: Steps, count: int, pairs: int, now: Callable[[], float]) -> tuple[float, float, float]:
    """Median seconds of a step of each, and the median of the pairs' ratios one / other; in turn, so that a drifting
    machine favours neither."""
    one(WARM)
    other(WARM)
    taken = []
    for pair in range(pairs):
        ways = (one, other) if pair % 2 == 0 else (other, one)
        times = [seconds(way, count, now) for way in ways]
        taken.append(tuple(times if pair % 2 == 0 else times[::-1]))
    return median(a for a, _ in taken), median(b for _, b in taken), median(a / b for a, b in taken)


def top_operations(steps: Steps, count: int, rows: int = 15) -> str:
    """torch's profile of some steps: the operations by the time that is their own."""
    from torch.profiler import ProfilerActivity, profile

    steps(WARM)
    gpu = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
    with profile(activities=[ProfilerActivity.CPU, *gpu]) as seen:
        steps(count)
    order = "self_cuda_time_total" if gpu else "self_cpu_time_total"
    return str(seen.key_averages().table(sort_by=order, row_limit=rows, max_name_column_width=44))
