"""A minibatch of PPO in one compiled call: gather, forward, loss and backward of policy and value, tile after tile of rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastpg import _core
from fastpg.nets import MLP
from fastpg.train.agent import Agent
from fastpg.train.heads import Categorical, Gaussian

__all__ = ["PPOStep"]

Array = NDArray[Any]


class PPOStep:
    """loss = -mean(min(ratio A, clip(ratio) A)) - entropy_weight mean(entropy) + mean((v - target)^2) / 2, ratio = pi / pi_old.

    For policies by two float32 MLPs and a Categorical or a Gaussian whose log_std all states share, see serves.
    """

    @staticmethod
    def serves(agent: Agent) -> bool:
        """Whether there is a compiled way for this agent."""
        nets = agent.nets.get("policy"), agent.nets.get("value")
        if not all(isinstance(net, MLP) and net.compiled and net.parameter.dtype == np.float32 for net in nets):
            return False
        head = agent.head
        return head.size <= _core.PPO_ACTIONS and (
            type(head) is Categorical or (type(head) is Gaussian and head.extra == head.size)
        )

    def __init__(self, agent: Agent) -> None:
        self._policy: Any = agent.nets["policy"]
        self._value: Any = agent.nets["value"]
        self._gaussian = type(agent.head) is Gaussian
        self._x = np.empty((0, agent.observation_size), np.float32)

    def __call__(
        self,
        rows: Array,
        x: Array,
        action: Array,
        log_prob: Array,
        advantage: Array,
        target: Array,
        clip: float,
        entropy_weight: float,
    ) -> tuple[dict[str, Array], tuple[float, float, float, float, float]]:
        """The gradients by net, and the means (policy loss, value loss, k3 estimate of KL(old || new), clipped, entropy) over the rows.

        rows (m,) int64 picks a minibatch of what the others hold: x (M, inputs), action, and float32 (M,) each.
        """
        if len(self._x) < len(rows):
            self._x = np.empty((len(rows), self._x.shape[1]), np.float32)
        extra = self._policy.extra if self._gaussian else None
        policy, value = self._policy.work(len(rows)), self._value.work(len(rows))
        grads = {"policy": policy[-1], "value": value[-1]}
        by_extra = None if extra is None else policy[-1][len(policy[-1]) - len(extra) :]
        x, log_prob, advantage, target = (np.ascontiguousarray(a, np.float32) for a in (x, log_prob, advantage, target))
        action = np.ascontiguousarray(action, np.float32 if self._gaussian else np.int64)
        arrays = rows, x, action, log_prob, advantage, target, extra
        return grads, _core.ppo_step(policy, value, *arrays, clip, entropy_weight, self._x, by_extra)
