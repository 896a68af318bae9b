"""Heads: gradients through a net by finite differences, densities that integrate to 1, KL as an expectation, Fisher as its Hessian."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from fastpg.envs.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from fastpg.nets import MLP
from fastpg.train.heads import head_for

BOX = Box((-2.0, 0.0), (2.0, 5.0))
HEADS = {
    "categorical": (Discrete(3), {}),
    "multi_categorical": (MultiDiscrete((2, 3)), {}),
    "bernoulli": (MultiBinary(3), {}),
    "gaussian": (BOX, {"log_std": -0.5}),
    "gaussian of the state": (BOX, {"log_std": -0.5, "state_std": True}),
    "squashed_gaussian": (BOX, {"distribution": "squashed_gaussian"}),
    "squashed_gaussian of the state": (BOX, {"distribution": "squashed_gaussian", "state_std": True}),
    "beta": (BOX, {"distribution": "beta"}),
}
BOXES = [name for name, (space, _) in HEADS.items() if space is BOX]


def made(name, rows=7, seed=0):
    """A head, a float64 net for it with its parameters away from 0, observations, and actions it sampled."""
    space, options = HEADS[name]
    head, rng = head_for(space, **options), np.random.default_rng(seed)
    net = MLP((4, 6, head.size), rng=rng, dtype=np.float64, extra=head.extra)
    net.extra[...] = head.extra_start + 0.3 * rng.standard_normal(head.extra)
    x = rng.standard_normal((rows, 4))
    action = head.sample(net.forward(x), net.extra, rng)
    return head, net, x, action, rng


@pytest.mark.parametrize("name", HEADS)
def test_gradients_reach_every_parameter_of_the_net(name):
    head, net, x, action, rng = made(name)
    weight, bonus = rng.standard_normal((2, len(x)))

    def loss(parameter):
        net.parameter[...] = parameter
        z = net.forward(x)
        return weight @ head.log_prob(z, net.extra, action) + bonus @ head.entropy(z, net.extra)

    start = net.parameter.copy()
    z = net.forward(x)
    by_log_prob = head.log_prob_grad(z, net.extra, action, weight)
    by_entropy = head.entropy_grad(z, net.extra, bonus)
    grad = net.backward(x, by_log_prob[0] + by_entropy[0], by_log_prob[1] + by_entropy[1]).copy()
    for k in range(len(start)):
        h = np.zeros(len(start))
        h[k] = 1e-6
        difference = (loss(start + h) - loss(start - h)) / 2e-6
        assert grad[k] == pytest.approx(difference, rel=1e-5, abs=1e-6)
    assert head.extra == 0 or (grad[-head.extra :] != 0).all()


@pytest.mark.parametrize("name", HEADS)
def test_actions_have_the_shape_dtype_and_bounds_that_the_head_and_its_space_say(name):
    head, net, x, action, rng = made(name, rows=50)
    space = HEADS[name][0]
    z, extra = (array.astype(np.float32) for array in (net.forward(x), net.extra))
    for action in (head.sample(z, extra, rng), head.mode(z, extra)):
        assert action.shape == (50, *head.action_shape) and action.dtype == head.action_dtype
        sent = head.to_env(action)
        assert sent.shape == action.shape and sent.dtype == action.dtype
        if space is BOX:
            assert (sent >= np.float32(space.low)).all() and (sent <= np.float32(space.high)).all()
        else:
            assert np.array_equal(sent, action) and (sent >= 0).all()
            assert (sent < (2 if name == "bernoulli" else np.array(space.n))).all()
        assert head.log_prob(z, extra, action).dtype == np.float32
        grad = head.log_prob_grad(z, extra, action, np.ones(50, np.float32))
        assert grad[0].shape == z.shape and grad[1].shape == extra.shape and grad[0].dtype == np.float32


@pytest.mark.parametrize("name", ["categorical", "multi_categorical", "bernoulli"])
def test_probabilities_of_all_actions_sum_to_1_and_give_entropy_and_kl(name):
    head, net, _, _, rng = made(name)
    sizes = {"categorical": [3], "multi_categorical": [2, 3], "bernoulli": [2, 2, 2]}[name]
    actions = np.array(list(itertools.product(*map(range, sizes)))).reshape(-1, *head.action_shape)
    z, other = (np.repeat(rng.standard_normal((1, head.size)), len(actions), axis=0) for _ in range(2))
    log_p, log_q = (head.log_prob(y, net.extra, actions) for y in (z, other))
    p = np.exp(log_p)
    assert p.sum() == pytest.approx(1)
    assert head.entropy(z, net.extra)[0] == pytest.approx(-p @ log_p)
    assert head.kl(z, net.extra, other, net.extra)[0] == pytest.approx(p @ (log_p - log_q))
    assert np.array_equal(actions[np.argmax(p)], head.mode(z, net.extra)[0])


@pytest.mark.parametrize("name", BOXES)
def test_densities_over_the_actions_of_the_environment_integrate_to_1(name):
    options = HEADS[name][1]
    head = head_for(Box((-2.0,), (6.0,)), **options)
    rng = np.random.default_rng(3)
    z, extra = 0.5 * rng.standard_normal((1, head.size)), np.full(head.extra, -0.3)
    raw = np.linspace(-9, 9, 40_001)[:, None] if "beta" not in name else np.linspace(-2, 6, 40_001)[:, None]
    rows = np.repeat(z, len(raw), axis=0)
    density = np.exp(head.log_prob(rows, extra, raw))
    place = head.to_env(raw)[:, 0] if "squashed" in name else raw[:, 0]
    assert np.trapezoid(density, place) == pytest.approx(1, rel=1e-5)
    p = density * np.gradient(place)
    assert head.entropy(z, extra)[0] == pytest.approx(-np.sum(p[p > 0] * np.log(density[p > 0])), abs=1e-4)


@pytest.mark.parametrize("name", BOXES)
def test_kl_is_the_mean_of_the_log_ratio_under_the_old_policy(name):
    head, net, _, _, rng = made(name)
    z, other = (np.repeat(0.4 * rng.standard_normal((1, head.size)), 100_000, axis=0) for _ in range(2))
    extra, other_extra = 0.3 * rng.standard_normal((2, head.extra))
    action = head.sample(z, extra, rng)
    log_ratio = head.log_prob(z, extra, action) - head.log_prob(other, other_extra, action)
    kl = head.kl(z[:1], extra, other[:1], other_extra)[0]
    assert kl == pytest.approx(log_ratio.mean(), abs=5 * log_ratio.std() / 100_000**0.5)
    assert kl > 0.05


@pytest.mark.parametrize("name", HEADS)
def test_fisher_is_the_hessian_of_kl_at_the_policy_itself(name):
    head, net, x, _, rng = made(name, rows=2)
    z, extra = net.forward(x), net.extra.copy()
    weight = np.array([0.3, 1.7])
    change_z, change_extra = rng.standard_normal(z.shape), rng.standard_normal(extra.shape)
    image = np.concatenate([part.ravel() for part in head.fisher(z, extra, change_z, change_extra, weight)])
    change, h = np.concatenate([change_z.ravel(), change_extra]), 1e-4

    def kl(step):
        to_z, to_extra = z + step[: z.size].reshape(z.shape), extra + step[z.size :]
        return weight @ head.kl(z, extra, to_z, to_extra)

    for k in range(len(change)):
        e = np.zeros(len(change))
        e[k] = 1
        difference = (kl(h * change + h * e) - kl(h * change - h * e) - kl(-h * change + h * e)) / (4 * h * h)
        difference += kl(-h * change - h * e) / (4 * h * h)
        assert image[k] == pytest.approx(difference, rel=1e-4, abs=1e-6)


def test_a_gaussian_starts_at_the_log_std_it_is_given():
    x = np.zeros((1, 2))
    for state_std in (False, True):
        head = head_for(BOX, log_std=-1.5, state_std=state_std)
        z, extra = np.zeros((1, head.size)), np.full(head.extra, head.extra_start)
        assert head.log_prob(z, extra, x)[0] == pytest.approx(2 * (1.5 - 0.5 * np.log(2 * np.pi)))


def test_a_squashed_action_is_stored_before_the_squashing():
    head = head_for(Box((0.0,), (1.0,)), "squashed_gaussian")
    assert head.to_env(np.array([[-40.0], [0.0], [40.0]])).tolist() == [[0], [0.5], [1]]


@pytest.mark.parametrize("distribution", ["squashed_gaussian", "beta"])
@pytest.mark.parametrize("box", [Box((-np.inf,), (1.0,)), Box((0.0, 0.0), (1.0, np.inf))])
def test_a_box_without_bounds_has_no_squashed_or_beta_policy(distribution, box):
    with pytest.raises(ValueError, match=f"distribution is '{distribution}', but Box.*not bounded; wanted gaussian"):
        head_for(box, distribution)
    head_for(box, "gaussian")


def test_unknown_spaces_and_distributions_are_refused():
    with pytest.raises(ValueError, match="distribution is 'cauchy'; wanted gaussian, squashed_gaussian or beta"):
        head_for(BOX, "cauchy")
    with pytest.raises(ValueError, match="action space is Text; wanted Discrete"):
        head_for("Text")
