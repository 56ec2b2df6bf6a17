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
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

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
MATCHING = "matching annotations only"

Classes = tuple[str, ...]


@dataclass(frozen=True)
class Result:
    """What one run (or the runs of all groups, for the matching annotations) is worth."""

    watched: dict[str, float]
    """{class: mean over the watchers of their mean Dice}; empty where a part of the model never leaves its site."""
    own: dict[tuple[str, str], float]
    """{(site, class): mean Dice at the site's own tests}"""
    tuned: float
    """Mean Dice over the sites after each tuned the model to itself; nan if none did."""
    megabytes: float
    """Updates up, weights down, all rounds."""
    seconds: float
    """CPU seconds of the run, its evaluations included, without starting up and preparing cases."""
    steps: dict[str, float]
    """Optimizer steps by site."""

    @property
    def acc(self) -> float:
        """Mean over the sites of the mean over their classes."""
        sites = dict.fromkeys(site for site, _ in self.own)
        return mean(mean(dice for (there, _), dice in self.own.items() if there == site) for site in sites)

    def at_watchers(self, group: Classes) -> float:
        """Mean Dice of a group of classes."""
        return mean(self.watched.get(name, np.nan) for name in group)

    def at_own_tests(self, group: Classes) -> float:
        """The same, at the tests of the sites that annotate it."""
        return mean(dice for (_, name), dice in self.own.items() if name in group)


def mean(values: Iterable[float]) -> float:
    """Mean of what is there."""
    there = list(values)
    return float(np.mean(there)) if there else float("nan")


# Running --------------------------------------------------------------------------------------------------------------


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


# Tables ---------------------------------------------------------------------------------------------------------------

Found = dict[str, list[Result]]
Number = Callable[[Result], float]


def results_table(found: Found, refused: dict[str, str], setting: Setting) -> str:
    """Dice by class group, and what it cost."""
    groups = [", ".join(group) for group in setting.groups]
    lines = [f"| preset | {' | '.join(groups)} | acc | acc, tuned | MB | CPU s |", "|---" * (len(groups) + 5) + "|"]
    for name, results in found.items():
        cells = [spread([run.at_watchers(group) for run in results]) for group in setting.groups]
        cells += [spread([run.acc for run in results]), spread([run.tuned for run in results])]
        cells += [f"{mean(run.megabytes for run in results):.0f}", f"{mean(run.seconds for run in results):.0f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [f"| {name} | {reason} {'|' * (len(groups) + 4)}" for name, reason in refused.items()]
    return "\n".join(lines)


def differences_table(found: Found, setting: Setting) -> str:
    """Dice minus that of the matching annotations, paired by seed."""
    names = [", ".join(group) for group in setting.groups]
    lines = [f"| preset | {' | '.join(names)} | {' | '.join(f'own: {name}' for name in names)} |"]
    lines.append("|---" * (2 * len(names) + 1) + "|")
    for name, results in found.items():
        if name != MATCHING:
            pairs = list(zip(results, found[MATCHING], strict=True))
            cells = [paired(pairs, lambda run, group=group: run.at_watchers(group)) for group in setting.groups]  # type: ignore[misc]
            cells += [paired(pairs, lambda run, group=group: run.at_own_tests(group)) for group in setting.groups]  # type: ignore[misc]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def paired(pairs: Sequence[tuple[Result, Result]], number: Number) -> str:
    """Mean and standard deviation of the differences."""
    return spread([number(run) - number(base) for run, base in pairs], "+.3f")


def spread(values: Sequence[float], form: str = ".3f") -> str:
    """Mean and standard deviation over seeds; a dash where there is nothing."""
    if np.isnan(values).all():
        return "-"
    return f"{np.mean(values):{form}} ± {np.std(values, ddof=1) if len(values) > 1 else 0:.3f}"


def steps_line(found: Found) -> str:
    """How many steps each site made, and which runs made others."""
    presets = {name: results for name, results in found.items() if name != MATCHING}
    expected, alone = next(iter(presets.values()))[0].steps, found[MATCHING][0].steps
    odd = sorted({name for name, results in presets.items() for run in results if run.steps != expected})
    each = sorted(set(expected.values()))
    same = f"Steps per site and model: {' or '.join(f'{steps:.0f}' for steps in each)}, the same in every run"
    more = f"{MATCHING}: {len(found[MATCHING][0].watched)} classes' models in groups, {sum(alone.values()):.0f} steps in all"
    return f"{same}{f' but those of {odd}' if odd else ''}: {sum(expected.values()):.0f} in all ({more})."


def text_of(name: str, found: Found, refused: dict[str, str], seeds: Sequence[int], on: str) -> str:
    """Everything about one setting."""
    setting = SETTINGS[name]
    return "\n\n".join(
        [
            f"`{name}`: {setting.about}; {len(seeds)} seeds, {on} cases. Dice by class at the watchers (-: a part of the model "
            "never leaves its site, and watchers have none of their own), `acc` at the sites' own tests, MB up and down, CPU "
            f"seconds of a run without its start. {steps_line(found)}",
            results_table(found, refused, setting),
            "Dice minus that of the matching annotations alone, paired by seed: at the watchers, then at the own tests of the "
            "sites that annotate the class:",
            differences_table(found, setting),
        ]
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
