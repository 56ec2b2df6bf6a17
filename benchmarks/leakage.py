"""What a sketch gives away: who was in a site's memory, and what the scan looked like; with and without noise.

    python benchmarks/leakage.py [--noise 0.02 0.05 0.1 0.5 2 8] [--uploads 100] [--draws 5] [--write]

The five sites of configs/hippocampus.yaml, each with its own shift, under the run's frozen encoder. The attacker has
every upload of a site, the encoder (it is drawn from the run's seed), the centre of the sketches (a server sends it), and

- membership: candidate scans. A candidate's score is its largest cosine to a sketch of the site, averaged over uploads;
  non-members are the site's other cases, of other persons. AUC within a site; 95 % interval, bootstrap over persons.
- reconstruction: scans and sketches of half of the persons, and learns to draw the central crop of the others, 20 x 28 x 20
  at 2 mm, from their sketches. Squared error over that of drawing the mean scan: 1 is nothing learned.

Beside them what the noise costs: the rank correlation of the held samples' uniqueness with and without it (one upload,
centred by the sites' noisy means).

`--write` puts the tables into docs/privacy.md.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from zlib import crc32

os.environ.setdefault("OMP_NUM_THREADS", "1")  # several threads are slower beside other work

import numpy as np
import torch
from numpy.random import Generator, default_rng
from numpy.typing import NDArray
from redraw import Attack

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from pages import put

from clients import model
from clients.data import read_msd, site_cases
from clients.prepare import Volume, prepare
from clients.privacy import epsilon, upload
from clients.sketch import Sketcher, blur, central_crop, centre, noisy_mean, quantise, unit
from configs.load import cache_root, load_run
from configs.schema import Run
from simulations.shifts import SHIFTS, Bias, Shift, rescale

CONFIG = ROOT / "configs" / "hippocampus.yaml"
PAGE = ROOT / "docs" / "privacy.md"
MARK = "<!-- leakage -->"
RESCAN = Bias(strength=0.2, noise=0.04)
"""The same scanner another day: a little of another coil field, and noise."""
KINDS = ("same file", "rescanned", "other scanner", "other side")
"""What the attacker has of a candidate: the very file, a rescan, one by the next site's scanner, or the other hippocampus."""
RESAMPLES = 300


@dataclass(frozen=True)
class Points:
    """The points P f of a site's cases, [N, E] per kind of candidate; NaN where a person's other side is not in the data."""

    of: dict[str, NDArray[np.float32]]
    person_N: NDArray[np.int64]


# Scans ---------------------------------------------------------------------------------------------------------------


def acquired(volume: Volume, shift: Shift, rng: Generator) -> Volume:
    """A prepared volume as another scanner would have taken it, z-scored again."""
    image_XYZ = shift(rescale(np.asarray(volume.image_XYZ, np.float32)), rng)
    image_XYZ = ((image_XYZ - image_XYZ.mean()) / image_XYZ.std()).astype(np.float16)
    return replace(volume, image_XYZ=image_XYZ, floor=float(image_XYZ.min()))


def scans(run: Run) -> dict[int, Volume]:
    """{number: prepared scan} of the whole folder, in memory, before any shift."""
    assert run.data.root is not None
    volumes = prepare(read_msd(run.data.root)[0], run.preprocess, cache_root())
    return {number(v.case): replace(v, image_XYZ=np.array(v.image_XYZ), label_XYZ=np.array(v.label_XYZ)) for v in volumes}


def number(case: str) -> int:
    """17 of hippocampus_017; 2k - 1 and 2k are one person's two sides."""
    return int(case.rpartition("_")[2])


def site_points(run: Run, plain: Mapping[int, Volume], sketcher: Sketcher) -> Iterator[Points]:
    """Each site's training cases, as the attacker may come by them."""
    names = list(run.sites)
    for i, (name, site) in enumerate(run.sites.items()):
        own, other = SHIFTS[site.shift or "none"], SHIFTS[run.sites[names[(i + 1) % len(names)]].shift or "none"]
        given = site.model_copy(update={"root": run.data.root, "split": run.data.split})
        cases = [number(case.name) for case in site_cases(name, given, run.seed).train]
        rng = default_rng([run.seed, crc32(name.encode())])
        here = [acquired(plain[case], own, rng) for case in cases]
        sides = [case + 1 if case % 2 else case - 1 for case in cases]
        of = {
            "same file": sketcher.points(here),
            "rescanned": sketcher.points([acquired(volume, RESCAN, rng) for volume in here]),
            "other scanner": sketcher.points([acquired(plain[case], other, rng) for case in cases]),
        }
        of["other side"] = np.full_like(of["same file"], np.nan)
        there = [k for k, side in enumerate(sides) if side in plain]
        of["other side"][there] = sketcher.points([acquired(plain[sides[k]], own, rng) for k in there])
        yield Points(of, (np.array(cases) + 1) // 2)


# Membership ----------------------------------------------------------------------------------------------------------


Win = tuple[NDArray, NDArray, NDArray]
"""[members, others] who scores higher (ties: half), and the persons of both."""


def wins(sites: Sequence[Points], noise: float | None, uploads: int, draws: int, budget: int) -> dict[str, list[Win]]:
    """Per kind of candidate, for every memory drawn at every site."""
    found: dict[str, list[Win]] = {kind: [] for kind in KINDS}
    for draw in range(draws):
        rng = default_rng([draw, uploads])
        for s, site in enumerate(sites):
            own = rng.choice(len(site.person_N), budget, replace=False)
            for kind, score_N in scores(site, own, noise, uploads, rng):
                known_N, member_N = np.isfinite(score_N), np.isin(site.person_N, site.person_N[own])
                alone = [k for k in own if (site.person_N[own] == site.person_N[k]).sum() == 1]
                inside = [k for k in (alone if kind == "other side" else own) if known_N[k]]
                outside = np.flatnonzero(known_N & ~member_N)
                win_MN = np.heaviside(score_N[inside][:, None] - score_N[outside][None], 0.5)
                found[kind].append((win_MN, s * 1000 + site.person_N[inside], s * 1000 + site.person_N[outside]))
    return found


def scores(site: Points, own: NDArray, noise: float | None, uploads: int, rng: Generator) -> Iterator[tuple[str, NDArray]]:
    """(kind, [N] the attacker's score of each of the site's cases). A server sends the centre: here, the best for it."""
    clean_NE = site.of["same file"]
    mu_E = clean_NE.mean(axis=0)
    seen_ME = np.mean([unit(upload(clean_NE[own], mu_E, noise, rng)[0].astype(np.float32)) for _ in range(uploads)], axis=0)
    for kind, point_NE in site.of.items():
        here_N = np.isfinite(point_NE).all(axis=1)
        score_N = np.full(len(point_NE), np.nan)  # candidates of another scanner are centred among themselves
        score_N[here_N] = (centre(point_NE[here_N], None) @ seen_ME.T).max(axis=1)
        yield kind, np.round(score_N, 6)


def auc(found: Sequence[Win]) -> str:
    """Area under the curve within sites, and its interval over persons."""
    persons, where = np.unique(np.concatenate([person for _, *both in found for person in both]), return_inverse=True)
    rng = default_rng(0)
    weight_BP = rng.multinomial(len(persons), np.full(len(persons), 1 / len(persons)), RESAMPLES).astype(float)
    weight_BP[0] = 1
    won_B, of_B, start = np.zeros(RESAMPLES), np.zeros(RESAMPLES), 0
    for win_MN, inside, outside in found:
        middle, end = start + len(inside), start + len(inside) + len(outside)
        in_BM, out_BN = weight_BP[:, where[start:middle]], weight_BP[:, where[middle:end]]
        won_B += ((in_BM @ win_MN) * out_BN).sum(1)
        of_B += in_BM.sum(1) * out_BN.sum(1)
        start = end
    low, high = np.percentile((won_B / of_B)[1:], (2.5, 97.5))
    return f"{won_B[0] / of_B[0]:.3f} ({low:.2f} to {high:.2f})"


def usefulness(sites: Sequence[Points], noise: float | None, draws: int, budget: int) -> str:
    """Rank correlation of how unique the held samples are in the federation, with the noise and without it."""
    from scipy.stats import spearmanr

    found = []
    for draw in range(draws):
        rng = default_rng([draw, 1])
        held = [p.of["same file"][rng.choice(len(p.person_N), budget, replace=False)] for p in sites]
        clean, noisy = uniqueness(held, None, rng), uniqueness(held, noise, rng)
        found.append(1.0 if noise is None else float(spearmanr(clean, noisy).statistic))
    return f"{np.mean(found):+.2f}"


def uniqueness(held: Sequence[NDArray[np.float32]], noise: float | None, rng: Generator) -> NDArray[np.float64]:
    """[N] one minus the largest cosine to a sketch of another site, from one upload of each."""
    mu_E = np.mean([noisy_mean(point_NE, noise, rng) for point_NE in held], axis=0)
    unit_NE = unit(np.concatenate([upload(point_NE, mu_E, noise, rng)[0] for point_NE in held]).astype(np.float32))
    site_N = np.repeat(np.arange(len(held)), [len(point_NE) for point_NE in held])
    cosine_NN = np.where(site_N[:, None] == site_N[None], -1.0, unit_NE @ unit_NE.T)
    return 1 - np.maximum(0, cosine_NN.max(axis=1))


def membership_table(sites: Sequence[Points], run: Run, levels: Sequence[tuple[float | None, int]], draws: int) -> str:
    budget, delta = run.memory.budget, run.sketch.delta
    lines = ["| noise | uploads | epsilon | " + " | ".join(KINDS) + " | rank of uniqueness kept |", "|---" * 8 + "|"]
    for noise, uploads in levels:
        found = wins(sites, noise, uploads, draws, budget)
        cells = [auc(found[kind]) for kind in KINDS]
        kept = usefulness(sites, noise, draws, budget) if uploads == 1 else ""
        lines.append(f"| {head(noise, uploads, delta)} | {' | '.join(cells)} | {kept} |")
    return "\n".join(lines)


def head(noise: float | None, uploads: int, delta: float) -> str:
    cost = "none" if noise is None else f"{epsilon(noise, uploads, delta):.3g}"
    return f"{'none' if noise is None else f'{noise:g}'} | {uploads} | {cost}"


# Reconstruction ------------------------------------------------------------------------------------------------------


def reconstruction_table(
    run: Run, plain: Mapping[int, Volume], sketcher: Sketcher, levels: Sequence[tuple[float | None, int]]
) -> str:
    cases = sorted(plain)
    person_N = (np.array(cases) + 1) // 2
    public_N = np.isin(person_N, default_rng(run.seed).permutation(np.unique(person_N))[::2])
    crop_NXYZ = np.stack([central_crop(plain[case], run.train.patch) for case in cases])
    point_NE = sketcher.points([plain[case] for case in cases])
    attack = Attack(crop_NXYZ, np.array(cases) % 2, person_N, public_N)
    unit_NE = centre(point_NE, point_NE[public_N].mean(axis=0))
    titles = ("noise", "uploads", "epsilon", "ridge", "small network", "nearest sketch", "best over nearest sketch")
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for noise, uploads in levels:
        rng = default_rng([run.seed, uploads])
        seen_NE = np.mean([quantise(blur(unit_NE, noise, rng)) / 127 for _ in range(uploads)], axis=0)
        lines.append(f"| {head(noise, uploads, run.sketch.delta)} | {' | '.join(attack.row(unit(seen_NE)))} |")
    return "\n".join([*lines, "", attack.bounds(run.sketch.size)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--noise", type=float, nargs="*", default=[0.02, 0.05, 0.1, 0.5, 2, 8])
    parser.add_argument("--uploads", type=int, default=100)
    parser.add_argument("--draws", type=int, default=5, help="memories drawn per site")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/privacy.md")
    args = parser.parse_args()
    run = load_run(CONFIG)
    root = ROOT / str(run.data.root)
    if not root.is_dir():
        return print(f"the real data are not here ({root}): nothing measured")
    torch.set_num_threads(1)
    run = run.model_copy(update={"data": run.data.model_copy(update={"root": root})})
    encoder = model.build(run.model.network, run.model.args, ["frozen"], run.seed)
    sketcher = Sketcher(encoder, run.train.patch, run.seed, run.sketch.size)
    plain = scans(run)
    levels = [(None, 1), *((noise, uploads) for noise in args.noise for uploads in (1, args.uploads))]
    members = membership_table(list(site_points(run, plain, sketcher)), run, levels, args.draws)
    text = f"{members}\n\n{reconstruction_table(run, plain, sketcher, levels)}"
    print(text)
    if args.write:
        put(PAGE, MARK, text)


if __name__ == "__main__":
    main()
