"""What stands above the report on a run's live page, as HTML: where the run is, what each site is doing, what it waits for.

What changes lies in elements of its own (`data-part`), which the page's script renews one by one; moments (`data-at`) are
counted on by it.
"""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from math import floor
from pathlib import Path

from server.page import number, size, swatch, table, text
from server.record import FILE as RECORD
from server.waiting import clock
from simulations.live_frame import Face
from simulations.live_run import LiveRun, Moment, Phase
from simulations.watch import Row, plain

PHASES: dict[Phase, str] = {
    "not begun": "This run has not begun yet; the page fills itself when it does.",
    "stopped": "Stopped: no process of this machine is at work on this run, and nothing has been heard of it.",
}
TINTS = {
    "training": "#009E73",
    "tuning": "#009E73",
    "evaluating": "#56B4E9",
    "preparing": "#CC79A7",
    "paused": "#F0E442",
    "failed": "#D55E00",
    "present": "#8a94a0",
    "done": "#0072B2",
    "waiting": "transparent",
    "left": "transparent",
}
TASKS = {"hello": "say what it has", "init": "send the first weights"}
"""Of orders whose names say little, what they ask for."""
NAME = re.compile("<h1>.*?</h1>", re.DOTALL)
HEADER = ("site", "state", "loss", "Dice", "memory", "bytes", "last sign of life")


class LiveRunPage:
    """What a live page shows of a run's folder (simulations/live_frame.py: Watched)."""

    style, nothing = "", ""

    def __init__(self, folder: Path, now: Callable[[], float] = time.time) -> None:
        self._run = LiveRun(folder, now)
        self._phase: Phase = "going on"

    def face(self) -> Face:
        """The run at this moment."""
        moment = self._run.look()
        self._phase = moment.phase
        return Face(plain(moment.name), title(moment), phase(moment), live_section(moment, self._run.now()))

    def hurry(self) -> bool:
        """Whether it has ended, or not begun."""
        return self._phase != "going on"

    def version(self) -> tuple[int, int, int] | None:
        """Which record this is, and how long."""
        with suppress(OSError):
            record = (self._run.folder / RECORD).stat()
            return record.st_size, record.st_mtime_ns, record.st_ino
        return None

    def draw(self) -> Iterator[str]:
        """The run's report; its name is on the page already. Raises ValueError as `read_run`."""
        from server.digest import read_run
        from server.report import sections_of
        from simulations.holdings import held_by_uncertainty

        run = read_run(self._run.folder)
        for html in sections_of(replace(run, uncertainty=held_by_uncertainty(run.folder))):
            yield NAME.sub("<h2>Report</h2>" if run.end else "<h2>Report so far</h2>", html, count=1)


def live_section(moment: Moment, now: float) -> str:
    """What is below a run's name and its `phase`, as of `now` (seconds since 1970)."""
    done = moment.round if moment.phase == "finished" else max(0, moment.round - 1)
    parts = [
        tiles(_tiles(moment, now)),
        part("rounds", bar(done, moment.rounds, "rounds done")),
        part("wait", _waiting(moment, now)),
        _sites(moment, now),
        part("faults", _faults(moment.rows)),
    ]
    return "".join(parts)


def phase(moment: Moment) -> str:
    """Where the run is, in plain words that change only when there is news: they are read aloud."""
    if moment.phase == "finished":
        took = "" if moment.took is None else f", in {clock(moment.took)}"
        return f"Finished after {moment.round} {'round' if moment.round == 1 else 'rounds'}{took}."
    where = f"{_round(moment)}{f', stage {plain(moment.stage)}' if moment.stage else ''}"
    if moment.phase == "going on":
        return f"{where}: no news for too long." if moment.stall else f"{where}." if moment.round else "It is starting."
    return f"{PHASES[moment.phase]} {f'It was in {where[0].lower()}{where[1:]}.' if moment.round else ''}".strip()


def title(moment: Moment) -> str:
    """For the browser's tab."""
    short = f"{moment.round}/{moment.rounds or '?'}" if moment.phase == "going on" and moment.round else moment.phase
    return f"{short} · {plain(moment.name)}"


def tiles(shown: Iterable[tuple[str, str, str]]) -> str:
    """Numbers (HTML) with what they are; each has a name by which it is renewed."""
    return f'<div class="tiles">{"".join(_tile(*one) for one in shown)}</div>'


def part(name: str, html: str) -> str:
    """HTML that is renewed by itself."""
    tag = "div" if html.startswith(("<p", "<ul")) else "span"
    return f'<{tag} data-part="{text(name)}">{html}</{tag}>'


def ago(at: float | None, now: float, kind: str = "age") -> str:
    """How long ago a moment was, which the page's script counts on: an `age` ("70 s"), or a `clock` ("1:10")."""
    if at is None:
        return "–"
    return f'<span data-at="{at:.3f}" data-kind="{kind}">{lasted(now - at, kind)}</span>'


def lasted(seconds: float, kind: str) -> str:
    """Seconds in words; live_script.py says it the same way."""
    return f"{max(0, floor(seconds))} s" if kind == "age" and seconds < 120 else clock(floor(seconds))


def bar(at: int | None, of: int | None, what: str) -> str:
    """How much of something is done; nothing where that is not known."""
    if at is None or not of:
        return ""
    return f'<progress value="{max(0, min(at, of))}" max="{of}" aria-label="{what}: {at} of {of}"></progress>'


# Parts ----------------------------------------------------------------------------------------------------------------


def _tile(name: str, value: str, what: str) -> str:
    return f'<div class="tile"><b>{part(f"tile {name}", value)}</b><span>{what}</span></div>'


def _round(moment: Moment) -> str:
    if not moment.round:
        return ""
    return f"Round {moment.round} of {moment.rounds}" if moment.rounds else f"Round {moment.round}"


def _tiles(moment: Moment, now: float) -> list[tuple[str, str, str]]:
    going = moment.phase == "going on"
    elapsed = ago(moment.began, now, "clock") if going else "–" if moment.took is None else clock(moment.took)
    traffic = sum(row.bytes for row in moment.rows)
    return [
        ("round", f"{moment.round} of {moment.rounds or '?'}", "round"),
        ("stage", text(plain(moment.stage)) or "–", "stage"),
        ("elapsed", elapsed, "since it was started" if going else "in all"),
        ("eta", "–" if moment.eta is None else clock(moment.eta), "left, about"),
        ("bytes", size(traffic), "sent both ways"),
        ("heard", ago(moment.last, now) if going else "–", "since the last sign of life"),
    ]


def _waiting(moment: Moment, now: float) -> str:
    """Whom the server waits for: a notice once that has taken too long."""
    if moment.stall:
        return f'<p class="notice">{text(moment.stall)}</p>'
    if moment.wait is None:
        return '<p class="soft">&nbsp;</p>'  # so that what is below does not jump
    what, _, _ = moment.wait.title(moment.wait.began).rpartition(", ")  # its clock is counted on
    return f'<p class="soft">{text(what)}, {ago(moment.wait.began, now, "clock")}</p>'


def _sites(moment: Moment, now: float) -> str:
    if not moment.rows:
        return part("sites", '<p class="soft">No site is known yet.</p>')
    lines = [
        [part(f"{i} {name}", cell) for name, cell in zip(HEADER, _cells(row, moment, now), strict=True)]
        for i, row in enumerate(moment.rows)
    ]
    return table(HEADER, lines, range(2, len(HEADER)))


def _cells(row: Row, moment: Moment, now: float) -> Sequence[str]:
    loss = number(row.loss) if row.loss is None or abs(row.loss) < 100 else f"{row.loss:.3g}"
    memory = "–" if row.memory is None else f"{row.memory}" if row.budget is None else f"{row.memory}/{row.budget}"
    heard = f"{ago(row.heard, now)} ago" if row.heard else "–"
    return [text(plain(row.site)), _state(row, moment, now), loss, number(row.dice), memory, size(row.bytes), heard]


def _state(row: Row, moment: Moment, now: float) -> str:
    """What a site is doing; where it does not tell, what it was asked for."""
    was = "was " if row.at is not None and moment.phase == "stopped" else ""
    state, wait = f"{swatch(TINTS.get(row.state, 'transparent'))}{was}{row.state}", moment.wait
    if row.at is not None:
        what = "step" if row.state in ("training", "tuning") else "case"
        steps = f"{what} {row.at}{f'/{row.of}' if row.of else ''}"
        return f'<span class="key">{state}, {steps}</span>{bar(row.at, row.of, what)}'
    if wait and row.site in wait.sites:
        return f"{state}, asked to {text(TASKS.get(wait.task, wait.task))} {ago(wait.began, now, 'clock')} ago"
    return f"{state}: {text(row.why)}" if row.state == "failed" else state


def _faults(rows: Iterable[Row]) -> str:
    """What went wrong: made up for, or a failure that stays until the site succeeds."""
    said = [f"{plain(row.site)}: {row.fault}" for row in rows if row.fault]
    said += [f"{plain(row.site)} failed: {row.why}" for row in rows if row.why and row.state != "failed"]
    return f"<ul>{''.join(f'<li>{text(line)}</li>' for line in said)}</ul>" if said else ""
