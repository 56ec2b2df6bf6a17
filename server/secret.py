"""What the server knows and tells nobody: where the noise on the updates is drawn from."""

from pathlib import Path

from durable import drawn_once

SECRET = "secret"
"""The file in the run's folder. Who has it and the run's models can take the noise off: it is not passed on with results."""
BYTES = 32


def secret_of(folder: Path) -> bytes:
    """The secret of the run in this folder, drawn when it is first needed, for its owner's eyes only.

    Raises:
        ValueError: the file is there and of another length than a secret.
    """
    return drawn_once(folder / SECRET, BYTES)
