"""The benchmark of the data path: both sides do the same, and it says what it cannot measure."""

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import data_path
import monai_batches

FEW = ["sites.north.phantoms.cases=4", "train.patch=[16,16,16]", "memory.budget=2"]


@pytest.fixture(scope="module")
def given():
    return data_path.site("phantoms", 2, FEW)


@pytest.mark.parametrize("tuned", [False, True])
def test_what_monai_caches_is_what_the_memory_map_holds(given, tuned):
    from monai.transforms import Compose

    case, volume = given.cases.train[0], given.volumes[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = Compose(monai_batches.fixed_transforms(given.run, tuned))({"image": str(case.image), "label": str(case.label)})
    np.testing.assert_allclose(np.asarray(found["image"])[0], volume.image_XYZ, atol=2e-3)
    np.testing.assert_array_equal(np.asarray(found["label"])[0], volume.label_XYZ)


def test_monais_random_part_gives_a_patch_of_each(given):
    from monai.transforms import Compose

    case, volume = given.cases.train[0], given.volumes[0]
    whole = Compose([*monai_batches.fixed_transforms(given.run, True), *monai_batches.random_transforms(given.run, True)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        [patch] = whole({"image": str(case.image), "label": str(case.label)})
    assert patch["image"].shape == patch["label"].shape == (1, 16, 16, 16)
    assert set(np.unique(patch["label"]).astype(int)) <= {0, *volume.counts}


@pytest.mark.parametrize("ahead", [False, True])
def test_the_loop_takes_its_steps_and_data_are_a_part_of_it(given, ahead):
    work = data_path.site_round(given, torch.device("cpu"), 3)
    whole, data = data_path.loop(work, ahead)
    assert 0 < data < whole and work.trainer.steps == 3 and work.draws == 6
    lying = data_path.site_round(given, torch.device("cpu"), 3)
    assert data_path.lying(lying) > 0 and lying.draws == 6


def test_without_the_hippocampus_data_it_says_so_in_one_line(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(data_path, "HIPPOCAMPUS", tmp_path / "none")
    monkeypatch.setattr(sys, "argv", ["data_path.py", "--data", "hippocampus"])
    data_path.main()
    assert capsys.readouterr().out == "No hippocampus data: ../shared/data/Task04_Hippocampus is not beside this folder.\n"
