"""Where a site's cases come from: folders that list their cases, and what the values in the label files mean."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clients.folder import inside, read_json
from clients.labels import Origin, Values


@dataclass(frozen=True)
class Case:
    """One volume with its label, on the site's disk."""

    name: str
    image: Path
    label: Path
    origin: Origin | None = None
    """What its label means, where that is not the same for all cases of the folder."""


Source = Callable[[Path], tuple[list[Case], Values]]


def read_msd(root: Path) -> tuple[list[Case], Values]:
    """A Medical Segmentation Decathlon folder: its training cases as listed, and {class: values} without background.

    Raises:
        ValueError: dataset.json cannot be read or understood, or names a file outside the folder.
    """
    listing = read_json(root / "dataset.json")
    try:
        labels: Values = {str(name): (int(value),) for value, name in listing["labels"].items() if int(value) != 0}
        cases = [_msd_case(root, entry["image"], entry["label"]) for entry in listing["training"]]
    except MALFORMED as error:
        raise _no_data_set(root, error) from None
    _refuse_twice(root, cases)
    return cases, labels


def read_joined(root: Path) -> tuple[list[Case], Values]:
    """Several sites' cases in one folder (simulations/partition.py), each site with classes and label values of its own.

    A number stands for a combination of classes, so {class: numbers} holds for all cases, whatever their files say.

    Raises:
        ValueError: as `read_msd`.
    """
    listing = read_json(root / "dataset.json")
    try:
        origins = {site: _origin(told) for site, told in listing["origins"].items()}
        classes: Values = {str(name): tuple(map(int, numbers)) for name, numbers in listing["classes"].items()}
        cases = [
            replace(_msd_case(root, entry["image"], entry["label"]), origin=origins[entry["origin"]])
            for entry in listing["training"]
        ]
    except MALFORMED as error:
        raise _no_data_set(root, error) from None
    _refuse_twice(root, cases)
    return cases, classes


SOURCES: dict[str, Source] = {"msd": read_msd, "joined": read_joined}
"""Where cases may come from; a new source is one function and one line."""

MALFORMED = (KeyError, TypeError, ValueError, AttributeError, OverflowError)
"""What a listing of another form raises."""


def _origin(told: Mapping[str, Any]) -> Origin:
    numbers = {int(value): int(number) for value, number in told["numbers"].items()}
    if not all(0 <= number <= 255 for pair in numbers.items() for number in pair):
        raise ValueError("a label value or number is not in 0..255")
    return Origin(numbers, tuple(map(str, told["annotates"])))


def _msd_case(root: Path, image: str, label: str) -> Case:
    name = Path(image).name.removesuffix(".gz").removesuffix(".nii")
    return Case(name, inside(root, image), inside(root, label))


def _no_data_set(root: Path, error: Exception) -> ValueError:
    return ValueError(f"{root / 'dataset.json'}: not an MSD data set ({type(error).__name__}: {error})")


def _refuse_twice(root: Path, cases: Iterable[Case]) -> None:
    twice = [name for name, count in Counter(case.name for case in cases).items() if count > 1]
    if twice:
        raise ValueError(f"{root / 'dataset.json'}: lists two cases of the name {twice[0]!r}")
