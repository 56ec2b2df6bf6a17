"""`run_sim.py study`: what the terminal shows of a study, and in which order things are done."""

from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from simulations.ray_cluster import cores
from simulations.screen import clock
from simulations.studies.several import Work, in_turn, run_all
from simulations.studies.shelf import Place
from simulations.studies.study import Sheet, open_study, write_index, write_tables
from simulations.studies.timing import timed, total


def conduct_study(path: Path, runs: Path, *, workers: int | None, retry_failed: bool, dry_run: bool, console: Console) -> int:
    """Do what is left of a study and write its tables; returns how many of its cells have failed.

    Interrupted, it writes the tables of what is finished before it lets KeyboardInterrupt through.

    Raises:
        ValueError: the study is not right, another process is at it, or there are too few GPUs.
    """
    with console.status("preparing the runs' data") as status:
        sheet = open_study(path, runs, lambda done, of: status.update(f"preparing the runs' data: cell {done} of {of}"))
    todo = list(in_turn(sheet.todo(retry_failed)))
    _say_plan(sheet, todo, console)
    if dry_run:
        _say_cost(todo, workers or cores(), console)
        return 0
    sheet.folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(sheet.folder / "lock", timeout=0):
            write_index(sheet, path)
            try:
                _do(sheet, todo, workers, console)
            except KeyboardInterrupt:  # what is finished has its tables; a second signal leaves at once
                _leave(sheet, path, console)
                raise
            return _leave(sheet, path, console)
    except Timeout:
        raise ValueError(f"{sheet.folder}: another process is at this study; wait for it, or stop it") from None


def _say_plan(sheet: Sheet, todo: list[Place], console: Console) -> None:
    study, counts = sheet.study, sheet.counts()
    names = list(dict.fromkeys(cell.variant for cell, _ in sheet.rows))
    facts = f"{len(names)} variants x {len(study.seeds)} seeds x {max(len(study.orders), 1)} orders"
    states = ", ".join(f"{counts[state]} {state}" for state in ("finished", "begun", "new", "failed") if counts.get(state))
    console.print(f"{study.name}: {facts} = {len(sheet.rows)} cells, {len(sheet.places)} runs ({states}); {len(todo)} to do")
    table = Table("variant", "runs", "steps each", "rounds", "finished", box=None, pad_edge=False, header_style="dim")
    for name in names:
        places = list({place.folder: place for cell, place in sheet.rows if cell.variant == name}.values())
        steps = sorted({place.steps for place in places})
        each = str(steps[0]) if len(steps) == 1 else f"{steps[0]} to {steps[-1]}"
        done = sum(place.state == "finished" for place in places)
        table.add_row(name, str(len(places)), each, str(places[0].rounds), str(done))
    console.print(table)


def _say_cost(todo: list[Place], workers: int, console: Console) -> None:
    if not todo:
        return
    with console.status("timing a first round"):
        pace = timed(todo[0])
    seconds = total(todo, pace, workers)
    each = f"{pace.step_s * 1000:.0f} ms a step, {pace.test_s * 1000:.0f} ms a test case, timed alone"
    console.print(f"about {clock(seconds)} with {workers} at once ({each}); nothing was run")


def _do(sheet: Sheet, todo: list[Place], workers: int | None, console: Console) -> None:
    if not todo:
        return
    for place in todo:
        place.write()
    names = {place.folder: f"{cell.variant}, seed {cell.seed}, {cell.order}" for cell, place in reversed(sheet.rows)}
    bar = Progress(BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console)
    with bar:
        task, told = bar.add_task("starting", total=1.0), set[Path]()

        def watch(work: Work) -> None:
            eta, done = work.eta(), len(work.ended)
            left = "" if eta is None else f", about {clock(eta)} left"
            share = sum(work.share(place) for place in todo) / len(todo)
            bar.update(task, completed=share, description=f"{done} of {len(todo)} runs, {len(work.running)} at work{left}")
            for folder in work.ended.keys() - told:
                told.add(folder)
                how = f"failed: {work.ended[folder]}" if work.ended[folder] else "done"
                console.print(f"{done}/{len(todo)} {names[folder]}: {how}{left}", markup=False, highlight=False, soft_wrap=True)

        run_all(todo, workers, sheet.folder / "log.txt", watch)


def _leave(sheet: Sheet, path: Path, console: Console) -> int:
    """The tables and the page of what is there, and what is not there and why."""
    from simulations.studies.page import write_page

    write_index(sheet, path)
    outcomes = sheet.outcomes()
    written = write_tables(sheet, outcomes)
    failures = list(sheet.failures())
    for cell, reason in failures:
        line = f"failed: {cell.variant}, seed {cell.seed}, {cell.order}: {reason} (try again: --retry-failed)"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if written:
        from simulations.studies.verdict import verdict

        said = verdict(outcomes, sheet.study.metrics[0], sheet.reference)
        for line in (said, f"tables: {', '.join(map(str, written))}"):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(f"report: {write_page(sheet, outcomes, path)}", markup=False, highlight=False, soft_wrap=True)
    return len(failures)
