"""Result matrices as coloured tables: light, sharp at any size, and their numbers can be copied."""

from collections.abc import Sequence
from math import isnan

from matplotlib import colormaps
from matplotlib.colors import to_hex

from server.metrics import ResultMatrix
from server.page import text
from simulations.studies.scales import without_nought

SHADES = [to_hex(colormaps["YlGnBu"](k / 50)) for k in range(51)]
"""From a Dice of 0 to one of 1, the colours of a run's own report."""
DARK = 0.55
"""From here on white digits are easier to read."""
FEW = 4
"""Sites whose names fit side by side; those of more stand upright."""


def heat_tables(found: Sequence[tuple[ResultMatrix, str]]) -> str:
    """Result matrices with their titles, as many side by side as fit."""
    most = max(len(matrix.sites) for matrix, _ in found)
    wide = 110 + 44 * most if most > FEW else 300
    return f'<div class="heats" style="--wide:{wide}px">{"".join(heat_table(*one) for one in found)}</div>'


def heat_table(matrix: ResultMatrix, title: str) -> str:
    """R with its numbers on their colours; outlined: the site has just been learnt. `title` is HTML."""
    heads = "".join(f'<th title="{text(site)}">{text(site)}</th>' for site in matrix.sites)
    rows = "".join(
        f'<tr><th title="{text(stage)}">{text(stage)}</th>{"".join(_cell(matrix, t, k) for k in range(len(matrix.sites)))}</tr>'
        for t, stage in enumerate(matrix.stages)
    )
    inside = f'<thead><tr><th class="soft">after</th>{heads}</tr></thead><tbody>{rows}</tbody>'
    kind = "heat many" if len(matrix.sites) > FEW else "heat"
    return f'<figure><figcaption>{title}</figcaption><div class="scroll"><table class="{kind}">{inside}</table></div></figure>'


def _cell(matrix: ResultMatrix, t: int, k: int) -> str:
    value = float(matrix.values[t, k])
    if isnan(value):
        return "<td>–</td>"
    own = " class=own" if t and matrix.arrival[k] == t else ""
    ink = "#fff" if value > DARK else "#000"
    return f'<td{own} style="background:{SHADES[round(50 * value)]};color:{ink}">{without_nought(f"{value:.3f}")}</td>'
