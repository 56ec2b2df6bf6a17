"""What a model's file says of the model, so that predicting needs nothing else."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, ValidationError

from configs.schema import Preprocess, Run
from configs.site import Includes, Strict, within

METADATA = "sitestream"
"""The one key of a model file's metadata: several would be written in no particular order."""


class Card(Strict):
    """All that is needed to build a network, to fill it with the file's tensors and to use it as the run's evaluation did."""

    network: str
    """A name in clients.model.NETWORKS."""
    args: dict[str, Any]
    """Arguments of the MONAI network."""
    classes: list[str]
    """By head row."""
    preprocess: Preprocess
    """What was done to every case."""
    patch: tuple[int, int, int]
    """Voxels of a window."""
    overlap: float = Field(ge=0, lt=1)
    """Overlap of the windows."""
    seed: int = Field(ge=0)
    """The run's seed."""
    includes: Includes = Field(default_factory=dict)
    """{class: classes that lie inside it}, as far as the recipe says it."""

    def outer_first(self) -> list[int]:
        """The head rows, each after those of the classes that it lies inside; else as they stand."""
        depth = [sum(name in within(outer, self.includes) for outer in self.classes) for name in self.classes]
        return sorted(range(len(self.classes)), key=lambda row: depth[row])


def model_card(run: Run, classes: Sequence[str]) -> dict[str, str]:
    """The metadata: network, pre-processing, window, and the classes by head row."""
    card = Card(
        network=run.model.network,
        args=run.model.args,
        classes=list(classes),
        preprocess=run.preprocess,
        patch=run.train.patch,
        overlap=run.evaluate.overlap,
        seed=run.seed,
        includes=run.includes,
    )
    return {METADATA: json.dumps(card.model_dump(mode="json"))}


def read_card(metadata: Mapping[str, str]) -> Card:
    """The card that a model's file carries. Raises ValueError: there is none, or it lacks something or says nonsense."""
    if METADATA not in metadata:
        raise ValueError("it does not say which network it belongs to")
    try:
        return Card.model_validate_json(metadata[METADATA])
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise ValueError(f"what it says of its network cannot be used: {where}: {first['msg']}") from None
