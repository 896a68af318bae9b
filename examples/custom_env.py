"""An environment of your own in three functions, compiled, and PPO on it: a point in the plane learns to go to the origin."""

import math

import numba

from fastpg.envs.compiled import CompiledEnv
from fastpg.envs.spaces import Box
from fastpg.envs.streams import uniform
from fastpg.train import ppo
from fastpg.train.run import evaluate


@numba.njit(cache=True)
def advance(state, action, stream):
    """One step of at most 0.1 along each axis, in place; -> reward, terminated."""
    for k in range(2):
        state[k] += 0.1 * min(max(action[k], -1.0), 1.0)
    distance = math.hypot(state[0], state[1])
    return -distance, distance < 0.1


@numba.njit(cache=True)
def restart(state, stream):
    """Anywhere in a square, drawn from the lane's own random numbers."""
    for k in range(2):
        state[k] = 2 * uniform(stream) - 1


def point(lanes):
    plane = Box((-1.0, -1.0), (1.0, 1.0))
    return CompiledEnv("point", advance, restart, state_size=2, action_space=plane, longest=50, lanes=lanes)


if __name__ == "__main__":
    config = ppo.Config(steps=40_000, lanes=32, rows=32, hidden=(32, 32))
    agent = ppo.train(config, point(config.lanes))
    print(f"mean return {evaluate(agent, point(100)).mean():.2f}")
