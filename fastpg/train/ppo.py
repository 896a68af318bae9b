"""Proximal policy optimisation (Schulman et al. 2017, arXiv:1707.06347) with any of the six Psi, or V-trace, as its advantage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

import fastpg
from fastpg.envs import VectorEnv
from fastpg.nets import Adam, blas_threads, clip_norm
from fastpg.train.agent import Agent, AgentOptions, RewardScale
from fastpg.train.ppo_epoch import PPOEpoch
from fastpg.train.rollout import Rollout, collect, values
from fastpg.train.run import Run, check

__all__ = ["Config", "train"]


@dataclass(frozen=True)
class Config(AgentOptions):
    """Options of PPO."""

    seed: int = 0
    """of initial weights, environment and actions"""
    steps: int = 100_000
    """environment steps, all lanes together"""
    stop_at: float | None = None
    """stop early once the last 100 training episodes have this mean return"""
    psi: Literal["total_return", "reward_to_go", "baselined", "q", "gae", "td_residual", "vtrace"] = "gae"
    """how good an action was: the advantage in the clipped objective; vtrace estimates it anew in every epoch"""
    gamma: float = 0.99
    """discount"""
    lambda_: float = 0.95
    """trace decay of gae, q and vtrace, and of the value target"""
    lanes: int = 8
    """environments side by side"""
    rows: int = 128
    """steps of every lane between updates"""
    epochs: int = 10
    """passes over these rows"""
    minibatch: int = 128
    """steps in one gradient"""
    lr: float = 1e-3
    """Adam's learning rate of the policy, and of a shared trunk"""
    value_lr: float = 3e-3
    """the same of a value net of its own"""
    lr_schedule: Literal["constant", "linear"] = "linear"
    """linear: both rates fall to 0 over the run"""
    clip: float = 0.2
    """the ratio's gradient stops beyond 1 - clip and 1 + clip"""
    clip_schedule: Literal["constant", "linear"] = "linear"
    """linear: clip falls to 0 over the run"""
    dual_clip: float | None = None
    """where the advantage is negative, the loss is at most this many times its size (Ye et al. 2020)"""
    target_kl: float | None = None
    """end an update once KL(old || new) of a minibatch is above this"""
    value_clip: float | None = None
    """how far an update may move a value before its gradient stops"""
    huber: float | None = None
    """errors of the value beyond this count linearly"""
    value_weight: float = 0.5
    """of the value loss where the trunk is shared"""
    entropy_weight: float = 0.0
    """reward for entropy"""
    entropy_schedule: Literal["constant", "linear"] = "constant"
    """linear: entropy_weight falls to 0 over the run"""
    normalise_advantage: Literal["none", "batch", "minibatch"] = "batch"
    """give advantages mean 0 and variance 1, over an update or a minibatch"""
    normalise_reward: bool = False
    """divide rewards by the running standard deviation of their discounted return, held to 10"""
    max_norm: float = 0.5
    """longest gradient of a net"""

    def __post_init__(self) -> None:
        check(
            self,
            positive=(
                *("steps", "lanes", "rows", "epochs", "minibatch", "lr", "value_lr", "clip", "target_kl", "value_clip"),
                *("huber", "value_weight", "max_norm"),
            ),
            not_negative=("seed", "entropy_weight"),
        )
        if self.dual_clip is not None and not self.dual_clip > 1:
            raise ValueError(f"dual_clip is {self.dual_clip}; wanted a number above 1")


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
    plain = (config.dual_clip, config.value_clip, config.huber) == (None, None, None)
    plain &= config.normalise_advantage != "minibatch"
    minibatch = min(config.minibatch, M)
    compiled = None
    if plain and PPOEpoch.serves(agent, adam):  # the same, several times as fast
        compiled = PPOEpoch(agent, adam, minibatch)
    huber: dict[str, Any] = {} if config.huber is None else {"kind": "huber", "delta": config.huber}
    try:
        while run.steps < config.steps and not run.reached(config.stop_at):
            left = {"constant": 1.0, "linear": 1 - run.steps / config.steps}
            lr, clip = config.lr * left[config.lr_schedule], config.clip * left[config.clip_schedule]
            rate = {"policy": lr, "trunk": lr, "value": config.value_lr * left[config.lr_schedule]}
            entropy_weight = config.entropy_weight * left[config.entropy_schedule]

            collect(env, agent, rollout, rng)
            ends = rollout.terminated, rollout.truncated
            run.count(rollout.reward, ends[0] | ends[1])
            reward = scale(rollout.reward, *ends) if config.normalise_reward else rollout.reward
            seen, taken = agent.see(rollout.observation.reshape(M, -1)), rollout.action.reshape(M, *head.action_shape)
            old = rollout.log_prob.ravel()

            sums, batches, stop = np.zeros(5), 0, False
            for epoch in range(config.epochs):
                # Estimate. The next value is that of the state before any reset.
                if epoch == 0 or config.psi == "vtrace":
                    value, next_value = values(agent, rollout)
                    if epoch == 0:
                        old_value = value.ravel()
                    if config.psi == "vtrace":
                        now = head.log_prob(policy.forward(seen), policy.extra, taken)
                        ratio = np.maximum(now - old, -80).reshape(reward.shape)  # its exp is above 0 in float32
                        target, advantage = fastpg.vtrace(reward, value, next_value, ratio, *ends, gamma, lambda_)
                        advantage /= np.exp(np.minimum(ratio, 0))  # the objective multiplies by the ratio itself
                    else:
                        advantage = fastpg.psi(config.psi, reward, value, next_value, *ends, gamma, lambda_)
                        target = fastpg.lambda_return(reward, next_value, *ends, gamma, lambda_)
                    if config.normalise_advantage == "batch":
                        advantage = fastpg.whiten(advantage)
                    advantage, target = advantage.ravel(), target.ravel()

                # Update: loss = -mean(min(ratio A, clip(ratio) A)) - entropy_weight mean(entropy) + value_weight mean((v - target)^2) / 2
                order = rng.permutation(M)
                for start in range(0, M, M if compiled else minibatch):
                    if compiled:
                        batch, rates = (order, seen, taken, old, advantage, target), (rate["policy"], rate["value"])
                        limits = config.max_norm, config.target_kl
                        total, last, steps = compiled(*batch, rates, clip, entropy_weight, *limits)
                        policy_loss, value_loss, kl, clipped, *norms, entropy = last
                        sums += total[:5]
                        batches += steps
                    else:
                        i = order[start : start + minibatch]
                        x, a, A = seen[i], taken[i], advantage[i]
                        if config.normalise_advantage == "minibatch":
                            A = fastpg.whiten(A)
                        (z, v), extra = agent.forward(x), policy.extra.copy()
                        log_prob = head.log_prob(z, policy.extra, a)
                        policy_loss, by_log_prob, stats = fastpg.policy_loss(
                            *("ppo", log_prob, old[i], A),
                            clip_low=clip,
                            clip_high=clip,
                            dual_clip=config.dual_clip,
                            log_ratio_bound=None,
                        )
                        before = None if config.value_clip is None else old_value[i]
                        value_loss, by_value = fastpg.value_loss(v, target[i], before, clip=config.value_clip, **huber)
                        by_z, by_extra = head.log_prob_grad(z, policy.extra, a, by_log_prob)
                        if entropy_weight:
                            more = head.entropy_grad(z, policy.extra, np.full_like(A, -entropy_weight / len(i)))
                            by_z, by_extra = by_z + more[0], by_extra + more[1]
                        grads = agent.backward(x, by_z, by_extra, by_value * value_weight)
                        kl, clipped = stats["approx_kl_k3"], stats["clip_fraction_low"] + stats["clip_fraction_high"]
                        norms = [clip_norm(grad, config.max_norm) for grad in grads.values()]
                    stop = config.target_kl is not None and kl > config.target_kl
                    if stop:
                        break
                    if not np.isfinite((policy_loss, value_loss, *norms)).all():
                        raise FloatingPointError(
                            f"the loss is {policy_loss} (policy), {value_loss} (value) at step {run.steps}, the length of its "
                            f"gradient {norms}; lr is {lr:g}: try a smaller one"
                        )
                    if not compiled:
                        for name, grad in grads.items():
                            adam[name].step(grad, rate[name])
                        sums += policy_loss, value_loss, kl, clipped, norms[0]  # that of the policy or the trunk
                        batches += 1
                if stop:
                    break

            # Log.
            if agent.normaliser is not None:
                agent.normaliser.update(rollout.observation)
            policy_loss, value_loss, approx_kl, clip_fraction, grad_norm = sums / max(batches, 1)
            if not compiled:
                entropy = head.entropy(z, extra).mean()
            run.log(
                policy_loss=policy_loss,
                value_loss=value_loss,
                explained_variance=fastpg.explained_variance(old_value, target),
                entropy=entropy,  # of the last minibatch
                approx_kl=approx_kl,
                clip_fraction=clip_fraction,
                grad_norm=grad_norm,
                gradients=batches,
                lr=lr,
            )
    finally:
        run.save()
    return agent
