"""The specification: every kernel again in naive NumPy, same names, same parameters, read from the paper.

The oracle of the tests and the baseline of the benchmarks. Nothing is checked here; arguments are arrays of one dtype.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import math
from collections.abc import Callable, Iterator
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


def _in_every_layout(plain: Callable[..., Any]) -> Callable[..., Any]:
    """Packed, interleaved and masked batches, by running the plain specification once a lane, or once a piece of one."""
    signature = inspect.signature(plain)

    @functools.wraps(plain)
    def call(
        *args: Any,
        axis: int = 0,
        offsets: Any = None,
        env_id: Any = None,
        mask: Any = None,
        mask_mode: str = "skip",
        **keywords: Any,
    ) -> Any:
        if offsets is None and env_id is None and mask is None:
            return plain(*args, axis=axis, **keywords)
        given = signature.bind(*args, **keywords)
        given.apply_defaults()
        arguments = {name: x for name, x in given.arguments.items() if name != "axis"}
        reward = arguments["reward"]
        results: list[Array] = []
        for lane, at in enumerate(_lanes(reward, axis, offsets, env_id)):
            for piece, last in _pieces(at, mask, mask_mode):
                of_piece = {name: _part(name, x, reward, piece, lane, last) for name, x in arguments.items()}
                if mask is not None and mask_mode == "zero":
                    gaps = ~mask.ravel()[piece]
                    value_after = of_piece.get("next_value")
                    if value_after is not None and np.ndim(value_after) == 0 and "value" in of_piece:
                        after = np.append(np.where(gaps, 0, of_piece["value"])[1:], value_after)
                        of_piece = {n: _zeroed(n, x, gaps) for n, x in of_piece.items()} | {"next_value": after}
                    else:
                        of_piece = {n: _zeroed(n, x, gaps) for n, x in of_piece.items()}
                got = plain(**of_piece)
                got = got if isinstance(got, tuple) else (got,)
                results = results or [np.zeros(reward.size, reward.dtype) for _ in got]
                for result, x in zip(results, got, strict=True):
                    result[piece] = x if mask is None else np.where(mask.ravel()[piece], x, 0)
        if not results:  # not a single step
            nothing = np.arange(0)
            got = plain(**{name: _part(name, x, reward, nothing, 0, False) for name, x in arguments.items()})
            results = [np.zeros(reward.size, reward.dtype) for _ in (got if isinstance(got, tuple) else (got,))]
        shaped = tuple(result.reshape(reward.shape) for result in results)
        return shaped if len(shaped) > 1 else shaped[0]

    return call


def _lanes(reward: Array, axis: int, offsets: Any, env_id: Any) -> list[Array]:
    """Where the steps of each lane stand in reward.ravel(), in order of time."""
    at = np.arange(reward.size).reshape(reward.shape)
    if offsets is not None:
        return [at[a:b] for a, b in zip(offsets[:-1], offsets[1:], strict=True)]
    if env_id is not None:
        return [at[env_id == lane] for lane in range(max(env_id, default=-1) + 1)]
    steps = reward.shape[axis]
    return list(np.moveaxis(at, axis, -1).reshape(reward.size // max(steps, 1), steps))


def _pieces(at: Array, mask: Any, mask_mode: str) -> Iterator[tuple[Array, bool]]:
    """What runs on its own in a lane, and whether it reaches the lane's last unmasked step."""
    if mask is None or mask_mode == "zero":
        yield at, True
    elif mask_mode == "skip":
        yield at[mask.ravel()[at]], True
    else:  # reset: stretches without a gap
        pieces = np.split(at, np.flatnonzero(np.diff(mask.ravel()[at])) + 1)
        pieces = [piece for piece in pieces if len(piece) and mask.ravel()[piece[0]]]
        for k, piece in enumerate(pieces):
            yield piece, k == len(pieces) - 1


def _part(name: str, x: Any, reward: Array, at: Array, lane: int, last: bool) -> Any:
    """An argument as a piece of a lane sees it."""
    if np.shape(x) == reward.shape and reward.ndim:
        return x.ravel()[at]
    if name == "next_value" and x is not None:  # V after the last step of each lane
        return np.atleast_1d(x)[lane] if last else reward.dtype.type(0)
    return x


def _zeroed(name: str, x: Any, gaps: Array) -> Any:
    """0 in the gaps, but for that by which the trace decays through them."""
    if name in ("gamma", "lambda_", "alpha"):
        return x
    return np.where(gaps, np.zeros((), x.dtype), x) if np.shape(x) == gaps.shape else x


@_in_every_layout
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


@_in_every_layout
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


@_in_every_layout
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


@_in_every_layout
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


@_in_every_layout
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


@_in_every_layout
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


@_in_every_layout
def n_step_return(
    reward: Array,
    next_value: Array,
    terminated: Array,
    truncated: Array,
    gamma: Any = 0.99,
    n: int = 5,
    *,
    axis: int = 0,
) -> Array:
    nv = _full(next_value, None, reward, axis)
    r, nv, te, tr, g = _time_first(axis, reward, nv, terminated, truncated, gamma)
    G = np.empty_like(r)
    ended = _ended(te, tr)
    for t in range(len(r)):
        end = min(t + n, len(r)) - 1
        x = r[end] + _gated(g[end] * ~te[end], nv[end])
        for k in reversed(range(t, end)):
            x = r[k] + _gated(g[k] * ~te[k], np.where(ended[k], nv[k], x))
        G[t] = x
    return np.moveaxis(G, 0, axis)


def _corrected(r: Array, q: Array, nv: Array, te: Array, tr: Array, g: Array, c: Array) -> Array:
    """G[t] = r[t] + gamma (v'[t] + c[t+1] (G[t+1] - q[t+1])), the form that all off-policy returns share."""
    G = np.empty_like(r)
    ended = _ended(te, tr)
    after = np.zeros(r.shape[1:], r.dtype)
    for t in reversed(range(len(r))):
        G[t] = r[t] + _gated(g[t] * ~te[t], nv[t]) + _gated(g[t] * ~ended[t], after)
        after = _gated(c[t], G[t] - q[t])
    return G


@_in_every_layout
def retrace(
    reward: Array,
    q_value: Array,
    next_value: Array,
    log_ratio: Array,
    terminated: Array,
    truncated: Array,
    gamma: Any = 0.99,
    lambda_: Any = 1.0,
    *,
    axis: int = 0,
) -> Array:
    r, q, nv, lr, te, tr, g, la = _time_first(
        axis, reward, q_value, next_value, log_ratio, terminated, truncated, gamma, lambda_
    )
    return np.moveaxis(_corrected(r, q, nv, te, tr, g, la * _clipped_ratio(lr, 1.0)), 0, axis)


@_in_every_layout
def q_lambda(
    reward: Array,
    value: Array,
    next_value: Array,
    greedy: Array,
    terminated: Array,
    truncated: Array,
    gamma: Any = 0.99,
    lambda_: Any = 0.95,
    *,
    axis: int = 0,
) -> Array:
    nv = _full(next_value, value, reward, axis)
    r, v, nv, gr, te, tr, g, la = _time_first(axis, reward, value, nv, greedy, terminated, truncated, gamma, lambda_)
    return np.moveaxis(_corrected(r, v, nv, te, tr, g, la * gr), 0, axis)


@_in_every_layout
def tree_backup(
    reward: Array,
    q_value: Array,
    next_value: Array,
    log_prob: Array,
    terminated: Array,
    truncated: Array,
    gamma: Any = 0.99,
    lambda_: Any = 1.0,
    *,
    axis: int = 0,
) -> Array:
    r, q, nv, lp, te, tr, g, la = _time_first(
        axis, reward, q_value, next_value, log_prob, terminated, truncated, gamma, lambda_
    )
    return np.moveaxis(_corrected(r, q, nv, te, tr, g, la * np.exp(lp)), 0, axis)


@_in_every_layout
def upgo(
    reward: Array,
    value: Array,
    next_value: Array,
    terminated: Array,
    truncated: Array,
    gamma: Any = 0.99,
    *,
    axis: int = 0,
) -> Array:
    nv = _full(next_value, value, reward, axis)
    r, v, nv, te, tr, g = _time_first(axis, reward, value, nv, terminated, truncated, gamma)
    better = r + _gated(g * ~te, nv) >= v
    return np.moveaxis(_corrected(r, v, nv, te, tr, g, better.astype(r.dtype)), 0, axis)


def _clipped_ratio(log_ratio: Array, clip: float) -> Array:
    """min(clip, pi / mu); NaN stays NaN."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.minimum(np.exp(log_ratio), log_ratio.dtype.type(clip))


@_in_every_layout
def vtrace(
    reward: Array,
    value: Array,
    next_value: Array,
    log_ratio: Array,
    terminated: Array,
    truncated: Array,
    gamma: Any = 0.99,
    lambda_: Any = 1.0,
    clip_rho: float = 1.0,
    clip_c: float = 1.0,
    clip_pg_rho: float = 1.0,
    alpha: float = 1.0,
    *,
    axis: int = 0,
) -> tuple[Array, Array]:
    nv = _full(next_value, value, reward, axis)
    r, v, nv, lr, te, tr, g, la, al = _time_first(
        axis, reward, value, nv, log_ratio, terminated, truncated, gamma, lambda_, alpha
    )
    ended = _ended(te, tr)
    ratio = _clipped_ratio(lr, np.inf)
    rho = _gated(1 - al, ratio) + _gated(al, _clipped_ratio(lr, clip_rho))
    c = la * (_gated(1 - al, ratio) + _gated(al, _clipped_ratio(lr, clip_c)))
    delta = r + _gated(g * ~te, nv) - v
    target, pg = np.empty_like(r), np.empty_like(r)
    after = np.zeros(r.shape[1:], r.dtype)  # target[t+1] - v[t+1]
    for t in reversed(range(len(r))):
        q = r[t] + _gated(g[t] * ~te[t], nv[t]) + _gated(g[t] * la[t] * ~ended[t], after)
        pg[t] = _clipped_ratio(lr[t], clip_pg_rho) * (q - v[t])
        after = rho[t] * delta[t] + _gated(g[t] * c[t] * ~ended[t], after)
        target[t] = v[t] + after
    return np.moveaxis(target, 0, axis), np.moveaxis(pg, 0, axis)


def baselined(returns: Array, baseline: Array) -> Array:
    return returns - baseline


def moments(x: Array, *, mask: Any = None, weight: Any = None, axis: Any = None) -> tuple[Any, Any, Any]:
    x64, w = x.astype(float), np.ones(x.shape) if weight is None else weight.astype(float)
    if mask is not None:
        x64, w = np.where(mask, x64, 0), np.where(mask, w, 0)
    count = w.sum(axis=axis, keepdims=True)
    mean = (w * x64).sum(axis=axis, keepdims=True) / np.where(count == 0, 1, count)
    m2 = (w * (x64 - mean) ** 2).sum(axis=axis, keepdims=True)
    count, mean, m2 = (field.squeeze(axis) for field in (count, mean, m2))
    return count, mean, m2


def whiten(
    x: Array,
    *,
    mask: Any = None,
    weight: Any = None,
    center: bool = True,
    scale: bool = True,
    ddof: float = 1,
    eps: float = 1e-8,
    eps_in: str = "std",
    axis: Any = None,
    moments: Any = None,
) -> Array:
    count, mean, m2 = _moments(x, mask=mask, weight=weight, axis=axis) if moments is None else moments
    if axis is not None:
        count, mean, m2 = (np.expand_dims(field, axis) for field in (count, mean, m2))
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = m2 / (count - ddof)
        divisor = np.sqrt(variance) + eps if eps_in == "std" else np.sqrt(variance + eps)
        y = (x.astype(float) - (mean if center else 0)) / (divisor if scale else 1)
        y = np.where((divisor == 0) | (count <= ddof), 0, y) if scale else y
    return (y if mask is None else np.where(mask, y, 0)).astype(x.dtype)


_moments = moments


def mean_baseline(returns: Array, *, axis: Any = None, mask: Any = None, weight: Any = None) -> Array:
    mean = moments(returns, mask=mask, weight=weight, axis=axis)[1]
    b = np.broadcast_to(mean if axis is None else np.expand_dims(mean, axis), returns.shape)
    return (b if mask is None else np.where(mask, b, 0)).astype(returns.dtype)


def leave_one_out_baseline(returns: Array, *, axis: Any = None, mask: Any = None, singleton: Any = None) -> Array:
    there = np.ones(returns.shape, bool) if mask is None else mask
    along = range(returns.ndim) if axis is None else [k % returns.ndim for k in np.atleast_1d(axis)]
    b = np.zeros(returns.shape)
    for i in map(tuple, np.argwhere(there)):
        line = tuple(slice(None) if k in along else i[k] for k in range(returns.ndim))
        others = there.copy()
        others[i] = False
        rest = returns[line][others[line]]
        b[i] = rest.mean(dtype=float) if len(rest) else returns[i] if singleton is None else singleton
    return b.astype(returns.dtype)


def optimal_baseline(returns: Array, score_squared: Array, *, axis: Any = None, mask: Any = None) -> Array:
    return mean_baseline(returns, axis=axis, mask=mask, weight=score_squared)


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


# --- groups: one sample, one group, one formula at a time, in float64


def group_advantage(
    reward: Array,
    group: Any,
    kind: str = "grpo",
    *,
    ddof: int = 1,
    eps: float = 1e-4,
    singleton: Any = 0.0,
    scale: Any = None,
    length: Any = None,
    baseline: Any = None,
    weight: Any = None,
    k: Any = None,
    alpha: Any = "varied",
    whiten: Any = None,
    whiten_eps: float = 1e-8,
    whiten_eps_in: str = "variance",
) -> Array:
    """Every reward scored; groups by key. Numbers for singletons stay out of whitening."""
    x = reward.astype(np.float64)
    keys = list(group) if group is not None else [None] * len(x)
    whiten = kind in ("reinforce_pp", "reinforce_pp_baseline", "gdpo") if whiten is None else whiten
    if kind == "gdpo":
        each = {"ddof": ddof, "eps": eps, "singleton": singleton, "scale": scale}
        A = sum(w * group_advantage(r, keys, "grpo", **each) for w, r in zip(weight, x.T, strict=True))
        return (_whitened(A, length, ddof, whiten_eps, whiten_eps_in) if whiten else A).astype(reward.dtype)
    members: dict[Any, list[int]] = {}
    for i, key in enumerate(keys):
        members.setdefault(key, []).append(i)
    A, free = np.zeros(len(x)), np.ones(len(x), bool)
    for i in range(len(x)):
        mine = members[keys[i]]
        r, others = x[mine], x[[j for j in mine if j != i]]
        if kind == "reinforce_pp":
            A[i] = x[i]
        elif kind == "remax":
            A[i] = x[i] - baseline[i]
        elif len(r) == 1:
            divisor: Any = 1 + eps if scale == "group" or (scale is None and kind in ("grpo", "loo_std")) else 1
            divisor = np.std(x, ddof=ddof) + eps if scale == "batch" else divisor
            A[i] = {"reward": x[i] / divisor, "centered": 0.0}.get(singleton, singleton)
            free[i] = isinstance(singleton, str)
        elif kind in ("rloo", "loo_std"):
            A[i] = x[i] - others.mean()
        elif kind == "opo":
            A[i] = x[i] - (length[mine] * r).sum() / length[mine].sum()
        elif kind == "pass_at_k":
            subsets = list(itertools.combinations(mine, len(mine) if k is None else k))
            shares = [max(x[list(s)]) - max(x[j] for j in s if j != i) for s in subsets if i in s]
            A[i] = sum(shares) / len(subsets)
        else:
            A[i] = x[i] - r.mean()
        if len(r) > 1:
            if scale == "group" or (scale is None and kind == "grpo"):
                A[i] = A[i] / (r.std(ddof=ddof) + eps)
            elif scale == "batch":
                A[i] = A[i] / (x.std(ddof=ddof) + eps)
            elif kind == "maxrl":
                A[i] = A[i] / r.mean() if r.mean() != 0 else 0.0
            elif kind == "loo_std" and len(others) > 1 and others.std(ddof=ddof) > 0:
                A[i] = A[i] / (others.std(ddof=ddof) + eps)
    if kind == "gpg":
        varied = sum(len(mine) for mine in members.values() if len(set(x[mine])) > 1)
        counted = {"varied": varied, "nonzero": int(np.count_nonzero(x))}
        A[free] = A[free] * (len(x) / max(counted[alpha], 1) if alpha in counted else alpha)
    if whiten:
        A[free] = _whitened(A[free], None if length is None else length[free], ddof, whiten_eps, whiten_eps_in)
    return A.astype(reward.dtype)


def _whitened(A: Array, length: Any, ddof: int, eps: float, eps_in: str) -> Array:
    tokens = np.repeat(A, 1 if length is None else length)
    if len(tokens) == 0:
        return 0 * A
    var = np.square(tokens - tokens.mean()).sum() / max(len(tokens) - ddof, 1)
    s = {"variance": np.sqrt(var + eps), "std": np.sqrt(var) + eps, "floor": np.sqrt(max(var, eps))}[eps_in]
    return (A - tokens.mean()) / s


def optimal_token_baseline(
    reward: Array,
    group: Any,
    log_prob: Array,
    sum_squares: Array,
    *,
    mask: Array,
    ratio: Any = None,
    align: str = "column",
    tail: str = "lone",
    singleton: Any = 0.0,
    eps: float = 0.0,
) -> Array:
    """Padded sequences; each token against the tokens of its group at the same place."""
    B, T = reward.shape
    A = np.zeros((B, T))
    G, W, place = np.zeros((B, T)), np.zeros((B, T)), np.zeros((B, T), int)
    for b in range(B):
        at = np.flatnonzero(mask[b])
        for n, t in enumerate(at):
            rho = 1.0 if ratio is None else ratio[b, at[: n + 1]].astype(np.float64)
            pi, squares = np.exp(log_prob[b, at[: n + 1]].astype(np.float64)), sum_squares[b, at[: n + 1]]
            W[b, t] = (rho**2 * (1 - 2 * pi + squares)).sum()
            G[b, t] = reward[b, at[n:]].astype(np.float64).sum()
            place[b, t] = t if align == "column" else n
    for b in range(B):
        mine = [c for c in range(B) if group[c] == group[b] and mask[c].any()]
        lengths = sorted(mask[c].sum() for c in mine)
        for t in np.flatnonzero(mask[b]):
            same = [(c, u) for c in mine for u in np.flatnonzero(mask[c]) if place[c, u] == place[b, t]]
            below = sum(W[c, u] for c, u in same) + eps
            baseline = sum(G[c, u] * W[c, u] for c, u in same) / below if below > 0 else 0.0
            beyond = len(mine) > 1 and mask[b].sum() > lengths[-2] and place[b, t] >= lengths[-2]
            if (tail == "lone" and len(same) == 1) or (tail == "longest" and beyond):
                baseline = 0.0
            A[b, t] = G[b, t] - baseline
            if len(mine) == 1:
                A[b, t] = {"reward": G[b, t], "centered": 0.0}.get(singleton, singleton)
    return A.astype(reward.dtype)


# --- values


def value_loss(
    value: Array,
    target: Array,
    old_value: Any = None,
    *,
    clip: Any = None,
    clip_kind: str = "max",
    kind: str = "squared",
    delta: float = 1.0,
    factor: float = 0.5,
    mask: Any = None,
    offsets: Any = None,
    aggregate: str = "token_mean",
    denominator: Any = None,
) -> tuple[float, Array]:
    """One item at a time; sequences are rows, or pieces between offsets."""
    x, goal = value.ravel().astype(np.float64), target.ravel().astype(np.float64)
    keep = np.ones(x.size, bool) if mask is None else mask.ravel()
    loss, slope = np.zeros(x.size), np.zeros(x.size)
    for i in np.flatnonzero(keep):
        loss[i], slope[i] = _value_term(x[i] - goal[i], kind, delta, factor)
        if clip is not None:
            old = float(old_value.ravel()[i])
            clipped = _value_term(min(max(x[i], old - clip), old + clip) - goal[i], kind, delta, factor)[0]
            if abs(x[i] - old) > clip and (clipped > loss[i] or clip_kind == "only"):
                loss[i], slope[i] = clipped, 0.0
    share = keep.astype(np.float64)
    if aggregate.startswith("seq"):
        rows = (
            [np.arange(a, b) for a, b in itertools.pairwise(offsets)]
            if offsets is not None
            else list(np.arange(x.size).reshape(value.shape))
        )
        for row in rows:
            share[row] /= max(keep[row].sum(), 1) if aggregate == "seq_mean_token_mean" else 1
        share /= denominator or max(sum(keep[row].any() for row in rows), 1)
    else:
        share /= denominator or (max(keep.sum(), 1) if aggregate == "token_mean" else 1)
    return float((loss * share).sum()), (slope * share).reshape(value.shape).astype(value.dtype)


def _value_term(e: float, kind: str, delta: float, factor: float) -> tuple[float, float]:
    if kind == "squared" or abs(e) <= delta:
        return factor * e**2, 2 * factor * e
    return factor * delta * (2 * abs(e) - delta), 2 * factor * delta * np.sign(e)


def explained_variance(value: Array, target: Array, *, mask: Any = None) -> float:
    at = slice(None) if mask is None else mask
    return float(1 - np.var((target - value)[at].astype(np.float64)) / np.var(target[at].astype(np.float64)))


class multi_categorical:
    """Independent components side by side in the logits, each a categorical."""

    @staticmethod
    def _each(logits: Array, sizes: Any, *others: Any) -> Iterator[list[Any]]:
        ends = np.cumsum(sizes)
        for size, end in zip(sizes, ends, strict=True):
            yield [None if x is None else x[..., end - size : end] for x in (logits, *others)]

    @staticmethod
    def log_prob(logits: Array, sizes: Any, action: Array, legal: Any = None) -> Array:
        parts = multi_categorical._each(logits, sizes, legal)
        return np.sum([categorical.log_prob(x, action[:, k], may) for k, (x, may) in enumerate(parts)], axis=0)

    @staticmethod
    def log_prob_grad(logits: Array, sizes: Any, action: Array, weight: Array, legal: Any = None) -> Array:
        parts = enumerate(multi_categorical._each(logits, sizes, legal))
        return np.hstack([categorical.log_prob_grad(x, action[:, k], weight, may) for k, (x, may) in parts])

    @staticmethod
    def entropy(logits: Array, sizes: Any, legal: Any = None) -> Array:
        return np.sum([categorical.entropy(x, may) for x, may in multi_categorical._each(logits, sizes, legal)], axis=0)

    @staticmethod
    def entropy_grad(logits: Array, sizes: Any, weight: Array, legal: Any = None) -> Array:
        parts = multi_categorical._each(logits, sizes, legal)
        return np.hstack([categorical.entropy_grad(x, weight, may) for x, may in parts])

    @staticmethod
    def kl(logits: Array, sizes: Any, other: Array, legal: Any = None) -> Array:
        parts = multi_categorical._each(logits, sizes, other, legal)
        return np.sum([categorical.kl(x, y, may) for x, y, may in parts], axis=0)

    @staticmethod
    def kl_grad(
        logits: Array, sizes: Any, other: Array, weight: Array, legal: Any = None, *, wrt: str = "logits"
    ) -> Array:
        parts = multi_categorical._each(logits, sizes, other, legal)
        return np.hstack([categorical.kl_grad(x, y, weight, may, wrt=wrt) for x, y, may in parts])

    @staticmethod
    def mode(logits: Array, sizes: Any, legal: Any = None) -> Array:
        return np.stack([categorical.mode(x, may) for x, may in multi_categorical._each(logits, sizes, legal)], axis=1)


class bernoulli:
    """Independent bits, p = 1 / (1 + exp(-logits)); an illegal bit is 0."""

    @staticmethod
    def _log_p(logits: Array, legal: Any) -> tuple[Array, Array, Array]:
        """The logits with -inf where illegal, log p and log(1 - p)."""
        x = logits if legal is None else np.where(legal, logits, -np.inf).astype(logits.dtype)
        return x, -np.logaddexp(0, -x), -np.logaddexp(0, x)

    @staticmethod
    def log_prob(logits: Array, action: Array, legal: Any = None) -> Array:
        _, log_one, log_none = bernoulli._log_p(logits, legal)
        return np.where(action, log_one, log_none).sum(axis=-1)

    @staticmethod
    def log_prob_grad(logits: Array, action: Array, weight: Array, legal: Any = None) -> Array:
        x, log_one, log_none = bernoulli._log_p(logits, legal)
        return weight[:, None] * np.where(x == -np.inf, 0, np.where(action, np.exp(log_none), -np.exp(log_one)))

    @staticmethod
    def entropy(logits: Array, legal: Any = None) -> Array:
        _, log_one, log_none = bernoulli._log_p(logits, legal)
        return -(_gated(np.exp(log_one), log_one) + _gated(np.exp(log_none), log_none)).sum(axis=-1)

    @staticmethod
    def entropy_grad(logits: Array, weight: Array, legal: Any = None) -> Array:
        x, log_one, log_none = bernoulli._log_p(logits, legal)
        return -weight[:, None] * _gated(np.exp(log_one + log_none), x)

    @staticmethod
    def kl(logits: Array, other: Array, legal: Any = None) -> Array:
        (_, p_one, p_none), (_, q_one, q_none) = bernoulli._log_p(logits, legal), bernoulli._log_p(other, legal)
        with np.errstate(invalid="ignore"):
            return (_gated(np.exp(p_one), p_one - q_one) + _gated(np.exp(p_none), p_none - q_none)).sum(axis=-1)

    @staticmethod
    def kl_grad(logits: Array, other: Array, weight: Array, legal: Any = None, *, wrt: str = "logits") -> Array:
        (x, p_one, p_none), (y, q_one, _) = bernoulli._log_p(logits, legal), bernoulli._log_p(other, legal)
        if wrt == "other":
            return weight[:, None] * (np.exp(q_one) - np.exp(p_one))
        with np.errstate(invalid="ignore"):
            return weight[:, None] * _gated(np.exp(p_one + p_none), x - y)


class gaussian:
    """Independent normal numbers; log_std of every row, or one row for all, whose gradient is the sum over rows."""

    @staticmethod
    def _like(log_std: Array, gradient: Array) -> Array:
        return gradient if log_std.ndim == gradient.ndim else gradient.sum(axis=0)

    @staticmethod
    def log_prob(mean: Array, log_std: Array, action: Array) -> Array:
        z = (action - mean) / np.exp(log_std)
        return -(z**2 / 2 + log_std + math.log(2 * math.pi) / 2).sum(axis=-1)

    @staticmethod
    def log_prob_grad(mean: Array, log_std: Array, action: Array, weight: Array) -> tuple[Array, Array]:
        z = (action - mean) / np.exp(log_std)
        by_log_std = weight[:, None] * (z**2 - 1)
        return weight[:, None] * z / np.exp(log_std), gaussian._like(log_std, by_log_std)

    @staticmethod
    def entropy(mean: Array, log_std: Array) -> Array:
        return (np.broadcast_to(log_std, mean.shape) + (1 + math.log(2 * math.pi)) / 2).sum(axis=-1)

    @staticmethod
    def kl(mean: Array, log_std: Array, other_mean: Array, other_log_std: Array) -> Array:
        t, d = 2 * (log_std - other_log_std), (mean - other_mean) / np.exp(other_log_std)
        return ((np.expm1(t) - t + d**2) / 2).sum(axis=-1)

    @staticmethod
    def kl_grad(
        mean: Array, log_std: Array, other_mean: Array, other_log_std: Array, weight: Array, *, wrt: str = "parameters"
    ) -> tuple[Array, Array]:
        t, d = 2 * (log_std - other_log_std), (mean - other_mean) / np.exp(other_log_std)
        by_mean = weight[:, None] * d / np.exp(other_log_std)
        if wrt == "other":
            return -by_mean, gaussian._like(other_log_std, -weight[:, None] * (np.expm1(t) + d**2))
        return by_mean, gaussian._like(log_std, weight[:, None] * np.broadcast_to(np.expm1(t), mean.shape))


class squashed_gaussian:
    """tanh(u) with u of `gaussian`; actions are given as u."""

    @staticmethod
    def log_prob(mean: Array, log_std: Array, pre_action: Array) -> Array:
        log_slope = 2 * (math.log(2) - pre_action - np.logaddexp(0, -2 * pre_action))
        return gaussian.log_prob(mean, log_std, pre_action) - log_slope.sum(axis=-1)


# --- objectives. Sums run in float64 whatever the dtype; the gradient comes back in that of log_prob.
# `stopped` is log_prob where a formula stops the gradient: a finite difference holds it still and moves the rest.


def _tokens(mask: Any, log_prob: Array, offsets: Any) -> list[Array]:
    """Where the unmasked tokens of each sequence stand in log_prob.ravel()."""
    lanes = _lanes(log_prob, log_prob.ndim - 1, offsets, None)
    return [at if mask is None else at[mask.ravel()[at]] for at in lanes]


def _per_token(x: Any, log_prob: Array, offsets: Any) -> Any:
    """An argument in float64, one item a token, where it came as one a sequence."""
    if x is None or x.shape == log_prob.shape:
        return x if x is None else x.ravel().astype(np.float64)
    lengths = log_prob.shape[1] if offsets is None else np.diff(offsets)
    return np.repeat(x.astype(np.float64), lengths)


def _bound(x: Array, bound: Any) -> tuple[Array, Array]:
    """x between -bound and bound, and where it already was."""
    if bound is None:
        return x, np.ones(x.shape, bool)
    return np.where(np.isnan(x), x, np.clip(x, -bound, bound)), ~(np.abs(x) > bound)


def _kl_terms(kind: str, x: Array, ref: Array, gradient: str, old: Any, stopped: Array, p: dict[str, Any]) -> Any:
    """An estimate of KL(pi || ref) at each token, and its derivative to log pi."""
    d, inside = _bound((stopped if gradient == "straight_through" else x) - ref, p["log_ratio_bound"])
    zero = p["bound_gradient"] == "zero"
    value = {"k1": d, "k2": d * d / 2, "k3": np.expm1(-d) + d, "abs": np.abs(d)}[kind]
    slope = {"k1": np.ones_like(d), "k2": d, "k3": -np.expm1(-d), "abs": np.sign(d)}[kind] * (inside if zero else 1)
    if gradient == "straight_through":  # of k2, unbounded: the estimator whose gradient is unbiased
        value = _bound(value, p["clip"])[0] + (x - ref) ** 2 / 2 - (stopped - ref) ** 2 / 2
        return value, x - ref
    if gradient == "score":  # pi / sg(pi) = 1 multiplies the value
        ratio, ratio_slope = np.exp(x - stopped), np.exp(x - stopped)
        if zero:
            ratio, ratio_slope = np.where(inside, ratio, 1), ratio_slope * inside
    elif gradient == "importance":
        log_ratio, within = _bound(x - old, p["ratio_bound"])
        ratio = np.exp(log_ratio)
        ratio_slope = ratio * within
    else:
        ratio, ratio_slope = np.ones_like(d), np.zeros_like(d)
    product, inside = _bound(ratio * value, p["clip"])
    return product, (ratio * slope + ratio_slope * value) * (inside if zero else 1)


def kl_estimate(
    log_prob: Array,
    ref_log_prob: Array,
    kind: str = "k3",
    *,
    gradient: str = "plain",
    old_log_prob: Any = None,
    mask: Any = None,
    log_ratio_bound: Any = 20.0,
    clip: Any = None,
    bound_gradient: str = "saturate",
    stopped: Any = None,
) -> tuple[Array, Array]:
    at = slice(None) if mask is None else mask
    value, grad = np.zeros_like(log_prob), np.zeros_like(log_prob)
    x = log_prob[at].astype(np.float64)
    p = {"log_ratio_bound": log_ratio_bound, "clip": clip, "bound_gradient": bound_gradient, "ratio_bound": 20.0}
    with np.errstate(all="ignore"):
        value[at], grad[at] = _kl_terms(
            kind,
            x,
            ref_log_prob[at].astype(np.float64),
            gradient,
            None if old_log_prob is None else old_log_prob[at].astype(np.float64),
            x if stopped is None else stopped[at].astype(np.float64),
            p,
        )
    return value, grad


def _sequence_ratio(x: Array, stopped: Array, o: Array) -> Array:
    """GSPO eq. 14: log s_t = sg(log s) + log pi_t - sg(log pi_t), log s the mean log-ratio."""
    return (stopped - o).mean() + x - stopped


def _ppo_terms(log_r: Array, a: Array, p: dict[str, Any]) -> tuple[Array, Array, list[Array]]:
    log_r, inside = _bound(log_r, p["log_ratio_bound"])
    r = np.exp(log_r)
    low, high = 1 - p["clip_low"], 1 + p["clip_high"]
    delta = np.inf if p.get("delta") is None else p["delta"]
    plain = np.where(r > delta, delta, r) * a
    clipped = np.where(r < low, low, np.where(r > high, high, r)) * a
    binds = clipped < plain
    live = np.where(binds, (r >= low) & (r <= high), r <= delta) | np.isnan(r)
    surrogate = np.where(binds, clipped, plain)
    dual = np.zeros(r.shape, bool)
    if p.get("dual_clip") is not None:
        dual = (a < 0) & (surrogate < p["dual_clip"] * a)
        surrogate = np.where(dual, p["dual_clip"] * a, surrogate)
    slope = np.where(live & inside & ~dual, r * a, np.where(np.isnan(r * a), r * a, 0))
    return -surrogate, -slope, [binds & (r < low), binds & (r > high), dual]


def _terms(kind: str, x: Array, o: Array, a: Array, stopped: Array, w: Any, chosen: Any, p: dict[str, Any]) -> Any:
    """One sequence: the loss of each token, its derivative, and where the lower, upper and dual bounds bind."""
    n = len(x)
    none = [np.zeros(n, bool)] * 3
    log_r = _sequence_ratio(x, stopped, o) if p.get("level") == "sequence" else x - o
    bounded, inside = _bound(log_r, p["log_ratio_bound"])
    r = np.exp(bounded)
    if kind in ("reinforce", "a2c", "gpg"):
        return -a * x, -a, none
    if kind in ("ppo", "gspo", "luspo", "clip_cov"):
        loss, slope, clipped = _ppo_terms(log_r, a, p)
        scale = n if kind == "luspo" else ~chosen if kind == "clip_cov" else 1
        return _gated(np.float64(1) * scale + 0 * x, loss), _gated(np.float64(1) * scale + 0 * x, slope), clipped
    if kind == "ppo_kl":
        return -r * a + p["beta"] * (r - 1 - bounded), inside * (-r * a + p["beta"] * (r - 1)), none
    if kind == "cispo":
        log_held = (stopped - o).mean() + 0 * x if p["level"] == "sequence" else stopped - o
        held = np.exp(_bound(log_held, p["log_ratio_bound"])[0])
        low, high = 1 - p["clip_low"], 1 + p["clip_high"]
        held_clipped = np.where(held < low, low, np.where(held > high, high, held))
        return -held_clipped * a * x, -held_clipped * a, [held < low, held > high, none[2]]
    if kind == "sapo":
        tau = np.where(a > 0, p["tau_pos"], p["tau_neg"])
        gate = 1 / (1 + np.exp(-tau * (r - 1)))
        return -4 / tau * gate * a, -4 * gate * (1 - gate) * r * inside * a, none
    if kind == "gmpo":
        low, high = (a < 0) & (log_r < -p["clip_low"]), (a > 0) & (log_r > p["clip_high"])
        m = np.where(low, -p["clip_low"], np.where(high, p["clip_high"], log_r)) * (a != 0)
        m, inside = _bound(m, p["log_ratio_bound"])
        loss = -a.mean() * np.exp(m.mean()) + 0 * x
        return loss, loss * (~low & ~high & (a != 0) & inside), [low, high, none[2]]
    if kind in ("dppo_tv", "dppo_kl"):
        new, was = np.exp(stopped), np.exp(o)
        if kind == "dppo_tv":
            over, under = new - was > p["clip_high"], new - was < -p["clip_low"]
        else:
            kl = was * (o - stopped) + (1 - was) * np.log((1 - was + p["eps"]) / (1 - new + p["eps"]))
            over, under = (kl > p["clip_high"]) & (new > was), (kl > p["clip_low"]) & (new < was)
        low, high = ~(a > 0) & under, (a > 0) & over
        held = np.exp(_bound(stopped - o, p["log_ratio_bound"])[0])
        held = np.where(low | high, 0, np.where(held > p["ratio_cap"], p["ratio_cap"], held))
        return _gated(held, -a * x), _gated(held, -a), [low, high, none[2]]
    if kind == "kl_cov":
        d = _bound(x - o, None)[0]
        return -r * a + p["beta"] * np.abs(d) * chosen, -r * inside * a + p["beta"] * np.sign(d) * chosen, none
    if kind == "vespo":
        floor = np.log(1e-8)
        log_w = _bound(stopped - o, 20.0)[0].sum() + (0 if w is None else np.clip(np.log(w), floor, 20.0).sum())
        log_w = np.clip(log_w, floor, 20.0)
        k, la = np.where(a >= 0, p["k_pos"], p["k_neg"]), np.where(a >= 0, p["lambda_pos"], p["lambda_neg"])
        phi = np.exp(la + k * log_w - la * np.exp(log_w))
        return -phi * a * x, -phi * a, none
    if kind == "dro":
        return -a * x + p["beta"] / 2 * (x - o) ** 2, -a + p["beta"] * (x - o), none
    if kind == "ipo":
        moved = np.exp(stopped) - np.exp(o)
        low, high = moved < -p["clip_low"], moved > p["clip_high"]
        keep = ~low & ~high
        penalty, slope = p["beta"] * (x - o) ** 2, 2 * p["beta"] * (x - o)
        return (
            _gated(keep + 0 * x, -r * a) + penalty,
            _gated(keep * inside + 0 * x, -r * a) + slope,
            [low, high, none[2]],
        )
    assert kind == "topr"
    log_w = (stopped - o).sum()
    held = np.where(a < 0, np.exp(np.where(log_w > 0, 0, log_w)), 1 + 0 * x)
    return -held * a * x, -held * a, none


def chosen_tokens(kind: str, x: Array, o: Array, a: Array, p: dict[str, Any], rng: Any) -> Array:
    """The tokens that clip_cov leaves out or kl_cov holds back, by (A - mean A)(log pi - mean log pi), over the whole batch."""
    covariance = (a - a.mean()) * (x - x.mean())
    count = max(1, int(p["fraction"] * len(x)))
    if kind == "kl_cov":
        at = sorted(range(len(x)), key=lambda i: -covariance[i])[:count]
    else:
        clipped = _ppo_terms(x - o, a, p)[2]
        fits = (covariance > p["cov_low"]) & (covariance < p["cov_high"]) & ~clipped[0] & ~clipped[1]
        candidates = np.flatnonzero(fits)
        at = list(candidates[rng.permutation(len(candidates))[:count]])
    return np.isin(np.arange(len(x)), at)


def policy_loss(
    kind: str,
    log_prob: Array,
    old_log_prob: Array,
    advantage: Array,
    *,
    mask: Any = None,
    offsets: Any = None,
    aggregate: str = "token_mean",
    denominator: Any = None,
    weight: Any = None,
    ref_log_prob: Any = None,
    kl: str = "k3",
    kl_coef: float = 0.0,
    kl_gradient: str = "plain",
    kl_bound: Any = 20.0,
    kl_clip: Any = None,
    kl_bound_gradient: str = "saturate",
    log_ratio_bound: Any = 20.0,
    rng: Any = None,
    stopped: Any = None,
    **options: Any,
) -> tuple[float, Array, dict[str, float]]:
    p = dict(options, log_ratio_bound=log_ratio_bound)
    of_kl = {
        "log_ratio_bound": kl_bound,
        "clip": kl_clip,
        "bound_gradient": kl_bound_gradient,
        "ratio_bound": log_ratio_bound,
    }
    x, o = log_prob.ravel().astype(np.float64), old_log_prob.ravel().astype(np.float64)
    a, w = _per_token(advantage, log_prob, offsets), _per_token(weight, log_prob, offsets)
    ref, held = _per_token(ref_log_prob, log_prob, offsets), _per_token(stopped, log_prob, offsets)
    held = x if held is None else held
    sequences = _tokens(mask, log_prob, offsets)
    every = np.concatenate([np.arange(0), *sequences])
    chosen = np.zeros(x.size, bool)
    if kind in ("clip_cov", "kl_cov") and len(every):
        chosen[every] = chosen_tokens(kind, held[every], o[every], a[every], p, rng)
    counted = {"token_mean": len(every), "token_sum": 1}.get(aggregate, sum(len(at) > 0 for at in sequences))
    total = max(counted, 1) if denominator is None else denominator
    loss, grad = 0.0, np.zeros(x.size)
    clipped, killed = np.zeros(3), 0
    with np.errstate(all="ignore"):
        for at in sequences:
            if len(at) == 0:
                continue
            w_here: Any = None if w is None else w[at]
            terms, slope, sides = _terms(kind, x[at], o[at], a[at], held[at], w_here, chosen[at], p)
            if w is not None and kind != "vespo":
                w_here = np.full(len(at), np.exp(np.log(w_here).mean())) if kind == "gmpo" else w_here
                terms, slope = _gated(w_here, terms), _gated(w_here, slope)
            clipped += [side.sum() for side in sides]
            killed += ((slope == 0) & (a[at] != 0)).sum()
            if ref is not None:
                value, value_slope = _kl_terms(kl, x[at], ref[at], kl_gradient, o[at], held[at], of_kl)
                terms, slope = terms + kl_coef * value, slope + kl_coef * value_slope
            share = total * len(at) if aggregate == "seq_mean_token_mean" else total
            loss += terms.sum() / share
            grad[at] = slope / share
        log_r = (x - o)[every]
        r = np.exp(_bound(log_r, log_ratio_bound)[0])
    n = len(every)

    def mean(v: Array) -> float:
        return float(v.sum() / max(n, 1))

    with np.errstate(all="ignore"):
        stats = {
            "tokens": n,
            "sequences": sum(len(at) > 0 for at in sequences),
            "approx_kl_k1": mean(-log_r),
            "approx_kl_k2": mean(log_r**2 / 2),
            "approx_kl_k3": mean(r - 1 - _bound(log_r, log_ratio_bound)[0]),
            "clip_fraction_low": clipped[0] / max(n, 1),
            "clip_fraction_high": clipped[1] / max(n, 1),
            "clip_fraction_dual": clipped[2] / max(n, 1),
            "killed_fraction": killed / max(n, 1),
            "ratio_mean": mean(r),
            "effective_sample_size": float(r.sum() ** 2 / (r**2).sum()) if n else 0.0,
        }
    return float(loss), grad.reshape(log_prob.shape).astype(log_prob.dtype), stats


def rollout_correction(
    kind: str,
    log_prob: Array,
    rollout_log_prob: Array,
    *,
    level: str,
    gate: Any = None,
    low: float = -np.inf,
    high: float = np.inf,
    advantage: Any = None,
    mask: Any = None,
    offsets: Any = None,
    log_ratio_bound: float = 20.0,
) -> tuple[Array, Array]:
    weight, keep = np.zeros(log_prob.size), np.zeros(log_prob.size, bool)
    a = _per_token(advantage, log_prob, offsets)
    for at in _tokens(mask, log_prob, offsets):
        if len(at) == 0:
            continue
        d = log_prob.ravel()[at].astype(np.float64) - rollout_log_prob.ravel()[at]
        of = {"token": d, "sequence": d.sum() + 0 * d, "geometric": d.mean() + 0 * d}
        ratio = {name: np.exp(np.clip(x, -log_ratio_bound, log_ratio_bound)) for name, x in of.items()}
        x = np.clip(d, -log_ratio_bound, log_ratio_bound)
        if kind in ("is", "tis"):
            weight[at] = ratio[level] if kind == "is" else np.clip(ratio[level], low, high)
            keep[at] = weight[at] != 0
        elif kind in ("mis", "icepop"):
            inside = (ratio[gate or level] >= low) & (ratio[gate or level] <= high)
            weight[at], keep[at] = ratio[level] * inside, inside
        elif kind == "opsm":
            weight[at] = keep[at] = (a[at] >= 0) | ((-d).mean() <= high)
        else:
            k = {"k1": -x, "k2": x**2 / 2, "k3": np.exp(x) - 1 - x}[kind]
            k = {"token": k, "sum": k.sum() + 0 * k, "mean": k.mean() + 0 * k, "max": k}[level]
            inside = (k >= low) & (k <= high)
            weight[at] = keep[at] = inside.all() if level == "max" else inside
    return weight.reshape(log_prob.shape).astype(log_prob.dtype), keep.reshape(log_prob.shape)
