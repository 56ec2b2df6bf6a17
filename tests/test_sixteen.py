"""The paper's sixteen data sets: the label maps, and the whole config run on small made folders that hold every value."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from clients.data import site_cases
from configs.load import load_run
from simulations.engines import simulate
from simulations.plan import make_plan, prepare_all
from simulations.pretend import materialise
from simulations.stream import STREAM

CONFIG = Path(__file__).parents[1] / "configs" / "embracing_sixteen.yaml"
SHAPE, CASES = (12, 12, 12), 3
ANNOTATED = dict(zip((f"D{i}" for i in range(1, 17)), (14, 8, 1, 2, 4, 17, 5, 15, 2, 1, 2, 2, 1, 1, 6, 13), strict=True))
"""How many classes each data set has in the paper's own code (OnlineLearning, utils/utils.py, TEMPLATE)."""
TOY = {
    "preprocess": {"spacing": None, "crop": False},
    "model.args": {"channels": [4, 8], "strides": [2], "num_res_units": 0},
    "train": {"patch": [12, 12, 12], "batch": 2, "sampling_rate": 2},
    "stream.cases_per_round": None,
    "memory": {"budget": 4, "args": {"k": 2}},
    "evaluate": {"slices": 0, "batch": 1, "overlap": 0},
    "engine": {"name": "local", "gpus": 0},
}


def values_of(site):
    return sorted({v for value in site.labels.values() for v in (value if isinstance(value, list) else [value])})


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """The config, and below the working folder sixteen folders of three cases each, in which every value is a run of voxels."""
    monkeypatch.chdir(tmp_path)
    run = load_run(CONFIG, changes=TOY)
    for name, site in run.sites.items():
        training = []
        for i in range(CASES):
            rng = np.random.default_rng([i, int(name[1:])])
            label = np.zeros(SHAPE, np.uint8)
            label.reshape(-1)[: 60 * len(values_of(site))] = np.repeat(values_of(site), 60)
            image = (rng.standard_normal(SHAPE) * 50 + label).astype(np.float32)
            training.append(
                {part: f"./{folder}/case_{i}.nii.gz" for part, folder in (("image", "imagesTr"), ("label", "labelsTr"))}
            )
            for part, array in (("image", image), ("label", label)):
                (site.root / training[-1][part]).parent.mkdir(parents=True, exist_ok=True)
                nib.save(nib.Nifti1Image(array, np.eye(4)), site.root / training[-1][part])
        (site.root / "dataset.json").write_text(json.dumps({"labels": {"0": "background"}, "training": training}))
    return run


def test_the_maps_have_the_papers_classes():
    run = load_run(CONFIG)
    drawn = {name: site.annotates or list(site.labels) for name, site in run.sites.items()}
    assert {name: len(classes) for name, classes in drawn.items()} == ANNOTATED
    assert len({name for classes in drawn.values() for name in classes}) == 32
    assert run.sites["D15"].labels["bone"] == 5 and "bone" not in drawn["D15"]
    for name, site in run.sites.items():  # one value is one class's, but for what lies inside the kidneys of D5
        every = [v for value in site.labels.values() for v in (value if isinstance(value, list) else [value])]
        assert name == "D5" or len(every) == len(set(every)), name


def test_the_settings_are_the_papers():
    run = load_run(CONFIG)
    assert (run.train.patch, run.train.lr, run.train.weight_decay, run.train.sampling_rate) == ((96, 96, 96), 1e-4, 1e-5, 100)
    assert (run.memory.budget, run.preprocess.spacing, run.preprocess.window) == (128, (1.5, 1.5, 1.5), (-175.0, 250.0))
    assert run.evaluate.overlap == 0.5 and list(run.sites) == list(ANNOTATED)


def test_sixteen_sites_that_annotate_different_things_stream_by(toy, tmp_path):
    whole = materialise(toy)
    cases = prepare_all(whole)
    assert make_plan(whole, cases).stages == tuple(ANNOTATED)
    assert {case.name.split("__")[0]: len(case.origin.annotates) for case in cases[STREAM].train} == ANNOTATED
    assert len(cases[STREAM].labels) == 32
    (tmp_path / "run").mkdir()
    simulate(whole, tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "record.jsonl").read_text().splitlines()]
    assert not [row for row in rows if row["event"] in ("failure", "fault")]
    trained = [row for row in rows if row["event"] == "train"]
    assert [row["steps"] for row in trained] == [1] * 16 and all(np.isfinite(row["loss_sum"]) for row in trained)
    last = {(row["site"], row["class"]) for row in rows if row["event"] == "case" and row["stage"] == "D16"}
    assert last == {(name, cls) for name, site in whole.sites.items() if name != STREAM for cls in cases[name].labels}
    table = (tmp_path / "run" / "R.csv").read_text().splitlines()
    assert table[0] == "stage," + ",".join(ANNOTATED) and len(table) == 18


def test_a_tumour_is_part_of_its_organ(toy):
    whole = materialise(toy)
    assert site_cases("D4", whole.sites["D4"], 0).labels == {"liver": (1, 2), "liver tumor": (2,)}
    assert site_cases("D11", whole.sites["D11"], 0).labels == {"pancreas": (1, 2), "pancreas tumor": (2,)}
    kidneys = site_cases("D5", whole.sites["D5"], 0).labels
    assert kidneys["right kidney"] == (1, 2, 3) and kidneys["left kidney"] == (4, 5, 6) and kidneys["kidney tumor"] == (2, 5)
