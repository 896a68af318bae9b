"""Vector environments, Gymnasium-shaped, that lose no observation to a reset."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from operator import index
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fastpg.envs.spaces import Space

__all__ = ["IDS", "VectorEnv", "check_count", "lane_seeds", "make"]

_MODULES = {
    "cartpole": ["CartPole-v1"],
    "acrobot": ["Acrobot-v1"],
    "mountain_car": ["MountainCar-v0", "MountainCarContinuous-v0"],
    "pendulum": ["Pendulum-v1"],
    "toy_text": [
        *("FrozenLake-v1", "FrozenLake8x8-v1", "FrozenLakeNotSlippery-v1", "FrozenLake8x8NotSlippery-v1"),
        *("CliffWalking-v1", "CliffWalkingSlippery-v1", "Taxi-v4"),
    ],
}
_MODULE_OF = {f"fastpg/{name}": module for module, names in _MODULES.items() for name in names}
IDS = tuple(_MODULE_OF)


class VectorEnv(Protocol):
    """`lanes` copies of one environment with flat observations; see fastpg.envs.spaces for the actions.

    reset(seed=None)   -> observation (lanes, observation_size) float32, {}
    step(action)       -> observation, reward, terminated, truncated, {"final_obs": (lanes, observation_size) float32}

    An episode that ends restarts within the same step: observation is then the first of the next episode, and
    final_obs, on every lane, is what the step led to before any reset. Bootstrap from final_obs, act on observation.
    A seed may also be one for each lane: lanes of equal seeds start alike, and chance treats them alike.
    """

    id: str
    lanes: int
    observation_size: int
    reward_threshold: float | None  # the mean return that counts as solved, where the environment names one

    @property
    def action_space(self) -> Space: ...

    def reset(self, *, seed: int | Sequence[int] | None = None) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]: ...

    def step(
        self, action: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any], dict[str, NDArray[Any]]]: ...

    def close(self) -> None: ...


def lane_seeds(seed: int | Sequence[int] | None, lanes: int) -> list[int | None]:
    """The seed of each lane: seed + n for lane n, as gymnasium.vector has it, or those given.

    >>> lane_seeds(7, 3), lane_seeds([5, 5], 2), lane_seeds(None, 1)
    ([7, 8, 9], [5, 5], [None])
    """
    if seed is None:
        return [None] * lanes
    one, seeds = np.ndim(seed) == 0, []
    many: Any = [seed] if one else seed
    for given in many:
        if isinstance(given, bool) or not hasattr(given, "__index__") or index(given) < 0:
            raise ValueError(f"seed is {seed!r}; wanted an integer of 0 or more, or one for each lane")
        seeds.append(index(given))  # Gymnasium takes no NumPy integers
    if one:
        return [seeds[0] + n for n in range(lanes)]
    if len(seeds) != lanes:
        raise ValueError(f"seed has {len(seeds)} entries; wanted an integer, or one for each of {lanes} lanes")
    return list(seeds)


def check_count(name: str, value: Any) -> None:
    """ValueError where value is not an integer of 1 or more."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < 1:
        raise ValueError(f"{name} is {value!r}; wanted an integer of 1 or more")


def make(id: str, lanes: int = 1, max_episode_steps: int | None = None, **options: Any) -> VectorEnv:
    """The built-in environment of that id; fastpg.adapters.make_env also knows Gymnasium's.

    max_episode_steps is where episodes are truncated, in place of the environment's own limit. There are no other options.

    >>> make("fastpg/CartPole-v1", lanes=8).lanes
    8
    """
    if id not in IDS:
        raise ValueError(f"id is {id!r}; built in: {', '.join(IDS)}")
    if options:
        name = id.removeprefix("fastpg/")
        kin = ", ".join(other for other in IDS if _MODULE_OF[other] == _MODULE_OF[id])
        raise TypeError(
            f"{id} takes no {', '.join(options)}, only lanes and max_episode_steps; Gymnasium's own {name} may; built in "
            f"beside it: {kin}"
        )
    # Compiles through Numba, so not before it is asked for.
    env: Any = import_module(f"fastpg.envs.{_MODULE_OF[id]}").make(id, lanes)
    if max_episode_steps is not None:
        check_count("max_episode_steps", max_episode_steps)
        env.longest = max_episode_steps
    made: VectorEnv = env
    return made
