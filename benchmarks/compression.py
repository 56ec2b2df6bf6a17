"""What do smaller updates cost? float16, and 8-bit changes with error feedback, against float32.

    python benchmarks/compression.py --write                   both data sets, all variants, seeds 100-102
    python benchmarks/compression.py --data phantoms --variants int8 --seeds 0

The quickstart's phantoms and the five hippocampus sites, both cut down to about a minute a run. A variant differs from
float32 in the section `wire` alone, so a seed's runs see the same cases in the same order. Prints final Dice (acc) by seed,
the difference to float32 by seed and its mean, and by how much the updates are smaller on the wire (bytes_up of the record's
training rounds). Runs are found again in runs/compression by a hash of their config; after a change of code, remove that
folder.
"""

import argparse
import hashlib
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from pages import put

from configs.load import dump_run, load_run

RUNS = ROOT / "runs" / "compression"
FINDINGS = ROOT / "docs" / "findings.md"
MARK = "<!-- compression -->"
VARIANTS: dict[str, dict[str, Any]] = {
    "float32": {},
    "float16": {"dtype": "float16"},
    "float16, delta": {"dtype": "float16", "delta": True},
    "int8": {"delta": True, "int8": True},
}
SHORT = ("evaluate.surface=false", "evaluate.slices=0")
SITES = ("north", "east", "south", "west")
SMALL = tuple(f"sites.{s}.phantoms.{size}" for s in SITES for size in ("shape=[48, 42, 36]", "spacing=[4, 4, 5.3]"))
DATA: dict[str, tuple[str, tuple[str, ...]]] = {
    "phantoms": ("quickstart.yaml", (*SMALL, "train.patch=[36, 32, 28]", "train.sampling_rate=8", "train.replay_steps=20")),
    "hippocampus": ("hippocampus.yaml", ("train.sampling_rate=4", "train.replay_steps=8", "stream.cases_per_round=8")),
}
"""Data set -> the config that it is cut down from, and how."""


@dataclass(frozen=True)
class Result:
    """What a run says for the table."""

    acc: float
    bytes_up: int
    """Of all its updates."""


def one_run(data: str, variant: str, seed: int, *more: str) -> Result:
    """One run's result, from its folder if it is there."""
    file, cuts = DATA[data]
    wire = [f"wire.{key}={json.dumps(value)}" for key, value in VARIANTS[variant].items()]
    edits = (*SHORT, *cuts, "name=compression", f"seed={seed}", *wire, *more)
    text = dump_run(load_run(ROOT / "configs" / file, edits))
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    folder = RUNS / digest
    if not (folder / "summary.json").exists():
        RUNS.mkdir(parents=True, exist_ok=True)
        (RUNS / f"{digest}.yaml").write_text(text)
        asked = ["resume", str(folder)] if (folder / "config.yaml").exists() else ["run", str(RUNS / f"{digest}.yaml")]
        options = ["--engine", "local", *(["--out", str(folder)] if asked[0] == "run" else [])]
        done = subprocess.run([sys.executable, "run_sim.py", *asked, *options], cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{data}, {variant}, seed {seed}: {done.stderr.strip()}")
    rows = [json.loads(line) for line in (folder / "record.jsonl").read_text().splitlines()]
    if failed := [row for row in rows if row["event"] == "failure"]:
        raise SystemExit(f"{data}, {variant}, seed {seed}: {failed[0]['site']}: {failed[0]['reason']}")
    acc = json.loads((folder / "summary.json").read_text())["acc"]
    return Result(acc, sum(row["bytes_up"] for row in rows if row["event"] == "train"))


def table(found: dict[str, list[Result]]) -> str:
    """One data set's results as Markdown."""
    lines = ["| wire | acc by seed | minus float32, by seed | mean | MB up | updates smaller by |", "|---|---|---|---|---|---|"]
    exact = found["float32"]
    for variant, runs in found.items():
        accs = ", ".join(f"{run.acc:.3f}" for run in runs)
        minus = [run.acc - base.acc for run, base in zip(runs, exact, strict=True)]
        up = [float(np.mean([run.bytes_up for run in which])) for which in (runs, exact)]
        paired = (
            (", ".join(f"{value:+.3f}" for value in minus), f"{np.mean(minus):+.4f}") if variant != "float32" else ("-", "-")
        )
        lines.append(f"| {variant} | {accs} | {' | '.join(paired)} | {up[0] / 1e6:.1f} | {up[1] / up[0]:.2f} x |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=list(DATA), choices=list(DATA))
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 101, 102])
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="lay this over every run's config")
    parser.add_argument("--workers", type=int, default=1, help="runs side by side, one thread each")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/findings.md")
    args = parser.parse_args()
    variants = list(dict.fromkeys(["float32", *args.variants]))
    jobs = [(data, variant, seed, *args.set) for data in args.data for seed in args.seeds for variant in variants]
    with ThreadPoolExecutor(args.workers) as pool:
        done = dict(zip(jobs, pool.map(lambda job: one_run(*job), jobs), strict=True))
    texts = []
    for data in args.data:
        found = {variant: [done[data, variant, seed, *args.set] for seed in args.seeds] for variant in variants}
        texts.append(f"{data}, seeds {', '.join(map(str, args.seeds))}:\n\n{table(found)}")
        print(f"\n{texts[-1]}", flush=True)
    if args.write:
        put(FINDINGS, MARK, "\n\n".join(texts))


if __name__ == "__main__":
    main()
