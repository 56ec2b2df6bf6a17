"""A short record that has every event."""

from typing import Any

from server.replies import MOST_CLASSES
from wire import MOST_DOMAINS


def record() -> list[dict[str, Any]]:
    """Two sites, two rounds, an index, a failure, a fault, results and metrics."""
    where = [{"round": n, "site": site} for n in (1, 2) for site in ("a", "b")]
    memory = {"memory": 2, "budget": 3, "memory_classes": {"liver": 2}, "memory_domains": {"ct": 2}, "memory_arrived": [0, 1]}
    traffic = {"bytes_down": 1000, "bytes_up": 900, "bytes_coverage": 10, "bytes_sketches": 20}
    train = {"event": "train", "draws": 8, "steps": 4, "loss_sum": 2.0, "loss_weight": 4.0, "seconds": 1.5} | memory | traffic
    index = {"held": {"a": 2, "b": 2}, "effective": {"a": 1.5, "b": 2.0}, "duplicates": 1, "quantiles": [0.1, 0.5, 1.0],
             "orphans": {"a": 1}, "quotas": {"a": 3, "b": 2}}  # fmt: skip
    gone = {"id": "x1", "arrived": 1, "visits": 2, "uniqueness": 0.3, "twin": "x2", "similarity": 0.9, "where": "b"}
    case = {"event": "case", "case": "c", "class": "liver", "dice": 0.5, "dice.all": 0.5, "iou": 0.4, "hd95": 2.0, "voxels": 9}
    words = {"task": "train", "kind": "late", "reason": "no answer within 30 s"}
    rows: list[dict[str, Any]] = [
        {"event": "run", "name": "r", "seed": 0, "paradigm": "continual", "strategy": {"merge": "average", "merge_args": {}},
         "memory": {"policy": "linear", "args": {"k": 2}, "budget": 3}, "versions": {"python": "3.11"}},
        *({"event": "site", "site": site, "classes": ["liver"], "cases": 4, "tests": 1, "extra": False} for site in "ab"),
    ]  # fmt: skip
    rows += [{"event": "result", "stage": "start", "site": site, "dice": 0.1} for site in "ab"]
    rows += [{"event": "arrive", "stage": at["site"], **at} for at in where[:2]] + [train | at | {"stage": "a"} for at in where]
    rows += [{"event": "failure", **where[1], **words}, {"event": "fault", **where[1], **words}]
    rows += [{"event": "evict", **where[0], **gone, "where_id": "x3", "where_similarity": 0.8}]
    for n in (1, 2):
        rows += [{"event": "index", "round": n, **index}]
        rows += [{"event": "round", "round": n, "stage": "a+b", "present": ["a", "b"], "seconds": 2.0, "draws": 16}]
    rows += [{"event": "privacy", "round": 2, "epsilon": 3.0, "delta": 1e-5, "releases": 2}]
    rows += [{"event": "changed", "round": 2, "key": "train.lr", "before": 0.1, "after": 0.2}]
    rows += [case | {"stage": "a+b", "site": site} for site in "ab"]
    rows += [{"event": "result", "stage": "a+b", "site": site, "dice": 0.5} for site in "ab"]
    return [*rows, {"event": "metric", "id": "acc", "value": 0.5, "cells": 2}, {"event": "end", "seconds": 9.0}]


def crowded() -> list[dict[str, Any]]:
    """The same with as many domains and classes as a site may name (wire.MOST_DOMAINS, server.replies.MOST_CLASSES)."""
    names = [f"class {i}" for i in range(MOST_CLASSES)]
    rows = []
    for row in record():
        if row["event"] == "train":
            domains = {f"{row['site']} {i}": 1 for i in range(MOST_DOMAINS)}
            row |= {"memory_domains": domains, "memory_classes": dict.fromkeys(names, 1)}
        rows += [row | {"class": name} for name in names] if row["event"] == "case" else [row]
    return [row | {"classes": names} if row["event"] == "site" else row for row in rows]
