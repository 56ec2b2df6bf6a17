"""A ClientApp for the grid's tests: doubles the weights it gets, or misbehaves as the node's config says.

Node config: `sleep` (seconds), `raise` (text), `memory` (text of a MemoryError), `exit` (status), `stop` (ignore the world for
so many seconds), `once` (a file: misbehave only if it does not exist yet, and make it), `lie` (another site's name), `mb`
(reply with so much).
"""

import os
import signal
import time
from pathlib import Path

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

import packing
import wire

app = ClientApp()


@app.train()
@app.evaluate()
@app.query()
def answer(message: Message, context: Context) -> Message:
    """Twice the weights, with the process id as `draws` and the quota as `new_cases`."""
    order, shared = packing.unpack_order(message.content)
    told = context.node_config
    if _due(told):
        _misbehave(told)
    weights = {name: 2 * tensor for name, tensor in shared.items()}
    if "mb" in told:
        weights["bulk"] = np.full(int(told["mb"]) * 2**18, order.round, np.float32)
    reply = wire.Reply(
        run=order.run,
        round=order.round,
        task=order.task,
        site=str(told.get("lie", told["site-name"])),
        weights=weights,
        extra=order.extra,
        draws=os.getpid(),
        new_cases=order.quota,
        classes=(os.environ["OMP_NUM_THREADS"], os.environ["HOME"]) if "tell" in told else (),
        ids=("short",) if told.get("short-of-memory") else (),
    )
    return Message(packing.pack_reply(reply), reply_to=message)


def _due(told: dict) -> bool:
    if "once" not in told:
        return True
    due = not Path(str(told["once"])).exists()
    Path(str(told["once"])).touch()
    return due


def _misbehave(told: dict) -> None:
    if "note" in told:
        Path(str(told["note"])).write_text(str(os.getpid()))
    time.sleep(float(told.get("sleep", 0)))
    if "raise" in told:
        raise RuntimeError(str(told["raise"]))
    if "memory" in told:
        raise MemoryError(str(told["memory"]))
    if "exit" in told:
        os._exit(int(told["exit"]))
    if "stop" in told:
        os.kill(os.getpid(), signal.SIGSTOP)
