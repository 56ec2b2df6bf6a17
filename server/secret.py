"""What the server knows and tells nobody: where the noise on the updates is drawn from."""

import os
from pathlib import Path

from durable import write_whole

SECRET = "secret"
"""The file in the run's folder. Who has it and the run's models can take the noise off: it is not passed on with results."""
BYTES = 32


def secret_of(folder: Path) -> bytes:
    """The secret of the run in this folder, drawn when it is first needed, for its owner's eyes only.

    Raises:
        ValueError: the file is there and too short to be a secret.
    """
    path = folder / SECRET
    if not path.is_file():
        write_whole(path, _draw)
    secret = path.read_bytes()
    if len(secret) < BYTES:
        raise ValueError(f"{path} has {len(secret)} bytes, a secret has {BYTES}; delete it to draw another")
    return secret


def _draw(draft: Path) -> None:
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(os.urandom(BYTES))
