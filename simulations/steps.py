"""How many optimizer steps a run takes, counted beforehand: what comparisons must hold equal, or show."""

from collections.abc import Sequence
from math import ceil

from configs.schema import Run


def site_steps(run: Run, name: str, cases: int, rounds: int) -> int:
    """Optimizer steps of a site with so many training cases over its rounds of presence.

    Cases that only fill the memory (memory.fill_first) are counted as such where the site's budget is known beforehand:
    without memory.total.
    """
    if not cases:
        return 0
    site, batch = run.sites[name], run.train.batch
    filling = min(site.budget or run.memory.budget, cases) if run.memory.fill_first and run.memory.total is None else 0
    steps = seen = 0
    for served in range(rounds):
        left = cases - seen
        wanted = _said(site.arriving, served, run.stream.cases_per_round)
        new = left if wanted is None else min(left, wanted)
        if not new:
            steps += _said(site.replaying, served, run.train.replay_steps) or 0
        for size in (min(batch, new - i) for i in range(0, new, batch)):
            seen += size
            if seen >= filling:
                steps += ceil(run.train.sampling_rate * size / batch)
    return steps


def _said(listed: Sequence[int] | None, served: int, default: int | None) -> int | None:
    """What a site's list says of a round of its presence, or what holds where it says nothing."""
    return listed[served] if listed and served < len(listed) else default
