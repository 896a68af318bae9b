"""Every built-in environment against Gymnasium's, number for number; environments of three functions of one's own."""

from __future__ import annotations

import math
import os
import runpy
import subprocess
import sys
import threading
from pathlib import Path

import numba
import numpy as np
import pytest

from fastpg import envs
from fastpg.envs import toy_text
from fastpg.envs.compiled import CompiledEnv, step_lanes
from fastpg.envs.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from fastpg.envs.streams import uniform

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


@numba.njit
def walk(state, action, stream):
    state[0] += action - 1 + uniform(stream) / 8
    return -abs(state[0]), abs(state[0]) > 3


@numba.njit
def begin(state, stream):
    state[0], state[1] = uniform(stream), 7.0


@numba.njit
def look(state, observation):
    observation[0], observation[1], observation[2] = state[0], state[1], state[0] * state[1]


def line(lanes=2, advance=walk, restart=begin, observe=look, **options):
    settings = {"state_size": 2, "observation_size": 3, "action_space": Discrete(3), "longest": 9, **options}
    return CompiledEnv("line", advance, restart, observe, lanes=lanes, **settings)


def test_three_functions_make_an_environment():
    env, rng = line(2), np.random.default_rng(4)
    observation, _ = env.reset(seed=3)
    x = [np.random.default_rng(3 + n) for n in range(2)]
    at = np.array([draw.random() for draw in x])
    age = np.zeros(2, int)
    for _ in range(200):
        assert np.array_equal(observation, np.column_stack([at, [7, 7], at * 7]).astype(np.float32))
        action = rng.integers(0, 3, 2)
        observation, reward, terminated, truncated, info = env.step(action)
        age += 1
        at = at + (action - 1 + np.array([draw.random() for draw in x]) / 8)
        assert np.array_equal(reward, -abs(at)) and np.array_equal(terminated, abs(at) > 3)
        assert np.array_equal(truncated, age == 9)
        assert np.array_equal(info["final_obs"], np.column_stack([at, [7, 7], at * 7]).astype(np.float32))
        for n in np.flatnonzero(terminated | truncated):
            at[n], age[n] = x[n].random(), 0


def test_without_observe_the_state_is_the_observation_and_the_rest_of_it_is_hidden():
    env = line(observe=None, observation_size=1)
    observation, _ = env.reset(seed=0)
    assert np.array_equal(observation, env.states[:, :1].astype(np.float32))
    assert line(observe=None, observation_size=None).observation_size == 2


def test_without_longest_an_episode_has_no_limit():
    env = line(lanes=1, longest=None, advance=lambda state, action, stream: (0.0, False))
    env.reset(seed=0)
    assert not any(env.step(np.array([1]))[3].any() for _ in range(2000))


@pytest.mark.parametrize(
    ("space", "action"),
    [
        (Box((-1.0, -2.0), (1.0, 2.0)), np.array([[0.5, -4.0], [3.25, 1.0]])),
        (MultiDiscrete((2, 5)), np.array([[1, 4], [0, 3]])),
        (MultiBinary(2), np.array([[1, 0], [1, 1]])),
    ],
)
def test_actions_of_several_numbers_come_as_a_row(space, action):
    def advance(state, action, stream):
        state[0], state[1] = action[0], action[1]
        return action[0] - action[1], False

    env = line(advance=advance, action_space=space)
    env.reset(seed=0)
    _, reward, *_ = env.step(action)
    assert np.array_equal(env.states, action) and np.array_equal(reward, action[:, 0] - action[:, 1])


def test_state_and_restore_continue_bit_for_bit():
    env, other, rng = line(3), line(3), np.random.default_rng(0)
    env.reset(seed=5)
    other.reset(seed=6)
    actions = rng.integers(0, 3, (60, 3))
    for action in actions[:25]:
        env.step(action)
    saved = env.state()
    kept = {name: array.copy() for name, array in saved.items()}
    after = [env.step(action) for action in actions[25:]]
    assert all(np.array_equal(saved[name], kept[name]) for name in saved)
    other.restore(saved)
    for action, (*told, info) in zip(actions[25:], after, strict=True):
        *again, more = other.step(action)
        assert all(np.array_equal(a, b) for a, b in zip(told, again, strict=True))
        assert np.array_equal(info["final_obs"], more["final_obs"])
    with pytest.raises(ValueError, match=r"states has shape \(3, 2\); line with these lanes wants \(2, 2\)"):
        line(2).restore(saved)


def test_lanes_of_equal_seeds_have_equal_episodes_under_equal_actions():
    env = line(3)
    observation, _ = env.reset(seed=[4, 9, 4])
    for action in np.random.default_rng(0).integers(0, 3, 40):
        assert np.array_equal(observation[0], observation[2]) and not np.array_equal(observation[0], observation[1])
        observation, *_ = env.step(np.full(3, action))
    with pytest.raises(ValueError, match="seed has 2 entries; wanted an integer, or one for each of 3 lanes"):
        env.reset(seed=[1, 2])


def test_lanes_stepped_in_ranges_by_threads_are_the_lanes_stepped_at_once():
    whole, parts, rng = line(50), line(50), np.random.default_rng(0)
    whole.reset(seed=1)
    parts.reset(seed=1)
    observation, final = np.empty((2, 50, 3), np.float32)
    reward, (terminated, truncated) = np.empty(50), np.empty((2, 50), bool)
    for _ in range(30):
        action = rng.integers(0, 3, 50)
        arrays = parts.functions, parts.longest, parts.states, parts.elapsed, parts.streams, action
        arrays = *arrays, observation, final, reward, terminated, truncated
        ranges = (0, 17), (17, 18), (18, 50)
        threads = [threading.Thread(target=step_lanes, args=(*arrays, *of)) for of in ranges]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        *told, info = whole.step(action)
        for a, b in zip([*told, info["final_obs"]], [observation, reward, terminated, truncated, final], strict=True):
            assert np.array_equal(a, b)


def test_loops_of_ones_own_step_lanes_inside_njit():
    @numba.njit
    def run(functions, longest, states, elapsed, streams, action, observation, final, reward, terminated, truncated):
        total = 0.0
        for t in range(len(action)):
            now = observation, final, reward, terminated, truncated
            step_lanes(functions, longest, states, elapsed, streams, action[t], *now, 0, len(states))
            total += reward.sum()
        return total

    env, other = line(4), line(4)
    env.reset(seed=0)
    other.reset(seed=0)
    action = np.random.default_rng(0).integers(0, 3, (40, 4))
    observation, final = np.empty((2, 4, 3), np.float32)
    lanes_of = env.functions, env.longest, env.states, env.elapsed, env.streams
    total = run(*lanes_of, action, observation, final, np.empty(4), *np.empty((2, 4), bool))
    assert total == pytest.approx(sum(other.step(row)[1].sum() for row in action))
    assert np.array_equal(env.states, other.states)


def no_tuple(state, action, stream):
    return 1.0


def no_such(state, stream):
    state[0] = undefined(stream)  # noqa: F821


def two(state, action):
    return 0.0, False


@pytest.mark.parametrize(
    ("error", "words", "options"),
    [
        (TypeError, r"advance is two\(state, action\); wanted advance\(state: float64.*reward", {"advance": two}),
        (TypeError, r"advance does not compile as advance\(state(.|\n)*No conversion", {"advance": no_tuple}),
        (TypeError, r"restart does not compile as restart\(state(.|\n)*undefined", {"restart": no_such}),
        (TypeError, r"observe is 7; a function .* is wanted: observe\(state", {"observe": 7}),
        (TypeError, r"action: float32\[:\]", {"advance": two, "action_space": Box((0.0,), (1.0,))}),
        (ValueError, "state_size is 0; wanted an integer of 1 or more", {"state_size": 0}),
        (ValueError, "longest is 0; wanted an integer of 1 or more", {"longest": 0}),
        (ValueError, "lanes is 0; wanted an integer of 1 or more", {"lanes": 0}),
        (ValueError, "lanes is 2.0; wanted an integer", {"lanes": 2.0}),
        (ValueError, "observation_size is 3, but state_size is 2", {"observe": None}),
        (
            TypeError,
            r"action_space is Discrete\(3\); wanted one of fastpg.envs.spaces",
            {"action_space": gym.spaces.Discrete(3)},
        ),
        (TypeError, "action_space is None", {"action_space": None}),
    ],
)
def test_a_bad_description_is_refused_with_what_is_wanted(error, words, options):
    with pytest.raises(error, match=words):
        line(**options)


@pytest.mark.parametrize(
    ("error", "words", "call"),
    [
        (ValueError, "Discrete has n 0; wanted integers of 1 or more", lambda: Discrete(0)),
        (ValueError, "Discrete has n 2.0", lambda: Discrete(2.0)),
        (ValueError, "MultiBinary has n -1", lambda: MultiBinary(-1)),
        (ValueError, r"MultiDiscrete has n \(2, 0\)", lambda: MultiDiscrete((2, 0))),
        (ValueError, r"MultiDiscrete has n \(\); wanted the lengths of one list or more", lambda: MultiDiscrete(())),
        (ValueError, "MultiDiscrete has n 3", lambda: MultiDiscrete(3)),
        (TypeError, r"Box\(low=-1.0, high=1.0\) has a bound that is no sequence", lambda: Box(-1.0, 1.0)),
        (ValueError, r"Box\(low=\(1.0,\), high=\(-1.0,\)\): wanted", lambda: Box((1.0,), (-1.0,))),
        (ValueError, "Box.*wanted one low or more, as many high", lambda: Box((0, 0), (1,))),
        (ValueError, "Box", lambda: Box((), ())),
        (ValueError, "Box", lambda: Box((math.nan,), (1.0,))),
    ],
)
def test_a_space_that_holds_nothing_is_refused(error, words, call):
    with pytest.raises(error, match=words):
        call()


def test_spaces_of_lists_and_of_numpy_numbers_are_those_of_tuples():
    assert Box([-1], np.array([1], np.float32)) == Box((-1.0,), (1.0,)) and hash(Box([-1], [1]))
    assert MultiDiscrete([2, np.int64(3)]) == MultiDiscrete((2, 3)) and Discrete(np.int64(2)) == Discrete(2)
    assert line(action_space=MultiBinary(np.int64(3)), advance=lambda s, a, r: (0.0, False)).reset(seed=0)


BOX = Box((-1.0, -1.0), (1.0, 1.0))


@pytest.mark.parametrize(
    ("words", "space", "action"),
    [
        (r"action has 3; wanted 0 to 2", Discrete(3), [0, 3]),
        (r"action has -1; wanted 0 to 2", Discrete(3), [-1, 0]),
        (r"action is float64 \(2,\); wanted integers of shape \(2,\)", Discrete(3), [0.0, 1.0]),
        (r"action is int64 \(3,\); wanted integers of shape \(2,\)", Discrete(3), [0, 1, 1]),
        (r"action has 5; wanted 0 to 4", MultiDiscrete((2, 5)), [[1, 4], [1, 5]]),
        (r"action has 2; wanted 0 to 1", MultiBinary(2), [[1, 0], [2, 0]]),
        (r"action has nan; wanted finite numbers", BOX, [[0, 0], [0, np.nan]]),
        (r"action has inf; wanted finite numbers", BOX, [[0, 0], [0, np.inf]]),
        (r"action is float64 \(2,\); wanted numbers of shape \(2, 2\)", BOX, [0.0, 0.0]),
        (r"action is <U1 \(2, 2\); wanted numbers", BOX, [["a", "b"], ["c", "d"]]),
    ],
)
def test_a_bad_action_is_refused_and_nothing_has_moved(words, space, action):
    env = line(advance=lambda state, action, stream: (0.0, False), action_space=space)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=words):
        env.step(np.array(action))
    assert env.elapsed.tolist() == [0, 0]


def test_numbers_that_are_not_finite_name_environment_lane_and_action():
    def advance(state, action, stream):
        return 1.0 / action if action < 2 else 0.0, False

    env = line(advance=numba.njit(error_model="numpy")(advance))
    env.reset(seed=0)
    env.step(np.array([1, 1]))
    with pytest.raises(FloatingPointError, match=r"line, lane 1: reward inf, observation .* after action 0"):
        env.step(np.array([1, 0]))

    def blind(state, observation):
        observation[:] = np.nan if state[1] == 8 else 0.0

    env = line(observe=blind)
    env.reset(seed=0)
    env.states[0, 1] = 8
    with pytest.raises(FloatingPointError, match=r"line, lane 0: .*nan"):
        env.step(np.array([1, 0]))


@pytest.mark.parametrize("options", [{}, {"longest": 1}])
def test_a_first_observation_that_is_not_finite_is_told_by_the_call_that_gives_it(options):
    def restart(state, stream):
        state[0] = np.nan if state[1] == 7 else 0.0
        state[1] = 7.0

    env = line(1, lambda state, action, stream: (0.0, False), restart, **options)
    env.reset(seed=0)
    with pytest.raises(FloatingPointError, match=r"line, lane 0: the first observation of an episode is \[nan"):
        env.step(np.array([1])) if options else env.reset()


def test_an_index_out_of_bounds_is_an_error_that_reaches_no_other_lane():
    def advance(state, action, stream):
        state[action + 1] = 99.0
        return 0.0, False

    env = line(advance=advance)
    env.reset(seed=0)
    env.step(np.array([0, 0]))
    before = env.states.copy()
    with pytest.raises(IndexError, match="out of bounds"):
        env.step(np.array([1, 0]))
    assert np.array_equal(env.states, before)


def test_an_exception_in_a_function_comes_out_of_step():
    def advance(state, action, stream):
        if action == 2:
            raise ValueError("no such way")
        return 0.0, False

    env = line(advance=advance)
    env.reset(seed=0)
    env.step(np.array([1, 1]))
    with pytest.raises(ValueError, match="no such way"):
        env.step(np.array([1, 2]))


def test_a_second_process_compiles_nothing(tmp_path):
    code = """
import numpy as np
from fastpg import envs
from fastpg.envs import compiled
for id in ("fastpg/Pendulum-v1", "fastpg/FrozenLake-v1", "fastpg/CartPole-v1"):
    env = envs.make(id, 2)
    env.reset(seed=0)
    env.step(np.zeros((2, 1)) if "Pendulum" in id else np.zeros(2, int))
loops = compiled.start_lanes, compiled.step_lanes
print(sum(sum(loop.stats.cache_misses.values()) for loop in loops))
"""
    told = []
    for _ in range(2):
        run = [sys.executable, "-c", code]
        done = subprocess.run(run, capture_output=True, text=True, env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)})
        assert done.returncode == 0, done.stderr
        files = {path.name for path in tmp_path.rglob("*.nbc")}
        told.append((done.stdout.split()[0], files))
    assert told[0][0] != "0" and told[1][0] == "0" and told[0][1] == told[1][1] != set()


def test_the_example_of_an_own_environment_learns_to_go_straight_to_its_goal(capsys):
    from fastpg.train.run import evaluate

    names = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "custom_env.py"), run_name="__main__")
    assert "mean return -2" in capsys.readouterr().out
    point, agent = names["point"], names["agent"]

    env, total, over = point(200), np.zeros(200), np.zeros(200, bool)
    observation, _ = env.reset(seed=0)
    while not over.all():
        observation, reward, terminated, truncated, _ = env.step(-10 * observation)
        total += np.where(over, 0, reward)
        over |= terminated | truncated
    straight = total.mean()
    assert straight - 0.3 < evaluate(agent, point(200), 200).mean() < straight + 0.3


def test_an_evaluation_of_episodes_without_an_end_comes_to_one(monkeypatch):
    from fastpg.train import run
    from fastpg.train.agent import Agent

    def circle(state, action, stream):
        state[1] += 1
        return 1.0, state[0] == 0 and state[1] == 5

    def restart(state, stream):
        state[1] = 0

    monkeypatch.setattr(run, "LONGEST", 12)
    env = line(2, circle, restart, None, observation_size=2, longest=None)
    env.states[1, 0] = 1  # this lane goes round for ever
    agent = Agent(2, Discrete(3), (4,), np.random.default_rng(0))
    with pytest.warns(UserWarning, match="3 of 6 episodes of line did not end within 12 steps"):
        returns = run.evaluate(agent, env, 6)
    assert sorted(returns) == [5, 5, 5, 12, 12, 12]
