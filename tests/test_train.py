"""Training: each loop's gradient against finite differences of its objective, and what a run leaves behind."""

from __future__ import annotations

import dataclasses
import json
from typing import get_args, get_type_hints

import numpy as np
import pytest

import fastpg
from fastpg import nets
from fastpg.envs import make
from fastpg.envs.spaces import Discrete
from fastpg.train import a2c, grpo, ppo, reinforce, trpo
from fastpg.train.agent import Agent
from fastpg.train.run import Run, create_folder, evaluate, load

ALGOS = [ppo, reinforce, a2c, trpo, grpo]


def small(algo, **options):
    """A Config for a few lanes."""
    return algo.Config(**({"group": 2, "minibatches": 2} if algo is grpo else {}), **options)


class Toy:
    """Random observations, rewards and endings of both kinds, and a diary of all that happened."""

    id, observation_size, action_space, reward_threshold = "Toy-v0", 3, Discrete(3), 475.0

    def __init__(self, lanes, seed=0):
        self.lanes, self.rng = lanes, np.random.default_rng(seed)
        self.diary = []  # rows of (observation, action, reward, terminated, truncated, final)
        self.resets = []  # rows before each reset
        self.seeds = []  # of each reset

    def _observe(self):
        return self.rng.standard_normal((self.lanes, 3)).astype(np.float32)

    def reset(self, *, seed=None):
        self.resets.append(len(self.diary))
        self.seeds.append(seed)
        self.now = self._observe()
        return self.now, {}

    def step(self, action):
        kind = self.rng.choice(4, self.lanes, p=[0.75, 0.1, 0.1, 0.05])
        terminated, truncated = (kind == 1) | (kind == 3), kind >= 2
        reward = self.rng.standard_normal(self.lanes)
        final = self._observe()
        self.diary.append((self.now, action.copy(), reward.astype(np.float32), terminated, truncated, final))
        self.now = np.where((terminated | truncated)[:, None], self._observe(), final)
        return self.now, reward, terminated, truncated, {"final_obs": final}

    def close(self):
        pass


class Spy(nets.Adam):
    """In place of Adam: keeps gradient and parameter of each step, then moves the parameter a little its own way."""

    made: list = []

    def __init__(self, parameter, **_):
        self.parameter, self.rng = parameter, np.random.default_rng(len(self.made))
        self.grad, self.at = [], []
        self.made.append(self)

    def step(self, grad, lr):
        self.grad.append(grad.copy())
        self.at.append(self.parameter.copy())
        self.parameter += 0.1 * self.rng.standard_normal(len(self.parameter)).astype(np.float32)


def spied(algo, monkeypatch, config, seed=0):
    monkeypatch.setattr(algo, "Adam", Spy)
    monkeypatch.setattr(Spy, "made", [])
    env = Toy(config.lanes, seed)
    algo.train(config, env)
    return env.diary, *Spy.made


def net_at(sizes, parameter):
    net = nets.MLP(sizes, rng=np.random.default_rng(0), dtype=np.float64)
    net.parameter[:] = parameter
    return lambda x: net.forward(np.asarray(x, np.float64)).copy()


def log_softmax(z):
    z = z - z.max(axis=1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


def estimate(kind, r, v, after, terminated, gamma, lambda_):
    """Psi and the lambda-return of one whole or cut episode, from the definitions: sums, no recursion."""
    T = len(r)
    bootstrap = 0.0 if terminated else gamma**T * after[-1]
    delta = [r[t] + gamma * (0.0 if terminated and t == T - 1 else after[t]) - v[t] for t in range(T)]
    to_go = [sum(gamma ** (k - t) * r[k] for k in range(t, T)) + bootstrap / gamma**t for t in range(T)]
    total = sum(gamma**k * r[k] for k in range(T))
    gae = [sum((gamma * lambda_) ** (k - t) * delta[k] for k in range(t, T)) for t in range(T)]
    q = [g + w for g, w in zip(gae, v, strict=True)]
    psi = {
        "total_return": [total] * T,
        "reward_to_go": to_go,
        "baselined": [g - w for g, w in zip(to_go, v, strict=True)],
        "q": q,
        "gae": gae,
        "td_residual": delta,
    }[kind]
    return psi, q, to_go


def episodes(diary, rows):
    """(lane, first, last) of every episode in these rows, the cut ones too."""
    for n in range(len(diary[0][1])):
        first = 0
        for t in range(rows):
            if diary[t][3][n] or diary[t][4][n] or t == rows - 1:
                yield n, first, t
                first = t + 1


def batch(diary, rows, value, config):
    """Flat x, action, psi, q, reward-to-go, (t, n) of the first `rows` steps."""
    out = []
    for n, first, last in episodes(diary, rows):
        span = range(first, last + 1)
        v = value([diary[t][0][n] for t in span])[:, 0]
        after = value([diary[t][5][n] for t in span])[:, 0]
        r = [float(diary[t][2][n]) for t in span]
        psis = estimate(config.psi, r, v, after, diary[last][3][n], config.gamma, config.lambda_)
        out += [(diary[t][0][n], diary[t][1][n], *(p[t - first] for p in psis), (t, n)) for t in span]
    x, a, psi, q, to_go, where = (list(column) for column in zip(*out, strict=True))
    return np.array(x), np.array(a), np.array(psi), np.array(q), np.array(to_go), where


def assert_gradient(loss, parameter, grad, seed=0):
    """grad is the derivative of loss at parameter along random directions and along itself."""
    rng = np.random.default_rng(seed)
    parameter, grad = parameter.astype(np.float64), grad.astype(np.float64)
    for direction in [grad / np.linalg.norm(grad), *rng.standard_normal((5, len(grad)))]:
        h = 1e-5
        difference = (loss(parameter + h * direction) - loss(parameter - h * direction)) / (2 * h)
        assert grad @ direction == pytest.approx(difference, rel=2e-3, abs=1e-4 * np.linalg.norm(grad))


@pytest.mark.parametrize("psi", fastpg.PSI)
@pytest.mark.parametrize("normalise", ["none", "batch", "minibatch"])
def test_ppo_descends_the_clipped_objective(psi, normalise, monkeypatch):
    rows, lanes = 24, 4
    config = ppo.Config(
        psi=psi,
        normalise_advantage=normalise,
        rows=rows,
        lanes=lanes,
        steps=rows * lanes,
        minibatch=rows * lanes,
        epochs=3,
        entropy_weight=0.1,
        max_norm=1e9,
        clip=0.1,
        clip_schedule="constant",
        gamma=0.9,
        lambda_=0.7,
        hidden=(8,),
    )
    diary, policy, value = spied(ppo, monkeypatch, config)
    assert len(diary) == rows and len(policy.grad) == 3
    start = net_at((3, 8, 3), policy.at[0])
    x, a, psi_, target, _, _ = batch(diary, rows, net_at((3, 8, 1), value.at[0]), config)
    A = psi_ if normalise == "none" else (psi_ - psi_.mean()) / psi_.std(ddof=1)
    row = np.arange(len(a))
    old = log_softmax(start(x))[row, a]

    def policy_loss(parameter):
        log_pi = log_softmax(net_at((3, 8, 3), parameter)(x))
        ratio = np.exp(log_pi[row, a] - old)
        surrogate = np.minimum(ratio * A, np.clip(ratio, 0.9, 1.1) * A)
        entropy = -(np.exp(log_pi) * log_pi).sum(axis=1)
        return -surrogate.mean() - 0.1 * entropy.mean()

    def value_loss(parameter):
        return 0.5 * np.mean((net_at((3, 8, 1), parameter)(x)[:, 0] - target) ** 2)

    ratio = np.exp(log_softmax(net_at((3, 8, 3), policy.at[2])(x))[row, a] - old)
    assert 0.1 < np.mean(abs(ratio - 1) > 0.1) < 0.95  # clipped and unclipped rows both take part
    for k in range(3):
        assert_gradient(policy_loss, policy.at[k], policy.grad[k])
        assert_gradient(value_loss, value.at[k], value.grad[k])


@pytest.mark.parametrize("psi", fastpg.PSI)
@pytest.mark.parametrize("normalise", [True, False])
def test_reinforce_descends_log_prob_times_psi_over_whole_episodes(psi, normalise, monkeypatch):
    config = reinforce.Config(
        psi=psi,
        normalise_advantage=normalise,
        rows=12,
        longest=100,
        lanes=4,
        steps=1,
        value_epochs=2,
        entropy_weight=0.1,
        max_norm=1e9,
        gamma=0.9,
        lambda_=0.7,
        hidden=(8,),
    )
    diary, policy, value = spied(reinforce, monkeypatch, config)
    # A lane plays on until the first ending in row 11 or later, and no row after it counts.
    last = [next(t for t in range(11, len(diary)) if diary[t][3][n] or diary[t][4][n]) for n in range(4)]
    assert len(diary) == max(last) + 1 and min(last) < max(last)
    x, a, psi_, _, target, where = batch(diary, len(diary), net_at((3, 8, 1), value.at[0]), config)
    keep = np.array([t <= last[n] for t, n in where])
    assert 0 < keep.sum() < len(keep)
    x, a, psi_, target = x[keep], a[keep], psi_[keep], target[keep]
    weight = (psi_ - psi_.mean()) / psi_.std(ddof=1) if normalise else psi_

    def policy_loss(parameter):
        log_pi = log_softmax(net_at((3, 8, 3), parameter)(x))
        entropy = -(np.exp(log_pi) * log_pi).sum(axis=1)
        return -np.mean(log_pi[np.arange(len(a)), a] * weight) - 0.1 * entropy.mean()

    def value_loss(parameter):
        return 0.5 * np.mean((net_at((3, 8, 1), parameter)(x)[:, 0] - target) ** 2)

    assert_gradient(policy_loss, policy.at[0], policy.grad[0])
    for k in range(2):
        assert_gradient(value_loss, value.at[k], value.grad[k])


def test_reinforce_counts_whole_episodes_and_every_step(monkeypatch):
    config = reinforce.Config(rows=4, longest=50, lanes=3, steps=60)
    env = Toy(3)
    run = Run(config, env)
    reinforce.train(config, env, run)
    assert run.steps == 3 * len(env.diary) and len(env.resets) > 3
    returns = []
    for start, stop in zip(env.resets[1:], [*env.resets[2:], len(env.diary)], strict=True):
        for n, first, last in episodes(env.diary[start:stop], stop - start):
            rows = env.diary[start + first : start + last + 1]
            # The last episode of a lane begins before row 4; what the lane does while others finish is dropped.
            whole = rows[-1][3][n] or rows[-1][4][n]
            if whole and not any(d[3][n] or d[4][n] for d in env.diary[start + 3 : start + first]):
                returns.append(sum(float(row[2][n]) for row in rows))
    assert run.episodes == len(returns) < 100
    assert run.mean_return == pytest.approx(np.mean(returns), rel=1e-5)


def test_reinforce_bootstraps_where_the_longest_episode_is_cut(monkeypatch):
    config = reinforce.Config(
        psi="reward_to_go",
        normalise_advantage=False,
        rows=2,
        longest=2,
        lanes=6,
        steps=1,
        value_epochs=1,
        max_norm=1e9,
        gamma=0.9,
        hidden=(8,),
    )
    diary, _, value = spied(reinforce, monkeypatch, config)
    assert len(diary) == 2
    x, _, _, _, target, _ = batch(diary, 2, net_at((3, 8, 1), value.at[0]), config)

    def loss(parameter):
        return 0.5 * np.mean((net_at((3, 8, 1), parameter)(x)[:, 0] - target) ** 2)

    assert_gradient(loss, value.at[0], value.grad[0])


@pytest.mark.parametrize("algo", ALGOS)
def test_annealing_is_linear_to_zero_and_without_it_lr_stays(algo):
    for schedule in ("linear", "constant"):
        rate = {"value_lr" if algo is trpo else "lr": 0.5e-3}
        config = small(algo, rows=8, lanes=4, steps=32 * 5, lr_schedule=schedule, **rate)
        run = Run(config, Toy(4))
        algo.train(config, Toy(4), run)
        before = [0, *(row["steps"] for row in run.metrics)][:-1]
        expected = [0.5e-3 * (1 - s / 160) if schedule == "linear" else 0.5e-3 for s in before]
        assert [row["lr"] for row in run.metrics] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("algo", "steps"), [(ppo, 30_000), (reinforce, 100_000), (a2c, 120_000), (trpo, 40_000), (grpo, 300_000)]
)
def test_training_learns_cartpole(algo, steps):
    config = algo.Config(steps=steps)
    fresh = Agent(4, Discrete(2), config.hidden, np.random.default_rng(0))
    before = evaluate(fresh, make("fastpg/CartPole-v1", 20), 40, seed=1).mean()
    agent = algo.train(config, make("fastpg/CartPole-v1", config.lanes))
    after = evaluate(agent, make("fastpg/CartPole-v1", 20), 40, seed=1).mean()
    assert before < 150 < 250 < after


@pytest.mark.parametrize("algo", ALGOS)
def test_equal_seeds_give_equal_agents_and_other_seeds_others(algo):
    def trained(seed):
        config = algo.Config(seed=seed, steps=2000)
        return algo.train(config, make("fastpg/CartPole-v1", config.lanes)).policy.parameter

    first = trained(3)
    assert np.array_equal(first, trained(3))
    assert not np.array_equal(first, trained(4))


@pytest.mark.parametrize("algo", ALGOS)
def test_training_stops_at_the_target(algo):
    config = algo.Config(steps=100_000, stop_at=20.0)
    env = make("fastpg/CartPole-v1", config.lanes)
    run = Run(config, env)
    algo.train(config, env, run)
    assert run.mean_return >= 20 and 100 <= run.episodes and run.steps < 50_000


@pytest.mark.parametrize("algo", ALGOS)
def test_psi_choices_are_the_six_where_there_is_a_critic(algo):
    choices = {ppo: (*fastpg.PSI, "vtrace"), a2c: (*fastpg.PSI, "vtrace"), grpo: fastpg.PSI[:2]}.get(algo, fastpg.PSI)
    assert get_args(get_type_hints(algo.Config)["psi"]) == choices
    with pytest.raises(ValueError, match=f"psi is 'best'; wanted one of {', '.join(choices)}"):
        algo.Config(psi="best")


@pytest.mark.parametrize("algo", ALGOS)
@pytest.mark.parametrize(
    ("words", "change"),
    [
        ("gamma is 1.5", {"gamma": 1.5}),
        ("lambda_ is -0.1", {"lambda_": -0.1}),
        ("gamma is nan", {"gamma": float("nan")}),
        ("max_norm is 0", {"max_norm": 0}),
        ("max_norm is inf", {"max_norm": float("inf")}),
        ("max_norm is None", {"max_norm": None}),
        ("entropy_weight is -1", {"entropy_weight": -1}),
        ("lr_schedule is 'cosine'; wanted one of constant, linear", {"lr_schedule": "cosine"}),
        ("activation is 'gelu'; wanted one of tanh, relu", {"activation": "gelu"}),
        ("distribution is 'cauchy'; wanted one of gaussian", {"distribution": "cauchy"}),
        ("steps is 0", {"steps": 0}),
        ("lanes is -1", {"lanes": -1}),
        ("seed is -1", {"seed": -1}),
        ("hidden is", {"hidden": (64, 0)}),
    ],
)
def test_config_refuses_what_cannot_be(algo, words, change):
    with pytest.raises(ValueError, match=words):
        algo.Config(**change)


def test_a_checkpoint_holds_options_that_came_as_numpys_numbers(tmp_path):
    config = ppo.Config(hidden=(np.int64(8), np.int32(4)), log_std=np.float32(-0.5), rows=8, lanes=4, steps=1)
    ppo.train(config, Toy(4), Run(config, Toy(4), tmp_path))
    agent, _ = load(tmp_path)
    assert agent.hidden == (8, 4) and agent.options.log_std == -0.5


@pytest.mark.parametrize("algo", ALGOS)
def test_lanes_of_environment_and_config_must_agree(algo):
    with pytest.raises(ValueError, match=f"env has 3 lanes, but config.lanes is {algo.Config().lanes}"):
        algo.train(algo.Config(), Toy(3))


class Poison(Toy):
    """From one step on they earn so much that two of them are infinite in float32."""

    def step(self, action):
        observation, reward, *rest = super().step(action)
        if len(self.diary) >= 40:
            reward[:] = 3e38
        return observation, reward, *rest


@pytest.mark.parametrize("algo", ALGOS)
def test_a_loss_that_is_not_finite_stops_training_and_saves_finite_parameters(algo, tmp_path):
    config = small(algo, rows=16, lanes=4, steps=10_000)
    env = Poison(4)
    with (
        pytest.raises(FloatingPointError, match=r"the loss is .* at step \d+"),
        np.errstate(invalid="ignore", over="ignore"),
    ):
        algo.train(config, env, Run(config, env, tmp_path))
    agent, about = load(tmp_path)
    assert all(np.isfinite(array).all() for array in agent.state().values())
    # Of the last update that was finished; GRPO drops what is played after the first episodes.
    assert 0 < about["steps"] < (320 if algo is grpo else 160)


class Interrupted(Toy):
    """The user presses Ctrl-C in the hundredth step."""

    def step(self, action):
        if len(self.diary) == 99:
            raise KeyboardInterrupt
        return super().step(action)


@pytest.mark.parametrize("algo", ALGOS)
def test_an_interrupt_leaves_a_checkpoint(algo, tmp_path):
    config = small(algo, rows=16, lanes=4, steps=10_000)
    env = Interrupted(4)
    with pytest.raises(KeyboardInterrupt):
        algo.train(config, env, Run(config, env, tmp_path))
    agent, about = load(tmp_path)
    assert about["steps"] == json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["steps"] <= 99 * 4
    start = Agent(3, Discrete(3), config.hidden, np.random.default_rng(config.seed))
    assert not np.array_equal(agent.policy.parameter, start.policy.parameter)


def test_mean_return_and_solved_are_over_the_last_100_episodes():
    run = Run(ppo.Config(), Toy(1))
    one = np.array([[1.0]])
    for k in range(50):  # fifty episodes of return 0, one step each
        run.count(0 * one, one > 0)
        assert run.mean_return == 0 and run.episodes == k + 1
    for k in range(100):
        assert (run.solved_at_step is None) == (k < 95)
        run.count(250 * one, one < 0)
        run.count(250 * one, one > 0)
    # The mean of 100 first reaches 475 when 95 are 500 and 5 are 0.
    assert run.solved_at_step == 50 + 2 * 95
    assert run.mean_return == 500 and run.steps == 50 + 200
    assert run.reached(500) and not run.reached(500.1) and not run.reached(None)


def test_fewer_than_100_episodes_never_count_as_solved():
    run = Run(ppo.Config(), Toy(1))
    for _ in range(99):
        run.count(np.array([[500.0]]), np.array([[True]]))
    assert run.mean_return == 500 and run.solved_at_step is None and not run.reached(1)
    run.count(np.array([[500.0]]), np.array([[True]]))
    assert run.solved_at_step == 100


class Lengths(Toy):
    """Lane n's episodes have n + 1 steps of reward 1."""

    def reset(self, *, seed=None):
        self.t = np.zeros(self.lanes, int)
        return super().reset()

    def step(self, action):
        self.t += 1
        ended = self.t == np.arange(self.lanes) + 1
        self.t[ended] = 0
        return self._observe(), np.ones(self.lanes), ended, np.zeros(self.lanes, bool), {}


def test_evaluation_does_not_favour_short_episodes():
    agent = Agent(3, Discrete(3), (4,), np.random.default_rng(0))
    assert sorted(evaluate(agent, Lengths(3), 6)) == [1, 1, 2, 2, 3, 3]
    assert sorted(evaluate(agent, Lengths(3), 4)) == [1, 1, 2, 3]
    with pytest.raises(ValueError, match="episodes is 0"):
        evaluate(agent, Lengths(3), 0)
    with pytest.raises(ValueError, match="observations of 4 and Discrete"):
        evaluate(agent, make("fastpg/CartPole-v1"), 1)


def test_run_folder_holds_config_and_a_line_of_metrics_for_each_update(tmp_path):
    folder = create_folder(tmp_path, "fastpg/CartPole-v1", "ppo", 3)
    assert folder.parent == tmp_path and folder.name.startswith("fastpg-CartPole-v1-ppo-3-")
    assert create_folder(tmp_path, "fastpg/CartPole-v1", "ppo", 3) != folder
    config = ppo.Config(steps=256 * 3, rows=32, seed=3)
    env = make("fastpg/CartPole-v1", config.lanes)
    seen = []
    ppo.train(config, env, Run(config, env, folder, seen.append))
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert rows == seen and [row["steps"] for row in rows] == [256, 512, 768]
    assert {
        "seconds",
        "steps_per_second",
        "episodes",
        "mean_return",
        "policy_loss",
        "value_loss",
        "entropy",
        "approx_kl",
        "clip_fraction",
        "grad_norm",
        "lr",
    } < rows[0].keys()
    assert 0 < rows[0]["entropy"] <= np.log(2) + 1e-6 and rows[0]["approx_kl"] >= 0
    about = json.loads((folder / "config.json").read_text())
    assert about["algo"] == "ppo" and about["env"] == "fastpg/CartPole-v1"
    assert about["config"] == json.loads(json.dumps(dataclasses.asdict(config)))
