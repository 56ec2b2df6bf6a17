"""A Ray cluster of two nodes, both on this machine: the same bytes, work on both, and on when one of them dies in mid-run."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from run_sim import main
from simulations import ray_cluster, ray_worker
from simulations.for_a_while import unwarned
from simulations.ray_grid import Node, RayGrid
from simulations.ray_pool import Pool

SMOKE = str(Path(__file__).parents[1] / "configs" / "smoke.yaml")
RESULTS = ("model.safetensors", "R.csv")
ENVIRONMENT = {**ray_cluster.QUIET, "RAY_health_check_period_ms": "500", "RAY_health_check_failure_threshold": "3"}
SIZE: dict[str, Any] = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 128 << 20}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes with a core each."""
    with pytest.MonkeyPatch.context() as patch, unwarned():
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        (home := tmp_path_factory.mktemp("home")).joinpath("ray_bootstrap_config.yaml").write_text("{}")  # see ray_cluster
        patch.setenv("SITESTREAM_CACHE", os.environ.get("SITESTREAM_CACHE") or str(Path("~/.cache/sitestream").expanduser()))
        patch.setenv("HOME", str(home))
        cluster = Cluster(initialize_head=True, head_node_args={**SIZE, "include_dashboard": False})
        try:
            cluster.add_node(**SIZE)
            cluster.wait_for_nodes()
            yield cluster
        finally:
            cluster.shutdown()


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """(node, site) of every order that an actor was given."""
    orders: list[tuple[str, str]] = []
    give = Pool._give

    def noted(self: Pool, actor: Any, job: Any) -> None:
        give(self, actor, job)
        orders.append((actor.spot.machine, job.site))

    monkeypatch.setattr(Pool, "_give", noted)
    return orders


def run(folder: Path, *edits: str) -> Path:
    with unwarned():  # Ray leaves open files to the garbage collector
        assert main(["run", SMOKE, "--out", str(folder), *(word for edit in edits for word in ("--set", edit))]) == 0
    return folder


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run in this process."""
    return run(tmp_path_factory.mktemp("local") / "out", "engine.name=local")


def assert_same(one: Path, other: Path) -> None:
    for name in RESULTS:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_two_nodes_give_the_same_bytes(two: Cluster, given: list[tuple[str, str]], local: Path, tmp_path: Path) -> None:
    assert_same(run(tmp_path / "out", f"engine.address={two.address}", "engine.gpus=auto"), local)
    assert len({node for node, _ in given}) == 2
    assert {site for _, site in given} == {"first", "second", "third"}


def test_a_node_that_lacks_a_folder_is_named_with_it_before_anything_begins(two: Cluster, tmp_path: Path) -> None:
    gone = str(tmp_path / "gone")
    words = (
        rf"^the node {socket.gethostname()} has no {gone} \(the data of site 'a'\); the nodes of a cluster must see .* shared"
    )
    with unwarned(), pytest.raises(ValueError, match=words), RayGrid([Node("a", data=gone)], address=two.address):
        pytest.fail("it began")
    with unwarned(), RayGrid([Node("a", data=str(tmp_path))], address=two.address, folder=tmp_path):
        assert len(ray_cluster.machines()) == 2
    assert list(tmp_path.iterdir()) == []  # the mark is taken away


def test_a_node_that_comes_late_begins_no_site_anew(tmp_path: Path) -> None:
    assert ray_worker._unreachable({"site-folder": str(tmp_path)}) is None
    assert ray_worker._unreachable({}) is None
    kind, words = ray_worker._unreachable({"site-folder": str(tmp_path / "gone")}) or ("", "")
    assert (kind, words.startswith(f"the node {socket.gethostname()} has no {tmp_path}/gone:")) == ("raised", True)


def test_cores_of_two_nodes_are_not_one_actors(two: Cluster) -> None:
    words = "the site 'a' wants 2 CPU cores, there are 1 at the node with the most"
    with unwarned(), pytest.raises(ValueError, match=words), RayGrid([Node("a", cpus=2)], address=two.address):
        pytest.fail("it began")


def test_a_node_that_dies_in_mid_run_does_not_end_it(
    two: Cluster, given: list[tuple[str, str]], local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while it holds an order: that one is given again elsewhere, and the bytes are the same."""
    give, killed = Pool._give, list[str]()

    def killing(self: Pool, actor: Any, job: Any) -> None:
        give(self, actor, job)
        ours = ray.get_runtime_context().get_node_id()
        if not killed and job.task == "train" and actor.spot.machine != ours:
            killed.append(actor.spot.machine)
            [node] = [node for node in two.list_all_nodes() if node.node_id == actor.spot.machine]
            two.remove_node(node, allow_graceful=False)

    monkeypatch.setattr(Pool, "_give", killing)
    folder = run(tmp_path / "out", f"engine.address={two.address}")
    assert_same(folder, local)
    assert len(killed) == 1
    after = [(node, site) for node, site in given if node != killed[0]]
    assert len(after) > 5
    assert "tried again" in (folder / "record.jsonl").read_text()
