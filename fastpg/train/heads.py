"""From the outputs of a policy net to a distribution over actions: one head for each action space.

A head has no numbers of its own. z (M, head.size) is what the net gave, `extra` (head.extra,) are the parameters all states share:
a Gaussian's log_std, which live at the end of the net's parameter vector and are learned with it.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from fastpg import bernoulli, beta, categorical, gaussian, multi_categorical, squashed_gaussian
from fastpg.envs.spaces import Box, Discrete, MultiBinary, MultiDiscrete, Space
from fastpg.natural import categorical_fisher_vector_product, gaussian_fisher_vector_product

__all__ = [
    "Bernoulli",
    "Beta",
    "Categorical",
    "Distribution",
    "Gaussian",
    "Head",
    "MultiCategorical",
    "SquashedGaussian",
    "head_for",
]

Array = NDArray[Any]
Grad = tuple[Array, Array]
Distribution = Literal["gaussian", "squashed_gaussian", "beta"]


class Head(Protocol):
    """What a training loop asks of a distribution; weight (M,) is the upstream gradient of each row.

    size            outputs of the net                  extra           numbers that all states share, starting at extra_start
    action_shape    of one action                       action_dtype    of a batch of them, (M, *action_shape)

    A pair of gradients is by z, (M, size), and by extra, (extra,).
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
    def kl(self, old_z: Array, old_extra: Array, z: Array, extra: Array) -> Array:
        """KL(old || new) of each row, (M,)."""
        ...

    def fisher(self, z: Array, extra: Array, change_z: Array, change_extra: Array, weight: Array) -> Grad:
        """The Fisher information by (z, extra), the sum over rows times their weights, times a change of both."""
        ...

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

    def kl(self, old_z: Array, old_extra: Array, z: Array, extra: Array) -> Array:
        return categorical.kl(old_z, z)

    def fisher(self, z: Array, extra: Array, change_z: Array, change_extra: Array, weight: Array) -> Grad:
        return categorical_fisher_vector_product(z, change_z, weight), NONE

    def to_env(self, action: Array) -> Array:
        return action


class MultiCategorical:
    """MultiDiscrete: a softmax for each list, side by side."""

    extra, extra_start = 0, 0.0
    action_dtype: type = np.int64

    def __init__(self, space: MultiDiscrete) -> None:
        self.size, self._sizes = sum(space.n), space.n
        self.action_shape: tuple[int, ...] = (len(space.n),)

    def sample(self, z: Array, extra: Array, rng: np.random.Generator) -> Array:
        return multi_categorical.sample(z, self._sizes, rng)

    def mode(self, z: Array, extra: Array) -> Array:
        return multi_categorical.mode(z, self._sizes)

    def log_prob(self, z: Array, extra: Array, action: Array) -> Array:
        return multi_categorical.log_prob(z, self._sizes, action)

    def log_prob_grad(self, z: Array, extra: Array, action: Array, weight: Array) -> Grad:
        return multi_categorical.log_prob_grad(z, self._sizes, action, weight), NONE

    def entropy(self, z: Array, extra: Array) -> Array:
        return multi_categorical.entropy(z, self._sizes)

    def entropy_grad(self, z: Array, extra: Array, weight: Array) -> Grad:
        return multi_categorical.entropy_grad(z, self._sizes, weight), NONE

    def kl(self, old_z: Array, old_extra: Array, z: Array, extra: Array) -> Array:
        return multi_categorical.kl(old_z, self._sizes, z)

    def fisher(self, z: Array, extra: Array, change_z: Array, change_extra: Array, weight: Array) -> Grad:
        cuts = np.cumsum(self._sizes)[:-1]
        parts = zip(np.split(z, cuts, axis=1), np.split(change_z, cuts, axis=1), strict=True)
        return np.hstack([categorical_fisher_vector_product(*part, weight) for part in parts]), NONE

    def to_env(self, action: Array) -> Array:
        return action


class Bernoulli:
    """MultiBinary: a logistic unit for each switch."""

    extra, extra_start = 0, 0.0
    action_dtype: type = np.int64

    def __init__(self, space: MultiBinary) -> None:
        self.size = space.n
        self.action_shape: tuple[int, ...] = (space.n,)

    def sample(self, z: Array, extra: Array, rng: np.random.Generator) -> Array:
        return bernoulli.sample(z, rng).astype(np.int64)

    def mode(self, z: Array, extra: Array) -> Array:
        return bernoulli.mode(z).astype(np.int64)

    def log_prob(self, z: Array, extra: Array, action: Array) -> Array:
        return bernoulli.log_prob(z, action)

    def log_prob_grad(self, z: Array, extra: Array, action: Array, weight: Array) -> Grad:
        return bernoulli.log_prob_grad(z, action, weight), NONE

    def entropy(self, z: Array, extra: Array) -> Array:
        return bernoulli.entropy(z)

    def entropy_grad(self, z: Array, extra: Array, weight: Array) -> Grad:
        return bernoulli.entropy_grad(z, weight), NONE

    def kl(self, old_z: Array, old_extra: Array, z: Array, extra: Array) -> Array:
        return bernoulli.kl(old_z, z)

    def fisher(self, z: Array, extra: Array, change_z: Array, change_extra: Array, weight: Array) -> Grad:
        likely = np.exp(-np.logaddexp(0, -np.abs(z)))  # max(p, 1 - p)
        return likely * (1 - likely) * change_z * weight[:, None], NONE

    def to_env(self, action: Array) -> Array:
        return action


class Gaussian:
    """Box: independent normal numbers around the net's outputs, clipped to the box on the way out.

    log_std is one number an action for all states, learned from `log_std` on; with state_std the net gives what is added to that.
    """

    action_dtype: type = np.float32

    def __init__(self, space: Box, log_std: float = 0.0, state_std: bool = False) -> None:
        self._n, self._start, self._state_std = len(space.low), log_std, state_std
        self.size, self.extra = (2 * self._n, 0) if state_std else (self._n, self._n)
        self.extra_start = log_std
        self.action_shape: tuple[int, ...] = (self._n,)
        self.box = np.array([space.low, space.high], np.float32)
        self._low, self._high = self.box

    def _split(self, z: Array, extra: Array) -> Grad:
        """mean and log_std."""
        if self._state_std:
            return z[:, : self._n], z[:, self._n :] + z.dtype.type(self._start)
        return z, extra

    def _join(self, by_mean: Array, by_log_std: Array) -> Grad:
        return (np.hstack([by_mean, by_log_std]), NONE) if self._state_std else (by_mean, by_log_std)

    def sample(self, z: Array, extra: Array, rng: np.random.Generator) -> Array:
        return gaussian.sample(*self._split(z, extra), rng)

    def mode(self, z: Array, extra: Array) -> Array:
        return gaussian.mode(*self._split(z, extra))

    def log_prob(self, z: Array, extra: Array, action: Array) -> Array:
        return gaussian.log_prob(*self._split(z, extra), action)

    def log_prob_grad(self, z: Array, extra: Array, action: Array, weight: Array) -> Grad:
        return self._join(*gaussian.log_prob_grad(*self._split(z, extra), action, weight))

    def entropy(self, z: Array, extra: Array) -> Array:
        return gaussian.entropy(*self._split(z, extra))

    def entropy_grad(self, z: Array, extra: Array, weight: Array) -> Grad:
        return self._join(*gaussian.entropy_grad(*self._split(z, extra), weight))

    def kl(self, old_z: Array, old_extra: Array, z: Array, extra: Array) -> Array:
        return gaussian.kl(*self._split(old_z, old_extra), *self._split(z, extra))

    def fisher(self, z: Array, extra: Array, change_z: Array, change_extra: Array, weight: Array) -> Grad:
        n = self._n
        change = (change_z[:, :n], change_z[:, n:]) if self._state_std else (change_z, change_extra)
        return self._join(*gaussian_fisher_vector_product(*self._split(z, extra), *change, weight))

    def to_env(self, action: Array) -> Array:
        return np.clip(action, self._low, self._high)


class SquashedGaussian(Gaussian):
    """A bounded Box: tanh of a Gaussian, stretched to the box. The action that is stored is the number before the tanh."""

    def __init__(self, space: Box, log_std: float = 0.0, state_std: bool = False) -> None:
        _bounded(space, "squashed_gaussian")
        super().__init__(space, log_std, state_std)

    def log_prob(self, z: Array, extra: Array, action: Array) -> Array:
        return squashed_gaussian.log_prob(*self._split(z, extra), action, low=self._low, high=self._high)

    def entropy(self, z: Array, extra: Array) -> Array:
        return squashed_gaussian.entropy(*self._split(z, extra), low=self._low, high=self._high)

    def entropy_grad(self, z: Array, extra: Array, weight: Array) -> Grad:
        return self._join(*squashed_gaussian.entropy_grad(*self._split(z, extra), weight))

    def to_env(self, action: Array) -> Array:
        return squashed_gaussian.squash(action, low=self._low, high=self._high)


class Beta:
    """A bounded Box: a beta distribution over each side, alpha and beta 1 + softplus of the net's outputs, so that it has one peak.

    Chou, Maturana and Scherer 2017, proceedings.mlr.press/v70/chou17a
    """

    extra, extra_start = 0, 0.0
    action_dtype: type = np.float32

    def __init__(self, space: Box) -> None:
        _bounded(space, "beta")
        self._n = len(space.low)
        self.size = 2 * self._n
        self.action_shape: tuple[int, ...] = (self._n,)
        self._box = {"low": np.array(space.low, np.float32), "high": np.array(space.high, np.float32)}

    def _split(self, z: Array) -> Grad:
        """alpha and beta."""
        both = 1 + np.logaddexp(0, z)
        return both[:, : self._n], both[:, self._n :]

    def _join(self, z: Array, gradients: Grad) -> Grad:
        return np.hstack(gradients) * np.exp(-np.logaddexp(0, -z)), NONE  # softplus' is the logistic function

    def sample(self, z: Array, extra: Array, rng: np.random.Generator) -> Array:
        return beta.sample(*self._split(z), rng, **self._box)

    def mode(self, z: Array, extra: Array) -> Array:
        return beta.mode(*self._split(z), **self._box)

    def log_prob(self, z: Array, extra: Array, action: Array) -> Array:
        return beta.log_prob(*self._split(z), action, **self._box)

    def log_prob_grad(self, z: Array, extra: Array, action: Array, weight: Array) -> Grad:
        return self._join(z, beta.log_prob_grad(*self._split(z), action, weight, **self._box))

    def entropy(self, z: Array, extra: Array) -> Array:
        return beta.entropy(*self._split(z), **self._box)

    def entropy_grad(self, z: Array, extra: Array, weight: Array) -> Grad:
        return self._join(z, beta.entropy_grad(*self._split(z), weight))

    def kl(self, old_z: Array, old_extra: Array, z: Array, extra: Array) -> Array:
        return beta.kl(*self._split(old_z), *self._split(z))

    def fisher(self, z: Array, extra: Array, change_z: Array, change_extra: Array, weight: Array) -> Grad:
        # The Hessian of log B(alpha, beta), an exponential family's: diag(trigamma) - trigamma(alpha + beta)
        from scipy.special import polygamma

        (a, b), n = self._split(z), self._n
        change = change_z * np.exp(-np.logaddexp(0, -z))
        both = polygamma(1, a + b) * (change[:, :n] + change[:, n:])
        image = polygamma(1, a) * change[:, :n] - both, polygamma(1, b) * change[:, n:] - both
        grad, none = self._join(z, image)
        return (grad * weight[:, None]).astype(z.dtype), none

    def to_env(self, action: Array) -> Array:
        return action


def head_for(
    space: Space, distribution: Distribution = "gaussian", log_std: float = 0.0, state_std: bool = False
) -> Head:
    """The head of an action space; of a Box that of the distribution, whose options do not concern other spaces."""
    match space:
        case Discrete():
            return Categorical(space)
        case MultiDiscrete():
            return MultiCategorical(space)
        case MultiBinary():
            return Bernoulli(space)
        case Box():
            if distribution == "gaussian":
                return Gaussian(space, log_std, state_std)
            if distribution == "squashed_gaussian":
                return SquashedGaussian(space, log_std, state_std)
            if distribution == "beta":
                return Beta(space)
            raise ValueError(f"distribution is {distribution!r}; wanted gaussian, squashed_gaussian or beta")
    raise ValueError(f"action space is {space}; wanted Discrete, MultiDiscrete, MultiBinary or Box")


def _bounded(space: Box, distribution: Distribution) -> None:
    if not np.isfinite([space.low, space.high]).all():
        raise ValueError(f"distribution is {distribution!r}, but {space} is not bounded; wanted gaussian")
