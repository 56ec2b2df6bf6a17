"""Make a Medical Segmentation Decathlon folder of a download that is laid out otherwise (studies/embracing_sixteen.yaml).

    python studies/arrange.py TARGET --images 'DIR/case_*/imaging.nii.gz' --labels 'DIR/case_*/segmentation.nii.gz' \
        [--only '0[0-4]..'] [--sides 1,2,3:4,5,6] [--copy]

The one `*` of both patterns stands for the case. Images and labels are linked, or copied. --sides writes new labels, in
which an organ of which there are two, annotated as one, is two: voxels of the values before the colon keep them on the
patient's right and get those behind it on the left (the first list may name what lies inside the organ, too: its tumours).
"""

import argparse
import glob
import json
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label as components

SMALL = 0.2
"""Of an organ's largest part: with no second part of this size it is one part, of one side or grown together."""

Sides = tuple[list[int], list[int]]
"""The values of an organ as they are, and what they become on the left."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the folder; 2 if something does not fit, with one line that says what."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path)
    parser.add_argument("--images", required=True, help="pattern with one *, which stands for the case")
    parser.add_argument("--labels", required=True, help="the same for the labels")
    parser.add_argument("--only", default=".*", help="regular expression for the cases that are wanted")
    parser.add_argument("--sides", action="append", default=[], help="1,2,3:4,5,6")
    parser.add_argument("--copy", action="store_true", help="copy instead of linking")
    args = parser.parse_args(arguments)
    try:
        sides = [parsed(text) for text in args.sides]
        names = arrange(args.target, found(args.images), found(args.labels), args.only, sides, args.copy)
    except (ValueError, OSError) as error:
        print(f"arrange: {error}", file=sys.stderr)
        return 2
    print(f"{args.target}: {len(names)} cases")
    return 0


def parsed(text: str) -> Sides:
    """`1,2:3,4`. Raises ValueError for anything else."""
    if not re.fullmatch(r"\d+(,\d+)*:\d+(,\d+)*", text):
        raise ValueError(f"--sides {text}: write it as 1,2:3,4")
    right, left = ([int(value) for value in part.split(",")] for part in text.split(":"))
    if len(right) != len(left) or set(right) & set(left) or not all(0 < value < 256 for value in right + left):
        raise ValueError(f"--sides {text}: as many values before as behind the colon, each of its own, from 1 to 255")
    return right, left


def found(pattern: str) -> dict[str, Path]:
    """{case: file}. Raises ValueError if the pattern has not one *, or nothing is there."""
    if pattern.count("*") != 1:
        raise ValueError(f"{pattern}: write one *, for the case")
    before, behind = pattern.split("*")
    files = {path[len(before) : len(path) - len(behind)]: Path(path) for path in sorted(glob.glob(pattern))}
    if not files:
        raise ValueError(f"{pattern}: there is no such file")
    return files


def arrange(
    target: Path, images: dict[str, Path], labels: dict[str, Path], only: str, sides: Sequence[Sides], copy: bool
) -> list[str]:
    """Write the folder; returns its cases. Raises ValueError if it exists, or no case has both files."""
    names = sorted(name for name in images.keys() & labels.keys() if re.fullmatch(only, name))
    if not names:
        there = " and ".join(", ".join(sorted(some)[:3]) for some in (images, labels))
        raise ValueError(f"no case has both an image and a label (there are, among others, {there})")
    if target.exists():
        raise ValueError(f"{target} is there already")
    training, values = [], set[int]()
    for folder in ("imagesTr", "labelsTr"):
        (target / folder).mkdir(parents=True)
    for name in names:
        image, label = (
            f"{folder}/case_{name}{ending(path)}" for folder, path in (("imagesTr", images[name]), ("labelsTr", labels[name]))
        )
        place(images[name], target / image, copy)
        if sides:
            values |= split_sides(labels[name], target / label, sides)
        else:
            place(labels[name], target / label, copy)
        training.append({"image": f"./{image}", "label": f"./{label}"})
    listing = {
        "name": target.name,
        "labels": {"0": "background", **{str(v): str(v) for v in sorted(values)}},
        "training": training,
    }
    (target / "dataset.json").write_text(json.dumps(listing, indent=1) + "\n", encoding="utf-8")
    return names


def ending(path: Path) -> str:
    """.nii.gz or .nii"""
    return ".nii.gz" if path.name.endswith(".gz") else path.suffix


def place(source: Path, target: Path, copy: bool) -> None:
    """Link or copy a file."""
    if copy:
        shutil.copyfile(source, target)
    else:
        target.symlink_to(source.resolve())


def split_sides(source: Path, target: Path, sides: Sequence[Sides]) -> set[int]:
    """Write a label in which left and right differ; returns the values that it may now hold."""
    image = nib.nifti1.load(source)
    canonical = nib.funcs.as_closest_canonical(image)  # the first axis goes to the patient's right
    label_XYZ = np.rint(np.asanyarray(canonical.dataobj)).astype(np.uint8)
    for right, left in sides:
        on_left_XYZ = left_half(np.isin(label_XYZ, right))
        for value, other in zip(right, left, strict=True):
            label_XYZ[on_left_XYZ & (label_XYZ == value)] = other
    nib.nifti1.save(nib.nifti1.Nifti1Image(label_XYZ, canonical.affine), target)
    return {int(value) for value in np.unique(label_XYZ) if value}


def left_half(organ_XYZ: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The voxels of a paired organ that belong to the patient's left one; the first axis goes to the right.

    Two large parts are the two organs, and every small part is of the nearer one. A single part that lies across the middle of
    the image is both, grown together, and is cut there; else it is one organ, of the side on which it lies.
    """
    part_XYZ, count = components(organ_XYZ)
    if not count:
        return organ_XYZ
    x_N = np.nonzero(organ_XYZ)[0]
    part_N = part_XYZ[organ_XYZ]
    sizes = np.bincount(part_N)[1:]
    centres = np.bincount(part_N, weights=x_N)[1:] / sizes
    one, *others = np.argsort(-sizes, kind="stable")
    middle = (organ_XYZ.shape[0] - 1) / 2
    if others and sizes[others[0]] >= SMALL * sizes[one]:
        middle = (centres[one] + centres[others[0]]) / 2
    elif SMALL <= np.mean(x_N < middle) <= 1 - SMALL:
        return organ_XYZ & (np.arange(organ_XYZ.shape[0]) < middle)[:, None, None]
    is_left = np.concatenate([[False], centres < middle])
    return np.asarray(is_left[part_XYZ])


if __name__ == "__main__":
    sys.exit(main())
