"""CartPole-v1 on many lanes at once, compiled by Numba; every number equals Gymnasium's CartPole-v1.

Barto, Sutton and Anderson 1983, as Gymnasium 1.x computes it: Euler steps of 0.02 s in float64, observations float32,
reward 1 a step, terminated beyond 12 degrees or 2.4 units, truncated at 500 steps. Resets draw from the same PCG64
stream as numpy.random.Generator, so equal seeds give equal episodes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from fastpg.envs import lane_seeds
from fastpg.envs.spaces import Discrete

__all__ = ["CartPole", "advance", "step"]

Array = NDArray[Any]

GRAVITY = 9.8
MASS_POLE = 0.1
MASS_TOTAL = 0.1 + 1.0
LENGTH = 0.5  # half the pole
POLE_MASS_LENGTH = MASS_POLE * LENGTH
FORCE = 10.0
TAU = 0.02
X_MOST = 2.4
THETA_MOST = 12 * 2 * math.pi / 360
LONGEST = 500
START = 0.05

_U32 = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
_MULTIPLIER = np.uint64(2549297995355413924), np.uint64(4865540595714422341)  # 128 bits, high and low


@njit(cache=True)
def uniform(stream: Array) -> float:
    """The next number in [0, 1) of the PCG64 stream (state high, low, increment high, low), as Generator.random.

    state = state * multiplier + increment mod 2^128;   output = rotate(high ^ low, high >> 58)
    O'Neill 2014, PCG XSL-RR 128/64
    """
    mh, ml = _MULTIPLIER
    high, low = stream[0], stream[1]
    # low * ml as 128 bits from four 32-bit products
    a, b, c, d = low >> _32, low & _U32, ml >> _32, ml & _U32
    bd, ad, bc = b * d, a * d, b * c
    middle = (bd >> _32) + (ad & _U32) + (bc & _U32)
    carry = a * c + (ad >> _32) + (bc >> _32) + (middle >> _32)
    high = carry + high * ml + low * mh
    low = low * ml
    total = low + stream[3]
    high = high + stream[2] + np.uint64(total < low)
    stream[0], stream[1] = high, total
    x = high ^ total
    turn = high >> np.uint64(58)
    x = (x >> turn) | (x << ((np.uint64(64) - turn) & np.uint64(63)))
    return float(x >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@njit(cache=True)
def advance(state: Array, action: int) -> bool:
    """Moves one state (x, x', theta, theta') by one step of 0.02 s, in place; True when it is terminal."""
    x, x_dot, theta, theta_dot = state[0], state[1], state[2], state[3]
    force = FORCE if action == 1 else -FORCE
    cos, sin = math.cos(theta), math.sin(theta)
    temp = (force + POLE_MASS_LENGTH * (theta_dot * theta_dot) * sin) / MASS_TOTAL
    theta_acc = (GRAVITY * sin - cos * temp) / (LENGTH * (4.0 / 3.0 - MASS_POLE * (cos * cos) / MASS_TOTAL))
    x_acc = temp - POLE_MASS_LENGTH * theta_acc * cos / MASS_TOTAL
    x = x + TAU * x_dot
    theta = theta + TAU * theta_dot
    state[0], state[1] = x, x_dot + TAU * x_acc
    state[2], state[3] = theta, theta_dot + TAU * theta_acc
    return bool(x < -X_MOST or x > X_MOST or theta < -THETA_MOST or theta > THETA_MOST)


@njit(cache=True)
def restart(state: Array, stream: Array) -> None:
    """Four uniform numbers in [-0.05, 0.05), in place."""
    for k in range(4):
        state[k] = -START + (START + START) * uniform(stream)


@njit(cache=True, nogil=True)
def step(
    state: Array,
    elapsed: Array,
    stream: Array,
    action: Array,
    observation: Array,
    final: Array,
    terminated: Array,
    truncated: Array,
) -> None:
    """One step of every lane; a lane that ends starts its next episode in the same call.

    final holds what each step led to, observation where the lane stands now: they differ only where an episode ended.
    """
    for n in range(len(state)):
        terminated[n] = advance(state[n], action[n])
        elapsed[n] += 1
        truncated[n] = elapsed[n] >= LONGEST
        final[n] = state[n]
        if terminated[n] or truncated[n]:
            restart(state[n], stream[n])
            elapsed[n] = 0
        observation[n] = state[n]


class CartPole:
    """`lanes` CartPole-v1 episodes side by side; see fastpg.envs.VectorEnv for the interface.

    state (lanes, 4) float64 and elapsed (lanes,) int64 may be read and set between steps.

    >>> env = CartPole(2)
    >>> observation, _ = env.reset(seed=0)
    >>> observation, reward, terminated, truncated, info = env.step(np.array([0, 1]))
    >>> reward
    array([1., 1.])
    """

    id = "fastpg/CartPole-v1"
    observation_size = 4
    action_space = Discrete(2)
    reward_threshold: float | None = 475.0

    def __init__(self, lanes: int = 1) -> None:
        if lanes < 1:
            raise ValueError(f"lanes is {lanes}; wanted 1 or more")
        self.lanes = lanes
        self.state = np.zeros((lanes, 4))
        self.elapsed = np.zeros(lanes, np.int64)
        self._stream = np.zeros((lanes, 4), np.uint64)
        self._ready = False
        # No lanes: compiles (or loads from the cache) before anyone starts a clock.
        flags, none = np.empty(0, np.bool_), np.empty((0, 4), np.float32)
        step(self.state[:0], self.elapsed[:0], self._stream[:0], self.elapsed[:0], none, none, flags, flags)

    def reset(self, *, seed: int | Sequence[int] | None = None) -> tuple[Array, dict[str, Array]]:
        """Starts a new episode on every lane; lane n draws from default_rng(seed + n), as gymnasium.vector's do."""
        if seed is not None or not self._ready:
            for n, its_seed in enumerate(lane_seeds(seed, self.lanes)):
                bits: Any = np.random.PCG64(its_seed).state["state"]
                for k, word in enumerate((bits["state"], bits["inc"])):
                    self._stream[n, 2 * k : 2 * k + 2] = word >> 64, word & (2**64 - 1)
            self._ready = True
        for n in range(self.lanes):
            restart(self.state[n], self._stream[n])
        self.elapsed[:] = 0
        return self.state.astype(np.float32), {}

    def step(self, action: Array) -> tuple[Array, Array, Array, Array, dict[str, Array]]:
        """observation, reward, terminated, truncated, {"final_obs": what the step led to, before any reset}."""
        if not self._ready:
            raise RuntimeError("step called before reset")
        action = np.asarray(action)
        if action.shape != (self.lanes,) or action.dtype.kind not in "iu":
            raise ValueError(f"action is {action.dtype} {action.shape}; wanted integers of shape ({self.lanes},)")
        if ((action < 0) | (action > 1)).any():
            raise ValueError(f"action has {action[(action < 0) | (action > 1)][0]}; wanted 0 or 1")
        observation, final = np.empty((2, self.lanes, 4), np.float32)
        terminated, truncated = np.empty((2, self.lanes), np.bool_)
        step(
            self.state,
            self.elapsed,
            self._stream,
            action.astype(np.int64, copy=False),
            observation,
            final,
            terminated,
            truncated,
        )
        return observation, np.ones(self.lanes), terminated, truncated, {"final_obs": final}

    def close(self) -> None:
        """Nothing to close."""
