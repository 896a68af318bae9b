"""The box that continuous actions lie in: low and high, numbers or one of each an action."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastpg._check import as_array

Array = NDArray[Any]


def as_bounds(low: ArrayLike, high: ArrayLike, actions: int) -> tuple[Array, Array]:
    """Both in float64, of shape () or (D,), with low < high everywhere."""
    bounds = []
    for name, value in (("low", low), ("high", high)):
        array = as_array(name, value)
        if array.dtype.kind not in "fiu":
            raise TypeError(f"{name} has dtype {array.dtype}; numbers are wanted")
        if array.shape not in ((), (actions,)):
            raise ValueError(f"{name} has shape {array.shape}; a number is wanted, or ({actions},), one an action")
        bounds.append(array.astype(np.float64))
    lowest, highest = np.broadcast_arrays(*bounds)
    good = (lowest < highest) & np.isfinite(highest - lowest)
    if not good.all():
        where = tuple(int(i) for i in np.argwhere(~good)[0])
        at = f"[{where[0]}]" if where else ""
        raise ValueError(
            f"low{at} is {lowest[where]} and high{at} is {highest[where]}; finite numbers with low < high are wanted"
        )
    return bounds[0], bounds[1]


def within(name: str, array: Array, low: Array, high: Array) -> Array:
    """The array, refused where it leaves the bounds, which are rounded to its dtype first."""
    outside = (array < low.astype(array.dtype)) | (array > high.astype(array.dtype))
    if outside.any():
        where = tuple(int(i) for i in np.argwhere(outside)[0])
        at = f"{name}[{', '.join(map(str, where))}]"
        raise ValueError(f"{at} is {array[where]}; numbers from low to high are wanted: {low} to {high}")
    return array


def log_width(low: Array, high: Array, actions: int, of: float) -> float:
    """sum over the actions of log((high - low) / of), `of` the width of the distribution before it is stretched."""
    return float(np.broadcast_to(np.log((high - low) / of), (actions,)).sum())
