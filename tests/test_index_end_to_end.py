"""A run with the index and all its uses: the engines agree, an interruption changes nothing, and the record tells all of it."""

import signal

import pytest

from run_sim import main
from tests.test_end_to_end import SMOKE, assert_same, record, run

INDEX = (
    *("--set", "memory.policy=selective-global", "--set", "memory.args={}", "--set", "memory.total=8"),
    *("--set", "index.on=true", "--set", "strategy.weigh=uniqueness", "--set", "arrivals.stay=false"),
    *("--set", "arrivals.overlap=2", "--set", "stream.cases_per_round=2"),
)


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    return run(tmp_path_factory.mktemp("index") / "out", "local", *INDEX)


def test_local_and_ray_give_the_same_bytes(tmp_path, local):
    assert_same(run(tmp_path / "out", "ray", "--actors", "2", *INDEX), local)


def test_a_run_goes_on_with_the_index_it_had(tmp_path, local, monkeypatch):
    from server import checkpoint

    save = checkpoint.save

    def stop(folder, federation, keep):
        if federation.round == 4:  # the sites have done round 4, and the server does not know
            raise KeyboardInterrupt
        save(folder, federation, keep)

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as broken:
        broken.setattr(checkpoint, "save", stop)
        assert main(["run", SMOKE, "--engine", "local", "--out", str(tmp_path / "out"), *INDEX]) == 130
    assert main(["resume", str(tmp_path / "out")]) == 0
    signal.signal(signal.SIGTERM, before)
    assert_same(tmp_path / "out", local)


def test_the_record_tells_what_the_federation_holds(local):
    rows = record(local)
    rounds = [row for row in rows if row["event"] == "index"]
    assert [row["round"] for row in rounds] == [1, 2, 3, 4, 5, 6]
    assert all(sum(row["quotas"].values()) == 8 for row in rounds)
    assert all(0 <= row["effective"][site] <= row["held"][site] <= 8 for row in rounds for site in row["held"])
    assert "first" in rounds[3]["held"] and "first" not in rounds[4]["held"]  # it left after round 4
    assert sum(rounds[4]["orphans"].values()) > 0  # somebody stands in for it
    trained = [row for row in rows if row["event"] == "train"]
    assert all(row["bytes_sketches"] == row["memory"] * (32 + 16) + 4 * 32 for row in trained)  # E = 2 x 16 channels
    assert trained[0]["bytes_coverage"] == 0 < trained[-1]["bytes_coverage"]


def test_the_index_switched_off_changes_nothing_of_a_selective_run(tmp_path):
    """Watching alone is free: the same model as without an index, and u besides."""
    plain = run(tmp_path / "plain", "local")
    off = [f"index.{use}" for use in ("evict=false", "admit=0", "orphans=false", "quotas=false", "replay=false")]
    watched = run(tmp_path / "watched", "local", *(word for use in ["index.on=true", *off] for word in ("--set", use)))
    assert (plain / "model.safetensors").read_bytes() == (watched / "model.safetensors").read_bytes()
    assert [row for row in record(watched) if row["event"] == "index"]
