"""The client half of a strategy: what a site descends. A new objective is one file and one line here."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from configs.load import nearest

OBJECTIVES = {
    "plain": "clients.objectives.plain:plain",
}


def make_objective(name: str) -> Callable[..., Any]:
    """The objective of that name. Raises ValueError with the nearest valid name."""
    if name not in OBJECTIVES:
        raise ValueError(f"strategy.objective: there is no {name!r}; {nearest(name, OBJECTIVES)}")
    module, _, attribute = OBJECTIVES[name].partition(":")
    return getattr(import_module(module), attribute)  # type: ignore[no-any-return]
