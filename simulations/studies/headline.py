"""The top of a study's page: who won, by how much, and whether that is more than noise; ten seconds' reading."""

import re
from math import isnan

from server.page import text
from simulations.studies.findings import Findings
from simulations.studies.forest import minus
from simulations.studies.noise import FEWEST
from simulations.studies.scales import scale, shown
from simulations.studies.shelf import State
from simulations.studies.statistics import Difference, differences, summaries
from simulations.studies.verdict import leader, verdict

STATES: dict[State, str] = {"begun": "begun", "new": "not begun", "failed": "failed"}
"""Of runs that are not finished, in words."""
Tile = tuple[str, str]
"""A number and what it is, as HTML."""


def headline(findings: Findings) -> str:
    """Name, question, how far the study is, the verdict, and the numbers that it stands on."""
    study = findings.sheet.study
    about = f'<p class="lead">{text(study.about)}</p>' if study.about else ""
    shown_tiles = "".join(f'<div class="tile"><b>{value}</b><span>{name}</span></div>' for value, name in _tiles(findings))
    parts = [f"<h1>{text(study.name)}</h1>", about, _unfinished(findings), f'<p class="verdict">{_verdict(findings)}</p>']
    return "".join([*parts, f'<div class="tiles">{shown_tiles}</div>'])


def _unfinished(findings: Findings) -> str:
    """What is missing, where anything is."""
    counts, runs = findings.counts, len(findings.states)
    if counts["finished"] == runs:
        return ""
    rest = ", ".join(f"{counts[state]} {word}" for state, word in STATES.items() if counts[state])
    return (
        f'<p class="notice"><b>{counts["finished"]} of {runs} runs are finished</b> ({rest}); the numbers may still change.</p>'
    )


def _verdict(findings: Findings) -> str:
    if findings.compared:
        said = verdict(findings.outcomes, findings.metric, findings.sheet.reference)
        return text(re.sub(r"(?<!\S)-(?=\.?\d)", "−", said))
    if not findings.outcomes:
        return "No run is finished yet."
    return f"The reference, {text(findings.sheet.reference)}, has no finished run yet, so that nothing can be compared with it."


def _tiles(findings: Findings) -> list[Tile]:
    study, counts = findings.sheet.study, findings.counts
    grid = f"{len(findings.variants)} · {len(study.seeds)} · {max(len(study.orders), 1)}"
    size = [(grid, "variants · seeds · orders"), (f"{counts['finished']} of {len(findings.states)}", "runs finished")]
    return [*(_compared(findings) if findings.compared else []), *size]


def _compared(findings: Findings) -> list[Tile]:
    """The reference and the variant that differs most to the better, the better one first; their difference; is it sure?"""
    metric, reference = findings.metric, findings.sheet.reference
    means = summaries(findings.outcomes, metric)
    against = {name: one for name, one in differences(findings.outcomes, metric, reference).items() if one.pairs}

    def mean_of(name: str, role: str) -> Tile:
        unit = f" {scale(metric).unit}" if scale(metric).unit else ""
        return f"{minus(shown(means[name].mean, metric))}{unit}", f"{text(metric)} of {text(name)}{role}"

    if not against:
        return [mean_of(reference, ", the reference")]
    first = leader(against, metric)
    lead = against[first]
    between = "" if isnan(lead.low) else f", 95 % {shown(lead.low, metric, True)} to {shown(lead.high, metric, True)}"
    difference = minus(shown(lead.mean, metric, True)), f"difference from the reference{minus(between)}"
    both = [mean_of(first, ""), mean_of(reference, ", the reference")]
    ahead = lead.mean >= 0 if scale(metric).higher else lead.mean <= 0
    return [*(both if ahead else both[::-1]), difference, _sure(lead)]


def _sure(lead: Difference) -> Tile:
    if not lead.enough:
        return "unknown", f"more than noise? {lead.units} of the {FEWEST} seeds (or orders) needed"
    return "yes" if lead.clear else "no", "more than noise?"
