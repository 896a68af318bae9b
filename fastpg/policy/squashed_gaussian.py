"""The squashed Gaussian policy: a = low + (high - low) (1 + tanh(u)) / 2 with u a diagonal Gaussian.

`mean` is (M, D), one row a state, or (..., D); `log_std` has its shape, or (D,) where every state shares it. Actions are handled as
`pre_action`, the number u before the squashing: tanh rounds every u beyond 9 (float32) or 19 (float64) to 1, where neither u nor
the density of the action can be told any more. `sample` and `mode` answer u, `squash(u)` is what the environment gets, and u is what
a batch stores. Where only the action was kept, `unsquash(action)` gives back what is left of u.

`low` and `high` bound the action: numbers, or (D,), one an action; -1 and 1 by default. They shift log-probabilities and entropies by a
constant, and no gradient. NaN in a row makes that row's results NaN, and those that rows share.

CPU tensors of PyTorch and arrays of JAX are read through DLPack, without a copy, and answered in kind.

A `_grad` function takes the upstream weight of each row and returns the pair of gradients, by `mean` and by `log_std`; `out`,
a pair of arrays of their shapes, takes them.
Every function here raises TypeError for a wrong dtype and ValueError for a wrong shape or range, naming the argument.
Haarnoja et al. 2018, appendix C, arXiv:1801.01290
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastpg._check import (
    as_floats,
    as_rows,
    at_home,
    into,
    into_each,
    of_each_row,
    of_every_row,
    over_rows,
    same_shape,
)
from fastpg.policy import gaussian
from fastpg.policy._bounds import as_bounds, log_width, within

__all__ = [
    "entropy",
    "entropy_grad",
    "kl",
    "kl_grad",
    "log_prob",
    "log_prob_grad",
    "mode",
    "sample",
    "squash",
    "unsquash",
]

Array = NDArray[Any]


def log_prob(
    mean: ArrayLike,
    log_std: ArrayLike,
    pre_action: ArrayLike,
    *,
    low: ArrayLike = -1.0,
    high: ArrayLike = 1.0,
    out: Array | None = None,
) -> Array:
    """Log-density of the actions squash(pre_action), with respect to the action.

      log pi(a) = log N(u; mean, exp(log_std)) - sum_d (log(1 - tanh(u[d])^2) + log((high[d] - low[d]) / 2)),    u = pre_action
      log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2 u))

    which keeps its digits however far out u lies. Haarnoja et al. 2018, eq. 21, arXiv:1801.01290

    mean, pre_action (M, D); log_std (M, D) or (D,). Returns (M,).

    >>> log_prob([[0.0]], [0.0], [[20.0]]).round(4)  # log N(20) + 2 (20 - log 2), where 1 - tanh(20)^2 rounds to 0
    array([-162.3052])
    """
    value = over_rows("squashed_gaussian_log_prob", (mean, log_std, pre_action), out)
    if shift := _log_width(mean, low, high):
        value -= shift
    return value  # type: ignore[no-any-return]


def log_prob_grad(
    mean: ArrayLike,
    log_std: ArrayLike,
    pre_action: ArrayLike,
    weight: ArrayLike,
    *,
    out: tuple[Array, Array] | None = None,
) -> tuple[Array, Array]:
    """The score, weighted: the gradients of sum_i weight[i] log pi(action[i]) with respect to mean and log_std.

    Those of `gaussian.log_prob_grad` at pre_action: the squashing does not depend on the parameters.

    mean, pre_action (M, D); log_std (M, D) or (D,); weight (M,), the dtype of mean. Returns (M, D) and the shape of log_std.

    >>> log_prob_grad([[0.0]], [0.0], [[2.0]], [1.0])
    (array([[2.]]), array([3.]))
    """
    m = as_rows("mean", mean)
    u = same_shape("pre_action", as_floats("pre_action", pre_action, like=("mean", m)), "mean", m)
    return gaussian.log_prob_grad(mean, log_std, u, weight, out=out)


def entropy(
    mean: ArrayLike,
    log_std: ArrayLike,
    *,
    low: ArrayLike = -1.0,
    high: ArrayLike = 1.0,
    out: Array | None = None,
) -> Array:
    """Differential entropy of the squashed action in nats. It has no closed form: the one-dimensional integral is done by quadrature.

      H = H[u] + sum_d (E[log(1 - tanh(u[d])^2)] + log((high[d] - low[d]) / 2)),    u[d] normal

    Within 1e-11 of adaptive integration for every scale (measured), the same for a row whatever the others are, without the noise of
    -log_prob of samples, and with an exact gradient. It costs about fifty evaluations a number. Others answer None
    (SB3), estimate it from a sample, or give the entropy before the squashing (rlax), which is `gaussian.entropy`.
    In float64 inside. Haarnoja et al. 2018, appendix C, arXiv:1801.01290

    mean (M, D); log_std (M, D) or (D,). Returns (M,).

    >>> entropy([[0.0]], [-20.0]).round(4)  # a narrow one is hardly bent: (1 + log(2 pi)) / 2 - 20
    array([-18.5811])
    >>> entropy([[0.0]], [0.0]).round(4)  # at most log 2, that of the uniform distribution on [-1, 1]
    array([0.6698])
    """
    home, m, s = at_home(mean), *_parameters(mean, log_std)
    shift = _log_width(mean, low, high) + m.shape[-1] * (0.5 + 0.5 * np.log(2 * np.pi))

    def run(o: Any) -> Any:
        value = (s + _mean_log_slope(m, s)[0]).sum(axis=-1) + shift
        if o is None:
            return value.astype(m.dtype)
        o[...] = value
        return o

    return home(into(out, m.shape[:-1], m.dtype, [m, s], run))  # type: ignore[no-any-return]


def entropy_grad(
    mean: ArrayLike, log_std: ArrayLike, weight: ArrayLike, *, out: tuple[Array, Array] | None = None
) -> tuple[Array, Array]:
    """The gradients of sum_i weight[i] H[i] with respect to mean and log_std, by the quadrature of `entropy`.

      d / d mean:       g[i, d] = -2 weight[i] E[tanh(u)]
      d / d log_std:    g[i, d] = weight[i] (1 - 2 E[tanh(u) (u - mean)]),    summed over i where log_std is (D,)

    mean (M, D); log_std (M, D) or (D,); weight (M,), the dtype of mean. Returns (M, D) and the shape of log_std.

    >>> entropy_grad([[20.0]], [-20.0], [4.0])  # far out on one side, and narrow
    (array([[-8.]]), array([4.]))
    """
    home, m, s = at_home(mean), *_parameters(mean, log_std)
    w = of_each_row("weight", as_floats("weight", weight, like=("mean", m)), m.shape[:-1], "mean", m)[..., None]
    _, by_mean, by_log_std = _mean_log_slope(m, s)
    both = w * by_mean, w * (1 + by_log_std)
    if s.shape != m.shape:
        both = both[0], both[1].reshape(-1, m.shape[-1]).sum(axis=0)

    def run(*outs: Any) -> tuple[Array, ...]:
        if outs[0] is None:
            return tuple(g.astype(m.dtype) for g in both)
        for o, g in zip(outs, both, strict=True):
            o[...] = g
        return outs

    return home(into_each(out, [g.shape for g in both], m.dtype, [m, s, w], run))  # type: ignore[no-any-return]


def kl(
    mean: ArrayLike,
    log_std: ArrayLike,
    other_mean: ArrayLike,
    other_log_std: ArrayLike,
    *,
    out: Array | None = None,
) -> Array:
    """Kullback-Leibler divergence in nats: that of the Gaussians, `gaussian.kl`, which no invertible map of the action changes.

    mean, other_mean (M, D); log_std, other_log_std (M, D) or (D,). Returns (M,).

    >>> kl([[1.0]], [0.0], [[3.0]], [0.0])
    array([2.])
    """
    return gaussian.kl(mean, log_std, other_mean, other_log_std, out=out)


def kl_grad(
    mean: ArrayLike,
    log_std: ArrayLike,
    other_mean: ArrayLike,
    other_log_std: ArrayLike,
    weight: ArrayLike,
    *,
    wrt: str = "parameters",
    out: tuple[Array, Array] | None = None,
) -> tuple[Array, Array]:
    """The gradients of sum_i weight[i] KL(p[i] || q[i]): those of `gaussian.kl_grad`.

    mean, other_mean (M, D); log_std, other_log_std (M, D) or (D,); weight (M,). Returns (M, D) and the shape of log_std, or of
    other_log_std with wrt="other".

    >>> kl_grad([[1.0]], [0.0], [[3.0]], [0.0], [1.0], wrt="other")
    (array([[2.]]), array([-4.]))
    """
    return gaussian.kl_grad(mean, log_std, other_mean, other_log_std, weight, wrt=wrt, out=out)


def sample(mean: ArrayLike, log_std: ArrayLike, rng: np.random.Generator) -> Array:
    """Draws u = mean + exp(log_std) z, one a row, before the squashing; squash(u) is the action.

    mean (M, D); log_std (M, D) or (D,); rng a numpy.random.Generator. Returns (M, D), a pre_action.

    >>> squash(sample([[0.0, 9.0]], [-np.inf, -np.inf], np.random.default_rng(0))).round(4)
    array([[0., 1.]])
    """
    return gaussian.sample(mean, log_std, rng)


def mode(mean: ArrayLike, log_std: ArrayLike) -> Array:
    """The mean of u: squash(mean) is what the field acts on without noise.

    It is the median of the action. The density of the action itself has its maximum elsewhere, for exp(log_std) > 1/2 possibly two.

    mean (M, D); log_std (M, D) or (D,). Returns (M, D), a pre_action.

    >>> mode([[1.0, 2.0]], [0.0, 0.0])
    array([[1., 2.]])
    """
    return gaussian.mode(mean, log_std)


def squash(pre_action: ArrayLike, *, low: ArrayLike = -1.0, high: ArrayLike = 1.0) -> Array:
    """The action: low + (high - low) (1 + tanh(u)) / 2, never outside [low, high].

    pre_action (M, D). Returns (M, D).

    >>> squash([[-50.0, 0.0, 50.0]], low=0.0, high=4.0)
    array([[0., 2., 4.]])
    """
    u = as_rows("pre_action", pre_action)
    lowest, highest = as_bounds(low, high, u.shape[-1])
    half, tanh = (highest - lowest) / 2, np.tanh(u.astype(np.float64, copy=False))
    action = np.where(tanh < 0, lowest + half * (1 + tanh), highest - half * (1 - tanh))
    return at_home(pre_action)(action.astype(u.dtype, copy=False))  # type: ignore[no-any-return]


def unsquash(action: ArrayLike, *, low: ArrayLike = -1.0, high: ArrayLike = 1.0) -> Array:
    """The pre_action of an action, where it was not kept: atanh of the action brought to [-1, 1].

    Actions at the bounds, and those that rounding put there, give the largest u that is left: atanh(1 - eps), 8.3 in float32
    and 18.4 in float64. That bounds what can be recovered; a batch that stores pre_action loses nothing.

    action (M, D), within [low, high]. Returns (M, D), a pre_action.

    >>> unsquash(squash([[-1.0, 0.0, 2.0]])).round(12)
    array([[-1.,  0.,  2.]])
    """
    a = as_rows("action", action)
    lowest, highest = as_bounds(low, high, a.shape[-1])
    within("action", a, lowest, highest)
    most = 1 - np.finfo(a.dtype).eps
    y = (2 * a.astype(np.float64, copy=False) - lowest - highest) / (highest - lowest)
    return at_home(action)(np.arctanh(np.clip(y, -most, most)).astype(a.dtype, copy=False))  # type: ignore[no-any-return]


def _log_width(mean: Any, low: Any, high: Any) -> float:
    if isinstance(low, float) and isinstance(high, float) and high - low == 2:
        return 0.0
    actions = np.shape(mean)[-1]
    return log_width(*as_bounds(low, high, actions), actions, 2.0)


def _parameters(mean: Any, log_std: Any) -> tuple[Array, Array]:
    m = as_rows("mean", mean)
    s = of_every_row("log_std", as_floats("log_std", log_std, like=("mean", m)), "mean", m)
    return m, s if s.ndim == 1 else s.reshape(m.shape)


def _mean_log_slope(mean: Array, log_std: Array) -> tuple[Array, Array, Array]:
    """E[log(1 - tanh(u)^2)] for u normal, and its derivatives by mean and log_std, in float64.

    Narrow Gaussians, exp(log_std) < 1: the trapezoidal rule in z = (u - mean) / std. It converges as exp(-pi^2 / (std step)), for the
    integrand is analytic up to pi/2 off the real axis (Trefethen and Weideman 2014, theorem 5.1, doi:10.1137/130932132).
    Wide ones: log(1 - tanh(u)^2) = 2 log 2 - 2 |u| - 2 log(1 + exp(-2 |u|)). E|u| is known (the folded normal), and what is left
    lies within |u| < 19, where a wide density is smooth: Gauss-Legendre on either side of 0.
    """
    m, s = np.broadcast_arrays(mean.astype(np.float64), log_std.astype(np.float64))
    value, by_mean, by_log_std = (np.full(m.shape, np.nan) for _ in range(3))
    for rule, chosen in ((_narrow, s < 0), (_wide, s >= 0)):
        if chosen.any():
            value[chosen], by_mean[chosen], by_log_std[chosen] = rule(m[chosen], np.exp(s[chosen]))
    return value, by_mean, by_log_std


def _narrow(mean: Array, std: Array) -> tuple[Array, Array, Array]:
    step = 0.375
    value, slope, spread = (np.zeros(mean.shape) for _ in range(3))
    for z in step * np.arange(-24, 25):  # up to 9 standard deviations
        share = step * np.exp(-z * z / 2) / np.sqrt(2 * np.pi)
        u = mean + std * z
        distance = np.abs(u)
        value += share * (np.log(2.0) - distance - np.log1p(np.exp(-2 * distance)))
        tanh = np.tanh(u)
        slope += share * tanh
        spread += share * z * tanh
    return 2 * value, -2 * slope, -2 * std * spread


def _wide(mean: Array, std: Array) -> tuple[Array, Array, Array]:
    from scipy.special import erf

    ratio = mean / std
    peak, mass = np.sqrt(2 / np.pi) * np.exp(-ratio * ratio / 2), erf(ratio / np.sqrt(2))
    # E|u|, and its derivatives by mean and by std
    value, slope, spread = std * peak + mean * mass, mass, std * peak
    node, weight = np.polynomial.legendre.leggauss(64)
    for u, share in zip(9.5 * (1 + node), 9.5 * weight, strict=True):
        share *= np.log1p(np.exp(-2 * u))
        for side in (u, -u):
            z = (side - mean) / std
            density = share * np.exp(-z * z / 2) / (np.sqrt(2 * np.pi) * std)
            value = value + density
            slope = slope + density * z / std
            spread = spread + density * (z * z - 1)
    return 2 * np.log(2.0) - 2 * value, -2 * slope, -2 * spread
