"""What a study is: one recipe, what varies, and how often; a grid of runs with statistics.

The text under a field is its documentation.
"""

from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from pydantic import Field, ValidationError, model_validator

from configs.load import complaint, load_run
from configs.plain import read
from configs.schema import Run
from configs.site import Strict
from configs.words import nearest

Bound = Literal["sequential", "specialised", "joint.federated", "joint.pooled", "stream"]
ONE_ORDER = "as written"
"""The name of the only order of a study that names none."""


class Study(Strict):
    """A grid of runs."""

    name: str = Field("study", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """The study's folder is runs/studies/<name>; its runs lie in runs/cells."""
    about: str = ""
    """What it asks, in a sentence or two: the first lines of its report."""
    base: Path
    """The recipe of every run, relative to the study's file."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Keys of the recipe that are different in every run, dotted: {evaluate.surface: false}."""
    vary: dict[str, list[Any]] = Field(default_factory=dict)
    """A grid: {memory.policy: [linear, selective], memory.budget: [8, 16]} is four variants, named after their values."""
    variants: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Variants by name: {top quarter: {memory.policy: selective, memory.args: {k: 4}}}. With `vary`, each in each."""
    bounds: list[Bound] = Field(default_factory=list)
    """Paradigms run from the base recipe beside the variants (simulations/paradigms.py), under their own names."""
    seeds: list[int] = Field(default_factory=lambda: [0], min_length=1)
    """Every variant is run with each."""
    orders: dict[str, list[str]] = Field(default_factory=dict)
    """{name: sites in the order of arrival}: every variant is run in each; none: as the base says."""
    reference: str | None = None
    """The variant that the others are compared with; default: the first."""
    metrics: list[str] = Field(default_factory=lambda: ["acc", "bwt.gem", "fgt.chaudhry", "steps"], min_length=1)
    """What the tables show; the first decides."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        names = [name for name, _ in self.named()]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two variants are called {twice[0]!r}")
        if self.reference is not None and self.reference not in names:
            raise ValueError(f"reference: there is no variant {self.reference!r}; {nearest(self.reference, names)}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: one is given twice, which would count a run twice")
        if empty := [key for key, values in self.vary.items() if not values]:
            raise ValueError(f"vary.{empty[0]}: has no value, so that there would be no variant")
        for name, changes in self.named():
            for key in _keys({**self.set, **changes}):
                if why := self._own(key):
                    raise ValueError(f"variant {name!r}: {key} is not its to change: {why}")
        return self

    def _own(self, key: str) -> str:
        """Why a key of the recipe is not a variant's to change; empty if it is."""
        if key == "seed":
            return "the study's own `seeds` say it"
        if key == "name":
            return "a run of a study has its variant's name"
        return "the study's own `orders` say it" if key == "arrivals.order" and self.orders else ""

    def named(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Each variant's name and the keys that make it, bounds last."""
        grid = [dict(zip(self.vary, values, strict=True)) for values in product(*self.vary.values())]
        for name, changes in (self.variants or {"": {}}).items():
            for cell in grid:
                label = ", ".join([*([name] if name else []), *(_value(value) for value in cell.values())])
                yield label or "base", {**changes, **cell}
        yield from ((bound, {"paradigm": bound}) for bound in self.bounds)


def _keys(changes: Mapping[str, Any]) -> Iterator[str]:
    """The dotted keys that changes lead to: {arrivals: {order: ...}} and {arrivals.order: ...} alike."""
    for key, value in changes.items():
        yield from (f"{key}.{inner}" for inner in _keys(value)) if isinstance(value, Mapping) else (key,)


class Cell(NamedTuple):
    """One run of a study."""

    variant: str
    seed: int
    order: str
    run: Run
    bound: bool = False
    """Whether the variant is one of the study's bounds."""


def load_study(path: Path) -> Study:
    """The study that a YAML file describes.

    Raises:
        ValueError: one line that says what is wrong, where, and the nearest valid name.
    """
    tree = {"name": path.stem, **read(path)}
    try:
        study = Study.model_validate(tree)
    except ValidationError as error:
        raise ValueError(f"{path}: {complaint(error, Study, tree)}") from None
    return study.model_copy(update={"base": path.parent / study.base})


def cells(study: Study) -> list[Cell]:
    """Every run of the study, variant by variant.

    Raises:
        ValueError: one line that names the variant whose recipe is wrong.
    """
    found = []
    for variant, changes in study.named():
        orders: dict[str, list[str] | None] = {**study.orders} or {ONE_ORDER: None}
        for order, sites in orders.items():
            for seed in study.seeds:
                run = _run(study, variant, {**study.set, **changes}, seed, sites)
                found.append(Cell(variant, seed, order, run, variant in study.bounds))
    return found


def _run(study: Study, variant: str, changes: Mapping[str, Any], seed: int, sites: list[str] | None) -> Run:
    ordered = {} if sites is None else {"arrivals.order": sites}
    try:
        return load_run(study.base, changes={**changes, **ordered, "seed": seed})
    except ValueError as error:
        raise ValueError(f"variant {variant!r}: {error}") from None


def _value(value: Any) -> str:
    """A varied value as part of a variant's name."""
    if isinstance(value, Mapping):
        return " ".join(f"{key} {_value(item)}" for key, item in value.items())
    return " ".join(map(_value, value)) if isinstance(value, list) else str(value)
