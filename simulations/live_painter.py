"""Makes a report's sections while somebody looks at the page: in one thread, seldom, and never in the run's way."""

import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from threading import Event, Lock, Thread, get_native_id
from typing import Any

PAUSE_S = 5.0
"""Seconds between the end of one report and the beginning of the next, at least."""
SHARE = 0.1
"""Of one core's time, what reports may take at most."""
NICE = 10
"""How far the thread steps back behind a run on the same cores, where the system knows this of threads (Linux)."""
DRAWING = "The report is being drawn."


@dataclass(frozen=True)
class Painted:
    """A report as it is shown."""

    sections: dict[str, str] = field(default_factory=dict)
    """{checksum: HTML}, in the report's order."""
    note: str = DRAWING
    """What there is to say of it: it is not there yet, or why it cannot be made."""


class Painter:
    """Keeps a report up to date from the first `wanted()` on, until `stop()`.

    Args:
        version: what the report depends on, cheaply; None: there is nothing to make one from.
        draw: its sections as HTML, one after another.
        hurry: whether nothing is at work that it could slow down.
        nothing: what to say as long as there is none.
    """

    def __init__(
        self, version: Callable[[], Any], draw: Callable[[], Iterable[str]], hurry: Callable[[], bool], nothing: str
    ) -> None:
        self._version, self._draw, self._hurry, self._nothing = version, draw, hurry, nothing
        self.painted, self._old = Painted(), Painted()
        self.spent: list[float] = []
        """Seconds of a processor that each report took: by the clock it takes longer, the more a run leaves it behind."""
        self._seen: Any = object()
        self._wanted, self._stop, self._lock = Event(), Event(), Lock()
        self._thread = Thread(target=self._run, name="report", daemon=True)

    def wanted(self) -> None:
        """Somebody is looking."""
        self._wanted.set()
        with self._lock:
            if not self._thread.is_alive() and not self._stop.is_set():
                self._thread.start()

    def section(self, checksum: str) -> str | None:
        """A section of this report, or of the one before it: who asks may have seen that."""
        painted, old = self.painted, self._old
        return painted.sections.get(checksum) or old.sections.get(checksum)

    def stop(self) -> None:
        """No more reports; one under way is given up after its section."""
        self._stop.set()
        self._wanted.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2)

    def look(self) -> None:
        """Make the report anew if what it depends on has changed."""
        version = self._version()
        if version == self._seen:
            return
        self._seen = version
        painted = self._paint() if version is not None else Painted(note=self._nothing)
        if painted and painted != self.painted:
            self._old, self.painted = self.painted, painted

    def _run(self) -> None:
        with suppress(OSError, AttributeError):
            os.setpriority(os.PRIO_PROCESS, get_native_id(), NICE)
        while self._wanted.wait() and not self._stop.is_set():
            self._wanted.clear()
            before = len(self.spent)
            with suppress(Exception):  # a version that cannot be told now
                self.look()
            if len(self.spent) > before:
                self._rest(self.spent[-1] * (1 / SHARE - 1))

    def _rest(self, seconds: float) -> None:
        """So long, unless nobody is hindered."""
        began = time.monotonic()
        self._stop.wait(PAUSE_S)
        while time.monotonic() - began < seconds and not self._hurry() and not self._stop.is_set():
            self._stop.wait(1)

    def _paint(self) -> Painted | None:
        began, sections = time.thread_time(), dict[str, str]()
        try:
            for html in self._draw():
                if self._stop.is_set():
                    return None
                sections[sha256(html.encode("utf-8", "replace")).hexdigest()[:24]] = html
            return Painted(sections, "")
        except Exception as error:  # what is torn now may be whole the next time; what was shown stays
            reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            return Painted(self.painted.sections, f"The report cannot be made of what is there now: {reason}")
        finally:
            self.spent.append(time.thread_time() - began)
