"""What the server knows between rounds: a value that a checkpoint holds whole."""

from dataclasses import dataclass, field, replace
from typing import Any, Self

from server.metrics import ResultMatrix
from strategies.base import State, Weights


@dataclass(frozen=True)
class Known:
    """What a site said when it came: the length of its stream, its test cases, the classes that it annotates."""

    cases: int
    tests: int
    classes: tuple[str, ...]
    withholds: tuple[str, ...] = ()
    """What the site's own policy keeps at home (wire.WITHHELD)."""


@dataclass(frozen=True)
class Federation:
    """The whole server after a round."""

    run: str
    """Our own run id."""
    round: int = 0
    """The last round that is done."""
    state: State = field(default_factory=lambda: State({}))
    roles: dict[str, str] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    """The union label space by head row."""
    known: dict[str, Known] = field(default_factory=dict)
    arrived: tuple[str, ...] = ()
    """Sites in the order in which they first took part."""
    present: frozenset[str] = frozenset()
    """Who took part in the last round."""
    left: frozenset[str] = frozenset()
    """Who has left for good, as the schedule says or by its own word."""
    withdrawn: frozenset[str] = frozenset()
    """Who has left by its own word: it is sent no more orders, whatever the schedule says."""
    silent: int = 0
    """Rounds in a row, up to the last, in which nobody answered."""
    stage: str | None = None
    """The stage under way: sites have arrived and are not yet evaluated."""
    results: ResultMatrix = field(default_factory=ResultMatrix)
    refused: dict[str, str] = field(default_factory=dict)
    """{site: why its last update was not used}: it is told with its next order."""
    merged: dict[str, int] = field(default_factory=dict)
    """{site: the last round of which its update was merged}."""
    taught: frozenset[str] = frozenset()
    """The classes that the model has been taught by anybody."""
    held: dict[str, int] = field(default_factory=dict)
    """{site: samples in its memory}."""
    index: tuple[dict[str, Any], Weights] = field(default_factory=lambda: ({}, {}))
    """State of the uniqueness index as plain facts and tensors; empty without one."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall seconds by phase."""
    record: int = 0
    """Length of record.jsonl at this moment."""
    recipe: dict[str, Any] = field(default_factory=dict)
    """The run as plain data, as people wrote it: with what it began, and what was changed on purpose (server.changes)."""

    def welcome(self, sites: list[str]) -> Self:
        """The label space and list of arrivals with these sites in them."""
        new = [name for site in sites for name in self.known[site].classes]
        classes = tuple(dict.fromkeys((*self.classes, *new)))
        return replace(self, classes=classes, arrived=(*self.arrived, *sites))

    @property
    def live(self) -> list[str]:
        """Sites that learn, have come and not left for good, whether present or paused: those that have a memory."""
        return [site for site in self.arrived if site not in self.left and self.known[site].cases]

    @property
    def learners(self) -> list[frozenset[str]]:
        """What each site that has arrived and learns annotates."""
        return [frozenset(self.known[site].classes) for site in self.arrived if self.known[site].cases]

    def spend(self, phase: str, seconds: float) -> Self:
        """The time account with a phase's seconds added."""
        return replace(self, seconds=self.seconds | {phase: self.seconds.get(phase, 0.0) + seconds})

    def facts(self) -> dict[str, Any]:
        """Everything but the tensors, as plain data."""
        return {
            "run": self.run,
            "round": self.round,
            "step": self.state.step,
            "roles": self.roles,
            "classes": self.classes,
            "known": {site: vars(known) for site, known in self.known.items()},
            "arrived": self.arrived,
            "present": sorted(self.present),
            "left": sorted(self.left),
            "withdrawn": sorted(self.withdrawn),
            "silent": self.silent,
            "stage": self.stage,
            "results": _results_facts(self.results),
            "refused": self.refused,
            "merged": self.merged,
            "taught": sorted(self.taught),
            "held": self.held,
            "index": self.index[0],
            "seconds": self.seconds,
            "record": self.record,
            "recipe": self.recipe,
        }


def from_facts(facts: dict[str, Any], state: State, index: Weights) -> Federation:
    """The inverse of `Federation.facts`."""
    return Federation(
        run=facts["run"],
        round=facts["round"],
        state=state,
        roles=facts["roles"],
        classes=tuple(facts["classes"]),
        known={site: _known(known) for site, known in facts["known"].items()},
        arrived=tuple(facts["arrived"]),
        present=frozenset(facts["present"]),
        left=frozenset(facts["left"]),
        withdrawn=frozenset(facts.get("withdrawn", ())),  # older checkpoints know of nobody
        silent=facts["silent"],
        stage=facts["stage"],
        results=_results(facts["results"]),
        refused=facts["refused"],
        merged=facts["merged"],
        taught=frozenset(facts["taught"]),
        held=facts["held"],
        index=(facts["index"], index),
        seconds=facts["seconds"],
        record=facts["record"],
        recipe=facts["recipe"],
    )


def _known(facts: dict[str, Any]) -> Known:
    return Known(facts["cases"], facts["tests"], tuple(facts["classes"]), tuple(facts.get("withholds", ())))


def _results_facts(matrix: ResultMatrix) -> list[tuple[str, dict[str, float]]]:
    return [
        (stage, {site: float(value) for site, value in zip(matrix.sites, row, strict=True)})
        for stage, row in zip(matrix.stages, matrix.values, strict=True)
    ]


def _results(rows: list[tuple[str, dict[str, float]]]) -> ResultMatrix:
    matrix = ResultMatrix()
    for stage, cells in rows:
        matrix = matrix.with_row(stage, cells)
    return matrix
