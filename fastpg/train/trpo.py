"""Trust region policy optimisation (Schulman et al. 2015, arXiv:1502.05477) with any of the six Psi as its advantage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

import fastpg
from fastpg.envs import VectorEnv
from fastpg.natural import TrustRegionStep, fisher_vector_product, trust_region_step
from fastpg.nets import MLP, Adam, blas_threads, clip_norm
from fastpg.train.agent import Agent, AgentOptions, Net, RewardScale
from fastpg.train.rollout import Rollout, collect
from fastpg.train.run import Psi, Run, check

__all__ = ["Config", "improve", "linearized", "train"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Config(AgentOptions):
    """Options of TRPO."""

    seed: int = 0
    """of initial weights, environment and actions"""
    steps: int = 200_000
    """environment steps, all lanes together"""
    stop_at: float | None = None
    """stop early once the last 100 training episodes have this mean return"""
    psi: Psi = "gae"
    """how good an action was: the advantage in the surrogate"""
    gamma: float = 0.99
    """discount"""
    lambda_: float = 0.95
    """trace decay of gae and q, and of the value target"""
    lanes: int = 8
    """environments side by side"""
    rows: int = 128
    """steps of every lane between updates"""
    max_kl: float = 0.01
    """how far an update may move the policy: KL(old || new), the mean over these steps"""
    kl_schedule: Literal["constant", "linear"] = "constant"
    """linear: max_kl falls to 0 over the run"""
    damping: float = 0.1
    """added to the Fisher information"""
    iterations: int = 10
    """of conjugate gradients"""
    backtracks: int = 10
    """how often a step that is too long may be shortened"""
    shrink: float = 0.8
    """what is left of it each time"""
    fisher_rows: int | None = None
    """steps in a Fisher-vector product, evenly spaced; None: all"""
    value_epochs: int = 10
    """passes of the value over the rows"""
    minibatch: int = 128
    """steps in one gradient of the value"""
    value_lr: float = 1e-3
    """Adam's learning rate of the value"""
    lr_schedule: Literal["constant", "linear"] = "constant"
    """linear: it falls to 0 over the run"""
    huber: float | None = None
    """errors of the value beyond this count linearly"""
    entropy_weight: float = 0.0
    """reward for entropy, in the surrogate"""
    normalise_advantage: bool = True
    """give the advantages of an update mean 0 and variance 1"""
    normalise_reward: bool = False
    """divide rewards by the running standard deviation of their discounted return, held to 10"""
    max_norm: float = 0.5
    """longest gradient of the value net"""

    def __post_init__(self) -> None:
        check(
            self,
            positive=(
                *("steps", "lanes", "rows", "max_kl", "iterations", "shrink", "fisher_rows", "minibatch", "value_lr"),
                *("huber", "max_norm"),
            ),
            not_negative=("seed", "damping", "backtracks", "value_epochs", "entropy_weight"),
        )
        if not self.shrink < 1:
            raise ValueError(f"shrink is {self.shrink}; wanted a number between 0 and 1")
        if self.shared_trunk:
            raise ValueError("shared_trunk is True; TRPO moves the policy's parameters alone: wanted False")


def linearized(policy: Net, x: Array) -> Callable[[Array], Array]:
    """v -> J v: how fast z at x changes as the policy's parameters move along v; exact by net.linearize, where the net has it.

    Without, it is (z(theta + h v) - z(theta - h v)) / (2 h) with |h v| = 1e-2. For nets of 64 units in float32 that is within 2e-4 of the
    exact product where they are of tanh and observations around 1, within 2e-2 where they are of relu (measured); what conjugate
    gradients make of it, the line search holds to the bound.
    """
    linearize: Callable[[Array], Callable[[Array], Array]] | None = getattr(policy, "linearize", None)
    kind: Any = type(policy)
    if isinstance(policy, MLP) and kind.linearize is MLP.linearize and kind.forward is not MLP.forward:
        linearize = None  # inherited, and not of the forward that it has
    if linearize is not None:
        return linearize(x)

    def change(vector: Array) -> Array:
        theta, length = policy.parameter.copy(), float(np.linalg.norm(vector))
        h = 1e-2 / length if length else 1.0
        ends = []
        for step in (h, -h):
            policy.parameter[...] = theta + np.float32(step) * vector
            ends.append(policy.forward(x).copy())
        policy.parameter[...] = theta
        return (ends[0] - ends[1]) / np.float32(2 * h)

    return change


def improve(agent: Agent, config: Config, x: Array, a: Array, advantage: Array, max_kl: float) -> TrustRegionStep:
    """Moves the policy: loss = -mean(ratio A) - entropy_weight mean(entropy) falls within KL(old || new) <= max_kl, or nothing moves."""
    head, policy, M = agent.head, agent.policy, len(x)
    old_z, old_extra, theta = policy.forward(x).copy(), policy.extra.copy(), policy.parameter.copy()
    old = head.log_prob(old_z, old_extra, a)

    _, by_log_prob, _ = fastpg.policy_loss("reinforce", old, None, advantage)  # the same gradient where the ratio is 1
    by_z, by_extra = head.log_prob_grad(old_z, old_extra, a, by_log_prob)
    if config.entropy_weight:
        more = head.entropy_grad(old_z, old_extra, np.full(M, -config.entropy_weight / M, np.float32))
        by_z, by_extra = by_z + more[0], by_extra + more[1]
    grad = policy.backward(x, by_z, by_extra).copy()

    count = min(config.fisher_rows or M, M)
    some = np.arange(count) * M // count
    seen, z = x[some], old_z[some]
    weight = np.full(len(seen), 1 / len(seen), np.float32)

    change, first_extra = linearized(policy, seen), len(theta) - len(old_extra)

    def back(by_z: Array, by_extra: Array) -> Array:
        policy.forward(seen)
        return policy.backward(seen, by_z, by_extra)

    def evaluate(parameter: Array) -> tuple[float, float]:
        policy.parameter[...] = parameter
        z, extra = policy.forward(x), policy.extra
        gain = np.exp(head.log_prob(z, extra, a) - old) @ advantage / M
        bonus = config.entropy_weight * head.entropy(z, extra).mean() if config.entropy_weight else 0.0
        return -float(gain + bonus), float(head.kl(old_z, old_extra, z, extra).mean())

    step = trust_region_step(
        theta,
        grad,
        fisher_vector_product(
            lambda v: (change(v), v[first_extra:]),
            lambda dz, dextra: head.fisher(z, old_extra, dz, dextra, weight),
            back,
        ),
        evaluate,
        max_kl=max_kl,
        damping=config.damping,
        iterations=config.iterations,
        backtracks=config.backtracks,
        shrink=config.shrink,
    )
    policy.parameter[...] = step.parameters
    return step


@blas_threads(1)
def train(config: Config, env: VectorEnv, run: Run | None = None, agent: Agent | None = None) -> Agent:
    """Trains an agent, its own or a new one, on env, which has config.lanes lanes; run records it. A checkpoint is left however it ends."""
    if env.lanes != config.lanes:
        raise ValueError(f"env has {env.lanes} lanes, but config.lanes is {config.lanes}")
    run = Run(config, env) if run is None else run
    rng = np.random.default_rng(config.seed)
    agent = Agent.made_for(env, config, rng) if agent is None else agent
    head, policy, value_net = agent.head, agent.policy, agent.value
    value_adam = Adam(value_net.parameter, eps=1e-5)
    scale = RewardScale(config.lanes, config.gamma)
    rollout = Rollout(env, agent, config.rows)
    run.begin(env, rng, rollout, agent, reward_scale=scale, value_adam=value_adam)

    gamma, lambda_, M = config.gamma, config.lambda_, config.rows * config.lanes
    huber: dict[str, Any] = {} if config.huber is None else {"kind": "huber", "delta": config.huber}
    try:
        while run.steps < config.steps and not run.reached(config.stop_at):
            left = {"constant": 1.0, "linear": 1 - run.steps / config.steps}
            value_lr, max_kl = config.value_lr * left[config.lr_schedule], config.max_kl * left[config.kl_schedule]

            collect(env, agent, rollout, rng)
            ends = rollout.terminated, rollout.truncated
            run.count(rollout.reward, ends[0] | ends[1])
            reward = scale(rollout.reward, *ends) if config.normalise_reward else rollout.reward
            x, a = agent.see(rollout.observation.reshape(M, -1)), rollout.action.reshape(M, *head.action_shape)

            # Estimate. The next value is that of the state before any reset.
            value, next_value = agent.values(rollout.observation), agent.values(rollout.final)
            advantage = fastpg.psi(config.psi, reward, value, next_value, *ends, gamma, lambda_).ravel()
            target = fastpg.lambda_return(reward, next_value, *ends, gamma, lambda_).ravel()
            if config.normalise_advantage:
                advantage = fastpg.whiten(advantage)
            if not np.isfinite(loss := advantage.mean()):
                raise FloatingPointError(
                    f"the loss is {-loss} (policy) at step {run.steps}; value_lr is {value_lr:g}: try a smaller one"
                )

            # Update the policy, then the value: loss = mean((v - target)^2) / 2.
            entropy = head.entropy(policy.forward(x), policy.extra).mean()
            step = improve(agent, config, x, a, advantage, max_kl)
            losses = []
            for _ in range(config.value_epochs):
                order = rng.permutation(M)
                for start in range(0, M, config.minibatch):
                    i = order[start : start + config.minibatch]
                    loss, by_value = fastpg.value_loss(value_net.forward(x[i])[:, 0], target[i], **huber)
                    grad = value_net.backward(x[i], by_value[:, None])
                    norm = clip_norm(grad, config.max_norm)
                    if not np.isfinite((loss, norm)).all():
                        raise FloatingPointError(
                            f"the loss is {loss} (value) at step {run.steps}, the length of its gradient {norm}; "
                            f"value_lr is {value_lr:g}: try a smaller one"
                        )
                    value_adam.step(grad, value_lr)
                    losses.append(loss)

            # Log.
            if agent.normaliser is not None:
                agent.normaliser.update(rollout.observation)
            run.log(
                policy_loss=step.loss,
                value_loss=sum(losses) / max(len(losses), 1),
                explained_variance=fastpg.explained_variance(value, target.reshape(value.shape)),
                entropy=entropy,
                kl=step.kl,
                accepted=step.accepted,
                backtracks=step.backtracks,
                lr=value_lr,
            )
    finally:
        run.save()
    return agent
