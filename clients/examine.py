"""A site's evaluation: the model on its own test cases, as it is or tuned to the site first."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clients import evaluate
from clients.micro import ONE_PATCH, halved, with_fewer
from clients.model import Segmenter
from clients.personal import tune
from clients.prepare import Volume
from clients.slices import keep_slices
from clients.snapshot import Snapshot
from clients.train import pick_device, uses_bfloat16
from configs.schema import Run
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
    told: list[dict[str, Any]] = []
    run, labels, rows = site.run, site.cases.labels, site.rows(order)
    half = uses_bfloat16(run.train, pick_device(site.site.device))
    for done, case in enumerate(site.tests):
        site.progress.show("evaluate", round=order.round, done=done, of=len(site.tests))
        volume = site.volume(case.name)
        guess = partial(_predict, segmenter, volume, rows, run, half)
        prediction, windows = with_fewer(guess, run.evaluate.batch, windows, "one window of a volume at a time")
        truth = evaluate.truth_of(volume, labels)
        spacing = volume.spacing if order.last and run.evaluate.surface else None
        found = list(evaluate.scores(prediction, truth, list(labels), spacing))
        told += [{"case": site.keyed(case.name), **row} for row in found]
        if order.last and done < run.evaluate.slices:
            keep_slices(site.folder / "slices", site.keyed(case.name), volume, prediction, truth, found, order.round)
    return told


def _predict(
    segmenter: Segmenter, volume: Volume, rows: Sequence[int], run: Run, half: bool, windows: int
) -> NDArray[np.bool_]:
    recipe = run.evaluate.model_copy(update={"batch": windows or run.evaluate.batch})
    return evaluate.predict(segmenter, volume, rows, run.train.patch, recipe, half)
