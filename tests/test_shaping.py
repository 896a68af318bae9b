"""Reward shaping: the numbers of verl and OpenRLHF, the corners of the formulas, masked places that are never read, and KL controllers."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpg.shaping import AdaptiveKLController, FixedKLController, soft_overlong_punishment, token_reward

CASES = Path(__file__).parent / "cases"


def cases(file):
    return json.loads((CASES / f"{file}.json").read_text())["cases"]


# --- soft overlong punishment


def test_verl_soft_overlong_punishment():
    for case in cases("verl_dapo_overlong"):
        length, longest, buffer = case["valid_len"], case["max_len"], case["buffer"]
        got = soft_overlong_punishment([length], longest, buffer, factor=case["penalty_factor"])
        np.testing.assert_array_equal(case["score"] + got, [case["reward"]])


def test_punishment_falls_from_0_to_minus_1_over_the_buffer_and_no_further():
    got = soft_overlong_punishment(np.arange(14), 10, 4)
    # 0 up to 10 - 4, then a quarter for each token, -1 from 10 on.
    np.testing.assert_array_equal(got, [0] * 7 + [-0.25, -0.5, -0.75, -1, -1, -1, -1])
    np.testing.assert_array_equal(soft_overlong_punishment(np.arange(14), 10, 4, factor=2.5), 2.5 * got)
    np.testing.assert_array_equal(soft_overlong_punishment([0, 3, 9], 9, 9), [0, -1 / 3, -1])
    assert not np.signbit(got[:7]).any()
    assert soft_overlong_punishment([], 4, 2).shape == (0,)
    assert soft_overlong_punishment(np.array([[4], [2]], np.uint8), 4, 2).tolist() == [[-1.0], [0.0]]


@pytest.mark.parametrize(
    "error, message, arguments",
    [
        (TypeError, "length has dtype float64; integers", ([1.5], 4, 2)),
        (ValueError, "length holds -1; numbers of tokens", ([-1], 4, 2)),
        (ValueError, "buffer is 0, but max_length is 4; a buffer from 1 to 4", ([1], 4, 0)),
        (ValueError, "buffer is 5, but max_length is 4", ([1], 4, 5)),
        (TypeError, "max_length is 4.0; an integer", ([1], 4.0, 2)),
        (TypeError, "buffer is True; an integer", ([1], 4, True)),
    ],
)
def test_refusals_of_the_punishment_name_the_argument(error, message, arguments):
    with pytest.raises(error, match=message):
        soft_overlong_punishment(*arguments)


# --- rewards of tokens


def test_openrlhf_rewards_of_tokens():
    (case,) = [c for c in cases("openrlhf_exec_kl_reward") if "name" in c]
    mask = np.array(case["mask"]) != 0
    got = token_reward(case["r"], np.array(case["kl"]), case["kl_coef"], mask=mask, clip=(-1.0, 1.0))
    # OpenRLHF leaves the KL of the padding in; here it is 0.
    np.testing.assert_allclose(got, np.where(mask, case["expected"], 0), rtol=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_each_response_is_paid_at_its_last_token_wherever_the_gaps_are(dtype):
    mask = np.array([[True, True, False], [False, True, False], [False, True, True], [False, False, False]])
    reward = np.array([1, 2, 3, 4], dtype)
    got = token_reward(reward, mask=mask)
    np.testing.assert_array_equal(
        got, [[0, 1, 0], [0, 2, 0], [0, 0, 3], [0, 0, 0]]
    )  # the fourth has no token to be paid at
    assert got.dtype == dtype
    np.testing.assert_array_equal(token_reward(reward, offsets=[0, 2, 3, 5, 5]), [0, 1, 2, 0, 3])
    spaced = token_reward(reward, mask=mask.ravel(), offsets=[0, 3, 6, 9, 12])
    np.testing.assert_array_equal(spaced.reshape(4, 3), got)


@given(st.integers(0, 2**32), st.sampled_from(["f4", "f8"]))
def test_what_masked_places_hold_changes_no_bit(seed, dtype):
    rng = np.random.default_rng(seed)
    mask = rng.random((5, 6)) < 0.6
    kl, reward = rng.standard_normal((5, 6)).astype(dtype), rng.standard_normal(5).astype(dtype)
    wanted = token_reward(reward, kl, 0.3, mask=mask)
    by_hand = np.zeros((5, 6))
    for b, t in np.argwhere(mask):
        by_hand[b, t] = -0.3 * kl[b, t] + (reward[b] if not mask[b, t + 1 :].any() else 0)
    np.testing.assert_allclose(
        wanted, by_hand, rtol=1e-6 if dtype == "f4" else 1e-14, atol=1e-7 if dtype == "f4" else 1e-16
    )
    garbage = np.where(mask, kl, rng.choice([np.nan, np.inf, -np.inf, 3e38], (5, 6))).astype(dtype)
    got = token_reward(reward, garbage, 0.3, mask=mask)
    np.testing.assert_array_equal(got, wanted)
    np.testing.assert_array_equal(got[~mask], 0)
    assert not np.signbit(got[~mask]).any()
    offsets = np.concatenate([[0], np.cumsum(mask.sum(axis=1))])
    np.testing.assert_array_equal(token_reward(reward, kl[mask], 0.3, offsets=offsets), wanted[mask])


def test_clipping_holds_the_reward_of_the_response_alone_and_lets_nan_through():
    got = token_reward([9.0, -9.0, np.nan], [[10.0], [10.0], [10.0]], 1.0, clip=(-1.0, 2.0))
    np.testing.assert_array_equal(got, [[2 - 10], [-1 - 10], [np.nan]])
    got = token_reward([9.0], mask=[[True]], clip=(-np.inf, 5.0))
    np.testing.assert_array_equal(got, [[5]])


def test_nothing_in_gives_nothing_out():
    assert token_reward([], mask=np.zeros((0, 4), bool)).shape == (0, 4)
    assert token_reward([], offsets=[0]).shape == (0,)
    assert token_reward(np.zeros(2, "f4"), np.zeros((2, 0), "f4")).shape == (2, 0)
    np.testing.assert_array_equal(token_reward([1.0, 2.0], mask=np.zeros((2, 3), bool)), np.zeros((2, 3)))


def test_inputs_are_left_alone(rng):
    reward, kl, mask = rng.random(3), rng.random((3, 4)), rng.random((3, 4)) < 0.5
    before = [x.copy() for x in (reward, kl, mask)]
    for x in (reward, kl, mask):
        x.flags.writeable = False
    token_reward(reward, kl, 0.5, mask=mask, clip=(0.0, 0.1))
    token_reward(reward, kl[:, ::-1], 0.5)
    for x, held in zip((reward, kl, mask), before, strict=True):
        np.testing.assert_array_equal(x, held)


@pytest.mark.parametrize(
    "error, message, change",
    [
        (ValueError, r"reward has shape \(1, 2\); \(B,\) is wanted", {"reward": [[1.0, 2.0]]}),
        (TypeError, "reward has dtype int64; float32 or float64", {"reward": np.array([1, 2])}),
        (TypeError, "kl has dtype float32, but reward has float64", {"kl": np.zeros((2, 3), np.float32)}),
        (ValueError, r"reward has shape \(3,\), but there are 2 sequences", {"reward": [1.0, 2.0, 3.0]}),
        (ValueError, r"mask has shape \(2, 2\), but kl has \(2, 3\)", {"mask": np.ones((2, 2), bool)}),
        (TypeError, "mask has dtype int64; bool", {"mask": np.ones((2, 3), np.int64)}),
        (ValueError, r"kl has shape \(2, 3\); \(L,\) is wanted with offsets", {"offsets": [0, 3, 6]}),
        (TypeError, "kl is None, but coef is 0.1; the KL of each token", {"kl": None}),
        (TypeError, "mask and offsets are both None; one of them must say", {"kl": None, "coef": 0.0}),
        (ValueError, "coef is nan; a finite number", {"coef": float("nan")}),
        (TypeError, "coef is '1'; a number", {"coef": "1"}),
        (ValueError, r"clip is \(2.0, 1.0\); low at most high", {"clip": (2.0, 1.0)}),
        (TypeError, r"clip is 5.0; a pair \(low, high\)", {"clip": 5.0}),
        (TypeError, r"clip is \('a', 1\); two numbers", {"clip": ("a", 1)}),
    ],
)
def test_refusals_of_token_reward_name_the_argument(error, message, change):
    with pytest.raises(error, match=message):
        token_reward(**({"reward": [1.0, 2.0], "kl": np.zeros((2, 3)), "coef": 0.1} | change))


# --- KL controllers


def test_the_adaptive_controller_moves_by_a_bounded_share_of_the_error():
    controller = AdaptiveKLController(0.2, target=6.0, horizon=10000)
    assert controller.update(6.6, 256) == pytest.approx(0.2 * (1 + 0.1 * 256 / 10000), rel=1e-15)  # error 0.1
    before = controller.coef
    assert controller.update(60.0, 256) == before * (1 + 0.2 * 256 / 10000)  # error 9, taken as 0.2
    before = controller.coef
    assert controller.update(-1.0, 256) == before * (1 - 0.2 * 256 / 10000)  # an estimate may be negative
    before = controller.coef
    assert controller.update(6.0, 256) == before
    assert controller.update(9.0, 0) == before


def test_the_adaptive_controller_settles_where_the_kl_meets_the_target():
    controller = AdaptiveKLController(1.0, target=0.5, horizon=100)
    for _ in range(2000):
        controller.update(1 / (1 + controller.coef * 4), 10)  # the more it costs, the less there is
    # 1 / (1 + 4 c) = 0.5 at c = 0.25
    assert controller.coef == pytest.approx(0.25, rel=1e-9)


def test_the_fixed_controller_stays():
    controller = FixedKLController(0.1)
    assert [controller.update(kl, 1000) for kl in (0.0, 5.0, 100.0)] == [0.1] * 3


def test_controllers_go_on_from_their_state():
    one = AdaptiveKLController(0.3, 2.0, 50.0, bound=0.5)
    one.update(3.0, 7)
    state = json.loads(json.dumps(one.state_dict()))
    two = AdaptiveKLController(9.0, 9.0, 9.0)
    two.load_state_dict(state)
    assert two.update(0.1, 3) == one.update(0.1, 3)
    assert two.state_dict() == one.state_dict()
    fixed = FixedKLController(1.0)
    fixed.load_state_dict(FixedKLController(0.25).state_dict())
    assert fixed.update(1.0) == 0.25


def test_refusals_of_the_controllers_name_the_argument():
    for error, message, make in (
        (ValueError, "target is 0.0; a number above 0", lambda: AdaptiveKLController(0.1, 0.0, 10)),
        (ValueError, "horizon is -1.0; a number above 0", lambda: AdaptiveKLController(0.1, 1.0, -1)),
        (TypeError, "coef is None; a number", lambda: FixedKLController(None)),
        (ValueError, "coef is inf; a finite number", lambda: FixedKLController(float("inf"))),
        (ValueError, "kl is nan; a finite number", lambda: AdaptiveKLController(0.1, 1.0, 10).update(float("nan"), 1)),
        (ValueError, "steps is 50; from 0 to below horizon / bound, 50", lambda: AdaptiveKLController(1, 1, 10).update(1.0, 50)),
        (ValueError, "steps is -1; from 0", lambda: AdaptiveKLController(1, 1, 10).update(1.0, -1)),
        (TypeError, "steps is 1.5; an integer", lambda: AdaptiveKLController(1, 1, 10).update(1.0, 1.5)),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            make()


def test_verl_controllers_take_the_same_steps(rng):
    algorithms = pytest.importorskip("verl.trainer.ppo.core_algos")
    ours, theirs = AdaptiveKLController(0.2, 6.0, 1000), algorithms.AdaptiveKLController(0.2, 6.0, 1000)
    for kl, steps in zip(rng.uniform(0, 15, 50), rng.integers(0, 500, 50), strict=True):
        theirs.update(kl, steps)
        assert ours.update(kl, int(steps)) == pytest.approx(theirs.value, rel=1e-13)
