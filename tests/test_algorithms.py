"""The five algorithms, option by option: each gradient against finite differences of the loss that the page states."""

from __future__ import annotations

import numpy as np
import pytest
from test_train import (
    ALGOS,
    Spy,
    Toy,
    assert_gradient,
    batch,
    episodes,
    log_softmax,
    net_at,
    small,
    spied,
)

import fastpg
from fastpg.envs import lane_seeds, make
from fastpg.envs.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from fastpg.nets import MLP
from fastpg.train import a2c, grpo, ppo, reinforce, trpo
from fastpg.train.agent import Agent, AgentOptions
from fastpg.train.heads import Categorical
from fastpg.train.ppo_epoch import PPOEpoch
from fastpg.train.run import Run, evaluate

ROWS, LANES = 24, 4
ONE = {
    "rows": ROWS,
    "lanes": LANES,
    "steps": ROWS * LANES,
    "max_norm": 1e9,
    "gamma": 0.9,
    "lambda_": 0.7,
    "hidden": (8,),
}


def naive_vtrace(diary, value, log_ratio, gamma, lambda_):
    """Target and policy-gradient advantage of Espeholt et al. 2018, eq. 1 and section 4.2, of the first ROWS rows: sums, no recursion."""
    target, advantage = np.empty((2, ROWS, LANES))
    for n, first, last in episodes(diary, ROWS):
        span = range(first, last + 1)
        v = value([diary[t][0][n] for t in span])[:, 0]
        after = value([diary[t][5][n] for t in span])[:, 0]
        if diary[last][3][n]:
            after[-1] = 0.0
        r = np.array([float(diary[t][2][n]) for t in span])
        ratio = np.exp([log_ratio[t, n] for t in span])
        rho, c = np.minimum(1, ratio), lambda_ * np.minimum(1, ratio)
        T = len(r)
        above = [
            sum(gamma ** (k - s) * np.prod(c[s:k]) * rho[k] * (r[k] + gamma * after[k] - v[k]) for k in range(s, T))
            for s in range(T)
        ]
        for s in range(T):
            target[first + s, n] = v[s] + above[s]
            rest = above[s + 1] if s + 1 < T else 0.0
            advantage[first + s, n] = rho[s] * (r[s] + gamma * (after[s] + lambda_ * rest) - v[s])
    return target, advantage


def parts(diary):
    """x, action and (t, n) flat in the order of the rollout."""
    x = np.array([row[0] for row in diary[:ROWS]]).reshape(ROWS * LANES, 3)
    a = np.array([row[1] for row in diary[:ROWS]]).reshape(ROWS * LANES)
    return x, a


def taken(parameter, x, a):
    return log_softmax(net_at((3, 8, 3), parameter)(x))[np.arange(len(a)), a]


@pytest.mark.parametrize("psi", fastpg.PSI)
@pytest.mark.parametrize("normalise", [True, False])
def test_a2c_descends_log_prob_times_psi(psi, normalise, monkeypatch):
    config = a2c.Config(psi=psi, normalise_advantage=normalise, entropy_weight=0.1, epochs=2, **ONE)
    diary, policy, value = spied(a2c, monkeypatch, config)
    assert len(policy.grad) == 2
    for k in range(2):  # values are those of the epoch
        x, a, weight, target, _, _ = batch(diary, ROWS, net_at((3, 8, 1), value.at[k]), config)
        weight = (weight - weight.mean()) / weight.std(ddof=1) if normalise else weight

        def policy_loss(parameter, x=x, a=a, weight=weight):
            log_pi = log_softmax(net_at((3, 8, 3), parameter)(x))
            entropy = -(np.exp(log_pi) * log_pi).sum(axis=1)
            return -np.mean(log_pi[np.arange(len(a)), a] * weight) - 0.1 * entropy.mean()

        def value_loss(parameter, x=x, target=target):
            return 0.5 * np.mean((net_at((3, 8, 1), parameter)(x)[:, 0] - target) ** 2)

        assert_gradient(policy_loss, policy.at[k], policy.grad[k])
        assert_gradient(value_loss, value.at[k], value.grad[k])


def test_a2c_corrects_by_vtrace_for_the_age_of_its_steps(monkeypatch):
    config = a2c.Config(psi="vtrace", epochs=3, **ONE)
    diary, policy, value = spied(a2c, monkeypatch, config)
    x, a = parts(diary)
    old = taken(policy.at[0], x, a)
    for k in range(3):
        log_ratio = (taken(policy.at[k], x, a) - old).reshape(ROWS, LANES)
        assert (np.abs(log_ratio).max() > 0.1) == (k > 0)
        target, advantage = naive_vtrace(diary, net_at((3, 8, 1), value.at[k]), log_ratio, 0.9, 0.7)
        assert_gradient(lambda p, A=advantage: -np.mean(taken(p, x, a) * A.ravel()), policy.at[k], policy.grad[k])
        assert_gradient(
            lambda p, goal=target: 0.5 * np.mean((net_at((3, 8, 1), p)(x)[:, 0] - goal.ravel()) ** 2),
            value.at[k],
            value.grad[k],
        )


def test_ppo_with_vtrace_leaves_the_ratio_of_the_step_itself_to_the_clipped_objective(monkeypatch):
    config = ppo.Config(psi="vtrace", epochs=3, minibatch=ROWS * LANES, normalise_advantage="none", **ONE)
    diary, policy, value = spied(ppo, monkeypatch, config)
    x, a = parts(diary)
    old = taken(policy.at[0], x, a)
    for k in range(3):
        log_ratio = taken(policy.at[k], x, a) - old
        _, advantage = naive_vtrace(diary, net_at((3, 8, 1), value.at[k]), log_ratio.reshape(ROWS, LANES), 0.9, 0.7)
        A = advantage.ravel() / np.minimum(1, np.exp(log_ratio))

        def loss(parameter, A=A):
            ratio = np.exp(taken(parameter, x, a) - old)
            return -np.mean(np.minimum(ratio * A, np.clip(ratio, 0.8, 1.2) * A))

        assert_gradient(loss, policy.at[k], policy.grad[k])


@pytest.mark.parametrize("algo", [ppo, a2c])
def test_a_shared_trunk_descends_both_losses_the_value_by_its_weight(algo, monkeypatch):
    options = {"minibatch": ROWS * LANES, "normalise_advantage": "none"} if algo is ppo else {}
    config = algo.Config(shared_trunk=True, value_weight=0.3, epochs=2, **options, **ONE)
    diary, trunk = spied(algo, monkeypatch, config)

    def policy_of(parameter, x, a):
        return log_softmax(net_at((3, 8, 4), parameter)(x)[:, :3])[np.arange(len(a)), a]

    for k in range(2):
        values_at = 0 if algo is ppo else k
        value = net_at((3, 8, 4), trunk.at[values_at])
        x, a, psi, target, _, _ = batch(diary, ROWS, lambda x, value=value: value(x)[:, 3:], config)
        old = policy_of(trunk.at[0], x, a)

        def loss(parameter, x=x, a=a, psi=psi, target=target, old=old):
            log_pi = policy_of(parameter, x, a)
            ratio = np.exp(log_pi - old)
            gain = np.minimum(ratio * psi, np.clip(ratio, 0.8, 1.2) * psi) if algo is ppo else log_pi * psi
            error = net_at((3, 8, 4), parameter)(x)[:, 3] - target
            return -gain.mean() + 0.3 * 0.5 * np.mean(error**2)

        assert_gradient(loss, trunk.at[k], trunk.grad[k])


@pytest.mark.parametrize("clip", [None, 0.2])
@pytest.mark.parametrize("huber", [None, 0.5])
def test_ppo_descends_the_value_loss_that_it_is_asked_for(clip, huber, monkeypatch):
    config = ppo.Config(value_clip=clip, huber=huber, epochs=2, minibatch=ROWS * LANES, **ONE)
    diary, _, value = spied(ppo, monkeypatch, config)
    x, _, _, target, _, _ = batch(diary, ROWS, net_at((3, 8, 1), value.at[0]), config)
    old = net_at((3, 8, 1), value.at[0])(x)[:, 0]

    def one(v):
        error = np.abs(v - target)
        return 0.5 * error**2 if huber is None else np.where(error <= 0.5, 0.5 * error**2, 0.5 * (error - 0.25))

    def loss(parameter):
        v = net_at((3, 8, 1), parameter)(x)[:, 0]
        held = v if clip is None else old + np.clip(v - old, -clip, clip)
        return np.mean(np.maximum(one(v), one(held)))

    moved = np.abs(net_at((3, 8, 1), value.at[1])(x)[:, 0] - old)
    assert 0.1 < np.mean(moved > 0.2) < 0.95
    assert_gradient(loss, value.at[1], value.grad[1])


@pytest.mark.parametrize("algo", [ppo, a2c, trpo, reinforce])
def test_huber_bounds_the_pull_of_a_far_target(algo, monkeypatch):
    def longest(huber):
        config = small(algo, huber=huber, seed=1, **{**ONE, "gamma": 0.99, "lambda_": 0.99})
        return max(np.linalg.norm(grad) for grad in spied(algo, monkeypatch, config)[-1].grad)

    assert longest(0.01) < 0.1 * longest(None)


def test_ppo_holds_the_loss_of_bad_actions_by_dual_clip(monkeypatch):
    config = ppo.Config(dual_clip=1.1, epochs=3, minibatch=ROWS * LANES, normalise_advantage="none", clip=0.05, **ONE)
    diary, policy, value = spied(ppo, monkeypatch, config)
    x, a, A, _, _, _ = batch(diary, ROWS, net_at((3, 8, 1), value.at[0]), config)
    old = taken(policy.at[0], x, a)

    def loss(parameter):
        ratio = np.exp(taken(parameter, x, a) - old)
        gain = np.minimum(ratio * A, np.clip(ratio, 0.95, 1.05) * A)
        return -np.mean(np.where(A < 0, np.maximum(gain, 1.1 * A), gain))

    ratio = np.exp(taken(policy.at[2], x, a) - old)
    assert ((ratio > 1.1) & (A < 0)).any()
    assert_gradient(loss, policy.at[2], policy.grad[2])


def test_ppo_normalises_advantages_over_each_minibatch_where_it_is_asked_to(monkeypatch):
    seen = []
    whole = fastpg.policy_loss

    def spy(kind, log_prob, old, advantage, **options):
        seen.append(advantage)
        return whole(kind, log_prob, old, advantage, **options)

    monkeypatch.setattr(fastpg, "policy_loss", spy)
    monkeypatch.setattr(PPOEpoch, "serves", lambda *_: False)
    for normalise in ("batch", "minibatch"):
        seen.clear()
        ppo.train(ppo.Config(normalise_advantage=normalise, minibatch=32, epochs=1, **ONE), Toy(LANES))
        each = [(A.mean(), A.std(ddof=1)) for A in seen]
        assert len(each) == 3 and np.allclose(each, (0, 1), atol=1e-4) == (normalise == "minibatch")
        together = np.concatenate(seen)
        assert together.mean() == pytest.approx(0, abs=1e-5) and together.std(ddof=1) == pytest.approx(1, abs=0.02)


# --- TRPO


def at_random(space=None, rows=40, hidden=(5,), **options):
    """An agent away from its start, observations, actions of its own and advantages."""
    rng = np.random.default_rng(0)
    agent = Agent(3, space or Discrete(3), hidden, rng, **options)
    agent.policy.parameter += 0.3 * rng.standard_normal(len(agent.policy.parameter)).astype(np.float32)
    x = rng.standard_normal((rows, 3)).astype(np.float32)
    action = agent.head.sample(agent.policy.forward(x), agent.policy.extra, rng)
    return agent, x, action, rng.standard_normal(rows).astype(np.float32)


def jacobian(f, parameter, h=1e-6):
    e = np.eye(len(parameter)) * h
    return np.stack([(f(parameter + step) - f(parameter - step)) / (2 * h) for step in e], axis=-1)


class Plain:
    """A net with no more than a policy must have."""

    def __init__(self, net):
        self.parameter, self.extra, self.forward, self.backward = net.parameter, net.extra, net.forward, net.backward


@pytest.mark.parametrize(("activation", "within"), [("tanh", 2e-4), ("relu", 2e-2)])
def test_without_linearize_the_jacobian_times_a_vector_is_by_differences_and_leaves_the_policy_where_it_was(
    activation, within
):
    agent, x, _, _ = at_random(Box((-1.0, -1.0), (1.0, 1.0)), hidden=(64, 64), activation=activation)
    before = agent.policy.parameter.copy()
    vector = np.random.default_rng(1).standard_normal(len(before)).astype(np.float32)
    change = trpo.linearized(Plain(agent.policy), x)
    exact, got = trpo.linearized(agent.policy, x)(vector), change(vector)
    assert 0 < np.linalg.norm(got - exact) < within * np.linalg.norm(exact)
    assert np.array_equal(agent.policy.parameter, before)
    assert not change(0 * vector).any()


def test_the_linearize_of_mlp_is_not_that_of_a_subclass_with_another_forward():
    class Twice(MLP):
        def forward(self, x):
            return super().forward(2 * x)

    class Own(Twice):
        def linearize(self, x):
            return super().linearize(2 * x)

    x, vector = np.random.default_rng(1).standard_normal((6, 3)).astype(np.float32), np.full(5 * 4 + 6 * 2, 0.1, "f4")
    changes = []
    for kind in (MLP, Twice, Own):
        net = kind((3, 5, 2), rng=np.random.default_rng(0), dtype=np.float32)
        changes.append(trpo.linearized(net, x if kind is not MLP else 2 * x)(vector))
    np.testing.assert_array_equal(changes[2], changes[0])
    assert 0 < np.abs(changes[1] - changes[0]).max() < 1e-3 * np.abs(changes[0]).max()


def test_trpo_steps_along_the_natural_gradient_to_the_edge_of_the_trust_region():
    agent, x, action, advantage = at_random()
    theta = agent.policy.parameter.astype(np.float64)
    row = np.arange(len(x))

    def log_pi(parameter):
        return log_softmax(net_at((3, 5, 3), parameter)(x))

    J, p = jacobian(lambda q: net_at((3, 5, 3), q)(x), theta), np.exp(log_pi(theta))
    F = np.einsum("iap,iab,ibq->pq", J, np.einsum("ia,ab->iab", p, np.eye(3)) - np.einsum("ia,ib->iab", p, p), J)
    F = F / len(x) + 0.1 * np.eye(len(theta))
    g = jacobian(lambda q: -np.mean(np.exp((log_pi(q) - log_pi(theta))[row, action]) * advantage), theta)
    direction = np.linalg.solve(F, g)
    full = -np.sqrt(2 * 0.01 / (g @ direction)) * direction

    config = trpo.Config(iterations=60, shrink=0.5)
    step = trpo.improve(agent, config, x, action, advantage, 0.01)
    moved = agent.policy.parameter - theta
    assert step.accepted
    np.testing.assert_allclose(moved, full * 0.5**step.backtracks, atol=0.01 * np.abs(full).max())

    # The same step by the numbers that were promised, from the probabilities themselves.
    new = log_pi(agent.policy.parameter)
    old = log_pi(theta)
    kl = (np.exp(old) * (old - new)).sum(axis=1).mean()
    loss = -np.mean(np.exp((new - old)[row, action]) * advantage)
    assert 0.001 < kl <= 0.01 and kl == pytest.approx(step.kl, rel=1e-3)
    assert loss < -advantage.mean() and loss == pytest.approx(step.loss, rel=1e-3)


def test_trpo_stays_where_it_was_when_no_step_will_do():
    agent, x, action, advantage = at_random()
    before = agent.policy.parameter.copy()
    step = trpo.improve(agent, trpo.Config(backtracks=0, damping=0.0, iterations=60), x, action, advantage, 20.0)
    assert not step.accepted and np.array_equal(agent.policy.parameter, before)


@pytest.mark.parametrize("distribution", ["gaussian", "squashed_gaussian", "beta"])
def test_trpo_improves_the_surrogate_within_its_bound_for_real_actions(distribution):
    agent, x, action, advantage = at_random(Box((-1.0, 0.0), (1.0, 3.0)), distribution=distribution)
    z, extra = agent.policy.forward(x).copy(), agent.policy.extra.copy()
    old = agent.head.log_prob(z, extra, action)
    config = trpo.Config(entropy_weight=0.01, fisher_rows=20)
    step = trpo.improve(agent, config, x, action, advantage, 0.02)
    new_z = agent.policy.forward(x)
    kl = agent.head.kl(z, extra, new_z, agent.policy.extra).mean()
    gain = np.mean(np.exp(agent.head.log_prob(new_z, agent.policy.extra, action) - old) * advantage)
    bonus = 0.01 * (agent.head.entropy(new_z, agent.policy.extra) - agent.head.entropy(z, extra)).mean()
    assert step.accepted and 0.002 < kl <= 0.02 and gain + bonus > advantage.mean()


@pytest.mark.parametrize(("fisher_rows", "used"), [(None, 40), (1, 1), (13, 13), (30, 30), (40, 40), (41, 40)])
def test_trpo_takes_as_many_rows_for_the_fisher_information_as_it_is_told(fisher_rows, used, monkeypatch):
    agent, x, action, advantage = at_random()
    seen, linearized = [], trpo.linearized

    def spy(policy, rows):
        seen.append(rows)
        return linearized(policy, rows)

    monkeypatch.setattr(trpo, "linearized", spy)
    trpo.improve(agent, trpo.Config(fisher_rows=fisher_rows), x, action, advantage, 0.01)
    place = [int(np.argwhere((x == row).all(axis=1))[0, 0]) for row in seen[0]]
    assert len(place) == used and place[0] == 0 and np.ptp(np.diff([*place, 40])) <= 1


@pytest.mark.parametrize("psi", ["gae", "td_residual"])
def test_trpo_never_leaves_its_trust_region_and_pulls_values_to_lambda_returns(psi, monkeypatch):
    config = trpo.Config(psi=psi, value_epochs=2, minibatch=ROWS * LANES, **ONE)
    diary, value = spied(trpo, monkeypatch, config)
    x, _, _, target, _, _ = batch(diary, ROWS, net_at((3, 8, 1), value.at[0]), config)
    for k in range(2):
        assert_gradient(
            lambda p: 0.5 * np.mean((net_at((3, 8, 1), p)(x)[:, 0] - target) ** 2), value.at[k], value.grad[k]
        )
    monkeypatch.undo()
    config = trpo.Config(max_kl=0.005, kl_schedule="linear", rows=32, lanes=4, steps=2000)
    run = Run(config, Toy(4))
    trpo.train(config, Toy(4), run)
    steps = [0, *(row["steps"] for row in run.metrics)][:-1]
    for row, before in zip(run.metrics, steps, strict=True):
        assert 0 <= row["kl"] <= 0.005 * (1 - before / 2000)
        assert row["kl"] > 0 or not row["accepted"]
    assert sum(row["accepted"] for row in run.metrics) > 5


# --- GRPO


class Started(Toy):
    """What is seen first depends on the lane's seed alone, and so does all else."""

    def _observe(self):
        return np.array([rng.standard_normal(3) for rng in self.streams], np.float32)

    def reset(self, *, seed=None):
        self.streams = [np.random.default_rng(s) for s in lane_seeds(seed, self.lanes)]
        return super().reset(seed=seed)


@pytest.mark.parametrize("psi", ["total_return", "reward_to_go"])
@pytest.mark.parametrize("aggregate", ["token_mean", "seq_mean_token_mean"])
def test_grpo_descends_the_clipped_objective_of_first_episodes_judged_by_their_group(psi, aggregate, monkeypatch):
    config = grpo.Config(
        **{**ONE, "rows": 5, "steps": 1, "lanes": 6}, group=3, epochs=2, minibatches=1, psi=psi, aggregate=aggregate
    )
    monkeypatch.setattr(grpo, "Adam", Spy)
    monkeypatch.setattr(Spy, "made", [])
    env = Started(6, seed=3)
    grpo.train(config, env)
    (policy,) = Spy.made
    first, start = env.resets[-1], env.diary[env.resets[-1]][0]
    assert np.array_equal(start[:3], np.repeat(start[:1], 3, axis=0)) and not np.array_equal(start[2], start[3])
    rows = env.diary[first:]
    last = [next(t for t in range(len(rows)) if rows[t][3][n] or rows[t][4][n]) for n in range(6)]
    assert len(rows) == 5 * (max(last) // 5 + 1) and min(last) < max(last)  # until all have ended, five at a time
    to_go = {
        (t, n): sum(0.9 ** (k - t) * float(rows[k][2][n]) for k in range(t, last[n] + 1))
        for n in range(6)
        for t in range(last[n] + 1)
    }

    def standing(mine, others):
        return 0.0 if len(others) == 1 else (mine - np.mean(others)) / (np.std(others, ddof=1) + 1e-4)

    advantage = {}
    for t, n in to_go:
        at = 0 if psi == "total_return" else t
        others = [to_go[at, m] for m in range(3 * (n // 3), 3 * (n // 3) + 3) if (at, m) in to_go]
        advantage[t, n] = standing(to_go[at, n], others)
    if psi == "total_return":
        assert sum(advantage[0, n] for n in range(3)) == pytest.approx(0)
    x = np.array([rows[t][0][n] for t, n in to_go])
    a = np.array([rows[t][1][n] for t, n in to_go])
    A = np.array([advantage[key] for key in to_go])
    share = np.array([1 / len(A) if aggregate == "token_mean" else 1 / (6 * (last[n] + 1)) for t, n in to_go])
    old = taken(policy.at[0], x, a)
    for k in range(2):

        def loss(parameter):
            ratio = np.exp(taken(parameter, x, a) - old)
            return -share @ np.minimum(ratio * A, np.clip(ratio, 0.8, 1.2) * A)

        assert_gradient(loss, policy.at[k], policy.grad[k])


@pytest.mark.parametrize("kind", ["grpo", "dr_grpo", "rloo", "reinforce_pp_baseline"])
def test_grpo_gives_the_episodes_of_a_group_advantages_that_sum_to_0(kind, monkeypatch):
    given = []
    judge = fastpg.group_advantage

    def spy(reward, group, how, **options):
        given.append((judge(reward, group, how, **options), group))
        assert how == kind
        return given[-1][0]

    monkeypatch.setattr(fastpg, "group_advantage", spy)
    config = grpo.Config(kind=kind, lanes=8, group=4, rows=8, steps=500, minibatches=2)
    run = Run(config, Started(8))
    grpo.train(config, Started(8), run)
    assert len(given) > 2 and run.episodes == 8 * len(given)  # what lanes play while others finish does not count
    for advantage, group in given:
        assert np.abs(advantage).max() > 0.1
        np.testing.assert_allclose(np.bincount(group, advantage), 0, atol=1e-5)


def test_grpo_cuts_episodes_at_the_longest():
    class Endless(Toy):
        def step(self, action):
            observation, reward, *_ = super().step(action)
            never = np.zeros(self.lanes, bool)
            return observation, reward, never, never, {"final_obs": observation}

    env = Endless(4)
    config = grpo.Config(lanes=4, group=2, rows=8, longest=20, steps=1, minibatches=1)
    run = Run(config, env)
    grpo.train(config, env, run)
    assert len(env.diary) == 24 and run.episodes == 0 and run.metrics[0]["length"] == 20


@pytest.mark.parametrize(
    ("words", "change"),
    [
        ("group is 3; wanted 2 or more that divide lanes", {"group": 3}),
        ("group is 1; wanted 2 or more", {"group": 1}),
        ("minibatches is 65; wanted at most one for each of 64 lanes", {"minibatches": 65}),
        ("shared_trunk is True; GRPO has no critic", {"shared_trunk": True}),
        ("kind is 'best'; wanted one of grpo", {"kind": "best"}),
    ],
)
def test_grpo_refuses_groups_that_cannot_be(words, change):
    with pytest.raises(ValueError, match=words):
        grpo.Config(**change)


def test_lanes_may_have_a_seed_each():
    env = make("fastpg/CartPole-v1", 4)
    each, _ = env.reset(seed=[5, 5, 6, 5])
    assert np.array_equal(each[0], each[1]) and np.array_equal(each[0], each[3]) and each[0, 0] != each[2, 0]
    assert np.array_equal(each[1:3], env.reset(seed=4)[0][1:3])
    with pytest.raises(ValueError, match="seed has 3 entries; wanted an integer, or one for each of 4 lanes"):
        env.reset(seed=[1, 2, 3])


# --- what is logged


class Unbounded(Toy):
    """Two real numbers as they are drawn, in episodes without end."""

    action_space = Box((-np.inf,) * 2, (np.inf,) * 2)

    def step(self, action):
        observation, reward, *_ = super().step(action)
        never = np.zeros(self.lanes, bool)
        return observation, reward, never, never, {"final_obs": observation}


@pytest.mark.parametrize(("algo", "compiled"), [(ppo, True), (ppo, False), (grpo, False)])
def test_kl_and_entropy_are_those_of_the_minibatch_however_far_the_policy_went(algo, compiled, monkeypatch):
    options = {"minibatch": 64} if algo is ppo else {"group": 2, "minibatches": 1, "longest": 16}
    serves = PPOEpoch.serves
    monkeypatch.setattr(PPOEpoch, "serves", lambda *args: compiled and serves(*args))

    def trained(epochs):
        env = Unbounded(4)
        config = algo.Config(
            rows=16, lanes=4, steps=1, epochs=epochs, hidden=(4,), log_std=-3.0, lr=0.3, clip=0.2, **options
        )
        run = Run(config, env)
        return algo.train(config, env, run).policy.parameter, run.metrics[0], env.diary

    once, first, diary = trained(1)
    start = Agent(3, Unbounded.action_space, (4,), np.random.default_rng(0), log_std=-3.0).policy.parameter
    x = np.array([row[0] for row in diary]).reshape(-1, 3)
    a = np.array([row[1] for row in diary]).reshape(-1, 2)

    def log_prob(parameter):
        mean, log_std = net_at((3, 4, 2), parameter[:-2])(x), parameter[-2:].astype(np.float64)
        return (-0.5 * ((a - mean) / np.exp(log_std)) ** 2 - log_std - 0.5 * np.log(2 * np.pi)).sum(axis=1)

    change = log_prob(once) - log_prob(start)
    assert change.min() < -100 and change.max() < 20
    _, second, _ = trained(2)
    expected = np.mean(np.expm1(change) - change) / 2  # the first epoch's is 0
    assert second["approx_kl"] == pytest.approx(expected, rel=1e-3) and first["approx_kl"] == pytest.approx(0, abs=1e-5)
    for row, parameter in ((first, start), (second, once)):  # before the step that the minibatch led to
        assert row["entropy"] == pytest.approx(parameter[-2:].sum() + 1 + np.log(2 * np.pi), rel=1e-5)


def test_vtrace_has_an_advantage_for_actions_that_the_policy_went_far_from():
    env = Unbounded(4)
    config = ppo.Config(psi="vtrace", rows=16, lanes=4, steps=1, epochs=3, minibatch=64, log_std=-3.0, lr=0.3)
    run = Run(config, env)
    ppo.train(config, env, run)
    assert run.metrics[0]["approx_kl"] > 100  # so the ratio of some is 0 in float32


# --- options


@pytest.mark.parametrize("psi", ["total_return", "reward_to_go"])
def test_reinforce_without_a_critic_has_one_net_and_no_value_to_learn(psi, monkeypatch):
    config = reinforce.Config(psi=psi, critic=False, **ONE)
    diary, policy = spied(reinforce, monkeypatch, config)
    # A whole episode's return or what is left of it; an episode that is cut by the batch is played to its end.
    x, a, weight, _, _, where = batch(diary, len(diary), lambda x: np.zeros((len(x), 1)), config)
    last = [next(t for t in range(ROWS - 1, len(diary)) if diary[t][3][n] or diary[t][4][n]) for n in range(LANES)]
    keep = np.array([t <= last[n] for t, n in where])
    x, a, weight = x[keep], a[keep], weight[keep]
    weight = (weight - weight.mean()) / weight.std(ddof=1)
    assert_gradient(lambda p: -np.mean(taken(p, x, a) * weight), policy.at[0], policy.grad[0])
    run = Run(config, Toy(LANES))
    reinforce.train(config, Toy(LANES), run)
    assert "value_loss" not in run.metrics[0]


@pytest.mark.parametrize("psi", ["baselined", "q", "gae", "td_residual"])
def test_reinforce_without_a_critic_refuses_the_psi_that_need_one(psi):
    with pytest.raises(ValueError, match=f"psi is '{psi}', which needs a critic"):
        reinforce.Config(psi=psi, critic=False)


@pytest.mark.parametrize("algo", [reinforce, trpo])
def test_a_shared_trunk_is_refused_where_policy_and_value_move_apart(algo):
    with pytest.raises(ValueError, match="shared_trunk is True"):
        algo.Config(shared_trunk=True)


@pytest.mark.parametrize(
    ("algo", "words", "change"),
    [
        (ppo, "dual_clip is 1; wanted a number above 1", {"dual_clip": 1}),
        (ppo, "target_kl is 0; wanted a number above 0", {"target_kl": 0}),
        (ppo, "clip_schedule is 'cosine'", {"clip_schedule": "cosine"}),
        (ppo, "normalise_advantage is True; wanted one of none, batch, minibatch", {"normalise_advantage": True}),
        (a2c, "huber is -1", {"huber": -1}),
        (trpo, "shrink is 1; wanted a number between 0 and 1", {"shrink": 1}),
        (trpo, "max_kl is 0", {"max_kl": 0}),
        (trpo, "damping is -1", {"damping": -1}),
    ],
)
def test_options_that_cannot_be_are_named(algo, words, change):
    with pytest.raises(ValueError, match=words):
        algo.Config(**change)


@pytest.mark.parametrize("algo", [ppo, grpo])
def test_an_update_ends_once_kl_is_above_its_target(algo):
    def gradients(target_kl):
        config = small(algo, target_kl=target_kl, lanes=4, rows=32, epochs=4, steps=1, lr=0.01)
        stepped, looked_at, loss = [], [], fastpg.policy_loss

        def spy(*args, **options):
            looked_at.append(args)
            return loss(*args, **options)

        class Counted(Spy):
            def step(self, grad, lr):
                stepped.append(lr)
                super().step(grad, lr)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(algo, "Adam", Counted)
            patch.setattr(Spy, "made", [])
            patch.setattr(fastpg, "policy_loss", spy)
            algo.train(config, Toy(4))
            return len(looked_at), len(stepped) // len(Spy.made)

    (looked_at, stepped), everything = gradients(1e-12), gradients(None)
    assert looked_at == stepped + 1 and 1 <= stepped < everything[1]
    assert everything == gradients(1e9) and everything[0] == everything[1]


def test_an_update_of_compiled_epochs_ends_once_kl_is_above_its_target(monkeypatch):
    steps, epoch = [], PPOEpoch.__call__

    def spied_epoch(self, *args):
        result = epoch(self, *args)
        steps.append(result[-1])
        return result

    monkeypatch.setattr(PPOEpoch, "__call__", spied_epoch)
    config = small(ppo, target_kl=1e-7, lanes=4, rows=32, epochs=4, minibatch=32, steps=1, lr=0.01)
    run = Run(config, Toy(4))
    ppo.train(config, Toy(4), run)
    assert steps == [1] and run.metrics[-1]["gradients"] == 1


@pytest.mark.parametrize(("algo", "compiled"), [(ppo, True), (ppo, False), (grpo, False)])
@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_clip_and_entropy_weight_follow_their_schedules(algo, compiled, schedule, monkeypatch):
    clips, bonuses = [], []
    loss, entropy_grad, epoch = fastpg.policy_loss, Categorical.entropy_grad, PPOEpoch.__call__

    def spied_epoch(self, *args):
        *_, clip, entropy_weight, _, _ = args
        clips.append((clip, clip))
        bonuses.append(entropy_weight)
        return epoch(self, *args)

    def spy(*args, **options):
        clips.append((options["clip_low"], options["clip_high"]))
        return loss(*args, **options)

    def bonus(self, z, extra, weight):
        bonuses.append(-weight.sum())
        return entropy_grad(self, z, extra, weight)

    monkeypatch.setattr(fastpg, "policy_loss", spy)
    monkeypatch.setattr(Categorical, "entropy_grad", bonus)
    monkeypatch.setattr(PPOEpoch, "__call__", spied_epoch)
    monkeypatch.setattr(PPOEpoch, "serves", lambda *_: compiled)
    batches = {"minibatch": 32} if algo is ppo else {"group": 2, "minibatches": 1}
    schedules = {"clip_schedule": schedule, "entropy_schedule": schedule}
    config = algo.Config(lanes=4, rows=8, steps=32 * 5, epochs=1, entropy_weight=0.5, **batches, **schedules)
    run = Run(config, Toy(4))
    algo.train(config, Toy(4), run)
    left = [1 - s / 160 if schedule == "linear" else 1 for s in [0, *(row["steps"] for row in run.metrics)][:-1]]
    assert np.allclose(clips, [(0.2 * part, 0.2 * part) for part in left])
    assert bonuses == pytest.approx([0.5 * part for part in left], rel=1e-5)


@pytest.mark.parametrize("algo", [ppo, reinforce, a2c, trpo])
def test_estimates_are_of_scaled_rewards_where_that_is_asked_for(algo, monkeypatch):
    seen = []
    psi = fastpg.psi

    def spy(kind, reward, *rest):
        seen.append(np.array(reward))
        return psi(kind, reward, *rest)

    monkeypatch.setattr(fastpg, "psi", spy)
    env = Toy(4)
    config = algo.Config(psi="gae", normalise_reward=True, rows=16, lanes=4, steps=128, gamma=0.9)
    algo.train(config, env)
    scale = fastpg.RunningReturnScale(4, 0.9, clip=10.0, convention="gymnasium_same_step")
    start = 0
    for reward in seen:
        rows = env.diary[start : start + len(reward)]
        start += len(reward)
        if algo is reinforce:
            scale.reset()
        expected = scale(*(np.array([row[k] for row in rows]) for k in (2, 3, 4)))
        np.testing.assert_array_equal(reward, expected)
    assert len(seen) > 1


@pytest.mark.parametrize("algo", ALGOS)
def test_observations_are_normalised_by_what_was_seen_before_the_update(algo):
    env = Toy(4)
    config = small(algo, normalise_observation=True, rows=16, lanes=4, steps=200)
    agent = algo.train(config, env)
    seen = np.concatenate([row[0] for row in env.diary]).astype(np.float64)
    # REINFORCE and GRPO count what they learn from.
    tolerance = 1e-5 if algo not in (reinforce, grpo) else 0.3
    np.testing.assert_allclose(agent.normaliser.shift, seen.mean(axis=0), atol=tolerance)
    np.testing.assert_allclose(agent.normaliser.scale, 1 / seen.std(axis=0), rtol=tolerance)


@pytest.mark.parametrize("algo", ALGOS)
def test_gradients_are_no_longer_than_max_norm(algo, monkeypatch):
    config = small(algo, lanes=4, rows=16, steps=200, max_norm=0.01)
    _, *nets = spied(algo, monkeypatch, config)
    norms = [np.linalg.norm(grad) for net in nets for grad in net.grad]
    assert max(norms) == pytest.approx(0.01, rel=1e-4)


@pytest.mark.parametrize("algo", ALGOS)
def test_the_agent_is_the_one_that_the_options_describe(algo):
    options = {"hidden": (7, 6), "activation": "relu", "normalise_observation": True, "log_std": -1.0}
    agent = algo.train(small(algo, lanes=4, rows=16, steps=1, **options), Toy(4))
    assert agent.options == AgentOptions(**options)
    assert [net.sizes for net in agent.nets.values()][0] == (3, 7, 6, 3) and agent.policy.activation == "relu"


@pytest.mark.parametrize("algo", ALGOS)
def test_an_agent_of_ones_own_is_trained_in_place(algo):
    agent = Agent(3, Discrete(3), (4,), np.random.default_rng(9), critic=algo is not grpo)
    before = agent.policy.parameter.copy()
    assert algo.train(small(algo, lanes=4, rows=16, steps=1), Toy(4), agent=agent) is agent
    assert not np.array_equal(agent.policy.parameter, before)


@pytest.mark.parametrize("algo", ALGOS)
def test_a_resumed_run_has_all_that_is_kept_between_updates(algo, tmp_path):
    options = {"normalise_observation": True, **({} if algo is grpo else {"normalise_reward": True})}
    options |= {"shared_trunk": True, "psi": "vtrace"} if algo in (ppo, a2c) else {}
    config = small(algo, lanes=4, rows=32, steps=2000, **options)

    def trained(folder, *listeners, resume=False):
        folder.mkdir(exist_ok=True)
        env = make("fastpg/CartPole-v1", 4)
        return algo.train(config, env, Run(config, env, folder, *listeners, resume=resume))

    def stop(row):
        if row["steps"] >= 900:
            raise KeyboardInterrupt

    whole = trained(tmp_path / "whole").state()
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "half", stop)
    again = trained(tmp_path / "half", resume=True).state()
    assert {name: array.tobytes() for name, array in whole.items()} == {n: a.tobytes() for n, a in again.items()}


# --- learning, in every space


class Aim:
    """One step an episode: the reward is how near the action comes to what the observation asks for, at most 0."""

    id, observation_size, reward_threshold = "Aim-v0", 2, None

    def __init__(self, space, lanes, seed=0):
        self.action_space, self.lanes, self.rng = space, lanes, np.random.default_rng(seed)

    def reset(self, *, seed=None):
        self.now = self.rng.choice([-1, 1], (self.lanes, 2)).astype(np.float32)
        return self.now, {}

    def step(self, action):
        asked = self.now > 0
        if isinstance(self.action_space, Box):
            miss = (action - np.where(asked, 2.0, 0.5)) ** 2
        elif isinstance(self.action_space, Discrete):
            miss = (action != asked @ [1, 2])[:, None]
        else:
            miss = action != asked
        final, ended = self.now, np.ones(self.lanes, bool)
        self.reset()
        return self.now, -miss.mean(axis=1), ended, ~ended, {"final_obs": final}

    def close(self):
        pass


BOX = Box((-1.0, -1.0), (3.0, 3.0))


@pytest.mark.parametrize(
    ("space", "options"),
    [
        (Discrete(4), {}),
        (Discrete(4), {"shared_trunk": True, "activation": "relu"}),
        (MultiDiscrete((2, 2)), {}),
        (MultiBinary(2), {}),
        (BOX, {"log_std": -0.5}),
        (BOX, {"state_std": True}),
        (BOX, {"distribution": "squashed_gaussian"}),
        (BOX, {"distribution": "beta", "normalise_observation": True}),
    ],
)
def test_ppo_learns_to_aim_in_every_space(space, options):
    config = ppo.Config(lanes=64, rows=4, epochs=8, minibatch=64, steps=15_000, lr=3e-3, **options)
    run = Run(config, Aim(space, 64))
    agent = ppo.train(config, Aim(space, 64), run)
    assert run.metrics[0]["mean_return"] < -0.4
    assert evaluate(agent, Aim(space, 20), 200).mean() > -0.05


@pytest.mark.parametrize("algo", [reinforce, a2c, trpo])
def test_the_others_learn_to_aim_with_real_actions(algo):
    rate = {} if algo is trpo else {"lr": 1e-2}
    config = algo.Config(lanes=64, rows=1, steps=30_000, distribution="squashed_gaussian", log_std=-0.5, **rate)
    assert evaluate(algo.train(config, Aim(BOX, 64)), Aim(BOX, 20), 200).mean() > -0.1
