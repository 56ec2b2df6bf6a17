"""What a hospital keeps on its own disk (`SiteFile`), and how a simulation makes one up (`PretendSite`).

The text under a field is its documentation.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator


class Strict(BaseModel):
    """Typed, documented, checked on construction; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def is_site_name(name: str) -> bool:
    """Whether a site may be called so: letters, digits, '-' and '_', a letter or digit first. Names become file names."""
    return name.replace("-", "").replace("_", "").isalnum() and name[0].isalnum()


def gpus(value: object) -> object:
    """The same, once it is sure that it is auto, a share of one GPU, or whole ones. Raises ValueError for all else."""
    if value != "auto":
        try:
            number = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            raise ValueError("must be auto, or a number") from None
        if not 0 <= number < math.inf or (number > 1 and number % 1):
            raise ValueError("must be auto, a share of one GPU up to 1, or whole GPUs: a share never spans two")
        return number
    return value


Gpus = Annotated[float | Literal["auto"], BeforeValidator(gpus)]
"""GPUs of an actor: a share of one, whole ones, or auto: a share as large as what its work turns out to take."""


class Selection(Strict):
    """Which cases of a folder are meant: those to which a JSON file beside dataset.json gives a value."""

    file: str = "partitions.json"
    """The JSON file, relative to the data root."""
    key: str
    """The entry in that file: {case: value}, or a list of cases."""
    value: int | str | None = None
    """The value wanted (for a list: none)."""


class Split(Strict):
    """How a site's cases fall into train, validation and test: always by subject, never by case."""

    subject: str | None = None
    """Arithmetic on `id`, the last number in the case's name, e.g. "(id + 1) // 2"; none: every case is its own subject."""
    test: float | Selection = 0.25
    """Share of the subjects, or a list of cases, held out for the results."""
    validation: float = Field(0.0, ge=0, lt=1)
    """Share of the remaining subjects held out for tuning."""

    @field_validator("test")
    @classmethod
    def _share(cls, test: float | Selection) -> float | Selection:
        if isinstance(test, float) and not 0 <= test < 1:
            raise ValueError("must be a share from 0 to below 1, or {file, key} of a list of cases")
        return test


def within(name: str, includes: Mapping[str, Sequence[str]]) -> list[str]:
    """The classes that lie inside a class, at whatever depth, the nearest first.

    >>> within("abdomen", {"abdomen": ["liver"], "liver": ["tumor", "vessel"]})
    ['liver', 'tumor', 'vessel']
    """
    found = list(dict.fromkeys(includes.get(name, ())))
    for inner in found:  # grows as it is gone through
        found += [deeper for deeper in includes.get(inner, ()) if deeper not in found]
    return found


def without_circles(includes: dict[str, list[str]]) -> dict[str, list[str]]:
    """The same, once it is sure that no class lies inside itself. Raises ValueError naming the first that does."""
    for name, inner in includes.items():
        if name in inner:
            raise ValueError(f"{name!r} includes itself")
        if through := [other for other in inner if name in within(other, includes)]:
            raise ValueError(f"{name!r} lies inside itself, through {through[0]!r}")
    return includes


Includes = Annotated[dict[str, list[str]], AfterValidator(without_circles)]
"""{class: the classes that lie inside it}."""


class Shares(Strict):
    """What a hospital lets leave it, whatever the run asks for; applied last, when a reply is made (clients/withhold.py)."""

    sketches: Literal["as_asked", "noisy", "never"] = "as_asked"
    """Sketches, their ids and their mean: as the recipe asks, only behind noise (its `sketch.noise`), or never."""
    least_noise: float | None = Field(None, ge=0.01)
    """With `sketches: noisy`: the least `sketch.noise` behind which they leave; default: any that the recipe sets."""
    case_metrics: bool = True
    """Results per test case, each with the case's keyed id. False: only sums over the cases of a class leave."""
    domains: bool = True
    """How many samples of each declared scanner, protocol or origin the memory holds, by name."""
    evictions: bool = True
    """Which samples the memory let go, by keyed id."""

    @model_validator(mode="after")
    def _noise_for_noisy(self) -> Self:
        if self.least_noise is not None and self.sketches != "noisy":
            raise ValueError(f"least_noise belongs to sketches: noisy (given: sketches: {self.sketches})")
        return self


class SiteFile(Strict):
    """One hospital's own settings. Nothing of this is in the server's config of a deployment."""

    source: str = "msd"
    """How the data are stored: a name in clients.data.SOURCES."""
    root: Path | None = None
    """The data folder; default: `data.root`."""
    follow_links: bool = False
    """Whether the data folder may hold links to files outside it. A simulation's default: `data.follow_links`."""
    cases: Selection | None = None
    """Which cases of the folder belong to this site; default: all."""
    split: Split | None = None
    """Train, validation and test by subject; default: `data.split`."""
    labels: dict[str, int | list[int]] | None = None
    """Class name -> value(s) in the label files; classes may overlap (liver: [1, 5], tumor: 5). Default: dataset.json's."""
    includes: Includes | None = None
    """{class: classes that lie inside it}: a liver's voxels are its own and its tumours'. Default: the recipe's `includes`."""
    annotates: list[str] | None = None
    """The classes that this site's experts drew in every case; default: all in `labels`."""
    domains: Selection | None = None
    """{case: scanner, protocol or origin}, if the site declares it."""
    order: Literal["shuffled", "listed"] = "shuffled"
    """The order in which the training cases arrive: shuffled by the run's seed, or as dataset.json lists them."""
    arriving: list[int] | None = None
    """How many cases arrive in each round of presence; default: `stream.cases_per_round` in each."""
    replaying: list[int] | None = None
    """Steps in each round of presence in which nothing arrives, at most `train.replay_steps`, which is the default."""
    max_cases: int | None = Field(None, ge=1)
    """Use at most so many training cases."""
    learns: bool = True
    """False: the site is held out. Nobody trains on its cases, in any paradigm; it never arrives, so `arrivals` need not name
    it, and it only evaluates: in `cross_domain` or `cross_task`, and in no other metric."""
    budget: int | None = Field(None, ge=1)
    """Samples this site's memory may keep at most (the server may ask for less); default and upper limit: `memory.budget`."""
    shares: Shares = Field(default_factory=Shares)
    """What may leave this site."""
    leave: bool = False
    """True: the site leaves for good. It says so with its next reply, which still counts, and is sent no more orders."""
    device: str = "auto"
    """Where this site trains: auto, cpu, cuda, cuda:1 ..."""
    cpus: float = Field(1, gt=0)
    """CPU cores: threads of its training, and its actor's size (ray). A simulation's default: `engine.cpus`."""
    gpus: Gpus = 0.0
    """GPUs of this site's actor (ray): a share of one, whole ones, or auto. A simulation's default: `engine.gpus`."""


class Phantoms(Strict):
    """A pretend hospital's procedural abdomens, written as an MSD folder before the run."""

    cases: int = Field(12, ge=1)
    """How many volumes, test cases included."""
    shape: tuple[int, int, int] = (64, 56, 48)
    """Voxels along left-right, back-front, feet-head."""
    spacing: tuple[float, float, float] = (3.0, 3.0, 4.0)
    """Millimetres per voxel."""
    scanner: str = "ct"
    """The look of the images: a name in simulations.phantoms.SCANNERS."""
    seed: int = 0
    """Another seed, other patients."""


class PretendSite(SiteFile):
    """A site of a simulation: a site file, and how to make its data before the run."""

    phantoms: Phantoms | None = None
    """Write this site's data instead of reading `root`."""
    shift: str | None = None
    """The acquisition shift laid over the images: a name in simulations.shifts.SHIFTS."""
