"""A budget split evenly over groups, within each of which a policy chooses (`memory.group_by`)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from numpy.random import Generator

from memory.policy import MemoryPolicy, needs
from memory.sample import Sample


@dataclass(frozen=True)
class Grouped:
    """`policy`, asked once for each group that is present in the pool, with an even part of the budget."""

    policy: MemoryPolicy
    by: Literal["class", "domain"]
    """class: a sample's rarest class in the pool (ties: the first name). domain: its domain. None is a group too."""

    def __post_init__(self) -> None:
        if self.by not in ("class", "domain"):
            raise ValueError(f"group_by must be none, class or domain, not {self.by!r}")

    @property
    def needs(self) -> frozenset[str]:
        """What the policy needs."""
        return needs(self.policy)

    def keep(self, pool: Sequence[Sample], budget: int, rng: Generator) -> list[Sample]:
        """What the policy keeps of each group, in order of arrival."""
        groups: dict[str | None, list[Sample]] = {}
        for sample, group in zip(pool, group_of(pool, self.by), strict=True):
            groups.setdefault(group, []).append(sample)
        parts = split({group: len(members) for group, members in groups.items()}, budget)
        # id: samples are not hashable, and a policy answers with the pool's own
        kept = {id(sample) for group, part in parts.items() for sample in self.policy.keep(groups[group], part, rng)}
        return [sample for sample in pool if id(sample) in kept]

    def draw(self, kept: Sequence[Sample], n: int, rng: Generator) -> list[Sample]:
        """As the policy draws."""
        return self.policy.draw(kept, n, rng)


def group_of(pool: Sequence[Sample], by: Literal["class", "domain"]) -> list[str | None]:
    """Each sample's group."""
    if by == "domain":
        return [sample.domain for sample in pool]
    counts = Counter(name for sample in pool for name in sample.classes)
    return [min(sample.classes, key=lambda name: (counts[name], name), default=None) for sample in pool]


def split(sizes: Mapping[str | None, int], budget: int) -> dict[str | None, int]:
    """An even part of the budget for each group; what a small one cannot use goes to the others.

    The parts sum to min(budget, samples). Whatever cannot be split evenly goes to the smaller groups (of equals, to
    the first name), so the rare ones are the last to end up with nothing.
    """
    parts, left = {}, max(budget, 0)
    order = sorted(sizes, key=lambda group: (sizes[group], group is None, str(group)))
    for i, group in enumerate(order):
        parts[group] = min(sizes[group], -(-left // (len(order) - i)))
        left -= parts[group]
    return parts
