"""The report's section on what went worst: the test cases and classes that the last model knows least."""

from server.digest import Digest, Row
from server.page import number, section, swatch, table, text
from server.palette import class_colours, site_colours
from server.slices import find_slices

LONGEST = 15
"""Rows: more than these nobody looks at one by one."""


def worst(run: Digest) -> str:
    """The lowest Dice of the last stage, one row per case and class; nothing without a measured case."""
    rows = sorted((row for row in run.last_cases if row["dice"] is not None), key=_by_dice) if run.cases else []
    if not rows:
        return ""
    sites, classes = site_colours(run), class_colours(run)
    drawn = {(path.parent.parent.name, path.stem) for path in find_slices(run.folder, list(run.sites))}
    surface = any(row.get("hd95") is not None for row in rows)
    header = ["case", "site", "class", "Dice", "voxels of the label", *(["HD95, mm"] if surface else []), "slices"]
    lines = []
    for row in rows[:LONGEST]:
        site, name = row["site"], row["class"]
        tints = swatch(sites.get(site, "#BBBBBB")), swatch(classes.get(name, "#BBBBBB"))
        cells = [f"<code>{text(row['case'])}</code>", f"{tints[0]}{text(site)}", f"{tints[1]}{text(name)}", number(row["dice"])]
        cells += [text(row.get("voxels", "–")), *([number(row.get("hd95"), 1)] if surface else [])]
        lines.append([*cells, "below" if (site, str(row["case"])) in drawn else ""])
    rest = f" of {len(rows)}" if len(rows) > LONGEST else ""
    note = f"The {len(lines)}{rest} lowest Dice after stage {text(run.cases[-1]['stage'])}, a row per case and class. "
    note += "A case is named as the federation knows it: by an id that only its site can read."
    return section("Worst cases", f'<p class="soft">{note}</p>{table(header, lines, range(3, len(header) - 1))}')


def _by_dice(row: Row) -> tuple[float, str, str, str]:
    return row["dice"], row["site"], str(row["case"]), row["class"]
