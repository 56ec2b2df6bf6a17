"""A site's evaluation: the model on its own test cases, as it is or tuned to the site first."""

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clients import evaluate
from clients.micro import ONE_PATCH, halved, with_fewer
from clients.model import Segmenter
from clients.personal import tune
from clients.slices import Worst
from clients.snapshot import Snapshot
from clients.train import pick_device, uses_bfloat16
from wire import Order, Reply, Weights

if TYPE_CHECKING:
    from clients.work import Site


def examine(site: "Site", order: Order, weights: Weights, short: bool = False) -> Reply:
    """Dice per test case and class of the shared model, overlaid by what stays at home; if so ordered, tuned first.

    `short`: memory ran out before, and the process was ended for it. Raises MemoryError if one window is too many.
    """
    needed = order.home or order.personalise  # else nothing of what the site remembers matters, and it need not be read
    after = site.before(order, order.round + 1) if needed else Snapshot()
    batch = site.run.train.batch
    micro = halved(batch, after.micro) if short else after.micro
    segmenter, _ = with_fewer(partial(_model, site, order, weights, after), batch, micro, ONE_PATCH)
    rows = _results(site, order, segmenter.eval(), 1 if short else 0)
    site.progress.show("idle", force=True, round=order.round)
    return site.reply(order, rows=tuple(rows))


def _model(site: "Site", order: Order, weights: Weights, after: Snapshot, micro: int) -> Segmenter:
    segmenter = site.model(order, weights, after)
    if order.personalise:
        tune(site, order, segmenter, after, micro)
    return segmenter


def _results(site: "Site", order: Order, segmenter: Segmenter, windows: int) -> list[dict[str, Any]]:
    """A row per test case and class; `windows` at a time (0: as the recipe says), fewer from where memory runs out."""
    told: list[list[dict[str, Any]]] = []
    run, rows = site.run, site.rows(order)
    worst = Worst(run.evaluate.slices if order.last else 0)
    whole = run.evaluate.batch or run.train.batch
    half = uses_bfloat16(run.train, pick_device(site.site.device))

    def rest(windows: int) -> None:
        """Add the cases that are not told yet, each as soon as it is seen whole."""
        names = [case.name for case in site.tests[len(told) :]]
        volumes = map(site.volume, names)  # opened as they are needed: each holds files open
        seen = evaluate.logits_of_each(segmenter, volumes, rows, run.train.patch, run.evaluate.overlap, windows or whole, half)
        for name, logits_TXYZ in zip(names, seen, strict=True):
            told.append(_told(site, order, name, (logits_TXYZ > 0).cpu().numpy(), worst))
            if len(told) < len(site.tests):
                _show(site, order, len(told))

    _show(site, order, 0)
    with_fewer(rest, whole, windows, "one window of a volume at a time")
    if worst.cases:
        worst.write(site.folder / "slices", order.round)
    return [row for case in told for row in case]


def _show(site: "Site", order: Order, done: int) -> None:
    if site.tests:
        site.progress.show("evaluate", round=order.round, done=done, of=len(site.tests))


def _told(site: "Site", order: Order, case: str, prediction_TXYZ: NDArray[np.bool_], worst: Worst) -> list[dict[str, Any]]:
    """A case's rows; after the last round with surfaces."""
    labels, name, volume = site.cases.labels, site.keyed(case), site.volume(case)
    truth_TXYZ = evaluate.truth_of(volume, labels)
    spacing = volume.spacing if order.last and site.run.evaluate.surface else None
    found = list(evaluate.scores(prediction_TXYZ, truth_TXYZ, list(labels), spacing))
    if worst.most:
        worst.add(name, volume, prediction_TXYZ, truth_TXYZ, found)
    return [{"case": name, **row} for row in found]
