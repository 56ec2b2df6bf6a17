"""A run's numbers for TensorBoard and MLflow: followers of record.jsonl, on which no result depends.

A follower reads the record in a thread of its own, from the first byte on, and gives each row to each outlet once. What an
outlet has of the run already (a killed life left it) it forgets first: the record is the truth, so that nothing is there
twice and nothing is lost. An outlet that fails is a warning in the log; it begins anew a while later, and once more at the
end. (simulations/studies/address.py leaves all this out of what a run is known by.)
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self

from configs.schema import Run
from server.export_points import Point, Scalars
from server.record import FILE as RECORD

LOG = logging.getLogger("sitestream")
POLL_S = 1.0
"""Between two looks at the record."""
RETRY_S = 60.0
"""Until an outlet that failed is tried again."""
GRACE_S = {"finished": 300.0, "failed": 30.0, "killed": 5.0}
"""How long a run that is over waits for its outlets (a model is copied); what they have not done by then is left."""

Ending = Literal["finished", "failed", "killed"]


class Outlet(Protocol):
    """Where points go. Whatever one of these raises is the outlet's own trouble."""

    def begin(self) -> None:
        """Forget what there is of this run."""

    def add(self, points: Sequence[Point]) -> None:
        """Take these, so that a reader sees them."""

    def end(self, how: Ending) -> None:
        """The run is over, for now or for good."""


def _tensorboard(run: Run, folder: Path, id: str) -> Outlet:
    from server.export_tensorboard import Events

    where = run.export.tensorboard
    return Events(folder / "tensorboard" if isinstance(where, bool) else where, shared=where is not True, name=run.name, id=id)


def _mlflow(run: Run, folder: Path, id: str) -> Outlet:
    from server.export_mlflow import Store

    assert not isinstance(run.export.mlflow, bool), "the config names a folder"
    return Store(run.export.mlflow, run, folder, id)


OUTLETS: dict[str, Callable[[Run, Path, str], Outlet]] = {"tensorboard": _tensorboard, "mlflow": _mlflow}
"""By the key of the config that asks for it; their code is imported when the thread needs it, or never."""


@dataclass
class Reader:
    """How far an outlet has come in the record."""

    name: str
    make: Callable[[], Outlet]
    record: Path
    outlet: Outlet | None = None
    taken: int | None = None
    """Bytes of the record; none: it has to begin anew."""
    scalars: Scalars = field(default_factory=Scalars)
    again: float = 0.0
    """Not to be tried before."""
    told: set[str] = field(default_factory=set)
    """What its warnings have said."""

    def look(self, how: Ending | None = None) -> None:
        """Hand over what is new. `how`: the run is over; then even an outlet that has just failed is tried once more."""
        if how is None and time.monotonic() < self.again:
            return
        try:
            self._catch_up(self.outlet or self._made())
            if how and self.outlet:
                self.outlet.end(how)
        except Exception as error:
            self.taken, self.again = None, time.monotonic() + RETRY_S
            reason = f"{type(error).__name__}: {error}"
            if reason not in self.told:
                self.told.add(reason)
                LOG.warning("export.%s: %s; the run goes on without it", self.name, reason)

    def _made(self) -> Outlet:
        self.outlet = self.make()
        return self.outlet

    def _catch_up(self, outlet: Outlet) -> None:
        if self.taken is None or self.record.stat().st_size < self.taken:  # shorter: an append was taken back
            outlet.begin()
            self.taken, self.scalars = 0, Scalars()
        with self.record.open("rb") as file:
            file.seek(self.taken)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        if points := [point for line in whole.splitlines() for point in self.scalars.of(json.loads(line))]:
            outlet.add(points)
        self.taken += len(whole)


class Exports:
    """A run's outlets, followed in a thread from the beginning of the block to its end, or to `close`."""

    def __init__(self, readers: Sequence[Reader]) -> None:
        self._readers = readers
        self._over = threading.Event()
        self._how: Ending = "failed"
        self._thread = threading.Thread(target=self._follow, name="exports", daemon=True) if readers else None

    def __enter__(self) -> Self:
        """Begin to follow."""
        if self._thread:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """The run has finished, failed, or was interrupted."""
        self.close("finished" if kind is None else "failed" if issubclass(kind, Exception) else "killed")

    def close(self, how: Ending) -> None:
        """Hand over the rest; the second time nothing is left to do."""
        if self._thread and not self._over.is_set():
            self._how = how
            self._over.set()
            self._thread.join(GRACE_S[how])
            if self._thread.is_alive():
                LOG.warning("export: not done after %.0f s; the run does not wait for it any longer", GRACE_S[how])

    def _follow(self) -> None:
        over = False
        while not over:
            over = self._over.wait(POLL_S)
            for reader in self._readers:
                reader.look(self._how if over else None)


def exports_of(run: Run, folder: Path, id: str) -> Exports:
    """What a run exports: nothing, unless its config wants it.

    Args:
        run: in the words of the person who asked for it; they are MLflow's parameters.
        folder: the run's; its record holds what has been done, and no more.
        id: the run's own, which stays as it is when a run goes on.
    """
    wanted = [name for name in OUTLETS if getattr(run.export, name) is not False]
    return Exports([Reader(name, partial(OUTLETS[name], run, folder, id), folder / RECORD) for name in wanted])
