"""A run's record told in plain lines, one per event worth a line: for logs and pipes."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from server.shares import evaluation_share
from simulations.watch import real

PRESENCE = {"arrive": "arrives", "pause": "pauses", "return": "returns", "leave": "leaves"}
PART_OF_A_RESULT = ("case", "class", "result", "failure", "fault")


class Lines:
    """Turns the record's events into lines; remembers what belongs together (a round's losses, a stage's results)."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds
        self._loss, self._weight = 0.0, 0.0
        self._tested: set[str] = set()
        self._stage, self._dice = "", dict[str, float | None]()
        self._metrics: list[str] = []

    def first(self, events: Sequence[Mapping[str, Any]]) -> list[str]:
        """The lines of the first look. A resumed run's finished rounds are history: one line says where it goes on."""
        rounds = [i for i, event in enumerate(events) if event["event"] == "round"]
        if not rounds:
            return list(self.tell(events))
        last = rounds[-1] + 1
        list(self.tell(events[:last]))
        return [f"resumed after round {events[last - 1].get('round')} of {self.rounds}", *self.tell(events[last:])]

    def tell(self, events: Iterable[Mapping[str, Any]]) -> Iterator[str]:
        """The lines of these events."""
        for event in events:
            kind, where = event["event"], f"round {event.get('round')}"
            if kind not in PART_OF_A_RESULT or (kind == "result" and event.get("stage") != self._stage):
                yield from self.rest()
            if kind == "run":
                yield f"{event.get('name')}: {self.rounds} rounds, {event.get('paradigm')}, seed {event.get('seed')}"
            elif kind == "site" and event.get("tests"):
                self._tested.add(str(event.get("site")))
            elif kind in PRESENCE:
                yield f"{where}: {event.get('site')} {PRESENCE[kind]} (stage {event.get('stage')})"
            elif kind == "train":
                self._loss += real(event.get("loss_sum")) or 0.0
                self._weight += real(event.get("loss_weight")) or 0.0
            elif kind == "failure":
                failed = f"{event.get('site')} failed to {event.get('task')}"
                yield f"{where}: {failed} ({event.get('kind')}): {event.get('reason')}"
            elif kind == "fault":
                yield ": ".join([*([where] if event.get("round") else []), *filter(None, map(event.get, ("site", "reason")))])
            elif kind == "changed":
                yield f"{event.get('key')} was {event.get('before')} and is {event.get('after')} from here on"
            elif kind == "round":
                yield self._round(event)
            elif kind == "result":
                self._stage = str(event.get("stage"))
                self._dice[str(event.get("site"))] = real(event.get("dice"))
                if self._tested and self._tested <= self._dice.keys():
                    yield from self.rest()
            elif kind == "metric" and (value := real(event.get("value"))) is not None:
                self._metrics.append(f"{event.get('id')} {value:.3f}")
            elif kind == "end":
                seconds = real(event.get("seconds"))
                done = "done" if seconds is None else f"done in {seconds:.0f} s"
                yield ", ".join(filter(None, (done, evaluation_share(event), *self._metrics)))

    def rest(self) -> Iterator[str]:
        """The line of a stage's results, if some are still untold."""
        if self._dice:
            when = "before training" if self._stage == "start" else f"after stage {self._stage}"
            known = [value for value in self._dice.values() if value is not None]
            cells = [f"{site} {'-' if value is None else f'{value:.3f}'}" for site, value in self._dice.items()]
            mean = [f"mean {sum(known) / len(known):.3f}"] if known else []
            self._dice = {}
            yield f"{when}: Dice " + ", ".join([*cells, *mean])

    def _round(self, event: Mapping[str, Any]) -> str:
        facts = [f"round {event.get('round')}/{self.rounds}, stage {event.get('stage')}"]
        if (seconds := real(event.get("seconds"))) is not None:
            facts.append(f"{seconds:.1f} s")
        if self._weight:
            facts.append(f"mean loss {self._loss / self._weight:.3f}")
        if (draws := real(event.get("draws"))) is not None:
            facts.append(f"{draws:.0f} draws")
        self._loss = self._weight = 0.0
        return ", ".join(facts)
