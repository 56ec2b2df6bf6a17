"""A memory comes back bit for bit, and damage is told."""

import os
from dataclasses import fields
from math import nan

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from memory.sample import Sample
from memory.store import FILE, load, save

FLOATS = st.floats(width=64)
PLAIN = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def memories(draw):
    length = draw(st.integers(1, 5))
    feature = st.none() | arrays(np.float32, length, elements=st.floats(width=32))
    one = st.builds(
        Sample,
        case=st.text(max_size=8),
        arrived=st.integers(0, 2**62),
        key=FLOATS,
        visits=st.integers(0, 2**62),
        feature=feature,
        loss=FLOATS,
        uncertainty=FLOATS,
        uniqueness=FLOATS,
        orphan=st.booleans(),
        scores=st.dictionaries(st.text(max_size=4), FLOATS, max_size=2),
        classes=st.frozensets(st.text(max_size=4), max_size=3),
        domain=st.none() | st.text(max_size=4),
    )
    return draw(st.lists(one, max_size=6))


def bits(value):
    """A value that is equal only if every bit is: nan equals itself, 0.0 is not -0.0."""
    if isinstance(value, np.ndarray):
        return (str(value.dtype), value.shape, value.tobytes())
    if isinstance(value, dict):
        return {name: bits(each) for name, each in value.items()}
    return (type(value), repr(value) if isinstance(value, float) else value)


def state(samples):
    return [{field.name: bits(getattr(sample, field.name)) for field in fields(Sample)} for sample in samples]


@PLAIN
@given(memories())
def test_round_trip_is_bit_exact(tmp_path, samples):
    save(samples, tmp_path)
    assert state(load(tmp_path)) == state(samples)
    assert os.listdir(tmp_path) == [FILE]


def two():
    return [
        Sample(
            case="a", arrived=0, feature=np.array([0.6, 0.8], np.float32), visits=3, loss=0.25, classes=frozenset({"liver"})
        ),
        Sample(case="b", arrived=1, domain="mr", scores={"leverage": nan}),
    ]


def test_a_loaded_feature_is_its_own(tmp_path):
    save(two(), tmp_path)
    feature = load(tmp_path)[0].feature
    feature += 1
    assert feature.base is None and load(tmp_path)[0].feature.tolist() == np.array([0.6, 0.8], np.float32).tolist()


def test_the_folder_is_made_and_the_file_replaced(tmp_path):
    save([], tmp_path / "new")
    assert load(tmp_path / "new") == []
    save(two(), tmp_path / "new")
    assert [sample.case for sample in load(tmp_path / "new")] == ["a", "b"]


@PLAIN
@given(st.data())
def test_every_flipped_byte_and_every_torn_end_is_noticed(tmp_path, data):
    save(two(), tmp_path)
    before, path = state(load(tmp_path)), tmp_path / FILE
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        path.write_bytes(content[:at])
    else:
        content[at] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content)
    try:
        after = state(load(tmp_path))
    except ValueError as error:
        assert str(path) in str(error) and "damaged" in str(error)
    else:  # a byte of padding, or one that changes nothing
        assert after == before


def test_flipped_number_is_noticed(tmp_path):
    save(two(), tmp_path)
    content = bytearray((tmp_path / FILE).read_bytes())
    content[-1] ^= 1
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(ValueError, match="damaged .*checksum"):
        load(tmp_path)


def test_the_same_memory_gives_the_same_bytes(tmp_path):
    """Ten times: where a file's facts stand in any order, two of them agree every second time."""
    written = set()
    for _ in range(10):
        save(two(), tmp_path)
        written.add((tmp_path / FILE).read_bytes())
    assert len(written) == 1


def test_missing_and_foreign_files_are_told(tmp_path):
    with pytest.raises(ValueError, match=r"memory\.safetensors: no memory is stored here"):
        load(tmp_path)
    for content in (b"", b"hello", bytes(100)):
        (tmp_path / FILE).write_bytes(content)
        with pytest.raises(ValueError, match=r"memory\.safetensors: the stored memory is damaged"):
            load(tmp_path)


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    save(two(), tmp_path)

    def full_disk(handle):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        save([], tmp_path)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == [FILE] and len(load(tmp_path)) == 2


@pytest.mark.parametrize("feature", [np.zeros(2), np.zeros(3, np.float32), np.zeros((2, 1), np.float32)])
def test_features_of_another_kind_are_refused(tmp_path, feature):
    with pytest.raises(ValueError, match=r"case 'odd' is .*, not float32 \(2,\)"):
        save([two()[0], Sample(case="odd", arrived=1, feature=feature)], tmp_path)
    assert os.listdir(tmp_path) == []
