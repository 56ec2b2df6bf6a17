"""What a site is doing right now, in a file that the simulation's screen reads. It never crosses the wire."""

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

INTERVAL_S = 0.25


class Progress:
    """Rewrites `progress.json` in the site's folder, at most a few times a second."""

    def __init__(self, folder: Path, site: str) -> None:
        self._path, self._site, self._written = folder / "progress.json", site, 0.0
        self._kept: dict[str, Any] = {}

    def keep(self, **facts: Any) -> None:
        """Facts to say with every word from now on; None: no more."""
        self._kept |= facts

    def show(self, task: str, *, force: bool = False, **facts: Any) -> None:
        """Say what is going on (None: not known, left out); `force` writes even if the last word is fresh."""
        now = time.monotonic()
        if not force and now - self._written < INTERVAL_S:
            return
        self._written = now
        draft = self._path.with_suffix(".draft")
        known = {key: value for key, value in (self._kept | facts).items() if value is not None}
        with suppress(OSError):  # what people see is not worth a round: the disk may be full
            draft.write_text(json.dumps({"site": self._site, "task": task, **known}))
            os.replace(draft, self._path)
