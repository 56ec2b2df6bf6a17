"""report.html: what a run did, in one file that needs no network, on a screen or on paper."""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from server.cases_section import cases
from server.classes import class_dice
from server.digest import Digest, read_record, read_run
from server.events import PHASES
from server.faults_section import went_wrong
from server.figures import (
    dice_over_stages,
    forgetting,
    heat_map,
    loss_over_rounds,
    timeline,
)
from server.generalisation import how_far
from server.headline import headline
from server.home_section import kept_at_home
from server.memory_section import MEMORY
from server.metrics import MEANINGS, START, Measured, mean
from server.page import duration, embed, number, page, section, size, swatch, table, text
from server.palette import class_colours, site_colours
from server.repeat import again
from server.site_table import site_table
from server.spread import reaches
from server.worst_section import worst

__all__ = ["read_record", "write_report"]


def write_report(folder: Path, uncertainty: dict[str, dict[str, int]] | None = None) -> Path:
    """Write report.html from what a run's folder holds, finished or not, and return its path.

    `uncertainty`: {site: {low, middle, high or never trained on: samples}}, where the sites' folders are at hand.

    Raises:
        ValueError: the folder is no run's, or its record or R cannot be read.
    """
    run = replace(read_run(Path(folder)), uncertainty=uncertainty or {})
    path = run.folder / "report.html"
    half = path.with_suffix(".html.part")
    half.write_text(page(f"{run.name} · SiteStream", sections_of(run)), encoding="utf-8")
    os.replace(half, path)
    return path


def sections_of(run: Digest) -> Iterator[str]:
    """The report's sections as HTML, those that have something to say; each is made when it is asked for."""
    return filter(None, (make(run) for make in SECTIONS))


# Sections: each is HTML, or nothing where the run has nothing to say --------------------------------------------------


def arrivals(run: Digest) -> str:
    present = run.present
    if not present:
        return ""
    drawn = embed(
        timeline(present, run.moves, run.failures, site_colours(run)),
        "Which site is present in which round",
        "Filled: the site takes part in the round; hatched: its order failed. ▶ arrives or returns, ❙ pauses, ✖ leaves.",
    )
    rows = [_site_line(run, site) for site in run.sites]
    header = ["site", "annotates", "training cases", "test cases", "draws", "steps", "sent to it", "sent back"]
    return section("Arrivals", drawn + (table(header, rows, range(2, 8)) if rows else ""))


def results(run: Digest) -> str:
    matrix, tints = run.matrix, site_colours(run)
    if not matrix.stages or not matrix.sites:
        return section("Results", '<p class="soft">No stage has been evaluated yet.</p>')
    title = "<h3>R: Dice on each site's test cases after each stage</h3>"
    caption = "Outlined: the site has just been learnt. Below it: what is kept of the site. Above it: before the site came."
    parts = [title, embed(heat_map(matrix), "Result matrix R", caption)]
    if matrix.last >= 1:
        caption = "A disc marks the arrival; dotted, before it: what the model can do without having seen the site."
        parts += ["<h3>Dice per site over the stages</h3>", embed(dice_over_stages(matrix, tints), "Dice per site", caption)]
    return section("Results", "".join([*parts, site_table(run)]))


def own_models(run: Digest) -> str:
    own, shared = run.matrix.own, dict(zip(run.matrix.sites, run.matrix.values[-1:].ravel().tolist(), strict=False))
    if not own:
        return ""
    tints = site_colours(run)
    rows = [
        [f"{swatch(tints[site])}{text(site)}", number(shared[site]), number(dice), number(dice - shared[site], sign=True)]
        for site, dice in own.items()
    ]
    steps = (run.run.get("strategy") or {}).get("personalise")
    note = f"Each site tuned the last model to its own memory ({text(steps)} steps); the tuned model stays with it."
    header = ["site", "shared model", "own model", "gain"]
    table_of_sites = table(header, rows, range(1, 4), _means(own, shared) if len(own) > 1 else ())
    return section("Own models", f'<p class="soft">{note} Dice on the site\'s test cases.</p>{table_of_sites}')


def forgotten(run: Digest) -> str:
    if not any(1 <= start < run.matrix.last for start in run.matrix.arrival):
        return section("Forgetting", '<p class="soft">No site was followed by another, so nothing can be forgotten.</p>')
    caption = "Below zero: forgotten; bands: 95 % over the site's test cases. Sites of the last stage have no curve yet."
    drawn = forgetting(run.matrix, site_colours(run), reaches(run))
    return section("Forgetting", embed(drawn, "Change in Dice since arrival", caption))


def classes(run: Digest) -> str:
    rows = run.last_results
    if not rows:
        return ""
    dice, sites = class_dice(rows), [site for site in run.matrix.sites if any(row["site"] == site for row in rows)]
    lines = []
    for name in (name for name in run.classes if name in dice):
        average = mean(cell.value for cell in dice[name].values())
        cells = [_with_count(dice[name][site]) if site in dice[name] else "" for site in sites]
        lines.append([f"{swatch(class_colours(run)[name])}{text(name)}", *cells, f"<b>{number(average.value)}</b>"])
    stage = rows[-1]["stage"]
    when = "before training" if stage == START else f"after stage {text(stage)}"
    which = "over the test cases whose label has the class (how many: in brackets); empty: the site does not annotate it"
    note = f'<p class="soft">Mean Dice {when}, {which}.</p>'
    header = ["class", *(text(site) for site in sites), "mean over sites"]
    return section("Classes", note + table(header, lines, range(1, len(header))))


def memory(run: Digest) -> str:
    parts = "".join(part(run) for part in MEMORY)
    return section("Memory", parts) if parts else ""


def training(run: Digest) -> str:
    if not any(row.get("loss_weight") for row in run.trains):
        return ""
    dropped = sum(row.get("dropped") or 0 for row in run.trains)
    note = f"{dropped} steps with a loss that was no finite number were dropped." if dropped else ""
    return section("Training", embed(loss_over_rounds(run.trains, site_colours(run)), "Training loss", note))


def metrics(run: Digest) -> str:
    if not run.metrics:
        return ""
    rows = [
        [f"<code>{text(name)}</code>", number(value, 2 if name == "hd95" else 4), text(cells), text(MEANINGS.get(name, ""))]
        for name, (value, cells) in run.metrics.items()
    ]
    note = "" if run.end else '<p class="soft">So far: the run is unfinished.</p>'
    return section("Metrics", note + table(["id", "value", "terms in the mean", "meaning"], rows, (1, 2)))


def provenance(run: Digest) -> str:
    versions = ", ".join(f"{text(name)} {text(version)}" for name, version in (run.run.get("versions") or {}).items())
    end = run.end or {}
    spent = ", ".join(f"{phase} {duration(end[key])}" for phase in PHASES if (key := f"seconds_{phase}") in end)
    parts = [
        again(run),
        f"<p>Versions: {versions}.</p>" if versions else "",
        f"<p>Time: {duration(end['seconds'])} in all ({spent}).</p>" if spent else "",
        f"<h3>Configuration</h3><pre>{text(run.config)}</pre>" if run.config else "",
    ]
    return section("How this was made", "".join(parts))


SECTIONS: tuple[Callable[[Digest], str], ...] = (
    headline,
    arrivals,
    results,
    forgotten,
    classes,
    how_far,
    own_models,
    memory,
    training,
    worst,
    cases,
    kept_at_home,
    metrics,
    went_wrong,
    provenance,
)

# Parts of sections ----------------------------------------------------------------------------------------------------


def _site_line(run: Digest, site: str) -> list[str]:
    """A row of the table of sites."""
    row, rows = run.sites[site], [row for row in run.trains if row["site"] == site]
    draws, steps, down, up = (sum(row.get(key) or 0 for row in rows) for key in ("draws", "steps", "bytes_down", "bytes_up"))
    name = f"{swatch(site_colours(run)[site])}{text(site)}{' (extra client)' if row.get('extra') else ''}"
    names = ", ".join(text(name) for name in row.get("classes") or ())
    return [name, names, text(row.get("cases", "–")), text(row.get("tests", "–")), str(draws), str(steps), size(down), size(up)]


def _means(own: Mapping[str, float], shared: Mapping[str, float]) -> list[str]:
    """The last row of the table of own models, over the sites that have one."""
    pairs = [(shared[site], dice) for site, dice in own.items() if dice == dice]
    before, after, gain = mean(b for b, _ in pairs), mean(a for _, a in pairs), mean(a - b for b, a in pairs)
    return [f"<b>{cell}</b>" for cell in ("mean", number(before.value), number(after.value), number(gain.value, sign=True))]


def _with_count(cell: Measured) -> str:
    return f'{number(cell.value)} <span class="soft">({cell.cells})</span>' if cell.cells else "–"
