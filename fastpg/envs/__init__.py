"""Vector environments, Gymnasium-shaped, that lose no observation to a reset."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any, Protocol

from numpy.typing import NDArray

from fastpg.envs.spaces import Space

__all__ = ["IDS", "VectorEnv", "lane_seeds", "make"]

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
    if not isinstance(seed, Sequence):
        return [seed + n for n in range(lanes)]
    if len(seed) != lanes:
        raise ValueError(f"seed has {len(seed)} entries; wanted an integer, or one for each of {lanes} lanes")
    return list(seed)


def make(id: str, lanes: int = 1) -> VectorEnv:
    """The built-in environment of that id; fastpg.adapters.make_env also knows Gymnasium's.

    >>> make("fastpg/CartPole-v1", lanes=8).lanes
    8
    """
    if id not in IDS:
        raise ValueError(f"id is {id!r}; built in: {', '.join(IDS)}")
    # Compiles through Numba, so not before it is asked for.
    env: VectorEnv = import_module(f"fastpg.envs.{_MODULE_OF[id]}").make(id, lanes)
    return env
