"""What an order costs at a hospital beside the work itself: a process with torch and MONAI for each, or a door and its worker.

    python benchmarks/site_overhead.py [--pairs 5]

A SuperNode starts a process for every message. Here such a process imports what Flower's does (flwr-clientapp), loads the app,
answers one message and ends; the message itself comes from a file, so what the network costs is not in it. The same training
order (one step, one tiny patch) goes in turn to `clients.app`, in that process, and to `clients.door`, which hands it to the
site's worker. Prints medians in seconds per order, and the ratio, for a small network and for one of 50 MB; and the first
order to a worker that has yet to be started. The replies of both must be the same, bit for bit.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
APPS = {"process": "clients.app:app", "worker": "clients.door:app"}
NETWORKS = {"small": [4, 8], "50 MB": [64, 128, 256, 950]}
"""Channels of a UNet."""
CLASSES = ("liver", "spleen")


def one_message(told: dict[str, Any]) -> None:
    """What flwr-clientapp does with a message, without its network: runs in a process of its own."""
    import flwr.supernode.runtime.run_clientapp
    from flwr.app import Context, Message, RecordDict
    from flwr.supercore.object_ref import load_app
    from flwr.supercore.task_identity import TaskIdentity

    from clients import parcel

    del flwr
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
    with Path(told["order"]).open("rb") as file:
        _, content = parcel.receive(file)
    assert content is not None
    app = load_app(told["app"], ImportError, told["folder"])
    context = Context(1, 1, told["node"], RecordDict(), {"config": told["config"]})
    reply = app(Message(content, 1, "train"), context)
    with Path(told["reply"]).open("wb") as file:
        file.writelines(array.data for _, array in sorted(reply.content["weights"].items()))
    sys.stdout.flush()
    os._exit(0)  # as flwr_exit: without the interpreter's own farewell


class Hospital:
    """A tiny site with a recipe and a network of a size, in a folder."""

    def __init__(self, folder: Path, channels: list[int]) -> None:
        from clients.work import Site
        from configs.load import dump_run, load_run, load_site
        from configs.plain import dump
        from configs.schema import Phantoms
        from simulations.phantoms import write_phantoms

        self.folder, self.config, self.site_file = folder, folder / "run.yaml", folder / "site.yaml"
        root = write_phantoms("overhead", Phantoms(cases=8, shape=(32, 28, 24), spacing=(6, 6, 8), scanner="ct_window"))
        self.site_file.write_text(dump({"root": str(root), "annotates": list(CLASSES)}))
        network = {"args": {"channels": channels, "strides": [2] * (len(channels) - 1), "num_res_units": 0}}
        train = {"patch": [16, 16, 16], "batch": 1, "sampling_rate": 1}
        self.config.write_text(dump({"model": network, "train": train, "stream": {"cases_per_round": 1}}))
        self.config.write_text(dump_run(load_run(self.config)))
        self.site = Site("site", load_site(self.site_file), load_run(self.config), folder / "initial")
        self.mb = self._write_order()

    def _write_order(self) -> float:
        """The training order as a file; MB of its weights."""
        from clients import parcel
        from packing import pack_order, pack_weights
        from wire import Order, size

        facts: dict[str, Any] = {"run": "run1", "site": "site", "classes": CLASSES, "quota": 4}
        weights = self.site.answer(Order(round=0, task="init", **facts), {}).weights
        content = pack_order(Order(round=1, task="train", **facts), pack_weights(weights))
        with (self.folder / "order").open("wb") as file:
            parcel.send(type("File", (), {"sendall": staticmethod(file.write)})(), {}, content)  # type: ignore[arg-type]
        return size(weights) / 1e6

    def seconds(self, way: str) -> float:
        """One order, from the start of its process to its end."""
        node = {"site-name": "site", "site-folder": str(self.folder / way), "site-file": str(self.site_file)}
        told = {"app": APPS[way], "folder": str(ROOT), "node": node, "config": str(self.config)}
        told |= {"order": str(self.folder / "order"), "reply": str(self.folder / f"{way}.reply")}
        began = time.perf_counter()
        subprocess.run([sys.executable, __file__, "--one-message", json.dumps(told)], check=True, stderr=subprocess.DEVNULL)
        return time.perf_counter() - began

    def compare(self) -> None:
        """Raises AssertionError if the two ways gave different replies."""
        process, worker = ((self.folder / f"{way}.reply").read_bytes() for way in APPS)
        assert process == worker and process, "the worker's reply is another than the process's"

    def close(self) -> None:
        """End the worker."""
        from clients import doorstep

        lock = self.folder / "worker" / doorstep.ROOM / doorstep.LOCK
        os.kill(int(lock.read_text()), 15)
        while doorstep.is_taken(lock):
            time.sleep(0.05)


def measure(name: str, pairs: int) -> None:
    """Both ways in turn, and a line for each."""
    with tempfile.TemporaryDirectory() as place:
        hospital = Hospital(Path(place), NETWORKS[name])
        hospital.seconds("process")  # the cache is filled, files are in memory
        first = hospital.seconds("worker")
        took: dict[str, list[float]] = {way: [] for way in APPS}
        try:
            for _ in range(pairs):
                for way in APPS:
                    took[way].append(hospital.seconds(way))
                hospital.compare()
        finally:
            hospital.close()
    process, worker = (statistics.median(took[way]) for way in APPS)
    ratio = statistics.median(one / other for one, other in zip(*took.values(), strict=True))
    print(f"{name} ({hospital.mb:.1f} MB of weights), {pairs} pairs: process {process:.2f} s, door + worker {worker:.2f} s")
    print(
        f"  process / door, median of pairs: {ratio:.1f}; the first order, which starts the worker: {first:.2f} s", flush=True
    )


def main() -> None:
    """Measure both sizes, or be the process of one message."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--one-message", help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.one_message:
        return one_message(json.loads(told.one_message))
    for name in NETWORKS:
        measure(name, told.pairs)


if __name__ == "__main__":
    main()
