"""Where an actor fits beside the others. Arithmetic on names and numbers: knows nothing of Ray."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

Size = tuple[float, float]
"""(CPU cores, GPUs) of an actor: a share of one GPU, or whole ones. Sites of the same size share actors."""
DUST = 1e-6
"""Shares such as .1 do not add up exactly."""


class Machine(NamedTuple):
    """What a machine has."""

    name: str
    cpus: float
    gpus: int


class Spot(NamedTuple):
    """Where an actor is, or will be."""

    machine: str
    gpus: tuple[str, ...] = ()
    """Its GPUs by name, which differ from any other's on this machine."""


def spot(size: Size, machines: Iterable[Machine], taken: Sequence[tuple[Size, Spot]]) -> Spot | None:
    """Where an actor of this size fits beside those that are there.

    Machines with the most idle cores come first, so that work spreads; on a machine it is the fullest GPU that has room, as
    Ray itself chooses (2.55). Cores and GPUs of two machines, and shares of two GPUs, are never added up.

    Returns:
        The spot; an untouched GPU goes by a name that no other has. None: there is no room anywhere.
    """
    found = []
    for machine in machines:
        here = [(its, where.gpus) for its, where in taken if where.machine == machine.name]
        idle = machine.cpus - sum(its[0] for its, _ in here)
        if idle + DUST >= size[0] and (gpus := _gpus(size[1], machine.gpus, here)) is not None:
            found.append((-idle, machine.name, gpus))
    if not found:
        return None
    _, name, gpus = min(found)
    return Spot(name, gpus)


def _gpus(wanted: float, there: int, here: Sequence[tuple[Size, tuple[str, ...]]]) -> tuple[str, ...] | None:
    """The GPUs of one machine that have so much room; None: it has not."""
    if not wanted:
        return ()
    used: dict[str, float] = {}
    for its, gpus in here:
        for gpu in gpus:
            used[gpu] = used.get(gpu, 0.0) + min(1.0, its[1])
    fits = [(share, gpu) for gpu, share in used.items() if share + wanted <= 1 + DUST]
    if fits:
        return (max(fits)[1],)
    whole = max(1, round(wanted))
    if there - len(used) < whole:
        return None
    fresh = (name for name in (f"new {number}" for number in range(len(used) + whole)) if name not in used)
    return tuple(next(fresh) for _ in range(whole))


def at_once(shares: Iterable[int], bins: int, full: int) -> int:
    """How many of these (the largest first, each where it fits first) find room in so many bins.

    >>> at_once([10, 4, 2], 1, 16), at_once([10, 5, 5], 1, 16)
    (3, 2)
    """
    room = [full] * bins
    found = 0
    for share in sorted(shares, reverse=True):
        where = next((i for i, left in enumerate(room) if left >= share), None)
        if where is not None:
            room[where] -= share
            found += 1
    return found
