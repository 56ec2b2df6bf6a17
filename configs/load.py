"""Reading a run from YAML: `extends:`, `--set a.b=c`, and errors of one line that name the nearest valid word."""

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from configs.plain import dump, parse, read
from configs.schema import Memory, Model, Run, SiteFile, Strategy
from configs.words import LONGEST, nearest, short

PRESETS = Path(__file__).parent / "strategies.yaml"
LONGEST_CHAIN = 8
OWNED = (
    ("model", "network", "args"),
    ("memory", "policy", "args"),
    ("strategy", "merge", "merge_args"),
    ("strategy", "objective", "objective_args"),
)
"""Section, choice and the arguments that belong to it."""
DEFAULTS: dict[str, BaseModel] = {"model": Model(), "memory": Memory(), "strategy": Strategy()}


def cache_root() -> Path:
    """Where pre-processed cases and pretend hospitals are kept: $SITESTREAM_CACHE, or ~/.cache/sitestream."""
    return Path(os.environ.get("SITESTREAM_CACHE", "~/.cache/sitestream")).expanduser()


def load_run(path: Path, edits: Iterable[str] = (), changes: Mapping[str, Any] | None = None) -> Run:
    """The run that a YAML file describes, with `a.b=c` edits, or changes by dotted key, laid over it.

    Relative paths in it are relative to where the command runs.

    Raises:
        ValueError: one line that says what is wrong, where, and the nearest valid name.
    """
    tree = _read_chain(Path(path))
    _make_edits(tree, [*map(_parse_edit, edits), *(_place(key, value) for key, value in (changes or {}).items())])
    return build_run(tree, str(path))


def load_site(path: Path) -> SiteFile:
    """A hospital's own settings. Raises ValueError as `load_run`."""
    tree = _read_chain(Path(path), named=False)
    try:
        return SiteFile.model_validate(tree)
    except ValidationError as error:
        raise ValueError(f"{path}: {complaint(error, SiteFile, tree)}") from None


def build_run(tree: Mapping[str, Any], where: str = "config") -> Run:
    """A checked `Run` from plain data (presets resolved). Raises ValueError as `load_run`."""
    tree = dict(tree)
    if "strategy" in tree:
        tree["strategy"] = _resolve_preset(tree["strategy"], where)
    try:
        return Run.model_validate(tree)
    except ValidationError as error:
        raise ValueError(f"{where}: {complaint(error, Run, tree)}") from None


def check_key(key: str) -> None:
    """Whether a run has this key (`a.b`). Raises ValueError with the nearest valid one if not."""
    path = key.split(".")
    for i, part in enumerate(path):
        if reduce(_under, path[: i + 1], Run) is None:
            model = _model_in(reduce(_under, path[:i], Run))
            raise ValueError(f"{key}: unknown key; {nearest(part, model.model_fields) if model else 'nothing is below it'}")


def dump_run(run: Run) -> str:
    """A run as YAML that `load_run` reads back to an equal run, defaults spelled out: another default changes no old run."""
    return dump(_plain(run))


def _plain(value: Any) -> Any:
    """A model as YAML holds it. A None that means "not given" stays away; any other (in a visit, say) is kept."""
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        return {k: _plain(v) for k, v in value if not (v is None and fields[k].default is None)}
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


# Files laid over one another ------------------------------------------------------------------------------------------


def _read_chain(path: Path, named: bool = True) -> dict[str, Any]:
    """A YAML file laid over the files that it extends."""
    layers: list[dict[str, Any]] = []
    here: Path | None = path
    while here is not None:
        if len(layers) == LONGEST_CHAIN:
            raise ValueError(f"{path}: more than {LONGEST_CHAIN} files extend one another (a circle?)")
        layer = read(here)
        base = layer.pop("extends", None)
        if base is not None and not isinstance(base, str):
            raise ValueError(f"{here}: `extends` names one file")
        here = here.parent / base if base else None
        layers.append(layer)
    tree: dict[str, Any] = {}
    for layer in reversed(layers):
        _drop_orphans(tree, layer)
        _lay_over(tree, layer)
    if named:
        tree.setdefault("name", path.stem)
    return tree


def _lay_over(tree: dict[str, Any], layer: Mapping[str, Any]) -> None:
    """Merge mappings key by key; anything else replaces. A null removes a mapping's entry, so a variant can drop a site.

    `args` belong to the network, policy, merge or objective beside them: they are replaced whole.
    """
    for key, value in layer.items():
        if isinstance(value, Mapping) and key not in ("args", "merge_args", "objective_args"):
            _lay_over(_branch(tree, key), value)
        elif value is None and isinstance(tree.get(key), dict):
            del tree[key]
        else:
            tree[key] = value


def _drop_orphans(tree: dict[str, Any], layer: Mapping[str, Any]) -> None:
    """Drop inherited `args` where a layer chooses another network, policy, merge... than the one that they belong to."""
    for section, key, args in OWNED:
        below, above = tree.get(section), layer.get(section)
        if not isinstance(below, dict) or not isinstance(above, Mapping):
            continue
        before = below.get(key, getattr(DEFAULTS[section], key))
        if above.get(key, before) != before:
            below.pop(args, None)


def _branch(tree: dict[str, Any], key: str) -> dict[str, Any]:
    """The mapping under a key, empty if there was none. A preset's name becomes `preset: name`: choices lie over it."""
    if not isinstance(tree.get(key), dict):
        tree[key] = {"preset": tree[key]} if key == "strategy" and isinstance(tree.get(key), str) else {}
    return tree[key]  # type: ignore[no-any-return]


Edit = tuple[list[str], dict[str, Any]]
"""The way to a mapping, and what to lay over it. A path that leads into `args` changes the one argument."""


def _make_edits(tree: dict[str, Any], edits: Sequence[Edit]) -> None:
    """All edits as one layer: in which order a policy and its arguments are given makes no difference."""
    layer: dict[str, Any] = {}
    for above, change in edits:
        _lay_over(reduce(_branch, above, layer), change)
    _drop_orphans(tree, layer)
    for above, change in edits:
        _lay_over(reduce(_branch, above, tree), change)


def _parse_edit(edit: str) -> Edit:
    """`a.b=c`."""
    key, separator, text = edit.partition("=")
    if not separator or not key.strip():
        raise ValueError(f"--set {short(edit)}: write it as a.b=value")
    try:
        value = parse(text)
    except ValueError:
        raise ValueError(f"--set {short(edit)}: {short(text)!r} is not a valid value") from None
    return _place(key.strip(), value)


def _place(key: str, value: Any) -> Edit:
    *above, last = key.split(".")
    return above, {last: value}


def _resolve_preset(strategy: Any, where: str) -> Any:
    """A preset's name, or choices laid over one (`preset: fedavg`), as the four choices."""
    presets: dict[str, dict[str, Any]] = read(PRESETS)
    name = strategy.get("preset") if isinstance(strategy, Mapping) else strategy if isinstance(strategy, str) else None
    if name is None:
        return strategy
    if not isinstance(name, str) or name not in presets:
        raise ValueError(f"{where}: strategy: there is no preset {short(repr(name))}; {nearest(str(name), presets)}")
    edits = {} if isinstance(strategy, str) else {k: v for k, v in strategy.items() if k != "preset"}
    return {**presets[name], **edits}


# Errors -----------------------------------------------------------------------------------------------------------------


def complaint(error: ValidationError, model: type[BaseModel], tree: Mapping[str, Any]) -> str:
    """The complaint that helps most, in the user's words: an unknown key, else the one that lies deepest."""
    complaints = [(_path(found["loc"], tree, found["type"] == "missing"), found) for found in error.errors(include_url=False)]
    path, first = min(complaints, key=lambda pair: (pair[1]["type"] != "extra_forbidden", -len(pair[0])))
    where = short(".".join(map(str, path)))
    if first["type"] == "extra_forbidden":
        return f"{where}: unknown key; {nearest(str(path[-1]), _keys_at(path[:-1], model))}"
    if first["type"] == "missing":
        return f"{where}: is missing"
    message = short(first["msg"].removeprefix("Value error, "), 2 * LONGEST)
    given = (
        f" (given: {short(repr(first['input']))})"
        if first["type"] != "value_error" and not isinstance(first["input"], dict)
        else ""
    )
    return f"{where}: {message}{given}" if where else f"{message}{given}"


def _path(location: tuple[int | str, ...], tree: Any, missing: bool) -> tuple[int | str, ...]:
    """An error's location without what the user never wrote: pydantic's names for the branches of a union."""
    path = []
    for i, part in enumerate(location):
        inside = part in tree if isinstance(tree, Mapping) else isinstance(tree, list) and isinstance(part, int)
        if inside or (missing and i + 1 == len(location)):
            path.append(part)
            tree = tree[part] if inside and (isinstance(tree, Mapping) or int(part) < len(tree)) else None
    return tuple(path)


def _keys_at(path: tuple[int | str, ...], model: type[BaseModel]) -> list[str]:
    """The valid keys where an unknown one stood."""
    found = _model_in(reduce(_under, path, model))
    assert found is not None, "only a model has unknown keys"
    return list(found.model_fields)


def _under(annotation: Any, part: int | str) -> Any:
    """What the schema says of the thing under a key, or at a position."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        field = annotation.model_fields.get(str(part))
        return None if field is None else field.annotation
    if get_origin(annotation) in (dict, list, tuple):
        return get_args(annotation)[-1]
    return next((found for arg in get_args(annotation) if (found := _under(arg, part)) is not None), None)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model inside an annotation such as `dict[str, PretendSite]` or `Split | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for arg in get_args(annotation) if (found := _model_in(arg))), None)
