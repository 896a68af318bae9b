"""Proximal policy optimisation (Schulman et al. 2017, arXiv:1707.06347) with any of the six Psi as its advantage."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import fastpg
from fastpg.envs import VectorEnv
from fastpg.nets import Adam, blas_threads, clip_norm
from fastpg.train.agent import Agent
from fastpg.train.rollout import Rollout, collect
from fastpg.train.run import Psi, Run, check

__all__ = ["Config", "train"]


@dataclass(frozen=True)
class Config:
    """Options of PPO."""

    seed: int = 0
    """of initial weights, environment and actions"""
    steps: int = 100_000
    """environment steps, all lanes together"""
    stop_at: float | None = None
    """stop early once the last 100 training episodes have this mean return"""
    psi: Psi = "gae"
    """how good an action was: the advantage in the clipped objective"""
    gamma: float = 0.98
    """discount"""
    lambda_: float = 0.8
    """trace decay of gae, of q, and of the value target"""
    lanes: int = 8
    """environments side by side"""
    rows: int = 32
    """steps of every lane between updates"""
    epochs: int = 20
    """passes over these rows"""
    minibatch: int = 256
    """steps in one gradient"""
    lr: float = 1e-3
    """Adam's learning rate of the policy"""
    value_lr: float = 3e-3
    """the same of the value"""
    anneal: bool = True
    """let both rates and clip fall linearly to 0 over the run"""
    clip: float = 0.2
    """the ratio's gradient stops beyond 1 - clip and 1 + clip"""
    normalise: bool = True
    """give the advantages of an update mean 0 and variance 1"""
    entropy_weight: float = 0.0
    """reward for entropy"""
    max_norm: float = 0.5
    """longest gradient of either net"""
    hidden: tuple[int, ...] = (64, 64)
    """hidden layers of policy and value net"""

    def __post_init__(self) -> None:
        check(
            self,
            positive=("steps", "lanes", "rows", "epochs", "minibatch", "lr", "value_lr", "clip", "max_norm"),
            not_negative=("seed", "entropy_weight"),
        )


@blas_threads(1)
def train(config: Config, env: VectorEnv, run: Run | None = None) -> Agent:
    """Trains an agent on env, which has config.lanes lanes; run records it. A checkpoint is left however it ends."""
    if env.lanes != config.lanes:
        raise ValueError(f"env has {env.lanes} lanes, but config.lanes is {config.lanes}")
    run = Run(config, env) if run is None else run
    rng = np.random.default_rng(config.seed)
    agent = Agent(env.observation_size, env.action_space, config.hidden, rng)
    head, policy, value_net = agent.head, agent.policy, agent.value
    policy_adam, value_adam = Adam(policy.parameter, eps=1e-5), Adam(value_net.parameter, eps=1e-5)
    rollout = Rollout(env, agent, config.rows)
    run.begin(env, rng, rollout, agent, policy_adam=policy_adam, value_adam=value_adam)

    try:
        while run.steps < config.steps and not run.reached(config.stop_at):
            left = 1 - run.steps / config.steps if config.anneal else 1.0
            lr, clip = config.lr * left, config.clip * left

            collect(env, agent, rollout, rng)
            reward, ends = rollout.reward, (rollout.terminated, rollout.truncated)
            run.count(reward, ends[0] | ends[1])

            # Estimate. The next value is that of the state before any reset.
            value, next_value = agent.values(rollout.observation), agent.values(rollout.final)
            gamma, lambda_ = config.gamma, config.lambda_
            advantage = fastpg.psi(config.psi, reward, value, next_value, *ends, gamma, lambda_).ravel()
            target = fastpg.lambda_return(reward, next_value, *ends, gamma, lambda_).ravel()
            if config.normalise:
                advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)

            # Update.
            M = reward.size
            flat, taken = rollout.observation.reshape(M, -1), rollout.action.reshape(M, *head.action_shape)
            old = rollout.log_prob.ravel()
            sums, batches = np.zeros(6), 0
            for _ in range(config.epochs):
                order = rng.permutation(M)
                for start in range(0, M, config.minibatch):
                    i = order[start : start + config.minibatch]
                    x, a, A, weight = flat[i], taken[i], advantage[i], np.float32(1 / len(i))

                    # loss = -mean(min(ratio A, clip(ratio) A)) - entropy_weight mean(entropy)
                    z = policy.forward(x)
                    log_ratio = head.log_prob(z, policy.extra, a) - old[i]
                    ratio = np.exp(log_ratio)
                    clipped = np.where(A > 0, ratio > 1 + clip, ratio < 1 - clip)
                    surrogate = np.minimum(ratio * A, np.clip(ratio, 1 - clip, 1 + clip) * A)
                    entropy = head.entropy(z, policy.extra).mean()
                    # d loss / d log_prob = -ratio A / M where not clipped: d ratio / d log_prob = ratio
                    grad, grad_extra = head.log_prob_grad(z, policy.extra, a, np.where(clipped, 0, -ratio * A * weight))
                    if config.entropy_weight:
                        more = head.entropy_grad(z, policy.extra, np.full_like(A, -config.entropy_weight * weight))
                        grad, grad_extra = grad + more[0], grad_extra + more[1]
                    # loss = mean((v - target)^2) / 2
                    error = value_net.forward(x)[:, 0] - target[i]
                    batch = (-surrogate.mean(), 0.5 * (error * error).mean())
                    if not np.isfinite(batch).all():
                        raise FloatingPointError(
                            f"the loss is {batch} (policy, value) at step {run.steps}; lr is {lr:g}: try a smaller one"
                        )

                    policy_grad = policy.backward(x, grad, grad_extra)
                    value_grad = value_net.backward(x, error[:, None] * weight)
                    norm = clip_norm(policy_grad, config.max_norm)
                    clip_norm(value_grad, config.max_norm)
                    policy_adam.step(policy_grad, lr)
                    value_adam.step(value_grad, config.value_lr * left)
                    sums += (*batch, (ratio - 1 - log_ratio).mean(), clipped.mean(), norm, entropy)
                    batches += 1

            # Log.
            policy_loss, value_loss, approx_kl, clip_fraction, grad_norm, entropy = sums / batches
            run.log(
                policy_loss=policy_loss,
                value_loss=value_loss,
                entropy=entropy,
                approx_kl=approx_kl,
                clip_fraction=clip_fraction,
                grad_norm=grad_norm,
                lr=lr,
            )
    finally:
        run.save()
    return agent
