"""Psi: how good was action t? Scans over time.

T steps, N lanes. `reward[t]` is what the action at t earned, `value[t]` is V(s_t), `next_value[t]` is V of the state that step t
led to, before any reset. `terminated[t]`: that state is terminal, its value counts as 0 and the trace stops. `truncated[t]`: cut
from outside, its value counts and the trace stops. Where both are set, terminated wins. The last row of a buffer counts as truncated.

Every function takes every layout, in any strides; float32 or float64 stay what they are.

    time-major    (T,) or (T, N)
    batch-major   (B, T) with axis=1
    packed        (steps,) with offsets, B + 1 integers: sequence b is steps offsets[b] to offsets[b+1], and may be empty
    interleaved   (steps,) with env_id, the lane of each step, as asynchronous vector environments deliver them; any integers
    padded        any of these with mask, bool, shaped like reward: False is no step. Its items are never read, its result is 0, and by
                  mask_mode "skip" the trace passes through it unchanged; "zero" everything in it counts as 0 and the trace decays;
                  "reset" it cuts: the step before it counts as truncated

`next_value` may also have one value a lane, (N,), (B,) or (), which is V after the lane's last step: then V(s_{t+1}) is `value[t+1]`
elsewhere, and a truncated step anywhere but there is refused, because the value of the state it led to is nowhere in the arguments.
In one dimension the shape of `reward` always means one value a step. With `env_id` the lane's value is next_value[env_id], or has the place
of its id among all that occur, sorted, where they are no indices. Past a gap, `value[t+1]` is that of the lane's next unmasked step
("skip"), or 0 ("zero").
`gamma` and `lambda_` are numbers in [0, 1], or arrays shaped like `reward`, which are read at masked steps in mode "zero" alone: the
trace decays by them there. A coefficient of 0 reads nothing: NaN and inf reach the steps before them in the same episode and no others.
`out` receives the result, a tuple of two arrays both results. Beyond its results a call takes less than 1 MB at any size, and with `env_id`
11 or 19 bytes a lane. What is copied: 16-bit floats, byte-swapped and unaligned arrays, ids that are not int32 or int64 or not from 0 up,
an `out` that shares memory with an input.

CPU tensors of PyTorch and arrays of JAX are read through DLPack, without a copy, and answered in kind; float16 and bfloat16 are computed
and answered in float32.

Every function here raises TypeError for a wrong dtype and ValueError for a wrong shape or range, naming the argument.
Time-major results with more than one lane equal `fastpg.reference` bit for bit, where no exponential is taken. Where time is
contiguous (one lane, batch-major, packed) sums are associated otherwise: docs/accuracy.md holds both against a higher precision.
No result depends on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastpg._check import as_flags, as_floats, at_home, into, over_time, same_shape

__all__ = [
    "PSI",
    "baselined",
    "gae",
    "gae_and_return",
    "lambda_return",
    "n_step_return",
    "psi",
    "q_lambda",
    "retrace",
    "reward_to_go",
    "td_residual",
    "total_return",
    "tree_backup",
    "upgo",
    "vtrace",
]

Array = NDArray[Any]


def total_return(
    reward: ArrayLike,
    terminated: ArrayLike,
    truncated: ArrayLike,
    gamma: float | ArrayLike = 1.0,
    *,
    axis: int = 0,
    offsets: ArrayLike | None = None,
    env_id: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    mask_mode: str = "skip",
    out: Array | None = None,
) -> Array:
    """Psi 1: the return of the whole episode, for each of its steps.

      R = sum_k gamma^k r[t0 + k],    t0 the episode's first step in the buffer, the sum to its last step there

    Nothing is added for what lies beyond the buffer or a truncation. With gamma per step, gamma[t] discounts all after step t.
    Schulman et al. 2016, sec. 2, expression 1, arXiv:1506.02438; Williams 1992, sec. 5, doi:10.1007/BF00992696

    reward (T,) or (T, N), float32 or float64; terminated, truncated the same shape, bool. Returns the shape and dtype of reward.

    >>> total_return([1.0, 2.0, 4.0], [False, True, False], [False, False, False])
    array([3., 3., 4.])
    """
    args = (reward, terminated, truncated, gamma)
    return over_time(
        "total_return", args, axis, out, False, offsets=offsets, env_id=env_id, mask=mask, mask_mode=mask_mode
    )


def reward_to_go(
    reward: ArrayLike,
    next_value: ArrayLike | None = None,
    terminated: ArrayLike | None = None,
    truncated: ArrayLike | None = None,
    gamma: float | ArrayLike = 0.99,
    *,
    axis: int = 0,
    offsets: ArrayLike | None = None,
    env_id: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    mask_mode: str = "skip",
    out: Array | None = None,
) -> Array:
    """Psi 2: the discounted reward that follows action t.

      G[t] = r[t] + gamma G[t+1],    G[t] = r[t] where terminated,    G[t] = r[t] + gamma v'[t] where truncated and in the last row

    None for next_value: no bootstrap, v' = 0. None for terminated or truncated: no such endings.
    Schulman et al. 2016, sec. 2, expression 2, arXiv:1506.02438; Sutton and Barto 2018, eq. 3.9

    Arrays (T,) or (T, N), float32 or float64, flags bool; next_value also (N,). Returns the shape and dtype of reward.

    >>> reward_to_go([1.0, 2.0, 4.0], gamma=0.5)
    array([3., 4., 4.])
    """
    args = (reward, next_value, terminated, truncated, gamma)
    return over_time(
        "reward_to_go", args, axis, out, True, offsets=offsets, env_id=env_id, mask=mask, mask_mode=mask_mode
    )


def td_residual(
    reward: ArrayLike,
    value: ArrayLike,
    next_value: ArrayLike,
    terminated: ArrayLike,
    truncated: ArrayLike,
    gamma: float | ArrayLike = 0.99,
    *,
    axis: int = 0,
    offsets: ArrayLike | None = None,
    env_id: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    mask_mode: str = "skip",
    out: Array | None = None,
) -> Array:
    """Psi 6: the temporal-difference residual, an estimate of the advantage from one step.

      delta[t] = r[t] + gamma (1 - terminated[t]) v'[t] - v[t]

    v'[t] is the value of the state that step t led to, before any reset.
    Schulman et al. 2016, sec. 2, expression 6 and eq. 11, arXiv:1506.02438; Sutton and Barto 2018, eq. 6.5

    Arrays (T,) or (T, N), float32 or float64, flags bool; next_value also (N,). Returns the shape and dtype of reward.

    >>> td_residual([1.0, 1.0], [2.0, 3.0], [3.0, 9.0], [False, True], [False, False], gamma=0.5)
    array([ 0.5, -2. ])
    """
    args = (reward, value, next_value, terminated, truncated, gamma)
    return over_time(
        "td_residual", args, axis, out, False, offsets=offsets, env_id=env_id, mask=mask, mask_mode=mask_mode
    )


def gae(
    reward: ArrayLike,
    value: ArrayLike,
    next_value: ArrayLike,
    terminated: ArrayLike,
    truncated: ArrayLike,
    gamma: float | ArrayLike = 0.99,
    lambda_: float | ArrayLike = 0.95,
    *,
    axis: int = 0,
    offsets: ArrayLike | None = None,
    env_id: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    mask_mode: str = "skip",
    out: Array | None = None,
) -> Array:
    """Psi 5: generalized advantage estimates, backwards along each lane.

      delta[t] = r[t] + gamma (1 - terminated[t]) v'[t] - v[t]
      A[t]     = delta[t] + gamma lambda (1 - ended[t]) A[t+1],    A[T] = 0,    ended = terminated or truncated

    v'[t] is the value of the state that step t led to, before any reset.
    Schulman et al. 2016, eq. 16, arXiv:1506.02438

    Arrays (T,) or (T, N), float32 or float64, flags bool; next_value also (N,). Returns the shape and dtype of reward.

    >>> gae([1.0, 1.0], [0.0, 0.0], [0.0, 0.0], [False, True], [False, False], gamma=0.5, lambda_=1.0)
    array([1.5, 1. ])
    """
    args = (reward, value, next_value, terminated, truncated, gamma, lambda_)
    return over_time("gae", args, axis, out, False, offsets=offsets, env_id=env_id, mask=mask, mask_mode=mask_mode)


def gae_and_return(
    reward: ArrayLike,
    value: ArrayLike,
    next_value: ArrayLike,
    terminated: ArrayLike,
    truncated: ArrayLike,
    gamma: float | ArrayLike = 0.99,
    lambda_: float | ArrayLike = 0.95,
    *,
    axis: int = 0,
    offsets: ArrayLike | None = None,
    env_id: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    mask_mode: str = "skip",
    out: tuple[Array, Array] | None = None,
) -> tuple[Array, Array]:
    """`gae` and the returns that a value function is fitted to, in one pass.

      A[t] as in gae,    R[t] = A[t] + v[t]

    R is the lambda-return of the trajectory.
    Schulman et al. 2016, eq. 16 and the footnote to eq. 28, arXiv:1506.02438

    Arrays as in gae. Returns (advantage, returns), each of the shape and dtype of reward.

    >>> gae_and_return([1.0, 1.0], [2.0, 0.0], [0.0, 0.0], [False, True], [False, False], gamma=0.5, lambda_=1.0)
    (array([-0.5,  1. ]), array([1.5, 1. ]))
    """
    args = (reward, value, next_value, terminated, truncated, gamma, lambda_)
    return over_time(
        "gae_and_return", args, axis, out, False, offsets=offsets, env_id=env_id, mask=mask, mask_mode=mask_mode
    )


def lambda_return(
    reward: ArrayLike,
    next_value: ArrayLike,
    terminated: ArrayLike,
    truncated: ArrayLike,
    gamma: float | ArrayLike = 0.99,
    lambda_: float | ArrayLike = 0.95,
    *,
    axis: int = 0,
    offsets: ArrayLike | None = None,
    env_id: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    mask_mode: str = "skip",
    out: Array | None = None,
) -> Array:
    """Psi 4: the lambda-return, an estimate of Q(s_t, a_t).

      R[t] = r[t] + gamma (1 - lambda) v'[t] + gamma lambda R[t+1]
      R[t] = r[t] where terminated,    R[t] = r[t] + gamma v'[t] where truncated and in the last row

    v'[t] is the value of the state that step t led to, before any reset; every step reads it, so it is given in full.
    Sutton and Barto 2018, eq. 12.18 with the value after the last row for its end

    Arrays (T,) or (T, N), float32 or float64, flags bool. Returns the shape and dtype of reward.

    >>> lambda_return([1.0, 1.0], [4.0, 8.0], [False, False], [False, False], gamma=0.5, lambda_=0.5)
    array([3.25, 5.  ])
    """
    args = (reward, next_value, terminated, truncated, gamma, lambda_)
    return over_time(
        "lambda_return", args, axis, out, False, offsets=offsets, env_id=env_id, mask=mask, mask_mode=mask_mode
    )


def n_step_return(
    reward: ArrayLike,
    next_value: ArrayLike,
    terminated: ArrayLike,
    truncated: ArrayLike,
    gamma: float | ArrayLike = 0.99,
    n: int = 5,
    *,
    axis: int = 0,
    offsets: ArrayLike | None = None,
    env_id: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    mask_mode: str = "skip",
    out: Array | None = None,
) -> Array:
    """Psi 4: the n-step return, an estimate of Q(s_t, a_t).

      G[t] = r[t] + gamma r[t+1] + ... + gamma^(m-1) r[t+m-1] + gamma^m v'[t+m-1],    m = n, or fewer steps to the lane's end

    A terminated step ends the sum without v', a truncated one with its own. With n as long as the lane this is reward_to_go, with
    n = 1 it is td_residual + value.
    Sutton and Barto 2018, eq. 7.1; Watkins 1989

    Arrays (T,) or (T, N), float32 or float64, flags bool; next_value in full. n an integer from 1. Takes time in proportion to n; with
    env_id, or a mask that skips, copies of all arrays. Returns the shape and dtype of reward.

    >>> n_step_return([1.0, 2.0, 4.0], [8.0, 8.0, 8.0], [False, False, True], [False, False, False], gamma=0.5, n=2)
    array([4., 4., 4.])
    """
    args = (reward, next_value, terminated, truncated, gamma, n)
    return over_time(
        "n_step_return", args, axis, out, False, offsets=offsets, env_id=env_id, mask=mask, mask_mode=mask_mode
    )


def vtrace(
    reward: ArrayLike,
    value: ArrayLike,
    next_value: ArrayLike,
    log_ratio: ArrayLike,
    terminated: ArrayLike,
    truncated: ArrayLike,
    gamma: float | ArrayLike = 0.99,
    lambda_: float | ArrayLike = 1.0,
    clip_rho: float = 1.0,
    clip_c: float = 1.0,
    clip_pg_rho: float = 1.0,
    alpha: float | ArrayLike = 1.0,
    *,
    axis: int = 0,
    offsets: ArrayLike | None = None,
    env_id: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    mask_mode: str = "skip",
    out: tuple[Array, Array] | None = None,
) -> tuple[Array, Array]:
    """Values of the target policy from steps of another one, and the advantage for its policy gradient.

      delta[t]  = r[t] + gamma (1 - terminated[t]) v'[t] - v[t]
      x[t]      = rho[t] delta[t] + gamma c[t] (1 - ended[t]) x[t+1],    x[T] = 0
      target[t] = v[t] + x[t]
      pg[t]     = min(clip_pg_rho, pi/mu) (r[t] + gamma (1 - terminated[t]) (v'[t] + lambda (1 - ended[t]) x[t+1]) - v[t])

    with rho = min(clip_rho, pi/mu), c = lambda min(clip_c, pi/mu), log_ratio[t] = log pi(a_t|s_t) - log mu(a_t|s_t).
    With alpha below 1 both are leaky: rho = (1 - alpha) pi/mu + alpha min(clip_rho, pi/mu), c likewise. pg never reads across the end
    of an episode. A clip may be inf.
    Espeholt et al. 2018, eq. 1, remarks 1 and 2 and sec. 4.2, arXiv:1802.01561, where pg has target[t+1] whatever lambda is: the lambda in
    pg is rlax's. alpha: Zahavy et al. 2020, arXiv:2002.12928

    Arrays (T,) or (T, N), float32 or float64, flags bool; next_value also (N,). Returns (target, pg_advantage), each of the shape and
    dtype of reward.

    >>> vtrace([1.0, 1.0], [0.0, 2.0], 4.0, [0.0, 9.0], [False, False], [False, False], gamma=0.5)
    (array([2.5, 3. ]), array([2.5, 1. ]))
    """
    args = (
        reward,
        value,
        next_value,
        log_ratio,
        terminated,
        truncated,
        gamma,
        lambda_,
        clip_rho,
        clip_c,
        clip_pg_rho,
        alpha,
    )
    return over_time("vtrace", args, axis, out, False, offsets=offsets, env_id=env_id, mask=mask, mask_mode=mask_mode)


def retrace(
    reward: ArrayLike,
    q_value: ArrayLike,
    next_value: ArrayLike,
    log_ratio: ArrayLike,
    terminated: ArrayLike,
    truncated: ArrayLike,
    gamma: float | ArrayLike = 0.99,
    lambda_: float | ArrayLike = 1.0,
    *,
    axis: int = 0,
    offsets: ArrayLike | None = None,
    env_id: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    mask_mode: str = "skip",
    out: Array | None = None,
) -> Array:
    """Psi 4 from steps of another policy: Retrace(lambda), an estimate of Q(s_t, a_t).

      G[t] = r[t] + gamma (1 - terminated[t]) v'[t] + gamma (1 - ended[t]) c[t+1] (G[t+1] - q[t+1])
      c[t] = lambda min(1, pi(a_t|s_t) / mu(a_t|s_t)),    log_ratio = log pi - log mu

    q_value[t] is Q(s_t, a_t); next_value[t] is the expectation of Q(s', a) over pi in the state s' that step t led to, before any reset.
    Munos et al. 2016, eq. 3 and table 1, arXiv:1606.02647

    Arrays (T,) or (T, N), float32 or float64, flags bool; next_value in full. Returns the shape and dtype of reward.

    >>> retrace([1.0, 1.0], [0.0, 2.0], [2.0, 4.0], [0.0, 0.0], [False, False], [False, False], gamma=0.5)
    array([2.5, 3. ])
    """
    args = (reward, q_value, next_value, log_ratio, terminated, truncated, gamma, lambda_)
    return over_time("retrace", args, axis, out, False, offsets=offsets, env_id=env_id, mask=mask, mask_mode=mask_mode)


def q_lambda(
    reward: ArrayLike,
    value: ArrayLike,
    next_value: ArrayLike,
    greedy: ArrayLike,
    terminated: ArrayLike,
    truncated: ArrayLike,
    gamma: float | ArrayLike = 0.99,
    lambda_: float | ArrayLike = 0.95,
    *,
    axis: int = 0,
    offsets: ArrayLike | None = None,
    env_id: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    mask_mode: str = "skip",
    out: Array | None = None,
) -> Array:
    """Psi 4 for the greedy policy: Watkins's Q(lambda), or with greedy True everywhere Peng's.

      G[t] = r[t] + gamma (1 - terminated[t]) v'[t] + gamma (1 - ended[t]) c[t+1] (G[t+1] - v[t+1])
      c[t] = lambda where a_t was greedy, else 0

    value[t] is max_a Q(s_t, a), next_value[t] the same of the state that step t led to, before any reset.
    Watkins 1989; Peng and Williams 1996, doi:10.1007/BF00114731; Sutton and Barto 2018, sec. 12.10

    Arrays (T,) or (T, N), float32 or float64, flags bool; next_value also (N,). Returns the shape and dtype of reward.

    >>> q_lambda([1.0, 1.0], [0.0, 2.0], 4.0, [True, False], [False, False], [False, False], gamma=0.5, lambda_=1.0)
    array([2., 3.])
    """
    args = (reward, value, next_value, greedy, terminated, truncated, gamma, lambda_)
    return over_time("q_lambda", args, axis, out, False, offsets=offsets, env_id=env_id, mask=mask, mask_mode=mask_mode)


def tree_backup(
    reward: ArrayLike,
    q_value: ArrayLike,
    next_value: ArrayLike,
    log_prob: ArrayLike,
    terminated: ArrayLike,
    truncated: ArrayLike,
    gamma: float | ArrayLike = 0.99,
    lambda_: float | ArrayLike = 1.0,
    *,
    axis: int = 0,
    offsets: ArrayLike | None = None,
    env_id: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    mask_mode: str = "skip",
    out: Array | None = None,
) -> Array:
    """Psi 4 without importance ratios: tree backup, TB(lambda), an estimate of Q(s_t, a_t).

      G[t] = r[t] + gamma (1 - terminated[t]) v'[t] + gamma (1 - ended[t]) c[t+1] (G[t+1] - q[t+1])
      c[t] = lambda pi(a_t|s_t),    log_prob = log pi(a_t|s_t)

    q_value[t] is Q(s_t, a_t); next_value[t] is the expectation of Q(s', a) over pi in the state s' that step t led to, before any reset.
    Precup, Sutton and Singh 2000; Sutton and Barto 2018, eq. 7.16; Munos et al. 2016, table 1, arXiv:1606.02647

    Arrays (T,) or (T, N), float32 or float64, flags bool; next_value in full. Returns the shape and dtype of reward.

    >>> tree_backup([1.0, 1.0], [0.0, 2.0], [2.0, 4.0], [0.0, -np.inf], [False, False], [False, False], gamma=0.5)
    array([2., 3.])
    """
    args = (reward, q_value, next_value, log_prob, terminated, truncated, gamma, lambda_)
    return over_time(
        "tree_backup", args, axis, out, False, offsets=offsets, env_id=env_id, mask=mask, mask_mode=mask_mode
    )


def upgo(
    reward: ArrayLike,
    value: ArrayLike,
    next_value: ArrayLike,
    terminated: ArrayLike,
    truncated: ArrayLike,
    gamma: float | ArrayLike = 0.99,
    *,
    axis: int = 0,
    offsets: ArrayLike | None = None,
    env_id: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    mask_mode: str = "skip",
    out: Array | None = None,
) -> Array:
    """Upgoing returns: the return that follows as long as it goes better than expected, else the value.

      G[t] = r[t] + gamma (1 - terminated[t]) v'[t] + gamma (1 - ended[t]) c[t+1] (G[t+1] - v[t+1])
      c[t] = 1 where r[t] + gamma (1 - terminated[t]) v'[t] >= v[t], else 0

    v'[t] is the value of the state that step t led to, before any reset. upgo - value is the advantage.
    Vinyals et al. 2019, Methods, doi:10.1038/s41586-019-1724-z

    Arrays (T,) or (T, N), float32 or float64, flags bool; next_value also (N,). Returns the shape and dtype of reward.

    >>> upgo([1.0, 1.0], [0.0, 2.0], 4.0, [False, False], [False, False], gamma=0.5)
    array([2.5, 3. ])
    """
    args = (reward, value, next_value, terminated, truncated, gamma)
    return over_time("upgo", args, axis, out, False, offsets=offsets, env_id=env_id, mask=mask, mask_mode=mask_mode)


def baselined(
    returns: ArrayLike, baseline: ArrayLike, *, mask: ArrayLike | None = None, out: Array | None = None
) -> Array:
    """Psi 3: returns less a baseline that does not depend on the action.

      Psi[t] = G[t] - b(s_t),    0 where the mask is False

    The value of the state is a baseline; mean_baseline, leave_one_out_baseline and optimal_baseline make others.
    Schulman et al. 2016, sec. 2, expression 3, arXiv:1506.02438; Williams 1992, sec. 4

    returns of any shape, float32 or float64; baseline of the same shape and dtype; mask of that shape, bool. Returns that shape and
    dtype.

    >>> baselined([3.0, 4.0], [1.0, 5.0])
    array([ 2., -1.])
    """
    home = at_home(returns)
    returns = as_floats("returns", returns)
    baseline = same_shape("baseline", as_floats("baseline", baseline, ("returns", returns)), "returns", returns)
    where = True if mask is None else same_shape("mask", as_flags("mask", mask), "returns", returns)

    def run(out: Array | None) -> Array:
        out = np.empty(returns.shape, returns.dtype) if out is None else out
        np.subtract(returns, baseline, out=out, where=where)
        if mask is not None:
            np.copyto(out, 0, where=~np.asarray(where))
        return out

    return home(into(out, returns.shape, returns.dtype, [where], run))


def _less_value(r: Any, v: Any, nv: Any, te: Any, tr: Any, g: Any, *, mask: Any, out: Any, **how: Any) -> Array:
    returns = reward_to_go(r, nv, te, tr, g, mask=mask, **how)  # not into out, which may be v
    return baselined(returns, v, mask=mask, out=returns if out is None and isinstance(returns, np.ndarray) else out)


Estimate = Callable[..., Array]

# The taxonomy: each kind from the same seven arguments (r, v, v', terminated, truncated, gamma, lambda) and the layout.
_PSI: dict[str, Estimate] = {
    "total_return": lambda r, v, nv, te, tr, g, la, **how: total_return(r, te, tr, g, **how),
    "reward_to_go": lambda r, v, nv, te, tr, g, la, **how: reward_to_go(r, nv, te, tr, g, **how),
    "baselined": lambda r, v, nv, te, tr, g, la, **how: _less_value(r, v, nv, te, tr, g, **how),
    "q": lambda r, v, nv, te, tr, g, la, **how: lambda_return(r, nv, te, tr, g, la, **how),
    "gae": lambda r, v, nv, te, tr, g, la, **how: gae(r, v, nv, te, tr, g, la, **how),
    "td_residual": lambda r, v, nv, te, tr, g, la, **how: td_residual(r, v, nv, te, tr, g, **how),
}
PSI = tuple(_PSI)


def psi(
    kind: str,
    reward: ArrayLike,
    value: ArrayLike,
    next_value: ArrayLike,
    terminated: ArrayLike,
    truncated: ArrayLike,
    gamma: float | ArrayLike = 0.99,
    lambda_: float | ArrayLike = 0.95,
    *,
    axis: int = 0,
    offsets: ArrayLike | None = None,
    env_id: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    mask_mode: str = "skip",
    out: Array | None = None,
) -> Array:
    """The taxonomy as one call: what stands beside grad log pi in the policy gradient.

      kind            Psi[t]
      total_return    the return of the whole episode
      reward_to_go    the return that follows t
      baselined       the return that follows t, less v[t]
      q               the lambda-return, an estimate of Q(s_t, a_t)
      gae             an estimate of A(s_t, a_t)
      td_residual     r[t] + gamma v'[t] - v[t]

    Arguments that a kind does not need are ignored.
    Schulman et al. 2016, sec. 2, expressions 1 to 6, there without gamma, arXiv:1506.02438

    Arrays as in gae. Returns the shape and dtype of reward.

    >>> psi("td_residual", [1.0], [2.0], [3.0], [False], [False], gamma=0.5)
    array([0.5])
    """
    if kind not in PSI:
        raise ValueError(f"kind is {kind!r}; one of {', '.join(PSI)} is wanted")
    how = {"axis": axis, "offsets": offsets, "env_id": env_id, "mask": mask, "mask_mode": mask_mode, "out": out}
    return _PSI[kind](reward, value, next_value, terminated, truncated, gamma, lambda_, **how)
