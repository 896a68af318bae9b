"""steps and scan: the scan of a step is the array kernel, so is a step in a loop of one's own, and rows of actions."""

import inspect
import itertools

import numba
import numpy as np
import pytest

import fastpg
from fastpg import _loops, scan, steps

NAMES = ["total_return", "reward_to_go", "td_residual", "gae", "gae_and_return", "lambda_return"]
DTYPES = [np.float32, np.float64]
LENGTHS = [0, 1, 2, 7, 8, 9, 63, 64, 65]
LANES = [0, 1, 7, 8, 9, 64, 65]
# Lanes contiguous in time are scanned within registers, which adds in another order. The sums stay below 100 in size.
NEAR = {np.float32: 1e-4, np.float64: 1e-12}


def batch(shape, dtype=np.float64, seed=0, **more):
    """Arguments by name, with every combination of the two flags among them."""
    rng = np.random.default_rng(seed)
    reward, value, next_value = rng.normal(size=(3, *shape)).astype(dtype)
    terminated, truncated = rng.random((2, *shape)) < 0.2
    flags = {"terminated": terminated, "truncated": truncated}
    return {"reward": reward, "value": value, "next_value": next_value, **flags, "gamma": 0.9, "lambda_": 0.7} | more


def both(name, arguments, **more):
    """scan of the step and the public function, on those of the arguments that the function takes."""
    function = getattr(fastpg, name)
    arguments = {x: arguments[x] for x in inspect.signature(function).parameters if x in arguments}
    found, wanted = scan(getattr(steps, name), **arguments, **more), function(**arguments, **more)
    return [np.atleast_2d(x) if name != "gae_and_return" else np.stack(x) for x in (found, wanted)]


def transposed(arguments):
    return {name: x.T.copy() if isinstance(x, np.ndarray) else x for name, x in arguments.items()}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_scan_of_a_step_is_the_kernel_in_time_major_layout(name, dtype):
    for seed, (T, N) in enumerate(itertools.product(LENGTHS, LANES)):
        found, wanted = both(name, batch((T, N), dtype, seed))
        assert found.dtype == dtype
        bound = NEAR[dtype] if N == 1 else 0  # time is contiguous
        np.testing.assert_allclose(found, wanted, rtol=0, atol=bound, err_msg=f"T={T} N={N}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_scan_of_a_step_is_the_kernel_for_one_lane_and_batch_major(name, dtype):
    for seed, T in enumerate(LENGTHS):
        found, wanted = both(name, batch((T,), dtype, seed))
        assert found.dtype == dtype
        np.testing.assert_allclose(found, wanted, rtol=0, atol=NEAR[dtype], err_msg=f"T={T}")
        for N in (0, 1, 9):
            found, wanted = both(name, batch((N, T), dtype, seed), axis=1)
            np.testing.assert_allclose(found, wanted, rtol=0, atol=NEAR[dtype], err_msg=f"T={T} N={N}")


@pytest.mark.parametrize("name", NAMES)
def test_scan_gives_the_same_bits_in_every_layout(name):
    arguments = batch((9, 5))
    step = getattr(steps, name)
    keep = [x for x in inspect.signature(step.py_func).parameters if x in arguments]
    by_row = scan(step, **{x: arguments[x] for x in keep})
    by_lane = scan(step, **{x: transposed(arguments)[x] for x in keep}, axis=1)
    np.testing.assert_array_equal(np.asarray(by_lane).swapaxes(-1, -2), by_row)
    one = {x: arguments[x][:, 3] if isinstance(arguments[x], np.ndarray) else arguments[x] for x in keep}
    np.testing.assert_array_equal(scan(step, **one), np.asarray(by_row)[..., 3])


@pytest.mark.parametrize("name", NAMES)
def test_scan_takes_gamma_and_lambda_per_step(name):
    rng = np.random.default_rng(1)
    gamma, lambda_ = rng.choice([0.0, 0.3, 1.0], size=(2, 64, 7))
    np.testing.assert_array_equal(*both(name, batch((64, 7), gamma=gamma, lambda_=lambda_)))


@pytest.mark.parametrize("name", ["td_residual", "gae", "reward_to_go"])
def test_scan_takes_the_values_after_the_last_row(name):
    for N in (1, 4):
        arguments = batch((6, N), next_value=np.arange(1.0, N + 1))
        arguments["truncated"][:] = False
        arguments["truncated"][1, 0] = arguments["terminated"][1, 0] = True  # terminated wins, so that V is not read
        # One lane is contiguous in time, and then sums associate otherwise.
        np.testing.assert_allclose(*both(name, arguments), rtol=0, atol=NEAR[np.float64] if N == 1 else 0)
        turned = transposed(arguments) | {"next_value": arguments["next_value"]}
        np.testing.assert_allclose(*both(name, turned, axis=1), rtol=0, atol=NEAR[np.float64])
    arguments["truncated"][2, 1], arguments["terminated"][2, 1] = True, False
    with pytest.raises(ValueError, match=r"next_value has shape \(4,\), but truncated\[2, 1\] is set before the last"):
        scan(
            getattr(steps, name),
            **{x: arguments[x] for x in inspect.signature(getattr(fastpg, name)).parameters if x in arguments},
        )


def test_scan_takes_the_value_after_the_last_step_of_one_lane():
    arguments = batch((6,), next_value=3.0, truncated=np.zeros(6, bool))
    full = arguments | {"next_value": np.append(arguments["value"][1:], 3.0)}
    np.testing.assert_array_equal(both("gae", arguments)[0], both("gae", full)[0])


def test_left_out_or_none_means_the_default_of_the_step():
    reward = batch((9, 2))["reward"]
    np.testing.assert_array_equal(scan(steps.reward_to_go, reward), fastpg.reward_to_go(reward))
    np.testing.assert_array_equal(
        scan(steps.reward_to_go, reward, None, None, reward > 1, 0.5),
        fastpg.reward_to_go(reward, None, None, reward > 1, 0.5),
    )


def test_what_lies_beyond_an_ending_is_not_read():
    arguments = batch((4, 1), terminated=np.array([[False], [True], [False], [False]]))
    arguments["truncated"][:] = False
    wanted = both("gae", arguments)[0]
    for bad in (np.nan, np.inf):
        spoilt = {x: arguments[x].copy() for x in ("reward", "value", "next_value")}
        spoilt["reward"][2:] = spoilt["value"][2:] = bad
        spoilt["next_value"][1] = bad  # the terminal state's
        found = both("gae", arguments | spoilt)[0]
        np.testing.assert_array_equal(found[:2], wanted[:2])
        assert not np.isfinite(found[2:]).any()


def test_steps_in_a_loop_of_ones_own_are_the_kernel():
    @numba.njit
    def loop(reward, value, next_value, terminated, truncated, gamma, lambda_):
        advantage = np.empty_like(reward)
        carry = np.zeros_like(reward[0])
        for t in range(len(reward) - 1, -1, -1):
            for n in range(len(carry)):
                x = reward[t, n], value[t, n], next_value[t, n], terminated[t, n], truncated[t, n]
                carry[n] = steps.gae(carry[n], *x, gamma, lambda_)
                advantage[t, n] = carry[n]
        return advantage

    arguments = batch((8, 3), np.float32, gamma=np.float32(0.9), lambda_=np.float32(0.7))
    np.testing.assert_array_equal(loop(**arguments), fastpg.gae(**arguments))


def test_scan_leaves_its_inputs_alone_and_takes_any_strides():
    arguments = batch((6, 4))
    wanted = both("gae", arguments)[0]
    compiled = _loops.step_loop.cache_info().misses
    for change in (np.asfortranarray, lambda x: x.repeat(2, 0)[::2], lambda x: x[::-1].copy()[::-1], np.copy):
        changed = {x: change(y) if isinstance(y, np.ndarray) else y for x, y in arguments.items()}
        before = {x: np.copy(y) for x, y in changed.items()}
        for y in changed.values():
            if isinstance(y, np.ndarray):
                y.setflags(write=False)
        np.testing.assert_array_equal(scan(steps.gae, **changed), wanted)
        for x in changed:
            np.testing.assert_array_equal(changed[x], before[x])
    assert _loops.step_loop.cache_info().misses == compiled  # none of them compiles the loop once more
    swapped = {x: y.astype(y.dtype.newbyteorder()) if isinstance(y, np.ndarray) else y for x, y in arguments.items()}
    np.testing.assert_array_equal(scan(steps.gae, **swapped), wanted)


def test_scan_fills_out():
    arguments = batch((6, 4))
    wanted = scan(steps.gae, **arguments)
    for out in (np.empty((6, 4)), np.empty((6, 8))[:, ::2], arguments["reward"], arguments["value"]):
        again = batch((6, 4))
        aliased = {x: out for x in ("reward", "value") if arguments[x] is out}
        if aliased:
            out[...] = again[next(iter(aliased))]
        assert scan(steps.gae, **(again | aliased), out=out) is out
        np.testing.assert_array_equal(out, wanted)


@numba.njit
def discounted(carry, reward, gamma=0.5):
    return reward + gamma * carry


@numba.njit
def sum_and_flag(carry, reward, truncated):
    return carry + reward, truncated


@numba.njit
def nothing(carry, reward):
    return None


@numba.njit
def no_parameter(carry):
    return carry


def test_scan_runs_a_step_of_ones_own():
    np.testing.assert_array_equal(scan(discounted, [1.0, 2.0, 4.0]), [1 + 0.5 * (2 + 0.5 * 4), 2 + 0.5 * 4, 4])
    np.testing.assert_array_equal(scan(discounted, [1.0, 2.0], gamma=1), [1 + 2, 2])


def test_scan_hands_the_last_row_a_truncation_and_returns_tuples():
    for false in (False, [False, False, False]):
        total, last = scan(sum_and_flag, [1.0, 2.0, 4.0], false)
        np.testing.assert_array_equal(total, [1 + 2 + 4, 2 + 4, 4])
        np.testing.assert_array_equal(last, [0, 0, 1])


def test_scan_refuses_arguments_given_twice_or_too_many():
    with pytest.raises(TypeError, match="reward is given twice, but discounted takes reward, gamma"):
        scan(discounted, [1.0], reward=[1.0])
    with pytest.raises(TypeError, match="3 arguments are given, but discounted takes reward, gamma"):
        scan(discounted, [1.0], 0.5, 0.5)


OK = batch((3, 2))
REFUSED = [
    (fastpg.gae, {}, TypeError, "step is <function gae .* compiled by @numba.njit is wanted"),
    (nothing, {"reward": [1.0]}, TypeError, "step nothing returns none; a number, or a tuple of numbers, or carry, "),
    (no_parameter, {}, TypeError, "no_parameter.*one besides carry"),
    (discounted, {}, TypeError, "reward is missing, but discounted has no default"),
    (discounted, {"reward": [1.0], "lambda_": 1.0}, TypeError, "lambda_ is given, but discounted takes reward, gamma"),
    (discounted, {"reward": None}, TypeError, "reward is None"),
    (discounted, {"reward": np.array([1, 2])}, TypeError, "reward has dtype int64; float32 or float64 is wanted"),
    (discounted, {"reward": 1.0}, ValueError, r"reward has shape \(\); \(T,\) or \(T, N\) is wanted"),
    (discounted, {"reward": np.zeros((2, 2, 2))}, ValueError, r"reward has shape \(2, 2, 2\)"),
    (discounted, {"reward": [1.0], "gamma": [1.0, 1.0]}, ValueError, r"gamma has shape \(2,\), but reward has \(1,\)"),
    (discounted, {"reward": [1.0], "gamma": 1.5}, ValueError, "gamma is 1.5"),
    (discounted, {"reward": [1.0], "gamma": np.nan}, ValueError, "gamma is nan"),
    (discounted, {"reward": [1.0], "gamma": [np.nan]}, ValueError, "gamma.* nan"),
    (discounted, {"reward": [1.0], "axis": 1}, ValueError, "axis is 1"),
    (discounted, {"reward": [1.0], "out": np.zeros(2)}, ValueError, "out has shape"),
    (sum_and_flag, {"reward": [1.0], "truncated": [0.0]}, TypeError, "truncated has dtype float64; bool is wanted"),
    (sum_and_flag, {"reward": [1.0], "truncated": [True], "out": np.zeros(1)}, TypeError, "out is given"),
    (steps.gae, OK | {"value": OK["value"][:2]}, ValueError, r"value has shape \(2, 2\), but reward has \(3, 2\)"),
    (steps.gae, OK | {"value": OK["value"].astype("f4")}, TypeError, "value has dtype float32, but reward has float64"),
    (steps.gae, OK | {"value": OK["truncated"]}, TypeError, "value has dtype bool"),
    (steps.gae, OK | {"value": 0.0, "next_value": np.zeros(2)}, ValueError, r"value has shape \(\)"),
    (steps.gae, OK | {"next_value": np.zeros(3)}, ValueError, r"next_value has shape \(3,\), but reward has \(3, 2\)"),
    (steps.gae, OK | {"lambda_": -0.1}, ValueError, "lambda_ is -0.1"),
]


@pytest.mark.parametrize(("step", "arguments", "error", "sentence"), REFUSED)
def test_scan_names_what_it_refuses(step, arguments, error, sentence):
    with pytest.raises(error, match=sentence):
        scan(step, **arguments)


# --- rows of actions

ROWS = [np.array(row) for row in ([0.0], [1.0, -2.0, 0.5], [1e4, 1e4 + 1, 9e3], [-np.inf, 0.0, -np.inf, 2.0])]


def softmax(row):
    p = np.exp(row - row.max())
    return p / p.sum()


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_log_prob_of_a_row_and_its_gradient_are_those_of_the_softmax(row):
    for dtype, near in ((np.float32, 1e-5), (np.float64, 1e-12)):
        row = row.astype(dtype)
        for action in np.flatnonzero(row > -np.inf):
            found = steps.categorical_log_prob(row, action)
            np.testing.assert_allclose(found, fastpg.categorical.log_prob(row[None], [action])[0], atol=near)
            grad = np.full(len(row), np.nan, dtype)
            steps.categorical_log_prob_grad(row, action, 2.0, grad)
            np.testing.assert_allclose(grad, 2 * (np.eye(len(row))[action] - softmax(row)), atol=near)
            assert (grad[row == -np.inf] == 0).all()


def test_gradient_of_a_row_is_its_finite_difference():
    row, grad, h = ROWS[1], np.empty(3), 1e-6
    steps.categorical_log_prob_grad(row, 2, 1.0, grad)
    for k, e in enumerate(np.eye(3)):
        up, down = (steps.categorical_log_prob(row + sign * h * e, 2) for sign in (1, -1))
        assert grad[k] == pytest.approx((up - down) / (2 * h), abs=1e-9)


def test_gradient_of_a_row_is_0_at_what_cannot_happen_even_if_it_was_taken():
    grad = np.empty(4)
    steps.categorical_log_prob_grad(ROWS[3], 0, 2.0, grad)
    np.testing.assert_allclose(grad, -2 * softmax(ROWS[3]), atol=1e-12)
    np.testing.assert_allclose(grad, fastpg.categorical.log_prob_grad(ROWS[3][None], [0], [2.0])[0], atol=1e-12)
    assert steps.categorical_log_prob(ROWS[3], 0) == -np.inf


def test_gradient_of_a_row_may_overwrite_it():
    row, grad = ROWS[3].copy(), np.empty(4)
    steps.categorical_log_prob_grad(row, 1, -3.0, grad)
    steps.categorical_log_prob_grad(row, 1, -3.0, row)
    np.testing.assert_array_equal(row, grad)


def test_rows_of_float32_stay_float32():
    @numba.njit
    def log_probs(row):
        return np.array([steps.categorical_log_prob(row, 0)])

    assert log_probs(np.zeros(2, np.float32)).dtype == np.float32


def test_sample_is_the_inverse_of_the_distribution_function():
    # u = 1/2000, 3/2000, ..., never on an edge: each action is drawn exactly in proportion
    drawn = [steps.categorical_sample(np.log([0.25, 0.5, 0.25]), (k + 0.5) / 1000) for k in range(1000)]
    assert drawn == [0] * 250 + [1] * 500 + [2] * 250
    # and on the edges each belongs to the action above it: [0, 1/4) is action 0's
    assert [steps.categorical_sample(np.zeros(4), k / 4) for k in range(4)] == [0, 1, 2, 3]


def test_sample_of_a_row_is_that_of_the_array_kernel():
    logits, rng = np.random.default_rng(0).normal(size=(1000, 5)), np.random.default_rng(1)
    wanted = fastpg.categorical.sample(logits, np.random.default_rng(1))
    np.testing.assert_array_equal([steps.categorical_sample(row, rng.random()) for row in logits], wanted)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sample_never_draws_what_cannot_happen(dtype):
    edge = np.nextafter(dtype(1), dtype(0))
    assert steps.categorical_sample(np.array([-np.inf, 0, -np.inf], dtype), dtype(0)) == 1
    assert steps.categorical_sample(np.array([-np.inf, 0, -np.inf], dtype), edge) == 1
    assert steps.categorical_sample(np.array([0, 0, 0, -np.inf], dtype), edge) == 2  # u times 3 rounds to 3


def test_rows_refuse_what_has_no_answer():
    nothing, row = np.full(2, -np.inf), np.zeros(2)
    for call in (
        lambda: steps.categorical_sample(nothing, 0.5),
        lambda: steps.categorical_log_prob(nothing, 0),
        lambda: steps.categorical_log_prob_grad(nothing, 0, 1.0, np.empty(2)),
    ):
        with pytest.raises(ValueError, match="at least one action must be possible"):
            call()
    for action in (-1, 2):
        with pytest.raises(ValueError, match="action is out of range"):
            steps.categorical_log_prob(row, action)
        with pytest.raises(ValueError, match="action is out of range"):
            steps.categorical_log_prob_grad(row, action, 1.0, np.empty(2))
    with pytest.raises(ValueError, match="out and logits differ in length"):
        steps.categorical_log_prob_grad(row, 0, 1.0, np.empty(3))
    with pytest.raises(ValueError, match="logits are empty"):
        steps.categorical_sample(np.empty(0), 0.5)
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="NaN"):
            steps.categorical_sample(np.array([0.0, bad]), 0.5)
        assert np.isnan(steps.categorical_log_prob(np.array([0.0, bad]), 0))
