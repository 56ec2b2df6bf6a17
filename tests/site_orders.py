"""Orders to a tiny site, and what it answers and remembers, as the tests of a site's work compare them."""

import json
from dataclasses import replace

from clients.snapshot import before
from wire import Order

CLASSES = ("liver", "spleen")


def order(task="train", round=1, **facts):
    return Order(**{"run": "run1", "round": round, "task": task, "site": "tiny", "classes": CLASSES, "quota": 3, **facts})


def initial(site):
    return site.answer(order("init", 0), {}).weights


def content(reply):
    """Everything in a reply but the times that it took and the ids, which are each site folder's own, as bytes."""

    def shown(row):
        evicted = [{key: value for key, value in gone.items() if key not in ("id", "twin")} for gone in row.get("evicted", ())]
        return {key: value for key, value in row.items() if key not in ("seconds", "saving")} | {"evicted": evicted}

    rows = json.dumps(list(map(shown, reply.rows)))
    return rows.encode() + b"".join(name.encode() + reply.weights[name].tobytes() for name in sorted(reply.weights))


def remembered(site, round, run="run1"):
    """Everything that a site remembers after a round."""
    held = before(site.folder / "state", run, round + 1)
    moments = {name: moment.tobytes() for name, moment in sorted(held.moments.items())}
    samples = [repr(replace(sample, feature=sample.feature.tobytes(), sketch=None)) for sample in held.samples]
    return held.cursor, held.served, moments, samples


def rounds_kept(site, run="run1"):
    return sorted(path.name for path in (site.folder / "state" / run).iterdir())


def through(site, rounds, weights=None, **facts):
    """Weights handed on from round to round, as with a single site; the replies."""
    weights, replies = weights or initial(site), []
    for round in rounds:
        replies.append(site.answer(order(round=round, **facts), weights))
        weights = replies[-1].weights
    return replies
