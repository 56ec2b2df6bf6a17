"""The section of a study's page on what the first metric costs: bytes, time, memory, steps."""

from math import isnan

from server.page import embed, section, swatch, table, text
from simulations.studies.figures import NAMES, price
from simulations.studies.findings import Findings, by_variant
from simulations.studies.forest import minus
from simulations.studies.means import mean_over
from simulations.studies.scales import scale, shown
from simulations.studies.statistics import Summary, summaries

SPENT = ("bytes", "seconds", "steps", "cases")
"""What runs measure; `held`, the samples held at once at most, is read from their records."""


def cost(findings: Findings) -> str:
    """What the first metric costs: pictures of the costs that differ, and a table of all."""
    if not findings.outcomes:
        return ""
    values = by_variant(findings, findings.metric)
    spent = {name: dict(by_variant(findings, name)) for name in SPENT} | {"held": held(findings)}
    spent = {name: spent[name] for name in NAMES if spent[name]}
    alike = [name for name, there in spent.items() if len({there[one] for one in there if one in values}) < 2]
    drawn = ""
    if values and (differ := {name: there for name, there in spent.items() if name not in alike}):
        caption = (
            "Filled and joined: no other variant is as good for less, or better for as much. Means over the finished runs."
        )
        caption += f" Not drawn, because all have the same: {', '.join(NAMES[name] for name in alike)}." if alike else ""
        drawn = embed(price(findings.metric, values, differ, findings.tints), f"{findings.metric} against cost", caption)
    note = (
        "Wall time is each run's own, beside whatever else the machine did; a model's bytes are counted both ways. Samples "
        "held: the most at once, all sites together."
    )
    return section("Cost", f'{drawn}{_table(findings, spent.get("held", {}))}<p class="soft">{note}</p>')


def held(findings: Findings) -> dict[str, float]:
    """{variant: samples held at once at most, a mean over its runs}."""
    return {name: mean_over(values).mean for name, values in findings.over_runs(lambda gist: gist.held).items()}


def _table(findings: Findings, samples: dict[str, float]) -> str:
    metrics = list(dict.fromkeys((findings.metric, *SPENT)))
    found = {metric: summaries(findings.outcomes, metric) for metric in metrics}
    heads = ["variant", *(f"{text(name)}{f', {scale(name).unit}' if scale(name).unit else ''}" for name in metrics)]
    rows = []
    for name in (name for name in findings.variants if name in found[metrics[0]]):
        cells = [minus(_spread(one[name], metric)) for metric, one in found.items()]
        kept = f"{samples[name]:.0f}" if name in samples else "–"
        rows.append([f"{swatch(findings.tints[name])}{text(name)}", *cells, kept, str(found[findings.metric][name].runs)])
    return table([*heads, "samples held", "runs"], rows, range(1, len(heads) + 2))


def _spread(one: Summary, metric: str) -> str:
    return shown(one.mean, metric) + ("" if isnan(one.deviation) else f" ± {shown(one.deviation, metric)}")
