"""Faults of whole processes: a run over Ray as its user starts it, of which one process is killed, or stops to answer."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

from injecting import Seen, events
from lives import Life
from sameness import differences
from stages import where

CONFIG = "configs/smoke.yaml"
SETTINGS = ("--set", "train.sampling_rate=60", "--set", "engine.actors=1")
"""Rounds long enough to hit one; and one actor, so that it is at work when it is hit."""
PATIENCE_S = 300.0
SHORT_S = 8
"""A deadline that an order keeps and a stopped process does not."""


def hit(part: str, sent: signal.Signals, *settings: str) -> Callable[[Path], Seen]:
    """A fault: while the first site trains, a process of the run gets a signal."""

    def injected(place: Path) -> Seen:
        reference = undisturbed(place.parent)
        life = started(place / "run", "ray", *settings)
        try:
            while life.wait(0.02) is None:
                if where(place / "run", life.began).phase == "training":
                    os.kill(life.parts()[part][0], sent)
                    break
            code = life.wait(PATIENCE_S)
        finally:
            life.bury()
        said = life.last_words().replace(f"{place}/", "")
        if code in (3, 130):
            again = Life(("resume", str(place / "run"), "--engine", "local"), place / "resumed.txt", place.parent / "cache")
            code = again.wait(PATIENCE_S)
        told = events(place / "run", "fault", "failure")
        if told and code == 0:
            said = f"{told[0]['site']}, round {told[0]['round']}: {told[0]['reason']}"
        same = code == 0 and not differences(place / "run", reference)
        lost = "nothing: the same bytes" if same else _lost(place / "run")
        survived = "goes on" if life.process.returncode == 0 else "stops; resume goes on"
        return Seen(1, max(1, len(told)), survived if code == 0 else f"EXIT CODE {code}", lost, said)

    return injected


def _lost(folder: Path) -> str:
    failed = len(events(folder, "failure"))
    return f"{failed} update{'s' * (failed != 1)}" if failed else "UNEXPLAINED"


def started(folder: Path, engine: str, *settings: str) -> Life:
    """A run of the smoke config with longer rounds."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    arguments = ("run", CONFIG, "--engine", engine, "--out", str(folder), *SETTINGS)
    sets = [word for setting in settings for word in ("--set", setting)]
    return Life((*arguments, *sets), folder.parent / f"{folder.name}.txt", folder.parent.parent / "cache")


def undisturbed(place: Path) -> Path:
    """The same run without a fault, on the local engine; done once."""
    folder = place / "reference" / "run"
    if not folder.exists() and started(folder, "local").wait(PATIENCE_S) != 0:
        raise SystemExit(f"the undisturbed run failed: {(place / 'reference' / 'run.txt').read_text()}")
    return folder


OF_PROCESSES: dict[str, Callable[[Path], Seen]] = {
    "an actor is killed": hit("actor", signal.SIGKILL),
    "an actor hangs past the deadline": hit("actor", signal.SIGSTOP, f"engine.deadline_s={SHORT_S}"),
    "a site past its deadline, no retry": hit("actor", signal.SIGSTOP, f"engine.deadline_s={SHORT_S}", "engine.retries=0"),
    "the raylet is killed": hit("raylet", signal.SIGKILL),
    "the driver gets SIGTERM": hit("driver", signal.SIGTERM),
}
