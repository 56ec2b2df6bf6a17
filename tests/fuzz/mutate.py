"""Valid things spoilt: bytes that were flipped, cut and repeated, and trees in which a branch is something else."""

import copy
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

TOKENS = (
    b"NaN",
    b"1e999",
    b"-1",
    b"9" * 30,
    b'"',
    b"[" * 40,
    b"{",
    b"}",
    b",",
    b":",
    b"\0",
    b"\n",
    b"\xff" * 4,
    b"<script>",
    b"../..",
)
TEXTS = ("", "<script>", "../..", "a\nb", "\x00", "\ud800", "x" * 5000, "é", "id", "__class__", "$x$", "1", "on")
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([2**31, 2**63, 10**400, -1, 1e308, 1e-320, float("nan"), float("inf"), -0.0]),
    st.floats(),
    st.sampled_from(TEXTS),
    st.text(max_size=8),
)
TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(TEXTS) | st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
EDITS = st.tuples(
    st.sampled_from(("flip", "cut", "insert", "repeat", "end")), st.floats(0, 1), st.integers(0, 64), st.sampled_from(TOKENS)
)


@st.composite
def mutated(draw: st.DrawFn, valid: bytes, most: int = 4) -> bytes:
    """Bytes after a few edits."""
    data = valid
    for kind, where, count, token in draw(st.lists(EDITS, min_size=1, max_size=most)):
        at = int(where * len(data))
        if kind == "flip" and at < len(data):
            data = data[:at] + bytes([data[at] ^ (1 << count % 8)]) + data[at + 1 :]
        elif kind == "cut":
            data = data[:at] + data[at + count :]
        elif kind == "insert":
            data = data[:at] + token + data[at:]
        elif kind == "repeat":
            data = data[:at] + data[at : at + count] * 3 + data[at + count :]
        else:
            data = data[:at]
    return data


@st.composite
def edited(draw: st.DrawFn, valid: Any, most: int = 3) -> Any:
    """A tree in which a few branches are gone, are something else, or have a stranger beside them."""
    tree = copy.deepcopy(valid)
    for _ in range(draw(st.integers(1, most))):
        places = list(_places(tree))
        if not places:
            return draw(TREES)
        branch, key = places[draw(st.integers(0, len(places) - 1))]
        how = draw(st.sampled_from(("replace", "replace", "delete", "add")))
        if how == "replace":
            branch[key] = draw(TREES)
        elif how == "delete":
            del branch[key]
        elif isinstance(branch, dict):
            branch[draw(st.sampled_from(TEXTS))] = draw(TREES)
        else:
            branch.insert(key, draw(TREES))
    return tree


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every (mapping or list, key in it)."""
    if isinstance(tree, dict | list):
        for key in tree if isinstance(tree, dict) else range(len(tree)):
            yield tree, key
            yield from _places(tree[key])
