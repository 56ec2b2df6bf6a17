"""Does the global uniqueness index pay? Local selective memory against selective-global at the same total budget.

    python benchmarks/global_index.py                          develop: seeds 0-4, validation subjects
    python benchmarks/global_index.py --final --write          report: seeds 100-109, test subjects
    python benchmarks/global_index.py --variants local all no-quotas --schedules stay

Five hippocampus sites, each with its own acquisition shift, a third of each site's training subjects scanned again at the
next (benchmarks/overlap.py). Schedules: sites `stay` and replay, or `leave` after their stage and the next. All variants
hold the same number of samples in all and make the same number of steps. Prints mean final Dice (acc), forgetting,
effective samples (summed uniqueness), duplicates (by the index) and twins (by name: the same subject at two sites) held at
the end, and each variant's paired difference to `local` with its bootstrap 95 % interval. Runs are found again in
runs/global_index by a hash of their config.
"""

import argparse
import hashlib
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import yaml

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from pages import put

from simulations.studies.statistics import Difference, Outcome, Summary, differences, summaries

RUNS = ROOT / "runs" / "global_index"
FINDINGS = ROOT / "docs" / "findings.md"
MARK = "<!-- global_index -->"
OFF: dict[str, Any] = {"on": True, "evict": False, "admit": 0, "orphans": False, "quotas": False, "replay": False}
"""The index only watches."""
GLOBAL = {"memory": {"policy": "selective-global"}}
USES: dict[str, Any] = {"evict": True, "admit": 32, "orphans": True, "quotas": True, "replay": True}
ALL = {**GLOBAL, "index": {"on": True}}


def without(use: str) -> dict[str, Any]:
    """All uses of the index but one."""
    return {**GLOBAL, "index": {"on": True, use: OFF[use]}}


def only(use: str) -> dict[str, Any]:
    """Local selective memory, and one use of the index beside it."""
    policy = "selective-global" if use in ("evict", "admit", "orphans") else "selective"
    return {"memory": {"policy": policy}, "index": {**OFF, use: USES[use]}}


VARIANTS: dict[str, dict[str, Any]] = {
    "local": {"memory": {"policy": "selective"}, "index": OFF},
    "all": ALL,
    **{f"no-{use}": without(use) for use in OFF if use != "on"},
    **{f"only-{use}": only(use) for use in OFF if use != "on"},
    "sketches": {**GLOBAL, "index": OFF},
    "all+weigh": {**ALL, "strategy": {"weigh": "uniqueness"}},
    "all+global-encoder": {**ALL, "sketch": {"encoder": "global"}},
    "reservoir": {"memory": {"policy": "reservoir"}, "index": OFF},
}
SCHEDULES: dict[str, dict[str, Any]] = {
    "stay": {"rounds_per_stage": 2, "stay": True},
    "leave": {"rounds_per_stage": 2, "stay": False, "overlap": 2},
}


def recipe(variant: str, schedule: str, seed: int, evaluated: str) -> dict[str, Any]:
    """One run's config."""
    import overlap

    base: dict[str, Any] = {
        "name": "global_index",
        "seed": seed,
        "data": {"root": str(overlap.folder())},
        "sites": overlap.sites(evaluated),
        "preprocess": {"intensity": "zscore", "crop": False, "spacing": [1.5, 1.5, 1.5]},
        "model": {"network": "UNet", "args": {"channels": [8, 16, 32, 64], "strides": [1, 2, 2], "num_res_units": 0}},
        "train": {"patch": [28, 40, 28], "batch": 2, "sampling_rate": 8, "replay_steps": 12, "lr": 0.005},
        "stream": {"cases_per_round": 16},
        "memory": {"total": 20, "budget": 20},
        "strategy": {},
        "arrivals": SCHEDULES[schedule],
        "evaluate": {"surface": False, "slices": 0, "overlap": 0.25},
    }
    base["train"]["augment"] = {"affine": 0.0, "intensity": 0.0}
    changes = VARIANTS[variant]
    return {**base, **{key: {**base.get(key, {}), **value} for key, value in changes.items()}}


def one_run(variant: str, schedule: str, seed: int, evaluated: str) -> dict[str, float]:
    """The results of one run, from its folder if it is there."""
    config = recipe(variant, schedule, seed, evaluated)
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]
    folder = RUNS / digest
    if not (folder / "summary.json").exists():
        RUNS.mkdir(parents=True, exist_ok=True)
        (RUNS / f"{digest}.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        asked = ["resume", str(folder)] if (folder / "config.yaml").exists() else ["run", str(RUNS / f"{digest}.yaml")]
        options = ["--engine", "local", *(["--out", str(folder)] if asked[0] == "run" else [])]
        done = subprocess.run([sys.executable, "run_sim.py", *asked, *options], cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{variant}, {schedule}, seed {seed}: {done.stderr.strip()}")
    return results(folder)


def results(folder: Path) -> dict[str, float]:
    """What a run says for the table."""
    rows = [json.loads(line) for line in (folder / "record.jsonl").read_text().splitlines()]
    last = [row for row in rows if row["event"] == "index"][-1]
    quantiles = [row["quantiles"] for row in rows if row["event"] == "index" and row["quantiles"]]
    return {
        **{key: value for key, value in json.loads((folder / "summary.json").read_text()).items() if isinstance(value, float)},
        "steps": float(sum(row["steps"] for row in rows if row["event"] == "train")),
        "held": float(sum(last["held"].values())),
        "effective": float(sum(last["effective"].values())),
        "duplicates": float(last["duplicates"]),
        "twins": float(twins(folder)),
        "median u": float(np.median([middle for _, middle, _ in quantiles])),
    }


def twins(folder: Path) -> int:
    """Samples held at the end whose subject another site that is still there holds too."""
    import overlap

    from server.digest import read_run
    from simulations.holdings import read_holdings

    there = [holding for holding in read_holdings(read_run(folder)) if holding.absent != "left"]
    held = [overlap.subject(sample.case) for holding in there for sample in holding.samples]
    return len(held) - len(set(held))


COLUMNS = ("acc", "bwt.gem", "effective", "duplicates", "twins", "steps")


def table(outcomes: list[Outcome]) -> str:
    """One schedule's results as Markdown."""
    lines = ["| variant | " + " | ".join(COLUMNS) + " | acc minus local (95 %) | bwt.gem minus local (95 %) |"]
    lines.append("|---" * (len(COLUMNS) + 3) + "|")
    columns = {name: summaries(outcomes, name) for name in COLUMNS}
    against_local = [differences(outcomes, name, "local") for name in ("acc", "bwt.gem")]
    for variant in dict.fromkeys(outcome.variant for outcome in outcomes):
        cells = [
            spread(found[variant], 0 if name == "steps" else 1 if name in ("duplicates", "twins") else 3)
            for name, found in columns.items()
        ]
        paired = ["-" if variant == "local" else compared(found[variant]) for found in against_local]
        lines.append(f"| {variant} | " + " | ".join([*cells, *paired]) + " |")
    return "\n".join(lines)


def spread(found: Summary, digits: int) -> str:
    """Mean and standard deviation over seeds."""
    return f"{found.mean:.{digits}f}" + (f" ± {found.deviation:.{digits}f}" if found.n > 1 else "")


def compared(found: Difference) -> str:
    """The paired difference with its interval."""
    return f"{found.mean:+.3f}" + ("" if isnan(found.low) else f" ({found.low:+.3f} to {found.high:+.3f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--final", action="store_true", help="seeds 100-109 and the test subjects")
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--variants", nargs="+", default=["local", "all"], metavar="VARIANT", help=", ".join(VARIANTS))
    parser.add_argument("--schedules", nargs="+", default=list(SCHEDULES), choices=list(SCHEDULES))
    parser.add_argument("--write", action="store_true", help="put the tables into docs/findings.md")
    args = parser.parse_args()
    if unknown := [name for name in args.variants if name not in VARIANTS]:
        parser.error(f"there is no variant {unknown[0]!r}; there are {', '.join(VARIANTS)}")
    seeds = args.seeds or (range(100, 110) if args.final else range(5))
    evaluated = "test" if args.final else "validation"
    variants = list(dict.fromkeys(["local", *args.variants]))
    jobs = [(v, schedule, seed, evaluated) for schedule in args.schedules for seed in seeds for v in variants]
    with ThreadPoolExecutor(2) as pool:  # two processes of one thread each
        done = dict(zip(jobs, pool.map(lambda job: one_run(*job), jobs), strict=True))
    texts = []
    for schedule in args.schedules:
        outcomes = [Outcome(v, seed, schedule, done[v, schedule, seed, evaluated]) for v in variants for seed in seeds]
        median = np.median([done["local", schedule, seed, evaluated]["median u"] for seed in seeds])
        about = f"{len(list(seeds))} seeds, {evaluated} subjects, schedule `{schedule}`; median u under local: {median:.2f}"
        texts.append(f"{about}\n\n{table(outcomes)}")
        print(f"\n{texts[-1]}", flush=True)
    if args.write:
        put(FINDINGS, MARK, "\n\n".join(texts))


if __name__ == "__main__":
    main()
