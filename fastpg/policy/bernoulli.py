"""Independent bits: D of them a row, each 1 with probability p = 1 / (1 + exp(-logit)).

`logits` is (M, D), one row a state, or (..., D); float32 or float64, kept as it comes. `action` has its shape and holds bools, or
integers that are 0 and 1; `weight` has one item a row. Log-probabilities, entropies and divergences are sums over the bits of a row.
`legal` is a bool mask, (M, D) or (D,) for every row: an illegal bit is 0, whatever its logit holds, and its gradient is 0. A logit of
-inf means the same, one of +inf that the bit is 1. Every tail keeps its digits: log(1 - p) and 1 - p are never taken from a rounded p.

CPU tensors of PyTorch and arrays of JAX are read through DLPack, without a copy, and answered in kind.

A `_grad` function takes the upstream weight of each row and returns the gradient with respect to the logits.
Every function here raises TypeError for a wrong dtype and ValueError for a wrong shape or range, naming the argument.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastpg._check import as_flags, as_generator, as_rows, at_home, of_every_row, over_rows

__all__ = ["entropy", "entropy_grad", "kl", "kl_grad", "log_prob", "log_prob_grad", "mode", "sample"]

Array = NDArray[Any]


def log_prob(
    logits: ArrayLike, action: ArrayLike, legal: ArrayLike | None = None, *, out: Array | None = None
) -> Array:
    """Log-probability of the bits taken.

      log pi(a) = -sum_d softplus(-x[d] where a[d] is 1, x[d] where it is 0),    x = logits, softplus(y) = log(1 + exp(y))

    -inf where an illegal bit is 1. Cox 1958, doi:10.1111/j.2517-6161.1958.tb00292.x

    logits, action (M, D). Returns (M,).

    >>> log_prob([[0.0, 0.0]], [[1, 0]]).round(4)
    array([-1.3863])
    """
    return over_rows("bernoulli_log_prob", (logits, action, legal), out)  # type: ignore[no-any-return]


def log_prob_grad(
    logits: ArrayLike, action: ArrayLike, weight: ArrayLike, legal: ArrayLike | None = None, *, out: Array | None = None
) -> Array:
    """The score, weighted: the gradient of sum_i weight[i] log pi(action[i]) with respect to the logits.

      g[i, d] = weight[i] (a[i, d] - p[i, d]),    p = 1 / (1 + exp(-logits))

    0 at illegal bits. Williams 1992, eq. 7 (Bernoulli-logistic units), doi:10.1007/BF00992696

    logits, action (M, D); weight (M,), the dtype of logits. Returns (M, D).

    >>> log_prob_grad([[0.0, 0.0]], [[1, 0]], [4.0])
    array([[ 2., -2.]])
    """
    return over_rows("bernoulli_log_prob_grad", (logits, action, weight, legal), out)  # type: ignore[no-any-return]


def entropy(logits: ArrayLike, legal: ArrayLike | None = None, *, out: Array | None = None) -> Array:
    """Entropy in nats.

      H = sum_d -p log p - (1 - p) log(1 - p) = sum_d log(1 + e) + |x| e / (1 + e),    e = exp(-|x|), x = logits

    Shannon 1948, sec. 6

    logits (M, D). Returns (M,).

    >>> entropy([[0.0, 0.0]]).round(4)
    array([1.3863])
    """
    return over_rows("bernoulli_entropy", (logits, legal), out)  # type: ignore[no-any-return]


def entropy_grad(
    logits: ArrayLike, weight: ArrayLike, legal: ArrayLike | None = None, *, out: Array | None = None
) -> Array:
    """The gradient of sum_i weight[i] H[i] with respect to the logits.

      g[i, d] = -weight[i] x[i, d] p (1 - p),    x = logits, 0 where p (1 - p) = 0

    logits (M, D); weight (M,), the dtype of logits. Returns (M, D).

    >>> entropy_grad([[0.0, np.inf]], [4.0])
    array([[-0.,  0.]])
    """
    return over_rows("bernoulli_entropy_grad", (logits, weight, legal), out)  # type: ignore[no-any-return]


def kl(logits: ArrayLike, other: ArrayLike, legal: ArrayLike | None = None, *, out: Array | None = None) -> Array:
    """Kullback-Leibler divergence in nats, from the policy of `other` to that of `logits`.

      KL(p || q) = sum_d p log(p / q) + (1 - p) log((1 - p) / (1 - q)),    0 log 0 = 0

    inf where p allows a value that q does not. Kullback and Leibler 1951, sec. 2, doi:10.1214/aoms/1177729694

    logits, other (M, D). Returns (M,).

    >>> kl([[0.0, 0.0]], [[0.0, 0.0]])
    array([0.])
    """
    return over_rows("bernoulli_kl", (logits, other, legal), out)  # type: ignore[no-any-return]


def kl_grad(
    logits: ArrayLike,
    other: ArrayLike,
    weight: ArrayLike,
    legal: ArrayLike | None = None,
    *,
    wrt: str = "logits",
    out: Array | None = None,
) -> Array:
    """The gradient of sum_i weight[i] KL(p[i] || q[i]) with respect to `logits`, or to `other` with wrt="other".

      d / d logits:    g[i, d] = weight[i] p (1 - p) (x[i, d] - y[i, d]),    x = logits, y = other, 0 where p (1 - p) = 0
      d / d other:     g[i, d] = weight[i] (q - p)

    A penalty KL(old || new) is descended with wrt="other".

    logits, other (M, D); weight (M,), the dtype of logits. Returns (M, D).

    >>> kl_grad([[0.0, np.inf]], [[0.0, 0.0]], [1.0], wrt="other")
    array([[ 0. , -0.5]])
    """
    kernels = {"logits": "bernoulli_kl_grad", "other": "bernoulli_kl_grad_other"}
    if wrt not in kernels:
        raise ValueError(f"wrt is {wrt!r}; 'logits' or 'other' is wanted")
    return over_rows(kernels[wrt], (logits, other, weight, legal), out)  # type: ignore[no-any-return]


def sample(logits: ArrayLike, rng: np.random.Generator, legal: ArrayLike | None = None) -> Array:
    """Draws the bits of each row: one uniform number of `rng` a bit.

      a = u < p,    u uniform in [0, 1)

    A bit of probability 0 is never drawn, one of probability 1 always. NaN in a legal logit is a ValueError.

    logits (M, D); rng a numpy.random.Generator, advanced by M D draws. Returns (M, D) bool.

    >>> sample([[np.inf, -np.inf]], np.random.default_rng(0))
    array([[ True, False]])
    """
    from scipy.special import expit

    home, x = at_home(logits), _of_legal(logits, legal)
    uniform = as_generator(rng).random(x.shape, dtype=x.dtype.type)
    return home(uniform < expit(x))  # type: ignore[no-any-return]


def mode(logits: ArrayLike, legal: ArrayLike | None = None) -> Array:
    """The most likely value of each bit; 0 where both are as likely.

      a = x > 0

    NaN in a legal logit is a ValueError.

    logits (M, D). Returns (M, D) bool.

    >>> mode([[0.0, 2.0, -2.0]])
    array([[False,  True, False]])
    """
    return at_home(logits)(_of_legal(logits, legal) > 0)  # type: ignore[no-any-return]


def _of_legal(logits: Any, legal: Any) -> Array:
    """The logits, -inf where illegal."""
    x = as_rows("logits", logits)
    if legal is not None:
        may = of_every_row("legal", as_flags("legal", legal), "logits", x)
        x = np.where(may if may.ndim == 1 else may.reshape(x.shape), x, x.dtype.type(-np.inf))
    if np.isnan(x).any():
        where = tuple(int(i) for i in np.argwhere(np.isnan(x))[0])
        raise ValueError(f"logits[{', '.join(map(str, where))}] is NaN; no bit can be picked from it")
    return x
