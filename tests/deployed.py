"""A federation of real processes on loopback: a SuperLink with TLS, SuperNodes with registered keys, and `flwr run`.

    with Deployment(tmp_path / "net") as net:
        net.start_superlink()
        net.add_site("first", site_file)            # key, registration, SuperNode
        run = net.submit("configs/smoke_deployed.yaml", out)
        net.wait_for(lambda: rounds(out) >= 2, 120, "two rounds")
        net.kill("first"); net.start_node("first")
        net.wait_for_end(run, 300)

Everything it makes is below its folder: keys, certificates, the SuperLink's database, each site's folder, and a log per
process (`logs/`). Whatever happens in the block, at its end no process is left.
"""

import ctypes
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from configs.version import VERSION
from tests.certificates import make_authority, make_node_key

HOME = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
POLL_S = 0.5
RESTART_S = 5.0
"""Seconds between two starts of a SuperNode by its supervisor (docs/deploy)."""
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.5",
    "OMP_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
    "PYTHONWARNINGS": "ignore",
    "COLUMNS": "200",
}
FEDERATION = "here"
CODE = (".py", ".yaml")


class Deployment:
    """SuperLink, SuperNodes and the `flwr` command, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.code = folder, install(folder / "installed")
        self.logs = folder / "logs"
        self.logs.mkdir(parents=True)
        self.port = free_port()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.sites: dict[str, Path] = {}
        """{site: its folder}, of those that have been added."""
        self._configs: dict[str, tuple[dict[str, str], dict[str, str]]] = {}
        self._supervised: set[str] = set()
        self._started: dict[str, float] = {}
        self.certificates = make_authority(folder / "certificates")
        home = folder / "flwr" / "operator"
        home.mkdir(parents=True)
        connection = f'address = "127.0.0.1:{self.port}"\nroot-certificates = "{self.certificates / "ca.crt"}"\n'
        (home / "config.toml").write_text(f'[superlink]\ndefault = "{FEDERATION}"\n\n[superlink.{FEDERATION}]\n{connection}')

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for name in [*self.processes]:
            with suppress(ProcessLookupError):
                self.kill(name)
        for site in self.sites.values():
            end_worker(site)

    # Processes --------------------------------------------------------------------------------------------------------

    def start_superlink(self) -> None:
        """Start it, or start it again on the same database, and wait until it listens."""
        keys = {"ssl-ca-certfile": "ca.crt", "ssl-certfile": "server.pem", "ssl-keyfile": "server.key"}
        options = [word for option, file in keys.items() for word in (f"--{option}", str(self.certificates / file))]
        options += ["--database", str(self.folder / "state.db"), "--port", str(self.port), "--enable-supernode-auth"]
        self._start("superlink", [str(BIN / "flower-superlink"), *options, "--disable-runtime-dependency-installation"])
        self.wait_for(self._listens, 60, "the SuperLink to listen")

    def add_site(self, site: str, site_file: Path, name: str | None = None, code: Path | None = None, **changed: str) -> int:
        """Make a key for the site, register it under its name (or another's) and start its SuperNode; returns the node id."""
        node = self.register(make_node_key(self.folder / "keys" / site), name or site)
        self.sites[site] = self.folder / "sites" / site
        facts = {"site-name": name or site, "site-folder": str(self.sites[site]), "site-file": str(site_file)}
        facts["worker-idle"] = "900"
        self.start_node(site, facts, code, **changed)
        self._supervised.add(site)
        return node

    def start_node(self, site: str, facts: dict[str, str] | None = None, code: Path | None = None, **changed: str) -> None:
        """Start a site's SuperNode, or start it again.

        Args:
            site: whose key it shows.
            facts: its node config; none: that, and the changed options, as last time.
            code: its own SiteStream; none: the one that all have.
            changed: other options than usual (root_certificates, superlink, ...), by name.
        """
        config, changed = (facts, changed) if facts else self._configs[site]
        options = {
            "superlink": f"127.0.0.1:{self.port}",
            "root-certificates": str(self.certificates / "ca.crt"),
            "auth-supernode-private-key": str(self.folder / "keys" / site),
            "port": str(free_port()),
            "node-config": " ".join(f'{key}="{value}"' for key, value in config.items()),
        } | {key.replace("_", "-"): value for key, value in changed.items()}
        command = [
            sys.executable,
            "-P",
            "-m",
            "clients.supernode",
            *(word for key, value in options.items() for word in (f"--{key}", value)),
        ]
        self._configs[site], self._started[site] = (config, changed), time.monotonic()
        self._start(site, command, code)

    def supervise(self) -> None:
        """Start the SuperNodes again that have ended by themselves, or that `revive` names, as systemd does."""
        for site in self._supervised:
            process = self.processes.get(site)
            if (process is None or process.poll() is not None) and time.monotonic() - self._started[site] > RESTART_S:
                self.start_node(site)

    def revive(self, site: str, seconds: float) -> None:
        """Have a site's SuperNode started until it stays: while the last heartbeat of the one before counts, it is refused."""
        before = self.log(site).count("SuperNode ID:")
        self._supervised.add(site)
        self.wait_for(lambda: self.log(site).count("SuperNode ID:") > before, seconds, f"{site}'s SuperNode to be taken in")

    def kill(self, name: str, how: signal.Signals = signal.SIGKILL) -> None:
        """End a process and what it started, as a power cut would; SIGTERM: as a supervisor would."""
        self._supervised.discard(name)
        process = self.processes.pop(name)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        process.wait(60)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    def _start(self, name: str, command: list[str], code: Path | None = None) -> None:
        assert name not in self.processes or self.processes[name].poll() is not None, f"{name} is running"
        place = self.folder / "somewhere" / name  # nobody works in the repository
        place.mkdir(parents=True, exist_ok=True)
        with (self.logs / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command,
                cwd=place,
                env=self._environment(name, code),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_end_with_us,
            )

    def _environment(self, name: str, code: Path | None = None) -> dict[str, str]:
        path = os.pathsep.join([str(BIN), os.environ.get("PATH", "")])
        return {**os.environ, **QUIET, "PATH": path, "PYTHONPATH": str(code or self.code), "FLWR_HOME": str(self._home(name))}

    def _home(self, name: str) -> Path:
        return self.folder / "flwr" / name

    def _listens(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    # The operator's command -------------------------------------------------------------------------------------------

    def flwr(self, *words: str, app: Path | None = None) -> dict[str, Any]:
        """Run `flwr ... --format json` and return what it prints; raises AssertionError with its words if it fails."""
        done = subprocess.run(
            [str(BIN / "flwr"), *words, "--format", "json"],
            cwd=app or HOME,
            env=self._environment("operator"),
            capture_output=True,
            text=True,
            timeout=120,
        )
        with (self.logs / "flwr.log").open("a") as log:
            log.write(f"$ flwr {' '.join(words)}\n{done.stdout}{done.stderr}\n")
        assert done.returncode == 0, f"flwr {' '.join(words)}: {done.stdout}{done.stderr}"
        begin = done.stdout.find("{")
        answer: dict[str, Any] = json.loads(done.stdout[begin:])
        return answer

    def register(self, public_key: Path, name: str) -> int:
        """Register a key under a name, as the administrator does; returns the node id."""
        return int(self.flwr("supernode", "register", str(public_key), FEDERATION, "--name", name)["node-id"])

    def submit(self, config: str, out: Path, app: Path = HOME) -> int:
        """`flwr run`: start a run of a recipe in the app's folder, with its results in `out`; returns Flower's run id."""
        told = f'config="{config}" folder="{out}"'
        return int(self.flwr("run", str(app), FEDERATION, "--run-config", told)["run-id"])

    def status(self, run: int) -> str:
        """Flower's word on a run: running, finished:completed, finished:failed..."""
        runs = self.flwr("list", FEDERATION)["runs"]
        return next(str(row["status"]) for row in runs if int(row["run-id"]) == run)

    # Waiting ----------------------------------------------------------------------------------------------------------

    def wait_for(self, condition: Callable[[], object], seconds: float, what: str, run: int | None = None) -> None:
        """Wait until it holds; raises AssertionError with the ends of the logs if it does not within so many seconds.

        `run`: if that is over before, waiting is of no use.
        """
        end = time.monotonic() + seconds
        while not condition():
            assert run is None or not self.is_over(run), f"run {run} ended before {what}\n{self.last_words()}"
            assert time.monotonic() < end, f"waited {seconds:.0f} s for {what}\n{self.last_words()}"
            for process in self.processes.values():
                process.poll()  # whoever has ended is buried: what it has started goes by its process id
            self.supervise()
            time.sleep(POLL_S)

    def wait_for_end(self, run: int, seconds: float) -> str:
        """Wait until Flower says that a run is over; returns its word: finished:completed, finished:failed..."""
        self.wait_for(lambda: self.is_over(run), seconds, f"run {run} to end")
        return self.status(run)

    def is_over(self, run: int) -> bool:
        """Whether the SuperLink's log says so: cheaper to ask than `status`."""
        return re.search(rf"Finished task \d+ of run {run}\b", self.log("superlink")) is not None

    def log(self, name: str) -> str:
        """What a process has said so far."""
        path = self.logs / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def last_words(self, lines: int = 15) -> str:
        """The ends of all logs."""
        paths: Iterable[Path] = sorted(self.logs.glob("*.log"))
        return "\n".join(f"--- {path.name}\n" + "\n".join(self.log(path.stem).splitlines()[-lines:]) for path in paths)


def _end_with_us() -> None:
    """Linux ends the process when the test's is killed and can clean up no more; what it has started follows by itself."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def install(folder: Path, version: str = VERSION) -> Path:
    """What `pip install` would put there, at this moment: nobody's editing changes it while processes run."""
    project = tomllib.loads((HOME / "pyproject.toml").read_text())["tool"]["setuptools"]
    for package in project["packages"]:
        place = Path(*package.split("."))
        shutil.copytree(HOME / place, folder / place, ignore=lambda _, names: [n for n in names if not n.endswith(CODE)])
    for module in project["py-modules"]:
        shutil.copy2(HOME / f"{module}.py", folder)
    marked = folder / "configs" / "version.py"
    marked.write_text(marked.read_text().replace(VERSION, version))
    return folder


def end_worker(site_folder: Path) -> None:
    """End the persistent worker of a site, which outlives its SuperNode, if there is one."""
    for pid in worker_pids(site_folder):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def worker_pids(site_folder: Path) -> list[int]:
    """Processes that are this site's worker: they name its folder, which no one else's does."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (place / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if "clients.worker" in words and str(site_folder) in words:
                found.append(int(place.name))
    return found


class Cable:
    """Between a SuperNode and the SuperLink: passes bytes on until it is cut, and takes no connection until it is mended."""

    def __init__(self, port: int) -> None:
        self._target, self._lines = port, set[socket.socket]()
        self.port, self.carried = free_port(), 0
        self.mend()

    def mend(self) -> None:
        """Take connections."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        """Break every connection, and refuse new ones."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for line in [*self._lines]:
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):  # the listener is closed
            while True:
                line, _ = listener.accept()
                try:
                    other = socket.create_connection(("127.0.0.1", self._target))
                except OSError:  # the SuperLink is down
                    line.close()
                    continue
                self._lines |= {line, other}
                for pair in ((line, other), (other, line)):
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
                self.carried += len(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        source.close()
        self._lines.discard(source)


def rows(out: Path, event: str | None = None) -> list[dict[str, Any]]:
    """The lines of a run's record so far, of one event or all; a line half written is left out."""
    try:
        lines = (out / "record.jsonl").read_text().split("\n")[:-1]
    except FileNotFoundError:
        return []
    found = [json.loads(line) for line in lines]
    return [row for row in found if event in (None, row["event"])]


def rounds(out: Path) -> int:
    """How many rounds a run has done."""
    return max((row["round"] for row in rows(out, "round")), default=0)
