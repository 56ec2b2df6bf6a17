"""docs/deploy.md: every command on it is run, in its order, on one machine that plays the server and the hospital."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from configs.load import load_run
from simulations.phantoms import write_phantoms
from tests.deployed import HOME, end_worker, free_port, rows

NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
PAGE = (HOME / "docs" / "deploy.md").read_text()
BLOCKS = re.findall(r"^```(sh \w+|yaml [\w.]+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
STANDINS = ("sudo", "useradd", "chown", "install", "systemctl", "nft", "nginx")
SMALL = """
extends: smoke.yaml
name: deployed
sites: null
arrivals: {door: open, rounds: 2, order: null}
evaluate: {surface: false}
"""
PATIENCE_S = 600


class Machine(NamedTuple):
    """Where the page's absolute paths are in the test."""

    root: Path
    port: int
    """nginx's."""
    inner: int
    """The SuperLink's."""
    environment: dict[str, str]

    def here(self, text: str) -> str:
        """The page's words for this machine."""
        for place in ("/opt/sitestream", "/etc/sitestream", "/etc/systemd", "/etc/nginx", "/var/lib", "/var/backups", "/srv"):
            text = text.replace(place, f"{self.root}{place}")
        text = text.replace("fleet.example.org:443", f"localhost:{self.port}").replace("fleet.example.org", "localhost")
        text = text.replace("127.0.0.1:8000", f"127.0.0.1:{self.inner}").replace("--port 8000", f"--port {self.inner}")
        text = text.replace("listen 443 ssl", f"listen 127.0.0.1:{self.port} ssl")
        return text.replace("--port 9094", f"--port {free_port()}")

    def run(self, text: str) -> str:
        """Run a block where the last one left off, as in one terminal; returns what it said. AssertionError if it fails."""
        state = self.root / "run" / "terminal"
        before = f"source {state}; " if state.exists() else f"cd {self.root / 'checkout'}; "
        after = f"{{ declare -px; echo cd $PWD; }} > {state}"
        done = subprocess.run(
            ["bash", "-euc", f"{before}{self.here(text)}\n{after}"],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}\n{self.logs()}"
        return done.stdout

    def logs(self) -> str:
        """The ends of the services' logs."""
        found = sorted((self.root / "run").glob("*.log"))
        return "\n".join(f"--- {path.name}\n" + "\n".join(path.read_text().splitlines()[-20:]) for path in found)

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        """Raises AssertionError with the logs if it does not come."""
        end = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < end, f"waited for {what}\n{self.logs()}"
            time.sleep(0.5)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A checkout with a venv that is up to date, and stand-ins for what needs root."""
    machine = _machine(tmp_path / "m", free_port(), free_port())
    yield machine
    for file in tmp_path.glob("*/run/*.pid"):
        subprocess.run(["kill", "-9", "--", f"-{file.read_text().strip()}"], stderr=subprocess.DEVNULL)
        subprocess.run(["kill", "-9", file.read_text().strip()], stderr=subprocess.DEVNULL)
    for root in tmp_path.iterdir():
        end_worker(root / "var/lib/sitestream/site")


def _machine(root: Path, port: int, inner: int) -> Machine:
    bin = root / "bin"
    for place in ("bin", "run", "home", "etc/systemd/system", "etc/nginx/conf.d", "var/lib", "var/backups", "opt", "srv"):
        (root / place).mkdir(parents=True)
    for name in STANDINS:
        (bin / name).write_text(f"#!{sys.executable}\n" + (HOME / "tests" / "pretend_machine.py").read_text())
        (bin / name).chmod(0o755)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("FLWR", "PYTHON"))}
    environment |= {"PATH": f"{bin}:{os.environ['PATH']}", "HOME": str(root / "home"), "OMP_NUM_THREADS": "1"}
    environment |= {"PRETEND_ETC": str(root / "etc"), "PRETEND_RUN": str(root / "run"), "PRETEND_NGINX": str(NGINX)}
    environment |= {"FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.5", "FLWR_DISABLE_UPDATE_CHECK": "1", "PYTHONWARNINGS": "ignore"}
    machine = Machine(root, port, inner, environment)
    _checkout(machine)
    return machine


def _checkout(machine: Machine) -> None:
    """The files as they are, as a repository of its own that `git clone` and `git pull` work on."""
    folder = machine.root / "checkout"
    listed = subprocess.run(
        ["git", "-C", str(HOME), "ls-files", "--cached", "--others", "--exclude-standard"], capture_output=True, text=True
    ).stdout.split("\n")
    for name in filter(None, listed):
        if (HOME / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(HOME / name, folder / name)
    (folder / "configs" / "deployed.yaml").write_text(SMALL)
    for file in filter(Path.is_file, (folder / "docs" / "deploy").rglob("*")):
        file.write_text(machine.here(file.read_text()))
    git = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@t"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "as it is"]):
        subprocess.run([*git, *words], check=True)


@pytest.mark.deployed
@pytest.mark.timeout(3000)
@pytest.mark.skipif(NGINX is None, reason="no nginx here: the page's reverse proxy cannot be run")
def test_every_command_of_the_page(machine: Machine, session_cache: None) -> None:
    began, said = time.monotonic(), {}
    results = machine.root / "var/lib/sitestream/runs/first"
    for kind, block in BLOCKS:
        text = _filled_in(machine, block)
        if kind.startswith("yaml"):
            (machine.root / "checkout" / kind.split()[1]).write_text(text)
            continue
        said[block] = machine.run(text)
        if "enable --now sitestream-server" in block:
            machine.wait_for(lambda: "Uvicorn running" in machine.logs(), "the SuperLink to listen")
        if "enable --now sitestream-site" in block:
            machine.wait_for(lambda: "SuperNode ID" in machine.logs(), "the site to be connected")
            print(f"from nothing to a connected site, without pip's minutes: {time.monotonic() - began:.0f} s")
            for name in ("north", "south"):
                _comes_too(machine, name)
            print(f"from nothing to three connected sites, without pip's minutes: {time.monotonic() - began:.0f} s")
            _refuses_a_peer(machine)
        if "flwr run" in block:
            machine.wait_for((results / "model.safetensors").exists, "the run to end")
    assert (results / "R.csv").exists()
    arrived = [row["site"] for row in rows(results, "arrive")]
    assert sorted(arrived) == ["east", "north", "south"]
    audit = next(text for block, text in said.items() if "audit" in block)
    assert "train" in audit and "evaluate" in audit
    unregistered = next(text for block, text in said.items() if "unregister" in block)
    assert "unregistered" in unregistered.lower()


def _comes_too(server: Machine, name: str) -> None:
    """Another hospital does what the page says of one; its own machine knows nothing of the first."""
    hospital = _machine(server.root.parent / name, server.port, server.inner)
    hospital.run(_filled_in(hospital, BLOCKS[0][1]))
    shutil.copy2(server.root / "etc/sitestream/ca.crt", hospital.root / "etc/sitestream")
    kinds = [kind for kind, _ in BLOCKS]
    last = next(i for i, (_, block) in enumerate(BLOCKS) if "enable --now sitestream-site" in block)
    for kind, block in BLOCKS[kinds.index("sh site") : last + 1]:
        text = _filled_in(hospital, block).replace("east", name)
        if kind == "sh server":  # the public half of its key is all that the server gets
            shutil.copy2(hospital.root / "etc/sitestream/node.pub", server.root / "checkout")
            server.run(text)
        elif kind == "sh site":
            hospital.run(text)
        else:
            (hospital.root / "checkout" / kind.split()[1]).write_text(text)
    hospital.wait_for(lambda: "SuperNode ID" in hospital.logs(), f"{name} to be connected")


def _filled_in(machine: Machine, block: str) -> str:
    """What a person would put in, and what only a container lacks."""
    root = machine.root
    if "make -C" in block:  # pip would take minutes: make sees a venv that is up to date
        there = f"ln -sfn {sys.prefix} /opt/sitestream/.venv; touch {sys.prefix}/.installed; "
        block = block.replace("sudo make -C", f"{there} sudo make -C")
    if block.startswith("root: "):
        facts = yaml.safe_load(block)
        return yaml.safe_dump(facts | {"root": str(_scans()), "annotates": ["liver"], "split": {"test": 0.34}, "device": "cpu"})
    if "register node.pub" in block:
        shutil.copy2(root / "etc/sitestream/node.pub", root / "checkout")
    if "unregister" in block:
        listed = machine.run("flwr supernode list hospitals --format json")
        block = block.replace("NODE-ID", str(json.loads(listed[listed.index("{") :])["nodes"][0]["node-id"]))
    return block.replace(
        "python /opt/sitestream/run_sim.py watch", "timeout -s INT 20 python /opt/sitestream/run_sim.py watch --port 0"
    ).replace("--port 0 /var/lib/sitestream/runs/first", "--port 0 /var/lib/sitestream/runs/first || true")


def _scans() -> Path:
    sites = load_run(HOME / "configs" / "smoke.yaml").sites
    first = sites["first"].phantoms
    assert first is not None
    return write_phantoms("first", first)


def _refuses_a_peer(machine: Machine) -> None:
    """Somebody with the CA's certificate: nothing but the fleet's path is there for them."""
    home = machine.root / "run" / "peer"
    home.mkdir()
    facts = f'address = "localhost:{machine.port}"\nroot-certificates = "{machine.root}/etc/sitestream/ca.crt"\n'
    (home / "config.toml").write_text(f'[superlink]\ndefault = "hospitals"\n\n[superlink.hospitals]\n{facts}')
    for words in ("run .", "supernode list", "list"):
        told = machine.run(f"(FLWR_HOME={home} flwr {words} hospitals 2>&1 && echo LET IN) || true")
        print(f"a peer with the CA's certificate, flwr {words}: {' '.join(told.split())[-160:]}")
        assert "LET IN" not in told and "403" in told
    for path in ("control/list-runs", "runtime/acquire-task", "fleet/../control/list-runs", "fleet/%2e%2e/control/list-runs"):
        ask = "curl -s -o /dev/null -w '%{http_code}' --path-as-is --cacert /etc/sitestream/ca.crt -X POST "
        assert machine.run(f"{ask} https://fleet.example.org:443/v1/{path}") == "403", path
