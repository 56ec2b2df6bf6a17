"""What a model's file says of the model, so that predicting needs nothing else."""

import json
from collections.abc import Sequence

from configs.schema import Run

METADATA = "sitestream"
"""The one key of a model file's metadata: several would be written in no particular order."""


def model_card(run: Run, classes: Sequence[str]) -> dict[str, str]:
    """The metadata: network, pre-processing, window, and the classes by head row."""
    facts = {
        "network": run.model.network,
        "args": run.model.args,
        "classes": classes,
        "preprocess": run.preprocess.model_dump(mode="json"),
        "patch": run.train.patch,
        "overlap": run.evaluate.overlap,
        "seed": run.seed,
    }
    return {METADATA: json.dumps(facts)}
