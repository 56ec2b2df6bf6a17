"""The ids by which the federation knows a site's cases."""

import hashlib
import hmac
from functools import cached_property
from pathlib import Path

from durable import drawn_once

BYTES = 32
"""Of a secret."""


class Keyed:
    """HMAC of a case's name with a secret that never leaves the site's disk: the same id every time, and no way back."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, case: str) -> str:
        """16 hexadecimal digits."""
        return hmac.new(self.secret, case.encode(), hashlib.sha256).hexdigest()[:16]

    @cached_property
    def secret(self) -> bytes:
        """32 bytes, drawn when they are first needed; raises ValueError if the file has any other number."""
        return drawn_once(self._folder / "secret", BYTES)
