"""Which strategy for sites that annotate different things? Every preset of configs/strategies.yaml in two federations.

    python benchmarks/strategies.py --write                        all presets, both settings, seeds 100-102, on test cases
    python benchmarks/strategies.py --on validation --seeds 0 --presets fedavg fedadam --settings hippocampus

All sites are there from the first round, and all runs make the same number of optimizer steps per site and model (the
record is checked; where groups of classes train apart, a site of several groups makes them for each group's model); the
steps with which ditto tunes the final model to each site come on top. Settings: benchmarks/federations.py.
Every class is measured at watchers, which know all classes and have the scanners of all sites, and at the own tests of the
sites that annotate it; `acc` is the mean over the sites of their own tests.
"Matching annotations only" is what one does without a strategy for partial labels: for each group of classes that the same
sites annotate, fedavg over those sites alone, trained on nothing but those classes.
Runs are found again in runs/strategies by a hash of their config; after a change of code, remove that folder.
"""

import argparse
import csv
import hashlib
import json
import multiprocessing
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from federation_results import MATCHING, Result, mean, text_of
from federations import SETTINGS, Setting
from pages import put

if TYPE_CHECKING:
    from configs.schema import Run
    from strategies import Strategy

RUNS = ROOT / "runs" / "strategies"
FINDINGS = ROOT / "docs" / "findings.md"
MARK = "<!-- strategies -->"
PRESETS: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "configs" / "strategies.yaml").read_text())
CPU = "cpu_seconds.txt"
"""Beside what a run leaves: what its process used."""


def server_half(choices: Mapping[str, Any]) -> "Strategy":
    """The server's half of a preset or of a run's strategy."""
    from strategies import make_strategy

    merge, weigh, share = (choices[key] for key in ("merge", "weigh", "share"))
    return make_strategy(merge, weigh, share, choices.get("merge_args"), choices["objective"])


def why_not(preset: str, setting: Setting) -> str | None:
    """Why a preset does not fit a setting."""
    strategy, there = server_half(PRESETS[preset]), len(setting.sites)
    if there < strategy.min_present:
        return f"does not fit: it needs {strategy.min_present} sites at once, here are {there}"
    if strategy.half and not strategy.half.together:
        return "does not fit: it protects what earlier stages need, here all sites arrive at once"
    if hasattr(strategy.merge_rule, "end_stage"):
        return "does not fit: it differs from fedavg when a stage ends, here all sites arrive at once"
    return None


def run_of(config: dict[str, Any]) -> Path:
    """The folder of a finished run with this config."""
    from simulations.engines import simulate

    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]
    folder = RUNS / digest
    if not (folder / "summary.json").exists():
        run = prepared(config, folder)
        before = time.process_time()
        simulate(run, folder)
        with (folder / CPU).open("a") as file:  # a run that was killed and went on has several
            file.write(f"{time.process_time() - before:.1f}\n")
    return folder


def prepared(config: dict[str, Any], folder: Path) -> "Run":
    """The run as `run_sim.py run --engine local` would do it, with every case in the cache."""
    from configs.load import build_run
    from simulations.plan import prepare_all
    from simulations.pretend import materialise

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    run = materialise(build_run(config | {"engine": {"name": "local"}}))
    prepare_all(run)
    return run


def result(folder: Path, setting: Setting) -> Result:
    """What a run left behind."""
    rows = [json.loads(line) for line in (folder / "record.jsonl").read_text().splitlines()]
    cases = [row for row in rows if row["event"] == "case" and row["stage"] != "start" and row["dice"] is not None]
    kinds = sorted({(row["site"], row["class"]) for row in cases})
    dice = {kind: mean(row["dice"] for row in cases if (row["site"], row["class"]) == kind) for kind in kinds}
    whole = not server_half(next(row["strategy"] for row in rows if row["event"] == "run")).share.home
    watched: dict[str, list[float]] = {}
    for site, name in dice:
        if whole and site in setting.watchers:
            watched.setdefault(name, []).append(dice[site, name])
    train = [row for row in rows if row["event"] == "train"]
    rounds = [row for row in rows if row["event"] == "round"]
    *_, last = csv.DictReader((folder / "R.csv").read_text().splitlines())
    return Result(
        {name: mean(values) for name, values in watched.items()},
        {kind: value for kind, value in dice.items() if kind[0] in setting.sites},
        mean(float(last[f"{site}.own"]) for site in setting.sites if f"{site}.own" in last),
        sum(row["bytes_up"] + row["bytes_down"] for row in rounds) / 1e6,
        sum(map(float, (folder / CPU).read_text().split())) if (folder / CPU).exists() else float("nan"),
        {site: sum(row["steps"] for row in train if row["site"] == site) for site in {row["site"] for row in train}},
    )


def one_job(name: str, where: str, seed: int, on: str) -> Result:
    """The result of a preset, or of the matching annotations: a run for each group, put together."""
    setting = SETTINGS[where]
    if name != MATCHING:
        return result(run_of(setting.config(PRESETS[name], seed, on)), setting)
    runs = [result(run_of(setting.config(PRESETS["fedavg"], seed, on, group)), setting) for group in setting.groups]
    for earlier, later in pairwise(runs):
        assert all(later.steps[site] == steps for site, steps in earlier.steps.items() if site in later.steps)
    return Result(
        {name: dice for run in runs for name, dice in run.watched.items()},
        {kind: dice for run in runs for kind, dice in run.own.items()},
        float("nan"),
        sum(run.megabytes for run in runs),
        sum(run.seconds for run in runs),
        {site: sum(run.steps.get(site, 0) for run in runs) for site in dict.fromkeys(s for run in runs for s in run.steps)},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=list(PRESETS), metavar="PRESET", help=", ".join(PRESETS))
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 101, 102])
    parser.add_argument("--on", default="test", choices=["test", "validation"], help="the cases that count")
    parser.add_argument("--workers", type=int, default=2, help="runs at a time, of one thread each")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/findings.md")
    args = parser.parse_args()
    if unknown := [name for name in args.presets if name not in PRESETS]:
        parser.error(f"there is no preset {unknown[0]!r}; there are {', '.join(PRESETS)}")
    refused = {s: {p: why for p in args.presets if (why := why_not(p, SETTINGS[s]))} for s in args.settings}
    names = {s: [MATCHING, *(p for p in args.presets if p not in refused[s])] for s in args.settings}
    jobs = [(name, setting, seed) for setting in args.settings for seed in args.seeds for name in names[setting]]
    with ProcessPoolExecutor(args.workers, multiprocessing.get_context("spawn")) as pool:
        results = list(pool.map(one_job, *zip(*((*job, args.on) for job in jobs), strict=True)))
    done = dict(zip(jobs, results, strict=True))
    texts = []
    for setting in args.settings:
        found = {name: [done[name, setting, seed] for seed in args.seeds] for name in names[setting]}
        texts.append(text_of(setting, found, refused[setting], args.seeds, args.on))
        print(f"\n{texts[-1]}", flush=True)
    if args.write:
        put(FINDINGS, MARK, "\n\n".join(texts))


if __name__ == "__main__":
    main()
