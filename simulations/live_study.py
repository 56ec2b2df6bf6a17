"""What a live page shows of a study's folder: how far its runs are, which are at work, and the study's report.

The study's file is read for the report alone: it may be gone, or say something else by now.
"""

import re
import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from configs.study import cells, load_study
from server.page import section, table, text
from simulations.live_frame import Face
from simulations.live_page import ago, bar, part, tiles
from simulations.live_run import changed
from simulations.live_shelf import CellName, Entry, LiveShelf
from simulations.studies.page import SECTIONS, STYLE, Findings
from simulations.studies.study import INDEX, Sheet
from simulations.watch import plain

LINK = re.compile('<a href="[^"]*">(.*?)</a>', re.DOTALL)
"""In the report: to what does not lie beside this page."""
HEAD = re.compile("<h1>.*?</h1>", re.DOTALL)
LONGEST = 30
"""Lines of the table of runs at work; the others are counted."""
HEADER = ("variant", "seed", "order", "rounds done", "last sign of life", "its own page")


class LiveStudyPage:
    """What a live page shows of a study's folder (simulations/live_frame.py: Watched)."""

    style, nothing = STYLE, "There is no report: study.json cannot be read."

    def __init__(self, folder: Path, now: Callable[[], float] = time.time) -> None:
        self._shelf, self._now = LiveShelf(folder), now
        self._working = 0

    def face(self) -> Face:
        """The study at this moment."""
        now = self._now()
        entries = self._shelf.entries(now)
        counts, self._working = Counter(entry.state for entry in entries), sum(entry.working for entry in entries)
        name = plain(str(self._shelf.index().get("name", self._shelf.folder.name)))
        said = [f"{counts['finished']} of {len(entries)} runs are finished"]
        said += [f"{self._working} at work"] if self._working else []
        said += [f"{counts['failed']} failed"] if counts["failed"] else []
        said += ["no run is at work"] if not self._working and counts["finished"] < len(entries) else []
        live = "".join([_numbers(entries, counts), self._at_work([entry for entry in entries if entry.working], now)])
        return Face(name, f"{counts['finished']}/{len(entries)} · {name}", f"{', '.join(said)}.", live)

    def hurry(self) -> bool:
        """Whether no run is at work."""
        return not self._working

    def version(self) -> Any:
        """The state of every run, and the study's files."""
        index = self._shelf.index()
        states = tuple(self._shelf.state(folder) for folder in dict.fromkeys(self._shelf.places().values()))
        return (states, changed(self._shelf.folder / INDEX), changed(Path(str(index.get("file"))))) if index else None

    def draw(self) -> Iterator[str]:
        """The study's report; without its file a list of its runs. Raises ValueError where the file is not right."""
        source, places = Path(str(self._shelf.index().get("file"))), self._shelf.places()
        if not source.is_file():
            yield f'<p class="notice">The study\'s file, {text(source)}, is gone: there is no report without it.</p>'
            yield section("Runs", self._list(places))
            return
        study = load_study(source)
        found = {CellName(cell.variant, cell.seed, cell.order): cell for cell in cells(study)}
        rows = [(found[cell], self._place(found[cell].run, folder)) for cell, folder in places.items() if cell in found]
        if len(rows) < max(len(places), len(found)):
            gone, new = len(places) - len(rows), len(found) - len(rows)
            what = f"{gone} of its cells are in it no more, and {new} new ones have no run yet"
            yield f'<p class="notice">{text(source)} is not what it was when the study was last begun: {what}.</p>'
        if rows:
            sheet = Sheet(study, self._shelf.folder, tuple(rows))
            findings = Findings(sheet, sheet.outcomes(), source)
            for make in SECTIONS:
                if html := make(findings):
                    yield LINK.sub(r"\1", HEAD.sub("<h2>Report so far</h2>", html))

    def _place(self, run: Any, folder: Path) -> Any:
        return self._shelf.place(run, folder, self._shelf.rounds(folder)[1])

    def _list(self, places: dict[CellName, Path]) -> str:
        rows = [[*map(text, cell), self._shelf.state(folder), text(folder.name)] for cell, folder in places.items()]
        return table(["variant", "seed", "order", "state", "folder"], rows, (1,))

    def _at_work(self, entries: Sequence[Entry], now: float) -> str:
        """The runs at which a process is at work."""
        if not entries:
            return part("work", '<p class="soft">No run is at work.</p>')
        lines = []
        for i, entry in enumerate(entries[:LONGEST]):
            done, of = self._shelf.rounds(entry.folder)
            shown = f"{done} of {of or '?'} {bar(done, of, 'rounds done')}"
            own = f"<code>run_sim.py watch {text(shlex.quote(str(_from_here(entry.folder))))} --port 8766</code>"
            cells_of = [*map(text, entry.cell), shown, f"{ago(entry.heard, now)} ago" if entry.heard else "–", own]
            lines.append([part(f"{i} {name}", cell) for name, cell in zip(HEADER, cells_of, strict=True)])
        rest = f'<p class="soft">And {len(entries) - LONGEST} more.</p>' if len(entries) > LONGEST else ""
        return table(HEADER, lines, (1, 3, 4)) + rest


def _from_here(folder: Path) -> Path:
    here = Path.cwd()
    return folder.relative_to(here) if folder.is_relative_to(here) else folder


def _numbers(entries: Sequence[Entry], counts: Counter[Any]) -> str:
    """How many runs are how far."""
    working = sum(entry.working for entry in entries)
    begun = sum(entry.state == "begun" and not entry.working for entry in entries)
    new = sum(entry.state == "new" and not entry.working for entry in entries)
    shown = [("finished", counts["finished"]), ("at work", working), ("begun, not at work", begun)]
    shown += [("new", new), ("failed", counts["failed"])]
    done = part("rounds", bar(counts["finished"], len(entries), "runs finished"))
    return tiles((name, str(count), name) for name, count in shown) + done
