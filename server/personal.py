"""What the last model reaches once a site has tuned it: after the last evaluation the site does so, and tests what it made.

A site that was trained on tunes the model to its memory and keeps it: its own model (strategy.personalise). A site that was
held out tunes a copy to its training cases and throws it away: a probe (evaluate.probe). No weights leave a site. The
results are columns of their own beside R, and enter no metric but `acc.own` and those that end in `.probe`.
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
    clock = time.perf_counter()
    own = _tuned(federation, sites, steps, orders, "own")
    federation = replace(federation, results=replace(federation.results, own=own))
    return federation.spend("personalising", time.perf_counter() - clock)


def probed(federation: Federation, sites: Sequence[str], steps: int, orders: Orders) -> Federation:
    """The federation whose results say what each of these sites that was held out reaches with a copy tuned to its cases.

    A site that fails leaves an empty cell, as in `personalised`.
    """
    clock, learnt = time.perf_counter(), federation.results.learnt
    probe = _tuned(federation, [site for site in sites if site not in learnt], steps, orders, "probe")
    federation = replace(federation, results=replace(federation.results, probe=probe))
    return federation.spend("personalising", time.perf_counter() - clock)


def _tuned(federation: Federation, sites: Sequence[str], steps: int, orders: Orders, event: str) -> dict[str, float]:
    """{site: Dice after so many steps of tuning there}, nan where that failed; each case and site into the record."""
    results, number = federation.results, federation.round
    asked = [replace(orders.order(federation, site, "evaluate", number), personalise=steps) for site in sites]
    replies, _ = orders.ask(federation.state.weights, asked, of_its_classes(federation))
    found = {site: site_dice(replies[site].rows) if site in replies else nan for site in results.sites if site in sites}
    for site, reply in replies.items():
        for row in reply.rows:
            kind = "case" if "case" in row else "class"
            orders.record.append(f"{event}-{kind}", stage=results.stages[-1], site=site, **row)
    for site in (site for site in found if site in replies):
        orders.record.append(event, stage=results.stages[-1], site=site, dice=found[site], steps=steps)
    return found


def write_results(results: ResultMatrix, folder: Path) -> None:
    """R.csv, whole or as it was."""
    write_whole(folder / "R.csv", lambda draft: draft.write_text(results.to_csv()))
