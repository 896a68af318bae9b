"""The boundary: what comes in is checked once, here, and every refusal speaks with one voice.

`over_time` and `over_rows` first offer the arguments to the compiled core as they are. Only what the core declines is looked at:
made plain where nothing is lost by it, refused with the argument's name, what came and what is wanted where something would be.
"""

from __future__ import annotations

import numbers
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from fastpg import _core

Array = NDArray[Any]

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
PARAMETERS = {name: [p for kind, p in spec if not kind.startswith("OUT")] for name, spec in _core.kernels().items()}
KINDS = {name: dict((p, kind) for kind, p in spec) for name, spec in _core.kernels().items()}


def over_time(kernel: str, args: tuple[Any, ...], axis: int = 0, out: Any = None, optional: bool = False) -> Any:
    """Answers a scan over time; the parameters stand in the kernel's order."""
    done = _core.run_time(kernel, args, axis, out, optional, False) if type(axis) is int else None
    return at_home(args[0])(_over_time(kernel, args, axis, out, optional)) if done is None else done


def over_rows(kernel: str, args: tuple[Any, ...], out: Any = None) -> Any:
    """Answers a kernel over rows of actions; the parameters stand in the kernel's order."""
    done = _core.run_rows(kernel, args, out)
    return at_home(args[0])(_over_rows(kernel, args, out)) if done is None or type(done) is int else done


# --- scans over time


def _over_time(kernel: str, args: tuple[Any, ...], axis: Any, out: Any, optional: bool) -> Any:
    given = dict(zip(PARAMETERS[kernel], args, strict=True))
    first, anchor = next(iter(given.items()))
    anchor = as_floats(first, anchor)
    if anchor.ndim not in (1, 2):
        raise ValueError(f"{first} has shape {anchor.shape}; (T,) or (T, N) is wanted, (B, T) with axis=1")
    axis = as_axis(axis, anchor.ndim)
    ready: list[Any] = [anchor]
    for name, value in list(given.items())[1:]:
        kind = KINDS[kernel][name]
        if kind == "SCALAR":
            ready.append(as_fraction(name, value, first, anchor))
        elif value is None:
            if not optional:
                raise TypeError(f"{name} is None; an array shaped like {first} {anchor.shape} is wanted")
            ready.append(None)
        elif kind == "FLAG":
            ready.append(same_shape(name, as_flags(name, value), first, anchor))
        elif name == "next_value":
            ready.append(_next_value(kernel, as_floats(name, value, like=(first, anchor)), given, first, anchor, axis))
        else:
            ready.append(same_shape(name, as_floats(name, value, like=(first, anchor)), first, anchor))
    return into(
        out, anchor.shape, anchor.dtype, ready, lambda o: _core.run_time(kernel, tuple(ready), axis, o, optional, True)
    )


def _next_value(kernel: str, next_value: Array, given: dict[str, Any], first: str, anchor: Array, axis: int) -> Array:
    """next_value in full, or as V after the last row alone, where no other value is missing."""
    lanes = anchor.shape[:axis] + anchor.shape[axis + 1 :]
    if next_value.shape == anchor.shape:
        return next_value
    if next_value.shape != lanes:
        raise ValueError(
            f"next_value has shape {next_value.shape}, but {first} has {anchor.shape}; {anchor.shape} is wanted, "
            f"or {lanes} for the values after the last row"
        )
    if "lambda_" in given and "value" not in given:
        raise ValueError(
            f"next_value has shape {lanes}, the values after the last row, but {kernel} reads V of the next state at every step; "
            f"{anchor.shape} is wanted"
        )
    ended = [
        None if given[k] is None else np.moveaxis(as_flags(k, given[k]), axis, 0) for k in ("terminated", "truncated")
    ]
    if ended[1] is not None and ended[1].shape[0] > 0:
        missing = (
            ended[1][:-1] if ended[0] is None or ended[0].shape != ended[1].shape else ended[1][:-1] & ~ended[0][:-1]
        )
        if missing.any():
            where = tuple(int(i) for i in np.argwhere(missing)[0])
            step = f"step {where[0]}" + (f" of lane {where[1]}" if len(where) > 1 else "")
            raise ValueError(
                f"next_value has shape {lanes}, the values after the last row, but truncated is set at {step}: the value of the state "
                f"that this step led to, before the reset, is missing; give next_value with shape {anchor.shape}"
            )
    return next_value


def as_fraction(name: str, value: Any, first: str, anchor: Array) -> Any:
    """A float in [0, 1], or an array of such shaped like the anchor."""
    if isinstance(value, (bool, np.bool_, str, bytes)) or value is None:
        raise TypeError(f"{name} is {value!r}; a number in [0, 1], or an array of them shaped like {first}, is wanted")
    if isinstance(value, numbers.Real):
        number = float(value)
        if not 0 <= number <= 1:
            raise ValueError(f"{name} is {number}; a number in [0, 1] is wanted")
        return number
    array = as_floats(name, value, like=(first, anchor) if np.ndim(value) else None)
    if array.ndim == 0:
        return as_fraction(name, float(array), first, anchor)
    same_shape(name, array, first, anchor)
    if array.size and not (array.min() >= 0 and array.max() <= 1):
        where = tuple(int(i) for i in np.argwhere(~((array >= 0) & (array <= 1)))[0])
        raise ValueError(f"{name}[{', '.join(map(str, where))}] is {array[where]}; numbers in [0, 1] are wanted")
    return array


# --- rows of actions


def _over_rows(kernel: str, args: tuple[Any, ...], out: Any) -> Any:
    given = dict(zip(PARAMETERS[kernel], args, strict=True))
    first, anchor = next(iter(given.items()))
    anchor = as_floats(first, anchor)
    if anchor.ndim == 0 or anchor.shape[-1] == 0:
        raise ValueError(f"{first} has shape {anchor.shape}; (M, A) with at least one action is wanted")
    rows, actions = anchor.shape[:-1], anchor.shape[-1]
    ready: list[Any] = [anchor.reshape(-1, actions)]
    for name, value in list(given.items())[1:]:
        kind = KINDS[kernel][name]
        if kind == "INDEX":
            ready.append(_rows_of(name, as_index(name, value), rows, first, anchor).reshape(-1))
        elif kind == "FLAG":
            ready.append(None if value is None else _legal(name, as_flags(name, value), first, anchor))
        elif name in ("weight", "uniform"):
            ready.append(_rows_of(name, as_floats(name, value, like=(first, anchor)), rows, first, anchor).reshape(-1))
        else:
            ready.append(
                same_shape(name, as_floats(name, value, like=(first, anchor)), first, anchor).reshape(-1, actions)
            )
    full = "OUT" in KINDS[kernel].values() and "grad" in KINDS[kernel]
    dtype = np.dtype(np.int64) if "OUT_INDEX" in KINDS[kernel].values() else anchor.dtype

    def run(o: Any) -> Any:
        done = _core.run_rows(
            kernel, tuple(ready), None if o is None else o.reshape(-1, actions) if full else o.reshape(-1)
        )
        if type(done) is int:
            explain_row(dict(zip(given, ready, strict=True)), done, rows)
        return done.reshape(anchor.shape if full else rows)

    return into(out, anchor.shape if full else rows, dtype, ready, run)


def _rows_of(name: str, array: Array, rows: tuple[int, ...], first: str, anchor: Array) -> Array:
    if array.shape != rows:
        raise ValueError(f"{name} has shape {array.shape}, but {first} has {anchor.shape}; {rows} is wanted, one a row")
    return array


def _legal(name: str, legal: Array, first: str, anchor: Array) -> Array:
    if legal.shape == anchor.shape[-1:]:
        return legal
    if legal.shape != anchor.shape:
        raise ValueError(
            f"{name} has shape {legal.shape}, but {first} has {anchor.shape}; the same is wanted, or {anchor.shape[-1:]} for every row"
        )
    return legal.reshape(-1, legal.shape[-1])


def explain_row(given: dict[str, Any], row: int, rows: tuple[int, ...]) -> NoReturn:
    """Says why a kernel refused a row: an action out of range, no legal action, or NaN where an action must be picked."""
    where = ", ".join(str(int(i)) for i in np.unravel_index(row, rows)) if rows else "()"
    first, logits = next(iter(given.items()))
    actions = logits.shape[1]
    action = given.get("action")
    if action is not None and not 0 <= action[row] < actions:
        raise ValueError(f"action[{where}] is {action[row]}; an action in [0, {actions}) is wanted")
    legal = given.get("legal")
    may = np.ones(actions, bool) if legal is None else legal if legal.ndim == 1 else legal[row]
    for name in (first, "other"):
        if name in given:
            held = np.where(may, given[name][row], -np.inf)
            if np.isnan(held).any() or np.isposinf(held).any():
                raise ValueError(
                    f"{name}[{where}] holds {'NaN' if np.isnan(held).any() else 'inf'}; no action can be picked from it"
                )
            if np.isneginf(held).all():
                why = (
                    f"{name} is -inf at every action" if may.all() else f"legal allows none whose {name} is above -inf"
                )
                raise ValueError(f"{name}[{where}] has no legal action: {why}")
    raise AssertionError("a kernel refused a row without a reason")  # pragma: no cover


# --- arrays of other libraries, which are never imported here


def is_foreign(value: Any) -> bool:
    """Whether an array of another library comes, to be read through DLPack: a CPU tensor of PyTorch, an array of JAX."""
    return hasattr(value, "__dlpack__") and not isinstance(value, np.ndarray)


def at_home(value: Any) -> Callable[[Any], Any]:
    """What turns a result into the kind of array that `value` is."""
    if not is_foreign(value):
        return lambda result: result
    library = sys.modules[type(value).__module__.partition(".")[0]]
    space = value.__array_namespace__() if hasattr(value, "__array_namespace__") else library

    def convert(result: Any) -> Any:
        if isinstance(result, tuple):
            return tuple(map(convert, result))
        return space.from_dlpack(result) if isinstance(result, np.ndarray) else result

    return convert


# --- one argument at a time


def as_floats(name: str, value: Any, like: tuple[str, Array] | None = None) -> Array:
    """A native float32 or float64 array; with `like`, of that dtype. Only lists and other dtype-less values are converted."""
    array = as_array(name, value)
    if like is not None:
        anchor_name, anchor = like
        if not hasattr(value, "dtype") and array.dtype.kind == "f" or (array.size == 0 and not hasattr(value, "dtype")):
            return array.astype(anchor.dtype, copy=False)
        if array.dtype.newbyteorder("=") != anchor.dtype:
            raise TypeError(
                f"{name} has dtype {array.dtype}, but {anchor_name} has {anchor.dtype}; give both the same, {name}.astype({anchor.dtype})"
            )
    elif array.dtype.newbyteorder("=") not in FLOATS and not (array.size == 0 and not hasattr(value, "dtype")):
        hint = f"; {name}.astype(float) converts it" if array.dtype.kind in "iub" else ""
        raise TypeError(f"{name} has dtype {array.dtype}; float32 or float64 is wanted{hint}")
    return plain(array)


def as_flags(name: str, value: Any) -> Array:
    array = as_array(name, value)
    if array.dtype != np.bool_:
        if array.size == 0 and not hasattr(value, "dtype"):
            return array.astype(bool)
        raise TypeError(f"{name} has dtype {array.dtype}; bool is wanted, {name} != 0 if it holds 0 and 1")
    return plain(array)


def as_index(name: str, value: Any) -> Array:
    array = as_array(name, value)
    if array.dtype.kind not in "iu":
        if array.size == 0 and not hasattr(value, "dtype"):
            return array.astype(np.int64)
        raise TypeError(f"{name} has dtype {array.dtype}; integers are wanted")
    if array.dtype == np.uint64 and array.size and array.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{name} holds {array.max()}, which no array index reaches")
    return plain(array.astype(np.int64, copy=False))


def as_array(name: str, value: Any) -> Array:
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{name} is a masked array; a plain array is wanted, {name}.filled(...) says what stands in the gaps"
        )
    try:
        array = np.from_dlpack(value) if is_foreign(value) else np.asarray(value)
    except (ValueError, TypeError, BufferError, RuntimeError) as error:
        kind = TypeError if is_foreign(value) else ValueError
        raise kind(f"{name} cannot be read as an array: {error}") from None
    if array.dtype == object or array.dtype.kind in "USVmMc":
        raise TypeError(f"{name} has dtype {array.dtype}; numbers in a plain array are wanted")
    return array


def plain(array: Array) -> Array:
    """Native byte order and aligned: a copy only where it is neither."""
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return array if array.flags.aligned else array.copy()


def as_axis(axis: Any, ndim: int) -> int:
    if isinstance(axis, bool) or not isinstance(axis, (int, np.integer)):
        raise TypeError(f"axis is {axis!r}; an integer is wanted")
    if not -ndim <= axis < ndim:
        raise ValueError(f"axis is {axis}, but the arrays have {ndim} axes")
    return int(axis) % ndim


def same_shape(name: str, array: Array, first: str, anchor: Array) -> Array:
    if array.shape != anchor.shape:
        both = {1: "(T,)", 2: "(T, N)"}.get(anchor.ndim, "") if first == "reward" else ""
        raise ValueError(
            f"{name} has shape {array.shape}, but {first} has {anchor.shape}; both are {both}"
            if both
            else f"{name} has shape {array.shape}, but {first} has {anchor.shape}; the same is wanted"
        )
    return array


def into(out: Any, shape: tuple[int, ...], dtype: np.dtype[Any], inputs: list[Any], run: Any) -> Any:
    """Runs into `out` after checking it, by way of a new array where it shares memory with an input; into a new array for None."""
    if out is None:
        return run(None)
    given = out
    if is_foreign(out):
        out = as_array("out", out)
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out is a {type(out).__name__}; an array is wanted")
    if out.shape != shape or out.dtype != dtype:
        raise ValueError(f"out has shape {out.shape} and dtype {out.dtype}; {shape} and {dtype} are wanted")
    if not out.flags.writeable:
        raise ValueError("out is read-only; a writeable array is wanted")
    shared = any(isinstance(array, np.ndarray) and np.may_share_memory(out, array) for array in inputs)
    if shared or not out.flags.aligned or not out.flags.c_contiguous:
        out[...] = run(None)
    else:
        run(out)
    return given
