"""The diagonal Gaussian policy: D independent normal numbers a row, mean `mean` and standard deviation exp(log_std).

`mean` is (M, D), one row a state, or (..., D); float32 or float64, kept as it comes. `log_std` has its shape where the network gives it,
or (D,) where every state shares it: then its gradient is (D,) too, the sum over rows. `action` is shaped like `mean`; `weight` has
one item a row. Log-probabilities, entropies and divergences are sums over the D numbers of a row. NaN in a row makes that row's
results NaN, and those that rows share.

CPU tensors of PyTorch and arrays of JAX are read through DLPack, without a copy, and answered in kind.

A `_grad` function takes the upstream weight of each row and returns the pair of gradients, by `mean` and by `log_std`; `out`,
a pair of arrays of their shapes, takes them.
Every function here raises TypeError for a wrong dtype and ValueError for a wrong shape, naming the argument.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastpg._check import as_floats, as_generator, as_rows, at_home, into_each, of_each_row, of_every_row, over_rows

__all__ = ["entropy", "entropy_grad", "kl", "kl_grad", "log_prob", "log_prob_grad", "mode", "sample"]

Array = NDArray[Any]


def log_prob(mean: ArrayLike, log_std: ArrayLike, action: ArrayLike, *, out: Array | None = None) -> Array:
    """Log-density of the actions taken.

      log pi(a) = -sum_d (z[d]^2 / 2 + log_std[d] + log(2 pi) / 2),    z = (a - mean) / exp(log_std)

    Williams 1992, sec. 6, doi:10.1007/BF00992696; Sutton and Barto 2018, eq. 13.19

    mean, action (M, D); log_std (M, D) or (D,). Returns (M,).

    >>> log_prob([[0.0, 0.0]], [0.0, 0.0], [[0.0, 2.0]]).round(4)
    array([-3.8379])
    """
    return over_rows("gaussian_log_prob", (mean, log_std, action), out)  # type: ignore[no-any-return]


def log_prob_grad(
    mean: ArrayLike, log_std: ArrayLike, action: ArrayLike, weight: ArrayLike, *, out: tuple[Array, Array] | None = None
) -> tuple[Array, Array]:
    """The score, weighted: the gradients of sum_i weight[i] log pi(action[i]) with respect to mean and log_std.

      d / d mean:       g[i, d] = weight[i] z[i, d] / exp(log_std[i, d]),    z = (a - mean) / exp(log_std)
      d / d log_std:    g[i, d] = weight[i] (z[i, d]^2 - 1),                 summed over i where log_std is (D,)

    Williams 1992, sec. 6, doi:10.1007/BF00992696

    mean, action (M, D); log_std (M, D) or (D,); weight (M,), the dtype of mean. Returns (M, D) and the shape of log_std.

    >>> log_prob_grad([[0.0], [0.0]], [0.0], [[2.0], [1.0]], [1.0, 10.0])
    (array([[ 2.],
           [10.]]), array([3.]))
    """
    return over_rows("gaussian_log_prob_grad", (mean, log_std, action, weight), out)  # type: ignore[no-any-return]


def entropy(mean: ArrayLike, log_std: ArrayLike, *, out: Array | None = None) -> Array:
    """Differential entropy in nats; `mean` says how many rows there are.

      H = sum_d (log_std[d] + (1 + log(2 pi)) / 2)

    Shannon 1948, sec. 20

    mean (M, D); log_std (M, D) or (D,). Returns (M,).

    >>> entropy([[0.0], [5.0]], [0.0]).round(4)
    array([1.4189, 1.4189])
    """
    return over_rows("gaussian_entropy", (mean, log_std), out)  # type: ignore[no-any-return]


def entropy_grad(
    mean: ArrayLike, log_std: ArrayLike, weight: ArrayLike, *, out: tuple[Array, Array] | None = None
) -> tuple[Array, Array]:
    """The gradients of sum_i weight[i] H[i] with respect to mean and log_std.

      d / d mean:       g[i, d] = 0
      d / d log_std:    g[i, d] = weight[i],    summed over i where log_std is (D,)

    mean (M, D); log_std (M, D) or (D,); weight (M,), the dtype of mean. Returns (M, D) and the shape of log_std.

    >>> entropy_grad([[0.0], [5.0]], [0.0], [1.0, 2.0])
    (array([[0.],
           [0.]]), array([3.]))
    """
    home, m, s = at_home(mean), *_parameters(mean, log_std)
    w = of_each_row("weight", as_floats("weight", weight, like=("mean", m)), m.shape[:-1], "mean", m)
    shape = m.shape if s.ndim > 1 else s.shape

    def run(by_mean: Any, by_log_std: Any = None) -> tuple[Array, Array]:
        if by_mean is None:
            by_mean, by_log_std = np.zeros(m.shape, m.dtype), np.empty(shape, m.dtype)
        else:
            by_mean[...] = 0
        if s.ndim == 1:
            by_log_std[...] = w.sum()
        elif m.shape[-1] < 8:
            for d in range(m.shape[-1]):  # NumPy's loop over a short last axis costs more
                by_log_std[..., d] = w
        else:
            by_log_std[...] = w[..., None]
        return by_mean, by_log_std

    return home(into_each(out, [m.shape, shape], m.dtype, [m, s, w], run))  # type: ignore[no-any-return]


def kl(
    mean: ArrayLike,
    log_std: ArrayLike,
    other_mean: ArrayLike,
    other_log_std: ArrayLike,
    *,
    out: Array | None = None,
) -> Array:
    """Kullback-Leibler divergence in nats, from the policy q of the other parameters to the policy p of the first.

      KL(p || q) = sum_d (exp(t) - 1 - t + d^2) / 2,    t = 2 (log_std - other_log_std), d = (mean - other_mean) / exp(other_log_std)

    exp(t) - 1 - t keeps its digits near 0, where small steps of a policy lie.
    Kullback and Leibler 1951, sec. 2, doi:10.1214/aoms/1177729694

    mean, other_mean (M, D); log_std, other_log_std (M, D) or (D,). Returns (M,).

    >>> kl([[1.0]], [0.0], [[3.0]], [0.0])
    array([2.])
    """
    return over_rows("gaussian_kl", (mean, log_std, other_mean, other_log_std), out)  # type: ignore[no-any-return]


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
    """The gradients of sum_i weight[i] KL(p[i] || q[i]) with respect to mean and log_std, or to the other two with wrt="other".

      d / d mean:            g[i, d] = weight[i] d / exp(other_log_std)
      d / d log_std:         g[i, d] = weight[i] (exp(t) - 1)
      d / d other_mean:      g[i, d] = -weight[i] d / exp(other_log_std)
      d / d other_log_std:   g[i, d] = -weight[i] (exp(t) - 1 + d^2)

    with t and d of `kl`, summed over i where the log_std in question is (D,). A penalty KL(old || new) is descended with wrt="other".

    mean, other_mean (M, D); log_std, other_log_std (M, D) or (D,); weight (M,), the dtype of mean. Returns (M, D) and the shape of
    log_std, or of other_log_std.

    >>> kl_grad([[1.0]], [0.0], [[3.0]], [0.0], [1.0], wrt="other")
    (array([[2.]]), array([-4.]))
    """
    kernels = {"parameters": "gaussian_kl_grad", "other": "gaussian_kl_grad_other"}
    if wrt not in kernels:
        raise ValueError(f"wrt is {wrt!r}; 'parameters' or 'other' is wanted")
    return over_rows(kernels[wrt], (mean, log_std, other_mean, other_log_std, weight), out)  # type: ignore[no-any-return]


def sample(mean: ArrayLike, log_std: ArrayLike, rng: np.random.Generator) -> Array:
    """Draws one action a row.

      a = mean + exp(log_std) z,    z standard normal, by the ziggurat of numpy.random

    mean (M, D); log_std (M, D) or (D,); rng a numpy.random.Generator. Returns (M, D).

    >>> sample([[1.0, 2.0]], [-np.inf, -np.inf], np.random.default_rng(0))
    array([[1., 2.]])
    """
    home, m, s = at_home(mean), *_parameters(mean, log_std)
    action = as_generator(rng).standard_normal(m.shape, dtype=m.dtype.type)
    action *= np.exp(s)
    action += m
    return home(action)  # type: ignore[no-any-return]


def mode(mean: ArrayLike, log_std: ArrayLike) -> Array:
    """The most likely action of each row: a copy of the mean.

    mean (M, D); log_std (M, D) or (D,). Returns (M, D).

    >>> mode([[1.0, 2.0]], [0.0, 0.0])
    array([[1., 2.]])
    """
    return at_home(mean)(_parameters(mean, log_std)[0].copy())  # type: ignore[no-any-return]


def _parameters(mean: Any, log_std: Any) -> tuple[Array, Array]:
    """Both checked; log_std shaped like mean, or (D,)."""
    m = as_rows("mean", mean)
    s = of_every_row("log_std", as_floats("log_std", log_std, like=("mean", m)), "mean", m)
    return m, s if s.ndim == 1 else s.reshape(m.shape)
