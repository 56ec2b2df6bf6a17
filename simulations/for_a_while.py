"""Things that are otherwise for the length of a block: an attribute, the environment, what SIGTERM means."""

import os
import signal
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any


@contextmanager
def unwarned() -> Iterator[None]:
    """Nothing warns. Ray leaves open files and processes to the garbage collector, which would."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def swapped(module: ModuleType, name: str, value: object) -> Iterator[None]:
    """A module's attribute has this value."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


@contextmanager
def environment(changes: Mapping[str, str]) -> Iterator[None]:
    """These environment variables are set; afterwards all are as they were."""
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def sigterm(meant: Any) -> Iterator[None]:
    """Ray's start makes SIGTERM a SystemExit of its own: while it starts that is made what the signal `meant`, and
    afterwards the signal means it again. Where it meant sudden death Ray's way stays, for it stops Ray properly."""
    try:
        yield
    except SystemExit:
        if callable(meant):
            meant(signal.SIGTERM, None)
        raise
    finally:
        if meant is not signal.SIG_DFL:
            set_sigterm(meant)


def set_sigterm(handler: Any) -> None:
    """None: a handler that is not Python's, which Python cannot set."""
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)
