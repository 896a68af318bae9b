"""`scan`: a step of `steps`, or of your own, over a batch in any layout."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba.core.dispatcher import Dispatcher
from numpy.typing import NDArray

from fastpg import steps
from fastpg._check import (
    as_array,
    as_axis,
    as_flags,
    as_floats,
    as_fraction,
    as_mask_mode,
    as_offsets,
    at_home,
    into,
    same_shape,
)
from fastpg._loops import Carry, Input, Layout, Loop, Mode, form_of, missing_loop, spread_loop, step_loop

Array = NDArray[Any]

_WHERE_TRUNCATED = {steps.reward_to_go}  # next_value is read there only: V after the last step of each lane will do
_WHOLE_EPISODE = {steps.total_return}  # the result at an episode's first step is handed to all of its steps
_WIDE = 16  # lanes; with fewer, a row of them is not worth a vectorised loop


def scan(
    step: Callable[..., Any],
    *args: Any,
    axis: int = 0,
    offsets: Any = None,
    env_id: Any = None,
    mask: Any = None,
    mask_mode: str = "skip",
    carry: Any = None,
    out: Any = None,
    **kwargs: Any,
) -> Any:
    """Runs a step, one of ours or an @njit function of your own, backwards along each lane of a batch.

        y[t] = step(carry[t+1], x[t], ...),   carry[t] = y[t],   carry[T] = 0

    A step whose first parameter is named `carry` is handed what it handed on at t+1 there; any other has no recursion. Its
    further parameters are matched, by position or name, to arrays shaped like the first of them and to scalars. None or left
    out means the step's own default. A step returns

        y                    its result, which it hands on
        y, z, ...            several results, of which it hands on the first
        carry, (y, ...)      what it hands on, and its results

    and scan an array, or a tuple of arrays where there are several results. `carry` is what the last step is handed; where
    it is an array, (n,), every lane has its own copy, which the step changes in place and returns its results alone.

    Layouts: (T,) or time-major (T, N); batch-major (B, T) with axis=1; packed (T,) with `offsets`, B+1 integers from 0 to T; lanes
    that take turns in (T,) with `env_id`, the lane of each step, any integers. `mask`, bool, shaped like the first array, is False
    where there is no step: results are 0 there, and the recursion passes through (mask_mode="skip"), or runs on with all of that
    step's arrays but gamma, lambda_ and alpha read as 0 ("zero"), or starts anew before the gap ("reset").

    A parameter named `truncated` is True at the last step of each lane: the end of a buffer is a truncation. If the step has
    both `value` and `next_value`, the latter may be V after the last step of each lane alone, and is value[t+1] elsewhere: (N,),
    (B,), or by env_id one a lane, which next_value[env_id] finds, or else in the order of the sorted ids. Then no step before the
    last may be truncated, or stand before a gap that resets. `terminated` and `truncated` are bool; `gamma` and `lambda_` lie
    in [0, 1].

    Everything is computed in the dtype of the first array, float32 or float64. `out` takes a single result. Each step, with
    each choice of arrays and scalars, is compiled once a layout, and runs without the GIL.

    >>> import numba
    >>> @numba.njit
    ... def peak(carry, reward, terminated):
    ...     return max(reward, 0.0 if terminated else carry)
    >>> scan(peak, [1.0, 5.0, 2.0, 3.0], [False, True, False, False])
    array([5., 5., 3., 3.])
    >>> scan(peak, [1.0, 5.0, 2.0, 3.0], False, offsets=[0, 1, 4])
    array([1., 5., 3., 3.])
    """
    if not isinstance(step, Dispatcher):
        raise TypeError(f"step is {step!r}; a function compiled by @numba.njit is wanted")
    defaults, recursive = _parameters(step)
    given = _bind(step, defaults, args, kwargs)
    first = next(iter(given))
    x = as_floats(first, given[first])
    if x.ndim not in (1, 2):
        raise ValueError(f"{first} has shape {x.shape}; (T,) or (T, N) is wanted, (B, T) with axis=1")
    axis = as_axis(axis, x.ndim)
    batch = _as_batch(first, x, axis, offsets, env_id, mask, mask_mode)
    read = batch.live if batch.layout.mode in ("skip", "reset") else None
    arrays = {name: _prepare(name, value, first, x, read) for name, value in given.items()}
    after = _after(step, arrays, batch, first, x)
    inputs = []
    for name, array in arrays.items():
        of_row = name == "next_value" and after is not None
        if array.shape not in ((), x.shape) and not of_row:
            raise ValueError(f"{name} has shape {array.shape}, but {first} has {x.shape}; that or a number is wanted")
        inputs.append(Input(name, "row" if of_row else "array" if array.ndim else "number", array.dtype == bool))
    initial = _as_carry(carry, step, recursive, x)
    kind: Carry = "" if not recursive else "array" if initial.ndim else "number"
    form = form_of(step, kind, tuple(of.flag for of in inputs), x.dtype)
    if form.several and out is not None:
        raise TypeError(f"out is given, but the step has {form.results} results; a single one fits out")

    def run(out: Array | None) -> Array | tuple[Array, ...]:
        results = [np.empty(x.shape, x.dtype) if out is None else out for _ in range(form.results)]
        if x.size:
            whole = step in _WHOLE_EPISODE
            loop = step_loop(step, form, tuple(inputs), batch.layout, not whole)
            batch.run(loop, [arrays[of.name] for of in inputs if of.kind != "row"] + results, initial, after)
            if whole:
                ended = [of for of in inputs if of.flag]
                batch.run(spread_loop(tuple(ended), batch.layout), [arrays[of.name] for of in ended] + results)
        return tuple(results) if form.several else results[0]

    filled = into(out, x.shape, x.dtype, [*arrays.values(), batch.where, batch.live], run)
    return at_home(given[first])(filled)


class _Batch(NamedTuple):
    """Where the steps of each lane stand, and which are masked."""

    layout: Layout
    lanes: int
    where: Any  # what the loops of this layout take first
    live: Array  # the mask; empty without one
    row: tuple[int, ...]  # the shape of one item a lane, but by env_id
    ids: Array | None = None  # the env_id of each lane, where that is not its number

    def run(self, loop: Loop, arrays: list[Array], initial: Array | None = None, after: Array | None = None) -> None:
        dtype, alone = self.layout.dtype, self.layout.kind == "lanes"
        initial = np.zeros((), dtype) if initial is None else initial
        carries = np.empty(initial.shape or 1, dtype) if alone else np.full((self.lanes, *initial.shape), initial)
        afters = np.empty(0, dtype) if after is None else after.copy()
        lasts = np.ones(0 if alone else self.lanes, bool)
        flat = [array.reshape(-1) if array.ndim else array[()] for array in arrays]
        loop(self.where, initial[()], carries, afters, lasts, self.live.reshape(-1), *flat)

    def per_lane(self, next_value: Array) -> Array | None:
        """next_value in the order of the lanes, if it has one item a lane."""
        if self.layout.kind != "ids":
            return next_value.reshape(-1) if next_value.shape == self.row else None
        if next_value.ndim != 1:
            return None
        if self.ids is None and len(next_value) >= self.lanes:
            return next_value[: self.lanes]
        ids: Array = np.unique(self.where) if self.ids is None else self.ids
        if ids[0] >= 0 and ids[-1] < len(next_value):
            return np.take(next_value, ids)
        if len(ids) != len(next_value):
            return None
        if self.ids is not None:
            return next_value
        after = np.zeros(self.lanes, next_value.dtype)
        after[ids] = next_value
        return after


def _as_batch(first: str, x: Array, axis: int, offsets: Any, env_id: Any, mask: Any, mask_mode: Any) -> _Batch:
    as_mask_mode(mask_mode)
    live: Array = np.empty(0, bool)
    mode: Mode = ""
    if mask is not None:
        live, mode = np.ascontiguousarray(same_shape("mask", as_flags("mask", mask), first, x)), mask_mode
    for name, given in (("offsets", offsets), ("env_id", env_id)):
        if given is not None and x.ndim != 1:
            raise ValueError(f"{name} is given, but {first} has shape {x.shape}; with {name}, (T,) is wanted")
    if offsets is not None and env_id is not None:
        raise ValueError("offsets and env_id are both given; one of them is wanted")
    if env_id is not None:
        where, ids, lanes = _as_ids(env_id, first, x)
        return _Batch(Layout("ids", mode, x.dtype, where.dtype), lanes, where, live, (), ids)
    row = x.shape[:axis] + x.shape[axis + 1 :]
    lanes = row[0] if row else 1
    if axis == 0 and lanes > 1:
        return _Batch(Layout("rows" if lanes >= _WIDE else "narrow", mode, x.dtype), lanes, x.shape, live, row)
    where = np.arange(lanes + 1) * x.shape[axis]
    if offsets is not None:
        where = as_offsets(offsets, len(x), first)
        row = (len(where) - 1,)
    return _Batch(Layout("lanes", mode, x.dtype), len(where) - 1, where, live, row)


def _as_ids(value: Any, first: str, x: Array) -> tuple[Array, Array | None, int]:
    """The lane of each step, the env_id of each lane where that is not its number, and how many lanes there are."""
    array = as_array("env_id", value)
    if array.dtype.kind not in "iu" and (array.size or hasattr(value, "dtype")):
        raise TypeError(f"env_id has dtype {array.dtype}; integers are wanted")
    same_shape("env_id", array, first, x)
    if array.size == 0:
        return np.empty(0, np.int64), None, 0
    lanes = int(array.max()) + 1
    if array.min() < 0 or lanes > len(array) + 1024:  # any integers: an array as long as they are large could be huge
        ids, where = np.unique(array, return_inverse=True)
        return where, ids, len(ids)
    kept = array.dtype in (np.int32, np.int64)
    return np.ascontiguousarray(array if kept else array.astype(np.int64)), None, lanes


def _after(step: Any, arrays: dict[str, Array], batch: _Batch, first: str, x: Array) -> Array | None:
    """V after the last step of each lane, where next_value holds no more; then no step above may read V of its next state."""
    next_value, value = arrays.get("next_value"), arrays.get("value")
    known = value is not None or (step in _WHERE_TRUNCATED and next_value is not None and next_value.ndim)
    if next_value is None or next_value.shape == x.shape or not known:
        return None
    after = batch.per_lane(next_value)
    if after is None:
        return None
    if value is not None and value.shape != x.shape:
        raise ValueError(f"value has shape {value.shape}; {x.shape} is wanted where next_value is {next_value.shape}")
    no = np.zeros((), bool)
    ended = {name: arrays.get(name, no) for name in ("terminated", "truncated")}
    truncated, resets = ended["truncated"], batch.layout.mode == "reset"
    if truncated.any() or (resets and not batch.live.all()):
        found = np.array([-1])
        inputs = tuple(Input(name, "array" if array.ndim else "number", True) for name, array in ended.items())
        batch.run(missing_loop(inputs, batch.layout), [*ended.values(), found])
        if found[0] >= 0:
            index = np.unravel_index(found[0], x.shape)
            where = f"[{', '.join(str(int(k)) for k in index)}]"
            cut = np.broadcast_to(truncated, x.shape)[index]
            why = f"truncated{where} is set" if cut else f"mask_mode 'reset' cuts after {first}{where},"
            raise ValueError(
                f"next_value has shape {next_value.shape}, but {why} before the last step of its lane: the value"
                f" of the state that it led to is missing; next_value shaped like {first}, {x.shape}, is wanted"
            )
    return after


def _as_carry(value: Any, step: Any, recursive: bool, x: Array) -> Array:
    """What the last step of each lane is handed: a number, or an array that each lane has a copy of."""
    if value is None:
        return np.zeros((), x.dtype)
    if not recursive:
        raise TypeError(f"carry is given, but {step.__name__} has no parameter of that name before all others")
    carry = as_array("carry", value)
    if carry.ndim > 1 or carry.dtype.kind not in "iuf":
        raise TypeError(
            f"carry has shape {carry.shape} and dtype {carry.dtype}; a number or a one-dimensional array is wanted"
        )
    return np.ascontiguousarray(carry, x.dtype) if carry.ndim else carry.astype(x.dtype)


@functools.cache
def _parameters(step: Any) -> tuple[dict[str, Any], bool]:
    """The step's parameters but the carry, each with its default or inspect.Parameter.empty, and whether there is a carry."""
    signature = inspect.signature(step.py_func)
    parameters = list(signature.parameters.values())
    recursive = bool(parameters) and parameters[0].name == "carry"
    parameters = parameters[recursive:]
    if not parameters or any(parameter.kind != parameter.POSITIONAL_OR_KEYWORD for parameter in parameters):
        raise TypeError(f"step is {step.__name__}{signature}; named parameters, and one besides carry, are wanted")
    return {parameter.name: parameter.default for parameter in parameters}, recursive


def _bind(step: Any, defaults: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Every parameter's argument, or its default where that is None or missing."""
    given = dict(zip(defaults, args, strict=False)) | kwargs
    if len(given) < len(args) + len(kwargs) or not given.keys() <= defaults.keys():
        twice = [name for name in list(defaults)[: len(args)] if name in kwargs]
        unknown = [name for name in kwargs if name not in defaults]
        why = (
            f"{len(args)} arguments are given"
            if not twice + unknown
            else f"{(twice + unknown)[0]} is given" + " twice" * bool(twice)
        )
        raise TypeError(f"{why}, but {step.__name__} takes {', '.join(defaults)}")
    for name, default in defaults.items():
        if given.get(name) is None:
            if default is None or default is inspect.Parameter.empty:
                why = "is None" if name in given else "is missing"
                raise TypeError(f"{name} {why}, but {step.__name__} has no default; an array or a number is wanted")
            given[name] = default
    return {name: given[name] for name in defaults}


def _prepare(name: str, value: Any, first: str, x: Array, read: Array | None) -> Array:
    """An argument as the loops take it: native and in C order, in the dtype of x or bool. Numbers become 0-d arrays.
    gamma and lambda_ are looked at where `read` is True; None for everywhere."""
    if name == first:
        array = x
    elif name in ("terminated", "truncated"):
        array = as_flags(name, value)
    elif name in ("gamma", "lambda_"):
        array = np.asarray(as_fraction(name, value, first, x, read), x.dtype)
    else:
        array = as_array(name, value)
        if array.ndim == 0 and array.dtype.kind in "iuf":
            array = array.astype(x.dtype)
        elif array.dtype != bool or name in ("value", "next_value"):
            array = as_floats(name, value, (first, x))
    return np.ascontiguousarray(array) if array.ndim else array
