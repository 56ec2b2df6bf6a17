"""What the runs of benchmarks/strategies.py are worth, and as tables."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from federations import SETTINGS, Setting

MATCHING = "matching annotations only"

Classes = tuple[str, ...]


@dataclass(frozen=True)
class Result:
    """What one run (or the runs of all groups, for the matching annotations) is worth."""

    watched: dict[str, float]
    """{class: mean over the watchers of their mean Dice}; empty where a part of the model never leaves its site."""
    own: dict[tuple[str, str], float]
    """{(site, class): mean Dice at the site's own tests}"""
    tuned: float
    """Mean Dice over the sites after each tuned the model to itself; nan if none did."""
    megabytes: float
    """Updates up, weights down, all rounds."""
    seconds: float
    """CPU seconds of the run, its evaluations included, without starting up and preparing cases."""
    steps: dict[str, float]
    """Optimizer steps by site."""

    @property
    def acc(self) -> float:
        """Mean over the sites of the mean over their classes."""
        sites = dict.fromkeys(site for site, _ in self.own)
        return mean(mean(dice for (there, _), dice in self.own.items() if there == site) for site in sites)

    def at_watchers(self, group: Classes) -> float:
        """Mean Dice of a group of classes."""
        return mean(self.watched.get(name, np.nan) for name in group)

    def at_own_tests(self, group: Classes) -> float:
        """The same, at the tests of the sites that annotate it."""
        return mean(dice for (_, name), dice in self.own.items() if name in group)


def mean(values: Iterable[float]) -> float:
    """Mean of what is there."""
    there = list(values)
    return float(np.mean(there)) if there else float("nan")


Found = dict[str, list[Result]]
Number = Callable[[Result], float]


def results_table(found: Found, refused: dict[str, str], setting: Setting) -> str:
    """Dice by class group, and what it cost."""
    groups = [", ".join(group) for group in setting.groups]
    lines = [f"| preset | {' | '.join(groups)} | acc | acc, tuned | MB | CPU s |", "|---" * (len(groups) + 5) + "|"]
    for name, results in found.items():
        cells = [spread([run.at_watchers(group) for run in results]) for group in setting.groups]
        cells += [spread([run.acc for run in results]), spread([run.tuned for run in results])]
        cells += [f"{mean(run.megabytes for run in results):.0f}", f"{mean(run.seconds for run in results):.0f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [f"| {name} | {reason} {'|' * (len(groups) + 4)}" for name, reason in refused.items()]
    return "\n".join(lines)


def differences_table(found: Found, setting: Setting) -> str:
    """Dice minus that of the matching annotations, paired by seed."""
    names = [", ".join(group) for group in setting.groups]
    lines = [f"| preset | {' | '.join(names)} | {' | '.join(f'own: {name}' for name in names)} |"]
    lines.append("|---" * (2 * len(names) + 1) + "|")
    for name, results in found.items():
        if name != MATCHING:
            pairs = list(zip(results, found[MATCHING], strict=True))
            cells = [paired(pairs, lambda run, group=group: run.at_watchers(group)) for group in setting.groups]  # type: ignore[misc]
            cells += [paired(pairs, lambda run, group=group: run.at_own_tests(group)) for group in setting.groups]  # type: ignore[misc]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def paired(pairs: Sequence[tuple[Result, Result]], number: Number) -> str:
    """Mean and standard deviation of the differences."""
    return spread([number(run) - number(base) for run, base in pairs], "+.3f")


def spread(values: Sequence[float], form: str = ".3f") -> str:
    """Mean and standard deviation over seeds; a dash where there is nothing."""
    if np.isnan(values).all():
        return "-"
    return f"{np.mean(values):{form}} ± {np.std(values, ddof=1) if len(values) > 1 else 0:.3f}"


def steps_line(found: Found) -> str:
    """How many steps each site made, and which runs made others."""
    presets = {name: results for name, results in found.items() if name != MATCHING}
    expected, alone = next(iter(presets.values()))[0].steps, found[MATCHING][0].steps
    odd = sorted({name for name, results in presets.items() for run in results if run.steps != expected})
    each = sorted(set(expected.values()))
    same = f"Steps per site and model: {' or '.join(f'{steps:.0f}' for steps in each)}, the same in every run"
    more = f"{MATCHING}: {len(found[MATCHING][0].watched)} classes' models in groups, {sum(alone.values()):.0f} steps in all"
    return f"{same}{f' but those of {odd}' if odd else ''}: {sum(expected.values()):.0f} in all ({more})."


def text_of(name: str, found: Found, refused: dict[str, str], seeds: Sequence[int], on: str) -> str:
    """Everything about one setting."""
    setting = SETTINGS[name]
    return "\n\n".join(
        [
            f"`{name}`: {setting.about}; {len(seeds)} seeds, {on} cases. Dice by class at the watchers (-: a part of the model "
            "never leaves its site, and watchers have none of their own), `acc` at the sites' own tests, MB up and down, CPU "
            f"seconds of a run without its start. {steps_line(found)}",
            results_table(found, refused, setting),
            "Dice minus that of the matching annotations alone, paired by seed: at the watchers, then at the own tests of the "
            "sites that annotate the class:",
            differences_table(found, setting),
        ]
    )
