"""One extra client instead of the sites' own training: it sees their cases in order, or all at once, with one memory."""

from collections.abc import Mapping
from math import ceil
from pathlib import Path
from typing import Any

from clients.data import SOURCES, SiteCases, site_cases
from clients.labels import Values, own_values
from configs.schema import Arrivals, PretendSite, Run, Selection, Split
from simulations.partition import joined_folder

STREAM = "stream"
"""The extra client's name."""


def as_stream(run: Run) -> Run:
    """The stream paradigm: all sites' training cases in order, with one memory; the sites only evaluate.

    Raises:
        ValueError: the recipe says something that means nothing here.
    """
    if run.arrivals.visits is not None or run.arrivals.door == "open":
        raise ValueError("arrivals: the stream paradigm takes `order`, not `visits` or an open door")
    for key in ("rounds_per_stage", "stay"):  # an overlap is refused with `stay` already
        if getattr(run.arrivals, key) != (default := Arrivals.model_fields[key].default):
            why = f"a stage lasts as long as its site's cases, and no site leaves; leave it at {str(default).lower()}"
            raise ValueError(f"arrivals.{key}: means nothing in the stream paradigm ({why})")
    order = run.arrivals.order or list(run.sites)
    portions = {name: _portions(len(_cases(run, name).train), run.stream.cases_per_round) for name in order}
    visits: dict[str, list[tuple[int, int | None]]] = {}
    begin = 1
    for name in order:
        visits[name] = [(begin, None)]
        begin += len(portions[name])
    run = with_extra_client(run, order, [n for name in order for n in portions[name]])
    return with_visits(run, visits, run.arrivals.rounds or begin - 1)


def with_extra_client(run: Run, order: list[str], arriving: list[int]) -> Run:
    """The run with a client that trains on the sites' cases in this order, so many a round, while the sites only evaluate."""
    if not any(arriving):
        raise ValueError(nobody_learns(run))
    if STREAM in run.sites:
        raise ValueError(f"sites.{STREAM}: that name is the extra client's in the {run.paradigm} paradigm")
    client = _client(run, {name: _cases(run, name) for name in order}).model_copy(update={"arriving": arriving})
    watchers = {name: site.model_copy(update={"learns": False}) for name, site in run.sites.items()}
    return run.model_copy(update={"sites": {STREAM: client, **watchers}})


def held_out(run: Run) -> list[str]:
    """The sites whose cases nobody may train on (`learns: false`), as people wrote it: beside the extra client no site learns.

    Where nobody learns nothing is held out: the run evaluates a model at its sites, as they arrive.
    """
    out = [name for name, site in run.sites.items() if not site.learns]
    return out if len(out) < len(run.sites) else []


def nobody_learns(run: Run) -> str:
    """A complaint."""
    return f"sites: none has a case to train on, and the {run.paradigm} paradigm needs one (sites.<site>.learns, data.split)"


def with_visits(run: Run, visits: Mapping[str, list[tuple[int, int | None]]], rounds: int) -> Run:
    """The run with these visits instead of an order; the extra client, if there is one, is there from the first round."""
    extra = [STREAM] if STREAM in run.sites else []
    whole = {**{name: [(1, None)] for name in extra}, **visits}
    update = {"order": None, "visits": whole, "rounds": rounds, "extra": extra, "stay": True, "overlap": 0}
    return run.model_copy(update={"arrivals": run.arrivals.model_copy(update=update)})


def require_msd(site: PretendSite, what: str) -> None:
    """Folders are shifted and joined as MSD folders. Raises ValueError for a site of another source."""
    if site.source != MADE:
        raise ValueError(f"{what} needs an MSD folder, and its source is {site.source!r}")


MADE, JOINED = "msd", "joined"
"""The sources of the folders made here: the second is of sites that annotate different things."""


def _cases(run: Run, name: str) -> SiteCases:
    return site_cases(name, run.sites[name], run.seed)


def _client(run: Run, cases: Mapping[str, SiteCases]) -> PretendSite:
    sites, (first, *rest) = run.sites, cases
    for name in cases:
        try:
            require_msd(sites[name], f"the {run.paradigm} paradigm")
        except ValueError as error:
            raise ValueError(f"site {name!r}: {error}") from None
    parts = [(name, Path(str(sites[name].root)), [case.name for case in own.train]) for name, own in cases.items()]
    if all(cases[other].labels == cases[first].labels for other in rest):
        joined = {name: sites[name] for name in cases}
        labels = {"labels": _all_labels(joined, cases[first].labels), "annotates": list(cases[first].labels)}
        facts: dict[str, Any] = {"root": joined_folder(parts), "includes": sites[first].includes, **labels}
    else:  # what a case's labels mean is then its own site's matter, what lies inside what too
        facts = {"root": joined_folder(parts, cases), "source": JOINED, "includes": {}}
    return PretendSite(
        **facts,
        split=Split(test=0.0),
        follow_links=True,
        domains=Selection(file="domains.json", key="origin"),
        order="listed",
        device=sites[first].device,
        cpus=sites[first].cpus,
        gpus=sites[first].gpus,
    )


def _all_labels(sites: Mapping[str, PretendSite], taught: Values) -> dict[str, int | list[int]]:
    """The classes that are taught, then what else the sites' label files may hold."""
    labels = {name: list(values) for name, values in taught.items()}
    for site in sites.values():
        for name, values in own_values(site, SOURCES[site.source](Path(str(site.root)))[1]).items():
            if name not in taught:
                labels[name] = sorted({*labels.get(name, ()), *values})
    return dict(labels)


def _portions(cases: int, per_round: int | None) -> list[int]:
    """A site's cases by round of the stream: all at once, or so many at a time."""
    if per_round is None or cases <= per_round:
        return [cases]
    rounds = ceil(cases / per_round)
    return [min(per_round, cases - i * per_round) for i in range(rounds)]
