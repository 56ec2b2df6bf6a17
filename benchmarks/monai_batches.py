"""Training batches as MONAI's own data sets make them: what data_path.py compares with."""

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np

from clients.augment import MAX_ANGLE, MAX_SCALE, MAX_SHEAR
from clients.data import Case
from configs.schema import Run


def fixed_transforms(run: Run, tuned: bool) -> list[Any]:
    """MONAI's transforms without chance, which its data sets cache: the same as clients/reading.py."""
    from monai import transforms as mt

    both, recipe = ["image", "label"], run.preprocess
    steps: list[Any] = [mt.LoadImaged(both, ensure_channel_first=True), mt.Orientationd(both, axcodes="RAS", labels=None)]
    if recipe.spacing is not None:
        steps.append(mt.Spacingd(both, pixdim=recipe.spacing, mode=("bilinear", "nearest")))
    if recipe.crop:
        steps.append(mt.CropForegroundd(both, source_key="image", select_fn=lambda image: image > image.min()))
    steps += [mt.NormalizeIntensityd("image"), mt.SpatialPadd(both, run.train.patch, mode="minimum")]
    return [*steps, mt.FgBgToIndicesd("label"), mt.EnsureTyped(both, track_meta=False)] if tuned else steps


def random_transforms(run: Run, tuned: bool) -> list[Any]:
    """MONAI's own of what clients/patches.py and clients/augment.py do."""
    from monai import transforms as mt

    both, train = ["image", "label"], run.train
    far, seen = train.foreground, train.augment
    cached = {"fg_indices_key": "label_fg_indices", "bg_indices_key": "label_bg_indices"} if tuned else {}
    steps = [mt.RandCropByPosNegLabeld(both, "label", train.patch, pos=far, neg=1 - far, num_samples=1, **cached)]
    steps += [mt.RandFlipd(both, prob, axis) for axis, prob in enumerate(seen.flip) if prob]
    if seen.affine:
        turn = {"rotate_range": [MAX_ANGLE] * 3, "shear_range": [MAX_SHEAR] * 6, "scale_range": [MAX_SCALE] * 3}
        ways: dict[str, Any] = {"mode": ("bilinear", "nearest"), "padding_mode": ("border", "zeros")}
        steps.append(mt.RandAffined(both, prob=seen.affine, **turn, **ways))
    if seen.intensity:
        steps += [
            mt.RandAdjustContrastd("image", prob=seen.intensity, gamma=(np.exp(-0.4), np.exp(0.4))),
            mt.RandScaleIntensityd("image", factors=0.15, prob=seen.intensity),
            mt.RandStdShiftIntensityd("image", factors=0.15, prob=seen.intensity),
            mt.RandGaussianNoised("image", prob=seen.intensity, std=0.1),
        ]
    return steps


def batches(run: Run, cases: Sequence[Case], kind: str, tuned: bool, folder: Path) -> Callable[[int], None]:
    """Batches of one of MONAI's data sets, its cache filled; an epoch after the other."""
    from monai.data import CacheDataset, DataLoader, PersistentDataset
    from monai.transforms import Compose, SelectItemsd

    files = [{"image": str(case.image), "label": str(case.label)} for case in cases]
    whole = Compose([*fixed_transforms(run, tuned), *random_transforms(run, tuned), SelectItemsd(["image", "label"])])
    if kind == "PersistentDataset":
        dataset = PersistentDataset(files, whole, cache_dir=folder / f"tuned-{tuned}")
    else:
        dataset = CacheDataset(files, whole, progress=False, num_workers=1)
    whole.set_random_state(0)
    for i in range(len(files)):
        dataset[i]
    loader = DataLoader(dataset, batch_size=run.train.batch, shuffle=True, drop_last=True, num_workers=0)

    def forever() -> Iterator[Any]:
        while True:
            yield from loader

    stream = forever()

    def make(count: int) -> None:
        for _ in range(count):
            next(stream)

    return make
