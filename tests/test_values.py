"""Value losses and explained variance: CleanRL's numbers, finite differences, the specification, and masked places that are never read."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpg import reference
from fastpg.values import AGGREGATES, explained_variance, value_loss

CASES = Path(__file__).parent / "cases"
PPO = [
    c
    for c in json.loads((CASES / "cleanrl_exec_ppo_losses.json").read_text())["cases"]
    if c["function"].startswith("ppo_loss")
]
FORMS = [
    {"kind": kind, "clip": clip, "clip_kind": clip_kind, "factor": factor}
    for kind in ("squared", "huber")
    for clip, clip_kind in ((None, "max"), (0.2, "max"), (0.2, "only"))
    for factor in (0.5, 1.0)
]


@pytest.mark.parametrize("case", PPO, ids=lambda c: c["id"])
def test_cleanrl_value_losses_and_gradients(case):
    x, p, wanted = {k: np.array(v) for k, v in case["inputs"].items()}, case["params"], case["expected"]
    clipped = {"old_value": x["old_values"], "clip": p["clip_coef"]} if p["clip_vloss"] else {}
    loss, grad = value_loss(x["values"], x["returns"], **clipped)
    np.testing.assert_allclose(loss, wanted["v_loss"], rtol=1e-14)
    np.testing.assert_allclose(p["vf_coef"] * grad, wanted["d_value"], rtol=1e-13, atol=1e-17)


def batch(rng, shape=(6, 5), dtype=np.float64):
    value, target, old = rng.standard_normal((3, *shape)).astype(dtype)
    return value, target, (value + 0.3 * rng.standard_normal(shape)).astype(dtype)


def clipping(form, old):
    return form | ({} if form["clip"] is None else {"old_value": old})


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("aggregate", AGGREGATES)
@pytest.mark.parametrize("denominator", [None, 17.0])
def test_every_form_equals_the_specification(form, aggregate, denominator, rng):
    for dtype, close in ((np.float64, 1e-13), (np.float32, 1.3e-7)):
        value, target, old = batch(rng, dtype=dtype)
        mask = rng.random(value.shape) < 0.7
        mask[2] = False
        offsets = np.concatenate([[0], np.cumsum(mask.sum(axis=1))])
        keywords = form | {"aggregate": aggregate, "denominator": denominator}
        for layout in ({}, {"mask": mask}):
            arguments = clipping(keywords, old) | layout
            loss, grad = value_loss(value, target, **arguments)
            wanted, wanted_grad = reference.value_loss(value, target, **arguments)
            np.testing.assert_allclose(loss, wanted, rtol=1e-13)
            np.testing.assert_allclose(grad, wanted_grad, rtol=close, atol=1e-17)
            assert isinstance(loss, float)
            assert grad.dtype == dtype
        flat, flat_grad = value_loss(value[mask], target[mask], offsets=offsets, **clipping(keywords, old[mask]))
        np.testing.assert_allclose(flat, loss, rtol=1e-15)
        np.testing.assert_array_equal(flat_grad, grad[mask])


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_the_gradient_is_that_of_the_loss_by_finite_differences(form, aggregate, rng):
    value, target, old = batch(rng, shape=(3, 4))
    mask = rng.random(value.shape) < 0.8
    keywords = clipping(form, old) | {"mask": mask, "aggregate": aggregate, "delta": 0.7}
    _, grad = value_loss(value, target, **keywords)
    h = 1e-5
    for i in np.ndindex(value.shape):
        e = np.zeros_like(value)
        e[i] = h
        slope = (value_loss(value + e, target, **keywords)[0] - value_loss(value - e, target, **keywords)[0]) / (2 * h)
        np.testing.assert_allclose(grad[i], slope, rtol=1e-6, atol=1e-9)


@given(st.integers(0, 2**32), st.sampled_from(["f4", "f8"]), st.sampled_from(FORMS), st.sampled_from(AGGREGATES))
def test_what_masked_places_hold_changes_no_bit(seed, dtype, form, aggregate):
    rng = np.random.default_rng(seed)
    value, target, old = batch(rng, shape=(4, 5), dtype=dtype)
    mask = rng.random(value.shape) < 0.6
    keywords = {"mask": mask, "aggregate": aggregate}
    loss, grad = value_loss(value, target, **clipping(form, old), **keywords)
    bad = [
        np.where(mask, x, rng.choice([np.nan, np.inf, -np.inf, 3e38], mask.shape)).astype(dtype)
        for x in (value, target, old)
    ]
    got, got_grad = value_loss(bad[0], bad[1], **clipping(form, bad[2]), **keywords)
    assert got == loss
    np.testing.assert_array_equal(got_grad, grad)
    np.testing.assert_array_equal(got_grad[~mask], 0)
    assert not np.signbit(got_grad[~mask]).any()
    assert explained_variance(bad[0], bad[1], mask=mask) == explained_variance(value[mask], target[mask])


@pytest.mark.parametrize("name", ["value", "target", "old_value"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("clip_kind", ["max", "only"])
@pytest.mark.parametrize("kind", ["squared", "huber"])
def test_a_nan_that_is_not_masked_surfaces_in_loss_and_gradient(name, bad, clip_kind, kind, rng):
    arguments = dict(zip(("value", "target", "old_value"), batch(rng), strict=True))
    arguments[name] = arguments[name].copy()
    arguments[name][1, 1] = bad
    loss, grad = value_loss(**arguments, clip=0.2, clip_kind=clip_kind, kind=kind)
    if (name, bad, clip_kind) == ("value", np.inf, "only"):
        assert grad[1, 1] == 0  # clipped to old_value + 0.2, like any other
        return
    assert not np.isfinite(loss)
    rest = np.ones(grad.shape, bool)
    rest[1, 1] = False
    assert np.isfinite(grad[rest]).all()
    if np.isnan(bad):
        assert np.isnan(grad[1, 1])


def test_micro_batches_with_the_global_denominator_sum_to_the_whole(rng):
    value, target, old = batch(rng, shape=(8, 5))
    mask = rng.random(value.shape) < 0.6
    for aggregate in AGGREGATES:
        counted = {"token_mean": mask.sum(), "token_sum": 1}.get(aggregate, mask.any(axis=1).sum())
        whole = value_loss(value, target, old, clip=0.2, mask=mask, aggregate=aggregate)
        parts = [
            value_loss(
                value[s], target[s], old[s], clip=0.2, mask=mask[s], aggregate=aggregate, denominator=float(counted)
            )
            for s in (slice(0, 3), slice(3, 8))
        ]
        np.testing.assert_allclose(sum(loss for loss, _ in parts), whole[0], rtol=1e-14)
        np.testing.assert_allclose(np.concatenate([grad for _, grad in parts]), whole[1], rtol=1e-14)


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_a_batch_of_many_blocks_equals_the_specification(aggregate, rng):
    value, target, old = batch(rng, shape=(41, 1000))
    mask = rng.random(value.shape) < 0.5
    keywords = {"old_value": old, "clip": 0.2, "mask": mask, "aggregate": aggregate}
    loss, grad = value_loss(value, target, **keywords)
    wanted, wanted_grad = reference.value_loss(value, target, **keywords)
    np.testing.assert_allclose(loss, wanted, rtol=1e-13)
    np.testing.assert_allclose(grad, wanted_grad, rtol=1e-13, atol=1e-20)


def test_padding_changes_nothing(rng):
    value, target, _ = batch(rng, shape=(3, 4))
    wide = [np.pad(x, ((0, 2), (0, 5)), constant_values=9.0) for x in (value, target)]
    mask = np.pad(np.ones((3, 4), bool), ((0, 2), (0, 5)))
    for aggregate in AGGREGATES:
        loss, grad = value_loss(value, target, aggregate=aggregate)
        padded, padded_grad = value_loss(*wide, mask=mask, aggregate=aggregate)
        np.testing.assert_allclose(padded, loss, rtol=1e-15)
        np.testing.assert_array_equal(padded_grad[:3, :4], grad)


@pytest.mark.parametrize("form", [{}, {"kind": "huber"}, {"clip": 0.1}, {"aggregate": "seq_mean_token_mean"}])
def test_out_takes_the_gradient_of_the_values_even_over_the_values_themselves(form, rng):
    value, target, old = batch(rng)
    keywords = dict(form, mask=rng.random(value.shape) < 0.5, old_value=old if "clip" in form else None)
    loss, wanted = value_loss(value, target, **keywords)
    for out in (np.full(value.shape, np.nan), np.full((*value.shape, 2), np.nan)[..., 0], value.copy()):
        first = out if out[0, 0] == value[0, 0] else value
        got, grad = value_loss(first, target, **keywords, out=out)
        assert got == loss and grad is out
        np.testing.assert_array_equal(out, wanted)
    with pytest.raises(ValueError, match="out has shape"):
        value_loss(value, target, out=np.zeros(3))


def test_huber_with_a_large_delta_is_squared_and_with_a_small_one_absolute(rng):
    value, target, old = batch(rng)
    for keywords in ({}, {"old_value": old, "clip": 0.1}):
        squared, huber = (
            value_loss(value, target, **keywords),
            value_loss(value, target, kind="huber", delta=1e6, **keywords),
        )
        assert squared[0] == pytest.approx(huber[0], rel=1e-14)
        np.testing.assert_array_equal(squared[1], huber[1])
    loss, grad = value_loss(value, target, kind="huber", delta=1e-9)
    np.testing.assert_allclose(loss, 1e-9 * np.abs(value - target).mean(), rtol=1e-7)
    np.testing.assert_allclose(grad, 1e-9 * np.sign(value - target) / value.size, rtol=1e-12)
    # Huber 1964 at an error of 3 with delta 2: 2 (3 - 2 / 2)
    assert value_loss([3.0], [0.0], kind="huber", delta=2.0)[0] == 4.0


def test_a_clip_that_binds_holds_the_loss_and_stops_the_gradient():
    # v moved from 0 to 1 towards its target 2; the clip allows 0.5. l(v) = 0.5, l(v_c) = 1.125.
    assert value_loss([1.0], [2.0], [0.0], clip=0.5) == (1.125, np.array([0.0]))
    # ... away from its target -2: l(v) = 4.5 is the larger, and its gradient is 3.
    assert value_loss([1.0], [-2.0], [0.0], clip=0.5) == (4.5, np.array([3.0]))
    assert value_loss([1.0], [-2.0], [0.0], clip=0.5, clip_kind="only") == (3.125, np.array([0.0]))
    # ... where it overshot so that both errors are 0.25, the gradient is that of l(v).
    assert value_loss([1.0], [0.75], [0.0], clip=0.5) == (0.03125, np.array([0.25]))
    # ... at the clip itself nothing is clipped.
    assert value_loss([0.5], [2.0], [0.0], clip=0.5, clip_kind="only") == (1.125, np.array([-1.5]))


def test_nothing_gives_a_loss_of_zero():
    for aggregate in AGGREGATES:
        for value, extra in (
            (np.zeros((0, 3)), {}),
            (np.ones((2, 3)), {"mask": np.zeros((2, 3), bool)}),
            (np.zeros((2, 0)), {}),
        ):
            loss, grad = value_loss(value, value + 1, aggregate=aggregate, **extra)
            assert loss == 0.0
            np.testing.assert_array_equal(grad, np.zeros(value.shape))
    assert value_loss(np.zeros(0), np.zeros(0), offsets=[0, 0], aggregate="seq_mean_token_mean")[0] == 0.0
    assert value_loss(2.0, 1.0) == (0.5, np.array(1.0))


def test_inputs_are_left_alone_and_any_strides_will_do(rng):
    arrays = batch(rng, shape=(6, 8))
    mask = rng.random((6, 8)) < 0.5
    before = [x.copy() for x in (*arrays, mask)]
    for x in (*arrays, mask):
        x.flags.writeable = False
    turned = [x.T for x in arrays]
    loss, grad = value_loss(*turned, clip=0.2, mask=mask.T, aggregate="seq_mean_token_mean")
    wanted, wanted_grad = value_loss(
        *map(np.ascontiguousarray, turned), clip=0.2, mask=mask.T.copy(), aggregate="seq_mean_token_mean"
    )
    assert loss == wanted
    np.testing.assert_array_equal(grad, wanted_grad)
    for x, held in zip((*arrays, mask), before, strict=True):
        np.testing.assert_array_equal(x, held)


@pytest.mark.parametrize("n", [1, 2, 50])
def test_explained_variance_equals_the_specification(n, rng):
    for dtype, close in ((np.float64, 1e-12), (np.float32, 2e-6)):
        target = rng.standard_normal(n + 1).astype(dtype)
        value = (target + 0.5 * rng.standard_normal(n + 1)).astype(dtype)
        mask = np.arange(n + 1) != 0 if n > 1 else np.ones(2, bool)
        got = explained_variance(value, target, mask=mask)
        np.testing.assert_allclose(got, reference.explained_variance(value, target, mask=mask), rtol=close, atol=close)


def test_explained_variance_where_nothing_varies():
    for n in range(2, 12):  # three times 0.1, over three, is not 0.1
        assert explained_variance([0.2] * n, [0.1] * n) == 1.0  # the residual is as constant as the target
        assert explained_variance(np.arange(float(n)), [0.1] * n) == 0.0
    assert explained_variance(np.full(3, 0.1, np.float32), np.full(3, 1000.1, np.float32)) == 1.0
    assert explained_variance([0.1, 0.2], [0.7, 0.7]) == 0.0
    assert explained_variance([], []) == 0.0
    assert explained_variance([1.0], [2.0], mask=[False]) == 0.0
    assert explained_variance([5.0], [2.0]) == 1.0
    assert np.isnan(explained_variance([1.0, np.nan], [1.0, 2.0]))
    assert np.isnan(explained_variance([1.0, np.nan], [1.0, 1.0]))
    assert np.isnan(explained_variance([1.0, 2.0], [np.nan, 2.0]))


def test_explained_variance_does_not_lose_its_digits_far_from_zero(rng):
    target, noise = np.round(rng.standard_normal(100) * 64), np.round(rng.standard_normal(100) * 16)
    near, far = (
        explained_variance(target + noise, target),
        explained_variance(target + noise + 2.0**40, target + 2.0**40),
    )
    np.testing.assert_allclose(far, near, rtol=1e-13)


@pytest.mark.parametrize(
    "error, message, change",
    [
        (TypeError, "value has dtype int64; float32 or float64", {"value": np.array([1, 2])}),
        (ValueError, r"target has shape \(3,\), but value has \(2,\)", {"target": np.zeros(3)}),
        (TypeError, "target has dtype float32, but value has float64", {"target": np.zeros(2, np.float32)}),
        (TypeError, "clip is None, but old_value is given; both are wanted, or neither", {"clip": None}),
        (TypeError, "old_value is None, but clip is given", {"old_value": None}),
        (ValueError, "clip is 0.0; a finite number above 0", {"clip": 0.0}),
        (ValueError, "clip_kind is 'min'; one of max, only", {"clip_kind": "min"}),
        (ValueError, "kind is 'mse'; one of squared, huber", {"kind": "mse"}),
        (ValueError, "delta is -1.0; a finite number above 0", {"delta": -1.0, "kind": "huber"}),
        (ValueError, "factor is nan; a finite number above 0", {"factor": float("nan")}),
        (TypeError, "factor is '1'; a number above 0", {"factor": "1"}),
        (ValueError, "denominator is 0.0; a finite number above 0", {"denominator": 0.0}),
        (ValueError, "aggregate is 'mean'; one of token_mean", {"aggregate": "mean"}),
        (TypeError, "mask has dtype float64; bool", {"mask": np.ones(2)}),
        (ValueError, r"mask has shape \(1,\), but value has \(2,\)", {"mask": [True]}),
        (ValueError, r"value has shape \(2,\); \(B, T\) is wanted", {"aggregate": "seq_mean_token_sum"}),
        (ValueError, "offsets runs from 0 to 3; from 0 to 2", {"offsets": [0, 3]}),
    ],
)
def test_refusals_name_the_argument(error, message, change):
    with pytest.raises(error, match=message):
        value_loss(**({"value": [1.0, 2.0], "target": [0.0, 0.0], "old_value": [0.0, 0.0], "clip": 0.2} | change))


@pytest.mark.parametrize("clip", [None, 0.2])
@pytest.mark.parametrize("kind", ["squared", "huber"])
def test_pytorch_autograd_gives_the_same_gradients(clip, kind, rng):
    torch = pytest.importorskip("torch")
    value, target, old = batch(rng)
    v, t, o = (torch.from_numpy(x.copy()) for x in (value, target, old))
    v.requires_grad_()
    loss_of = torch.nn.functional.mse_loss if kind == "squared" else torch.nn.functional.huber_loss
    half = 0.5 if kind == "squared" else 1.0
    loss = half * loss_of(v, t, reduction="none")
    if clip is not None:
        loss = torch.maximum(loss, half * loss_of(o + (v - o).clamp(-clip, clip), t, reduction="none"))
    loss.mean().backward()
    ours, grad = value_loss(v.detach(), t, None if clip is None else o, clip=clip, kind=kind)
    assert isinstance(grad, torch.Tensor)
    np.testing.assert_allclose(ours, loss.mean().item(), rtol=1e-13)
    np.testing.assert_allclose(grad, v.grad, rtol=1e-12, atol=1e-17)


def test_verl_value_loss_itself_on_random_batches(rng):
    algorithms = pytest.importorskip("verl.trainer.ppo.core_algos")
    import torch

    value, target, old = batch(rng)
    mask = rng.random(value.shape) < 0.7
    names = {
        "token-mean": "token_mean",
        "seq-mean-token-sum": "seq_mean_token_sum",
        "seq-mean-token-mean": "seq_mean_token_mean",
    }
    for theirs, ours in names.items():
        v = torch.from_numpy(value.copy()).requires_grad_()
        t, o, m = (torch.from_numpy(x) for x in (target, old, mask.astype(float)))
        loss, _ = algorithms.compute_value_loss(v, t, o, m, 0.2, loss_agg_mode=theirs)
        loss.backward()
        got, grad = value_loss(value, target, old, clip=0.2, mask=mask, aggregate=ours)
        # verl adds 1e-8 to the counts it divides by.
        np.testing.assert_allclose(got, loss.item(), rtol=3e-8)
        np.testing.assert_allclose(grad, v.grad, rtol=3e-8, atol=1e-17)
