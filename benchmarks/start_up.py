"""How long until a run trains: quickstart on both engines against the bare import of torch and MONAI's networks.

    python benchmarks/start_up.py [--pairs 3] [--config configs/quickstart.yaml]

In turn, so that a drifting machine favours nobody, with a warm cache: `import torch, monai.networks.nets` in a process of its
own; the run in this process (local); the run on Ray. A run is stopped at its first training step. Prints wall seconds from the
process's start (s) and their ratio to the bare import's of the same turn: until the sites are asked for the first time (hello),
until the evaluation before training (R's row 0) begins and ends, and until a step is done; and the first step without
that evaluation, which is work, not start-up. Targets: 1.5 local, 2.5 on Ray.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parent.parent
BARE = "import torch, monai.networks.nets"
ENGINES = {"local": 1.5, "ray": 2.5}
"""And the targets."""
POLL_S = 0.01
LIMIT_S = 300.0
MARKS = ("hello", "evaluate", "train", "step")


def bare() -> float:
    """Wall seconds of the bare import, the process's start included."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-W", "ignore", "-c", BARE], cwd=ROOT, env=environment(), check=True)
    return time.perf_counter() - began


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"}


def until_a_step(config: Path, engine: str) -> dict[str, float]:
    """Wall seconds to each of MARKS; the run is ended then."""
    with tempfile.TemporaryDirectory(prefix="sitestream-start-") as place:
        folder, marks = Path(place) / "run", dict[str, float]()
        command = [sys.executable, "run_sim.py", "run", str(config), "--engine", engine, "--out", str(folder)]
        began = time.perf_counter()
        run = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            while "step" not in marks:
                for mark in seen(folder):
                    marks.setdefault(mark, time.perf_counter() - began)
                if run.poll() is not None or time.perf_counter() - began > LIMIT_S:
                    words = run.stderr.read().decode()[-500:] if run.poll() is not None and run.stderr else ""
                    raise SystemExit(f"the run on {engine} reached {[*marks]} and no step of training. {words}")
                time.sleep(POLL_S)
        finally:
            run.send_signal(signal.SIGTERM)
            run.communicate()
        return marks


def seen(folder: Path) -> set[str]:
    """What the run's folder says is going on: an order's task, and whether a site has done a step."""
    found = {str(said.get("task")) for said in [_read(folder / "waiting.json")] if said} & {*MARKS}
    if found - {"hello", "evaluate"}:  # the sites' files are many
        steps = [_read(path) for path in folder.glob("sites/*/progress.json")]
        found |= {"step"} if any(said.get("task") == "train" and said.get("step") for said in steps) else set()
    return found


def _read(path: Path) -> dict[str, object]:
    with suppress(OSError, ValueError):
        return dict(json.loads(path.read_text()))
    return {}


def main() -> None:
    """Run all in turn, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "quickstart.yaml")
    args = parser.parse_args()
    subprocess.run([sys.executable, "run_sim.py", "check", str(args.config)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    bare()  # brings the files into memory
    whole: dict[str, list[float]] = {engine: [] for engine in ENGINES}
    without: dict[str, list[float]] = {engine: [] for engine in ENGINES}
    for turn in range(args.pairs):
        base = bare()
        print(f"turn {turn + 1}: bare import {base:.2f} s", flush=True)
        for engine in ENGINES if turn % 2 == 0 else reversed(ENGINES):
            marks = until_a_step(args.config, engine)
            evaluation = marks["train"] - marks["evaluate"]
            whole[engine].append(marks["step"] / base)
            without[engine].append((marks["step"] - evaluation) / base)
            told = ", ".join(f"{mark} {marks[mark]:.2f}" for mark in MARKS)
            print(
                f"  {engine}: {told} s; a step at {whole[engine][-1]:.2f}, without row 0 {without[engine][-1]:.2f}", flush=True
            )
    for engine, target in ENGINES.items():
        medians = [statistics.median(ratios[engine]) for ratios in (whole, without)]
        print(f"{engine}: first step {medians[0]:.2f} times the bare import, {medians[1]:.2f} without row 0 (target {target})")


if __name__ == "__main__":
    main()
