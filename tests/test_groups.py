"""Group advantages: equal to the specification, to the numbers of the libraries in use and to exact enumeration; the hazards as laws."""

import itertools
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastpg
from fastpg import reference
from fastpg.groups import (
    GROUP_KINDS,
    PRESETS,
    broadcast_to_tokens,
    group_advantage,
    optimal_token_baseline,
    token_advantage,
)

CASES = Path(__file__).parent / "cases"
CENTRED = [
    "grpo",
    "dr_grpo",
    "rloo",
    "loo_std",
    "opo",
    "gpg",
    "maxrl",
    "pass_at_k",
]  # 0 where a group's rewards are equal
BOTH = pytest.mark.parametrize("dtype", [np.float32, np.float64])
EPS = np.finfo(float).eps


def cases(file):
    return json.loads((CASES / f"{file}.json").read_text())["cases"]


def extras(kind, m, rng):
    """What a kind needs beside reward and group."""
    keywords = {}
    if kind == "opo":
        keywords["length"] = rng.integers(1, 20, m)
    if kind == "remax":
        keywords["baseline"] = rng.standard_normal(m)
    return keywords


def batch(rng, m=60, groups=9):
    """Rewards of every kind that maxrl takes, many of them equal, and string keys in no order; one key once."""
    reward = np.round(rng.random(m), 1) if rng.random() < 0.5 else rng.random(m)
    group = [f"prompt {k}" for k in rng.integers(0, groups, m)]
    group[m // 2] = "alone"
    return reward, group


# --- against the specification

FORMS = [
    *({"kind": kind} for kind in GROUP_KINDS if kind != "gdpo"),
    {"kind": "grpo", "ddof": 0, "eps": 0.0, "singleton": "reward"},
    {"kind": "grpo", "scale": "batch", "singleton": "reward"},
    {"kind": "grpo", "scale": "none"},
    {"kind": "dr_grpo", "scale": "group", "ddof": 0, "singleton": "centered"},
    {"kind": "rloo", "scale": "batch", "singleton": 3.0},
    {"kind": "rloo", "scale": "group"},
    {"kind": "rloo", "whiten": True, "whiten_eps": 1e-4, "whiten_eps_in": "std"},
    {"kind": "loo_std", "ddof": 0, "singleton": "reward"},
    {"kind": "opo", "scale": "group", "singleton": "reward"},
    {"kind": "gpg", "alpha": "nonzero", "singleton": "reward"},
    {"kind": "gpg", "alpha": 2.5},
    {"kind": "pass_at_k", "k": 2, "singleton": "reward"},
    {"kind": "pass_at_k", "k": 3, "scale": "group"},
    {"kind": "pass_at_k", "scale": "batch"},
    {"kind": "reinforce_pp", "ddof": 0, "whiten_eps_in": "floor"},
    {"kind": "reinforce_pp", "whiten": False},
    {"kind": "reinforce_pp_baseline", "singleton": "reward"},
    {"kind": "reinforce_pp_baseline", "singleton": "centered", "ddof": 0, "whiten_eps_in": "floor"},
    {"kind": "reinforce_pp_baseline", "scale": "group"},
]


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("by_token", [False, True])
def test_every_kind_equals_the_specification(form, by_token, rng):
    for _ in range(5):
        reward, group = batch(rng, m=40, groups=7)
        if form["kind"] == "pass_at_k":  # groups of four to six: the specification walks through every subset
            group = [f"{i * 7 % 40 // 5}" for i in range(39)] + ["alone"]
        if form.get("eps") == 0.0:  # the specification would divide the rounding of equal groups by itself
            reward = rng.random(40)
        keywords = form | extras(form["kind"], len(reward), rng)
        if by_token:
            keywords["length"] = rng.integers(0 if form["kind"] != "opo" else 1, 9, len(reward))
        got = group_advantage(reward, group, **keywords)
        wanted = reference.group_advantage(reward, group, **keywords)
        np.testing.assert_allclose(got, wanted, rtol=1e-11, atol=30 * EPS)
        low = reward.astype(np.float32)
        keywords = {k: v.astype(np.float32) if k == "baseline" else v for k, v in keywords.items()}
        single = group_advantage(low, group, **keywords)
        assert single.dtype == np.float32
        # Inside it is float64 on the float32 rewards; the one rounding is that of the result.
        np.testing.assert_allclose(single, reference.group_advantage(low, group, **keywords), rtol=1.2e-7, atol=1e-12)


@pytest.mark.parametrize(
    "form", [{}, {"ddof": 0, "whiten": False}, {"singleton": "reward"}, {"scale": "none"}], ids=str
)
def test_gdpo_equals_the_specification(form, rng):
    for k in (1, 3):
        reward, weight = rng.random((40, k)), rng.random(k)
        _, group = batch(rng, m=40, groups=7)
        got = group_advantage(reward, group, "gdpo", weight=weight, **form)
        wanted = reference.group_advantage(reward, group, "gdpo", weight=weight, **form)
        np.testing.assert_allclose(got, wanted, rtol=1e-11, atol=30 * EPS)


def test_several_rewards_are_weighed_and_summed_before_every_other_kind(rng):
    reward, weight = rng.random((40, 3)), rng.random(3)
    _, group = batch(rng, m=40)
    for kind in ("grpo", "rloo", "reinforce_pp"):
        got = group_advantage(reward, group, kind, weight=weight)
        np.testing.assert_array_equal(got, group_advantage((reward * weight).sum(axis=1), group, kind))


# --- HAZARDS 5 to 9


@BOTH
@pytest.mark.parametrize("kind", CENTRED)
@pytest.mark.parametrize("n, r", [(8, 0.7), (16, 1000.1), (3, 0.1), (7, 1e30), (5, 1e-30)])
def test_a_group_of_equal_rewards_has_advantage_zero_exactly(kind, n, r, dtype, rng):
    reward = np.concatenate([np.full(n, r), rng.random(6)]).astype(dtype)
    group = ["equal"] * n + ["other"] * 6
    mixed = rng.permutation(n + 6)
    keywords = extras(kind, n + 6, rng)
    for eps in (0.0, 1e-9, 1e-4):
        for scale in (None,) if kind in ("loo_std", "gpg", "maxrl") else (None, "group", "batch", "none"):
            got = group_advantage(reward[mixed], [group[i] for i in mixed], kind, eps=eps, scale=scale, **keywords)
            np.testing.assert_array_equal(got[mixed < n], 0)
            assert np.isfinite(got).all()


@given(
    st.floats(-1e300, 1e300, allow_subnormal=False),
    st.integers(1, 40),
    st.sampled_from(CENTRED),
    st.sampled_from(["f4", "f8"]),
)
def test_whatever_the_reward_equal_groups_are_exactly_zero(r, n, kind, dtype):
    r = abs(r) if kind == "maxrl" else r
    reward = np.full(2 * n, np.clip(r, -1e30, 1e30) if dtype == "f4" else r, dtype)
    keywords = {"length": np.arange(1, 2 * n + 1)} if kind == "opo" else {}
    np.testing.assert_array_equal(group_advantage(reward, [0, 1] * n, kind, **keywords), 0)


@BOTH
@pytest.mark.parametrize("kind", ["reinforce_pp", "reinforce_pp_baseline", "gdpo", "grpo"])
def test_a_batch_of_equal_rewards_is_scaled_by_nothing_and_exactly_zero(kind, dtype):
    scale = "batch" if kind == "grpo" else None
    for n, r in ((16, 1000.1), (3, 0.1), (7, 0.7), (11, 1e-3)):
        reward = np.full(n, r, dtype)
        for eps_in, length in itertools.product(("variance", "std", "floor"), (None, np.arange(n))):
            got = group_advantage(
                reward, n, kind, eps=0.0, scale=scale, whiten_eps=0.0, whiten_eps_in=eps_in, length=length
            )
            np.testing.assert_array_equal(got, 0)


def test_equal_others_have_no_std_wherever_the_odd_one_stands():
    # Counted from the odd one, the others are -0.9 each, and 7 times that over 7 is another number.
    for n, odd in itertools.product(range(3, 12), range(3)):
        reward = np.full(n, 0.1)
        reward[odd] = 1.0
        assert group_advantage(reward, n, "loo_std", eps=0.0)[odd] == pytest.approx(0.9, rel=1e-14)


def test_a_group_without_a_single_token_has_no_length_weighted_baseline():
    got = group_advantage([1.0, 3.0, 1.0, 3.0], [0, 0, 1, 1], "opo", length=[0, 0, 1, 3])
    np.testing.assert_array_equal(got, [0, 0, 1 - 2.5, 3 - 2.5])


def test_leave_one_out_std_does_not_divide_by_rounding():
    # Fifteen of 0.3 and one of 1.0. Without the one, the others do not vary: its difference stays 1.0 - 0.3.
    # Without a 0.3, the others are fourteen and one: mean' = (14 * 0.3 + 1) / 15, var' = (14 / 15) 0.7^2 / 14 for ddof 1.
    for dtype, close in ((np.float64, 1e-14), (np.float32, 2e-7)):
        reward = np.array([0.3] * 15 + [1.0], dtype)
        got = group_advantage(reward, [0] * 16, "loo_std", eps=0.0)
        np.testing.assert_allclose(got[15], 0.7, rtol=close)
        np.testing.assert_allclose(got[:15], (0.3 - (14 * 0.3 + 1) / 15) / np.sqrt(0.7**2 / 15), rtol=20 * close)


@pytest.mark.parametrize("spread", [1e-3, 1e-6, 1e-9, 1e-12])
def test_leave_one_out_std_keeps_its_digits_beside_a_far_outlier(spread):
    others = 0.25 + spread * np.arange(8)  # 0.25 + k spread, rounded: the std of what is really there is taken below
    reward = np.append(others, 1e6)
    got = group_advantage(reward, [0] * 9, "loo_std", eps=0.0)
    shifted = others - 0.25
    wanted = (1e6 - others.mean()) / shifted.std(ddof=1)
    np.testing.assert_allclose(got[8], wanted, rtol=1e-14)


@pytest.mark.parametrize(
    "keys",
    [
        [100_000_000, -5, 100_000_000, 7, -5, 2**62],
        [2**63 - 1, -(2**63), 2**63 - 1, 0, -(2**63), 1],
        [2**200, -(2**200), 2**200, 3, -(2**200), 4],
        ["b", "a", "b", "", "a", "c"],
        [b"b", b"a", b"b", b"", b"a", b"c"],
        [(1, "x"), (2, "x"), (1, "x"), None, (2, "x"), "x"],
    ],
)
def test_group_keys_are_anything_in_any_order(keys):
    reward = np.array([1.0, 5.0, 3.0, 7.0, 9.0, 8.0])
    wanted = [-1, -2, 1, 0, 2, 0]
    np.testing.assert_array_equal(group_advantage(reward, keys, "dr_grpo"), wanted)
    np.testing.assert_array_equal(group_advantage(reward, tuple(keys), "dr_grpo"), wanted)
    array = np.array(keys, dtype=object) if isinstance(keys[0], tuple) else np.array(keys)
    if array.shape == (6,):
        np.testing.assert_array_equal(group_advantage(reward, array, "dr_grpo"), wanted)
        np.testing.assert_array_equal(group_advantage(reward, array.astype(object), "dr_grpo"), wanted)
    if isinstance(keys[0], str):
        text = np.array(keys, np.dtypes.StringDType())
        np.testing.assert_array_equal(group_advantage(reward, text, "dr_grpo"), wanted)


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u4", "i8", "u8", ">i8", "?"])
def test_integer_keys_of_every_width_reach_their_ends(dtype):
    low, high = (False, True) if dtype == "?" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    keys = np.array([high, low, high, low], dtype)
    np.testing.assert_array_equal(group_advantage([1.0, 5.0, 3.0, 9.0], keys, "dr_grpo"), [-1, -2, 1, 2])
    if dtype != "?":
        near = np.array([high - 1, high, high - 1, high, low, low], dtype)
        got = group_advantage([1.0, 5.0, 3.0, 9.0, 0.0, 2.0], near, "dr_grpo")
        np.testing.assert_array_equal(got, [-1, -2, 1, 2, -1, 1])
        np.testing.assert_array_equal(group_advantage([1.0, 5.0, 3.0, 9.0], near[:4], "dr_grpo"), [-1, -2, 1, 2])


@pytest.mark.parametrize("dtype", ["i1", "u1"])
def test_narrow_keys_do_not_overflow_where_there_are_as_many_as_they_can_tell_apart(dtype):
    keys = np.repeat(np.arange(256).astype(dtype), 2)
    np.testing.assert_array_equal(group_advantage(np.arange(512.0), keys, "dr_grpo"), [-0.5, 0.5] * 256)


def test_memory_follows_the_samples_not_the_keys():
    m = 4096
    reward, keys = np.ones(m), np.arange(m) // 8 * 10**12 - 10**15
    group_advantage(reward, keys)
    tracemalloc.start()
    group_advantage(reward, keys)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60 * 8 * m  # measured: 16 arrays of M, and Python's integers


@pytest.mark.parametrize("kind", [k for k in GROUP_KINDS if k not in ("remax", "reinforce_pp", "gdpo")])
def test_a_singleton_is_what_the_caller_says(kind, rng):
    reward, group = np.array([0.5, 1.0, 2.0]), ["alone", "b", "b"]
    keywords = extras(kind, 3, rng) | {"whiten": False, "eps": 0.25}
    alone = {
        what: group_advantage(reward, group, kind, singleton=what, **keywords)
        for what in (0.0, -7, "reward", "centered")
    }
    nan = group_advantage(reward, group, kind, singleton=np.nan, **keywords)
    assert alone[0.0][0] == 0
    assert alone[-7][0] == -7
    assert alone["centered"][0] == 0
    assert np.isnan(nan[0])
    if kind in ("grpo", "loo_std"):  # b = 0, std = 1
        assert alone["reward"][0] == 0.5 / 1.25
    elif kind == "gpg":
        assert alone["reward"][0] == 0.5 * 3 / 2  # alpha: two of three samples in groups that vary
    else:
        assert alone["reward"][0] == 0.5
    for other in alone.values():
        np.testing.assert_array_equal(other[1:], alone[0.0][1:])
    np.testing.assert_array_equal(nan[1:], alone[0.0][1:])


def test_numbers_given_for_singletons_and_equal_groups_stay_out_of_whitening():
    reward = np.array([1.0, 3.0, 50.0, 4.0, 4.0])
    got = group_advantage(
        reward, [0, 0, 1, 2, 2], "reinforce_pp_baseline", singleton=-9.0, constant=7.0, whiten_eps=0.0
    )
    # Only -1 and 1 are whitened: mean 0, variance 2 / (2 - 1).
    np.testing.assert_allclose(got, [-(2**-0.5), 2**-0.5, -9, 7, 7], rtol=4 * EPS)
    part = group_advantage(reward, [0, 0, 1, 2, 2], "reinforce_pp_baseline", singleton="centered", whiten_eps=0.0)
    # -1, 1, 0, 0, 0: mean 0, variance 2 / (5 - 1).
    np.testing.assert_allclose(part, [-(2**0.5), 2**0.5, 0, 0, 0], rtol=4 * EPS)


def test_alpha_of_a_single_reward_that_is_not_zero_is_the_number_of_samples():
    got = group_advantage([1.0, 0.0, 0.0, 0.0], 2, "gpg", alpha="nonzero")
    np.testing.assert_array_equal(got, [4 * 0.5, 4 * -0.5, 0, 0])
    np.testing.assert_array_equal(group_advantage([0.0] * 4, 2, "gpg", alpha="nonzero"), 0)


def test_a_nan_that_is_alone_in_its_group_surfaces():
    for singleton in (0.0, "reward", "centered"):
        assert np.isnan(group_advantage([np.nan], ["a"], singleton=singleton)).all()


def test_equal_groups_can_be_marked_for_a_filter():
    got = group_advantage([1.0, 1.0, 0.0, 1.0, 0.5], [0, 0, 1, 1, 2], "dr_grpo", constant=np.nan)
    np.testing.assert_array_equal(got, [np.nan, np.nan, -0.5, 0.5, 0])
    got = group_advantage([1.0, 1.0, 0.5], [0, 0, 1], "dr_grpo", constant=np.nan, singleton="reward")
    np.testing.assert_array_equal(got, [np.nan, np.nan, 0.5])


def test_an_unscored_reward_counts_nowhere(rng):
    for kind in GROUP_KINDS:
        reward, group = batch(rng)
        scored = rng.random(len(reward)) < 0.7
        scored[::10] = True
        keywords = extras(kind, len(reward), rng)
        holes = np.where(scored, reward, np.nan)
        got = group_advantage(holes, group, kind, nan="unscored", **keywords)
        kept = {name: x[scored] for name, x in keywords.items()}
        few = [key for key, s in zip(group, scored, strict=True) if s]
        np.testing.assert_array_equal(got[scored], group_advantage(reward[scored], few, kind, **kept))
        np.testing.assert_array_equal(got[~scored], 0)
        np.testing.assert_array_equal(group_advantage(holes, group, kind, mask=scored, **keywords), got)
        mask = rng.random(len(reward)) < 0.8
        both = group_advantage(holes, group, kind, nan="unscored", mask=mask, **keywords)
        np.testing.assert_array_equal(both, group_advantage(reward, group, kind, mask=mask & scored, **keywords))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", CENTRED)
def test_otherwise_nan_and_inf_reach_their_own_group_and_no_other(bad, kind, rng):
    reward, group = batch(rng)
    if kind == "maxrl" and bad == -np.inf:
        pytest.skip("below 0, which maxrl refuses")
    keywords = extras(kind, len(reward), rng) | ({"alpha": 1.0} if kind == "gpg" else {})
    clean = group_advantage(reward, group, kind, **keywords)
    for at in (3, len(reward) // 2):  # the second is alone in its group
        broken = reward.copy()
        broken[at] = bad
        got = group_advantage(broken, group, kind, **keywords)
        mine = np.array([key == group[at] for key in group])
        assert np.isnan(got[at])
        assert np.isnan(got[mine]).all()
        np.testing.assert_array_equal(got[~mine], clean[~mine])


# --- what may not matter


@given(st.data())
def test_other_names_for_the_groups_change_no_bit(data):
    m = data.draw(st.integers(0, 30))
    codes = data.draw(st.lists(st.integers(0, 6), min_size=m, max_size=m))
    names = data.draw(st.permutations(range(7)))
    reward = np.array(data.draw(st.lists(st.floats(0, 100), min_size=m, max_size=m)), float)
    for kind in GROUP_KINDS:
        keywords = extras(kind, m, np.random.default_rng(0))
        forms = [
            codes,
            np.array(codes, int),
            [f"p{names[c]}" for c in codes],
            np.array([f"p{names[c]}" for c in codes], dtype="U9"),
            [names[c] * 10**15 - 4 for c in codes],
            np.array([names[c] * 10**15 - 4 for c in codes], np.int64),
            np.array([names[c] for c in codes], np.uint8),
        ]
        if kind == "pass_at_k" and m == 0:
            continue
        first = group_advantage(reward, forms[0], kind, **keywords)
        for form in forms[1:]:
            np.testing.assert_array_equal(group_advantage(reward, form, kind, **keywords), first)


@given(st.integers(0, 2**32), st.sampled_from(GROUP_KINDS), st.sampled_from(["f4", "f8"]))
def test_what_masked_samples_hold_changes_no_bit(seed, kind, dtype):
    rng = np.random.default_rng(seed)
    reward, group = batch(rng, m=24, groups=4)
    mask = rng.random(24) < 0.7
    keywords = {k: v.astype(dtype) if k == "baseline" else v for k, v in extras(kind, 24, rng).items()}
    garbage = reward.astype(dtype)
    garbage[~mask] = rng.choice([np.nan, np.inf, -np.inf, 3e38, -1.0], (~mask).sum())
    got = group_advantage(garbage, group, kind, mask=mask, **keywords)
    np.testing.assert_array_equal(got, group_advantage(reward.astype(dtype), group, kind, mask=mask, **keywords))
    np.testing.assert_array_equal(got[~mask], 0)


@pytest.mark.parametrize("kind", GROUP_KINDS)
def test_the_order_of_the_samples_does_not_matter(kind, rng):
    reward, group = batch(rng)
    keywords = extras(kind, len(reward), rng)
    order = rng.permutation(len(reward))
    got = group_advantage(reward[order], [group[i] for i in order], kind, **{k: v[order] for k, v in keywords.items()})
    wanted = group_advantage(reward, group, kind, **keywords)[order]
    np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=30 * EPS)


@pytest.mark.parametrize("kind", [k for k in GROUP_KINDS if k not in ("maxrl", "gpg", "reinforce_pp", "remax")])
def test_a_shift_of_all_rewards_of_a_group_changes_nothing_however_large(kind, rng):
    reward, group = np.round(rng.random(60), 2) * 64, [i % 7 for i in range(60)]
    reward = np.round(reward)  # integers: the shift below is exact
    keywords = extras(kind, 60, rng)
    shift = np.array([2.0**40 * (1 + g) for g in group])
    got = group_advantage(reward + shift, group, kind, scale=None, **keywords)
    np.testing.assert_allclose(got, group_advantage(reward, group, kind, **keywords), rtol=1e-12, atol=30 * EPS)


def test_an_integer_group_means_consecutive_groups_of_that_size(rng):
    reward = rng.random(24)
    np.testing.assert_array_equal(group_advantage(reward, 4), group_advantage(reward, [i // 4 for i in range(24)]))
    with pytest.raises(
        ValueError, match="group is 5, the size of consecutive groups; a divisor of the number of samples, 24"
    ):
        group_advantage(reward, 5)


@pytest.mark.parametrize("kind", GROUP_KINDS)
def test_no_samples_give_no_advantages(kind):
    keywords = {"opo": {"length": []}, "remax": {"baseline": []}}.get(kind, {})
    for group in ([], np.array([]), np.array([], int), 3):
        for dtype in (np.float32, np.float64):
            got = group_advantage(np.zeros(0, dtype), group, kind, **keywords)
            assert got.shape == (0,)
            assert got.dtype == dtype
    one = {name: [1] if name == "length" else [2.0] for name in keywords}
    for extra in ({"mask": [False]}, {}):
        got = group_advantage([5.0], ["a"], kind, **one, **extra)
        assert got[0] == (3.0 if kind == "remax" and not extra else 0)


def test_inputs_are_left_alone_and_may_be_read_only_and_strided(rng):
    wide = rng.random((50, 3))
    wide.flags.writeable = False
    before, group = wide.copy(), rng.integers(0, 5, 50)
    group.flags.writeable = False
    for kind in GROUP_KINDS:
        keywords = extras(kind, 50, rng)
        got = group_advantage(wide[:, 1], group, kind, **keywords)
        np.testing.assert_array_equal(got, group_advantage(wide[:, 1].copy(), group, kind, **keywords))
        np.testing.assert_array_equal(wide, before)


def test_out_is_filled_even_where_it_is_the_reward(rng):
    reward, group = batch(rng)
    wanted = group_advantage(reward, group)
    out = np.empty_like(reward)
    assert group_advantage(reward, group, out=out) is out
    np.testing.assert_array_equal(out, wanted)
    assert group_advantage(reward, group, out=reward) is reward
    np.testing.assert_array_equal(reward, wanted)


# --- exact enumeration: what each estimate is an estimate of


def enumerated(theta, reward, n, kind, share, **keywords):
    """The exact expectation of sum_i share A[i] grad log pi(a_i), over all groups of n samples from softmax(theta)."""
    pi = np.exp(theta) / np.exp(theta).sum()
    every = np.array(list(itertools.product(range(len(theta)), repeat=n)))
    group = np.repeat(np.arange(len(every)), n)
    a = group_advantage(reward[every].ravel(), group, kind, **keywords).reshape(every.shape)
    score = np.eye(len(theta))[every] - pi
    return (pi[every].prod(axis=1)[:, None] * (a[:, :, None] * score).sum(axis=1) * share).sum(axis=0)


def gradient(f, theta):
    """By central differences of the fourth order, good to about 1e-12 here."""
    h = 1e-3
    grad = np.zeros_like(theta)
    for i, e in enumerate(np.eye(len(theta))):
        grad[i] = (8 * (f(theta + h * e) - f(theta - h * e)) - (f(theta + 2 * h * e) - f(theta - 2 * h * e))) / (12 * h)
    return grad


def softmax(theta):
    return np.exp(theta) / np.exp(theta).sum()


THETA, REWARD = np.array([0.3, -0.7, 0.1]), np.array([0.2, 1.5, -0.4])


def test_rloo_is_unbiased_for_the_expected_reward():
    wanted = softmax(THETA) * (REWARD - softmax(THETA) @ REWARD)  # grad of sum_a pi(a) r(a)
    for n in (2, 3, 4):
        np.testing.assert_allclose(enumerated(THETA, REWARD, n, "rloo", 1 / n), wanted, rtol=1e-13)


def test_dr_grpo_is_that_times_one_less_a_share_of_itself():
    wanted = softmax(THETA) * (REWARD - softmax(THETA) @ REWARD)
    for n in (2, 3, 4):
        np.testing.assert_allclose(enumerated(THETA, REWARD, n, "dr_grpo", 1 / n), (n - 1) / n * wanted, rtol=1e-13)


@pytest.mark.parametrize("n, k", [(2, None), (3, None), (3, 2), (4, 2), (4, 3), (5, 2)])
def test_pass_at_k_summed_over_the_group_is_unbiased_for_the_best_of_k(n, k):
    size = k or n
    picks = np.array(list(itertools.product(range(3), repeat=size)))

    def best(theta):
        return softmax(theta)[picks].prod(axis=1) @ REWARD[picks].max(axis=1)

    got = enumerated(THETA, REWARD, n, "pass_at_k", 1.0, k=k)
    np.testing.assert_allclose(got, gradient(best, THETA), rtol=1e-9, atol=1e-11)


def test_maxrl_is_unbiased_for_the_likelihood_of_success_cut_off_at_order_n_less_one():
    success = np.array([0.0, 1.0, 1.0])

    def truncated(theta, n):  # log p = -sum_k (1 - p)^k / k
        p = softmax(theta) @ success
        return -sum((1 - p) ** k / k for k in range(1, n))

    for n in (2, 3, 5):
        got = enumerated(THETA, success, n, "maxrl", 1 / n)
        np.testing.assert_allclose(got, gradient(lambda theta: truncated(theta, n), THETA), rtol=1e-9, atol=1e-11)  # noqa: B023


# --- the field's numbers


def verl():
    found = cases("verl_exec_advantages")
    return {k: np.asarray(v) for k, v in found[0]["inputs"].items()}, found[1:]


OUTCOME = {
    "grpo": "verl",
    "dr_grpo (norm_adv_by_std_in_grpo=False)": "verl_dr_grpo",
    "grpo_vectorized": "verl",
    "rloo": "verl_rloo",
    "rloo_vectorized": "verl_rloo_vectorized",
    "opo": "verl_opo",
    "grpo_passk (rows 0,1,2,4,5,6 only: no singleton)": "verl_pass_at_k",
    "reinforce_plus_plus_baseline": "verl_reinforce_pp_baseline",
    "reinforce_plus_plus": "verl_reinforce_pp",
    "remax": "verl_remax",
    "gpg": "verl_gpg",
}
# verl holds 1 + 1e-6, everything in grpo_vectorized, and gpg's alpha in float32, and adds 1e-8 to the count that whitening divides by.
VERL_ROUNDS = {
    "grpo": 6e-8,
    "grpo_vectorized": 1e-6,
    "gpg": 1e-7,
    "reinforce_plus_plus": 1e-9,
    "reinforce_plus_plus_baseline": 1e-9,
}


@pytest.mark.parametrize("name", OUTCOME)
def test_verl_outcome_advantages(name):
    x, found = verl()
    (case,) = [c for c in found if c["name"] == name]
    rows = case["params"].get("rows", range(len(x["index"])))
    mask = x["response_mask"][rows] != 0
    keywords = dict(PRESETS[OUTCOME[name]])
    if "gamma" in case["params"]:
        keywords["gamma"] = case["params"]["gamma"]
    if name == "remax":
        keywords["baseline"] = np.array(case["params"]["reward_baselines"], float)
    got = token_advantage(x["token_level_rewards"][rows], x["index"][rows], mask=mask, **keywords)
    wanted = np.where(mask, case["advantages"], 0)
    np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=VERL_ROUNDS.get(name, 1e-14))
    if "gamma" not in case["params"] and name != "remax":  # one score a sequence, then its tokens
        if name == "reinforce_plus_plus_baseline":
            keywords["length"] = mask.sum(axis=1)
        if keywords["kind"] == "opo":
            keywords["length"] = mask.sum(axis=1)
        flat = group_advantage(x["token_level_rewards"][rows].sum(axis=1), x["index"][rows], **keywords)
        np.testing.assert_array_equal(broadcast_to_tokens(flat, mask), got)


@pytest.mark.parametrize("name", ["optimal_token_baseline", "optimal_token_baseline+tis", "tir_optimal_token_baseline"])
def test_verl_optimal_token_baselines(name):
    x, found = verl()
    (case,) = [c for c in found if c["name"] == name]
    mask = x["response_mask"] != 0
    ratio = 1.5 * x["sum_pi_squared"] if "tis" in name else None
    got = optimal_token_baseline(
        x["token_level_rewards"], x["index"], x["old_log_probs"], x["sum_pi_squared"], mask=mask, ratio=ratio,
        align="token" if name.startswith("tir") else "column", tail="longest", singleton="reward", eps=1e-8,
    )  # fmt: skip
    np.testing.assert_allclose(got, np.where(mask, case["advantages"], 0), rtol=1e-12, atol=1e-15)


def number(x):
    return np.array([[float(v) for v in row] for row in x])


@pytest.mark.parametrize(
    "case", cases("trl_exec_grpo_advantages"), ids=lambda c: f"{c['aggregation']}-{c['scale_rewards']}"
)
def test_trl_advantages(case):
    reward = number(case["rewards_per_func"])
    preset = "trl_gdpo" if case["aggregation"] == "normalize_then_sum" else "trl"
    keywords = dict(PRESETS[preset])
    if preset == "trl":
        keywords["scale"] = case["scale_rewards"]
    got = group_advantage(reward, case["num_generations"], weight=case["weights"], **keywords)
    # TRL takes n / (n - 1) in float32, and is left with rounding over 1e-4 where all rewards are equal; here that is 0.
    close = 1e-14 if case["scale_rewards"] == "none" else 3e-8
    np.testing.assert_allclose(got, case["advantages"], rtol=close, atol=1e-9 if all(case["std_zero"]) else 1e-14)
    if all(case["std_zero"]):
        np.testing.assert_array_equal(got, 0)


def test_trl_statistics_leave_nan_and_masked_values_out():
    by_name = {c["fn"]: c for c in cases("trl_nan_and_masked_stats")}
    x = np.array([float(v) for v in by_name["nanstd ddof1"]["x"]])
    std = by_name["nanstd ddof1"]["expected"]
    np.testing.assert_allclose(group_advantage(x, 4, eps=0.0, nan="unscored"), [-1 / std, 0, 1 / std, 0])
    x = number(by_name["nanstd ddof1 over dim 1"]["x"])
    std = by_name["nanstd ddof1 over dim 1"]["expected"][1]
    np.testing.assert_allclose(
        group_advantage(x.ravel(), 2, eps=0.0, nan="unscored", singleton=np.nan), [np.nan, 0, -1 / std, 1 / std]
    )
    mean, var = by_name["masked_mean"], by_name["masked_var unbiased"]
    x, mask = np.array(mean["x"], float), np.array(mean["mask"]) != 0
    wanted = np.where(mask, x - mean["expected"], 0)
    np.testing.assert_array_equal(group_advantage(x, 4, "dr_grpo", mask=mask), wanted)
    got = group_advantage(x, 4, eps=0.0, mask=mask)
    np.testing.assert_allclose(got, wanted / np.sqrt(var["expected"]), rtol=4 * EPS)


def by_hand(preset, r):
    """The libraries' formulas for groups as rows, as their sources state them, float64."""
    mean, std = r.mean(1, keepdims=True), r.std(1, ddof=1, keepdims=True)
    n = r.shape[1]
    if preset.startswith("nemo_rl") or preset.endswith("reinforce_baseline"):
        centred = r - mean if preset.endswith("baseline") else r
        if preset != "nemo_rl":
            return (centred - centred.mean()) / np.sqrt(max(centred.var(), 1e-8))
        others = np.array([[np.delete(row, i) for i in range(n)] for row in r])
        spread = np.sqrt((np.square(others).mean(2) - others.mean(2) ** 2) * (n - 1) / (n - 2))
        return (r - others.mean(2)) / (spread + 1e-6)
    return {
        "openrlhf": (r - mean) / (std + 1e-9),
        "openrlhf_rloo": r - (r.sum(1, keepdims=True) - r) / (n - 1),
        "openrlhf_dr_grpo": r - mean,
        "slime": (r - mean) / (std + 1e-6),
        "open_instruct": (r - mean) / (r.std(1, keepdims=True) + 1e-8),
        "open_instruct_centered": r - mean,
        "rlhf_book": (r - mean) / (std + 1e-8),
        "oat": (r - mean) / (std + 1e-8),
        "dr_grpo": r - mean,
    }[preset]


@pytest.mark.parametrize("preset", [p for p in PRESETS if not p.startswith(("trl", "verl"))])
def test_presets_are_the_formulas_of_their_libraries(preset, rng):
    r = rng.random((6, 5))
    got = group_advantage(r.ravel(), 5, **PRESETS[preset])
    np.testing.assert_allclose(got.reshape(6, 5), by_hand(preset, r), rtol=1e-11, atol=1e-13)


def test_the_table_of_presets_in_the_docs_is_that_of_the_code():
    page = Path(__file__).parents[1] / "docs" / "conventions.md"
    shown = page.read_text().split("<!-- groups:begin -->\n")[1].split("<!-- groups:end -->")[0]
    rows = [
        f"| `{name}` | {', '.join(f'`{k}={v!r}`' for k, v in keywords.items())} |" for name, keywords in PRESETS.items()
    ]
    assert shown == "\n".join(["| preset | keywords |", "|---|---|", *rows, ""])


def test_presets_cannot_be_changed_and_every_one_of_them_runs(rng):
    with pytest.raises(TypeError):
        PRESETS["verl"]["eps"] = 1.0
    with pytest.raises(TypeError):
        PRESETS["mine"] = {}
    for keywords in PRESETS.values():
        assert np.isfinite(group_advantage(rng.random(12), 4, **extras(keywords["kind"], 12, rng), **keywords)).all()


VERL = {
    "compute_grpo_outcome_advantage": ("verl", {}),
    "compute_grpo_vectorized_outcome_advantage": ("verl", {}),
    "compute_grpo_passk_outcome_advantage": ("verl_pass_at_k", {"config": {}}),
    "compute_rloo_outcome_advantage": ("verl_rloo", {}),
    "compute_rloo_vectorized_outcome_advantage": ("verl_rloo_vectorized", {}),
    "compute_opo_outcome_advantage": ("verl_opo", {}),
    "compute_gpg_outcome_advantage": ("verl_gpg", {}),
    "compute_reinforce_plus_plus_baseline_outcome_advantage": ("verl_reinforce_pp_baseline", {}),
    "compute_reinforce_plus_plus_outcome_advantage": ("verl_reinforce_pp", {}),
    "compute_remax_outcome_advantage": ("verl_remax", {}),
    "compute_gdpo_outcome_advantage": ("verl_gdpo", {}),
    "compute_optimal_token_baseline_advantage": ("column", {}),
    "compute_multi_turn_optimal_token_baseline_advantage": ("token", {}),
}


@pytest.mark.parametrize("name", VERL)
def test_verl_itself_on_random_batches(name, rng):
    algorithms = pytest.importorskip("verl.trainer.ppo.core_algos")
    import torch

    preset, more = VERL[name]
    for _ in range(3):
        b, t = 24, 11
        mask = rng.random((b, t)) < 0.7
        mask[:, 0] = True
        last = t - 1 - mask[:, ::-1].argmax(axis=1)
        reward = np.zeros((b, t))
        reward[np.arange(b), last] = np.round(rng.random(b), 1)
        group = rng.permutation([f"p{i % 5}" for i in range(b - 1)] + ["p5"])
        if preset == "verl_pass_at_k":
            group[group == "p5"] = "p4"
        baseline, pi = rng.random(b), rng.uniform(0.1, 1, (b, t))
        keywords = {
            "token_level_rewards": torch.from_numpy(reward.copy()),
            "response_mask": torch.from_numpy(mask.astype(float)),
            "index": group,
        } | more
        if "optimal" in name:
            squares = pi**2 + (1 - pi) ** 2 / 9
            keywords |= {"old_log_probs": torch.from_numpy(np.log(pi)), "sum_pi_squared": torch.from_numpy(squares)}
            got = optimal_token_baseline(
                reward,
                group,
                np.log(pi),
                squares,
                mask=mask,
                align=preset,
                tail="longest",
                singleton="reward",
                eps=1e-8,
            )
        else:
            conventions = dict(PRESETS[preset])
            if preset == "verl_remax":
                keywords["reward_baselines"] = torch.from_numpy(baseline)
                conventions["baseline"] = baseline
            if preset == "verl_reinforce_pp":
                keywords["config"] = type("config", (), {"gamma": 0.95})
                conventions["gamma"] = 0.95
            got = token_advantage(reward, group, mask=mask, **conventions)
        function = getattr(algorithms, name)
        taken = function.__code__.co_varnames[: function.__code__.co_argcount]
        wanted = function(**{k: v for k, v in keywords.items() if k in taken})[0].numpy()
        # float32 inside verl here and there; its variances of equal rewards are rounding.
        np.testing.assert_allclose(got, np.where(mask, wanted, 0), rtol=2e-6, atol=2e-6)


# --- tokens


def sequences(rng, b=9, t=7, dtype=np.float64):
    mask = rng.random((b, t)) < 0.6
    mask[0], mask[1] = True, False
    reward = rng.random((b, t)).astype(dtype)
    group = [f"p{i % 3}" for i in range(b - 1)] + ["alone"]
    return reward, mask, group


def packed(array, mask):
    return array[mask], np.concatenate([[0], np.cumsum(mask.sum(axis=1))])


@pytest.mark.parametrize("kind", [k for k in GROUP_KINDS if k != "pass_at_k"])
def test_packed_tokens_give_what_padded_ones_give_and_garbage_between_them_changes_no_bit(kind, rng):
    for dtype in (np.float32, np.float64):
        reward, mask, group = sequences(rng, dtype=dtype)
        keywords = {"baseline": rng.random(9).astype(dtype)} if kind == "remax" else {}
        keywords |= {"gamma": 0.9} if kind in ("reinforce_pp", "remax") else {}
        got = token_advantage(reward, group, kind, mask=mask, **keywords)
        assert got.dtype == dtype
        np.testing.assert_array_equal(got[~mask], 0)
        garbage = np.where(mask, reward, rng.choice([np.nan, np.inf, -1e30], mask.shape).astype(dtype))
        np.testing.assert_array_equal(token_advantage(garbage, group, kind, mask=mask, **keywords), got)
        flat, offsets = packed(reward, mask)
        np.testing.assert_array_equal(token_advantage(flat, group, kind, offsets=offsets, **keywords), got[mask])
        spaced, bounds = garbage.ravel(), np.arange(10) * 7
        part = token_advantage(spaced, group, kind, offsets=bounds, mask=mask.ravel(), **keywords)
        np.testing.assert_array_equal(part.reshape(mask.shape), got)


@pytest.mark.parametrize("kind", GROUP_KINDS)
@pytest.mark.parametrize("shape", [(3, 4), (0, 4), (3, 0)])
def test_a_batch_without_a_single_token_has_no_advantages(kind, shape):
    reward, group, mask = np.full(shape, np.nan), ["a"] * shape[0], np.zeros(shape, bool)
    for dtype in (np.float32, np.float64):
        keywords = {"baseline": np.zeros(shape[0], dtype)} if kind == "remax" else {}
        got = token_advantage(reward.astype(dtype), group, kind, mask=mask, **keywords)
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, np.zeros(shape))


def test_a_sequence_without_tokens_is_no_sample(rng):
    reward, mask, group = sequences(rng)
    got = token_advantage(reward, group, "dr_grpo", mask=mask)
    kept = np.arange(9) != 1
    fewer = token_advantage(
        reward[kept], [g for g, k in zip(group, kept, strict=True) if k], "dr_grpo", mask=mask[kept]
    )
    np.testing.assert_array_equal(got[kept], fewer)
    np.testing.assert_array_equal(got[1], 0)


def test_reinforce_pp_over_tokens_is_the_whitened_reward_to_go(rng):
    reward, mask, _ = sequences(rng)
    got = token_advantage(reward, None, "reinforce_pp", mask=mask, gamma=0.9, whiten_eps=0.0, ddof=0)
    to_go = [[sum(0.9**n * r for n, r in enumerate(row[t:])) for t in range(len(row))]
             for row in (reward[b, mask[b]] for b in range(9))]  # fmt: skip
    flat = np.concatenate(to_go)
    np.testing.assert_allclose(got[mask], (flat - flat.mean()) / flat.std(), rtol=1e-12)


def test_broadcasting_writes_zero_at_masked_places():
    got = broadcast_to_tokens(np.array([-1.0, 2.0], np.float32), [[True, False], [False, True]])
    np.testing.assert_array_equal(got, [[-1, 0], [0, 2]])
    assert got.dtype == np.float32
    assert not np.signbit(got[0, 1])
    np.testing.assert_array_equal(broadcast_to_tokens([3.0, 4.0, 5.0], offsets=[0, 2, 2, 3]), [3, 3, 5])
    np.testing.assert_array_equal(broadcast_to_tokens([3.0], [False, True], offsets=[0, 2]), [0, 3])


@pytest.mark.parametrize("align", ["column", "token"])
@pytest.mark.parametrize("tail", ["lone", "longest", "own"])
@pytest.mark.parametrize("singleton", [0.0, "reward", "centered"])
def test_optimal_token_baseline_equals_the_specification(align, tail, singleton, rng):
    for dtype, close in ((np.float64, 1e-11), (np.float32, 1e-6)):
        reward, mask, group = sequences(rng, dtype=dtype)
        pi = rng.uniform(0.1, 1, mask.shape)
        log_prob, squares = np.log(pi).astype(dtype), (pi**2).astype(dtype)
        ratio = rng.uniform(0.5, 2, mask.shape).astype(dtype)
        form = {"align": align, "tail": tail, "singleton": singleton}
        for r, eps in ((None, 0.0), (ratio, 1e-3)):
            got = optimal_token_baseline(reward, group, log_prob, squares, mask=mask, ratio=r, eps=eps, **form)
            wanted = reference.optimal_token_baseline(
                reward, group, log_prob, squares, mask=mask, ratio=r, eps=eps, **form
            )
            np.testing.assert_allclose(got, wanted, rtol=close, atol=close)
        garbage = [np.where(mask, x, np.nan).astype(dtype) for x in (reward, log_prob, squares)]
        got = optimal_token_baseline(reward, group, log_prob, squares, mask=mask, **form)
        np.testing.assert_array_equal(optimal_token_baseline(garbage[0], group, *garbage[1:], mask=mask, **form), got)
        if align == "token" or tail == "own":
            flat = [packed(x, mask)[0] for x in (reward, log_prob, squares)]
            if align == "token":
                part = optimal_token_baseline(flat[0], group, *flat[1:], offsets=packed(mask, mask)[1], **form)
                np.testing.assert_array_equal(part, got[mask])


def test_equal_returns_have_advantage_zero_over_the_optimal_token_baseline(rng):
    for dtype in (np.float32, np.float64):
        reward = np.zeros((4, 5), dtype)
        reward[:, -1] = 1000.1
        pi = rng.uniform(0.1, 1, (4, 5))
        got = optimal_token_baseline(reward, 4, np.log(pi).astype(dtype), (pi**2).astype(dtype))
        np.testing.assert_array_equal(got, 0)


def test_the_path_weight_is_the_squared_norm_of_the_score():
    logits = np.array([[1.0, -2.0, 0.5, 3.0]] * 4)
    action = np.arange(4)
    pi = softmax(logits[0])
    score = fastpg.categorical.log_prob_grad(logits, action, np.ones(4))
    np.testing.assert_allclose(np.square(score).sum(axis=1), 1 - 2 * pi + (pi**2).sum(), rtol=1e-13)
    # ... and with two sequences of one token each, whose weights are those, the baseline is their weighted mean.
    got = optimal_token_baseline([[1.0], [0.0]], [0, 0], np.log(pi[:2])[:, None], np.full((2, 1), (pi**2).sum()))
    w = np.square(score).sum(axis=1)
    np.testing.assert_allclose(got[:, 0], [1 - w[0] / (w[0] + w[1]), -w[0] / (w[0] + w[1])], rtol=1e-12)


def test_where_the_policy_is_certain_there_is_no_baseline():
    zero = np.zeros((2, 1))
    got = optimal_token_baseline([[1.0], [3.0]], [0, 0], zero, zero + 1)
    np.testing.assert_array_equal(got, [[1], [3]])


def test_sums_of_squared_probabilities_as_verl_states_them():
    for case in cases("verl_sum_pi_squared"):
        pi = np.exp(np.array(case["logits"], float) - np.max(case["logits"], axis=1, keepdims=True))
        pi /= pi.sum(axis=1, keepdims=True)
        np.testing.assert_allclose((pi**2).sum(axis=1), case["expected"], rtol=1e-12)


# --- refusals


@pytest.mark.parametrize(
    "error, message, change",
    [
        (ValueError, "kind is 'ppo'; one of grpo, dr_grpo", {"kind": "ppo"}),
        (TypeError, "reward has dtype int64; float32 or float64", {"reward": np.array([1, 0, 1, 0])}),
        (TypeError, "reward has dtype bool", {"reward": [True, False, True, False]}),
        (ValueError, r"reward has shape \(\); \(M,\) is wanted", {"reward": 1.0}),
        (ValueError, r"group has shape \(3,\), but there are 4 samples", {"group": ["a", "b", "c"]}),
        (ValueError, r"group has shape \(4, 2\), but there are 4 samples", {"group": np.zeros((4, 2), int)}),
        (TypeError, r"group has dtype float64; integers or strings", {"group": np.zeros(4)}),
        (TypeError, r"group holds 0.5; integers or strings", {"group": [0.5, 0.5, 1, 1]}),
        (TypeError, r"group\[1\] is a list, which cannot be a key", {"group": ["a", ["b"], "c", "d"]}),
        (TypeError, r"group is None; a key for each of the 4 samples", {"group": None}),
        (TypeError, r"group is 'abcd'; a key for each of the 4 samples", {"group": "abcd"}),
        (TypeError, r"group is True; a key for each", {"group": True}),
        (TypeError, "group is a masked array; a plain array", {"group": np.ma.masked_array([1, 1, 2, 2], [0, 1, 0, 0])}),
        (ValueError, "group is 0, the size of consecutive groups", {"group": 0}),
        (ValueError, "ddof is 2; 0 or 1", {"ddof": 2}),
        (ValueError, "ddof is True; 0 or 1", {"ddof": True}),
        (ValueError, "eps is -1.0; a finite number of 0 or more", {"eps": -1.0}),
        (ValueError, "eps is nan; a finite number of 0 or more", {"eps": float("nan")}),
        (TypeError, "eps is '0'; a number of 0 or more", {"eps": "0"}),
        (ValueError, "singleton is 'raw'; a number, reward or centered", {"singleton": "raw"}),
        (TypeError, "singleton is None; a number, reward or centered", {"singleton": None}),
        (TypeError, "constant is 'zero'; a number or None", {"constant": "zero"}),
        (ValueError, "scale is 'std'; group, batch or none", {"scale": "std"}),
        (ValueError, "scale is 'group', but maxrl has a scale of its own", {"scale": "group", "kind": "maxrl"}),
        (ValueError, "scale is 'batch', but gdpo has a scale of its own", {"scale": "batch", "kind": "gdpo"}),
        (ValueError, "nan is 'skip'; propagate or unscored", {"nan": "skip"}),
        (TypeError, "mask has dtype int64; bool", {"mask": [1, 1, 1, 0]}),
        (ValueError, r"mask has shape \(2,\); \(4,\) is wanted", {"mask": [True, False]}),
        (TypeError, "length is None; opo needs the number of tokens", {"kind": "opo"}),
        (TypeError, "length has dtype float64; integers", {"length": np.ones(4)}),
        (ValueError, "length holds -1; numbers of tokens", {"length": [1, -1, 1, 1]}),
        (TypeError, "baseline is None, but kind is 'remax'; the reward of each greedy response", {"kind": "remax"}),
        (TypeError, "baseline is given, but kind is 'grpo'; only remax takes one", {"baseline": [0.0] * 4}),
        (TypeError, "baseline has dtype float32, but reward has float64", {"kind": "remax", "baseline": np.zeros(4, "f4")}),
        (TypeError, "weight is given, but reward has one reward a sample", {"weight": [1.0]}),
        (ValueError, r"weight has shape \(1,\), but reward has 2 rewards", {"weight": [1.0], "reward": np.ones((4, 2))}),
        (TypeError, "k is given, but kind is 'grpo'; only pass_at_k", {"k": 2}),
        (ValueError, "k is 1; an integer of 2 or more", {"k": 1, "kind": "pass_at_k"}),
        (ValueError, "k is 3, but a group has 2 scored rewards", {"k": 3, "kind": "pass_at_k"}),
        (ValueError, "alpha is 'all'; varied, nonzero or a number", {"alpha": "all"}),
        (TypeError, "whiten is 1; True, False or None", {"whiten": 1}),
        (ValueError, "whiten_eps_in is 'var'; variance, std or floor", {"whiten_eps_in": "var"}),
        (ValueError, "reward holds -1.0; maxrl is defined for rewards of 0 and more", {"kind": "maxrl", "reward": [1.0, -1.0, 0, 0]}),
        (ValueError, r"out has shape \(3,\) and dtype float64; \(4,\)", {"out": np.zeros(3)}),
    ],
)  # fmt: skip
def test_refusals_name_the_argument(error, message, change):
    with pytest.raises(error, match=message):
        group_advantage(**({"reward": [1.0, 0.0, 1.0, 0.0], "group": ["a", "a", "b", "b"]} | change))


@pytest.mark.parametrize(
    "error, message, change",
    [
        (ValueError, r"reward has shape \(2,\); \(B, T\) is wanted, or \(L,\) with offsets", {"reward": [1.0, 2.0]}),
        (ValueError, r"mask has shape \(2, 1\), but reward has \(2, 2\)", {"mask": [[True], [True]]}),
        (ValueError, r"reward has shape \(2, 2\); \(L,\) is wanted with offsets", {"offsets": [0, 2, 4]}),
        (ValueError, "offsets runs from 0 to 3; from 0 to 4, the length of", {"reward": np.ones(4), "offsets": [0, 1, 3]}),
        (ValueError, "offsets falls from 3 to 1 at sequence 1", {"reward": np.ones(4), "offsets": [0, 3, 1, 4], "group": 3}),
        (ValueError, r"group has shape \(3,\), but there are 2 samples", {"group": [0, 1, 2]}),
        (TypeError, r"length is given; token_advantage reads the lengths", {"length": [1, 2]}),
        (TypeError, r"baseline is None, but kind is 'remax'", {"kind": "remax"}),
        (TypeError, r"baseline is given, but kind is 'grpo'", {"baseline": [0.0, 0.0]}),
        (ValueError, r"kind is 'otb'; one of", {"kind": "otb"}),
        (ValueError, "gamma is nan; a number in", {"gamma": np.nan}),
        (TypeError, "gamma is '1'; a number in", {"gamma": "1"}),
    ],
)  # fmt: skip
def test_refusals_of_token_advantage_name_the_argument(error, message, change):
    with pytest.raises(error, match=message):
        token_advantage(**({"reward": [[1.0, 0.0], [1.0, 0.0]], "group": ["a", "a"]} | change))


def test_refusals_of_the_others_name_the_argument():
    ones = np.ones((2, 2))
    with pytest.raises(TypeError, match="mask and offsets are both None"):
        broadcast_to_tokens([1.0])
    with pytest.raises(ValueError, match=r"advantage has shape \(1,\), but there are 2 sequences"):
        broadcast_to_tokens([1.0], ones > 0)
    with pytest.raises(ValueError, match=r"advantage has shape \(2, 2\); \(B,\) is wanted"):
        broadcast_to_tokens(ones, ones > 0)
    with pytest.raises(ValueError, match="align is 'time'; one of column, token"):
        optimal_token_baseline(ones, 2, ones, ones, align="time")
    with pytest.raises(ValueError, match="tail is 'zero'; one of lone, longest, own"):
        optimal_token_baseline(ones, 2, ones, ones, tail="zero")
    with pytest.raises(ValueError, match=r"sum_squares has shape \(2,\), but reward has \(2, 2\)"):
        optimal_token_baseline(ones, 2, ones, np.ones(2))
    with pytest.raises(TypeError, match="log_prob has dtype float32, but reward has float64"):
        optimal_token_baseline(ones, 2, ones.astype("f4"), ones)


def test_tensors_come_back_as_tensors(rng):
    torch = pytest.importorskip("torch")
    reward, group = batch(rng)
    got = group_advantage(torch.from_numpy(reward), group)
    assert isinstance(got, torch.Tensor)
    np.testing.assert_array_equal(got.numpy(), group_advantage(reward, group))
    keys = torch.arange(len(reward)) // 4
    np.testing.assert_array_equal(
        group_advantage(torch.from_numpy(reward), keys).numpy(), group_advantage(reward, keys.numpy())
    )
    with pytest.raises(TypeError, match=r"group holds tensor\(0\); integers or strings"):
        group_advantage(reward, list(keys))
    mask = torch.ones((60, 3), dtype=torch.bool)
    assert isinstance(broadcast_to_tokens(got, mask), torch.Tensor)
