"""EnvPool's environments as fastpg.envs.VectorEnv.

EnvPool steps all lanes in C++ threads. By itself it spends the step after an end on the reset, and ignores that action;
here ended lanes are reset at once, so every row is a step.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from difflib import get_close_matches
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastpg import _core
from fastpg.adapters import require
from fastpg.adapters.gymnasium import Adapter
from fastpg.envs import check_count, lane_seeds

__all__ = ["EnvPool"]

Array = NDArray[Any]


class EnvPool(Adapter):
    """`lanes` environments of EnvPool's that name; kwargs go to envpool.make_gymnasium.

    The pool has as many threads as fastpg may use (fastpg.set_threads), unless num_threads says otherwise: EnvPool itself takes
    every core, which seeds that train side by side, one core each, would fight for.

    reset(seed=...) makes the pool anew, since EnvPool takes its seed when it is made; without a seed the episodes go on
    from where the random numbers are. EnvPool calls an episode that ends at max_episode_steps truncated, even if the
    environment ended it in that very step. Breakout-ram-v5 observes the 128 bytes of
    memory where Breakout-v5 shows the screen.
    """

    def __init__(self, name: str, lanes: int = 1, **kwargs: Any) -> None:
        check_count("lanes", lanes)
        library: Any = require("envpool", "envpool")
        game = name.replace("-ram-", "-")
        if game not in (known := library.list_all_envs()):
            close = get_close_matches(name, known, 3)
            hint = f"; close to it: {', '.join(close)}" if close else ""
            raise ValueError(f"env is 'envpool:{name}', which EnvPool does not have{hint}")
        if bad := {"batch_size", "num_envs", "seed"} & set(kwargs):
            raise ValueError(f"envpool:{name} takes no {', '.join(sorted(bad))}: lanes and reset(seed=...) say that")
        kwargs = {"num_threads": min(lanes, _core.threads()), **kwargs}
        spec = library.make_spec(game, num_envs=lanes, **kwargs)
        observation, threshold = spec.gymnasium_observation_space, getattr(spec.config, "reward_threshold", None)
        if ram := game != name:
            if "info:ram" not in spec.state_array_spec:
                raise ValueError(f"env is 'envpool:{name}', but {game} has no RAM to observe")
            observation = require("gymnasium.spaces").Box(0, 255, spec.state_array_spec["info:ram"].shape, np.uint8)
        super().__init__(f"envpool:{name}", lanes, observation, spec.gymnasium_action_space, threshold)
        self._ram = ram
        self._make: Any = partial(library.make_gymnasium, game, num_envs=lanes, **kwargs)
        self._pool: Any = None

    def _reset(self, seed: int | Sequence[int] | None) -> Array:
        if seed is not None or self._pool is None:
            self._pool = None  # its threads end before the next pool's start
            seeds = lane_seeds(secrets.randbelow(2**31) if seed is None else seed, self.lanes)
            self._pool = self._make(seed=[int(s or 0) % 2**31 for s in seeds])
        return self._seen(self._pool.reset(), self.lanes)

    def _step(self, action: Array) -> tuple[Array, Array, Array, Array, Array]:
        try:
            after, gain, terminated, truncated, info = self._pool.step(action)
            observation = final = self._seen((after, info), self.lanes)
            ended = terminated | truncated
            if ended.any():
                lanes = np.flatnonzero(ended).astype(np.int32)
                observation = final.copy()
                observation[lanes] = self._seen(self._pool.reset(lanes), len(lanes))
        except Exception as error:
            raise self._blame(error) from error
        return observation, self._reward(gain), terminated, truncated, final

    def _seen(self, told: tuple[Any, dict[str, Any]], lanes: int) -> Array:
        observation, info = told
        return self._row(info["ram"] if self._ram else observation, lanes)

    def close(self) -> None:
        """Ends the pool and its threads."""
        self._pool = None
        self._steps = -1
