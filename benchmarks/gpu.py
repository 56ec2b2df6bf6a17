"""Everything about a GPU in one command, in under 8 minutes (`make bench-gpu`).

    python benchmarks/gpu.py [--device cuda] [--config configs/quickstart.yaml] [--profile]
    python benchmarks/gpu.py --device cpu --small      the same on a CPU, at a size for a test

Prints the Trainer's throughput over a bare loop's (target .95 or better), what the statistics of the samples cost (target
under 2 %), how often a step makes the host wait (target 0), a step over its floor (limit.py), what layout, precision and
torch.compile make of the bare loop, sites packed 1, 2, 4 and 8 on the device (packed.py), and the wall time of quickstart.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import limit
import packed
import torch
from steps import ROOT, WARM, Task, bare, clock, paired, seconds, task, top_operations, trainers, wait, without_statistics

from clients.train import Trainer, pick_device

TARGET_THROUGHPUT, TARGET_STATISTICS = 0.95, 0.02
SIDES = ("float32", "bfloat16")
MINUTES = 4
"""What the quickstart may take before it is broken off: all else takes the other four."""


def throughput(given: Task, count: int, pairs: int) -> float:
    """Steps per second of the Trainer over the bare loop's."""
    plain, ours, ratio = paired(bare(given), trainers(given), count, pairs, clock(given.device))
    print(f"bare loop {1 / plain:.2f} steps/s, Trainer {1 / ours:.2f}: {ratio:.3f} of it (target {TARGET_THROUGHPUT})")
    return ratio


def statistics(given: Task, count: int, pairs: int) -> float:
    """The share of a step that goes into what it tells of its samples."""
    telling, silent = trainers(given), trainers(given)

    def without(steps: int) -> None:
        with without_statistics():
            silent(steps)

    share = 1 - 1 / paired(telling, without, count, pairs, clock(given.device))[2]
    print(f"statistics of the samples: {100 * share:.2f} % of a step (target under {100 * TARGET_STATISTICS:g} %)")
    return share


def waits(given: Task, count: int) -> float | None:
    """How often a step makes the host wait for the GPU, by torch's own count; None: not a GPU."""
    if given.device.type != "cuda":
        print("host synchronisations: a CPU has none")
        return None
    trainer, batch = Trainer(given.network(), given.rows, given.run.train), given.batch()
    parts = (batch.image_BCXYZ, batch.target_BTXYZ, batch.weight_BT)
    for _ in range(WARM):
        trainer.step(*parts)
    wait(given.device)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        for _ in range(count):
            trainer.step(*parts)
        torch.cuda.set_sync_debug_mode("default")
    found = [f"{Path(each.filename).name}:{each.lineno}" for each in seen if "synchroniz" in str(each.message)]
    print(f"host synchronisations: {len(found) / count:g} per step (target 0) {' '.join(sorted(set(found)))}")
    return len(found) / count


def ways(given: Task, count: int, compile: bool) -> None:
    """The bare loop under each layout and precision, and compiled: what of it pays on this device."""
    print("\n| bare loop | channels first: ms | channels last: ms |\n|---|---:|---:|")
    for half in (False, True):
        for whole in (False, True) if compile else (False,):
            cells = []
            for last in (False, True):
                began, step = time.perf_counter(), bare(given, last, whole, half)
                step(WARM)
                first = time.perf_counter() - began
                cells.append(
                    f"{1e3 * seconds(step, count, clock(given.device)):.2f}"
                    + (f" (first steps {first:.0f} s)" if whole else "")
                )
            print(f"| {SIDES[half]}{', compiled' if whole else ''} | {' | '.join(cells)} |", flush=True)
    print()


def packs(config: Path, device: str, counts: list[int], duration: float) -> dict[int, float]:
    """Steps per second of all sites together, by how many share the device."""
    print("| sites on the device | steps/s together | over one | peak memory of one, MB |\n|---:|---:|---:|---:|")
    found: dict[int, float] = {}
    for sites in counts:
        told = packed.together(config, device, sites, duration)
        found[sites] = sum(each.rate for each in told)
        peak = max(each.peak_mb for each in told)
        print(f"| {sites} | {found[sites]:.2f} | {found[sites] / found[counts[0]]:.2f} | {peak:.0f} |", flush=True)
    print()
    return found


def quickstart(config: Path, device: str, engine: str) -> float | None:
    """Wall seconds of a whole run as a user sees them; None: it was broken off."""
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "run_sim.py", "run", str(config), "--engine", engine, "--out", f"{folder}/run"]
        began = time.perf_counter()
        try:
            subprocess.run(command, cwd=ROOT, env=os.environ | hidden, check=True, capture_output=True, timeout=60 * MINUTES)
        except subprocess.TimeoutExpired:
            print(f"{config.stem} on {engine}: broken off after {MINUTES} minutes")
            return None
        wall = time.perf_counter() - began
        spent = json.loads(Path(folder, "run", "summary.json").read_text())["seconds"]
    parts = ", ".join(f"{name} {spent[name]:.1f}" for name in ("training", "evaluating", "merging", "saving"))
    print(f"{config.stem} on {engine}: {wall:.1f} s in all ({parts})")
    return wall


def engine() -> str:
    """Ray where it is installed."""
    try:
        import ray  # noqa: F401
    except ImportError:
        return "local"
    return "ray"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--config", type=Path, help="default: quickstart, with --small smoke")
    parser.add_argument("--small", action="store_true", help="of a size for a test: no number is worth anything")
    parser.add_argument("--profile", action="store_true", help="only the operations of the Trainer's step by their own time")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        print("No GPU on this machine; --device cpu --small does all of it on the CPU.")
        return
    config = args.config or ROOT / "configs" / ("smoke.yaml" if args.small else "quickstart.yaml")
    given = task(config, pick_device(args.device))
    gpu = given.device.type == "cuda"
    count, pairs = (2, 1) if args.small else (100, 5) if gpu else (5, 3)
    if args.profile:
        print(top_operations(trainers(given), count))
        return
    print(f"{limit.device_name(given.device)}, torch {torch.__version__}, {config.stem}")
    throughput(given, count, pairs)
    statistics(given, count, pairs)
    waits(given, count)
    print(f"\n{limit.table(given, count, args.small)[0]}")
    ways(given, count, compile=gpu)
    packs(config, args.device, [1, 2] if args.small else [1, 2, 4, 8], 0.3 if args.small else 10)
    quickstart(config, args.device, "local" if args.small else engine())


if __name__ == "__main__":
    main()
