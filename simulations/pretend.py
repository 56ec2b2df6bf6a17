"""From a config to pretend hospitals on this disk: phantoms and shifts become ordinary folders, site files become whole."""

from collections.abc import Iterable, Mapping
from math import ceil
from pathlib import Path

from clients.data import SOURCES, SiteCases, site_cases
from clients.labels import own_values, with_included
from configs.load import nearest
from configs.schema import Arrivals, PretendSite, Run, Selection, Split
from configs.site import without_circles
from simulations.partition import joined_folder
from simulations.phantoms import LABELS, write_phantoms
from simulations.shifts import shifted_folder

STREAM = "stream"
"""The extra client of the stream paradigm."""
MADE = "msd"
"""The source of every folder made here."""
INCLUDES = {"liver": ["liver_tumor"]}
"""What lies inside what in a phantom, where its site says nothing else: where both are drawn, the liver is either's voxels."""
DATA_SEED = 0
"""Pretend hospitals are the same for every seed of a run."""


def materialise(run: Run) -> Run:
    """The run with every site's folder written and named, and the paradigm spelled out: what sites and server read.

    Raises:
        ValueError: a site's data do not fit; the message names the site.
    """
    if not run.sites:
        raise ValueError("sites: a simulation needs at least one site")
    sites = {name: _whole(name, site, run) for name, site in run.sites.items()}
    _check_includes(run, sites)
    run = run.model_copy(update={"sites": sites})
    return _as_stream(run) if run.paradigm == "stream" else run


def _whole(name: str, site: PretendSite, run: Run) -> PretendSite:
    root = site.root or run.data.root
    update: dict[str, object] = {"phantoms": None, "shift": None, "split": site.split or run.data.split}
    try:
        if site.phantoms is not None:
            root = write_phantoms(name, site.phantoms, site.annotates)
            update |= {"source": MADE} | ({} if site.labels else _phantom_labels(site))
        if root is not None:
            update["root"] = root = root.expanduser().absolute()
        if site.shift is not None and root is not None:
            every = {**update, "max_cases": None, "learns": True}  # the split is a share of what the folder holds
            cases = site_cases(name, site.model_copy(update=every), run.seed)
            _require_msd(site.model_copy(update=update), "a shift")
            chosen = [case.name for part in (cases.train, cases.validation, cases.test) for case in part]
            update["root"] = shifted_folder(root, site.shift, name, DATA_SEED, chosen)
    except ValueError as error:
        text = str(error)
        raise ValueError(text if text.startswith("site ") else f"site {name!r}: {text}") from None
    return site.model_copy(update=update)


def _require_msd(site: PretendSite, what: str) -> None:
    """Folders are shifted and joined as MSD folders."""
    if site.source != MADE:
        raise ValueError(f"{what} needs an MSD folder, and its source is {site.source!r}")


def _phantom_labels(site: PretendSite) -> dict[str, object]:
    """What a phantom's site says of its labels."""
    includes = without_circles({**INCLUDES, **(site.includes or {})})
    values = with_included({name: (LABELS[name],) for name in site.annotates or LABELS}, includes)
    labels = {name: list(some) if len(some) > 1 else some[0] for name, some in values.items()}
    return {"labels": labels, "includes": includes}


def _check_includes(run: Run, whole: Mapping[str, PretendSite]) -> None:
    """Raises ValueError if `includes` names a class that the labels of no site can hold."""
    said = {"includes": run.includes} | {f"sites.{name}.includes": site.includes or {} for name, site in run.sites.items()}
    if not any(said.values()):
        return
    known = {name for site in run.sites for name in _can_hold(site, run.sites[site], whole[site], run.seed)}
    for where, includes in said.items():
        for name in (*includes, *(inner for some in includes.values() for inner in some)):
            if name not in known:
                raise ValueError(f"{where}: {name!r} is a class that no site has; {nearest(name, known)}")


def _can_hold(name: str, site: PretendSite, whole: PretendSite, seed: int) -> Iterable[str]:
    """The classes that a site's labels can hold, drawn or not."""
    if site.phantoms is not None and not site.labels:
        return LABELS
    site_cases(name, whole, seed)  # says what is wrong with its folder, if anything is
    return own_values(whole, SOURCES[whole.source](Path(str(whole.root)))[1])


# The stream paradigm ----------------------------------------------------------------------------------------------------


def _as_stream(run: Run) -> Run:
    """One extra client sees all sites' training cases in order, with one memory; the sites only evaluate."""
    if STREAM in run.sites:
        raise ValueError(f"sites.{STREAM}: that name is the extra client's in the stream paradigm")
    if run.arrivals.visits is not None or run.arrivals.door == "open":
        raise ValueError("arrivals: the stream paradigm takes `order`, not `visits` or an open door")
    for key in ("rounds_per_stage", "stay"):  # an overlap is refused with `stay` already
        if getattr(run.arrivals, key) != (default := Arrivals.model_fields[key].default):
            why = f"a stage lasts as long as its site's cases, and no site leaves; leave it at {str(default).lower()}"
            raise ValueError(f"arrivals.{key}: means nothing in the stream paradigm ({why})")
    order = run.arrivals.order or list(run.sites)
    cases = {name: site_cases(name, run.sites[name], run.seed) for name in order}
    portions = {name: _portions(len(cases[name].train), run.stream.cases_per_round) for name in order}
    visits: dict[str, list[tuple[int, int | None]]] = {STREAM: [(1, None)]}
    begin = 1
    for name in order:
        visits[name] = [(begin, None)]
        begin += len(portions[name])
    client = _stream_client(run.sites, cases).model_copy(update={"arriving": [n for name in order for n in portions[name]]})
    watchers = {name: site.model_copy(update={"learns": False}) for name, site in run.sites.items()}
    arrivals = run.arrivals.model_copy(
        update={"order": None, "visits": visits, "rounds": run.arrivals.rounds or begin - 1, "extra": [STREAM]}
    )
    return run.model_copy(update={"sites": {STREAM: client, **watchers}, "arrivals": arrivals})


def _stream_client(sites: Mapping[str, PretendSite], cases: Mapping[str, SiteCases]) -> PretendSite:
    first, *rest = cases
    for name in cases:
        try:
            _require_msd(sites[name], "the stream paradigm")
        except ValueError as error:
            raise ValueError(f"site {name!r}: {error}") from None
    for other in rest:
        if cases[other].labels != cases[first].labels:
            raise ValueError(f"paradigm: a stream needs sites that annotate the same classes; {first} and {other} do not")
    roots = {name: site.root for name, site in sites.items()}
    parts = [(name, Path(str(roots[name])), [case.name for case in own.train]) for name, own in cases.items()]
    return PretendSite(
        root=joined_folder(parts),
        split=Split(test=0.0),
        labels={name: list(values) for name, values in cases[first].labels.items()},
        includes=sites[first].includes,
        domains=Selection(file="domains.json", key="origin"),
        order="listed",
        device=sites[first].device,
        cpus=sites[first].cpus,
        gpus=sites[first].gpus,
    )


def _portions(cases: int, per_round: int | None) -> list[int]:
    """A site's cases by round of the stream: all at once, or so many at a time."""
    if per_round is None or cases <= per_round:
        return [cases]
    rounds = ceil(cases / per_round)
    return [min(per_round, cases - i * per_round) for i in range(rounds)]
