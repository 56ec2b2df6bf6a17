"""How an update is made smaller for the wire, and made whole again. Numpy only.

float32 without `delta` travels as it is. Otherwise the numbers, or with `delta` the change since the shared weights, are
rounded to the recipe's `dtype`. With `int8` a change travels as whole steps from -127 to 127 and the size of a step, and
what rounding takes away is added to the site's next change (error feedback: Seide et al., 2014, for one bit; Karimireddy
et al., 2019, arXiv:1901.09847, on why that converges). Whatever the recipe, what a site does not train (head rows of classes
that it does not annotate) arrives as the very numbers that were shared. What an objective says beside the weights
(`Reply.extra`) is not made smaller.
"""

from collections.abc import Iterable
from math import prod

import numpy as np
from numpy.typing import DTypeLike, NDArray

from configs.strategy import Wire
from wire import Weights

SCALE, NEW = "|scale", "|new"
"""Beside a tensor in 8 bits: the size of its steps, and its rows that the shared weights lack, as they are."""
STEPS = 127
"""Whole steps to either side: symmetric, so that 0 stays 0."""
SHORTEST = 8
"""Tensors with shorter rows have a single step size: one of 4 bytes per row would weigh half as much as the row, or more."""


def encode(update: Weights, shared: Weights, recipe: Wire, residue: Weights) -> tuple[Weights, Weights]:
    """What travels, and what was rounded away (to be sent with the next update; empty without `int8`).

    `update` holds tensors of `shared`, some perhaps with more rows than that knows yet. The server cannot know what a new
    row began with: it travels whole. Arrays may be the very ones given.

    Raises:
        ArithmeticError: a tensor has numbers that the recipe's cannot say.
    """
    sent: Weights = {}
    kept: Weights = {}
    for name, tensor in update.items():
        if recipe.int8:
            parts, kept[name] = _stepped(name, tensor, shared[name], residue.get(name))
            sent |= parts
        elif recipe.delta:
            sent[name] = _narrow(name, tensor - _grown(shared[name], tensor.shape), recipe.dtype)
        else:
            sent[name] = tensor if recipe.dtype == "float32" else _narrow(name, tensor, recipe.dtype)
    return sent, kept


def decode(sent: Weights, shared: Weights, recipe: Wire) -> Weights:
    """The update that was sent, in the dtypes of `shared`: the inverse of `encode` up to what it rounded away.

    Head rows may be more than `shared` has; whether they are as many as they should be, whether every tensor is there and
    every number finite is the caller's to see.

    Raises:
        ValueError: what was sent is not an update of these weights in this recipe, in words that name the tensor.
    """
    if recipe.dtype == "float32" and not recipe.delta:
        return sent
    with np.errstate(over="ignore", invalid="ignore"):  # a number too large becomes infinite, and is refused as such
        if recipe.int8:
            return {name: _whole(name, sent, shared[name]) for name in _tensors(sent, shared)}
        return {name: _read(name, tensor, shared, recipe) for name, tensor in sent.items()}


# Numbers of fewer bits --------------------------------------------------------------------------------------------------


def _narrow(name: str, tensor: NDArray, dtype: DTypeLike) -> NDArray:
    with np.errstate(over="ignore"):
        narrow = np.asarray(tensor).astype(dtype, copy=False)
    if not np.isfinite(narrow).all():
        raise ArithmeticError(f"{name} has numbers that {dtype} cannot say (training diverged?)")
    return narrow


def _read(name: str, tensor: NDArray, shared: Weights, recipe: Wire) -> NDArray:
    if name not in shared:
        raise ValueError(f"its tensors are not the model's: {name} is unknown")
    old = shared[name]
    shape = (len(tensor), *old.shape[1:]) if old.ndim and tensor.ndim and len(tensor) > len(old) else old.shape
    _check(name, tensor, recipe.dtype, shape)
    base = _grown(old, shape)
    if recipe.delta:
        return np.asarray(base + tensor.astype(old.dtype))
    return np.where(tensor == base.astype(tensor.dtype), base, tensor.astype(old.dtype))  # equal so rounded: unchanged


def _grown(old: NDArray, shape: tuple[int, ...]) -> NDArray:
    """A tensor with rows of zeros for those that it does not have yet."""
    if old.shape == shape:
        return old
    base = np.zeros(shape, old.dtype)
    base[: len(old)] = old
    return base


# Eight bits -------------------------------------------------------------------------------------------------------------


def _stepped(name: str, new: NDArray, old: NDArray, residue: NDArray | None) -> tuple[Weights, NDArray]:
    """A tensor's parts as they travel, and what was rounded away, in the shape of the old."""
    known = new if new.shape == old.shape else new[: len(old)]
    owed = np.zeros_like(old) if residue is None else _grown(residue, old.shape)  # new rows travelled whole: none is owed
    change = np.asarray(known - old + owed)
    if not np.isfinite(change).all():
        raise ArithmeticError(f"{name} has numbers that int8 cannot say (training diverged?)")
    axes = tuple(axis for axis, count in enumerate(_scales(old.shape)) if count == 1)
    scale = np.asarray(np.abs(change).max(axis=axes, keepdims=True, initial=0.0) / STEPS).astype(np.float32)
    steps = np.divide(change, scale, out=np.zeros_like(change), where=scale > 0)  # all zeros, or too small to have a scale
    rounded = np.asarray(np.rint(steps).clip(-STEPS, STEPS)).astype(np.int8)
    parts: Weights = {name: rounded, name + SCALE: scale}
    if known is not new:
        parts[name + NEW] = new[len(old) :]
    return parts, np.asarray(change - rounded * scale)


def _whole(name: str, sent: Weights, old: NDArray) -> NDArray:
    steps, scale = sent[name], sent[name + SCALE]
    _check(name, steps, "int8", old.shape)
    _check(name + SCALE, scale, "float32", _scales(old.shape))
    if not (np.isfinite(scale) & (scale >= 0)).all():
        raise ValueError(f"{name + SCALE} holds what is no size of a step: it must be finite and not below 0")
    if (steps < -STEPS).any():
        raise ValueError(f"{name} has steps of -128; from -{STEPS} to {STEPS} they go")
    known = np.asarray(old + (steps * scale).astype(old.dtype))
    if name + NEW not in sent:
        return known
    new = sent[name + NEW]
    if not old.ndim or not new.ndim:
        raise ValueError(f"{name + NEW}: a single number is no rows")
    _check(name + NEW, new, old.dtype, (len(new), *old.shape[1:]))
    return np.concatenate([known, new])


def _scales(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a tensor's step sizes, to lie beside it: one per row, or, where rows are short, a single one."""
    by_row = len(shape) > 1 and prod(shape[1:]) >= SHORTEST
    return tuple(count if by_row and axis == 0 else 1 for axis, count in enumerate(shape))


def _tensors(sent: Weights, shared: Weights) -> Iterable[str]:
    """The names of the tensors in 8 bits. Raises ValueError if a part is missing or belongs to nothing."""
    for part in sent:
        name = part.partition("|")[0]
        if name not in shared or part not in (name, name + SCALE, name + NEW):
            raise ValueError(f"its tensors are not the model's: {part} is unknown")
        for needed in (name, name + SCALE):
            if needed not in sent:
                raise ValueError(f"its tensors are not whole: {needed} is missing beside {part}")
    return [name for name in sent if name in shared]


def _check(name: str, tensor: NDArray, dtype: DTypeLike, shape: tuple[int, ...]) -> None:
    if tensor.dtype != np.dtype(dtype) or tensor.shape != shape:
        raise ValueError(f"{name} is {tensor.dtype} {list(tensor.shape)}, not {np.dtype(dtype)} {list(shape)}")
