"""Sites that leave for good, their data gone: what keeps what they taught, and how far that is from having everything.

    python benchmarks/leave.py                                  develop: seeds 0-1, validation subjects
    python benchmarks/leave.py --final --write                  report: seeds 100-104, test subjects
    python benchmarks/leave.py --variants anchored anchored+gin --orders inverted-last

Five hippocampus sites, each with its own acquisition shift, arrive one after another; each sees its cases once and leaves
when the next one comes (4 steps per 2 cases). In one order inverted contrast comes second, in the other last.
`joint.pooled` is one client that holds everything and draws from it at random, for as many steps as all sites together.
Prints the mean final Dice over the five sites' test subjects (acc), forgetting, and each variant's paired difference to
`plain` with its bootstrap 95 % interval (orders are drawn, and seeds) and Wilcoxon's p, Holm-corrected.
Runs are found again in runs/leave by a hash of their config; after a change of code, remove that folder.
"""

import argparse
import hashlib
import json
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from math import isnan
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from pages import put

from simulations.studies.statistics import Difference, Outcome, Summary, differences, summaries

RUNS = ROOT / "runs" / "leave"
FINDINGS = ROOT / "docs" / "findings.md"
MARK = "<!-- leave -->"
DATA = ROOT.parent / "shared" / "data" / "Task04_Hippocampus"
SHIFTS = {"plain": "none", "inverted": "invert", "noise": "noise_gamma", "lowres": "lowres", "bias": "bias"}
NATURAL = {"plain": 0, "inverted": 1, "noise": 2, "lowres": 3, "bias": 4}
"""Which of the data's derived sites stands for which hospital."""
ORDERS = {"inverted-second": list(SHIFTS), "inverted-last": ["plain", "noise", "lowres", "bias", "inverted"]}
POOLED = "joint.pooled"
DRAWS_PER_CASE = 4

ANCHORED, DISTILL, EWC = (
    {"strategy": {"merge": "anchored"}},
    {"strategy": {"objective": "distill"}},
    {"strategy": {"objective": "ewc"}},
)
GIN = {"train": {"augment": {"gin": 1.0, "affine": 0.0, "intensity": 0.0}}}
HALF_GIN = {"train": {"augment": {"gin": 0.5, "affine": 0.0, "intensity": 0.0}}}
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "plain": [],
    "anchored": [ANCHORED],
    "anchored-half": [{"strategy": {"merge": "anchored", "merge_args": {"share": 0.5}}}],
    "anchored-body": [{"strategy": {"merge": "anchored", "merge_args": {"only": "body"}}}],
    "ewc": [EWC],
    "distill": [DISTILL],
    "not-norm": [{"strategy": {"share": "not-norm"}}],
    "gin": [GIN],
    "gin-half": [HALF_GIN],
    "gin+anchored": [GIN, ANCHORED],
    "gin+distill": [GIN, DISTILL],
    "gin-half+distill": [HALF_GIN, DISTILL],
    "gin-half+distill+anchored": [HALF_GIN, DISTILL, ANCHORED],
    "gin-half+ewc": [HALF_GIN, EWC],
    "gin-half+not-norm": [HALF_GIN, {"strategy": {"share": "not-norm"}}],
    POOLED: [],
    f"{POOLED}+gin-half": [HALF_GIN],
}
"""Each is laid over the recipe, part by part."""


def recipe(variant: str, order: str, seed: int, evaluated: str) -> dict[str, Any]:
    """One run's config."""
    run: dict[str, Any] = {
        "name": "leave",
        "seed": seed,
        "data": {
            "root": str(DATA),
            "split": {"subject": "(id + 1) // 2", "test": {"file": "partitions.json", "key": "test"}, "validation": 0.15},
        },
        "sites": {s: {"cases": {"key": "natural", "value": NATURAL[s]}, "shift": SHIFTS[s]} for s in ORDERS[order]},
        "preprocess": {"intensity": "zscore", "crop": False, "spacing": [1.5, 1.5, 1.5]},
        "model": {"network": "UNet", "args": {"channels": [8, 16, 32, 64], "strides": [1, 2, 2], "num_res_units": 0}},
        "train": {"patch": [28, 40, 28], "batch": 2, "sampling_rate": DRAWS_PER_CASE, "lr": 0.005},
        "memory": {"policy": "reservoir", "budget": 8},
        "arrivals": {"rounds_per_stage": 1, "stay": False},
        "evaluate": {"on": evaluated, "surface": False, "slices": 0, "overlap": 0.25},
    }
    run["train"]["augment"] = {"affine": 0.0, "intensity": 0.0}
    if variant.startswith(POOLED):
        run |= {
            "paradigm": "stream",
            "arrivals": {"rounds": len(SHIFTS) + 1},
            "memory": {"policy": "reservoir", "budget": 1000},
        }
        run["train"] |= {"sampling_rate": 0, "replay_steps": steps(seed)}
    for change in VARIANTS[variant]:
        run = laid_over(run, change)
    return run


def laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """A recipe with changes."""
    mixed = dict(below)
    for key, value in above.items():
        mixed[key] = laid_over(below.get(key, {}), value) if isinstance(value, dict) else value
    return mixed


def steps(seed: int) -> int:
    """Optimizer steps of all sites together, so that the pooled client makes as many."""
    from configs.load import build_run
    from simulations.plan import make_plan, prepare_all
    from simulations.pretend import materialise

    run = materialise(build_run(recipe("plain", "inverted-second", seed, "validation")))
    return sum(site.steps for site in make_plan(run, prepare_all(run)).sites)


def one_run(variant: str, order: str, seed: int, evaluated: str) -> dict[str, float]:
    """The results of one run, from its folder if it is there."""
    config = recipe(variant, order, seed, evaluated)
    digest = hashlib.sha256(json.dumps(config, sort_keys=False).encode()).hexdigest()[:12]
    folder = RUNS / digest
    if not (folder / "summary.json").exists():
        conducted(config, folder)
    rows = [json.loads(line) for line in (folder / "record.jsonl").read_text().splitlines()]
    summary = json.loads((folder / "summary.json").read_text())
    made = float(sum(row["steps"] for row in rows if row["event"] == "train"))
    print(f"{variant:24} {order} seed {seed}: acc {summary['acc']:.3f}, {made:.0f} steps", file=sys.stderr, flush=True)
    numbers = {key: value for key, value in summary.items() if isinstance(value, float)}
    return {"bwt.gem": float("nan"), **numbers, "steps": made}


def conducted(config: dict[str, Any], folder: Path) -> None:
    """Run, or go on with, what the folder holds: as `run_sim.py run --engine local` does, without its report."""
    from configs.load import build_run
    from simulations.engines import simulate
    from simulations.pretend import materialise

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    simulate(materialise(build_run(config | {"engine": {"name": "local"}})), folder)


def table(outcomes: list[Outcome], orders: list[str]) -> str:
    """All runs as Markdown."""
    lines = [
        "| variant | "
        + " | ".join(f"acc, {order}" for order in orders)
        + " | acc | bwt.gem | steps | acc minus plain (95 %) | Wilcoxon's p, Holm |"
    ]
    lines.append("|---" * (len(orders) + 6) + "|")
    against_plain = differences(outcomes, "acc", "plain")
    acc, bwt, steps = (summaries(outcomes, metric) for metric in ("acc", "bwt.gem", "steps"))
    by_order = [summaries([run for run in outcomes if run.order == order], "acc") for order in orders]
    for variant in dict.fromkeys(outcome.variant for outcome in outcomes):
        cells = [
            *(spread(found[variant]) for found in (*by_order, acc)),
            "-" if variant.startswith(POOLED) else spread(bwt[variant]),
            f"{steps[variant].mean:.0f}",
            *(compared(against_plain[variant]) if variant != "plain" else ("-", "-")),
        ]
        lines.append(f"| {variant} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def spread(found: Summary) -> str:
    """Mean and standard deviation."""
    return f"{found.mean:.3f}" if found.n < 2 else f"{found.mean:.3f} ± {found.deviation:.3f}"


def compared(found: Difference) -> tuple[str, str]:
    """The paired difference with its interval, and p; with few seeds the smallest p that they could give."""
    between = "" if isnan(found.low) else f" ({found.low:+.3f} to {found.high:+.3f})"
    return f"{found.mean:+.3f}{between}", f"at least {found.least_p:.3g}" if isnan(found.wilcoxon) else f"{found.wilcoxon:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--final", action="store_true", help="seeds 100-104 and the test subjects")
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), metavar="VARIANT", help=", ".join(VARIANTS))
    parser.add_argument("--orders", nargs="+", default=list(ORDERS), choices=list(ORDERS))
    parser.add_argument("--workers", type=int, default=2, help="runs at a time, of one thread each")
    parser.add_argument("--write", action="store_true", help="put the table into docs/findings.md")
    args = parser.parse_args()
    if unknown := [name for name in args.variants if name not in VARIANTS]:
        parser.error(f"there is no variant {unknown[0]!r}; there are {', '.join(VARIANTS)}")
    seeds = args.seeds or (range(100, 105) if args.final else range(2))
    evaluated = "test" if args.final else "validation"
    variants = list(dict.fromkeys(["plain", *args.variants]))
    jobs = [(v, order, seed, evaluated) for seed in seeds for order in args.orders for v in variants]
    with ProcessPoolExecutor(args.workers, multiprocessing.get_context("spawn")) as pool:
        done = dict(zip(jobs, pool.map(one_run, *zip(*jobs, strict=True)), strict=True))
    outcomes = [Outcome(v, seed, order, numbers) for (v, order, seed, _), numbers in done.items()]
    text = f"{len(list(seeds))} seeds x {len(args.orders)} orders, {evaluated} subjects\n\n{table(outcomes, args.orders)}"
    print(f"\n{text}")
    if args.write:
        put(FINDINGS, MARK, text)


if __name__ == "__main__":
    main()
