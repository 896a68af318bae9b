"""Baselines: against the specification, and by what they are for, on bandits small enough to enumerate."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from fastpg import baselined, categorical, leave_one_out_baseline, mean_baseline, optimal_baseline, reference

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])
CLOSE = {np.float32: {"rtol": 1.2e-7, "atol": 0}, np.float64: {"rtol": 1e-13, "atol": 1e-13}}
NAMES = ("mean_baseline", "leave_one_out_baseline", "optimal_baseline")


def loaded(name):
    return json.loads((Path(__file__).parent / "cases" / f"{name}.json").read_text())["cases"]


def call(module, name, returns, squared, **keywords):
    of = (returns, squared) if name == "optimal_baseline" else (returns,)
    return (getattr(module, name) if module is reference else globals()[name])(*of, **keywords)


@DTYPES
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(), (1,), (6,), (5, 4), (2, 3, 4)])
def test_baselines_equal_the_specification(rng, dtype, name, shape):
    returns = (5 + rng.standard_normal(shape)).astype(dtype)
    squared, mask = rng.random(shape).astype(dtype), rng.random(shape) < 0.6
    for axis in {None, *range(len(shape)), *([(0, len(shape) - 1)] if len(shape) > 1 else [])}:
        for keywords in ({}, {"mask": mask}):
            got = call(None, name, returns, squared, axis=axis, **keywords)
            assert got.dtype == dtype and got.shape == shape
            wanted = call(reference, name, returns, squared, axis=axis, **keywords)
            np.testing.assert_allclose(got, wanted, **CLOSE[dtype])
            np.testing.assert_allclose(baselined(returns, got), returns - got, rtol=0)
    if name == "mean_baseline":
        got = mean_baseline(returns, weight=squared, mask=mask)
        np.testing.assert_allclose(got, reference.mean_baseline(returns, weight=squared, mask=mask), **CLOSE[dtype])
    if name == "leave_one_out_baseline":
        got = leave_one_out_baseline(returns, mask=mask, axis=-1 if shape else None, singleton=0.0)
        wanted = reference.leave_one_out_baseline(returns, mask=mask, axis=-1 if shape else None, singleton=0.0)
        np.testing.assert_allclose(got, wanted, **CLOSE[dtype])


def test_baselines_of_many_blocks_equal_the_specification(rng):
    returns, squared = 3 + rng.standard_normal((5, 40_000)), rng.random((5, 40_000))
    mask = rng.random((5, 40_000)) < 0.6
    for axis in (None, 0, 1):
        for name in ("mean_baseline", "optimal_baseline"):
            got = call(None, name, returns, squared, axis=axis, mask=mask)
            np.testing.assert_allclose(got, call(reference, name, returns, squared, axis=axis, mask=mask), rtol=1e-13)
        total, count = np.where(mask, returns, 0).sum(axis, keepdims=True), mask.sum(axis, keepdims=True)
        wanted = np.where(count > 1, (total - returns) / np.maximum(count - 1, 1), returns)
        got = leave_one_out_baseline(returns, axis=axis, mask=mask)
        np.testing.assert_allclose(got, np.where(mask, wanted, 0), rtol=1e-11)


# --- what they are for


LOGITS = np.array([[0.3, -0.5, 1.1]])
PI = np.exp(LOGITS[0]) / np.exp(LOGITS[0]).sum()
RETURN_OF = np.array([2.0, -1.0, 5.0])
SCORE = categorical.log_prob_grad(np.repeat(LOGITS, 3, 0), np.arange(3), np.ones(3))  # grad log pi(a), by rows
GRADIENT = (PI * RETURN_OF) @ SCORE


def expected_gradient(baseline_of, n=3):
    """E[1/n sum_i grad log pi(a_i) (G_i - b_i)] over all 3^n batches of n actions, each with its probability."""
    every = np.array(list(itertools.product(range(3), repeat=n)))
    returns = RETURN_OF[every]
    advantage = baselined(returns, baseline_of(every, returns))
    return np.einsum("b,bn,bnk->k", PI[every].prod(1), advantage, SCORE[every]) / n


def test_leave_one_out_leaves_the_gradient_unbiased():
    got = expected_gradient(lambda actions, returns: leave_one_out_baseline(returns, axis=1))
    np.testing.assert_allclose(got, GRADIENT, rtol=1e-13)


def test_the_mean_shrinks_the_gradient_by_one_in_n():
    for n in (2, 3, 4):
        got = expected_gradient(lambda actions, returns: mean_baseline(returns, axis=1), n)
        np.testing.assert_allclose(got, GRADIENT * (1 - 1 / n), rtol=1e-13)


def test_a_lone_item_under_leave_one_out_gives_no_gradient_or_the_raw_one():
    own = expected_gradient(lambda actions, returns: leave_one_out_baseline(returns, axis=1), n=1)
    np.testing.assert_array_equal(own, np.zeros(3))
    raw = expected_gradient(lambda actions, returns: leave_one_out_baseline(returns, axis=1, singleton=0.0), n=1)
    np.testing.assert_allclose(raw, GRADIENT, rtol=1e-13)


def test_the_optimal_baseline_minimises_the_variance_of_the_gradient():
    optimize = pytest.importorskip("scipy.optimize")

    def variance(b):
        mean_square = (PI * (RETURN_OF - b) ** 2) @ (SCORE**2).sum(1)
        return mean_square - (GRADIENT**2).sum()  # a constant baseline leaves the mean as it is

    best = optimize.minimize_scalar(variance)
    # The expectation over actions is a weighted mean over them: the probability goes where the score stands squared.
    got = optimal_baseline(RETURN_OF, PI * (SCORE**2).sum(1))
    np.testing.assert_allclose(got, np.full(3, best.x), rtol=1e-7)
    assert variance(got[0]) <= best.fun * (1 + 1e-12)
    mean = float(PI @ RETURN_OF)
    assert variance(got[0]) < variance(mean) < variance(0.0)


def test_the_optimal_baseline_per_column_is_each_columns_own(rng):
    returns, squared = rng.standard_normal((20, 3)), rng.random((20, 3))
    got = optimal_baseline(returns, squared, axis=0)
    for k in range(3):
        np.testing.assert_allclose(got[:, k], (squared * returns)[:, k].sum() / squared[:, k].sum(), rtol=1e-13)


def test_the_length_of_a_softmax_score_is_as_documented():
    documented = 1 - 2 * PI + (PI**2).sum()
    np.testing.assert_allclose(documented, (SCORE**2).sum(1), rtol=1e-14)


# --- peers and edges


def test_verl_rloo():
    x = loaded("verl_exec_advantages")[0]["inputs"]
    names, mask = np.array(x["index"]), np.asarray(x["response_mask"])
    score = np.asarray(x["token_level_rewards"]).sum(1)
    for case in loaded("verl_exec_advantages"):
        if case.get("name") not in ("rloo", "rloo_vectorized"):
            continue
        advantage = np.empty(len(score))
        for name in set(names):
            group = names == name
            alone = 0.0 if case["name"] == "rloo" else None
            advantage[group] = baselined(score[group], leave_one_out_baseline(score[group], singleton=alone))
        np.testing.assert_allclose(advantage[:, None] * mask, case["advantages"], rtol=1e-14, atol=1e-15)


@DTYPES
@pytest.mark.parametrize("name", NAMES)
def test_equal_returns_have_an_advantage_of_exactly_0(dtype, name):
    for c, n in ((0.7, 8), (1000.1, 16), (-3.3, 100_001)):
        returns = np.full(n, c, dtype)
        baseline = call(None, name, returns, np.linspace(0, 1, n).astype(dtype))
        assert not baselined(returns, baseline).any()


@DTYPES
@pytest.mark.parametrize("name", NAMES)
def test_masked_slots_change_no_bit_and_are_0(rng, dtype, name):
    returns, squared = rng.standard_normal((2, 6, 7)).astype(dtype) ** 2
    mask = rng.random((6, 7)) < 0.5
    mask[2] = False
    garbage = rng.choice(np.array([np.nan, np.inf, -np.inf, -1e38], dtype), (6, 7))
    for axis in (None, 0, 1):
        got = [
            call(None, name, np.where(mask, returns, g), np.where(mask, squared, g), axis=axis, mask=mask)
            for g in (np.zeros_like(garbage), garbage)
        ]
        np.testing.assert_array_equal(got[0].view(np.uint8), got[1].view(np.uint8))
        assert not got[0][~mask].any() and np.isfinite(got[0]).all()
        whole = call(None, name, garbage, garbage, axis=axis, mask=np.zeros((6, 7), bool))
        assert not whole.any()


@pytest.mark.parametrize("name", NAMES)
def test_nan_in_an_unmasked_slot_shows_in_its_own_row_alone(name):
    returns = np.arange(12.0).reshape(3, 4)
    returns[1, 2] = np.nan
    got = call(None, name, returns, np.ones((3, 4)), axis=1)
    assert np.isnan(got[1]).all() and np.isfinite(got[[0, 2]]).all()


@pytest.mark.parametrize("name", NAMES)
def test_nothing_and_no_scores_have_results(name):
    assert call(None, name, np.zeros((0, 3)), np.zeros((0, 3)), axis=0).shape == (0, 3)
    if name == "optimal_baseline":
        assert not optimal_baseline([1.0, 2.0], [0.0, 0.0]).any()
    if name == "leave_one_out_baseline":
        assert leave_one_out_baseline([4.0]) == 4 and leave_one_out_baseline([4.0], singleton=7) == 7
        assert np.isnan(leave_one_out_baseline([4.0], singleton=np.nan))
        assert leave_one_out_baseline([4.0, 6.0], singleton=7).tolist() == [6, 4]


@pytest.mark.parametrize("name", NAMES)
def test_out_receives_the_result_and_inputs_stay(rng, name):
    returns, squared = rng.standard_normal((2, 5, 4))
    wanted = call(None, name, returns, squared**2, axis=1)
    frozen = returns.copy()
    frozen.flags.writeable = False
    for out in (np.empty((5, 4)), np.empty((10, 4))[::2], np.empty((4, 5)).T):
        assert call(None, name, frozen, squared**2, axis=1, out=out) is out
        np.testing.assert_array_equal(out, wanted)
    itself = returns.copy()
    call(None, name, itself, squared**2, axis=1, out=itself)
    np.testing.assert_array_equal(itself, wanted)
    with pytest.raises(ValueError, match=r"out has shape \(5,\) and dtype float64; \(5, 4\) and float64 are wanted"):
        call(None, name, returns, squared**2, out=np.empty(5))


@pytest.mark.parametrize("name", NAMES)
def test_torch_tensors_are_answered_in_kind(rng, name):
    torch = pytest.importorskip("torch")
    returns, squared = rng.standard_normal((5, 4)), rng.random((5, 4))
    got = call(None, name, torch.from_numpy(returns), torch.from_numpy(squared))
    assert isinstance(got, torch.Tensor)
    np.testing.assert_array_equal(got.numpy(), call(None, name, returns, squared))


@pytest.mark.parametrize(
    ("error", "message", "make"),
    [
        (TypeError, "returns has dtype int64; float32 or float64 is wanted", lambda: mean_baseline(np.array([1, 2]))),
        (ValueError, r"mask has shape \(1,\), but returns has \(2,\)", lambda: mean_baseline([1.0, 2.0], mask=[True])),
        (ValueError, "weight holds -1.0; numbers from 0 up", lambda: mean_baseline([1.0], weight=[-1.0])),
        (ValueError, "axis is 2, but the arrays have 1 axes", lambda: leave_one_out_baseline([1.0], axis=2)),
        (TypeError, "singleton is '0'; a number is wanted", lambda: leave_one_out_baseline([1.0], singleton="0")),
        (TypeError, "singleton is True; a number", lambda: leave_one_out_baseline([1.0], singleton=True)),
        (ValueError, "score_squared holds -2.0; numbers from 0 up", lambda: optimal_baseline([1.0], [-2.0])),
        (ValueError, r"score_squared has shape \(2,\), but returns has \(1,\)", lambda: optimal_baseline([1.0], [1.0, 2.0])),
        (TypeError, "score_squared has dtype float32, but returns has float64", lambda: optimal_baseline([1.0], np.ones(1, np.float32))),
    ],
)  # fmt: skip
def test_baselines_refuse(error, message, make):
    with pytest.raises(error, match=message):
        make()
