"""How fast training patches come from the memory map, and how long a training step waits for them.

    python benchmarks/data_path.py [--data phantoms|hippocampus] [--device auto] [--batches 100] [--repeats 3]
    python benchmarks/data_path.py --set train.augment.affine=0 --set train.augment.intensity=0    cropping alone
    python benchmarks/data_path.py --set preprocess.spacing=[1.5,1.5,2] --steps 0    a finer grid, larger volumes

Two tables.

1. Patches per second: class-aware patches cut from the memory map and augmented, collated to batches, against MONAI's
   PersistentDataset and CacheDataset doing the same. Theirs: what is not random (loading, orientation, spacing, cropping,
   intensities) is cached before the clock starts, on disk or in memory; then RandCropByPosNegLabel with the same patch and
   share of patches centred on the foreground, and MONAI's random transforms with the recipe's probabilities and ranges,
   through its DataLoader. "tuned" rows do what MONAI's guide to fast training says: the voxels of the foreground are
   cached too, and no metadata travels. One process, one thread; the target is 5 times PersistentDataset. The page cache is
   warm for all of them. Theirs knows foreground and background; ours picks the class first, and the voxel from at most
   4096 remembered ones.

2. The share of a site's training loop that goes into data: drawing, cutting, augmenting and sending them to the device,
   over the wall time of the loop (target under 3 %); each batch made in turn, and made ahead by another thread, as on a
   GPU. And the whole loop over the same loop with one batch that lies on the device already: what data cost, wherever they
   hide (a GPU works while the host goes on, so there only this says how long it waited).

phantoms: the first site of configs/quickstart.yaml. hippocampus: site `plain` of configs/hippocampus.yaml, real MR from
../shared/data/Task04_Hippocampus. All is paired and alternating, medians; seconds are those that this process computed
(table 1), which others on the machine do not lengthen, or the wall's, within the same loop (table 2).
"""

import argparse
import tempfile
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any
from unittest.mock import patch

import monai_batches
import numpy as np
import torch
from steps import ROOT, wait

from clients import model, rounds
from clients.ahead import Cut
from clients.augment import augment
from clients.data import SiteCases, site_cases
from clients.heap import keep_freed_memory
from clients.patches import cut_batch
from clients.prepare import Volume, prepare
from clients.train import Trainer, pick_device, place
from configs.load import cache_root, load_run
from configs.schema import Run
from memory import make_policy
from simulations.pretend import materialise

Batches = Callable[[int], None]
"""Make so many batches."""
HIPPOCAMPUS = ROOT.parent / "shared" / "data" / "Task04_Hippocampus"
RECIPES = {"phantoms": ("quickstart", "north"), "hippocampus": ("hippocampus", "plain")}
TARGET_RATIO, TARGET_SHARE = 5, 0.03


@dataclass(frozen=True)
class Site:
    """A site's training cases and the recipe."""

    run: Run
    cases: SiteCases
    volumes: list[Volume]

    @property
    def values(self) -> list[Sequence[int]]:
        """Label values of each class."""
        return list(self.cases.labels.values())


def site(data: str, most: int, edits: Sequence[str] = ()) -> Site:
    """The site of a recipe, with at most so many cases, prepared."""
    recipe, name = RECIPES[data]
    place = [f"data.root={HIPPOCAMPUS}"] if data == "hippocampus" else []
    run = load_run(ROOT / "configs" / f"{recipe}.yaml", [*place, *edits])
    run = materialise(run.model_copy(update={"sites": {name: run.sites[name]}}))
    cases = site_cases(name, run.sites[name], run.seed)
    return Site(run, cases, list(prepare(cases.train[:most], run.preprocess, cache_root())))


# Patches per second ---------------------------------------------------------------------------------------------------


def ours(given: Site) -> Batches:
    """From the memory map, as a site's round does it."""
    train, rng = given.run.train, np.random.default_rng(0)

    def make(count: int) -> None:
        for _ in range(count):
            drawn = [given.volumes[i] for i in rng.choice(len(given.volumes), train.batch, replace=False)]
            image, label = cut_batch(drawn, given.values, train.patch, train.foreground, rng)
            augment(torch.from_numpy(image).float(), torch.from_numpy(label), train.augment, rng)

    return make


def patches_per_second(given: Site, batches: int, repeats: int) -> list[str]:
    """The first table's lines. Theirs take longer and are given a fifth of the batches."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chosen = given.cases.train[: len(given.volumes)]
        ways = {"memory map": ours(given)}
        for kind in ("PersistentDataset", "CacheDataset"):
            for tuned in (False, True):
                ways[kind + (", tuned" if tuned else "")] = monai_batches.batches(given.run, chosen, kind, tuned, Path(folder))
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for repeat in range(repeats + 1):  # the first is not counted
            for name, make in list(ways.items())[:: 1 if repeat % 2 else -1]:
                count = batches if name == "memory map" else max(batches // 5, 1)
                began = process_time()
                make(count)
                if repeat:
                    rates[name].append(count * given.run.train.batch / (process_time() - began))
    lines = ["| patches per second, one thread | | memory map over it |", "|---|---:|---:|"]
    for name, found in rates.items():
        ratio = median(own / its for own, its in zip(rates["memory map"], found, strict=True))
        lines.append(f"| {name} | {median(found):.0f} | {ratio:.1f} |")
    return lines


# Share of a step ------------------------------------------------------------------------------------------------------


def site_round(given: Site, device: torch.device, steps: int) -> rounds.Round:
    """A round of replay: the memory is full, nothing arrives."""
    run, by_name = given.run, {volume.case: volume for volume in given.volumes}
    labels, classes = given.cases.labels, list(given.cases.labels)
    network = place(model.build(run.model.network, run.model.args, classes, run.seed), device)
    cases = list(by_name)[: run.memory.budget]
    samples = list(rounds.new_samples(cases, 0, run.seed, "site", by_name.__getitem__, labels, {}))
    policy, trainer = make_policy(run.memory.policy, run.memory.args), Trainer(network, range(len(classes)), run.train)
    facts = (trainer, policy, len(samples), run.train, run.memory, labels, by_name.__getitem__, np.random.default_rng(0))
    return rounds.Round(*facts, samples, lambda facts: None, replay_steps=steps)


def in_turn(make: Callable[[], Any], count: int) -> Generator[Any, None, None]:
    """Instead of clients.ahead.ahead: each batch when it is asked for."""
    return (make() for _ in range(count))


def loop(work: rounds.Round, ahead: bool) -> tuple[float, float]:
    """Wall seconds of the round's loop, and of what in it went into data."""
    spent: list[float] = []

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any) -> Any:
            began = perf_counter()
            try:
                return function(*given)
            finally:
                spent.append(perf_counter() - began)

        return run

    def waited(make: Callable[[], Any], count: int) -> Generator[Any, None, None]:
        things = way(make, count)
        for _ in range(count):
            yield timed(next)(things)
        things.close()

    way, augmented, on = rounds.ahead if ahead else in_turn, rounds.augmented, Cut.on
    work.trainer.deferred |= ahead  # else nothing may be made ahead
    with ExitStack() as changed:
        for place_, name, new in ((rounds, "ahead", waited), (rounds, "augmented", timed(augmented)), (Cut, "on", timed(on))):
            changed.enter_context(patch.object(place_, name, new))
        began = perf_counter()
        work.run([], 0)
        wait(work.trainer.device)
        return perf_counter() - began, sum(spent)


def lying(work: rounds.Round) -> float:
    """Wall seconds of the same loop with one batch that is on the device already."""
    device = work.trainer.device
    drawn, cut, chances = work._next()
    batch = cut.on(device)
    wait(device)
    with ExitStack() as changed:
        changed.enter_context(patch.object(rounds.Round, "_next", lambda self: (drawn, cut, chances)))
        changed.enter_context(patch.object(Cut, "on", lambda self, device: batch))
        changed.enter_context(patch.object(rounds, "augmented", lambda image, label, chances: (image, label)))
        began = perf_counter()
        work.run([], 0)
        wait(device)
        return perf_counter() - began


def shares(given: Site, device: torch.device, steps: int, repeats: int) -> list[str]:
    """The second table's lines."""
    found: dict[bool, list[tuple[float, float, float]]] = {False: [], True: []}
    for repeat in range(repeats + 1):
        for ahead in (False, True) if repeat % 2 else (True, False):
            whole, data = loop(site_round(given, device, steps), ahead)
            bare = lying(site_round(given, device, steps))
            if repeat:
                found[ahead].append((data / whole, whole / steps, whole / bare))
    lines = ["| batches made | step, ms | data: share of the loop | loop over one without data |", "|---|---:|---:|---:|"]
    for ahead, told in found.items():
        share, step, over = (median(column) for column in zip(*told, strict=True))
        lines.append(f"| {'ahead' if ahead else 'in turn'} | {1e3 * step:.1f} | {100 * share:.2f} % | {over:.3f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=RECIPES, default="phantoms")
    parser.add_argument("--device", default="auto", help="of the second table; auto: the GPU where there is one")
    parser.add_argument("--batches", type=int, default=100, help="of the memory map, in each repeat")
    parser.add_argument("--steps", type=int, default=8, help="of a training loop; 0: the first table only")
    parser.add_argument("--repeats", type=int, default=3, help="and one more that is not counted")
    parser.add_argument("--most", type=int, default=24, help="cases at most")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="over the recipe, as for run_sim.py")
    args = parser.parse_args()
    if args.data == "hippocampus" and not HIPPOCAMPUS.is_dir():
        print("No hippocampus data: ../shared/data/Task04_Hippocampus is not beside this folder.")
        return
    torch.set_num_threads(1)
    keep_freed_memory()
    given, device = site(args.data, args.most, args.set), pick_device(args.device)
    train = given.run.train
    sides = np.median([volume.image_XYZ.shape for volume in given.volumes], 0).astype(int).tolist()
    batch = f"batches of {train.batch} x {list(train.patch)}"
    print(f"{args.data}: {len(given.volumes)} cases of {sides} (median), {batch}, on {device}\n")
    for line in [*patches_per_second(given, args.batches, args.repeats), ""]:
        print(line, flush=True)
    if args.steps:
        print(*shares(given, device, args.steps, args.repeats), sep="\n")
    print(f"\nTargets: {TARGET_RATIO} times PersistentDataset; a share under {100 * TARGET_SHARE:g} %.")


if __name__ == "__main__":
    main()
