"""The Gymnasium adapter against environments that tell, played by hand: every space, every autoreset mode, every error."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from fastpg import adapters
from fastpg.adapters.gymnasium import actions, make, observations, record
from fastpg.envs.spaces import Box, Discrete, MultiBinary, MultiDiscrete

gym = pytest.importorskip("gymnasium")
spaces, vector = gym.spaces, gym.vector

PLAIN = [
    spaces.Box(-1, 1, (3,), np.float32),
    spaces.Box(-np.inf, np.inf, (2, 3), np.float64),
    spaces.Box(0, 255, (4, 4, 3), np.uint8),
    spaces.Box(-5, 9, (), np.int64),
    spaces.Discrete(5),
    spaces.Discrete(3, start=-7),
    spaces.MultiBinary(4),
    spaces.MultiBinary((2, 3)),
    spaces.MultiDiscrete([3, 2, 4]),
    spaces.MultiDiscrete([[3, 2], [1, 4]], start=[[1, -2], [0, 9]]),
]
NESTED = [
    spaces.Tuple(PLAIN),
    spaces.Dict(zebra=PLAIN[1], ant=PLAIN[5], inner=spaces.Dict(b=PLAIN[9], a=spaces.Tuple([PLAIN[6], PLAIN[2]]))),
]


@pytest.mark.parametrize("space", PLAIN + NESTED, ids=str)
def test_observations_are_flat_as_gymnasium_flattens_them_one_and_many_at_a_time(space):
    space.seed(0)
    seen = [space.sample() for _ in range(6)]
    want = np.array([spaces.flatten(space, x) for x in seen], np.float32)
    size, write = observations(space)
    assert size == want.shape[1] == spaces.flatdim(space)
    batch = vector.utils.concatenate(space, seen, vector.utils.create_empty_array(space, 6))
    rows, at_once = np.full((2, 6, size), np.nan, np.float32)
    for x, row in zip(seen, rows, strict=True):
        write(x, row)
    write(batch, at_once)
    assert np.array_equal(rows, want) and np.array_equal(at_once, want)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Text(5),
        spaces.Sequence(spaces.Discrete(2)),
        spaces.Graph(spaces.Discrete(2), None),
        spaces.OneOf([spaces.Discrete(2)]),
        spaces.Dict(note=spaces.Text(5)),
    ],
    ids=str,
)
def test_spaces_without_a_fixed_size_are_refused_with_what_is_supported(space):
    with pytest.raises(ValueError, match="observation.* space is .*; wanted Box, Discrete, MultiBinary, MultiDiscrete"):
        observations(space)
    with pytest.raises(ValueError, match="action space is .*; wanted Discrete, MultiDiscrete, MultiBinary or Box"):
        actions(space)


@pytest.mark.parametrize(
    ("space", "ours", "given", "want"),
    [
        (spaces.Discrete(3), Discrete(3), [0, 2], [0, 2]),
        (spaces.Discrete(3, start=5), Discrete(3), [0, 2], [5, 7]),
        (spaces.MultiDiscrete([3, 2], start=[1, -4]), MultiDiscrete((3, 2)), [[0, 0], [2, 1]], [[1, -4], [3, -3]]),
        (
            spaces.MultiDiscrete([[3, 2], [1, 4]]),
            MultiDiscrete((3, 2, 1, 4)),
            [[2, 1, 0, 3], [0, 1, 0, 2]],
            [[[2, 1], [0, 3]], [[0, 1], [0, 2]]],
        ),
        (spaces.MultiBinary(2), MultiBinary(2), [[0, 1], [1, 1]], [[0, 1], [1, 1]]),
        (spaces.MultiBinary((2, 1)), MultiBinary(2), [[0, 1], [1, 1]], [[[0], [1]], [[1], [1]]]),
        (spaces.Box(-2, 1, (2,)), Box((-2, -2), (1, 1)), [[-3, 0.5], [1, 9]], [[-2, 0.5], [1, 1]]),
        (spaces.Box(0, np.inf, (1,)), Box((0,), (np.inf,)), [[-3], [1e9]], [[0], [1e9]]),
        (spaces.Box(-np.inf, np.inf, (1,)), Box((-np.inf,), (np.inf,)), [[-3], [1e9]], [[-3], [1e9]]),
        (spaces.Box(-1, 1, (1, 2)), Box((-1, -1), (1, 1)), [[0, 0.5], [1, 0]], [[[0, 0.5]], [[1, 0]]]),
        # float32 has no 0.1: its nearest is above, so outside
        (spaces.Box(0, 0.1, (1,), np.float64), Box((0,), (0.1,)), [[0.1], [0]], [[0.1], [0]]),
        (spaces.Box(0, 9, (2,), np.uint8), Box((0, 0), (9, 9)), [[-0.6, 1.4], [1.6, 30]], [[0, 1], [2, 9]]),
    ],
    ids=str,
)
def test_actions_arrive_in_the_space_of_the_environment(space, ours, given, want):
    flat, decode = actions(space)
    assert flat == ours
    given = np.array(given, np.float32 if isinstance(ours, Box) else np.int64)
    kept = given.copy()
    got = decode(given, 2)
    assert np.array_equal(got, want) and np.array_equal(given, kept)
    assert all(x in space for x in got)


@pytest.mark.parametrize(
    ("space", "action", "words"),
    [
        (spaces.Discrete(3), [0], r"action has shape \(1,\); wanted \(2,\)"),
        (spaces.Discrete(3), [0.0, 1.0], "action is float64; wanted integers"),
        (spaces.Discrete(3), [1, 3], "action of lane 1 is 3; wanted 0 to 2"),
        (spaces.Discrete(3, start=1), [-1, 0], "action of lane 0 is -1; wanted 0 to 2"),
        (spaces.MultiDiscrete([2, 3]), [[0, 0], [2, 0]], r"action of lane 1 is \[2, 0\]; wanted 0 to \[1, 2\]"),
        (spaces.MultiBinary(2), [[0, 1], [2, 0]], "lane 1"),
        (spaces.Box(-1, 1, (2,)), [[0.0], [0.0]], r"shape \(2, 1\); wanted \(2, 2\)"),
        (spaces.Box(-1, 1, (1,)), [[0], [0]], "action is int64; wanted real numbers"),
        (spaces.Box(-1, 1, (1,)), [[0.0], [np.nan]], "action of lane 1 is not finite"),
    ],
    ids=str,
)
def test_bad_actions_are_refused_by_what_is_wrong_with_them(space, action, words):
    with pytest.raises(ValueError, match=words):
        actions(space)[1](np.array(action), 2)


def test_integers_that_no_float_can_hold_are_no_actions():
    with pytest.raises(ValueError, match="action space is Box"):
        actions(spaces.Box(0, 2**60, (1,), np.int64))


class Counter(gym.Env):
    """Observes how many steps this episode has; ends after `last`, of old age or at the end of the world."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float64)
    action_space = spaces.Discrete(2, start=5)

    def __init__(self, last=3, terminal=True, nan_at=None):
        self.last, self.terminal, self.nan_at, self.actions, self.closed = last, terminal, nan_at, [], False

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return np.zeros(1), {}

    def step(self, action):
        self.actions.append(action)
        self.t += 1
        end = self.t == self.last
        seen = np.array([np.nan if self.t == self.nan_at else self.t])
        return seen, 10.0 + self.t, end and self.terminal, end and not self.terminal, {}

    def close(self):
        self.closed = True


def test_adapter_keeps_the_observation_that_a_reset_would_hide():
    lengths = iter([2, 3])
    env = make(lambda: Counter(next(lengths), terminal=False), lanes=2)
    env.reset(seed=0)
    seen = [env.step(np.array([0, 1])) for _ in range(6)]
    assert [s[4]["final_obs"][:, 0].tolist() for s in seen] == [[1, 1], [2, 2], [1, 3], [2, 1], [1, 2], [2, 3]]
    assert [s[0][:, 0].tolist() for s in seen] == [[1, 1], [0, 2], [1, 0], [0, 1], [1, 2], [0, 0]]
    assert [s[3].tolist() for s in seen] == [[t in (1, 3, 5), t in (2, 5)] for t in range(6)]
    assert not any(s[2].any() for s in seen)
    assert seen[1][1].tolist() == [12.0, 12.0]


def test_adapter_shifts_actions_to_where_the_space_starts():
    inner = Counter()
    env = make(inner)
    env.reset()
    env.step(np.array([0]))
    env.step(np.array([1]))
    assert inner.actions == [5, 6] and all(type(a) is int for a in inner.actions)


class Walk(gym.Env):
    """Episodes of random length, told in observations of a chosen space whose buffer is used again for every one."""

    action_space = spaces.MultiDiscrete([3, 4], start=[2, 0])
    kinds = {
        "box": spaces.Box(-np.inf, np.inf, (2, 2), np.float64),
        "discrete": spaces.Discrete(60, start=-9),
        "dict": spaces.Dict(t=spaces.Discrete(60), x=spaces.Box(-np.inf, np.inf, (2,), np.float32)),
        "tuple": spaces.Tuple([spaces.MultiBinary(2), spaces.Box(0, 255, (1,), np.uint8)]),
    }

    def __init__(self, kind="box", reuse=True):
        self.kind, self.observation_space = kind, self.kinds[kind]
        self.buffer, self.reuse = np.zeros((2, 2)), reuse

    def observe(self):
        self.buffer[...] = [[self.t, self.last], [self.salt, self.sum]]
        box = self.buffer if self.reuse else self.buffer.copy()
        return {
            "box": box,
            "discrete": self.t - 9,
            "dict": {"t": self.t, "x": box[1].astype(np.float32)},
            "tuple": (np.array([self.t % 2, self.last % 2], np.int8), np.array([self.sum], np.uint8)),
        }[self.kind]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.sum = 0, 0
        self.last, self.salt = int(self.np_random.integers(1, 9)), self.np_random.random()
        return self.observe(), {}

    def step(self, action):
        assert action in self.action_space
        self.t, self.sum = self.t + 1, self.sum + int(action.sum()) % 5
        end = self.t == self.last
        return self.observe(), self.salt * self.t, end and self.last % 2 == 0, end and self.last % 2 == 1, {}


def by_hand(kind, seed, taken):
    """One lane of Walk, played by the book: for each action observation, reward, terminated, truncated, final."""
    env = Walk(kind, reuse=False)
    flat = lambda x: spaces.flatten(env.observation_space, x).astype(np.float32)  # noqa: E731
    start, _ = env.reset(seed=seed)
    rows = []
    for a in taken:
        seen, reward, terminated, truncated, _ = env.step(a + np.array([2, 0]))
        after = env.reset()[0] if terminated or truncated else seen
        rows.append((flat(after), reward, terminated, truncated, flat(seen)))
    return flat(start), rows


LANES, STEPS = 3, 200


def assert_played_by_the_book(env, kind, change=lambda x: x):
    """The same seed twice: the second must not hang on what the first left behind."""
    taken = np.random.default_rng(0).integers(0, [3, 4], (STEPS, LANES, 2))
    starts, lanes = zip(*(by_hand(kind, 11 + n, taken[:, n]) for n in range(LANES)), strict=True)
    ended = np.array([[row[2] or row[3] for row in lane] for lane in lanes])
    assert (ended.sum(axis=1) > 5).all() and (ended.sum(axis=0) == LANES).any() and (ended.sum(axis=0) == 1).any()
    for _ in range(2):
        observation, _ = env.reset(seed=11)
        assert np.array_equal(observation, change(np.array(starts)))
        told = [env.step(action) for action in taken]
        for t, (after, reward, terminated, truncated, info) in enumerate(told):
            want = [np.array(x) for x in zip(*(lane[t] for lane in lanes), strict=True)]
            assert np.array_equal(after, change(want[0])) and np.array_equal(info["final_obs"], change(want[4]))
            assert np.array_equal(reward, want[1])
            assert np.array_equal(terminated, want[2]) and np.array_equal(truncated, want[3])
            assert after.dtype == info["final_obs"].dtype == np.float32 and reward.dtype == np.float64
            assert terminated.dtype == truncated.dtype == np.bool_
    env.close()


@pytest.mark.parametrize("kind", Walk.kinds)
def test_lanes_are_played_by_the_book(kind):
    assert_played_by_the_book(make(Walk, LANES, kind=kind), kind)


@pytest.mark.parametrize("mode", list(vector.AutoresetMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("kind", Walk.kinds)
def test_a_sync_vector_environment_is_played_by_the_book_in_every_mode(mode, kind):
    # In SAME_STEP Gymnasium itself hands out a reused buffer after the reset has changed it.
    reuse = mode is not vector.AutoresetMode.SAME_STEP
    env = vector.SyncVectorEnv([lambda: Walk(kind, reuse)] * LANES, autoreset_mode=mode)
    assert_played_by_the_book(make(env), kind)


@pytest.mark.parametrize("mode", list(vector.AutoresetMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(("kind", "shared"), [("box", True), ("dict", False), ("discrete", True)])
def test_an_async_vector_environment_is_played_by_the_book_in_every_mode(mode, kind, shared):
    env = vector.AsyncVectorEnv([lambda: Walk(kind, False)] * LANES, autoreset_mode=mode, shared_memory=shared)
    if mode is vector.AutoresetMode.NEXT_STEP and not shared:
        with pytest.raises(ValueError, match="without shared memory"):
            make(env)
        env.close()
    else:
        assert_played_by_the_book(make(env), kind)


@pytest.mark.parametrize("mode", list(vector.AutoresetMode), ids=lambda mode: mode.value)
def test_vector_wrappers_stay_around(mode):
    env = vector.SyncVectorEnv([lambda: Walk("box", False)] * LANES, autoreset_mode=mode, copy=False)
    statistics = gym.wrappers.vector.RecordEpisodeStatistics(env, buffer_length=1000)
    if mode is vector.AutoresetMode.SAME_STEP:  # Gymnasium's other wrappers refuse it; 1.1 miscounts in this one
        assert_played_by_the_book(make(statistics), "box")
        return
    halved = gym.wrappers.vector.VectorizeTransformObservation(
        statistics, gym.wrappers.TransformObservation, func=lambda x: x / 2, observation_space=None
    )
    assert_played_by_the_book(make(halved), "box", change=lambda x: x / 2)
    taken = np.random.default_rng(0).integers(0, [3, 4], (STEPS, LANES, 2))
    ends = [
        [t for t, row in enumerate(by_hand("box", 11 + n, taken[:, n])[1]) if row[2] or row[3]] for n in range(LANES)
    ]
    lengths = sorted(int(k) for lane in ends for k in np.diff([-1, *lane]))
    assert sorted(statistics.length_queue) == sorted(2 * lengths)


class Batch(vector.VectorEnv):
    """Counters side by side, in a vector environment of the user's own."""

    single_observation_space, single_action_space = Counter.observation_space, spaces.Discrete(2)
    num_envs = 2

    def __init__(self, mode, heeds=True):
        self.metadata, self.heeds = {"autoreset_mode": mode}, heeds
        self.t, self.over = np.zeros((2, 2), int)

    def reset(self, *, seed=None, options=None):
        mask = (options or {}).get("reset_mask", np.ones(2, bool))
        self.t[mask if self.heeds else ...], self.over[...] = 0, 0
        disabled = self.metadata["autoreset_mode"] is vector.AutoresetMode.DISABLED
        return np.where(mask | (not disabled), self.t, 77)[:, None].astype(float), {}  # other lanes are not asked about

    def step(self, action):
        self.t = np.where(self.over, 0, self.t + 1)
        self.over = self.t == [2, 3]
        return self.t[:, None].astype(float), np.ones(2), self.over, np.zeros(2, bool), {}


@pytest.mark.parametrize("mode", [vector.AutoresetMode.NEXT_STEP, vector.AutoresetMode.DISABLED])
def test_a_vector_environment_of_ones_own_that_heeds_reset_mask_loses_no_step(mode):
    env = make(Batch(mode))
    env.reset()
    seen = [env.step(np.array([0, 0])) for _ in range(6)]
    assert [s[4]["final_obs"][:, 0].tolist() for s in seen] == [[1, 1], [2, 2], [1, 3], [2, 1], [1, 2], [2, 3]]
    assert [s[0][:, 0].tolist() for s in seen] == [[1, 1], [0, 2], [1, 0], [0, 1], [1, 2], [0, 0]]


def test_a_next_step_environment_that_does_not_heed_reset_mask_is_found_out():
    env = make(Batch(vector.AutoresetMode.NEXT_STEP, heeds=False))
    env.reset()
    env.step(np.array([0, 0]))
    with pytest.raises(RuntimeError, match="step 2: reset.*changed lanes that it was not to reset.*use SAME_STEP"):
        env.step(np.array([0, 0]))


def test_gymnasiums_own_vector_cartpole_is_found_out_with_what_to_use_instead():
    env = make(gym.make_vec("CartPole-v1", 3, vectorization_mode="vector_entry_point"))
    env.reset(seed=0)
    with pytest.raises(RuntimeError, match="use SAME_STEP or DISABLED, or.*vectorization_mode='sync'"):
        for _ in range(20):
            env.step(np.ones(3, int))


def test_a_vector_environment_must_say_how_it_resets():
    with pytest.raises(ValueError, match=r"metadata\['autoreset_mode'\] is None"):
        make(Batch(None))


def test_same_step_without_final_observations_is_an_error():
    env = make(Batch(vector.AutoresetMode.SAME_STEP))
    env.reset()
    env.step(np.array([0, 0]))
    with pytest.raises(RuntimeError, match="step 2: KeyError: 'final_obs'"):
        env.step(np.array([0, 0]))


@pytest.mark.parametrize("make_vector", [vector.SyncVectorEnv, vector.AsyncVectorEnv])
def test_a_ready_vector_environment_brings_its_lanes_and_its_name(make_vector):
    env = make(make_vector([lambda: gym.make("CartPole-v1")] * 2), lanes=2)
    assert (env.lanes, env.observation_size, env.action_space) == (2, 4, Discrete(2))
    env.close()
    named = make(gym.make_vec("CartPole-v1", 2, vectorization_mode="sync"))
    assert (named.id, named.lanes, named.reward_threshold) == ("CartPole-v1", 2, 475.0)
    named.close()


def test_time_limits_and_frame_skip_come_through_a_function():
    class Skip(gym.Wrapper):
        def step(self, action):
            total, terminated, truncated = 0.0, False, False
            for _ in range(2):
                seen, reward, terminated, truncated, info = self.env.step(action)
                total += reward
                if terminated or truncated:
                    break
            return seen, total, terminated, truncated, info

    env = make(lambda: Skip(gym.wrappers.TimeLimit(Counter(last=99), max_episode_steps=3)), lanes=1)
    env.reset()
    seen = [env.step(np.array([0])) for _ in range(4)]
    assert [s[4]["final_obs"][0, 0] for s in seen] == [2, 3, 2, 3]
    assert [s[3][0] for s in seen] == [False, True, False, True] and not any(s[2][0] for s in seen)
    assert [s[1][0] for s in seen] == [11 + 12, 13, 11 + 12, 13]


def test_keywords_reach_the_environment():
    env = adapters.make_env("FrozenLake-v1", 2, is_slippery=False, desc=["SFG"])
    assert (env.observation_size, env.action_space) == (3, Discrete(4))
    env.reset(seed=0)
    env.step(np.array([2, 2]))  # right
    observation, reward, terminated, _, info = env.step(np.array([2, 0]))
    assert info["final_obs"].tolist() == [[0, 0, 1], [1, 0, 0]] and observation.tolist() == [[1, 0, 0], [1, 0, 0]]
    assert reward.tolist() == [1, 0] and terminated.tolist() == [True, False]
    made = make(Counter, 2, last=1)
    made.reset()
    assert made.step(np.array([0, 0]))[2].all()


class Faulty(Counter):
    """A Counter whose second step goes wrong."""

    def __init__(self, fault=None):
        super().__init__(last=99)
        self.fault = fault

    def step(self, action):
        told = list(super().step(action))
        if self.t == 2 and self.fault is not None:
            return self.fault(told)
        return tuple(told)


def crash(told):
    raise ZeroDivisionError("the wheel came off")


def given(place, value):
    return lambda told: (*told[:place], value, *told[place + 1 :])


FAULTS = [
    (RuntimeError, "ZeroDivisionError: the wheel came off", crash),
    (RuntimeError, "ValueError: not enough values to unpack", lambda told: tuple(told[:4])),
    (RuntimeError, r"observation has shape \(2,\); wanted \(1,\)", given(0, np.zeros(2))),
    (RuntimeError, r"observation has shape \(\); wanted \(1,\)", given(0, None)),
    (RuntimeError, "observation is <U1; wanted numbers", given(0, np.array(["3"]))),
    (RuntimeError, "observation is complex128; wanted numbers", given(0, np.zeros(1, complex))),
    (FloatingPointError, r"observation\[0\] is nan; wanted finite", given(0, np.array([np.nan]))),
    (FloatingPointError, r"observation\[0\] is -inf", given(0, np.array([-np.inf]))),
    (FloatingPointError, "reward is nan", given(1, np.nan)),
    (FloatingPointError, "reward is inf", given(1, np.inf)),
]


@pytest.mark.parametrize(("error", "words", "fault"), FAULTS, ids=[words for _, words, _ in FAULTS])
def test_what_an_environment_does_wrong_is_told_with_its_lane_and_step(error, words, fault):
    inner = [Faulty(), Faulty(fault)]
    made = iter(inner)
    env = make(lambda: next(made), lanes=2)
    env.reset(seed=0)
    env.step(np.array([0, 0]))
    with pytest.raises(error, match=f"Faulty.*lane 1, step 2: .*{words}") as caught:
        env.step(np.array([0, 0]))
    assert (fault is not crash) or isinstance(caught.value.__cause__, ZeroDivisionError)
    env.close()
    assert all(one.closed for one in inner)


@pytest.mark.parametrize("reward", [None, "1", np.zeros(1), [1.0]], ids=repr)
def test_a_reward_that_is_not_a_number_is_shown(reward):
    env = make(lambda: Faulty(given(1, reward)), lanes=2)
    env.reset()
    env.step(np.array([0, 0]))
    with pytest.raises(RuntimeError, match="step 2: reward is .*; wanted one number a lane"):
        env.step(np.array([0, 0]))


@pytest.mark.filterwarnings("ignore:.*ERROR")  # how AsyncVectorEnv logs
@pytest.mark.parametrize("make_vector", [vector.SyncVectorEnv, vector.AsyncVectorEnv])
def test_a_vector_environment_that_raises_is_told_and_still_closes(make_vector):
    env = make(make_vector([Faulty, lambda: Faulty(crash)]))
    env.reset(seed=0)
    env.step(np.array([0, 0]))
    with pytest.raises(RuntimeError, match="step 2: ZeroDivisionError: the wheel came off") as caught:
        env.step(np.array([0, 0]))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    env.close()


def test_close_closes_the_others_when_one_refuses():
    class Stuck(Counter):
        def close(self):
            raise OSError("stuck")

    inner = [Counter(), Stuck(), Counter()]
    made = iter(inner)
    with pytest.raises(OSError, match="stuck"):
        make(lambda: next(made), lanes=3).close()
    assert inner[0].closed and inner[2].closed


def test_lanes_that_differ_are_refused_and_closed():
    inner = [Walk("box"), Counter()]
    made = iter(inner)
    with pytest.raises(ValueError, match="lane 1 has observations in Box.*lane 0 in Box"):
        make(lambda: next(made), lanes=2)
    assert inner[1].closed


def test_an_observation_out_of_its_discrete_space_is_an_error():
    env = make(Walk, 1, kind="discrete")
    env.reset(seed=0)
    env._envs[0].last, env._envs[0].t = 99, 59
    with pytest.raises(
        RuntimeError, match=r"lane 0, step 1: ValueError: observation is 51, not in Discrete\(60, start=-9\)"
    ):
        env.step(np.array([[0, 0]]))


def test_a_bad_reset_in_mid_rollout_is_named():
    class Dies(Counter):
        def reset(self, **kwargs):
            if not hasattr(self, "t"):
                return super().reset(**kwargs)
            if self.last == 1:
                raise OSError("no more episodes")
            return np.array([np.nan]), {}

    for last, error, words in (
        (1, RuntimeError, "lane 0, step 1: OSError: no more episodes"),
        (2, FloatingPointError, r"lane 0, step 2: observation after the reset\[0\] is nan"),
    ):
        env = make(Dies, 1, last=last)
        env.reset()
        with pytest.raises(error, match=words):
            for _ in range(last):
                env.step(np.array([0]))


@pytest.mark.parametrize(
    ("error", "words", "call"),
    [
        (ValueError, "env is 'CartPoole-v1'.*CartPole", lambda: make("CartPoole-v1")),
        (
            ValueError,
            "Namespace Their not found.* write MODULE:Their/Env-v0, as in ale_py:",
            lambda: make("Their/Env-v0"),
        ),
        (ValueError, "`Qqq` doesn't exist. If a module registers it, write MODULE:Qqq-v1", lambda: make("Qqq-v1")),
        (ValueError, "env is 'no_such_module:Env-v0'", lambda: make("no_such_module:Env-v0")),
        (ValueError, "env is ''", lambda: make("")),
        (ValueError, "lanes is 0", lambda: make("CartPole-v1", 0)),
        (ValueError, "lanes is 2, but env is ready and has 1", lambda: make(Counter(), 2)),
        (ValueError, "lanes is 3, but env is ready and has 2", lambda: make(Batch(vector.AutoresetMode.DISABLED), 3)),
        (ValueError, "env is ready, so it takes no size", lambda: make(Counter(), size=3)),
        (TypeError, "unexpected keyword argument 'nope'", lambda: make("CartPole-v1", nope=1)),
        (RuntimeError, "before reset", lambda: make("CartPole-v1").step(np.array([0]))),
    ],
)
def test_adapter_refuses_what_it_cannot_run(error, words, call):
    with pytest.raises(error, match=words):
        call()


def test_what_an_environment_needs_and_is_not_installed_is_named_with_its_remedy(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("gymnasium.envs.box2d")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "Box2D", None)
    with pytest.raises(ImportError, match="env is 'LunarLander-v3'.*pip install"):
        make("LunarLander-v3")


def test_a_missing_envpool_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(ImportError, match=r'envpool is not installed: pip install "fastpg\[envpool\]"'):
        adapters.make_env("envpool:CartPole-v1")


def test_lunar_lander_flies_with_continuous_engines():
    pytest.importorskip("Box2D")
    env = adapters.make_env("LunarLander-v3", 2, continuous=True)
    assert env.action_space == Box((-1.0, -1.0), (1.0, 1.0))
    env.reset(seed=0)
    env.step(np.zeros((2, 2), np.float32))


def test_episodes_are_filmed(tmp_path):
    pytest.importorskip("moviepy")
    pytest.importorskip("pygame")
    seen = []

    def act(observation):
        seen.append(observation.copy())
        return np.array([1])

    files = record("fastpg/CartPole-v1", act, tmp_path / "film", episodes=2, seed=3)
    assert [f.name for f in files] == ["CartPole-v1-episode-0.mp4", "CartPole-v1-episode-1.mp4"]
    assert sorted(files) == sorted((tmp_path / "film").iterdir()) and all(f.stat().st_size > 1000 for f in files)
    assert np.array_equal(seen[0][0], gym.make("CartPole-v1").reset(seed=3)[0])
    assert all(o.shape == (1, 4) for o in seen) and 12 <= len(seen) <= 24  # pushed one way, the pole falls in about 9


def test_the_lake_that_is_not_slippery_is_filmed_though_its_id_is_our_own(tmp_path):
    pytest.importorskip("moviepy")
    pytest.importorskip("pygame")
    seen, path = [], iter([2, 2, 1, 1, 1, 2])  # right, right, down, down, down, right: to the goal unless it slips

    def act(observation):
        seen.append(int(observation.argmax()))
        return np.array([next(path)])

    (film,) = record("fastpg/FrozenLakeNotSlippery-v1", act, tmp_path / "film")
    assert film.stat().st_size > 1000 and seen == [0, 1, 2, 6, 10, 14]


def test_a_film_of_an_episode_without_an_end_is_cut(tmp_path, monkeypatch):
    pytest.importorskip("moviepy")
    pytest.importorskip("pygame")
    monkeypatch.setattr(adapters.gymnasium, "FILMED", 20)
    steps = []
    up = lambda observation: steps.append(1) or np.array([0])  # noqa: E731
    files = record("CliffWalking-v1", up, tmp_path / "film", episodes=2)
    assert len(steps) == 40 and all(f.stat().st_size > 1000 for f in files) and len(files) == 2


def test_film_needs_moviepy_and_an_environment_that_renders(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="episodes is 0"):
        record("CartPole-v1", lambda o: o, tmp_path, episodes=0)
    monkeypatch.setitem(sys.modules, "moviepy", type(sys)("moviepy"))
    for entry_point in (lambda render_mode=None: Counter(), lambda: Counter()):
        gym.register("Counter-v0", entry_point)
        with pytest.raises(ValueError, match="'Counter-v0', which does not render"):
            record("Counter-v0", lambda o: o, tmp_path)
        gym.registry.pop("Counter-v0")
    monkeypatch.setitem(sys.modules, "moviepy", None)
    with pytest.raises(ImportError, match=r'moviepy is not installed: pip install "fastpg\[video\]"'):
        record("CartPole-v1", lambda o: o, tmp_path)


@pytest.mark.parametrize("ready", [False, True])
def test_each_lane_may_have_a_seed_of_its_own(ready):
    env = make(vector.SyncVectorEnv([Walk] * 3)) if ready else make(Walk, 3)
    observation, _ = env.reset(seed=[7, 9, 7])
    assert np.array_equal(observation, [by_hand("box", seed, [])[0] for seed in (7, 9, 7)])


def test_one_seed_reaches_a_vector_environment_of_ones_own_as_one():
    class Seeded(Batch):
        def reset(self, *, seed=None, options=None):
            vector.VectorEnv.reset(self, seed=seed)  # refuses a list
            return super().reset(options=options)

    make(Seeded(vector.AutoresetMode.DISABLED)).reset(seed=7)


def test_an_environment_that_stands_in_two_lanes_is_refused():
    inner = Counter()
    with pytest.raises(ValueError, match="lane 1: env gave the environment of another lane again; wanted a new one"):
        make(lambda: inner, lanes=2)
    assert inner.closed


@pytest.mark.parametrize(
    ("words", "env"),
    [
        (r"lane 0: env made SyncVectorEnv.*; wanted a gymnasium.Env", lambda: vector.SyncVectorEnv([Counter])),
        ("lane 0: env made None; wanted a gymnasium.Env", lambda: None),
        ("env is 3; wanted an id, a function that makes one environment, or an environment", 3),
        ("env is None; wanted an id", None),
    ],
)
def test_what_is_no_environment_is_refused(words, env):
    with pytest.raises(TypeError, match=words):
        make(env, 2)


def test_an_environment_may_change_its_action_and_the_callers_stays():
    class Greedy(Walk):
        def step(self, action):
            told = super().step(action)
            action += 1
            return told

    class Plain(Greedy):
        action_space = spaces.MultiDiscrete([3, 4])

    env = make(Plain, 2)
    env.reset(seed=0)
    action = np.zeros((2, 2), np.int64)
    env.step(action)
    assert not action.any()


def test_an_id_with_its_module_is_found_again(tmp_path, monkeypatch):
    (tmp_path / "their_envs.py").write_text(
        "import gymnasium\n"
        "gymnasium.register('Theirs-v0', 'gymnasium.envs.classic_control:CartPoleEnv', max_episode_steps=7)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    env = make("their_envs:Theirs-v0", 2)
    assert env.id == "their_envs:Theirs-v0"
    gym.registry.pop("Theirs-v0")
    monkeypatch.delitem(sys.modules, "their_envs")  # as in the process that resumes or evaluates a run
    again = make(env.id, 2)
    assert np.array_equal(again.reset(seed=0)[0], env.reset(seed=0)[0])
    gym.registry.pop("Theirs-v0")
    assert make(gym.spec("CartPole-v1"), 2).id == "CartPole-v1"


@pytest.mark.parametrize("mode", list(vector.AutoresetMode), ids=lambda mode: mode.value)
def test_a_worker_that_dies_is_named_and_the_others_are_closed(mode):
    inner = vector.AsyncVectorEnv([Counter] * 3, autoreset_mode=mode)
    env = make(gym.wrappers.vector.RecordEpisodeStatistics(inner))
    env.reset(seed=0)
    env.step(np.zeros(3, int))
    inner.processes[1].kill()
    with pytest.raises(RuntimeError, match="step 2: the process of lane 1 has ended with exit code -9"):
        for _ in range(2):
            env.step(np.zeros(3, int))
    env.close()
    env.close()
    assert inner.closed and not any(process.is_alive() for process in inner.processes)


def test_a_call_that_was_broken_off_does_not_keep_a_vector_environment_from_closing():
    inner = vector.AsyncVectorEnv([Counter] * 2)
    env = make(inner)
    env.reset(seed=0)
    inner.step_async(np.array([5, 5]))
    inner.parent_pipes[0].recv()  # Ctrl-C came when the first lane had answered
    env.close()
    assert inner.closed and not any(process.is_alive() for process in inner.processes)


@pytest.mark.parametrize("mode", list(vector.AutoresetMode), ids=lambda mode: mode.value)
def test_normalising_rewards_around_lanes_that_reset_one_by_one_is_refused_where_gymnasium_forgets_their_returns(mode):
    env = vector.SyncVectorEnv([lambda: Walk("box", False)] * LANES, autoreset_mode=mode)
    normalised = gym.wrappers.vector.RecordEpisodeStatistics(gym.wrappers.vector.NormalizeReward(env))
    if mode is vector.AutoresetMode.SAME_STEP:
        assert make(normalised).lanes == LANES
        return
    with pytest.raises(ValueError, match="whose NormalizeReward cannot reset some.*the option normalise_reward"):
        make(normalised)


def test_a_vector_environment_that_normalises_observations_is_refused_before_it_runs():
    env = gym.wrappers.vector.NormalizeObservation(gym.make_vec("CartPole-v1", 2, vectorization_mode="sync"))
    with pytest.raises(
        ValueError, match="whose NormalizeObservation cannot reset some.*the option normalise_observation"
    ):
        make(env)
