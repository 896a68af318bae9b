"""The agent every loop trains: a policy net, the head that reads a distribution from it, and a value net."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastpg.envs import spaces
from fastpg.envs.spaces import Space
from fastpg.nets import MLP
from fastpg.train.heads import head_for

__all__ = ["Agent"]

Array = NDArray[Any]


class Agent:
    """A policy and a value function, two MLPs of the same hidden sizes.

    policy, value    the nets            head    the distribution over actions
    """

    def __init__(
        self, observation_size: int, action_space: Space, hidden: Sequence[int], rng: np.random.Generator
    ) -> None:
        layers = len(hidden)
        self.observation_size, self.action_space, self.hidden = observation_size, action_space, tuple(hidden)
        self.head = head_for(action_space)
        # A last policy layer near 0 starts near the uniform policy (Andrychowicz et al. 2021, arXiv:2006.05990, 3.2)
        self.policy = MLP(
            (observation_size, *hidden, self.head.size),
            rng=rng,
            gain=[2**0.5] * layers + [0.01],
            extra=self.head.extra,
        )
        self.policy.extra[...] = self.head.extra_start
        self.value = MLP((observation_size, *hidden, 1), rng=rng, gain=[2**0.5] * layers + [1.0])

    def sample(self, observation: Array, rng: np.random.Generator) -> Array:
        """An action for each row, drawn from the policy."""
        return self.head.sample(self.policy.forward(observation), self.policy.extra, rng)

    def best(self, observation: Array) -> Array:
        """The most likely action for each row."""
        return self.head.mode(self.policy.forward(observation), self.policy.extra)

    def values(self, observation: Array) -> Array:
        """V of observations of shape (..., observation_size), shape (...)."""
        flat = observation.reshape(-1, observation.shape[-1])
        value: Array = self.value.forward(flat)[:, 0].copy()
        return value.reshape(observation.shape[:-1])

    def state(self) -> dict[str, Array]:
        """The parameters, as views."""
        return {"policy": self.policy.parameter, "value": self.value.parameter}

    def about(self) -> dict[str, Any]:
        """What Agent.of needs to build one of the same shape; JSON can hold it."""
        space = {"kind": type(self.action_space).__name__, **dataclasses.asdict(self.action_space)}
        return {"observation_size": self.observation_size, "action_space": space, "hidden": list(self.hidden)}

    @staticmethod
    def of(about: dict[str, Any]) -> Agent:
        """An agent of that shape, untrained."""
        space = dict(about["action_space"])
        kind = space.pop("kind")
        if kind not in spaces.__all__:
            raise ValueError(f"action space is {kind!r}; wanted one of {', '.join(spaces.__all__)}")
        space = {name: tuple(value) if isinstance(value, list) else value for name, value in space.items()}
        action_space = getattr(spaces, kind)(**space)
        return Agent(about["observation_size"], action_space, about["hidden"], np.random.default_rng(0))
