"""The natural gradient: Fisher-vector products in closed form, conjugate gradients, and the trust-region step of TRPO.

The Fisher information of a policy is the Hessian of its divergence at itself, and the second moment of its score:

    F = E[score score^T] = d^2 KL(pi_old || pi) / d theta^2 at pi = pi_old          Kakade 2001; Amari 1998

In the space of a distribution's own parameters it acts on each row apart: `categorical_fisher_vector_product`,
`gaussian_fisher_vector_product`. Through a network with Jacobian J it is J^T F J: `fisher_vector_product` joins the three maps, given as
callables. `natural_gradient` solves F x = g with those products alone, `trust_region_step` goes as far along x as the divergence allows.

Vectors of network parameters are 1-D float64 or float32 arrays.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastpg._check import as_flags, as_floats, as_rows, at_home, of_each_row, of_every_row, same_shape

__all__ = [
    "TrustRegionStep",
    "categorical_fisher_vector_product",
    "fisher_vector_product",
    "gaussian_fisher_vector_product",
    "natural_gradient",
    "trust_region_step",
]

Array = NDArray[Any]
Product = Callable[[Array], Array]


def categorical_fisher_vector_product(
    logits: ArrayLike, vector: ArrayLike, weight: ArrayLike, legal: ArrayLike | None = None
) -> Array:
    """The Fisher information of each row's categorical policy, by its logits, times that row of `vector`.

      (F v)[i, a] = weight[i] p(a) (v[i, a] - sum_b p(b) v[i, b]),    p = softmax(logits),    F = diag(p) - p p^T

    0 at illegal actions. A weight of 1 / M a row makes it the product with the mean over states. Kakade 2001, sec. 2

    logits, vector (M, A); weight (M,), the dtype of logits. Returns (M, A).

    >>> categorical_fisher_vector_product([[0.0, 0.0]], [[1.0, 3.0]], [1.0])  # p = 1/2: (v - 2) / 2
    array([[-0.5,  0.5]])
    """
    x = as_rows("logits", logits)
    v = same_shape("vector", as_floats("vector", vector, like=("logits", x)), "logits", x)
    w = of_each_row("weight", as_floats("weight", weight, like=("logits", x)), x.shape[:-1], "logits", x)
    if legal is not None:
        may = of_every_row("legal", as_flags("legal", legal), "logits", x)
        x = np.where(may if may.ndim == 1 else may.reshape(x.shape), x, x.dtype.type(-np.inf))
    highest = x.max(axis=-1, keepdims=True)
    if np.isneginf(highest).any():
        where = tuple(int(i) for i in np.argwhere(np.isneginf(highest[..., 0]))[0])
        raise ValueError(f"logits[{', '.join(map(str, where))}] has no legal action")
    p = np.exp(x - highest)
    p /= p.sum(axis=-1, keepdims=True)
    v = np.where(p == 0, 0, v)  # what stands at an illegal action does not count, NaN included
    mean = np.einsum("...a,...a->...", p, v)[..., None]
    return at_home(logits)(w[..., None] * p * (v - mean))  # type: ignore[no-any-return]


def gaussian_fisher_vector_product(
    mean: ArrayLike, log_std: ArrayLike, vector_mean: ArrayLike, vector_log_std: ArrayLike, weight: ArrayLike
) -> tuple[Array, Array]:
    """The Fisher information of each row's diagonal Gaussian, by mean and log_std, times that row of the vector.

      by mean:       weight[i] v[i, d] / exp(2 log_std[i, d])
      by log_std:    2 weight[i] v[i, d],    where log_std is (D,): 2 sum_i weight[i] v[d]

    The two do not mix: F is diagonal. It is that of `squashed_gaussian` too. A weight of 1 / M a row makes it the product with the mean
    over states. Schulman et al. 2015, appendix C.1, arXiv:1502.05477

    mean, vector_mean (M, D); log_std, vector_log_std both (M, D) or both (D,); weight (M,), the dtype of mean. Returns (M, D) and the
    shape of log_std.

    >>> gaussian_fisher_vector_product([[0.0], [5.0]], [0.0], [[1.0], [2.0]], [3.0], [1.0, 1.0])
    (array([[1.],
           [2.]]), array([12.]))
    """
    m = as_rows("mean", mean)
    s = of_every_row("log_std", as_floats("log_std", log_std, like=("mean", m)), "mean", m)
    s = s if s.ndim == 1 else s.reshape(m.shape)
    u = same_shape("vector_mean", as_floats("vector_mean", vector_mean, like=("mean", m)), "mean", m)
    v = same_shape("vector_log_std", as_floats("vector_log_std", vector_log_std, like=("mean", m)), "log_std", s)
    w = of_each_row("weight", as_floats("weight", weight, like=("mean", m)), m.shape[:-1], "mean", m)[..., None]
    by_log_std = 2 * v * (w if s.shape == m.shape else w.sum(dtype=m.dtype))
    return at_home(mean)((w * u * np.exp(-2 * s), by_log_std))  # type: ignore[no-any-return]


def fisher_vector_product(
    jvp: Callable[[Array], Any], fisher: Callable[..., Any], vjp: Callable[..., Array]
) -> Product:
    """v -> J^T F J v, the Fisher information of a policy network as a product, never a matrix.

    jvp(v) is J v, the change of the distribution's parameters along v; fisher(*change) the product in their space; vjp(*that) is J^T
    times it. Where the distribution has several parameters, jvp and fisher answer tuples. The Hessian of the divergence has no
    other term at the policy itself, for there the divergence is flat. Schulman et al. 2015, appendix C.1, arXiv:1502.05477

    >>> feature = np.array([[1.0, 0.0], [1.0, 1.0]])  # logits = feature @ theta[:, None] * [0, 1]
    >>> logits, third = np.zeros((2, 2)), np.full(2, 1 / 3)
    >>> product = fisher_vector_product(
    ...     lambda v: np.stack([np.zeros(2), feature @ v], axis=1),
    ...     lambda change: categorical_fisher_vector_product(logits, change, third),
    ...     lambda by_logits: feature.T @ by_logits[:, 1],
    ... )
    >>> product(np.array([12.0, 0.0]))  # 12 * 1/4 * 1/3 from each row
    array([2., 1.])
    """

    def product(vector: Array) -> Array:
        change = jvp(vector)
        image = fisher(*change) if isinstance(change, tuple) else fisher(change)
        return vjp(*image) if isinstance(image, tuple) else vjp(image)

    return product


def natural_gradient(
    fisher_vector_product: Product,
    grad: ArrayLike,
    *,
    damping: float = 0.1,
    iterations: int = 10,
    tolerance: float = 1e-10,
) -> Array:
    """x with (F + damping I) x = grad, by conjugate gradients from products with F alone.

    Stops after `iterations` steps, or once |grad - (F + damping I) x| <= tolerance |grad|. Stopping early is no failure: every iterate
    from 0 is a direction of descent, the best in its Krylov space. grad = 0 gives 0.
    Kakade 2001; Schulman et al. 2015, appendix C, arXiv:1502.05477, both without damping; by scipy.sparse.linalg.cg

    fisher_vector_product: v (P,) -> (P,), symmetric and positive semidefinite; grad (P,). Returns (P,). A grad or a product that is
    not finite is a ValueError.

    >>> natural_gradient(lambda v: 2 * v, [1.0, 3.0], damping=0.0)
    array([0.5, 1.5])
    """
    from scipy.sparse.linalg import LinearOperator, cg

    _as_function("fisher_vector_product", fisher_vector_product)
    g = _as_vector("grad", grad)
    least = _as_number("damping", damping, 0.0)
    closest = _as_number("tolerance", tolerance, 0.0)
    most = _as_count("iterations", iterations)
    if not g.any():
        return g.copy()

    def product(v: Array) -> Any:
        v = v.ravel().astype(g.dtype, copy=False)
        image = np.asarray(fisher_vector_product(v))
        if image.shape != g.shape:
            raise ValueError(f"fisher_vector_product gives shape {image.shape}, but grad has {g.shape}")
        if not np.isfinite(image).all():
            raise ValueError("fisher_vector_product gives NaN or inf; finite numbers are wanted")
        return image + g.dtype.type(least) * v

    system = LinearOperator((g.size, g.size), matvec=product, dtype=g.dtype)
    solution: Array = cg(system, g, rtol=closest, atol=0.0, maxiter=most)[0]
    return solution.astype(g.dtype, copy=False)


class TrustRegionStep(NamedTuple):
    """What `trust_region_step` did.

    >>> TrustRegionStep(np.zeros(1), loss=0.5, kl=0.01, accepted=True, backtracks=0).loss
    0.5
    """

    parameters: Array  # where it ended; the ones given where no step was accepted
    loss: float  # surrogate loss there
    kl: float  # divergence there
    accepted: bool
    backtracks: int  # how often the full step was shortened


def trust_region_step(
    parameters: ArrayLike,
    grad: ArrayLike,
    fisher_vector_product: Product,
    evaluate: Callable[[Array], tuple[float, float]],
    *,
    max_kl: float = 0.01,
    damping: float = 0.1,
    iterations: int = 10,
    tolerance: float = 1e-10,
    backtracks: int = 10,
    shrink: float = 0.8,
    accept_ratio: float = 0.0,
) -> TrustRegionStep:
    """One step of TRPO: down the natural gradient of the surrogate loss, as far as the divergence may go, then back until it holds.

      x = (F + damping I)^-1 grad,    full step -sqrt(2 max_kl / x^T (F + damping I) x) x
      the first k = 0, 1, ... with    kl <= max_kl,    loss < loss before,    loss before - loss >= accept_ratio shrink^k expected

    for the step shrunk by shrink^k, `expected` what grad promises of the full one. After `backtracks` shortenings nothing is accepted, and
    the parameters come back as they were. So the loss returned is never above the one before, and kl never above max_kl; NaN in either
    counts as a refusal. Schulman et al. 2015, appendix C, arXiv:1502.05477

    parameters, grad (P,), grad that of the loss, which is descended; fisher_vector_product: v (P,) -> (P,), the Fisher information at
    `parameters`; evaluate(parameters) -> (surrogate loss, KL(old || new)), both numbers, the mean over the batch.

    >>> loss_and_kl = lambda x: (x[0] ** 2, (x[0] - 1) ** 2 / 2)
    >>> step = trust_region_step([1.0], [2.0], lambda v: v, loss_and_kl, max_kl=0.02, damping=0.0)
    >>> step.parameters, step.accepted  # |x - 1| = sqrt(2 * 0.02)
    (array([0.8]), True)
    """
    _as_function("evaluate", evaluate)
    theta = _as_vector("parameters", parameters)
    g = _as_vector("grad", grad)
    if g.shape != theta.shape:
        raise ValueError(f"grad has shape {g.shape}, but parameters has {theta.shape}; the same is wanted")
    radius = _as_number("max_kl", max_kl, 0.0)
    factor = _as_number("shrink", shrink, 0.0)
    if not 0 < factor < 1:
        raise ValueError(f"shrink is {shrink!r}; a number between 0 and 1 is wanted")
    share = _as_number("accept_ratio", accept_ratio, 0.0)
    most = _as_count("backtracks", backtracks, least=0)

    before, kl_before = _evaluated(evaluate, theta)
    stay = TrustRegionStep(theta.copy(), before, kl_before, False, 0)
    x = natural_gradient(fisher_vector_product, g, damping=damping, iterations=iterations, tolerance=tolerance)
    # An iterate x of conjugate gradients from 0 has x^T (F + damping I) x = x^T grad: its residual is orthogonal to it.
    slope = float(x.astype(np.float64) @ g)
    if not slope > 0 or not radius > 0:
        return stay
    length = np.sqrt(2 * radius / slope)
    for k in range(most + 1):
        scale = length * factor**k
        candidate = (theta - scale * x).astype(theta.dtype)
        loss, kl = _evaluated(evaluate, candidate)
        if kl <= radius and loss < before and before - loss >= share * scale * slope:
            return TrustRegionStep(candidate, loss, kl, True, k)
    return stay._replace(backtracks=most)


# --- what comes in


def _as_vector(name: str, value: Any) -> Array:
    vector = as_floats(name, value)
    if vector.ndim != 1:
        raise ValueError(f"{name} has shape {vector.shape}; (P,) is wanted, all parameters in one row")
    if not np.isfinite(vector).all():
        where = int(np.argmin(np.isfinite(vector)))
        raise ValueError(f"{name}[{where}] is {vector[where]}; finite numbers are wanted")
    return vector


def _as_function(name: str, value: Any) -> None:
    if not callable(value):
        raise TypeError(f"{name} is {value!r}; a function is wanted")


def _as_number(name: str, value: Any, least: float) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} is {value!r}; a number is wanted")
    number = float(value)
    if not (least <= number < np.inf):
        raise ValueError(f"{name} is {value!r}; a finite number of at least {least:g} is wanted")
    return number


def _as_count(name: str, value: Any, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} is {value!r}; an integer is wanted")
    if value < least:
        raise ValueError(f"{name} is {value!r}; at least {least} is wanted")
    return int(value)


def _evaluated(evaluate: Callable[[Array], tuple[float, float]], parameters: Array) -> tuple[float, float]:
    loss, kl = evaluate(parameters)
    return float(loss), float(kl)
