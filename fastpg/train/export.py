"""A trained policy as plain arrays, for use without fastpg."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastpg.envs.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from fastpg.nets import MLP
from fastpg.train.agent import Agent

__all__ = ["policy_arrays"]


def policy_arrays(agent: Agent) -> dict[str, NDArray[Any]]:
    """What the most likely action is computed from. ValueError where the policy is a net of your own.

    h_0 = clip((observation - shift) scale, -most, most),   h_{k+1} = f(h_k) weight_k + bias_k,   f = activation, for h_0 the identity

    action   "argmax" of h, "argmax_each" of its parts of lengths `sizes`, "positive": h > 0, "clip" of h between low and high,
             "squash": low + (high - low) (1 + tanh(h)) / 2, "beta": low + (high - low) a / (a + b) where (a, b) = log(1 + exp(h))
    """
    net = agent.nets.get("trunk", agent.policy)
    if not isinstance(net, MLP):
        raise ValueError(f"the policy is a {type(net).__name__} of your own; only an MLP can be exported")
    space, size = agent.action_space, agent.observation_size
    outputs, chosen = agent.head.size, {}
    match space:
        case Discrete():
            kind = "argmax"
        case MultiDiscrete(n):
            kind, chosen = "argmax_each", {"sizes": np.array(n)}
        case MultiBinary():
            kind = "positive"
        case Box(low, high):
            kind = {"gaussian": "clip", "squashed_gaussian": "squash", "beta": "beta"}[agent.options.distribution]
            chosen = {"low": np.array(low, np.float32), "high": np.array(high, np.float32)}
            outputs = outputs if kind == "beta" else len(low)  # less those that are standard deviations
    seen = agent.normaliser
    arrays: dict[str, NDArray[Any]] = {
        "shift": np.zeros(size, np.float32) if seen is None else seen.shift.copy(),
        "scale": np.ones(size, np.float32) if seen is None else seen.scale.copy(),
        "most": np.array(np.inf if seen is None else 10, np.float32),
        "layers": np.array(len(net.weight)),
        "activation": np.array(net.activation),
        "action": np.array(kind),
        **chosen,
    }
    for k, (weight, bias) in enumerate(zip(net.weight, net.bias, strict=True)):
        last = k == len(net.weight) - 1  # of a shared trunk it has the value too
        arrays[f"weight{k}"] = weight[:, :outputs].copy() if last else weight.copy()
        arrays[f"bias{k}"] = bias[:outputs].copy() if last else bias.copy()
    return arrays
