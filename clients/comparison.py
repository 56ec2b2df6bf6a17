"""A site's half of the uniqueness index in one round: sketches of what it holds and of what arrives, and the server's word."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients.prepare import Volume
from clients.privacy import noise_rng, upload
from clients.sketch import Sketcher, centre, elsewhere, quantise, unit
from memory.sample import Sample
from wire import Order


@dataclass(frozen=True)
class Points:
    """[N, E] projected features of the cases named; `known` ones are not computed again."""

    sketcher: Sketcher
    volume: Callable[[str], Volume]
    known: dict[str, NDArray[np.float32]]

    def __call__(self, cases: Sequence[str]) -> NDArray[np.float32]:
        """Computes what is not known yet."""
        for case in cases:
            if case not in self.known:
                self.known[case] = self.sketcher.points([self.volume(case)])[0]
        return np.stack([self.known[case] for case in cases])


@dataclass
class Comparison:
    """What the federation knows of a site's samples, and what the site tells it of them."""

    order: Order
    points: Callable[[Sequence[str]], NDArray[np.float32]]
    """`Points`, or anything like it."""
    keyed: Callable[[str], str]
    """The id by which the federation knows a case."""
    noise: float | None
    secret: bytes
    """The site's own, from which its noise is drawn."""
    _points: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    def look(self, held: Sequence[Sample], arriving: Sequence[Sample]) -> None:
        """Give every sample its sketch and its uniqueness: the held ones the server's word, the arriving ones by coverage."""
        samples = [*held, *arriving]
        if not samples:
            return
        point_NE = self.points([sample.case for sample in samples])
        unit_NE = centre(point_NE, self.order.mu_E)
        sketches = zip(quantise(unit_NE), unit_NE, point_NE, strict=True)
        for sample, (sketch_E, unit_E, point_E) in zip(samples, sketches, strict=True):
            sample.sketch, self._points[sample.case] = sketch_E, point_E
            if sample.visits == 0:
                sample.uniqueness = elsewhere(unit_E, self.order.coverage_ME)
        self._hear(held)

    def _hear(self, held: Sequence[Sample]) -> None:
        """Take in the server's scores. What a site holds and the server does not name keeps the last word on it."""
        ids = {self.keyed(sample.case): sample for sample in held}
        for name, scores in self.order.scores.items():
            for id, value in scores.items():
                if id not in ids:
                    continue
                if name == "uniqueness":
                    ids[id].uniqueness = float(value)
                else:
                    ids[id].scores[name] = float(value)
        for id, sample in ids.items():
            sample.orphan = id in self.order.orphans
            if "uniqueness" not in self.order.scores and sample.visits:
                sample.uniqueness = 1.0  # what was true when it arrived need not be any more

    def told(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """The fields of the reply: ids, sketches and mean of what the site holds now."""
        if not samples:
            return {}
        point_NE = np.stack([self._points[sample.case] for sample in samples])
        rng = noise_rng(self.secret, point_NE, self.order.mu_E, self.noise)
        sketches_NE, mean_E = upload(point_NE, self.order.mu_E, self.noise, rng)
        ids = tuple(self.keyed(sample.case) for sample in samples)
        return {"ids": ids, "sketches_NE": sketches_NE, "mean_E": mean_E}


def twin(sample: Sample, kept: Sequence[Sample]) -> tuple[Sample | None, float | None]:
    """The sample most like it among those that stay, and the cosine of the two; by sketches, else by features."""
    for name in ("sketch", "feature"):
        own, others = getattr(sample, name), [other for other in kept if getattr(other, name) is not None]
        if own is None or not others:
            continue
        other_NE = unit(np.stack([getattr(other, name) for other in others]).astype(np.float64))
        cosine_N = other_NE @ unit(own[None].astype(np.float64))[0]
        nearest = int(np.argmax(cosine_N))
        return others[nearest], float(cosine_N[nearest])
    return None, None


def evictions(
    gone: Sequence[tuple[Sample, Sample | None, float | None]], keyed: Callable[[str], str], noise: float | None = None
) -> list[dict[str, Any]]:
    """A round's evictions as the wire may tell them (wire.EVICTED_KEYS).

    With noise nothing is said of whom a sample was like, and how much: that was found without noise.
    """
    if noise is not None:
        return [{"id": keyed(sample.case), "arrived": sample.arrived, "visits": sample.visits} for sample, _, _ in gone]
    return [
        {
            "id": keyed(sample.case),
            "arrived": sample.arrived,
            "visits": sample.visits,
            "uniqueness": round(sample.uniqueness, 4),
            "twin": keyed(other.case) if other else None,
            "similarity": None if cosine is None else round(cosine, 4),
        }
        for sample, other, cosine in gone
    ]
