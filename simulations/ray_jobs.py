"""An order on its way, what became of it, and the process at work on it: the words of simulations/ray_pool.py."""

from dataclasses import dataclass, field
from typing import Any

from clients.peak import Peak
from simulations.placement import Size, Spot
from simulations.processes import oom_kills

Problem = tuple[str, str]
"""(raised | memory | crashed | late, reason)."""
Said = tuple[Problem | None, Peak | None]
"""What an actor says beside the content of a reply: what went wrong, and the memory that the order took."""


@dataclass(eq=False)
class Job:
    """One order: the arguments of the actor's `answer`, object references among them."""

    id: str
    site: str
    size: Size
    args: tuple[Any, ...]
    task: str = ""
    """train, evaluate or query."""
    tries: int = 0
    short: bool = False
    """Whether memory ran out at the last try: the next is told, so that it makes do with less."""


@dataclass(frozen=True)
class Outcome:
    """What became of a job: a reference to the reply's content, or a problem in words."""

    job: Job
    content: Any = None
    problem: Problem | None = None
    again: bool = False
    """The job is in the queue again: news of it, not its end."""
    peak: Peak | None = None


@dataclass(eq=False)
class Actor:
    """One process, at work on at most one job."""

    handle: Any
    size: Size
    watch: Any
    """What to wait for: its start, then the second half of its answer."""
    since: float
    spot: Spot
    """Where it is; where it is expected, while it starts."""
    pid: int | None = None
    """None while it starts."""
    site: str | None = None
    """Whom it served last."""
    job: Job | None = None
    content: Any = None
    kills: int = field(default_factory=oom_kills)
    """The kernel's, for want of memory, when the present work began."""
