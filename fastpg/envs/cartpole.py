"""CartPole-v1; every number equals Gymnasium's.

Barto, Sutton and Anderson 1983, as Gymnasium 1.x computes it: Euler steps of 0.02 s in float64, observations float32,
reward 1 a step, terminated beyond 12 degrees or 2.4 units, truncated at 500 steps.
"""

from __future__ import annotations

import math
from typing import Any

from numpy.typing import NDArray

from fastpg._numba import cached
from fastpg.envs.compiled import CompiledEnv
from fastpg.envs.spaces import Discrete
from fastpg.envs.streams import uniform

__all__ = ["advance", "make", "restart"]

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
START = 0.05


@cached
def advance(state: Array, action: int, stream: Array) -> tuple[float, bool]:
    """Moves the state (x, x', theta, theta') by one step of 0.02 s."""
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
    return 1.0, x < -X_MOST or x > X_MOST or theta < -THETA_MOST or theta > THETA_MOST


@cached
def restart(state: Array, stream: Array) -> None:
    """Four uniform numbers in [-0.05, 0.05)."""
    for k in range(4):
        state[k] = -START + (START + START) * uniform(stream)


def make(id: str, lanes: int) -> CompiledEnv:
    """CartPole-v1 on many lanes."""
    return CompiledEnv(
        id,
        advance,
        restart,
        state_size=4,
        action_space=Discrete(2),
        longest=500,
        reward_threshold=475.0,
        lanes=lanes,
    )
