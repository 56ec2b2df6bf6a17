"""How many optimizer steps a run takes, counted beforehand: what comparisons must hold equal, or show."""

from math import ceil

from configs.schema import Run


def site_steps(run: Run, name: str, cases: int, rounds: int) -> int:
    """Optimizer steps of a site with so many training cases over its rounds of presence (fill_first not counted)."""
    if not cases:
        return 0
    left, steps, batch = cases, 0, run.train.batch
    for served in range(rounds):
        portions = run.sites[name].arriving or ()
        wanted = portions[served] if served < len(portions) else run.stream.cases_per_round
        new = left if wanted is None else min(left, wanted)
        full, rest = divmod(new, batch)
        per_case = run.train.sampling_rate
        steps += full * per_case + ceil(per_case * rest / batch) if new else run.train.replay_steps
        left -= new
    return steps
