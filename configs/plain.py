"""YAML as plain data, without its traps; faults in one line."""

import re
from pathlib import Path
from typing import Any

import yaml

TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """Safe YAML with four of its traps closed.

    A key given twice is an error (PyYAML lets the last win), keys are words, and so are `on`, `off`, `yes` and `no`
    (YAML 1.1 makes `on: test` the key True); 1e-3 is a number.
    """

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


_Loader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0] != TAG + "bool"]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(TAG + "bool", re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))  # type: ignore[no-untyped-call]

_Loader.add_implicit_resolver(TAG + "float", re.compile(r"^[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789"))  # type: ignore[no-untyped-call]


def parse(text: str) -> Any:
    """A YAML text. Raises ValueError with the fault and its line."""
    try:
        return _unshared(yaml.load(text, _Loader))  # noqa: S506  (a SafeLoader)
    except yaml.MarkedYAMLError as error:
        where = f" (line {error.problem_mark.line + 1})" if error.problem_mark else ""
        raise ValueError(f"{' '.join(str(error.problem).split())}{where}") from None
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    except RecursionError:
        raise ValueError("it contains itself") from None


def read(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping. Raises ValueError with path, fault and line."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise ValueError(f"{path}: cannot be read ({reason})") from None
    try:
        tree = parse(text)
    except ValueError as error:
        raise ValueError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ValueError(f"{path}: must hold `key: value` lines")
    return tree


def _unshared(tree: Any) -> Any:
    """A copy in which what an alias (`*a`) repeats are things of their own: a change to one is not a change to all."""
    if isinstance(tree, dict):
        return {key: _unshared(value) for key, value in tree.items()}
    return [_unshared(item) for item in tree] if isinstance(tree, list) else tree
