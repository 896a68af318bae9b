"""scan in every layout: the specification, steps of one's own in every form, and what is refused."""

import inspect
import runpy
import tracemalloc
from pathlib import Path

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastpg
from fastpg import reference, scan, steps

SAME_BITS = ["total_return", "reward_to_go", "td_residual", "gae", "gae_and_return", "lambda_return", "n_step_return"]
SAME_BITS += ["q_lambda", "upgo"]
WITH_EXP = ["vtrace", "retrace", "tree_backup"]  # NumPy's exp and Numba's round apart
NAMES = SAME_BITS + WITH_EXP
ONE_ROW = ["reward_to_go", "td_residual", "gae", "gae_and_return", "vtrace", "q_lambda", "upgo"]
DTYPES = [np.float32, np.float64]
MODES = ["skip", "zero", "reset"]
WINDOW = 3


def layouts(seed):
    """Shape, keywords and shape of one item a lane, by name; lanes of length 0 and 1 among them."""
    rng = np.random.default_rng(seed)
    return {
        "one lane": ((9,), {}, ()),
        "few lanes": ((7, 3), {}, (3,)),
        "many lanes": ((7, 17), {}, (17,)),
        "batch-major": ((3, 7), {"axis": 1}, (3,)),
        "packed": ((13,), {"offsets": np.array([0, 0, 1, 6, 6, 13, 13])}, (6,)),
        "interleaved": ((23,), {"env_id": np.append(rng.integers(0, 4, 22), 4)}, (5,)),
    }


LAYOUTS = list(layouts(0))


def arguments_of(name, shape, dtype, rng, after=None):
    """Those of a public function, by name; next_value of the shape `after` where that is given, for which V must be known."""
    every = {x: rng.normal(size=shape).astype(dtype) for x in ("reward", "value", "next_value", "q_value", "log_ratio")}
    every |= {"log_prob": -np.abs(every["log_ratio"]), "greedy": rng.random(shape) < 0.5}
    every |= {x: rng.random(shape) < 0.2 for x in ("terminated", "truncated")}
    every |= {"gamma": 0.9, "lambda_": 0.7, "alpha": 0.6, "clip_rho": 1.2, "clip_c": 0.8, "clip_pg_rho": 1.1}
    if after is not None:
        every["next_value"] = np.asarray(rng.normal(size=after), dtype)
        every["truncated"] &= every["terminated"]
    return {x: every[x] for x in inspect.signature(getattr(reference, name)).parameters if x in every}


def lacks_a_value(arguments, axis=0, offsets=None, env_id=None, mask=None, mask_mode="skip"):
    """Whether next_value is one a lane and a gap that resets comes after a step that is neither terminal nor its lane's last."""
    reward = arguments["reward"]
    if mask_mode != "reset" or mask is None or np.shape(arguments.get("next_value", reward)) == reward.shape:
        return False
    alive, dead = np.where(mask, 1, 0), arguments["terminated"]
    if env_id is not None:
        lanes = [env_id == k for k in range(max(env_id) + 1)]
    elif offsets is not None:
        lanes = [slice(a, b) for a, b in zip(offsets[:-1], offsets[1:], strict=True)]
    elif reward.ndim == 1:
        lanes = [slice(None)]
    else:
        lanes = [(slice(None), k) if axis == 0 else (k, slice(None)) for k in range(reward.shape[1 - axis])]
    for lane in lanes:
        line, ends = alive[lane], dead[lane]
        last = max(np.flatnonzero(line), default=-1)
        if any(line[t] and not line[t + 1] and not ends[t] for t in range(max(last, 0))):
            return True
    return False


def run(name, arguments, **layout):
    carry = {"carry": np.zeros(WINDOW)} if name == "n_step_return" else {}
    return scan(getattr(steps, name), **arguments, **layout, **carry)


def specified(name, arguments, **layout):
    n = {"n": WINDOW} if name == "n_step_return" else {}
    return getattr(reference, name)(**arguments, **layout, **n)


def assert_same(name, found, wanted, message=""):
    assert isinstance(found, tuple) == isinstance(wanted, tuple)
    for x, y in zip(np.atleast_2d(found), np.atleast_2d(wanted), strict=True):
        assert x.dtype == y.dtype, message
        scale = 0 if name in SAME_BITS else 8 * np.finfo(y.dtype).eps * (1 + np.abs(y).max(initial=0))
        np.testing.assert_allclose(x, y, rtol=0, atol=scale, err_msg=message)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", NAMES)
def test_scan_of_a_step_is_its_specification(name, layout, dtype):
    for seed in range(3):
        rng, (shape, keywords, _) = np.random.default_rng(seed), layouts(seed)[layout]
        arguments = arguments_of(name, shape, dtype, rng)
        assert_same(name, run(name, arguments, **keywords), specified(name, arguments, **keywords), f"seed {seed}")


def masked():
    """Every step in every layout with some mode, and a step of each form with all of them: each is a loop to compile."""
    forms = ["gae", "total_return", "reward_to_go", "n_step_return", "vtrace"]
    for k, name in enumerate(NAMES):
        for i, layout in enumerate(LAYOUTS):
            yield from ((name, layout, m) for j, m in enumerate(MODES) if name in forms or (k + i - j) % 3 == 0)


@pytest.mark.parametrize(("name", "layout", "mode"), list(masked()))
def test_scan_with_a_mask_is_its_specification(name, layout, mode):
    dtype = DTYPES[(NAMES.index(name) + MODES.index(mode)) % 2]
    for seed in range(5):
        rng, (shape, keywords, lanes) = np.random.default_rng(seed), layouts(seed)[layout]
        one_row = name in ONE_ROW and not (name == "reward_to_go" and lanes == ())
        arguments = arguments_of(name, shape, dtype, rng, lanes if one_row else None)
        mask = rng.random(shape) < [0.5, 0.8, 0.2, 0.0, 1.0][seed]
        keywords = keywords | {"mask": mask, "mask_mode": mode}
        if lacks_a_value(arguments, **keywords):
            with pytest.raises(ValueError, match="mask_mode 'reset' cuts after reward"):
                run(name, arguments, **keywords)
            continue
        found = run(name, arguments, **keywords)
        assert_same(name, found, specified(name, arguments, **keywords), f"seed {seed}")
        assert (
            (np.atleast_2d(found)[..., ~mask] == 0).all()
            if mask.ndim == 1
            else (np.asarray(found)[..., ~mask] == 0).all()
        )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["gae", "vtrace"])
def test_the_trace_decays_through_a_gap_by_the_gamma_of_each_step(name, mode):
    rng, shape = np.random.default_rng(0), (23,)
    arguments = arguments_of(name, shape, np.float64, rng)
    coefficients = {x: rng.random(shape) for x in ("gamma", "lambda_", "alpha") if x in arguments}
    layout = {"mask": rng.random(shape) < 0.7, "mask_mode": mode}
    wanted = specified(name, arguments | coefficients, **layout)
    assert_same(name, run(name, arguments | coefficients, **layout), wanted)
    np.testing.assert_allclose(getattr(fastpg, name)(**arguments | coefficients, **layout), wanted)
    if mode != "zero":
        garbage = {x: np.where(layout["mask"], a, np.nan) for x, a in coefficients.items()}
        assert_same(name, run(name, arguments | garbage, **layout), wanted)


@pytest.mark.parametrize("mode", [None, *MODES])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_scan_takes_next_value_in_full_and_as_one_row_and_leaves_it_alone(layout, mode):
    for seed in range(3):
        rng, (shape, keywords, lanes) = np.random.default_rng(seed), layouts(seed)[layout]
        keywords = keywords | ({"mask": rng.random(shape) < 0.6, "mask_mode": mode} if mode else {})
        for after in (None, lanes):
            arguments = arguments_of("gae", shape, np.float64, rng, after)
            before = arguments["next_value"].copy()
            if lacks_a_value(arguments, **keywords):
                with pytest.raises(ValueError, match="mask_mode 'reset' cuts after reward"):
                    run("gae", arguments, **keywords)
                continue
            found = run("gae", arguments, **keywords)
            np.testing.assert_array_equal(arguments["next_value"], before)
            assert_same("gae", found, specified("gae", arguments, **keywords))


@settings(max_examples=60)
@given(st.data())
def test_any_cut_and_any_mask_of_a_packed_batch_is_the_specification(data):
    lengths = data.draw(st.lists(st.integers(0, 6), max_size=6))
    total = sum(lengths)
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    layout = {"offsets": np.concatenate([[0], np.cumsum(lengths, dtype=int)])}
    if data.draw(st.booleans()):
        mask = np.array(data.draw(st.lists(st.booleans(), min_size=total, max_size=total)), bool)
        layout |= {"mask": mask, "mask_mode": data.draw(st.sampled_from(MODES))}
    for name in ("total_return", "gae", "upgo"):
        arguments = arguments_of(name, (total,), np.float64, rng)
        assert_same(name, run(name, arguments, **layout), specified(name, arguments, **layout))


@settings(max_examples=60)
@given(st.data())
def test_any_interleaving_is_the_specification(data):
    ids = data.draw(st.lists(st.integers(0, 4), max_size=20))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    layout = {"env_id": np.array(ids, data.draw(st.sampled_from([np.int32, np.int64, np.uint8])))}
    if data.draw(st.booleans()):
        layout |= {"mask": rng.random(len(ids)) < 0.6, "mask_mode": data.draw(st.sampled_from(MODES))}
    for name in ("total_return", "gae", "upgo"):
        arguments = arguments_of(name, (len(ids),), np.float64, rng)
        assert_same(name, run(name, arguments, **layout), specified(name, arguments, **layout))


# Laws that need no specification


@pytest.mark.parametrize("name", NAMES)
def test_layouts_say_the_same_thing_with_the_same_bits(name):
    rng, (T, N) = np.random.default_rng(0), (6, 4)
    arguments = arguments_of(name, (T, N), np.float64, rng)

    def said(change, **layout):
        changed = {x: change(y) if isinstance(y, np.ndarray) else y for x, y in arguments.items()}
        return np.asarray(run(name, changed, **layout))

    wanted = said(lambda x: x)
    for found in (
        said(lambda x: x.T, axis=1).swapaxes(-1, -2),
        said(lambda x: x.T.ravel(), offsets=np.arange(0, T * N + 1, T)).reshape(-1, N, T).swapaxes(-1, -2),
        said(np.ravel, env_id=np.tile(np.arange(N), T)).reshape(-1, T, N),
        said(lambda x: x, mask=np.ones((T, N), bool), mask_mode="zero"),
        said(lambda x: np.tile(x, 5))[..., :N],
    ):
        np.testing.assert_array_equal(found.reshape(wanted.shape), wanted)


@pytest.mark.parametrize("name", NAMES)
def test_sequences_run_apart_are_the_packed_batch_and_the_padded_one(name):
    rng, lengths = np.random.default_rng(1), [3, 0, 1, 5]
    arguments = arguments_of(name, (9,), np.float64, rng)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    mask = np.arange(5) < np.array(lengths)[:, None]
    parts, padded = [], {}
    for a, b in zip(offsets[:-1], offsets[1:], strict=True):
        part = {x: y[a:b] if isinstance(y, np.ndarray) else y for x, y in arguments.items()}
        parts.append(np.atleast_2d(run(name, part)))
    for x, y in arguments.items():
        padded[x] = y
        if isinstance(y, np.ndarray):
            padded[x] = np.full(mask.shape, True if y.dtype == bool else np.nan)
            padded[x][mask] = y
    wanted = np.concatenate(parts, axis=1)
    np.testing.assert_array_equal(np.atleast_2d(run(name, arguments, offsets=offsets)), wanted)
    for mode in ("skip", "reset"):
        found = np.asarray(run(name, padded, axis=1, mask=mask, mask_mode=mode))
        np.testing.assert_array_equal(np.atleast_2d(found[..., mask]), wanted)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_stands_at_masked_steps_is_not_read(layout, mode):
    rng, (shape, keywords, _) = np.random.default_rng(0), layouts(0)[layout]
    keywords = keywords | {"mask": rng.random(shape) < 0.6, "mask_mode": mode}
    for name in ("gae", "total_return", "vtrace"):
        arguments = arguments_of(name, shape, np.float64, rng)
        wanted = run(name, arguments, **keywords)
        spoilt = {x: y.copy() if isinstance(y, np.ndarray) else y for x, y in arguments.items()}
        for y in spoilt.values():
            if isinstance(y, np.ndarray):
                y[~keywords["mask"]] = True if y.dtype == bool else np.nan
        assert_same("gae", run(name, spoilt, **keywords), wanted)


# Lanes by env_id


@pytest.mark.parametrize("ids", [[10**18, -(10**18), 7], [2**64 - 1, 0, 2**63], [-1, -2, -3], [0, 10**9, 5]])
def test_env_id_may_be_any_integers_and_allocates_no_array_as_long(ids):
    rng, turns = np.random.default_rng(0), np.random.default_rng(1).integers(0, 3, 50)
    env_id = np.array(ids, np.uint64 if max(ids) >= 2**63 else np.int64)[turns]
    arguments = arguments_of("gae", (50,), np.float64, rng, (3,))
    ranked = np.argsort(np.argsort(ids))[turns]  # lanes stand in the order of their ids
    wanted = run("gae", arguments, env_id=ranked)
    tracemalloc.start()
    found = run("gae", arguments, env_id=env_id)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(found, wanted)
    assert peak < 100_000


def test_next_value_is_found_by_env_id_where_the_ids_are_indices():
    rng, env_id = np.random.default_rng(0), np.array([5, 2, 5, 2, 2])
    arguments = arguments_of("gae", (5,), np.float64, rng, (2,))
    two = arguments["next_value"]  # in the order of the sorted ids
    eight = np.full(8, np.nan)
    eight[[2, 5]] = two
    wanted = run("gae", arguments, env_id=(env_id == 5).astype(int))
    for next_value in (two, eight, eight[:6]):
        np.testing.assert_array_equal(run("gae", arguments | {"next_value": next_value}, env_id=env_id), wanted)
    with pytest.raises(ValueError, match=r"next_value has shape \(4,\), but reward has \(5,\)"):
        run("gae", arguments | {"next_value": eight[:4]}, env_id=env_id)


# Steps of one's own


@numba.njit
def summed(carry, reward):
    return carry + reward


@numba.njit
def summed_in_double(carry, reward):
    return carry + reward * 1.0  # a float64 in a loop of float32


@numba.njit
def halved_apart(carry, reward):
    return carry / 2 + reward, (carry, reward)


@numba.njit
def before(carry, reward):
    return reward, (carry,)


@numba.njit
def two_latest(carry, reward):
    carry[1], carry[0] = carry[0], reward
    return carry[0], carry[1]


@numba.njit
def no_carry(reward, scale):
    return reward * scale


@numba.njit
def never_negative(carry, reward):
    if reward < 0:
        raise ValueError("a negative reward")
    return carry + reward


def test_a_step_hands_on_its_result_the_first_of_them_or_something_else():
    reward = [1.0, 2.0, 4.0]
    np.testing.assert_array_equal(scan(summed, reward), [1 + 2 + 4, 2 + 4, 4])
    handed, last = scan(halved_apart, reward)
    np.testing.assert_array_equal(handed, [2 + 4 / 2, 4, 0])
    np.testing.assert_array_equal(last, reward)
    np.testing.assert_array_equal(scan(before, reward), [2, 4, 0])  # one result: no tuple
    np.testing.assert_array_equal(scan(no_carry, reward, 3), [3, 6, 12])


def test_carry_says_what_the_last_step_of_each_lane_is_handed():
    np.testing.assert_array_equal(scan(summed, [1.0, 2.0, 4.0], carry=8, offsets=[0, 1, 3]), [1 + 8, 2 + 4 + 8, 4 + 8])
    np.testing.assert_array_equal(scan(before, [1.0, 2.0], carry=-np.inf), [2, -np.inf])
    for layout in ({"offsets": [0, 2, 4]}, {"env_id": [0, 0, 1, 1]}):
        latest = np.array([7.0, 9.0])
        one, two = scan(two_latest, [1.0, 2.0, 3.0, 4.0], carry=latest, **layout)
        np.testing.assert_array_equal(one, [1, 2, 3, 4])
        np.testing.assert_array_equal(two, [2, 7, 4, 7])
        np.testing.assert_array_equal(latest, [7, 9])
    for lanes in (2, 20):
        reward = np.arange(1.0, 4.0)[:, None] * np.ones(lanes)
        np.testing.assert_array_equal(
            scan(two_latest, reward, carry=[7, 9])[1], [[2] * lanes, [3] * lanes, [7] * lanes]
        )
    mask = np.array([True, True, False, True])
    two = scan(two_latest, [1.0, 2.0, 3.0, 4.0], carry=[7, 9], mask=mask, mask_mode="reset")[1]
    np.testing.assert_array_equal(two, [2, 7, 0, 7])


def test_a_carry_has_the_dtype_of_the_first_array_in_every_layout():
    ones_last = np.float32([1e8, 1, 1, 1, 1, 1, 1])  # so that they are summed first: after 1e8 float32 loses each
    for reward, wanted in ((ones_last, 1e8 + 6), (ones_last[::-1].copy(), 1e8)):
        for layout in ({}, {"offsets": [0, 7]}, {"env_id": [0] * 7}, {"mask": [True] * 7}):
            found = scan(summed_in_double, reward, **layout)
            assert found.dtype == np.float32
            assert found[0] == np.float32(wanted)  # 8 apart there, so that 6 more is rounded up
        assert scan(summed_in_double, np.tile(reward[:, None], 20))[0, 19] == np.float32(wanted)


@pytest.mark.parametrize("mode", ["skip", "reset"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_step_is_not_called_where_there_is_none(layout, mode):
    shape, keywords, _ = layouts(0)[layout]
    mask = np.random.default_rng(0).random(shape) < 0.5
    reward = np.where(mask, 1.0, -1.0)
    found = scan(never_negative, reward, **keywords, mask=mask, mask_mode=mode)
    assert (found[mask] >= 1).all()
    assert (found[~mask] == 0).all()
    with pytest.raises(ValueError, match="a negative reward"):
        scan(never_negative, reward, **keywords)


# Memory


@pytest.mark.parametrize("mode", [None, *MODES])
@pytest.mark.parametrize("layout", ["time-major", "batch-major", "packed", "interleaved"])
def test_scan_into_out_takes_no_memory_that_grows_with_the_steps(layout, mode):
    shape = (500, 200) if "major" in layout else (100_000,)
    keywords = {
        "time-major": {},
        "batch-major": {"axis": 1},
        "packed": {"offsets": np.arange(0, 100_001, 200)},
        "interleaved": {"env_id": np.tile(np.arange(100, dtype=np.int32), 1000)},
    }[layout]
    if mode:
        keywords |= {"mask": np.random.default_rng(0).random(shape) < 0.9, "mask_mode": mode}
    lanes = {"time-major": 200, "batch-major": 500, "packed": 500, "interleaved": 100}[layout]
    after = None if mode == "reset" else (lanes,)
    arguments = arguments_of("gae", shape, np.float32, np.random.default_rng(0), after)
    out = np.empty(shape, np.float32)
    scan(steps.gae, **arguments, **keywords, out=out)
    tracemalloc.start()
    scan(steps.gae, **arguments, **keywords, out=out)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 15_000 + 20 * lanes < out.nbytes / 10


# Refusals

OK = {"step": summed, "reward": np.zeros(4)}
ONE_A_LANE = arguments_of("gae", (4,), np.float64, np.random.default_rng(0), (2,))
CUT = ONE_A_LANE | {"terminated": np.zeros(4, bool), "truncated": np.array([False, False, True, False])}
REFUSED = [
    ({"offsets": [0, 5]}, ValueError, "offsets runs from 0 to 5; from 0 to 4, the length of reward"),
    ({"offsets": [1, 4]}, ValueError, "offsets runs from 1 to 4; from 0 to 4, the length of reward"),
    ({"offsets": [0, 3, 2, 4]}, ValueError, "offsets falls from 3 to 2 at sequence 1"),
    ({"offsets": []}, ValueError, r"offsets has shape \(0,\); \(B \+ 1,\)"),
    ({"offsets": 4}, ValueError, r"offsets has shape \(\)"),
    ({"offsets": [0.0, 4.0]}, TypeError, "offsets has dtype float64; integers are wanted"),
    ({"offsets": [False, True]}, TypeError, "offsets has dtype bool; integers are wanted"),
    ({"offsets": [0, 4], "axis": 1}, ValueError, "axis is 1, but"),
    ({"offsets": [0, 4], "reward": np.zeros((2, 2))}, ValueError, r"offsets is given, but reward has shape \(2, 2\)"),
    ({"offsets": [0, 4], "env_id": [0] * 4}, ValueError, "offsets and env_id are both given; one of them is wanted"),
    ({"env_id": [0.0] * 4}, TypeError, "env_id has dtype float64; integers are wanted"),
    ({"env_id": [True] * 4}, TypeError, "env_id has dtype bool; integers are wanted"),
    ({"env_id": [0] * 3}, ValueError, r"env_id has shape \(3,\), but reward has \(4,\)"),
    ({"env_id": [0] * 4, "reward": np.zeros((4, 1))}, ValueError, r"env_id is given, but reward has shape \(4, 1\)"),
    ({"mask": [1] * 4}, TypeError, "mask has dtype int64; bool is wanted"),
    ({"mask": [True] * 3}, ValueError, r"mask has shape \(3,\), but reward has \(4,\)"),
    ({"mask": [True] * 4, "mask_mode": "drop"}, ValueError, "mask_mode is 'drop'; one of skip, zero, reset is wanted"),
    ({"mask_mode": None}, ValueError, "mask_mode is None; one of skip"),
    ({"carry": "x"}, TypeError, "carry has dtype"),
    ({"carry": True}, TypeError, "carry has shape .* and dtype bool; a number or a one-dimensional array is wanted"),
    ({"carry": [[1.0]]}, TypeError, r"carry has shape \(1, 1\)"),
    ({"carry": [1.0]}, TypeError, r"step summed returns array"),
    ({"step": no_carry, "scale": 1.0, "carry": 1.0}, TypeError, "carry is given, but no_carry has no parameter"),
    ({"step": halved_apart, "out": np.zeros(4)}, TypeError, "out is given, but the step has 2 results"),
    ({"step": two_latest}, TypeError, "step two_latest does not compile for .float64, float64."),
    (
        CUT | {"step": steps.gae, "offsets": [0, 2, 4]},
        ValueError,
        r"next_value has shape \(2,\), but truncated\[2\] is",
    ),
    (CUT | {"step": steps.gae, "env_id": [0, 0, 1, 1]}, ValueError, r"truncated\[2\] is set before the last step"),
    (ONE_A_LANE | {"step": steps.gae, "offsets": [0, 1, 2, 4]}, ValueError, r"next_value has shape \(2,\), but reward"),
]


@pytest.mark.parametrize(("arguments", "error", "sentence"), REFUSED)
def test_scan_names_what_it_refuses_of_a_layout(arguments, error, sentence):
    with pytest.raises(error, match=sentence):
        scan(**(OK | arguments))


@pytest.mark.parametrize("mode", MODES)
def test_a_missing_value_is_refused_only_before_the_last_step_of_a_lane(mode):
    mask = np.array([True, True, True, False])
    layout = {"mask": mask, "mask_mode": mode}
    one = CUT | {"next_value": 0.5}  # truncated at 2, masked at 3
    if mode == "zero":  # where step 3 still runs, as a step of its own
        with pytest.raises(ValueError, match=r"truncated\[2\] is set before the last"):
            scan(steps.gae, **one, **layout)
    else:
        found = scan(steps.gae, **one, **layout)
        assert found[2] == one["reward"][2] + 0.9 * 0.5 - one["value"][2]
    masked = CUT | {"next_value": 0.5, "truncated": ~mask}  # truncated where there is no step
    assert np.isfinite(scan(steps.gae, **masked, **layout)).all()


def test_tensors_of_torch_come_back_as_tensors():
    torch = pytest.importorskip("torch")
    reward = torch.tensor([1.0, 2.0, 4.0])
    found = scan(summed, reward, offsets=torch.tensor([0, 1, 3]))
    assert isinstance(found, torch.Tensor)
    assert found.tolist() == [1, 6, 4]


def test_the_example_gives_the_returns_it_promises():
    risk_averse = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "custom_step.py"))["risk_averse"]
    found = scan(risk_averse, [1.0, -2.0, 3.0], False, [False, True, False], gamma=0.5, penalty=0.25, offsets=[0, 2, 3])
    np.testing.assert_array_equal(found, [1 + 0.5 * (-2 - 0.25 * 4), -2 - 0.25 * 4, 3])
