"""Advantage actor-critic (Mnih et al. 2016, arXiv:1602.01783) in step, with any of the six Psi, or V-trace, as its advantage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

import fastpg
from fastpg.envs import VectorEnv
from fastpg.nets import Adam, blas_threads, clip_norm
from fastpg.train.agent import Agent, AgentOptions, RewardScale
from fastpg.train.rollout import Rollout, collect
from fastpg.train.run import Run, check

__all__ = ["Config", "train"]


@dataclass(frozen=True)
class Config(AgentOptions):
    """Options of A2C."""

    seed: int = 0
    """of initial weights, environment and actions"""
    steps: int = 200_000
    """environment steps, all lanes together"""
    stop_at: float | None = None
    """stop early once the last 100 training episodes have this mean return"""
    psi: Literal["total_return", "reward_to_go", "baselined", "q", "gae", "td_residual", "vtrace"] = "gae"
    """how good an action was: the weight of its log-probability; vtrace corrects for the age of the steps in every epoch"""
    gamma: float = 0.99
    """discount"""
    lambda_: float = 1.0
    """trace decay of gae, q and vtrace, and of the value target; 1: returns of n steps, as published"""
    lanes: int = 16
    """environments side by side"""
    rows: int = 8
    """steps of every lane between updates"""
    epochs: int = 1
    """gradients from these rows; above 1 psi should be vtrace, which knows that they are stale"""
    lr: float = 2e-3
    """Adam's learning rate of the policy, and of a shared trunk"""
    value_lr: float = 4e-3
    """the same of a value net of its own"""
    lr_schedule: Literal["constant", "linear"] = "linear"
    """linear: both rates fall to 0 over the run"""
    huber: float | None = None
    """errors of the value beyond this count linearly"""
    value_weight: float = 0.5
    """of the value loss where the trunk is shared"""
    entropy_weight: float = 0.0
    """reward for entropy"""
    entropy_schedule: Literal["constant", "linear"] = "constant"
    """linear: entropy_weight falls to 0 over the run"""
    normalise_advantage: bool = False
    """give the advantages of an update mean 0 and variance 1"""
    normalise_reward: bool = False
    """divide rewards by the running standard deviation of their discounted return, held to 10"""
    max_norm: float = 0.5
    """longest gradient of a net"""

    def __post_init__(self) -> None:
        check(
            self,
            positive=("steps", "lanes", "rows", "epochs", "lr", "value_lr", "huber", "value_weight", "max_norm"),
            not_negative=("seed", "entropy_weight"),
        )


@blas_threads(1)
def train(config: Config, env: VectorEnv, run: Run | None = None, agent: Agent | None = None) -> Agent:
    """Trains an agent, its own or a new one, on env, which has config.lanes lanes; run records it. A checkpoint is left however it ends."""
    if env.lanes != config.lanes:
        raise ValueError(f"env has {env.lanes} lanes, but config.lanes is {config.lanes}")
    run = Run(config, env) if run is None else run
    rng = np.random.default_rng(config.seed)
    agent = Agent.made_for(env, config, rng) if agent is None else agent
    head, policy = agent.head, agent.policy
    adam = {name: Adam(net.parameter, eps=1e-5) for name, net in agent.nets.items()}
    scale = RewardScale(config.lanes, config.gamma)
    rollout = Rollout(env, agent, config.rows)
    run.begin(env, rng, rollout, agent, reward_scale=scale, **{f"{name}_adam": part for name, part in adam.items()})

    gamma, lambda_, M = config.gamma, config.lambda_, config.rows * config.lanes
    value_weight = np.float32(config.value_weight if config.shared_trunk else 1)
    huber: dict[str, Any] = {} if config.huber is None else {"kind": "huber", "delta": config.huber}
    try:
        while run.steps < config.steps and not run.reached(config.stop_at):
            left = {"constant": 1.0, "linear": 1 - run.steps / config.steps}
            lr = config.lr * left[config.lr_schedule]
            rate = {"policy": lr, "trunk": lr, "value": config.value_lr * left[config.lr_schedule]}
            entropy_weight = config.entropy_weight * left[config.entropy_schedule]

            collect(env, agent, rollout, rng)
            ends = rollout.terminated, rollout.truncated
            run.count(rollout.reward, ends[0] | ends[1])
            reward = scale(rollout.reward, *ends) if config.normalise_reward else rollout.reward
            x, a = agent.see(rollout.observation.reshape(M, -1)), rollout.action.reshape(M, *head.action_shape)
            next_x = agent.see(rollout.final.reshape(M, -1))

            for _ in range(config.epochs):
                # Estimate. The next value is that of the state before any reset.
                next_value = agent.forward(next_x)[1].reshape(reward.shape).copy()
                z, v = agent.forward(x)
                value, log_prob = v.reshape(reward.shape), head.log_prob(z, policy.extra, a)
                if config.psi == "vtrace":
                    ratio = log_prob.reshape(reward.shape) - rollout.log_prob
                    target, advantage = fastpg.vtrace(reward, value, next_value, ratio, *ends, gamma, lambda_)
                else:
                    advantage = fastpg.psi(config.psi, reward, value, next_value, *ends, gamma, lambda_)
                    target = fastpg.lambda_return(reward, next_value, *ends, gamma, lambda_)
                if config.normalise_advantage:
                    advantage = fastpg.whiten(advantage)

                # Update: loss = -mean(log_prob Psi) - entropy_weight mean(entropy) + value_weight mean((v - target)^2) / 2.
                policy_loss, by_log_prob, _ = fastpg.policy_loss("a2c", log_prob, None, advantage.ravel())
                value_loss, by_value = fastpg.value_loss(v, target.ravel(), **huber)
                if not np.isfinite((policy_loss, value_loss)).all():
                    raise FloatingPointError(
                        f"the loss is {policy_loss} (policy), {value_loss} (value) at step {run.steps}; "
                        f"lr is {lr:g}: try a smaller one"
                    )
                entropy = head.entropy(z, policy.extra).mean()
                by_z, by_extra = head.log_prob_grad(z, policy.extra, a, by_log_prob)
                if entropy_weight:
                    more = head.entropy_grad(z, policy.extra, np.full_like(log_prob, -entropy_weight / M))
                    by_z, by_extra = by_z + more[0], by_extra + more[1]
                explained = fastpg.explained_variance(v, target.ravel())
                grads = agent.backward(x, by_z, by_extra, by_value * value_weight)
                norms = [clip_norm(grad, config.max_norm) for grad in grads.values()]
                for name, grad in grads.items():
                    adam[name].step(grad, rate[name])

            # Log.
            if agent.normaliser is not None:
                agent.normaliser.update(rollout.observation)
            run.log(
                policy_loss=policy_loss,
                value_loss=value_loss,
                explained_variance=explained,
                entropy=entropy,
                grad_norm=norms[0],  # of the policy or the trunk
                lr=lr,
            )
    finally:
        run.save()
    return agent
