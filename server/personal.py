"""What the sites' own models reach: after the last evaluation each site tunes the last model to its memory and tests it.

The tuned models stay with their sites. Their results are columns of their own beside R and enter no metric but `acc.own`.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from math import nan
from pathlib import Path

from durable import write_whole
from server.federation import Federation
from server.metrics import ResultMatrix, site_dice
from server.orders import Orders, of_its_classes


def personalised(federation: Federation, sites: Sequence[str], steps: int, orders: Orders) -> Federation:
    """The federation whose results say what each of these sites reaches with a model of its own.

    A site that fails leaves an empty cell: the run is done, and its results stand without it.
    """
    clock, results = time.perf_counter(), federation.results
    stage, number = results.stages[-1], federation.round
    asked = [replace(orders.order(federation, site, "evaluate", number), personalise=steps) for site in sites]
    replies, _ = orders.ask(federation.state.weights, asked, of_its_classes(federation))
    own = {site: site_dice(replies[site].rows) if site in replies else nan for site in results.sites if site in sites}
    for site, reply in replies.items():
        for row in reply.rows:
            orders.record.append("own-case", stage=stage, site=site, **row)
    for site in (site for site in own if site in replies):
        orders.record.append("own", stage=stage, site=site, dice=own[site], steps=steps)
    federation = replace(federation, results=replace(results, own=own))
    return federation.spend("personalising", time.perf_counter() - clock)


def write_results(results: ResultMatrix, folder: Path) -> None:
    """R.csv, whole or as it was."""
    write_whole(folder / "R.csv", lambda draft: draft.write_text(results.to_csv()))
