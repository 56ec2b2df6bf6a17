"""The long-lived process of a site: it holds torch, the model, caches and memory maps, and does the orders that doors bring.

    python -m clients.worker --site-name east --site-folder /var/lib/sitestream/east --site-file /etc/sitestream/site.yaml

clients/door.py starts it when none is there; a supervisor may have done so before. It ends by itself when no order comes for
a while, on SIGTERM once its order is done, and when the SiteStream on the disk or the site's file is no longer the one that it
began with. What it remembers from order to order is on the disk (clients/snapshot.py): a fresh one goes on where it was.
"""

import argparse
import faulthandler
import logging
import math
import os
import select
import signal
import socket
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

from clients import doorstep, parcel
from configs.load import load_run, load_site
from configs.schema import Run

LOG = logging.getLogger("sitestream")
IDLE_S = 3600.0
LOOK_S = 2.0
"""Seconds between two looks whether anybody can still come in."""
TALK_S = 60.0
"""Seconds for a door to say the next word; a stopped one must not keep the others out."""
SOUND = (ValueError, ArithmeticError)
"""What may go wrong without the process being any worse for it. After anything else (memory, a GPU, a disk) it ends."""


@dataclass
class Worker:
    """One site's orders, one after another."""

    name: str
    folder: Path
    file: str
    """The site file; empty: the recipe embeds the site."""
    idle_s: float
    edition: str = field(default_factory=doorstep.edition)
    ending: str = ""
    """Why the worker ends after this order; empty: it does not."""
    _known: Any = None
    _site: Any = None
    _kept: tuple[Any, ...] = ()
    """A reply that nobody waited for, and what it answers: a server gives an order again whose node was started anew."""

    def serve(self, listener: socket.socket, path: Path, wake: int) -> None:
        """Do orders until there is a reason to end. `path`: the listener's; `wake`: readable once a signal has come."""
        unreachable = doorstep.room(self.folder) / doorstep.UNREACHABLE
        idle, sources = time.monotonic(), [listener.fileno(), wake]
        while not self.ending:
            left = idle + self.idle_s - time.monotonic()
            if left <= 0:
                self.ending = f"no order for {self.idle_s:g} s"
                break
            ready, _, _ = select.select(sources, [], [], min(left, LOOK_S))
            if listener.fileno() in ready:
                self._receive(listener)
                idle = time.monotonic()
            elif not path.exists() or unreachable.exists():
                self.ending = self.ending or "doors cannot reach its socket"

    def _receive(self, listener: socket.socket) -> None:
        line, _ = listener.accept()
        with line, line.makefile("rb") as stream:
            line.settimeout(TALK_S)
            try:
                doorstep.check_peer(line)
                if self._greet(line, parcel.receive(stream)[0]):
                    told, content = parcel.receive(stream)
                    self._reply(line, told, content)
            except (parcel.Gone, TimeoutError):
                LOG.info("the door that had come is gone, or silent; nothing was begun for it")
            except PermissionError as error:
                LOG.error("refused: %s", error)
            except (ValueError, KeyError, TypeError) as error:
                self.ending = f"a door of another edition came ({error}); a fresh worker will understand it"

    def _greet(self, line: socket.socket, hello: dict[str, Any]) -> bool:
        """Say who this is; whether the order is for this worker, as it is now."""
        parcel.send(line, {"edition": self.edition, "site": self.name, "file": self.file, "process": os.getpid()})
        if hello["site"] != self.name:
            LOG.error("a door of site %s came to the folder of site %s", hello["site"], self.name)
            return False
        for key, mine in (("edition", self.edition), ("file", self.file)):
            if hello[key] != mine:
                self.ending = f"its {key} is {mine}, the door's is {hello[key]}: a fresh worker takes over"
                return False
        if (waited := time.time() - float(hello["since"])) > 1:
            LOG.info("the next order waited %.0f s for this worker to be ready", waited)
        return True

    def _reply(self, line: socket.socket, told: dict[str, Any], content: parcel.RecordDict | None) -> None:
        """Do the order and hand over what came of it. If nobody is there any more, it is done all the same."""
        began = time.monotonic()
        facts, reply = self._done(told, content)
        self._kept = ()
        LOG.info("done in %.1f s%s", time.monotonic() - began, "" if reply else f", with an error ({facts['error'][0]})")
        line.settimeout(None)  # a reply is worth more than a place in the queue
        try:
            parcel.send(line, facts, reply)
        except (parcel.Gone, TimeoutError):
            LOG.warning("the door did not wait for the reply; the same order, asked again, gives the same reply")
            self._kept = (self._site, told, content, reply) if reply is not None else ()

    def _done(self, told: dict[str, Any], content: parcel.RecordDict | None) -> tuple[dict[str, Any], parcel.RecordDict | None]:
        """A reply; or the kind and the words of an error, as far as they may leave the site."""
        if doorstep.is_taken(self.folder / "lock"):
            LOG.warning("another process is at work in %s; the order waits until it is done", self.folder)
        app: Any = import_module("clients.app")  # the same code as in a simulation
        try:
            if self._is_again(told, content):
                LOG.info("the same order again: it has been done, and here is the reply")
                return {}, self._kept[3]
            return {}, app.done(content, lambda: self._opened(told), bool(self.file), bool(told["short"]))
        except Exception as error:
            if not any(isinstance(each, SOUND) for each in (error, error.__context__)):
                self.ending = f"after {type(error.__context__ or error).__name__} a fresh process is safer"
            return {"error": [type(error).__name__, str(error)]}, None

    def _is_again(self, told: dict[str, Any], content: parcel.RecordDict | None) -> bool:
        """Whether this is the order whose reply is kept, and the site is as it was then."""
        try:
            return bool(self._kept) and self._kept[0] is self._opened(told) and self._kept[1:3] == (told, content)
        except Exception:  # a site that cannot be opened: it is said, discreetly, where the order is done
            return False

    def _opened(self, told: dict[str, Any]) -> Any:
        """The site, as the recipe and its own file have it now; with its caches, if neither has changed."""
        run = read_recipe(tuple((path, text) for path, text in told["recipe"]))
        known = run, load_site(Path(self.file)) if self.file else None
        if known != self._known:
            site: Any = import_module("clients.app").make_site
            self._site = site(self.name, self.folder, Path(self.file) if self.file else None, run)
            self._known = known
        return self._site


@lru_cache(maxsize=4)
def read_recipe(files: tuple[tuple[str, str], ...]) -> Run:
    """The recipe in the first of these (path, text), which extends the others. Raises ValueError as `load_run`."""
    if not files:
        raise ValueError("the run's recipe cannot be read")
    with tempfile.TemporaryDirectory(prefix="sitestream-recipe-") as place:
        for path, text in files:
            copy = Path(os.path.normpath(f"{place}/{path}"))
            if not copy.is_relative_to(place):
                raise ValueError(f"{path} is no place for a recipe")
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(text, encoding="utf-8")
        try:
            return load_run(Path(f"{place}/{files[0][0]}"))
        except ValueError as error:
            raise ValueError(str(error).replace(f"{place}/", "")) from None


# The process ----------------------------------------------------------------------------------------------------------------


def main() -> int:
    """Be the site's worker until there is a reason to end; the exit code, 1 if another one is there."""
    worker = _asked()
    faulthandler.enable()
    logging.basicConfig(format="%(asctime)s %(levelname)s [worker %(process)d] %(message)s", level=logging.WARNING)
    LOG.setLevel(logging.INFO)
    room = doorstep.room(worker.folder)
    if not _lock(lock := room / doorstep.LOCK):
        LOG.error("site %s: a worker is already at work in %s (process %s)", worker.name, worker.folder, lock.read_text())
        return 1
    (room / doorstep.UNREACHABLE).unlink(missing_ok=True)
    wake = _listen_to_signals(worker)
    listener, path = doorstep.listen(room)
    with listener:
        idle = f"ends after {worker.idle_s:g} s without an order" if worker.idle_s < math.inf else "stays"
        LOG.info("site %s: worker of SiteStream %s at %s; %s", worker.name, worker.edition, path, idle)
        began = time.monotonic()
        import_module("clients.app")
        LOG.info("ready after %.1f s", time.monotonic() - began)
        try:
            worker.serve(listener, path, wake)
        finally:
            doorstep.forget(room)
    LOG.info("ends: %s", worker.ending)
    return 0


def _asked() -> Worker:
    parser = argparse.ArgumentParser(prog="python -m clients.worker", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--site-name", required=True)
    parser.add_argument("--site-folder", required=True, type=Path, help="where the site keeps its memory")
    parser.add_argument("--site-file", default="", help="the hospital's own settings; none: the recipe embeds them")
    parser.add_argument("--idle", type=float, default=IDLE_S, help="seconds without an order after which to end; 0: never")
    told = parser.parse_args()
    file = os.path.abspath(told.site_file) if told.site_file else ""
    return Worker(told.site_name, told.site_folder.absolute(), file, told.idle if told.idle > 0 else math.inf)


def _lock(path: Path) -> bool:
    """Be the one worker of the folder, as long as this process lives. A door may be looking just now: twice, then."""
    for _ in range(20):
        if (handle := doorstep.take(path)) is not None:
            os.truncate(handle, 0)
            os.pwrite(handle, str(os.getpid()).encode(), 0)
            return True
        time.sleep(0.1)
    return False


def _listen_to_signals(worker: Worker) -> int:
    """The first SIGTERM or Ctrl-C ends the worker after its order, the second at once; what to select on to hear the first."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def end(number: int, frame: object) -> None:
        worker.ending = f"{signal.Signals(number).name}"
        LOG.info("%s: ends after the order under way, if there is one", worker.ending)
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_DFL)

    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, end)
    return reader


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        sys.exit(main())
