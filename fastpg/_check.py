"""The boundary: what comes in is checked once, here, and every refusal speaks with one voice.

`over_time` and `over_rows` first offer the arguments to the compiled core as they are. Only what the core declines is looked at:
made plain where nothing is lost by it, refused with the argument's name, what came and what is wanted where something would be.
"""

from __future__ import annotations

import numbers
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from fastpg import _core

Array = NDArray[Any]

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
MASK_MODES = ("skip", "zero", "reset")  # in the order of fastpg_mask_mode
PARAMETERS = {name: [p for kind, p in spec if not kind.startswith("OUT")] for name, spec in _core.kernels().items()}
KINDS = {name: dict((p, kind) for kind, p in spec) for name, spec in _core.kernels().items()}
SPANS = {name: _core.spans(name) for name in KINDS}


def over_time(
    kernel: str,
    args: tuple[Any, ...],
    axis: int = 0,
    out: Any = None,
    optional: bool = False,
    *,
    offsets: Any = None,
    env_id: Any = None,
    mask: Any = None,
    mask_mode: str = "skip",
) -> Any:
    """Answers a scan over time; the parameters stand in the kernel's order."""
    if mask_mode not in MASK_MODES:
        as_mask_mode(mask_mode)
    if env_id is None and type(axis) is int:
        plain = offsets is None and mask is None
        layout = None if plain else (offsets, None, 0, mask, MASK_MODES.index(mask_mode))
        done = _core.run_time(kernel, args, axis, out, optional, False, layout)
        if done is not None:
            return done
    return at_home(args[0])(_over_time(kernel, args, axis, out, optional, (offsets, env_id, mask, mask_mode)))


def over_rows(kernel: str, args: tuple[Any, ...], out: Any = None) -> Any:
    """Answers a kernel over rows of actions; the parameters stand in the kernel's order."""
    done = _core.run_rows(kernel, args, out)
    return at_home(args[0])(_over_rows(kernel, args, out)) if done is None or type(done) is int else done


# --- scans over time


def _over_time(
    kernel: str, args: tuple[Any, ...], axis: Any, out: Any, optional: bool, how: tuple[Any, Any, Any, Any]
) -> Any:
    given = dict(zip(PARAMETERS[kernel], args, strict=True))
    first, anchor = next(iter(given.items()))
    anchor = as_floats(first, anchor)
    if anchor.ndim not in (1, 2):
        raise ValueError(f"{first} has shape {anchor.shape}; (T,) or (T, N) is wanted, (B, T) with axis=1")
    axis = as_axis(axis, anchor.ndim)
    offsets, env_id, mask, mask_mode = how
    layout = as_layout(offsets, env_id, mask, mask_mode, first, anchor, axis)
    ready: list[Any] = [anchor]
    for name, value in list(given.items())[1:]:
        kind = KINDS[kernel][name]
        if kind == "SCALAR":
            ready.append(as_fraction(name, value, first, anchor, None if layout is None else layout.read))
        elif kind == "NUMBER":
            ready.append(as_bound(name, value))
        elif kind == "COUNT":
            ready.append(as_count(name, value))
        elif value is None:
            if not optional:
                raise TypeError(f"{name} is None; an array shaped like {first} {anchor.shape} is wanted")
            ready.append(None)
        elif kind == "FLAG":
            ready.append(same_shape(name, as_flags(name, value), first, anchor))
        elif name == "next_value":
            ready.append(_next_value(kernel, as_floats(name, value, like=(first, anchor)), first, anchor, axis, layout))
        else:
            ready.append(same_shape(name, as_floats(name, value, like=(first, anchor)), first, anchor))

    def run(out: Any) -> Any:
        if "COUNT" in KINDS[kernel].values() and layout is not None and (layout.env_id is not None or layout.skips):
            return _lined_up(kernel, ready, axis, out, optional, layout)
        done = _core.run_time(
            kernel, tuple(ready), axis, out, optional, True, None if layout is None else layout.plain()
        )
        if type(done) is int:
            _explain_cut(dict(zip(given, ready, strict=True)), done, first, anchor, axis, layout)
        return done

    inputs = ready if layout is None else [*ready, layout.mask]
    outputs = list(KINDS[kernel].values()).count("OUT")
    if outputs == 1:
        return into(out, anchor.shape, anchor.dtype, inputs, run, strided=True)
    both = [anchor.shape] * outputs
    return into_each(
        out, both, anchor.dtype, inputs, lambda *outs: run(outs if outs[0] is not None else None), strided=True
    )


class Layout:
    """How steps stand where axes alone do not say it: packed with offsets, interleaved by env_id, padded with a mask."""

    def __init__(
        self, offsets: Any, env_id: Any, lanes: int, mask: Any, mask_mode: str, ids: Array | None = None
    ) -> None:
        self.offsets, self.env_id, self.lanes, self.mask, self.mask_mode = offsets, env_id, lanes, mask, mask_mode
        self.ids = ids  # what env_id came as for each lane, where that is not its number

    @property
    def skips(self) -> bool:
        """Whether a mask leaves out steps as if they had never been."""
        return self.mask is not None and self.mask_mode == "skip"

    @property
    def read(self) -> Array | None:
        """Where gamma and lambda_ are read; None for everywhere."""
        return None if self.mask_mode == "zero" else self.mask

    def plain(self) -> tuple[Any, ...]:
        """As the core takes it."""
        return self.offsets, self.env_id, self.lanes, self.mask, MASK_MODES.index(self.mask_mode)


def as_layout(
    offsets: Any, env_id: Any, mask: Any, mask_mode: Any, first: str, anchor: Array, axis: int
) -> Layout | None:
    """The layout that offsets, env_id and mask describe, for arrays shaped like the anchor; None where there is none of them."""
    as_mask_mode(mask_mode)
    if offsets is None and env_id is None and mask is None:
        return None
    if offsets is not None and env_id is not None:
        raise ValueError("offsets and env_id are both given; packed or interleaved, one of them is wanted")
    name = "offsets" if offsets is not None else "env_id"
    if (offsets is not None or env_id is not None) and anchor.ndim != 1:
        raise ValueError(f"{name} is given, but {first} has shape {anchor.shape}; one dimension, (steps,), is wanted")
    lanes = 1 if anchor.ndim == 1 else anchor.shape[1 - axis]
    if offsets is not None:
        offsets = as_offsets(offsets, len(anchor), first)
        lanes = len(offsets) - 1
    ids = None
    if env_id is not None:
        env_id, lanes, ids = as_env_id(env_id, first, anchor)
    if mask is not None:
        mask = same_shape("mask", as_flags("mask", mask), first, anchor)
    return Layout(offsets, env_id, lanes, mask, mask_mode, ids)


def as_mask_mode(mask_mode: Any) -> None:
    if mask_mode not in MASK_MODES:
        raise ValueError(f"mask_mode is {mask_mode!r}; one of {', '.join(MASK_MODES)} is wanted")


def as_offsets(offsets: Any, size: int | None = None, first: str = "") -> Array:
    """Where packed sequences begin and, last, end: contiguous int64 that never fall, from 0 to `size`, the length of `first`, if given."""
    array = as_index("offsets", offsets)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(
            f"offsets has shape {array.shape}; (B + 1,), the B sequences' beginnings and the end, is wanted"
        )
    if array[0] != 0 or (size is not None and array[-1] != size):
        wanted = "from 0" if size is None else f"from 0 to {size}, the length of {first},"
        raise ValueError(f"offsets runs from {array[0]} to {array[-1]}; {wanted} is wanted")
    falls = array[1:] < array[:-1]
    if falls.any():
        b = int(falls.argmax())
        raise ValueError(f"offsets falls from {array[b]} to {array[b + 1]} at sequence {b}; it may not fall")
    return np.ascontiguousarray(array)


def as_env_id(env_id: Any, first: str, anchor: Array) -> tuple[Array, int, Array | None]:
    """The lane of each step, contiguous int32 or int64, and how many lanes there are. Numbers too large for a table are counted off in
    order, and returned as the third."""
    int32 = type(env_id) is np.ndarray and env_id.dtype == np.int32  # as EnvPool has it
    array = plain(env_id) if int32 else as_index("env_id", env_id)
    array = np.ascontiguousarray(same_shape("env_id", array, first, anchor))
    if array.size == 0:
        return array, 0, None
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= 4 * array.size + 1024:
        ids, array = np.unique(array, return_inverse=True)
        return np.ascontiguousarray(array.reshape(-1), np.int64), len(ids), ids
    return array, high + 1, None


def _next_value(kernel: str, next_value: Array, first: str, anchor: Array, axis: int, layout: Layout | None) -> Array:
    """next_value in full, or as V after the last step of each lane alone."""
    lanes = anchor.shape[:axis] + anchor.shape[axis + 1 :]
    if layout is not None and layout.offsets is not None:
        lanes = (layout.lanes,)
    if next_value.shape == anchor.shape:
        return next_value
    if layout is not None and layout.env_id is not None:
        ids = layout.ids
        if next_value.ndim == 1 and len(next_value) > layout.lanes:  # some lanes have no step here
            if ids is None:
                next_value = next_value[: layout.lanes]
            elif ids[0] >= 0 and ids[-1] < len(next_value):
                next_value = next_value[ids]
            if anchor.size and next_value.shape == anchor.shape:  # which is one value a step to the core
                next_value, layout.lanes = np.append(next_value, next_value[:1]), layout.lanes + 1
        lanes = (layout.lanes,)
    each = "sequence" if layout is not None and layout.offsets is not None else "lane"
    if next_value.shape != lanes:
        raise ValueError(
            f"next_value has shape {next_value.shape}, but {first} has {anchor.shape}; {anchor.shape} is wanted, "
            f"or {lanes} for the values after the last step of each {each}"
        )
    if "value" not in KINDS[kernel] and kernel != "reward_to_go":
        raise ValueError(
            f"next_value has shape {lanes}, the values after the last step of each {each}, but {kernel} reads V of the next state "
            f"at other steps too; {anchor.shape} is wanted"
        )
    return next_value


def _explain_cut(
    given: dict[str, Any], step: int, first: str, anchor: Array, axis: int, layout: Layout | None
) -> NoReturn:
    """Says which truncated step lacks the value of the state that it led to."""
    t, n = divmod(step, anchor.shape[1 - axis]) if anchor.ndim == 2 else (step, 0)
    at = (t, n) if axis == 0 else (n, t)
    where = f"step {t}" + (f" of lane {n}" if anchor.ndim == 2 else "")
    truncated = given["truncated"]
    why = (
        f"truncated is set at {where}"
        if truncated is not None and truncated[at[: anchor.ndim]]
        else f"mask_mode 'reset' cuts after {where}"
    )
    raise ValueError(
        f"next_value has shape {given['next_value'].shape}, the values after the last step of each lane, but {why}: the value of the "
        f"state that this step led to, before the reset, is missing; give next_value with shape {anchor.shape}"
    )


def _lined_up(kernel: str, ready: list[Any], axis: int, out: Any, optional: bool, layout: Layout) -> Any:
    """Runs a kernel that looks a number of steps ahead on copies of the steps, each lane's one after another and none masked."""
    anchor = ready[0]
    at = np.arange(anchor.size).reshape(anchor.shape)
    lane = layout.env_id
    if lane is None and layout.offsets is not None:
        lane = np.repeat(np.arange(layout.lanes), np.diff(layout.offsets))
    elif lane is None:
        lane = np.broadcast_to(np.expand_dims(np.arange(layout.lanes), axis) if anchor.ndim == 2 else 0, anchor.shape)
        at, lane = np.moveaxis(at, axis, -1).ravel(), np.moveaxis(lane, axis, -1).ravel()
    if layout.env_id is not None:
        at = np.argsort(lane, kind="stable")
        lane = lane[at]
    if layout.skips:
        kept = layout.mask.ravel()[at]
        at, lane = at[kept], lane[kept]
    offsets = np.append(0, np.cumsum(np.bincount(lane, minlength=layout.lanes)))
    mask = None if layout.mask is None or layout.skips else layout.mask.ravel()[at]
    lined = [x.ravel()[at] if np.shape(x) == anchor.shape else x for x in ready]
    packed = Layout(offsets, None, layout.lanes, mask, layout.mask_mode)
    got = _core.run_time(kernel, tuple(lined), 0, None, optional, True, packed.plain())
    result = np.empty(anchor.shape, anchor.dtype) if out is None else out
    result[...] = 0
    result.flat[at] = got
    return result


def as_fraction(name: str, value: Any, first: str, anchor: Array, read: Array | None = None) -> Any:
    """A float in [0, 1], or an array of such shaped like the anchor; with `read`, of such where that is True."""
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
    looks: tuple[Any, ...] = (True,) if read is None else (True, read)  # the first is seven times as fast
    for at in looks:
        if array.min(initial=1, where=at) >= 0 and array.max(initial=0, where=at) <= 1:
            return array
    where = tuple(int(i) for i in np.argwhere(~((array >= 0) & (array <= 1)) & at)[0])
    raise ValueError(f"{name}[{', '.join(map(str, where))}] is {array[where]}; numbers in [0, 1] are wanted")


def as_bound(name: str, value: Any) -> float:
    """A float from 0 to inf."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} is {value!r}; a number from 0 to inf is wanted")
    if not float(value) >= 0:
        raise ValueError(f"{name} is {value}; a number from 0 to inf is wanted")
    return float(value)


def as_count(name: str, value: Any) -> int:
    """An int from 1."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} is {value!r}; an integer from 1 is wanted")
    if value < 1:
        raise ValueError(f"{name} is {value}; an integer from 1 is wanted")
    return min(int(value), np.iinfo(np.int64).max)


# --- rows of actions


def _over_rows(kernel: str, args: tuple[Any, ...], out: Any) -> Any:
    given = dict(zip(PARAMETERS[kernel], args, strict=True))
    first, anchor = next(iter(given.items()))
    anchor = as_rows(first, anchor)
    rows, actions = anchor.shape[:-1], anchor.shape[-1]
    ready: list[Any] = [anchor.reshape(-1, actions)]
    for name, value in list(given.items())[1:]:
        kind, span = KINDS[kernel][name], SPANS[kernel][name]
        if kind == "INDEX":
            ready.append(of_each_row(name, as_index(name, value), rows, first, anchor).reshape(-1))
        elif kind == "FLAG" and span == "item":
            ready.append(same_shape(name, as_bits(name, value), first, anchor).reshape(-1, actions))
        elif kind == "FLAG":
            ready.append(None if value is None else of_every_row(name, as_flags(name, value), first, anchor))
        elif span == "row":
            ready.append(
                of_each_row(name, as_floats(name, value, like=(first, anchor)), rows, first, anchor).reshape(-1)
            )
        elif span == "action":
            ready.append(of_every_row(name, as_floats(name, value, like=(first, anchor)), first, anchor))
        else:
            ready.append(
                same_shape(name, as_floats(name, value, like=(first, anchor)), first, anchor).reshape(-1, actions)
            )
    outputs = [name for name, kind in KINDS[kernel].items() if kind.startswith("OUT")]
    shared = {f"{name}_grad" for name, x in zip(given, ready, strict=True) if x is not None and x.ndim == 1}
    shapes = [
        rows if SPANS[kernel][x] == "row" else anchor.shape[-1:] if x in shared else anchor.shape for x in outputs
    ]

    one_axis = {x for x in outputs if SPANS[kernel][x] == "row" or x in shared}

    def run(*outs: Any) -> Any:
        flat = None
        if outs[0] is not None:
            flat = tuple(
                o.reshape(-1) if x in one_axis else o.reshape(-1, actions) for o, x in zip(outs, outputs, strict=True)
            )
        done = _core.run_rows(kernel, tuple(ready), flat)
        if type(done) is int:
            explain_row(dict(zip(given, ready, strict=True)), done, rows)
        if len(outputs) > 1:
            return tuple(array.reshape(shape) for array, shape in zip(done, shapes, strict=True))
        return done.reshape(shapes[0])

    dtype = np.dtype(np.int64) if KINDS[kernel][outputs[0]] == "OUT_INDEX" else anchor.dtype
    return into_each(out, shapes, dtype, ready, run) if len(outputs) > 1 else into(out, shapes[0], dtype, ready, run)


def as_rows(name: str, value: Any) -> Array:
    array = as_floats(name, value)
    if array.ndim == 0 or array.shape[-1] == 0:
        raise ValueError(f"{name} has shape {array.shape}; (M, A) with at least one action is wanted")
    return array


def of_each_row(name: str, array: Array, rows: tuple[int, ...], first: str, anchor: Array) -> Array:
    if array.shape != rows:
        raise ValueError(f"{name} has shape {array.shape}, but {first} has {anchor.shape}; {rows} is wanted, one a row")
    return array


def of_every_row(name: str, array: Array, first: str, anchor: Array) -> Array:
    """One item a row and action, or one an action for every row."""
    if array.shape == anchor.shape[-1:]:
        return array
    if array.shape != anchor.shape:
        raise ValueError(
            f"{name} has shape {array.shape}, but {first} has {anchor.shape}; the same is wanted, or {anchor.shape[-1:]} for every row"
        )
    return array.reshape(-1, array.shape[-1])


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
        return space.from_dlpack(np.asarray(result)) if isinstance(result, (np.ndarray, np.generic)) else result

    return convert


# --- one argument at a time


def as_floats(name: str, value: Any, like: tuple[str, Array] | None = None) -> Array:
    """A native float32 or float64 array; with `like`, of that dtype. float16 and bfloat16 are widened, which loses nothing; else only lists
    and other dtype-less values are converted, whether their numbers are written 1.0 or 1."""
    if type(value) is np.ndarray and value.dtype in FLOATS and (like is None or value.dtype == like[1].dtype):
        return plain(value)
    array = as_array(name, value)
    if array.dtype.kind in "iu" and not hasattr(value, "dtype"):
        array = array.astype(np.float64)
    if array.dtype == np.float16:
        array = array.astype(np.float32 if like is None else like[1].dtype)
    if like is not None:
        anchor_name, anchor = like
        if not hasattr(value, "dtype") and array.dtype.kind == "f" or (array.size == 0 and not hasattr(value, "dtype")):
            return array.astype(anchor.dtype, copy=False)
        if is_half(value):
            return plain(array.astype(anchor.dtype, copy=False))
        if array.dtype.newbyteorder("=") != anchor.dtype:
            raise TypeError(
                f"{name} has dtype {array.dtype}, but {anchor_name} has {anchor.dtype}; give both the same, {name}.astype({anchor.dtype})"
            )
    elif array.dtype.newbyteorder("=") not in FLOATS and not (array.size == 0 and not hasattr(value, "dtype")):
        hint = f"; {name}.astype(float) converts it" if array.dtype.kind in "iub" else ""
        raise TypeError(f"{name} has dtype {array.dtype}; float32 or float64 is wanted{hint}")
    return plain(array)


def is_half(value: Any) -> bool:
    """Whether an array of 16-bit floats comes."""
    if isinstance(value, np.ndarray):
        return bool(value.dtype == np.float16)
    return str(getattr(value, "dtype", "")).rpartition(".")[2] in ("float16", "bfloat16")


def as_flags(name: str, value: Any) -> Array:
    array = as_array(name, value)
    if array.dtype != np.bool_:
        if array.size == 0 and not hasattr(value, "dtype"):
            return array.astype(bool)
        raise TypeError(f"{name} has dtype {array.dtype}; bool is wanted, {name} != 0 if it holds 0 and 1")
    return plain(array)


def as_generator(rng: Any) -> np.random.Generator:
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng is {rng!r}; a numpy.random.Generator is wanted, numpy.random.default_rng(seed) makes one")
    return rng


def as_bits(name: str, value: Any) -> Array:
    """Bools, or integers that are 0 and 1."""
    array = as_array(name, value)
    if array.dtype.kind not in "iu":
        return as_flags(name, value)
    if array.size and not (array.min() >= 0 and array.max() <= 1):
        where = tuple(int(i) for i in np.argwhere((array < 0) | (array > 1))[0])
        raise ValueError(f"{name}[{', '.join(map(str, where))}] is {array[where]}; 0 or 1 is wanted")
    return array.astype(bool)


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
    if is_foreign(value) and str(getattr(value, "dtype", "")).endswith("bfloat16"):  # which NumPy does not know
        value = value.float() if hasattr(value, "float") else value.astype("float32")
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


def into(
    out: Any, shape: tuple[int, ...], dtype: np.dtype[Any], inputs: list[Any], run: Any, strided: bool = False
) -> Any:
    """Runs into `out` after checking it, by way of a new array where it shares memory with an input, or is not in C order and `run` wants
    it so; into a new array for None."""
    if out is None:
        return run(None)
    array = as_out("out", out, shape, dtype)
    if _apart(array, inputs, strided):
        run(array)
    else:
        array[...] = run(None)
    return out


def into_each(
    outs: Any,
    shapes: Sequence[tuple[int, ...]],
    dtype: np.dtype[Any],
    inputs: list[Any],
    run: Callable[..., Any],
    strided: bool = False,
) -> Any:
    """The same for several results: run(None), or run(one, other, ...)."""
    if outs is None:
        return run(None)
    if not isinstance(outs, tuple) or len(outs) != len(shapes):
        came = f"a tuple of {len(outs)}" if isinstance(outs, tuple) else f"a {type(outs).__name__}"
        raise TypeError(f"out is {came}; a tuple of {len(shapes)} arrays, one for each result, is wanted")
    arrays = [as_out(f"out[{k}]", *each, dtype) for k, each in enumerate(zip(outs, shapes, strict=True))]
    if any(np.may_share_memory(a, b) for k, a in enumerate(arrays) for b in arrays[:k]):
        raise ValueError("out holds arrays that share memory; one for each result is wanted")
    if all(_apart(array, inputs, strided) for array in arrays):
        run(*arrays)
    else:
        for array, result in zip(arrays, run(None), strict=True):
            array[...] = result
    return outs


def as_out(name: str, out: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """An array that a result may be written into."""
    array = as_array(name, out) if is_foreign(out) else out
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{name} is a {type(array).__name__}; an array is wanted")
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(f"{name} has shape {array.shape} and dtype {array.dtype}; {shape} and {dtype} are wanted")
    if not array.flags.writeable:
        raise ValueError(f"{name} is read-only; a writeable array is wanted")
    return array


def _apart(array: Array, inputs: list[Any], strided: bool) -> bool:
    """Whether a result can be written in place: a plain array that shares no memory with an input."""
    shared = any(isinstance(other, np.ndarray) and np.may_share_memory(array, other) for other in inputs)
    return not shared and array.flags.aligned and (strided or array.flags.c_contiguous)
