"""The client half of a strategy: what a site descends. A new objective is one file and one line here."""

from collections.abc import Mapping
from dataclasses import fields
from importlib import import_module
from typing import Any

from clients.objective import Objective
from configs.load import nearest

OBJECTIVES = {
    "plain": "clients.objectives.plain:Plain",
    "prox": "clients.objectives.prox:Prox",
    "ewc": "clients.objectives.ewc:Ewc",
    "distill": "clients.objectives.distill:Distill",
    "condist": "clients.objectives.condist:Condist",
    "scaffold": "clients.objectives.scaffold:Scaffold",
}


def make_objective(name: str, args: Mapping[str, Any] | None = None) -> Objective:
    """The objective of that name with its settings. Raises ValueError with the nearest valid name."""
    if name not in OBJECTIVES:
        raise ValueError(f"strategy.objective: there is no {name!r}; {nearest(name, OBJECTIVES)}")
    module, _, attribute = OBJECTIVES[name].partition(":")
    kind = getattr(import_module(module), attribute)
    known = [field.name for field in fields(kind)]
    for arg in args or {}:
        if arg not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise ValueError(f"strategy.objective_args: {arg!r} is no setting of {name} ({has})")
    try:
        return kind(**(args or {}))  # type: ignore[no-any-return]
    except (ValueError, TypeError) as error:
        raise ValueError(f"strategy.objective_args: {name}: {error}") from None
