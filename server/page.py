"""Pieces of a self-contained HTML page: escaped text, tables, embedded figures, and the style. No network."""

import base64
import html
import io
import warnings
from collections.abc import Iterable, Sequence
from math import isnan

from matplotlib import rc_context
from matplotlib.figure import Figure

from server.script import SCRIPT, source
from server.style import STYLE

HEAVY_SVG = 150_000
"""Bytes past which a drawing is embedded as pixels."""

POLICY = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {source(SCRIPT)}"
"""What a browser may load for this page: nothing but what is in it; and it runs no script but ours."""


def page(title: str, body: Iterable[str], style: str = "", script: str = "", policy: str = POLICY, more: str = "") -> str:
    """A whole document, which loads nothing that is not in it.

    Args:
        title: text.
        body: HTML.
        style: more CSS.
        script: another script, after the one that every page has.
        policy: what the browser may load; with `script` one that names it.
        more: HTML for the head.
    """
    head = [
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        f"<title>{text(title)}</title>",
        f"<style>{STYLE}{style}</style>",
    ]
    lines = ["<!doctype html>", '<html lang="en">', "<head>", *head, *([more] if more else []), "</head>", "<body>", *body]
    lines += [f"<script>{part}</script>" for part in (SCRIPT, script) if part]
    lines += ["</body>", "</html>"]
    return "\n".join(lines) + "\n"


def section(title: str, body: str) -> str:
    """A section of the page; both are HTML."""
    return f"<section><h2>{title}</h2>{body}</section>"


def text(value: object) -> str:
    """Anything as escaped text: names come from hospitals and label files. What no file can hold becomes a question mark."""
    return html.escape(str(value).encode("utf-8", "replace").decode(), quote=True)


def number(value: float | None, digits: int = 3, sign: bool = False) -> str:
    """A number with a true minus, or a dash where there is none."""
    if value is None or isnan(value):
        return "–"
    return f"{value:+.{digits}f}".replace("-", "−") if sign else f"{value:.{digits}f}".replace("-", "−")


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def size(count: float) -> str:
    """Bytes as a person reads them."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = (), foot: Sequence[str] = ()) -> str:
    """A table of HTML cells that sorts where there is a script; `foot`, a sum or a mean, stays below.

    The columns in `numbers` are set to the right and sorted by their first number.
    """
    right = set(numbers)

    def line(cells: Sequence[str], tag: str) -> str:
        shown = (f"<{tag}{' class=n' if i in right else ''}>{cell}</{tag}>" for i, cell in enumerate(cells))
        return f"<tr>{''.join(shown)}</tr>"

    body = "".join(line(row, "td") for row in rows)
    last = f"<tfoot>{line(foot, 'td')}</tfoot>" if foot else ""
    inside = f"<thead>{line(header, 'th')}</thead><tbody>{body}</tbody>{last}"
    return f'<div class="scroll"><table class=sorts>{inside}</table></div>'


def swatch(tint: str) -> str:
    """A little square of a colour, before the name of what has it."""
    return f'<span class="swatch" style="background:{tint}"></span>'


def embed(figure: Figure, alt: str, caption: str = "", pixels: bool = False) -> str:
    """A figure inside the page: as a drawing, or as pixels where that is smaller. `alt` is text, `caption` HTML."""
    # the salt makes the drawing's inner ids, and so the whole page, the same each time
    with rc_context({"svg.hashsalt": "sitestream", "svg.fonttype": "path"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a name in a script that the font lacks
        warnings.filterwarnings("ignore", message="constrained_layout not applied")  # long names: crowded, but there
        kind, data = ("png", b"") if pixels else ("svg+xml", _rendered(figure, "svg"))
        if pixels or len(data) > HEAVY_SVG:
            kind, data = "png", _rendered(figure, "png")
    width = round(figure.get_figwidth() * 100)
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    caption = f"<figcaption>{caption}</figcaption>" if caption else ""
    return f'<figure><img src="{source}" alt="{text(alt)}" width="{width}">{caption}</figure>'


def _rendered(figure: Figure, kind: str) -> bytes:
    stream = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {}
    figure.savefig(stream, format=kind, dpi=130, transparent=True, metadata=metadata)
    return stream.getvalue()
