"""Rewards before any estimator sees them: length penalties, KL in the reward, the reward of a whole response at its last token.

Sequences are padded (B, T) with a bool mask, or packed (L,) with B + 1 offsets. Masked places are never read and come back 0.
`FixedKLController` and `AdaptiveKLController` set the coefficient of a KL penalty from one update to the next.
"""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastpg._check import as_floats, as_index, at_home
from fastpg._tokens import Tokens

__all__ = [
    "AdaptiveKLController",
    "FixedKLController",
    "soft_overlong_punishment",
    "token_reward",
]

Array = NDArray[Any]


def soft_overlong_punishment(length: ArrayLike, max_length: int, buffer: int, *, factor: float = 1.0) -> Array:
    """The penalty that DAPO adds to the reward of a response as it nears the longest allowed.

      p = 0                                        length <= max_length - buffer
      p = (max_length - buffer - length) / buffer  up to max_length
      p = -1                                       beyond;           factor p is returned

    Yu et al. 2025, eq. 13, arXiv:2503.14476. verl has no last case, but never sees a longer response.

    length: integers, any shape; buffer in [1, max_length]. Returns float64 of the shape of length: add it to the reward.

    >>> soft_overlong_punishment([10, 13, 14, 16, 20], max_length=16, buffer=4)
    array([ 0.  , -0.25, -0.5 , -1.  , -1.  ])
    """
    tokens = as_index("length", length)
    if tokens.size and tokens.min() < 0:
        raise ValueError(f"length holds {tokens.min()}; numbers of tokens, 0 or more, are wanted")
    longest, buffer = _whole("max_length", max_length), _whole("buffer", buffer)
    if not 1 <= buffer <= longest:
        raise ValueError(f"buffer is {buffer}, but max_length is {longest}; a buffer from 1 to {longest} is wanted")
    factor = _finite("factor", factor)
    share = np.minimum(np.maximum(tokens - (longest - buffer), 0), buffer) / buffer
    return at_home(length)(np.where(share > 0, -factor * share, 0.0))  # type: ignore[no-any-return]


def token_reward(
    reward: ArrayLike,
    kl: ArrayLike | None = None,
    coef: float = 0.0,
    *,
    mask: ArrayLike | None = None,
    offsets: ArrayLike | None = None,
    clip: tuple[float, float] | None = None,
) -> Array:
    """The reward of each token: that of the response at its last token, less the KL penalty of every token.

      r[b,t] = -coef kl[b,t] + [t is the last token of b] clip(reward[b])

    Ziegler et al. 2019, sec. 2, arXiv:1909.08593; for each token, Ouyang et al. 2022, sec. 3.5, arXiv:2203.02155

    reward (B,), clipped to (low, high) if `clip` is given; NaN stays NaN. kl: an estimate of KL at each token, of the dtype of reward, such
    as log pi - log ref; None is none. mask (B, T), or packed tokens with B + 1 offsets (and a mask (L,), if wanted): the last token is the
    last unmasked one, wherever the gaps are. A sequence without tokens has no place for its reward, which is left out.
    Returns (B, T) or (L,), of the dtype of reward, 0 at masked places, whose kl is never read.

    >>> token_reward([1.0, 9.0], [[0.5, 0.5], [0.5, 7.0]], 0.1, mask=[[True, True], [True, False]], clip=(-2.0, 2.0))
    array([[-0.05,  0.95],
           [ 1.95,  0.  ]])
    """
    r = as_floats("reward", reward)
    if r.ndim != 1:
        raise ValueError(f"reward has shape {r.shape}; (B,) is wanted, one a sequence")
    coef = _finite("coef", coef)
    if kl is not None:
        penalty = as_floats("kl", kl, like=("reward", r))
        tokens = Tokens("kl", penalty.shape, mask, offsets)
        each = -coef * tokens.pick("kl", penalty)
    else:
        if coef != 0:
            raise TypeError(f"kl is None, but coef is {coef}; the KL of each token is wanted")
        tokens = Tokens.of(mask, offsets)
        each = np.zeros(tokens.size, r.dtype)
    if len(tokens.length) != len(r):
        raise ValueError(
            f"reward has shape {r.shape}, but there are {len(tokens.length)} sequences; one reward a sequence is wanted"
        )
    if clip is not None:
        low, high = _bounds(clip)
        r = np.clip(r, r.dtype.type(low), r.dtype.type(high))
    each[tokens.last] += r[tokens.length > 0]
    return at_home(reward)(tokens.spread(each, r.dtype))  # type: ignore[no-any-return]


class FixedKLController:
    """A KL coefficient that stays as it is.

    >>> FixedKLController(0.05).update(kl=3.0, steps=256)
    0.05
    """

    def __init__(self, coef: float) -> None:
        self.coef = _finite("coef", coef)

    def update(self, kl: float, steps: int = 1) -> float:
        """Returns the coefficient, whatever the KL."""
        return self.coef

    def state_dict(self) -> dict[str, float]:
        return {"coef": self.coef}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.coef = _finite("coef", state["coef"])


class AdaptiveKLController:
    """A KL coefficient that steers the KL of the policy towards a target, proportionally and in log space.

      e = clip(kl / target - 1, -bound, bound),    coef <- coef (1 + e steps / horizon)

    Ziegler et al. 2019, sec. 2.2, arXiv:1909.08593, where bound is 0.2 and K_beta = steps / horizon = 0.1.

    target, horizon above 0. `update(kl, steps)` takes the KL of the last batch and how many samples or steps it had, and returns the new
    coefficient; a NaN KL is a ValueError, and so is one update of steps / horizon >= 1 / bound, which could turn the coefficient negative.

    >>> controller = AdaptiveKLController(0.1, target=6.0, horizon=10000)
    >>> round(controller.update(kl=12.0, steps=1000), 6)  # 100 % above the target counts as 20 %
    0.102
    >>> controller.state_dict()["target"]
    6.0
    """

    def __init__(self, coef: float, target: float, horizon: float, *, bound: float = 0.2) -> None:
        self.coef = _finite("coef", coef)
        self.target, self.horizon = _positive("target", target), _positive("horizon", horizon)
        self.bound = _positive("bound", bound)

    def update(self, kl: float, steps: int = 1) -> float:
        """The coefficient for the next batch, after one of `steps` samples whose KL was `kl`."""
        kl, steps = _finite("kl", kl), _whole("steps", steps)
        if not 0 <= steps * self.bound < self.horizon:
            raise ValueError(
                f"steps is {steps}; from 0 to below horizon / bound, {self.horizon / self.bound:g}, is wanted"
            )
        error = min(max(kl / self.target - 1, -self.bound), self.bound)
        self.coef *= 1 + error * steps / self.horizon
        return self.coef

    def state_dict(self) -> dict[str, float]:
        return {"coef": self.coef, "target": self.target, "horizon": self.horizon, "bound": self.bound}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.coef = _finite("coef", state["coef"])
        self.target, self.horizon = _positive("target", state["target"]), _positive("horizon", state["horizon"])
        self.bound = _positive("bound", state["bound"])


def _finite(name: str, value: Any) -> float:
    if isinstance(value, (bool, np.bool_, str)) or not isinstance(value, Real):
        raise TypeError(f"{name} is {value!r}; a number is wanted")
    number = float(value)
    if not np.isfinite(number):
        raise ValueError(f"{name} is {number}; a finite number is wanted")
    return number


def _positive(name: str, value: Any) -> float:
    number = _finite(name, value)
    if number <= 0:
        raise ValueError(f"{name} is {number}; a number above 0 is wanted")
    return number


def _whole(name: str, value: Any) -> int:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} is {value!r}; an integer is wanted")
    return int(value)


def _bounds(clip: Any) -> tuple[float, float]:
    if not isinstance(clip, (tuple, list)) or len(clip) != 2:
        raise TypeError(f"clip is {clip!r}; a pair (low, high) is wanted")
    for value in clip:
        if isinstance(value, (bool, np.bool_, str)) or not isinstance(value, Real):
            raise TypeError(f"clip is {clip!r}; two numbers are wanted")
    low, high = float(clip[0]), float(clip[1])
    if not low <= high:
        raise ValueError(f"clip is {clip!r}; low at most high is wanted")
    return low, high
