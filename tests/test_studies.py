"""A study: its grid, its shelf of runs, and doing them, several at once."""

import io
import json
import os
import re
import shutil
import signal
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from filelock import FileLock
from rich.console import Console

from configs.load import build_run, dump_run
from configs.plain import parse
from configs.study import cells, load_study
from simulations.engines import simulate
from simulations.pretend import materialise
from simulations.studies import address as addresses
from simulations.studies.address import address, sources
from simulations.studies.command import conduct_study
from simulations.studies.several import Work, _do, in_turn
from simulations.studies.shelf import FAILED, Place, outcome
from simulations.studies.study import open_study, write_index
from simulations.studies.timing import Pace, total
from tests.test_interrupt import ended, left, started
from tests.test_ray_cluster import within

SITE = {"phantoms": {"cases": 3, "shape": [24, 22, 20], "spacing": [8, 8, 9]}, "annotates": ["liver"]}
BASE = {
    "name": "tiny",
    "sites": {"a": SITE, "b": SITE},
    "model": {"network": "UNet", "args": {"channels": [4, 8], "strides": [2], "num_res_units": 0}},
    "train": {"patch": [16, 16, 16], "batch": 2, "sampling_rate": 2},
    "memory": {"policy": "linear", "budget": 2},
    "evaluate": {"surface": False, "slices": 0},
}
STUDY = {
    "base": "tiny.yaml",
    "variants": {"linear": {}, "selective": {"memory.policy": "selective"}},
    "bounds": ["joint.federated"],
    "orders": {"forth": ["a", "b"], "back": ["b", "a"]},
    "seeds": [0, 1],
}


@pytest.fixture
def study(tmp_path):
    def write(**changes):
        (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(BASE, sort_keys=False))
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump({**STUDY, **changes}, sort_keys=False))
        return path

    return write


def grid(path):
    return [(cell.variant, cell.seed, cell.order) for cell in cells(load_study(path))]


def run(**changes):
    return build_run({**BASE, **changes})


def conducted(path, tmp_path, **options):
    console = Console(file=io.StringIO(), width=200, force_terminal=False)
    asked = {"workers": 2, "retry_failed": False, "dry_run": False} | options
    failed = conduct_study(path, tmp_path / "runs", **asked, console=console)
    return failed, console.file.getvalue()


# The grid -------------------------------------------------------------------------------------------------------------------


def test_every_variant_and_bound_is_run_with_every_seed_in_every_order(study):
    found = grid(study())
    assert len(found) == len(set(found)) == 3 * 2 * 2
    assert found[:4] == [("linear", 0, "forth"), ("linear", 1, "forth"), ("linear", 0, "back"), ("linear", 1, "back")]
    paradigms = {cell.variant: cell.run.paradigm for cell in cells(load_study(study()))}
    assert paradigms == {"linear": "continual", "selective": "continual", "joint.federated": "joint.federated"}


def test_a_grid_of_values_names_its_variants_after_them(study):
    path = study(
        vary={"memory.policy": ["linear", "dynamic"], "memory.budget": [2, 4]}, variants={}, bounds=[], orders={}, seeds=[3]
    )
    assert [name for name, _, _ in grid(path)] == ["linear, 2", "linear, 4", "dynamic, 2", "dynamic, 4"]
    assert [(cell.run.memory.policy, cell.run.memory.budget, cell.run.seed) for cell in cells(load_study(path))][2] == (
        "dynamic",
        2,
        3,
    )


def test_a_named_variant_goes_through_the_whole_grid(study):
    path = study(vary={"memory.budget": [2, 4]}, bounds=[], orders={}, seeds=[0])
    assert [name for name, _, _ in grid(path)] == ["linear, 2", "linear, 4", "selective, 2", "selective, 4"]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"variant": {}}, "variant: unknown key; did you mean 'variants'?"),
        ({"bounds": ["joint"]}, "bounds.0: Input should be 'sequential', 'specialised'"),
        ({"reference": "linar"}, "reference: there is no variant 'linar'; did you mean 'linear'?"),
        ({"seeds": [0, 0]}, "seeds: one is given twice, which would count a run twice"),
        ({"seeds": []}, "seeds: List should have at least 1 item"),
        ({"variants": {"joint.federated": {}}}, "two variants are called 'joint.federated'"),
        ({"vary": {"memory.budget": []}}, "vary.memory.budget: has no value, so that there would be no variant"),
        ({"set": {"seed": 3}}, "variant 'linear': seed is not its to change: the study's own `seeds` say it"),
        ({"vary": {"name": ["a"]}}, "name is not its to change: a run of a study has its variant's name"),
        ({"variants": {"back": {"arrivals": {"order": ["b", "a"]}}}}, "variant 'back': arrivals.order is not its to change"),
    ],
)
def test_a_mistake_in_a_study_is_one_line(study, changes, line):
    with pytest.raises(ValueError) as caught:
        load_study(study(**changes))
    assert line in str(caught.value) and "\n" not in str(caught.value)


def test_a_mistake_in_a_variant_names_it(study):
    path = study(variants={"good": {}, "odd": {"memory.budgt": 3}})
    with pytest.raises(ValueError, match=r"variant 'odd': .*memory.budgt: unknown key; did you mean 'budget'\?"):
        cells(load_study(path))
    path = study(orders={"short": ["a"]})
    with pytest.raises(ValueError, match="variant 'linear': .*b: is never present"):
        cells(load_study(path))


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"metrics": ["ac"]}, "metrics: there is no metric 'ac'; did you mean 'acc'?"),
        ({"variants": {"odd": {"memory.policy": "linar"}}}, "variant 'odd': memory.policy: there is no 'linar' (did you mean"),
        ({"vary": {"strategy.merge": ["average", "averge"]}}, "did you mean 'average'?"),
    ],
)
def test_words_are_looked_up_before_anything_is_done(study, tmp_path, changes, line):
    with pytest.raises(ValueError, match=re.escape(line)):
        open_study(study(**changes), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_two_names_for_the_same_runs_are_refused(study, tmp_path):
    path = study(variants={"linear": {}, "first in, first out": {"memory.policy": "linear"}})
    with pytest.raises(ValueError, match="variants 'linear' and 'first in, first out' are the same runs"):
        open_study(path, tmp_path / "runs")


def test_a_folder_that_is_anothers_is_refused(study, tmp_path):
    path, runs = study(orders={}, seeds=[0], bounds=[]), tmp_path / "runs"
    sheet = open_study(path, runs)
    assert sheet.folder == runs / "studies" / "study" and {place.folder.parent for place in sheet.places} == {runs / "cells"}
    write_index(sheet, path)
    (other := tmp_path / "other.yaml").write_text("name: study\n" + path.read_text())
    assert open_study(path, runs).folder == sheet.folder
    with pytest.raises(ValueError, match=r"belongs to the study .*study.yaml; give this one another `name`"):
        open_study(other, runs)
    path.unlink()  # it was moved
    assert open_study(other, runs).folder == sheet.folder
    (runs / "cells").mkdir()
    (runs / "cells" / "config.yaml").write_text("name: cells")
    with pytest.raises(ValueError, match="cells holds a run, and studies need that folder"):
        open_study(other, runs)


# The shelf ------------------------------------------------------------------------------------------------------------------


def test_an_address_is_what_a_run_would_do(monkeypatch, tmp_path):
    here = address(materialise(run()))
    assert here == address(materialise(run(name="other", engine={"name": "local", "actors": 3}, keep=5)))
    assert here == address(materialise(build_run(parse(dump_run(run(engine={"cpus": 1}))))))
    others = [run(seed=1), run(memory={"policy": "linear", "budget": 3}), run(arrivals={"order": ["b", "a"]})]
    assert len({here, *(address(materialise(other)) for other in others)}) == 4
    monkeypatch.setenv("SITESTREAM_CACHE", str(tmp_path))
    assert here == address(materialise(run()))  # another cache is no other run


def test_an_address_changes_with_the_data(phantom_root, tmp_path):
    def here():
        return address(materialise(run(sites={"a": {"root": str(root), "annotates": ["liver"]}})))

    root = tmp_path / "data"
    shutil.copytree(phantom_root, root)
    before = here()
    assert here() == before
    (root / "notes.txt").write_text("nobody reads this")
    assert here() == before
    shutil.copytree(root, tmp_path / "copy")
    image = next((root / "imagesTr").iterdir())
    os.utime(image, ns=(0, image.stat().st_mtime_ns + 1))
    assert here() == before
    root = tmp_path / "copy"
    assert here() == before  # the same bytes elsewhere
    first, second = sorted((root / "imagesTr").iterdir())[:2]
    shutil.copy2(second, first)
    touched = here()
    listing = json.loads((root / "dataset.json").read_text())
    listing["training"].pop()
    (root / "dataset.json").write_text(json.dumps(listing))
    assert len({before, touched, here()}) == 3


def test_an_address_changes_with_the_weights_and_the_device(monkeypatch, tmp_path):
    def here(device="auto"):
        sites = {name: SITE | {"device": device} for name in "ab"}
        return address(materialise(run(model=BASE["model"] | {"weights": str(weights)}, sites=sites)))

    weights = tmp_path / "weights"
    weights.write_bytes(b"one")
    before = here()
    weights.write_bytes(b"two")
    assert here() != before and here("cpu") == here()
    there = here()
    monkeypatch.setattr(addresses, "pick_device", lambda _: SimpleNamespace(type="cuda"))
    assert here() != there and here("cpu") == there


def test_an_address_changes_with_what_a_run_is_made_by(monkeypatch, tmp_path):
    def here():
        addresses._code.cache_clear()
        return address(whole)

    whole = materialise(run())
    for name, text in {"memory/mine.py": "import wire\n", "wire.py": "", "notes.py": ""}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    for name in addresses.BEGINNINGS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("def later():\n    from memory.mine import keep\n")
    monkeypatch.setattr(addresses, "HOME", tmp_path)
    before = here()
    (tmp_path / "notes.py").write_text("# nothing imports this")
    assert here() == before
    (tmp_path / "memory" / "mine.py").write_text("import wire\nK = 2\n")
    mine = here()
    (tmp_path / "wire.py").write_text("K = 2\n")
    assert len({before, mine, here()}) == 3
    monkeypatch.setattr(addresses, "version", lambda package: "0")
    assert len({before, mine, here()}) == 3
    addresses._code.cache_clear()


def test_reports_and_tables_are_no_part_of_an_address():
    names = {path.relative_to(addresses.HOME).as_posix() for path in sources()}
    used = {"memory/selective.py", "strategies/anchored.py", "clients/objectives/ewc.py", "clients/train.py", "wire.py"}
    used |= {"server/turn.py", "simulations/phantoms.py", "simulations/paradigms.py", "configs/schema.py", "compress.py"}
    assert used <= names
    assert not [name for name in names if "studies" in name or "report" in name or name in ("run_sim.py", "server/page.py")]


def test_a_recipe_in_the_shelf_can_be_read_from_anywhere(study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = open_study(study(set={"data.root": "here"}, bounds=[], orders={}, seeds=[0]), tmp_path / "runs").places[0]
    place.write()
    assert f"root: {tmp_path / 'here'}" in (place.folder / "config.yaml").read_text()


def test_bounds_that_are_the_same_in_every_order_are_one_run(study, tmp_path):
    sheet = open_study(study(), tmp_path / "runs")
    assert (len(sheet.rows), len(sheet.places)) == (12, 4 + 4 + 2)
    assert {place.state for place in sheet.places} == {"new"} and len(sheet.todo(retry_failed=False)) == 10


def test_begun_runs_come_first_and_then_the_longest(study, tmp_path):
    sheet = open_study(study(), tmp_path / "runs")
    (sheet.places[3].folder / "checkpoints").mkdir(parents=True)
    order = list(in_turn([*sheet.places, *sheet.places]))
    assert len(order) == 10 and order[0].folder == sheet.places[3].folder
    steps = [place.steps for place in order[1:]]
    assert steps == sorted(steps, reverse=True)


def test_the_time_left_is_judged_from_the_steps_done(tmp_path, monkeypatch):
    def place(name, steps):
        return Place(run(), tmp_path / name, 4, type("Plan", (), {"sites": (type("Site", (), {"steps": steps}),)})())

    work = Work([place("long", 30), place("short", 10)], began=0.0)
    monkeypatch.setattr("time.monotonic", lambda: 60.0)
    assert work.eta() is None
    work.running[tmp_path / "long"] = 4  # of 4 rounds and an evaluation: 24 of 30 steps in 60 s
    assert work.eta() == pytest.approx(60 / 24 * (6 + 10))
    work.before[tmp_path / "long"] = 2  # 2 of its rounds were there already: 60 s for 9 steps
    assert work.eta() == pytest.approx(60 / (30 * (4 / 5 - 2 / 4)) * (6 + 10))


def test_a_cost_is_the_steps_and_the_evaluations(study, tmp_path):
    (place,) = open_study(study(variants={"linear": {}}, bounds=[], orders={}, seeds=[0]), tmp_path).places
    assert (place.steps, len(place.plan.stages), sum(site.tests for site in place.plan.sites)) == (4, 2, 2)
    assert Pace(2.0, 0.5).of(place) == 2.0 * 4 + 0.5 * (2 + 1) * 2
    assert total([place, place, place], Pace(2.0, 0.5), workers=2) == 1.5 * 11 and total([], Pace(1, 1), 2) == 0


# Doing it ---------------------------------------------------------------------------------------------------------------


def test_a_study_is_done_once_taken_up_where_it_stopped_and_tells_of_what_failed(study, tmp_path):
    """One run is finished beforehand, one has failed, one cannot be done: the rest is done, two at once, over Ray."""
    path = study(
        seeds=[0], orders={}, variants={"linear": {}, "selective": {"memory.policy": "selective"}, "huge": {"train.lr": 1e30}}
    )
    sheet = open_study(path, tmp_path / "runs")
    by_name = {cell.variant: place for cell, place in sheet.rows}
    by_name["linear"].write()
    simulate(materialise(by_name["linear"].run), by_name["linear"].folder)
    stamp = (by_name["linear"].folder / "model.safetensors").stat().st_mtime_ns
    by_name["selective"].folder.mkdir(parents=True)
    (by_name["selective"].folder / FAILED).write_text("it rained\n")
    failed, said = conducted(path, tmp_path)
    assert "4 cells, 4 runs (1 finished, 2 new, 1 failed); 2 to do" in said
    assert {name: place.state for name, place in by_name.items()} == {
        "linear": "finished",
        "selective": "failed",
        "huge": "finished",  # every step was dropped or its update refused: a result, if a sad one
        "joint.federated": "finished",
    }
    assert failed == 1 and "failed: selective, seed 0, as written: it rained (try again: --retry-failed)" in said
    failed, said = conducted(path, tmp_path, retry_failed=True)
    assert failed == 0 and "1 to do" in said and by_name["selective"].state == "finished"
    assert (by_name["linear"].folder / "model.safetensors").stat().st_mtime_ns == stamp
    facts = json.loads((tmp_path / "runs" / "studies" / "study" / "study.json").read_text())
    assert [(cell["variant"], cell["state"]) for cell in facts["cells"]] == [
        (name, "finished") for name in ("linear", "selective", "huge", "joint.federated")
    ]
    table = (tmp_path / "runs" / "studies" / "study" / "table.csv").read_text().splitlines()
    assert {line.split(",")[0] for line in table[1:]} == set(by_name)
    failed, said = conducted(path, tmp_path)
    assert failed == 0 and "0 to do" in said


def test_a_run_that_two_cells_share_goes_on_in_the_words_in_which_it_began(study, tmp_path, monkeypatch):
    """joint.federated is one run in every order; it is stopped in one order's words and taken up by the other's."""
    sheet = open_study(study(seeds=[0], variants={"linear": {}}), tmp_path / "runs")
    forth, back = (place for cell, place in sheet.rows if cell.bound)
    assert forth.folder == back.folder and forth.run != back.run
    forth.write()
    asked = (forth.folder / "config.yaml").read_bytes()
    with monkeypatch.context() as broken:
        broken.setattr("server.conduct._leave_results", stop)
        assert "it rained" in _do(str(forth.folder))
    assert back.state == "failed" and (back.folder / "checkpoints").is_dir()
    back.write()
    assert (back.folder / "config.yaml").read_bytes() == asked and _do(str(back.folder)) == "" and forth.state == "finished"
    found = outcome(*next(row for row in sheet.rows if row[0].bound))
    assert found.bound and found.run == forth.folder.name


def stop(*facts):
    raise RuntimeError("it rained")


def test_a_run_that_another_process_does_is_waited_for_and_looked_at_again(study, tmp_path, monkeypatch):
    (place,) = open_study(study(variants={"linear": {}}, bounds=[], orders={}, seeds=[0]), tmp_path / "runs").places
    place.write()
    answers: list[str] = []
    doing = threading.Thread(target=lambda: answers.append(_do(str(place.folder))))
    monkeypatch.setattr("simulations.engines.simulate", stop)
    with FileLock(place.folder / "lock"):  # as another process has it
        doing.start()
        doing.join(1)
        assert doing.is_alive() and place.state == "new"
        monkeypatch.setattr("simulations.studies.several.is_finished", lambda folder: True)
    doing.join(5)
    assert answers == [""] and place.state == "new"


def test_a_run_whose_code_changed_since_the_study_began_is_not_done(study, tmp_path, monkeypatch):
    (place,) = open_study(study(variants={"linear": {}}, bounds=[], orders={}, seeds=[0]), tmp_path / "runs").places
    place.write()
    monkeypatch.setattr(addresses, "_code", lambda: "other")
    assert "its data or our code have changed since the study began" in _do(str(place.folder))
    assert not (place.folder / "checkpoints").exists()


def test_gpus_that_are_not_there_end_a_study_with_one_line(study, tmp_path):
    path = study(set={"engine.gpus": 99}, bounds=[], orders={}, seeds=[0])
    with pytest.raises(ValueError, match="the site 'a' wants 99 GPUs, there are"):
        conducted(path, tmp_path)


def test_ctrl_c_leaves_a_page_of_what_is_finished_and_nobody_behind(study, tmp_path):
    path = study(seeds=[0], orders={}, bounds=[], set={"train.replay_steps": 20000})
    by_name = {cell.variant: place for cell, place in open_study(path, tmp_path / "runs").rows}
    options = ["--out", str(tmp_path / "runs"), "--workers", "1"]
    with started("run_sim.py", "study", str(path), *options) as process:
        assert within(60, lambda: any((place.folder / "record.jsonl").exists() for place in by_name.values()))
        process.send_signal(signal.SIGINT)
        code, told = ended(process)
        assert within(5, lambda: not left(process))
    assert code == 130 and told.startswith("run_sim: interrupted; finished rounds are saved. go on with: ")
    assert f"run_sim.py study {path} --out {tmp_path / 'runs'}" in told
    assert "0 of 2 runs are finished" in (tmp_path / "runs" / "studies" / "study" / "report.html").read_text()
    assert not [place for place in by_name.values() if place.state in ("failed", "finished")]


def test_a_dry_run_times_a_round_and_does_nothing(study, tmp_path):
    failed, said = conducted(study(seeds=[0], orders={}, bounds=[]), tmp_path, dry_run=True)
    assert failed == 0 and "2 cells, 2 runs (2 new); 2 to do" in said
    assert "ms a step" in said and "nothing was run" in said
    assert not (tmp_path / "runs").exists()


def test_the_smoke_study_of_the_repository_is_right():
    study = load_study(Path(__file__).parents[1] / "studies" / "smoke.yaml")
    assert len(cells(study)) == 16 and study.reference == "first in, first out"
