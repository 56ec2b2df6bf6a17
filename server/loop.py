"""A run, round by round: `Loop.round` is the whole story, the rest are its sentences."""

import time
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path

from configs.schema import Run
from server import checkpoint
from server.arrivals import ArrivalSchedule
from server.entrance import Entrance, Open
from server.federation import Federation
from server.metrics import START, site_dice
from server.orders import CannotContinue, Orders, of_its_classes
from server.personal import personalised, probed, write_results
from server.pins import note_refusals
from server.reception import Reception
from server.record import Record
from server.remembered import Remembered
from server.reuse import CaseRows, fingerprint, told_before
from server.sites import Sites
from server.turn import Turn
from server.updates import why_unfit
from server.waiting import Waiting
from strategies import Strategy
from strategies.base import State, Weights
from wire import Failure, Reply

MAX_SILENT = 2
"""Rounds in a row in which nobody answers: then it is not a site that has a fault, but the run."""


@dataclass
class Loop:
    """The server's program, the same over any engine."""

    run: Run
    folder: Path
    sites: Sites
    schedule: ArrivalSchedule
    strategy: Strategy
    record: Record
    remembered: Remembered
    given: tuple[Weights, tuple[str, ...]] = ({}, ())
    """Initial weights and their classes by row, if they come from a file."""
    clock: float = field(default_factory=time.perf_counter)
    """Up to when the total of seconds is counted."""
    entrance: Entrance = field(default_factory=Open)
    """Who waits for sites, and turns some away."""

    def __post_init__(self) -> None:
        """The parts that need others."""
        deadline_s = inf if self.run.engine.name == "local" else self.run.engine.deadline_s
        facts = (self.strategy.share.home, self.schedule.rounds, self.run.faults.on_failure == "stop", deadline_s)
        self.orders = Orders(self.sites, self.record, *facts)
        self.turn = Turn(self.run, self.folder, self.orders, self.strategy, self.record, self.remembered)
        self.reception = Reception(self.orders, self.record, self.remembered, {*self.run.arrivals.extra})

    def __call__(self, federation: Federation) -> tuple[Federation, CaseRows]:
        """All rounds that are left; the end state and the last evaluation's case rows."""
        if not federation.state.weights:
            federation = self.save(self.start(federation))
        for number in range(federation.round + 1, self.schedule.rounds + 1):
            federation = self.save(self.round(federation, number))
        return self.personalise(*self.end_stage(federation, last=True))

    def round(self, federation: Federation, number: int) -> Federation:
        """One order to the present sites, and one merge (or one per turn)."""
        federation = self.meet(federation, number)
        clock = time.perf_counter()
        present = self.coming(federation, number, self.sites.connected())
        new = [site for site in self.schedule.in_order(present) if site not in federation.arrived]
        if self.hospitals(new):  # an arrival ends the stage before it
            federation, _ = self.end_stage(federation)
        federation = federation.welcome(new)
        federation = self.note_presence(federation, number, frozenset(present), new)
        learners = [site for site in sorted(present) if federation.known[site].cases]
        cost = {"draws": 0, "bytes_down": 0, "bytes_up": 0}
        failed: list[Failure] = []
        for turn in self.strategy.turns(learners) if learners else ():
            federation, spent, failures = self.turn(federation, number, turn)
            failed += failures
            cost = {name: cost[name] + spent[name] for name in cost}
        failed = [failure for failure in failed if failure.kind not in ("invalid", "refused")]  # those did answer
        silent = federation.silent + 1 if learners and len(failed) == len(learners) else 0
        if silent == MAX_SILENT:
            why = f"({failed[0].site}: {failed[0].reason})"
            raise CannotContinue(f"no site answered in round {number}, as in the round before {why}")
        federation = self.reception.let_go(federation, number)
        if summary := self.remembered.summary(federation.live, federation.held):
            self.record.append("index", round=number, **summary)
        facts = {"present": sorted(present), **cost, "seconds": time.perf_counter() - clock}
        self.record.append("round", round=number, stage=federation.stage, **facts)
        return replace(federation, round=number, silent=silent)

    # Its sentences ----------------------------------------------------------------------------------------------------

    def start(self, federation: Federation) -> Federation:
        """Meet the sites, get the initial weights from the first, evaluate before training: R's row 0."""
        clock = time.perf_counter()
        federation = self.meet(federation, 0).spend("greeting", time.perf_counter() - clock)  # engines start up in it
        rounds = range(1, self.schedule.rounds + 1)
        first = next((there for r in rounds if (there := self.coming(federation, r, federation.known.keys()))), set())
        if not first:
            raise CannotContinue("no site is there to begin with")
        arriving = self.schedule.in_order(first)
        weights, classes = self.given
        classes = tuple(dict.fromkeys((*classes, *(c for site in arriving for c in federation.known[site].classes))))
        federation = replace(federation, classes=classes)
        reply = self.initial(federation, arriving)
        if weights and (reason := why_unfit(weights, reply.weights, reply.roles, len(self.given[1]))):
            raise ValueError(f"model.weights: they do not belong to model.network: {reason}")
        taught = frozenset(self.given[1])
        federation = replace(federation, state=State(weights or reply.weights), roles=dict(reply.roles), taught=taught)
        return self.evaluate(federation, START)[0]

    def initial(self, federation: Federation, arriving: list[str]) -> Reply:
        """The initial weights, of the first site that can give them: they are drawn from the run's seed, the same at each."""
        failures: list[Failure] = []
        for site in arriving:
            replies, failed = self.orders.ask({}, [self.orders.order(federation, site, "init", 0)])
            if replies:
                return replies[site]
            failures += failed
        raise CannotContinue(f"no initial weights: {failures[0].site}: {failures[0].reason}")

    def meet(self, federation: Federation, number: int) -> Federation:
        """Wait until enough of the sites are there that a round is meant for, and say hello to those who are new.

        A gap in a script is not waited out. Who is turned away is recorded.
        """
        awaited, least = self.schedule.awaited(number), self.run.arrivals.at_least
        among = None if awaited is None else awaited - federation.left - federation.withdrawn
        while True:
            if among is None or among:
                self.entrance.wait(among, least if among is None else min(least, len(among)))
            federation = self.greet(federation, number)
            note_refusals(self.entrance.refusals(), self.record)
            there = self.schedule.present(number, self.sites.connected()) & federation.known.keys()
            if there - federation.withdrawn or among == set() or not self.entrance.again():
                return federation

    def greet(self, federation: Federation, number: int) -> Federation:
        """Hello to whoever has connected since: each says its stream, test cases and classes."""
        return self.reception.greet(federation, number, self.sites.connected(), self.schedule.in_order)

    def note_presence(self, federation: Federation, number: int, present: frozenset[str], new: list[str]) -> Federation:
        """Who came, came back, paused and left; a stage is named after who came."""
        stage = "+".join(self.hospitals(new)) or federation.stage
        gone = frozenset(self.schedule.departed(number)) & frozenset(federation.arrived)
        events = {
            "arrive": new,
            "return": sorted(present - federation.present - set(new)),
            "leave": sorted(gone - federation.left),
            "pause": sorted(federation.present - present - gone),
        }
        for event, sites in events.items():
            for site in sites:
                self.record.append(event, round=number, site=site, stage=stage)
        self.remembered.depart(sorted(gone - federation.left))
        return replace(federation, present=present, left=federation.left | gone, stage=stage)

    def end_stage(self, federation: Federation, last: bool = False) -> tuple[Federation, CaseRows]:
        """If a stage is under way it ends here: R gains a row."""
        if federation.stage is None:
            return federation, []
        ended = replace(federation, state=self.strategy.end_stage(federation.state, federation.roles))
        federation, rows = self.evaluate(ended, federation.stage, last)
        return replace(federation, stage=None), rows

    def evaluate(self, federation: Federation, stage: str, last: bool = False) -> tuple[Federation, CaseRows]:
        """Every connected site evaluates the model on its own test cases; their Dice are a row of R."""
        clock = time.perf_counter()
        tested, model = self.tested(federation), fingerprint(federation.state.weights, federation.classes)
        since, known = self.known_already(model, tested, last)
        asked = [site for site in tested if site not in known]
        orders = [replace(self.orders.order(federation, s, "evaluate", federation.round), last=last) for s in asked]
        replies, failures = self.orders.ask(federation.state.weights, orders, of_its_classes(federation))
        if orders and not (replies or known):
            why = f"{failures[0].site}: {failures[0].reason}"
            raise CannotContinue(f"no site answered the evaluation of stage {stage!r} ({why})")
        told = dict(sorted({**known, **{site: list(reply.rows) for site, reply in replies.items()}}.items()))
        columns = self.hospitals(self.schedule.in_order(federation.known))
        dice = {site: site_dice(told[site]) if site in told else float("nan") for site in columns}
        rows = [{**row, "site": site} for site, found in told.items() for row in found]
        for row in rows:
            self.record.append("case" if "case" in row else "class", stage=stage, **row)
        for site in (site for site in dice if site in told):
            copied = {"reused": since} if site in known else {}
            self.record.append("result", stage=stage, site=site, dice=dice[site], model=model, **copied)
        results = federation.results.with_row(stage, dice)
        write_results(results, self.folder)
        return replace(federation, results=results).spend("evaluating", time.perf_counter() - clock), rows

    def known_already(self, model: str, tested: list[str], last: bool) -> tuple[str, Mapping[str, CaseRows]]:
        """The last evaluation's stage and its rows by site, where the model is the same (server.reuse).

        Only in a simulation: whether a hospital's test cases are still the same, the hospital alone knows. What stays at home
        changes without a merge, and the last evaluation measures what no other does.
        """
        more = last and (self.run.evaluate.surface or self.run.evaluate.slices)
        return told_before(self.record, model, tested) if self.run.sites and not self.orders.home and not more else ("", {})

    def personalise(self, federation: Federation, rows: CaseRows) -> tuple[Federation, CaseRows]:
        """If the recipe wants it, and there was a last stage: what every site reaches with a model tuned to itself."""
        steps, probe = self.run.strategy.personalise, self.run.evaluate.probe
        if steps and rows:
            learnt = [site for site in self.tested(federation) if federation.held.get(site) and site in federation.live]
            federation = personalised(federation, learnt, steps, self.orders)
        if probe and rows:
            federation = probed(federation, self.tested(federation), probe, self.orders)
        if (steps or probe) and rows:
            write_results(federation.results, self.folder)
        return federation, rows

    def coming(self, federation: Federation, number: int, connected: Set[str]) -> Set[str]:
        """Who takes part in a round. A hospital without a training case is held out: it never arrives, unless an extra client
        trains on its cases, or nobody here has any: then the run evaluates a model at its sites, as they come."""
        there = self.schedule.present(number, connected) & federation.known.keys() - federation.withdrawn
        learning = {site for site, known in federation.known.items() if known.cases}
        return there & learning if learning and not self.run.arrivals.extra else there

    def tested(self, federation: Federation) -> list[str]:
        """The connected hospitals that have test cases."""
        connected = self.hospitals(self.sites.connected() & federation.known.keys() - federation.withdrawn)
        return sorted(site for site in connected if federation.known[site].tests)

    def hospitals(self, sites: Iterable[str]) -> list[str]:
        """Without the extra clients, which name no stage and no column of R."""
        return [site for site in sites if site not in self.run.arrivals.extra]

    def save(self, federation: Federation) -> Federation:
        """A checkpoint of everything up to here."""
        with Waiting(self.folder, "saving", federation.round):
            return self._save(federation)

    def _save(self, federation: Federation) -> Federation:
        clock = time.perf_counter()
        federation = replace(federation, record=self.record.length, index=self.remembered.state())
        federation = federation.spend("total", clock - self.clock)
        self.clock = clock
        checkpoint.save(self.folder, federation, self.run.keep)
        return federation.spend("saving", time.perf_counter() - clock)
