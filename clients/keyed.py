"""The ids by which the federation knows a site's cases."""

import hashlib
import hmac
import os
import tempfile
from functools import cached_property
from pathlib import Path


class Keyed:
    """HMAC of a case's name with a secret that never leaves the site's disk: the same id every time, and no way back."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, case: str) -> str:
        """16 hexadecimal digits."""
        return hmac.new(self.secret, case.encode(), hashlib.sha256).hexdigest()[:16]

    @cached_property
    def secret(self) -> bytes:
        """32 bytes, drawn when they are first needed."""
        path = self._folder / "secret"
        if not path.is_file():
            handle, draft = tempfile.mkstemp(dir=self._folder)  # for its owner's eyes from the first byte, whole or absent
            with os.fdopen(handle, "wb") as file:
                file.write(os.urandom(32))
            os.replace(draft, path)
        return path.read_bytes()
