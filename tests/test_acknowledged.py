"""What a site keeps although the server may not have heard of it."""

import numpy as np

from clients.acknowledged import kept, merged


def value(x):
    return {"w": np.array([x])}


def told(tensors):
    return {name: tensor.tolist() for name, tensor in tensors.items()}


def test_a_merged_round_is_what_the_server_has_and_any_other_is_not():
    first = kept(value(1.0), {}, 1)
    assert told(merged(first, 1)) == {"w": [1.0]}
    assert told(merged(first, 0)) == {}
    third = kept(value(3.0), merged(first, 1), 3)
    assert told(merged(third, 3)) == {"w": [3.0]}
    assert told(merged(third, 1)) == {"w": [1.0]}
    assert merged({}, 5) == {}
