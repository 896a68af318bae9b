"""The categorical policy: pi(a) = softmax(logits)[a], over A actions.

`logits` is (M, A), one row a state, or (..., A); float32 or float64, kept as it comes. `action` and `weight` have one item a row.
`legal` is a bool mask, (M, A) or (A,) for every row: an illegal action has probability 0, whatever its logit holds, and its gradient
is 0. A logit of -inf means the same. A row without a legal action is a ValueError, NaN in a row makes that row's results NaN.

CPU tensors of PyTorch and arrays of JAX are read through DLPack, without a copy, and answered in kind.

A `_grad` function takes the upstream weight of each row and returns the gradient with respect to the logits.
Every function here raises TypeError for a wrong dtype and ValueError for a wrong shape or range, naming the argument.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastpg._check import as_generator, as_rows, at_home, over_rows

__all__ = ["entropy", "entropy_grad", "kl", "kl_grad", "log_prob", "log_prob_grad", "mode", "sample"]

Array = NDArray[Any]


def log_prob(
    logits: ArrayLike, action: ArrayLike, legal: ArrayLike | None = None, *, out: Array | None = None
) -> Array:
    """Log-probability of the actions taken.

      log pi(a) = (x[a] - m) - log sum_b exp(x[b] - m),    x = logits, m = max x

    -inf for an illegal action. The maximum is subtracted first, so that a large offset of the logits costs no digits.
    Sutton and Barto 2018, eq. 13.2

    logits (M, A); action (M,) integers in [0, A). Returns (M,).

    >>> log_prob([[0.0, 0.0]], [1]).round(4)
    array([-0.6931])
    """
    return over_rows("categorical_log_prob", (logits, action, legal), out)  # type: ignore[no-any-return]


def log_prob_grad(
    logits: ArrayLike, action: ArrayLike, weight: ArrayLike, legal: ArrayLike | None = None, *, out: Array | None = None
) -> Array:
    """The score, weighted: the gradient of sum_i weight[i] log pi(action[i]) with respect to the logits.

      g[i, a] = weight[i] (1{a = action[i]} - pi(a))

    0 at illegal actions. Sutton and Barto 2018, eq. 13.9 for a logit per action; Williams 1992, eq. 7 for two, doi:10.1007/BF00992696

    logits (M, A); action (M,) integers in [0, A); weight (M,), the dtype of logits. Returns (M, A).

    >>> log_prob_grad([[0.0, 0.0]], [1], [4.0])
    array([[-2.,  2.]])
    """
    return over_rows("categorical_log_prob_grad", (logits, action, weight, legal), out)  # type: ignore[no-any-return]


def entropy(logits: ArrayLike, legal: ArrayLike | None = None, *, out: Array | None = None) -> Array:
    """Entropy in nats.

      H = -sum_a pi(a) log pi(a),    0 log 0 = 0

    Shannon 1948, sec. 6

    logits (M, A). Returns (M,).

    >>> entropy([[0.0, 0.0]]).round(4)
    array([0.6931])
    """
    return over_rows("categorical_entropy", (logits, legal), out)  # type: ignore[no-any-return]


def entropy_grad(
    logits: ArrayLike, weight: ArrayLike, legal: ArrayLike | None = None, *, out: Array | None = None
) -> Array:
    """The gradient of sum_i weight[i] H[i] with respect to the logits.

      g[i, a] = -weight[i] pi(a) (log pi(a) + H[i]),    0 where pi(a) = 0

    logits (M, A); weight (M,), the dtype of logits. Returns (M, A).

    >>> entropy_grad([[0.0, 0.0]], [4.0])
    array([[-0., -0.]])
    """
    return over_rows("categorical_entropy_grad", (logits, weight, legal), out)  # type: ignore[no-any-return]


def kl(logits: ArrayLike, other: ArrayLike, legal: ArrayLike | None = None, *, out: Array | None = None) -> Array:
    """Kullback-Leibler divergence in nats, from the policy of `other` to that of `logits`.

      KL(p || q) = sum_a p(a) (log p(a) - log q(a)),    p = softmax(logits), q = softmax(other), 0 where p(a) = 0

    inf where p allows an action that q does not. Kullback and Leibler 1951, sec. 2, doi:10.1214/aoms/1177729694

    logits, other (M, A). Returns (M,).

    >>> kl([[0.0, 0.0]], [[0.0, 0.0]])
    array([0.])
    """
    return over_rows("categorical_kl", (logits, other, legal), out)  # type: ignore[no-any-return]


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

      d / d logits:    g[i, a] = weight[i] p(a) (log p(a) - log q(a) - KL[i])
      d / d other:     g[i, a] = weight[i] (q(a) - p(a))

    p = softmax(logits), q = softmax(other). A penalty KL(old || new) is descended with wrt="other".

    logits, other (M, A); weight (M,), the dtype of logits. Returns (M, A).

    >>> kl_grad([[0.0, -np.inf]], [[0.0, 0.0]], [1.0], wrt="other")
    array([[-0.5,  0.5]])
    """
    kernels = {"logits": "categorical_kl_grad", "other": "categorical_kl_grad_other"}
    if wrt not in kernels:
        raise ValueError(f"wrt is {wrt!r}; 'logits' or 'other' is wanted")
    return over_rows(kernels[wrt], (logits, other, weight, legal), out)  # type: ignore[no-any-return]


def sample(logits: ArrayLike, rng: np.random.Generator, legal: ArrayLike | None = None) -> Array:
    """Draws one action a row, by the inverse of the cumulative distribution: one uniform number of `rng` a row.

      a = min { a : pi(0) + ... + pi(a) > u },    u uniform in [0, 1)

    An action of probability 0 is never drawn. NaN or inf in a row is a ValueError. Devroye 1986, sec. III.2

    logits (M, A); rng a numpy.random.Generator, advanced by M draws. Returns (M,) int64.

    >>> sample([[0.0, -np.inf], [-np.inf, 0.0]], np.random.default_rng(0))
    array([0, 1])
    """
    generator = as_generator(rng)
    home, logits = at_home(logits), as_rows("logits", logits)
    uniform = generator.random(logits.shape[:-1], dtype=logits.dtype.type)
    return home(over_rows("categorical_sample", (logits, uniform, legal)))  # type: ignore[no-any-return]


def mode(logits: ArrayLike, legal: ArrayLike | None = None) -> Array:
    """The most likely action of each row; the first of equals.

      a = argmax x[a]

    NaN in a row is a ValueError.

    logits (M, A). Returns (M,) int64.

    >>> mode([[0.0, 2.0, 2.0]])
    array([1])
    """
    return over_rows("categorical_mode", (logits, legal))  # type: ignore[no-any-return]
