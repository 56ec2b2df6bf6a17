"""report.html of a study: what its runs say together, in one file that needs no network, on a screen or on paper."""

from collections.abc import Callable, Sequence
from pathlib import Path

from durable import write_whole
from server.metrics import ResultMatrix
from server.page import embed, page, section, swatch, text
from simulations.studies.arrivals import arrivals
from simulations.studies.costs import cost
from simulations.studies.curves import curves
from simulations.studies.figures import forgetting_bands
from simulations.studies.findings import Findings, mean_matrices
from simulations.studies.forest import variant_table
from simulations.studies.headline import headline
from simulations.studies.heat import heat_tables
from simulations.studies.memory_section import memory
from simulations.studies.provenance import how_made, missing, runs
from simulations.studies.rank_figure import rank_figure
from simulations.studies.ranks import ranking
from simulations.studies.sites_section import sites_and_classes
from simulations.studies.statistics import Outcome
from simulations.studies.study import Sheet
from simulations.studies.worst_section import worst

HEAT_CELLS = 20_000
"""Cells of R shown at most: the page stays under 5 MB."""
STYLE = """
.verdict { font-size: 20px; line-height: 1.35; font-weight: 600; border-left: 4px solid var(--strong); padding: 2px 0 2px 14px;
  margin: 14px 0 }
.forest { display: block; margin: 2px 0 0 auto; color: var(--soft); fill: currentColor; stroke: currentColor }
.forest path { fill: none }
.forest text { stroke: none; font-size: 12px } .forest .zero { stroke-dasharray: 2 3; opacity: .7 }
.forest g { stroke-width: 1.8 }
.forest .better { color: var(--strong); fill: currentColor; stroke: currentColor }
.forest .worse { color: #D55E00; fill: currentColor; stroke: currentColor }
.heats { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(var(--wide), 100%), 1fr)); gap: 4px 22px }
.heats figcaption { color: var(--ink); font-weight: 600 } .heat { font-size: 13px; margin: 2px 0 }
.heat th { font-size: 12px; max-width: 14ch; overflow: hidden; text-overflow: ellipsis; white-space: nowrap;
  padding: 3px 8px 3px 0; border: 0 }
.heat thead th { text-align: center; padding-right: 4px; vertical-align: bottom; max-width: 11ch }
.heat td { text-align: center; padding: 4px 6px; border: 1px solid var(--page); min-width: 42px }
.many thead th + th { writing-mode: vertical-rl; transform: rotate(180deg); max-height: 16ch; text-align: left;
  padding: 5px 12px }
.sorts td:first-child { white-space: normal; min-width: 19ch }
.heat .own { outline: 2px solid var(--ink); outline-offset: -2px }
"""


def write_page(sheet: Sheet, outcomes: Sequence[Outcome], source: Path) -> Path:
    """Write report.html into the study's folder from what is finished, and return its path.

    `outcomes` are the sheet's; `source` is the study's file, which the page quotes.
    """
    findings = Findings(sheet, outcomes, source)
    whole = page(f"{sheet.study.name} · SiteStream study", [part for make in SECTIONS if (part := make(findings))], STYLE)
    sheet.folder.mkdir(parents=True, exist_ok=True)
    path = sheet.folder / "report.html"
    write_whole(path, lambda draft: draft.write_text(whole, encoding="utf-8"))
    return path


# Sections: each is HTML, or nothing where the study has nothing to say -----------------------------------------------


def variants(findings: Findings) -> str:
    """The table and the forest plot."""
    if not findings.compared:
        return ""
    metric = findings.metric
    note = (
        f"Mean ± standard deviation over the runs; best first in {text(metric)}. Arrows point to where a metric is better. "
        "Drawn: the mean difference run by run and its 95 % interval; blue is better and orange worse beyond noise, grey may "
        "be noise, or too few runs, or a bound, which is not tested. What is beyond noise rests on the first p, which holds "
        "over seeds and orders alike; Wilcoxon's is over the seeds alone, or the orders if they are more."
    )
    return section("Variants", f'{variant_table(findings)}<p class="soft">{note}</p>')


def ranks(findings: Findings) -> str:
    """The critical-difference picture, where two variants share a seed and an order."""
    found = ranking(findings.outcomes, findings.metric)
    if len(found.ranks) < 2:
        return ""
    caption = (
        "A bar joins variants that cannot be told apart. Seeds of one order are not independent: the intervals above lead."
    )
    if found.left_out:
        caption += f" Left out: {found.left_out} pairs of seed and order in which not every variant was measured."
    return section("Ranks", embed(rank_figure(found), f"Mean ranks in {found.metric}, best on the left", caption))


def forgetting(findings: Findings) -> str:
    """Curves over the stages since a site was learnt."""
    found = curves(findings.matrices)
    if not found:
        return ""
    least, most = (choose(max(point.runs for point in points) for points in found.values()) for choose in (min, max))
    runs = f"{most} runs" if least == most else f"{least} to {most} runs"
    caption = (
        f"Below zero: forgotten. A mean over sites, then over {runs} of each variant; bands: the 95 % interval over orders and "
        "seeds. Further to the right stand fewer sites: only early ones are followed by so many stages."
    )
    alone = [name for name in findings.variants if name not in found]
    caption += f" No curve: {text(', '.join(alone))} (not run yet, or no site was followed by another)." if alone else ""
    return section("Forgetting", embed(forgetting_bands(found, findings.tints), "Change in Dice since arrival", caption))


def matrices(findings: Findings) -> str:
    """R of each variant in each order of arrival."""
    parts: list[str] = []
    room, left_out = HEAT_CELLS, 0
    found = mean_matrices(findings.matrices)
    for order in dict.fromkeys(one.order for one in found):
        shown: list[tuple[ResultMatrix, str]] = []
        for one in (one for one in found if one.order == order):
            room -= one.matrix.values.size
            left_out += room < 0
            runs = "1 run" if one.runs == 1 else f"mean of {one.runs} runs"
            title = f'{swatch(findings.tints[one.variant])}{text(one.variant)} <span class="soft">{runs}</span>'
            shown += [(one.matrix, title)] if room >= 0 else []
        heading = f"<h3>Order: {text(order)}</h3>" if findings.sheet.study.orders else ""
        parts += [heading + heat_tables(shown)] if shown else []
    notes = [f"{text(path)} cannot be read; its run is not in these means." for path in findings.unreadable]
    notes += [f"{left_out} more are in the runs' folders, as R.csv."] if left_out else []
    if not parts and not notes:
        return ""
    about = "Dice on each site's test cases after each stage. Outlined: the site has just been learnt."
    after = "".join(f'<p class="soft">{note}</p>' for note in notes)
    return section("Result matrices", f'<p class="soft">{about}</p>{"".join(parts)}{after}')


SECTIONS: tuple[Callable[[Findings], str], ...] = (
    headline,
    variants,
    missing,
    ranks,
    arrivals,
    forgetting,
    sites_and_classes,
    memory,
    cost,
    worst,
    matrices,
    runs,
    how_made,
)
