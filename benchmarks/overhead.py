"""What SiteStream costs over a bare PyTorch loop that does the same steps on the same cached patches.

    python benchmarks/overhead.py [--pairs 3]

Prints, as ratios within one run: the wall time of the simulated rounds (start-up apart) over a bare loop's, for one site;
the throughput of two sites on two Ray actors over two bare loops in two processes; and the driver's peak memory with 4
and with 64 smoke sites.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
SITES = ("one", "two")
ROUNDS = 3
CASES_PER_ROUND = 4


def recipe(sites: tuple[str, ...]) -> dict[str, Any]:
    """A run in which every site is present in every round: `ROUNDS` rounds, evaluated before and after."""
    return {
        "name": "overhead",
        "data": {"split": {"test": 0.25}},
        "sites": {site: {"phantoms": {"cases": 16, "scanner": "mr"}, "annotates": ["liver", "spleen"]} for site in sites},
        "model": {"args": {"channels": [8, 16, 32, 64], "strides": [1, 2, 2], "num_res_units": 0}},
        "train": {"patch": [48, 48, 40], "batch": 2, "sampling_rate": 16},
        "stream": {"cases_per_round": CASES_PER_ROUND},
        "memory": {"policy": "selective", "budget": 6},
        "arrivals": {"visits": {site: [[1, None]] for site in sites}, "rounds": ROUNDS},
        "evaluate": {"surface": False, "slices": 0, "overlap": 0.25},
    }


# The bare loop: what a careful person would write without a framework ------------------------------------------------------


def bare(config: Path, site: str) -> None:
    """Train and evaluate one site's cases: no memory, no statistics, no wire, no snapshots. Prints its seconds."""
    import torch

    from clients import model
    from clients.data import site_cases
    from clients.prepare import prepare
    from configs.load import cache_root, load_run
    from simulations.pretend import materialise

    torch.set_num_threads(1)
    run = materialise(load_run(config))
    cases = site_cases(site, run.sites[site], run.seed)
    volumes = list(prepare(cases.train, run.preprocess, cache_root()))
    tests = list(prepare(cases.test, run.preprocess, cache_root()))
    network = model.build(run.model.network, run.model.args, list(cases.labels), run.seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=run.train.lr, weight_decay=run.train.weight_decay, fused=True)
    began = time.perf_counter()
    bare_evaluation(network, tests, cases.labels, run)
    bare_training(network, optimizer, volumes, list(cases.labels.values()), run.train)
    bare_evaluation(network, tests, cases.labels, run)
    print(time.perf_counter() - began)


def bare_training(network: Any, optimizer: Any, volumes: list[Any], values: list[Any], train: Any) -> None:
    """The steps of a site, on patches of the same size from the same cache."""
    import numpy as np
    import torch

    from clients.augment import augment
    from clients.losses import class_weights, targets, weighted_bce_dice
    from clients.patches import cut_batch

    rng = np.random.default_rng(0)
    weights = [class_weights([volume.voxels(v) for v in values]) for volume in volumes]
    network.train()
    for _ in range(steps_per_site()):
        drawn = rng.choice(len(volumes), train.batch, replace=False)
        image, label = cut_batch([volumes[i] for i in drawn], values, train.patch, train.foreground, rng)
        images, labels = augment(torch.from_numpy(image).float(), torch.from_numpy(label), train.augment, rng)
        weight = torch.from_numpy(np.stack([weights[i] for i in drawn]))
        loss = weighted_bce_dice(network(images)[0], targets(labels, values), weight)[0].mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), train.clip)
        optimizer.step()


def bare_evaluation(network: Any, tests: list[Any], labels: dict[str, Any], run: Any) -> None:
    """Dice of every test case, by the same sliding window."""
    from clients import evaluate

    network.eval()
    for volume in tests:
        prediction = evaluate.predict(network, volume, range(len(labels)), run.train.patch, run.evaluate)
        list(evaluate.scores(prediction, evaluate.truth_of(volume, labels), list(labels), None))


def steps_per_site() -> int:
    """What a site does in the run: S steps per B cases."""
    return ROUNDS * CASES_PER_ROUND // 2 * 16


# Running both ----------------------------------------------------------------------------------------------------------------


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"}


def bare_seconds(config: Path, sites: tuple[str, ...]) -> float:
    """Wall seconds of bare loops, one process per site, side by side; of several the slowest."""
    command = [sys.executable, __file__, "--bare", str(config), "--site"]
    running = [
        subprocess.Popen([*command, site], cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True) for site in sites
    ]
    return max(float(process.communicate()[0]) for process in running)


def simulated(config: Path, *options: str) -> dict[str, Any]:
    """The summary of a run on Ray, and its whole wall time as a user sees it."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        command = [sys.executable, "run_sim.py", "run", str(config), "--engine", "ray", "--out", f"{folder}/run", *options]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        summary: dict[str, Any] = json.loads(Path(folder, "run", "summary.json").read_text())
        summary["wall"] = time.perf_counter() - began
        return summary


def compare(folder: Path, sites: tuple[str, ...], pairs: int) -> None:
    """Bare and simulated in turn; the ratio of each pair and their median."""
    config = folder / f"{len(sites)}.yaml"
    config.write_text(json.dumps(recipe(sites)))
    simulated(config, "--actors", str(len(sites)))  # fills the cache, warms the disk
    ratios = []
    for pair in range(pairs):
        first = bare_seconds(config, sites) if pair % 2 == 0 else None  # in turn, so that a drifting machine favours neither
        run = simulated(config, "--actors", str(len(sites)))
        alone = bare_seconds(config, sites) if first is None else first
        seconds = run["seconds"]
        rounds = seconds["total"] - seconds["greeting"]
        ratios.append(rounds / alone if len(sites) == 1 else alone / rounds)
        parts = ", ".join(f"{name} {seconds[name]:.2f}" for name in ("training", "evaluating", "merging", "saving"))
        print(
            f"  pair {pair + 1}: bare {alone:.2f} s, simulated rounds {rounds:.2f} s ({parts}), "
            f"start-up {run['wall'] - rounds:.2f} s, ratio {ratios[-1]:.3f}",
            flush=True,
        )
    what = "wall time over a bare loop (target 1.10 or less)"
    if len(sites) > 1:
        what = "throughput over two bare loops (target .9 or more)"
    print(f"{len(sites)} site(s): {what}: median {statistics.median(ratios):.3f}")


def driver_memory(folder: Path) -> None:
    """The driver's peak memory with 4 and with 64 smoke sites."""
    import yaml

    smoke = yaml.safe_load((ROOT / "configs" / "smoke.yaml").read_text())
    peaks = {}
    for count in (4, 64):
        sites = {f"s{i}": {**smoke["sites"]["first"]} for i in range(count)}
        config = folder / f"smoke{count}.yaml"
        arrivals = {"visits": {site: [[1, None]] for site in sites}, "rounds": 2}
        config.write_text(json.dumps({**smoke, "sites": sites, "arrivals": arrivals}))
        peaks[count] = simulated(config, "--actors", "2")["peak_memory_mb"]
    growth = peaks[64] / peaks[4]
    print(f"driver's peak memory: 4 sites {peaks[4]:.0f} MB, 64 sites {peaks[64]:.0f} MB, ratio {growth:.3f} (target 1.20)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--site", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.bare:
        return bare(args.bare, args.site)
    with tempfile.TemporaryDirectory() as name:
        compare(Path(name), SITES[:1], args.pairs)
        compare(Path(name), SITES, args.pairs)
        driver_memory(Path(name))


if __name__ == "__main__":
    main()
