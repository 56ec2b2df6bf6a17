"""From a config to pretend hospitals on this disk: phantoms and shifts become ordinary folders, site files become whole."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from clients.data import SOURCES, site_cases
from clients.labels import own_values, with_included
from configs.load import nearest
from configs.schema import PretendSite, Run
from configs.site import without_circles
from simulations.paradigms import spelled_out
from simulations.phantoms import LABELS, write_phantoms
from simulations.shifts import shifted_folder
from simulations.stream import MADE, require_msd

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
    return spelled_out(run)


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
            require_msd(site.model_copy(update=update), "a shift")
            chosen = [case.name for part in (cases.train, cases.validation, cases.test) for case in part]
            update["root"] = shifted_folder(root, site.shift, name, DATA_SEED, chosen)
    except ValueError as error:
        text = str(error)
        raise ValueError(text if text.startswith("site ") else f"site {name!r}: {text}") from None
    return site.model_copy(update=update)


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
