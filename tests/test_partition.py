"""Joining sites into one folder: order, names, origins, and label maps that disagree."""

import json
import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from configs.schema import Phantoms
from simulations.partition import case_name, joined_folder, publish, read_cases, read_labels, read_manifest
from simulations.phantoms import write_phantoms

HIPPOCAMPUS = Path(__file__).parents[1] / "../shared/data/Task04_Hippocampus"
real = pytest.mark.skipif(not (HIPPOCAMPUS / "dataset.json").exists(), reason="no ../shared/data/Task04_Hippocampus")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SITESTREAM_CACHE", str(tmp_path))


def site(name, annotates=None, cases=2):
    return write_phantoms(name, Phantoms(cases=cases, shape=(12, 12, 12)), annotates)


def test_joined_cases_keep_their_order_their_origin_and_their_voxels():
    a, b = site("a"), site("b")
    folder = joined_folder([("b", b, ["b_002", "b_001"]), ("a", a, ["a_002"])])
    assert list(read_cases(folder)) == ["b__b_002", "b__b_001", "a__a_002"]
    assert json.loads((folder / "domains.json").read_text()) == {"origin": {"b__b_002": "b", "b__b_001": "b", "a__a_002": "a"}}
    assert read_labels(folder) == read_labels(a)
    assert read_manifest(folder)["numTraining"] == 3
    for joined, source in zip(read_cases(folder)["a__a_002"], read_cases(a)["a_002"], strict=True):
        assert joined.is_symlink()
        assert Path(os.readlink(joined)).is_absolute()
        assert np.array_equal(nib.load(joined).dataobj, nib.load(source).dataobj)


def test_cases_of_the_same_name_stay_apart():
    root = site("a")
    folder = joined_folder([("x", root, ["a_001"]), ("y", root, ["a_001"])])
    assert list(read_cases(folder)) == ["x__a_001", "y__a_001"]


def test_without_links_the_files_are_copied(monkeypatch):
    def refuse(*_args):
        raise OSError("no links here")

    root = site("a")
    monkeypatch.setattr(os, "symlink", refuse)
    image, label = read_cases(joined_folder([("x", root, ["a_001"])]))["x__a_001"]
    assert not image.is_symlink()
    assert (image.read_bytes(), label.read_bytes()) == tuple(file.read_bytes() for file in read_cases(root)["a_001"])


def test_a_second_call_reuses_the_folder_and_another_order_does_not(tmp_path):
    root = site("a")
    folder = joined_folder([("x", root, ["a_001", "a_002"])])
    before = (folder / "dataset.json").stat().st_mtime_ns
    assert joined_folder([("x", root, ["a_001", "a_002"])]) == folder
    assert (folder / "dataset.json").stat().st_mtime_ns == before
    assert joined_folder([("x", root, ["a_002", "a_001"])]) != folder
    assert not [path for path in (tmp_path / "joined").iterdir() if path.name.startswith(".")]


def test_label_maps_that_disagree_are_refused(tmp_path):
    full, partial = site("a"), site("b", ["liver", "spleen"])
    with pytest.raises(ValueError, match=r"'one' and 'two'.*class 'aorta' is 5 at 'one' and nothing at 'two'"):
        joined_folder([("one", full, ["a_001"]), ("two", partial, ["b_001"])])
    renumbered = tmp_path / "renumbered"
    shutil.copytree(partial, renumbered)
    manifest = read_manifest(renumbered) | {"labels": {"0": "background", "1": "spleen", "2": "liver"}}
    (renumbered / "dataset.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="class 'liver' is 1 at 'two' and 2 at 'three'"):
        joined_folder([("two", partial, ["b_001"]), ("three", renumbered, ["b_001"])])


def test_bad_cases_are_refused():
    root = site("a")
    with pytest.raises(ValueError, match="no site"):
        joined_folder([])
    with pytest.raises(ValueError, match="has no case 'a_01'.*'a_001'"):
        joined_folder([("x", root, ["a_01"])])
    with pytest.raises(ValueError, match="given twice"):
        joined_folder([("x", root, ["a_001", "a_001"])])
    (root / "labelsTr" / "a_002.nii.gz").unlink()
    with pytest.raises(ValueError, match=r"a_002\.nii\.gz: cannot be read"):
        joined_folder([("x", root, ["a_002"])])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "not valid JSON"),
        ("[]", "must hold a JSON object"),
        ('{"training": ["x.nii.gz"], "labels": {"1": "liver"}}', "not an MSD data set"),
        ('{"training": [{"image": "x.nii", "label": "y.nii"}]}', "not an MSD data set .KeyError: 'labels'"),
    ],
)
def test_a_broken_manifest_is_refused(tmp_path, text, complaint):
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(ValueError, match=complaint):
        read_cases(tmp_path)


def test_case_names():
    assert case_name("./imagesTr/hippocampus_001.nii.gz") == "hippocampus_001"
    assert case_name("x.y.nii") == "x.y"


def test_of_two_writers_the_first_wins(tmp_path):
    def slow(folder):
        def fast(other):
            (other / "dataset.json").write_text("fast")

        (folder / "dataset.json").write_text("slow")
        publish("kind", {"a": 1}, fast)

    folder = publish("kind", {"a": 1}, slow)
    assert (folder / "dataset.json").read_text() == "fast"
    assert list((tmp_path / "kind").iterdir()) == [folder]


@real
def test_the_hippocampus_joins_by_its_natural_sites():
    natural = json.loads((HIPPOCAMPUS / "partitions.json").read_text())["natural"]
    parts = [(f"site{k}", HIPPOCAMPUS, [case for case, where in natural.items() if where == k]) for k in (4, 0)]
    folder = joined_folder(parts)
    origin = json.loads((folder / "domains.json").read_text())["origin"]
    assert list(origin) == list(read_cases(folder)) == [f"{name}__{case}" for name, _, cases in parts for case in cases]
    assert read_labels(folder) == {"Anterior": 1, "Posterior": 2}
