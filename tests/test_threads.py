"""The number of threads changes the time a call takes and nothing else; forks and callers on many threads are safe."""

import os
import threading

import numpy as np
import pytest

import fastpg
from fastpg import _core, reference
from fastpg.testing import CASES, compare

BY_LANES, BY_TIME = (70, 4100), (9000, 40)  # shapes that threads share by lanes and by stretches of time


@pytest.fixture(autouse=True)
def four_threads():
    before = _core.threads()
    _core.set_threads(4)
    yield
    _core.set_threads(before)


def single(call):
    _core.set_threads(1)
    result = call()
    _core.set_threads(4)
    return result


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_any_number_of_threads_gives_the_same_bits(case, dtype, isa):
    shapes = [BY_LANES, BY_TIME, (200_000, 1), (3000, 64)] if case.over_time else [(70_000, 3), (3000, 70), (70, 5000)]
    for shape in shapes:
        arguments = [case.make(np.random.default_rng(1), shape, dtype) for _ in range(2)]
        wanted = single(lambda: case.call(arguments[0]))  # noqa: B023
        assert compare(case.call(arguments[1]), wanted, 0) == "", shape
    if case.over_time:  # batch-major
        arguments = {
            k: a.T.copy() if np.ndim(a) else a for k, a in case.make(np.random.default_rng(1), BY_LANES, dtype).items()
        }
        assert compare(case.call(arguments, axis=1), single(lambda: case.call(arguments, axis=1)), 0) == ""


@pytest.mark.parametrize(
    "gamma, lambda_, ends", [(1.0, 1.0, 0.0), (0.99, 0.95, 0.0), (1.0, 1.0, 1e-4), (0.0, 0.5, 0.1)]
)
@pytest.mark.parametrize("shape", [(40_000,), (9000, 40), (5000, 120)])
def test_stretches_of_time_are_repaired_to_the_last_bit(gamma, lambda_, ends, shape, rng):
    reward, value, next_value = (rng.standard_normal(shape) for _ in range(3))
    terminated, truncated = rng.random(shape) < ends, rng.random(shape) < ends
    reward[-1] = (
        np.nan if reward.ndim == 1 else 1.0
    )  # a NaN in the last row travels through every stretch that nothing ends
    args = (reward, value, next_value, terminated, truncated, gamma, lambda_)
    for call in (
        lambda: fastpg.gae(*args),
        lambda: fastpg.gae_and_return(*args)[1],
        lambda: fastpg.total_return(reward, terminated, truncated, gamma),
        lambda: fastpg.vtrace(reward, value, next_value, value / 4, terminated, truncated, gamma, lambda_)[1],
        lambda: fastpg.retrace(reward, value, next_value, value / 4, terminated, truncated, gamma, lambda_),
    ):
        np.testing.assert_array_equal(call(), single(call))
    if len(shape) > 1:
        np.testing.assert_array_equal(fastpg.gae(*args), reference.gae(*args))


@pytest.mark.parametrize("shape", [BY_LANES, BY_TIME])
def test_the_value_after_the_last_row_is_read_by_the_last_part_alone(shape, rng):
    reward, value = rng.standard_normal((2, *shape))
    no = np.zeros(shape, bool)
    last = rng.standard_normal(shape[1])
    full = np.vstack([value[1:], last])
    np.testing.assert_array_equal(fastpg.gae(reward, value, last, no, no), reference.gae(reward, value, full, no, no))
    got = fastpg.reward_to_go(reward, last)
    np.testing.assert_array_equal(got, reference.reward_to_go(reward, last))


def test_set_threads_holds_until_its_block_ends():
    fastpg.set_threads(3)
    assert _core.threads() == 3
    with fastpg.set_threads(2):
        assert _core.threads() == 2
        with pytest.raises(ZeroDivisionError), fastpg.set_threads(1):
            1 / 0  # noqa: B018
        assert _core.threads() == 2
    assert _core.threads() == 3
    fastpg.set_threads(1000)
    assert _core.threads() == 64
    for wrong, error in ((0, ValueError), (-1, ValueError), (True, TypeError), (2.0, TypeError), ("2", TypeError)):
        with pytest.raises(error, match="n is"):
            fastpg.set_threads(wrong)
    assert _core.threads() == 64


def test_the_first_bad_row_is_named_whichever_thread_meets_it():
    logits = np.zeros((100_000, 3))
    logits[[60_000, 99_999]] = -np.inf
    with pytest.raises(ValueError, match=r"logits\[60000\] has no legal action"):
        fastpg.categorical.entropy(logits)
    action = np.zeros(100_000, int)
    action[[70_001, 80_000]] = 3
    with pytest.raises(ValueError, match=r"action\[70001\] is 3"):
        fastpg.categorical.log_prob(np.zeros((100_000, 3)), action)


def test_many_python_threads_at_once(rng):
    logits = rng.standard_normal((80_000, 4))
    wanted = fastpg.categorical.entropy(logits)
    wrong = []

    def work():
        for _ in range(20):
            if not np.array_equal(fastpg.categorical.entropy(logits), wanted):
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong and not any(thread.is_alive() for thread in threads)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore")  # Python and JAX warn of forks while threads live, which is the point
def test_a_forked_child_uses_threads_after_its_parent_did(rng):
    logits = rng.standard_normal((80_000, 4))
    wanted = fastpg.categorical.entropy(logits)
    for _ in range(5):
        child = os.fork()
        if child == 0:
            same = all(np.array_equal(fastpg.categorical.entropy(logits), wanted) for _ in range(3))
            os._exit(0 if same else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        np.testing.assert_array_equal(fastpg.categorical.entropy(logits), wanted)
