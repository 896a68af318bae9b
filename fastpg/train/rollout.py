"""Rows of experience: T steps of N lanes, acted by an agent in an environment."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastpg.envs import VectorEnv
from fastpg.train.agent import Agent

__all__ = ["Rollout", "collect", "values"]

Array = NDArray[Any]


class Rollout:
    """Buffers of T steps of N lanes, time-major, allocated once, and where the lanes stand.

    observation (T, N, observation_size), action (T, N, ...), log_prob (T, N), reward (T, N), terminated, truncated (T, N)
    final       (T, N, observation_size): what step t led to, before any reset
    current     (N, observation_size): what the next step is taken from
    """

    def __init__(self, env: VectorEnv, agent: Agent, T: int) -> None:
        N, head = env.lanes, agent.head
        self.observation = np.empty((T, N, env.observation_size), np.float32)
        self.final = np.empty_like(self.observation)
        self.action: Array = np.empty((T, N, *head.action_shape), head.action_dtype)
        self.log_prob = np.empty((T, N), np.float32)
        self.reward = np.empty((T, N), np.float32)
        self.terminated, self.truncated = np.empty((2, T, N), np.bool_)
        self.current = np.empty((N, env.observation_size), np.float32)


def collect(env: VectorEnv, agent: Agent, rollout: Rollout, rng: np.random.Generator) -> None:
    """Fills the rollout: every lane takes T steps from rollout.current.

    In a fastpg.envs.compiled.CompiledEnv it is one compiled loop, its lanes shared among threads, that gives the same numbers.
    """
    if (compiled := sys.modules.get("fastpg.envs.compiled")) and isinstance(env, compiled.CompiledEnv):
        from fastpg.train.compiled_rollout import collect_compiled  # imports Numba, as env has done already

        if collect_compiled(env, agent, rollout, rng):
            return
    head, policy = agent.head, agent.policy
    for t in range(len(rollout.reward)):
        rollout.observation[t] = rollout.current
        z = policy.forward(agent.see(rollout.current))
        action = rollout.action[t] = head.sample(z, policy.extra, rng)
        rollout.log_prob[t] = head.log_prob(z, policy.extra, action)
        step = env.step(head.to_env(action))
        rollout.current[...], rollout.reward[t], rollout.terminated[t], rollout.truncated[t], info = step
        rollout.final[t] = info["final_obs"]


def values(agent: Agent, rollout: Rollout) -> tuple[Array, Array]:
    """V of every observation and of what each step led to, both (T, N); the latter is the next observation but where an episode ended."""
    value, ended = agent.values(rollout.observation), rollout.terminated | rollout.truncated
    rest = agent.values(np.concatenate([rollout.current, rollout.final[ended]]))
    N = len(rollout.current)
    next_value = np.concatenate([value[1:], rest[None, :N]])
    next_value[ended] = rest[N:]
    return value, next_value
