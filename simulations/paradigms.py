"""What a paradigm makes of a recipe: the bounds beside which a continual run's numbers mean something.

The recipe stays the same but for the key `paradigm`; the sites, their cases and splits, the network and, but for
`sequential` and `stream`, the number of optimizer steps stay what they are in the continual run (Hong et al., 2023,
arXiv:2303.06580).
"""

from collections.abc import Callable, Mapping

from clients.data import site_cases
from configs.load import build_run
from configs.schema import Index, Memory, Run, Strategy
from server.arrivals import make_schedule
from simulations.plan import check_names
from simulations.steps import site_steps
from simulations.stream import STREAM, as_stream, held_out, nobody_learns, with_extra_client, with_visits


def spelled_out(run: Run) -> Run:
    """A whole run (its sites' folders written) as its paradigm has it: what sites and server read.

    Raises:
        ValueError: the recipe says something that means nothing in its paradigm.
    """
    made = PARADIGMS[run.paradigm](_held_out_never_arrive(run))
    if run.paradigm == "continual":
        return made
    try:
        made = build_run(made.model_dump(), run.name)
        check_names(made)
    except ValueError as error:
        raise ValueError(f"what the {run.paradigm} paradigm makes of this recipe cannot be: {error}") from None
    return made


def _held_out_never_arrive(run: Run) -> Run:
    """The run whose schedule names only sites that learn: a held-out site has no stage and no round of its own."""
    arrivals, out = run.arrivals, held_out(run)
    if not out:
        return run
    update: dict[str, object] = {}
    if arrivals.door == "open":  # the same, written down: everybody else is there from the first round to the last
        update = {"door": "scripted", "visits": {name: [(1, None)] for name in sorted(run.sites) if name not in out}}
    elif arrivals.visits is not None:
        update = {"visits": {name: turns for name, turns in arrivals.visits.items() if name not in out}}
    else:
        update = {"order": [name for name in arrivals.order or run.sites if name not in out]}
    return run.model_copy(update={"arrivals": arrivals.model_copy(update=update)})


def _continual(run: Run) -> Run:
    """As written: arrivals, memory, replay."""
    return run


def _sequential(run: Run) -> Run:
    """The model goes from site to site, each trains on its own cases alone, and nothing is replayed: the lower bound.

    What a batch needs is all that is kept. A site's cases are spread over the rounds of its stage.
    """
    _only_an_order(run)
    stage = run.arrivals.rounds_per_stage
    sites = {
        name: site.model_copy(update={"arriving": _spread(_train_cases(run, name), stage), "replaying": None, "budget": None})
        for name, site in run.sites.items()
    }
    train = run.train.model_copy(update={"replay_steps": 0})
    arrivals = run.arrivals.model_copy(update={"stay": False, "overlap": 0, "rounds": None})
    bare = {"memory": _newest(run, run.train.batch), "train": train, "arrivals": arrivals, "sites": sites}
    return _unindexed(run.model_copy(update=bare))


def _specialised(run: Run) -> Run:
    """Each site trains alone, from the same initial weights, and keeps its model: R's rows hold each site's own."""
    return _unindexed(run.model_copy(update={"strategy": Strategy(share="nothing")}))


def _joint_federated(run: Run) -> Run:
    """All sites are there from the first round to the last, with all their cases at hand: no arrival, no forgetting.

    The first round only takes the cases in; the continual run's steps are spread evenly over sites and the rounds after it.
    """
    learning = [name for name in run.sites if _train_cases(run, name)]
    if not learning:
        raise ValueError(nobody_learns(run))
    steps = dict(zip(learning, _shared_out(_steps(run), _rounds(run), len(learning)), strict=True))
    most = max(_train_cases(run, name) for name in learning)
    sites = {
        name: site.model_copy(update={"arriving": None, "replaying": steps.get(name), "budget": None})
        for name, site in run.sites.items()
    }
    return _all_at_once(run.model_copy(update={"sites": sites}), most, _from_the_start(run))


def _joint_pooled(run: Run) -> Run:
    """One client has all sites' cases, shuffled, from the first round on: the upper bound, which no federation is allowed."""
    order = [name for name in run.sites if _train_cases(run, name)]
    total = sum(_train_cases(run, name) for name in order)
    visits = _from_the_start(run)
    (steps,) = _shared_out(_steps(run), _rounds(run), 1)
    run = with_extra_client(run, order, [total])
    client = run.sites[STREAM].model_copy(update={"replaying": steps})
    update = {"sites": {**run.sites, STREAM: client}, "strategy": Strategy()}
    return _all_at_once(run.model_copy(update=update), total, visits)


PARADIGMS: dict[str, Callable[[Run], Run]] = {
    "continual": _continual,
    "stream": as_stream,
    "specialised": _specialised,
    "sequential": _sequential,
    "joint.federated": _joint_federated,
    "joint.pooled": _joint_pooled,
}
"""A new paradigm is one function and one line (and its name in configs.schema.Run.paradigm)."""


def _from_the_start(run: Run) -> dict[str, list[tuple[int, int | None]]]:
    return {name: [(1, None)] for name in run.sites if name not in held_out(run)}


def _all_at_once(run: Run, cases: int, visits: Mapping[str, list[tuple[int, int | None]]]) -> Run:
    """Every case arrives in the first round, which trains on none, and is kept: from then on steps are drawn from all."""
    listed = [site.replaying for site in run.sites.values() if site.replaying]
    train = run.train.model_copy(update={"sampling_rate": 0, "replay_steps": max(max(steps) for steps in listed)})
    stream = run.stream.model_copy(update={"cases_per_round": None})
    run = _unindexed(run.model_copy(update={"memory": _newest(run, cases), "train": train, "stream": stream}))
    return with_visits(run, visits, len(listed[0]))


def _shared_out(steps: int, rounds: int, sites: int) -> list[list[int]]:
    """By site, the steps of each round, none in the first: just so many in all, as evenly as whole steps go.

    In fewer rounds where there would be rounds in which a site has none.
    """
    slots = sites * max(1, min(rounds, steps // sites))
    return [[0, *(len(range(slot, steps, slots)) for slot in range(site, slots, sites))] for site in range(sites)]


def _unindexed(run: Run) -> Run:
    """Without the index, and without what only the index can say."""
    strategy = run.strategy
    if strategy.weigh == "uniqueness":
        strategy = strategy.model_copy(update={"weigh": Strategy().weigh})
    return run.model_copy(update={"index": Index(), "strategy": strategy})


def _newest(run: Run, budget: int) -> Memory:
    """A memory of the newest `budget` cases."""
    return Memory(policy="linear", budget=max(budget, run.train.batch), uncertainty=run.memory.uncertainty)


def _only_an_order(run: Run) -> None:
    if run.arrivals.visits is not None or run.arrivals.door == "open":
        raise ValueError(f"arrivals: the {run.paradigm} paradigm takes `order`, not `visits` or an open door")


def _spread(cases: int, rounds: int) -> list[int]:
    """So many cases over so many rounds, as evenly as whole cases go, the earlier rounds first; none is nobody's."""
    return [len(range(i, cases, rounds)) for i in range(rounds)]


def _train_cases(run: Run, name: str) -> int:
    return len(site_cases(name, run.sites[name], run.seed).train)


def _rounds(run: Run) -> int:
    return make_schedule(run.arrivals, list(run.sites)).rounds


def _steps(run: Run) -> int:
    """Optimizer steps of the continual run."""
    schedule, names = make_schedule(run.arrivals, list(run.sites)), set(run.sites)
    present = [schedule.present(number, names) for number in range(1, schedule.rounds + 1)]
    return sum(site_steps(run, name, _train_cases(run, name), sum(name in there for there in present)) for name in names)
