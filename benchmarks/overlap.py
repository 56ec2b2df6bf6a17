"""Hippocampus sites that share subjects: a third of each site's training subjects were scanned again at the next site.

One side per person; every subject is in train, in validation or in test, whatever sites it appears at.
"""

import json
import shutil
from pathlib import Path

import numpy as np

from simulations.partition import publish, read_cases, stamps

ROOT = Path(__file__).parents[1].parent / "shared" / "data" / "Task04_Hippocampus"
SITES = {"inverted": 1, "plain": 0, "gamma": 2, "lowres": 3, "bias": 4}
"""Site -> its number in partitions.json: natural sites by intensity statistics."""
SHIFTS = {"inverted": "invert", "plain": "none", "gamma": "gamma", "lowres": "lowres", "bias": "bias"}
VALIDATION = 0.2
"""Share of the subjects outside the test list."""
SHARED = 1 / 3


def subject(case: str) -> int:
    """Ids 2k-1 and 2k are one person's two sides."""
    return (int(case.rpartition("_")[2]) + 1) // 2


def subjects() -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Cases to train on by site, those that it shares included, and cases to evaluate on: "test", "validation"."""
    partitions = json.loads((ROOT / "partitions.json").read_text())
    one_side = sorted({subject(case): case for case in sorted(partitions["natural"], reverse=True)}.values())
    tested = {subject(case) for case in partitions["test"]}
    rng = np.random.default_rng(4)
    others = [case for case in one_side if subject(case) not in tested]
    validated = sorted(map(str, rng.choice(others, round(VALIDATION * len(others)), replace=False)))
    left = [case for case in others if case not in validated]
    train = {site: [case for case in left if partitions["natural"][case] == number] for site, number in SITES.items()}
    names = list(SITES)
    again = {
        after: sorted(map(str, rng.choice(train[site], round(SHARED * len(train[site])), replace=False)))
        for site, after in zip(names, names[1:] + names[:1], strict=True)
    }
    held_out = {"test": [case for case in one_side if subject(case) in tested], "validation": validated}
    return {site: train[site] + again[site] for site in names}, held_out


def chosen_cases() -> dict[str, list[str]]:
    """overlap.json: "test", "validation", and for each of the two what every site has if it is evaluated on that list."""
    train, held_out = subjects()
    natural = json.loads((ROOT / "partitions.json").read_text())["natural"]
    tables = {
        f"{site}.{which}": cases + [case for case in listed if natural[case] == SITES[site]]
        for which, listed in held_out.items()
        for site, cases in train.items()
    }
    return held_out | tables


def folder() -> Path:
    """The data folder with overlap.json beside its cases, in the cache."""
    cases, chosen = read_cases(ROOT), chosen_cases()

    def write(draft: Path) -> None:
        for image, label in cases.values():
            shutil.copyfile(image, draft / "imagesTr" / image.name)
            shutil.copyfile(label, draft / "labelsTr" / label.name)
        shutil.copyfile(ROOT / "dataset.json", draft / "dataset.json")
        (draft / "overlap.json").write_text(json.dumps(chosen))

    return publish("overlap", {"version": 1, "chosen": chosen, "sources": stamps([ROOT / "dataset.json"])}, write)


def sites(evaluated: str) -> dict[str, dict[str, object]]:
    """The `sites` of a config, each with its own shift, evaluated on its part of the "test" or "validation" list."""
    split = {"subject": "(id + 1) // 2", "test": {"file": "overlap.json", "key": evaluated}}
    return {
        site: {"cases": {"file": "overlap.json", "key": f"{site}.{evaluated}"}, "shift": shift, "split": split}
        for site, shift in SHIFTS.items()
    }
