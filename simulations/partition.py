"""Medical Segmentation Decathlon folders as a simulation handles them: read, written all or nothing, joined.

A case's name is its image's file name without .nii.gz. Folders made here stand in the cache under a hash of all
that they were made from, so a second run finds them at once.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from clients.data import SiteCases, read_msd
from configs.load import cache_root, nearest

VERSION = 1
"""Part of the hash of joined folders: raise it when they would be written differently."""

Part = tuple[str, Path, Sequence[str]]
"""Site name, MSD folder, case names in order."""
Files = tuple[Path, Path]
"""A case's image and label."""


# Reading --------------------------------------------------------------------------------------------------------------


def read_manifest(root: Path) -> dict[str, Any]:
    """All that dataset.json says, of a folder whose cases could be read."""
    return dict(json.loads((root / "dataset.json").read_text(encoding="utf-8")))


def read_cases(root: Path) -> dict[str, Files]:
    """{case: its image and label}, as dataset.json lists them. Raises ValueError where it cannot be read."""
    return {case.name: (case.image, case.label) for case in read_msd(root)[0]}


def choose_cases(root: Path, wanted: Iterable[str]) -> dict[str, Files]:
    """The wanted cases of a folder, in the order wanted. Raises ValueError for one that it does not list."""
    cases, wanted = read_cases(root), list(wanted)
    for name in wanted:
        if name not in cases:
            raise ValueError(f"{root}: has no case {name!r}; {nearest(name, list(cases)[:20])}")
    return {name: cases[name] for name in wanted}


def read_labels(root: Path) -> dict[str, int]:
    """{class: value in the label files}, background left out. Raises ValueError as `read_cases`."""
    return {name: value for name, (value,) in read_msd(root)[1].items()}


def case_name(image: str | Path) -> str:
    """hippocampus_001 of ./imagesTr/hippocampus_001.nii.gz."""
    return Path(image).name.removesuffix(".gz").removesuffix(".nii")


# Writing --------------------------------------------------------------------------------------------------------------


def stamps(files: Iterable[Path]) -> list[tuple[str, int, int]]:
    """(name, size, mtime_ns) of each file: what tells, without reading it, that it changed."""
    try:
        return [(file.name, (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files]
    except OSError as error:
        raise ValueError(f"{error.filename}: cannot be read ({error.strerror})") from None


def publish(kind: str, facts: Mapping[str, Any], write: Callable[[Path], None]) -> Path:
    """`<cache>/<kind>/<hash of facts>`, written by `write` unless it exists: complete or not there at all."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    folder = (cache_root() / kind / digest).absolute()
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{digest}-", dir=folder.parent))
    try:
        (draft / "imagesTr").mkdir()
        (draft / "labelsTr").mkdir()
        write(draft)
        os.replace(draft, folder)
    except OSError:
        if not folder.is_dir():  # else another process was faster, with the same content
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def write_manifest(folder: Path, name: str, labels: Mapping[str, int], cases: Iterable[Files], **more: Any) -> None:
    """dataset.json for (image, label) files named as they stand in `folder`."""
    training = [{"image": f"./imagesTr/{image.name}", "label": f"./labelsTr/{label.name}"} for image, label in cases]
    values = {str(value): label for label, value in sorted(labels.items(), key=lambda item: item[1])}
    manifest = {"name": name, "tensorImageSize": "3D", **more, "labels": {"0": "background", **values}}
    manifest |= {"numTraining": len(training), "numTest": 0, "training": training, "test": []}
    write_json(folder / "dataset.json", manifest)


def write_json(path: Path, tree: Mapping[str, Any]) -> None:
    """Indented JSON: people read these files."""
    path.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")


# Joining --------------------------------------------------------------------------------------------------------------


def joined_folder(parts: Sequence[Part], told: Mapping[str, SiteCases] | None = None) -> Path:
    """One folder of several sites' cases, in the order given, for a client that sees them all.

    Cases are links named `<site>__<case>`; domains.json holds {"origin": {case: site}}. Without `told` it is an MSD folder,
    and all sites' labels must mean the same. With it, what each site says of its labels, they need not: it is a folder of
    the source `joined`.

    Raises:
        ValueError: the sites disagree on a class's value, or a case is missing or given twice.
    """
    if not parts:
        raise ValueError("no site to join")
    labels = {site: read_labels(root) for site, root, _ in parts}
    for one, other in combinations(labels, 2) if told is None else ():
        _require_agreement(one, labels[one], other, labels[other])
    meaning = {} if told is None else meanings({site: told[site] for site in labels})
    joined = [(site, case, files) for site, root, cases in parts for case, files in choose_cases(root, cases).items()]
    origin = {f"{site}__{case}": site for site, case, _ in joined}
    if len(origin) != sum(len(cases) for _, _, cases in parts):
        raise ValueError("a case is given twice among the sites to join")
    links = {name: files for name, (_, _, files) in zip(origin, joined, strict=True)}

    def write(folder: Path) -> None:
        placed = [_link_case(folder, name, files) for name, files in links.items()]
        write_manifest(folder, "joined " + ", ".join(labels), {} if meaning else labels[parts[0][0]], placed, **meaning)
        if meaning:
            _name_origins(folder / "dataset.json", list(origin.values()))
        write_json(folder / "domains.json", {"origin": origin})

    sources = [str(file.resolve()) for files in links.values() for file in files]
    facts = {"version": VERSION, "origin": list(origin.items()), "labels": labels, "sources": sources, **meaning}
    return publish("joined", facts | {"stamps": stamps(file for files in links.values() for file in files)}, write)


def meanings(told: Mapping[str, SiteCases]) -> dict[str, Any]:
    """What a folder of sites that annotate different things says of their labels: {"classes": ..., "origins": ...}.

    A number stands for the classes that a voxel belongs to: D1's liver and D2's have the same, and a tumour in it another.
    It says nothing of the classes that a site does not annotate.

    Raises:
        ValueError: there are more combinations of classes than a label's byte can tell apart.
    """
    found: dict[tuple[str, ...], int] = {}
    origins = {}
    for site, cases in told.items():
        numbers = {}
        for value in sorted(cases.values):
            belongs = tuple(sorted(name for name, values in cases.labels.items() if value in values))
            numbers[str(value)] = found.setdefault(belongs, len(found) + 1) if belongs else 0
        origins[site] = {"numbers": numbers, "annotates": list(cases.labels)}
    if len(found) > 255:
        raise ValueError(f"the sites' labels know {len(found)} combinations of classes; 255 can be joined")
    names = dict.fromkeys(name for cases in told.values() for name in cases.labels)
    return {"classes": {name: [n for some, n in found.items() if name in some] for name in names}, "origins": origins}


def _name_origins(manifest: Path, origins: Sequence[str]) -> None:
    """Say of every case in a dataset.json, in order, which site it is from."""
    tree = json.loads(manifest.read_text(encoding="utf-8"))
    for entry, origin in zip(tree["training"], origins, strict=True):
        entry["origin"] = origin
    write_json(manifest, tree)


def _require_agreement(one: str, first: Mapping[str, int], other: str, second: Mapping[str, int]) -> None:
    """Refuse to join two label maps that differ: a class that one site never drew would be taught as background."""
    for name in sorted(first.keys() | second.keys()):
        if first.get(name) != second.get(name):
            says = [f"{first.get(name, 'nothing')} at {one!r}", f"{second.get(name, 'nothing')} at {other!r}"]
            raise ValueError(f"sites {one!r} and {other!r} cannot be joined: class {name!r} is {' and '.join(says)}")


def _link_case(folder: Path, name: str, files: Files) -> Files:
    """Place a case's image and label under a new name; returns where."""
    placed = []
    for place, file in zip(("imagesTr", "labelsTr"), files, strict=True):
        target = folder / place / (name + file.name[len(case_name(file)) :])
        try:
            os.symlink(file.resolve(), target)
        except (OSError, NotImplementedError):  # a file system or a system without links
            shutil.copyfile(file, target)
        placed.append(target)
    return placed[0], placed[1]
