"""The GPU's benchmark: without one it says so, and all of it runs on a CPU at a small size."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

HOME = Path(__file__).parents[1]
sys.path.append(str(HOME / "benchmarks"))

import gpu
import packed
import steps

from clients.train import Trainer


@pytest.fixture
def tiny(tmp_path):
    """Smoke, but one site, one round, and a patch of 16."""
    smoke = yaml.safe_load((HOME / "configs" / "smoke.yaml").read_text())
    smoke["sites"] = {"first": smoke["sites"]["first"]}
    smoke |= {"model": {"args": {"channels": [4, 8], "strides": [2], "num_res_units": 0}}, "evaluate": {"surface": False}}
    smoke["train"] |= {"patch": [16, 16, 16], "sampling_rate": 1}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(smoke))
    return tmp_path / "tiny.yaml"


def command(*options):
    program = [sys.executable, "benchmarks/gpu.py", *options]
    done = subprocess.run(program, cwd=HOME, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU: there the command takes minutes")
def test_without_a_gpu_it_says_so_in_one_line():
    assert command() == "No GPU on this machine; --device cpu --small does all of it on the CPU.\n"


def test_all_of_it_at_a_small_size(tiny):
    told = command("--device", "cpu", "--small", "--config", str(tiny))
    for part in (
        "of it (target 0.95)",
        "% of a step (target under 2 %)",
        "host synchronisations: a CPU has none",
        "| step / floor |",
        "| bfloat16 |",
        "| sites on the device |",
        "| 2 | ",
        "tiny on local: ",
    ):
        assert part in told, told


def test_the_bare_loop_and_the_trainer_take_the_same_steps(tiny, monkeypatch):
    """Else their times compare nothing: the same weights after two steps, up to AdamW's decay of what nobody annotates."""
    given, nets = steps.task(tiny, torch.device("cpu")), []
    network = steps.Task.network
    monkeypatch.setattr(steps.Task, "network", lambda self: nets.append(network(self)) or nets[-1])
    for way in (steps.bare(given), steps.trainers(given)):
        way(2)
    one, other = (dict(net.named_parameters()) for net in nets)
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-5, atol=1e-6)


def test_pairs_take_turns_and_each_time_is_its_own(monkeypatch):
    asked = []

    def seconds(way, count, now):
        asked.append(way(count))
        return {"one": 3.0, "other": 2.0}[asked[-1]]

    monkeypatch.setattr(steps, "seconds", seconds)
    assert steps.paired(lambda count: "one", lambda count: "other", 5, 3, None) == (3, 2, 1.5)
    assert asked == ["one", "other", "other", "one", "one", "other"]


def test_a_site_that_dies_is_an_error_and_leaves_no_process(tiny):
    with pytest.raises(RuntimeError, match="a site of 2 on nonsense did not start"):
        packed.together(tiny, "nonsense", 2, 0.1)


def test_a_step_that_reads_a_number_from_a_gpu_is_counted(tiny, capsys):
    """On a CPU there is nothing to wait for; on a GPU the Trainer's steps do not, and a look at the loss would be seen."""
    assert gpu.waits(steps.task(tiny, torch.device("cpu")), 2) is None
    assert capsys.readouterr().out == "host synchronisations: a CPU has none\n"
    if torch.cuda.is_available():
        given = steps.task(tiny, torch.device("cuda"))
        assert gpu.waits(given, 5) == 0
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gpu, "Trainer", lambda *facts: immediate(Trainer(*facts)))
            assert gpu.waits(given, 5) >= 1


def immediate(trainer):
    trainer.deferred = False
    return trainer
