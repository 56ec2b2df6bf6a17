"""What many sites cost is measured by benchmarks/; here, that what was made cheaper is still the same."""

import sys

import numpy as np
import pytest
from flwr.app import Array

from clients.lean import absent
from packing import pack_weights

ARRAYS = {
    "rows": np.arange(6, dtype=np.float32).reshape(2, 3),
    "columns": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
    "strided": np.arange(12, dtype=np.int64).reshape(3, 4)[:, ::2],
    "bits": np.array([True, False]),
    "single": np.array(2.5, np.float16),
    "none": np.zeros((0, 4), np.int8),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_a_tensor_is_packed_into_the_bytes_that_flower_makes(name):
    ours, flowers = pack_weights(ARRAYS)[name], Array(ARRAYS[name])
    assert (ours.data, ours.dtype, ours.shape, ours.stype) == (flowers.data, flowers.dtype, flowers.shape, flowers.stype)
    assert np.array_equal(ours.numpy(), ARRAYS[name])


def test_what_is_no_number_is_not_packed():
    with pytest.raises((TypeError, ValueError), match="object|references"):
        pack_weights({"words": np.array([{}])})


def test_a_package_is_absent_for_a_moment_only(monkeypatch):
    monkeypatch.delitem(sys.modules, "this", raising=False)
    with absent("this", "sys"):
        with pytest.raises(ModuleNotFoundError, match="this"):
            __import__("this")
        assert __import__("sys") is sys  # what is there already stays
    assert "this" not in sys.modules
