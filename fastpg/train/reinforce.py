"""REINFORCE (Williams 1992): one step along the gradient of mean(log pi(a|s) Psi) for each batch of whole episodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastpg
from fastpg.envs import VectorEnv
from fastpg.nets import Adam, blas_threads, clip_norm
from fastpg.train.agent import Agent
from fastpg.train.run import Psi, Run, check

__all__ = ["Config", "train"]


@dataclass(frozen=True)
class Config:
    """Options of REINFORCE."""

    seed: int = 0
    """of initial weights, environment and actions"""
    steps: int = 200_000
    """environment steps, all lanes together"""
    stop_at: float | None = None
    """stop early once the last 100 training episodes have this mean return"""
    psi: Psi = "baselined"
    """how good an action was: the weight of its log-probability"""
    gamma: float = 0.99
    """discount"""
    lambda_: float = 0.95
    """trace decay of gae and q"""
    lanes: int = 8
    """environments side by side"""
    rows: int = 100
    """steps of every lane after which no new episode begins"""
    longest: int = 1000
    """steps of every lane after which an unfinished episode is cut; it then counts as truncated"""
    lr: float = 5e-3
    """Adam's learning rate of the policy"""
    value_lr: float = 5e-3
    """Adam's learning rate of the value"""
    value_epochs: int = 10
    """gradient steps of the value for one of the policy"""
    anneal: bool = True
    """let both learning rates fall linearly to 0 over the run"""
    normalise: bool = True
    """give the Psi of an update mean 0 and variance 1"""
    entropy_weight: float = 0.0
    """reward for entropy"""
    max_norm: float = 0.5
    """longest gradient of either net"""
    hidden: tuple[int, ...] = (64, 64)
    """hidden layers of policy and value net"""

    def __post_init__(self) -> None:
        check(
            self,
            positive=("steps", "lanes", "rows", "longest", "lr", "value_lr", "max_norm"),
            not_negative=("seed", "entropy_weight", "value_epochs"),
        )
        if self.longest < self.rows:
            raise ValueError(f"longest is {self.longest}; wanted rows ({self.rows}) or more")


@blas_threads(1)
def train(config: Config, env: VectorEnv, run: Run | None = None) -> Agent:
    """Trains an agent on env, which has config.lanes lanes; run records it. A checkpoint is left however it ends."""
    if env.lanes != config.lanes:
        raise ValueError(f"env has {env.lanes} lanes, but config.lanes is {config.lanes}")
    run = Run(config, env) if run is None else run
    rng = np.random.default_rng(config.seed)
    agent = Agent(env.observation_size, env.action_space, config.hidden, rng)
    head, policy = agent.head, agent.policy
    policy_adam, value_adam = Adam(agent.policy.parameter), Adam(agent.value.parameter)

    shape = (config.longest, config.lanes)
    observation = np.empty((*shape, env.observation_size), np.float32)
    final = np.empty_like(observation)
    action: NDArray[Any] = np.empty((*shape, *head.action_shape), head.action_dtype)
    reward = np.empty(shape, np.float32)
    terminated, truncated, playing = np.empty((3, *shape), np.bool_)
    run.begin(env, rng, None, agent, policy_adam=policy_adam, value_adam=value_adam)

    try:
        while run.steps < config.steps and not run.reached(config.stop_at):
            left = 1 - run.steps / config.steps if config.anneal else 1.0

            # Collect: every lane plays whole episodes until `rows` steps, then finishes the one it is in.
            current, _ = env.reset()
            run.restart()
            alive, T = np.ones(config.lanes, np.bool_), 0
            while alive.any() and T < config.longest:
                observation[T], playing[T] = current, alive
                action[T] = agent.sample(current, rng)
                current, reward[T], terminated[T], truncated[T], info = env.step(head.to_env(action[T]))
                final[T] = info["final_obs"]
                ended = terminated[T] | truncated[T]
                run.count(reward[T : T + 1], (ended & alive)[None])
                T += 1
                if T >= config.rows:
                    alive = alive & ~ended

            # Estimate. The next value is that of the state before any reset.
            value, next_value = agent.values(observation[:T]), agent.values(final[:T])
            r, ends, keep = reward[:T], (terminated[:T], truncated[:T]), playing[:T]
            weight = fastpg.psi(config.psi, r, value, next_value, *ends, config.gamma, config.lambda_)[keep]
            target = fastpg.reward_to_go(r, next_value, *ends, config.gamma)[keep]
            if config.normalise:
                weight = (weight - weight.mean()) / (weight.std() + 1e-8)

            # Update the policy: loss = -mean(log_prob Psi) - entropy_weight mean(entropy).
            x, a, M = observation[:T][keep], action[:T][keep], int(keep.sum())
            z = policy.forward(x)
            policy_loss = -np.mean(head.log_prob(z, policy.extra, a) * weight)
            entropy = head.entropy(z, policy.extra).mean()
            grad, grad_extra = head.log_prob_grad(z, policy.extra, a, -weight / M)
            if config.entropy_weight:
                more = head.entropy_grad(z, policy.extra, np.full(M, -config.entropy_weight / M, np.float32))
                grad, grad_extra = grad + more[0], grad_extra + more[1]
            value_loss = np.mean((value[keep] - target) ** 2) / 2
            if not np.isfinite((policy_loss, value_loss)).all():
                raise FloatingPointError(
                    f"the loss is {policy_loss} (policy), {value_loss} (value) at step {run.steps}; "
                    f"lr is {config.lr * left:g}, value_lr {config.value_lr * left:g}: try smaller ones"
                )
            policy_grad = policy.backward(x, grad, grad_extra)
            grad_norm = clip_norm(policy_grad, config.max_norm)
            policy_adam.step(policy_grad, config.lr * left)

            # Update the value: loss = mean((v - target)^2) / 2.
            for _ in range(config.value_epochs):
                error = agent.value.forward(x) - target[:, None]
                value_grad = agent.value.backward(x, error / M)
                clip_norm(value_grad, config.max_norm)
                value_adam.step(value_grad, config.value_lr * left)

            # Log.
            run.log(
                policy_loss=policy_loss,
                value_loss=value_loss,
                entropy=entropy,
                grad_norm=grad_norm,
                lr=config.lr * left,
            )
    finally:
        run.save()
    return agent
