"""YAML as plain data, without its traps; faults in one line."""

import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import yaml

TAG = "tag:yaml.org,2002:"
LARGEST = 2**20
"""Bytes of a file, which take up to 20 s to read: a run of a thousand sites, every default spelled out, has half of it."""
MAX_VALUES = 2**18
"""Values in a file, what its aliases (`*a`) repeat counted each time: a run of a thousand sites has some 50,000."""
MAX_DEPTH = 50
"""Levels of nesting; a run has about six."""
MAX_DIGITS = 100
"""Characters of a number: Python takes minutes over one of a million digits, and no setting has more than 20."""


class _Loader(yaml.SafeLoader):
    """Safe YAML with its traps closed.

    A key given twice is an error (PyYAML lets the last win), keys are words, and so are `on`, `off`, `yes` and `no`
    (YAML 1.1 makes `on: test` the key True) and dates; 1e-3 is a number. There are no tags, and what a short text can make
    of itself is bounded: depth, long numbers, and merged mappings (`<<: *a`) that multiply.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth, self._merged = 0, 0

    def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
        """A node without a tag of its own, not too deep."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "tag", None) is not None:
            problem = f"there are no tags here, and this is {event.tag.replace(TAG, '!!')[:50]}"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        if self._depth == MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem=f"more than {MAX_DEPTH} levels of nesting", problem_mark=event.start_mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """A mapping whose keys are words, each given once."""
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag == TAG + "merge":
                continue
            if key.tag != TAG + "str":
                raise yaml.MarkedYAMLError(problem="a key must be a word (or in quotes)", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} is given twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Lay out `<<: *a`: PyYAML copies every pair, once per mention, and what it copied is copied again."""
        for key, value in node.value:
            if key.tag == TAG + "merge":
                for part in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    if isinstance(part, yaml.MappingNode):
                        self.flatten_mapping(part)
                        self._merged += len(part.value)
                    if self._merged > MAX_VALUES:
                        raise yaml.MarkedYAMLError(problem=TOO_MANY, problem_mark=key.start_mark)
        super().flatten_mapping(node)


TOO_MANY = f"its aliases (*) multiply to more than {MAX_VALUES:,} values"


def _number(loader: _Loader, node: yaml.ScalarNode) -> Any:
    """A whole number or a fraction that Python can make."""
    make = yaml.SafeLoader.construct_yaml_int if node.tag == TAG + "int" else yaml.SafeLoader.construct_yaml_float
    try:
        if len(node.value) <= MAX_DIGITS:
            return make(loader, node)
    except (ValueError, OverflowError):  # 0x_
        pass
    shown = node.value if len(node.value) <= 20 else node.value[:20] + "..."
    raise yaml.MarkedYAMLError(problem=f"{shown!r} is no number", problem_mark=node.start_mark)


for kind in ("int", "float"):
    _Loader.add_constructor(TAG + kind, _number)

_Loader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0] not in (TAG + "bool", TAG + "timestamp", TAG + "value")]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(TAG + "bool", re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))  # type: ignore[no-untyped-call]


class _Dumper(yaml.SafeDumper):
    """Puts into quotes every word that is something else to `_Loader`, or to YAML 1.1: others read these files too."""


for side in (_Loader, _Dumper):  # 1e5
    side.add_implicit_resolver(TAG + "float", re.compile(r"^[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789"))


def dump(tree: Any) -> str:
    """Plain data as a text that `parse` reads back to equal data."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)


def parse(text: str) -> Any:
    """A YAML text. Raises ValueError with the fault and its line."""
    try:
        return _unshared(yaml.load(text, _Loader), count(1))  # noqa: S506  (a SafeLoader)
    except yaml.MarkedYAMLError as error:
        where = f" (line {error.problem_mark.line + 1})" if error.problem_mark else ""
        raise ValueError(f"{' '.join(str(error.problem).split())}{where}") from None
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    except RecursionError:
        raise ValueError("it contains itself, or nests too deep") from None


def read(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping. Raises ValueError with path, fault and line."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
        text = content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise ValueError(f"{path}: cannot be read ({reason})") from None
    if len(content) > LARGEST:
        raise ValueError(f"{path}: cannot be read (larger than {LARGEST >> 20} MB)")
    try:
        tree = parse(text)
    except ValueError as error:
        raise ValueError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ValueError(f"{path}: must hold `key: value` lines")
    return tree


def _unshared(tree: Any, values: Iterator[int]) -> Any:
    """A copy in which what an alias (`*a`) repeats are things of their own: a change to one is not a change to all."""
    if next(values) > MAX_VALUES:
        raise ValueError(TOO_MANY)
    if isinstance(tree, dict):
        return {key: _unshared(value, values) for key, value in tree.items()}
    return [_unshared(item, values) for item in tree] if isinstance(tree, list) else tree
