"""What may change within a run: the recipe with which it began, beside the one with which it is to go on."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from configs.load import OWNED, build_run, cache_root, dump_run
from configs.plain import parse
from configs.schema import Run
from server import checkpoint
from server.arrivals import make_schedule
from server.federation import Federation

Recipe = dict[str, Any]
"""A run as plain data."""

FREE = (
    *(f"engine.{key}" for key in ("name", "actors", "address", "deadline_s", "retries", "watch_s")),
    "export",
    "keep",
    "name",
)
"""Keys that change no result: a run may go on over another engine, and nobody need say so. `engine.cpus` and `engine.gpus` do:
other threads, or another device, add up in another order."""
FIXED = {
    "seed": "every random choice so far was derived from it",
    "paradigm": "it says who learns from what",
    "includes": "it says what the labels mean",
    "data.split": "sites would test on cases that they have trained on",
    "evaluate.on": "the rows of R would not mean the same",
    "model": "the weights so far belong to it",
    "sketch": "what the index holds was made with it",
    "strategy.share": "what stays at the sites was chosen by it",
    "strategy.privacy": "it is promised for the run as a whole",
    **dict.fromkeys(
        (f"sites.*.{key}" for key in ("source", "cases", "order", "max_cases", "learns", "phantoms", "shift", "domains")),
        "a part of the site's stream has passed",
    ),
    "sites.*.split": "the site would test on cases that it has trained on",
    **dict.fromkeys((f"sites.*.{key}" for key in ("labels", "includes", "annotates")), "it says what the labels mean"),
}
"""Keys (`*`: any site) that cannot change within a run, whatever is allowed, and why."""
STREAM = dict.fromkeys(("arrivals.order", "stream"), "the stream was laid out by it")
"""The same where one extra client sees all sites' cases in order."""
LONGEST = 40
"""Characters of a value in a message."""


class Change(NamedTuple):
    """One key whose value differs; None: it has none."""

    key: str
    before: Any
    after: Any


def recipe_of(run: Run) -> Recipe:
    """The run as plain data, as it lies in a checkpoint.

    Data folders below the cache are named relative to it: they are made anew wherever the cache is.
    """
    recipe: Recipe = parse(dump_run(run))
    cache = cache_root().absolute()
    for site in recipe["sites"].values():
        if "root" in site and Path(site["root"]).is_relative_to(cache):
            site["root"] = f"$SITESTREAM_CACHE/{Path(site['root']).relative_to(cache)}"
    return recipe


def what_changed(folder: Path, run: Run, allow: Iterable[str]) -> list[Change]:
    """What is different for the run in a folder if it goes on as `run`: `accepted`, and nothing where nothing is saved yet."""
    federation = checkpoint.load(folder)
    return accepted(federation, run, allow) if federation else []


def accepted(federation: Federation, run: Run, allow: Iterable[str]) -> list[Change]:
    """What is different for a run that goes on, all of it allowed.

    Args:
        federation: where the run stands, with the recipe with which it began.
        run: the recipe with which it is to go on.
        allow: keys that may differ, dotted; a section's name allows all in it, a choice's its arguments too.

    Raises:
        ValueError: one line with every key that differs and may not.
    """
    before, now, allowed = _today(federation.recipe), recipe_of(run), tuple(allow)
    found = [change for change in (*_other_order(before, now), *changes(before, now)) if not _below(change.key, FREE)]
    for change in found:
        if reason := _why_fixed(change, run.paradigm == "stream"):
            told = f"{_short(change.before)} when the run began, now {_short(change.after)}"
            raise ValueError(f"{change.key} cannot change within a run: {reason} ({told}); begin another run")
    if refused := [change for change in found if not _allows(allowed, change.key)]:
        told = "; ".join(f"{key}: {_short(before)} when the run began, now {_short(after)}" for key, before, after in refused)
        raise ValueError(f"{told} (go on with it on purpose: {' '.join(map(_permission, refused))})")
    rounds = make_schedule(run.arrivals, list(run.sites)).rounds
    if found and rounds < federation.round:
        raise ValueError(f"arrivals: {rounds} rounds in all, and this run has done {federation.round}")
    return found


def changes(before: Mapping[str, Any], after: Mapping[str, Any], above: str = "") -> Iterator[Change]:
    """The keys whose values differ, dotted, in the order of their appearance."""
    for key in dict.fromkeys((*before, *after)):
        one, other = before.get(key), after.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from changes(one, other, f"{above}{key}.")
        elif one != other:
            yield Change(above + key, one, other)


def _today(recipe: Recipe) -> Recipe:
    """A recipe with the defaults of keys that are newer than it."""
    try:
        return recipe_of(build_run(recipe))
    except ValueError:  # it has keys that are no more: these differ
        return recipe


def _other_order(before: Recipe, now: Recipe) -> Iterator[Change]:
    """Where nothing else says so, sites arrive in the order in which they are written."""
    if not any(recipe["arrivals"].get(key) for recipe in (before, now) for key in ("order", "visits")):
        one, other = (
            [site for site in recipe["sites"] if site in before["sites"].keys() & now["sites"]] for recipe in (before, now)
        )
        if one != other:
            yield Change("sites", one, other)


def _why_fixed(change: Change, stream: bool) -> str:
    """Why a key cannot change; empty if it can."""
    section, *rest = parts = change.key.split(".")
    if section == "sites" and len(rest) == 1:  # a whole site
        if change.after is None:
            return "the run knows the site and what it holds (let it leave: arrivals.visits)"
        return "the stream was laid out without it" if stream else ""
    if section == "sites" and rest:
        parts[1] = "*"
    fixed = FIXED | (STREAM if stream else {})
    return next((why for key, why in fixed.items() if _below(".".join(parts), [key])), "")


def _allows(allowed: Iterable[str], key: str) -> bool:
    owned = {f"{section}.{choice}": f"{section}.{args}" for section, choice, args in OWNED}
    return any(_below(key, (name, owned.get(name, name))) for name in allowed)


def _below(key: str, names: Iterable[str]) -> bool:
    """Whether the key is one of these, or inside one."""
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _permission(change: Change) -> str:
    """The option that lets a key differ: with its value where that is short and one word, else as the config now has it."""
    text = "" if change.after is None else _text(change.after)
    return f"--allow {change.key}={text}" if re.fullmatch(r"[\w.+-]{1,20}", text) else f"--allow {change.key}"


def _short(value: Any) -> str:
    text = _text(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "none" if value is None else json.dumps(value, ensure_ascii=False)
