"""Compiled rollouts against the same steps taken one after the other from Python."""

from __future__ import annotations

import numpy as np
import pytest

from fastpg import _core
from fastpg.envs.cartpole import advance, restart
from fastpg.envs.compiled import CompiledEnv
from fastpg.envs.spaces import Box, Discrete
from fastpg.train import compiled_rollout
from fastpg.train.agent import Agent
from fastpg.train.rollout import Rollout, collect

T = 60


def drift(state, action, stream):
    for k in range(2):
        state[k] = 0.9 * state[k] + action[k]
    return -(state[0] ** 2) - abs(action[1]), state[0] > 1.5


def start(state, stream):
    for k in range(3):
        state[k] = 0.1 * k


def spoil(state, action, stream):
    state[2] += 1.0
    return np.nan if state[2] > 5.5 else 1.0, False


def cart(lanes, longest=20):
    return CompiledEnv("cart", advance, restart, state_size=4, action_space=Discrete(2), longest=longest, lanes=lanes)


def drifting(lanes, step=drift):
    space = Box((-0.5, -1.0), (0.5, 1.0))
    return CompiledEnv("drift", step, start, state_size=3, action_space=space, longest=9, lanes=lanes)


def rolled(make, lanes, python=False, options=(), collects=2):
    """Copies of two rollouts on end, and what the random numbers went on to be."""
    env, rng = make(lanes), np.random.default_rng(5)
    agent = Agent(env.observation_size, env.action_space, (64, 7), rng, **dict(options))
    agent.policy.parameter[...] += 0.3 * rng.standard_normal(len(agent.policy.parameter)).astype(np.float32)
    if agent.normaliser is not None:
        agent.normaliser.update(rng.standard_normal((50, env.observation_size)) * 0.2 + 0.1)
    rollout = Rollout(env, agent, T)
    rollout.current[...], _ = env.reset(seed=3)
    parts = []
    for _ in range(collects):
        if python:
            act, compiled_rollout.collect_compiled = compiled_rollout.collect_compiled, lambda *_: False
            try:
                collect(env, agent, rollout, rng)
            finally:
                compiled_rollout.collect_compiled = act
        else:
            collect(env, agent, rollout, rng)
        parts.append({name: value.copy() for name, value in vars(rollout).items()})
    return agent, env, parts, rng.random()


CASES = [(cart, ()), (drifting, ())] + [
    (make, (option,))
    for make in (cart, drifting)
    for option in (("normalise_observation", True), ("shared_trunk", True))
]


def same(a, b):
    for one, other in zip(a, b, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            np.testing.assert_array_equal(value, other[name], err_msg=name)


@pytest.mark.parametrize(("make", "options"), CASES)
@pytest.mark.parametrize("lanes", [1, 5, 33])
def test_compiled_is_python_bit_for_bit(make, options, lanes):
    _, env, compiled, after = rolled(make, lanes, options=options)
    _, other, python, after_python = rolled(make, lanes, python=True, options=options)
    same(compiled, python)
    same([env.state()], [other.state()])
    assert after == after_python
    assert (compiled[0]["terminated"] | compiled[0]["truncated"]).any()


@pytest.mark.parametrize("make", [cart, drifting])
def test_any_number_of_threads_gives_the_same_bits(make, monkeypatch):
    started = []
    thread = compiled_rollout.threading.Thread
    monkeypatch.setattr(compiled_rollout.threading, "Thread", lambda **kw: started.append(1) or thread(**kw))
    before = _core.threads()
    try:
        runs = []
        for threads in (1, 2, 3):
            _core.set_threads(threads)
            runs.append(rolled(make, 67)[2])
    finally:
        _core.set_threads(before)
    assert len(started) == 2 * (0 + 1 + 2)
    same(runs[0], runs[1])
    same(runs[0], runs[2])


@pytest.mark.parametrize("make", [cart, drifting])
def test_log_prob_is_the_agents(make):
    agent, _, (part, *_), _ = rolled(make, 33)
    for t in range(T):
        z = agent.policy.forward(part["observation"][t])
        expected = agent.head.log_prob(z, agent.policy.extra, part["action"][t])
        np.testing.assert_array_equal(part["log_prob"][t], expected)


@pytest.mark.parametrize("make", [cart, drifting])
def test_replayed_actions_lead_to_the_recorded_steps(make):
    agent, _, (part, after), _ = rolled(make, 7)
    env = make(7)
    observation, _ = env.reset(seed=3)
    for t in range(T):
        np.testing.assert_array_equal(part["observation"][t], observation)
        observation, reward, terminated, truncated, info = env.step(agent.head.to_env(part["action"][t]))
        np.testing.assert_array_equal(part["final"][t], info["final_obs"])
        np.testing.assert_array_equal(part["reward"][t], reward.astype(np.float32))
        np.testing.assert_array_equal(part["terminated"][t], terminated)
        np.testing.assert_array_equal(part["truncated"][t], truncated)
        ended = terminated | truncated
        np.testing.assert_array_equal(info["final_obs"][~ended], observation[~ended])
    assert (part["terminated"] | part["truncated"]).any()
    np.testing.assert_array_equal(after["observation"][0], observation)


def test_actions_follow_the_policy():
    agent, _, (part, _), _ = rolled(cart, 400)
    z = agent.policy.forward(part["observation"].reshape(-1, 4)).astype(np.float64)
    p = np.exp(z[:, 1]) / np.exp(z).sum(axis=1)
    error = part["action"].mean() - p.mean()
    assert abs(error) < 4 * np.sqrt((p * (1 - p)).mean() / len(p))


@pytest.mark.parametrize("python", [False, True])
def test_what_goes_wrong_is_named_as_from_python(python):
    with pytest.raises(FloatingPointError, match="drift, lane 0: reward nan"):
        rolled(lambda lanes: drifting(lanes, spoil), 3, python)
    for make, error in ((cart, "NaN"), (drifting, "nan")):
        env, rng = make(2), np.random.default_rng(0)
        agent = Agent(env.observation_size, env.action_space, (8,), rng)
        rollout = Rollout(env, agent, 2)
        with pytest.raises(RuntimeError, match="before reset"):
            rollout.current[...] = 0
            collect(env, agent, rollout, rng)
        rollout.current[...], _ = env.reset(seed=0)
        agent.policy.parameter[0] = np.nan
        with pytest.raises(ValueError, match=error):
            collect(env, agent, rollout, rng)


def fussy(state, action, stream):
    state[0] += 1.0
    if state[2] == 1.0 and state[0] > 5.0:
        raise ZeroDivisionError("the wheel came off")
    return 1.0, False


@pytest.mark.parametrize("lane", [0, 40, 63])
def test_an_exception_on_any_thread_comes_out(lane):
    env, rng = drifting(64, fussy), np.random.default_rng(0)
    agent = Agent(env.observation_size, env.action_space, (8,), rng)
    rollout = Rollout(env, agent, T)
    rollout.current[...], _ = env.reset(seed=0)
    env.states[lane, 2] = 1.0
    before = _core.threads()
    try:
        _core.set_threads(4)
        with pytest.raises(ZeroDivisionError, match="the wheel came off"):
            collect(env, agent, rollout, rng)
    finally:
        _core.set_threads(before)


@pytest.mark.filterwarnings("ignore:overflow")
def test_an_action_that_overflows_is_named():
    env, rng = drifting(3), np.random.default_rng(0)
    agent = Agent(env.observation_size, env.action_space, (8,), rng, log_std=200.0)
    rollout = Rollout(env, agent, T)
    rollout.current[...], _ = env.reset(seed=0)
    with pytest.raises(
        ValueError, match=r"drift, lane 0: the action is \[.*inf.*\], not finite: the policy has diverged"
    ):
        collect(env, agent, rollout, rng)


def test_a_first_observation_that_is_not_finite_is_named():
    def restart(state, stream):
        state[2] += 1.0
        state[0] = np.nan if state[2] == 3.0 else 0.0

    space = Box((-0.5, -1.0), (0.5, 1.0))
    step = lambda state, action, stream: (0.0, False)  # noqa: E731
    env = CompiledEnv("drift", step, restart, state_size=3, action_space=space, longest=9, lanes=3)
    rng = np.random.default_rng(0)
    agent = Agent(env.observation_size, env.action_space, (8,), rng)
    rollout = Rollout(env, agent, T)
    rollout.current[...], _ = env.reset(seed=0)
    with pytest.raises(FloatingPointError, match=r"drift, lane 0: the first observation of an episode is \[nan"):
        collect(env, agent, rollout, rng)
