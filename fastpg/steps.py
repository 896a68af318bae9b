"""One-step kernels in Numba; `scan` runs one over a batch.

A step is what a loop of your own needs at one time, or for one row: call it inside any `@njit` loop and it is compiled
into that loop.

- Backward steps take `carry`, what the step at t+1 handed on, then the parameters of the public function of the same name.
  Most hand on their result: they return it, or a tuple whose first item it is. Others return `carry, (result, ...)`.
  `n_step_return` keeps its carry, an array, up to date in place. `scan(steps.gae, ...)` equals `fastpg.gae(...)`.
- Action steps take one row of logits.

Arithmetic is that of the arguments, by Numba's rules: in a float32 loop hand over float32 scalars, as `scan` does,
because a Python float is a float64.
"""

from collections.abc import Callable
from math import exp, inf, log
from typing import Any, TypeVar, cast

import numba
from numpy.typing import NDArray

from fastpg import _numba

__all__ = [
    "gated", "total_return", "reward_to_go", "td_residual", "gae", "gae_and_return", "lambda_return", "n_step_return",
    "vtrace", "retrace", "q_lambda", "tree_backup", "upgo",
    "categorical_sample", "categorical_log_prob", "categorical_log_prob_grad",
]  # fmt: skip

_numba.register()  # whoever uses steps uses Numba: the public names work from here on, entry points or not

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _compiled(function: _Function) -> _Function:
    """numba.njit that keeps the type of what it decorates."""
    return cast(_Function, numba.njit(nogil=True)(function))


# Time. Numba keeps float32 in x * flag and True - x, and makes float64 of x * 1 and 1 - x.


@_compiled
def gated(c: float, x: float) -> float:
    """c x, where c = 0 means that x is not read: NaN and inf do not cross an ending.

    >>> gated(0.0, float("nan")), gated(0.5, 4.0)
    (0.0, 2.0)
    """
    return c * x if c != 0 else c


@_compiled
def total_return(carry: float, reward: float, terminated: bool, truncated: bool, gamma: float = 1.0) -> float:
    """The discounted rest of the episode; at its first step, the return of the whole episode.

        R[t] = r[t] + gamma (1 - ended[t]) R[t+1],   ended = terminated or truncated

    `scan` then hands the value at an episode's first step in the buffer to all of its steps: a sweep forwards, which
    no backward step can do.
    Sutton & Barto 2018, eq. 3.8; Schulman et al. 2016, Psi 1 under eq. 1, arXiv:1506.02438

    >>> total_return(4.0, 1.0, False, False, 0.5)
    3.0
    """
    return reward + gated(gamma * (not (terminated or truncated)), carry)


@_compiled
def reward_to_go(
    carry: float,
    reward: float,
    next_value: float = 0.0,
    terminated: bool = False,
    truncated: bool = False,
    gamma: float = 0.99,
) -> float:
    """The discounted return from t on, with the next state's value where the episode was cut from outside.

        G[t] = r[t] + gamma (1 - terminated[t]) (v'[t] if truncated[t] else G[t+1])

    Sutton & Barto 2018, eq. 3.9

    >>> reward_to_go(4.0, 1.0, 8.0, False, False, 0.5), reward_to_go(4.0, 1.0, 8.0, False, True, 0.5)
    (3.0, 5.0)
    """
    return reward + gated(gamma * (not terminated), next_value if truncated else carry)


@_compiled
def td_residual(
    reward: float, value: float, next_value: float, terminated: bool, truncated: bool, gamma: float = 0.99
) -> float:
    """The temporal-difference residual. No recursion, so no carry.

        delta[t] = r[t] + gamma (1 - terminated[t]) v'[t] - v[t]

    Schulman et al. 2016, eq. 11, arXiv:1506.02438; Sutton & Barto 2018, eq. 6.5

    >>> td_residual(1.0, 2.0, 4.0, False, False, 0.5), td_residual(1.0, 2.0, 4.0, True, False, 0.5)
    (1.0, -1.0)
    """
    return reward + gated(gamma * (not terminated), next_value) - value


@_compiled
def gae(
    carry: float,
    reward: float,
    value: float,
    next_value: float,
    terminated: bool,
    truncated: bool,
    gamma: float = 0.99,
    lambda_: float = 0.95,
) -> float:
    """The generalized advantage estimate.

        A[t] = delta[t] + gamma lambda (1 - ended[t]) A[t+1],   delta = td_residual,   ended = terminated or truncated

    Schulman et al. 2016, eq. 16, arXiv:1506.02438

    >>> gae(8.0, 1.0, 2.0, 4.0, False, False, 0.5, 0.5), gae(8.0, 1.0, 2.0, 4.0, False, True, 0.5, 0.5)
    (3.0, 1.0)
    """
    delta = td_residual(reward, value, next_value, terminated, truncated, gamma)
    return delta + gated(gamma * lambda_ * (not (terminated or truncated)), carry)


@_compiled
def gae_and_return(
    carry: float,
    reward: float,
    value: float,
    next_value: float,
    terminated: bool,
    truncated: bool,
    gamma: float = 0.99,
    lambda_: float = 0.95,
) -> tuple[float, float]:
    """The generalized advantage estimate, and the return it estimates.

        A[t] = gae,   R[t] = A[t] + v[t]

    Schulman et al. 2016, eq. 16 and the footnote to eq. 28, arXiv:1506.02438

    >>> gae_and_return(8.0, 1.0, 2.0, 4.0, False, False, 0.5, 0.5)
    (3.0, 5.0)
    """
    advantage = gae(carry, reward, value, next_value, terminated, truncated, gamma, lambda_)
    return advantage, advantage + value


@_compiled
def lambda_return(
    carry: float,
    reward: float,
    next_value: float,
    terminated: bool,
    truncated: bool,
    gamma: float = 0.99,
    lambda_: float = 0.95,
) -> float:
    """The lambda-return: every n-step return, weighted by lambda^(n-1).

        R[t] = r[t] + gamma (1 - terminated[t]) (v'[t] if truncated[t] else (1 - lambda) v'[t] + lambda R[t+1])

    Sutton & Barto 2018, eq. 12.2 and 12.3, here in the recursive form of eq. 12.18

    >>> lambda_return(8.0, 1.0, 4.0, False, False, 0.5, 0.25), lambda_return(8.0, 1.0, 4.0, False, True, 0.5, 0.25)
    (3.5, 3.0)
    """
    near = gamma if truncated else gamma * (True - lambda_)
    far = gamma * lambda_ * (not (terminated or truncated))
    return reward + gated(near * (not terminated), next_value) + gated(far, carry)


@_compiled
def n_step_return(
    carry: NDArray[Any],
    reward: float,
    next_value: float,
    terminated: bool,
    truncated: bool,
    gamma: float = 0.99,
) -> float:
    """The return of n rewards and the value after them, or fewer where the episode or the buffer ends.

        G_1[t] = r[t] + gamma (1 - terminated[t]) v'[t]
        G_n[t] = r[t] + gamma (1 - terminated[t]) (v'[t] if truncated[t] else G_{n-1}[t+1])

    `carry` holds G_1, ..., G_n at t+1, is left with those at t, and its length is n; the result is the last of them. At the
    end of a buffer truncated is True, so what the carry starts with is not read.
    Sutton & Barto 2018, eq. 7.1; Watkins 1989

    >>> import numpy as np
    >>> window = np.array([8.0, 6.0])
    >>> float(n_step_return(window, 1.0, 4.0, False, False, 0.5)), window
    (5.0, array([3., 5.]))
    """
    near = gated(gamma * (not terminated), next_value)
    for k in range(len(carry) - 1, 0, -1):
        carry[k] = reward + (near if truncated else gated(gamma * (not terminated), carry[k - 1]))
    carry[0] = reward + near
    result: float = carry[-1]
    return result


@_compiled
def _corrected(
    carry: float, reward: float, next_value: float, terminated: bool, truncated: bool, gamma: float
) -> float:
    """G[t] = r[t] + gamma ((1 - terminated[t]) v'[t] + (1 - ended[t]) x[t+1]): what all off-policy returns share.

    x[t] = c[t] (G[t] - q[t]) is their carry: how far the return was from what was known, as far as it can be trusted.
    """
    near, far = gamma * (not terminated), gamma * (not (terminated or truncated))
    return reward + gated(near, next_value) + gated(far, carry)


@_compiled
def _clipped_ratio(log_ratio: float, clip: float) -> float:
    """min(clip, pi / mu); NaN stays NaN."""
    ratio = exp(log_ratio)
    return clip if ratio > clip else ratio


@_compiled
def vtrace(
    carry: float,
    reward: float,
    value: float,
    next_value: float,
    log_ratio: float,
    terminated: bool,
    truncated: bool,
    gamma: float = 0.99,
    lambda_: float = 1.0,
    clip_rho: float = 1.0,
    clip_c: float = 1.0,
    clip_pg_rho: float = 1.0,
    alpha: float = 1.0,
) -> tuple[float, tuple[float, float]]:
    """The V-trace target, and the advantage for the policy gradient: carry, (target, pg_advantage).

        x[t]      = rho[t] delta[t] + gamma c[t] (1 - ended[t]) x[t+1],   delta = td_residual
        target[t] = v[t] + x[t]
        pg[t]     = min(clip_pg_rho, ratio) (r[t] + gamma ((1 - terminated[t]) v'[t] + lambda (1 - ended[t]) x[t+1]) - v[t])

    ratio = exp(log_ratio) = pi / mu; rho = (1 - alpha) ratio + alpha min(clip_rho, ratio); c = lambda times the same with clip_c.
    The carry is x.
    Espeholt et al. 2018, eq. 1, remarks 1 and 2 and section 4.2, arXiv:1802.01561, where pg has target[t+1] whatever lambda is: the
    lambda in pg is rlax's; alpha below 1: leaky V-trace, Zahavy et al. 2020, arXiv:2002.12928

    >>> vtrace(2.0, 1.0, 2.0, 4.0, 0.0, False, False, 0.5)
    (2.0, (4.0, 2.0))
    """
    ratio = exp(log_ratio)
    rho = gated(True - alpha, ratio) + gated(alpha, _clipped_ratio(log_ratio, clip_rho))
    c = lambda_ * (gated(True - alpha, ratio) + gated(alpha, _clipped_ratio(log_ratio, clip_c)))
    go_on = not (terminated or truncated)
    near = reward + gated(gamma * (not terminated), next_value)
    x = rho * (near - value) + gated(gamma * c * go_on, carry)
    q = near + gated(gamma * lambda_ * go_on, carry)
    return x, (value + x, _clipped_ratio(log_ratio, clip_pg_rho) * (q - value))


@_compiled
def retrace(
    carry: float,
    reward: float,
    q_value: float,
    next_value: float,
    log_ratio: float,
    terminated: bool,
    truncated: bool,
    gamma: float = 0.99,
    lambda_: float = 1.0,
) -> tuple[float, tuple[float]]:
    """The Retrace(lambda) return, an estimate of Q: carry, (G,).

        G[t] = r[t] + gamma ((1 - terminated[t]) v'[t] + (1 - ended[t]) x[t+1])
        x[t] = lambda min(1, exp(log_ratio[t])) (G[t] - q[t])

    v' is the expected value of the next state under the target policy, sum_a pi(a) q(a). The carry is x.
    Munos et al. 2016, eq. 3 and table 1, arXiv:1606.02647

    >>> retrace(2.0, 1.0, 2.0, 4.0, 0.0, False, False, 0.5, 0.5)
    (1.0, (4.0,))
    """
    target = _corrected(carry, reward, next_value, terminated, truncated, gamma)
    return gated(lambda_ * _clipped_ratio(log_ratio, 1.0), target - q_value), (target,)


@_compiled
def q_lambda(
    carry: float,
    reward: float,
    value: float,
    next_value: float,
    greedy: bool,
    terminated: bool,
    truncated: bool,
    gamma: float = 0.99,
    lambda_: float = 0.95,
) -> tuple[float, tuple[float]]:
    """The return of Watkins's Q(lambda), which stops at actions that were not greedy: carry, (G,).

        G[t] = r[t] + gamma ((1 - terminated[t]) v'[t] + (1 - ended[t]) x[t+1]),   x[t] = lambda greedy[t] (G[t] - v[t])

    v[t] = max_a q(s_t, a), v' that of the next state. The carry is x.
    Watkins 1989; Sutton & Barto 2018, section 12.10

    >>> q_lambda(2.0, 1.0, 2.0, 4.0, True, False, False, 0.5, 0.5), q_lambda(2.0, 1.0, 2.0, 4.0, False, False, False, 0.5, 0.5)
    ((1.0, (4.0,)), (0.0, (4.0,)))
    """
    target = _corrected(carry, reward, next_value, terminated, truncated, gamma)
    return gated(lambda_ * greedy, target - value), (target,)


@_compiled
def tree_backup(
    carry: float,
    reward: float,
    q_value: float,
    next_value: float,
    log_prob: float,
    terminated: bool,
    truncated: bool,
    gamma: float = 0.99,
    lambda_: float = 1.0,
) -> tuple[float, tuple[float]]:
    """The tree-backup return, an estimate of Q: carry, (G,).

        G[t] = r[t] + gamma ((1 - terminated[t]) v'[t] + (1 - ended[t]) x[t+1]),   x[t] = lambda pi(a_t) (G[t] - q[t])

    log_prob = log pi(a_t) of the target policy, v' = sum_a pi(a) q(a) of the next state. The carry is x.
    Precup et al. 2000; Sutton & Barto 2018, eq. 7.16; Munos et al. 2016, table 1, arXiv:1606.02647

    >>> tree_backup(2.0, 1.0, 2.0, 4.0, 0.0, False, False, 0.5, 0.5)
    (1.0, (4.0,))
    """
    target = _corrected(carry, reward, next_value, terminated, truncated, gamma)
    return gated(lambda_ * exp(log_prob), target - q_value), (target,)


@_compiled
def upgo(
    carry: float,
    reward: float,
    value: float,
    next_value: float,
    terminated: bool,
    truncated: bool,
    gamma: float = 0.99,
) -> tuple[float, tuple[float]]:
    """The upgoing return, which follows the trajectory while it does better than expected: carry, (G,).

        G[t] = r[t] + gamma ((1 - terminated[t]) v'[t] + (1 - ended[t]) x[t+1])
        x[t] = G[t] - v[t] where r[t] + gamma (1 - terminated[t]) v'[t] >= v[t], else 0

    The carry is x.
    Vinyals et al. 2019, Methods, doi:10.1038/s41586-019-1724-z

    >>> upgo(2.0, 1.0, 2.0, 4.0, False, False, 0.5), upgo(2.0, 1.0, 4.0, 4.0, False, False, 0.5)
    ((2.0, (4.0,)), (0.0, (4.0,)))
    """
    target = _corrected(carry, reward, next_value, terminated, truncated, gamma)
    better = reward + gated(gamma * (not terminated), next_value) >= value
    return gated(better, target - value), (target,)


# Actions: one row of logits, of which -inf marks an action that cannot happen.


@_compiled
def _max_and_sum(logits: NDArray[Any]) -> tuple[float, float]:
    """m = max logits and sum exp(logits - m): what every softmax needs, safe at any offset."""
    if len(logits) == 0:
        raise ValueError("logits are empty; at least one action is wanted")
    highest = logits[0]
    for logit in logits:
        if logit > highest:
            highest = logit
    if highest == -inf:
        raise ValueError("logits are -inf throughout; at least one action must be possible")
    total = highest - highest
    for logit in logits:
        total += exp(logit - highest)
    return highest, total


@_compiled
def categorical_sample(logits: NDArray[Any], uniform: float) -> int:
    """An action drawn from softmax(logits): the inverse of its distribution function at a uniform number in [0, 1).

        a = min {k : sum_{j <= k} exp(logits[j]) > uniform sum_j exp(logits[j])}

    The inequality is strict: an action of probability 0 is never drawn. Devroye 1986, section III.2
    ValueError where no action is possible, and where a logit is NaN or +inf.

    >>> import numpy as np
    >>> categorical_sample(np.log([0.25, 0.5, 0.25]), 0.5), categorical_sample(np.array([-np.inf, 0.0]), 0.0)
    (1, 1)
    """
    highest, total = _max_and_sum(logits)
    threshold = uniform * total
    below, action = total - total, -1
    for k in range(len(logits)):
        weight = exp(logits[k] - highest)
        if weight > 0:
            action = k  # kept when rounding lifts the threshold to the total
            below += weight
            if below > threshold:
                break
    if action < 0 or total != total:
        raise ValueError("logits hold a NaN or +inf; finite numbers and -inf are wanted")
    return action


@_compiled
def categorical_log_prob(logits: NDArray[Any], action: int) -> float:
    """log pi(action), pi = softmax(logits).

        log pi(a) = (logits[a] - m) - log sum_k exp(logits[k] - m),   m = max logits

    ValueError where no action is possible, and where the action is not one of the row's.

    >>> import numpy as np
    >>> categorical_log_prob(np.array([0.0, 0.0]), 1), categorical_log_prob(np.array([0.0, -np.inf]), 1)
    (-0.6931471805599453, -inf)
    """
    if action < 0 or action >= len(logits):
        raise ValueError("action is out of range; 0 up to the number of logits is wanted")
    highest, total = _max_and_sum(logits)
    above: float = logits[action] - highest
    return above - log(total)


@_compiled
def categorical_log_prob_grad(logits: NDArray[Any], action: int, weight: float, out: NDArray[Any]) -> None:
    """The score times a weight, d (weight log pi(action)) / d logits, written to `out`.

        out[k] = weight ((k = action) - pi(k)),   pi = softmax(logits);   0 where logits[k] = -inf

    Sutton & Barto 2018, eq. 13.9 for a logit per action; Williams 1992, eq. 7 for two actions
    `out` may be `logits`. ValueError as categorical_log_prob.

    >>> import numpy as np
    >>> grad = np.empty(2)
    >>> categorical_log_prob_grad(np.zeros(2), 1, 4.0, grad)
    >>> grad
    array([-2.,  2.])
    """
    if action < 0 or action >= len(logits):
        raise ValueError("action is out of range; 0 up to the number of logits is wanted")
    if len(out) != len(logits):
        raise ValueError("out and logits differ in length")
    highest, total = _max_and_sum(logits)
    for k in range(len(logits)):
        possible = logits[k] != -inf
        out[k] = weight * ((k == action) - exp(logits[k] - highest) / total) if possible else 0.0
