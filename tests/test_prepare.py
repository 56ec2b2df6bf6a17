"""Pre-processing: what comes out is right, is kept under its content, and a bad file gives one clear line."""

import gzip
import json
import os
import re
import shutil
import time
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

import durable
from clients import prepare as module
from clients import reading
from clients.data import Case, read_msd
from clients.prepare import MAX_POSITIONS, checked, prepare
from configs.schema import Preprocess
from tests import disk

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


ELSEWHERE = {
    "the other way round": (stored(anatomy()[1], "LPS")[1], "6.4"),  # 5 and 4 mm from corner to corner: sqrt(41)
    "larger voxels": (np.diag([2.0, 1, 1, 1]), "5"),
    "half a voxel and more": (nib.affines.from_matvec(np.eye(3), [0, 0, 0.51]), "0.51"),
    "turned": (nib.affines.from_matvec(Rotation.from_euler("z", 90, degrees=True).as_matrix(), [5, 0, 0]), "5"),
}
"""Where a label [6, 5, 4] of 1 mm voxels is said to be, and how far in millimetres its corners then are from the image's."""


@pytest.mark.parametrize("where", ELSEWHERE)
def test_a_label_that_lies_elsewhere_than_its_image_is_refused(one, where):
    (image, label), (affine, far) = anatomy(), ELSEWHERE[where]
    words = rf"case 'case_1': the label lies elsewhere than its image: corners differ by up to {far} mm \("
    with pytest.raises(ValueError, match=words):
        one(image, (label, affine))


def test_half_a_voxel_of_the_image_is_let_pass_along_each_axis(one):
    image, label = anatomy()
    there, here = np.diag([1.0, 2, 4, 1]), np.diag([1.0, 2, 4, 1])
    there[:3, 3] = 0.5, -1, 2
    np.testing.assert_array_equal(one((image, here), (label, there)).label_XYZ, label)


def test_an_oblique_label_may_be_rounded_to_another_axis_than_its_image(one):
    """On either side of 45 degrees the same place has other letters: RAS here, ALS there."""
    image, label = anatomy()
    turned = [np.eye(4), np.eye(4)]
    for affine, angle in zip(turned, (44.99, 45.01), strict=True):
        affine[:3, :3] = Rotation.from_euler("z", angle, degrees=True).as_matrix()
    assert nib.aff2axcodes(turned[0]) != nib.aff2axcodes(turned[1])
    assert one((image, turned[0]), (label, turned[1])).counts == {1: 3, 2: 1}


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

    monkeypatch.setattr(reading, "open_nifti", refuse)


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


def test_a_prepared_case_is_on_disk_before_it_is_there_by_name(cases, tmp_path, monkeypatch):
    log = disk.watch(monkeypatch)
    list(prepare(cases[:1], PLAIN, tmp_path / "cache", workers=1))
    (name,) = folders(tmp_path / "cache")
    disk.assert_durable(tmp_path / "cache" / "cases" / name, log)


PARTS = ("SHA256SUMS", "image.npy", "label.npy", "meta.json", "positions.npz")


def shorten(path):
    os.truncate(path, path.stat().st_size // 2)


def empty(path):
    os.truncate(path, 0)


@pytest.mark.parametrize("damage", [os.unlink, empty, shorten, disk.flip], ids=["deleted", "empty", "halved", "flipped"])
@pytest.mark.parametrize("file", PARTS)
def test_a_damaged_prepared_case_is_made_again_from_nifti(cases, tmp_path, caplog, file, damage):
    cache = tmp_path / "cache"
    whole = next(iter(prepare(cases[:1], PLAIN, cache)))
    (name,) = folders(cache)
    kept = whole.image_XYZ.tobytes(), whole.label_XYZ.tobytes(), whole.positions[1].tolist()
    assert {path.name for path in (cache / "cases" / name).iterdir()} == {*PARTS}
    damage(cache / "cases" / name / file)
    again = checked(cases[0], PLAIN, cache)
    assert (again.image_XYZ.tobytes(), again.label_XYZ.tobytes(), again.positions[1].tolist()) == kept
    assert folders(cache) == [name]
    assert f"case 'case_1': the prepared folder {cache / 'cases' / name} is damaged" in caplog.text
    assert "made again" in caplog.text


def test_a_prepared_case_is_compared_with_its_checksums_once_per_process(cases, tmp_path, monkeypatch):
    cache, looked, check = tmp_path / "cache", [], durable.check

    def look(folder):
        looked.append(folder.name)
        check(folder)

    monkeypatch.setattr(durable, "check", look)
    list(prepare(cases[:1], PLAIN, cache))
    assert looked == []
    for _ in range(2):
        assert checked(cases[0], PLAIN, cache).counts == {1: 3, 2: 1}
    assert looked == folders(cache)


def test_a_case_that_a_site_uses_is_compared_with_its_checksums(site, caplog):
    case = site.cases.train[0].name
    whole = site.volume(case).image_XYZ
    folder, kept = Path(whole.filename).parent, whole.tobytes()
    disk.flip(folder / "image.npy")
    module._check_once.cache_clear()  # as in another process
    site.volume.cache_clear()
    assert site.volume(case).image_XYZ.tobytes() == kept
    assert "is damaged (image.npy does not match its checksum) and is made again" in caplog.text


def test_a_prepared_case_is_not_thrown_away_because_too_many_files_are_open(cases, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    list(prepare(cases[:1], PLAIN, cache))

    def exhausted(*args, **kwargs):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(np, "load", exhausted)
    monkeypatch.setattr("durable.put_away", None)
    with pytest.raises(OSError, match="Too many open files"):
        list(prepare(cases[:1], PLAIN, cache))


@pytest.mark.parametrize("torn", [b"", b"\0" * 32, b"../../../../etc"])
def test_a_torn_word_of_the_index_is_not_believed(cases, tmp_path, torn):
    cache = tmp_path / "cache"
    list(prepare(cases[:1], PLAIN, cache))
    (pointer,) = (cache / "index").iterdir()
    good = pointer.read_bytes()
    pointer.write_bytes(torn)
    assert [volume.case for volume in prepare(cases[:1], PLAIN, cache)] == ["case_1"]
    assert pointer.read_bytes() == good and len(folders(cache)) == 1


def test_drafts_that_have_lain_for_a_day_are_swept(cases, tmp_path):
    cache = tmp_path / "cache"
    now = time.time()
    for name, hours in (("old", 25), ("young", 23)):
        for place in ("cases", "index"):
            (cache / place / f".draft-{name}").mkdir(parents=True)
            os.utime(cache / place / f".draft-{name}", (now - hours * 3600,) * 2)
    list(prepare(cases[:1], PLAIN, cache))
    assert [name for name in folders(cache) if name.startswith(".")] == [".draft-young"]
    assert sorted(path.name for path in (cache / "index").glob(".*")) == [".draft-young"]


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


# Ordinary files of other programs -------------------------------------------------------------------------------------


def test_axes_of_length_1_at_the_end_are_no_axes(one):
    image, label = anatomy()
    volume = one(image[..., None, None], label[..., None])
    np.testing.assert_array_equal(volume.label_XYZ, label)
    np.testing.assert_allclose(volume.image_XYZ, image / 100, atol=1e-3)


def test_labels_that_a_scale_moves_a_little_are_rounded(cases, tmp_path):
    lie(cases[0].label, scl_slope=0.9996, scl_inter=0)  # 2 is read as 1.9992
    assert next(iter(prepare(cases[:1], PLAIN, tmp_path / "cache"))).counts == {1: 3, 2: 1}
    lie(cases[1].label, scl_slope=0.9994, scl_inter=0)  # as 1.9988
    with pytest.raises(ValueError, match="label values must be whole numbers"):
        list(prepare(cases[1:], PLAIN, tmp_path / "cache"))


@pytest.mark.parametrize(("code", "unit_mm"), [(0, 1), (2, 1), (1 + 8, 1000), (3, 0.001)])  # 8: seconds
def test_the_unit_of_a_grid_is_heeded(cases, tmp_path, code, unit_mm):
    """An image of 1 x 2 x 3 mm, said in metres, say, fits a label said in millimetres."""
    for path, mm, told in ((cases[0].image, unit_mm, code), (cases[0].label, 1, 2)):
        sides = {f"srow_{axis}": [0, 0, 0, 0] for axis in "xyz"}
        for i, axis in enumerate("xyz"):
            sides[f"srow_{axis}"][i] = (i + 1) / mm
        lie(path, xyzt_units=told, **sides)
    volume = next(iter(prepare(cases[:1], PLAIN, tmp_path / "cache")))
    np.testing.assert_allclose(volume.spacing, (1, 2, 3), rtol=1e-6)


@pytest.mark.parametrize("half", ["scan.hdr", "scan.img", "scan.img.gz"])
def test_a_file_of_a_pair_is_to_be_converted(cases, tmp_path, half):
    nib.save(nib.Nifti1Pair(anatomy()[0], np.eye(4)), tmp_path / half.replace(".hdr", ".img"))
    paired = Case("case_1", tmp_path / half, cases[0].label)
    with pytest.raises(ValueError, match=r"a pair of .hdr and .img; convert it to .nii.gz"):
        list(prepare([paired], PLAIN, tmp_path / "cache"))


# Headers that lie -----------------------------------------------------------------------------------------------------

LIES = {
    "a million million voxels": (
        {"dim": [3, 10000, 10000, 10000, 1, 1, 1, 1]},
        "10000 x 10000 x 10000 voxels; 1 to 1,073,741,824",
    ),
    "a negative side": ({"dim": [3, 6, -5, 4, 1, 1, 1, 1]}, "6 x -5 x 4 voxels; 1 to"),
    "no side": ({"dim": [3, 6, 0, 4, 1, 1, 1, 1]}, "6 x 0 x 4 voxels; 1 to"),
    "more than the file can hold": ({"dim": [3, 600, 500, 400, 1, 1, 1, 1]}, r"promises [\d,]+ bytes, and a file of"),
    "more than deflate can hold": ({"dim": [3, 6, 5, 30000, 1, 1, 1, 1]}, r"promises [\d,]+ bytes, and a file of"),
    "a start past the end": ({"vox_offset": 1e9}, "promises 1,000,000,[12][24]0 bytes"),
    "a start inside the header": ({"vox_offset": 16}, "cannot be read"),
    "a start that is no number": ({"vox_offset": np.nan}, "cannot be read"),
    "an endless start": ({"vox_offset": np.inf}, "cannot be read"),
    "no place": ({"srow_x": [np.nan, 0, 0, 0]}, "no finite position in space"),
    "a flat grid": ({"srow_x": [0, 1, 0, 0]}, "voxels of 0 x 1.41 x 1 mm; 0.001 to 1000"),
    "an oblique flat grid": ({"srow_x": [1, 1, 0, 0], "srow_y": [1, 1, 0, 0]}, "one plane"),
    "voxels of a kilometre": ({"srow_x": [1e6, 0, 0, 0]}, r"voxels of 1e\+06 x 1 x 1 mm; 0.001 to 1000"),
    "colours": ({"datatype": 128, "bitpix": 24}, "its voxels are RGB, not plain numbers"),
    "complex numbers": ({"datatype": 32, "bitpix": 64}, "its voxels are complex64, not plain numbers"),
    "an unknown type": ({"datatype": 7}, "cannot be read"),
    "a slope without end": ({"scl_slope": 1.0, "scl_inter": np.inf}, "cannot be read"),
    "another magic": ({"magic": b"hi"}, "cannot be read"),
}


def lie(path, **fields):
    """Write other fields into a NIfTI-1 header; what follows stays."""
    content = gzip.decompress(path.read_bytes())
    header = np.frombuffer(content[:348], nib.nifti1.header_dtype).copy()
    for name, value in fields.items():
        header[name] = value
    path.write_bytes(gzip.compress(header.tobytes() + content[348:]))


@pytest.mark.parametrize("part", ["image", "label"])
@pytest.mark.parametrize("name", LIES)
def test_a_header_that_lies_is_one_line(cases, tmp_path, name, part):
    path = getattr(cases[0], part)
    fields, words = LIES[name]
    lie(path, **fields)
    with pytest.raises(ValueError, match=rf"^case 'case_1': {path} cannot be read \(.+\)$") as caught:
        list(prepare(cases, PLAIN, tmp_path / "cache"))
    assert re.search(words, str(caught.value))


def uncompressed(case, **fields):
    """The case's image as .nii, as long as it is said to be by nothing but its header."""
    lie(case.image, **fields)
    path = case.image.with_suffix("")
    path.write_bytes(gzip.decompress(case.image.read_bytes()))
    return Case(case.name, path, case.label)


def test_an_uncompressed_file_is_as_long_as_its_header_says(cases, tmp_path):
    whole = uncompressed(cases[0])
    assert next(iter(prepare([whole], PLAIN, tmp_path / "cache"))).counts == {1: 3, 2: 1}
    whole.image.write_bytes(whole.image.read_bytes()[:-1])
    with pytest.raises(ValueError, match="promises 592 bytes, and a file of 591 bytes holds 591 at most"):
        list(prepare([whole], PLAIN, tmp_path / "cache"))


def test_a_lie_costs_neither_memory_nor_time(cases, tmp_path):
    """The largest volume that may be, in a sparse file, is refused when its label is another's; 10^13 voxels at once."""
    list(prepare(cases[1:], PLAIN, tmp_path / "cache"))  # whatever is imported at first use is
    huge = uncompressed(cases[0], dim=[3, 1024, 1024, 1024, 1, 1, 1, 1])
    os.truncate(huge.image, 352 + 2 * 2**30)
    lie(cases[1].image, dim=[3, 20000, 20000, 25000, 1, 1, 1, 1])
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"the label is \(6, 5, 4\) voxels, its image \(1024, 1024, 1024\)"):
            reading.read_case(huge, PLAIN)
        with pytest.raises(ValueError, match="20000 x 20000 x 25000 voxels"):
            reading.read_case(cases[1], PLAIN)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_what_follows_the_voxels_is_not_unpacked_for_ever(cases, tmp_path):
    """A gigabyte of zeros behind a small volume, in about a megabyte."""
    content = gzip.decompress(cases[0].image.read_bytes())
    with gzip.open(cases[0].image, "wb", compresslevel=1) as file:
        file.write(content)
        for _ in range(64):
            file.write(bytes(2**20))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="it goes on after the voxels that its header promises"):
            reading.read_case(cases[0], PLAIN)
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()


def test_a_nifti_2_file_is_read_and_extensions_are_not(cases, tmp_path):
    image, _ = anatomy()
    file = nib.Nifti2Image(image, np.eye(4))
    file.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"x" * 100))
    nib.save(file, cases[0].image)
    lying = gzip.decompress(cases[0].image.read_bytes()).replace(
        np.int32(112).tobytes() + np.int32(6).tobytes(), np.int32(2**31 - 8).tobytes() + np.int32(6).tobytes()
    )
    cases[0].image.write_bytes(gzip.compress(lying))
    assert np.int32(2**31 - 8).tobytes() in lying
    volume = next(iter(prepare(cases, PLAIN, tmp_path / "cache")))
    np.testing.assert_allclose(volume.image_XYZ, image / 100, atol=1e-3)


def test_a_spacing_that_blows_a_volume_up_is_refused(one):
    """6000 x 5000 x 40 voxels of six by five by four millimetres."""
    fine = PLAIN.model_copy(update={"spacing": (0.001, 0.001, 0.1)})
    words = r"at preprocess.spacing \[0.001, 0.001, 0.1\] it would have 1,200,000,000 voxels; 1,073,741,824 can be"
    with pytest.raises(ValueError, match=f"case 'case_1': {words}"):
        one(*anatomy(), fine)


@pytest.mark.parametrize("spacing", [(0.0, 1.0, 1.0), (1.0, -1.0, 1.0), (1.0, 1.0, float("nan"))])
def test_a_spacing_that_is_none_is_refused(one, spacing):
    with pytest.raises(ValueError, match="preprocess.spacing: .* must be millimetres above 0"):
        one(*anatomy(), PLAIN.model_copy(update={"spacing": spacing}))


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_memory_that_runs_out_while_reading_is_one_line(cases, tmp_path, monkeypatch, error):
    def full(*args, **kwargs):
        raise error

    for place, name in ((np, "asarray"), (reading, "scaled")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, full)
            with pytest.raises(ValueError, match="case 'case_1': .*memory") as caught:
                reading.read_case(cases[0], PLAIN)
            assert "\n" not in str(caught.value)


def test_a_voxel_too_bright_for_the_rest_is_refused(one):
    image, label = anatomy()[0].astype(np.float32), anatomy()[1]
    image[0, 0, 0] = -2e12
    with pytest.raises(ValueError, match=r"case 'case_1': the image holds voxels beyond 1e\+12"):
        one(image, label)


def test_what_float16_cannot_say_is_refused(cases, monkeypatch):
    monkeypatch.setattr(reading, "_intensity", lambda recipe: lambda image: image * 1e5)
    with pytest.raises(ValueError, match="case 'case_1': a voxel is too bright to be scaled with the rest"):
        reading.read_case(cases[0], PLAIN)


def test_a_pipe_is_not_waited_for(cases, tmp_path):
    cases[0].image.unlink()
    os.mkfifo(cases[0].image)
    with pytest.raises(ValueError, match=r"case 'case_1': .* cannot be read \(not a file\)"):
        list(prepare(cases, PLAIN, tmp_path / "cache"))


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
