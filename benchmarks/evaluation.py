"""What evaluating costs per case: MONAI's sliding window, volume after volume, against windows batched over volumes.

    python benchmarks/evaluation.py [--pairs 5] [--hospital NAME] [--device cpu]

Two pretend hospitals: quickstart's (four to eight windows a volume) and one of small volumes (one or two, as the
hippocampus's). The ways take turns; on a CPU in CPU seconds, so that what else the machine does counts little. Prints medians
in ms per case, each way's median ratio to MONAI's of the same turn, the largest difference in logits, and what surfaces (HD95
and NSD, after the last round only) cost beside the windows: once as MONAI's two functions, once from one search.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np
import torch

from clients import evaluate
from clients.snapshot import Snapshot
from clients.train import pick_device, uses_bfloat16
from clients.work import Site
from configs.load import build_run
from configs.schema import Phantoms
from simulations.phantoms import write_phantoms
from wire import Order

CLASSES = ("liver", "spleen", "kidney", "aorta")
HOSPITALS = {
    "quickstart": ({"cases": 4, "scanner": "ct_window"}, [48, 48, 40]),
    "small volumes": ({"cases": 12, "shape": (48, 40, 34), "spacing": (6, 7, 8), "scanner": "ct_window"}, [48, 40, 32]),
}
BATCHES = (1, 2, 4, 8)


class Bench:
    """A hospital's volumes and a network that has learnt nothing: what it computes costs the same."""

    def __init__(self, folder: Path, name: str, device: str) -> None:
        told, patch = HOSPITALS[name]
        root = write_phantoms("evaluation", Phantoms(**told))  # type: ignore[arg-type]
        network = {"args": {"channels": [8, 16, 32, 64], "strides": [1, 2, 2], "num_res_units": 0}}
        tree: dict[str, Any] = {"name": "bench", "model": network, "train": {"patch": patch}, "evaluate": {"overlap": 0.25}}
        tree["sites"] = {"site": {"root": str(root), "annotates": list(CLASSES), "device": device}}
        run = build_run(tree)
        site, order = Site("site", run.sites["site"], run, folder), Order(run="bench", round=0, task="init", site="site")
        weights = site.answer(Order(**{**vars(order), "classes": CLASSES}), {}).weights
        self.model = site.model(Order(**{**vars(order), "classes": CLASSES}), weights, Snapshot()).eval()
        self.volumes = [site.volume(case.name) for case in (*site.cases.train, *site.cases.test)]
        self.truths = [evaluate.truth_of(volume, site.cases.labels) for volume in self.volumes]
        self.patch, self.rows, self.device = patch, list(range(len(CLASSES))), pick_device(device)
        self.half = uses_bfloat16(run.train, self.device)

    def monai(self) -> list[torch.Tensor]:
        """Logits as before: float32 on the device, one volume after the other, one window at a time."""
        from monai.inferers import sliding_window_inference

        def network(window_BCXYZ: torch.Tensor) -> torch.Tensor:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
                return self.model(window_BCXYZ)[0].float()  # type: ignore[no-any-return]

        found = []
        for volume in self.volumes:
            image = torch.from_numpy(volume.image_XYZ.astype(np.float32))[None, None].to(self.device)
            with torch.inference_mode():
                blended = sliding_window_inference(
                    image, self.patch, 1, network, overlap=0.25, mode="gaussian", cval=volume.floor
                )
            found.append((blended[0], (blended[0] > 0).cpu())[0])  # type: ignore[index]
        return found

    def ours(self, batch: int) -> list[torch.Tensor]:
        """Logits in batches over the volumes."""
        each = evaluate.logits_of_each(self.model, self.volumes, self.rows, self.patch, 0.25, batch, self.half)
        return [(logits, (logits > 0).cpu())[0] for logits in each]

    def scored(self, surfaces: bool, twice: bool = False) -> None:
        """Every case's scores, of a prediction that is the truth moved by three voxels."""
        for volume, truth in zip(self.volumes, self.truths, strict=True):
            guess = np.roll(truth, 3, axis=1)
            list(evaluate.scores(guess, truth, CLASSES, volume.spacing if surfaces else None))
            if twice:
                monai_surfaces(guess, truth, volume.spacing)


def monai_surfaces(guess_TXYZ: np.ndarray, truth_TXYZ: np.ndarray, spacing: tuple[float, ...]) -> None:
    """HD95 and NSD as before."""
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    for guess, truth in zip(guess_TXYZ, truth_TXYZ, strict=True):
        if guess.any() and truth.any():
            pair = [torch.from_numpy(mask)[None, None] for mask in (guess, truth)]
            compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=list(spacing))
            compute_surface_dice(*pair, [1.0], include_background=True, spacing=list(spacing))


def measured(bench: Bench, pairs: int) -> dict[str, list[float]]:
    """{way: ms per case, turn by turn}; the first turn, which warms up, is left out."""
    ways: dict[str, Callable[[], object]] = {"MONAI, per volume": bench.monai}
    ways |= {f"ours, {batch} at a time": partial(bench.ours, batch) for batch in BATCHES}
    ways |= {"scores": partial(bench.scored, False), "scores and surfaces": partial(bench.scored, True)}
    ways["scores, surfaces as before"] = partial(bench.scored, False, True)
    clock = time.process_time if bench.device.type == "cpu" else time.perf_counter
    found: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(pairs + 1):
        for way, work in ways.items():
            began = clock()
            work()
            if turn:
                found[way].append((clock() - began) / len(bench.volumes) * 1e3)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5, help="turns, after one that warms up (default: 5)")
    parser.add_argument("--hospital", choices=HOSPITALS, action="append", help="one of the two alone")
    parser.add_argument("--device", default="auto", help="as in a site file (default: auto)")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for name in asked.hospital or HOSPITALS:
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(Path(folder), name, asked.device)
            pairs = [zip(bench.monai(), bench.ours(batch), strict=True) for batch in BATCHES]
            apart = max(float((one - other).abs().max()) for pair in pairs for one, other in pair)
            found = measured(bench, asked.pairs)
        print(f"{name}: {len(bench.volumes)} cases, patch {bench.patch}, {bench.device}; logits at most {apart:.1e} apart")
        for way, ms in found.items():
            ratio = statistics.median(a / b for a, b in zip(ms, found["MONAI, per volume"], strict=True))
            print(f"  {way:28s} {statistics.median(ms):8.1f} ms per case  {ratio:5.2f}")


if __name__ == "__main__":
    main()
