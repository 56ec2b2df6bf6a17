"""Which memory forgets least on a stream of sites: stream.yaml under each policy, over seeds.

    python benchmarks/memory_order.py [--seeds 100 101 102] [--policies linear dynamic selective reservoir] [--write]

Prints mean final Dice (`acc`) and `bwt.gem` with their spread, and each policy's difference to linear, paired by seed.
A run is found again in runs/memory_order by a hash of its config, so a killed benchmark goes on where it was; after a
change of code say `--fresh`. `--write` puts the table into docs/findings.md.
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from pages import put

CONFIG = ROOT / "configs" / "stream.yaml"
RUNS = ROOT / "runs" / "memory_order"
FINDINGS = ROOT / "docs" / "findings.md"
MARK = "<!-- memory_order -->"


def one_run(policy: str, seed: int) -> dict[str, float]:
    """The summary of one run, from its folder if it is there."""
    from configs.load import dump_run, load_run

    edits = [f"seed={seed}", f"memory.policy={policy}"]
    config = hashlib.sha256(dump_run(load_run(CONFIG, edits)).encode()).hexdigest()[:8]
    folder = RUNS / f"{policy}-{seed}-{config}"
    if not (folder / "summary.json").exists():
        command = ["resume", str(folder)] if (folder / "config.yaml").exists() else ["run", str(CONFIG)]
        if command[0] == "run":
            command += ["--out", str(folder), *(word for edit in edits for word in ("--set", edit))]
        done = subprocess.run(
            [sys.executable, "run_sim.py", *command, "--engine", "local"], cwd=ROOT, capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(f"{policy}, seed {seed}: {done.stderr.strip()}")
    return dict(json.loads((folder / "summary.json").read_text()))


def table(found: dict[str, list[dict[str, float]]]) -> str:
    """The results as Markdown."""
    lines = ["| policy | acc | bwt.gem | acc minus linear, by seed |", "|---|---|---|---|"]
    base = [summary["acc"] for summary in found.get("linear", [])]
    for policy, summaries in found.items():
        acc, bwt = ([summary[name] for summary in summaries] for name in ("acc", "bwt.gem"))
        paired = [f"{a - b:+.3f}" for a, b in zip(acc, base, strict=False)] if policy != "linear" else []
        lines.append(f"| {policy} | {spread(acc)} | {spread(bwt)} | {', '.join(paired) or '-'} |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """Mean and standard deviation over seeds."""
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1) if len(values) > 1 else 0:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 101, 102])
    parser.add_argument("--policies", nargs="+", default=["linear", "dynamic", "selective", "reservoir"])
    parser.add_argument("--write", action="store_true", help="put the table into docs/findings.md")
    parser.add_argument("--fresh", action="store_true", help="forget earlier runs")
    args = parser.parse_args()
    if args.fresh:
        shutil.rmtree(RUNS, ignore_errors=True)
    jobs = [(policy, seed) for seed in args.seeds for policy in args.policies]
    with ThreadPoolExecutor(2) as pool:  # two processes of one thread each
        summaries = dict(zip(jobs, pool.map(lambda job: one_run(*job), jobs), strict=True))
    found = {policy: [summaries[policy, seed] for seed in args.seeds] for policy in args.policies}
    text = table(found)
    print(text)
    if args.write:
        put(FINDINGS, MARK, text)


if __name__ == "__main__":
    main()
