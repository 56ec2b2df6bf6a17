"""Sites that train at once on one device, each in a process of its own, without Flower and Ray.

python benchmarks/packed.py CONFIG DEVICE SECONDS     one such site: says `ready`, trains when told `go`
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
BLOCK = 10
"""Steps between two looks at the clock."""


@dataclass(frozen=True)
class Told:
    """What one site told."""

    rate: float
    """Steps per second."""
    peak_mb: float
    """Of the device's memory; on a CPU of the process's."""


def together(config: Path, device: str, sites: int, duration: float) -> list[Told]:
    """So many sites, started at one time, that train for so many seconds.

    Raises:
        RuntimeError: a site did not come through.
    """
    command = [sys.executable, __file__, str(config), device, str(duration)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    running = [subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, **pipes) for _ in range(sites)]  # type: ignore[call-overload]
    try:
        for each in running:
            if each.stdout.readline() != "ready\n":
                raise RuntimeError(f"a site of {sites} on {device} did not start")
        for each in running:
            each.stdin.write("go\n")
            each.stdin.flush()
        lines = [each.communicate()[0] for each in running]
    finally:
        for each in running:
            each.kill()
            each.communicate()
    if not all(lines):
        raise RuntimeError(f"a site of {sites} on {device} ended early")
    return [Told(**json.loads(line)) for line in lines]


def site(config: Path, device: str, duration: float) -> None:
    """One site: trains until the time is over, and prints what `Told` holds."""
    sys.modules["flwr"] = sys.modules["ray"] = None  # type: ignore[assignment]
    from resource import RUSAGE_SELF, getrusage

    import torch
    from steps import WARM, task, trainers

    from clients.train import pick_device

    given = task(config, pick_device(device))
    steps, block = trainers(given), BLOCK if given.device.type == "cuda" else 1
    steps(WARM)
    print("ready", flush=True)
    sys.stdin.readline()
    began, done = time.perf_counter(), 0
    while (spent := time.perf_counter() - began) < duration or not done:
        steps(block)
        done += block
    gpu = given.device.type == "cuda"
    peak = torch.cuda.max_memory_reserved(given.device) / 1e6 if gpu else getrusage(RUSAGE_SELF).ru_maxrss / 1e3
    print(json.dumps({"rate": done / spent, "peak_mb": peak}), flush=True)


if __name__ == "__main__":
    site(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]))
