"""The command: one line for every mistake, the right exit code, and words that help."""

import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock, Timeout

import run_sim
from configs.load import load_run
from run_sim import main
from server.alone import alone
from simulations import commands
from simulations.engines import simulate
from simulations.pretend import materialise

CONFIGS = Path(__file__).parents[1] / "configs"
SMOKE = str(CONFIGS / "smoke.yaml")
TINY = """
name: tiny
sites: {only: {root: ROOT, split: {test: 0.5}}}
model: {network: UNet, args: {channels: [4, 8], strides: [2], num_res_units: 0}}
train: {patch: [16, 16, 16], batch: 2, sampling_rate: 2}
memory: {budget: 2}
engine: {name: local}
"""
RESUME = f"{shlex.quote(sys.executable)} {shlex.quote(run_sim.__file__)} resume out"
Ask = Callable[..., tuple[int, str]]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Runs land in a folder of the test's own, and the signal handlers are put back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("signal.signal", lambda *_: None)


@pytest.fixture
def ask(capsys) -> Ask:
    """Calls the command; returns its exit code and its one line on stderr."""

    def call(*arguments: str) -> tuple[int, str]:
        code = main(list(arguments))
        told = capsys.readouterr().err
        assert told.count("\n") == 1, told
        assert told.startswith("run_sim: ")
        assert "Traceback" not in told
        return code, told.removeprefix("run_sim: ").strip()

    return call


@pytest.fixture
def config(tmp_path) -> Callable[[Any], str]:
    """A config over an MSD folder."""

    def write(root: object) -> str:
        path = tmp_path / "tiny.yaml"
        path.write_text(TINY.replace("ROOT", str(root)))
        return str(path)

    return write


def volume(seed: int = 0, shape: tuple[int, ...] = (20, 20, 20)) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def label(shape: tuple[int, ...] = (20, 20, 20)) -> np.ndarray:
    return (np.indices(shape).sum(0) < 12).astype(np.uint8)


# Mistakes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["run", "none.yaml"], "none.yaml: cannot be read (No such file or directory)"),
        (["run", SMOKE, "--set", "train.bach=3"], f"{SMOKE}: train.bach: unknown key; did you mean 'batch'?"),
        (["run", SMOKE, "--set", "seed"], "--set seed: write it as a.b=value"),
        (["run", SMOKE, "--set", "train.patch=[8"], "--set train.patch=[8: '[8' is not a valid value"),
        (["run", SMOKE, "--set", "memory.policy=selektive"], "selektive"),
        (["run", SMOKE, "--set", "model.network=UNett"], "model.network: there is no 'UNett'; did you mean 'UNet'?"),
        (["run", SMOKE, "--set", "strategy=fedawg"], "strategy: there is no preset 'fedawg'; did you mean 'fedavg'?"),
        (["run", SMOKE, "--set", "strategy.merge=averige"], "strategy.merge: there is no 'averige'; did you mean 'average'?"),
        (["run", SMOKE, "--set", "memory.budget=1"], "memory.budget: 1 is smaller than the batch"),
        (["run", SMOKE, "--set", "sites.first.shift=gama"], "there is no shift 'gama'; did you mean 'gamma'?"),
        (["run", SMOKE, "--set", "sites.first.phantoms.scanner=mri"], "mri"),
        (["run", SMOKE, "--actors", "0"], "engine.actors: Input should be greater than or equal to 1 (given: 0)"),
        (["run", SMOKE, "--engine", "rai"], "argument --engine: invalid choice: 'rai'"),
        (["rum"], "invalid choice: 'rum'"),
        (["resume"], "the following arguments are required: folder"),
        (["resume", "nowhere"], "nowhere holds no run (it has no config.yaml)"),
        (["report", "nowhere"], "nowhere holds no run (it has no config.yaml)"),
        (["memory", "nowhere"], "nowhere holds no run (it has no config.yaml)"),
        (["memory", "nowhere", "--sites", "a"], "unrecognized arguments: --sites a"),
        (["resume", "nowhere", "--allow", "train.lr=1"], "nowhere holds no run (it has no config.yaml)"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(ask, arguments, line):
    for given in [arguments, ["check", *arguments[1:]]] if arguments[0] == "run" else [arguments]:
        code, told = ask(*given)
        assert line in told
        assert code == 2
        assert not Path("runs").exists()


def test_a_site_name_twice(ask, tmp_path):
    path = tmp_path / "twice.yaml"
    path.write_text("sites:\n  a: {root: x}\n  b: {root: y}\n  a: {root: z}\n")
    assert ask("run", str(path)) == (2, f"{path}: not valid YAML: 'a' is given twice (line 4)")


def test_a_missing_data_folder(ask, config):
    assert ask("run", config("/no/such/place")) == (2, "site 'only': the data folder /no/such/place does not exist")


def test_a_label_of_another_shape(ask, config, msd_folder):
    root = msd_folder({"c1": (volume(), label((20, 20, 19))), "c2": (volume(1), label())})
    assert ask("check", config(root)) == (2, "site 'only': case 'c1': the label is (20, 20, 19) voxels, its image (20, 20, 20)")


def test_a_volume_with_nan(ask, config, msd_folder):
    bad = volume()
    bad[3, 4, 5] = np.nan
    root = msd_folder({"c1": (volume(1), label()), "c2": (bad, label())})
    code, told = ask("run", config(root))
    assert (code, told.startswith("site 'only': case 'c2': the image holds NaN or infinite voxels")) == (2, True)


def test_a_folder_that_holds_a_run_is_not_overwritten(ask, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.yaml").write_text("seed: 5\n")
    code, told = ask("run", SMOKE, "--out", "out")
    assert (code, told) == (2, f"out already holds a run: {RESUME} or another --out")
    assert (tmp_path / "out" / "config.yaml").read_text() == "seed: 5\n"


def test_leftovers_that_are_no_run_do_not_disturb_and_checkpoints_without_a_config_are_not_overwritten(ask, tiny):
    Path("out").mkdir()
    for leftover in (".config.yaml.part", "log.txt", "record.jsonl"):
        (Path("out") / leftover).write_text("{half")
    assert main(["run", tiny, "--out", "out"]) == 0
    assert "half" not in Path("out/config.yaml").read_text() + Path("out/record.jsonl").read_text()
    Path("out/config.yaml").unlink()
    assert ask("run", tiny, "--out", "out") == (
        2,
        f"out already holds a run: put its config.yaml back, then {RESUME} or another --out",
    )


def test_an_out_that_is_a_file(ask, tmp_path):
    (tmp_path / "file").write_text("")
    code, told = ask("run", SMOKE, "--out", "file")
    assert code == 2
    assert "file" in told


# What it says ---------------------------------------------------------------------------------------------------------


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    told = capsys.readouterr().out
    assert left.value.code == 0
    for word in (
        "check configs/hippocampus.yaml",
        "--set memory.policy=reservoir",
        "resume runs/",
        "Exit codes",
        "0 done",
        "130",
    ):
        assert word in told
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    told = capsys.readouterr().out
    for word in ("--set a.b=c", "--engine", "--actors", "--out", "--seed", "every random choice"):
        assert word in told
    with pytest.raises(SystemExit):
        main(["resume", "--help"])
    told = capsys.readouterr().out
    for word in ("resume runs/hippocampus --engine local", "--allow train.lr=0.001", "--allow memory.policy", "a.b[=c]"):
        assert word in told
    with pytest.raises(SystemExit):
        main(["memory", "--help"])
    told = capsys.readouterr().out
    for word in ("run_sim.py memory runs/quickstart --evictions", "--site NAME", "under way, stopped or finished"):
        assert word in told


def test_check_prints_what_would_run_and_runs_nothing(capsys, tmp_path):
    assert main(["check", SMOKE, "--set", "train.sampling_rate=4"]) == 0
    told = capsys.readouterr().out
    for word in ("first", "second", "third", "liver", "spleen", "kidney", "3 in 6 rounds: first → second → third", "MB",
                 "steps", "parameters", "batch 2", "selective, 2 samples", "sampling rate 4"):  # fmt: skip
        assert word in told
    assert list(tmp_path.iterdir()) == []


def test_without_arguments_it_runs_the_quickstart(monkeypatch):
    seen = []
    monkeypatch.setattr(run_sim, "do_run", lambda args: seen.append(args.config) or 0)
    assert main([]) == 0
    assert seen == [CONFIGS / "quickstart.yaml"]


def test_the_seed_and_the_engine_are_edits(monkeypatch):
    seen: list[Any] = []
    monkeypatch.setattr(run_sim, "_check_words", seen.append)
    monkeypatch.setattr(run_sim, "_prepared", lambda run: run)
    monkeypatch.setattr(run_sim, "_simulate", lambda run, folder: seen.append(folder) or 0)
    for _ in range(2):
        main(["run", SMOKE, "--set", "seed=1", "--seed", "9", "--engine", "ray", "--actors", "3"])
    assert (seen[0].seed, seen[0].engine.name, seen[0].engine.actors) == (9, "ray", 3)
    assert seen[1::2] == [Path("runs/smoke"), Path("runs/smoke-2")]


# Ends that are no mistake ---------------------------------------------------------------------------------------------


@pytest.fixture
def tiny(config, msd_folder) -> str:
    """A run of one site and one round."""
    return config(msd_folder({f"c{i}": (volume(i), label()) for i in range(4)}))


def test_a_run_that_cannot_go_on_says_how_to_resume_and_does(ask, tiny, capsys, monkeypatch):
    from clients.work import Site

    with monkeypatch.context() as broken:
        broken.setattr(Site, "_train", lambda *_, **__: 1 / 0)
        code, told = ask("run", tiny, "--out", "out", "--set", "faults.on_failure=stop")
    assert (code, told.startswith("only failed to train in round 1 (crashed: division by zero)")) == (3, True)
    assert told.endswith(f". go on with: {RESUME}")
    assert ask("memory", "out", "--site", "onli")[1] == "--site onli: there is no such site; did you mean 'only'?"
    assert main(["memory", "out"]) == 0  # nothing is held yet
    assert main(["resume", "out", "--allow", "faults.on_failure=continue"]) == 0
    assert (Path("out/report.html").exists(), Path("out/model.safetensors").exists()) == (True, True)
    capsys.readouterr()
    Path("out/report.html").unlink()
    assert main(["report", "out"]) == 0
    assert capsys.readouterr().out == "report: out/report.html\n"
    assert Path("out/report.html").exists()
    assert "<h3>By uncertainty</h3>" in Path("out/report.html").read_text()
    assert main(["memory", "out"]) == 0
    told = capsys.readouterr().out
    assert "tiny: what the memories hold after round 1" in told
    assert next(line for line in told.splitlines() if line.startswith("only")).split()[1:3] == ["2/2", "2"]


def interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


@pytest.fixture
def stopped(tiny, monkeypatch, capsys) -> str:
    """The text of the config of a run in `out` that was stopped after its first evaluation."""
    with monkeypatch.context() as broken:
        broken.setattr("clients.work.Site._train", interrupt)
        assert main(["run", tiny, "--out", "out"]) == 130
    capsys.readouterr()
    return Path("out/config.yaml").read_text()


def test_an_edited_config_is_refused_by_its_keys_before_anything_is_started(ask, stopped, monkeypatch):
    monkeypatch.setattr(run_sim, "_prepared", lambda run: 1 / 0)
    Path("out/config.yaml").write_text(stopped.replace("lr: 0.001", "lr: 0.02").replace("budget: 2", "budget: 3"))
    assert ask("resume", "out") == (
        2,
        "train.lr: 0.001 when the run began, now 0.02; memory.budget: 2 when the run began, now 3 "
        "(go on with it on purpose: --allow train.lr=0.02 --allow memory.budget=3)",
    )
    assert ask("resume", "out", "--allow", "train.lr")[1].startswith("memory.budget: 2 when the run began, now 3 (")
    assert ask("resume", "out", "--allow", "train.bach=3") == (2, "train.bach: unknown key; did you mean 'batch'?")
    code, told = ask("resume", "out", "--allow", "model.network=SegResNet")
    assert (code, told.split(":")[0]) == (2, "model.network cannot change within a run")
    code, told = ask("resume", "out", "--allow", "train", "--allow", "memory", "--allow", "train.patch=[15, 15, 15]")
    assert (code, told.split(":")[0]) == (2, "train.patch")
    assert "lr: 0.02" in Path("out/config.yaml").read_text() and "patch: [16" in Path("out/config.yaml").read_text()


def test_an_allowed_change_that_does_not_fit_leaves_the_config_as_it_was(ask, stopped):
    code, told = ask("resume", "out", "--allow", "strategy.merge=krum")
    assert (code, told.split(":")[0]) == (2, "strategy.merge")
    assert Path("out/config.yaml").read_text() == stopped


def test_what_is_allowed_is_the_config_from_then_on_and_a_finished_run_is_left_alone(stopped, capsys):
    assert main(["resume", "out", "--allow", "train.lr=0.02", "--allow", "memory.budget=2"]) == 0
    Path("before.yaml").write_text(stopped)
    assert load_run(Path("out/config.yaml")) == load_run(Path("before.yaml"), ["train.lr=0.02"])
    changed = '{"event": "changed", "key": "train.lr", "before": 0.001, "after": 0.02, "round": 0}'
    record = Path("out/record.jsonl").read_text()
    assert [line for line in record.splitlines() if '"changed"' in line] == [changed]
    Path("out/report.html").unlink()
    capsys.readouterr()
    assert main(["resume", "out"]) == 0
    assert capsys.readouterr().out == "out is finished: nothing to go on with; its report: out/report.html\n"
    assert Path("out/report.html").exists()
    assert Path("out/record.jsonl").read_text() == record


def test_a_run_killed_between_its_record_and_its_results_is_finished_by_resume(tiny, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr("server.conduct.save_model", interrupt)
        assert main(["run", tiny, "--out", "out"]) == 130
    assert '"event": "end"' in Path("out/record.jsonl").read_text()
    assert main(["resume", "out"]) == 0
    assert Path("out/record.jsonl").read_text().count('"event": "end"') == 1
    assert Path("out/model.safetensors").exists()


def content(folder: str) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def test_a_run_that_another_process_conducts_is_refused_and_nothing_in_its_folder_changes(ask, stopped):
    Path("out/sites/only/progress.json").write_text("{}")  # what a site at work tells the screen
    before = content("out")
    busy = (2, "out: another process conducts this run; wait for it, or stop it")
    with FileLock("out/lock"):
        assert ask("resume", "out", "--allow", "train.lr=0.02") == busy
        run = load_run(Path("tiny.yaml"), ["train.lr=0.02"])
        with pytest.raises(ValueError, match="another process conducts"):
            simulate(materialise(run), Path("out"))
    assert content("out") == before
    assert main(["resume", "out"]) == 0


def test_a_folder_that_another_process_is_about_to_fill_is_not_taken(ask, tiny, monkeypatch):
    monkeypatch.setattr(run_sim, "_simulate", lambda run, folder: 0)
    Path("runs/tiny").mkdir(parents=True)
    with FileLock("runs/tiny/lock"):
        assert ask("run", tiny, "--out", "runs/tiny")[0] == 2
        assert main(["run", tiny]) == 0
    assert [path.name for path in Path("runs/tiny").iterdir()] == ["lock"]
    assert Path("runs/tiny-2/config.yaml").exists()


def test_a_folder_that_was_taken_while_the_data_were_prepared_is_left_alone(ask, tiny, monkeypatch):
    def theirs(folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text("theirs")
        return folder

    monkeypatch.setattr(run_sim, "_simulate", lambda run, folder: 0)
    with monkeypatch.context() as late:
        late.setattr(run_sim, "_prepared", lambda run: theirs(Path("out")) and run)
        assert ask("run", tiny, "--out", "out") == (2, f"out already holds a run: {RESUME} or another --out")
    first = Path("runs/tiny")
    with monkeypatch.context() as later:  # they begin and end between our look and our lock
        later.setattr("simulations.run_folder.alone", lambda folder: alone(theirs(folder) if folder == first else folder))
        assert main(["run", tiny]) == 0
    assert (Path("out/config.yaml").read_text(), (first / "config.yaml").read_text()) == ("theirs", "theirs")
    assert load_run(Path("runs/tiny-2/config.yaml")).name == "tiny"


def test_the_folder_is_ours_from_the_first_byte_to_the_report(tiny, monkeypatch):
    """Another lock of the same file is as strange as another process's."""
    kept = []

    def watched(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            with pytest.raises(Timeout), FileLock("out/lock", timeout=0):
                pass
            kept.append(real.__name__)
            return real(*given)

        return call

    for module, name in ((run_sim, "write_run"), (run_sim, "_simulate"), (commands, "make_report")):
        monkeypatch.setattr(module, name, watched(getattr(module, name)))
    assert main(["run", tiny, "--out", "out"]) == 0
    assert main(["resume", "out"]) == 0
    assert kept == ["write_run", "_simulate", "make_report", "make_report"]
    FileLock("out/lock", timeout=0).acquire().lock.release()


def test_a_value_error_in_the_rounds_is_no_mistake_in_what_was_asked(ask, tiny, monkeypatch):
    """numpy raises them: the run has begun, and can be taken up."""

    def merge(*_: Any, **__: Any) -> None:
        raise ValueError("operands could not be broadcast")

    line = "the run stopped: ValueError: operands could not be broadcast (details: out/log.txt). go on with: " + RESUME
    with monkeypatch.context() as broken:
        broken.setattr("server.turn.Turn.__call__", merge)
        assert ask("run", tiny, "--out", "out") == (3, line)
        assert ask("resume", "out") == (3, line)  # and there is no newer checkpoint than when it began
    assert Path("out/log.txt").read_text().count("Traceback") >= 2
    assert main(["resume", "out"]) == 0


def test_an_unexpected_end_is_told_and_logged(ask, tiny, monkeypatch):
    monkeypatch.setattr("simulations.engines.simulate", lambda *_: {}["key"])
    code, told = ask("run", tiny, "--out", "out")
    assert (code, told) == (
        3,
        f"the run stopped: KeyError: 'key' (details: out/log.txt). go on with: {RESUME}",
    )
    assert "Traceback" in Path("out/log.txt").read_text()


def test_an_interrupt_before_the_first_round_is_no_traceback(ask, tiny, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr("simulations.pretend.materialise", interrupt)
        assert ask("run", tiny, "--out", "out") == (130, "interrupted")
    monkeypatch.setattr("simulations.engines.simulate", interrupt)
    code, told = ask("run", tiny, "--out", "out")
    assert (code, told) == (130, f"interrupted; finished rounds are saved. go on with: {RESUME}")


def test_the_command_to_resume_names_the_interpreter_that_the_user_ran(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "my venv" / "bin" / "python"))
    monkeypatch.setattr(run_sim, "__file__", str(tmp_path / "run_sim.py"))
    assert run_sim._to_resume(Path("runs/x y")) == "'my venv/bin/python' run_sim.py resume 'runs/x y'"
    monkeypatch.setattr(sys, "executable", "/opt/python")
    assert run_sim._to_resume(Path("/runs/x")) == "/opt/python run_sim.py resume /runs/x"


def test_a_run_can_be_resumed_from_anywhere(monkeypatch, msd_folder, config, tmp_path):
    root = msd_folder({f"c{i}": (volume(i), label()) for i in range(4)})
    monkeypatch.setattr(run_sim, "_simulate", lambda run, folder: 0)
    main(["run", config(root.relative_to(tmp_path)), "--out", "out"])
    run = load_run(Path("out/config.yaml"))
    assert run.sites["only"].root == root
    assert run.name == "tiny"


# The index ------------------------------------------------------------------------------------------------------------


def test_check_tells_what_the_index_does_and_costs(capsys):
    edits = ["index.on=true", "memory.total=9", "index.admit=0", "sketch.size=32"]
    assert main(["check", SMOKE, *(word for edit in edits for word in ("--set", edit))]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "selective, 9 samples in all, split by uniqueness" in told
    assert "evict, orphans, quotas, replay; frozen encoder, about 0.5 kB a site and round" in told  # 3 (32 + 16) + 256 + 3 * 24
    assert main(["check", SMOKE]) == 0
    assert "encoder" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("edits", "line"),
    [
        (["memory.policy=selective-global"], "selective-global compares with other sites: it needs the index (index.on: true)"),
        (
            ["strategy.weigh=uniqueness"],
            "strategy.weigh: uniqueness is what the index measures; switch it on with index.on: true",
        ),
        (["memory.total=4"], "memory.total: 4 is too little for 3 sites of at least 2 (index.floor)"),
        (["index.evcit=true"], "index.evcit: unknown key; did you mean 'evict'?"),
        (["memory.group_by=scanner"], "memory.group_by: Input should be 'none', 'class' or 'domain'"),
        (["memory.policy=bregman", "memory.args={keep: middle}"], "memory.args: bregman: keep"),
    ],
)
def test_a_mistake_about_the_index_or_a_policy_gets_one_line(capsys, edits, line):
    assert main(["check", SMOKE, *(word for edit in edits for word in ("--set", edit))]) == 2
    told = capsys.readouterr().err
    assert line in told and told.count("\n") == 1


def test_a_merge_that_needs_more_sites_than_the_schedule_brings_is_refused(capsys):
    assert main(["check", SMOKE, "--set", "strategy=krum"]) == 2
    told = capsys.readouterr().err
    assert "strategy.merge: krum needs at least 5 sites at once, and in round 1 there is 1 (arrivals says who is there)" in told
    assert main(["check", SMOKE, "--set", "strategy=cyclic"]) == 0


def test_without_an_installation_one_line_says_what_to_do():
    bare = subprocess.run(
        [sys.executable, "-S", "run_sim.py"], cwd=Path(run_sim.__file__).parent, capture_output=True, text=True
    )
    assert bare.returncode == 2 and "make install" in bare.stderr and bare.stderr.count("\n") == 1
