"""Estimates of KL: value and gradient against peers' numbers, finite differences, exact expectations, and at the bounds."""

import json
from pathlib import Path

import numpy as np
import pytest

from fastpg import _core, reference
from fastpg.objectives import kl_estimate

CASES = Path(__file__).parent / "cases"
KINDS = ("k1", "k2", "k3", "abs")
GRADIENTS = ("plain", "straight_through", "score", "importance")


def load(name):
    return json.loads((CASES / f"{name}.json").read_text())["cases"]


def two_policies(seed=0, actions=6):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((2, actions))
    return x - np.log(np.exp(x).sum(1, keepdims=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("bound_gradient", ["saturate", "zero"])
def test_every_estimate_equals_the_specification(kind, gradient, bound_gradient):
    rng = np.random.default_rng(0)
    in_use = _core.isa()
    try:
        for isa in _core.isas():
            _core.use_isa(isa)
            for dtype in (np.float32, np.float64):
                x = (-3 * rng.random((5, 130))).astype(dtype)
                ref, old = ((x + rng.standard_normal(x.shape)).astype(dtype) for _ in range(2))
                mask = rng.random(x.shape) < 0.7
                keywords = dict(gradient=gradient, old_log_prob=old, mask=mask, log_ratio_bound=1.5, clip=1.2)
                got = kl_estimate(x, ref, kind, bound_gradient=bound_gradient, **keywords)
                wanted = reference.kl_estimate(x, ref, kind, bound_gradient=bound_gradient, **keywords)
                for g, w in zip(got, wanted, strict=True):
                    assert np.abs(g - w).max() <= 8 * np.finfo(dtype).eps * max(1, np.abs(w).max())
                    assert g.dtype == dtype and not g[~mask].any()
    finally:
        _core.use_isa(in_use)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("bounds", [{}, {"log_ratio_bound": 0.8, "clip": 0.5, "bound_gradient": "zero"}])
def test_every_gradient_is_a_finite_difference(kind, gradient, bounds):
    rng = np.random.default_rng(1)
    x = -3 * rng.random(40)
    keywords = dict(gradient=gradient, old_log_prob=x + 0.3 * rng.standard_normal(40), **bounds)
    ref = x + 0.5 * rng.standard_normal(40)
    _, grad = kl_estimate(x, ref, kind, **keywords)
    up, down = (reference.kl_estimate(x + step, ref, kind, stopped=x, **keywords)[0] for step in (1e-6, -1e-6))
    np.testing.assert_allclose(grad, (up - down) / 2e-6, atol=1e-8)


def test_expectations_are_kl_and_the_gradients_said_to_be_unbiased_are():
    log_pi, log_ref = two_policies()
    pi = np.exp(log_pi)
    kl = (pi * (log_pi - log_ref)).sum()
    score = np.eye(6) - pi  # d log pi(a) / d logits
    exact = pi * (log_pi - log_ref - kl)  # d KL / d logits
    for kind in ("k1", "k3"):
        value, grad = kl_estimate(log_pi, log_ref, kind, gradient="score")
        assert (pi * value).sum() == pytest.approx(kl, rel=1e-13)
        np.testing.assert_allclose((pi * grad) @ score, exact, rtol=1e-12, atol=1e-15)
        _, grad = kl_estimate(log_pi, log_ref, kind, gradient="straight_through")
        np.testing.assert_allclose((pi * grad) @ score, exact, rtol=1e-12, atol=1e-15)
    _, grad = kl_estimate(log_pi, log_ref, "k2")
    np.testing.assert_allclose((pi * grad) @ score, exact, rtol=1e-12, atol=1e-15)
    _, biased = kl_estimate(log_pi, log_ref, "k3")
    assert np.abs((pi * biased) @ score - exact).max() > 1e-2


def test_importance_corrects_samples_of_the_old_policy():
    log_pi, log_ref = two_policies()
    log_old = two_policies(seed=1)[0]
    pi, old = np.exp(log_pi), np.exp(log_old)
    kl = (pi * (log_pi - log_ref)).sum()
    for kind in ("k1", "k3"):
        value, grad = kl_estimate(log_pi, log_ref, kind, gradient="importance", old_log_prob=log_old)
        assert (old * value).sum() == pytest.approx(kl, rel=1e-13)
        np.testing.assert_allclose(
            (old * grad) @ (np.eye(6) - pi), pi * (log_pi - log_ref - kl), rtol=1e-12, atol=1e-15
        )


@pytest.mark.parametrize("case", load("verl_exec_kl")[1:], ids=lambda c: c["kind"])
def test_values_and_gradients_agree_with_verl(case):
    x = {name: np.array(v) for name, v in load("verl_exec_kl")[0]["inputs"].items()}
    base = {"kl": "k1", "mse": "k2", "low_var_kl": "k3"}.get(case["kind"].rstrip("+"), case["kind"].rstrip("+"))
    bounds = {"log_ratio_bound": 20.0, "clip": 10.0} if base == "k3" else {"log_ratio_bound": None}
    gradient = "straight_through" if case["kind"].endswith("+") else "plain"
    value, grad = kl_estimate(x["logprob"], x["ref_logprob"], base, gradient=gradient, bound_gradient="zero", **bounds)
    np.testing.assert_allclose(value, case["value"], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(grad, case["grad_logp"], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("case", load("nemo_exec_kl")[1:], ids=lambda c: c["kind"])
def test_values_and_gradients_agree_with_nemo_rl(case):
    x = {name: np.array(v) for name, v in load("nemo_exec_kl")[0]["inputs"].items()}
    for gradient, wanted in (("plain", "grad_plain"), ("score", "grad_with_score_term")):
        value, grad = kl_estimate(
            x["lp"], x["ref"], case["kind"], gradient=gradient, mask=x["mask"] != 0, clip=10.0, bound_gradient="zero"
        )
        np.testing.assert_allclose(value, np.array(case["kl"]) * x["mask"], rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(grad, case[wanted], rtol=1e-12, atol=1e-14)


def test_values_agree_with_openrlhf():
    for case in load("openrlhf_exec_kl_reward"):
        if "kind" in case:  # computed in float32 there
            value, _ = kl_estimate(case["logp"], case["ref"], case["kind"], log_ratio_bound=None, clip=10.0)
            np.testing.assert_allclose(value, case["kl"], rtol=1e-4)


def test_k3_keeps_its_digits_near_0_and_is_never_negative():
    for case in load("rlhfbook_k3_stability"):
        dtype = np.dtype(case.get("dtype", "float64"))
        value, _ = kl_estimate(np.zeros(1, dtype), np.array([case["log_ratio"]], dtype))  # x = ref - pi there
        assert value[0] == pytest.approx(case["k3"], rel=20 * float(np.finfo(dtype).eps))
    x = np.linspace(-2, 2, 4001, dtype=np.float32)
    value, grad = kl_estimate(0 * x, x)
    wide = x.astype(float)
    assert (value >= 0).all()
    np.testing.assert_allclose(value, np.expm1(wide) - wide, rtol=2e-6, atol=1e-30)
    np.testing.assert_allclose(grad, -np.expm1(wide), rtol=2e-6, atol=1e-30)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_at_log_ratios_of_200_a_saturated_gradient_pulls_back_and_a_zero_one_does_not(dtype):
    x, ref = np.array([-1.0, -201.0], dtype), np.array([-201.0, -1.0], dtype)
    value, grad = kl_estimate(x, ref)
    np.testing.assert_allclose(value, [np.exp(-20) + 19, np.exp(20) - 21], rtol=1e-6)
    np.testing.assert_allclose(grad, [1 - np.exp(-20), 1 - np.exp(20)], rtol=1e-6)
    _, grad = kl_estimate(x, ref, bound_gradient="zero")
    assert not grad.any()
    value, _ = kl_estimate(x, ref, log_ratio_bound=None)
    assert value[0] == 199 and (value[1] == np.inf if dtype == np.float32 else value[1] > 1e80)


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("kind", KINDS)
def test_masked_garbage_changes_no_bit_and_unmasked_nan_surfaces(kind, gradient):
    x, ref, old = np.array([-1.0, -2.0, -3.0]), np.array([-1.5, -2.5, -1.0]), np.array([-1.1, -2.0, -2.9])
    mask = np.array([True, False, True])
    clean = kl_estimate(x, ref, kind, gradient=gradient, old_log_prob=old, mask=mask)
    for garbage in (np.nan, np.inf, -np.inf, 1e300):
        dirty = [np.where(mask, v, garbage) for v in (x, ref, old)]
        got = kl_estimate(dirty[0], dirty[1], kind, gradient=gradient, old_log_prob=dirty[2], mask=mask)
        assert [v.tobytes() for v in got] == [v.tobytes() for v in clean]
    value, grad = kl_estimate(
        np.array([np.nan]), np.array([0.0]), kind, gradient=gradient, old_log_prob=np.array([0.0])
    )
    assert np.isnan(value[0]) and (np.isnan(grad[0]) or (kind == "k1" and gradient == "plain"))


def test_edges_and_refusals():
    assert [v.shape for v in kl_estimate(np.zeros((0, 3)), np.zeros((0, 3)))] == [(0, 3), (0, 3)]
    assert kl_estimate(np.zeros((2, 3, 4)), np.zeros((2, 3, 4)))[0].shape == (2, 3, 4)
    for args, keywords, match in (
        (([0.0], [0.0], "k4"), {}, "kind is 'k4'; one of k1, k2, k3, abs"),
        (([0.0], [0.0, 1.0]), {}, r"ref_log_prob has shape \(2,\), but log_prob has \(1,\)"),
        (([0.0], [0.0]), {"gradient": "x"}, "gradient is 'x'"),
        (([0.0], [0.0]), {"gradient": "importance"}, "old_log_prob is None; gradient='importance' needs it"),
        (([0.0], [0.0]), {"clip": -1}, "clip is -1; a number above 0"),
        (([0.0], [0.0]), {"bound_gradient": "y"}, "bound_gradient is 'y'"),
        (([0.0], [0.0]), {"mask": [1]}, "mask has dtype"),
    ):
        with pytest.raises((ValueError, TypeError), match=match):
            kl_estimate(*args, **keywords)
