"""Whole shares of a total, in proportion to weights, with a floor."""

from collections.abc import Mapping
from math import floor as whole
from math import fsum


def split(weights: Mapping[str, float], total: int, floor: int) -> dict[str, int]:
    """{name: share}; the shares sum to `total`, and none is below `floor`. Without any weight all weigh the same.

    Who would get less than the floor gets the floor, the others share the rest in proportion, again if need be; what
    rounding down leaves goes to the largest remainders (ties: the first name).

    Raises:
        ValueError: the floors alone are more than the total.
    """
    if floor * len(weights) > total:
        raise ValueError(
            f"memory.total is {total}, but {len(weights)} sites with at least {floor} samples each (index.floor) "
            f"need {floor * len(weights)}"
        )
    open_names, rest = sorted(weights), total
    while True:
        exact = _exact(weights, open_names, rest)
        low = [name for name in open_names if exact[name] < floor]
        if not low:
            break
        rest -= floor * len(low)
        open_names = [name for name in open_names if name not in set(low)]
    shares = {name: whole(exact[name]) for name in open_names}
    left = rest - sum(shares.values())
    for name in sorted(open_names, key=lambda name: (shares[name] - exact[name], name))[:left]:
        shares[name] += 1
    return {name: shares.get(name, floor) for name in weights}


def _exact(weights: Mapping[str, float], names: list[str], rest: int) -> dict[str, float]:
    total = fsum(weights[name] for name in names)
    return {name: rest * (weights[name] / total) if total > 0 else rest / len(names) for name in names}
