"""Psi: how good was action t? Scans over time.

T steps, N lanes. `reward[t]` is what the action at t earned, `value[t]` is V(s_t), `next_value[t]` is V of the state that step t
led to, before any reset. `terminated[t]`: that state is terminal, its value counts as 0 and the trace stops. `truncated[t]`: cut
from outside, its value counts and the trace stops. Where both are set, terminated wins. The last row of a buffer counts as truncated.

Arrays are (T,), time-major (T, N), or batch-major (B, T) with axis=1, in any strides; float32 or float64, kept as they come.
`next_value` may have the shape of one row, (N,): then it is V after the last row, V(s_{t+1}) is `value[t+1]` elsewhere, and a
truncated step above the last row is refused, because the value of the state it led to is nowhere in the arguments.
`gamma` and `lambda_` are numbers in [0, 1], or arrays shaped like `reward`. A coefficient of 0 reads nothing: NaN and inf reach the
steps before them in the same episode and no others. `out` receives the result.

CPU tensors of PyTorch and arrays of JAX are read through DLPack, without a copy, and answered in kind.

Every function here raises TypeError for a wrong dtype and ValueError for a wrong shape or range, naming the argument.
Time-major results equal `fastpg.reference` bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastpg._check import as_floats, at_home, into, over_time, same_shape

__all__ = [
    "PSI",
    "baselined",
    "gae",
    "gae_and_return",
    "lambda_return",
    "psi",
    "reward_to_go",
    "td_residual",
    "total_return",
]

Array = NDArray[Any]


def total_return(
    reward: ArrayLike,
    terminated: ArrayLike,
    truncated: ArrayLike,
    gamma: float | ArrayLike = 1.0,
    *,
    axis: int = 0,
    out: Array | None = None,
) -> Array:
    """Psi 1: the return of the whole episode, for each of its steps.

      R = sum_k gamma^k r[t0 + k],    t0 the episode's first step in the buffer, the sum to its last step there

    Nothing is added for what lies beyond the buffer or a truncation. With gamma per step, gamma[t] discounts all after step t.
    Schulman et al. 2016, sec. 2, expression 1, arXiv:1506.02438; Williams 1992, doi:10.1007/BF00992696

    reward (T,) or (T, N), float32 or float64; terminated, truncated the same shape, bool. Returns the shape and dtype of reward.

    >>> total_return([1.0, 2.0, 4.0], [False, True, False], [False, False, False])
    array([3., 3., 4.])
    """
    return over_time("total_return", (reward, terminated, truncated, gamma), axis, out)  # type: ignore[no-any-return]


def reward_to_go(
    reward: ArrayLike,
    next_value: ArrayLike | None = None,
    terminated: ArrayLike | None = None,
    truncated: ArrayLike | None = None,
    gamma: float | ArrayLike = 0.99,
    *,
    axis: int = 0,
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
    return over_time("reward_to_go", (reward, next_value, terminated, truncated, gamma), axis, out, optional=True)  # type: ignore[no-any-return]


def td_residual(
    reward: ArrayLike,
    value: ArrayLike,
    next_value: ArrayLike,
    terminated: ArrayLike,
    truncated: ArrayLike,
    gamma: float | ArrayLike = 0.99,
    *,
    axis: int = 0,
    out: Array | None = None,
) -> Array:
    """Psi 6: the temporal-difference residual, an estimate of the advantage from one step.

      delta[t] = r[t] + gamma (1 - terminated[t]) v'[t] - v[t]

    v'[t] is the value of the state that step t led to, before any reset.
    Schulman et al. 2016, sec. 2, expression 6 and eq. 10, arXiv:1506.02438; Sutton and Barto 2018, eq. 6.5

    Arrays (T,) or (T, N), float32 or float64, flags bool; next_value also (N,). Returns the shape and dtype of reward.

    >>> td_residual([1.0, 1.0], [2.0, 3.0], [3.0, 9.0], [False, True], [False, False], gamma=0.5)
    array([ 0.5, -2. ])
    """
    return over_time("td_residual", (reward, value, next_value, terminated, truncated, gamma), axis, out)  # type: ignore[no-any-return]


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
    return over_time("gae", (reward, value, next_value, terminated, truncated, gamma, lambda_), axis, out)  # type: ignore[no-any-return]


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
) -> tuple[Array, Array]:
    """`gae` and the returns that a value function is fitted to, in one pass.

      A[t] as in gae,    R[t] = A[t] + v[t]

    R is the lambda-return of the trajectory.
    Schulman et al. 2016, eq. 16 and 28, arXiv:1506.02438

    Arrays as in gae. Returns (advantage, returns), each of the shape and dtype of reward.

    >>> gae_and_return([1.0, 1.0], [2.0, 0.0], [0.0, 0.0], [False, True], [False, False], gamma=0.5, lambda_=1.0)
    (array([-0.5,  1. ]), array([1.5, 1. ]))
    """
    args = (reward, value, next_value, terminated, truncated, gamma, lambda_)
    return over_time("gae_and_return", args, axis)  # type: ignore[no-any-return]


def lambda_return(
    reward: ArrayLike,
    next_value: ArrayLike,
    terminated: ArrayLike,
    truncated: ArrayLike,
    gamma: float | ArrayLike = 0.99,
    lambda_: float | ArrayLike = 0.95,
    *,
    axis: int = 0,
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
    return over_time("lambda_return", (reward, next_value, terminated, truncated, gamma, lambda_), axis, out)  # type: ignore[no-any-return]


def baselined(returns: ArrayLike, baseline: ArrayLike, *, out: Array | None = None) -> Array:
    """Psi 3: returns less a baseline that does not depend on the action.

      Psi[t] = G[t] - b(s_t)

    Schulman et al. 2016, sec. 2, expression 3, arXiv:1506.02438; Williams 1992, sec. 4

    returns of any shape, float32 or float64; baseline of the same shape and dtype. Returns that shape and dtype.

    >>> baselined([3.0, 4.0], [1.0, 5.0])
    array([ 2., -1.])
    """
    home = at_home(returns)
    returns = as_floats("returns", returns)
    baseline = same_shape("baseline", as_floats("baseline", baseline, ("returns", returns)), "returns", returns)
    return home(into(out, returns.shape, returns.dtype, [], lambda o: np.subtract(returns, baseline, out=o)))  # type: ignore[no-any-return]


Estimate = Callable[[Any, Any, Any, Any, Any, Any, Any, int], Array]

# The taxonomy: each kind from the same seven arguments (r, v, v', terminated, truncated, gamma, lambda) and the axis.
_PSI: dict[str, Estimate] = {
    "total_return": lambda r, v, nv, te, tr, g, la, axis: total_return(r, te, tr, g, axis=axis),
    "reward_to_go": lambda r, v, nv, te, tr, g, la, axis: reward_to_go(r, nv, te, tr, g, axis=axis),
    "baselined": lambda r, v, nv, te, tr, g, la, axis: baselined(reward_to_go(r, nv, te, tr, g, axis=axis), v),
    "q": lambda r, v, nv, te, tr, g, la, axis: lambda_return(r, nv, te, tr, g, la, axis=axis),
    "gae": lambda r, v, nv, te, tr, g, la, axis: gae(r, v, nv, te, tr, g, la, axis=axis),
    "td_residual": lambda r, v, nv, te, tr, g, la, axis: td_residual(r, v, nv, te, tr, g, axis=axis),
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
) -> Array:
    """The taxonomy as one call: what stands beside grad log pi in the policy gradient.

      kind            Psi[t]
      total_return    the return of the whole episode
      reward_to_go    the return that follows t
      baselined       the return that follows t, less v[t]
      q               the lambda-return, an estimate of Q(s_t, a_t)
      gae             an estimate of A(s_t, a_t)
      td_residual     r[t] + gamma v'[t] - v[t]

    Arguments that a kind does not need are ignored. Schulman et al. 2016, sec. 2, expressions 1 to 6, arXiv:1506.02438

    Arrays as in gae. Returns the shape and dtype of reward.

    >>> psi("td_residual", [1.0], [2.0], [3.0], [False], [False], gamma=0.5)
    array([0.5])
    """
    if kind not in _PSI:
        raise ValueError(f"kind is {kind!r}; one of {', '.join(PSI)} is wanted")
    return _PSI[kind](reward, value, next_value, terminated, truncated, gamma, lambda_, axis)
