"""Which values of a site's label files are which class."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from configs.load import nearest
from configs.schema import SiteFile
from configs.site import within

Values = dict[str, tuple[int, ...]]
"""Class -> its values in the label files."""


@dataclass(frozen=True)
class Origin:
    """What the labels of one site's cases mean where the cases of several sites lie in one folder."""

    numbers: Mapping[int, int]
    """Value in the site's label files -> the folder's own number for what it stands for; 0 where the site annotates none."""
    annotates: tuple[str, ...]
    """The classes that the site's experts drew in every case."""

    @cached_property
    def table(self) -> NDArray[np.uint8]:
        """[256] the number of each value."""
        table = np.zeros(256, np.uint8)
        table[list(self.numbers)] = list(self.numbers.values())
        return table


def annotated(site: SiteFile, listed: Values) -> Values:
    """The classes that the site annotates, each with the values of what lies inside it. `listed`: as the data set says.

    Raises:
        ValueError: the site annotates nothing, or a class that its labels do not have.
    """
    labels = own_values(site, listed)
    for name in site.annotates or ():
        if name not in labels:
            raise ValueError(f"annotates {name!r}, which its labels do not have; {nearest(name, labels)}")
    if not labels or site.annotates == []:
        raise ValueError("annotates no class")
    whole = with_included(labels, site.includes or {})
    return {name: whole[name] for name in (site.annotates if site.annotates is not None else labels)}


def own_values(site: SiteFile, listed: Values) -> Values:
    """Every class that the label files may hold, annotated or not, with the values that are its own."""
    if site.labels is None:
        return dict(listed)
    return {name: (value,) if isinstance(value, int) else tuple(value) for name, value in site.labels.items()}


def every_value(site: SiteFile, listed: Values) -> frozenset[int]:
    """What the label files may hold beside the background's 0: what the data set says, and what the site says of it."""
    return frozenset(value for some in (listed, own_values(site, listed)) for values in some.values() for value in values)


def with_included(labels: Mapping[str, tuple[int, ...]], includes: Mapping[str, Sequence[str]]) -> Values:
    """Each class's values: its own, then those of the classes that lie inside it, as far as the labels have them.

    >>> with_included({"liver": (1,), "tumor": (2,)}, {"liver": ["tumor", "cyst"]})
    {'liver': (1, 2), 'tumor': (2,)}
    """
    return {
        name: tuple(dict.fromkeys((*own, *(value for inner in within(name, includes) for value in labels.get(inner, ())))))
        for name, own in labels.items()
    }


def check_values(case: str, counts: Mapping[int, int], known: Set[int]) -> None:
    """Raises ValueError where a label file holds a value that no class has: its voxels would be taught as background.

    counts: {value: voxels} of the prepared case, without 0; known: SiteCases.values.
    """
    for value, voxels in sorted(counts.items()):
        if value not in known:
            holds = f"the label of case {case!r} holds the value {value} in {voxels} voxel{'s' if voxels > 1 else ''}"
            raise ValueError(f"{holds}, which no class has; name it under the site's labels (and leave it out of annotates)")
