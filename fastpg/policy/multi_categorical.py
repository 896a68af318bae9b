"""Several independent choices a row: component k is one of sizes[k] options, pi(a) = product over k of softmax(logits of k)[a[k]].

`logits` is (M, S) with S = sum(sizes), the components side by side, or (..., S); float32 or float64, kept as it comes. `action` is (M, K)
for K components; `weight` has one item a row. Log-probabilities, entropies and divergences are sums over the components of a row.
`legal` is a bool mask, (M, S) or (S,) for every row: an illegal option has probability 0 and gradient 0, as a logit of -inf has. A
component without a legal option is a ValueError. Each component runs through the kernels of `categorical` where it stands: no copy.

CPU tensors of PyTorch and arrays of JAX are read through DLPack, without a copy, and answered in kind.

A `_grad` function takes the upstream weight of each row and returns the gradient with respect to the logits.
Every function here raises TypeError for a wrong dtype and ValueError for a wrong shape or range, naming the argument.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastpg._check import (
    as_flags,
    as_floats,
    as_generator,
    as_index,
    as_rows,
    at_home,
    into,
    of_each_row,
    of_every_row,
    over_rows,
    same_shape,
)

__all__ = ["entropy", "entropy_grad", "kl", "kl_grad", "log_prob", "log_prob_grad", "mode", "sample"]

Array = NDArray[Any]


def log_prob(
    logits: ArrayLike,
    sizes: Sequence[int],
    action: ArrayLike,
    legal: ArrayLike | None = None,
    *,
    out: Array | None = None,
) -> Array:
    """Log-probability of the actions taken.

      log pi(a) = sum_k log softmax(logits of k)[a[k]]

    -inf where a component takes an illegal option. Sutton and Barto 2018, eq. 13.2, for each component

    logits (M, S); action (M, K) integers, component k in [0, sizes[k]). Returns (M,).

    >>> log_prob([[0.0, 0.0, 0.0, 0.0, 0.0]], [2, 3], [[1, 2]]).round(4)  # -log 2 - log 3
    array([-1.7918])
    """
    x, slices = _components(logits, sizes)
    a = _action(action, x, slices)
    return _sum(
        "categorical_log_prob", logits, x, slices, lambda k, s: (x[..., s], a[..., k], _mask(legal, x, s)), out, a
    )


def log_prob_grad(
    logits: ArrayLike,
    sizes: Sequence[int],
    action: ArrayLike,
    weight: ArrayLike,
    legal: ArrayLike | None = None,
    *,
    out: Array | None = None,
) -> Array:
    """The score, weighted: the gradient of sum_i weight[i] log pi(action[i]) with respect to the logits.

      g[i, j] = weight[i] (1{j = action[i, k]} - pi_k(j)),    j an option of component k

    logits (M, S); action (M, K); weight (M,), the dtype of logits. Returns (M, S).

    >>> log_prob_grad([[0.0, 0.0, 0.0, 0.0]], [2, 2], [[1, 0]], [4.0])
    array([[-2.,  2.,  2., -2.]])
    """
    x, slices = _components(logits, sizes)
    a, w = _action(action, x, slices), _weight(weight, x)
    arguments = lambda k, s: (x[..., s], a[..., k], w, _mask(legal, x, s))  # noqa: E731
    return _side_by_side("categorical_log_prob_grad", logits, x, slices, arguments, out, a, w)


def entropy(
    logits: ArrayLike, sizes: Sequence[int], legal: ArrayLike | None = None, *, out: Array | None = None
) -> Array:
    """Entropy in nats: the sum of those of the components, which are independent.

      H = sum_k H[softmax(logits of k)]

    Shannon 1948, sec. 6

    logits (M, S). Returns (M,).

    >>> entropy([[0.0, 0.0, 0.0, 0.0]], [2, 2]).round(4)
    array([1.3863])
    """
    x, slices = _components(logits, sizes)
    return _sum("categorical_entropy", logits, x, slices, lambda k, s: (x[..., s], _mask(legal, x, s)), out)


def entropy_grad(
    logits: ArrayLike,
    sizes: Sequence[int],
    weight: ArrayLike,
    legal: ArrayLike | None = None,
    *,
    out: Array | None = None,
) -> Array:
    """The gradient of sum_i weight[i] H[i] with respect to the logits.

      g[i, j] = -weight[i] pi_k(j) (log pi_k(j) + H_k[i]),    j an option of component k, 0 where pi_k(j) = 0

    logits (M, S); weight (M,), the dtype of logits. Returns (M, S).

    >>> entropy_grad([[0.0, 0.0, 0.0, 0.0]], [2, 2], [4.0])
    array([[-0., -0., -0., -0.]])
    """
    x, slices = _components(logits, sizes)
    w = _weight(weight, x)
    arguments = lambda k, s: (x[..., s], w, _mask(legal, x, s))  # noqa: E731
    return _side_by_side("categorical_entropy_grad", logits, x, slices, arguments, out, w)


def kl(
    logits: ArrayLike,
    sizes: Sequence[int],
    other: ArrayLike,
    legal: ArrayLike | None = None,
    *,
    out: Array | None = None,
) -> Array:
    """Kullback-Leibler divergence in nats, from the policy of `other` to that of `logits`.

      KL(p || q) = sum_k KL(p_k || q_k)

    inf where p allows an option that q does not. Kullback and Leibler 1951, doi:10.1214/aoms/1177729694: additive over what is independent

    logits, other (M, S). Returns (M,).

    >>> kl([[0.0, 0.0, 0.0, 0.0]], [2, 2], [[0.0, 0.0, 0.0, 0.0]])
    array([0.])
    """
    x, slices = _components(logits, sizes)
    y = _other(other, x)
    return _sum("categorical_kl", logits, x, slices, lambda k, s: (x[..., s], y[..., s], _mask(legal, x, s)), out, y)


def kl_grad(
    logits: ArrayLike,
    sizes: Sequence[int],
    other: ArrayLike,
    weight: ArrayLike,
    legal: ArrayLike | None = None,
    *,
    wrt: str = "logits",
    out: Array | None = None,
) -> Array:
    """The gradient of sum_i weight[i] KL(p[i] || q[i]) with respect to `logits`, or to `other` with wrt="other".

      d / d logits:    g[i, j] = weight[i] p_k(j) (log p_k(j) - log q_k(j) - KL_k[i]),    j an option of component k
      d / d other:     g[i, j] = weight[i] (q_k(j) - p_k(j))

    logits, other (M, S); weight (M,), the dtype of logits. Returns (M, S).

    >>> kl_grad([[0.0, -np.inf, 0.0]], [2, 1], [[0.0, 0.0, 0.0]], [1.0], wrt="other")
    array([[-0.5,  0.5,  0. ]])
    """
    kernels = {"logits": "categorical_kl_grad", "other": "categorical_kl_grad_other"}
    if wrt not in kernels:
        raise ValueError(f"wrt is {wrt!r}; 'logits' or 'other' is wanted")
    x, slices = _components(logits, sizes)
    y, w = _other(other, x), _weight(weight, x)
    arguments = lambda k, s: (x[..., s], y[..., s], w, _mask(legal, x, s))  # noqa: E731
    return _side_by_side(kernels[wrt], logits, x, slices, arguments, out, y, w)


def sample(logits: ArrayLike, sizes: Sequence[int], rng: np.random.Generator, legal: ArrayLike | None = None) -> Array:
    """Draws one option a component and row: M uniform numbers of `rng` for the first component, then M for the next.

      a[k] = min { a : pi_k(0) + ... + pi_k(a) > u },    u uniform in [0, 1)

    An option of probability 0 is never drawn. NaN or inf in a row is a ValueError.

    logits (M, S); rng a numpy.random.Generator, advanced by M K draws. Returns (M, K) int64.

    >>> sample([[0.0, -np.inf, -np.inf, 0.0]], [2, 2], np.random.default_rng(0))
    array([[0, 1]])
    """
    x, slices = _components(logits, sizes)
    draw = as_generator(rng).random
    arguments = lambda k, s: (x[..., s], draw(x.shape[:-1], dtype=x.dtype.type), _mask(legal, x, s))  # noqa: E731
    return _picked("categorical_sample", logits, x, slices, arguments)


def mode(logits: ArrayLike, sizes: Sequence[int], legal: ArrayLike | None = None) -> Array:
    """The most likely option of each component; the first of equals.

      a[k] = argmax of the logits of k

    NaN in a row is a ValueError.

    logits (M, S). Returns (M, K) int64.

    >>> mode([[0.0, 2.0, 3.0, 3.0, 1.0]], [2, 3])
    array([[1, 0]])
    """
    x, slices = _components(logits, sizes)
    return _picked("categorical_mode", logits, x, slices, lambda k, s: (x[..., s], _mask(legal, x, s)))


# --- components, where they stand

Arguments = Callable[[int, slice], tuple[Any, ...]]


def _components(logits: Any, sizes: Any) -> tuple[Array, list[slice]]:
    x = as_rows("logits", logits)
    try:
        parts = [operator.index(size) for size in sizes]
    except TypeError:
        raise TypeError(f"sizes is {sizes!r}; a sequence of integers is wanted") from None
    if not parts or min(parts) < 1:
        raise ValueError(f"sizes is {sizes!r}; at least one size, and each at least 1, is wanted")
    if sum(parts) != x.shape[-1]:
        raise ValueError(f"sizes sums to {sum(parts)}, but logits has shape {x.shape}; {x.shape[-1]} is wanted")
    ends = np.cumsum(parts).tolist()
    return x, [slice(end - size, end) for size, end in zip(parts, ends, strict=True)]


def _action(action: Any, x: Array, slices: list[slice]) -> Array:
    array, wanted = as_index("action", action), (*x.shape[:-1], len(slices))
    if array.shape != wanted:
        raise ValueError(
            f"action has shape {array.shape}, but logits has {x.shape}; {wanted} is wanted, one a component"
        )
    return array


def _weight(weight: Any, x: Array) -> Array:
    return of_each_row("weight", as_floats("weight", weight, like=("logits", x)), x.shape[:-1], "logits", x)


def _other(other: Any, x: Array) -> Array:
    return same_shape("other", as_floats("other", other, like=("logits", x)), "logits", x)


def _mask(legal: Any, x: Array, component: slice) -> Array | None:
    if legal is None:
        return None
    mask = of_every_row("legal", as_flags("legal", legal), "logits", x)
    return (mask if mask.ndim == 1 else mask.reshape(x.shape))[..., component]


def _run(kernel: str, k: int, arguments: tuple[Any, ...], out: Array | None = None) -> Array:
    try:
        return over_rows(kernel, arguments, out)  # type: ignore[no-any-return]
    except ValueError as error:
        raise ValueError(f"component {k}: {error}") from None


def _sum(
    kernel: str, logits: Any, x: Array, slices: list[slice], arguments: Arguments, out: Any, *inputs: Array
) -> Array:
    def run(o: Any) -> Any:
        total = np.zeros(x.shape[:-1], x.dtype) if o is None else o
        total[...] = 0
        for k, component in enumerate(slices):
            total += _run(kernel, k, arguments(k, component))
        return total

    return at_home(logits)(into(out, x.shape[:-1], x.dtype, [x, *inputs], run))  # type: ignore[no-any-return]


def _side_by_side(
    kernel: str, logits: Any, x: Array, slices: list[slice], arguments: Arguments, out: Any, *inputs: Array
) -> Array:
    def run(o: Any) -> Any:
        result = np.empty(x.shape, x.dtype) if o is None else o
        for k, component in enumerate(slices):
            _run(kernel, k, arguments(k, component), result[..., component])
        return result

    return at_home(logits)(into(out, x.shape, x.dtype, [x, *inputs], run))  # type: ignore[no-any-return]


def _picked(kernel: str, logits: Any, x: Array, slices: list[slice], arguments: Arguments) -> Array:
    action = np.empty((*x.shape[:-1], len(slices)), np.int64)
    for k, component in enumerate(slices):
        action[..., k] = _run(kernel, k, arguments(k, component))
    return at_home(logits)(action)  # type: ignore[no-any-return]
