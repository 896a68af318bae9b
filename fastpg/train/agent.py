"""The agent every loop trains: a policy net, the head that reads a distribution from it, a value net, and how both see observations."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from fastpg import Moments, RunningReturnScale, merge_moments, moments
from fastpg.envs import VectorEnv, spaces
from fastpg.envs.spaces import Space
from fastpg.nets import MLP, orthogonal
from fastpg.train.heads import Distribution, head_for

__all__ = ["Agent", "AgentOptions", "Net", "Normaliser", "RewardScale"]

Array = NDArray[Any]

CHUNK = 4096  # rows whose values are taken at a time: a net keeps all layers of a forward pass, many times what its rows take


class Net(Protocol):
    """What a policy or a value function of your own must give, in float32; fastpg.nets.MLP is one.

    parameter    all that is learned, one vector, changed in place by others
    extra        its last head.extra numbers, as a view; empty for a value function

    forward(x (M, inputs)) -> (M, outputs), valid until the next call. backward, called after forward of the same x, answers
    d loss / d parameter from d loss / d output (M, outputs) and d loss / d extra, None for 0. A policy has head.size outputs, a value one.
    A policy may give linearize(x) -> (v -> J v) too, as MLP does, for TRPO's Fisher information.
    """

    parameter: Array
    extra: Array

    def forward(self, x: Array) -> Array: ...
    def backward(self, x: Array, grad_output: Array, grad_extra: Array | None = None) -> Array: ...


@dataclass(frozen=True)
class AgentOptions:
    """Options of the agent, the same for every algorithm."""

    hidden: tuple[int, ...] = (64, 64)
    """hidden layers of policy and value net; none, with no number, for linear ones"""
    activation: Literal["tanh", "relu"] = "tanh"
    """of the hidden layers"""
    shared_trunk: bool = False
    """one net for policy and value, with a last layer for both"""
    distribution: Distribution = "gaussian"
    """of real-valued actions; the latter two want a bounded box"""
    log_std: float = 0.0
    """where the logarithm of a Gaussian's standard deviation starts"""
    state_std: bool = False
    """let the standard deviation depend on the state"""
    normalise_observation: bool = False
    """show the nets observations of mean 0 and variance 1, by all seen before the update, held to 10"""


class Normaliser:
    """x -> clip((x - shift) scale, -10, 10): mean 0 and variance 1 over the observations that update() took in.

    Nothing moves between updates, so a rollout and the update on it see the same. Before the first: as it is, clipped.
    Chan, Golub and LeVeque 1983, eq. 1.5, doi:10.1080/00031305.1983.10483115

    >>> normaliser = Normaliser(1)
    >>> normaliser.update(np.array([[1.0], [3.0]], np.float32))
    >>> normaliser(np.array([[4.0], [99.0]], np.float32)).tolist()
    [[2.0], [10.0]]
    """

    def __init__(self, size: int) -> None:
        self.shift, self.scale = np.zeros(size, np.float32), np.ones(size, np.float32)
        self._count, self._mean, self._m2 = np.zeros(1), np.zeros(size), np.zeros(size)

    def __call__(self, x: Array) -> Array:
        """Of the shape of x, (..., size)."""
        seen: Array = np.clip((x - self.shift) * self.scale, -10, 10)
        return seen

    def update(self, x: Array) -> None:
        """Takes in x (..., size)."""
        new = moments(x.reshape(-1, x.shape[-1]), axis=0)
        known = Moments(np.full_like(self._mean, self._count[0]), self._mean, self._m2)
        count, self._mean[...], self._m2[...] = merge_moments(known, Moments(*(np.asarray(field) for field in new)))
        self._count[0] = count[0]
        self.shift[...] = self._mean
        self.scale[...] = 1 / np.sqrt(self._m2 / self._count + 1e-8)

    def state(self) -> dict[str, Array]:
        """All of it, as views."""
        return {
            "observation_count": self._count,
            "observation_mean": self._mean,
            "observation_m2": self._m2,
            "observation_shift": self.shift,
            "observation_scale": self.scale,
        }


class RewardScale:
    """Rewards over the running standard deviation of their discounted returns, held to 10; fastpg.RunningReturnScale with state()."""

    def __init__(self, lanes: int, gamma: float) -> None:
        self._scale = RunningReturnScale(lanes, gamma, clip=10.0, convention="gymnasium_same_step")
        self._state = {name: np.array(value) for name, value in self._scale.state_dict().items()}

    def __call__(self, reward: Array, terminated: Array, truncated: Array) -> Array:
        """Takes in T steps of every lane, (T, N), and scales them."""
        self._scale.load_state_dict(self._state)
        scaled = self._scale(reward, terminated, truncated)
        for name, value in self._scale.state_dict().items():
            self._state[name][...] = value
        return scaled

    def restart(self) -> None:
        """Forgets the returns in progress, for a loop that resets its environment."""
        self._state["returns"][:] = 0
        self._state["ended"][:] = False

    def state(self) -> dict[str, Array]:
        """All of it, as views."""
        return self._state


def _of_ones_own(name: str, net: Net, inputs: int, outputs: int, extra: int) -> Net:
    """The net, once it has shown on two rows that it keeps to Net."""

    def wanted(what: str, gave: Any, shape: tuple[int, ...], of: str = "") -> Array:
        if not (isinstance(gave, np.ndarray) and gave.dtype == np.float32 and gave.shape == shape):
            came = f"{gave.dtype} {gave.shape}" if isinstance(gave, np.ndarray) else repr(gave)
            raise ValueError(f"{name}.{what} is {came}; wanted float32 {shape}{of}")
        return gave

    for attribute in ("parameter", "extra", "forward", "backward"):
        if not hasattr(net, attribute):
            raise TypeError(f"{name} is {net!r} without {attribute}; wanted what fastpg.train.agent.Net has")
    parameter = wanted("parameter", net.parameter, (np.size(net.parameter),))
    if not parameter.flags.carray:
        raise ValueError(f"{name}.parameter is not contiguous or not writeable; wanted a vector that Adam may change")
    last = parameter[len(parameter) - extra :]
    wanted("extra", net.extra, (extra,), ", the last of its parameter")
    if extra and net.extra.ctypes.data != last.ctypes.data:
        raise ValueError(f"{name}.extra is a copy; wanted a view of the last {extra} numbers of its parameter")
    x, by_output = np.zeros((2, inputs), np.float32), np.zeros((2, outputs), np.float32)
    wanted("forward(x)", net.forward(x), by_output.shape)
    by_extra = None if name == "value" else np.zeros(extra, np.float32)
    wanted("backward(...)", net.backward(x, by_output, by_extra), parameter.shape)
    return net


class _PolicyOfTrunk:
    """A net for both, seen as a policy: all outputs but the last."""

    def __init__(self, trunk: MLP) -> None:
        self._trunk, self.parameter, self.extra = trunk, trunk.parameter, trunk.extra

    def forward(self, x: Array) -> Array:
        return np.ascontiguousarray(self._trunk.forward(x)[:, :-1])

    def backward(self, x: Array, grad_output: Array, grad_extra: Array | None = None) -> Array:
        return self._trunk.backward(x, np.hstack([grad_output, np.zeros((len(x), 1), np.float32)]), grad_extra)


class Agent:
    """A policy and a value function: two MLPs of the same hidden sizes, one MLP for both, or nets of your own.

    head      the distribution over actions      policy    gives its parameters, (M, head.size) for M observations
    nets      by name, what is learned: policy and value (without a critic policy alone), or trunk where they share one

    options are the fields of AgentOptions. policy, value: a Net each, in place of an MLP. critic=False: no value function, values are 0.
    """

    def __init__(
        self,
        observation_size: int,
        action_space: Space,
        hidden: Sequence[int],
        rng: np.random.Generator,
        *,
        critic: bool = True,
        policy: Net | None = None,
        value: Net | None = None,
        **options: Any,
    ) -> None:
        self.options = AgentOptions(tuple(hidden), **options)
        self.observation_size, self.action_space, self.hidden = observation_size, action_space, self.options.hidden
        self.head = head_for(action_space, self.options.distribution, self.options.log_std, self.options.state_std)
        self._own = [name for name, net in (("policy", policy), ("value", value)) if net is not None]
        self.normaliser = Normaliser(observation_size) if self.options.normalise_observation else None
        self.nets: dict[str, Net]
        shared = self.options.shared_trunk
        if shared and (self._own or not critic):
            raise ValueError("shared_trunk is True; wanted False for nets of your own and without a critic")

        def mlp(outputs: int, last: float, extra: int = 0) -> MLP:
            gain = [2**0.5] * len(self.hidden) + [last]
            sizes = (observation_size, *self.hidden, outputs)
            return MLP(sizes, rng=rng, activation=self.options.activation, gain=gain, extra=extra)

        if policy is not None:
            _of_ones_own("policy", policy, observation_size, self.head.size, self.head.extra)
        if value is not None:
            _of_ones_own("value", value, observation_size, 1, 0)

        # A last policy layer near 0 starts near the uniform policy (Andrychowicz et al. 2021, arXiv:2006.05990, 3.2)
        if shared:
            trunk = mlp(self.head.size + 1, 0.01, self.head.extra)
            trunk.weight[-1][:, -1:] = orthogonal(rng, len(trunk.weight[-1]), 1)
            self.policy: Net = _PolicyOfTrunk(trunk)
            self.nets = {"trunk": trunk}
        else:
            self.policy = mlp(self.head.size, 0.01, self.head.extra) if policy is None else policy
            self.nets = {"policy": self.policy}
            if critic:
                self.nets["value"] = mlp(1, 1.0) if value is None else value
        if policy is None:
            self.policy.extra[...] = self.head.extra_start

    @staticmethod
    def made_for(env: VectorEnv, options: AgentOptions, rng: np.random.Generator, *, critic: bool = True) -> Agent:
        """The agent that these options, or the config of an algorithm, describe."""
        chosen = {field.name: getattr(options, field.name) for field in dataclasses.fields(AgentOptions)}
        return Agent(env.observation_size, env.action_space, rng=rng, critic=critic, **chosen)

    @property
    def value(self) -> Net:
        """The value net, where it is one of its own."""
        return self.nets["value"]

    def see(self, observation: Array) -> Array:
        """What the nets are shown of it, same shape; forward, and policy.forward, take that."""
        return observation if self.normaliser is None else self.normaliser(observation)

    def forward(self, x: Array) -> tuple[Array, Array]:
        """The head's parameters (M, head.size) and the values (M,) of what see() showed, (M, observation_size)."""
        if "trunk" in self.nets:
            both = self.nets["trunk"].forward(x)
            return np.ascontiguousarray(both[:, :-1]), np.ascontiguousarray(both[:, -1])
        z = self.policy.forward(x)
        return z, self.nets["value"].forward(x)[:, 0] if "value" in self.nets else np.zeros(len(x), z.dtype)

    def backward(self, x: Array, grad_z: Array, grad_extra: Array, grad_value: Array) -> dict[str, Array]:
        """d loss / d parameter of each of self.nets; forward(x) must have come just before."""
        by_value = grad_value[:, None]
        if "trunk" in self.nets:
            return {"trunk": self.nets["trunk"].backward(x, np.hstack([grad_z, by_value]), grad_extra)}
        grads = {"policy": self.policy.backward(x, grad_z, grad_extra)}
        if "value" in self.nets:
            grads["value"] = self.nets["value"].backward(x, by_value)
        return grads

    def sample(self, observation: Array, rng: np.random.Generator) -> Array:
        """An action for each row, drawn from the policy."""
        return self.head.sample(self.policy.forward(self.see(observation)), self.policy.extra, rng)

    def best(self, observation: Array) -> Array:
        """The most likely action for each row; of a squashed Gaussian the median."""
        return self.head.mode(self.policy.forward(self.see(observation)), self.policy.extra)

    def values(self, observation: Array) -> Array:
        """V of observations of shape (..., observation_size), shape (...)."""
        shape, name = observation.shape[:-1], "trunk" if "trunk" in self.nets else "value"
        if name not in self.nets:
            return np.zeros(shape, np.float32)
        rows, value = observation.reshape(-1, observation.shape[-1]), np.empty(shape, np.float32)
        some = value.reshape(-1)
        for start in range(0, len(rows), CHUNK):
            some[start : start + CHUNK] = self.nets[name].forward(self.see(rows[start : start + CHUNK]))[:, -1]
        return value

    def state(self) -> dict[str, Array]:
        """The parameters and what is known of observations, as views."""
        state = {name: net.parameter for name, net in self.nets.items()}
        return state if self.normaliser is None else {**state, **self.normaliser.state()}

    def about(self) -> dict[str, Any]:
        """What Agent.of needs to build one of the same shape; JSON can hold it."""
        space = {"kind": type(self.action_space).__name__, **dataclasses.asdict(self.action_space)}
        return {
            "observation_size": self.observation_size,
            "action_space": space,
            "critic": "policy" not in self.nets or "value" in self.nets,
            "own": self._own,
            **dataclasses.asdict(self.options),
            "hidden": list(self.hidden),
        }

    @staticmethod
    def of(about: dict[str, Any]) -> Agent:
        """An agent of that shape, untrained."""
        about = dict(about)
        if own := about.pop("own"):
            raise ValueError(f"its {' and '.join(own)} is a net of your own; build the agent and fill agent.state()")
        space = dict(about.pop("action_space"))
        kind = space.pop("kind")
        if kind not in spaces.__all__:
            raise ValueError(f"action space is {kind!r}; wanted one of {', '.join(spaces.__all__)}")
        space = {name: tuple(value) if isinstance(value, list) else value for name, value in space.items()}
        return Agent(action_space=getattr(spaces, kind)(**space), rng=np.random.default_rng(0), **about)
