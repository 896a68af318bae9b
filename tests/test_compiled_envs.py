"""Every built-in environment against Gymnasium's, number for number."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fastpg import envs
from fastpg.envs import toy_text
from fastpg.envs.spaces import Box, Discrete

gym = pytest.importorskip("gymnasium")

TOY = [id for id in envs.IDS if any(name in id for name in ("Lake", "Cliff", "Taxi"))]
CLASSIC = [id for id in envs.IDS if id not in TOY]


def theirs(id):
    name = id.removeprefix("fastpg/")
    firm = name.replace("NotSlippery", "")
    try:
        return gym.make(firm, **({} if firm == name else {"is_slippery": False}))
    except gym.error.NameNotFound as error:
        pytest.skip(f"this Gymnasium has no {name}: {error}")


def states_of(id, rng, count):
    """States from all over, many of them at the borders, as ours keep them."""
    pi = math.pi
    if "CartPole" in id:
        return rng.uniform([-2.5, -4, -0.22, -4], [2.5, 4, 0.22, 4], (count, 4))
    if "Acrobot" in id:
        states = rng.uniform([-pi, -pi, -4 * pi, -9 * pi], [pi, pi, 4 * pi, 9 * pi], (count, 4))
        states[: count // 2, 2:] /= 20
        return states
    if "MountainCar" in id:
        states = rng.uniform([-1.2, -0.07], [0.6, 0.07], (count, 2))
        states[:200, 0], states[200:400, 0] = -1.2, rng.uniform(0.4, 0.55, 200)
        if "Continuous" not in id:
            return states
        states[count // 2 :] = states[count // 2 :].astype(np.float32)
        first = np.arange(count) < count // 2  # of its episode
        states[first, 1] = 0
        return np.column_stack([states, first])
    assert "Pendulum" in id
    return rng.uniform([-10, -8], [10, 8], (count, 2))


def actions_of(space, rng, count):
    if isinstance(space, Discrete):
        return rng.integers(0, space.n, count)
    assert isinstance(space, Box)
    width = 1.3 * np.array(space.high)  # a policy's action may lie outside of the box
    action = rng.uniform(-width, width, (count, len(width))).astype(np.float32)
    action[:40] = np.sign(action[:40]) * np.array(space.high, np.float32)
    return action


def put(env, id, state):
    env = env.unwrapped
    if "Continuous" in id:
        env.state = state[:2].copy() if state[2] else state[:2].astype(np.float32)
    elif id in TOY:
        env.s = int(state[0])
    else:
        env.state, env.steps_beyond_terminated = state.copy(), None


def seen(observation, size):
    return np.eye(size, dtype=np.float32)[observation] if isinstance(observation, int) else observation


@pytest.mark.parametrize("id", CLASSIC)
def test_one_step_equals_gymnasiums_from_any_state(id):
    count, rng, env = 4000, np.random.default_rng(1), theirs(id).unwrapped
    ours = envs.make(id, count)
    ours.reset(seed=0)
    states, action = states_of(id, rng, count), actions_of(ours.action_space, rng, count)
    ours.states[...] = states
    _, reward, terminated, truncated, info = ours.step(action)
    env.reset(seed=0)
    for n in range(count):
        put(env, id, states[n])
        observation, r, done, _, _ = env.step(int(action[n]) if action.ndim == 1 else action[n])
        assert observation.dtype == np.float32
        assert np.array_equal(info["final_obs"][n], observation), n
        assert (reward[n], terminated[n]) == (r, done), n
        if not done:
            assert np.array_equal(ours.states[n, : len(env.state)], env.state), n
    assert not truncated.any()
    assert terminated.any() == ("Pendulum" not in id) and not terminated.all()


@pytest.mark.parametrize("id", TOY)
def test_every_state_and_action_leads_where_gymnasiums_leads_with_the_same_chances(id):
    env, ours = theirs(id).unwrapped, envs.make(id)
    if "Lake" in id:
        table, start = toy_text.frozen_lake(toy_text.LAKES["8x8" if "8x8" in id else "4x4"], "Not" not in id)
    elif "Cliff" in id:
        table, start = toy_text.cliff_walking("Slippery" in id)
    else:
        table, start = toy_text.taxi()
    assert start == (env.initial_state_distrib).tolist()
    assert {s: dict(enumerate(actions)) for s, actions in enumerate(table)} == env.P
    assert (len(table), len(table[0])) == (ours.observation_size, ours.action_space.n)

    # And so do the compiled steps, from equal streams: lane n of ours draws what theirs draws after reset(seed=n).
    repeats = 5 if env.P[0][0][0][0] < 1 else 1
    pairs = np.array([(s, a) for s in range(len(table)) for a in range(len(table[0]))] * repeats)
    ours = envs.make(id, len(pairs))
    first, _ = ours.reset(seed=0)
    ours.states[:, 0] = pairs[:, 0]
    _, reward, terminated, _, info = ours.step(pairs[:, 1])
    for n, (state, action) in enumerate(pairs):
        begin, _ = env.reset(seed=n)
        assert first[n].argmax() == begin
        put(env, id, [state])
        observation, *told, _, _ = env.step(int(action))
        assert np.array_equal(info["final_obs"][n], seen(observation, len(table)))
        assert told == [reward[n], terminated[n]]


@pytest.mark.parametrize("id", envs.IDS)
def test_whole_episodes_of_equal_seeds_equal_gymnasiums(id):
    lanes, rng = 3, np.random.default_rng(2)
    ours, others = envs.make(id, lanes), [theirs(id) for _ in range(lanes)]
    observation, _ = ours.reset(seed=11)
    # NumPy takes cos and sin of Acrobot's first state, alone, in float32.
    near = 1e-7 if "Acrobot" in id else 0
    begin = [seen(env.reset(seed=11 + n)[0], ours.observation_size) for n, env in enumerate(others)]
    np.testing.assert_allclose(observation, begin, rtol=0, atol=near)
    ends = 0
    for _ in range(2100):
        action = actions_of(ours.action_space, rng, lanes)
        observation, reward, terminated, truncated, info = ours.step(action)
        for n, env in enumerate(others):
            after, *told, _ = env.step(int(action[n]) if action.ndim == 1 else action[n])
            assert np.array_equal(info["final_obs"][n], seen(after, ours.observation_size))
            assert told == [reward[n], terminated[n], truncated[n]]
            if terminated[n] or truncated[n]:
                after, _ = env.reset()
                np.testing.assert_allclose(observation[n], seen(after, ours.observation_size), rtol=0, atol=near)
                ends += 1
            else:
                assert np.array_equal(observation[n], info["final_obs"][n])
    assert ends >= 6 or "Cliff" in id  # that walk at random seldom reaches its end


@pytest.mark.parametrize("id", envs.IDS)
def test_time_limit_threshold_and_spaces_are_those_gymnasium_registers(id):
    ours, env = envs.make(id), theirs(id)
    limit = ours.longest if ours.longest < 2**60 else None
    assert (limit, ours.reward_threshold) == (env.spec.max_episode_steps, env.spec.reward_threshold)
    assert ours.observation_size == getattr(env.observation_space, "n", np.prod(env.observation_space.shape))
    if isinstance(ours.action_space, Discrete):
        assert ours.action_space.n == env.action_space.n
    else:
        assert [ours.action_space.low, ours.action_space.high] == [
            tuple(env.action_space.low),
            tuple(env.action_space.high),
        ]
