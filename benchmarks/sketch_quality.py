"""Do sketches tell cases apart? Quantiles of u per network, with and without centring, and whether a rescan is found again.

    python benchmarks/sketch_quality.py [--subjects 24] [--networks UNet ...] [--model runs/hippocampus/model.safetensors]

Every subject is scanned at each of the five hippocampus sites (acquisition shifts), so each volume has a true twin at four
other sites. Printed per network: u's 10, 50 and 90 % quantiles against the other sites, centred and not; how often the
nearest volume elsewhere is the same subject (chance: 1 / subjects); and how often the nearest volume of all comes from
the same scanner. "pooled" is the feature that the memory policies compare, behind the last normalisation. Networks are
frozen, as drawn from seed 0; `--model` adds a trained one.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from overlap import ROOT as DATA
from overlap import SHIFTS, subjects

from clients import model, sketch
from clients.data import read_msd
from clients.prepare import Volume, prepare
from configs.load import cache_root
from configs.schema import Preprocess
from simulations.shifts import shifted_folder

NETWORKS: dict[str, tuple[dict[str, object], tuple[int, int, int]]] = {
    "UNet": ({"channels": [8, 16, 32, 64], "strides": [1, 2, 2], "num_res_units": 0}, (40, 56, 40)),
    "DynUNet": ({}, (40, 56, 40)),
    "SegResNet": ({}, (40, 56, 40)),
    "SwinUNETR": ({"feature_size": 12}, (64, 64, 64)),
}
"""Arguments and patch of each network."""


def volumes(count: int) -> tuple[list[Volume], NDArray, NDArray]:
    """Every subject at every site, with its site's and its own number."""
    cases = [case for listed in subjects()[0].values() for case in listed]
    chosen = sorted(map(str, np.random.default_rng(0).choice(sorted(set(cases)), count, replace=False)))
    found: list[Volume] = []
    for site, shift in SHIFTS.items():
        there = {case.name: case for case in read_msd(shifted_folder(DATA, shift, site, 0, chosen))[0]}
        found += prepare([there[name] for name in chosen], Preprocess(crop=False), cache_root())
    return found, np.repeat(np.arange(len(SHIFTS)), count), np.tile(np.arange(count), len(SHIFTS))


def points(
    encoder: model.Segmenter, patch: tuple[int, int, int], cases: list[Volume]
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Both features of every case: what a sketch is made of, and the pooled one."""
    yield "sketch", sketch.Sketcher(encoder, patch, seed=0, size=64).points(cases)
    with torch.inference_mode():
        images = (torch.from_numpy(sketch.central_crop(case, patch))[None, None] for case in cases)
        yield "pooled", np.concatenate([encoder(image)[1].numpy() for image in images])


def line(point_NE: NDArray[np.float32], site_N: NDArray, subject_N: NDArray) -> str:
    """Quantiles of u without and with centring; rescans found, same scanner nearest (centred)."""
    cells = []
    for unit_NE in (sketch.unit(point_NE), sketch.centre(point_NE, None)):
        cosine_NN = unit_NE.astype(np.float64) @ unit_NE.T.astype(np.float64)
        elsewhere_NN = np.where(site_N[:, None] == site_N, -2, cosine_NN)
        u_N = 1 - elsewhere_NN.max(axis=1).clip(0, 1)
        cells.append(" / ".join(f"{q:.4f}" if q < 0.01 else f"{q:.2f}" for q in np.quantile(u_N, (0.1, 0.5, 0.9))))
    found = (subject_N[elsewhere_NN.argmax(axis=1)] == subject_N).mean()
    np.fill_diagonal(cosine_NN, -2)
    scanner = (site_N[cosine_NN.argmax(axis=1)] == site_N).mean()
    return f"{cells[0]} | {cells[1]} | {found:.2f} | {scanner:.2f}"


def trained(path: Path) -> model.Segmenter:
    """The UNet of hippocampus.yaml with a run's weights."""
    from safetensors.numpy import load_file

    weights = load_file(path)
    encoder = model.build("UNet", NETWORKS["UNet"][0], [f"class {i}" for i in range(len(weights["head.bias"]))], 0)
    model.load_shared(encoder, weights)
    return encoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=24)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--model", type=Path, help="a trained model.safetensors of configs/hippocampus.yaml")
    args = parser.parse_args()
    if not DATA.is_dir():
        print(f"the hippocampus data are not here ({DATA})")
        return
    torch.set_num_threads(1)
    cases, site_N, subject_N = volumes(args.subjects)
    chosen = {name: NETWORKS[name] for name in args.networks}
    encoders = {f"{name}, frozen": (model.build(name, given, ["class"], 0), patch) for name, (given, patch) in chosen.items()}
    if args.model:
        encoders["UNet, trained"] = (trained(args.model), NETWORKS["UNet"][1])
    print("| network | feature | u, not centred (10 / 50 / 90 %) | u, centred | rescan found | same scanner nearest |")
    print("|---|---|---|---|---|---|")
    for name, (encoder, patch) in encoders.items():
        for feature, point_NE in points(encoder.eval(), patch, cases):
            print(f"| {name} | {feature} | {line(point_NE, site_N, subject_N)} |", flush=True)


if __name__ == "__main__":
    main()
