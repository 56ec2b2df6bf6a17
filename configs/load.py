"""Reading a run from YAML: `extends:`, `--set a.b=c`, and errors of one line that name the nearest valid word."""

import difflib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from configs.schema import Run, SiteFile

PRESETS = Path(__file__).parent / "strategies.yaml"
LONGEST_CHAIN = 8


def cache_root() -> Path:
    """Where pre-processed cases and pretend hospitals are kept: $SITESTREAM_CACHE, or ~/.cache/sitestream."""
    return Path(os.environ.get("SITESTREAM_CACHE", "~/.cache/sitestream")).expanduser()


def load_run(path: Path, edits: Iterable[str] = ()) -> Run:
    """The run that a YAML file describes, with `a.b=c` edits laid over it.

    Relative paths in it are relative to where the command runs.

    Raises:
        ValueError: one line that says what is wrong, where, and the nearest valid name.
    """
    tree = _read_chain(Path(path))
    for edit in edits:
        _lay_over(tree, _parse_edit(edit))
    return build_run(tree, str(path))


def load_site(path: Path) -> SiteFile:
    """A hospital's own settings. Raises ValueError as `load_run`."""
    try:
        return SiteFile.model_validate(_read_chain(Path(path), named=False))
    except ValidationError as error:
        raise ValueError(f"{path}: {_one_line(error, SiteFile)}") from None


def build_run(tree: Mapping[str, Any], where: str = "config") -> Run:
    """A checked `Run` from plain data (presets resolved). Raises ValueError as `load_run`."""
    tree = dict(tree)
    if "strategy" in tree:
        tree["strategy"] = _resolve_preset(tree["strategy"], where)
    try:
        return Run.model_validate(tree)
    except ValidationError as error:
        raise ValueError(f"{where}: {_one_line(error, Run)}") from None


def dump_run(run: Run) -> str:
    """A run as YAML that `load_run` reads back to an equal run: only what differs from the defaults."""
    return yaml.safe_dump(run.model_dump(mode="json", exclude_defaults=True), sort_keys=False, allow_unicode=True)


def nearest(word: str, valid: Iterable[str]) -> str:
    """The end of an error message: the nearest valid name, or all of them."""
    names = sorted(valid)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"valid: {', '.join(names)}"


# YAML -----------------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice, which PyYAML would let win silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)  # type: ignore[no-untyped-call]
            if not isinstance(key, str | int | float | bool | None):
                raise yaml.YAMLError(f"line {key_node.start_mark.line + 1}: a key must be a word")
            if key in seen:
                raise yaml.YAMLError(f"line {key_node.start_mark.line + 1}: {key!r} is given twice")
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise ValueError(f"{path}: cannot be read ({reason})") from None
    try:
        tree = yaml.load(text, _Loader)  # noqa: S506  (a SafeLoader)
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise ValueError(f"{path}: must hold `key: value` lines")
    return tree


def _read_chain(path: Path, named: bool = True) -> dict[str, Any]:
    """A YAML file laid over the files that it extends."""
    layers: list[dict[str, Any]] = []
    here: Path | None = path
    while here is not None:
        if len(layers) == LONGEST_CHAIN:
            raise ValueError(f"{path}: more than {LONGEST_CHAIN} files extend one another (a circle?)")
        layer = _read_yaml(here)
        base = layer.pop("extends", None)
        if base is not None and not isinstance(base, str):
            raise ValueError(f"{here}: `extends` names one file")
        here = here.parent / base if base else None
        layers.append(layer)
    tree: dict[str, Any] = {}
    for layer in reversed(layers):
        _lay_over(tree, layer)
    if named:
        tree.setdefault("name", path.stem)
    return tree


def _lay_over(tree: dict[str, Any], layer: Mapping[str, Any]) -> None:
    """Merge mappings key by key; anything else replaces. A null removes a mapping's entry, so a variant can drop a site."""
    for key, value in layer.items():
        if isinstance(value, Mapping) and isinstance(tree.get(key), dict):
            _lay_over(tree[key], value)
        elif value is None and isinstance(tree.get(key), dict):
            del tree[key]
        else:
            tree[key] = dict(value) if isinstance(value, Mapping) else value


def _parse_edit(edit: str) -> dict[str, Any]:
    key, separator, text = edit.partition("=")
    if not separator or not key.strip():
        raise ValueError(f"--set {edit}: write it as a.b=value")
    try:
        value = yaml.load(text, _Loader)  # noqa: S506  (a SafeLoader)
    except yaml.YAMLError:
        raise ValueError(f"--set {edit}: {text!r} is not a valid value") from None
    for part in reversed(key.strip().split(".")):
        value = {part: value}
    return value  # type: ignore[no-any-return]


def _resolve_preset(strategy: Any, where: str) -> Any:
    """A preset's name, or choices laid over one (`preset: fedavg`), as the four choices."""
    presets: dict[str, dict[str, Any]] = _read_yaml(PRESETS)
    name = strategy if isinstance(strategy, str) else dict(strategy or {}).get("preset")
    if name is None:
        return strategy
    if name not in presets:
        raise ValueError(f"{where}: strategy: there is no preset {name!r}; {nearest(str(name), presets)}")
    edits = {} if isinstance(strategy, str) else {k: v for k, v in strategy.items() if k != "preset"}
    return {**presets[name], **edits}


# Errors -----------------------------------------------------------------------------------------------------------------


def _one_line(error: ValidationError, model: type[BaseModel]) -> str:
    """pydantic's first complaint in the user's words."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"] if not str(part).startswith(("function-", "constrained-")))
    if first["type"] == "extra_forbidden":
        return f"{where}: unknown key; {nearest(str(first['loc'][-1]), _keys_at(first['loc'][:-1], model))}"
    message = first["msg"].removeprefix("Value error, ")
    given = f" (given: {first['input']!r})" if first["type"] != "value_error" and not isinstance(first["input"], dict) else ""
    return f"{where}: {message}{given}" if where else f"{message}{given}"


def _keys_at(location: tuple[int | str, ...], model: type[BaseModel]) -> list[str]:
    """The valid keys where an unknown one stood, found by walking the schema along the error's location."""
    for part in location:
        field = model.model_fields.get(str(part))
        inner = None if field is None else _model_in(field.annotation)
        model = inner or model
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model inside an annotation such as `dict[str, PretendSite]` or `Split | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for arg in get_args(annotation) if (found := _model_in(arg))), None)
