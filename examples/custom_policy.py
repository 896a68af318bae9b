"""A policy of your own: linear logits over a few features of the pole, with its gradient by hand, trained by PPO in a second.

Anything with parameter, extra, forward and backward takes the place of the MLP: see fastpg.train.agent.Net.

    python examples/custom_policy.py
"""

import numpy as np

from fastpg.envs import make
from fastpg.train import ppo
from fastpg.train.agent import Agent
from fastpg.train.run import evaluate


class LinearPolicy:
    """logits = features(x) W, with features (x, x^2, 1)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        self.parameter = np.zeros((2 * inputs + 1) * outputs, np.float32)
        self.extra = self.parameter[len(self.parameter) :]  # of a categorical head: none
        self.weight = self.parameter.reshape(2 * inputs + 1, outputs)

    def features(self, x):
        return np.hstack([x, x * x, np.ones((len(x), 1), np.float32)])

    def forward(self, x):
        return self.features(x) @ self.weight

    def backward(self, x, grad_output, grad_extra=None):
        return (self.features(x).T @ grad_output).ravel()


def main() -> None:
    config = ppo.Config(steps=40_000, lr=0.02, seed=0)
    env, rng = make("fastpg/CartPole-v1", config.lanes), np.random.default_rng(config.seed)
    policy = LinearPolicy(env.observation_size, env.action_space.n)
    agent = Agent(env.observation_size, env.action_space, config.hidden, rng, policy=policy)
    ppo.train(config, env, agent=agent)
    returns = evaluate(agent, make("fastpg/CartPole-v1", 20), 100)
    print(f"{policy.weight.size} numbers balance the pole for {returns.mean():.0f} of 500 steps")


if __name__ == "__main__":
    main()
