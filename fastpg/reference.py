"""The specification: every kernel again in naive NumPy, same names, same parameters, read from the paper.

The oracle of the tests and the baseline of the benchmarks. Nothing is checked here; arguments are arrays of one dtype.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def _gated(coefficient: Array, x: Array) -> Array:
    """coefficient * x, and 0 where the coefficient is 0, whatever x holds."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.where(coefficient == 0, 0, coefficient * x).astype(x.dtype)


def _time_first(axis: int, reward: Array, *others: Any) -> list[Array]:
    """Every argument as a (T, ...) array of the shape and, flags apart, the dtype of reward."""
    arrays = [reward]
    for other in others:
        flag = isinstance(other, np.ndarray) and other.dtype.kind == "b"
        arrays.append(np.broadcast_to(np.asarray(other, bool if flag else reward.dtype), reward.shape))
    return [np.moveaxis(array, axis, 0) for array in arrays]


def _full(next_value: Array, value: Any, reward: Array, axis: int) -> Array:
    """next_value in full where it came as V after the last row alone."""
    if next_value.ndim == reward.ndim:
        return next_value
    full = np.zeros_like(reward)
    time = np.moveaxis(full, axis, 0)
    if len(time):
        if value is not None:
            time[:-1] = np.moveaxis(value, axis, 0)[1:]
        time[-1] = next_value
    return full


def _ended(terminated: Array, truncated: Array) -> Array:
    """Where the trace stops: at endings, and at the last row of the buffer."""
    ended = terminated | truncated
    ended[-1:] = True
    return ended


def total_return(reward: Array, terminated: Array, truncated: Array, gamma: Any = 1.0, *, axis: int = 0) -> Array:
    r, te, tr, g = _time_first(axis, reward, terminated, truncated, gamma)
    G = np.empty_like(r)
    after = np.zeros(r.shape[1:], r.dtype)
    ended = _ended(te, tr)
    for t in reversed(range(len(r))):
        after = G[t] = r[t] + _gated(g[t] * ~ended[t], after)
    for t in range(1, len(r)):
        G[t] = np.where(ended[t - 1], G[t], G[t - 1])
    return np.moveaxis(G, 0, axis)


def reward_to_go(
    reward: Array,
    next_value: Any = None,
    terminated: Any = None,
    truncated: Any = None,
    gamma: Any = 0.99,
    *,
    axis: int = 0,
) -> Array:
    no = np.zeros(reward.shape, bool)
    nv = np.zeros_like(reward) if next_value is None else _full(next_value, None, reward, axis)
    te, tr = no if terminated is None else terminated, no if truncated is None else truncated
    r, nv, te, tr, g = _time_first(axis, reward, nv, te, tr, gamma)
    G = np.empty_like(r)
    after = np.zeros(r.shape[1:], r.dtype)
    ended = _ended(te, tr)
    for t in reversed(range(len(r))):
        after = G[t] = r[t] + _gated(g[t] * ~te[t], np.where(ended[t], nv[t], after))
    return np.moveaxis(G, 0, axis)


def td_residual(
    reward: Array,
    value: Array,
    next_value: Array,
    terminated: Array,
    truncated: Array,
    gamma: Any = 0.99,
    *,
    axis: int = 0,
) -> Array:
    r, v, nv, te, g = _time_first(axis, reward, value, _full(next_value, value, reward, axis), terminated, gamma)
    delta = r + _gated(g * ~te, nv) - v
    return np.moveaxis(delta, 0, axis)


def gae(
    reward: Array,
    value: Array,
    next_value: Array,
    terminated: Array,
    truncated: Array,
    gamma: Any = 0.99,
    lambda_: Any = 0.95,
    *,
    axis: int = 0,
) -> Array:
    nv = _full(next_value, value, reward, axis)
    r, v, nv, te, tr, g, la = _time_first(axis, reward, value, nv, terminated, truncated, gamma, lambda_)
    A = np.empty_like(r)
    after = np.zeros(r.shape[1:], r.dtype)
    delta = r + _gated(g * ~te, nv) - v
    trace = g * la * ~_ended(te, tr)
    for t in reversed(range(len(r))):
        after = A[t] = delta[t] + _gated(trace[t], after)
    return np.moveaxis(A, 0, axis)


def gae_and_return(
    reward: Array,
    value: Array,
    next_value: Array,
    terminated: Array,
    truncated: Array,
    gamma: Any = 0.99,
    lambda_: Any = 0.95,
    *,
    axis: int = 0,
) -> tuple[Array, Array]:
    A = gae(reward, value, next_value, terminated, truncated, gamma, lambda_, axis=axis)
    return A, A + value


def lambda_return(
    reward: Array,
    next_value: Array,
    terminated: Array,
    truncated: Array,
    gamma: Any = 0.99,
    lambda_: Any = 0.95,
    *,
    axis: int = 0,
) -> Array:
    r, nv, te, tr, g, la = _time_first(axis, reward, next_value, terminated, truncated, gamma, lambda_)
    R = np.empty_like(r)
    after = np.zeros(r.shape[1:], r.dtype)
    ended = _ended(te, tr)
    near = np.where(ended, g, g * (1 - la)) * ~te
    far = g * la * ~ended
    for t in reversed(range(len(r))):
        after = R[t] = r[t] + _gated(near[t], nv[t]) + _gated(far[t], after)
    return np.moveaxis(R, 0, axis)


def baselined(returns: Array, baseline: Array) -> Array:
    return returns - baseline


class categorical:
    """pi(a) = softmax(logits)[a] over the legal actions."""

    @staticmethod
    def _log_pi(logits: Array, legal: Any) -> Array:
        x = logits if legal is None else np.where(legal, logits, -np.inf).astype(logits.dtype)
        with np.errstate(invalid="ignore"):
            x = x - x.max(axis=-1, keepdims=True)
            return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))

    @staticmethod
    def log_prob(logits: Array, action: Array, legal: Any = None) -> Array:
        return np.take_along_axis(categorical._log_pi(logits, legal), action[:, None], -1)[:, 0]

    @staticmethod
    def log_prob_grad(logits: Array, action: Array, weight: Array, legal: Any = None) -> Array:
        pi = np.exp(categorical._log_pi(logits, legal))
        chosen = (np.arange(logits.shape[1]) == action[:, None]) & (logits > -np.inf)
        return weight[:, None] * ((chosen if legal is None else chosen & legal) - pi)

    @staticmethod
    def entropy(logits: Array, legal: Any = None) -> Array:
        log_pi = categorical._log_pi(logits, legal)
        return -_gated(np.exp(log_pi), log_pi).sum(axis=-1)

    @staticmethod
    def entropy_grad(logits: Array, weight: Array, legal: Any = None) -> Array:
        log_pi = categorical._log_pi(logits, legal)
        return -weight[:, None] * _gated(np.exp(log_pi), log_pi + categorical.entropy(logits, legal)[:, None])

    @staticmethod
    def kl(logits: Array, other: Array, legal: Any = None) -> Array:
        log_p, log_q = categorical._log_pi(logits, legal), categorical._log_pi(other, legal)
        with np.errstate(invalid="ignore"):
            return _gated(np.exp(log_p), log_p - log_q).sum(axis=-1)

    @staticmethod
    def kl_grad(logits: Array, other: Array, weight: Array, legal: Any = None, *, wrt: str = "logits") -> Array:
        log_p, log_q = categorical._log_pi(logits, legal), categorical._log_pi(other, legal)
        if wrt == "other":
            return weight[:, None] * (np.exp(log_q) - np.exp(log_p))
        with np.errstate(invalid="ignore"):
            return weight[:, None] * _gated(
                np.exp(log_p), log_p - log_q - categorical.kl(logits, other, legal)[:, None]
            )

    @staticmethod
    def sample(logits: Array, rng: np.random.Generator, legal: Any = None) -> Array:
        cumulated = np.exp(categorical._log_pi(logits, legal)).cumsum(axis=-1)
        u = rng.random(len(logits), dtype=logits.dtype.type)
        return (cumulated > u[:, None] * cumulated[:, -1:]).argmax(axis=-1)

    @staticmethod
    def mode(logits: Array, legal: Any = None) -> Array:
        return (logits if legal is None else np.where(legal, logits, -np.inf)).argmax(axis=-1)
