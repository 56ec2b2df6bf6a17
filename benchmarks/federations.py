"""Federations in which all sites are there from the first round and every site annotates what it likes.

Beside the sites that learn there are watchers: sites that learn nothing, have other patients and know every class. On them
a class can be measured under the scanners of sites that do not annotate it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1].parent / "shared" / "data" / "Task04_Hippocampus"
CASES, STEPS, HIPPOCAMPUS_ROUNDS = 4, 10, 6
"""Of a hippocampus site; so few, because with 12 cases each and 10 rounds whatever is compared comes to .80."""
Tree = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """A federation: what its runs have in common."""

    about: str
    recipe: Tree
    """A config without sites, arrivals and strategy."""
    rounds: int
    sites: dict[str, Tree]
    """The sites that learn; each says what it annotates."""
    watchers: dict[str, Tree] = field(default_factory=dict)

    @property
    def groups(self) -> dict[tuple[str, ...], tuple[str, ...]]:
        """{classes that the very same sites annotate: those sites}, in order of appearance."""
        classes = dict.fromkeys(name for site in self.sites.values() for name in site["annotates"])
        owners = {name: tuple(s for s, site in self.sites.items() if name in site["annotates"]) for name in classes}
        return {tuple(c for c in classes if owners[c] == sites): sites for sites in dict.fromkeys(owners.values())}

    def config(self, strategy: Mapping[str, Any], seed: int, on: str, group: Sequence[str] = ()) -> Tree:
        """One run's config; with a group of classes only the sites that annotate it, and nothing but it."""
        sites = {name: site for name, site in self.sites.items() if set(group) <= set(site["annotates"])}
        together = sites | {name: {**site, "learns": False} for name, site in self.watchers.items()}
        if group:
            together = {name: {**site, "annotates": list(group)} for name, site in together.items()}
        visits = {name: [[1, None]] for name in together}
        arrivals = {"visits": visits, "rounds": self.rounds}
        tree = {**self.recipe, "seed": seed, "sites": together, "strategy": dict(strategy), "arrivals": arrivals}
        return tree | {"evaluate": {"on": on, "surface": False, "slices": 0, "overlap": 0.25}}


def training(patch: Sequence[int], cases: int, steps: int) -> Tree:
    """A site holds all its cases from the first round on, and makes `steps` steps in every round."""
    return {
        "model": {"network": "UNet", "args": {"channels": [8, 16, 32, 64], "strides": [1, 2, 2], "num_res_units": 0}},
        "train": {
            "patch": list(patch),
            "batch": 2,
            "sampling_rate": 2 * steps // cases,
            "replay_steps": steps,
            "lr": 0.005,
            "augment": {"affine": 0.0, "intensity": 0.0},
        },
        "memory": {"policy": "linear", "budget": cases},
    }


def phantoms() -> Setting:
    """The quickstart's four sites, smaller and together; watchers have the same scanners and draw every organ."""
    size = {"shape": [48, 42, 36], "spacing": [4.0, 4.0, 5.3]}
    scanners = {"north": "ct_window", "east": "mr", "south": "ct_lowdose_window", "west": "mr_fatsat"}
    annotates = {
        "north": ["liver", "liver_tumor", "spleen", "kidney"],
        "east": ["liver", "spleen", "kidney"],
        "south": ["kidney", "pancreas", "aorta"],
        "west": ["liver", "spleen", "aorta"],
    }
    sites = {
        name: {"phantoms": {"cases": 16, "scanner": scanner, **size}, "annotates": annotates[name], "max_cases": 8}
        for name, scanner in scanners.items()
    }
    watchers = {
        f"watch-{name}": {"phantoms": {"cases": 6, "scanner": scanner, **size}, "split": {"test": 0.5, "validation": 0.99}}
        for name, scanner in scanners.items()
    }
    recipe = {
        "name": "phantoms",
        "data": {"split": {"test": 0.25, "validation": 0.25}},
        "includes": {"liver": ["liver_tumor"]},
        "preprocess": {"intensity": "zscore"},
        **training((40, 40, 32), cases=8, steps=12),
    }
    about = "four pretend hospitals (configs/quickstart.yaml, smaller), watched under the same four scanners by other patients"
    return Setting(about, recipe, 6, sites, watchers)


def hippocampus(annotates: Mapping[str, Sequence[str]], watched: bool = True) -> Setting:
    """Five sites by the natural partition, in its order; a watcher has the test subjects of one of them, and both classes."""
    cases = {name: {"cases": {"key": "natural", "value": value}} for value, name in enumerate(annotates)}
    sites = {name: {**chosen, "annotates": list(annotates[name]), "max_cases": CASES} for name, chosen in cases.items()}
    watchers = {f"watch-{name}": chosen for name, chosen in cases.items()} if watched else {}
    split = {"subject": "(id + 1) // 2", "test": {"file": "partitions.json", "key": "test"}, "validation": 0.2}
    recipe = {
        "name": "hippocampus",
        "data": {"root": str(ROOT), "split": split},
        "preprocess": {"intensity": "zscore", "crop": False, "spacing": [1.5, 1.5, 1.5]},
        **training((28, 40, 28), cases=CASES, steps=STEPS),
    }
    about = (
        f"five hippocampus sites by the natural partition, {CASES} training cases each, watched on the test subjects of each"
    )
    return Setting(about, recipe, HIPPOCAMPUS_ROUNDS, sites, watchers)


SETTINGS = {
    "phantoms": phantoms(),
    "hippocampus": hippocampus(
        {
            "anterior-1": ["Anterior"],
            "anterior-2": ["Anterior"],
            "posterior-1": ["Posterior"],
            "posterior-2": ["Posterior"],
            "both": ["Anterior", "Posterior"],
        }
    ),
}
