"""Losses of the value function, with their gradients, and how much of the return it explains."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastpg._check import as_flags, as_floats, at_home, into, same_shape
from fastpg._tokens import Tokens

__all__ = ["explained_variance", "value_loss"]

Array = NDArray[Any]
BLOCK = 1 << 14  # items a pass: what is in between stays in the cache
AGGREGATES = ("token_mean", "token_sum", "seq_mean_token_sum", "seq_mean_token_mean")


def value_loss(
    value: ArrayLike,
    target: ArrayLike,
    old_value: ArrayLike | None = None,
    *,
    clip: float | None = None,
    clip_kind: str = "max",
    kind: str = "squared",
    delta: float = 1.0,
    factor: float = 0.5,
    mask: ArrayLike | None = None,
    offsets: ArrayLike | None = None,
    aggregate: str = "token_mean",
    denominator: float | None = None,
    out: Array | None = None,
) -> tuple[float, Array]:
    """The loss of predicting `target` by `value`, and its gradient with respect to value.

      l(v)  = factor (v - target)^2                                                                   squared
      l(v)  = the same where |v - target| <= delta, else factor delta (2 |v - target| - delta)        huber
      v_c   = old_value + clip(v - old_value, -clip, clip)
      loss  = sum l / denominator,    with clip: max(l(v), l(v_c)) for l, or l(v_c) for clip_kind="only"

    factor = 0.5 gives (v - target)^2 / 2 and the Huber loss as Huber wrote it, the convention of PPO codes (CleanRL, verl, TRL, OpenRLHF);
    1.0 the plain mean squared error (Stable Baselines3, whose clip is clip_kind="only"; Spinning Up). Huber with a large delta is squared.
    Where v is clipped and l(v_c) is the larger, or clip_kind is "only", the gradient is 0; where the two are equal, it is that of l(v).
    Schulman et al. 2017, eq. 9, arXiv:1707.06347; the clipped form is OpenAI Baselines'; Huber 1964, doi:10.1214/aoms/1177703732

    aggregate: "token_mean" over what is unmasked, "token_sum"; or the mean over sequences (rows of (B, T), pieces of packed offsets) of
    "seq_mean_token_sum" or "seq_mean_token_mean". denominator: what stands for the number of tokens, of sequences, or for 1, in a batch
    that is one of many: the losses and gradients of the parts then sum to those of the whole. out: takes the gradient.

    value, target, old_value and mask of one shape, float32 or float64 and bool; any shape with token_mean and token_sum. Sums are float64.
    Masked places are never read and have gradient 0; a NaN elsewhere surfaces. Nothing unmasked: loss 0.0.

    >>> value_loss([0.0, 2.0], [1.0, 1.0])
    (0.5, array([-0.5,  0.5]))
    >>> value_loss([0.0, 2.0], [1.0, 4.0], [1.0, 1.0], clip=0.5)  # the second moved 1 towards its target, past the clip
    (1.8125, array([-0.5,  0. ]))
    """
    v = as_floats("value", value)
    t = same_shape("target", as_floats("target", target, like=("value", v)), "value", v)
    if (old_value is None) != (clip is None):
        missing, given = ("old_value", "clip") if old_value is None else ("clip", "old_value")
        raise TypeError(f"{missing} is None, but {given} is given; both are wanted, or neither")
    for name, held, wanted in (
        ("kind", kind, ("squared", "huber")),
        ("clip_kind", clip_kind, ("max", "only")),
        ("aggregate", aggregate, AGGREGATES),
    ):
        if held not in wanted:
            raise ValueError(f"{name} is {held!r}; one of {', '.join(wanted)} is wanted")
    delta = np.inf if kind == "squared" else _above("delta", delta)
    factor = _above("factor", factor)
    arrays = [v, t]
    if old_value is not None:
        bound = _above("clip", clip)
        arrays.append(same_shape("old_value", as_floats("old_value", old_value, like=("value", v)), "value", v))
    share, keep = _shares(v, mask, offsets, aggregate, denominator)
    flat = [array.reshape(-1) for array in arrays]
    sums = []

    def run(target: Array | None) -> Array:
        grad = np.empty(v.size, v.dtype) if target is None else target.reshape(-1)
        for start in range(0, v.size, BLOCK):
            part = slice(start, start + BLOCK)
            here = None if keep is None else keep[part]
            with np.errstate(all="ignore"):
                if delta == np.inf and len(flat) == 2 and not isinstance(share, np.ndarray):
                    e = flat[0][part].astype(np.float64)
                    e -= flat[1][part]
                    _blank(e, here)
                    sums.append(factor * share * float(np.einsum("i,i->", e, e)))
                    if factor != 0.5:
                        e *= 2 * factor
                    np.multiply(e, share, out=grad[part], casting="same_kind")
                    continue
                x, goal, *old = (_blank(array[part].astype(np.float64), here) for array in flat)
                loss, slope = _loss(x - goal, factor, delta)
                if old:
                    moved = x - old[0]
                    clipped, _ = _loss(old[0] + np.clip(moved, -bound, bound) - goal, factor, delta)
                    # Written so that a NaN in old_value counts as clipped, and 0 * clipped shows it in the gradient, too.
                    binds = ~(np.abs(moved) <= bound) & (~(clipped <= loss) | (clip_kind == "only"))
                    loss, slope = np.where(binds, clipped, loss), np.where(binds, 0 * clipped, slope)
                each = share[part] if isinstance(share, np.ndarray) else share
                sums.append(float(np.sum(loss * each)))
                np.multiply(slope, each, out=grad[part], casting="same_kind")
        return grad.reshape(v.shape)

    grad = at_home(value)(into(out, v.shape, v.dtype, arrays, run))
    return sum(sums, 0.0), grad


def _blank(x: Array, keep: Array | None) -> Array:
    """x with 0 at masked places: by its bits, which takes no branch, and whatever stands there."""
    if keep is not None:
        bits = x.view(np.int64)
        bits &= keep
    return x


def _loss(e: Array, factor: float, delta: float) -> tuple[Array, Array]:
    """The loss of an error, and its derivative."""
    if delta == np.inf:
        return factor * e * e, 2 * factor * e
    size = np.abs(e)
    near = size <= delta
    return np.where(near, factor * e * e, factor * delta * (2 * size - delta)), 2 * factor * np.clip(e, -delta, delta)


def _shares(v: Array, mask: Any, offsets: Any, aggregate: str, denominator: Any) -> tuple[Any, Array | None]:
    """What each place counts in the loss, one number for all or one each, and -1 where something counts, else 0; None: everywhere."""
    keep = None
    if mask is not None:
        valid = same_shape("mask", as_flags("mask", mask), "value", v)
        keep = None if valid.all() else -valid.reshape(-1).astype(np.int8)
    if denominator is not None:
        denominator = _above("denominator", denominator)
    if aggregate in ("token_mean", "token_sum"):
        if offsets is not None:
            Tokens("value", v.shape, mask, offsets)  # refuses what does not fit
        items = v.size if keep is None else int(np.count_nonzero(keep))
        return 1 / (denominator or (items if aggregate == "token_mean" else 1) or 1), keep
    tokens = Tokens("value", v.shape, mask, offsets)
    sequences = denominator or np.count_nonzero(tokens.length) or 1
    each = 1 / np.maximum(tokens.length, 1) if aggregate == "seq_mean_token_mean" else np.ones(len(tokens.length))
    return tokens.spread(np.repeat(each / sequences, tokens.length), np.float64).reshape(-1), keep


def explained_variance(value: ArrayLike, target: ArrayLike, *, mask: ArrayLike | None = None) -> float:
    """The share of the variance of the targets that the values explain.

      1 - Var(target - value) / Var(target),    variances over the unmasked items

    1 is perfect up to a constant, 0 no better than a constant, below 0 worse. Where the target does not vary: 1.0 if the residual does not
    either, else 0.0 (as scikit-learn). Of nothing: 0.0. Two passes, float64. NaN among the unmasked gives NaN.

    value, target and mask of one shape, float32 or float64 and bool. Masked places are never read.

    >>> explained_variance([1.0, 2.0, 3.0], [2.0, 3.0, 4.0])
    1.0
    >>> explained_variance([0.0, 0.0, 0.0], [1.0, 2.0, 3.0])
    0.0
    >>> explained_variance([1.0, 2.0], [5.0, 5.0])
    0.0
    """
    v = as_floats("value", value)
    t = same_shape("target", as_floats("target", target, like=("value", v)), "value", v)
    if mask is not None:
        valid = same_shape("mask", as_flags("mask", mask), "value", v)
        v, t = v[valid], t[valid]
    if t.size == 0:
        return 0.0
    with np.errstate(all="ignore"):
        goal = t.ravel().astype(np.float64)
        left, all_of_it = _squares(goal - v.ravel()), _squares(goal)
        if all_of_it == 0:
            return 1.0 if left == 0 else float(0 * left)
        return float(1 - left / all_of_it)


def _squares(x: Array) -> float:
    """The sum of squares about the mean, 0 exactly where all are equal."""
    d = x - x[0]
    return float(np.square(d - d.mean()).sum())


def _above(name: str, value: Any) -> float:
    if isinstance(value, (bool, np.bool_, str)) or not isinstance(value, Real):
        raise TypeError(f"{name} is {value!r}; a number above 0 is wanted")
    number = float(value)
    if not 0 < number < np.inf:
        raise ValueError(f"{name} is {number}; a finite number above 0 is wanted")
    return number
