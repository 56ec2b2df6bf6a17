"""A hospital's own file beside a recipe, before its node connects: what it has, what it would do, what would leave."""

from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from clients.data import Case, SiteCases, site_cases
from clients.labels import check_values
from clients.prepare import prepare
from clients.train import pick_device
from configs.load import cache_root, load_site
from configs.schema import Run, SiteFile

PER_CLASS = ("train", "validation", "test")


def print_site(run: Run, file: Path, console: Console) -> None:
    """Read the site file, prepare every case, and print what the site would be in a run of this recipe.

    Raises:
        ValueError: file, data or device do not fit; one line says what and where.
    """
    site = load_site(file)
    if site.includes is None:
        site = site.model_copy(update={"includes": run.includes})
    try:
        device = str(pick_device(site.device))
    except ValueError as error:
        raise ValueError(f"{file}: device: {error}") from None
    cases = site_cases(file.stem, site, run.seed)
    _print_classes(run, cases, console, str(file))
    for name, fact in _facts(run, site, cases, device).items():
        console.print(f"{name:>14}  {escape(fact)}", highlight=False)


def _print_classes(run: Run, cases: SiteCases, console: Console, title: str) -> None:
    table = Table(title=f"{escape(title)}: cases that hold each class", title_justify="left")
    table.add_column("class")
    columns = []
    with console.status("preparing the cases"):
        for part in PER_CLASS:
            table.add_column(part, justify="right")
            columns.append(_holding(run, cases, getattr(cases, part)))
    for name in cases.labels:
        table.add_row(escape(name), *(str(column[name]) for column in columns))
    console.print(table)


def _holding(run: Run, cases: SiteCases, some: Iterable[Case]) -> dict[str, int]:
    """{class: how many of these cases have a voxel of it}"""
    found = dict.fromkeys(cases.labels, 0)
    for volume in prepare(list(some), run.preprocess, cache_root()):
        check_values(volume.case, volume.counts, cases.values)
        for name, values in cases.labels.items():
            found[name] += volume.voxels(values) > 0
    return found


def _facts(run: Run, site: SiteFile, cases: SiteCases, device: str) -> dict[str, str]:
    shares = site.shares.model_dump(exclude_defaults=True)
    withheld = ", ".join(f"{key}: {str(value).lower()}" for key, value in shares.items())
    per_round = run.stream.cases_per_round
    rate = "all" if per_round is None else str(per_round)
    return {
        "cases": f"{len(cases.train)} train, {len(cases.validation)} validation, {len(cases.test)} test, split by subject",
        "its stream": f"{rate} cases a round, {run.train.sampling_rate} steps for each {run.train.batch}; then it only replays",
        "its memory": f"{min(site.budget or run.memory.budget, run.memory.budget)} samples, {run.memory.policy}",
        "device": device,
        "what leaves": "updates, counts, sketches and results as the recipe asks (docs/privacy.md)"
        + (f", but for `shares`: {withheld}" if withheld else ""),
    }
