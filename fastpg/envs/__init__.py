"""Vector environments, Gymnasium-shaped, that lose no observation to a reset."""

from __future__ import annotations

from typing import Any, Protocol

from numpy.typing import NDArray

from fastpg.envs.spaces import Space

__all__ = ["IDS", "VectorEnv", "make"]

IDS = ("fastpg/CartPole-v1",)


class VectorEnv(Protocol):
    """`lanes` copies of one environment with flat observations; see fastpg.envs.spaces for the actions.

    reset(seed=None)   -> observation (lanes, observation_size) float32, {}
    step(action)       -> observation, reward, terminated, truncated, {"final_obs": (lanes, observation_size) float32}

    An episode that ends restarts within the same step: observation is then the first of the next episode, and
    final_obs, on every lane, is what the step led to before any reset. Bootstrap from final_obs, act on observation.
    """

    id: str
    lanes: int
    observation_size: int
    reward_threshold: float | None  # the mean return that counts as solved, where the environment names one

    @property
    def action_space(self) -> Space: ...

    def reset(self, *, seed: int | None = None) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]: ...

    def step(
        self, action: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any], dict[str, NDArray[Any]]]: ...

    def close(self) -> None: ...


def make(id: str, lanes: int = 1) -> VectorEnv:
    """The built-in environment of that id; fastpg.adapters.make_env also knows Gymnasium's.

    >>> make("fastpg/CartPole-v1", lanes=8).lanes
    8
    """
    if id not in IDS:
        raise ValueError(f"id is {id!r}; built in: {', '.join(IDS)}")
    from fastpg.envs import cartpole  # compiles through Numba, so not before it is asked for

    return cartpole.make(id, lanes)
