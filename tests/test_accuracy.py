"""How far results are from exact ones: no function over time loses more than the formula it computes, run step by step, would."""

import importlib
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="module")
def accuracy():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent.parent / "benches"))
        yield importlib.import_module("accuracy")


DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
needs_long_double = pytest.mark.skipif(
    np.finfo(np.longdouble).eps >= 2e-16, reason="long double is no wider than double"
)


@needs_long_double
@DTYPES
def test_no_kernel_errs_more_than_twice_what_the_formula_errs_step_by_step(accuracy, dtype, isa):
    for kernel in accuracy.kernels():
        for steps in (1, 100, 2048):
            found = accuracy.errors(kernel, steps, dtype)
            formula = found.pop("sequential")[0]
            for layout, by_carry in found.items():
                for reward in accuracy.REWARD:
                    lanes = [lane for lane, (kind, _) in enumerate(accuracy.LANES) if kind == reward]
                    most = 2 * formula[lanes].max() + accuracy.FEW
                    assert by_carry[0][lanes].max() <= most, (kernel, steps, layout, reward)


@needs_long_double
def test_one_lane_shared_by_threads_errs_no_more_than_the_formula_does(accuracy):
    found = accuracy.errors("gae", 70_000, np.float32, layouts=["one lane"])
    assert found["one lane"][0].max() <= 2 * found["sequential"][0].max() + accuracy.FEW


@needs_long_double
def test_float32_carried_in_float64_is_rounded_once(accuracy):
    for kernel in accuracy.kernels():
        for layout, by_carry in accuracy.errors(kernel, 300, np.float32).items():
            assert by_carry[1].max() <= 0.5 + 1e-4, (kernel, layout)


@needs_long_double
def test_the_oracle_is_exact_to_a_small_part_of_an_ulp(accuracy):
    for kernel in accuracy.rational():
        assert accuracy.error_of_oracle(kernel, 100) <= 1 / 16, kernel
    assert accuracy.error_of_oracle_at_length(100) <= 1 / 16


@DTYPES
def test_errors_are_counted_in_ulps_of_the_largest_partial_sum(accuracy, dtype):
    kinds, eps = len(accuracy.LANES), np.finfo(dtype).eps
    exact = np.tile([[[5.0, -0.5], [1.0, 0.25]]], kinds)  # two draws of a kind: ulp(5) = 4 eps, ulp(0.5) = eps / 2
    got = exact.copy()
    got[0, 1, 0] += 4 * 3 * eps
    got[0, 1, 3] -= eps
    assert accuracy.ulps(got, exact, np.tile([5.0, 0.5], kinds), dtype).tolist() == [3, 2] + [0] * (kinds - 2)
