"""Sketches: small enough to check by hand, the same whatever is in the list, and the encoder is left as it was."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import default_rng

from clients import model
from clients.data import read_msd
from clients.prepare import Volume, prepare
from clients.sketch import Sketcher, blur, central_crop, centre, elsewhere, projection, quantise, unit
from configs.schema import Preprocess

PATCH = (16, 16, 16)
SMALL = {
    "UNet": {"channels": [4, 8], "strides": [2], "num_res_units": 0},
    "DynUNet": {"filters": [4, 8, 8], "strides": [1, 2, 2], "kernel_size": [3, 3, 3]},
    "SegResNet": {"init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]},
    "SwinUNETR": {"feature_size": 12, "depths": [1, 1, 1, 1], "num_heads": [3, 3, 3, 3]},
}


def volume(image_XYZ, floor=-1.0):
    return Volume("c", image_XYZ.astype(np.float16), np.zeros(image_XYZ.shape, np.uint8), {}, {}, (1.0, 1.0, 1.0), floor)


def sketcher(network="UNet", args=None, size=6, seed=3, patch=PATCH):
    return Sketcher(model.build(network, args or SMALL[network], ["a"], 0), patch, seed, size)


@pytest.fixture(scope="module")
def volumes(phantom_root, tmp_path_factory):
    """Three prepared phantoms."""
    cases = read_msd(phantom_root)[0][:3]
    return list(prepare(cases, Preprocess(), tmp_path_factory.mktemp("prepared")))


# Numbers -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "size", "rows"), [(16, 6, 6), (128, 64, 64), (4, 64, 4)])
def test_projection_is_orthonormal_and_the_runs_own(width, size, rows):
    found = projection(width, size, 7)
    assert found.shape == (rows, width) and found.dtype == np.float32
    np.testing.assert_allclose(found @ found.T, np.eye(rows), atol=1e-6)
    assert found.tobytes() == projection(width, size, 7).tobytes()
    assert abs(found - projection(width, size, 8)).max() > 0.1


def test_centre_by_hand():
    points = np.array([[1, 2], [3, 2], [2, 6]], np.float32)
    assert centre(points, np.array([1, 0])).tolist() == [[0, 1], *unit(np.array([[2, 2], [1, 6]])).tolist()]
    np.testing.assert_allclose(centre(points[:2], None), [[-1, 0], [1, 0]])  # their own mean is (2, 2)


def test_a_vector_of_zeros_has_the_first_axis():
    assert unit(np.zeros((2, 3))).tolist() == [[1, 0, 0], [1, 0, 0]]
    assert centre(np.ones((1, 2), np.float32), None).tolist() == [[1, 0]], "a lone case is its own mean"


@settings(max_examples=300, derandomize=True, deadline=None)
@given(width=st.integers(1, 160), sparse=st.floats(0, 1), seed=st.integers(0, 2**32), flat=st.booleans())
def test_a_sketch_is_nearly_a_unit_vector(width, sparse, seed, flat):
    rng = default_rng(seed)
    vector_NE = np.ones((1, width)) if flat else rng.normal(size=(4, width)) * (rng.random((4, width)) >= sparse)
    unit_NE = unit(vector_NE)
    np.testing.assert_allclose(np.linalg.norm(unit_NE, axis=1), 1, atol=1e-6)
    sketch_NE = quantise(unit_NE)
    assert sketch_NE.dtype == np.int8
    assert abs(np.linalg.norm(sketch_NE / 127, axis=1) - 1).max() < 0.05
    assert (unit(sketch_NE.astype(np.float32)) * unit_NE).sum(axis=1).min() > 0.995, "the direction survives"


def test_quantise_by_hand():
    assert quantise(np.array([[1, 0], [-1, 0], [0.6, -0.8]], np.float32)).tolist() == [[127, 0], [-127, 0], [76, -102]]


def test_blur_adds_noise_of_the_said_deviation():
    clean = unit(default_rng(0).normal(size=(4000, 20)))
    assert blur(clean, None, default_rng(1)) is clean
    noisy = blur(clean, 0.1, default_rng(1))
    assert noisy.dtype == np.float32 and noisy.tobytes() == blur(clean, 0.1, default_rng(1)).tobytes()
    np.testing.assert_allclose(np.linalg.norm(noisy, axis=1), 1, atol=1e-6)
    # Beside the vector itself, of length 1 + z, stand 19 numbers of deviation .1 x 2: the tangent's mean square is 19 x .04.
    along = (noisy * clean).sum(axis=1)
    assert np.median((1 - along**2) / along**2) == pytest.approx(19 * 0.2**2, rel=0.1)


def test_elsewhere_by_hand():
    east, coverage = np.array([1.0, 0.0]), np.array([[0, 127], [76, 102], [-127, 0]], np.int8)
    assert elsewhere(east, None) == elsewhere(east, coverage[:0]) == 1.0
    assert elsewhere(east, coverage[:1]) == 1.0
    assert elsewhere(east, coverage[2:]) == 1.0, "an opposite is no less unique than a right angle"
    assert elsewhere(east, coverage) == pytest.approx(1 - 76 / np.hypot(76, 102), abs=1e-6)
    assert elsewhere(-east, coverage) == pytest.approx(0, abs=1e-6)


# Crops and networks --------------------------------------------------------------------------------------------------


def test_the_crop_is_the_middle():
    image = np.zeros((6, 5, 2))
    image[2:4, 1:4] = 1
    crop = central_crop(volume(image), (2, 3, 4))
    assert crop.dtype == np.float32
    assert (crop[:, :, 1:3] == 1).all(), "axes that are long enough"
    assert (crop[:, :, [0, 3]] == -1).all(), "the axis that is too short is filled with the darkest value"


def test_a_case_has_the_same_point_whatever_else_is_in_the_list(volumes):
    found = sketcher().points(volumes)
    assert found.shape == (3, 6) and found.dtype == np.float32
    assert found.tobytes() == sketcher().points(volumes).tobytes()
    for i in range(3):
        assert sketcher().points([volumes[i]])[0].tobytes() == found[i].tobytes()
    assert sketcher().points(volumes[::-1])[::-1].tobytes() == found.tobytes()
    assert abs(found[0] - found[1]).max() > 1e-4, "cases differ"
    assert sketcher().points([]).shape == (0, 0)


def test_points_are_the_projected_mean_and_deviation(volumes):
    drawn = sketcher(size=16)
    seen = []
    hook = drawn.encoder.deepest_convolution.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.inference_mode():
        drawn.encoder(torch.from_numpy(central_crop(volumes[0], PATCH))[None, None])
    hook.remove()
    level = seen[0][0].flatten(1).numpy()
    feature = np.concatenate([level.mean(axis=1), level.std(axis=1)])
    wanted = projection(16, 16, 3) @ (feature / np.linalg.norm(feature))
    np.testing.assert_allclose(drawn.points(volumes[:1])[0], wanted, atol=1e-5)


@pytest.mark.parametrize("network", model.NETWORKS)
def test_every_network_gives_sketches_and_is_left_as_it_was(network, volumes):
    patch = (64, 64, 64) if network == "SwinUNETR" else PATCH
    drawn = sketcher(network, patch=patch, size=4)
    before = {name: tensor.clone() for name, tensor in drawn.encoder.state_dict().items()}
    hooks = [len(part._forward_hooks) for part in drawn.encoder.modules()]
    found = drawn.points(volumes[:2])
    sketch_NE = quantise(centre(found, np.zeros(4)))
    assert found.shape == sketch_NE.shape == (2, 4) and (np.linalg.norm(found, axis=1) <= 1 + 1e-6).all()
    assert abs(found[0] - found[1]).max() > 1e-5
    assert hooks == [len(part._forward_hooks) for part in drawn.encoder.modules()]
    after = drawn.encoder.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert all(part.training for part in drawn.encoder.modules())


def test_statistics_and_dropout_do_not_take_part(volumes):
    """A batch norm's running statistics stay, and a dropout is not drawn, although the encoder is in training mode."""
    drawn = sketcher(args={"channels": [4, 8, 8], "strides": [2, 2], "num_res_units": 0, "norm": "BATCH", "dropout": 0.5})
    before = {name: tensor.clone() for name, tensor in drawn.encoder.state_dict().items()}
    assert drawn.points(volumes).tobytes() == drawn.points(volumes).tobytes()
    assert drawn.encoder.training
    assert all(torch.equal(before[name], tensor) for name, tensor in drawn.encoder.state_dict().items())
    drawn.encoder.eval()
    drawn.points(volumes)
    assert not drawn.encoder.training


def test_a_broken_encoder_is_told_and_keeps_no_hook(volumes):
    drawn = sketcher()
    with torch.no_grad():
        drawn.encoder.deepest_convolution.bias.fill_(torch.nan)
    with pytest.raises(ArithmeticError, match="features are not finite"):
        drawn.points(volumes)
    with pytest.raises(ValueError, match="more than 1 spatial element"):  # a patch too small: the network fails halfway
        replace(drawn, patch=(1, 1, 1)).points(volumes)
    assert not drawn.encoder.deepest_convolution._forward_hooks and drawn.encoder.training
