"""Pre-processing: what comes out is right, is kept under its content, and a bad file gives one clear line."""

import gzip
import json
import os
import shutil

import nibabel as nib
import numpy as np
import pytest

from clients import prepare as module
from clients.data import Case, read_msd
from clients.prepare import MAX_POSITIONS, prepare
from configs.schema import Preprocess

PLAIN = Preprocess(intensity="ct", window=(0, 100), crop=False)
"""Leaves 0..100 in proportion, and every voxel where it was."""


def anatomy():
    """A volume [6, 5, 4] that no flip or turn leaves unchanged, in 0..100, and labels 1 and 2."""
    image = np.random.default_rng(0).integers(1, 100, (6, 5, 4)).astype(np.int16)
    label = np.zeros(image.shape, np.uint8)
    label[1:4, 2, 1], label[4, 4, 3] = 1, 2
    return image, label


def stored(array, axes, spacing=(1.0, 1.0, 1.0)):
    """The array, RAS, as a scanner that stores `axes` would write it: (array, affine)."""
    affine = np.diag([*spacing, 1.0])
    turn = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(axes))
    file = nib.Nifti1Image(array, affine).as_reoriented(turn)
    return np.asarray(file.dataobj), file.affine


@pytest.fixture
def one(msd_folder, tmp_path):
    """Prepares a single case; (image, label) may each be (array, affine)."""

    def run(image, label, recipe=PLAIN, cache=tmp_path / "cache"):
        cases, _ = read_msd(msd_folder({"case_1": (image, label)}))
        return next(iter(prepare(cases, recipe, cache)))

    return run


def test_arrays_types_positions_and_counts(one):
    image, label = anatomy()
    volume = one(image, label)
    assert volume.case == "case_1"
    assert (volume.image_XYZ.dtype, volume.label_XYZ.dtype) == (np.float16, np.uint8)
    np.testing.assert_allclose(volume.image_XYZ, image / 100, atol=1e-3)
    np.testing.assert_array_equal(volume.label_XYZ, label)
    assert volume.counts == {1: 3, 2: 1}
    assert volume.positions[1].tolist() == [[1, 2, 1], [2, 2, 1], [3, 2, 1]]
    assert volume.positions[2].tolist() == [[4, 4, 3]]
    assert (volume.voxels([1]), volume.voxels([1, 2]), volume.voxels([7])) == (3, 4, 0)
    assert volume.spacing == (1.0, 1.0, 1.0)
    assert volume.floor == float(volume.image_XYZ.min())
    assert isinstance(volume.image_XYZ, np.memmap)


@pytest.mark.parametrize("axes", ["LPS", "LAS", "SPL", "ARI"])
def test_however_it_is_stored_the_same_anatomy_gives_the_same_arrays(msd_folder, tmp_path, axes):
    image, label = anatomy()
    spacing = (1.0, 2.0, 3.0)
    pairs = {name: (stored(image, name, spacing), stored(label, name, spacing)) for name in ("RAS", axes)}
    ours, theirs = prepare(read_msd(msd_folder(pairs))[0], PLAIN, tmp_path / "cache")
    np.testing.assert_array_equal(ours.image_XYZ, theirs.image_XYZ)
    np.testing.assert_array_equal(ours.label_XYZ, theirs.label_XYZ)
    np.testing.assert_array_equal(ours.label_XYZ, label)
    assert ours.spacing == theirs.spacing == spacing


def test_a_label_stored_another_way_round_than_its_image_is_refused(one):
    image, label = anatomy()
    with pytest.raises(ValueError, match="case 'case_1': the label is stored as LPS, its image as RAS"):
        one(stored(image, "RAS"), stored(label, "LPS"))


def test_spacing_halves_the_voxels_and_labels_stay_whole(one):
    ramp = np.repeat(np.arange(0, 80, 10, dtype=np.int16), 2)[:, None, None] * np.ones((1, 4, 4), np.int16)
    label = (ramp >= 40).astype(np.uint8) * 3
    volume = one(ramp, label, PLAIN.model_copy(update={"spacing": (2.0, 1.0, 1.0)}))
    assert volume.image_XYZ.shape == volume.label_XYZ.shape == (8, 4, 4)
    np.testing.assert_allclose(volume.spacing, (2, 1, 1))
    assert set(np.unique(volume.label_XYZ)) == {0, 3}
    assert volume.counts[3] == 4 * 16
    assert (np.diff(volume.image_XYZ[:, 0, 0].astype(float)) > 0).all()


def test_zscore_has_mean_zero_and_deviation_one(one):
    volume = one(*anatomy(), Preprocess(intensity="zscore", crop=False))
    assert abs(float(volume.image_XYZ.astype(float).mean())) < 1e-3
    assert abs(float(volume.image_XYZ.astype(float).std()) - 1) < 1e-3


def test_percentiles_become_zero_and_one(one):
    image = np.arange(1000, dtype=np.int16).reshape(10, 10, 10)
    volume = one(image, np.zeros_like(image, np.uint8), Preprocess(intensity="percentile", crop=False))
    found = volume.image_XYZ.astype(float).ravel()
    assert (found.min(), found.max()) == (0, 1)
    assert abs(found[500] - (500 - 9.99) / (989.01 - 9.99)) < 1e-3


def test_ct_is_clipped_to_its_window(one):
    image = np.array([-1024, -175, 37, 250, 3000], np.int16).reshape(5, 1, 1) * np.ones((1, 4, 4), np.int16)
    volume = one(image, np.zeros(image.shape, np.uint8), Preprocess(intensity="ct", crop=False))
    np.testing.assert_allclose(volume.image_XYZ[:, 0, 0], [0, 0, 212 / 425, 1, 1], atol=1e-3)


def test_a_constant_image_is_no_trouble(one):
    volume = one(np.full((4, 4, 4), 7, np.int16), np.zeros((4, 4, 4), np.uint8), Preprocess())
    assert volume.image_XYZ.shape == (4, 4, 4)
    assert not volume.image_XYZ.any() and volume.counts == {} and volume.positions == {}


def test_the_dark_border_is_cut_from_image_and_label_alike(one):
    image, label = np.zeros((10, 9, 8), np.int16), np.zeros((10, 9, 8), np.uint8)
    image[2:7, 3:8, 1:5], label[4, 4, 2] = 50, 1
    volume = one(image, label, PLAIN.model_copy(update={"crop": True}))
    assert volume.image_XYZ.shape == (5, 5, 4)
    assert volume.positions[1].tolist() == [[2, 1, 1]]


def test_many_voxels_are_remembered_by_an_even_sample(one):
    label = np.ones((20, 20, 20), np.uint8)
    volume = one(np.arange(8000, dtype=np.int16).reshape(label.shape) % 90, label)
    assert volume.counts == {1: 8000}
    assert len(volume.positions[1]) == MAX_POSITIONS == len(np.unique(volume.positions[1], axis=0))
    assert (abs(volume.positions[1].mean(0) - 9.5) < 0.3).all()


def test_float_labels_are_labels(one):
    image, label = anatomy()
    assert one(image.astype(np.float32), label.astype(np.float32)).counts == {1: 3, 2: 1}


# The cache ------------------------------------------------------------------------------------------------------------


def no_more_nifti(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("NIfTI was opened")

    monkeypatch.setattr(nib, "load", refuse)


@pytest.fixture
def cases(msd_folder):
    image, label = anatomy()
    return read_msd(msd_folder({"case_1": (image, label), "case_2": (image + 1, label)}))[0]


def folders(cache):
    return sorted(path.name for path in (cache / "cases").iterdir())


def test_a_second_run_opens_no_nifti(cases, tmp_path, monkeypatch):
    first = list(prepare(cases, PLAIN, tmp_path / "cache"))
    no_more_nifti(monkeypatch)
    monkeypatch.setattr(module, "_file_hash", None)
    for before, after in zip(first, prepare(cases, PLAIN, tmp_path / "cache"), strict=True):
        assert before.image_XYZ.tobytes() == after.image_XYZ.tobytes()
        assert before.label_XYZ.tobytes() == after.label_XYZ.tobytes()
        assert (before.case, before.counts, before.spacing, before.floor) == (
            after.case,
            after.counts,
            after.spacing,
            after.floor,
        )
    with pytest.raises((AssertionError, TypeError)):
        list(prepare(cases, PLAIN.model_copy(update={"crop": True}), tmp_path / "cache"))


def test_the_cache_goes_by_content_not_by_path_or_time(cases, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    list(prepare(cases, PLAIN, cache))
    known = folders(cache)
    os.utime(cases[0].image, ns=(1, 1))
    moved = Case("other", shutil.copy(cases[1].image, tmp_path / "other.nii.gz"), cases[1].label)
    no_more_nifti(monkeypatch)
    assert [volume.case for volume in prepare([cases[0], moved], PLAIN, cache)] == ["case_1", "other"]
    assert folders(cache) == known and len(known) == 2


def test_a_changed_file_is_prepared_anew(cases, tmp_path):
    before = next(iter(prepare(cases, PLAIN, tmp_path / "cache")))
    image, _ = anatomy()
    nib.save(nib.Nifti1Image(image // 2, np.eye(4)), cases[0].image)
    after = next(iter(prepare(cases, PLAIN, tmp_path / "cache")))
    assert before.image_XYZ.tobytes() != after.image_XYZ.tobytes()


@pytest.mark.parametrize("fatal", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_stops_half_way_leaves_nothing(cases, tmp_path, monkeypatch, fatal):
    def stop(*args, **kwargs):
        raise fatal

    monkeypatch.setattr(np, "savez", stop)
    with pytest.raises(type(fatal)):
        list(prepare(cases[:1], PLAIN, tmp_path / "cache", workers=1))
    assert folders(tmp_path / "cache") == []
    assert not (tmp_path / "cache" / "index").exists()


def test_the_draft_of_a_killed_process_is_not_taken_for_a_case(cases, tmp_path):
    cache = tmp_path / "cache"
    whole = next(iter(prepare(cases[:1], PLAIN, cache)))
    (name,) = folders(cache)
    shutil.move(cache / "cases" / name, cache / "cases" / ".draft-killed")
    (cache / "cases" / ".draft-killed" / "meta.json").unlink()
    again = next(iter(prepare(cases[:1], PLAIN, cache)))
    assert folders(cache) == [".draft-killed", name]
    assert again.image_XYZ.tobytes() == whole.image_XYZ.tobytes()


def test_a_folder_that_another_process_wrote_meanwhile_is_used(cases, tmp_path, monkeypatch):
    cache, replace = tmp_path / "cache", os.replace

    def lose_the_race(source, target):
        if os.path.isdir(source):
            shutil.copytree(source, target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", lose_the_race)
    assert next(iter(prepare(cases[:1], PLAIN, cache))).counts == {1: 3, 2: 1}
    assert len(folders(cache)) == 1


# Bad files ------------------------------------------------------------------------------------------------------------


def broken(name):
    """(image, label) with one thing wrong, and what is to be said."""
    image, label = anatomy()
    floats = image.astype(np.float32)
    match name:
        case "shape":
            return image, label[1:], r"the label is \(5, 5, 4\) voxels, its image \(6, 5, 4\)"
        case "nan":
            floats[0, 0, 0] = np.nan
            return floats, label, "the image holds NaN or infinite voxels"
        case "infinite":
            floats[0, 0, 0] = np.inf
            return floats, label, "the image holds NaN or infinite voxels"
        case "fraction":
            return image, label + np.float32(0.5), "label values must be whole numbers"
        case "negative":
            return image, -label.astype(np.int16), "label values must be whole numbers"
        case "nan label":
            return image, np.where(label > 0, np.nan, 0).astype(np.float32), "label values must be whole numbers"
        case "4-D":
            return np.stack([image, image], -1), label, "has 4 axes, not 3"
    raise AssertionError(name)


@pytest.mark.parametrize("name", ["shape", "nan", "infinite", "fraction", "negative", "nan label", "4-D"])
def test_a_volume_that_does_not_fit_is_refused_by_name(one, name):
    image, label, words = broken(name)
    with pytest.raises(ValueError, match=f"case 'case_1': .*{words}"):
        one(image, label)


def spoil(path, how):
    """Damage a NIfTI file on disk."""
    content = path.read_bytes()
    match how:
        case "truncated":
            path.write_bytes(content[: len(content) // 2])
        case "truncated inside":
            path.write_bytes(gzip.compress(gzip.decompress(content)[:-40]))
        case "corrupt":
            middle = len(content) // 2
            path.write_bytes(
                content[:middle] + bytes(255 - byte for byte in content[middle : middle + 20]) + content[middle + 20 :]
            )
        case "text":
            path.write_text("no image")
        case "empty":
            path.write_bytes(b"")
        case "missing":
            path.unlink()
        case "folder":
            path.unlink()
            path.mkdir()


@pytest.mark.parametrize("part", ["image", "label"])
@pytest.mark.parametrize("how", ["truncated", "truncated inside", "corrupt", "text", "empty", "missing", "folder"])
def test_a_damaged_file_is_named_in_one_line(cases, tmp_path, how, part):
    path = getattr(cases[0], part)
    spoil(path, how)
    with pytest.raises(ValueError, match=rf"case 'case_1': {path} cannot be read \(.+\)") as caught:
        list(prepare(cases, PLAIN, tmp_path / "cache"))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("cache/cases/.draft-*"))


def test_the_first_bad_case_in_order_is_the_one_that_is_named(msd_folder, tmp_path):
    image, label = anatomy()
    cases, _ = read_msd(msd_folder({"good": (image, label), "bad": (image, label[1:]), "worse": (image, label[2:])}))
    volumes = prepare(cases, PLAIN, tmp_path / "cache")
    assert next(volumes).case == "good"
    with pytest.raises(ValueError, match="'bad'"):
        next(volumes)


# The real data --------------------------------------------------------------------------------------------------------


def test_float_labels_of_the_real_data(real_root, tmp_path):
    chosen = [case for case in read_msd(real_root)[0] if case.name in ("hippocampus_003", "hippocampus_243")]
    assert len(chosen) == 2
    for case, volume in zip(chosen, prepare(chosen, Preprocess(crop=False), tmp_path), strict=True):
        label = np.asarray(nib.load(case.label).dataobj)
        assert label.dtype == np.float32
        np.testing.assert_array_equal(volume.label_XYZ, label)  # stored as RAS, 1 mm
        assert volume.counts == {value: int((label == value).sum()) for value in (1, 2)}
        assert json.dumps(volume.spacing) == "[1.0, 1.0, 1.0]"
