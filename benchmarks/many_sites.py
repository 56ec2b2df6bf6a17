"""How the cost of a run grows with its sites: 10, 100, 1000 of them, and a model of 5 or 50 MB.

    python benchmarks/many_sites.py [--sites 10 100] [--mb 5] [--engine ray|local] [--rounds 1] [--profile]

Tiny sites over one shared folder of phantoms, so that preparing happens once; `optimizer: reset`, so that a site's state on
the disk is its memory alone. Every site is present in every round and does two steps of one patch. For each number of sites:

- overhead: milliseconds per site-round beyond the steps themselves: of the rounds' wall time (asking, merging, saving), what
  the sites' own account of their rounds (record.jsonl: seconds - saving, over the actors) does not explain;
- of it what a site takes to make its round durable (saving), and what the driver merges;
- driver CPU: milliseconds of processor time of the whole driver per site-round, which a busy machine changes less;
- peaks: MB of the driver, of the largest of the other processes and of all together (PSS, sampled from /proc);
- the driver's memory, and the wall time per site, as a ratio to the smallest number of sites.

Targets: overhead under 50 ms at 5 MB, the driver within 20 % from 10 to 1000 sites, linear total. `--profile`: what the driver
spends its time on (cProfile), at the largest number.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
CHANNELS = {5: [24, 52, 104, 208], 50: [64, 128, 256, 950]}
"""Of a UNet of about so many MB."""
ACTORS = 2
SAMPLE_S = 0.5
TICKS = os.sysconf("SC_CLK_TCK")


def shared_site() -> dict[str, Any]:
    """A site over a folder of phantoms of a few voxels, which all sites may share."""
    from configs.load import load_run
    from simulations.pretend import materialise

    smoke = load_run(ROOT / "configs" / "smoke.yaml")
    whole = materialise(smoke.model_copy(update={"sites": {"first": smoke.sites["first"]}}))
    told: dict[str, Any] = whole.sites["first"].model_dump(mode="json", exclude_unset=True)
    return {key: value for key, value in told.items() if value is not None and key != "includes"}


def recipe(site: dict[str, Any], sites: int, mb: int, rounds: int) -> dict[str, Any]:
    """So many sites, all there in every round."""
    names = [f"s{number:04d}" for number in range(sites)]
    return {
        "name": "many",
        "sites": dict.fromkeys(names, site),
        "model": {"network": "UNet", "args": {"channels": CHANNELS[mb], "strides": [2, 2, 2], "num_res_units": 0}},
        "train": {"patch": [16, 16, 16], "batch": 1, "sampling_rate": 2, "replay_steps": 2, "optimizer": "reset"},
        "stream": {"cases_per_round": 1},
        "memory": {"policy": "reservoir", "budget": 2},
        "arrivals": {"visits": {name: [[1, None]] for name in names}, "rounds": rounds},
        "evaluate": {"surface": False, "slices": 0},
        "keep": 1,
    }


# Watching -------------------------------------------------------------------------------------------------------------


@dataclass
class Watched:
    """What was seen of a run; MB and seconds."""

    wall: float = 0.0
    driver: float = 0.0
    other: float = 0.0
    whole: float = 0.0
    cpu: float = 0.0
    """The driver's processor time."""


def run(config: Path, engine: str, out: Path, profile: bool) -> Watched:
    """The run in a process of its own, sampled until it ends."""
    options = ["--engine", engine, "--out", str(out), *(["--actors", str(ACTORS)] if engine == "ray" else [])]
    tool = ["-m", "cProfile", "-o", str(out.with_suffix(".profile"))] if profile else []
    command = [sys.executable, *tool, "run_sim.py", "run", str(config), *options]
    watched, began = Watched(), time.perf_counter()
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while process.poll() is None:
        held = {pid: pss_mb(pid) for pid in family(process.pid)}
        watched.driver = max(watched.driver, held.pop(process.pid, 0.0))
        watched.other = max(watched.other, *held.values(), 0.0)
        watched.whole = max(watched.whole, watched.driver + sum(held.values()))
        watched.cpu = max(watched.cpu, cpu_seconds(process.pid))
        time.sleep(SAMPLE_S)
    if process.returncode:
        words = process.stderr.read().decode() if process.stderr else ""
        raise SystemExit(f"the run of {config} ended with {process.returncode}: {words[-500:]}")
    watched.wall = time.perf_counter() - began
    return watched


def family(root: int) -> Iterator[int]:
    """A process and all that descend from it (Ray's actors too, where the driver started Ray)."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    for pid in parents:
        above = pid
        while above not in (0, root):
            above = parents.get(above, 0)
        if above == root:
            yield pid


def pss_mb(pid: int) -> float:
    """Main memory of a process, in MB; a page that n share counts 1/n. 0: it is gone."""
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("Pss:")), 0.0)
    return 0.0


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far."""
    with suppress(OSError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS
    return 0.0


# Telling --------------------------------------------------------------------------------------------------------------


def tell(out: Path, sites: int, engine: str, watched: Watched, first: tuple[float, float] | None) -> tuple[float, float]:
    """Print a row; (driver's MB, seconds per site), to which later rows are compared."""
    rows = [row for row in map(json.loads, (out / "record.jsonl").read_text().splitlines()) if row["event"] == "train"]
    seconds = json.loads((out / "summary.json").read_text())["seconds"]
    turns, actors = len(rows), ACTORS if engine == "ray" else 1
    steps = sum(row["seconds"] - row["saving"] for row in rows)
    spent = {name: seconds.get(name, 0.0) for name in ("training", "merging", "saving", "evaluating", "greeting", "total")}
    overhead = (spent["training"] + spent["merging"] + spent["saving"] - steps / actors) / turns
    saving = sum(row["saving"] for row in rows) / turns
    total = spent["total"] / sites
    first = first or (watched.driver, total)
    ms = {"overhead": overhead, "steps": steps / turns, "saving": saving, "merging": spent["merging"] / turns}
    ms["driver CPU"] = watched.cpu / turns
    told = ", ".join(f"{name} {1000 * value:.1f}" for name, value in ms.items())
    print(f"{sites:5d} sites: {told} ms per site-round")
    others = f"largest other {watched.other:.0f}, all {watched.whole:.0f}"
    print(f"    driver {watched.driver:.0f} MB ({watched.driver / first[0]:.2f}), {others}")
    told = ", ".join(f"{name} {value:.1f}" for name, value in spent.items())
    print(f"    {told} s; per site {1000 * total:.0f} ms ({total / first[1]:.2f})", flush=True)
    return first


def main() -> None:
    """Every number of sites with every model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--mb", type=int, nargs="+", default=[5], choices=CHANNELS)
    parser.add_argument("--engine", choices=("ray", "local"), default="ray")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    site = shared_site()
    for mb in args.mb:
        first = None
        print(f"a model of about {mb} MB, {args.rounds} round(s), on {args.engine}")
        for sites in args.sites:
            with tempfile.TemporaryDirectory(prefix="sitestream-many-") as place:
                (config := Path(place) / "many.json").write_text(json.dumps(recipe(site, sites, mb, args.rounds)))
                out, wanted = Path(place) / "run", args.profile and sites == max(args.sites)
                first = tell(out, sites, args.engine, run(config, args.engine, out, wanted), first)
                if wanted:
                    tell_profile(out.with_suffix(".profile"))


def tell_profile(file: Path) -> None:
    """Where the driver's time went."""
    import pstats

    for order in ("cumulative", "tottime"):
        pstats.Stats(str(file)).sort_stats(order).print_stats(45)


if __name__ == "__main__":
    main()
