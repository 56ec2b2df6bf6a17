"""What a run will cost, judged from a first timing."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from simulations.engines import simulate
from simulations.pretend import materialise
from simulations.studies.shelf import Place


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
    """The pace of a run: its first round with one batch of cases is done in a folder that is then thrown away."""
    run = place.run
    train = run.train.model_copy(update={"sampling_rate": max(run.train.sampling_rate, 4)})
    facts = {
        "train": train,
        "stream": run.stream.model_copy(update={"cases_per_round": run.train.batch}),
        "paradigm": "continual",
    }
    facts["arrivals"] = run.arrivals.model_copy(update={"rounds": 1})
    with tempfile.TemporaryDirectory(prefix="sitestream-") as folder:
        simulate(materialise(run.model_copy(update=facts)), Path(folder))
        rows = [json.loads(line) for line in (Path(folder) / "record.jsonl").read_text().splitlines()]
    trained = [row for row in rows if row["event"] == "train"]
    tested = {(row["stage"], row["site"], row["case"]) for row in rows if row["event"] == "case"}
    (end,) = (row for row in rows if row["event"] == "end")
    steps = sum(row["steps"] for row in trained)
    return Pace(sum(row["seconds"] for row in trained) / max(steps, 1), end["seconds_evaluating"] / max(len(tested), 1))


def total(places: Sequence[Place], pace: Pace, workers: int) -> float:
    """Seconds for all of them, so many at once."""
    seconds = [pace.of(place) for place in places]
    return max([sum(seconds) / workers, *seconds]) if seconds else 0.0
