"""The same training in SiteStream, in Flower's own simulation and in NVFlare's simulator, beside a bare PyTorch loop.

    python benchmarks/peers.py                                  4, 16 and 64 sites, one pair of runs
    python benchmarks/peers.py --sites 4 16 --pairs 3           medians of three, in alternating order
    python benchmarks/peers.py --peers ray flower --csv t.csv   only these two, and the table as CSV

Peers: ray and local (this project over its two engines), flower (flwr 1.41, run_simulation, the client of its MONAI example)
and nvflare (2.9, FedAvg recipe, client API, SimEnv). Flower and NVFlare get a venv each, made at the first use below --venvs
(1.4 and 1.1 GB, minutes). SiteStream pins the same Flower, so one venv could do for both; two keep what is compared apart.

Columns, each better when smaller:
  wall        seconds from the start of the command to its end, with prepared data in place
  start-up    seconds to the end of the first training step anywhere
  over bare   the time after that, over the bare loop's (one process, one thread, the same steps one after another); .5 is the
              best that two processes can do
  beyond      milliseconds of a worker per site and round that were not the bare loop's:
              (workers x time after the first step - the bare loop's) / (sites x rounds)
  memory      peak of the whole process tree, in PSS (a shared page counts once), sampled every .2 s

Same for all: prepared phantoms (memory-mapped .npy), network, patch, batch, steps per round, AdamW renewed in each round,
rounds, all sites in every round, one thread per process, two processes at once (local and bare: one, they have no second).
Nothing is augmented. That the steps were done is checked: a peer that left some out gets no line.

Not the same: SiteStream also keeps a memory and statistics of every sample, computes the parts of its loss, its entropy and a
feature, exchanges sketches, makes each round durable at the site and at the server (fsync), evaluates one case of one site
before and after (it does not run without any), and writes a report. None of that is switched off, and the peers do none of it,
but NVFlare writes the global model and each site's log. Flower builds model and data set anew in each call, as its example
does; its actors keep their processes. NVFlare with fewer threads than sites starts a process for each task; with a thread per
site it would keep as many processes with torch as there are sites, which 64 sites on an ordinary machine do not survive.
"""

import argparse
import csv
import json
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from math import nan
from pathlib import Path
from typing import Any

ROOT, APPS = Path(__file__).parent.parent, Path(__file__).parent / "peer_apps"
sys.path[:0] = [str(ROOT), str(APPS)]

from costs import NUMBERS, OTHERS, OURS, Cost, behind, cost_of, markdown, median
from venvs import python_of
from watched import Watched, watch

PEERS = (*OURS, *OTHERS)
CLASSES = ("liver", "spleen")
CASES, ROUNDS, STEPS, PROCESSES = 2, 2, 8, 2


# What is run -----------------------------------------------------------------------------------------------------------------


def recipe(count: int) -> dict[str, Any]:
    """Our run: all cases arrive in the first round, later ones replay as many steps; one case of one site is for testing."""
    phantoms = {"cases": CASES, "shape": [48, 40, 32], "spacing": [5, 5, 6], "scanner": "mr"}
    sites: dict[str, Any] = {f"site-{i + 1}": {"phantoms": phantoms, "annotates": CLASSES} for i in range(count)}
    sites["site-1"] = {**sites["site-1"], "phantoms": {**phantoms, "cases": CASES + 1}, "split": {"test": 1 / (CASES + 1)}}
    still = {"flip": [0, 0, 0], "affine": 0, "intensity": 0, "gin": 0}
    train = {"patch": [32, 32, 24], "batch": 2, "sampling_rate": STEPS, "replay_steps": STEPS, "augment": still}
    return {
        "name": "peers",
        "data": {"split": {"test": 0.0}},
        "sites": sites,
        "model": {"args": {"channels": [8, 16, 32, 64], "strides": [1, 2, 2], "num_res_units": 0}},
        "train": {**train, "optimizer": "reset"},
        "memory": {"policy": "selective", "budget": CASES * count},
        "arrivals": {"visits": {site: [[1, None]] for site in sites}, "rounds": ROUNDS},
        "evaluate": {"surface": False, "slices": 0},
        "engine": {"actors": PROCESSES},
    }


def specification(count: int, folder: Path) -> Path:
    """Write our config and what the peers read (peer_apps/task.py) into the folder; data are made and prepared if need be."""
    from clients.data import site_cases
    from clients.prepare import prepare
    from configs.load import cache_root, load_run
    from simulations.pretend import materialise

    (folder / "run.yaml").write_text(json.dumps(recipe(count)))
    run = materialise(load_run(folder / "run.yaml"))
    folders, values = {}, []
    for name, site in run.sites.items():
        cases = site_cases(name, site, run.seed)
        volumes = prepare(cases.train, run.preprocess, cache_root())
        folders[name] = [str(Path(str(getattr(volume.image_XYZ, "filename"))).parent) for volume in volumes]  # noqa: B009
        values = [list(some) for some in cases.labels.values()]
    train, args = run.train, run.model.args
    facts = {key: getattr(train, key) for key in ("patch", "batch", "lr", "weight_decay", "clip", "foreground")}
    facts |= {"channels": args["channels"], "strides": args["strides"], "folders": folders, "values": values}
    facts |= {"rounds": ROUNDS, "steps": STEPS, "processes": PROCESSES}
    path = folder / "spec.json"
    path.write_text(json.dumps(facts | {"timing": str(folder / "timing.txt"), "scratch": str(folder / "scratch")}))
    return path


def command(peer: str, folder: Path, venvs: Path) -> list[str]:
    """What does the work at a peer; `bare` is one too."""
    if peer in OURS:
        return [sys.executable, "run_sim.py", "run", str(folder / "run.yaml"), "--engine", peer, "--out", str(folder / "run")]
    app = {"bare": "task.py", "flower": "flower_app.py", "nvflare": "nvflare_job.py"}[peer]
    python = sys.executable if peer == "bare" else python_of(peer, venvs)
    return [str(python), str(APPS / app)]


def measured(peer: str, count: int, venvs: Path, limit_s: float) -> Watched:
    """One run of a peer.

    Raises:
        ValueError: it failed, took longer than the limit, or did not do all steps; the last line of its output is told.
    """
    with tempfile.TemporaryDirectory(prefix="peers-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        spec = specification(count, folder)
        quiet = {"OMP_NUM_THREADS": "1", "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
        quiet |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "FLWR_HOME": str(folder / "flwr")}
        env = {**os.environ, **quiet, "PEERS_SPEC": str(spec)}
        if peer not in OURS:
            env["PYTHONPATH"] = str(APPS)
        log, sign = folder / "log.txt", partial(first_step, peer, folder)
        cost = watch(command(peer, folder, venvs), log, sign, limit_s, env, folder if peer in OTHERS else ROOT)
        steps = steps_done(peer, folder)
        said = ([line for line in log.read_text(errors="replace").splitlines() if line.strip()] or ["nothing"])[-1]
    wanted = count * ROUNDS * STEPS
    if cost.code is None:
        raise ValueError(f"{peer}, {count} sites: stopped after {limit_s:.0f} s (--limit), {steps} steps done")
    if cost.code or steps != wanted:
        raise ValueError(f"{peer}, {count} sites: exit code {cost.code}, {steps} of {wanted} steps; it said: {said}")
    return cost


def timing_of(text: str) -> tuple[float | None, int]:
    """When (time.time()) the first step was done, none if there was none, and how many steps there were.

    The lines are those of peer_apps/task.py: `step SITE TIME` and `trained SITE STEPS SECONDS`; half a line does not count yet.
    """
    lines = [line.split() for line in text.splitlines(keepends=True) if line.endswith("\n")]
    firsts = [float(fields[2]) for fields in lines if fields[0] == "step"]
    return min(firsts, default=None), sum(int(fields[2]) for fields in lines if fields[0] == "trained")


def first_step(peer: str, folder: Path) -> float | None:
    """When the first step was done: of ours, when the first site said in its progress.json that it trains."""
    if peer not in OURS:
        return timing_of(_text(folder / "timing.txt"))[0]
    for path in (folder / "run" / "sites").glob("*/progress.json"):
        if '"train"' in _text(path):
            return path.stat().st_mtime
    return None


def steps_done(peer: str, folder: Path) -> int:
    """All steps of a run, as it recorded them."""
    if peer not in OURS:
        return timing_of(_text(folder / "timing.txt"))[1]
    rows = map(json.loads, _text(folder / "run" / "record.jsonl").splitlines())
    return sum(int(row["steps"]) for row in rows if row["event"] == "train")


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


# All of it ----------------------------------------------------------------------------------------------------------------


def compare(peers: Sequence[str], sites: int, pairs: int, venvs: Path, limit_s: float) -> list[Cost]:
    """The pairs at one size; the order of the peers turns around from pair to pair, so that a drifting machine favours none."""
    done: dict[str, list[Cost]] = {}
    for pair in range(pairs):
        order, runs = ["bare", *peers], dict[str, Watched]()
        for peer in order if pair % 2 == 0 else reversed(order):
            try:
                runs[peer] = run = measured(peer, sites, venvs, limit_s)
                said = f"{sites} sites, {peer}: wall {run.wall:.1f} s, first step after {run.first:.1f} s, {run.peak_mb:.0f} MB"
                print(said, file=sys.stderr, flush=True)
            except ValueError as error:
                print(f"no number: {error}", file=sys.stderr, flush=True)
        if "bare" not in runs:
            raise ValueError("the bare loop failed: there is nothing to compare with")
        for peer in runs:
            done.setdefault(peer, []).append(cost_of(peer, sites, runs[peer], runs["bare"], ROUNDS, PROCESSES))
    missing = [Cost(peer, sites, *[nan] * len(NUMBERS)) for peer in peers if peer not in done]
    return [median(done[peer]) for peer in ("bare", *peers) if peer in done] + missing


def main(argv: list[str] | None = None) -> None:
    from configs.load import cache_root

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, nargs="+", default=[4, 16, 64], metavar="N", help="numbers of sites (4 16 64)")
    parser.add_argument("--pairs", type=int, default=1, help="runs of each peer at each size; medians are printed (1)")
    parser.add_argument("--peers", nargs="+", default=list(PEERS), metavar="PEER", help=f"of {', '.join(PEERS)} (all)")
    parser.add_argument("--venvs", type=Path, default=cache_root() / "venvs", help="where the peers' venvs are (%(default)s)")
    parser.add_argument("--csv", type=Path, help="write the table here too")
    parser.add_argument("--limit", type=float, default=600.0, metavar="S", help="seconds a single run may take (600)")
    args = parser.parse_args(argv)
    for peer in args.peers:
        if peer not in PEERS:
            parser.error(f"--peers: there is no {peer!r}; valid: {', '.join(PEERS)}")
    if min(args.sites) < 1 or args.pairs < 1:
        parser.error("--sites and --pairs: at least 1")
    try:
        costs = [cost for sites in args.sites for cost in compare(args.peers, sites, args.pairs, args.venvs, args.limit)]
    except ValueError as error:
        parser.error(str(error))
    print(markdown(costs))
    if {*args.peers} & {*OURS} and {*args.peers} & {*OTHERS}:
        print("\n".join(behind(costs)) or "SiteStream is ahead in every cell")
    if args.csv:
        with args.csv.open("w", newline="") as file:
            rows = csv.DictWriter(file, ["peer", "sites", *NUMBERS])
            rows.writeheader()
            rows.writerows(map(asdict, costs))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as Ctrl-C: what is being watched ends with us
    main()
