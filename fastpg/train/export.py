"""A trained policy as plain arrays, for use without fastpg."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastpg.envs.spaces import Box, Discrete
from fastpg.train.agent import Agent

__all__ = ["policy_arrays"]


def policy_arrays(agent: Agent) -> dict[str, NDArray[Any]]:
    """What the most likely action is computed from.

    h_0 = observation,   h_k = tanh(h_{k-1} weight_k + bias_k), without tanh in the last layer

    action    "argmax": the index of the largest output; "clip": the outputs, between low and high
    """
    net, space = agent.policy, agent.action_space
    arrays: dict[str, NDArray[Any]] = {}
    for k, (weight, bias) in enumerate(zip(net.weight, net.bias, strict=True)):
        arrays |= {f"weight{k}": weight.copy(), f"bias{k}": bias.copy()}
    arrays |= {"layers": np.array(len(net.weight)), "activation": np.array(net.activation)}
    match space:
        case Discrete():
            return {**arrays, "action": np.array("argmax")}
        case Box():
            low, high = np.array(space.low, np.float32), np.array(space.high, np.float32)
            return {**arrays, "action": np.array("clip"), "low": low, "high": high}
    raise ValueError(f"the action space is {space}; only policies over Discrete and Box can be exported")
