"""Acquisition shifts: pure, deterministic, and never a change to a label."""

import gzip
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from configs.schema import Phantoms
from simulations.partition import read_cases, read_labels
from simulations.phantoms import write_phantoms
from simulations.shifts import SHIFTS, rescale, shifted_folder

HIPPOCAMPUS = Path(__file__).parents[1] / "../shared/data/Task04_Hippocampus"
real = pytest.mark.skipif(not (HIPPOCAMPUS / "dataset.json").exists(), reason="no ../shared/data/Task04_Hippocampus")
RAMP = np.linspace(0, 1, 8 * 7 * 9, dtype=np.float32).reshape(8, 7, 9)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SITESTREAM_CACHE", str(tmp_path))


@pytest.fixture
def root():
    return write_phantoms("north", Phantoms(cases=3, shape=(20, 18, 16), scanner="ct"), None)


def voxels(path):
    return np.asarray(nib.load(path).dataobj)


@pytest.mark.parametrize("shift", SHIFTS)
def test_contract_of_every_shift(shift):
    given = RAMP.copy()
    result = SHIFTS[shift](given, np.random.default_rng(0))
    assert np.array_equal(given, RAMP)  # pure
    assert result.shape == RAMP.shape
    assert result.dtype == np.float32
    assert np.isfinite(result).all()
    assert np.array_equal(result, SHIFTS[shift](RAMP, np.random.default_rng(0)))
    assert (shift == "none") == np.array_equal(result, RAMP)


@pytest.mark.parametrize("shift", SHIFTS)
def test_contract_of_every_shifted_folder(root, shift):
    folder = shifted_folder(root, shift, "south", 1)
    assert list(read_cases(folder)) == list(read_cases(root)) == ["north_001", "north_002", "north_003"]
    assert read_labels(folder) == read_labels(root)
    for case, (image, label) in read_cases(folder).items():
        source, drawn = read_cases(root)[case]
        assert label.read_bytes() == drawn.read_bytes()
        assert np.array_equal(nib.load(image).affine, nib.load(source).affine)
        assert np.array_equal(voxels(image), voxels(source)) == (shift == "none")


def test_shifts_by_hand():
    rng = np.random.default_rng(0)
    half = np.full((2, 2, 2), 0.25, np.float32)
    assert SHIFTS["gamma"](half, rng)[0, 0, 0] == pytest.approx(0.03125)  # .25 ** 2.5
    assert SHIFTS["invert"](half, rng)[0, 0, 0] == 0.75
    columns = np.zeros((1, 1, 7), np.float32) + np.arange(7, dtype=np.float32)
    low = SHIFTS["lowres"](columns, rng)[0, 0]
    assert np.diff(low[:4]) == pytest.approx([low[1] - low[0]] * 3)  # slices 0, 3, 6 are kept: straight between them
    assert np.diff(low[3:]) == pytest.approx([low[4] - low[3]] * 3)
    assert SHIFTS["noise_gamma"](half, rng).std() > 0


def test_rescale_clips_and_survives_a_constant():
    volume = np.arange(1001, dtype=np.float32)
    result = rescale(volume)
    assert result[[0, 5, 500, 995, 1000]] == pytest.approx([0, 0, 0.5, 1, 1])
    assert not rescale(np.full((3, 3, 3), 7.0)).any()


def test_noise_follows_seed_site_and_case(root):
    def first(seed, site):
        return voxels(read_cases(shifted_folder(root, "bias", site, seed))["north_001"][0])

    assert not np.array_equal(first(0, "a"), first(1, "a"))
    assert not np.array_equal(first(0, "a"), first(0, "b"))
    alone = shifted_folder(root, "bias", "a", 0, ["north_001"])
    assert np.array_equal(first(0, "a"), voxels(read_cases(alone)["north_001"][0]))  # whoever else is in the folder


def test_a_shift_ignores_how_the_array_is_stored(root, tmp_path):
    image, label = read_cases(root)["north_001"]
    turned = tmp_path / "turned"
    for place, file in (("imagesTr", image), ("labelsTr", label)):
        (turned / place).mkdir(parents=True)
        nib.as_closest_canonical(nib.load(file)).to_filename(turned / place / file.name)
    (turned / "dataset.json").write_text(
        json.dumps(json.loads((root / "dataset.json").read_text()) | {"training": [
            {"image": f"imagesTr/{image.name}", "label": f"labelsTr/{label.name}"}]})
    )  # fmt: skip
    one, other = (shifted_folder(r, "bias", "a", 0, ["north_001"]) / "imagesTr" / image.name for r in (root, turned))
    assert np.array_equal(nib.as_closest_canonical(nib.load(one)).dataobj, voxels(other))


def test_only_the_cases_asked_for_in_the_order_listed_with_the_partition_files(root):
    (root / "partitions.json").write_text('{"mine": ["north_003"]}')
    folder = shifted_folder(root, "invert", "a", 0, ["north_003", "north_001"])
    assert list(read_cases(folder)) == ["north_001", "north_003"]
    assert len(list((folder / "imagesTr").iterdir())) == len(list((folder / "labelsTr").iterdir())) == 2
    assert json.loads((folder / "partitions.json").read_text()) == {"mine": ["north_003"]}


def test_a_second_call_reuses_the_folder_until_a_source_file_changes(root, tmp_path):
    folder = shifted_folder(root, "gamma", "a", 0)
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*")}
    assert shifted_folder(root, "gamma", "a", 0) == folder
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*")} == before
    assert [path.name for path in (tmp_path / "shifted").iterdir()] == [folder.name]
    (root / "imagesTr" / "north_001.nii.gz").touch()
    assert shifted_folder(root, "gamma", "a", 0) != folder


def test_bad_input_is_refused_in_one_line(root, tmp_path):
    with pytest.raises(ValueError, match="'invert'"):
        shifted_folder(root, "inverted", "a", 0)
    with pytest.raises(ValueError, match="has no case 'north_009'"):
        shifted_folder(root, "gamma", "a", 0, ["north_009"])
    with pytest.raises(ValueError, match="cannot be read"):
        shifted_folder(tmp_path / "nowhere", "gamma", "a", 0)
    image = root / "imagesTr" / "north_002.nii.gz"
    whole = image.read_bytes()
    image.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="north_002.*cannot be read"):
        shifted_folder(root, "gamma", "a", 0)
    image.write_bytes(gzip.compress(b"no image"))
    with pytest.raises(ValueError, match="north_002.*cannot be read"):
        shifted_folder(root, "gamma", "a", 0)
    nib.save(nib.Nifti1Image(np.full((4, 4, 4), np.nan, np.float32), np.eye(4)), image)
    with pytest.raises(ValueError, match="north_002.*finite"):
        shifted_folder(root, "gamma", "a", 0)
    assert list((tmp_path / "shifted").iterdir()) == []


@real
@pytest.mark.parametrize("shift", ["invert", "lowres"])
def test_the_hippocampus_is_shifted_with_its_partition_file(shift):
    cases = [case for case, site in json.loads((HIPPOCAMPUS / "partitions.json").read_text())["natural"].items() if site == 4]
    folder = shifted_folder(HIPPOCAMPUS, shift, "big", 0, cases)
    assert set(read_cases(folder)) == set(cases)
    assert (folder / "partitions.json").read_bytes() == (HIPPOCAMPUS / "partitions.json").read_bytes()
    image = voxels(read_cases(folder)[cases[0]][0])
    assert image.shape == voxels(read_cases(HIPPOCAMPUS)[cases[0]][1]).shape
    assert 0 <= image.min() < image.max() <= 1
