"""What must fit together in a run, beyond each field by itself."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from configs.strategy import HOME

if TYPE_CHECKING:
    from configs.schema import Run


def problems(run: "Run") -> Iterator[str]:
    """What does not fit, in the user's words: nothing if the run can be."""
    yield from _budget_problems(run)
    yield from _index_problems(run)
    yield from _arrival_problems(run)
    yield from _class_problems(run)
    yield from _stream_problems(run)
    if run.strategy.pull != type(run.strategy)().pull and not run.strategy.personalise:
        yield "strategy.pull: holds a site's own model near the shared one; without `personalise` there is none"


def _budget_problems(run: "Run") -> Iterator[str]:
    budgets = {"memory.budget": run.memory.budget}
    budgets |= {f"sites.{name}.budget": site.budget for name, site in run.sites.items() if site.budget}
    for where, budget in budgets.items():
        if budget < run.train.batch:
            yield f"{where}: {budget} is smaller than the batch (train.batch: {run.train.batch}), so no batch could be drawn"
    for name, site in run.sites.items():
        if site.budget and run.memory.total is None and site.budget > run.memory.budget:
            most = f"memory.budget: {run.memory.budget}"
            yield f"sites.{name}.budget: {site.budget} is more than the server asks any site to keep ({most})"


def _index_problems(run: "Run") -> Iterator[str]:
    learning = sum(1 for site in run.sites.values() if site.learns)
    total, needed = run.memory.total, run.index.floor * learning
    if total is not None and total < needed and run.paradigm != "stream":
        yield f"memory.total: {total} is too little for {learning} sites of at least {run.index.floor} (index.floor)"
    if not run.index.on and run.strategy.weigh == "uniqueness":
        yield "strategy.weigh: uniqueness is what the index measures; switch it on with index.on: true"
    if run.index.on and run.strategy.privacy:
        yield "strategy.privacy: a site's sketches steer what others train on, past all noise; it needs index.on: false"


def _arrival_problems(run: "Run") -> Iterator[str]:
    arrivals = run.arrivals
    if arrivals.visits is not None and arrivals.order is not None:
        yield "arrivals: write `order` or `visits`, not both"
    if arrivals.overlap and arrivals.stay:
        yield f"arrivals.overlap: {arrivals.overlap} means nothing while sites stay (arrivals.stay: false lets them leave)"
    if arrivals.door == "open":
        if arrivals.rounds is None:
            yield "arrivals.rounds: an open door needs a number of rounds"
        return
    for key, named in (("visits", arrivals.visits), ("order", arrivals.order)):
        if named is not None and not any(named):
            yield f"arrivals.{key}: names no site"
    yield from _presence_problems(run)


def _presence_problems(run: "Run") -> Iterator[str]:
    """Every site is named by a scripted schedule, and nobody else is. A deployment's config has no `sites` to compare."""
    if not run.sites:
        return
    visits, order = run.arrivals.visits, run.arrivals.order
    named = {site for site, turns in visits.items() if turns} if visits is not None else set(order or run.sites)
    for site in sorted({*named, *run.arrivals.extra} - run.sites.keys()):
        yield f"arrivals names the site {site!r}, which `sites` does not have (it has {', '.join(run.sites)})"
    for name in run.sites:
        if name not in named and run.sites[name].learns:  # who is held out never arrives
            yield f"sites.{name}: is never present (arrivals does not name it)"


def _stream_problems(run: "Run") -> Iterator[str]:
    """One extra client learns in the stream paradigm: what belongs to a site alone, no other site gets."""
    if run.paradigm != "stream":
        return
    if run.strategy.share in HOME:
        why = "the sites only evaluate, so what stays at home stays with the extra client"
        yield f"strategy.share: {run.strategy.share} means nothing in the stream paradigm ({why})"
    if run.strategy.personalise:
        why = "the one memory is the extra client's, so the sites have none to tune on"
        yield f"strategy.personalise: means nothing in the stream paradigm ({why}); leave it at 0"


def _class_problems(run: "Run") -> Iterator[str]:
    sites = run.sites.values()
    drawn = {name for site in sites for name in (site.annotates or site.labels or ())}
    open_ended = any(not (site.annotates or site.labels) for site in sites)
    for name in sorted({*(run.classes or ())} - drawn) if not open_ended else ():
        yield f"classes: {name!r} is annotated by nobody (sites annotate {', '.join(sorted(drawn))})"
    for site_name, site in run.sites.items():
        for name in site.annotates or ():
            if site.labels and name not in site.labels:
                yield f"sites.{site_name}.annotates: {name!r} is not in its labels ({', '.join(site.labels)})"
