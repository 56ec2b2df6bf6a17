"""Where a run meets its sites: who is waited for, and who is turned away.

A simulation's sites are all there and all known. Hospitals connect when they like, and drop out: a round that began without
them would be lost, so the server waits.
"""

import logging
import time
from collections.abc import Collection, Set
from dataclasses import dataclass, field
from math import inf
from typing import Protocol

from server.pins import Pins, Refusal
from server.sites import Sites
from server.waiting import Reminder, clock, named

LOG = logging.getLogger("sitestream")
POLL_S = 0.5


class Entrance(Protocol):
    """What a run asks of whoever stands at its door."""

    def wait(self, among: Set[str] | None, least: int) -> None:
        """Return once so many sites, of those named or of any, are connected."""

    def again(self) -> bool:
        """Whether to wait once more, after a pause, where none of those who are there can take part."""

    def refusals(self) -> Collection[Refusal]:
        """Nodes that were not let in, so far."""


class Open:
    """A simulation's: nobody to wait for, nobody to turn away."""

    def wait(self, among: Set[str] | None, least: int) -> None:
        """At once."""

    def again(self) -> bool:
        """Nothing would change."""
        return False

    def refusals(self) -> Collection[Refusal]:
        """None."""
        return ()


@dataclass
class Gate:
    """A deployment's.

    Args:
        sites: who is connected.
        pins: whose name is whose; none: the grid's names are sure.
        watch_s: seconds after which the log says again whom it waits for.
    """

    sites: Sites
    pins: Pins | None
    watch_s: float
    poll_s: float = field(default=POLL_S, kw_only=True)

    def wait(self, among: Set[str] | None, least: int, wanted: Set[str] = frozenset(), patience_s: float = inf) -> None:
        """Wait for `least` sites however long it takes, and for all of `wanted` as long as patience lasts; the log says so."""
        reminder, began, told = Reminder(self.watch_s), time.monotonic(), False
        while True:
            there = self.sites.connected()
            there = set(there if among is None else there & among)
            missing, silence = sorted(wanted - there), time.monotonic() - began
            if len(there) >= least and (not missing or silence > patience_s):
                break
            words = named(missing or sorted((among or set()) - there)) or "a site"
            if len(there) < least and not missing:
                words = f"{least - len(there)} of {words}" if among else f"{least - len(there)} more site(s), whichever"
            if not told:
                LOG.info("waiting for %s to connect (connected: %s)", words, named(sorted(there)) or "nobody")
            elif reminder.due(silence):
                LOG.warning("waiting for %s to connect, %s so far", words, clock(silence))
            told = True
            time.sleep(self.poll_s)
        if told:
            LOG.info("connected: %s; going on", named(sorted(there)))

    def again(self) -> bool:
        """A hospital may mend what its hello failed at."""
        LOG.warning("nobody who is connected can take part (the record says why); asked again in %s", clock(self.watch_s))
        time.sleep(self.watch_s)
        return True

    def refusals(self) -> Collection[Refusal]:
        """From the pins: `connected` looks them up."""
        return self.pins.refused if self.pins else ()
