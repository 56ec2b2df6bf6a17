"""A plan, printed."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from configs.schema import Run
from simulations.plan import Plan, index_bytes


def print_plan(plan: Plan, run: Run, console: Console) -> None:
    """What would run: a table of sites, and rounds, steps, model and bytes on the wire."""
    table = Table(title=f"{escape(run.name)}: what would run", title_justify="left")
    for heading, justify in (("site", "left"), ("arrives", "right"), ("present in rounds", "left")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for heading in ("stream", "tests", "steps"):
        table.add_column(heading, justify="right")
    table.add_column("annotates")
    for site in plan.sites:
        numbers = (str(site.cases), str(site.tests), str(site.steps))
        classes, arrives = escape(", ".join(site.classes)), str(site.rounds[0]) if site.rounds else "held out"
        table.add_row(escape(site.name), arrives, spans(site.rounds), *numbers, classes)
    console.print(table)
    strategy = " · ".join(value for value in run.strategy.model_dump().values() if isinstance(value, str))
    steps, tuning = sum(site.steps for site in plan.sites), run.strategy.personalise
    facts = {
        "stages": f"{len(plan.stages)} in {plan.rounds} rounds: {' → '.join(plan.stages)}",
        "steps": f"{steps} of batch {run.train.batch} (sampling rate {run.train.sampling_rate})",
        "classes": f"{len(plan.classes)}: {', '.join(plan.classes)}",
        "model": f"{run.model.network}, {plan.parameters:,} parameters ({plan.model_bytes / 1e6:.2f} MB)",
        "patch": " x ".join(map(str, run.train.patch)),
        "memory": f"{run.memory.policy}, {_budget(run)}{_own_budgets(run)}",
        **_index(run, len(plan.sites)),
        "strategy": strategy,
        **({"own models": f"{tuning} steps at each site on its memory, at the end"} if tuning else {}),
        "on the wire": f"about {plan.wire_bytes / 1e6:.1f} MB",
        "engine": run.engine.name,
    }
    for name, fact in facts.items():
        console.print(f"{name:>12}  {escape(fact)}", highlight=False)


def _budget(run: Run) -> str:
    if run.memory.total is None:
        return f"{run.memory.budget} samples a site"
    split = "by uniqueness" if run.index.on and run.index.quotas else "evenly"
    return f"{run.memory.total} samples in all, split {split}"


def _index(run: Run, sites: int) -> dict[str, str]:
    """The uniqueness index's line, if the run has one."""
    if not run.index.on:
        return {}
    uses = [name for name in ("evict", "admit", "orphans", "quotas", "replay") if getattr(run.index, name)]
    cost = f"about {index_bytes(run, sites) / 1e3:.1f} kB a site and round"
    return {"index": f"{', '.join(uses) or 'watches only'}; {run.sketch.encoder} encoder, {cost}"}


def _own_budgets(run: Run) -> str:
    """The sites that keep less than the others. A stream has one memory, and it is no site's."""
    own = {name: site.budget for name, site in run.sites.items() if site.budget and site.budget != run.memory.budget}
    shown = ", ".join(f"{name} {budget}" for name, budget in own.items())
    return f" ({shown})" if own and run.paradigm != "stream" else ""


def spans(rounds: tuple[int, ...]) -> str:
    """Rounds as spans.

    >>> spans((1, 2, 3, 5))
    '1-3, 5'
    """
    found: list[list[int]] = []
    for number in rounds:
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in found)
