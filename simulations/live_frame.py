"""The frame of a live page: a face on top, which is renewed every two seconds, and a report below, renewed as it grows."""

import re
from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Any, NamedTuple, Protocol

from server.page import POLICY as OWN_POLICY
from server.page import page, text
from server.script import source
from simulations.live_painter import Painted
from simulations.live_script import SCRIPT, STYLE

POLICY = f"{OWN_POLICY} {source(SCRIPT)}; connect-src 'self'"
"""Its own two scripts, and answers from where it came from."""
MORE = '<link rel="icon" href="data:,"><noscript><meta http-equiv="refresh" content="10"></noscript>'
LOST = "No answer: `run_sim.py watch` has ended, or the connection to it. What you see is old; it goes on by itself."
COUNTED = re.compile(r'(<span data-at="[^"]*"[^>]*>)[^<]*')


class Face(NamedTuple):
    """What is above the report: words, and HTML in `live`."""

    name: str = ""
    title: str = ""
    said: str = ""
    """Read aloud when it changes."""
    live: str = ""

    def unmoved(self) -> "Face":
        """Without what a clock makes of it: equal faces are no news."""
        return self._replace(live=COUNTED.sub(r"\1", self.live))


class Watched(Protocol):
    """What a page is of: it reads, and writes nothing."""

    style: str
    """More CSS."""
    nothing: str
    """What to say as long as there is nothing to make a report from."""

    def face(self) -> Face:
        """How it looks at this moment."""

    def hurry(self) -> bool:
        """Whether nothing is at work that a report could slow down."""

    def version(self) -> Any:
        """What the report depends on, cheaply; None: there is nothing to make one from."""

    def draw(self) -> Iterator[str]:
        """The report's sections, one by one."""


def whole(face: Face, painted: Painted, style: str) -> str:
    """The document as it is first asked for; without a script it asks again by itself."""
    sections = [f'<div data-section="{checksum}">{html}</div>' for checksum, html in painted.sections.items()]
    body = [
        "<main>",
        f'<p id="lost" class="notice" role="alert" data-words="{text(LOST)}" hidden></p>',
        f'<h1 id="name">{text(face.name)}</h1>',
        f'<p id="said" class="lead" role="status" aria-live="polite">{text(face.said)}</p>',
        f'<section id="live" aria-label="Now" data-tag="{text(tag(face, painted))}">{face.live}</section>',
        f'<p id="note" class="notice"{"" if painted.note else " hidden"}>{text(painted.note)}</p>',
        f'<div id="report">{"".join(sections)}</div>',
        "</main>",
    ]
    return page(face.title, body, STYLE + style, SCRIPT, POLICY, MORE)


def state(face: Face, painted: Painted) -> dict[str, Any]:
    """What a page that is open already asks for: its face, and the checksums of the report's sections in order."""
    return {**face._asdict(), "note": painted.note, "sections": list(painted.sections)}


def tag(face: Face, painted: Painted) -> str:
    """What a state is known by: the same as long as nothing but clocks has moved."""
    facts: Mapping[str, Any] = state(face.unmoved(), painted)
    return f'"{sha256(repr(facts).encode("utf-8", "replace")).hexdigest()[:24]}"'
