"""What a config would do, without doing it: every name looked up, every case prepared, rounds, steps and bytes counted."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from clients import model
from clients.data import Case, SiteCases, site_cases
from clients.labels import check_values
from clients.objectives import make_objective
from clients.prepare import prepare
from clients.train import pick_device
from compress import encode
from configs.load import cache_root, nearest
from configs.schema import Run
from memory import make_policy
from memory.policy import needs
from server.arrivals import make_schedule
from server.strategy import strategy_of
from simulations.steps import site_steps
from wire import Weights, size

Seen = tuple[Path, Path, str, frozenset[int]]
"""A case's image and label, how it is pre-processed, and the values that its label may hold."""


@dataclass(frozen=True)
class SitePlan:
    """One site of the plan."""

    name: str
    cases: int
    tests: int
    classes: tuple[str, ...]
    rounds: tuple[int, ...]
    """The rounds in which it is present."""
    steps: int


@dataclass(frozen=True)
class Plan:
    """What would run."""

    sites: tuple[SitePlan, ...]
    classes: tuple[str, ...]
    rounds: int
    stages: tuple[str, ...]
    parameters: int
    model_bytes: int
    wire_bytes: int
    """Weights down and, compressed, up for training, down for evaluation, and what the index adds."""


def check_names(run: Run) -> None:
    """Look up every name of the recipe. Raises ValueError with the nearest valid one."""
    policy = make_policy(run.memory.policy, run.memory.args, run.memory.group_by, run.memory.new_share)
    if needs(policy) & {"sketch", "uniqueness", "leverage"} and not run.index.on:
        raise ValueError(f"memory.policy: {run.memory.policy} compares with other sites: it needs the index (index.on: true)")
    strategy = strategy_of(run)
    make_objective(run.strategy.objective, run.strategy.objective_args)
    if run.model.network not in model.NETWORKS:
        raise ValueError(f"model.network: there is no {run.model.network!r}; {nearest(run.model.network, model.NETWORKS)}")
    roles = set(model.roles(model.build(run.model.network, run.model.args, ("class",), run.seed)).values())
    if absent := [role for role in strategy.share.home if role not in roles]:
        why = f"{run.model.network} has none with these model.args"
        raise ValueError(f"strategy.share: {run.strategy.share} keeps the {absent[0]} tensors at their site, and {why}")
    model.check_patch(run.model.network, run.model.args, run.train.patch)
    if run.model.weights is not None and not run.model.weights.is_file():
        raise ValueError(f"model.weights: there is no file {run.model.weights}")
    for name, site in run.sites.items():
        try:
            pick_device(site.device)
        except ValueError as error:
            raise ValueError(f"sites.{name}.device: {error}") from None


def prepare_all(
    run: Run, said: Callable[[str, int, int], None] = lambda site, done, of: None, seen: set[Seen] | None = None
) -> dict[str, SiteCases]:
    """Every site's cases, each pre-processed into the cache. Raises ValueError naming site and case.

    `seen`: what other runs have shown to be sound, and need not be opened again; it grows.
    """
    seen = set() if seen is None else seen
    found = {name: site_cases(name, site, run.seed) for name, site in run.sites.items()}
    for name, cases in found.items():
        if run.sites[name].learns and not cases.train:
            raise ValueError(f"site {name!r}: no training case is left after the split")
        wanted = [*cases.train, *_probed(run, name), *(cases.test if run.evaluate.on == "test" else cases.validation)]
        facts = (run.preprocess.model_dump_json(), cases.values)
        fresh = [case for case in wanted if (case.image, case.label, *facts) not in seen]
        try:
            for done, volume in enumerate(prepare(fresh, run.preprocess, cache_root()), 1):
                check_values(volume.case, volume.counts, cases.values)
                said(name, done, len(fresh))
        except ValueError as error:
            raise ValueError(f"site {name!r}: {error}") from None
        seen |= {(case.image, case.label, *facts) for case in fresh}
    return found


def _named(run: Run) -> set[str]:
    """The sites that the schedule has a place for: all but those that are held out."""
    return {*(run.arrivals.visits or run.arrivals.order or run.sites)}


def _probed(run: Run, name: str) -> tuple[Case, ...]:
    """The cases on which a held-out site tunes its probe: what is wrong with them is said before the run, not at its end."""
    if not run.evaluate.probe or name in _named(run):
        return ()
    return site_cases(name, run.sites[name].model_copy(update={"learns": True}), run.seed).train


def make_plan(run: Run, cases: dict[str, SiteCases]) -> Plan:
    """The plan of a materialised run.

    Raises:
        ValueError: a site is never present, a class is annotated by nobody, or there is nothing to evaluate on.
    """
    schedule, named = make_schedule(run.arrivals, list(run.sites)), _named(run)
    names = set(run.sites)
    present = {r: schedule.present(r, names) for r in range(1, schedule.rounds + 1)}
    sites = []
    for name in schedule.in_order(run.sites):
        rounds = tuple(r for r, there in present.items() if name in there)
        tests = cases[name].test if run.evaluate.on == "test" else cases[name].validation
        steps = site_steps(run, name, len(cases[name].train), len(rounds))
        sites.append(SitePlan(name, len(cases[name].train), len(tests), tuple(cases[name].labels), rounds, steps))
    for site in sites:
        if not site.rounds and site.name in named:  # who is held out never arrives
            raise ValueError(f"sites.{site.name}: is never present in the run's {schedule.rounds} rounds")
    _check_presence(run, sites)
    if not any(site.tests for site in sites):
        key = f"split.{run.evaluate.on}"
        raise ValueError(f"evaluate.on: no site has a {run.evaluate.on} case; set data.{key} (or sites.<site>.{key}) above 0")
    classes = tuple(dict.fromkeys(c for site in sites for c in site.classes))
    for wanted in run.classes or ():
        if wanted not in classes:
            raise ValueError(f"classes: {wanted!r} is annotated by nobody; {nearest(wanted, classes)}")
    segmenter = model.build(run.model.network, run.model.args, classes, run.seed)
    weights = model.shared_weights(segmenter)
    stages = _stages([site for site in sites if site.rounds and site.name not in run.arrivals.extra])
    trained = sum(len(site.rounds) for site in sites if site.cases)
    probed = sum(1 for site in sites if site.tests and not site.rounds) if run.evaluate.probe else 0
    evaluated = (len(stages) + 1 + bool(run.strategy.personalise)) * sum(1 for site in sites if site.tests) + probed
    _check_objective(run, sites, stages)
    up = update_bytes(run, weights, model.roles(segmenter))
    total = size(weights) * (trained + evaluated) + trained * (up + index_bytes(run, len(sites)) + extra_bytes(run, weights))
    parameters = sum(tensor.size for tensor in weights.values())
    return Plan(tuple(sites), classes, schedule.rounds, stages, parameters, size(weights), total)


def _check_presence(run: Run, sites: list[SitePlan]) -> None:
    """Raises ValueError if the merge is asked to do with fewer sites than it works with, or the noise is made for others."""
    rule, privacy = strategy_of(run), run.strategy.privacy
    learning = [site for site in sites if site.cases]
    for number in sorted({round for site in learning for round in site.rounds}):
        there = sum(1 for site in learning if number in site.rounds)
        if privacy and there != privacy.sites:
            raise ValueError(
                f"strategy.privacy.sites: {privacy.sites}, and in round {number} there {'is' if there == 1 else 'are'} {there} "
                "to learn (arrivals says who is there): the noise is made for the same number in every round"
            )
        if there < rule.min_present:
            raise ValueError(
                f"strategy.merge: {run.strategy.merge} needs at least {rule.min_present} sites at once, "
                f"and in round {number} there {'is' if there == 1 else 'are'} {there} (arrivals says who is there)"
            )


def _check_objective(run: Run, sites: list[SitePlan], stages: tuple[str, ...]) -> None:
    """Raises ValueError if the objective has nothing to do in this schedule."""
    half, name = strategy_of(run).half, run.strategy.objective
    rounds = [round for site in sites if site.cases for round in site.rounds]
    if half and half.together and len(rounds) == len(set(rounds)):
        raise ValueError(f"strategy.objective: {name} mends the drift between sites, and no two ever train in the same round")
    if half and not half.together and len(stages) < 2:
        raise ValueError(f"strategy.objective: {name} protects what earlier stages need, and all sites arrive at once")


def extra_bytes(run: Run, weights: Weights) -> int:
    """What the objective adds to a site's round at most: what every site is told beside the weights, and what it says."""
    half = strategy_of(run).half
    return size(weights) * (half.tells + 1) if half else 0


def update_bytes(run: Run, weights: Weights, roles: Mapping[str, str]) -> int:
    """What a site's update of these weights weighs on the wire: without what stays at home, compressed as the recipe says."""
    home = strategy_of(run).share.home
    sent, _ = encode({name: tensor for name, tensor in weights.items() if roles[name] not in home}, weights, run.wire, {})
    return size(sent)


def index_bytes(run: Run, sites: int) -> int:
    """What a site's round adds at most to the wire for the index: sketches, ids and a mean up, coverage and scores down."""
    if not run.index.on:
        return 0
    held = run.memory.total // sites if run.memory.total else run.memory.budget
    e = run.sketch.size
    return held * (e + 16) + 4 * e + run.index.admit * e + 4 * e + held * (16 + 8)


def _stages(sites: list[SitePlan]) -> tuple[str, ...]:
    """Sites that arrive in the same round share a stage."""
    stages: dict[int, list[str]] = {}
    for site in sites:
        stages.setdefault(site.rounds[0], []).append(site.name)
    return tuple("+".join(names) for _, names in sorted(stages.items()))
