"""Acrobot-v1, a pendulum of two links with a motor between them; every number equals Gymnasium's.

Sutton 1996 with the dynamics of Sutton and Barto's book, as Gymnasium 1.x computes them: one Runge-Kutta step of 0.2 s in
float64, reward -1 a step until the tip is a link's length above the pivot, truncated at 500 steps. Gymnasium takes sines and
cosines of the first state of an episode, and of that alone, in float32: its first observation may differ by one ulp.
"""

from __future__ import annotations

import math
from typing import Any

from numba import float32
from numpy.typing import NDArray

from fastpg._numba import cached
from fastpg.envs.compiled import CompiledEnv
from fastpg.envs.spaces import Discrete
from fastpg.envs.streams import uniform

__all__ = ["advance", "make", "observe", "restart"]

Array = NDArray[Any]

GRAVITY = 9.8
PI = math.pi
DT = 0.2
FASTEST = 4 * math.pi, 9 * math.pi
START = 0.1


@cached
def square(x: float) -> float:
    """x to the power of 2 as libm's pow rounds it, and so NumPy; LLVM would make x * x of a constant exponent."""
    return math.pow(x, 2.0 + 0.0 * x)


@cached
def acceleration(theta1: float, theta2: float, speed1: float, speed2: float, torque: float) -> tuple[float, float]:
    """Of both angles, for links of mass and length 1, centre of mass at 0.5 and moment of inertia 1."""
    cos2, sin2 = math.cos(theta2), math.sin(theta2)
    d1 = 0.25 + (1.25 + cos2) + 1.0 + 1.0
    d2 = (0.25 + 0.5 * cos2) + 1.0
    phi2 = 0.5 * GRAVITY * math.cos(theta1 + theta2 - PI / 2)
    phi1 = (
        -0.5 * square(speed2) * sin2 - 1.0 * speed2 * speed1 * sin2 + 1.5 * GRAVITY * math.cos(theta1 - PI / 2) + phi2
    )
    second = (torque + d2 / d1 * phi1 - 0.5 * square(speed1) * sin2 - phi2) / (0.25 + 1.0 - square(d2) / d1)
    return -(d2 * second + phi1) / d1, second


@cached
def wrap(x: float) -> float:
    """x less or plus 2 pi until it lies in [-pi, pi]."""
    while x > PI:
        x = x - 2 * PI
    while x < -PI:
        x = x + 2 * PI
    return x


@cached
def advance(state: Array, action: int, stream: Array) -> tuple[float, bool]:
    """Moves the state (theta1, theta2, theta1', theta2') by one step of 0.2 s."""
    a, b, c, d = state[0], state[1], state[2], state[3]
    torque = float(action - 1)
    h = DT / 2
    c1, d1 = acceleration(a, b, c, d, torque)
    a2, b2 = c + h * c1, d + h * d1
    c2, d2 = acceleration(a + h * c, b + h * d, a2, b2, torque)
    a3, b3 = c + h * c2, d + h * d2
    c3, d3 = acceleration(a + h * a2, b + h * b2, a3, b3, torque)
    a4, b4 = c + DT * c3, d + DT * d3
    c4, d4 = acceleration(a + DT * a3, b + DT * b3, a4, b4, torque)
    theta1 = wrap(a + DT / 6 * (c + 2 * a2 + 2 * a3 + a4))
    theta2 = wrap(b + DT / 6 * (d + 2 * b2 + 2 * b3 + b4))
    state[0], state[1] = theta1, theta2
    state[2] = min(max(c + DT / 6 * (c1 + 2 * c2 + 2 * c3 + c4), -FASTEST[0]), FASTEST[0])
    state[3] = min(max(d + DT / 6 * (d1 + 2 * d2 + 2 * d3 + d4), -FASTEST[1]), FASTEST[1])
    up = -math.cos(theta1) - math.cos(theta2 + theta1) > 1.0
    return 0.0 if up else -1.0, up


@cached
def restart(state: Array, stream: Array) -> None:
    """Four uniform numbers in [-0.1, 0.1), rounded to float32."""
    for k in range(4):
        state[k] = float32(-START + (START + START) * uniform(stream))


@cached
def observe(state: Array, observation: Array) -> None:
    """cos and sin of both angles, and their speeds."""
    observation[0], observation[1] = math.cos(state[0]), math.sin(state[0])
    observation[2], observation[3] = math.cos(state[1]), math.sin(state[1])
    observation[4], observation[5] = state[2], state[3]


def make(id: str, lanes: int) -> CompiledEnv:
    """Acrobot-v1 on many lanes."""
    return CompiledEnv(
        id,
        advance,
        restart,
        observe,
        state_size=4,
        observation_size=6,
        action_space=Discrete(3),
        longest=500,
        reward_threshold=-100.0,
        lanes=lanes,
    )
