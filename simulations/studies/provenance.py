"""The parts of a study's page that lead back to its runs: which are missing and why, where each is, and how to do it again."""

import json
import os
import shlex
from collections.abc import Iterable
from contextlib import suppress
from math import nan
from pathlib import Path
from urllib.parse import quote

from server.conduct import SUMMARY
from server.page import duration, section, table, text
from simulations.studies.findings import Findings
from simulations.studies.forest import minus
from simulations.studies.headline import STATES
from simulations.studies.scales import shown
from simulations.studies.several import rounds_done
from simulations.studies.shelf import Place

LONGEST = 1000
"""Lines of a table; the others are counted."""


def missing(findings: Findings) -> str:
    """The runs that failed, with their reasons, and those that are still to do; nothing where all are finished."""
    lines = [
        [text(cell.variant), str(cell.seed), text(cell.order), STATES[state], _why(place)]
        for cell, place in findings.sheet.rows
        if (state := findings.states[place.folder]) != "finished"
    ]
    if not lines:
        return ""
    failed = findings.counts["failed"]
    again = f"<p>The failed are tried again with <code>{text(_command(findings))} --retry-failed</code>.</p>" if failed else ""
    rest = f"<p>What is missing is done with <code>{text(_command(findings))}</code>.</p>" if len(lines) > failed else ""
    lines.sort(key=lambda line: line[3] != "failed")
    return section(
        "Failed and missing runs", _limited(["variant", "seed", "order", "state", "why"], lines, (1,)) + again + rest
    )


def runs(findings: Findings) -> str:
    """Every run, its result, and a link to its folder."""
    values = {(one.variant, one.seed, one.order): one.metrics for one in findings.outcomes}
    lines = []
    for cell, place in findings.sheet.rows:
        measured = values.get((cell.variant, cell.seed, cell.order), {})
        value, seconds = measured.get(findings.metric), measured.get("seconds")
        said = [
            minus(shown(nan if number is None else number, name))
            for name, number in ((findings.metric, value), ("seconds", seconds))
        ]
        link = f'<a href="{_link(findings, place)}">{text(place.folder.name)}</a>'
        lines.append([text(cell.variant), str(cell.seed), text(cell.order), findings.states[place.folder], *said, link])
    heads = ["variant", "seed", "order", "state", text(findings.metric), "seconds", "folder"]
    note = "Variants may share a run: a bound is the same in every order, say."
    return section("Runs", f'{_limited(heads, lines, (1, 4, 5))}<p class="soft">{note}</p>')


def how_made(findings: Findings) -> str:
    """The command, versions, time, and both recipes."""
    spent = sum(one.metrics.get("seconds") or 0.0 for one in findings.outcomes)
    versions = "; ".join(_versions(place.folder for place in findings.sheet.places))
    parts = [
        f"<p>To do it again, or to go on with it:</p><pre>{text(_command(findings))}</pre>",
        f"<p>Versions: {text(versions)}.</p>" if versions else "",
        f"<p>Time: {duration(spent)} of runs, one after another.</p>" if spent else "",
    ]
    for path in (findings.source, findings.sheet.study.base):
        with suppress(OSError, UnicodeDecodeError):
            parts.append(f"<h3>{text(path.name)}</h3><pre>{text(path.read_text(encoding='utf-8'))}</pre>")
    return section("How this was made", "".join(parts))


def _command(findings: Findings) -> str:
    """For the folder of the code, in a shell that has the venv; the runs that are there are found again by --out."""
    runs = findings.sheet.folder.parents[1]
    out = [] if runs == Path("runs") else ["--out", str(runs)]
    return shlex.join(["python", "run_sim.py", "study", str(findings.source), *out])


def _why(place: Place) -> str:
    if place.reason:
        return text(place.reason)
    done = rounds_done(place.folder)
    return f"{done} of {place.rounds} rounds are done" if done else ""


def _limited(heads: list[str], lines: list[list[str]], numbers: Iterable[int]) -> str:
    rest = f'<p class="soft">And {len(lines) - LONGEST} more.</p>' if len(lines) > LONGEST else ""
    return table(heads, lines[:LONGEST], numbers) + rest


def _link(findings: Findings, place: Place) -> str:
    """From the page to a run's own report, or to its folder where it has none."""
    there = place.folder / "report.html"
    to = there if there.is_file() else place.folder
    return text(quote(Path(os.path.relpath(to, findings.sheet.folder)).as_posix()) + ("" if to == there else "/"))


def _versions(folders: Iterable[Path]) -> list[str]:
    """What the finished runs were made with; more than one entry where that changed on the way."""
    found: dict[str, None] = {}
    for folder in folders:
        with suppress(OSError, ValueError, AttributeError):
            said = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))["versions"]
            found[", ".join(f"{name} {version}" for name, version in said.items())] = None
    return list(found)
