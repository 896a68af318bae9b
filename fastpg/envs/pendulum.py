"""Pendulum-v1: swing a pendulum up and keep it there; every number equals Gymnasium's.

As Gymnasium 1.x computes it: steps of 0.05 s in float64, the torque in float32, reward -(angle^2 + 0.1 speed^2 + 0.001 torque^2),
never terminated, truncated at 200 steps.
"""

from __future__ import annotations

import math
from typing import Any

from numba import float32
from numpy.typing import NDArray

from fastpg._numba import cached
from fastpg.envs.compiled import CompiledEnv
from fastpg.envs.spaces import Box
from fastpg.envs.streams import uniform

__all__ = ["advance", "make", "observe", "restart"]

Array = NDArray[Any]

GRAVITY = 10.0
PI = math.pi
DT = 0.05
FASTEST = 8.0
STRONGEST = 2.0


@cached
def advance(state: Array, action: Array, stream: Array) -> tuple[float, bool]:
    """Moves the state (theta, theta') by one step of 0.05 s; theta is 0 upright."""
    theta, speed = state[0], state[1]
    torque = min(max(action[0], float32(-STRONGEST)), float32(STRONGEST))
    angle = (theta + PI) % (2 * PI) - PI
    # Powers as libm's pow rounds them, and so NumPy: LLVM would make x * x of a constant exponent.
    squares = math.pow(angle, 2 + 0.0 * angle) + 0.1 * math.pow(speed, 2 + 0.0 * speed)
    cost = squares + float32(0.001) * torque ** (float32(2) + float32(0) * torque)
    speed = speed + (3 * GRAVITY / 2 * math.sin(theta) + float32(3) * torque) * DT
    speed = min(max(speed, -FASTEST), FASTEST)
    state[0], state[1] = theta + speed * DT, speed
    return -cost, False


@cached
def restart(state: Array, stream: Array) -> None:
    """Uniform, the angle in [-pi, pi), the speed in [-1, 1)."""
    state[0] = -PI + 2 * PI * uniform(stream)
    state[1] = -1.0 + 2.0 * uniform(stream)


@cached
def observe(state: Array, observation: Array) -> None:
    """cos and sin of the angle, and its speed."""
    observation[0], observation[1], observation[2] = math.cos(state[0]), math.sin(state[0]), state[1]


def make(id: str, lanes: int) -> CompiledEnv:
    """Pendulum-v1 on many lanes."""
    return CompiledEnv(
        id,
        advance,
        restart,
        observe,
        state_size=2,
        observation_size=3,
        action_space=Box((-STRONGEST,), (STRONGEST,)),
        longest=200,
        lanes=lanes,
    )
