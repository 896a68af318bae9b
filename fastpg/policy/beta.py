"""The Beta policy on a box: a = low + (high - low) x with x ~ Beta(alpha, beta), D independent numbers a row.

`alpha` and `beta` are the concentrations themselves, positive, (M, D), one row a state, or (..., D); float32 or float64, kept as they
come. A network usually gives them as 1 + softplus(.), which keeps the density bounded. `action` has their shape and lies within
[low, high]; these are numbers, or (D,), one an action; 0 and 1 by default. `weight` has one item a row. Log-probabilities, entropies and
divergences are sums over the D numbers of a row. NaN in a row makes that row's results NaN. In float64 inside, by scipy.special.

CPU tensors of PyTorch and arrays of JAX are read through DLPack, without a copy, and answered in kind.

A `_grad` function takes the upstream weight of each row and returns the pair of gradients, by `alpha` and by `beta`.
Every function here raises TypeError for a wrong dtype and ValueError for a wrong shape or range, naming the argument.
Chou, Maturana and Scherer 2017, proceedings.mlr.press/v70/chou17a
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastpg._check import as_floats, as_generator, as_rows, at_home, into, of_each_row, same_shape
from fastpg.policy._bounds import as_bounds, log_width, within

__all__ = ["entropy", "entropy_grad", "kl", "kl_grad", "log_prob", "log_prob_grad", "mode", "sample"]

Array = NDArray[Any]


def log_prob(
    alpha: ArrayLike,
    beta: ArrayLike,
    action: ArrayLike,
    *,
    low: ArrayLike = 0.0,
    high: ArrayLike = 1.0,
    out: Array | None = None,
) -> Array:
    """Log-density of the actions taken.

      log pi(a) = sum_d ((alpha[d] - 1) log x[d] + (beta[d] - 1) log(1 - x[d]) - log B(alpha[d], beta[d]) - log(high[d] - low[d]))
      x = (a - low) / (high - low),    0 log 0 = 0

    An action at a bound gives -inf where its concentration is above 1 and inf where it is below. Chou et al. 2017

    alpha, beta, action (M, D). Returns (M,).

    >>> log_prob([[2.0]], [[2.0]], [[0.5]]).round(4)  # 6 x (1 - x)
    array([0.4055])
    """
    from scipy.special import betaln, xlog1py, xlogy

    a, b = _parameters(alpha, beta)
    lowest, highest = as_bounds(low, high, a.shape[-1])
    x, rest = _unit(action, a, lowest, highest)
    shift = log_width(lowest, highest, a.shape[-1], 1.0)

    def value() -> Any:
        p, q = _wide(a), _wide(b)
        # log(1 - x) from whichever of x and 1 - x is the smaller, so that neither loses digits near its end
        near = np.where(x < 0.5, xlog1py(q - 1, -x), xlogy(q - 1, rest))
        return xlogy(p - 1, x) + near - betaln(p, q)

    return _sum(alpha, a, out, lambda: value().sum(axis=-1) - shift)


def log_prob_grad(
    alpha: ArrayLike,
    beta: ArrayLike,
    action: ArrayLike,
    weight: ArrayLike,
    *,
    low: ArrayLike = 0.0,
    high: ArrayLike = 1.0,
) -> tuple[Array, Array]:
    """The score, weighted: the gradients of sum_i weight[i] log pi(action[i]) with respect to alpha and beta.

      d / d alpha:   g[i, d] = weight[i] (log x - digamma(alpha) + digamma(alpha + beta))
      d / d beta:    g[i, d] = weight[i] (log(1 - x) - digamma(beta) + digamma(alpha + beta))

    0 where the weight is 0, infinite at a bound otherwise: `sample` never draws one. Chou et al. 2017

    alpha, beta, action (M, D); weight (M,), the dtype of alpha. Returns (M, D) twice.

    >>> log_prob_grad([[1.0]], [[1.0]], [[0.5]], [1.0])  # log(1/2) + 1
    (array([[0.30685282]]), array([[0.30685282]]))
    """
    from scipy.special import digamma

    a, b = _parameters(alpha, beta)
    x, rest = _unit(action, a, *as_bounds(low, high, a.shape[-1]))
    w = _weight(weight, a)
    p, q = _wide(a), _wide(b)
    with np.errstate(divide="ignore"):
        log_x, log_rest = np.log(x), np.where(x < 0.5, np.log1p(-x), np.log(rest))
    both = digamma(p + q)
    with np.errstate(invalid="ignore"):
        gradients = w * (log_x - digamma(p) + both), w * (log_rest - digamma(q) + both)
    return _pair(alpha, a, *(np.where(w == 0, 0, g) for g in gradients))


def entropy(
    alpha: ArrayLike,
    beta: ArrayLike,
    *,
    low: ArrayLike = 0.0,
    high: ArrayLike = 1.0,
    out: Array | None = None,
) -> Array:
    """Differential entropy in nats.

      H = sum_d (log B(alpha, beta) - (alpha - 1) digamma(alpha) - (beta - 1) digamma(beta)
                 + (alpha + beta - 2) digamma(alpha + beta) + log(high - low))

    Johnson, Kotz and Balakrishnan 1995, ch. 25

    alpha, beta (M, D). Returns (M,).

    >>> entropy([[1.0]], [[1.0]])  # uniform
    array([0.])
    """
    from scipy.special import betaln, digamma

    a, b = _parameters(alpha, beta)
    shift = log_width(*as_bounds(low, high, a.shape[-1]), a.shape[-1], 1.0)

    def value() -> Any:
        p, q = _wide(a), _wide(b)
        both = digamma(p + q)
        return betaln(p, q) - (p - 1) * (digamma(p) - both) - (q - 1) * (digamma(q) - both)

    return _sum(alpha, a, out, lambda: value().sum(axis=-1) + shift)


def entropy_grad(alpha: ArrayLike, beta: ArrayLike, weight: ArrayLike) -> tuple[Array, Array]:
    """The gradients of sum_i weight[i] H[i] with respect to alpha and beta; the bounds do not enter.

      d / d alpha:   g[i, d] = weight[i] ((alpha + beta - 2) trigamma(alpha + beta) - (alpha - 1) trigamma(alpha))
      d / d beta:    the same with beta for alpha

    alpha, beta (M, D); weight (M,), the dtype of alpha. Returns (M, D) twice.

    >>> entropy_grad([[1.0]], [[1.0]], [1.0])  # uniform: the largest entropy
    (array([[0.]]), array([[0.]]))
    """
    from scipy.special import polygamma

    a, b = _parameters(alpha, beta)
    w = _weight(weight, a)
    p, q = _wide(a), _wide(b)
    both = (p + q - 2) * polygamma(1, p + q)
    return _pair(alpha, a, w * (both - (p - 1) * polygamma(1, p)), w * (both - (q - 1) * polygamma(1, q)))


def kl(
    alpha: ArrayLike, beta: ArrayLike, other_alpha: ArrayLike, other_beta: ArrayLike, *, out: Array | None = None
) -> Array:
    """Kullback-Leibler divergence in nats, from the policy q of the other parameters to the policy p of the first, on the same box.

      KL(p || q) = sum_d (log B(alpha', beta') - log B(alpha, beta) + (alpha - alpha') (digamma(alpha) - digamma(alpha + beta))
                          + (beta - beta') (digamma(beta) - digamma(alpha + beta))),    ' marks the other

    Kullback and Leibler 1951, sec. 2, doi:10.1214/aoms/1177729694

    alpha, beta, other_alpha, other_beta (M, D). Returns (M,).

    >>> kl([[2.0]], [[3.0]], [[2.0]], [[3.0]])
    array([0.])
    """
    from scipy.special import betaln, digamma

    a, b = _parameters(alpha, beta)
    c, d = _others(other_alpha, other_beta, a)

    def value() -> Any:
        p, q, r, s = _wide(a), _wide(b), _wide(c), _wide(d)
        both = digamma(p + q)
        return betaln(r, s) - betaln(p, q) + (p - r) * (digamma(p) - both) + (q - s) * (digamma(q) - both)

    return _sum(alpha, a, out, lambda: value().sum(axis=-1))


def kl_grad(
    alpha: ArrayLike,
    beta: ArrayLike,
    other_alpha: ArrayLike,
    other_beta: ArrayLike,
    weight: ArrayLike,
    *,
    wrt: str = "parameters",
) -> tuple[Array, Array]:
    """The gradients of sum_i weight[i] KL(p[i] || q[i]) with respect to alpha and beta, or to the other two with wrt="other".

      d / d alpha:           g[i, d] = weight[i] ((alpha - alpha') trigamma(alpha) - (alpha - alpha' + beta - beta') trigamma(alpha + beta))
      d / d other_alpha:     g[i, d] = weight[i] (digamma(alpha') - digamma(alpha' + beta') - digamma(alpha) + digamma(alpha + beta))

    and the same with beta for alpha. A penalty KL(old || new) is descended with wrt="other".

    alpha, beta, other_alpha, other_beta (M, D); weight (M,), the dtype of alpha. Returns (M, D) twice.

    >>> kl_grad([[1.0]], [[1.0]], [[2.0]], [[1.0]], [1.0], wrt="other")  # digamma(2) - digamma(3) - digamma(1) + digamma(2) = 1 - 1/2
    (array([[0.5]]), array([[-0.5]]))
    """
    from scipy.special import digamma, polygamma

    if wrt not in ("parameters", "other"):
        raise ValueError(f"wrt is {wrt!r}; 'parameters' or 'other' is wanted")
    a, b = _parameters(alpha, beta)
    c, d = _others(other_alpha, other_beta, a)
    w = _weight(weight, a)
    p, q, r, s = _wide(a), _wide(b), _wide(c), _wide(d)
    if wrt == "other":
        both = digamma(p + q) - digamma(r + s)
        return _pair(alpha, a, w * (digamma(r) - digamma(p) + both), w * (digamma(s) - digamma(q) + both))
    both = (p - r + q - s) * polygamma(1, p + q)
    return _pair(alpha, a, w * ((p - r) * polygamma(1, p) - both), w * ((q - s) * polygamma(1, q) - both))


def sample(
    alpha: ArrayLike,
    beta: ArrayLike,
    rng: np.random.Generator,
    *,
    low: ArrayLike = 0.0,
    high: ArrayLike = 1.0,
) -> Array:
    """Draws one action a row by numpy.random's Beta generator, never at a bound: what rounds there is moved inside by one step.

      a = low + (high - low) x,    x ~ Beta(alpha, beta)

    alpha, beta (M, D), without NaN; rng a numpy.random.Generator. Returns (M, D).

    >>> sample([[1e9]], [[1e9]], np.random.default_rng(0)).round(3)
    array([[0.5]])
    """
    generator = as_generator(rng)
    a, b = _parameters(alpha, beta)
    for name, array in (("alpha", a), ("beta", b)):
        if not np.isfinite(array).all():
            where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
            raise ValueError(f"{name}[{', '.join(map(str, where))}] is {array[where]}; no action can be drawn from it")
    lowest, highest = as_bounds(low, high, a.shape[-1])
    action = (lowest + (highest - lowest) * generator.beta(_wide(a), _wide(b))).astype(a.dtype)
    ends = lowest.astype(a.dtype), highest.astype(a.dtype)
    inside = (np.nextafter(ends[0], ends[1]), np.nextafter(ends[1], ends[0]))
    return at_home(alpha)(np.clip(action, *inside))  # type: ignore[no-any-return]


def mode(alpha: ArrayLike, beta: ArrayLike, *, low: ArrayLike = 0.0, high: ArrayLike = 1.0) -> Array:
    """The most likely action of each row.

      x = (alpha - 1) / (alpha + beta - 2)    where both are at least 1 and one is above,

    1/2 where both are 1 and no action is likelier, else the bound at which the density is the larger: that of the smaller
    concentration; `low` of equals.

    alpha, beta (M, D). Returns (M, D).

    >>> mode([[2.0, 3.0, 0.5]], [[2.0, 1.0, 2.0]])
    array([[0.5, 1. , 0. ]])
    """
    a, b = _parameters(alpha, beta)
    lowest, highest = as_bounds(low, high, a.shape[-1])
    p, q = _wide(a), _wide(b)
    with np.errstate(invalid="ignore", divide="ignore"):
        inner = (p - 1) / (p + q - 2)
    x = np.where((p >= 1) & (q >= 1), np.where(p + q == 2, 0.5, inner), np.where(p <= q, 0.0, 1.0))
    x[np.isnan(p) | np.isnan(q)] = np.nan
    return at_home(alpha)((lowest + (highest - lowest) * x).astype(a.dtype))  # type: ignore[no-any-return]


# --- what comes in and goes out


def _parameters(alpha: Any, beta: Any) -> tuple[Array, Array]:
    a = as_rows("alpha", alpha)
    b = same_shape("beta", as_floats("beta", beta, like=("alpha", a)), "alpha", a)
    return _positive("alpha", a), _positive("beta", b)


def _others(other_alpha: Any, other_beta: Any, a: Array) -> tuple[Array, Array]:
    c, d = (
        _positive(name, same_shape(name, as_floats(name, value, like=("alpha", a)), "alpha", a))
        for name, value in (("other_alpha", other_alpha), ("other_beta", other_beta))
    )
    return c, d


def _positive(name: str, array: Array) -> Array:
    if (array <= 0).any():
        where = tuple(int(i) for i in np.argwhere(array <= 0)[0])
        raise ValueError(f"{name}[{', '.join(map(str, where))}] is {array[where]}; a number above 0 is wanted")
    return array


def _weight(weight: Any, a: Array) -> Array:
    w = of_each_row("weight", as_floats("weight", weight, like=("alpha", a)), a.shape[:-1], "alpha", a)
    return w[..., None].astype(np.float64)


def _unit(action: Any, a: Array, low: Array, high: Array) -> tuple[Array, Array]:
    """x and 1 - x of actions within the bounds, in float64."""
    array = same_shape("action", as_floats("action", action, like=("alpha", a)), "alpha", a)
    wide = _wide(within("action", array, low, high))
    return np.clip((wide - low) / (high - low), 0, 1), np.clip((high - wide) / (high - low), 0, 1)


def _wide(array: Array) -> Array:
    return array.astype(np.float64, copy=False)


def _sum(alpha: Any, a: Array, out: Array | None, value: Callable[[], Any]) -> Array:
    def run(o: Any) -> Any:
        if o is None:
            return value().astype(a.dtype)
        o[...] = value()
        return o

    return at_home(alpha)(into(out, a.shape[:-1], a.dtype, [], run))  # type: ignore[no-any-return]


def _pair(alpha: Any, a: Array, *gradients: Array) -> tuple[Array, Array]:
    return at_home(alpha)(tuple(g.astype(a.dtype, copy=False) for g in gradients))  # type: ignore[no-any-return]
