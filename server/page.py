"""Pieces of a self-contained HTML page: escaped text, tables, embedded figures, and the style. No network."""

import base64
import html
import io
import warnings
from collections.abc import Iterable, Sequence
from math import isnan

from matplotlib import rc_context
from matplotlib.figure import Figure

HEAVY_SVG = 150_000
"""Bytes past which a drawing is embedded as pixels."""

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""What a browser may load for this page: nothing but what is in it."""

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #59636e; --page: #ffffff; --line: #d9dee3; --tile: #f4f6f8;
  --card: #ffffff }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ec; --soft: #9aa5b1; --page: #14181c; --line: #333b44; --tile: #1e242a; --card: #f7f7f5 }
}
* { box-sizing: border-box }
body { margin: 0 auto; padding: 28px 24px 60px; max-width: 1060px; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 8px; overflow-wrap: anywhere }
h2 { font-size: 19px; margin: 40px 0 4px; padding-top: 14px; border-top: 1px solid var(--line) }
h3 { font-size: 15px; margin: 20px 0 4px }
p { margin: 4px 0 10px; max-width: 75ch } .soft, figcaption { color: var(--soft) } .lead { font-size: 17px }
.notice { border-left: 4px solid #D55E00; padding: 6px 12px; background: var(--tile) }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); gap: 10px; margin: 16px 0 12px }
.tile { background: var(--tile); border-radius: 8px; padding: 9px 12px }
.tile b { display: block; font-size: 21px; line-height: 1.25; font-variant-numeric: tabular-nums; white-space: nowrap }
.tile span { font-size: 12.5px; color: var(--soft) }
figure { margin: 10px 0 14px; break-inside: avoid } figcaption { font-size: 13.5px; margin-top: 5px }
figure img { display: block; max-width: 100%; background: var(--card); border-radius: 8px; padding: 8px }
.cases { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(430px, 100%), 1fr)); gap: 8px 22px }
.swatch { display: inline-block; width: 11px; height: 11px; border-radius: 2px; margin-right: 5px }
.key { white-space: nowrap; margin-right: 10px }
.scroll { overflow-x: auto }
table { border-collapse: collapse; margin: 8px 0 14px; font-variant-numeric: tabular-nums }
th, td { padding: 5px 14px 5px 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top }
th { font-weight: 600; font-size: 13.5px; color: var(--soft) } td.n, th.n { text-align: right } td.n { white-space: nowrap }
td:first-child { white-space: nowrap }
code, pre { font: 13px/1.45 ui-monospace, "SF Mono", Menlo, Consolas, monospace }
pre { background: var(--tile); border-radius: 8px; padding: 12px 14px; overflow: auto; max-height: 420px;
  white-space: pre-wrap }
@media print {
  :root { --ink: #000; --soft: #444; --page: #fff; --line: #bbb; --tile: #f4f4f4; --card: #fff }
  body { max-width: none; padding: 0; font-size: 11pt } pre { max-height: none; overflow: visible }
  .tiles { grid-template-columns: repeat(6, 1fr); gap: 6px } .tile { padding: 6px 8px } .tile b { font-size: 15px }
  .cases { grid-template-columns: 1fr 1fr; gap: 6px 14px } th, td { padding-right: 9px }
  h2, h3 { break-after: avoid } h2 { margin-top: 24px } tr, .tiles, .tile { break-inside: avoid }
  figure img { padding: 0 } .scroll { overflow: visible } * { print-color-adjust: exact; -webkit-print-color-adjust: exact }
}
"""


def page(title: str, body: Iterable[str]) -> str:
    """A whole document. `body` is HTML; its policy forbids everything that is not in the file."""
    head = [
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        f"<title>{text(title)}</title>",
        f"<style>{STYLE}</style>",
    ]
    lines = ["<!doctype html>", '<html lang="en">', "<head>", *head, "</head>", "<body>", *body, "</body>", "</html>"]
    return "\n".join(lines) + "\n"


def text(value: object) -> str:
    """Anything as escaped text: names come from hospitals and label files."""
    return html.escape(str(value), quote=True)


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


def table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = ()) -> str:
    """A table of HTML cells; the columns in `numbers` are set to the right."""
    right = set(numbers)

    def line(cells: Sequence[str], tag: str) -> str:
        shown = (f"<{tag}{' class=n' if i in right else ''}>{cell}</{tag}>" for i, cell in enumerate(cells))
        return f"<tr>{''.join(shown)}</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f'<div class="scroll"><table><thead>{line(header, "th")}</thead><tbody>{body}</tbody></table></div>'


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
