"""The screen of a simulation while it runs: one live table on a terminal, plain lines anywhere else.

It watches the run's folder from a thread of its own and must never disturb the run: whatever goes wrong here is dropped.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.errors import LiveError
from rich.live import Live
from rich.table import Table
from rich.text import Text

from server.waiting import clock
from simulations.by_class import class_lines, class_table, read_classes
from simulations.lines import Lines
from simulations.silence import Silence
from simulations.watch import Row, Watch, plain

PERIOD_S = {"live": 0.25, "plain": 1.0}
STYLES = {
    "training": "green",
    "tuning": "green",
    "evaluating": "cyan",
    "preparing": "magenta",
    "paused": "yellow",
    "failed": "bold red",
    "present": "",
    "done": "blue",
    "waiting": "dim",
    "left": "dim",
}
"""State -> colour; the order is that in which sites are shown when the terminal has no room for all."""
GAP = 2


class Screen:
    """Shows a run from `with Screen(...):` to the end of the block; after `watch_s` seconds without news, who keeps it."""

    def __init__(
        self, folder: Path, sites: Sequence[str], rounds: int, console: Console | None = None, *, watch_s: float = 60.0
    ) -> None:
        self.console = console or Console()
        self.watch = Watch(folder, sites, rounds)
        self.silence = Silence(self.watch, watch_s)
        self.lines = Lines(rounds)
        live = self.console.is_terminal and not self.console.is_dumb_terminal and not self.console.options.ascii_only
        self.live = Live(console=self.console, auto_refresh=False, transient=True) if live else None
        self._stop, self._thread = Event(), Thread(target=self._run, name="screen", daemon=True)
        self._shown: object = None

    def __enter__(self) -> Self:
        try:
            if self.live:
                self.live.start()
        except LiveError:  # another live display holds this terminal
            self.live = None
        with suppress(Exception):
            self._look(first=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        try:
            self._thread.join(timeout=5)
        finally:  # interrupted or not, the terminal gets its cursor back
            with suppress(Exception):
                self._look()
            with suppress(Exception):
                self._close()

    def _run(self) -> None:
        while not self._stop.wait(PERIOD_S["live" if self.live else "plain"]):
            with suppress(Exception):
                self._look()

    def _look(self, first: bool = False) -> None:
        rows, watch, silence = self.watch.update(), self.watch, self.silence
        silence.look(rows)
        if not self.live:
            for line in self.lines.first(watch.news) if first else self.lines.tell(watch.news):
                self._print(line)
            if silence.due():
                self._print(silence.line(rows))
            return
        # Drawing costs a few milliseconds, which in a one-process run are training's: only when something moved.
        state = (rows, int(watch.elapsed()), self.console.size)
        if state != self._shown:
            self._shown = state
            waits = Text(silence.line(rows), style="yellow") if silence.too_long() else Text(silence.title(), style="dim")
            self.live.update(frame(watch, rows, *self.console.size, waits), refresh=True)

    def _close(self) -> None:
        by_class = read_classes(self.watch.folder) if self.watch.ended else {}
        if self.live:
            self.live.stop()
            self.console.print(frame(self.watch, self.watch.update(), self.console.width))
            if by_class:
                self.console.print(class_table(by_class, self.console.width))
            return
        for line in (*self.lines.rest(), *class_lines(by_class)):
            self._print(line)
        if not self.watch.ended:
            self._print(f"stopped in round {self.watch.round} of {self.watch.rounds} after {clock(self.watch.elapsed())}")

    def _print(self, line: str) -> None:
        encoding = self.console.encoding
        line = plain(line).encode(encoding, "replace").decode(encoding)
        self.console.print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)


# The live table ------------------------------------------------------------------------------------------------------


def frame(watch: Watch, rows: Sequence[Row], width: int, height: int | None = None, waits: Text | None = None) -> Group:
    """Everything the screen shows, in `width` columns and, if given, at most `height` lines; `waits` says for whom."""
    why = [Text(f"{plain(row.site)}: {row.fault}", style="yellow") for row in rows if row.fault]
    why += [Text(f"{plain(row.site)} failed: {row.why}", style="red") for row in rows if row.why]
    if height is not None:
        why = why[-max(1, height // 5) :]
    head = [waits] if waits else []
    table, taken = _table(rows, width, True)
    room = None if height is None else height - 4 - sum(1 + len(line) // width for line in (*head, *why))
    rest: list[Text] = []
    if room is not None and taken > room:  # first the compositions go, then the sites at which nothing happens
        busy = sorted(rows, key=lambda row: list(STYLES).index(row.state))
        chosen = {row.site for row in (busy if len(rows) <= room else busy[: max(room - 1, 1)])}
        table, _ = _table([row for row in rows if row.site in chosen], width, False)
        rest = [Text(_others([row for row in rows if row.site not in chosen]), style="dim")] if len(rows) > room else []
    return Group(_header(watch, rows), *head, table, *rest, *why)


def _header(watch: Watch, rows: Iterable[Row]) -> Text:
    eta, traffic = watch.eta(), sum(row.bytes for row in rows)
    facts = [f"round {watch.round}/{watch.rounds}" if watch.round else f"{watch.rounds} rounds"] + (
        [f"stage {plain(watch.stage)}"] if watch.stage else []
    )
    facts += [("done in " if watch.ended else "elapsed ") + clock(watch.elapsed())]
    facts += [watch.evaluating] if watch.evaluating else []
    facts += [f"{clock(eta)} left"] if eta is not None else []
    facts += [f"{traffic / 1e6:.1f} MB"] if traffic else []
    return Text.assemble((plain(watch.name), "bold"), *(f" · {fact}" for fact in facts))


def _table(rows: Sequence[Row], width: int, compositions: bool) -> tuple[Table, int]:
    """The table, and how many lines its rows take. Columns have their content's width; the compositions get the rest."""
    head = ["site", "state", "progress", "loss", "Dice", "memory"] + (["MB"] if width >= 110 else [])
    cells = [_cells(row, len(head)) for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    widths[0] = min(widths[0], 16)
    free = width - sum(widths) - GAP * len(head)
    bar = max(0, min(12, free - 24 if compositions else free))
    bar = bar if bar >= 4 else 0
    widths[2] += bar + 1 if bar else 0
    room = max(width - sum(widths) - GAP * len(head), 8)
    table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="dim")
    for name, size in zip(head, widths, strict=True):
        table.add_column(name, width=size, overflow="fold", justify="right" if name in head[3:] else "left")
    if compositions:
        table.add_column("holds", width=room, overflow="fold")
    lines = 0
    for row, cell in zip(rows, cells, strict=True):
        holds = _holds(row, room) if compositions else []
        lines += max(1, sum(-(-len(line) // room) for line in holds), -(-len(cell[0]) // widths[0]))
        progress = _progress(row, cell[2], bar, widths[2])
        texts = [Text(cell[0]), Text(cell[1], style=STYLES[row.state]), progress, *map(Text, cell[3:])]
        table.add_row(*texts, *([Text("\n".join(holds))] if compositions else []))
    return table, lines


def _cells(row: Row, columns: int) -> list[str]:
    steps = "" if row.at is None else f"{row.at}" if row.of is None else f"{row.at}/{row.of}"
    loss = "" if row.loss is None else f"{row.loss:.3f}" if abs(row.loss) < 100 else f"{row.loss:.3g}"
    dice = "" if row.dice is None else f"{row.dice:.3f}"
    memory = "" if row.memory is None else f"{row.memory}" if row.budget is None else f"{row.memory}/{row.budget}"
    traffic = f"{row.bytes / 1e6:.1f}" if row.bytes else ""
    return [plain(row.site), row.state, steps, loss, dice, memory, traffic][:columns]


def _progress(row: Row, steps: str, bar: int, width: int) -> Text:
    """The numbers after a bar of `bar` characters; without room for one they lie on it."""
    share = min(1.0, max(0.0, row.at / row.of)) if row.at is not None and row.of else 0.0
    style = STYLES[row.state]
    if not bar:
        text = Text(steps.ljust(width) if share else steps)
        text.stylize(f"{style} reverse", 0, int(share * width))
        return text
    full = int(share * bar)
    return Text.assemble(("━" * full, style), ("━" * (bar - full) + " ", "dim"), steps) if steps else Text()


def _holds(row: Row, width: int) -> list[str]:
    """What the memory holds by class, then by origin, broken between entries."""
    classes = [f"{plain(name)} {count}" for name, count in row.classes.items()]
    domains = [f"{plain(name)} {count}" for name, count in row.domains.items()]
    return [*_flow(classes, width), *_flow([f"from {domains[0]}", *domains[1:]] if domains else [], width)]


def _flow(entries: Iterable[str], width: int) -> list[str]:
    lines: list[str] = []
    for entry in entries:
        if lines and len(lines[-1]) + 3 + len(entry) <= width:
            lines[-1] += f" · {entry}"
        else:
            lines.append(entry)
    return lines


def _others(rows: Sequence[Row]) -> str:
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.state] = counts.get(row.state, 0) + 1
    return f"and {len(rows)} more: " + ", ".join(f"{count} {state}" for state, count in counts.items())
