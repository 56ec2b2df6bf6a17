"""The engine for tests and the debugger: every site in this very process, one after another."""

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import replace
from pathlib import Path

from clients.heap import keep_freed_memory
from clients.work import Site
from configs.schema import Run
from server.sites import one_line
from wire import Failure, Order, Reply, Weights, split_extra


class LocalSites:
    """Sites without a network: an order is a function call. Nothing is packed, so numbers are the very same."""

    def __init__(self, run: Run, folders: Mapping[str, Path]) -> None:
        keep_freed_memory()
        self._sites = {name: Site(name, site, run, folders[name]) for name, site in run.sites.items()}

    def connected(self) -> Set[str]:
        """All of them."""
        return self._sites.keys()

    def ask(self, shared: Weights, orders: Iterable[Order]) -> Iterator[Reply | Failure]:
        """Each order in turn; what a site raises becomes its Failure."""
        weights, extra = split_extra(shared)
        for order in orders:
            yield self._answer(replace(order, extra=extra), weights)

    def _answer(self, order: Order, weights: Weights) -> Reply | Failure:
        try:
            return self._sites[order.site].answer(order, weights)
        except Exception as error:  # a site's fault must not end the run, and memory that ran out is one
            words = "out of memory" if isinstance(error, MemoryError) else type(error).__name__
            reason = one_line(str(error) or words)
            return Failure(site=order.site, round=order.round, task=order.task, kind="crashed", reason=reason)
