"""REINFORCE (Williams 1992): one step along the gradient of mean(log pi(a|s) Psi) for each batch of whole episodes."""

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
    agent = Agent(env.observation_size, env.actions, config.hidden, rng)
    policy_adam, value_adam = Adam(agent.policy.parameter), Adam(agent.value.parameter)

    shape = (config.longest, config.lanes)
    observation = np.empty((*shape, env.observation_size), np.float32)
    final = np.empty_like(observation)
    action = np.empty(shape, np.int64)
    reward = np.empty(shape, np.float32)
    terminated, truncated, playing = np.empty((3, *shape), np.bool_)
    env.reset(seed=int(rng.integers(2**31)))

    try:
        while run.steps < config.steps and not run.reached(config.stop_at):
            left = 1 - run.steps / config.steps if config.anneal else 1.0

            # Collect: every lane plays whole episodes until `rows` steps, then finishes the one it is in.
            current, _ = env.reset()
            run.restart()
            alive, T = np.ones(config.lanes, np.bool_), 0
            while alive.any() and T < config.longest:
                observation[T], playing[T] = current, alive
                action[T] = categorical.sample(agent.policy.forward(current), rng)
                current, reward[T], terminated[T], truncated[T], info = env.step(action[T])
                final[T] = info["final_obs"]
                ended = terminated[T] | truncated[T]
                run.count(reward[T], ended & alive)
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
            z = agent.policy.forward(x)
            policy_loss = -np.mean(categorical.log_prob(z, a) * weight)
            entropy = categorical.entropy(z).mean()
            grad = categorical.log_prob_grad(z, a, -weight / M)
            if config.entropy_weight:
                grad += categorical.entropy_grad(z, np.full(M, -config.entropy_weight / M, np.float32))
            value_loss = np.mean((value[keep] - target) ** 2) / 2
            if not np.isfinite((policy_loss, value_loss)).all():
                raise FloatingPointError(
                    f"the loss is {policy_loss} (policy), {value_loss} (value) at step {run.steps}; "
                    f"lr is {config.lr * left:g}, value_lr {config.value_lr * left:g}: try smaller ones"
                )
            policy_grad = agent.policy.backward(x, grad)
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
                agent,
                policy_loss=policy_loss,
                value_loss=value_loss,
                entropy=entropy,
                grad_norm=grad_norm,
                lr=config.lr * left,
            )
    finally:
        run.save(agent)
    return agent
