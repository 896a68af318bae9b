"""The compiled epoch of PPO against the same minibatches by fastpg's public functions."""

from __future__ import annotations

import numpy as np
import pytest

import fastpg
from fastpg import _core
from fastpg.envs.spaces import Box, Discrete
from fastpg.nets import Adam, clip_norm
from fastpg.train.agent import Agent
from fastpg.train.ppo_epoch import PPOEpoch

SPACES = [Discrete(2), Discrete(7), Box((-1.0,), (1.0,)), Box((-1.0,) * 5, (1.0,) * 5)]
LR = {"policy": 0.01, "value": 0.03}
MAX_NORM = 0.3


def batch(space, M=900, seed=0, hidden=(64, 33)):
    rng = np.random.default_rng(seed)
    agent = Agent(3, space, hidden, rng)
    agent.policy.parameter[...] += 0.2 * rng.standard_normal(len(agent.policy.parameter)).astype(np.float32)
    x = rng.standard_normal((M, 3)).astype(np.float32)
    z = agent.policy.forward(x)
    action = agent.head.sample(z, agent.policy.extra, rng)
    old = agent.head.log_prob(z, agent.policy.extra, action) + 0.3 * rng.standard_normal(M).astype(np.float32)
    advantage, target = rng.standard_normal((2, M)).astype(np.float32)
    return agent, x, action, old, advantage, target, rng


def adams(agent):
    return {name: Adam(net.parameter, eps=1e-5) for name, net in agent.nets.items()}


def compiled(agent, adam, minibatch, order, arrays, max_norm=MAX_NORM, target_kl=None):
    epoch = PPOEpoch(agent, adam, minibatch)
    return epoch(order, *arrays, (LR["policy"], LR["value"]), 0.2, 0.05, max_norm, target_kl)


def formula(agent, x, action, old, advantage, target, clip, entropy_weight):
    """Gradients and means through log_prob, policy_loss, value_loss and backward."""
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
    lengths = np.linalg.norm(grads["policy"]), np.linalg.norm(grads["value"])
    return grads, (policy_loss, value_loss, stats["approx_kl_k3"], clipped, *lengths, entropy)


@pytest.mark.parametrize("hidden", [(64, 33), (8, 4), (3, 2, 1)], ids=str)
@pytest.mark.parametrize("space", SPACES, ids=str)
@pytest.mark.parametrize("m", [1, 7, 63, 64, 65, 128, 300, 800])
def test_the_gradients_of_a_minibatch_are_those_of_the_formula(space, m, hidden, isa):
    agent, *arrays, rng = batch(space, hidden=hidden)
    rows = rng.permutation(len(arrays[0]))[:m]
    expected, expected_means = formula(agent, *(a[rows] for a in arrays), 0.2, 0.05)
    expected = {name: grad.copy() for name, grad in expected.items()}
    adam = adams(agent)
    total, last, steps = compiled(agent, adam, m, rows, arrays, max_norm=np.inf)
    assert steps == 1 and tuple(total) == last
    np.testing.assert_allclose(last, expected_means, rtol=3e-5, atol=1e-6)
    for name, part in adam.items():
        grad = part.m / (1 - part.beta1)  # the first moment starts at 0
        np.testing.assert_allclose(grad, expected[name], rtol=1e-4, atol=3e-6, err_msg=name)
        assert np.abs(grad).max() > 1e-4


@pytest.mark.parametrize("space", SPACES, ids=str)
@pytest.mark.parametrize("minibatch", [90, 400, 900])
def test_an_epoch_is_a_step_of_clipping_and_adam_after_the_other(space, minibatch, isa):
    agent, *arrays, rng = batch(space)
    other = batch(space)[0]
    order, expected, looked_at = rng.permutation(len(arrays[0])), adams(other), []
    for start in range(0, len(order), minibatch):
        rows = order[start : start + minibatch]
        grads, means = formula(other, *(a[rows] for a in arrays), 0.2, 0.05)
        looked_at.append(means)
        for name, grad in grads.items():
            clip_norm(grad, MAX_NORM)
            expected[name].step(grad, LR[name])
    adam = adams(agent)
    total, last, steps = compiled(agent, adam, minibatch, order, arrays)
    assert steps == len(looked_at) == adam["policy"].t == adam["value"].t
    np.testing.assert_allclose(total, np.sum(looked_at, axis=0), rtol=1e-4)
    np.testing.assert_allclose(last, looked_at[-1], rtol=1e-4, atol=1e-5)
    for name, part in adam.items():
        np.testing.assert_allclose(part.parameter, expected[name].parameter, rtol=1e-4, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(part.m, expected[name].m, rtol=1e-3, atol=2e-6, err_msg=name)
    assert np.max(total[4:6]) > MAX_NORM * steps  # something was cut


@pytest.mark.parametrize("minibatch", [90, 300])
def test_it_stops_before_the_step_that_kl_forbids(minibatch):
    agent, *arrays, rng = batch(SPACES[0])
    order = rng.permutation(len(arrays[0]))
    arrays[2] = agent.head.log_prob(agent.policy.forward(arrays[0]), agent.policy.extra, arrays[1])  # KL 0 at first
    once = batch(SPACES[0])[0]
    _, last, steps = compiled(agent, adams(agent), minibatch, order, arrays, target_kl=1e-7)
    assert steps == 1 and last[2] > 1e-7
    compiled(once, adams(once), minibatch, order[:minibatch], arrays)
    for name, net in once.nets.items():
        np.testing.assert_array_equal(net.parameter, agent.nets[name].parameter)


@pytest.mark.parametrize("minibatch", [90, 300])
@pytest.mark.parametrize(("which", "field"), [(3, 0), (4, 1)])
def test_it_stops_before_a_step_along_what_is_not_finite(minibatch, which, field):
    agent, *arrays, _ = batch(SPACES[0])
    order = np.arange(len(arrays[0]))
    arrays[which][order[minibatch]] = np.nan
    adam = adams(agent)
    total, last, steps = compiled(agent, adam, minibatch, order, arrays)
    assert steps == 1 and np.isfinite(total).all() and np.isnan(last[field])
    assert all(np.isfinite(part.parameter).all() and part.t == 1 for part in adam.values())


def test_any_number_of_threads_gives_the_same_bits():
    results = []
    before = _core.threads()
    try:
        for threads in (1, 2, 3):
            _core.set_threads(threads)
            agent, *arrays, rng = batch(SPACES[-1])
            order = rng.permutation(900)
            total, last, _ = compiled(agent, adams(agent), 400, order, arrays)
            results.append((*agent.policy.parameter, *agent.value.parameter, *total, *last))
    finally:
        _core.set_threads(before)
    assert results[0] == results[1] == results[2]


def test_it_serves_two_nets_with_adam_and_no_others():
    def serves(*args, **options):
        agent = Agent(3, *args, (8,), np.random.default_rng(0), **options)
        return PPOEpoch.serves(agent, adams(agent))

    assert serves(Discrete(2)) and serves(SPACES[2])
    assert not serves(Discrete(2), shared_trunk=True)
    assert not serves(Discrete(2), critic=False)
    assert not serves(Discrete(_core.PPO_ACTIONS + 1))
    assert not serves(SPACES[2], state_std=True)
    assert not serves(SPACES[2], distribution="beta")

    class Own(Adam):
        pass

    agent = Agent(3, Discrete(2), (8,), np.random.default_rng(0))
    assert not PPOEpoch.serves(agent, {name: Own(net.parameter) for name, net in agent.nets.items()})
