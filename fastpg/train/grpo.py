"""Group relative policy optimisation (Shao et al. 2024, arXiv:2402.03300): episodes from one start state, judged by their mean.

No critic. `groups` start states are drawn for an update, `group` lanes play one episode from each: they are reset with one seed, so an
environment's own chance is the same for all of them, and what differs are their actions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

import fastpg
from fastpg.envs import VectorEnv
from fastpg.nets import Adam, blas_threads, clip_norm
from fastpg.train.agent import Agent, AgentOptions
from fastpg.train.rollout import Rollout, collect
from fastpg.train.run import Run, check

__all__ = ["Config", "train"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Config(AgentOptions):
    """Options of GRPO."""

    seed: int = 0
    """of initial weights, environment and actions"""
    steps: int = 300_000
    """environment steps, all lanes together"""
    stop_at: float | None = None
    """stop early once the last 100 training episodes have this mean return"""
    psi: Literal["total_return", "reward_to_go"] = "total_return"
    """what is compared in a group: returns of episodes, or what followed step t with the others that still played then"""
    kind: Literal["grpo", "dr_grpo", "rloo", "loo_std", "gpg", "reinforce_pp_baseline"] = "grpo"
    """how: see fastpg.group_advantage"""
    gamma: float = 1.0
    """discount"""
    lambda_: float = 1.0
    """not used: there is no critic"""
    lanes: int = 64
    """environments side by side, of which `group` share a start state"""
    group: int = 8
    """episodes from one start state"""
    rows: int = 32
    """steps of every lane before it is asked whether all episodes are over"""
    longest: int = 1000
    """steps after which an unfinished episode is cut; it is worth what it earned so far"""
    epochs: int = 8
    """passes over these episodes"""
    minibatches: int = 8
    """gradients in a pass, each of as many whole episodes"""
    aggregate: Literal["token_mean", "seq_mean_token_mean", "seq_mean_token_sum"] = "token_mean"
    """every step counts the same, or every episode, by the mean or the sum of its steps; see fastpg.policy_loss"""
    lr: float = 5e-3
    """Adam's learning rate"""
    lr_schedule: Literal["constant", "linear"] = "linear"
    """linear: it falls to 0 over the run"""
    clip: float = 0.2
    """the ratio's gradient stops beyond 1 - clip and 1 + clip"""
    clip_schedule: Literal["constant", "linear"] = "constant"
    """linear: clip falls to 0 over the run"""
    dual_clip: float | None = None
    """where the advantage is negative, the loss is at most this many times its size (Ye et al. 2020)"""
    target_kl: float | None = None
    """end an update once KL(old || new) of a minibatch is above this"""
    entropy_weight: float = 0.0
    """reward for entropy"""
    entropy_schedule: Literal["constant", "linear"] = "constant"
    """linear: entropy_weight falls to 0 over the run"""
    max_norm: float = 0.5
    """longest gradient"""

    def __post_init__(self) -> None:
        check(
            self,
            positive=(
                *("steps", "lanes", "group", "rows", "longest", "epochs", "minibatches", "lr", "clip", "target_kl"),
                "max_norm",
            ),
            not_negative=("seed", "entropy_weight"),
        )
        if self.dual_clip is not None and not self.dual_clip > 1:
            raise ValueError(f"dual_clip is {self.dual_clip}; wanted a number above 1")
        if self.group < 2 or self.lanes % self.group:
            raise ValueError(f"group is {self.group}; wanted 2 or more that divide lanes ({self.lanes})")
        if self.minibatches > self.lanes:
            raise ValueError(f"minibatches is {self.minibatches}; wanted at most one for each of {self.lanes} lanes")
        if self.shared_trunk:
            raise ValueError("shared_trunk is True; GRPO has no critic to share it with: wanted False")


@blas_threads(1)
def train(config: Config, env: VectorEnv, run: Run | None = None, agent: Agent | None = None) -> Agent:
    """Trains an agent, its own or a new one, on env, which has config.lanes lanes; run records it. A checkpoint is left however it ends."""
    if env.lanes != config.lanes:
        raise ValueError(f"env has {env.lanes} lanes, but config.lanes is {config.lanes}")
    run = Run(config, env) if run is None else run
    rng = np.random.default_rng(config.seed)
    agent = Agent.made_for(env, config, rng, critic=False) if agent is None else agent
    head, policy = agent.head, agent.policy
    adam = Adam(policy.parameter, eps=1e-5)
    rollout = Rollout(env, agent, config.rows)
    run.begin(env, rng, rollout, agent, policy_adam=adam)
    group_of = np.arange(config.lanes) // config.group

    try:
        while run.steps < config.steps and not run.reached(config.stop_at):
            left = {"constant": 1.0, "linear": 1 - run.steps / config.steps}
            lr, clip = config.lr * left[config.lr_schedule], config.clip * left[config.clip_schedule]
            entropy_weight = config.entropy_weight * left[config.entropy_schedule]

            # Collect: one episode of every lane, those of a group from one seed. `rows` steps at a time, until all have ended.
            seeds = rng.integers(2**31, size=config.lanes // config.group)
            rollout.current[...] = env.reset(seed=seeds[group_of].tolist())[0]
            run.restart()
            parts: list[tuple[Array, ...]] = []
            over, T = np.zeros(config.lanes, np.bool_), 0
            while not over.all() and T < config.longest:
                collect(env, agent, rollout, rng)
                ended = rollout.terminated | rollout.truncated
                past = np.logical_or.accumulate(np.vstack([over, ended]))  # whether the episode was over before step t
                run.count(rollout.reward, ended & ~past[:-1])
                fields = rollout.observation, rollout.action, rollout.log_prob, rollout.reward, ended, ~past[:-1]
                parts.append(tuple(field.copy() for field in fields))
                over, T = past[-1], T + config.rows
            observation, action, old, reward, ended, keep = (
                np.concatenate(field)[: config.longest] for field in zip(*parts, strict=True)
            )

            # Estimate, with the episodes packed one behind the other.
            T, length = len(keep), keep.sum(axis=0)
            offsets = np.concatenate([[0], np.cumsum(length)])
            to_go = fastpg.reward_to_go(reward, np.zeros_like(reward), ended, np.zeros_like(ended), config.gamma)
            if config.psi == "total_return":
                advantage = np.repeat(fastpg.group_advantage(to_go[0], group_of, config.kind), length)
            else:
                key = group_of[:, None] * T + np.arange(T)
                advantage = fastpg.group_advantage(to_go.T[keep.T], key[keep.T], config.kind)
            seen, taken, old = (np.swapaxes(field, 0, 1)[keep.T] for field in (observation, action, old))
            seen = agent.see(seen)

            # Update: loss = -mean(min(ratio A, clip(ratio) A)) - entropy_weight mean(entropy).
            sums, batches, stop = np.zeros(4), 0, False
            for _ in range(config.epochs):
                for lanes in np.array_split(rng.permutation(config.lanes), config.minibatches):
                    i = np.concatenate([np.arange(offsets[n], offsets[n + 1]) for n in lanes])
                    x, a = seen[i], taken[i]
                    z, extra = policy.forward(x), policy.extra.copy()
                    loss, by_log_prob, stats = fastpg.policy_loss(
                        "ppo",
                        head.log_prob(z, policy.extra, a),
                        old[i],
                        advantage[i],
                        offsets=np.concatenate([[0], np.cumsum(length[lanes])]),
                        aggregate=config.aggregate,
                        clip_low=clip,
                        clip_high=clip,
                        dual_clip=config.dual_clip,
                        log_ratio_bound=None,
                    )
                    stop = config.target_kl is not None and stats["approx_kl_k3"] > config.target_kl
                    if stop:
                        break
                    by_z, by_extra = head.log_prob_grad(z, policy.extra, a, by_log_prob)
                    if entropy_weight:
                        more = head.entropy_grad(z, policy.extra, np.full_like(old[i], -entropy_weight / len(i)))
                        by_z, by_extra = by_z + more[0], by_extra + more[1]
                    grad = policy.backward(x, by_z, by_extra)
                    norm = clip_norm(grad, config.max_norm)
                    if not np.isfinite((loss, norm)).all():
                        raise FloatingPointError(
                            f"the loss is {loss} at step {run.steps}, the length of its gradient {norm}; "
                            f"lr is {lr:g}: try a smaller one"
                        )
                    adam.step(grad, lr)
                    clipped = stats["clip_fraction_low"] + stats["clip_fraction_high"]
                    sums += loss, stats["approx_kl_k3"], clipped, norm
                    batches += 1
                if stop:
                    break

            # Log.
            entropy = head.entropy(z, extra).mean()  # of the last minibatch
            if agent.normaliser is not None:
                agent.normaliser.update(observation[keep])
            policy_loss, approx_kl, clip_fraction, grad_norm = sums / max(batches, 1)
            run.log(
                policy_loss=policy_loss,
                entropy=entropy,
                approx_kl=approx_kl,
                clip_fraction=clip_fraction,
                grad_norm=grad_norm,
                length=length.mean(),
                lr=lr,
            )
    finally:
        run.save()
    return agent
