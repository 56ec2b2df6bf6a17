"""What a model costs on its way: bytes and seconds per hop, from the server to a site and back into the merge.

    python benchmarks/hops.py [--mb 5 50] [--repeats 5]

One order and one reply of a UNet's own tensors, hop by hop, in this process: medians in milliseconds, the bytes at each, and
how many times as long as copying so many bytes once. The shared weights are packed once per round, all else is per site.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np
from many_sites import CHANNELS

RUN: dict[str, Any] = {"run": "hops", "round": 1, "site": "here"}


def timed(repeats: int, do: Callable[[], Any]) -> tuple[float, Any]:
    """Median milliseconds, and what came of the last."""
    spent, result = [], None
    for _ in range(repeats):
        result = None
        began = time.perf_counter()
        result = do()
        spent.append(1000 * (time.perf_counter() - began))
    return statistics.median(spent), result


def hops(mb: int, repeats: int) -> None:
    """Every hop of one model."""
    from clients import model
    from packing import pack_order, pack_reply, pack_weights, unpack_order, unpack_reply
    from server.replies import why_too_large
    from server.updates import change, why_unfit
    from wire import Order, Reply, size

    args = {"channels": CHANNELS[mb], "strides": [2, 2, 2], "num_res_units": 0}
    segmenter = model.build("UNet", args, ("liver", "spleen"), 0)
    weights, roles = model.shared_weights(segmenter), model.roles(segmenter)
    whole = size(weights)
    flat = np.zeros(whole, np.uint8)
    copy_ms, _ = timed(repeats, flat.copy)
    print(f"{len(weights)} tensors, {whole / 1e6:.1f} MB; a copy of as many bytes takes {copy_ms:.2f} ms")

    def tell(name: str, do: Callable[[], Any], of: Callable[[Any], int]) -> Any:
        ms, result = timed(repeats, do)
        print(f"  {name:<34} {of(result) / 1e6:8.2f} MB {ms:9.2f} ms {ms / copy_ms:7.1f} copies", flush=True)
        return result

    packed = tell("pack the shared weights (a round)", lambda: pack_weights(weights), _record)
    order = Order(task="train", classes=("liver", "spleen"), **RUN)
    content = tell("pack an order around them", lambda: pack_order(order, packed), lambda _: 0)
    tell("serialise for the store, and back", lambda: _stored(packed), _record)
    tell("unpack the order at the site", lambda: unpack_order(content), lambda got: size(got[1]))
    tell("load into the network", lambda: model.load_shared(segmenter, weights), lambda _: whole)
    sent = tell("take out of the network", lambda: model.shared_weights(segmenter), size)
    row = {"memory": 1, "seconds": 1.0}
    reply = Reply(task="train", weights=sent, draws=2, classes=("liver", "spleen"), rows=(row,), **RUN)
    answer = tell("pack the reply", lambda: pack_reply(reply), lambda got: _record(got["weights"]))
    back = tell("serialise for the store, and back", lambda: _stored(answer), lambda got: _record(got["weights"]))
    came = tell("unpack the reply", lambda: unpack_reply(back), lambda got: size(got.weights))
    tell("check it", lambda: (why_unfit(came.weights, weights, roles, 2), why_too_large(came.weights)), lambda _: whole)
    tell("measure the update", lambda: change(came.weights, weights), lambda _: whole)
    merged(came, whole, tell)


def merged(came: Any, whole: int, tell: Callable[..., Any]) -> None:
    """The last hops: to the server's disk, from there, and into the mean."""
    from server.spool import Spool
    from strategies.base import State, average
    from wire import size

    with tempfile.TemporaryDirectory(prefix="sitestream-hops-") as place:
        spool = Spool(Path(place))
        tell("spool it to the disk", lambda: spool.take(came, came.weights), lambda _: whole)
        tell("read it from the spool", lambda: list(spool.updates({}, ("liver", "spleen"))), lambda _: whole)
        updates = list(spool.updates({}, ("liver", "spleen")))
        tell("average it", lambda: State(average(updates, lambda update: 1.0)), lambda got: size(got.weights))


def _record(record: Any) -> int:
    return sum(len(array.data) for array in record.values())


def _stored(thing: Any) -> Any:
    """As Ray's object store takes it (cloudpickle with protocol 5, buffers apart), and gives it back."""
    from ray import cloudpickle  # what the store uses; nothing of ours does

    buffers: list[Any] = []
    text = cloudpickle.dumps(thing, protocol=5, buffer_callback=buffers.append)
    return cloudpickle.loads(text, buffers=[bytes(buffer) for buffer in buffers])


def main() -> None:
    """Every model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, nargs="+", default=[5, 50], choices=CHANNELS)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    for mb in args.mb:
        hops(mb, args.repeats)


if __name__ == "__main__":
    main()
