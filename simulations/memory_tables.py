"""The sites' memories as tables on a terminal or in a pipe (`run_sim.py memory`)."""

import sys
from collections.abc import Mapping, Sequence
from math import ceil, isfinite
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from clients.snapshot import Sample
from configs.load import nearest
from server.digest import Digest, Row, read_run
from server.evictions import counts, nearest_id, reason
from simulations.holdings import UNVISITED, Holding, by_uncertainty, cuts, read_holdings, third
from simulations.watch import plain

PIPE_WIDTH = 100
ROUNDS_SHOWN = 20
ID_DIGITS = 8
"""Of a keyed id's 16: enough to find it in record.jsonl."""
NOTHING = "-"


def print_memory(folder: Path, duplicate: float, site: str | None = None, evictions: bool = False) -> None:
    """Print what the sites hold; of one site its samples; or the log of dropped samples.

    `duplicate`: the cosine above which two samples are the same (index.duplicate).

    Raises:
        ValueError: the folder is no run's, or there is no such site.
    """
    run = read_run(folder)
    holdings = read_holdings(run)
    chosen = [holding for holding in holdings if site in (None, holding.site)]
    if site is not None and not chosen:
        raise ValueError(f"--site {site}: there is no such site; {nearest(site, [holding.site for holding in holdings])}")
    if callable(reconfigure := getattr(sys.stdout, "reconfigure", None)):
        reconfigure(errors="replace")  # a name that the terminal cannot spell must not end the command
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    if evictions:
        _print_evictions(console, run, site)
    elif site is not None:
        _print_samples(console, run, chosen[0], cuts(holdings), duplicate)
    else:
        _print_sites(console, run, holdings, duplicate)
        _print_rounds(console, run)
    for holding in chosen:
        if holding.fault and not evictions:
            console.print(f"{plain(holding.site)}: as it last told; {holding.fault}", soft_wrap=True)


# All sites ------------------------------------------------------------------------------------------------------------


def _print_sites(console: Console, run: Digest, holdings: Sequence[Holding], duplicate: float) -> None:
    cut, index = cuts(holdings), bool(run.indexes)
    low, high = (_decimal(value) for value in cut)
    about = f"{plain(run.name)}: what the memories hold after round {run.last_round}"
    heads = ["site", "held", "stream", "arrived", "uncertainty", "low", "mid", "high", "new"]
    heads += ["u", "stand-ins", "duplicates"] if index else []
    table = _table(heads, left=("site",))
    for holding in holdings:
        table.add_row(*_line(holding, cut, run.indexes[-1] if index else None, duplicate))
    console.print(about, style="bold")
    console.print(table)
    console.print("arrived, uncertainty: quartiles of stream positions (from 0) and of the samples trained on")
    if isfinite(cut[0]):
        console.print(f"low, mid, high: samples by thirds of the federation, cut at {low} and {high}; new: {UNVISITED}")
    if index:
        console.print("u: mean uniqueness; stand-ins: protected, last like what a departed site knew;")
        console.print(f"duplicates: told that another site holds the same (cosine {duplicate:g} or more)")
    console.print()
    content = [(plain(holding.site), _listed(holding.classes), _listed(holding.domains)) for holding in holdings]
    columns = 3 if any(holding.domains for holding in holdings) else 2
    table = _table(["site", "by class", "by domain"][:columns], left=("site", "by class", "by domain"))
    for cells in content:
        table.add_row(*map(Text, cells[:columns]))
    console.print(table)
    console.print()


def _line(holding: Holding, cut: tuple[float, float], index: Row | None, duplicate: float) -> list[Text]:
    """A site's row of the first table."""
    samples, quota = holding.samples, _quota(holding, index)
    held = NOTHING if holding.held is None else f"{holding.held}/{quota}" if quota else f"{holding.held}"
    seen = str(holding.snapshot.cursor) if holding.snapshot else NOTHING
    thirds = [str(count) for count in by_uncertainty(samples, cut).values()] if holding.snapshot else [NOTHING] * 4
    cells = [_named(holding), held, seen, _quartiles(holding.arrived, 0), _quartiles(holding.uncertainties, 2), *thirds]
    if index is None:
        return list(map(Text, cells))
    if not holding.snapshot:
        return list(map(Text, [*cells, *[NOTHING] * 3]))
    mean = _decimal(float(np.mean([sample.uniqueness for sample in samples]))) if samples else NOTHING
    same = sum(_is_duplicate(sample, duplicate) for sample in samples)
    return list(map(Text, [*cells, mean, str(sum(sample.orphan for sample in samples)), str(same)]))


def _print_rounds(console: Console, run: Digest) -> None:
    """The federation round by round, evenly thinned; without an index only what is held."""
    dropped: dict[int, int] = {}
    for row in run.evictions:
        dropped[row["round"]] = dropped.get(row["round"], 0) + 1
    heads = ["round", "held", "dropped"]
    heads += ["effective", "share", "u 10 %", "u 50 %", "u 90 %", "duplicates", "stand-ins"] if run.indexes else []
    rows = run.indexes or _held_by_round(run)
    step = ceil(len(rows) / ROUNDS_SHOWN)
    console.print(f"the federation, every {step} rounds" if step > 1 else "the federation, round by round", style="bold")
    table = _table(heads)
    for row in rows[::-1][::step][::-1] if rows else ():
        held = sum((row.get("held") or {}).values())
        cells = [str(row["round"]), str(held), str(dropped.get(row["round"], 0))]
        table.add_row(*cells, *(_index_cells(row, held) if run.indexes else ()))
    console.print(table)
    if run.indexes:
        _say_total(console, run.indexes[-1])


def _say_total(console: Console, last: Row) -> None:
    held, effective = (sum((last.get(key) or {}).values()) for key in ("held", "effective"))
    pairs = last.get("duplicates") or 0
    same = f"{_count(pairs, 'pair')} of duplicates across sites"
    console.print(f"effective samples (uniqueness summed): {effective:.1f} of {held} held; {same}")


def _index_cells(row: Row, held: int) -> list[str]:
    effective = sum((row.get("effective") or {}).values())
    quantiles = [_decimal(value) for value in row.get("quantiles") or [None] * 3]
    protected = sum((row.get("orphans") or {}).values())
    share = f"{100 * effective / held:.0f} %" if held else NOTHING
    return [f"{effective:.1f}", share, *quantiles, str(row.get("duplicates", NOTHING)), str(protected)]


def _held_by_round(run: Digest) -> list[Row]:
    """Rows of held {site: samples}: a site that did not train holds what it held, until it leaves."""
    left = {row["site"]: row["round"] for row in run.moves if row["event"] == "leave"}
    held: dict[str, int] = {}
    rows: dict[int, Row] = {}
    for row in run.trains:
        held = held | {row["site"]: int(row.get("memory") or 0)}
        there = {site: count for site, count in held.items() if row["round"] < left.get(site, row["round"] + 1)}
        rows[row["round"]] = {"round": row["round"], "held": there}
    return list(rows.values())


# One site, and the log ------------------------------------------------------------------------------------------------


def _print_samples(console: Console, run: Digest, holding: Holding, cut: tuple[float, float], duplicate: float) -> None:
    index = run.indexes[-1] if run.indexes else None
    of = f" of {quota}" if (quota := _quota(holding, index)) else ""
    console.print(f"{_named(holding)}: {holding.held or 0}{of} samples", style="bold")
    heads = ["case", "id", "arrived", "trained", "loss", "uncertainty", "", *(["u"] if index else []), "classes", "domain", ""]
    table = _table(heads, left=("case", "id", "", "classes", "domain"))
    for sample in holding.samples:
        id = holding.ids.get(sample.case, NOTHING)[:ID_DIGITS]
        numbers = [str(sample.arrived), str(sample.visits), _decimal(sample.loss), _decimal(sample.uncertainty)]
        level = "" if sample.visits == 0 else third(sample, cut)
        unique = [_decimal(sample.uniqueness)] if index else []
        notes = ["stand-in"] if sample.orphan else []
        notes += ["duplicate"] if index and _is_duplicate(sample, duplicate) else []
        classes, domain = ", ".join(sorted(map(plain, sample.classes))), plain(sample.domain or "")
        cells = [plain(sample.case), id, *numbers, level, *unique, classes, domain, ", ".join(notes)]
        table.add_row(*map(Text, cells))
    console.print(table)


def _print_evictions(console: Console, run: Digest, site: str | None) -> None:
    rows = [row for row in run.evictions if site in (None, row["site"])]
    if not rows:
        console.print("no sample has been dropped, or the run is older than the log")
        return
    heads = ["round", "site", "id", "arrived", "trained", *(["u"] if run.indexes else []), "what was most like it", "its id"]
    console.print(f"{plain(run.name)}: {_count(len(rows), 'sample')} dropped, newest last", style="bold")
    table = _table(heads, left=("site", "id", "what was most like it", "its id"))
    for row in rows:
        numbers = [str(row.get(key, NOTHING)) for key in ("arrived", "visits")]
        unique = [_decimal(row.get("uniqueness"))] if run.indexes else []
        ids = [plain(str(id or NOTHING))[:ID_DIGITS] for id in (row.get("id"), nearest_id(row))]
        cells = [str(row["round"]), plain(row["site"]), ids[0], *numbers, *unique, plain(reason(row)), ids[1]]
        table.add_row(*map(Text, cells))
    console.print(table)
    for name, kinds in counts(rows).items():
        console.print(f"{plain(name)}: {_listed(kinds)}")


# Cells ----------------------------------------------------------------------------------------------------------------


def _table(heads: Sequence[str], left: Sequence[str] = ()) -> Table:
    """Plain columns, numbers to the right."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for head in heads:
        table.add_column(Text(head), justify="left" if head in left else "right", overflow="fold")
    return table


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _named(holding: Holding) -> str:
    return plain(holding.site) + (f" ({holding.absent})" if holding.absent else "")


def _quota(holding: Holding, index: Row | None) -> Any:
    return ((index or {}).get("quotas") or {}).get(holding.site) or holding.told.get("budget")


def _is_duplicate(sample: Sample, duplicate: float) -> bool:
    return sample.uniqueness <= 1 - duplicate + 1e-9


def _quartiles(values: Sequence[float], digits: int) -> str:
    if not len(values):
        return NOTHING
    quartiles = np.percentile(values, [25, 50, 75], method="nearest" if digits == 0 else "linear")
    return " ".join(_decimal(float(value)) if digits else f"{value:.0f}" for value in quartiles)


def _decimal(value: float | None) -> str:
    """Two digits after the point, and no naught before it."""
    if value is None or not isfinite(value):
        return NOTHING
    return f"{value:.2f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.2f}"


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{plain(name)} {count}" for name, count in counts.items()) or NOTHING
