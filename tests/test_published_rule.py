"""A stream through each published memory, beside a second, slow implementation of its text (SCIENCE.md, section 1).

B = 1, and nothing is trained on before the memory is full. The reference keeps its own books: of `memory/` it takes
only the word Sample, in which the stream's cases are written down.
"""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import Phase, given, reject, settings
from hypothesis import strategies as st
from numpy.random import default_rng

from memory import make_policy
from memory.sample import Sample

RULES = {
    "linear": ("linear", {}),
    "dynamic": ("dynamic", {}),
    "selective, k = 2": ("selective", {"k": 2}),
    "selective, k = 4": ("selective", {"k": 4}),
    "selective, k = 8": ("selective", {"k": 8}),
}
AXES = np.vstack([np.eye(4), -np.eye(4), np.full((1, 4), 0.5)]).astype(np.float32)
"""Features that cases share: unit vectors whose averages and products are exact."""


@dataclass
class Stream:
    """What every training step on every case would tell, fixed beforehand: visit v of case c -> loss, feature."""

    seed: int
    cases: int
    losses: list[list[float]] = field(default_factory=list)
    features: list[list[np.ndarray]] = field(default_factory=list)

    def __post_init__(self):
        rng, visits = default_rng(self.seed), 400
        for _ in range(self.cases):
            alike, axis, steady = rng.random() < 0.5, AXES[rng.integers(len(AXES))], rng.random() < 0.3
            vector = rng.normal(size=(visits, 4)) + 2 * rng.normal(size=4)
            drifting = (vector / np.linalg.norm(vector, axis=1, keepdims=True)).astype(np.float32)
            self.features.append([axis] * visits if alike else list(drifting))
            self.losses.append([0.5] * visits if steady else rng.random(visits).tolist())

    def draw(self, step, size):
        """The position in the memory that step number `step` trains on."""
        return int(default_rng([self.seed, step]).integers(size))


def ours(stream, policy, budget, rate):
    """The memory after each case: our policies and our samples, driven as a site drives them."""
    memory, history, step = [], [], 0
    for c in range(stream.cases):
        memory = policy.keep([*memory, Sample(case=f"c{c}", arrived=c)], budget, default_rng(0))
        history.append([s.arrived for s in memory])
        if len(memory) < budget:
            continue
        for _ in range(rate):
            s, step = memory[stream.draw(step, len(memory))], step + 1
            loss = stream.losses[s.arrived][s.visits]
            s.visit(loss, loss, stream.features[s.arrived][s.visits])
    return history


# The reference -------------------------------------------------------------------------------------------------------


def reference(stream, rule, k, budget, rate, seen=None):
    """The same, from the text. `seen` counts which of its clauses decided."""
    seen = Counter() if seen is None else seen
    M, visits, v, f, history, step = [], {}, {}, {}, [], 0
    for c in range(stream.cases):
        M.append(c)
        n = len(M) - budget
        if n > 0:
            for gone in to_remove(M, n, rule, k, visits, v, f, seen):
                M.remove(gone)
        history.append(list(M))
        if len(M) < budget:
            continue
        for _ in range(rate):
            i, step = M[stream.draw(step, len(M))], step + 1
            v_new, f_new = stream.losses[i][visits.get(i, 0)], stream.features[i][visits.get(i, 0)]
            v[i] = 0.5 * v[i] + 0.5 * v_new if i in v else v_new
            mean = np.float32(0.5) * f[i] + np.float32(0.5) * f_new if i in f else f_new
            f[i] = mean / np.linalg.norm(mean)
            visits[i] = visits.get(i, 0) + 1
    return history


def to_remove(M, n, rule, k, visits, v, f, seen):
    C = [i for i in M if visits.get(i, 0) >= 1]
    if rule == "linear":
        return M[:n]
    if rule == "selective" and len(C) >= k:
        by_uncertainty = sorted(C, key=lambda i: v[i], reverse=True)  # stable: of equals the older is protected
        protected = by_uncertainty[: len(C) // k]
        C = [i for i in C if i not in protected]
        seen["protected"] += 1
    if len(C) < 2 * n:
        seen["fallback"] += 1
        return M[:n]
    removed = []
    for _ in range(n):
        highest = [max(similarity(f[i], f[j]) if i != j else -10 for j in C) for i in C]
        best = max(highest)
        if any(0 < best - other < 1e-6 for other in highest):
            reject()  # closer than two float32 can tell apart
        seen["tie" if highest.count(best) > 2 else "redundant"] += 1
        removed.append(C.pop(highest.index(best)))
    return removed


def similarity(a, b):
    return (sum(float(x) * float(y) for x, y in zip(a, b, strict=True)) + 1) / 2


# Both ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RULES)
@settings(max_examples=200, derandomize=True, deadline=None, phases=[Phase.generate])  # a seed has no simpler neighbour
@given(seed=st.integers(0, 2**32), cases=st.integers(1, 30), budget=st.integers(1, 12), rate=st.integers(1, 10))
def test_the_very_same_decisions(name, seed, cases, budget, rate):
    rule, args = RULES[name]
    stream = Stream(seed, cases)
    wanted = reference(stream, rule, args.get("k"), budget, rate)
    assert ours(stream, make_policy(rule, args), budget, rate) == wanted


@pytest.mark.parametrize("k", [2, 4, 8])
def test_the_streams_reach_every_clause(k):
    seen = Counter()
    for seed in range(40):
        reference(Stream(seed, 25), "selective", k, 9, 1 + seed % 8, seen)
    assert min(seen[clause] for clause in ("protected", "fallback", "redundant", "tie")) >= 5


def test_the_reference_by_hand():
    stream = Stream(0, 4)
    stream.draw = lambda step, size: 0
    # Case 0 is visited, then 2 arrives: |C| = 1 < 2n, the oldest (0) goes, and so on: first in, first out.
    assert reference(stream, "dynamic", None, 2, 1) == [[0], [0, 1], [1, 2], [2, 3]]
    stream = Stream(0, 3)
    stream.draw = lambda step, size: step % size
    stream.features = [[AXES[0]] * 9, [AXES[0]] * 9, [AXES[1]] * 9]
    # Both visited, and equal: the older goes.
    assert reference(stream, "dynamic", None, 2, 2) == [[0], [0, 1], [1, 2]]
    stream = Stream(0, 4)
    stream.draw = lambda step, size: step % size
    stream.features = [[AXES[1]] * 9, [AXES[0]] * 9, [AXES[0]] * 9, [AXES[2]] * 9]
    stream.losses = [[0.1] * 9, [0.9] * 9, [0.2] * 9, [0.3] * 9]
    # 1 and 2 are equal. Dynamic drops the older, 1; selective with k = 3 protects 1, the most uncertain of three, and
    # of 0 and 2, which are alike to each other only, drops the older.
    assert reference(stream, "dynamic", None, 3, 3)[-1] == [0, 2, 3]
    assert reference(stream, "selective", 3, 3, 3)[-1] == [1, 2, 3]
