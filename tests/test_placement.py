"""`gpus: auto`: from what orders took to shares, from shares to spots; with pretended actors, and over real Ray."""

import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import Message

import packing
from clients import peak
from clients.peak import Peak
from configs.load import build_run
from simulations import ray_grid, ray_pool
from simulations.gpu_shares import CONTEXT, FILE, MARGIN, PARTS, Shares
from simulations.placement import Machine, Spot, at_once, spot
from simulations.ray_cluster import cluster
from simulations.ray_grid import Node, RayGrid
from simulations.ray_jobs import Job, Said
from simulations.ray_pool import Pool
from simulations.ray_worker import Worker
from wire import Order

GPU = 80 * 2**30
"""Bytes of a pretended GPU; a sixteenth is 5 GiB."""


def took(sixteenths: float, short: bool = False) -> Peak:
    """The peak of an order that needs so much of the GPU, margin and context included."""
    return Peak(max(0, math.floor((sixteenths * GPU / PARTS - CONTEXT) / MARGIN)), GPU, 0, short)


def measured(needs: dict[str, float], gpus: int, most: int = 99, folder: Path | None = None) -> Shares:
    shares = Shares(needs, gpus, most, folder)
    for site, need in needs.items():
        for task in ("evaluate", "train"):
            shares.learn(site, task, took(need), 1.0)
    return shares


def sixteenths(shares: Shares) -> dict[str, float]:
    return {site: PARTS * shares.of(site, "train") for site in shares.taken}


# From what was taken to shares ------------------------------------------------------------------------------------------


def test_without_a_gpu_auto_is_none() -> None:
    shares = measured({"a": 4}, gpus=0)
    assert [shares.of("a", task) for task in ("query", "train", "evaluate")] == [0, 0, 0]


def test_a_site_has_a_gpu_to_itself_until_it_was_seen_at_that_kind_of_work() -> None:
    shares = Shares("abcd", 1, 99, None)
    told = []
    for task, need in (("query", 0), ("evaluate", 3.9), ("train", 1.5), ("train", 5.5), ("train", 2)):
        told.append(PARTS * shares.of("a", task))
        shares.learn("a", task, took(need), 1.0)
    assert told == [16, 16, 16, 4, 6]  # a hello says nothing; then the most that any order took, rounded up
    assert PARTS * shares.of("a", "query") == 6  # in the same actor
    assert shares.of("b", "train") == 1


@pytest.mark.parametrize(
    ("needs", "gpus", "expected"),
    [
        ({"a": 2, "b": 2, "c": 2, "d": 2}, 2, [8, 8, 8, 8]),  # two on each, though all four would fit on one
        ({"a": 10, "b": 4, "c": 2}, 1, [10, 4, 2]),  # a third for each would leave one outside
        ({"a": 2}, 4, [16]),
        (dict.fromkeys("abcdefghi", 5), 2, [5] * 9),  # three at once on each
        ({"a": 40, "b": 2}, 1, [16, 8]),  # too large for a GPU: it gets a whole one, and makes do with less
    ],
)
def test_sites_share_gpus_as_their_memory_allows(needs: dict[str, float], gpus: int, expected: list[float]) -> None:
    assert list(sixteenths(measured(needs, gpus)).values()) == expected


def test_more_sites_than_cores_are_not_made_room_for() -> None:
    assert sixteenths(measured({"a": 1, "b": 1, "c": 1, "d": 1}, 1, most=2)) == dict.fromkeys("abcd", 8)


def test_memory_that_ran_out_beside_others_doubles_the_share_for_good(tmp_path: Path) -> None:
    shares = measured({"a": 3, "b": 3, "c": 3, "d": 3, "e": 3}, gpus=1, folder=tmp_path)
    assert PARTS * shares.of("a", "train") == 3
    shares.ran_out("a", 3 / PARTS)
    shares.learn("b", "train", took(3, short=True), 3 / PARTS)  # it then did the order in parts, and nobody else knew
    shares.learn("a", "train", took(1), 6 / PARTS)
    expected = {"a": 6, "b": 6, "c": 3, "d": 3, "e": 3}
    assert sixteenths(shares) == sixteenths(Shares("abcde", 1, 99, tmp_path)) == expected
    for _ in range(3):
        shares.ran_out("a", shares.of("a", "train"))
    assert PARTS * shares.of("a", "train") == 16


def test_what_was_measured_lies_in_the_runs_folder_and_a_resume_starts_with_it(tmp_path: Path) -> None:
    before = measured({"a": 4, "b": 7, "c": 5}, gpus=1, folder=tmp_path)
    assert json.loads((tmp_path / FILE).read_text())["sites"]["a"] == dict.fromkeys(("evaluate", "train"), took(4).gpu)
    after = Shares("abcx", 1, 99, tmp_path)
    assert sixteenths(after) == sixteenths(before) | {"x": 16}
    after.learn("a", "train", Peak(1, GPU // 2, 0, False), 0.25)  # the other machine's GPU has half as much
    assert PARTS * after.of("a", "train") == 8


@pytest.mark.parametrize("text", ["", "[]", "{", '{"sites": 3}', '{"sites": {"a": [1]}}', '{"total": "x", "sites": {}}'])
def test_a_file_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    assert sixteenths(Shares("a", 1, 99, tmp_path)) == {"a": 16}


# From shares to spots ---------------------------------------------------------------------------------------------------


def filled(sizes: list[tuple[float, float]], machines: list[Machine]) -> list[Spot | None]:
    """Where these find room, one after another."""
    taken: list[tuple[tuple[float, float], Spot]] = []
    found = []
    for size in sizes:
        where = spot(size, machines, taken)
        found.append(where)
        if where:
            taken.append((size, where))
    return found


def test_a_share_never_spans_two_gpus() -> None:
    two = [Machine("m", 8, 2)]
    assert filled([(1, 0.75), (1, 0.75), (1, 0.5), (1, 0.25), (1, 0.25)], two) == [
        Spot("m", ("new 0",)),
        Spot("m", ("new 1",)),
        None,  # half of one is free in all, a quarter on each
        Spot("m", ("new 1",)),
        Spot("m", ("new 0",)),
    ]
    assert filled([(1, 1.0), (1, 2.0), (1, 1.0), (1, 0.1)], two) == [Spot("m", ("new 0",)), None, Spot("m", ("new 1",)), None]
    assert filled([(1, 2.0), (1, 0.0)], two) == [Spot("m", ("new 0", "new 1")), Spot("m")]


def test_tenths_add_up() -> None:
    assert None not in filled([(0.1, 0.1)] * 10, [Machine("m", 1, 1)])
    assert None not in filled([(0.1, 0.1)] * 3, [Machine("m", 0.3, 1)])  # .3 - (.1 + .1) < .1
    assert filled([(0.1, 0.1)] * 11, [Machine("m", 2, 1)])[10] is None


def test_machines_are_not_added_up_and_work_spreads() -> None:
    machines = [Machine("m", 2, 0), Machine("n", 3, 1)]
    assert filled([(4, 0.0), (1, 0.0), (1, 0.0), (1, 0.0), (2, 0.0)], machines) == [
        None,
        Spot("n"),
        Spot("m"),
        Spot("n"),
        None,
    ]
    assert spot((1, 0.5), machines, [((1, 0.0), Spot("gone"))]) == Spot("n", ("new 0",))
    assert spot((1, 0.5), [], ()) is None


def test_at_once_counts_what_fits() -> None:
    assert [at_once(shares, 2, 16) for shares in ([], [16, 16, 1], [9, 9, 7, 7], [9, 9, 8, 8])] == [0, 2, 4, 2]


# What a process says that it took ---------------------------------------------------------------------------------------


class Cuda:
    """torch.cuda of a process whose orders reserve so much."""

    def __init__(self) -> None:
        self.held = self.most = self.ooms = 0
        self.used = True

    def is_initialized(self) -> bool:
        return self.used

    def empty_cache(self) -> None:
        self.held = 0

    def reset_peak_memory_stats(self) -> None:
        self.most = self.held

    def reset_accumulated_memory_stats(self) -> None:
        self.ooms = 0

    def current_device(self) -> int:
        return 0

    def get_device_properties(self, _: int) -> Any:
        return SimpleNamespace(total_memory=GPU)

    def max_memory_reserved(self) -> int:
        return self.most

    def memory_stats(self) -> dict[str, int]:
        return {"num_ooms": self.ooms} if self.ooms else {}

    def reserve(self, amount: int) -> None:
        self.held += amount
        self.most = max(self.most, self.held)


def test_a_site_is_not_charged_with_what_the_last_one_took(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Cuda()
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    told = []
    for anew, amount, ooms in ((True, 700, 1), (True, 300, 0), (False, 50, 0)):
        peak.begin(anew)
        cuda.reserve(amount)
        cuda.ooms += ooms
        told.append(peak.taken())
    assert [(each.gpu, each.total, each.short) for each in told] == [(700, GPU, True), (300, GPU, False), (350, GPU, False)]
    assert told[0].host > 10 * 2**20


@pytest.mark.parametrize("there", [True, False])
def test_a_process_without_a_gpu_is_not_made_to_use_one(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    cuda = Cuda()
    cuda.used = False
    if there:
        monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    else:
        monkeypatch.delitem(sys.modules, "torch", raising=False)
    peak.begin(True)
    assert peak.taken()[:2] == (0, 0)
    assert ("torch" in sys.modules) is there


# Through the pool, with pretended actors --------------------------------------------------------------------------------


class Pretended:
    """An actor's handle: what is asked of it is ready when the test says so."""

    def __init__(self, machine: str, gpus: tuple[str, ...]) -> None:
        self.where, self.asked, self.killed = Spot(machine, gpus), list[tuple[Any, ...]](), False
        self.said: dict[str, Any] = {}
        self.ready = SimpleNamespace(remote=lambda: self)
        self.answer = SimpleNamespace(remote=self._answer)

    def _answer(self, *args: Any) -> tuple[str, str]:
        self.asked.append(args)
        key = f"{id(self)}.{len(self.asked)}"
        return f"content {key}", key


class PretendedRay:
    """What the pool asks of Ray."""

    def __init__(self) -> None:
        self.done: dict[str, Said] = {}

    def wait(self, refs: list[Any], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        ready = [ref for ref in refs if isinstance(ref, Pretended) or ref in self.done]
        return ready, [ref for ref in refs if ref not in ready]

    def get(self, ref: Any, timeout: float | None = None) -> Any:
        return (4_000_000, ref.where) if isinstance(ref, Pretended) else self.done[ref]

    def kill(self, handle: Pretended) -> None:
        handle.killed = True


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> PretendedRay:
    """A machine with two GPUs and eight cores."""
    fake = PretendedRay()
    monkeypatch.setattr(ray_pool, "ray", fake)
    monkeypatch.setattr(ray_pool, "check_alive", lambda: None)
    monkeypatch.setattr(ray_pool, "machines", lambda: [Machine("m", 8, 2)])
    monkeypatch.setattr(ray_pool, "_refuses", lambda handle: handle.killed)
    return fake


def pool_of(shares: Shares, handles: list[Pretended], gpus: list[str]) -> Pool:
    """Actors come to these GPUs, in turn."""

    def start(size: tuple[float, float], machine: str) -> Pretended:
        handles.append(Pretended(machine, (gpus[len(handles)],)))
        return handles[-1]

    def larger(job: Job) -> tuple[float, float]:
        shares.ran_out(job.site, job.size[1])
        return job.size[0], shares.of(job.site, job.task)

    return Pool(start, None, 60, 1, local=False, larger=larger)


def at_work(pool: Pool) -> dict[str, float]:
    return {actor.job.site: actor.size[1] for actor in pool.actors if actor.job}


def test_sites_come_to_share_gpus_once_they_are_known(pretended: PretendedRay) -> None:
    """Two GPUs, four sites that need 7/16 each: two at once in the first round, then all four."""
    handles: list[Pretended] = []
    shares = Shares("abcd", 2, 99, None)
    shares.taken = {site: {"evaluate": took(7).gpu} for site in "abcd"}
    pool = pool_of(shares, handles, ["0", "1", *"0011"])
    seen = []
    for round in (1, 2):
        for site in "abcd":
            pool.submit(Job(f"{site}{round}", site, (1, shares.of(site, "train")), (), "train"))
        done = 0
        while done < 4:
            pool.advance(0)
            pool.advance(0)
            seen.append(at_work(pool))
            pretended.done |= {actor.watch: (None, took(7)) for actor in pool.actors if actor.job}
            for outcome in pool.advance(0):
                assert outcome.peak
                shares.learn(outcome.job.site, outcome.job.task, outcome.peak, outcome.job.size[1])
                done += 1
    assert seen == [{"a": 1, "b": 1}, {"c": 1, "d": 1}, dict.fromkeys("abcd", 0.5)]
    assert [handle.killed for handle in handles] == [True, True, False, False, False, False]


def test_an_actor_is_not_started_where_only_two_gpus_together_have_room(pretended: PretendedRay) -> None:
    handles: list[Pretended] = []
    pool = pool_of(Shares("", 2, 99, None), handles, ["0", "1", "1"])
    for site, share in (("a", 0.75), ("b", 0.75), ("c", 0.5)):
        pool.submit(Job(site, site, (1, share), ()))
    for _ in range(3):
        pool.advance(0)
    assert at_work(pool) == {"a": 0.75, "b": 0.75}
    pretended.done[pool.actors[1].watch] = None, None
    for _ in range(3):
        pool.advance(0)
    assert at_work(pool) == {"a": 0.75, "c": 0.5}
    assert [handle.killed for handle in handles] == [False, True, False]  # of the idle and the busy, the idle one goes


def test_one_idle_actor_goes_where_one_is_enough(pretended: PretendedRay) -> None:
    """Whoever starts on GPU 1 needs the one that idles there, and no other."""
    handles: list[Pretended] = []
    pool = pool_of(Shares("", 2, 99, None), handles, [*"0011", "1"])
    for site in "abcd":
        pool.submit(Job(site, site, (1, 0.5), ()))
    pool.advance(0)
    pool.advance(0)
    pretended.done |= {actor.watch: (None, None) for actor in pool.actors[1:]}
    pool.advance(0)
    pool.submit(Job("e", "e", (1, 0.375), ()))
    pool.advance(0)
    pool.advance(0)
    assert at_work(pool) == {"a": 0.5, "e": 0.375}
    assert sum(handle.killed for handle in handles) == 1


def test_an_order_that_ran_out_of_memory_is_given_again_with_a_larger_share(pretended: PretendedRay) -> None:
    handles: list[Pretended] = []
    shares = measured(dict.fromkeys("abcdefgh", 4), gpus=2)
    pool = pool_of(shares, handles, ["0", "0", "0"])
    pool.submit(Job("1", "a", (1, shares.of("a", "train")), (), "train"))
    pool.advance(0)
    pool.advance(0)
    pretended.done[pool.actors[0].watch] = ("memory", "CUDA out of memory"), took(4, short=True)
    [news] = pool.advance(0)
    assert news.again
    pool.advance(0)
    pool.advance(0)
    assert at_work(pool) == {"a": 0.5}  # it was a quarter
    assert [handle.asked[0][0] for handle in handles] == [False, True]  # and it makes do with less at a time
    assert shares.of("a", "train") == 0.5
    assert shares.of("b", "train") == 0.25


# What people write ------------------------------------------------------------------------------------------------------


def test_auto_is_a_sites_own_as_any_share_is() -> None:
    sites = {"a": {"root": "x"}, "b": {"root": "x", "gpus": 0.5}, "c": {"root": "x", "gpus": "auto"}}
    assert [site.gpus for site in build_run({"engine": {"gpus": "auto"}, "sites": sites}).sites.values()] == [
        "auto",
        0.5,
        "auto",
    ]
    assert [site.gpus for site in build_run({"sites": sites}).sites.values()] == [0, 0.5, "auto"]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("lots", "engine.gpus: must be auto, or a number"),
        (1.5, "engine.gpus: must be auto, a share of one GPU up to 1, or whole GPUs: a share never spans two"),
        (-1, "engine.gpus: must be auto, a share of one GPU up to 1, or whole GPUs: a share never spans two"),
    ],
)
def test_what_is_no_share_is_refused(value: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build_run({"engine": {"gpus": value}, "sites": {"a": {"root": "x"}}})


# Over real Ray, with two pretended GPUs ---------------------------------------------------------------------------------

NEEDS = {"a": 7, "b": 7, "c": 7, "d": 7}


class Measuring(Worker):
    """Says of each training order that it took what NEEDS has."""

    answer = Worker.answer  # Ray knows the number of its results by the method

    def _called(self, *args: Any) -> Any:
        content, problem = super()._called(*args)
        site = args[2]["site-name"]
        peak.taken = lambda: took(NEEDS[site])  # type: ignore[assignment]
        return content, problem


@contextmanager
def two_gpus(*_: object) -> Iterator[None]:
    import ray

    start = ray.init
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray, "init", lambda *args, **given: start(*args, **{**given, "num_gpus": 2}))
        with cluster(None, 6, True, None):
            yield


def asked(grid: RayGrid, task: Any) -> None:
    """An order to each site, done."""
    orders = [packing.pack_order(Order(run="r", round=1, task=task, site=site), packing.pack_weights({})) for site in NEEDS]
    messages = [Message(order, node, task) for order, node in zip(orders, grid.get_node_ids(), strict=True)]
    assert not any(reply.has_error() for reply in grid.send_and_receive(messages))


def test_real_ray_places_the_actors_as_expected(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ray_grid, "cluster", two_gpus)
    monkeypatch.setattr(ray_grid, "Worker", Measuring)
    nodes = [Node(site, gpus="auto") for site in NEEDS]
    with RayGrid(nodes, app="tests.toy_client:app", folder=tmp_path) as grid:
        asked(grid, "evaluate")
        asked(grid, "train")
        assert {(actor.size, len(actor.spot.gpus)) for actor in grid._pool.actors} == {((1, 1.0), 1)}
        while len(there := [actor for actor in grid._pool.actors if actor.pid and actor.size == (1, 0.5)]) < 4:
            asked(grid, "train")
    assert sorted(actor.spot.gpus for actor in there) == [("0",), ("0",), ("1",), ("1",)]
    assert sixteenths(Shares(NEEDS, 2, 99, tmp_path)) == dict.fromkeys(NEEDS, 8)
