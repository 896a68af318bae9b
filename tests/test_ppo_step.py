"""The compiled minibatch of PPO against the same loss from fastpg's public functions."""

from __future__ import annotations

import numpy as np
import pytest

import fastpg
from fastpg import _core
from fastpg.envs.spaces import Box, Discrete
from fastpg.train.agent import Agent
from fastpg.train.ppo_step import PPOStep

SPACES = [Discrete(2), Discrete(7), Box((-1.0,), (1.0,)), Box((-1.0,) * 5, (1.0,) * 5)]


def batch(space, M=900, seed=0):
    rng = np.random.default_rng(seed)
    agent = Agent(3, space, (64, 33), rng)
    agent.policy.parameter[...] += 0.2 * rng.standard_normal(len(agent.policy.parameter)).astype(np.float32)
    x = rng.standard_normal((M, 3)).astype(np.float32)
    z = agent.policy.forward(x)
    action = agent.head.sample(z, agent.policy.extra, rng)
    old = agent.head.log_prob(z, agent.policy.extra, action) + 0.3 * rng.standard_normal(M).astype(np.float32)
    advantage, target = rng.standard_normal((2, M)).astype(np.float32)
    return agent, x, action, old, advantage, target, rng


def formula(agent, x, action, old, advantage, target, clip, entropy_weight):
    """Through log_prob, policy_loss, value_loss and backward."""
    head, extra = agent.head, agent.policy.extra
    z, v = agent.forward(x)
    log_prob = head.log_prob(z, extra, action)
    policy_loss, by_log_prob, stats = fastpg.policy_loss("ppo", log_prob, old, advantage, clip_low=clip, clip_high=clip)
    value_loss, by_value = fastpg.value_loss(v, target)
    by_z, by_extra = head.log_prob_grad(z, extra, action, by_log_prob)
    more = head.entropy_grad(z, extra, np.full_like(old, -entropy_weight / len(old)))
    entropy = head.entropy(z, extra).mean()
    grads = agent.backward(x, by_z + more[0], by_extra + more[1], by_value)
    clipped = stats["clip_fraction_low"] + stats["clip_fraction_high"]
    return {k: g.copy() for k, g in grads.items()}, (policy_loss, value_loss, stats["approx_kl_k3"], clipped, entropy)


@pytest.mark.parametrize("space", SPACES, ids=str)
@pytest.mark.parametrize("m", [1, 7, 63, 64, 65, 128, 800])
def test_it_is_the_formula(space, m, isa):
    agent, *arrays, rng = batch(space)
    rows = rng.permutation(len(arrays[0]))[:m]
    grads, means = PPOStep(agent)(rows, *arrays, 0.2, 0.05)
    grads = {k: g.copy() for k, g in grads.items()}
    expected, expected_means = formula(agent, *(a[rows] for a in arrays), 0.2, 0.05)
    np.testing.assert_allclose(means, expected_means, rtol=2e-5, atol=1e-6)
    assert grads.keys() == expected.keys()
    for name, grad in grads.items():
        np.testing.assert_allclose(grad, expected[name], rtol=1e-4, atol=3e-6, err_msg=name)
        assert np.abs(grad).max() > 1e-4


def test_any_number_of_threads_gives_the_same_bits():
    results = []
    before = _core.threads()
    try:
        for threads in (1, 2, 3):
            _core.set_threads(threads)
            agent, *arrays, rng = batch(SPACES[-1])
            grads, means = PPOStep(agent)(rng.permutation(900), *arrays, 0.2, 0.05)
            results.append((*grads["policy"], *grads["value"], *means))
    finally:
        _core.set_threads(before)
    assert results[0] == results[1] == results[2]


def test_it_serves_two_nets_and_no_others():
    rng = np.random.default_rng(0)
    assert PPOStep.serves(Agent(3, Discrete(2), (8,), rng))
    assert not PPOStep.serves(Agent(3, Discrete(2), (8,), rng, shared_trunk=True))
    assert not PPOStep.serves(Agent(3, Discrete(2), (8,), rng, critic=False))
    assert not PPOStep.serves(Agent(3, Discrete(_core.PPO_ACTIONS + 1), (8,), rng))
    assert not PPOStep.serves(Agent(3, SPACES[2], (8,), rng, state_std=True))
    assert not PPOStep.serves(Agent(3, SPACES[2], (8,), rng, distribution="beta"))
