"""What choosing costs: one `keep` of every memory policy, against the training that comes with it.

    python benchmarks/policy_cost.py [--budgets 128 1024 4096] [--repeats 5] [--threads 1]

The pool is the budget and two newly arrived cases (B = 2), with features and sketches of 64 numbers; the training is
S = 20 steps of the quickstart's model on random patches. Prints milliseconds and percent, each the median of the
repeats, and whether all policies cost under 1 % at a budget of 1024.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
SIZE, BATCH, STEPS = 64, 2, 20
TARGET_BUDGET, TARGET_PERCENT = 1024, 1.0


def make_pool(budget: int) -> list[Any]:
    """`budget` visited samples and two new ones, every statistic given."""
    import numpy as np

    from memory.sample import Sample

    rng = np.random.default_rng(budget)
    vectors = rng.normal(size=(budget + BATCH, SIZE)) + 2 * rng.normal(size=(8, SIZE))[rng.integers(8, size=budget + BATCH)]
    unit_NE = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    pool = []
    for i, vector in enumerate(unit_NE):
        old = i < budget
        classes = frozenset(f"class{c}" for c in np.flatnonzero(rng.random(6) < 0.4))
        told: dict[str, Any] = {"uniqueness": rng.random(), "orphan": rng.random() < 0.05, "classes": classes}
        if old:
            told |= {"visits": 9, "feature": vector.astype(np.float32), "loss": rng.random(), "uncertainty": rng.random()}
            told["scores"] = {"bregman": rng.random(), "leverage": rng.random()}
        sketch = np.rint(127 * vector).astype(np.int8)
        pool.append(Sample(case=f"{i}", arrived=i, key=rng.random(), sketch=sketch, domain=f"{i % 3}", **told))
    return pool


def training() -> Callable[[], object]:
    """The quickstart's `STEPS` training steps."""
    import torch

    from clients import model
    from clients.train import Trainer
    from configs.load import load_run

    run = load_run(ROOT / "configs" / "quickstart.yaml")
    classes = [f"class{c}" for c in range(4)]
    network = model.build(run.model.network, run.model.args, classes, run.seed)
    trainer = Trainer(network, range(4), run.train)
    image_BCXYZ = torch.rand(BATCH, 1, *run.train.patch)
    target_BTXYZ = (torch.rand(BATCH, 4, *run.train.patch) < 0.1).float()
    weight_BT = torch.ones(BATCH, 4)
    return lambda: [trainer.step(image_BCXYZ, target_BTXYZ, weight_BT) for _ in range(STEPS)]


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Median of the repeats, after one that warms up."""
    work()
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def costs(budgets: list[int], repeats: int) -> dict[str, dict[int, float]]:
    """{policy: {budget: seconds}}; the wrappers around one policy stand beside the policies."""
    import numpy as np

    from memory import POLICIES, make_policy

    policies = {name: make_policy(name, {}) for name in POLICIES}
    policies["selective by class"] = make_policy("selective", {}, group_by="class")
    found: dict[str, dict[int, float]] = {name: {} for name in policies}
    for budget in budgets:
        pool = make_pool(budget)
        for name, policy in policies.items():
            found[name][budget] = seconds(partial(policy.keep, pool, budget, np.random.default_rng(0)), repeats)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budgets", type=int, nargs="+", default=[128, 1024, 4096])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of numpy and torch")
    args = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(args.threads)  # read when numpy is first imported, which is why that happens late here
    import torch

    torch.set_num_threads(args.threads)
    steps = seconds(training(), args.repeats)
    print(f"{STEPS} training steps: {steps:.2f} s\n")
    print("| policy | " + " | ".join(f"{budget}: ms (%)" for budget in args.budgets) + " |")
    print("|---" * (len(args.budgets) + 1) + "|")
    found = costs(args.budgets, args.repeats)
    for name, taken in found.items():
        cells = [f"{1e3 * taken[budget]:.1f} ({100 * taken[budget] / steps:.2f})" for budget in args.budgets]
        print(f"| {name} | " + " | ".join(cells) + " |")
    if TARGET_BUDGET in args.budgets:
        worst = max(found, key=lambda name: found[name][TARGET_BUDGET])
        percent = 100 * found[worst][TARGET_BUDGET] / steps
        said = "met" if percent < TARGET_PERCENT else "missed"
        print(f"\nat {TARGET_BUDGET} the dearest is {worst}: {percent:.2f} % (target under {TARGET_PERCENT:g} %: {said})")


if __name__ == "__main__":
    main()
