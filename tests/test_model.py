"""The networks: each builds, has its features, names its tensors' roles, and grows head rows by name."""

import numpy as np
import pytest
import torch
from torch import nn

from clients.model import HEAD, NETWORKS, build, check_patch, head_row, load_shared, nearest_patch, roles, shared_weights

SMALL = {
    "UNet": ({"channels": [4, 8, 16], "strides": [2, 2], "num_res_units": 0}, (16, 16, 8)),
    "DynUNet": ({"filters": [4, 8, 16], "strides": [1, 2, 2]}, (16, 8, 16)),
    "SegResNet": ({"init_filters": 4, "blocks_down": [1, 1, 1], "blocks_up": [1, 1]}, (16, 16, 8)),
    "SwinUNETR": ({"feature_size": 12, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1]}, (64, 64, 64)),
}
DEEPEST = {"UNet": 16, "DynUNet": 16, "SegResNet": 16, "SwinUNETR": 192}
"""Channels of the deepest feature map."""
LIGHT = ("UNet", "DynUNet", "SegResNet")


@pytest.fixture(scope="module")
def networks():
    return {name: build(name, SMALL[name][0], ("liver", "spleen"), 3) for name in SMALL}


def unet(*classes, seed=0):
    return build("UNet", SMALL["UNet"][0], classes, seed)


@pytest.mark.parametrize("name", NETWORKS)
def test_each_network_gives_logits_and_features_of_unit_length(networks, name):
    patch = SMALL[name][1]
    check_patch(name, SMALL[name][0], patch)
    image = torch.rand((2, 1, *patch), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits, feature = networks[name].train()(image)
    assert logits.shape == (2, 2, *patch)
    assert torch.isfinite(logits).all()
    assert feature.shape == (2, DEEPEST[name])
    torch.testing.assert_close(feature.norm(dim=1), torch.ones(2))
    assert not torch.equal(feature[0], feature[1])


@pytest.mark.parametrize("name", LIGHT)
def test_the_feature_is_the_mean_of_the_deepest_map(networks, name):
    """The deepest map is the smallest that any layer makes, and its mean is what comes out."""
    maps = []
    network = networks[name]
    layers = [module for module in network.net.modules() if not list(module.children())]
    hooks = [layer.register_forward_hook(lambda layer, given, made: maps.append(made)) for layer in layers]
    with torch.no_grad():
        _, feature = network(torch.rand((1, 1, 16, 16, 16)))
    for hook in hooks:
        hook.remove()
    smallest = min(made[0, 0].numel() for made in maps)
    assert smallest == 4**3
    means = [nn.functional.normalize(made.mean((2, 3, 4)), dim=1) for made in maps if made[0, 0].numel() == smallest]
    sums = [nn.functional.normalize((a + b).mean((2, 3, 4)), dim=1) for a in maps for b in maps if a.shape == b.shape]
    assert any(found.shape == feature.shape and torch.allclose(found, feature, atol=1e-5) for found in means + sums)


@pytest.mark.parametrize("name", LIGHT)
def test_instance_norms_have_parameters(networks, name):
    norms = [module for module in networks[name].modules() if isinstance(module, nn.InstanceNorm3d)]
    assert norms and all(norm.affine for norm in norms)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_travelling_tensor_has_a_role(networks, name):
    network = networks[name]
    found = roles(network)
    assert found.keys() == shared_weights(network).keys() >= dict(network.named_parameters()).keys()
    assert {tensor for tensor, role in found.items() if role == "head"} == set(HEAD)
    assert set(found.values()) == {"body", "norm", "head"}
    norms = [name for name, module in network.named_modules() if isinstance(module, nn.InstanceNorm3d | nn.LayerNorm)]
    with_weights = {f"{norm}.weight" for norm in norms if getattr(network.get_submodule(norm), "weight", None) is not None}
    assert with_weights <= {tensor for tensor, role in found.items() if role == "norm"}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_body_tensor_is_trained(networks, name):
    """A layer that was taken off the end must not leave parameters behind that no gradient reaches."""
    network = networks[name].train()
    logits, _ = network(torch.rand((1, 1, *SMALL[name][1])))
    network.zero_grad()
    logits.square().mean().backward()
    assert [tensor for tensor, value in network.named_parameters() if value.grad is None] == []
    network.zero_grad()


def test_what_travels_is_a_copy_in_float32(networks):
    weights = shared_weights(networks["UNet"])
    assert all(tensor.dtype == np.float32 and tensor.flags.c_contiguous for tensor in weights.values())
    weights["head.bias"][:] = 7
    assert not (shared_weights(networks["UNet"])["head.bias"] == 7).any()


def test_counters_stay_at_home():
    network = build("UNet", {**SMALL["UNet"][0], "norm": "BATCH"}, ("liver",), 0)
    tensors = shared_weights(network)
    assert not any("num_batches" in name for name in tensors)
    statistics = [name for name in tensors if "running_mean" in name]
    assert statistics and all(roles(network)[name] == "norm" for name in statistics)


@pytest.mark.parametrize("name", LIGHT)
def test_the_same_seed_draws_the_same_bytes_whatever_was_drawn_before(name):
    def drawn(seed, before):
        torch.manual_seed(before)
        torch.rand(before)
        weights = shared_weights(build(name, SMALL[name][0], ("liver", "spleen"), seed))
        return b"".join(tensor.tobytes() for tensor in weights.values())

    assert drawn(5, 1) == drawn(5, 2)
    assert drawn(5, 1) != drawn(6, 1)


def test_building_does_not_disturb_the_global_generator():
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    unet("liver")
    assert torch.equal(torch.rand(3), expected)


# Head rows --------------------------------------------------------------------------------------------------------------


def test_a_row_is_the_same_wherever_it_stands():
    one, two = shared_weights(unet("liver", "spleen", "kidney")), shared_weights(unet("kidney", "liver"))
    for tensor in HEAD:
        np.testing.assert_array_equal(one[tensor][0], two[tensor][1])
        np.testing.assert_array_equal(one[tensor][2], two[tensor][0])
    weight, bias = head_row("kidney", 4, 0)
    np.testing.assert_array_equal(two["head.weight"][0], weight)
    assert two["head.bias"][0] == np.float32(bias) == np.float32(np.log(0.05 / 0.95))
    assert not np.array_equal(weight, head_row("kidney", 4, 1)[0])
    assert (abs(weight) <= 1 / 2).all()


def test_a_new_class_adds_its_seeded_row_and_leaves_the_others_bit_for_bit():
    old = shared_weights(unet("liver", "spleen"))
    old = {name: tensor + np.float32(0.125) for name, tensor in old.items()}
    grown = unet("liver", "spleen", "kidney")
    with torch.no_grad():  # what the network held before must not shine through
        for parameter in grown.parameters():
            parameter.fill_(3)
    load_shared(grown, old)
    new = shared_weights(grown)
    weight, bias = head_row("kidney", 4, 0)
    for name, tensor in old.items():
        np.testing.assert_array_equal(new[name][: len(tensor)], tensor)
    np.testing.assert_array_equal(new["head.weight"][2], weight)
    assert new["head.bias"][2] == np.float32(bias)
    assert len(new["head.weight"]) == len(new["head.bias"]) == 3


def test_weights_may_be_read_only():
    network = unet("liver")
    weights = {name: tensor + 1 for name, tensor in shared_weights(network).items()}
    for tensor in weights.values():
        tensor.flags.writeable = False
    load_shared(network, weights)
    assert all((tensor == weights[name]).all() for name, tensor in shared_weights(network).items())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w.pop("head.bias"), "head.bias is missing"),
        (lambda w: w.update(extra=np.zeros(1, np.float32)), "extra is unknown"),
        (lambda w: w.update({"head.weight": np.zeros((3, 4, 1, 1, 1), np.float32)}), r"head.weight is \(3, 4, 1, 1, 1\)"),
        (lambda w: w.update({"head.bias": np.zeros((2, 1), np.float32)}), "head.bias is"),
        (lambda w: w.update({next(iter(w)): np.zeros(2, np.float32)}), r"is \(2,\), not"),
        (lambda w: w.update({"head.bias": np.float32(1)}), "head.bias is"),
    ],
)
def test_weights_of_another_network_are_refused(change, words):
    network = unet("liver", "spleen")
    weights = shared_weights(network)
    change(weights)
    with pytest.raises(ValueError, match=f"weights .*{words}"):
        load_shared(network, weights)


@pytest.mark.parametrize(
    ("network", "args", "words"),
    [
        ("Unet", {}, "there is no 'Unet'"),
        ("UNet", {"chanels": [4, 8]}, "UNet does not take them: .*chanels"),
        ("UNet", {"channels": [4, 8], "strides": [2, 2, 2]}, "strides"),
        ("UNet", {"channels": [4, 8, 16], "strides": [2]}, "UNet does not take them"),
        ("UNet", {"channels": [4, 8], "strides": [2], "act": "nothing"}, "UNet does not take them"),
        ("UNet", {"out_channels": 3}, "UNet does not take them"),
        ("DynUNet", {"filters": [4, 8], "strides": [1, 2, 2]}, "DynUNet does not take them"),
        ("DynUNet", {"deep_supervision": True}, "deep_supervision"),
        ("SwinUNETR", {"feature_size": 13}, "SwinUNETR does not take them"),
    ],
)
def test_arguments_that_do_not_fit_are_said(network, args, words):
    with pytest.raises(ValueError, match=words):
        build(network, args, ("liver",), 0)


# Patches ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "patch", "nearest"),
    [
        ("SwinUNETR", (96, 90, 40), (96, 96, 64)),
        ("SwinUNETR", (32, 64, 64), (64, 64, 64)),
        ("UNet", (18, 16, 16), (16, 16, 16)),
        ("UNet", (16, 4, 31), (16, 8, 32)),
        ("DynUNet", (16, 17, 16), (16, 16, 16)),
        ("SegResNet", (19, 16, 16), (20, 16, 16)),
    ],
)
def test_a_patch_that_does_not_fit_names_the_nearest_that_does(name, patch, nearest):
    args = SMALL[name][0]
    with pytest.raises(
        ValueError, match=rf"{name} cannot take \[.*\]; the nearest that it can is \[{', '.join(map(str, nearest))}\]"
    ):
        check_patch(name, args, patch)
    check_patch(name, args, nearest)


def test_an_axis_that_is_not_halved_takes_any_length():
    args = {"channels": [4, 8], "strides": [[2, 2, 1]]}
    check_patch("UNet", args, (16, 8, 5))
    assert nearest_patch((15, 3, 5), (2, 2, 1)) == (16, 4, 5)


@pytest.mark.parametrize("name", LIGHT)
def test_the_smallest_patch_that_is_accepted_trains(networks, name):
    args = SMALL[name][0]
    sides = nearest_patch((1, 1, 1), NETWORKS[name](args).divisor)
    check_patch(name, args, sides)
    logits, _ = networks[name].train()(torch.rand((1, 1, *sides)))
    assert logits.shape[2:] == sides
