"""Every refusal names the argument, what came and what is wanted; every odd but clear input has a defined result."""

import inspect

import numpy as np
import pytest

import fastpg
from fastpg import categorical
from fastpg.testing import CASES

TIME = [case for case in CASES if case.over_time]
ROWS = [case for case in CASES if case.name.startswith("categorical.")]  # the others: test_distributions.py


def named(cases):
    return pytest.mark.parametrize("case", cases, ids=[case.id for case in cases])


def arguments(case, shape=(6, 4), dtype=np.float64):
    return case.make(np.random.default_rng(0), shape, dtype)


def refuses(case, error, message, changed, **keywords):
    with pytest.raises(error, match=message):
        case.call(arguments(case) | changed, **keywords)


@named(TIME)
def test_wrong_ranks(case):
    for reward in (np.float64(1.0), np.zeros((2, 3, 4)), 3.0):
        refuses(case, ValueError, r"reward has shape \(.*\); \(T,\) or \(T, N\) is wanted", {"reward": reward})


@named(TIME)
def test_unequal_shapes(case):
    for name, array in arguments(case).items():
        if name == "reward" or not isinstance(array, np.ndarray):
            continue
        wrong = np.zeros((6, 3), array.dtype)
        refuses(case, ValueError, rf"{name} has shape \(6, 3\), but reward has \(6, 4\)", {name: wrong})
        refuses(case, ValueError, rf"{name} has shape \(6, 4, 1\), but reward has", {name: array[:, :, None]})


@named(TIME)
@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.bool_, np.longdouble, np.complex128, object, "U3", "M8[s]"])
def test_rewards_that_are_not_float32_or_float64(case, dtype):
    refuses(case, TypeError, "reward has dtype", {"reward": np.zeros((6, 4)).astype(dtype)})


@named(TIME)
def test_values_of_another_dtype_are_never_silently_rounded(case):
    for name in {"value", "next_value"} & set(arguments(case)):
        refuses(
            case, TypeError, f"{name} has dtype float32, but reward has float64", {name: np.zeros((6, 4), np.float32)}
        )


@named(TIME)
@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.uint8, object])
def test_flags_that_are_not_bool(case, dtype):
    for name in ("terminated", "truncated"):
        refuses(case, TypeError, f"{name} has dtype", {name: np.zeros((6, 4)).astype(dtype)})


@named(TIME)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -1e-9, 1 + 1e-9, 2, -1])
def test_gamma_and_lambda_outside_0_to_1(case, bad):
    for name in {"gamma", "lambda_"} & set(arguments(case)):
        refuses(case, ValueError, rf"{name} is .*; a number in \[0, 1\] is wanted", {name: bad})
        array = np.full((6, 4), 0.5)
        array[2, 3] = bad
        refuses(case, ValueError, rf"{name}\[2, 3\] is .*; numbers in \[0, 1\] are wanted", {name: array})


@named(TIME)
@pytest.mark.parametrize("bad", [None, True, "0.9", np.array([0.5, 0.5]), np.zeros((6, 4), int), 1j])
def test_gamma_and_lambda_of_another_kind(case, bad):
    for name in {"gamma", "lambda_"} & set(arguments(case)):
        with pytest.raises((TypeError, ValueError), match=name):
            case.call(arguments(case) | {name: bad})


@named(TIME)
@pytest.mark.parametrize("good", [np.float32(0.5), np.float64(0.5), np.array(0.5), np.full((6, 4), 0.5)])
def test_gamma_as_any_number_or_array_gives_the_same(case, good):
    wanted = case.call(arguments(case) | {"gamma": 0.5})
    np.testing.assert_array_equal(case.call(arguments(case) | {"gamma": good}), wanted)
    whole = case.call(arguments(case) | {"gamma": 1.0})
    np.testing.assert_array_equal(case.call(arguments(case) | {"gamma": 1}), whole)


@named(TIME)
def test_axes_that_are_not_there(case):
    for axis in (2, -3):
        refuses(case, ValueError, f"axis is {axis}, but the arrays have 2 axes", {}, axis=axis)
    for axis in (0.0, True, None, "time"):
        refuses(case, TypeError, "axis is", {}, axis=axis)
    np.testing.assert_array_equal(case.call(arguments(case), axis=-1), case.call(arguments(case), axis=1))


@named(TIME)
def test_none_where_an_array_is_wanted(case):
    for name, array in arguments(case).items():
        if isinstance(array, np.ndarray) and (name == "reward" or case.name != "reward_to_go"):
            refuses(case, TypeError, f"{name} ", {name: None})


@named(TIME)
def test_no_steps_and_no_lanes_give_empty_results(case):
    for shape in [(0,), (0, 4), (4, 0), (0, 0)]:
        for dtype in (np.float32, np.float64):
            got = case.call(arguments(case, shape, dtype))
            for array in got if isinstance(got, tuple) else (got,):
                assert array.shape == shape and array.dtype == dtype


def test_empty_lists_are_empty_batches():
    assert fastpg.gae([], [], [], [], []).shape == (0,)


@named(TIME)
def test_big_endian_unaligned_and_nested_list_inputs_give_the_same_numbers(case):
    plain = arguments(case)
    wanted = case.call(plain)
    swapped = {
        k: a.astype(a.dtype.newbyteorder(">")) if np.ndim(a) and a.dtype.kind == "f" else a for k, a in plain.items()
    }
    np.testing.assert_array_equal(case.call(swapped), wanted)

    def unaligned(a):
        raw = np.zeros(a.nbytes + 1, np.uint8)
        view = raw[1:].view(a.dtype).reshape(a.shape)
        view[...] = a
        return view

    odd = {k: unaligned(a) if isinstance(a, np.ndarray) else a for k, a in plain.items()}
    assert not odd["reward"].flags.aligned
    np.testing.assert_array_equal(case.call(odd), wanted)
    lists = {k: a.tolist() if isinstance(a, np.ndarray) else a for k, a in plain.items()}
    np.testing.assert_array_equal(case.call(lists), wanted)


def test_ragged_lists_and_masked_arrays_are_refused():
    with pytest.raises(ValueError, match="reward cannot be read as an array"):
        fastpg.reward_to_go([[1.0], [1.0, 2.0]])
    with pytest.raises(TypeError, match="reward is a masked array"):
        fastpg.reward_to_go(np.ma.masked_array([1.0, 2.0], [True, False]))


def test_a_truncated_step_above_the_last_row_needs_its_own_next_value():
    r, v, no = np.zeros((5, 2)), np.zeros((5, 2)), np.zeros((5, 2), bool)
    cut = no.copy()
    cut[3, 1] = True
    last = np.zeros(2)
    for estimate in (fastpg.gae, fastpg.gae_and_return, fastpg.td_residual):
        with pytest.raises(ValueError, match="next_value .* truncated is set at step 3 of lane 1"):
            estimate(r, v, last, no, cut)
        with pytest.raises(ValueError, match="truncated is set at step 3 of lane 1"):
            estimate(r.T, v.T, last, no.T, cut.T, axis=1)
        estimate(r, v, last, cut, cut)  # terminated wins: no value is missing
        at_end = no.copy()
        at_end[4] = True
        estimate(r, v, last, no, at_end)
    with pytest.raises(ValueError, match="truncated is set at step 3"):
        fastpg.reward_to_go(r, last, no, cut)
    with pytest.raises(ValueError, match="truncated is set at step 3"):
        fastpg.reward_to_go(r[:, 1], 0.0, None, cut[:, 1])
    with pytest.raises(ValueError, match="lambda_return reads V of the next state at other steps too"):
        fastpg.lambda_return(r, last, no, no)
    with pytest.raises(
        ValueError, match=r"next_value has shape \(5,\), but reward has \(5, 2\); \(5, 2\) is wanted, or \(2,\)"
    ):
        fastpg.gae(r, v, np.zeros(5), no, no)


WITH_OUT = [c for c in CASES if "out" in inspect.signature(c.function()).parameters]


@named([c for c in WITH_OUT if isinstance(c.call(arguments(c)), tuple)])
def test_wrong_out_for_two_results(case):
    one, two = case.call(arguments(case))
    refuses(case, TypeError, "out is a ndarray; a tuple of 2 arrays, one for each result, is wanted", {}, out=one)
    refuses(case, TypeError, "out is a tuple of 1;", {}, out=(one,))
    refuses(case, ValueError, r"out\[1\] has shape \(3, 3\)", {}, out=(one, np.zeros((3, 3))))
    refuses(case, ValueError, "out holds arrays that share memory", {}, out=(one, one))
    two.setflags(write=False)
    refuses(case, ValueError, r"out\[1\] is read-only", {}, out=(one, two))


@named([c for c in WITH_OUT if not isinstance(c.call(arguments(c)), tuple)])
def test_wrong_out(case):
    right = case.call(arguments(case))
    if isinstance(right, tuple):
        one, other = right
        refuses(case, TypeError, "a tuple of 2 arrays, one for each result, is wanted", {}, out=one)
        refuses(case, TypeError, "a tuple of 2 arrays, one for each result, is wanted", {}, out=(one,))
        refuses(case, ValueError, r"out\[1\] has shape", {}, out=(one, np.zeros((3, 3))))
        refuses(case, TypeError, r"out\[0\] is a list", {}, out=(one.tolist(), other))
        refuses(case, ValueError, "out holds arrays that share memory", {}, out=(one, one))
        other.setflags(write=False)
        refuses(case, ValueError, r"out\[1\] is read-only", {}, out=(one, other))
        return
    refuses(case, ValueError, "out has shape", {}, out=np.zeros((3, 3)))
    refuses(case, ValueError, "out has shape .* dtype float32", {}, out=right.astype(np.float32))
    refuses(case, TypeError, "out is a list", {}, out=right.tolist())
    right.setflags(write=False)
    refuses(case, ValueError, "out is read-only", {}, out=right)


# --- rows of actions


@named(ROWS)
def test_logits_of_wrong_rank_or_dtype(case):
    refuses(
        case,
        ValueError,
        r"logits has shape \(\); \(M, A\) with at least one action is wanted",
        {"logits": np.float64(1)},
    )
    refuses(case, ValueError, r"logits has shape \(6, 0\)", {"logits": np.zeros((6, 0))})
    for dtype in (np.int64, np.longdouble, bool, object, complex):
        refuses(case, TypeError, "logits has dtype", {"logits": np.zeros((6, 4)).astype(dtype)})


@named(ROWS)
def test_row_arguments_of_wrong_shape(case):
    given = arguments(case)
    for name in {"action", "weight"} & set(given):
        refuses(case, ValueError, rf"{name} has shape \(5,\), but logits has \(6, 4\)", {name: given[name][:5]})
        refuses(case, ValueError, rf"{name} has shape \(6, 1\)", {name: given[name][:, None]})
    if "other" in given:
        refuses(case, ValueError, r"other has shape \(6, 3\), but logits has \(6, 4\)", {"other": np.zeros((6, 3))})
        refuses(
            case, TypeError, "other has dtype float32, but logits has float64", {"other": np.zeros((6, 4), np.float32)}
        )
    for legal in (np.ones((6, 3), bool), np.ones(6, bool), np.ones((1, 4), bool)):
        refuses(case, ValueError, "legal has shape", {}, legal=legal)
    refuses(case, TypeError, "legal has dtype int64; bool is wanted", {}, legal=np.ones((6, 4), int))


@named([c for c in ROWS if "action" in arguments(c)])
def test_actions_out_of_range_or_not_integers(case):
    for bad in (-1, 4, 2**40, np.iinfo(np.int64).min):
        action = np.zeros(6, np.int64)
        action[5] = bad
        refuses(case, ValueError, rf"action\[5\] is {bad}; an action in \[0, 4\) is wanted", {"action": action})
    for dtype in (float, bool, object):
        refuses(case, TypeError, "action has dtype", {"action": np.zeros(6).astype(dtype)})
    refuses(case, ValueError, "action holds 18446744073709551615", {"action": np.full(6, 2**64 - 1, np.uint64)})
    wanted = case.call(arguments(case))
    for dtype in (np.int8, np.uint8, np.int32, np.uint64, ">i8"):
        same = arguments(case)
        np.testing.assert_array_equal(case.call(same | {"action": same["action"].astype(dtype)}), wanted)


@named(ROWS)
@pytest.mark.parametrize("actions", [2, 18, 100])
def test_a_row_without_a_legal_action_is_an_error_that_names_it(case, actions):
    logits = np.zeros((80, actions))
    logits[70] = -np.inf
    given = arguments(case, (80, actions))
    with pytest.raises(ValueError, match=r"logits\[70\] has no legal action: logits is -inf at every action"):
        case.call(given | {"logits": logits})
    legal = np.ones((80, actions), bool)
    legal[3] = False
    with pytest.raises(ValueError, match=r"logits\[3\] has no legal action: legal allows none"):
        case.call(arguments(case, (80, actions)), legal=legal)
    if "other" in given:
        with pytest.raises(ValueError, match=r"other\[70\] has no legal action"):
            case.call(arguments(case, (80, actions)) | {"other": logits})


@pytest.mark.parametrize("actions", [2, 18, 100, 5000])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_no_action_is_picked_from_nan_or_infinite_logits(actions, bad):
    logits = np.zeros((70, actions))
    logits[66, 1] = bad
    with pytest.raises(ValueError, match=r"logits\[66\] holds (NaN|inf); no action can be picked from it"):
        categorical.sample(logits, np.random.default_rng(0))
    if np.isnan(bad):
        with pytest.raises(ValueError, match=r"logits\[66\] holds NaN"):
            categorical.mode(logits)
    else:
        assert categorical.mode(logits)[66] == 1


def test_sample_wants_a_generator():
    for rng in (None, 0, np.random, np.random.RandomState(0)):
        with pytest.raises(TypeError, match=r"rng is .*; a numpy.random.Generator is wanted"):
            categorical.sample(np.zeros((2, 2)), rng)


def test_no_rows_give_empty_results():
    for case in ROWS:
        got = case.call(arguments(case, (0, 4)))
        assert got.shape in ((0,), (0, 4))


def test_an_illegal_action_has_log_probability_minus_inf_and_no_gradient():
    legal = np.array([True, False, True])
    assert categorical.log_prob([[0.0, 5.0, 0.0]], [1], legal)[0] == -np.inf
    grad = categorical.log_prob_grad([[0.0, 5.0, 0.0]], [1], [2.0], legal)
    np.testing.assert_array_equal(grad, [[-1.0, 0.0, -1.0]])  # 2 (0 - pi) where legal


def test_baselined_refuses_what_it_cannot_subtract():
    with pytest.raises(ValueError, match=r"baseline has shape \(2,\), but returns has \(3,\)"):
        fastpg.baselined(np.zeros(3), np.zeros(2))
    with pytest.raises(TypeError, match="baseline has dtype float32, but returns has float64"):
        fastpg.baselined(np.zeros(3), np.zeros(3, np.float32))
    x = np.array([3.0, 4.0])
    assert fastpg.baselined(x, x, out=x) is x
    np.testing.assert_array_equal(x, 0)


def test_kl_grad_wants_a_known_side():
    with pytest.raises(ValueError, match="wrt is 'both'"):
        categorical.kl_grad(np.zeros((1, 2)), np.zeros((1, 2)), np.ones(1), wrt="both")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numbers_may_be_written_without_a_point_in_lists_but_not_come_as_integers_in_arrays(dtype):
    value, no = np.array([0, 1, 0], dtype), [False] * 3
    got = fastpg.gae(value, [0, 1, 0], 2, no, no, gamma=1)
    wanted = fastpg.gae(value, value, dtype(2), no, no, gamma=1.0)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, wanted)
    np.testing.assert_array_equal(fastpg.reward_to_go([1, 2, 4], gamma=0.5), [3, 4, 4])
    for bad in (np.array([1, 2, 4]), [True, False, True]):
        with pytest.raises(TypeError, match="reward has dtype"):
            fastpg.reward_to_go(bad)
