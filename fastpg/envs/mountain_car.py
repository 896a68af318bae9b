"""MountainCar-v0 and MountainCarContinuous-v0: a car too weak for the hill swings itself up; every number equals Gymnasium's.

Moore 1990, as Gymnasium 1.x computes it. With discrete actions in float64: reward -1 a step, until position 0.5 is reached,
truncated at 200 steps. With continuous ones the state is kept in float32 but for the first of an episode, which is float64:
reward 100 at position 0.45, less 0.1 action^2 a step, truncated at 999 steps.
"""

from __future__ import annotations

import math
from typing import Any

from numba import float32, float64
from numpy.typing import NDArray

from fastpg._numba import cached
from fastpg.envs.compiled import CompiledEnv
from fastpg.envs.spaces import Box, Discrete
from fastpg.envs.streams import uniform

__all__ = ["advance", "advance_continuous", "make", "restart", "restart_continuous"]

Array = NDArray[Any]

LEFT, RIGHT = -1.2, 0.6
GOAL = 0.5
GOAL_CONTINUOUS = 0.45
FASTEST = 0.07
FORCE, POWER, GRAVITY = 0.001, 0.0015, 0.0025


@cached
def roll(
    position: Any, velocity: Any, change: Any, fastest: Any, left: Any, right: Any, goal: Any
) -> tuple[Any, Any, bool]:
    """Where the car is after one step, how fast, and whether that is the goal, in the precision of what comes in."""
    velocity = min(max(velocity + change, -fastest), fastest)
    position = min(max(position + velocity, left), right)
    if position == left and velocity < 0:
        velocity = 0.0
    return position, velocity, position >= goal and velocity >= 0


@cached
def advance(state: Array, action: int, stream: Array) -> tuple[float, bool]:
    """Moves the state (position, velocity) by one step; action - 1 is the way the motor pushes."""
    push = (action - 1) * FORCE + math.cos(3 * state[0]) * -GRAVITY
    state[0], state[1], there = roll(state[0], state[1], push, FASTEST, LEFT, RIGHT, GOAL)
    return -1.0, there


@cached
def restart(state: Array, stream: Array) -> None:
    """At rest at a uniform position in [-0.6, -0.4)."""
    state[0], state[1] = -0.6 + (-0.4 - -0.6) * uniform(stream), 0.0


@cached
def advance_continuous(state: Array, action: Array, stream: Array) -> tuple[float, bool]:
    """Moves the state (position, velocity, 1 before the first step of an episode and then 0) by one step.

    NumPy rounds a Python number to float32 where it meets one. The push is a float32 unless it was clipped to 1 or -1.
    """
    push, first = action[0], state[2] == 1
    if first:
        slope = GRAVITY * math.cos(3 * state[0])
    else:
        slope = GRAVITY * math.cos(float64(float32(3) * float32(state[0])))
    if push > 1:
        change = POWER - slope
    elif push < -1:
        change = -POWER - slope
    else:
        change = float64(push * float32(POWER) - float32(slope))
    if first:
        position, velocity, there = roll(state[0], state[1], change, FASTEST, LEFT, RIGHT, GOAL_CONTINUOUS)
    else:
        single = float32(state[0]), float32(state[1]), float32(change)
        position, velocity, there = roll(
            *single, float32(FASTEST), float32(LEFT), float32(RIGHT), float32(GOAL_CONTINUOUS)
        )
    state[0], state[1], state[2] = float32(position), float32(velocity), 0.0
    return (100.0 if there else 0.0) - float64(push) * float64(push) * 0.1, there


@cached
def restart_continuous(state: Array, stream: Array) -> None:
    """At rest at a uniform position in [-0.6, -0.4)."""
    restart(state, stream)
    state[2] = 1.0


def make(id: str, lanes: int) -> CompiledEnv:
    """Either car on many lanes."""
    if "Continuous" in id:
        return CompiledEnv(
            id,
            advance_continuous,
            restart_continuous,
            state_size=3,
            observation_size=2,
            action_space=Box((-1.0,), (1.0,)),
            longest=999,
            reward_threshold=90.0,
            lanes=lanes,
        )
    return CompiledEnv(
        id,
        advance,
        restart,
        state_size=2,
        action_space=Discrete(3),
        longest=200,
        reward_threshold=-110.0,
        lanes=lanes,
    )
