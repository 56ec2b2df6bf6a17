"""RayGrid with the toy ClientApp: real Ray actors, started once for the module (each test's grid restarts only its actors)."""

import gc
import math
import os
import signal
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from flwr.app import Message, RecordDict

import packing
from server.sites import AGAIN, GridSites
from simulations import processes, ray_grid, ray_pool
from simulations.ray_cluster import cluster
from simulations.ray_grid import Node, RayGrid, identify
from simulations.ray_worker import Worker
from strategies.base import Weights
from wire import Failure, Order, Reply, with_extra

WEIGHTS = {"body": np.random.default_rng(0).normal(size=(300, 200)).astype(np.float32), "head": np.array([np.pi])}
Grid = Callable[..., Any]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One Ray for all tests; returns the log."""
    log = tmp_path_factory.mktemp("ray") / "log.txt"
    with cluster(None, 4, False, log):
        yield log


@pytest.fixture
def grid(started: Path, monkeypatch: pytest.MonkeyPatch) -> Grid:
    """RayGrid on the Ray that is already there."""

    @contextmanager
    def already(*_: object) -> Iterator[None]:
        yield

    monkeypatch.setattr(ray_grid, "cluster", already)

    def make(*nodes: Node, **given: Any) -> RayGrid:
        return RayGrid(nodes, **{"app": "tests.toy_client:app", "actors": 2, "deadline_s": 30, "log": started, **given})

    return make


def ask(grid: RayGrid, sites: Iterable[str], round: int = 1, shared: Weights = WEIGHTS, **given: Any) -> list[Reply | Failure]:
    orders = [Order(run="r", round=round, task="train", site=site, **given) for site in sites]
    return list(GridSites(grid, deadline_s=math.inf, pause_s=0).ask(shared, orders))


def by_site(answers: list[Reply | Failure]) -> dict[str, Any]:
    return {answer.site: answer for answer in ends(answers)}


def ends(answers: list[Reply | Failure]) -> list[Reply | Failure]:
    """Without the news on the way."""
    return [answer for answer in answers if not (isinstance(answer, Failure) and answer.again)]


def kinds(answers: list[Reply | Failure]) -> list[str]:
    """A word for each answer, in order."""
    return ["reply" if isinstance(a, Reply) else f"{a.kind} again" if a.again else a.kind for a in answers]


def content(site: str) -> RecordDict:
    return packing.pack_order(Order(run="r", round=1, task="train", site=site), packing.pack_weights(WEIGHTS))


def within(seconds: float, check: Callable[[], bool]) -> bool:
    """Whether it comes true in time."""
    end = time.monotonic() + seconds
    while not (true := check()) and time.monotonic() < end:
        time.sleep(0.02)
    return true


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_weights_arrive_bit_exact_whatever_the_number_of_actors(grid: Grid) -> None:
    got = []
    for actors in (1, 2):
        with grid(*map(Node, "abc"), actors=actors) as it:
            answers = by_site(ask(it, "abc", shared=with_extra(WEIGHTS, {"ours": np.ones(3)}), quota=5))
            assert len({answer.draws for answer in answers.values()}) <= actors
        got.append({site: {n: t.tobytes() for n, t in answers[site].weights.items()} for site in "abc"})
        assert answers["b"].new_cases == 5
        assert answers["b"].extra["ours"].tolist() == [1, 1, 1]
    assert got[0] == got[1]
    assert got[0]["a"] == {name: (2 * tensor).tobytes() for name, tensor in WEIGHTS.items()}


def test_replies_are_handed_out_as_they_come(grid: Grid) -> None:
    with grid(Node("a", {"sleep": 1.0}), Node("b")) as it:
        ask(it, "b")
        assert [answer.site for answer in ask(it, "ab")] == ["b", "a"]


def test_a_site_returns_to_its_actor(grid: Grid) -> None:
    with grid(*map(Node, "abc"), actors=3) as it:
        while len({answer.draws for answer in by_site(ask(it, "abc")).values()}) < 3:
            pass  # a site does not wait for an actor that still starts
        rounds = [by_site(ask(it, sites, round)) for round, sites in enumerate(("abc", "cba", "bca"), 2)]
    pids = [{site: answer.draws for site, answer in answers.items()} for answers in rounds]
    assert pids[0] == pids[1] == pids[2]


def test_a_site_is_never_asked_two_things_at_once(grid: Grid, tmp_path: Path) -> None:
    with grid(Node("a", {"sleep": 0.3}), Node("b")) as it:
        ask(it, "ab")
        start = time.monotonic()
        assert len(ask(it, "aa")) == 2
        assert time.monotonic() - start >= 0.6


def test_an_actor_that_dies_is_replaced_and_the_round_goes_on(grid: Grid, capfd: pytest.CaptureFixture[str]) -> None:
    with grid(Node("a", {"exit": 3}), Node("b"), Node("c")) as it:
        answers = by_site(ask(it, "abc"))
        assert isinstance(answers["b"], Reply)
        assert isinstance(answers["c"], Reply)
        assert answers["a"].kind == "crashed"
        assert answers["a"].reason == "its process died (killed by a signal, or out of memory?), 2 times"
        assert isinstance(by_site(ask(it, "abc", 2))["b"], Reply)
    assert capfd.readouterr() == ("", "")


def test_an_order_is_given_again_after_one_death(grid: Grid, tmp_path: Path) -> None:
    with grid(Node("a", {"exit": 9, "once": str(tmp_path / "died")})) as it:
        news, reply = ask(it, "a")
        assert kinds([news, reply]) == ["crashed again", "reply"]
        assert news.reason == "its process died (killed by a signal, or out of memory?); tried again"
        assert reply.ids == ()  # the same bytes as if nothing had happened: nothing is made smaller


def test_an_order_that_ran_out_of_memory_is_given_again_with_the_word_and_only_that_one(grid: Grid, tmp_path: Path) -> None:
    with grid(Node("a", {"memory": "4 GB for a patch", "once": str(tmp_path / "full")}), actors=1) as it:
        news, reply = ask(it, "a")
        assert kinds([news, reply]) == ["crashed again", "reply"]
        assert news.reason == "MemoryError: 4 GB for a patch; tried again"
        assert reply.ids == ("short",)
        [reply] = ask(it, "a", 2)
        assert reply.ids == ()


def test_a_process_that_the_kernel_killed_for_memory_ran_out_of_it(
    grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel counts what it kills for want of memory: one more since the order was given."""
    died, vmstat = tmp_path / "died", tmp_path / "vmstat"
    vmstat.write_text("oom_kill_other 5\noom_kill 6\n")
    monkeypatch.setattr(processes, "VMSTAT", vmstat)
    counted = processes.oom_kills
    monkeypatch.setattr(ray_pool, "oom_kills", lambda: counted() + died.exists())
    with grid(Node("a", {"exit": 9, "once": str(died)}), actors=1) as it:
        news, reply = ask(it, "a")
        assert kinds([news, reply]) == ["crashed again", "reply"]
        assert news.reason == "its process was killed: the machine was out of memory; tried again"
        assert reply.ids == ("short",)


def test_the_kernels_counter_is_none_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text, count in (("nr_free_pages 3\noom_kill 17\n", 17), ("nr_free_pages 3\n", 0), (None, 0)):
        place = tmp_path / str(count) / str(text is None)
        if text is not None:
            place.parent.mkdir(exist_ok=True)
            place.write_text(text)
        monkeypatch.setattr(processes, "VMSTAT", place)
        assert processes.oom_kills() == count


class Full:
    """Memory runs out when it is packed."""

    def __reduce__(self) -> Any:
        raise MemoryError("2 GB for a reply")


def test_memory_that_runs_out_while_ray_packs_a_reply_is_memory(
    grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once, full = tmp_path / "once", Full

    class Packing(Worker):
        @ray.method(num_returns=2)
        def answer(self, short: bool, *args: Any) -> Any:
            if not once.exists():
                once.touch()
                return full(), None
            return super().answer(short, *args)

    monkeypatch.setattr(ray_grid, "Worker", Packing)
    with grid(Node("a"), actors=1) as it:
        news, reply = ask(it, "a")
        assert kinds([news, reply]) == ["crashed again", "reply"]
        assert "MemoryError: 2 GB for a reply" in news.reason
        assert reply.ids == ("short",)


def test_an_actor_that_raises_as_it_starts_is_told_in_words(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    class Unready(Worker):
        def ready(self) -> int:
            raise LookupError("no licence")

    monkeypatch.setattr(ray_grid, "Worker", Unready)
    with grid(Node("a"), actors=1) as it:
        answers = ask(it, "a")
        assert kinds(answers) == ["crashed again", "crashed"]
        assert answers[1].reason == "its process did not start (LookupError: no licence), 2 times"


def test_memory_that_is_not_enough_twice_is_a_failure(grid: Grid) -> None:
    with grid(Node("a", {"memory": "4 GB for a patch"}), actors=1) as it:
        answers = ask(it, "a")
        assert kinds(answers) == ["crashed again", "crashed"]
        assert answers[1].reason == "MemoryError: 4 GB for a patch, 2 times"


def test_an_idle_actor_that_is_killed_costs_no_try(grid: Grid) -> None:
    with grid(Node("a"), actors=1, retries=0) as it:
        [first] = ask(it, "a")
        os.kill(first.draws, signal.SIGKILL)
        assert within(5, lambda: not alive(first.draws))
        answers = ask(it, "a", 2)
        assert kinds(answers) == ["reply"]
        assert answers[0].draws != first.draws


def test_an_actor_killed_while_it_starts_is_replaced(grid: Grid) -> None:
    with grid(Node("a"), actors=1) as it:
        [key] = it.push_messages([it.create_message(content("a"), "train", 2, "1")])
        it._pool.advance(0)
        ray.kill(it._pool.actors[0].handle)
        came = []
        while not came or came[-1].has_error():
            came += it.pull_messages([key])
        assert [reply.error.code for reply in came[:-1]] == [AGAIN + 8]
        assert came[0].error.reason.startswith("its process did not start (its process died")


@pytest.mark.parametrize("how", [{"sleep": 1000}, {"stop": 1}])
def test_a_site_that_hangs_is_late_and_its_process_is_gone(grid: Grid, tmp_path: Path, how: dict[str, Any]) -> None:
    note = tmp_path / "pid"
    with grid(Node("a", {"note": str(note), **how}), Node("b"), deadline_s=1, retries=0) as it:
        ask(it, "b")
        start = time.monotonic()
        answers = by_site(ask(it, "ab"))
        assert time.monotonic() - start < 8
        assert isinstance(answers["b"], Reply)
        assert (answers["a"].kind, answers["a"].reason) == ("late", "no answer within 1 s")
        assert not alive(int(note.read_text()))


def test_an_exception_is_told_once_and_the_actor_lives_on(grid: Grid, started: Path) -> None:
    with grid(Node("a", {"raise": "case 7 has no label"}), actors=1) as it:
        first, second = ask(it, "a"), ask(it, "a", 2)
        assert [(f.kind, f.reason) for f in first + second if isinstance(f, Failure)] == [
            ("crashed", "RuntimeError: case 7 has no label")
        ] * 2
        assert len(it._pool.actors) == 1
    assert 'raise RuntimeError(str(told["raise"]))' in started.read_text()


def test_a_reply_in_another_sites_name_is_invalid(grid: Grid) -> None:
    with grid(Node("a", {"lie": "b"})) as it:
        [failure] = ask(it, "a")
        assert isinstance(failure, Failure)
        assert failure.kind == "invalid"


def test_an_app_that_cannot_be_imported_is_told_in_words(grid: Grid) -> None:
    with grid(Node("a"), app="tests.no_such_client:app") as it:
        [failure] = ask(it, "a")
        assert isinstance(failure, Failure)
        assert failure.kind == "crashed"
        assert failure.reason.startswith("the client app tests.no_such_client:app cannot be loaded: ModuleNotFoundError")


def test_actors_are_sized_per_site_and_make_room_for_each_other(grid: Grid) -> None:
    with grid(Node("a", {"tell": 1}), Node("b", {"tell": 1}, cpus=3), actors=1) as it:
        answers = by_site(ask(it, "ab"))
        assert answers["a"].classes == ("1", os.path.expanduser("~"))
        assert answers["b"].classes[0] == "3"
        assert [actor.size for actor in it._pool.actors] == [(3, 0)]


def test_what_the_user_gets_wrong_is_said_in_his_words(grid: Grid) -> None:
    with pytest.raises(ValueError, match="the site 'a' is there twice"):
        grid(Node("a"), Node("a"))
    with pytest.raises(ValueError, match="the site 'a' wants 1000 CPU cores, there are 4"), grid(Node("a", cpus=1000)):
        pass


def test_the_server_does_not_grow_with_the_number_of_sites(grid: Grid) -> None:
    names = [f"s{i}" for i in range(32)]
    orders = [Order(run="r", round=1, task="train", site=name) for name in names]
    with grid(*(Node(name, {"mb": 2}) for name in names)) as it:
        sites = GridSites(it, deadline_s=math.inf, pause_s=0)
        ask(it, ("s0",))
        tracemalloc.start()
        for answer in sites.ask(WEIGHTS, orders):
            assert isinstance(answer, Reply)
            assert answer.weights["bulk"].nbytes == 2 << 20
            del answer
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert most < 24 << 20  # all replies are 64 MiB; one, packed and unpacked, is 4
        gc.collect()
        assert not (it._shelf.references)
        assert not (it._orders)
        assert not (it._came)


def test_send_and_receive_gives_up_after_its_timeout(grid: Grid) -> None:
    with grid(Node("a"), Node("b", {"sleep": 1000})) as it:
        ask(it, "a")
        messages = [it.create_message(content("a"), "train", node, "1") for node in (2, 3, 77)]
        start = time.monotonic()
        replies = {reply.metadata.reply_to_message_id: reply for reply in it.send_and_receive(messages, timeout=2)}
        assert time.monotonic() - start < 4
        first, _, lost = (message.metadata.message_id for message in messages)
        assert set(replies) == {first, lost}
        assert replies[first].has_content()
        assert replies[lost].error.code == 5


def test_send_and_receive_takes_no_news_for_a_reply(grid: Grid, tmp_path: Path) -> None:
    with grid(Node("a", {"exit": 9, "once": str(tmp_path / "died")})) as it:
        [reply] = it.send_and_receive([it.create_message(content("a"), "train", 2, "1")])
        assert reply.has_content()


def test_flower_still_needs_an_identity_set_from_outside() -> None:
    """If this fails, Flower has moved `TaskIdentity` or `Run`: mend two imports and `identify` in simulations/ray_grid.py."""
    identify(run=5, node=6)
    metadata = Message(RecordDict(), 7, "query").metadata
    assert (metadata.run_id, metadata.src_node_id, metadata.dst_node_id) == (5, 6, 7)
    identify()


def test_ray_listens_on_loopback_alone(started: Path) -> None:
    assert [node["NodeManagerAddress"] for node in ray.nodes()] == ["127.0.0.1"]
