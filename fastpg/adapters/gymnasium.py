"""Gymnasium environments as fastpg.envs.VectorEnv.

Each lane is its own environment, stepped here and restarted in the step that ends its episode. gymnasium.vector's
default (NEXT_STEP) spends a step on each reset and returns a row that must not be trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastpg.adapters import require
from fastpg.envs import lane_seeds
from fastpg.envs.spaces import Discrete

if TYPE_CHECKING:
    import gymnasium

    Env = gymnasium.Env[Any, Any]

__all__ = ["GymnasiumEnv", "make"]

Array = NDArray[Any]


def make(env: str | Env | Callable[[], Env], lanes: int = 1) -> GymnasiumEnv:
    """A vector environment of `lanes` copies of env: an id, a function that makes one, or one that is ready (lanes=1).

    The observation space must be a Box of rank 1, the action space Discrete; anything else is a ValueError.
    """
    if lanes < 1:
        raise ValueError(f"lanes is {lanes}; wanted 1 or more")
    gym = require("gymnasium")
    if isinstance(env, str):
        try:
            gym.spec(env)
            copies = [gym.make(env, disable_env_checker=True) for _ in range(lanes)]
        except gym.error.Error as error:
            raise ValueError(f"env is {env!r}: {' '.join(str(error).split())}") from None
        except ImportError as error:  # module:Env-v0 with no such module
            raise ValueError(f"env is {env!r}: {error}") from None
    elif isinstance(env, gym.vector.VectorEnv):
        raise TypeError(f"env is the vector environment {env}; pass a function that makes one environment, and lanes")
    elif isinstance(env, gym.Env):
        if lanes != 1:
            raise ValueError(f"lanes is {lanes}, but env is one ready environment; pass a function that makes one")
        copies = [env]
    else:
        copies = [env() for _ in range(lanes)]  # type: ignore[operator]
    return GymnasiumEnv(copies)


class GymnasiumEnv:
    """Gymnasium environments, one a lane; see fastpg.envs.VectorEnv for the interface."""

    def __init__(self, envs: list[Env]) -> None:
        spaces = require("gymnasium.spaces")
        first = envs[0]
        self.id = first.spec.id if first.spec is not None else str(first)
        self.reward_threshold = first.spec.reward_threshold if first.spec is not None else None
        observation, action = first.observation_space, first.action_space
        if not isinstance(observation, spaces.Box) or len(observation.shape) != 1:
            raise ValueError(f"{self.id} has observation space {observation}; wanted a Box of rank 1")
        if not isinstance(action, spaces.Discrete):
            raise ValueError(f"{self.id} has action space {action}; wanted Discrete")
        self.lanes = len(envs)
        self.observation_size = observation.shape[0]
        self.action_space = Discrete(int(action.n))
        self._start = int(action.start)
        self._envs = envs
        self._step = [env.step for env in envs]
        self._steps = 0

    def reset(self, *, seed: int | Sequence[int] | None = None) -> tuple[Array, dict[str, Array]]:
        """Starts a new episode on every lane, lane n with seed + n, as gymnasium.vector does."""
        observation = np.empty((self.lanes, self.observation_size), np.float32)
        for n, (env, its_seed) in enumerate(zip(self._envs, lane_seeds(seed, self.lanes), strict=True)):
            observation[n], _ = env.reset(seed=its_seed)
        self._refuse_nan(observation)
        return observation, {}

    def step(self, action: Array) -> tuple[Array, Array, Array, Array, dict[str, Array]]:
        """observation, reward, terminated, truncated, {"final_obs": what the step led to, before any reset}."""
        if len(action) != self.lanes:
            raise ValueError(f"action has {len(action)} entries, but there are {self.lanes} lanes")
        self._steps += 1
        final = np.empty((self.lanes, self.observation_size), np.float32)
        reward = np.empty(self.lanes)
        terminated, truncated = np.empty((2, self.lanes), np.bool_)
        for n, a in enumerate(action.tolist()):
            final[n], reward[n], terminated[n], truncated[n], _ = self._step[n](a + self._start)
        self._refuse_nan(final)
        observation = final
        ended = terminated | truncated
        if ended.any():
            observation = final.copy()
            for n in np.flatnonzero(ended).tolist():
                observation[n], _ = self._envs[n].reset()
            self._refuse_nan(observation)
        return observation, reward, terminated, truncated, {"final_obs": final}

    def _refuse_nan(self, observation: Array) -> None:
        bad = np.isnan(observation).any(axis=1)
        if bad.any():
            n = int(np.argmax(bad))
            raise FloatingPointError(
                f"{self.id}, lane {n}, step {self._steps}: the observation holds NaN: {observation[n].tolist()}"
            )

    def close(self) -> None:
        """Closes every environment."""
        for env in self._envs:
            env.close()
