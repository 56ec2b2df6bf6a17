"""What a run will cost, judged from a first timing."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clients.data import site_cases
from configs.schema import Arrivals, PretendSite, Run, Split
from simulations.engines import simulate
from simulations.pretend import materialise
from simulations.studies.shelf import Place

WARM_UP, MOST = 2, 20
"""Steps of a trial's round: the first, which is only there to make this process warm, and the second at most."""
ROUNDS = 3
"""Of a trial. The first is left out: it opens files, and an objective that needs an earlier model has none yet."""
SITES = 4
"""Sites whose test cases are timed, one subject each."""
TRIAL_S = 15.0
"""Seconds that the second trial's steps may take."""


@dataclass(frozen=True)
class Pace:
    """How fast this machine is at a recipe."""

    step_s: float
    """Seconds per optimizer step."""
    test_s: float
    """Seconds per test case evaluated."""

    def of(self, place: Place) -> float:
        """Seconds of a whole run: its steps, and every site's test cases after every stage and before the first."""
        plan = place.plan
        return self.step_s * place.steps + self.test_s * (len(plan.stages) + 1) * sum(site.tests for site in plan.sites)


def timed(place: Place) -> Pace:
    """The warm pace of a run: a few of its steps and test cases are done twice, in folders that are then thrown away.

    A process's first steps are slow (imports, a first allocation of everything), and a study's runs share their processes:
    the first trial is for them alone, and for how many steps the second can have.
    """
    cold = _trial(place, WARM_UP)
    return _trial(place, int(min(max(TRIAL_S / (ROUNDS * max(cold.step_s, 1e-6)), WARM_UP), MOST)))


def total(places: Sequence[Place], pace: Pace, workers: int) -> float:
    """Seconds for all of them, so many at once."""
    seconds = [pace.of(place) for place in places]
    return max([sum(seconds) / workers, *seconds]) if seconds else 0.0


def _trial(place: Place, steps: int) -> Pace:
    """The pace of a trial with so many steps a round."""
    with tempfile.TemporaryDirectory(prefix="sitestream-") as folder:
        simulate(_shortened(place, steps), Path(folder))
        rows = [json.loads(line) for line in (Path(folder) / "record.jsonl").read_text().splitlines()]
    trained = [row for row in rows if row["event"] == "train" and row["round"] > 1]
    tested = {(row["stage"], row["site"], row["case"]) for row in rows if row["event"] == "case"}
    (end,) = (row for row in rows if row["event"] == "end")
    done = sum(row["steps"] for row in trained)
    return Pace(sum(row["seconds"] for row in trained) / max(done, 1), end["seconds_evaluating"] / max(len(tested), 1))


def _shortened(place: Place, steps: int) -> Run:
    """A few rounds of the first site that learns, a batch of cases in each, its memory at work from the first; materialised."""
    run = materialise(place.run.model_copy(update={"paradigm": "continual"}))
    planned = [site.name for site in place.plan.sites if site.name in run.sites]  # an extra client is no site of the recipe
    chosen, new = sorted(planned, key=lambda name: not run.sites[name].learns)[:SITES], run.train.batch
    sites = {name: _smaller(name, run.sites[name], run.seed, new if i == 0 else 0) for i, name in enumerate(chosen)}
    update: dict[str, Any] = {"sites": sites}
    update["arrivals"] = Arrivals(visits={name: [(1, None)] for name in sites}, rounds=ROUNDS)
    update["train"] = run.train.model_copy(update={"sampling_rate": steps, "replay_steps": steps})
    update["stream"] = run.stream.model_copy(update={"cases_per_round": new})
    update["memory"] = run.memory.model_copy(update={"fill_first": False})
    update["evaluate"] = run.evaluate.model_copy(update={"on": "test", "surface": False, "slices": 0})
    return run.model_copy(update=update)


def _smaller(name: str, site: PretendSite, seed: int, new: int) -> PretendSite:
    """The site with one subject to test on, and `new` training cases a round; with none of them it only evaluates."""
    held = site_cases(name, site, seed)
    share = 1 / max(len(held.train) + len(held.validation) + len(held.test), 2)
    split = (site.split or Split()).model_copy(update={"test": share, "validation": 0.0})
    facts = {"split": split, "learns": new > 0, "max_cases": max(ROUNDS * new, 1), "arriving": None, "replaying": None}
    return site.model_copy(update=facts)
