"""An epoch of PPO in one compiled call: of each minibatch gather, forward, loss, backward, clipping and Adam, for policy and value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastpg import _core, nets
from fastpg.train.agent import Agent
from fastpg.train.heads import Categorical, Gaussian

__all__ = ["PPOEpoch"]

Array = NDArray[Any]


class PPOEpoch:
    """loss = -mean(min(ratio A, clip(ratio) A)) - entropy_weight mean(entropy) + mean((v - target)^2) / 2, ratio = pi / pi_old.

    For policies by two float32 MLPs and a Categorical or a Gaussian whose log_std all states share, see serves.
    """

    @staticmethod
    def serves(agent: Agent, adam: Mapping[str, nets.Adam]) -> bool:
        """Whether there is a compiled way for this agent."""
        for name in ("policy", "value"):
            net = agent.nets.get(name)
            if not (isinstance(net, nets.MLP) and net.compiled and net.parameter.dtype == np.float32):
                return False
        head = agent.head
        return (
            all(type(part) is nets.Adam for part in adam.values())
            and head.size <= _core.PPO_ACTIONS
            and (type(head) is Categorical or (type(head) is Gaussian and head.extra == head.size))
        )

    def __init__(self, agent: Agent, adam: Mapping[str, nets.Adam], minibatch: int) -> None:
        self._adam = adam["policy"], adam["value"]
        self._gaussian = type(agent.head) is Gaussian
        self._minibatch = minibatch
        nets_: Any = agent.nets["policy"], agent.nets["value"]
        self._nets = [(*net.work(minibatch), part.m, part.v) for net, part in zip(nets_, self._adam, strict=True)]

    def __call__(
        self,
        order: Array,
        x: Array,
        action: Array,
        log_prob: Array,
        advantage: Array,
        target: Array,
        lr: tuple[float, float],
        clip: float,
        entropy_weight: float,
        max_norm: float,
        target_kl: float | None,
    ) -> tuple[Array, tuple[float, ...], int]:
        """Steps of Adam on one minibatch after the other of the rows in order (m,) int64, of what the next five hold: x (M, inputs),
        action, and float32 (M,) each. lr of the policy and of the value.

        It stops before the step of a minibatch where KL(old || new) is above target_kl, or where a loss or a gradient is not finite.
        Answers sums over all steps, the same of the minibatch that it looked at last, and how many steps it took: policy loss, value
        loss, k3 estimate of KL(old || new), clipped, length of the policy's gradient, length of the value's, entropy.
        """
        x, log_prob, advantage, target = (np.ascontiguousarray(a, np.float32) for a in (x, log_prob, advantage, target))
        action = np.ascontiguousarray(action, np.float32 if self._gaussian else np.int64)
        policy, value = (
            (rate, part.beta1, part.beta2, part.eps, part.t) for rate, part in zip(lr, self._adam, strict=True)
        )
        nets_ = self._nets[0], self._nets[1], policy, value
        arrays = order, x, action, log_prob, advantage, target
        options = clip, entropy_weight, max_norm, np.inf if target_kl is None else target_kl
        total, last, steps = _core.ppo_epoch(*nets_, self._minibatch, *arrays, self._gaussian, *options)
        for part in self._adam:
            part.t += steps
        return np.array(total), last, steps
