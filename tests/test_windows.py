"""Windows of several volumes in full batches, against MONAI's function, which takes one volume at a time."""

from itertools import product

import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference
from torch import nn

from clients import evaluate
from clients.windows import blended
from tests.site_orders import initial, order

CPU = torch.device("cpu")
SHAPES = ((20, 18, 13), (16, 16, 16), (9, 20, 5), (7, 5, 3), (33, 8, 17))
PATCH = (16, 16, 16)
BATCHES = (1, 3, 100)


@pytest.fixture(scope="module")
def network():
    """Two rows; what it says of a voxel depends on its neighbours, and so on where windows lie and what is outside."""
    torch.manual_seed(0)
    return nn.Conv3d(1, 2, 5, padding=2).requires_grad_(False)


def volumes():
    rng = np.random.default_rng(0)
    return [(rng.random(shape).astype(np.float16), -3.0) for shape in SHAPES]


@pytest.mark.parametrize(("overlap", "batch"), [*product((0.0, 0.25, 0.5), BATCHES)])
def test_the_logits_are_monais(network, overlap, batch):
    found = list(blended(volumes(), network, PATCH, overlap, batch, CPU))
    for (image_XYZ, floor), logits_TXYZ in zip(volumes(), found, strict=True):
        whole = torch.from_numpy(image_XYZ.astype(np.float32))[None, None]
        wanted = sliding_window_inference(whole, PATCH, batch, network, overlap=overlap, mode="gaussian", cval=floor)[0]
        torch.testing.assert_close(logits_TXYZ, wanted, rtol=0, atol=0 if batch == 1 else 1e-5)


def seen(overlap, batch):
    """How many windows each pass had, and how many passes there had been when each volume was given back."""
    passes, done = [], []

    def count(windows_BCXYZ):
        passes.append(len(windows_BCXYZ))
        return windows_BCXYZ.clone()

    for _ in blended(volumes(), count, PATCH, overlap, batch, CPU):
        done.append(len(passes))
    return passes, done


def test_batches_are_full_whichever_volume_a_window_is_of():
    """Without overlap a volume of 20 x 18 x 13 has 2 x 2 windows, and so on: 4, 1, 2, 1 and 3 x 2 of 33 x 8 x 17."""
    assert seen(0.0, 4) == ([4, 4, 4, 2], [1, 2, 2, 2, 4])
    assert seen(0.0, 1) == ([1] * 14, [4, 5, 7, 8, 14])
    assert seen(0.0, 100) == ([14], [1] * 5)


def test_a_volume_is_read_when_its_first_window_has_a_place():
    """With one window at a time there is never a second volume."""
    read, passes = [], []

    def images():
        for image in volumes():
            read.append(len(passes))
            yield image

    given = [len(read) for _ in blended(images(), lambda w: (passes.append(1), w.clone())[1], PATCH, 0.0, 1, CPU)]
    assert given == [1, 2, 3, 4, 5] and read == [0, 4, 5, 7, 8]


def test_a_site_fills_its_batches_over_its_cases_and_says_the_same(make_site, monkeypatch):
    """Two test cases; each window passes the network once, however many go together."""
    sizes, forward = [], evaluate.Segmenter.forward
    monkeypatch.setattr(evaluate.Segmenter, "forward", lambda self, x: (sizes.append(len(x)), forward(self, x))[1])
    told, passes = [], []
    for batch in (1, 5):
        site = make_site(evaluate={"overlap": 0.25, "batch": batch})
        sizes.clear()
        told.append(site.answer(order("evaluate"), initial(site)).rows)
        passes.append(list(sizes))
    assert told[0] == told[1] and len({row["case"] for row in told[0]}) == 2
    whole = len(passes[0])
    assert passes == [[1] * whole, [5] * (whole // 5) + [whole % 5] * (whole % 5 > 0)]
    assert whole // 2 % 5, "or no batch would hold windows of both cases"


def test_surfaces_are_monais():
    """Both metrics from one search for neighbours are bit for bit what MONAI finds in one each."""
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    rng = np.random.default_rng(1)
    for spacing in ((1.0, 1.0, 1.0), (1.5, 0.7, 2.0)):
        guess, truth = (rng.random((12, 10, 9)) > share for share in (0.9, 0.8))
        (row,) = evaluate.scores(guess[None], truth[None], ["organ"], spacing)
        pair = [torch.from_numpy(mask)[None, None] for mask in (guess, truth)]
        hd95 = compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=list(spacing))
        nsd = compute_surface_dice(*pair, [1.0], include_background=True, spacing=list(spacing))
        assert (row["hd95"], row["nsd"]) == (float(hd95), float(nsd)) and 0 < row["nsd"] < 1
