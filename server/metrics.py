"""What a run is worth: the result matrix R, and every metric by the id of its formula.

Peers disagree on what "BWT" or "forgetting" means, so a number without an id means nothing. Empty cells of R (a site that
was away, or that has no test cases) are left out, and every number says how many terms its mean had. A site that never
arrives is held out: nobody trains on its cases, and it counts in `cross_domain` or `cross_task` alone.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from math import exp, isnan, nan
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from server.matrix import START as START
from server.matrix import ResultMatrix as ResultMatrix
from server.sums import over_cases, sums_of_sites
from wire import class_sums


class Measured(NamedTuple):
    """A mean, and over how many terms it was taken."""

    value: float
    """nan if there was nothing to average."""
    cells: int
    """How many sites (aia: cells of R; case metrics: cases x classes) entered."""


# Metrics of R ----------------------------------------------------------------------------------------------------


def mean(values: Iterable[float | None]) -> Measured:
    """Mean of what is there, and how much that was; None and nan are left out."""
    there = [value for value in values if value is not None and not isnan(value)]
    return Measured(float(np.mean(there)) if there else nan, len(there))


def drop(matrix: ResultMatrix) -> NDArray[np.float64]:
    """[T + 1, K] R[t, k] - R[k, k] from the stage of site k's arrival on, nan elsewhere: the curves of forgetting."""
    out = np.full(matrix.values.shape, nan)
    for k, start in enumerate(matrix.arrival):
        if start:
            out[start:, k] = matrix.values[start:, k] - matrix.values[start, k]
    return out


def acc(matrix: ResultMatrix) -> Measured:
    """mean_k R[T,k] over the sites that were learnt"""
    return mean(at_the_end(matrix, matrix.learnt).values())


def aia(matrix: ResultMatrix) -> Measured:
    """mean_t mean_{k<=t} R[t,k]; a stage without any cell is left out"""
    stages, known = [], matrix.arrival
    for t in range(1, matrix.last + 1):
        stages.append(mean(matrix.values[t, k] for k, start in enumerate(known) if 1 <= start <= t))
    return Measured(mean(stage.value for stage in stages).value, sum(stage.cells for stage in stages))


def bwt_gem(matrix: ResultMatrix) -> Measured:
    """mean_{k<T} (R[T,k] - R[k,k])"""
    return mean(now - then for then, now in _then_and_now(matrix))


def bwt_lifelong(matrix: ResultMatrix) -> Measured:
    """mean_{k<T} (R[T,k] - R[k,k]) / R[k,k]; sites with R[k,k] = 0 are left out"""
    return mean((now - then) / then for then, now in _then_and_now(matrix) if then != 0)


def fwt_gem(matrix: ResultMatrix) -> Measured:
    """mean_{k>=2} (R[k-1,k] - R[0,k])"""
    values = matrix.values
    return mean(values[start - 1, k] - values[0, k] for k, start in enumerate(matrix.arrival) if start >= 2)


def fgt_chaudhry(matrix: ResultMatrix) -> Measured:
    """mean_{k<T} (max_{k<=l<T} R[l,k] - R[T,k])"""
    last = matrix.last
    earlier = {k: matrix.values[start:last, k] for k, start in enumerate(matrix.arrival) if 1 <= start < last}
    return mean(np.nanmax(past) - matrix.values[last, k] for k, past in earlier.items() if not np.isnan(past).all())


def plasticity(matrix: ResultMatrix) -> Measured:
    """mean_k R[k,k]"""
    return mean(matrix.values[start, k] for k, start in enumerate(matrix.arrival) if start)


def _then_and_now(matrix: ResultMatrix) -> list[tuple[float, float]]:
    """(R[k,k], R[T,k]) of every site that arrived before the last stage."""
    return [
        (matrix.values[start, k], matrix.values[-1, k]) for k, start in enumerate(matrix.arrival) if 1 <= start < matrix.last
    ]


def at_the_end(matrix: ResultMatrix, sites: Collection[str]) -> dict[str, float]:
    """{site: R[T, site]} of these sites, in order of arrival; nan where the cell is empty."""
    last = matrix.values[-1].tolist() if matrix.stages else ()
    return {site: dice for site, dice in zip(matrix.sites, last, strict=False) if site in sites}


def acc_own(matrix: ResultMatrix) -> Measured:
    """mean_k of the Dice that site k's own model reaches there"""
    return mean(matrix.own.values())


# Sites that were held out (Hong et al., 2023, arXiv:2303.06580) -----------------------------------------------------------


def held_out(matrix: ResultMatrix, classes: Mapping[str, Collection[str]]) -> dict[str, tuple[str, ...]]:
    """{site that never arrived: those of its classes that no site taught}: none of them, and it is another domain alone.

    `classes` are what each site annotates; a site of which it does not say that is left out.
    """
    taught = {name for site in matrix.learnt for name in classes.get(site, ())}
    new = {site: tuple(name for name in classes[site] if name not in taught) for site in matrix.sites if site in classes}
    return {site: names for site, names in new.items() if site not in matrix.learnt}


def generalisation(matrix: ResultMatrix, untaught: Mapping[str, Collection[str]]) -> dict[str, Measured]:
    """`in_domain`, `cross_domain` and `cross_task`, the last two with their probes if there are any, from `held_out`'s word."""
    kinds = {
        "cross_domain": [site for site, names in untaught.items() if not names],
        "cross_task": [site for site, names in untaught.items() if names],
    }
    metrics = {"in_domain": acc(matrix)}
    for name, sites in kinds.items():
        metrics[name] = mean(at_the_end(matrix, sites).values())
        if matrix.probe:
            metrics[f"{name}.probe"] = mean(matrix.probe.get(site) for site in sites)
    return metrics


METRICS: dict[str, Callable[[ResultMatrix], Measured]] = {
    "acc": acc,
    "aia": aia,
    "bwt.gem": bwt_gem,
    "bwt.lifelong": bwt_lifelong,
    "fwt.gem": fwt_gem,
    "fgt.chaudhry": fgt_chaudhry,
    "plasticity": plasticity,
}

MEANINGS = {
    "acc": "mean Dice at the end over the sites that were learnt",
    "aia": "mean over the stages of the mean Dice over the sites known by then",
    "bwt.gem": "change since a site was learnt, in Dice (below 0: forgotten)",
    "bwt.lifelong": "change since a site was learnt, relative to what was learnt",
    "fwt.gem": "what earlier sites taught about a site before it arrived, in Dice over the untrained model",
    "fgt.chaudhry": "loss since a site's best stage, in Dice (above 0: forgotten)",
    "plasticity": "mean Dice on a site when it has just been learnt",
    "acc.own": "mean Dice over the sites at the end, each with the last model tuned to its own memory",
    "in_domain": "mean Dice at the end over the sites whose cases were trained on (the same as acc)",
    "cross_domain": "mean Dice at the end over the held-out sites all of whose classes other sites taught",
    "cross_task": "mean Dice at the end over the held-out sites with a class that nobody taught (that class's part is 0, or "
    "chance: its row of the head is as it was drawn)",
    "cross_domain.probe": "the same as cross_domain, each site with a copy of the last model tuned to its own training cases",
    "cross_task.probe": "the same as cross_task, each site with a copy of the last model tuned to its own training cases",
    "dice": "mean over test cases and classes whose label has the class",
    "dice.all": "the same, also counting absent classes: 1 if the prediction lacks them too, else 0",
    "hd95": "95th percentile of the surface distance, mm (below is better)",
    "nsd": "share of the surface within 1 mm",
    "normdel": "score for the share of data kept (0.5 is nothing learnt; mean IoU discounted by the data held at the end)",
}
"""What each id means, in one line."""

# Metrics of cases ------------------------------------------------------------------------------------------------


def site_dice(rows: Iterable[Mapping[str, Any]]) -> float:
    """One cell of R: the mean over a site's classes of the mean over its cases whose label has the class.

    `rows` are the "case" or "class" rows of one site and stage, which give the same bits; nan if no label has any class.
    """
    return mean(over_cases([row])[0] for row in class_sums(rows)).value


def normdel(mean_iou: float, retained: float) -> float:
    """Normalised data-effective learning (arXiv:2401.17542), alpha = 1: what the score costs in data kept.

    `mean_iou` and `retained` (the share of the stream's cases still held at the end) are fractions.
    """
    return 1 / (1 + exp(-mean_iou * exp(-retained)))


def final_metrics(
    matrix: ResultMatrix,
    rows: Sequence[Mapping[str, Any]],
    retained: float,
    classes: Mapping[str, Collection[str]] | None = None,
) -> dict[str, Measured]:
    """Every metric by id after the last stage; `acc.own` where sites tuned models of their own, `in_domain` and what belongs
    to it where sites were held out.

    `rows` are all "case" and "class" rows of that stage; the case metrics are plain means over cases and classes, where
    `acc` gives each site the same weight. `retained` is as in `normdel`. `classes`: what each site annotates.
    """
    metrics = {name: metric(matrix) for name, metric in METRICS.items()}
    metrics |= {"acc.own": acc_own(matrix)} if matrix.own else {}
    if untaught := held_out(matrix, classes or {}):
        metrics |= generalisation(matrix, untaught)
    sums = sums_of_sites(row for row in rows if row.get("site") not in {*matrix.sites} - {*matrix.learnt})
    metrics |= {name: Measured(*over_cases(sums, name)) for name in ("dice", "dice.all", "hd95", "nsd")}
    iou = Measured(*over_cases(sums, "iou"))
    return metrics | {"normdel": Measured(normdel(iou.value, retained), iou.cells)}
