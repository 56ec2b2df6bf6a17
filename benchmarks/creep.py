"""Does memory creep? Many short rounds over Ray; the memory of the driver and of the actors, round by round.

    python benchmarks/creep.py [--rounds 100] [--sites 4] [--actors 2]

Smoke's first site, again and again under other names, all present in every round, with `gpus: auto`; a round is a step or two.
Prints, at rounds 10, 50 and 100, what the driver and all actors together hold in main memory (MiB): the proportional set size,
in which a page shared by n processes, other people's too, counts 1/n, and what is their own (anonymous pages); what torch has
reserved on the GPU at most (MiB; 0 without one); and the slopes, by least squares, from round 10 and from round 50 on. An actor
that was replaced on the way would hide a creep, so the number of processes is printed too.
"""

import argparse
import gc
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
MIB = 2**20
SETTLED = 10
"""Rounds before what is held is compared: caches fill, allocators find their size."""


def held(pid: int) -> tuple[int, int]:
    """Bytes of a process in main memory: its share of all that it maps, and what is its own; 0: it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0, 0
    found = {line.split()[0]: int(line.split()[1]) * 1024 for line in lines[1:]}
    return found["Pss:"], found["Anonymous:"]


class Watch:
    """Looks at the processes each time that a round is done."""

    def __init__(self, sites: int) -> None:
        self.sites, self.trained = sites, Counter[str]()
        self.rows: list[tuple[int, ...]] = []
        """(round, driver, its own, actors, their own, GPU), bytes."""
        self.pids: set[int] = set()
        self.gpu = 0

    def see(self, pool: Any, outcomes: list[Any]) -> None:
        """The outcomes of one look at the pool."""
        for outcome in outcomes:
            self.gpu = max(self.gpu, outcome.peak.gpu) if outcome.peak else self.gpu
            self.trained[outcome.job.task] += not outcome.again
        round = self.trained["train"] // self.sites
        if self.trained["train"] and round > len(self.rows):
            gc.collect()  # what only waits for the collector is no creep
            pids = [actor.pid for actor in pool.actors if actor.pid]
            self.pids |= {*pids}
            actors = [sum(part) for part in zip(*map(held, pids), strict=True)]
            self.rows.append((round, *held(os.getpid()), *actors, self.gpu))
            self.gpu = 0


def watched(rounds: int, sites: int, actors: int) -> Watch:
    """A run of so many rounds, looked at."""
    from configs.load import load_run
    from run_sim import main
    from simulations.ray_pool import Pool

    smoke = load_run(ROOT / "configs" / "smoke.yaml").model_dump(mode="json", exclude_unset=True)
    first = smoke["sites"]["first"]
    names = [f"site{number}" for number in range(sites)]
    recipe = smoke | {
        "name": "creep",
        "sites": dict.fromkeys(names, first),
        "train": {"patch": [16, 16, 16], "batch": 1, "sampling_rate": 1, "replay_steps": 1},
        "arrivals": {"visits": {name: [[1, None]] for name in names}, "rounds": rounds},
        "evaluate": {"surface": False, "slices": 0},
        "engine": {"actors": actors, "gpus": "auto"},
    }
    watch, advance = Watch(sites), Pool.advance

    def seen(self: Pool, timeout_s: float) -> list[Any]:
        outcomes = advance(self, timeout_s)
        watch.see(self, outcomes)
        return outcomes

    from configs.plain import dump

    Pool.advance = seen  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory(prefix="sitestream-creep-") as place:
        (config := Path(place) / "creep.yaml").write_text(dump(recipe))
        code = main(["run", str(config), "--engine", "ray", "--out", f"{place}/out"])
    Pool.advance = advance  # type: ignore[method-assign]
    if code:
        raise SystemExit(code)
    return watch


def report() -> None:
    """Run, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--sites", type=int, default=4)
    parser.add_argument("--actors", type=int, default=2)
    told = parser.parse_args()
    watch = watched(told.rounds, told.sites, told.actors)
    rows = np.array(watch.rows, float)
    print(f"{told.sites} sites on {told.actors} actors (processes seen: {len(watch.pids)}), {len(rows)} rounds")
    print(f"{'round':>6} {'driver':>10} {'its own':>10} {'actors':>10} {'their own':>10} {'GPU':>8}   MiB")
    for round in sorted({SETTLED, told.rounds // 2, told.rounds}):
        at = rows[min(round, len(rows)) - 1]
        print(f"{int(at[0]):6d} " + " ".join(f"{value / MIB:10.1f}" for value in at[1:5]) + f" {at[5] / MIB:8.1f}")
    for since in (SETTLED, told.rounds // 2):
        late = rows[since - 1 :]
        slopes = [np.polyfit(late[:, 0], late[:, column], 1)[0] / 1024 for column in range(1, 6)]
        print(
            f"{'slope':>6} "
            + " ".join(f"{value:10.1f}" for value in slopes[:4])
            + f" {slopes[4]:8.1f}   KiB/round from {since}"
        )


if __name__ == "__main__":
    report()
