"""Downloads that are laid out otherwise become MSD folders, and paired organs two."""

import importlib.util
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from clients.data import read_msd

SCRIPT = Path(__file__).parents[1] / "studies" / "arrange.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("arrange", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def along(script, *line):
    """Which of the voxels of a row, from the patient's left to the right, are of the left organ."""
    organ = np.array(line, bool).reshape(-1, 1, 1)
    return script.left_half(organ).ravel().astype(int).tolist()


def test_two_large_parts_are_left_and_right_wherever_they_lie(script):
    assert along(script, 0, 1, 1, 0, 0, 1, 1, 1, 0, 0, 0, 0) == [0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]


def test_a_crumb_is_of_the_nearer_one(script):
    line = [0, 1, 0, *[1] * 6, 0, 0, 0, 0, *[1] * 6, 0, 1]
    assert along(script, *line) == [0, 1, 0, *[1] * 6, *[0] * 12]


def test_a_single_part_across_the_middle_is_cut_there_and_else_of_one_side(script):
    assert along(script, 0, 1, 1, 1, 1, 1, 1, 0) == [0, 1, 1, 1, 0, 0, 0, 0]
    assert along(script, 0, 1, 1, 1, 0, 0, 0, 0) == [0, 1, 1, 1, 0, 0, 0, 0]
    assert along(script, 0, 0, 0, 0, 1, 1, 1, 0) == [0] * 8
    assert along(script, 0, 0, 0) == [0, 0, 0]


def write(path, array, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)


def test_tumours_go_with_their_kidney_however_the_scan_lies(script, tmp_path, capsys):
    """The file's first axis goes to the patient's left: what stands first is on the right."""
    label = np.zeros((8, 2, 2), np.uint8)
    label[0:2], label[2], label[5:8], label[7] = 1, 2, 1, 3
    for case in ("case_00001", "case_00002"):
        write(tmp_path / case / "imaging.nii.gz", label.astype(np.float32), np.diag([-1, 1, 1, 1]))
        write(tmp_path / case / "segmentation.nii.gz", label, np.diag([-1, 1, 1, 1]))
    patterns = ["--images", f"{tmp_path}/case_*/imaging.nii.gz", "--labels", f"{tmp_path}/case_*/segmentation.nii.gz"]
    assert script.main([str(tmp_path / "D5"), *patterns, "--only", ".*1", "--sides", "1,2,3:4,5,6"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'D5'}: 1 cases\n"
    (case,), labels = read_msd(tmp_path / "D5")
    assert case.name == "case_00001" and case.image.is_symlink() and set(labels.values()) == {(1,), (2,), (4,), (6,)}
    written = nib.load(case.label)
    back = np.asarray(nib.as_closest_canonical(written).dataobj)[::-1, 0, 0]
    assert back.tolist() == [1, 1, 2, 0, 0, 4, 4, 6]


def test_files_are_paired_by_what_the_star_stands_for(script, tmp_path):
    for name in ("Case_1_0000.nii.gz", "Case_2_0000.nii.gz"):
        write(tmp_path / "Image" / name, np.zeros((2, 2, 2), np.float32))
    write(tmp_path / "Mask" / "Case_2.nii.gz", np.ones((2, 2, 2), np.uint8))
    patterns = ["--images", f"{tmp_path}/Image/Case_*_0000.nii.gz", "--labels", f"{tmp_path}/Mask/Case_*.nii.gz"]
    assert script.main([str(tmp_path / "D7"), *patterns, "--copy"]) == 0
    (case,), labels = read_msd(tmp_path / "D7")
    assert (case.name, case.label.is_symlink(), labels) == ("case_2", False, {})


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (["--images", "{}/a*", "--labels", "{}/b*", "--sides", "1:2:3"], "--sides 1:2:3: write it as 1,2:3,4"),
        (["--images", "{}/a*", "--labels", "{}/b*", "--sides", "1,2:2,3"], "as many values before as behind the colon"),
        (["--images", "{}/a", "--labels", "{}/b*"], "/a: write one *, for the case"),
        (["--images", "{}/x*", "--labels", "{}/b*"], "/x*: there is no such file"),
        (["--images", "{}/a*", "--labels", "{}/b*"], "no case has both an image and a label (there are, among others, 1"),
    ],
)
def test_what_does_not_fit_is_one_line(script, tmp_path, capsys, given, line):
    (tmp_path / "a1").touch(), (tmp_path / "b2").touch()
    assert script.main([str(tmp_path / "target"), *(word.format(tmp_path) for word in given)]) == 2
    said = capsys.readouterr().err
    assert line in said and said.startswith("arrange: ") and said.count("\n") == 1 and not (tmp_path / "target").exists()
