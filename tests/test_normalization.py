"""Whitening, running reward scales and PopArt: against the specification, against other libraries' own code, and by their laws."""

import functools
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import fastpg
from fastpg import PopArt, RunningReturnScale, _core, _moments, merge_moments, moments, reference, whiten

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])
# float32 results are rounded once from float64; float64 sums differ from the specification's by their order alone (measured: 4e-14).
CLOSE = {np.float32: {"rtol": 1.2e-7, "atol": 1e-12}, np.float64: {"rtol": 1e-13, "atol": 1e-13}}


def loaded(name):
    return json.loads((Path(__file__).parent / "cases" / f"{name}.json").read_text())["cases"]


def batch(rng, shape, dtype, offset=3.0):
    x = (offset + 2 * rng.standard_normal(shape)).astype(dtype)
    # Powers of 2: the naive mean of a lone weighted item is then that item.
    return x, rng.random(shape) < 0.7, np.exp2(rng.integers(0, 3, shape)).astype(dtype)


# --- whiten and moments


@DTYPES
@pytest.mark.parametrize("shape", [(), (1,), (5,), (7, 4), (3, 4, 5), (70_001,), (300, 257), (3, 40_000)])
def test_whiten_and_moments_equal_the_specification_over_every_axis(rng, dtype, shape):
    x, mask, weight = batch(rng, shape, dtype)
    axes = [None, *range(len(shape))] + [(-1, 0)] * (len(shape) > 1)
    # Among 40,000 columns of three, some have two unmasked items 1e-4 apart: x - mean keeps 12 digits (measured: 3e-12).
    close = CLOSE[dtype] | ({"atol": 1e-11} if shape == (3, 40_000) else {})
    for axis in axes:
        for given_ in ({}, {"mask": mask}, {"weight": weight}, {"mask": mask, "weight": weight}):
            wanted = reference.moments(x, axis=axis, **given_)
            for ours, theirs in zip(moments(x, axis=axis, **given_), wanted, strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)
                assert np.shape(ours) == np.shape(theirs)
            got = whiten(x, axis=axis, **given_)
            assert got.dtype == dtype and got.shape == shape
            np.testing.assert_allclose(got, reference.whiten(x, axis=axis, **given_), **close)


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("eps_in", ["std", "variance"])
@pytest.mark.parametrize("ddof", [0, 1, 1.5])
def test_whiten_options_equal_the_specification(rng, center, scale, eps_in, ddof):
    x, mask, weight = batch(rng, (6, 8), np.float64)
    options = {"center": center, "scale": scale, "eps_in": eps_in, "ddof": ddof, "eps": 0.25}
    for axis in (None, 0, 1):
        for given_ in ({}, {"mask": mask, "weight": weight}):
            got = whiten(x, axis=axis, **given_, **options)
            np.testing.assert_allclose(got, reference.whiten(x, axis=axis, **given_, **options), rtol=1e-13, atol=1e-14)


def test_whitened_advantages_are_those_of_cleanrl_and_stable_baselines():
    x = np.array([1.0, 2.0, 4.0, 9.0])
    deviation = np.sqrt((9 + 4 + 0 + 25) / 3)  # mean 4, divided by n - 1
    np.testing.assert_allclose(whiten(x), np.array([-3.0, -2.0, 0.0, 5.0]) / (deviation + 1e-8), rtol=1e-15)


VERL = loaded("verl_exec_advantages")


@pytest.mark.parametrize(
    "case", [c for c in VERL if c.get("name") == "gae"], ids=lambda c: f"gamma={c['params']['gamma']}"
)
def test_verl_masked_whiten(case):
    x, p = VERL[0]["inputs"], case["params"]
    mask = np.asarray(x["response_mask"]) != 0
    reward, value = np.asarray(x["token_level_rewards"]), np.asarray(x["values"])
    no = np.zeros(mask.shape, bool)
    advantage = reference.gae(reward, value, np.zeros(len(mask)), no, no, p["gamma"], p["lam"], axis=1, mask=mask)
    got = whiten(advantage, mask=mask, eps_in="variance")
    # verl divides its sums by the number of items + 1e-8
    np.testing.assert_allclose(got[mask], np.asarray(case["advantages"])[mask], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", loaded("trl_nan_and_masked_stats"), ids=lambda c: f"{c['fn']}-{np.size(c['x'])}")
def test_trl_masked_statistics(case):
    x = np.asarray(case["x"], float)
    if case["fn"] == "masked_mean":
        assert moments(x, mask=np.asarray(case["mask"]) != 0).mean == case["expected"]
    elif case["fn"] == "masked_var unbiased":
        count, _, m2 = moments(x, mask=np.asarray(case["mask"]) != 0)
        assert m2 / (count - 1) == case["expected"]
    else:  # nanstd: what is not NaN, by rows where x has them; they give NaN for a lone item, here m2 is 0
        count, _, m2 = moments(x, mask=~np.isnan(x), axis=None if x.ndim == 1 else 1)
        wanted = np.asarray(case["expected"], float)
        np.testing.assert_allclose(np.sqrt(m2 / np.maximum(count - 1, 1)), np.nan_to_num(wanted), rtol=1e-15)


def test_whiten_agrees_with_torch(rng):
    torch = pytest.importorskip("torch")
    for shape in ((11,), (40, 30)):
        x = torch.from_numpy(batch(rng, shape, np.float64)[0])
        got = whiten(x)
        assert isinstance(got, torch.Tensor)
        np.testing.assert_allclose(got, (x - x.mean()) / (x.std() + 1e-8), rtol=1e-12, atol=1e-13)
        got = whiten(x, axis=0, eps_in="variance")
        np.testing.assert_allclose(got, (x - x.mean(0)) * torch.rsqrt(x.var(0) + 1e-8), rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(
            whiten(x, moments=moments(x, axis=0), axis=0), whiten(x, axis=0), rtol=1e-14, atol=1e-15
        )
        out = torch.empty_like(x)
        assert whiten(x, out=out) is out
        np.testing.assert_array_equal(out, whiten(x))
    assert all(isinstance(field, torch.Tensor) for field in moments(x, axis=0))


@DTYPES
@given(data=st.data())
@settings(max_examples=60)
def test_equal_items_whiten_to_exactly_0(dtype, data):
    big = 1e150 if dtype is np.float64 else float(np.finfo(np.float32).max)
    c = data.draw(st.floats(-big, big, width=32 if dtype is np.float32 else 64))
    n = data.draw(st.integers(1, 3000))
    eps = data.draw(st.sampled_from([0.0, 1e-8]))
    x = np.full(n, c, dtype)
    weight = np.random.default_rng(n).random(n).astype(dtype)
    for given_ in ({}, {"weight": weight}, {"mask": weight < 0.5}, {"axis": 0}):
        for ddof in (0, 1):
            assert not whiten(x, eps=eps, ddof=ddof, **given_).any()
    assert not whiten(np.tile(x, (3, 1)), axis=1, eps=eps).any()


def test_rounding_never_makes_a_sum_of_squares_negative():
    columns = np.random.default_rng(0).standard_normal(20_000)
    for n in (3, 7, 11):
        x = np.tile(columns, (n, 1))
        weight = np.full_like(x, 0.1)  # that alone brings 1 in 8 of these below 0, unless it is held there
        assert (moments(x, axis=0, weight=weight).m2 >= 0).all()
        assert (moments(x.T.copy(), axis=1, weight=weight.T.copy()).m2 >= 0).all()
        assert not whiten(x, axis=0, weight=weight, ddof=0, eps=0.0).any()


@DTYPES
@given(data=st.data())
@settings(max_examples=60)
def test_masked_slots_change_no_bit_and_are_0(dtype, data):
    shape = data.draw(hnp.array_shapes(max_dims=3, max_side=6, min_side=0))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    x, mask, weight = batch(rng, shape, dtype)
    garbage = rng.choice(np.array([np.nan, np.inf, -np.inf, 1e38, -0.0], dtype), shape)
    axis = data.draw(st.sampled_from([None, *range(len(shape))]))
    weighted = data.draw(st.booleans())
    results = []
    for other in (np.zeros(shape, dtype), garbage):
        w = np.where(mask, weight, other).astype(dtype) if weighted else None
        results.append(whiten(np.where(mask, x, other).astype(dtype), mask=mask, weight=w, axis=axis))
    np.testing.assert_array_equal(*(r.view(np.uint8) for r in results), strict=True) if shape else None
    assert not results[0][~mask].any() and not np.signbit(results[0][~mask]).any()


def test_masks_of_many_blocks_change_no_bit(rng):
    x, mask, weight = batch(rng, (100, 1001), np.float32)
    for axis in (None, 0, 1):
        for w in (None, weight):
            dirty = np.where(mask, x, np.float32(np.nan))
            clean = np.where(mask, x, np.float32(0))
            got = whiten(dirty, mask=mask, weight=w, axis=axis)
            np.testing.assert_array_equal(got, whiten(clean, mask=mask, weight=w, axis=axis))
            assert np.isfinite(got).all()


def test_nan_at_a_weight_of_0_shows():
    assert np.isnan(whiten([1.0, np.nan, 2.0], weight=[1.0, 0.0, 1.0])).all()
    assert np.isnan(moments([np.nan], weight=[0.0]).m2)
    x = np.zeros(3000)
    x[1500] = np.nan
    assert np.isnan(whiten(x, weight=np.where(np.isnan(x), 0.0, 1.0))).all()


def test_nan_and_inf_in_an_unmasked_slot_show(rng):
    for bad in (np.nan, np.inf):
        x = rng.standard_normal((4, 5))
        x[2, 3] = bad
        assert np.isnan(whiten(x)).all()
        got = whiten(x, axis=1)
        assert np.isnan(got[2]).all() and np.isfinite(np.delete(got, 2, 0)).all()
        assert np.isnan(whiten(x, mask=np.ones((4, 5), bool), weight=np.ones((4, 5)))).all()


def test_nothing_and_a_lone_item_have_results():
    for axis in (None, 0):
        assert not whiten(np.array([np.nan, np.inf]), mask=np.zeros(2, bool), axis=axis).any()
        assert whiten([5.0], axis=axis) == 0 and whiten([5.0], ddof=0, eps=0.0, axis=axis) == 0
        assert whiten(np.zeros(0), axis=axis).shape == (0,)
    assert whiten(np.float64(3.0)).shape == () and whiten(np.float64(3.0)) == 0
    assert whiten(np.zeros((3, 0)), axis=1).shape == (3, 0)
    assert moments(np.zeros((3, 0)), axis=1).count.tolist() == [0, 0, 0]
    assert moments([]) == (0.0, 0.0, 0.0)
    assert moments([2.0], weight=[0.0]) == (0.0, 0.0, 0.0)


def test_no_more_items_than_ddof_give_0_instead_of_a_division_by_nothing():
    for axis in (None, 0):
        assert not whiten([1.0, 2.0], weight=[0.5, 0.5], axis=axis).any()
        assert not whiten([1.0, 2.0], weight=[0.25, 0.25], axis=axis).any()
        assert not whiten([[1.0], [2.0]], weight=[[0.25], [0.25]], axis=0).any()
        assert not whiten([1.0, 2.0], ddof=2, center=False, axis=axis).any()
        assert np.isnan(whiten([np.nan], axis=axis)).all()
        np.testing.assert_array_equal(whiten([1.0, 2.0], weight=[0.5, 0.5], ddof=0, eps=0.0, axis=axis), [-1, 1])
        np.testing.assert_array_equal(whiten([1.0, 2.0], weight=[0.5, 0.5], scale=False, axis=axis), [-0.5, 0.5])


def test_a_large_offset_costs_no_digits(rng):
    x = rng.standard_normal(100_000)
    np.testing.assert_allclose(whiten(x + 2.0**30), whiten(x), atol=2e-7)  # x + 2^30 itself is rounded by up to 6e-8
    one = np.array([1e8, 1e8 + 1, 1e8 + 2])
    np.testing.assert_array_equal(whiten(one, eps=0.0), [-1, 0, 1])
    x32 = (1000 + rng.standard_normal(50_000)).astype(np.float32)
    wanted = x32.astype(np.longdouble)
    wanted = (wanted - wanted.mean()) / (wanted.std(ddof=1) + 1e-8)
    assert np.abs(whiten(x32) - wanted).max() <= np.spacing(np.float32(np.abs(wanted).max())) / 2 * 1.001


def test_a_weight_counts_an_item_that_many_times(rng):
    x, times = rng.standard_normal(50), rng.integers(0, 4, 50)
    got = whiten(x, weight=times.astype(float))
    np.testing.assert_allclose(np.repeat(got, times), whiten(np.repeat(x, times)), rtol=1e-12, atol=1e-14)


def test_shards_whiten_as_the_whole_batch(rng):
    x, mask, weight = batch(rng, (60, 7), np.float64)
    for axis in (None, 0):
        for w in (None, weight):
            parts = [slice(0, 1), slice(1, 1), slice(1, 40), slice(40, 60)]
            each = [moments(x[p], mask=mask[p], weight=None if w is None else w[p], axis=axis) for p in parts]
            every = merge_moments(*each)
            got = np.concatenate([whiten(x[p], mask=mask[p], moments=every, axis=axis) for p in parts])
            np.testing.assert_allclose(got, whiten(x, mask=mask, weight=w, axis=axis), rtol=1e-12, atol=1e-13)


def test_merging_is_the_same_in_any_order_and_nothing_adds_nothing(rng):
    a, b = moments(rng.standard_normal(10)), moments(1e6 + rng.standard_normal(3))
    np.testing.assert_allclose(merge_moments(a, b), merge_moments(b, a), rtol=1e-14)
    assert merge_moments(a, moments([])) == a == merge_moments(moments([]), a)
    assert merge_moments((0.0, 0.0, 0.0), (1.0, 1e160, 0.0)) == (1.0, 1e160, 0.0)


@DTYPES
def test_any_strides_give_the_same_result(rng, dtype):
    wide = rng.standard_normal((600, 260)).astype(dtype)
    mask = rng.random((600, 260)) < 0.8
    x, m = np.ascontiguousarray(wide[::-2, ::2]), np.ascontiguousarray(mask[::-2, ::2])
    for axis in (None, 0, 1):
        wanted = whiten(x, mask=m, axis=axis)
        same = np.testing.assert_array_equal
        if axis != 0:  # contiguous items go in one stretch, others a block of rows at a time (measured: 4e-15)
            same = functools.partial(np.testing.assert_allclose, **CLOSE[dtype])
        same(whiten(wide[::-2, ::2], mask=mask[::-2, ::2], axis=axis), wanted)
        same(whiten(np.asfortranarray(x), mask=np.asfortranarray(m), axis=axis), wanted)
        out = np.zeros((600, 260), dtype)
        assert whiten(x, mask=m, axis=axis, out=out[::2, ::2]) is not None
        np.testing.assert_array_equal(out[::2, ::2], wanted)
        assert not out[1::2].any()


@DTYPES
def test_every_instruction_set_gives_the_same_bits(rng, dtype):
    x, mask, weight = batch(rng, 5000, dtype)
    each = []
    for isa in _core.isas():
        before = _core.isa()
        _core.use_isa(isa)
        try:
            each.append(
                [whiten(x[:n], mask=m, weight=w) for n in (5000,) for m in (None, mask) for w in (None, weight)]
            )
            each[-1] += [whiten(x[:n]) for n in (*range(1, 40), 1023, 1024, 1025, 1040)]
        finally:
            _core.use_isa(before)
    for other in each[1:]:
        for ours, theirs in zip(each[0], other, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_every_length_equals_the_specification(rng):
    x, mask, weight = batch(rng, 2100, np.float64)
    for n in (*range(1, 70), *range(1000, 1060, 3), 2047, 2048, 2049, 2100):
        for given_ in ({}, {"mask": mask[:n]}, {"weight": weight[:n]}):
            np.testing.assert_allclose(
                moments(x[:n], **given_), reference.moments(x[:n], **given_), rtol=1e-12, atol=1e-12
            )


def test_whiten_in_place_and_into_memory_that_overlaps(rng):
    x = rng.standard_normal(1000)
    wanted = whiten(x)
    frozen = x.copy()
    frozen.flags.writeable = False
    np.testing.assert_array_equal(whiten(frozen), wanted)
    memory = np.concatenate([x, [0.0]])
    assert whiten(memory[:-1], out=memory[1:]) is not None
    np.testing.assert_array_equal(memory[1:], wanted)
    again = x.copy()
    assert whiten(again, out=again) is again
    np.testing.assert_array_equal(again, wanted)


def test_whiten_takes_at_most_a_megabyte_beside_its_result(rng):
    x = rng.standard_normal((2000, 1000)).astype(np.float32)
    mask, weight, out = x < 1, np.abs(x), np.empty_like(x)
    for axis in (None, 0, 1):
        whiten(x[:10], mask=mask[:10], weight=weight[:10], axis=axis)
        tracemalloc.start()
        whiten(x, mask=mask, weight=weight, axis=axis, out=out)
        whiten(out, axis=axis, out=out)
        whiten(x.T, axis=axis, out=out.T)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak <= 2**20, (axis, peak)


def test_a_divisor_below_the_normal_numbers_is_divided_by():
    x = np.array([0.0, 1e-310])
    np.testing.assert_allclose(whiten(x, ddof=0, eps=0.0, center=False), [0, 0])  # (1e-310)^2 is 0: no deviation
    got = whiten(np.array([-1e-310, 1e-310]), moments=(2.0, 0.0, 0.0), eps=1e-310)
    np.testing.assert_allclose(got, [-1, 1])


@pytest.mark.parametrize(
    ("error", "message", "keywords"),
    [
        (TypeError, "x has dtype int64; float32 or float64 is wanted", {"x": np.arange(4)}),
        (ValueError, r"mask has shape \(3,\), but x has \(4,\)", {"mask": [True] * 3}),
        (TypeError, "mask has dtype int64; bool is wanted", {"mask": np.ones(4, int)}),
        (TypeError, "weight has dtype float32, but x has float64", {"weight": np.ones(4, np.float32)}),
        (ValueError, "weight holds -1.0; numbers from 0 up are wanted", {"weight": [1.0, -1.0, 1.0, 1.0]}),
        (ValueError, "axis is 1, but the arrays have 1 axes", {"axis": 1}),
        (ValueError, r"axis is \(\); one axis at least", {"axis": ()}),
        (ValueError, r"axis is \(0, -1\), which names an axis twice", {"axis": (0, -1)}),
        (TypeError, "axis is 0.0; an integer is wanted", {"axis": 0.0}),
        (ValueError, "ddof is -1.0; a finite number from 0 up is wanted", {"ddof": -1}),
        (TypeError, "ddof is True; a number is wanted", {"ddof": True}),
        (ValueError, "eps is nan; a finite number from 0 up is wanted", {"eps": np.nan}),
        (ValueError, "eps_in is 'var'; one of std, variance is wanted", {"eps_in": "var"}),
        (TypeError, "moments is a float; Moments are wanted", {"moments": 1.0}),
        (ValueError, r"moments.mean has shape \(2,\); \(\) is wanted", {"moments": (1.0, [1.0, 2.0], 1.0)}),
        (ValueError, "weight and moments are both given", {"moments": (1.0, 1.0, 1.0), "weight": [1.0] * 4}),
        (ValueError, r"out has shape \(3,\) and dtype float64; \(4,\) and float64 are wanted", {"out": np.zeros(3)}),
        (TypeError, "out is a list; an array is wanted", {"out": [0.0] * 4}),
    ],
)
def test_whiten_refuses(error, message, keywords):
    with pytest.raises(error, match=message):
        whiten(**{"x": np.arange(4.0)} | keywords)


def test_a_negative_weight_in_a_masked_slot_is_not_read():
    assert moments([1.0, 2.0], weight=[1.0, -1.0], mask=[True, False]) == (1.0, 1.0, 0.0)


def test_moments_of_other_shapes_do_not_merge():
    with pytest.raises(ValueError, match=r"moments of shapes \(2,\) and \(\) cannot be merged"):
        merge_moments(moments([1.0]), moments(np.zeros((3, 2)), axis=0))


# --- RunningReturnScale

two = RunningReturnScale(2)


def stepwise(rng, T, N, dtype=np.float64):
    reward = rng.standard_normal((T, N)).astype(dtype) + dtype(0.5)
    terminated, truncated = rng.random((2, T, N)) < 0.08
    return reward, terminated, truncated


def wrapper_of(N, reward, terminated, truncated, mode, gamma, epsilon, exact):
    """gymnasium's own wrapper, fed with these steps."""
    gymnasium = pytest.importorskip("gymnasium")

    class Replay(gymnasium.vector.VectorEnv):
        num_envs, t = N, 0

        def reset(self, **_):
            return None, {}

        def step(self, _):
            t, self.t = self.t, self.t + 1
            return None, reward[t], terminated[t], truncated[t], {}

    env = Replay()
    env.metadata = {"autoreset_mode": mode}
    wrapped = gymnasium.wrappers.vector.NormalizeReward(env, gamma=gamma, epsilon=epsilon)
    if exact:
        wrapped.accumulated_reward = np.zeros(N)
    return wrapped


def convention_of(wrapped, mode):
    if not hasattr(wrapped, "_prev_dones"):
        return "gymnasium_1.0"
    return {"NextStep": "gymnasium", "SameStep": "gymnasium_same_step"}[mode]


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("lanes", [1, 5])
def test_gymnasium_normalize_reward_step_for_step(rng, mode, exact, lanes):
    gymnasium = pytest.importorskip("gymnasium")
    reward, terminated, truncated = stepwise(rng, 400, lanes)
    wrapped = wrapper_of(lanes, reward, terminated, truncated, gymnasium.vector.AutoresetMode(mode), 0.97, 1e-8, exact)
    wrapped.reset()
    wanted = np.array([wrapped.step(None)[1] for _ in range(400)])
    scale = RunningReturnScale(lanes, gamma=0.97, convention=convention_of(wrapped, mode))
    # In float64 only the order of sums differs; the wrapper as it is keeps its returns in float32 (measured: 6e-7).
    close = {"rtol": 1e-12} if exact else {"rtol": 2e-6}
    np.testing.assert_allclose(scale(reward, terminated, truncated), wanted, **close)
    np.testing.assert_allclose(scale.mean, wrapped.return_rms.mean, **close)
    np.testing.assert_allclose(scale.variance, wrapped.return_rms.var, **close)
    np.testing.assert_allclose(scale.count, wrapped.return_rms.count)


def by_the_step(convention, gamma, reward, terminated, truncated):
    """Each convention as a loop over steps, the statistics over every return so far kept in a list."""
    G, seen, out = np.zeros(reward.shape[1]), [], np.empty_like(reward)
    ended_before = np.zeros(reward.shape[1], bool)
    for t, r in enumerate(reward):
        te, en = terminated[t], terminated[t] | truncated[t]
        for n in range(len(r)):
            if convention == "gymnasium" and ended_before[n]:
                continue
            if convention in ("sb3", "gymnasium_same_step") and ended_before[n]:
                G[n] = 0
            G[n] = r[n] + gamma * G[n] * (1 - te[n] * (convention != "sb3"))
            seen.append(G[n])
        ended_before = en
        data = np.array(seen)
        total = len(seen) + 1e-4
        mean = data.sum() / total
        variance = (((data - mean) ** 2).sum() + 1e-4 * (1 + mean**2)) / total
        out[t] = r / np.sqrt(variance + 1e-8)
    return np.clip(out, -10, 10) if convention == "sb3" else out


@pytest.mark.parametrize("convention", ["gymnasium", "gymnasium_same_step", "gymnasium_1.0", "sb3"])
@pytest.mark.parametrize("lanes", [1, 4])
def test_every_convention_is_its_loop_over_steps(rng, convention, lanes):
    reward, terminated, truncated = stepwise(rng, 120, lanes)
    wanted = by_the_step(convention, 0.9, reward, terminated, truncated)
    got = RunningReturnScale(lanes, 0.9, convention=convention)(reward, terminated, truncated)
    np.testing.assert_allclose(got, wanted, rtol=1e-11)


def test_stable_baselines_vec_normalize():
    (case,) = (c for c in loaded("sb3_gae_nstep_norm") if c["function"] == "VecNormalize reward rms")
    scale = RunningReturnScale(2, **{"gamma": 0.99, "eps": 1e-8, "clip": 10.0}, convention="sb3")
    for step in case["first_8_steps_f64"]:
        done = np.asarray(step["dones"]) != 0
        got = scale(np.asarray(step["rewards"]), done)
        np.testing.assert_allclose(got, step["normalized_reward"], rtol=1e-13)
        np.testing.assert_allclose(scale.mean, step["rms_mean"], rtol=1e-13)
        np.testing.assert_allclose(scale.variance, step["rms_var"], rtol=1e-13)
        np.testing.assert_allclose(scale.count, step["rms_count"], rtol=1e-13)
    cycles = np.array([case["inputs"]["env0_rewards_cycle"], case["inputs"]["env1_rewards_cycle"]], float).T
    reward = np.tile(cycles, (751, 1))[:3001]
    done = np.tile(np.arange(3001)[:, None] % 4 == 3, (1, 2))
    scale = RunningReturnScale(2, convention="sb3")
    scale(reward[:1], done[:1])
    np.testing.assert_allclose(scale.mean, case["expected"]["ret_rms_mean_after_1_step"], atol=1e-3)
    scale(reward[1:], done[1:])
    np.testing.assert_allclose(scale.mean, case["expected"]["ret_rms_mean_after_3001_steps"], atol=1e-3)


def test_stable_baselines_itself_step_for_step(rng):
    pytest.importorskip("stable_baselines3")
    from gymnasium import Env, spaces
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    reward, terminated, truncated = stepwise(rng, 300, 1)
    reward *= np.where(np.arange(300) % 50 == 3, 40, 1)[:, None]  # some beyond the clip

    class Replay(Env):
        observation_space = action_space = spaces.Box(-1, 1, (1,))
        t = 0

        def reset(self, **_):
            return np.zeros(1, np.float32), {}

        def step(self, _):
            t, self.t = self.t, self.t + 1
            return np.zeros(1, np.float32), float(reward[t, 0]), bool(terminated[t, 0]), bool(truncated[t, 0]), {}

    env = VecNormalize(DummyVecEnv([Replay]), norm_obs=False)
    env.reset()
    wanted = np.array([env.step(np.zeros((1, 1)))[1] for _ in range(300)])
    got = RunningReturnScale(1, convention="sb3")(reward, terminated, truncated)
    np.testing.assert_allclose(got, wanted, rtol=2e-6)  # it hands rewards on in float32
    assert (np.abs(got) == 10).any()


@DTYPES
@pytest.mark.parametrize("convention", ["gymnasium", "gymnasium_same_step", "gymnasium_1.0", "sb3"])
def test_a_batch_is_its_steps_and_a_saved_state_goes_on(rng, dtype, convention):
    reward, terminated, truncated = stepwise(rng, 90, 3, dtype)
    whole = RunningReturnScale(3, convention=convention)
    wanted = whole(reward, terminated, truncated)
    assert wanted.dtype == dtype
    parts = RunningReturnScale(3, convention=convention)
    got = [parts(*(a[t] for a in (reward, terminated, truncated))) for t in range(20)]
    restored = RunningReturnScale(3, convention=convention)
    restored.load_state_dict(parts.state_dict())
    np.testing.assert_allclose(np.array(got), wanted[:20], rtol=1e-6 if dtype == np.float32 else 1e-13)
    for scale in (parts, restored):
        got = scale(reward[20:], terminated[20:], truncated[20:])
        np.testing.assert_allclose(got, wanted[20:], rtol=1e-6 if dtype == np.float32 else 1e-13)


def test_batches_of_several_blocks_are_their_steps(rng):
    reward, terminated, truncated = stepwise(rng, 70_000, 2)
    whole, parts = RunningReturnScale(2), RunningReturnScale(2)
    wanted = whole(reward, terminated, truncated)
    got = np.concatenate(
        [parts(reward[i : i + 999], terminated[i : i + 999], truncated[i : i + 999]) for i in range(0, 70_000, 999)]
    )
    np.testing.assert_allclose(got, wanted, rtol=1e-11)
    wide = RunningReturnScale(70_000)
    np.testing.assert_allclose(
        wide(reward[:, 0], terminated[:, 0]) * np.sqrt(wide.variance + 1e-8), reward[:, 0], rtol=1e-14
    )


def test_merging_workers_equals_having_seen_all_their_data(rng):
    batches = [stepwise(rng, T, N) for T, N in ((50, 3), (1, 3), (200, 3))]
    workers = [RunningReturnScale(3) for _ in batches]
    for worker, one in zip(workers, batches, strict=True):
        worker(*one)
    total = RunningReturnScale(3)
    for worker in workers:
        total.merge(worker)
    alone = RunningReturnScale(3)
    for one in batches:
        alone.reset()  # between workers no return goes on
        alone(*one)
    for name in ("count", "mean", "variance"):
        np.testing.assert_allclose(getattr(total, name), getattr(alone, name), rtol=1e-13)
    reward, terminated, _ = stepwise(rng, 30, 3)
    wanted = reward / np.sqrt(alone.variance + 1e-8)
    np.testing.assert_allclose(total(reward, terminated, update=False), wanted, rtol=1e-13)


def test_merging_a_fresh_one_changes_nothing(rng):
    scale = RunningReturnScale(3)
    scale(*stepwise(rng, 10, 3))
    before = scale.moments
    scale.merge(RunningReturnScale(5))
    assert scale.moments == before


def test_evaluation_changes_nothing_and_takes_any_number_of_lanes(rng):
    scale = RunningReturnScale(3, clip=0.5)
    scale(*stepwise(rng, 50, 3))
    before = scale.state_dict()
    reward, terminated, truncated = stepwise(rng, 7, 11)
    wanted = np.clip(reward / np.sqrt(scale.variance + 1e-8), -0.5, 0.5)
    np.testing.assert_allclose(scale(reward, terminated, truncated, update=False), wanted, rtol=1e-14)
    after = scale.state_dict()
    assert all(np.array_equal(before[k], after[k]) for k in before)


def test_a_reset_forgets_the_returns_in_progress_alone(rng):
    scale, fresh = RunningReturnScale(2), RunningReturnScale(2)
    scale(*stepwise(rng, 20, 2))
    scale.reset()
    fresh.merge(scale)
    one = stepwise(rng, 20, 2)
    np.testing.assert_array_equal(scale(*one), fresh(*one))


def test_a_nan_reward_shows_in_the_statistics():
    scale = RunningReturnScale(2)
    got = scale([[1.0, np.nan], [1.0, 1.0]], np.zeros((2, 2), bool))
    assert np.isnan(got).all() and np.isnan(scale.variance)


def test_equal_returns_have_the_variance_of_the_prior_alone():
    scale = RunningReturnScale(4, gamma=0.0)
    scale(np.full((1000, 4), 1e8), np.zeros((1000, 4), bool))
    n, p, mean = 4000.0, 1e-4, 1e8
    np.testing.assert_allclose(scale.variance, (p + p * n * mean**2 / (n + p)) / (n + p), rtol=1e-12)
    assert scale.moments.m2 == 0


@pytest.mark.parametrize(
    ("error", "message", "make"),
    [
        (ValueError, "lanes is 0; 1 or more is wanted", lambda: RunningReturnScale(0)),
        (TypeError, "lanes is 2.0; an integer is wanted", lambda: RunningReturnScale(2.0)),
        (ValueError, r"gamma is 1.5; a number in \[0, 1\] is wanted", lambda: RunningReturnScale(1, 1.5)),
        (ValueError, "eps is 0.0; a number above 0 is wanted", lambda: RunningReturnScale(1, eps=0)),
        (ValueError, "clip is -1.0; a number above 0 is wanted", lambda: RunningReturnScale(1, clip=-1)),
        (ValueError, "convention is 'gym'; one of gymnasium, ", lambda: RunningReturnScale(1, convention="gym")),
        (ValueError, r"reward has shape \(3,\); \(2,\) or \(T, 2\) is wanted", lambda: RunningReturnScale(2)(np.zeros(3), [False] * 3)),
        (ValueError, r"reward has shape \(\);", lambda: RunningReturnScale(2)(np.float64(1), False)),
        (TypeError, "reward has dtype int64", lambda: RunningReturnScale(2)(np.array([1, 2]), [False] * 2)),
        (ValueError, r"terminated has shape \(1,\), but reward", lambda: RunningReturnScale(2)([1.0, 2.0], [False])),
        (ValueError, "other has gamma 0.9, but this has 0.99", lambda: RunningReturnScale(1).merge(RunningReturnScale(1, 0.9))),
        (TypeError, "other is a int; a RunningReturnScale is wanted", lambda: RunningReturnScale(1).merge(3)),
        (ValueError, "state has no m2", lambda: RunningReturnScale(1).load_state_dict({"count": 0, "mean": 0, "returns": [], "ended": []})),
        (ValueError, r"returns has shape \(2,\); \(1,\)", lambda: RunningReturnScale(1).load_state_dict(two.state_dict())),
    ],
)  # fmt: skip
def test_running_return_scale_refuses(error, message, make):
    with pytest.raises(error, match=message):
        make()


# --- PopArt


@pytest.mark.parametrize("case", loaded("rlax_popart"), ids=lambda c: c["id"])
def test_rlax_popart(case):
    x, wanted = case["inputs"], case["expected"]
    if case["function"] == "unnormalize_linear":
        art = PopArt(3, 0.1)
        variance = np.square(np.asarray(x["scale"], float))
        state = {"shift": x["shift"], "variance": variance, "shift_before": x["shift"], "variance_before": variance}
        art.load_state_dict({k: np.asarray(v, float) for k, v in state.items()})
        normalized = np.ones((2, 3)) @ np.eye(3)[:, x["indices"]]
        np.testing.assert_allclose(art.unnormalize(normalized[0], x["indices"]), wanted["unnormalized"], rtol=1e-15)
    elif case["function"] == "art":
        p = case["params"]
        art = PopArt(2, p["step_size"], p["scale_lb"], p["scale_ub"])
        for after in case["expected_f64"]["after_each_update"]:
            art.update(x["targets"], x["indices"])
            np.testing.assert_allclose(art.shift, after["shift"], rtol=1e-14)
            np.testing.assert_allclose(art.scale, after["scale"], rtol=1e-14)
        np.testing.assert_allclose(art.shift, wanted["shift"], rtol=0.1, atol=0.1)
        np.testing.assert_allclose(art.scale, wanted["scale"], rtol=0.1, atol=0.1)
    else:  # scatter_add: with a step of 1 from shift 0, an index's shift is the sum of its targets
        for index, target, sums in zip(x["indices"], x["updates"], wanted["result"], strict=True):
            art = PopArt(3, 1.0)
            art.update(target, index)
            np.testing.assert_array_equal(art.shift, sums)


def test_popart_follows_its_recursion_one_target_at_a_time(rng):
    art, mu, nu = PopArt(2, 0.1), np.zeros(2), np.ones(2)
    for _ in range(200):
        y, k = 5 + 3 * rng.standard_normal(), int(rng.integers(2))
        art.update([y], [k])
        mu[k] += 0.1 * (y - mu[k])
        nu[k] += 0.1 * (y * y - nu[k])
        np.testing.assert_allclose(art.shift, mu, rtol=1e-12)
        np.testing.assert_allclose(art.second_moment, nu, rtol=1e-12)
        np.testing.assert_allclose(art.scale, np.sqrt(nu - mu**2), rtol=1e-10)


@DTYPES
@pytest.mark.parametrize("axis", [-1, 0])
def test_rescaling_keeps_every_unnormalized_output(rng, dtype, axis):
    art = PopArt(3, 0.3)
    feature = rng.standard_normal((20, 6)).astype(dtype)
    weight, bias = rng.standard_normal((6, 3)).astype(dtype), rng.standard_normal(3).astype(dtype)
    index = np.broadcast_to(np.arange(3), (20, 3))
    for _ in range(5):
        before = art.unnormalize(feature @ weight + bias, index)
        held = weight.copy(), bias.copy(), art.state_dict()
        art.update((40 + 9 * rng.standard_normal(4)).astype(dtype), [0, 1, 1, 0])
        new = art.rescale(weight if axis else weight.T, bias, axis=axis)
        np.testing.assert_array_equal(weight, held[0])
        np.testing.assert_array_equal(bias, held[1])
        again = art.rescale(weight if axis else weight.T, bias, axis=axis)  # a target network, from the same statistics
        np.testing.assert_array_equal(again[0], new[0])
        weight, bias = new[0] if axis else new[0].T, new[1]
        assert weight.dtype == bias.dtype == dtype
        tolerance = 1e-12 if dtype is np.float64 else 3e-6
        np.testing.assert_allclose(
            art.unnormalize(feature @ weight + bias, index), before, rtol=tolerance, atol=50 * tolerance
        )


def test_normalizing_undoes_unnormalizing(rng):
    art = PopArt(4, 0.05)
    index = rng.integers(0, 4, (50, 2))
    art.update(100 * rng.standard_normal((50, 2)), index)
    value = rng.standard_normal((50, 2))
    np.testing.assert_allclose(art.normalize(art.unnormalize(value, index), index), value, rtol=1e-11, atol=1e-12)
    assert art.normalize(value.astype(np.float32), index).dtype == np.float32


def test_large_targets_cost_no_digits(rng):
    near, far = PopArt(1, 0.01), PopArt(1, 0.01)
    for art, offset in ((near, 0.0), (far, 2.0**33)):
        art.load_state_dict({"shift": [offset], "variance": [1.0], "shift_before": [offset], "variance_before": [1.0]})
        for y in np.random.default_rng(1).integers(-9, 9, 300):
            art.update([offset + y])
    np.testing.assert_allclose(
        far.scale, near.scale, rtol=1e-5
    )  # offset + shift is rounded by 2^-20; nu - mu^2 would lose all


def test_the_mean_reduction_takes_one_step_a_call(rng):
    many, one = PopArt(2, 0.2, reduction="mean"), PopArt(2, 0.2)
    target = rng.standard_normal(9)
    many.update(target, [0] * 9)
    np.testing.assert_allclose(many.shift, [0.2 * target.mean(), 0], rtol=1e-13)
    np.testing.assert_allclose(many.second_moment[0], 0.8 + 0.2 * (target**2).mean(), rtol=1e-13)
    many.update([], [])
    one.update([3.0], [1])
    assert many.second_moment[1] == 1 and one.shift[0] == 0


def test_sigma_stays_in_its_bounds():
    art = PopArt(1, 1.0, lower=0.5, upper=2.0)
    art.update([7.0])
    assert art.shift == 7 and art.scale == 0.5
    art.update([1000.0])
    art.update([0.0])
    art = PopArt(2, 0.5, lower=0.5, upper=2.0)
    art.update([1000.0], [0])
    assert art.scale[0] == 2


@pytest.mark.parametrize(
    ("error", "message", "make"),
    [
        (ValueError, "size is 0", lambda: PopArt(0, 0.1)),
        (ValueError, r"step_size is 1.1; a number in \(0, 1\] is wanted", lambda: PopArt(1, 1.1)),
        (ValueError, "lower is 3.0, but upper is 2.0", lambda: PopArt(1, 0.1, 3, 2)),
        (ValueError, "reduction is 'max'; one of sum, mean is wanted", lambda: PopArt(1, 0.1, reduction="max")),
        (TypeError, r"index is None; integers in \[0, 2\) shaped like target \(1,\)", lambda: PopArt(2, 0.1).update([1.0])),
        (ValueError, r"index holds 2; integers in \[0, 2\) are wanted", lambda: PopArt(2, 0.1).update([1.0], [2])),
        (ValueError, r"index holds -1; ", lambda: PopArt(2, 0.1).normalize([1.0], [-1])),
        (ValueError, r"index has shape \(2,\), but value has \(1,\)", lambda: PopArt(2, 0.1).unnormalize([1.0], [0, 1])),
        (TypeError, "target has dtype int64", lambda: PopArt(1, 0.1).update(np.array([1]))),
        (ValueError, r"weight has shape \(2, 3\); 2 outputs are wanted", lambda: PopArt(2, 0.1).rescale(np.zeros((2, 3)), np.zeros(2))),
        (ValueError, r"bias has shape \(3,\); \(2,\) is wanted", lambda: PopArt(2, 0.1).rescale(np.zeros((3, 2)), np.zeros(3))),
        (ValueError, "state has no shift, variance, ", lambda: PopArt(2, 0.1).load_state_dict({})),
        (ValueError, r"shift has shape \(1,\); \(2,\)", lambda: PopArt(2, 0.1).load_state_dict(PopArt(1, 0.1).state_dict())),
    ],
)  # fmt: skip
def test_popart_refuses(error, message, make):
    with pytest.raises(error, match=message):
        make()


def test_the_engine_covers_every_shape_once():
    for shape in ((0,), (1,), (70_000,), (3, 40_000), (2, 3, 33_000), (100_000, 2), (5, 0, 7)):
        seen = np.zeros(shape, int)
        for block in _moments.blocks(shape):
            seen[block] += 1
            assert seen[block].size <= _moments.BLOCK
        assert (seen == 1).all()


def test_public_names_stand_in_fastpg():
    for name in (*fastpg.normalization.__all__, *fastpg.baselines.__all__):
        assert getattr(fastpg, name) is not None and name in fastpg.__all__
