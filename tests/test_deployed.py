"""A SuperLink, SuperNodes and `flwr run`, for real: the same bytes as in one process, and an answer to every fault."""

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from configs.load import load_run
from configs.schema import PretendSite
from configs.version import VERSION
from run_sim import main
from simulations.pretend import materialise
from tests.certificates import make_authority, make_node_key
from tests.deployed import HOME, Cable, Deployment, install, rounds, rows

pytestmark = [pytest.mark.deployed, pytest.mark.timeout(3000)]
SMOKE = HOME / "configs" / "smoke.yaml"
FOURTH = {"phantoms": {"cases": 4, "shape": [32, 28, 24], "spacing": [6, 6, 8], "scanner": "ct_window"}, "annotates": ["aorta"]}
OPEN = """
extends: smoke_deployed.yaml
arrivals: {door: open, rounds: 8, at_least: 2, order: null}
evaluate: {surface: false}
engine: {watch_s: 15}
"""
PATIENCE_S = 900
"""For anything at all: a busy machine takes its time, and a test of minutes must not fail for that."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, session_cache: None) -> dict[str, Path]:
    """Four hospitals: their data as MSD folders, and a site file for each."""
    run = load_run(SMOKE)
    sites = {**run.sites, "fourth": PretendSite.model_validate(FOURTH)}
    whole = materialise(run.model_copy(update={"sites": sites}))
    folder = tmp_path_factory.mktemp("hospitals")
    for name, site in whole.sites.items():
        facts = site.model_dump(mode="json", exclude_unset=True, exclude={"phantoms", "shift"})
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(facts))
    return {name: folder / f"{name}.yaml" for name in whole.sites}


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory, files: dict[str, Path]) -> Iterator[Deployment]:
    """A federation of three, the third behind a cable; beside them two who must not get in."""
    with Deployment(tmp_path_factory.mktemp("net")) as net:
        net.start_superlink()
        for site in ("first", "second"):
            net.add_site(site, files[site])
        net.cable = Cable(net.port)  # type: ignore[attr-defined]
        net.add_site("third", files["third"], superlink=f"127.0.0.1:{net.cable.port}")  # type: ignore[attr-defined]
        make_node_key(net.folder / "keys" / "nobody")
        net.start_node("nobody", {"site-name": "nobody"})
        wrong = make_authority(net.folder / "other-authority") / "ca.crt"
        net.register(make_node_key(net.folder / "keys" / "misled"), "misled")
        net.start_node("misled", {"site-name": "misled"}, root_certificates=str(wrong))
        yield net
        net.cable.cut()  # type: ignore[attr-defined]


def test_the_bytes_are_those_of_one_process_although_the_superlink_is_killed(net, tmp_path):
    """Scripted: after round 2 the SuperLink loses its power. It comes back, and the same command goes on with the run."""
    out, local = tmp_path / "out", tmp_path / "local"
    run = net.submit("configs/smoke_deployed.yaml", out)
    net.wait_for(lambda: rounds(out) >= 2, PATIENCE_S, "two rounds", run)
    net.kill("superlink")
    net.start_superlink()
    again = net.submit("configs/smoke_deployed.yaml", out)
    run_locally(local)
    assert net.wait_for_end(again, PATIENCE_S) == "finished:completed", net.last_words()
    for name in ("model.safetensors", "R.csv"):
        assert (out / name).read_bytes() == (local / name).read_bytes(), name
    assert rows(out, "failure") == []
    assert [row["present"] for row in rows(out, "round")][-1] == ["first", "second", "third"]
    print_seconds(out)


def run_locally(folder: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert main(["run", str(SMOKE), "--engine", "local", "--out", str(folder)]) == 0
    finally:
        signal.signal(signal.SIGTERM, before)


def test_an_open_door_a_killed_node_a_cut_cable_and_a_stolen_name(net, files, tmp_path):
    """A recipe of the operator's own, in an app folder of their own; a fourth hospital comes while the run goes on."""
    app, out = tmp_path / "app", tmp_path / "out"
    shutil.copytree(HOME / "configs", app / "configs", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    shutil.copy2(HOME / "pyproject.toml", app)
    (app / "configs" / "ours.yaml").write_text(OPEN)
    run = net.submit("configs/ours.yaml", out, app)
    net.wait_for(lambda: rounds(out) >= 1, PATIENCE_S, "the first round", run)

    # A hospital comes with another SiteStream, and with another's name comes an impostor.
    net.add_site("fourth", files["fourth"], code=install(net.folder / "older", "0.0.9"))
    thief = net.add_site("thief", files["first"], name="first")
    net.wait_for(lambda: refusals(out, "fourth"), PATIENCE_S, "the other version to be refused", run)
    net.wait_for(lambda: rows(out, "refused"), PATIENCE_S, "the impostor to be refused", run)
    net.kill("fourth", signal.SIGTERM)
    net.revive("fourth", PATIENCE_S)
    net.wait_for(lambda: rows(out, "arrive")[-1]["site"] == "fourth", PATIENCE_S, "the fourth hospital to arrive", run)

    # In the middle of a round one loses its power and one its line; both are given up, and come back.
    net.kill("second")
    net.cable.cut()
    net.wait_for(lambda: [row for row in rows(out, "pause") if row["site"] == "second"], PATIENCE_S, "a pause", run)
    net.cable.mend()
    net.revive("second", PATIENCE_S)
    assert net.wait_for_end(run, PATIENCE_S) == "finished:completed", net.last_words()

    assert (out / "model.safetensors").exists()
    assert [row["site"] for row in rows(out, "arrive")] == ["first", "second", "third", "fourth"]
    assert [row["classes"] for row in rows(out, "site") if row["site"] == "fourth"] == [["aorta"]]
    check_refusals(net, out, thief)
    for site in ("second", "third"):
        check_return(out, site)
    assert not [row for row in rows(out, "failure") if row["site"] == "first"]
    assert rows(out, "round")[-1]["present"] == ["first", "fourth", "second", "third"]
    assert net.cable.carried > 100_000


def refusals(out: Path, site: str) -> list[str]:
    return [row["reason"] for row in rows(out, "failure") if (row["site"], row["kind"]) == (site, "refused")]


def check_refusals(net: Deployment, out: Path, thief: int) -> None:
    """Each in one line where people look: the hospital's log, and the server's."""
    version = f"the run's bundle is of SiteStream {VERSION}, installed here is 0.0.9; install the same version"
    assert refusals(out, "fourth")[0] == f"OtherVersion: {version}"
    [stolen] = rows(out, "refused")
    said = {
        "another version (site)": line_with(net.log("fourth"), version),
        "another version (server)": refusals(out, "fourth")[0],
        "a stolen name (server)": line_with((out / "log.txt").read_text(), f"node {thief} bears the name 'first'"),
        "an unregistered key": line_with(net.log("nobody"), "Failed to activate SuperNode"),
        "a wrong authority": line_with(net.log("misled"), "CERTIFICATE_VERIFY_FAILED"),
    }
    print("\n".join(f"{what}: {line}" for what, line in said.items()))
    assert (stolen["site"], stolen["node"]) == ("first", str(thief))
    assert all(said.values()), said
    assert "SuperNode ID" not in net.log("nobody") + net.log("misled")
    assert not (net.sites["thief"] / "state").exists()  # it was never given an order


def check_return(out: Path, site: str) -> None:
    """What it remembered is where it was: it goes on with its stream, and has a memory."""
    [back] = [row["round"] for row in rows(out, "return") if row["site"] == site]
    trained = [row for row in rows(out, "train") if row["site"] == site]
    before, after = [row for row in trained if row["round"] < back], [row for row in trained if row["round"] >= back]
    assert before and after
    assert after[0]["stream_left"] <= before[-1]["stream_left"]
    assert after[0]["memory"] >= before[-1]["memory"] > 0
    assert [row["kind"] for row in rows(out, "failure") if row["site"] == site] in (["lost"], [])


def line_with(log: str, words: str) -> str:
    return next((line.strip() for line in log.splitlines() if words in line), "")


def print_seconds(out: Path) -> None:
    """Per round: all, and what the slowest site says its own work took; the rest is Flower's and the processes' starting."""
    for row in rows(out, "round"):
        trained = [each["seconds"] for each in rows(out, "train") if each["round"] == row["round"]]
        print(f"round {row['round']}: {row['seconds']:.1f} s, of which the slowest site's own {max(trained):.1f} s")
