"""Losses over tokens: against the specification on every instruction set, finite differences, peers' numbers; the hazards of masks."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fastpg import _core, reference
from fastpg.objectives import AGGREGATES, OBJECTIVES, policy_loss, rollout_correction

# Options under which bounds bind for some tokens of `batch` and not for others.
TIGHT = {
    "ppo": {"clip_low": 0.2, "clip_high": 0.28, "dual_clip": 1.4, "delta": 1.6},
    "gspo": {"clip_low": 0.02, "clip_high": 0.03},
    "luspo": {"clip_low": 0.02, "clip_high": 0.03},
    "cispo": {"clip_low": 0.3, "clip_high": 0.3},
    "gmpo": {"clip_low": 0.3, "clip_high": 0.2},
    "dppo_tv": {"clip_low": 0.1, "clip_high": 0.1, "ratio_cap": 1.5},
    "dppo_kl": {"clip_low": 0.03, "clip_high": 0.03, "ratio_cap": 1.5},
    "clip_cov": {"fraction": 0.1, "cov_low": 0.0, "cov_high": 3.0},
    "kl_cov": {"fraction": 0.1},
    "ipo": {"clip_low": 0.1, "clip_high": 0.1, "beta": 0.3},
    "dro": {"beta": 0.3},
}
LAYOUTS = {
    "padded": ((7, 37), None),
    "long": ((2, 1300), None),
    "packed": ((300,), [0, 0, 5, 5, 80, 300, 300]),
    "flat": ((131,), None),
}
RATIO_FREE = ("reinforce", "a2c", "gpg")
OF_BATCH = ("clip_cov", "kl_cov")


def batch(shape, dtype=float, seed=0, spread=0.4):
    rng = np.random.default_rng(seed)
    log_prob = -0.05 - 3 * rng.random(shape)
    old = np.minimum(log_prob + spread * rng.standard_normal(shape), -0.01)
    arrays = [log_prob, old, rng.standard_normal(shape)]
    return *(x.astype(dtype) for x in arrays), rng.random(shape) < 0.8


def options_of(kind, **more):
    return {**OBJECTIVES[kind], **TIGHT.get(kind, {}), **more}


def answer(kind, *args, seed=1, **keywords):
    return policy_loss(kind, *args, rng=np.random.default_rng(seed), **options_of(kind), **keywords)


def expect(kind, *args, seed=1, **keywords):
    return reference.policy_loss(kind, *args, rng=np.random.default_rng(seed), **options_of(kind), **keywords)


@pytest.fixture(params=_core.isas())
def isa(request):
    in_use = _core.isa()
    _core.use_isa(request.param)
    yield request.param
    _core.use_isa(in_use)


# --- against the specification


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_every_loss_equals_the_specification_in_every_layout(isa, kind):
    rng = np.random.default_rng(2)
    for layout, (shape, offsets) in LAYOUTS.items():
        for dtype in (np.float32, np.float64):
            x, old, a, mask = batch(shape, dtype)
            weight = (2 * rng.random(shape)).astype(dtype)
            ref = np.minimum(x + 0.3, -0.01).astype(dtype)
            eps = np.finfo(dtype).eps
            for aggregate in AGGREGATES:
                for more in ({}, {"weight": weight, "ref_log_prob": ref, "kl_coef": 0.3, "kl_gradient": "score"}):
                    keywords = dict(mask=mask, offsets=offsets, aggregate=aggregate, **more)
                    loss, grad, stats = answer(kind, x, old, a, **keywords)
                    wanted, wanted_grad, wanted_stats = expect(kind, x, old, a, **keywords)
                    where = (layout, dtype, aggregate, list(more))
                    # Four times the worst measured. A loss is a sum of terms of both signs: what is lost is in units of their size.
                    size = np.abs(wanted_grad.astype(float)).sum() + abs(wanted)
                    # The weight of VESPO makes |k - lambda W| errors, W in the tens, of the one of log W, a sum of rounded differences.
                    amplified = 32 if kind == "vespo" else 1
                    assert abs(loss - wanted) <= 16 * amplified * eps * size, where
                    assert np.abs(grad - wanted_grad).max() <= 16 * amplified * eps * np.abs(wanted_grad).max(), where
                    assert grad.dtype == dtype and grad.shape == shape
                    assert stats.keys() == wanted_stats.keys()
                    for name, value in wanted_stats.items():
                        if name == "killed_fraction" and kind in ("vespo", "topr") and dtype == np.float32:
                            continue  # the weight of a long sequence is below the smallest float32
                        assert abs(stats[name] - value) <= 32 * eps * max(1, abs(value)), (*where, name)


@pytest.mark.parametrize("kind", OBJECTIVES)
@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_every_gradient_is_the_finite_difference_of_the_loss(kind, aggregate):
    x, old, a, mask = batch((4, 9), seed=3)
    keywords = dict(mask=mask, aggregate=aggregate, ref_log_prob=x - 0.3, kl_coef=0.2, weight=0.5 + mask)
    _, grad, _ = answer(kind, x, old, a, **keywords)
    step = 1e-6
    for at in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[at] += step
        down[at] -= step
        slope = (
            expect(kind, up, old, a, stopped=x, **keywords)[0] - expect(kind, down, old, a, stopped=x, **keywords)[0]
        )
        assert abs(grad[at] - slope / (2 * step)) < 2e-8 * max(1, np.abs(grad).max()), at


@pytest.mark.parametrize(
    "kind", [k for k in OBJECTIVES if "level" in OBJECTIVES[k] and OBJECTIVES[k]["level"] == "token"]
)
def test_the_ratio_of_a_sequence_has_the_gradient_of_a_geometric_mean_where_the_advantage_is_constant(kind):
    x, old, _, _ = batch((5, 8), seed=4)
    a = np.array([0.5, -1.0, 2.0, -0.3, 1.0])
    keywords = dict(aggregate="seq_mean_token_mean")
    _, grad, _ = policy_loss(kind, x, old, a, **options_of(kind, level="sequence"), **keywords)
    if kind == "cispo":  # the ratio is a stopped weight
        s = np.exp((x - old).mean(1))
        np.testing.assert_allclose(grad, np.repeat(-np.clip(s, 0.7, 1.3) * a / 40, 8).reshape(5, 8), rtol=1e-12)
        return
    one = options_of(kind, level="token")
    for b, t in np.ndindex(5, 8):

        def loss_of_means(shift, b=b):
            mean = (x - old)[b].mean() + shift / 8
            return policy_loss(kind, [[mean]], [[0.0]], [[a[b]]], **one)[0] / 5

        slope = (loss_of_means(1e-6) - loss_of_means(-1e-6)) / 2e-6
        assert abs(grad[b, t] - slope) < 1e-8


# --- by hand


def test_ppo_clips_by_side_and_dual_clip_and_delta_bound_what_is_left():
    ratio, a = np.array([1.5, 0.5, 1.5, 0.5, 5.0, 1.1]), np.array([1.0, 1.0, -1.0, -1.0, -1.0, 1.0])
    keywords = dict(old_log_prob=np.zeros(6), advantage=a, clip_low=0.2, clip_high=0.3, aggregate="token_sum")
    loss, grad, stats = policy_loss("ppo", np.log(ratio), **keywords)
    assert loss == pytest.approx(-(1.3 + 0.5) + 1.5 + 0.8 + 5.0 - 1.1, rel=1e-14)
    np.testing.assert_allclose(grad, [0, -0.5, 1.5, 0, 5.0, -1.1], rtol=1e-14)
    assert (stats["clip_fraction_high"], stats["clip_fraction_low"], stats["killed_fraction"]) == (1 / 6, 1 / 6, 2 / 6)
    loss, grad, stats = policy_loss("ppo", np.log(ratio), dual_clip=3.0, **keywords)
    assert loss == pytest.approx(-(1.3 + 0.5) + 1.5 + 0.8 + 3.0 - 1.1, rel=1e-14)
    assert grad[4] == 0 and stats["clip_fraction_dual"] == 1 / 6
    loss, grad, _ = policy_loss("ppo", np.log(ratio), delta=4.0, **keywords)
    assert loss == pytest.approx(-(1.3 + 0.5) + 1.5 + 0.8 + 4.0 - 1.1, rel=1e-14)
    assert grad[4] == 0


def test_gspo_and_luspo_differ_by_the_length_of_the_sequence():
    x, old, a, mask = batch((3, 10))
    wide = {"clip_low": 0.2, "clip_high": 0.2, "mask": mask, "aggregate": "seq_mean_token_mean"}
    gspo, luspo = policy_loss("gspo", x, old, a, **wide)[1], policy_loss("luspo", x, old, a, **wide)[1]
    np.testing.assert_allclose(luspo, gspo * mask.sum(1, keepdims=True), rtol=1e-14)


def test_topr_tapers_negative_sequences_alone():
    old, a = np.zeros((2, 2)), np.array([[1.0, 1.0], [-1.0, -1.0]])
    _, grad, _ = policy_loss("topr", np.full((2, 2), -1.0), old, a, aggregate="token_sum")
    np.testing.assert_allclose(grad, [[-1, -1], [np.exp(-2), np.exp(-2)]], rtol=1e-14)


def test_reinforce_needs_no_old_policy():
    assert policy_loss("reinforce", [-1.0, -2.0], None, [1.0, -1.0])[0] == (1.0 - 2.0) / 2
    with pytest.raises(TypeError, match="old_log_prob is None; ppo reads the ratio"):
        policy_loss("ppo", [-1.0], None, [1.0])


def test_statistics_are_those_of_the_ratio():
    r = np.array([0.5, 1.0, 2.0, 4.0])
    _, _, stats = policy_loss("ppo", np.log(r), np.zeros(4), np.ones(4), quantile=(0.0, 0.5, 1.0))
    assert stats["approx_kl_k1"] == pytest.approx(-np.log(r).mean())
    assert stats["approx_kl_k2"] == pytest.approx((np.log(r) ** 2).mean() / 2)
    assert stats["approx_kl_k3"] == pytest.approx((r - 1 - np.log(r)).mean())
    assert stats["effective_sample_size"] == pytest.approx(7.5**2 / (0.25 + 1 + 4 + 16))
    assert [stats[f"ratio_quantile_{q}"] for q in ("0", "0.5", "1")] == pytest.approx([0.5, 1.5, 4.0])
    assert (stats["tokens"], stats["sequences"], stats["ratio_mean"]) == (4, 1, 7.5 / 4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_log_ratio_beyond_its_bound_deep_in_a_long_sequence_changes_no_other_token(isa, dtype):
    x, old, a, mask = batch((2, 5003), dtype)  # more than two blocks, and a part of a vector
    mask[1, 3000] = True
    far = old.copy()
    far[1, 3000] = x[1, 3000] - 85
    others = np.arange(x.size).reshape(x.shape) != 5003 + 3000
    for keywords in ({}, {"dual_clip": 1.5}, {"log_ratio_bound": None}):
        near = policy_loss("ppo", x, old, a, mask=mask, **keywords)
        loss, grad, _ = policy_loss("ppo", x, far, a, mask=mask, **keywords)
        wanted, wanted_grad, _ = reference.policy_loss("ppo", x, far, a, mask=mask, **OBJECTIVES["ppo"] | keywords)
        np.testing.assert_allclose(grad[others], near[1][others], rtol=8 * np.finfo(dtype).eps)
        np.testing.assert_allclose(grad, wanted_grad, rtol=1e-4 if dtype == np.float32 else 1e-12)
        assert loss == pytest.approx(wanted, rel=1e-4)


def test_approx_kl_k3_keeps_its_digits_near_one():
    x = np.full(100, -1.0, np.float32)
    old = x - np.float32(1e-3)
    d = float(x[0]) - float(old[0])
    stats = policy_loss("ppo", x, old, np.ones(100, np.float32))[2]
    assert stats["approx_kl_k3"] == pytest.approx(np.expm1(d) - d, rel=1e-5)


# --- laws


@pytest.mark.parametrize("kind", [k for k in OBJECTIVES if k not in OF_BATCH])
@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_micro_batches_add_up_to_the_batch_with_the_global_denominator(kind, aggregate):
    x, old, a, mask = batch((6, 11))
    mask[4] = False
    total = {"token_mean": mask.sum(), "token_sum": 40.0}.get(aggregate, 5)
    whole, grad, _ = answer(
        kind, x, old, a, mask=mask, aggregate=aggregate, denominator=total if aggregate == "token_sum" else None
    )
    parts = [
        answer(kind, x[i], old[i], a[i], mask=mask[i], aggregate=aggregate, denominator=float(total))
        for i in (slice(0, 1), slice(1, 4), slice(4, 5), slice(5, 6))
    ]
    assert sum(loss for loss, _, _ in parts) == pytest.approx(whole, rel=1e-13, abs=1e-14)
    np.testing.assert_array_equal(np.vstack([g for _, g, _ in parts]), grad)


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_padding_changes_nothing_and_packed_equals_padded(kind):
    x, old, a, _ = batch((4, 12))
    lengths = np.array([12, 0, 3, 7])
    mask = np.arange(12) < lengths[:, None]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    loss, grad, stats = answer(kind, x, old, a, mask=mask, aggregate="seq_mean_token_mean")
    wide = [np.pad(v, ((0, 0), (0, 9))) for v in (x, old, a, mask)]
    loss_wide, grad_wide, stats_wide = answer(kind, *wide[:3], mask=wide[3], aggregate="seq_mean_token_mean")
    packed = [v[mask] for v in (x, old, a)]
    loss_packed, grad_packed, stats_packed = answer(kind, *packed, offsets=offsets, aggregate="seq_mean_token_mean")
    assert loss_wide == pytest.approx(loss, rel=1e-13) and loss_packed == pytest.approx(loss, rel=1e-13)
    np.testing.assert_allclose(grad_wide[:, :12], grad, rtol=1e-12, atol=1e-15)
    assert not grad_wide[:, 12:].any()
    np.testing.assert_allclose(grad_packed, grad[mask], rtol=1e-12, atol=1e-15)
    assert stats["tokens"] == stats_wide["tokens"] == stats_packed["tokens"] == 22
    assert stats["sequences"] == 3


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_an_advantage_and_a_weight_for_each_sequence_mean_the_same_for_each_token(kind):
    x, old, _, mask = batch((5, 600))
    a, weight = np.array([1.0, -2.0, 0.5, -0.1, 0.0]), np.array([0.5, 1.0, 2.0, 0.0, 1.0])
    every = [np.repeat(v, 600).reshape(5, 600) for v in (a, weight)]
    for keywords in ({"mask": mask}, {"offsets": np.arange(6) * 600, "mask": mask.ravel()}):
        packed = "offsets" in keywords
        shaped = [v.ravel() if packed else v for v in (x, old, *every)]
        one = answer(kind, *shaped[:2], a, weight=weight, **keywords)
        each = answer(kind, *shaped[:3], weight=shaped[3], **keywords)
        assert one[0] == each[0] and one[2] == each[2]
        np.testing.assert_array_equal(one[1], each[1])


def test_results_do_not_depend_on_the_number_of_threads():
    x, old, a, mask = batch((64, 1100), np.float32)
    in_use = _core.threads()
    try:
        results = []
        for threads in (1, 2, 3):
            _core.set_threads(threads)
            results.append(policy_loss("ppo", x, old, a, mask=mask))
    finally:
        _core.set_threads(in_use)
    for loss, grad, stats in results[1:]:
        assert loss == results[0][0] and stats == results[0][2]
        np.testing.assert_array_equal(grad, results[0][1])


# --- hazards 10 to 14


ANYTHING = st.sampled_from([np.nan, np.inf, -np.inf, 200.0, -200.0, 1e300, 0.0])


@pytest.mark.parametrize("kind", OBJECTIVES)
@settings(max_examples=20)
@given(data=st.data())
def test_garbage_in_masked_slots_never_changes_a_bit(kind, data):
    shape = (3, 6)
    mask = data.draw(hnp.arrays(bool, shape))
    x, old, a, _ = batch(shape, seed=data.draw(st.integers(0, 99)))
    arrays = {"x": x, "old": old, "a": a, "weight": np.full(shape, 0.5), "ref": x - 0.1}
    dirty = {
        name: np.where(mask, v, data.draw(hnp.arrays(float, shape, elements=ANYTHING))) for name, v in arrays.items()
    }

    def run(v):
        more = dict(weight=v["weight"], ref_log_prob=v["ref"], kl_coef=0.1, kl_gradient="importance")
        return answer(kind, v["x"], v["old"], v["a"], mask=mask, quantile=(0.5,), **more)

    (loss, grad, stats), (loss_dirty, grad_dirty, stats_dirty) = run(arrays), run(dirty)
    assert loss == loss_dirty and stats == stats_dirty
    assert grad.tobytes() == grad_dirty.tobytes()
    assert not grad[~mask].any() and np.isfinite(grad).all()


@pytest.mark.parametrize("kind", OBJECTIVES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_log_ratios_of_200_give_finite_losses_and_gradients(kind, dtype):
    old = np.array([[-201.0, -1.0, -1.0, -201.0]], dtype)
    x = np.array([[-1.0, -201.0, -1.1, -1.0]], dtype)
    loss, grad, stats = answer(kind, x, old, np.array([[1.0, -1.0, 1.0, -1.0]], dtype))
    assert np.isfinite(loss) and np.isfinite(grad).all() and np.isfinite(list(stats.values())).all()


def test_beyond_its_bound_a_ratio_is_constant_and_its_gradient_is_0():
    loss, grad, _ = policy_loss("ppo", [200.0], [0.0], [-1.0])
    assert loss == pytest.approx(np.exp(20.0), rel=1e-14) and grad[0] == 0
    loss, grad, _ = policy_loss("ppo", [30.0], [0.0], [-1.0], log_ratio_bound=None)
    assert loss == grad[0] == pytest.approx(np.exp(30.0), rel=1e-14)
    loss, grad, _ = policy_loss("ppo", [800.0], [0.0], [-1.0], log_ratio_bound=None)
    assert loss == grad[0] == np.inf


@pytest.mark.parametrize("kind", OBJECTIVES)
@pytest.mark.parametrize("name", ["log_prob", "old_log_prob", "advantage"])
def test_nan_in_an_unmasked_slot_surfaces(kind, name):
    x, old, a, mask = batch((3, 5))
    mask[1, 2] = True
    {"log_prob": x, "old_log_prob": old, "advantage": a}[name][1, 2] = np.nan
    loss, grad, _ = answer(kind, x, old, a, mask=mask)
    if name == "old_log_prob" and kind in RATIO_FREE:
        assert np.isfinite(loss)
        return
    assert np.isnan(loss)
    # Of kinds that stop the gradient of a weight, a derivative is the weight times the advantage: NaN in either.
    assert np.isnan(grad[1]).any() or (name == "log_prob" and kind in RATIO_FREE)


@pytest.mark.parametrize("kind", OBJECTIVES)
@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_an_all_masked_batch_and_an_empty_one_have_loss_0_gradient_0_and_statistics_0(kind, aggregate):
    for shape, offsets in (
        ((3, 4), None),
        ((0, 4), None),
        ((3, 0), None),
        ((0,), None),
        ((0,), [0, 0, 0]),
        ((0,), [0]),
    ):
        x = np.full(shape, np.nan)
        loss, grad, stats = answer(
            kind, x, x, x, mask=np.zeros(shape, bool), offsets=offsets, aggregate=aggregate, quantile=(0.5,)
        )
        assert loss == 0 and grad.shape == shape and not grad.any()
        assert set(stats.values()) == {0}


@pytest.mark.parametrize("kind", [k for k in OBJECTIVES if k not in OF_BATCH])
@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_an_all_masked_sequence_adds_nothing_and_counts_in_no_mean(kind, aggregate):
    x, old, a, mask = batch((3, 5))
    mask[1] = False
    keep = [0, 2]
    loss, grad, _ = answer(kind, x, old, a, mask=mask, aggregate=aggregate)
    wanted, wanted_grad, _ = answer(kind, x[keep], old[keep], a[keep], mask=mask[keep], aggregate=aggregate)
    assert loss == pytest.approx(wanted, rel=1e-14)
    np.testing.assert_array_equal(grad[keep], wanted_grad)


def test_a_weight_of_0_drops_a_token_whatever_it_holds():
    x, old, a, _ = batch((2, 3))
    x[0, 1] = np.nan
    weight = np.array([[1.0, 0.0, 1.0], [1.0, 1.0, 1.0]])
    loss, grad, _ = policy_loss("ppo", x, old, a, weight=weight)
    assert np.isfinite(loss) and np.isfinite(grad).all() and grad[0, 1] == 0
    keep = weight != 0
    assert loss == pytest.approx(policy_loss("ppo", x[keep], old[keep], a[keep], denominator=6.0)[0], rel=1e-14)


# --- peers' own numbers

CASES = Path(__file__).parent / "cases"
VERL_AGGREGATES = {
    "token-mean": "token_mean",
    "token-sum": "token_sum",
    "seq-mean-token-sum": "seq_mean_token_sum",
    "seq-mean-token-mean": "seq_mean_token_mean",
    "seq-mean-token-sum-norm": "token_sum",
}


def load(name):
    return json.loads((CASES / f"{name}.json").read_text())["cases"]


def inputs(cases):
    arrays = {name: np.array(v) for name, v in cases[0]["inputs"].items()}
    if "mask" in arrays:
        arrays["mask"] = arrays["mask"] != 0
    return arrays


def test_aggregates_agree_with_verl():
    cases = load("verl_exec_agg_loss")
    x = inputs(cases)
    for case in cases[1:]:
        if case.get("mask") == "all zeros" or "hazard" in case["name"]:
            continue  # NaN there, 0 or the unpoisoned value here
        mask = np.array(case["mask"]) != 0 if "mask" in case else x["mask"]
        denominator = 6.0 * mask.any(1).sum() if case["agg"].endswith("norm") else None
        # reinforce with log pi = -loss and A = 1 is the loss itself
        loss = policy_loss(
            "reinforce", -x["loss"], None, np.ones(mask.shape), mask=mask,
            aggregate=VERL_AGGREGATES[case["agg"]], denominator=denominator,
        )[0]  # fmt: skip
        assert loss == pytest.approx(case["expected"], abs=2e-9), case["name"]  # verl adds 1e-8 to each length


def test_token_means_agree_with_openrlhf_and_open_instruct():
    for case in load("openrlhf_loss_aggregation"):
        if "expected" in case and "loss" in case:
            mask = np.array(case["mask"]) != 0
            values = -np.array(case["loss"], float)
            aggregate = VERL_AGGREGATES[case["mode"]]
            loss = policy_loss("reinforce", values, None, np.ones(mask.shape), mask=mask, aggregate=aggregate)[0]
            assert loss == pytest.approx(case["expected"], rel=1e-14)
        elif case["mode"].startswith("ppo policy loss"):
            x, old, a = (np.array(case[k]) for k in ("logp", "old", "adv"))
            loss = policy_loss(
                "ppo", x, old, a, mask=np.array(case["mask"]) != 0, clip_low=case["eps"], clip_high=case["eps"]
            )[0]
            assert loss == pytest.approx(case["expected"], rel=1e-7)  # computed in float32 there
    for case in load("openinstruct_masked_mean"):
        values, mask = -np.array(case["values"], float), np.array(case["mask"]) != 0
        if values.ndim == 2:
            keywords = (
                {"aggregate": "seq_mean_token_mean", "denominator": float(len(mask))} if case["axis"] == 1 else {}
            )
            loss = policy_loss("reinforce", values, None, np.ones(mask.shape), mask=mask, **keywords)[0]
            assert loss == pytest.approx(case["expected"], rel=1e-14)


def test_cispo_and_dual_clip_agree_with_slime():
    for case in load("slime_cispo"):
        x, r = np.array(case["logp"]), np.array(case["ratios"], float)
        low, high = case["eps"]
        loss, grad, _ = policy_loss(
            "cispo", x, x - np.log(r), case["adv"], clip_low=low, clip_high=high, aggregate="token_sum"
        )
        assert loss == pytest.approx(sum(case["per_token"]), rel=1e-12)
        np.testing.assert_allclose(grad, case["grad_logp"], rtol=1e-12)
    for case in load("slime_dual_clip"):
        loss, _, _ = policy_loss(
            "ppo", np.log(case["ratios"]), np.zeros(3), case["adv"], dual_clip=case["c"], aggregate="token_sum"
        )
        assert loss == pytest.approx(sum(case["per_token"]), rel=1e-14)


def test_losses_agree_with_nemo_rl():
    ppo, reinforce, on_policy, dual, penalty = load("nemo_clipped_pg")
    assert policy_loss("ppo", ppo["logp"], ppo["old"], ppo["adv"])[0] == pytest.approx(ppo["loss"], rel=1e-12)
    assert policy_loss("reinforce", reinforce["logp"], None, reinforce["adv"])[0] == pytest.approx(
        reinforce["loss"], rel=1e-12
    )
    a = np.array(on_policy["adv"])
    assert policy_loss("ppo", -a, -a, a)[0] == pytest.approx(on_policy["loss"], rel=1e-12)
    r = np.log(dual["ratios"])
    assert policy_loss("ppo", r, 0 * r, np.array(dual["adv"], float), dual_clip=3.0)[0] == pytest.approx(
        dual["loss"], rel=1e-12
    )
    x, ref = np.array(penalty["logp"], float), np.array(penalty["ref"], float)
    loss = policy_loss("reinforce", x, None, 0 * x, ref_log_prob=ref, kl_coef=penalty["beta"])[0]
    assert loss == pytest.approx(penalty["kl_loss"], rel=1e-12)


@pytest.mark.parametrize(
    "case", [c for c in load("rlax_policy_gradients") if c["id"] in ("policy_gradient_loss", "clipped_surrogate")]
)
def test_losses_agree_with_rlax(case):
    from fastpg import categorical

    x = {name: np.array(v) for name, v in case["inputs"].items()}
    for b, wanted in enumerate(case["expected"]["loss"]):
        log_prob = categorical.log_prob(x["logits_t"][b].astype(float), x["a_t"][b])
        if case["id"] == "policy_gradient_loss":
            loss = policy_loss("reinforce", log_prob, None, x["adv_t"][b], weight=x["w_t"][b])[0]
        else:
            old = categorical.log_prob(x["old_logits_t"][b].astype(float), x["a_t"][b])
            loss = policy_loss("ppo", log_prob, old, x["adv_t"][b])[0]
        assert loss == pytest.approx(wanted, abs=1e-5)  # float32 there


# --- corrections


CORRECTIONS = [
    ("is", {"level": level}) for level in ("token", "sequence", "geometric")
] + [
    ("tis", {"level": "token", "low": 0.8, "high": 1.2}),
    ("tis", {"level": "sequence", "high": 1.5}),
    ("mis", {"level": "token", "low": 0.8, "high": 1.2}),
    ("mis", {"level": "sequence", "low": 0.5, "high": 1.5}),
    ("mis", {"level": "token", "gate": "geometric", "low": 0.95, "high": 1.05}),
    ("icepop", {"level": "token", "low": 0.9, "high": 1.3}),
    ("opsm", {"level": "mean", "high": 0.0}),
    *[(k, {"level": level, "low": -0.1, "high": 0.1}) for k in ("k1", "k2", "k3") for level in ("token", "sum", "mean", "max")],
]  # fmt: skip


@pytest.mark.parametrize("kind, options", CORRECTIONS)
def test_every_correction_equals_the_specification(kind, options):
    for shape, offsets in LAYOUTS.values():
        x, rollout, a, mask = batch(shape, seed=6, spread=0.2)
        keywords = dict(mask=mask, offsets=offsets, advantage=a, **options)
        weight, keep, stats = rollout_correction(kind, x, rollout, **keywords)
        wanted, wanted_keep = reference.rollout_correction(kind, x, rollout, **keywords)
        np.testing.assert_allclose(weight, wanted, rtol=1e-12)
        np.testing.assert_array_equal(keep, wanted_keep)
        assert not weight[~mask].any() and not keep[~mask].any()
        assert stats["kept_fraction"] == keep.sum() / mask.sum()


def test_token_tis_agrees_with_verl_and_trl():
    x = inputs(cases := load("verl_exec_policy_losses"))
    (case,) = [c for c in cases[1:] if "rollout_is_weights" in c["name"]]
    weight, _, _ = rollout_correction("tis", x["old"], x["roll"], high=1.2, mask=x["mask"])
    keywords = dict(mask=x["mask"], clip_low=0.2, clip_high=0.28, dual_clip=3.0)
    loss, grad, _ = policy_loss("ppo", x["lp"], x["old"], x["adv"], weight=weight, **keywords)
    assert loss == pytest.approx(case["loss"], rel=1e-12)
    np.testing.assert_allclose(grad, case["grad_logp"], rtol=1e-12, atol=1e-15)


def test_a_rejected_token_counts_in_the_mean_as_a_weight_and_not_as_a_mask():
    x, rollout = np.array([-1.0, -1.0, -1.0]), np.array([-1.0, -1.0, -9.0])
    weight, keep, stats = rollout_correction("icepop", x, rollout, low=0.5, high=2.0)
    assert policy_loss("reinforce", x, None, np.ones(3), weight=weight)[0] == 2 / 3
    assert policy_loss("reinforce", x, None, np.ones(3), mask=keep)[0] == 1
    assert stats["kept_fraction"] == 2 / 3 and stats["effective_sample_size"] == 2


def test_a_nan_of_the_rollout_surfaces_in_its_weight_and_in_the_loss():
    x, rollout = np.array([[-1.0, -1.0]]), np.array([[-1.0, np.nan]])
    for kind in ("tis", "icepop", "k3"):
        weight, keep, _ = rollout_correction(kind, x, rollout, high=2.0)
        assert np.isnan(weight[0, 1]) and keep[0, 1]
        assert np.isnan(policy_loss("reinforce", x, None, np.ones((1, 2)), weight=weight)[0])


# --- bad input


@pytest.mark.parametrize(
    "change, error, match",
    [
        ({"kind": "pop"}, ValueError, "kind is 'pop'; one of reinforce"),
        ({"aggregate": "mean"}, ValueError, "aggregate is 'mean'; one of token_mean"),
        ({"log_prob": np.zeros((2, 2, 2))}, ValueError, r"log_prob has shape \(2, 2, 2\); \(B, T\) is wanted"),
        ({"log_prob": np.zeros((2, 3), int)}, TypeError, "log_prob has dtype int64"),
        ({"old_log_prob": np.zeros((2, 4))}, ValueError, r"old_log_prob has shape \(2, 4\), but log_prob has \(2, 3\)"),
        ({"old_log_prob": np.zeros((2, 3), np.float32)}, TypeError, "old_log_prob has dtype float32"),
        ({"advantage": np.zeros(3)}, ValueError, r"advantage has shape \(3,\), but log_prob has \(2, 3\)"),
        ({"advantage": None}, TypeError, "advantage is None"),
        ({"mask": np.ones((2, 3))}, TypeError, "mask has dtype float64; bool is wanted"),
        ({"mask": np.ones(3, bool)}, ValueError, r"mask has shape \(3,\)"),
        ({"offsets": [0, 6]}, ValueError, "offsets"),
        ({"clip_low": -0.1}, ValueError, "clip_low is -0.1; a number of at least 0"),
        ({"clip_low": "a"}, TypeError, "clip_low is 'a'; a number is wanted"),
        ({"dual_clip": 1.0}, ValueError, "dual_clip is 1.0; a number above 1"),
        ({"beta": 0.1}, TypeError, "beta is no option of ppo; it takes clip_low"),
        ({"level": "word"}, ValueError, "level is 'word'; 'token' or 'sequence'"),
        ({"denominator": 0}, ValueError, "denominator is 0; a number above 0"),
        ({"kl_coef": 0.1}, TypeError, "ref_log_prob is None, but kl_coef is 0.1"),
        ({"kl": "k4"}, ValueError, "kl is 'k4'; one of k1"),
        ({"kl_gradient": "true"}, ValueError, "kl_gradient is 'true'"),
        ({"log_ratio_bound": 0}, ValueError, "log_ratio_bound is 0; a number above 0"),
        ({"quantile": (2.0,)}, ValueError, r"quantile is \(2.0,\)"),
        ({"quantile": 0.5}, TypeError, "quantile is 0.5; a tuple of numbers"),
        ({"out": np.zeros((3, 2))}, ValueError, r"out has shape \(3, 2\)"),
    ],
)
def test_bad_input_is_refused_by_name(change, error, match):
    keywords = dict(kind="ppo", log_prob=np.zeros((2, 3)), old_log_prob=np.zeros((2, 3)), advantage=np.ones((2, 3)))
    with pytest.raises(error, match=match):
        policy_loss(**{**keywords, **change})


def test_clip_cov_asks_for_a_generator():
    with pytest.raises(TypeError, match="rng is None; clip_cov draws"):
        policy_loss("clip_cov", [0.0], [0.0], [1.0])


@pytest.mark.parametrize("offsets", [[1, 3], [0, 2], [0, 2, 1, 3], [[0, 3]], []])
def test_bad_offsets_are_refused(offsets):
    with pytest.raises((ValueError, TypeError), match="offsets"):
        policy_loss("ppo", np.zeros(3), np.zeros(3), np.ones(3), offsets=offsets)


@pytest.mark.parametrize(
    "args, keywords, match",
    [
        (("pop", [0.0], [0.0]), {}, "kind is 'pop'"),
        (("tis", [0.0], [0.0]), {"level": "mean"}, "level is 'mean'"),
        (("tis", [0.0], [0.0]), {"gate": "sequence"}, "gate is 'sequence'"),
        (("opsm", [0.0], [0.0]), {"high": 0.1}, "advantage is None"),
        (("is", [0.0], None), {}, "rollout_log_prob is None"),
        (("is", [0.0], [0.0]), {"high": 2.0}, "high is 2.0, but is has no such bound"),
        (
            ("opsm", [0.0], [0.0]),
            {"low": 0.0, "high": 1.0, "advantage": [1.0]},
            "low is 0.0, but opsm has no such bound",
        ),
        (("tis", [0.0], [0.0]), {"low": 2.0, "high": 1.0}, "low is 2.0 and high is 1.0; low at most high"),
        (("tis", [0.0], [0.0]), {"advantage": [1.0, 1.0]}, r"advantage has shape \(2,\)"),
    ],
)
def test_bad_corrections_are_refused_by_name(args, keywords, match):
    with pytest.raises((ValueError, TypeError), match=match):
        rollout_correction(*args, **keywords)


def test_strided_read_only_and_out_arrays_work_and_no_input_changes():
    x, old, a, mask = batch((4, 6))
    wanted = policy_loss("ppo", x, old, a, mask=mask)[1]
    wide = [np.repeat(v, 2, axis=1)[:, ::2] for v in (x, old, a, mask)]
    for v in wide:
        v.setflags(write=False)
    np.testing.assert_array_equal(policy_loss("ppo", *wide[:3], mask=wide[3])[1], wanted)
    out = np.full((4, 6), np.nan)
    assert policy_loss("ppo", x, old, a, mask=mask, out=out)[1] is out
    np.testing.assert_array_equal(out, wanted)
    both = x.copy()  # the gradient over log_prob itself, by way of a copy
    policy_loss("ppo", both, old, a, mask=mask, out=both)
    np.testing.assert_array_equal(both, wanted)


def test_pytorch_tensors_come_in_and_go_out():
    torch = pytest.importorskip("torch")
    x, old, a, mask = batch((4, 6))
    loss, grad, _ = policy_loss("ppo", *(torch.from_numpy(v) for v in (x, old, a)), mask=torch.from_numpy(mask))
    wanted, wanted_grad, _ = policy_loss("ppo", x, old, a, mask=mask)
    assert loss == wanted and isinstance(grad, torch.Tensor)
    np.testing.assert_array_equal(grad.numpy(), wanted_grad)
