"""REINFORCE (Williams 1992): one step along the gradient of mean(log pi(a|s) Psi) for each batch of whole episodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

import fastpg
from fastpg.envs import VectorEnv
from fastpg.nets import Adam, blas_threads, clip_norm
from fastpg.train.agent import Agent, AgentOptions, RewardScale
from fastpg.train.run import Psi, Run, check

__all__ = ["Config", "train"]


@dataclass(frozen=True)
class Config(AgentOptions):
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
    critic: bool = True
    """learn a value function; without one psi is total_return or reward_to_go, and a cut episode is worth nothing more"""
    lr: float = 5e-3
    """Adam's learning rate of the policy"""
    value_lr: float = 5e-3
    """Adam's learning rate of the value"""
    value_epochs: int = 10
    """gradient steps of the value for one of the policy"""
    lr_schedule: Literal["constant", "linear"] = "linear"
    """linear: both learning rates fall to 0 over the run"""
    huber: float | None = None
    """errors of the value beyond this count linearly"""
    entropy_weight: float = 0.0
    """reward for entropy"""
    entropy_schedule: Literal["constant", "linear"] = "constant"
    """linear: entropy_weight falls to 0 over the run"""
    normalise_advantage: bool = True
    """give the Psi of an update mean 0 and variance 1"""
    normalise_reward: bool = False
    """divide rewards by the running standard deviation of their discounted return, held to 10"""
    max_norm: float = 0.5
    """longest gradient of a net"""

    def __post_init__(self) -> None:
        check(
            self,
            positive=("steps", "lanes", "rows", "longest", "lr", "value_lr", "huber", "max_norm"),
            not_negative=("seed", "entropy_weight", "value_epochs"),
        )
        if self.longest < self.rows:
            raise ValueError(f"longest is {self.longest}; wanted rows ({self.rows}) or more")
        if self.shared_trunk:
            raise ValueError("shared_trunk is True; REINFORCE moves policy and value apart: wanted False")
        if not self.critic and self.psi not in ("total_return", "reward_to_go"):
            raise ValueError(
                f"psi is {self.psi!r}, which needs a critic; wanted total_return or reward_to_go without one"
            )


@blas_threads(1)
def train(config: Config, env: VectorEnv, run: Run | None = None, agent: Agent | None = None) -> Agent:
    """Trains an agent, its own or a new one, on env, which has config.lanes lanes; run records it. A checkpoint is left however it ends."""
    if env.lanes != config.lanes:
        raise ValueError(f"env has {env.lanes} lanes, but config.lanes is {config.lanes}")
    run = Run(config, env) if run is None else run
    rng = np.random.default_rng(config.seed)
    agent = Agent.made_for(env, config, rng, critic=config.critic) if agent is None else agent
    head, policy = agent.head, agent.policy
    adam = {name: Adam(net.parameter) for name, net in agent.nets.items()}
    scale = RewardScale(config.lanes, config.gamma)
    huber: dict[str, Any] = {} if config.huber is None else {"kind": "huber", "delta": config.huber}

    shape = (config.longest, config.lanes)
    observation = np.empty((*shape, env.observation_size), np.float32)
    final = np.empty_like(observation)
    action: NDArray[Any] = np.empty((*shape, *head.action_shape), head.action_dtype)
    reward = np.empty(shape, np.float32)
    terminated, truncated, playing = np.empty((3, *shape), np.bool_)
    run.begin(env, rng, None, agent, reward_scale=scale, **{f"{name}_adam": part for name, part in adam.items()})

    try:
        while run.steps < config.steps and not run.reached(config.stop_at):
            left = {"constant": 1.0, "linear": 1 - run.steps / config.steps}
            lr, value_lr = (rate * left[config.lr_schedule] for rate in (config.lr, config.value_lr))
            entropy_weight = config.entropy_weight * left[config.entropy_schedule]

            # Collect: every lane plays whole episodes until `rows` steps, then finishes the one it is in.
            current, _ = env.reset()
            run.restart()
            scale.restart()
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
            ends, keep = (terminated[:T], truncated[:T]), playing[:T]
            r = scale(reward[:T], *ends) if config.normalise_reward else reward[:T]
            weight = fastpg.psi(config.psi, r, value, next_value, *ends, config.gamma, config.lambda_)[keep]
            target = fastpg.reward_to_go(r, next_value, *ends, config.gamma)[keep]
            if config.normalise_advantage:
                weight = fastpg.whiten(weight)

            # Update the policy: loss = -mean(log_prob Psi) - entropy_weight mean(entropy).
            x, a = agent.see(observation[:T][keep]), action[:T][keep]
            z = policy.forward(x)
            policy_loss, by_log_prob, _ = fastpg.policy_loss(
                "reinforce", head.log_prob(z, policy.extra, a), None, weight
            )
            entropy = head.entropy(z, policy.extra).mean()
            by_z, by_extra = head.log_prob_grad(z, policy.extra, a, by_log_prob)
            if entropy_weight:
                more = head.entropy_grad(z, policy.extra, np.full_like(weight, -entropy_weight / len(x)))
                by_z, by_extra = by_z + more[0], by_extra + more[1]
            value_loss, _ = fastpg.value_loss(value[keep], target, **huber)
            if not np.isfinite((policy_loss, value_loss)).all():
                raise FloatingPointError(
                    f"the loss is {policy_loss} (policy), {value_loss} (value) at step {run.steps}; "
                    f"lr is {lr:g}, value_lr {value_lr:g}: try smaller ones"
                )
            grad = policy.backward(x, by_z, by_extra)
            grad_norm = clip_norm(grad, config.max_norm)
            adam["policy"].step(grad, lr)

            # Update the value: loss = mean((v - target)^2) / 2.
            for _ in range(config.value_epochs if "value" in agent.nets else 0):
                _, by_value = fastpg.value_loss(agent.value.forward(x)[:, 0], target, **huber)
                grad = agent.value.backward(x, by_value[:, None])
                clip_norm(grad, config.max_norm)
                adam["value"].step(grad, value_lr)

            # Log.
            of_value = {"value_loss": value_loss, "explained_variance": fastpg.explained_variance(value[keep], target)}
            of_value = of_value if "value" in agent.nets else {}
            if agent.normaliser is not None:
                agent.normaliser.update(observation[:T][keep])
            run.log(
                policy_loss=policy_loss,
                entropy=entropy,
                grad_norm=grad_norm,
                lr=lr,
                **of_value,
            )
    finally:
        run.save()
    return agent
