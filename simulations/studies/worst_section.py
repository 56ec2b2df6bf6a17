"""The section of a study's page on what went worst: per variant the test cases that its models know least."""

from collections import defaultdict
from collections.abc import Mapping
from math import nan
from typing import NamedTuple

from server.metrics import mean
from server.page import number, section, swatch, table, text
from simulations.studies.findings import Findings
from simulations.studies.gist import CaseKey

EACH = 5
"""Rows of a variant."""


class Tested(NamedTuple):
    """A test case and class in the runs of one variant that know it by the same id: those of one seed."""

    key: CaseKey
    seed: int
    dice: float
    """A mean over the orders of arrival."""
    lowest: float
    runs: int


def worst(findings: Findings) -> str:
    """A table of the lowest Dice of every variant, beside what the others make of the same cases."""
    found = _tested(findings)
    lines = []
    for name, cases in found.items():
        for one in sorted(cases.values(), key=lambda one: (one.dice, one.key, one.seed))[:EACH]:
            others = mean(
                cases[one.key, one.seed].dice
                for other, cases in found.items()
                if other != name and (one.key, one.seed) in cases
            )
            site, case, label = one.key
            cells = [f"<code>{text(case)}</code>", text(site), text(label), str(one.seed), number(one.dice), number(one.lowest)]
            cells += [number(others.value if others.cells else nan), str(one.runs)]
            lines.append([f"{swatch(findings.tints[name])}{text(name)}", *cells])
    if not lines:
        return ""
    note = (
        f"Per variant the {EACH} test cases and classes with the lowest Dice at the end, a mean over the runs of one seed "
        "(whose cases have other ids with another seed), the lowest of them, and what the other variants reach on the same "
        "case on average: near to it, the case is hard; far above, the variant fails. Slices are in the runs' own reports."
    )
    heads = ["variant", "case", "site", "class", "seed", "Dice", "lowest run", "other variants", "runs"]
    return section("Worst cases", f'<p class="soft">{note}</p>{table(heads, lines, range(4, len(heads)))}')


def _tested(findings: Findings) -> Mapping[str, Mapping[tuple[CaseKey, int], Tested]]:
    """{variant: {(case, seed): its Dice}}, in the study's order."""
    dice: dict[str, dict[tuple[CaseKey, int], list[float]]] = {name: defaultdict(list) for name in findings.variants}
    for cell, gist in findings.gists:
        for key, value in gist.cases.items():
            dice[cell.variant][key, cell.seed].append(value)
    return {
        name: {(key, seed): Tested(key, seed, mean(them).value, min(them), len(them)) for (key, seed), them in cases.items()}
        for name, cases in dice.items()
    }
