"""Baselines: what to subtract from a return, for `baselined`, without moving the mean of the gradient.

Any b that does not depend on the action a_t leaves E[grad log pi(a_t | s_t) (G_t - b)] as it is and changes its variance alone
(Williams 1992, sec. 4, doi:10.1007/BF00992696). A value function is one, `baselined(returns, value)`; these are those that need none.

Each returns an array of the shape and dtype of `returns`. Sums are float64. A slot where `mask` is False is not read, whatever stands
there, and is 0 in the result, as is the baseline of no items at all; NaN anywhere else shows. `axis` is what the items lie along, one
axis or several, None for all: axis=1 for groups in the rows of (B, G), axis=None for one batch. Arrays of PyTorch and JAX come and go
as in `fastpg.returns`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastpg._check import as_floats, at_home, into, same_shape
from fastpg._moments import Axis, arguments, axes_of, blocks, moments_of, not_negative, of_block

__all__ = ["leave_one_out_baseline", "mean_baseline", "optimal_baseline"]

Array = NDArray[Any]


def mean_baseline(
    returns: ArrayLike,
    *,
    axis: Axis = None,
    mask: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    out: Array | None = None,
) -> Array:
    """The mean of all returns, the item's own among them.

      b = sum_i w_i G_i / sum_i w_i

    Its own return ties b to the action: of n items alike, the gradient comes out (1 - 1/n) times too small, in the same direction.
    Williams 1992, sec. 4, doi:10.1007/BF00992696, whose average leaves out the current return. The constant of least variance is
    another: `optimal_baseline`

    returns of any shape, float32 or float64; mask the same shape, bool; weight the same shape and dtype, from 0 up.

    >>> mean_baseline([1.0, 3.0, 5.0])
    array([3., 3., 3.])
    """
    home = at_home(returns)
    returns, mask, weight = arguments("returns", returns, mask, weight)
    return home(_constant(returns, mask, weight, axis, out))  # type: ignore[no-any-return]


def leave_one_out_baseline(
    returns: ArrayLike,
    *,
    axis: Axis = None,
    mask: ArrayLike | None = None,
    singleton: float | None = None,
    out: Array | None = None,
) -> Array:
    """The mean of all the other returns, which leaves the gradient unbiased.

      b_i = sum_{j != i} G_j / (n - 1) = mean + (mean - G_i) / (n - 1)

    A lone item has no others. singleton is its baseline: None for its own return, so that its advantage is 0, as TRL has it and
    RLOO of NeMo-RL; 0.0 leaves the return as it came, as verl's rloo.
    Kool, van Hoof and Welling 2019, "Buy 4 REINFORCE samples, get a baseline for free!"; Ahmadian et al. 2024, arXiv:2402.14740

    returns of any shape, float32 or float64; mask the same shape, bool.

    >>> leave_one_out_baseline([1.0, 3.0, 5.0])
    array([4., 3., 2.])
    """
    home = at_home(returns)
    returns, mask, _ = arguments("returns", returns, mask, None)
    alone = np.nan if singleton is None else _singleton(singleton)
    found = moments_of(returns, mask, None, axes_of(axis, returns.ndim))
    others = np.maximum(np.asarray(found.count) - 1, 1)

    def run(o: Array | None) -> Array:
        o = np.empty(returns.shape, returns.dtype) if o is None else o
        with np.errstate(invalid="ignore", over="ignore"):
            for block in blocks(returns.shape):
                mean = of_block(found.mean, block)
                b = (mean - returns[block]) / of_block(others, block) + mean
                if singleton is not None:
                    b = np.where(of_block(found.count, block) == 1, alone, b)
                o[block] = b if mask is None else np.where(mask[block], b, 0)
        return o

    return home(into(out, returns.shape, returns.dtype, [returns, mask], run))  # type: ignore[no-any-return]


def optimal_baseline(
    returns: ArrayLike,
    score_squared: ArrayLike,
    *,
    axis: Axis = None,
    mask: ArrayLike | None = None,
    out: Array | None = None,
) -> Array:
    """The constant that leaves the gradient the least variance.

      b* = E[|grad log pi|^2 G] / E[|grad log pi|^2]    the mean of the returns, weighted by the squared length of their scores

    It minimises E[|grad log pi|^2 (G - b)^2], the part of the variance that b moves. Where all scores are 0 every b is optimal, and 0
    is returned. Estimated from the batch it is used on, it depends on the actions, like `mean_baseline`.
    Greensmith, Bartlett and Baxter 2004, JMLR 5, 1471-1530; Weaver and Tao 2001, arXiv:1301.2315

    returns of any shape, float32 or float64; score_squared the same shape and dtype, from 0 up: for a softmax over logits, with
    respect to them, 1 - 2 pi(a) + sum_k pi(k)^2. mask the same shape, bool. One b for each index of the axes kept.

    >>> optimal_baseline([1.0, 5.0], [3.0, 1.0])
    array([2., 2.])
    """
    home = at_home(returns)
    returns, mask, _ = arguments("returns", returns, mask, None)
    squared = as_floats("score_squared", score_squared, like=("returns", returns))
    not_negative("score_squared", same_shape("score_squared", squared, "returns", returns), mask)
    return home(_constant(returns, mask, squared, axis, out))  # type: ignore[no-any-return]


def _constant(returns: Array, mask: Array | None, weight: Array | None, axis: Axis, out: Any) -> Any:
    """The mean, in every slot that is not masked."""
    mean = moments_of(returns, mask, weight, axes_of(axis, returns.ndim)).mean

    def run(o: Array | None) -> Array:
        o = np.empty(returns.shape, returns.dtype) if o is None else o
        with np.errstate(over="ignore"):
            o[...] = 0 if mask is not None else mean
            if mask is not None:
                np.copyto(o, mean, where=mask, casting="same_kind")
        return o

    return into(out, returns.shape, returns.dtype, [returns, mask], run)


def _singleton(singleton: Any) -> float:
    if isinstance(singleton, (bool, np.bool_)) or not isinstance(singleton, (int, float, np.integer, np.floating)):
        raise TypeError(f"singleton is {singleton!r}; a number is wanted, or None for the return itself")
    return float(singleton)
