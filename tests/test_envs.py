"""The built-in CartPole against Gymnasium's, number for number; what make_env chooses."""

from __future__ import annotations

import numpy as np
import pytest

from fastpg import adapters, envs
from fastpg.adapters.gymnasium import make
from fastpg.envs.cartpole import THETA_MOST, advance
from fastpg.envs.spaces import Discrete
from fastpg.envs.streams import uniform

gym = pytest.importorskip("gymnasium")

CARTPOLE = "fastpg/CartPole-v1"
NO_STREAM = np.zeros(4, np.uint64)


def steer(observation, rng, careless):
    """Balances the pole for long; lanes in `careless` act at random two times in three and fall."""
    x, x_dot, theta, theta_dot = observation.astype(np.float64).T
    action = (theta + 0.5 * theta_dot + 0.05 * x + 0.1 * x_dot > 0).astype(np.int64)
    dice = careless & (rng.random(len(action)) < 2 / 3)
    return np.where(dice, rng.integers(0, 2, len(action)), action)


def test_cartpole_equals_gymnasium_over_thousands_of_steps_and_across_resets():
    ours, theirs = envs.make(CARTPOLE, 4), [gym.make("CartPole-v1") for _ in range(4)]
    observation, _ = ours.reset(seed=7)
    assert np.array_equal(observation, [env.reset(seed=7 + n)[0] for n, env in enumerate(theirs)])
    rng, careless = np.random.default_rng(0), np.array([True, False, True, False])
    fell = timed_out = 0
    for _ in range(2000):
        action = steer(observation, rng, careless)
        observation, reward, terminated, truncated, info = ours.step(action)
        for n, env in enumerate(theirs):
            after, *told, _ = env.step(int(action[n]))
            assert np.array_equal(info["final_obs"][n], after)
            assert told == [reward[n], terminated[n], truncated[n]]
            if terminated[n] or truncated[n]:
                after, _ = env.reset()
            assert np.array_equal(observation[n], after)
            assert np.array_equal(ours.states[n], env.unwrapped.state)  # float64, every bit
        fell, timed_out = fell + terminated.sum(), timed_out + truncated.sum()
    assert fell > 5 and timed_out > 5


def test_one_step_equals_gymnasium_from_any_state():
    theirs = gym.make("CartPole-v1").unwrapped
    theirs.reset(seed=0)
    rng = np.random.default_rng(1)
    ends = 0
    for _ in range(2000):
        state = rng.uniform([-2.5, -4, -0.22, -4], [2.5, 4, 0.22, 4])
        action = int(rng.integers(2))
        theirs.state, theirs.steps_beyond_terminated = state.copy(), None
        _, _, terminated, _, _ = theirs.step(action)
        assert advance(state, action, NO_STREAM) == (1.0, terminated)
        assert np.array_equal(state, theirs.state)
        ends += terminated
    assert 100 < ends < 1900


def test_the_border_itself_is_not_beyond_the_border():
    beyond = np.nextafter(2.4, 3)
    for x, theta, ends in ((2.4, 0, False), (beyond, 0, True), (0, THETA_MOST, False), (0, -0.2095, True)):
        assert advance(np.array([x, 0.0, theta, 0.0]), 0, NO_STREAM) == (1.0, ends)


def test_reset_stream_is_numpys_pcg64():
    for seed in (0, 1, 2**40):
        bits = np.random.PCG64(seed).state["state"]
        words = [bits["state"] >> 64, bits["state"] % 2**64, bits["inc"] >> 64, bits["inc"] % 2**64]
        stream = np.array(words, np.uint64)
        assert [uniform(stream) for _ in range(500)] == np.random.default_rng(seed).random(500).tolist()


def test_a_fall_in_the_last_allowed_step_sets_both_flags():
    env = envs.make(CARTPOLE, 1)
    env.reset(seed=0)
    env.elapsed[:] = 499
    env.states[0] = [0, 0, THETA_MOST, 5]
    _, _, terminated, truncated, _ = env.step(np.array([0]))
    assert terminated[0] and truncated[0] and env.elapsed[0] == 0


def test_equal_seeds_give_equal_episodes_and_lanes_are_independent():
    wide, again, narrow = envs.make(CARTPOLE, 3), envs.make(CARTPOLE, 3), envs.make(CARTPOLE, 1)
    a, b, c = (env.reset(seed=s)[0] for env, s in ((wide, 5), (again, 5), (narrow, 7)))
    assert np.array_equal(a, b) and np.array_equal(a[2:], c)  # lane 2 of seed 5 is lane 0 of seed 7
    action = np.array([0, 1, 1])
    for _ in range(300):
        a, b, c = wide.step(action)[0], again.step(action)[0], narrow.step(action[2:])[0]
        assert np.array_equal(a, b) and np.array_equal(a[2:], c)
    assert not np.array_equal(wide.reset()[0], wide.reset()[0])
    assert not np.array_equal(envs.make(CARTPOLE, 1).reset()[0], envs.make(CARTPOLE, 1).reset()[0])


def test_step_results_are_not_overwritten_by_later_steps():
    env = envs.make(CARTPOLE, 2)
    env.reset(seed=0)
    first = env.step(np.array([0, 1]))
    kept = first[0].copy(), first[4]["final_obs"].copy()
    env.step(np.array([1, 1]))
    assert np.array_equal(first[0], kept[0]) and np.array_equal(first[4]["final_obs"], kept[1])


@pytest.mark.parametrize(
    ("words", "action"),
    [("0 to 1", [0, 2]), ("0 to 1", [-1, 0]), ("shape", [0]), ("integers", [0.0, 1.0]), ("shape", [[0, 1]])],
)
def test_cartpole_refuses_bad_actions(words, action):
    env = envs.make(CARTPOLE, 2)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=words):
        env.step(np.array(action))


def test_cartpole_refuses_a_step_before_reset():
    with pytest.raises(RuntimeError, match="before reset"):
        envs.make(CARTPOLE, 1).step(np.array([0]))


@pytest.mark.parametrize("id", ["fastpg/CartPole-v1", "CartPole-v1"])
def test_make_env_gives_the_same_interface_for_both_kinds(id):
    env = adapters.make_env(id, 3)
    assert (env.id, env.lanes, env.observation_size, env.action_space, env.reward_threshold) == (
        id,
        3,
        4,
        Discrete(2),
        475.0,
    )
    observation, _ = env.reset(seed=0)
    assert observation.shape == (3, 4) and observation.dtype == np.float32
    observation, reward, terminated, truncated, info = env.step(np.array([0, 1, 0]))
    assert observation.shape == info["final_obs"].shape == (3, 4) and info["final_obs"].dtype == np.float32
    assert reward.shape == (3,) and terminated.dtype == truncated.dtype == np.bool_
    env.close()


def test_unknown_built_in_id_is_refused():
    with pytest.raises(ValueError, match="id is 'fastpg/Nope'; built in: fastpg/CartPole-v1"):
        adapters.make_env("fastpg/Nope")
    with pytest.raises(ValueError, match="lanes is 0"):
        envs.make("fastpg/CartPole-v1", 0)


def test_a_missing_extra_is_named_with_its_remedy(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(ImportError, match=r'gymnasium is not installed: pip install "fastpg\[train\]"'):
        adapters.make_env("CartPole-v1")


def test_built_in_environments_take_a_time_limit_and_name_what_they_do_not_take():
    env = adapters.make_env(CARTPOLE, 2, max_episode_steps=3)
    env.reset(seed=0)
    assert [env.step(np.array([0, 1]))[3].tolist() for _ in range(6)] == [[t in (2, 5)] * 2 for t in range(6)]
    with pytest.raises(ValueError, match="max_episode_steps is 0; wanted an integer of 1 or more"):
        adapters.make_env(CARTPOLE, 2, max_episode_steps=0)
    with pytest.raises(TypeError, match="fastpg/FrozenLake-v1 takes no is_slippery.*fastpg/FrozenLakeNotSlippery-v1"):
        adapters.make_env("fastpg/FrozenLake-v1", 2, is_slippery=False)


@pytest.mark.parametrize("id", ["fastpg/CartPole-v1", "CartPole-v1"])
def test_seeds_may_be_numpy_integers_and_arrays(id):
    env = adapters.make_env(id, 2)
    start = lambda seed: env.reset(seed=seed)[0].tolist()  # noqa: E731
    assert start(np.int64(4)) == start(np.array([4, 5])) == start(range(4, 6)) == start(4) != start([4, 4])
    vector = make(gym.make_vec("CartPole-v1", 2, vectorization_mode="sync"))
    assert vector.reset(seed=np.int64(4))[0].tolist() == vector.reset(seed=np.array([4, 5]))[0].tolist() == start(4)


@pytest.mark.parametrize("seed", [-1, 1.5, "7", True, [0, -1], [0.0, 1.0], [[0], [1]]], ids=str)
@pytest.mark.parametrize("id", ["fastpg/CartPole-v1", "CartPole-v1"])
def test_what_is_no_seed_is_refused(id, seed):
    with pytest.raises(ValueError, match="seed is .*; wanted an integer of 0 or more, or one for each lane"):
        adapters.make_env(id, 2).reset(seed=seed)


@pytest.mark.parametrize("lanes", [0, -1, 2.0, "2", True], ids=repr)
@pytest.mark.parametrize("id", ["fastpg/CartPole-v1", "CartPole-v1"])
def test_what_is_no_number_of_lanes_is_refused(id, lanes):
    with pytest.raises(ValueError, match=f"lanes is {lanes!r}; wanted an integer of 1 or more"):
        adapters.make_env(id, lanes)
