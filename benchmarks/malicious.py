"""What one malicious site does to a federation, and which merges it does not get past.

    python benchmarks/malicious.py [--seeds 100 101 102] [--workers 2] [--write]

Five hippocampus sites by the natural partition, together from the first round, all annotating both classes. One of them trains
like the others and then sends shared - 10 x (update - shared): the opposite of what it learnt, ten times over. Merges:
average, median, trimmed mean, Krum, and an average that refuses what changes the model by more than 1.5 x the largest norm
in an honest run (`wire.max_update_norm`). Bulyan needs seven sites. Prints the mean Dice over the four honest sites' own test
cases, with everybody honest and under attack. Runs are found again in runs/malicious by a hash of their config.
"""

import argparse
import csv
import hashlib
import json
import logging
import multiprocessing
import sys
from collections.abc import Iterable, Iterator, Sequence, Set
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from federations import hippocampus
from pages import put

from server.sites import Sites
from wire import Failure, Order, Reply, Weights, split_extra

RUNS = ROOT / "runs" / "malicious"
FINDINGS = ROOT / "docs" / "findings.md"
MARK = "<!-- malicious -->"
NAMES = [f"natural-{number}" for number in range(5)]
LIAR = NAMES[2]
HONEST = [name for name in NAMES if name != LIAR]
FACTOR = 10.0
ROOM = 1.5
"""How much longer than the longest honest update one may be."""
LIMITED = "average, max_update_norm"
MERGES = {"average": "average", "median": "median", "trimmed": "trimmed", "krum": "krum", LIMITED: "average"}


@dataclass(frozen=True)
class Lying:
    """Sites of which one turns its updates round."""

    sites: Sites
    liar: str

    def connected(self) -> Set[str]:
        """The same."""
        return self.sites.connected()

    def ask(self, shared: Weights, orders: Iterable[Order]) -> Iterator[Reply | Failure]:
        """The same replies, but for the liar's updates."""
        weights, _ = split_extra(shared)
        for answer in self.sites.ask(shared, orders):
            if isinstance(answer, Reply) and answer.task == "train" and answer.site == self.liar:
                answer = replace(answer, weights=turned_round(answer.weights, weights))
            yield answer


def turned_round(update: Weights, shared: Weights) -> Weights:
    """shared - FACTOR x (update - shared)."""
    return {name: (shared[name] - FACTOR * (new - shared[name])).astype(new.dtype) for name, new in update.items()}


@dataclass(frozen=True)
class Result:
    """What one run is worth."""

    acc: float
    """Mean Dice over the honest sites; nan if the run broke down."""
    norm: float
    """The longest update that took part in a merge."""
    refused: tuple[int, int]
    """Updates of honest sites that did not, and of the liar."""


def config(merge: str, seed: int, norm: float | None) -> dict[str, Any]:
    """One run's config."""
    choices = {"merge": MERGES[merge], "weigh": "equal", "share": "all", "objective": "plain"}
    tree = hippocampus(dict.fromkeys(NAMES, ("Anterior", "Posterior")), watched=False).config(choices, seed, "test")
    return tree | ({"wire": {"max_update_norm": norm}} if merge == LIMITED else {})


def one_run(merge: str, seed: int, attacked: bool, norm: float | None = None) -> Result:
    """The result of one run, from its folder if it is there."""
    tree = config(merge, seed, norm)
    facts = {"config": tree, "liar": LIAR if attacked else None, "factor": FACTOR}
    folder = RUNS / hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
    if not (folder / "done").exists():
        conducted(tree, attacked, folder)
        (folder / "done").touch()
    return result(folder)


def conducted(tree: dict[str, Any], attacked: bool, folder: Path) -> None:
    """Run, or go on with, what the folder holds. A run that breaks down is over too."""
    from configs.load import build_run
    from server.conduct import conduct
    from server.loop import CannotContinue
    from simulations.local import LocalSites
    from simulations.pretend import materialise

    logging.getLogger("flwr").setLevel(logging.WARNING)  # it counts the updates of every merge
    run = materialise(build_run(tree))
    sites = LocalSites(run, {name: folder / "sites" / name for name in run.sites})
    try:
        conduct(Lying(sites, LIAR) if attacked else sites, run, folder)
    except CannotContinue as error:
        print(f"{folder}: {error}", file=sys.stderr)


def result(folder: Path) -> Result:
    """What a run left behind."""
    rows = [json.loads(line) for line in (folder / "record.jsonl").read_text().splitlines()]
    failed = [row["site"] for row in rows if row["event"] == "failure" and row["task"] == "train"]
    *_, last = csv.DictReader((folder / "R.csv").read_text().splitlines())
    finished = last["stage"] != "start" and (folder / "summary.json").exists()
    return Result(
        float(np.mean([float(last[site]) for site in HONEST])) if finished else float("nan"),
        max((row["update_norm"] for row in rows if row["event"] == "train"), default=0.0),
        (sum(site in HONEST for site in failed), sum(site == LIAR for site in failed)),
    )


def table(found: dict[tuple[str, bool], list[Result]]) -> str:
    """The results as Markdown."""
    lines = ["| merge | all honest | under attack | refused under attack: honest, the liar's |", "|---|---|---|---|"]
    for merge in MERGES:
        honest, attacked = found[merge, False], found[merge, True]
        own, liars = (sum(run.refused[i] for run in attacked) for i in range(2))
        lines.append(f"| {merge} | {spread(honest)} | {spread(attacked)} | {own}, {liars} |")
    return "\n".join(lines)


def spread(runs: Sequence[Result]) -> str:
    """Mean and standard deviation over seeds."""
    values = [run.acc for run in runs]
    if np.isnan(values).any():
        return f"{np.isnan(values).sum()} of {len(values)} runs broke down"
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1) if len(values) > 1 else 0:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 101, 102])
    parser.add_argument("--workers", type=int, default=2, help="runs at a time, of one thread each")
    parser.add_argument("--write", action="store_true", help="put the table into docs/findings.md")
    args = parser.parse_args()
    with ProcessPoolExecutor(args.workers, multiprocessing.get_context("spawn")) as pool:
        longest = max(run.norm for run in pool.map(one_run, *zip(*[("average", s, False) for s in args.seeds], strict=True)))
        norm = float(f"{ROOM * longest:.2g}")
        jobs = [(merge, seed, attacked, norm) for merge in MERGES for attacked in (False, True) for seed in args.seeds]
        results = list(pool.map(one_run, *zip(*jobs, strict=True)))
    found: dict[tuple[str, bool], list[Result]] = {}
    for (merge, _, attacked, _), run in zip(jobs, results, strict=True):
        found.setdefault((merge, attacked), []).append(run)
    about = f"{len(args.seeds)} seeds; longest honest update under average {longest:.2g}, `max_update_norm` {norm:g}"
    text = f"{about}; Bulyan is left out: it needs seven sites.\n\n{table(found)}"
    print(text)
    if args.write:
        put(FINDINGS, MARK, text)


if __name__ == "__main__":
    main()
