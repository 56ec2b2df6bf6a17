"""When sites come and go, as a config says it."""

from math import inf
from typing import Any, Literal

from pydantic import Field, field_validator

from configs.site import Strict


class Arrivals(Strict):
    """Which site is present in which round."""

    door: Literal["scripted", "open"] = "scripted"
    """As written here, or whoever has connected."""
    at_least: int = Field(1, ge=1)
    """In a deployment: a round begins when so many of the sites that it could have are connected (door: open), or so many of
    those that are written here. At its very start a scripted run waits for all that it names."""
    order: list[str] | None = None
    """Sites one after another; default: in the order of `sites`."""
    rounds_per_stage: int = Field(1, ge=1)
    """Rounds from one arrival to the next."""
    stay: bool = True
    """Sites stay until the end (cumulative), or leave when the next arrives."""
    overlap: int = Field(0, ge=0)
    """With `stay: false`: so many rounds together with the next site."""
    visits: dict[str, list[tuple[int, int | None]]] | None = None
    """Instead of `order`: {site: [[first, last], ...]}, rounds from 1, last none: to the end. A gap is a pause."""
    rounds: int | None = Field(None, ge=1)
    """Rounds in all; default: as `order` or `visits` need."""
    extra: list[str] = Field(default_factory=list)
    """Clients that are no hospital: they name no stage and no column of R (the stream paradigm's client)."""

    @field_validator("order")
    @classmethod
    def _once(cls, order: list[str] | None) -> list[str] | None:
        twice = [name for i, name in enumerate(order or []) if name in (order or [])[:i]]
        if twice:
            raise ValueError(f"names {twice[0]!r} twice (a site that comes back is written with `visits`)")
        return order

    @field_validator("visits")
    @classmethod
    def _intervals(cls, visits: dict[str, list[tuple[int, int | None]]] | None) -> Any:
        for site, intervals in (visits or {}).items():
            end = 0.0
            for first, last in intervals:
                if first <= end or (last is not None and last < first):
                    given = f"[{first}, {'null' if last is None else last}]"
                    raise ValueError(f"{site}: {given} does not fit: rounds count from 1, and visits follow one another")
                end = inf if last is None else last
        return visits
