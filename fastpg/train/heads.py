"""From the outputs of a policy net to a distribution over actions: one head for each action space.

A head has no numbers of its own. z (M, head.size) is what the net gave, `extra` (head.extra,) are the parameters all states share:
a Gaussian's log_std, which live at the end of the net's parameter vector and are learned with it.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fastpg import categorical, gaussian
from fastpg.envs.spaces import Box, Discrete, Space

__all__ = ["Categorical", "Gaussian", "Head", "head_for"]

Array = NDArray[Any]
Grad = tuple[Array, Array]


class Head(Protocol):
    """What a training loop asks of a distribution; weight (M,) is the upstream gradient of each row.

    size            outputs of the net                  extra           numbers that all states share, starting at extra_start
    action_shape    of one action                       action_dtype    of a batch of them, (M, *action_shape)
    """

    size: int
    extra: int
    extra_start: float
    action_shape: tuple[int, ...]
    action_dtype: type

    def sample(self, z: Array, extra: Array, rng: np.random.Generator) -> Array: ...
    def mode(self, z: Array, extra: Array) -> Array: ...
    def log_prob(self, z: Array, extra: Array, action: Array) -> Array: ...
    def log_prob_grad(self, z: Array, extra: Array, action: Array, weight: Array) -> Grad: ...
    def entropy(self, z: Array, extra: Array) -> Array: ...
    def entropy_grad(self, z: Array, extra: Array, weight: Array) -> Grad: ...
    def to_env(self, action: Array) -> Array:
        """The action as the environment takes it; log_prob goes by the action as it was sampled."""
        ...


NONE = np.empty(0, np.float32)


class Categorical:
    """Discrete: a softmax over the net's outputs."""

    extra, extra_start = 0, 0.0
    action_shape: tuple[int, ...] = ()
    action_dtype: type = np.int64

    def __init__(self, space: Discrete) -> None:
        self.size = space.n

    def sample(self, z: Array, extra: Array, rng: np.random.Generator) -> Array:
        return categorical.sample(z, rng)

    def mode(self, z: Array, extra: Array) -> Array:
        return categorical.mode(z)

    def log_prob(self, z: Array, extra: Array, action: Array) -> Array:
        return categorical.log_prob(z, action)

    def log_prob_grad(self, z: Array, extra: Array, action: Array, weight: Array) -> Grad:
        return categorical.log_prob_grad(z, action, weight), NONE

    def entropy(self, z: Array, extra: Array) -> Array:
        return categorical.entropy(z)

    def entropy_grad(self, z: Array, extra: Array, weight: Array) -> Grad:
        return categorical.entropy_grad(z, weight), NONE

    def to_env(self, action: Array) -> Array:
        return action


class Gaussian:
    """Box: independent normal numbers around the net's outputs, one log_std each for all states; clipped to the box on the way out."""

    extra_start = 0.0
    action_dtype: type = np.float32

    def __init__(self, space: Box) -> None:
        self.size = self.extra = len(space.low)
        self.action_shape: tuple[int, ...] = (self.size,)
        self._low, self._high = np.array(space.low, np.float32), np.array(space.high, np.float32)

    def sample(self, z: Array, extra: Array, rng: np.random.Generator) -> Array:
        return gaussian.sample(z, extra, rng)

    def mode(self, z: Array, extra: Array) -> Array:
        return gaussian.mode(z, extra)

    def log_prob(self, z: Array, extra: Array, action: Array) -> Array:
        return gaussian.log_prob(z, extra, action)

    def log_prob_grad(self, z: Array, extra: Array, action: Array, weight: Array) -> Grad:
        return gaussian.log_prob_grad(z, extra, action, weight)

    def entropy(self, z: Array, extra: Array) -> Array:
        return gaussian.entropy(z, extra)

    def entropy_grad(self, z: Array, extra: Array, weight: Array) -> Grad:
        return gaussian.entropy_grad(z, extra, weight)

    def to_env(self, action: Array) -> Array:
        return np.clip(action, self._low, self._high)


def head_for(space: Space) -> Head:
    """The head of an action space."""
    match space:
        case Discrete():
            return Categorical(space)
        case Box():
            return Gaussian(space)
    raise ValueError(f"action space is {space}; wanted Discrete or Box")
