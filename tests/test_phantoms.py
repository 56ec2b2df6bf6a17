"""Procedural abdomens: deterministic, complete, annotated as the site annotates."""

import json

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from configs.schema import Phantoms
from simulations.anatomy import LABELS, TISSUES, draw_patient
from simulations.phantoms import SCANNERS, draw_case, write_phantoms

SMALL = (32, 28, 24)
SANE = {
    "liver": (0.02, 0.09),
    "spleen": (0.003, 0.02),
    "kidney": (0.004, 0.02),
    "pancreas": (0.001, 0.012),
    "aorta": (0.002, 0.01),
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SITESTREAM_CACHE", str(tmp_path))


def small(scanner="ct", cases=2, seed=0):
    return Phantoms(cases=cases, shape=SMALL, spacing=(6, 6, 8), scanner=scanner, seed=seed)


def test_the_same_seed_draws_the_same_voxels_and_another_seed_other_patients():
    image, label = draw_case("north", 0, small())
    again, label_again = draw_case("north", 0, small())
    assert image.tobytes() == again.tobytes()
    assert label.tobytes() == label_again.tobytes()
    for other in (draw_case("north", 0, small(seed=1)), draw_case("north", 1, small()), draw_case("south", 0, small())):
        assert (other[1] != label).mean() > 0.01


@pytest.mark.parametrize("shape", [(64, 56, 48), SMALL])
def test_every_organ_is_present_with_a_sane_volume(shape):
    for index in range(8):
        _, label = draw_patient(shape, np.random.default_rng([7, index]))
        for organ, (low, high) in SANE.items():
            values = [1, 6] if organ == "liver" else [LABELS[organ]]
            assert low < np.isin(label, values).mean() < high, (organ, index)


def test_about_seven_in_ten_patients_have_lesions():
    sick = [(draw_patient(SMALL, np.random.default_rng([3, i]))[1] == LABELS["liver_tumor"]).any() for i in range(60)]
    assert 0.5 < np.mean(sick) < 0.9


def test_the_left_organs_are_on_the_left_and_two_kidneys_apart():
    _, label = draw_patient(SMALL, np.random.default_rng(5))
    right = {organ: np.argwhere(label == value)[:, 0].mean() for organ, value in LABELS.items() if (label == value).any()}
    assert right["spleen"] < SMALL[0] / 2 - 4 < SMALL[0] / 2 < right["liver"]
    kidneys = label == LABELS["kidney"]
    assert kidneys[: SMALL[0] // 2].any()
    assert kidneys[SMALL[0] // 2 :].any()


def test_lesions_lie_in_the_liver():
    for index in range(6):
        _, label = draw_patient((64, 56, 48), np.random.default_rng([1, index]))
        lesion = label == LABELS["liver_tumor"]
        around = binary_dilation(lesion) & ~lesion
        assert not lesion.any() or (label[around] == LABELS["liver"]).mean() > 0.5


def test_only_annotated_classes_are_written(tmp_path):
    complete = write_phantoms("north", small(cases=3), None)
    partial = write_phantoms("north", small(cases=3), ["aorta", "liver"])
    assert json.loads((partial / "dataset.json").read_text())["labels"] == {"0": "background", "1": "liver", "5": "aorta"}
    assert json.loads((complete / "dataset.json").read_text())["labels"] == {"0": "background"} | {
        str(value): name for name, value in LABELS.items()
    }
    for file in sorted((partial / "labelsTr").iterdir()):
        drawn = np.asarray(nib.load(file).dataobj)
        everything = np.asarray(nib.load(complete / "labelsTr" / file.name).dataobj)
        assert drawn.dtype == np.uint8
        assert set(np.unique(drawn)) == {0, 1, 5}
        assert np.array_equal(drawn == 1, np.isin(everything, [1, 6]))  # through the tumour


def test_tumour_without_liver_leaves_the_liver_out():
    root = write_phantoms("north", small(cases=4), ["liver_tumor"])
    values = {int(v) for file in (root / "labelsTr").iterdir() for v in np.unique(nib.load(file).dataobj)}
    assert values == {0, 6}


def test_a_second_call_reuses_the_folder_and_leaves_no_draft(tmp_path):
    root = write_phantoms("north", small(), ["liver", "spleen"])
    before = {file: file.stat().st_mtime_ns for file in root.rglob("*")}
    assert write_phantoms("north", small(), ["spleen", "liver"]) == root
    assert {file: file.stat().st_mtime_ns for file in root.rglob("*")} == before
    assert [path.name for path in (tmp_path / "phantoms").iterdir()] == [root.name]


def test_every_input_has_its_own_folder():
    roots = [
        write_phantoms("north", small(cases=1), None),
        write_phantoms("south", small(cases=1), None),
        write_phantoms("north", small(cases=1, seed=1), None),
        write_phantoms("north", small(cases=1, scanner="mr"), None),
        write_phantoms("north", small(cases=1), ["liver"]),
    ]
    assert len(set(roots)) == len(roots)


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_args, **_more):
        raise KeyboardInterrupt

    monkeypatch.setattr("simulations.phantoms.write_manifest", fail)
    with pytest.raises(KeyboardInterrupt):
        write_phantoms("north", small(cases=1), None)
    assert list((tmp_path / "phantoms").iterdir()) == []


@pytest.mark.parametrize("scanner", SCANNERS)
def test_contract_of_every_scanner(scanner):
    look = SCANNERS[scanner]
    assert set(look.tissues) == set(TISSUES) - {"air"}
    root = write_phantoms("north", small(scanner), None)
    assert sorted(p.name for p in (root / "imagesTr").iterdir()) == ["north_001.nii.gz", "north_002.nii.gz"]
    for case in ("north_001", "north_002"):
        image, label = (nib.load(root / place / f"{case}.nii.gz") for place in ("imagesTr", "labelsTr"))
        assert image.shape == label.shape == SMALL
        assert np.array_equal(image.affine, label.affine)
        assert "".join(nib.aff2axcodes(image.affine)) == look.axes
        assert image.header.get_zooms() == (6, 6, 8)
        assert np.isfinite(image.get_fdata()).all()
        assert image.get_fdata().std() > 10
    expected, drawn = draw_case("north", 1, small(scanner))
    assert np.array_equal(nib.as_closest_canonical(image).dataobj, expected)
    assert np.array_equal(nib.as_closest_canonical(label).dataobj, drawn)


def test_bad_names_are_refused_with_the_nearest():
    with pytest.raises(ValueError, match="'mr_fatsat'"):
        write_phantoms("north", small("mr_fatsta"), None)
    with pytest.raises(ValueError, match="'spleen'"):
        write_phantoms("north", small(), ["liver", "splen"])
    with pytest.raises(ValueError, match="names no class"):
        write_phantoms("north", small(), [])
