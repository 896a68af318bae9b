"""Proximal policy optimisation (Schulman et al. 2017, arXiv:1707.06347) with any of the six Psi as its advantage."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import fastpg
from fastpg import categorical
from fastpg.envs import VectorEnv
from fastpg.nets import Adam, blas_threads, clip_norm
from fastpg.train.run import Agent, Psi, Run, check

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
    agent = Agent(env.observation_size, env.actions, config.hidden, rng)
    policy_adam, value_adam = Adam(agent.policy.parameter, eps=1e-5), Adam(agent.value.parameter, eps=1e-5)

    T, N = config.rows, config.lanes
    observation = np.empty((T, N, env.observation_size), np.float32)
    final = np.empty_like(observation)
    logits = np.empty((T, N, env.actions), np.float32)
    action = np.empty((T, N), np.int64)
    reward = np.empty((T, N), np.float32)
    terminated, truncated = np.empty((2, T, N), np.bool_)
    current, _ = env.reset(seed=int(rng.integers(2**31)))

    try:
        while run.steps < config.steps and not run.reached(config.stop_at):
            left = 1 - run.steps / config.steps if config.anneal else 1.0
            lr, clip = config.lr * left, config.clip * left

            # Collect.
            for t in range(T):
                observation[t] = current
                logits[t] = agent.policy.forward(current)
                action[t] = categorical.sample(logits[t], rng)
                current, reward[t], terminated[t], truncated[t], info = env.step(action[t])
                final[t] = info["final_obs"]
                run.count(reward[t], terminated[t] | truncated[t])

            # Estimate. The next value is that of the state before any reset.
            value, next_value = agent.values(observation), agent.values(final)
            gamma, lambda_ = config.gamma, config.lambda_
            advantage = fastpg.psi(config.psi, reward, value, next_value, terminated, truncated, gamma, lambda_).ravel()
            target = fastpg.lambda_return(reward, next_value, terminated, truncated, gamma, lambda_).ravel()
            if config.normalise:
                advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)

            # Update.
            flat, taken = observation.reshape(T * N, -1), action.ravel()
            old = categorical.log_prob(logits.reshape(T * N, -1), taken)
            sums, batches = np.zeros(5), 0
            for _ in range(config.epochs):
                order = rng.permutation(T * N)
                for start in range(0, T * N, config.minibatch):
                    i = order[start : start + config.minibatch]
                    x, a, A, M = flat[i], taken[i], advantage[i], len(i)

                    # loss = -mean(min(ratio A, clip(ratio) A)) - entropy_weight mean(entropy)
                    z = agent.policy.forward(x)
                    log_ratio = categorical.log_prob(z, a) - old[i]
                    ratio = np.exp(log_ratio)
                    clipped = np.where(A > 0, ratio > 1 + clip, ratio < 1 - clip)
                    surrogate = np.minimum(ratio * A, np.clip(ratio, 1 - clip, 1 + clip) * A)
                    # d loss / d log_prob = -ratio A / M where not clipped: d ratio / d log_prob = ratio
                    grad = categorical.log_prob_grad(z, a, np.where(clipped, 0, -ratio * A / M))
                    if config.entropy_weight:
                        weight = np.full(M, -config.entropy_weight / M, np.float32)
                        grad += categorical.entropy_grad(z, weight)
                    # loss = mean((v - target)^2) / 2
                    error = agent.value.forward(x)[:, 0] - target[i]
                    batch = (-surrogate.mean(), 0.5 * (error * error).mean())
                    if not np.isfinite(batch).all():
                        raise FloatingPointError(
                            f"the loss is {batch} (policy, value) at step {run.steps}; lr is {lr:g}: try a smaller one"
                        )

                    policy_grad = agent.policy.backward(x, grad)
                    value_grad = agent.value.backward(x, error[:, None] / M)
                    norm = clip_norm(policy_grad, config.max_norm)
                    clip_norm(value_grad, config.max_norm)
                    policy_adam.step(policy_grad, lr)
                    value_adam.step(value_grad, config.value_lr * left)
                    sums += (*batch, (ratio - 1 - log_ratio).mean(), clipped.mean(), norm)
                    batches += 1

            # Log.
            policy_loss, value_loss, approx_kl, clip_fraction, grad_norm = sums / batches
            entropy = categorical.entropy(logits.reshape(T * N, -1)).mean()
            run.log(
                agent,
                policy_loss=policy_loss,
                value_loss=value_loss,
                entropy=entropy,
                approx_kl=approx_kl,
                clip_fraction=clip_fraction,
                grad_norm=grad_norm,
                lr=lr,
            )
    finally:
        run.save(agent)
    return agent
