"""The door of a site and its worker: one process that outlives orders, doors and upgrades, and never two.

Doors and workers are real processes, run from a copy of the code. Where only their ways matter, `clients/app.py` is replaced
there by one that needs no torch; at the end stand the real ones.
"""

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from filelock import FileLock
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from clients import door, doorstep, parcel
from clients.work import Site
from clients.worker import Worker, read_recipe
from configs.load import dump_run, load_run, load_site
from packing import pack_order, pack_weights
from tests.site_orders import order
from tests.test_ray_cluster import within

HOME = Path(__file__).parents[1]
SOON_S = 240
"""Seconds that whatever must happen may take on a machine with much else to do."""

STUB = '''
"""Does what an order's record says, and tells which process did it, and how often the site has been opened there."""
import os, time
from flwr.app import ConfigRecord, RecordDict

opened = times = 0

def make_site(name, folder, site_file, run):
    global opened
    opened += 1
    return [run]

def done(content, site, discreet, short=False):
    global times
    times += 1
    do, (run,) = content["do"], site()
    if "note" in do:
        with open(do["note"] + ".part", "w") as file:
            file.write(str(os.getpid()))
        os.replace(do["note"] + ".part", do["note"])
    while not os.path.exists(do.get("until", "/")):
        time.sleep(.02)
    if "raise" in do:
        raise {"ValueError": ValueError, "OSError": OSError}[do["raise"]]("what happened")
    if "after" in do:
        open(do["after"], "w").close()
    return RecordDict({"did": ConfigRecord({"process": os.getpid(), "opened": opened, "times": times, "run": run.name})})
'''

DOOR = """
import json, sys
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
told = json.loads(sys.argv[1])
if "order" in told:
    from safetensors.numpy import load_file, save_file
    from packing import pack_order, pack_weights, unpack_reply
    from wire import Order
    facts = {key: tuple(value) if isinstance(value, list) else value for key, value in told["order"].items()}
    content = pack_order(Order(**facts), pack_weights(load_file(told["weights"]) if told["weights"] else {}))
else:
    content = RecordDict({"do": ConfigRecord(told["do"])})
from clients.door import app
reply = app(Message(content, 1, "query"), Context(1, 1, told["node"], RecordDict(), {"config": told["config"]}))
if "order" in told:
    answer = unpack_reply(reply.content)
    save_file(answer.weights, told["reply"])
    print(json.dumps({"draws": answer.draws, "new_cases": answer.new_cases, "classes": answer.classes}))
else:
    print(json.dumps(dict(reply.content["did"])))
"""


class Hospital:
    """A site's folder and settings, a copy of the code, and doors that come as Flower starts them."""

    def __init__(self, place: Path, code: Path, recipe: str, site: dict[str, Any]) -> None:
        self.code, self.folder, self.site_file, self.config = code, place / "east", place / "site.yaml", place / "run.yaml"
        self.site_file.write_text(yaml.safe_dump(site))
        self.config.write_text(recipe)
        self.node = {"site-name": "tiny", "site-folder": str(self.folder), "site-file": str(self.site_file)}
        self.environment = {**os.environ, "PYTHONPATH": str(code), "OMP_NUM_THREADS": "1"}
        self.place = place

    def door(self, node: dict[str, Any] | None = None, **told: Any) -> subprocess.Popen[str]:
        """A process for one order, which it prints."""
        told = {"node": {**self.node, **(node or {})}, "config": str(self.config), **told}
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen([sys.executable, "-c", DOOR, json.dumps(told)], cwd=self.place, env=self.environment, **pipes)

    def asks(self, node: dict[str, Any] | None = None, **do: Any) -> dict[str, Any]:
        """What the order came to."""
        return heard(self.door(node, do=do))

    def worker(self, *more: str) -> subprocess.Popen[str]:
        """A worker that a supervisor starts."""
        command = [sys.executable, "-m", "clients.worker", "--site-name", "tiny", "--site-folder", str(self.folder), *more]
        return subprocess.Popen(command, cwd=self.place, env=self.environment, stderr=subprocess.PIPE, text=True)

    @property
    def log(self) -> str:
        return (self.folder / "worker.log").read_text()

    def lock(self) -> Path:
        return self.folder / doorstep.ROOM / doorstep.LOCK

    def close(self) -> None:
        """End whatever worker is left in the folder."""
        if self.lock().exists() and doorstep.is_taken(self.lock()):
            with suppress(ProcessLookupError, ValueError):
                os.kill(int(self.lock().read_text()), signal.SIGKILL)
            assert within(SOON_S, lambda: not doorstep.is_taken(self.lock()))


def heard(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate(timeout=SOON_S)
    assert process.returncode == 0, err
    return json.loads(out)  # type: ignore[no-any-return]


def complaint(process: subprocess.Popen[str]) -> str:
    """The last line of a door that raised."""
    _, err = process.communicate(timeout=SOON_S)
    assert process.returncode == 1, err
    return err.strip().splitlines()[-1]


def gone(process: int) -> bool:
    """Whether there is no such process, or nothing but its exit status."""
    with suppress(FileNotFoundError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


def copied(target: Path) -> Path:
    """The code that a site needs, so that neither an edit of it nor a stub touches anybody else's."""
    for package in ("clients", "configs", "memory", "strategies"):
        shutil.copytree(HOME / package, target / package, ignore=shutil.ignore_patterns("__pycache__"))
    for file in HOME.glob("*.py"):
        shutil.copy2(file, target)
    return target


@pytest.fixture
def hospital(tmp_path: Path) -> Iterator[Hospital]:
    """One whose app is the stub."""
    code = copied(tmp_path / "code")
    (code / "clients" / "app.py").write_text(STUB)
    hospital = Hospital(tmp_path, code, "name: one\n", {})
    yield hospital
    hospital.close()


# One worker for many orders -----------------------------------------------------------------------------------------------


def test_a_door_imports_nothing_but_flower_and_the_standard_library():
    """Flower itself imports numpy; what is ours must stay as thin."""
    script = (
        "import sys, flwr.app, flwr.clientapp; before = {*sys.modules}; import clients.door; print(*{*sys.modules} - before)"
    )
    found = subprocess.run([sys.executable, "-c", script], cwd=HOME, capture_output=True, text=True, check=True).stdout.split()
    ours = {name for name in found if name.partition(".")[0] not in sys.stdlib_module_names}
    assert {name.partition(".")[0] for name in ours} == {"clients", "configs", "durable"}  # neither torch nor pydantic nor YAML
    assert {name for name in ours if name.startswith("clients.")} == {"clients.door", "clients.doorstep", "clients.parcel"}


def test_the_first_order_starts_a_worker_and_the_next_finds_it(hospital):
    first, second = hospital.asks(), hospital.asks()
    assert first == {"process": first["process"], "opened": 1, "times": 1, "run": "one"}
    assert second == {**first, "times": 2}
    room = hospital.folder / "door"
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (room, room / "socket", hospital.folder / "worker.log")}
    assert list(modes.values()) == [0o700, 0o600, 0o600]
    assert os.getsid(first["process"]) == first["process"]  # no signal to Flower's processes reaches it
    assert "ready after" in hospital.log and hospital.log.count("done in") == 2


def test_two_doors_at_once_start_one_worker(hospital):
    doors = [hospital.door(do={}) for _ in range(3)]
    assert len({heard(door)["process"] for door in doors}) == 1
    assert hospital.log.count("worker of SiteStream") == 1 and "already at work" not in hospital.log


def test_the_worker_reads_a_changed_site_file_and_a_changed_recipe_and_nothing_twice(hospital):
    assert hospital.asks()["opened"] == 1
    hospital.site_file.write_text("budget: 3\n")
    assert hospital.asks()["opened"] == 2
    hospital.config.write_text("name: two\n")
    first, second = hospital.asks(), hospital.asks()
    assert (first["run"], first["opened"]) == (second["run"], second["opened"]) == ("two", 3)


def test_a_supervisors_worker_is_used_and_is_the_only_one(hospital):
    supervised = hospital.worker("--site-file", str(hospital.site_file), "--idle", "0")
    try:
        assert within(SOON_S, lambda: (hospital.folder / "door" / "place").exists())
        assert hospital.asks()["process"] == supervised.pid
        other = hospital.worker("--site-file", str(hospital.site_file))
        _, err = other.communicate(timeout=SOON_S)
        assert other.returncode == 1
        assert f"a worker is already at work in {hospital.folder} (process {supervised.pid})" in err
        assert not (hospital.folder / "worker.log").exists()
    finally:
        supervised.terminate()
        supervised.communicate(timeout=SOON_S)
    assert supervised.returncode == 0


# Ends and new beginnings ----------------------------------------------------------------------------------------------------


def test_a_worker_that_dies_over_an_order_is_noticed_at_once_and_the_next_order_starts_another(hospital, tmp_path):
    waiting = hospital.door(do={"note": str(tmp_path / "note"), "until": str(tmp_path / "never")})
    assert within(SOON_S, (tmp_path / "note").exists)
    os.kill(int((tmp_path / "note").read_text()), signal.SIGKILL)
    assert complaint(waiting) == "RuntimeError: the site's worker died while it did the order; its log says more"
    assert hospital.asks()["process"] != int((tmp_path / "note").read_text())


def test_a_worker_whose_door_is_killed_finishes_its_order_and_takes_the_next(hospital, tmp_path):
    do = {"note": str(tmp_path / "note"), "until": str(tmp_path / "go"), "after": str(tmp_path / "finished")}
    killed = hospital.door(do=do)
    assert within(SOON_S, (tmp_path / "note").exists)
    killed.kill()
    killed.communicate()
    queued = hospital.door(do={"after": str(tmp_path / "never")})  # killed while it waits: its order is never begun
    assert within(SOON_S, lambda: len(connections(hospital)) == 2)
    queued.kill()
    queued.communicate()
    (tmp_path / "go").touch()
    again = hospital.asks(**do)
    assert (again["process"], again["times"]) == (int((tmp_path / "note").read_text()), 1)  # done once, asked twice
    assert hospital.asks(**do)["times"] == 2  # a reply that has been handed over is not kept
    assert (tmp_path / "finished").exists() and not (tmp_path / "never").exists()
    assert "the door did not wait for the reply" in hospital.log and "nothing was begun for it" in hospital.log


def test_a_kept_reply_is_not_for_a_site_whose_file_has_changed(hospital, tmp_path):
    """It may say more than the hospital wants to say from now on."""
    do = {"note": str(tmp_path / "note"), "until": str(tmp_path / "go"), "after": str(tmp_path / "finished")}
    killed = hospital.door(do=do)
    assert within(SOON_S, (tmp_path / "note").exists)
    killed.kill()
    killed.communicate()
    hospital.site_file.write_text("budget: 3\n")
    (tmp_path / "go").touch()
    assert hospital.asks(**do)["times"] == 2


def connections(hospital: Hospital) -> list[str]:
    """Lines to the worker's socket, the listener's own apart, as the kernel lists them."""
    lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
    found = [line for line in lines if line[-1] == str(hospital.folder / "door" / "socket")]
    return [line[6] for line in found if line[3] == "00000000"]


def test_sigterm_ends_a_worker_after_its_order(hospital, tmp_path):
    waiting = hospital.door(do={"note": str(tmp_path / "note"), "until": str(tmp_path / "go")})
    assert within(SOON_S, (tmp_path / "note").exists)
    process = int((tmp_path / "note").read_text())
    os.kill(process, signal.SIGTERM)
    assert within(SOON_S, lambda: "SIGTERM: ends after the order under way" in hospital.log)
    (tmp_path / "go").touch()
    assert heard(waiting)["process"] == process
    assert within(SOON_S, lambda: gone(process))
    assert not (hospital.folder / "door" / "socket").exists()
    assert hospital.asks()["process"] != process


def test_a_worker_without_orders_ends_by_itself(hospital):
    process = hospital.asks({"worker-idle": 0.2})["process"]
    assert within(SOON_S, lambda: gone(process))
    assert "ends: no order for 0.2 s" in hospital.log


def test_after_an_upgrade_a_fresh_worker_takes_over(hospital):
    old = hospital.asks()["process"]
    with (hospital.code / "clients" / "model.py").open("a") as file:
        file.write("# newer\n")
    new = hospital.asks()["process"]
    assert new != old and gone(old)
    assert "its edition is" in hospital.log and "a fresh worker takes over" in hospital.log


def test_a_worker_goes_on_after_input_that_was_wrong_and_not_after_anything_worse(hospital):
    first = hospital.asks()["process"]
    assert complaint(hospital.door(do={"raise": "ValueError"})).endswith("ValueError at the site; its own log says more")
    assert hospital.asks()["process"] == first
    assert complaint(hospital.door(do={"raise": "OSError"})).endswith("OSError at the site; its own log says more")
    assert hospital.asks()["process"] != first


def test_a_worker_that_cannot_begin_is_said_at_once(hospital):
    (hospital.code / "clients" / "app.py").write_text("raise ImportError('no such GPU driver')")
    said = complaint(hospital.door(do={}))
    assert said == "RuntimeError: the site's worker ended at once (status 1); its log says more"
    assert "no such GPU driver" in hospital.log


def test_a_folder_belongs_to_one_site(hospital):
    process = hospital.asks()["process"]
    assert complaint(hospital.door({"site-name": "other"}, do={})).startswith("RuntimeError: ValueError at the site")
    assert "a door of site other came to the folder of site tiny" in hospital.log
    assert hospital.asks()["process"] == process


# The socket -----------------------------------------------------------------------------------------------------------------


def test_a_long_path_gets_a_short_one_elsewhere(hospital, tmp_path_factory):
    short = Path(tmp_path_factory.mktemp("r"))
    short.chmod(0o700)
    hospital.environment["XDG_RUNTIME_DIR"] = str(short)
    hospital.folder = hospital.place / ("long" * 30)
    process = hospital.asks({"site-folder": str(hospital.folder)})["process"]
    path = Path((hospital.folder / "door" / "place").read_text())
    assert path.parent.parent == short and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert hospital.asks({"site-folder": str(hospital.folder)})["process"] == process
    os.kill(process, signal.SIGTERM)
    assert within(SOON_S, lambda: gone(process))
    assert list(short.iterdir()) == []


def test_a_worker_that_no_door_can_reach_ends_and_another_takes_over(hospital):
    process = hospital.asks()["process"]
    (hospital.folder / "door" / "socket").unlink()
    assert hospital.asks()["process"] != process
    assert "doors cannot reach its socket" in hospital.log


def test_whoever_is_another_user_is_refused(monkeypatch, tmp_path):
    one, other = socket.socketpair()
    with one, other:
        doorstep.check_peer(one)
        doorstep.room(tmp_path)
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        with pytest.raises(PermissionError, match="at the other end of the socket"):
            doorstep.check_peer(one)
        with pytest.raises(ValueError, match="run door and worker as one user"):
            doorstep.room(tmp_path)


# The recipe -----------------------------------------------------------------------------------------------------------------


def test_a_recipe_is_whole_although_its_bundle_is_gone(tmp_path):
    (tmp_path / "bundle" / "configs").mkdir(parents=True)
    (tmp_path / "bundle" / "base.yaml").write_text("seed: 7\nmemory: {budget: 9}\n")
    (tmp_path / "bundle" / "configs" / "mine.yaml").write_text("seed: 8\nextends: middle.yaml\n")
    (tmp_path / "bundle" / "configs" / "middle.yaml").write_text("extends: '../base.yaml'  # the others\nname: middle\n")
    recipe = tmp_path / "bundle" / "configs" / "mine.yaml"
    expected = load_run(recipe)
    files = tuple(door.chain(recipe))
    assert [Path(path).name for path, _ in files] == ["mine.yaml", "middle.yaml", "base.yaml"]
    shutil.rmtree(tmp_path / "bundle")
    run = read_recipe(files)
    assert run == expected and (run.name, run.seed, run.memory.budget) == ("middle", 8, 9)


def test_a_recipe_that_names_itself_by_its_file_still_does(tmp_path):
    (tmp_path / "mine.yaml").write_text("seed: 8\n")
    assert read_recipe(tuple(door.chain(tmp_path / "mine.yaml"))).name == "mine"


def test_a_fault_in_a_recipe_names_the_file_as_the_site_knows_it(tmp_path):
    (tmp_path / "mine.yaml").write_text("sede: 8\n")
    with pytest.raises(ValueError) as raised:
        read_recipe(tuple(door.chain(tmp_path / "mine.yaml")))
    assert str(raised.value).startswith(f"{str(tmp_path).lstrip('/')}/mine.yaml: sede: unknown key")
    with pytest.raises(ValueError, match="cannot be read"):
        read_recipe(tuple(door.chain(tmp_path / "none.yaml")))


# Parcels --------------------------------------------------------------------------------------------------------------------

SCALARS = (st.integers(-(2**63), 2**63 - 1), st.floats(), st.booleans(), st.text(), st.binary())
CONFIGS = st.dictionaries(st.text(), st.one_of(*SCALARS, *map(st.lists, SCALARS)), max_size=4)
METRICS = st.dictionaries(st.text(), st.one_of(*SCALARS[:2], *map(st.lists, SCALARS[:2])), max_size=4)
SHAPES = st.lists(st.integers(0)).map(tuple)
ARRAYS = st.dictionaries(st.text(), st.builds(Array, st.just("float32"), SHAPES, st.just("numpy.ndarray"), st.binary()))
RECORDS = st.one_of(st.builds(ConfigRecord, CONFIGS), st.builds(MetricRecord, METRICS), st.builds(ArrayRecord, ARRAYS))


def carried(told: dict[str, Any], content: RecordDict | None) -> tuple[dict[str, Any], RecordDict | None]:
    return parcel.receive(BytesIO(sent(told, content)))


def sent(told: dict[str, Any], content: RecordDict | None) -> bytes:
    """What goes over the line."""
    line = type("Line", (), {"sendall": lambda self, data: parts.append(bytes(data))})()
    parts: list[bytes] = []
    parcel.send(line, told, content)
    return b"".join(parts)


@settings(deadline=None)
@given(st.dictionaries(st.text(), RECORDS, max_size=4))
def test_records_come_back_exactly(records):
    _, found = carried({}, RecordDict(records))
    assert found is not None and list(found) == list(records)
    for name, record in records.items():
        assert type(found[name]) is type(record)
        assert repr(list(found[name].items())) == repr(list(record.items()))  # not ==: 1 is True there, and NaN is not NaN


def test_plain_data_come_back_with_and_without_records():
    assert carried({"a": [1, None]}, None) == ({"a": [1, None]}, None)
    assert carried({}, RecordDict()) == ({}, RecordDict())


@pytest.mark.parametrize("left", [0, 3, 12, 20, -1])
def test_half_a_parcel_is_nobody_there(left):
    whole = sent({}, RecordDict({"w": ArrayRecord({"a": Array(np.arange(3))})}))
    with pytest.raises(parcel.Gone):
        parcel.receive(BytesIO(whole[:left]))


@pytest.mark.parametrize(
    "content",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        parcel.START.pack(b"SSP1", 2**40),
        *(
            parcel.START.pack(b"SSP1", len(header)) + header
            for header in (
                b"[]",
                b"{",
                b'{"told": {}, "records": null, "blobs": [-1]}',
                b'{"told": {}, "records": [["w", "arrays", [["a", "float32", [1], "numpy.ndarray"]]]], "blobs": []}',
                b'{"told": {}, "records": null, "blobs": [17179869185]}',
            )
        ),
    ],
)
def test_what_is_no_parcel_is_refused(content):
    with pytest.raises(ValueError):
        parcel.receive(BytesIO(content))


# The real worker ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def real(make_run, phantom_root, tmp_path) -> Iterator[Hospital]:
    """A hospital with the real app, its cases, and a file of its own."""
    recipe = yaml.safe_load(dump_run(make_run()))
    del recipe["sites"]
    site = {"root": str(phantom_root), "annotates": ["liver", "spleen"]}
    hospital = Hospital(tmp_path, copied(tmp_path / "code"), yaml.safe_dump(recipe), site)
    yield hospital
    hospital.close()


@pytest.fixture
def asked(real) -> Callable[..., tuple[dict[str, Any], dict[str, np.ndarray]]]:
    """Sends an order with weights through a door: facts of the reply, and its weights."""

    def ask(weights: dict[str, np.ndarray] | None = None, **facts: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        reply = real.place / "reply.safetensors"
        told = heard(through(real, weights, reply, **facts))
        return told, load_file(reply)

    return ask


def through(real: Hospital, weights: Any, reply: Path, **facts: Any) -> subprocess.Popen[str]:
    """A door with a real order."""
    file = real.place / "weights.safetensors"
    save_file(weights or {}, file)
    asked = {"run": "run1", "round": 1, "task": "train", "site": "tiny", "classes": ["liver", "spleen"], "quota": 3, **facts}
    return real.door(order=asked, weights=str(file) if weights else "", reply=str(reply))


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all((one[name] == other[name]).all() for name in one)


@pytest.mark.timeout(900)
def test_a_real_order_through_the_door_comes_to_what_it_does_in_one_process(real, asked, tmp_path):
    """Also asked twice, with another process at work in the folder, and after the worker was killed over it."""
    alone = Site("tiny", load_site(real.site_file), load_run(real.config), tmp_path / "alone")
    initial = alone.answer(order("init", 0), {}).weights
    expected = alone.answer(order(), initial)
    assert same(asked(task="init", round=0)[1], initial)

    facts, weights = asked(initial)
    assert facts == {"draws": expected.draws, "new_cases": expected.new_cases, "classes": ["liver", "spleen"]}
    assert same(weights, expected.weights)

    with FileLock(real.folder / "lock"):
        waiting = through(real, initial, real.place / "again.safetensors")
        assert within(SOON_S, lambda: "another process is at work in" in real.log)
        assert waiting.poll() is None
        os.kill(int(real.lock().read_text()), signal.SIGKILL)
        assert "died while it did the order" in complaint(waiting)
    assert same(asked(initial)[1], expected.weights)


def test_a_site_file_that_broke_after_an_order_is_not_quoted(tmp_path):
    """Neither where the order is done, nor where it is compared with the one whose reply is kept."""
    (tmp_path / "site.yaml").write_text("secret_ward: 5\n")
    (tmp_path / "run.yaml").write_text("name: one\n")
    told = {"recipe": door.chain(tmp_path / "run.yaml"), "short": False}
    content = pack_order(order("hello", 0), pack_weights({}))
    for kept in ((), (object(), told, content, RecordDict())):
        worker = Worker("tiny", tmp_path, str(tmp_path / "site.yaml"), 1.0, _kept=kept)
        facts, reply = worker._done(told, content)
        assert (facts, reply) == ({"error": ["RuntimeError", "ValueError at the site; its own log says more"]}, None)
        assert worker.ending == ""


@pytest.mark.timeout(900)
def test_only_the_kind_of_an_error_leaves_a_hospital(real):
    refused = through(real, None, real.place / "none", site="other", task="hello")
    assert complaint(refused) == "RuntimeError: ValueError at the site; its own log says more"
    assert "the order is for site 'other', this is 'tiny'" in real.log
