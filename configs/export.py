"""Where a run's numbers go beside its own folder, as a config says it."""

from pathlib import Path
from typing import Any

from pydantic import StrictBool, field_validator

from configs.site import Strict

WORDS = ("", "on", "off", "yes", "no", "none")
"""What people write for true and false; as a folder's name, it would be a surprise."""


class Export(Strict):
    """The record once more, for other programs to show. No result depends on it, and what fails in it ends no run.

    A relative folder is relative to where the command runs, and written down as a whole path: a run that goes on finds it.
    """

    tensorboard: StrictBool | Path = False
    """Scalars for TensorBoard: true is the folder `tensorboard` in the run's own; in another folder, which many runs may
    share, each has its own <name>-<id>. `tensorboard --logdir` the folder, or `runs`."""
    mlflow: StrictBool | Path = False
    """A run of the experiment called `name` in an MLflow file store (no server is asked): true is ./mlruns; all runs of a study
    are in one. Look with MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri mlruns, or `mlflow migrate-filestore`."""

    @field_validator("tensorboard", "mlflow", mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        if isinstance(value, bool | Path) or (isinstance(value, str) and value.strip().lower() not in WORDS):
            return value
        raise ValueError("write true or false, or a folder")

    @field_validator("tensorboard", "mlflow")
    @classmethod
    def _whole(cls, value: bool | Path) -> bool | Path:
        return value if isinstance(value, bool) else value.expanduser().absolute()

    @field_validator("mlflow")
    @classmethod
    def _somewhere(cls, value: bool | Path) -> bool | Path:
        return Path("mlruns").absolute() if value is True else value
