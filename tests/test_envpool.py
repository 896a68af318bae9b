"""EnvPool's environments: every row a step of EnvPool's own, none of them a reset, and none missing."""

from __future__ import annotations

import numpy as np
import pytest

import fastpg
from fastpg import adapters
from fastpg.adapters.gymnasium import make
from fastpg.envs.spaces import Box, Discrete

envpool = pytest.importorskip("envpool")
pytestmark = pytest.mark.filterwarnings("ignore:.*precision lowered")  # Gymnasium's, of EnvPool's float64 bounds

LANES = 3


def some_actions(space, steps):
    rng = np.random.default_rng(0)
    if isinstance(space, Discrete):
        return rng.integers(0, space.n, (steps, LANES))
    return rng.uniform(space.low, space.high, (steps, LANES, len(space.low))).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "steps", "options"),
    [
        ("CartPole-v1", 400, {}),
        ("CartPole-v1", 100, {"max_episode_steps": 12}),
        ("Acrobot-v1", 1100, {}),
        ("LunarLander-v3", 400, {}),
        ("LunarLanderContinuous-v3", 400, {}),
        ("FrozenLake-v1", 200, {}),
        ("Hopper-v4", 300, {}),
        ("HalfCheetah-v4", 250, {"max_episode_steps": 100}),
    ],
)
def test_rows_are_envpools_own_without_those_that_reset(name, steps, options):
    ours = adapters.make_env(f"envpool:{name}", LANES, **options)
    theirs = envpool.make_gymnasium(name, num_envs=LANES, seed=5, **options)
    flat = (lambda x: np.eye(16)[x]) if name == "FrozenLake-v1" else (lambda x: x.astype(np.float32))
    taken = some_actions(ours.action_space, steps)
    start, _ = ours.reset(seed=5)
    told = [ours.step(action) for action in taken]
    assert np.array_equal(start, flat(theirs.reset()[0]))

    at, over = np.zeros(LANES, int), np.zeros(LANES, bool)  # lanes of theirs fall behind by a step with each reset
    ends = 0
    while at.min() < steps:
        now = np.minimum(at, steps - 1)
        seen, reward, terminated, truncated, _ = theirs.step(taken[now, np.arange(LANES)])
        for n in np.flatnonzero(at < steps):
            if over[n]:
                assert np.array_equal(told[at[n] - 1][0][n], flat(seen)[n])
                over[n] = False
                continue
            row = told[at[n]]
            assert np.array_equal(row[4]["final_obs"][n], flat(seen)[n])
            assert (row[1][n], row[2][n], row[3][n]) == (reward[n], terminated[n], truncated[n])
            over[n] = terminated[n] or truncated[n]
            if not over[n]:
                assert np.array_equal(row[0][n], flat(seen)[n])
            ends += over[n]
            at[n] += 1
    assert ends >= 3


def test_final_observations_are_of_poles_that_fell_and_next_ones_of_poles_that_stand():
    env = adapters.make_env("envpool:CartPole-v1", 8)
    env.reset(seed=0)
    falls = 0
    for action in np.random.default_rng(0).integers(0, 2, (300, 8)):
        observation, _, terminated, truncated, info = env.step(action)
        x, theta = info["final_obs"][:, 0], info["final_obs"][:, 2]
        assert np.array_equal((np.abs(x) > 2.4) | (np.abs(theta) > 12 * np.pi / 180), terminated)
        assert not truncated.any()
        assert (np.abs(observation[terminated]) <= 0.05).all()
        assert np.array_equal(observation[~terminated], info["final_obs"][~terminated])
        falls += terminated.sum()
    assert falls > 50


def test_the_time_limit_truncates():
    env = adapters.make_env("envpool:CartPole-v1", 2, max_episode_steps=5)
    env.reset(seed=0)
    told = [env.step(np.array([t % 2, t % 2])) for t in range(10)]
    assert [row[3].tolist() for row in told] == [[t in (4, 9)] * 2 for t in range(10)]
    assert not any(row[2].any() for row in told)


def test_equal_seeds_give_equal_episodes_and_a_reset_without_one_gives_others():
    env, other = (adapters.make_env("envpool:CartPole-v1", LANES) for _ in range(2))
    taken = some_actions(env.action_space, 100)
    play = lambda env, seed: [env.reset(seed=seed)[0], *(env.step(a)[0] for a in taken)]  # noqa: E731
    first = play(env, 7)
    assert np.array_equal(first, play(env, [7, 8, 9])) and np.array_equal(first, play(env, 2**31 + 7))
    alike = env.reset(seed=[7, 7, 7])[0]
    assert np.array_equal(alike, [alike[0]] * LANES)
    assert np.array_equal(first, play(env, 7)) and np.array_equal(first, play(other, 7))
    assert not np.array_equal(first, play(env, 8)) and not np.array_equal(play(env, None), play(env, None))
    fresh = [adapters.make_env("envpool:CartPole-v1").reset()[0] for _ in range(2)]
    assert not np.array_equal(*fresh)


def test_name_spaces_and_threshold_are_known_before_a_pool_is_made():
    env = adapters.make_env("envpool:HalfCheetah-v4", 2)
    assert (env.id, env.lanes, env.observation_size) == ("envpool:HalfCheetah-v4", 2, 17)
    assert env.action_space == Box((-1.0,) * 6, (1.0,) * 6) and env.reward_threshold == 4800
    assert adapters.make_env("envpool:Pendulum-v1").reward_threshold is None
    with pytest.raises(RuntimeError, match="before reset"):
        env.step(np.zeros((2, 6), np.float32))
    env.reset(seed=0)
    env.close()
    with pytest.raises(RuntimeError, match="before reset"):
        env.step(np.zeros((2, 6), np.float32))


@pytest.mark.parametrize(
    ("allowed", "lanes", "options", "threads"),
    [(1, 4, {}, 1), (3, 4, {}, 3), (3, 2, {}, 2), (1, 4, {"num_threads": 2}, 2)],
)
def test_a_pool_has_the_threads_that_fastpg_may_use(allowed, lanes, options, threads):
    with fastpg.set_threads(allowed):
        env = adapters.make_env("envpool:CartPole-v1", lanes, **options)
    env.reset(seed=0)
    assert env._pool.config["num_threads"] == threads


def test_an_atari_game_shows_its_memory():
    env = adapters.make_env("envpool:Breakout-ram-v5", 2)
    assert (env.observation_size, env.action_space) == (128, Discrete(4))
    theirs = envpool.make_gymnasium("Breakout-v5", num_envs=2, seed=3)
    assert np.array_equal(env.reset(seed=3)[0], theirs.reset()[1]["ram"])
    assert np.array_equal(env.step(np.array([1, 2]))[0], theirs.step(np.array([1, 2]))[4]["ram"])


@pytest.mark.parametrize(
    ("error", "words", "call"),
    [
        (ValueError, "'envpool:HalfCheeta-v4', which EnvPool.*HalfCheetah-v4", lambda m: m("envpool:HalfCheeta-v4")),
        (ValueError, "'envpool:', which EnvPool does not have$", lambda m: m("envpool:")),
        (ValueError, "CartPole-v1 has no RAM", lambda m: m("envpool:CartPole-ram-v1")),
        (ValueError, "lanes is 0", lambda m: m("envpool:CartPole-v1", 0)),
        (ValueError, "takes no batch_size, seed: lanes", lambda m: m("envpool:CartPole-v1", 2, seed=1, batch_size=1)),
        (TypeError, "unexpected keyword argument 'nope'", lambda m: m("envpool:CartPole-v1", 2, nope=1)),
        (ValueError, "is a ready EnvPool", lambda m: make(envpool.make_gymnasium("CartPole-v1", num_envs=2))),
    ],
)
def test_what_envpool_cannot_run_is_refused(error, words, call):
    with pytest.raises(error, match=words):
        call(adapters.make_env)
