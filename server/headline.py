"""The top of the report: what a reader should know after ten seconds."""

from collections.abc import Mapping
from math import isnan
from typing import Any

from server.digest import Digest, Row
from server.metrics import Measured
from server.page import duration, number, text
from server.shares import evaluation_share
from server.spread import case_dice, reach, reach_of_mean

CHOICES = ("merge", "weigh", "share", "objective")
NOTHING = Measured(float("nan"), 0)
SAME = 1e-5
"""R.csv has six decimals."""


def headline(run: Digest) -> str:
    """Name, result in plain words, the numbers, and what was run."""
    tiles = [
        (number(_value(run, "acc")), f"mean Dice (acc){_between(run)}"),
        (number(_value(run, "bwt.gem"), sign=True), "change since learnt (bwt.gem)"),
        (number(_value(run, "fgt.chaudhry")), "forgetting (fgt.chaudhry)"),
        (f"{len(run.matrix.sites or run.sites)} · {max(run.matrix.last, 0)} · {run.last_round}", "sites · stages · rounds"),
        (duration(run.seconds), ", ".join(filter(None, ("wall time", evaluation_share(run.end))))),
        (text(run.run.get("seed", "–")), "seed"),
    ]
    shown = "".join(f'<div class="tile"><b>{value}</b><span>{name}</span></div>' for value, name in tiles)
    notice = f'<p class="notice">{_unfinished(run)}</p>' if run.end is None else ""
    lead = f'<p class="lead">{" ".join(_in_words(run))}</p>'
    return f'<h1>{text(run.name)}</h1>{notice}{lead}<div class="tiles">{shown}</div>{_recipe(run.run)}'


def _unfinished(run: Digest) -> str:
    return f"<b>Unfinished.</b> {_count(run.last_round, 'round')} so far; every number below may still change."


def _in_words(run: Digest) -> list[str]:
    """Sentences, as HTML."""
    sites, stages = len(run.matrix.sites or run.sites), max(run.matrix.last, 0)
    said = [f"{_count(sites, 'site')}, {_count(stages, 'stage')} of arrival, {_count(run.last_round, 'round')}."]
    accuracy, change = _value(run, "acc"), _value(run, "bwt.gem")
    if not isnan(accuracy):
        how = "So far the shared model has" if run.end is None else "The shared model ends with"
        said.append(f"{how} a mean Dice of <b>{number(accuracy)}</b> on the sites' test cases.")
    if not isnan(change):
        how = f"lost <b>{number(-change)}</b>" if change < 0 else f"gained <b>{number(change)}</b>"
        said.append(f"Since they were learnt, earlier sites have {how} Dice on average.")
    if run.spent:
        epsilon, merges = number(run.spent["epsilon"]), _count(run.spent["releases"], "noised merge")
        said.append(f"After {merges} the models tell of any one site's updates at most epsilon <b>{epsilon}</b>.")
    if run.failures:
        said.append(f"{_count(len(run.failures), 'order')} to a site failed.")
    if run.faults:
        said.append(f"{_count(len(run.faults), 'fault')} {'was' if len(run.faults) == 1 else 'were'} made up for.")
    return said


def _recipe(run: Row) -> str:
    """Strategy and memory in one line."""
    strategy, memory = run.get("strategy") or {}, run.get("memory") or {}
    chosen = [name for name in CHOICES if strategy.get(name)]
    parts = [f"{name} <b>{text(strategy[name])}</b>{_settings(strategy.get(f'{name}_args'))}" for name in chosen]
    if strategy.get("personalise"):
        parts.append(f"own models <b>{text(strategy['personalise'])} steps</b>{_settings({'pull': strategy.get('pull')})}")
    if strategy.get("privacy"):
        parts.append(f"privacy{_settings(strategy['privacy'])}")
    if memory.get("policy"):
        args = memory.get("args")
        settings = _settings({**(args if isinstance(args, Mapping) else {}), "budget": memory.get("budget", "–")})
        parts.append(f"memory <b>{text(memory['policy'])}</b>{settings}")
    if run.get("paradigm"):
        parts.append(f"paradigm <b>{text(run['paradigm'])}</b>")
    return f'<p class="soft">{" · ".join(parts)}</p>' if parts else ""


def _settings(given: Any) -> str:
    """A choice's own settings in brackets; nothing where there are none."""
    if not isinstance(given, Mapping) or not given:
        return ""
    return f" ({', '.join(f'{text(key)} {text(value)}' for key, value in given.items())})"


def _between(run: Digest) -> str:
    """What `acc` lies between as far as the test cases say; nothing if a site has too few."""
    matrix = run.matrix
    if matrix.last < 1:
        return ""
    found, accuracy = case_dice(run), _value(run, "acc")
    if not abs(accuracy - float(matrix.values[-1].mean())) < SAME:
        return ""  # it is no mean over all the sites
    half = reach_of_mean([reach(found, matrix.stages[-1], site) for site in matrix.sites])
    return f", 95&nbsp;% {number(accuracy - half)} to {number(accuracy + half)} over the test cases" if half == half else ""


def _value(run: Digest, name: str) -> float:
    return run.metrics.get(name, NOTHING).value


def _count(number_of: int, thing: str) -> str:
    return f"{number_of} {thing}" if number_of == 1 else f"{number_of} {thing}s"
