"""Moments in blocks: the engine under `normalization` and `baselines`.

Sums are float64, over deviations from a mean already subtracted. Over all axes, or the last ones, they run in csrc/statistics.h, over
others in NumPy, a block at a time: nothing larger is ever allocated.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastpg import _core
from fastpg._check import as_axis, as_flags, as_floats, same_shape

Array = NDArray[Any]
Axis = int | tuple[int, ...] | None

BLOCK = 1 << 15  # items in float64: 256 KB a scratch row, of which there are at most three


class Moments(NamedTuple):
    """How many, their mean, and the sum of squared deviations from it; float64, one of each for every index of the axes kept.

      count = sum w,    mean = sum w x / count,    m2 = sum w (x - mean)^2

    The mean and m2 of nothing are 0. m2 / count is the variance, m2 / (count - 1) the unbiased one.

    >>> Moments(count=2.0, mean=3.0, m2=8.0)
    Moments(count=2.0, mean=3.0, m2=8.0)
    """

    count: Any
    mean: Any
    m2: Any


def moments_of(x: Array, mask: Array | None, weight: Array | None, axes: tuple[int, ...] | None) -> Moments:
    """Floats for axes None, else arrays that keep the axes they ran over, of length 1."""
    if axes is None:
        state = (0.0, 0.0, 0.0)
        for part, m, w in _contiguous(x, mask, weight):
            state = _core.moments(part, m, w, state)
        return Moments(*state)
    shape = tuple(1 if k in axes else n for k, n in enumerate(x.shape))
    if axes[0] == x.ndim - len(axes) and x.size and all(a is None or a.flags.c_contiguous for a in (x, mask, weight)):
        rows = np.empty((math.prod(shape), 3))
        _core.row_moments(x, mask, weight, len(rows), rows)
        return Moments(*(field.reshape(shape) for field in rows.T))
    # A block and its deviations; its selector, then its weighted or squared deviations; its weights.
    scratch = np.empty((2 + (weight is not None), min(x.size, BLOCK)))
    whole = Moments(np.zeros(shape), np.zeros(shape), np.zeros(shape))
    with np.errstate(invalid="ignore", over="ignore"):
        for block in blocks(x.shape):
            m, w = (None if a is None else a[block] for a in (mask, weight))
            found = _block_moments(x[block], m, w, scratch, axes)
            kept = tuple(slice(None) if k in axes else s for k, s in enumerate(block))
            for field, value in zip(whole, merged(Moments(*(f[kept] for f in whole)), found), strict=True):
                field[kept] = value
    return whole


def _contiguous(*arrays: Array | None) -> Iterator[tuple[Any, ...]]:
    """The arrays as they are where all are contiguous, else copies of a block at a time."""
    if all(a is None or a.flags.c_contiguous for a in arrays):
        yield arrays
        return
    shape = next(a.shape for a in arrays if a is not None)
    for block in blocks(shape):
        yield tuple(None if a is None else np.ascontiguousarray(a[block]) for a in arrays)


def _block_moments(
    x: Array, mask: Array | None, weight: Array | None, scratch: Array, axes: tuple[int, ...]
) -> Moments:
    """As csrc/statistics.h has it."""
    d, other = (row[: x.size].reshape(x.shape) for row in scratch[:2])
    np.copyto(d, x)
    keep, w, wd = None, None, d
    if mask is not None:
        keep = selector(mask, scratch[1])
        zero_but(keep, d)
    if weight is not None:
        w = scratch[2, : x.size].reshape(x.shape)
        np.copyto(w, weight)
        if keep is not None:
            zero_but(keep, w)
            keep = None  # a weight of 0 does the same from here
        wd = np.multiply(d, w, out=other)
        count = _sum(w, axes)
    else:
        over = np.broadcast_to(True, x.shape) if mask is None else mask
        count = np.add.reduce(over, axis=axes, keepdims=True, dtype=np.float64)
    divisor = count + (count == 0)  # nothing counted: every sum is 0
    rough = _sum(wd, axes) / divisor
    d -= rough
    if keep is not None:
        zero_but(keep, d)
    if w is not None:
        np.multiply(d, w, out=other)
    rest = _sum(wd, axes)
    # The mean of equal items is exact: what rounding left in `rough`, `rest` takes out to the last bit.
    m2 = _sum(np.multiply(wd, d, out=other), axes) - rest * rest / divisor
    return Moments(count, rough + rest / divisor, np.maximum(m2, 0.0))


def merged(a: Moments, b: Moments) -> Moments:
    count = a.count + b.count
    share = b.count / (count + (count == 0))
    d = b.mean - a.mean
    return Moments(count, a.mean + d * share, a.m2 + b.m2 + d * (a.count * share) * d)


def of_block(statistic: Any, block: tuple[slice, ...]) -> Any:
    if np.ndim(statistic) == 0:
        return statistic
    return statistic[tuple(slice(None) if n == 1 else s for n, s in zip(statistic.shape, block, strict=True))]


def blocks(shape: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Slices of at most BLOCK items that cover an array in C order, whatever its strides."""
    size = math.prod(shape)
    if size == 0:
        return
    if size <= BLOCK:
        yield (slice(None),) * len(shape)
        return
    inner = size // shape[0]
    if inner <= BLOCK:
        step = BLOCK // inner
        for i in range(0, shape[0], step):
            yield (slice(i, i + step), *(slice(None),) * (len(shape) - 1))
    else:
        for i in range(shape[0]):
            for rest in blocks(shape[1:]):
                yield (slice(i, i + 1), *rest)


def selector(mask: Array, scratch: Array) -> Array:
    """All bits where the mask is set, none elsewhere."""
    keep = scratch[: mask.size].view(np.int64).reshape(mask.shape)
    np.copyto(keep, mask)
    return np.negative(keep, out=keep)


def zero_but(keep: Array, values: Array) -> None:
    """0 where `keep` has no bits, whatever stood there: a third of the time of a masked copy, and NaN * 0 is NaN."""
    bits = values.view(np.int64)
    np.bitwise_and(bits, keep, out=bits)


def _sum(values: Array, axes: tuple[int, ...]) -> Any:
    return np.add.reduce(values, axis=axes, keepdims=True)


def apply(x: Array, mask: Array | None, mean: Any, divisor: Any, out: Array) -> None:
    """(x - mean) / divisor into out, in float64 until then, and 0 where the mask is not set. mean and divisor are floats, or arrays
    with the axes of x, some of length 1. out may be x."""
    factor = 1 / divisor
    one = isinstance(factor, float)
    divide = not (factor < np.inf if one else (factor < np.inf).all())  # a divisor below 1e-308 has no reciprocal
    by = divisor if divide else factor
    inner = 0 if one else next((k + 1 for k in reversed(range(x.ndim)) if mean.shape[k] == x.shape[k]), 0)
    if one or mean.size == math.prod(x.shape[:inner]):  # every row of the last axes has its own
        means, bys = (np.array([mean]), np.array([by])) if one else (np.ascontiguousarray(a) for a in (mean, by))
        if out.flags.carray and x.flags.c_contiguous and (mask is None or mask.flags.c_contiguous):
            _core.whiten(x, mask, means, bys, divide, out)
            return
    if one:
        for block in blocks(x.shape):
            m = None if mask is None else np.ascontiguousarray(mask[block])
            made = np.empty(x[block].shape, out.dtype)
            _core.whiten(np.ascontiguousarray(x[block]), m, means, bys, divide, made)
            out[block] = made
        return
    inside = out.dtype == np.float64
    room = min(x.size, BLOCK)
    scratch, bits = np.empty(0 if inside else room), np.empty(0 if mask is None else room)
    for block in blocks(x.shape):
        target = out[block]
        y = target if inside else scratch[: target.size].reshape(target.shape)
        np.copyto(y, x[block])
        y -= of_block(mean, block)
        (np.divide if divide else np.multiply)(y, of_block(by, block), out=y)
        if mask is not None:
            zero_but(selector(mask[block], bits), y)
        if not inside:
            np.copyto(target, y, casting="same_kind")


# --- arguments


def arguments(name: str, x: Any, mask: Any, weight: Any) -> tuple[Array, Array | None, Array | None]:
    x = as_floats(name, x)
    if mask is not None:
        mask = same_shape("mask", as_flags("mask", mask), name, x)
    if weight is not None:
        weight = same_shape("weight", as_floats("weight", weight, like=(name, x)), name, x)
        not_negative("weight", weight, mask)
    return x, mask, weight


def axes_of(axis: Any, ndim: int) -> tuple[int, ...] | None:
    """Which axes, sorted and from 0; None for all of them."""
    if axis is None:
        return None
    several = axis if isinstance(axis, tuple) else (axis,)
    if not several:
        raise ValueError("axis is (); one axis at least is wanted, or None for all")
    axes = tuple(sorted(as_axis(a, ndim) for a in several))
    if len(set(axes)) < len(axes):
        raise ValueError(f"axis is {axis}, which names an axis twice")
    return None if len(axes) == ndim else axes


def not_negative(name: str, weight: Array, mask: Array | None) -> None:
    for block in blocks(weight.shape):
        wrong = np.less(weight[block], 0) & (True if mask is None else mask[block])
        if wrong.any():
            raise ValueError(
                f"{name} holds {np.atleast_1d(weight[block])[np.atleast_1d(wrong)][0]}; numbers from 0 up are wanted"
            )
