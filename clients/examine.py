"""A site's evaluation: the model on its own test cases, as it is or tuned to the site first."""

from typing import TYPE_CHECKING, Any

from clients import evaluate
from clients.model import Segmenter
from clients.personal import tune
from clients.slices import keep_slices
from clients.snapshot import Snapshot
from clients.train import pick_device, uses_bfloat16
from wire import Order, Reply, Weights

if TYPE_CHECKING:
    from clients.work import Site


def examine(site: "Site", order: Order, weights: Weights) -> Reply:
    """Dice per test case and class of the shared model, overlaid by what stays at home; if so ordered, tuned first."""
    needed = order.home or order.personalise  # else nothing of what the site remembers matters, and it need not be read
    after = site.before(order, order.round + 1) if needed else Snapshot()
    segmenter = site.model(order, weights, after)
    if order.personalise:
        tune(site, order, segmenter, after)
    rows = _results(site, order, segmenter.eval())
    site.progress.show("idle", force=True, round=order.round)
    return site.reply(order, rows=tuple(rows))


def _results(site: "Site", order: Order, segmenter: Segmenter) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = []
    run, labels, rows = site.run, site.cases.labels, site.rows(order)
    half = uses_bfloat16(run.train, pick_device(site.site.device))
    for done, case in enumerate(site.tests):
        site.progress.show("evaluate", round=order.round, done=done, of=len(site.tests))
        volume = site.volume(case.name)
        prediction = evaluate.predict(segmenter, volume, rows, run.train.patch, run.evaluate, half)
        truth = evaluate.truth_of(volume, labels)
        spacing = volume.spacing if order.last and run.evaluate.surface else None
        found = list(evaluate.scores(prediction, truth, list(labels), spacing))
        told += [{"case": site.keyed(case.name), **row} for row in found]
        if order.last and done < run.evaluate.slices:
            keep_slices(site.folder / "slices", site.keyed(case.name), volume, prediction, truth, found, order.round)
    return told
