"""The public names inside @njit: the same kernels, so the same bits; what is not a dense array is refused while typing."""

import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest
from numba.core.errors import TypingError

import fastpg
from fastpg import _core, _numba
from fastpg.testing import CASES

DTYPES = [np.float32, np.float64]


def compiled(function):
    """An @njit function that does nothing but call the public one."""
    return numba.njit(lambda *args: function(*args))


def inside_njit(case):
    """The public function inside @njit, its keywords written out."""
    names = ", ".join(case.make(np.random.default_rng(0), (1, 1), np.float32))
    given = ", ".join([names, *(f"{name}={value!r}" for name, value in case.keywords)])
    scope = {"fastpg": fastpg}
    exec(f"def call({names}):\n    return fastpg.{case.name}({given})", scope)
    return numba.njit(scope["call"])


def answer(function, arguments):
    """Its answers as one list of arrays, with a generator of its own."""
    given = [np.random.default_rng(7) if name == "rng" else x for name, x in arguments.items()]
    found = function(*given)
    return list(found) if isinstance(found, tuple) else [found]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_every_public_name_gives_the_same_bits_inside_njit(case, rng):
    inside = inside_njit(case)
    for dtype in DTYPES:
        for shape in [(0, 3), (1, 1), (9, 5), (64, 7), (200, 33)] + case.over_time * [(3, 0), (17,)]:
            arguments = case.make(rng, shape, dtype)
            before = {name: np.copy(x) for name, x in arguments.items() if name != "rng"}
            found = answer(inside, arguments)
            wanted = answer(lambda *args: case.call(dict(enumerate(args))), arguments)
            for x, y in zip(found, wanted, strict=True):
                assert x.dtype == y.dtype and x.shape == y.shape
                np.testing.assert_array_equal(x, y, err_msg=f"{shape} {dtype}")
            for name, x in before.items():
                np.testing.assert_array_equal(arguments[name], x)


def test_every_kernel_is_reached():
    """A kernel is a public name, or a variant that `wrt` picks."""
    for kernel in _core.kernels():
        name, function = _numba._public(kernel)
        assert function is not None or kernel.rpartition("_")[0] in _core.kernels(), name


def episode(shape, dtype=np.float64):
    rng = np.random.default_rng(0)
    reward, value, next_value = rng.normal(size=(3, *shape)).astype(dtype)
    terminated, truncated = rng.random((2, *shape)) < 0.2
    return reward, value, next_value, terminated, truncated


def test_defaults_and_names_of_parameters_hold_inside_njit():
    reward, value, next_value, terminated, truncated = episode((9, 2))

    @numba.njit
    def named(reward, value, next_value, flag):
        return fastpg.gae(reward, value, lambda_=1, terminated=flag, next_value=next_value, truncated=flag)

    @numba.njit
    def only(reward):
        return fastpg.reward_to_go(reward), fastpg.reward_to_go(reward, None, reward > 0, gamma=0.5)

    wanted = fastpg.gae(reward, value, next_value, terminated, terminated, lambda_=1)
    np.testing.assert_array_equal(named(reward, value, next_value, terminated), wanted)
    np.testing.assert_array_equal(only(reward)[0], fastpg.reward_to_go(reward))
    np.testing.assert_array_equal(only(reward)[1], fastpg.reward_to_go(reward, None, reward > 0, gamma=0.5))


def test_gamma_and_lambda_may_be_arrays():
    gamma, lambda_ = np.random.default_rng(1).choice([0.0, 0.3, 1.0], size=(2, 9, 2))
    arguments = (*episode((9, 2)), gamma, lambda_)
    np.testing.assert_array_equal(compiled(fastpg.gae)(*arguments), fastpg.gae(*arguments))
    reward, _, *others = arguments[:-1]
    window = (reward, *others, 3)
    np.testing.assert_array_equal(compiled(fastpg.n_step_return)(*window), fastpg.n_step_return(*window))


def test_next_value_may_be_that_of_the_last_row():
    reward, value, _, terminated, truncated = episode((9, 3))
    truncated &= terminated
    after = np.array([1.0, 2.0, 3.0])
    for function, more in ((fastpg.gae, (value,)), (fastpg.reward_to_go, ())):
        inside = compiled(function)
        arguments = (reward, *more, after, terminated, truncated)
        np.testing.assert_array_equal(inside(*arguments), function(*arguments))
        cut = truncated.copy()
        cut[8], cut[4, 1], terminated[4, 1] = True, False, False
        np.testing.assert_array_equal(inside(*arguments[:-1], cut), function(*arguments[:-1], cut))
        cut[4, 1] = True
        with pytest.raises(ValueError, match="next_value has one row, and truncated is set above the last"):
            inside(*arguments[:-1], cut)
    one = (reward[:, 0].copy(), value[:, 0].copy(), 2.0, terminated[:, 0].copy(), np.zeros(9, bool))
    np.testing.assert_array_equal(compiled(fastpg.gae)(*one), fastpg.gae(*one))


def test_legal_is_none_a_row_or_all_rows(rng):
    logits, action = rng.normal(size=(6, 3)), np.array([0, 1, 0, 1, 0, 1])
    inside = compiled(fastpg.categorical.log_prob)
    legal = rng.random((6, 3)) < 0.5
    legal[:, 0] = True
    for mask in (None, legal, np.array([True, True, False])):
        np.testing.assert_array_equal(inside(logits, action, mask), fastpg.categorical.log_prob(logits, action, mask))


@pytest.mark.parametrize("dtype", DTYPES)
def test_sample_draws_the_same_stream(dtype):
    logits = np.random.default_rng(0).normal(size=(101, 5)).astype(dtype)
    ours, theirs = np.random.default_rng(3), np.random.default_rng(3)
    inside = compiled(fastpg.categorical.sample)
    for _ in range(3):  # float32 takes half a word a number: an odd count leaves the other half for the next call
        wanted = fastpg.categorical.sample(logits, theirs)
        np.testing.assert_array_equal(inside(logits, ours), wanted)
    assert ours.random() == theirs.random()


def test_arrays_made_on_the_spot_live_through_the_call():
    @numba.njit
    def again(reward, flag, times):
        wrong = 0
        for k in range(times):
            found = fastpg.td_residual(reward + k, reward * 2.0, reward - k, flag, flag, 1.0)
            wrong += np.sum(np.abs(found) > 1e-9)  # (r + k) + (r - k) - 2 r = 0
        return wrong

    assert again(np.arange(4096.0), np.zeros(4096, bool), 500) == 0


def test_nogil_threads_give_the_same_bits():
    inside = numba.njit(nogil=True)(lambda *args: fastpg.gae(*args))
    arguments = episode((256, 64))
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(lambda _: inside(*arguments), range(32)))
    for found in results:
        np.testing.assert_array_equal(found, fastpg.gae(*arguments))


def test_prange_gives_the_same_bits():
    @numba.njit(parallel=True)
    def every(reward, value, next_value, terminated, truncated):
        advantage = np.empty_like(reward)
        for b in numba.prange(len(reward)):
            x = reward[b], value[b], next_value[b]
            advantage[b] = fastpg.gae(x[0], x[1], x[2], terminated[b], truncated[b])
        return advantage

    arguments = episode((6, 33, 4))
    wanted = [fastpg.gae(*rows) for rows in zip(*arguments, strict=True)]
    np.testing.assert_array_equal(every(*arguments), wanted)


# --- refused while typing

T, F = np.zeros((4, 3)), np.zeros((4, 3), bool)
GAE = {"reward": T, "value": T, "next_value": T, "terminated": F, "truncated": F, "gamma": 0.9, "lambda_": 0.9}
ROW = {"logits": T, "action": np.zeros(4, np.int64), "legal": None}
GAE_TYPING = [
    (
        {"next_value": T.T.copy().T},
        r"next_value is a non-contiguous array \(layout 'F'\).*np.ascontiguousarray\(next_v",
    ),
    ({"terminated": np.zeros((4, 6), bool)[:, ::2]}, r"terminated is a non-contiguous array \(layout 'A'\)"),
    ({"value": T.astype("f4")}, "value has dtype float32; inside @njit float64 is wanted"),
    ({"truncated": T}, "truncated has dtype float64; inside @njit bool.* is wanted"),
    ({"reward": F}, "reward has dtype bool.*; inside @njit float32 or float64 is wanted"),
    ({"value": T[0]}, "value has 1 dimensions; inside @njit 2 are wanted"),
    ({"reward": T[None]}, "reward has 3 dimensions; inside @njit 1 or 2 are wanted"),
    ({"value": 1.0}, "value is float64; inside @njit a C-contiguous array of float64 is wanted"),
    ({"value": None}, "value is None; an array is wanted"),
    ({"gamma": T[0]}, "gamma has 1 dimensions"),
    ({"gamma": T.astype("f4")}, "gamma has dtype float32"),
]
ROW_TYPING = [
    ({"logits": T[0]}, "logits has 1 dimensions; inside @njit 2 are wanted"),
    ({"logits": T[:, ::-1]}, r"logits is a non-contiguous array \(layout 'A'\)"),
    ({"action": np.zeros(4, np.int32)}, "action has dtype int32; inside @njit int64 is wanted"),
    ({"action": np.zeros(4)}, "action has dtype float64; inside @njit int64 is wanted"),
    ({"legal": T}, "legal has dtype float64; inside @njit bool.* is wanted"),
]
inside_gae, inside_log_prob = compiled(fastpg.gae), compiled(fastpg.categorical.log_prob)


@pytest.mark.parametrize(("change", "sentence"), GAE_TYPING)
def test_gae_names_what_it_refuses_while_typing(change, sentence):
    with pytest.raises(TypingError, match="fastpg.gae: " + sentence):
        inside_gae(*(GAE | change).values())


@pytest.mark.parametrize(("change", "sentence"), ROW_TYPING)
def test_log_prob_names_what_it_refuses_while_typing(change, sentence):
    with pytest.raises(TypingError, match="fastpg.categorical.log_prob: " + sentence):
        inside_log_prob(*(ROW | change).values())


def test_other_refusals_while_typing():
    for function, arguments, sentence in (
        (lambda r, f: fastpg.total_return(r, f, f, axis=1), (T, F), "fastpg.total_return: axis is given"),
        (lambda r, f: fastpg.total_return(r, f, f, out=r), (T, F), "fastpg.total_return: out is given"),
        (lambda r, f: fastpg.lambda_return(r, r[0], f, f), (T, F), "fastpg.lambda_return: next_value has one row"),
        (
            lambda x: fastpg.categorical.sample(x, 0),
            (T,),
            "fastpg.categorical.sample: rng is .*int.*Generator is wanted",
        ),
        (lambda x: fastpg.categorical.kl_grad(x, x, x[:, 0].copy(), wrt="x"), (T,), "kl_grad: wrt is x"),
    ):
        with pytest.raises(TypingError, match=sentence):
            numba.njit(function)(*arguments)


# --- refused while running


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"value": T[:2]}, "value and reward differ in shape"),
        ({"truncated": F[:, :2].copy()}, "truncated and reward differ in shape"),
        ({"gamma": 1.1}, r"gamma is not in \[0, 1\]"),
        ({"lambda_": np.nan}, r"lambda_ is not in \[0, 1\]"),
        ({"next_value": np.zeros(2)}, "next_value has one row, but not one item a lane"),
    ],
)
def test_gae_names_what_it_refuses_while_running(change, sentence):
    with pytest.raises(ValueError, match="fastpg.gae: " + sentence):
        inside_gae(*(GAE | change).values())


def test_a_bad_number_among_those_of_gamma_is_refused():
    for bad in (np.nan, -0.1, 1.1):
        gamma = np.full((4, 3), 0.5)
        gamma[2, 1] = bad
        with pytest.raises(ValueError, match=r"fastpg.gae: gamma holds numbers that are not in \[0, 1\]"):
            inside_gae(*(GAE | {"gamma": gamma}).values())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"logits": np.zeros((4, 0))}, "logits has no columns"),
        ({"logits": np.zeros((3, 3))}, "action and logits differ in length"),
        ({"action": np.array([0, 1, 2, 3])}, "action is out of range"),
        ({"action": np.array([0, -1, 0, 0])}, "action is out of range"),
        ({"logits": np.full((4, 3), -np.inf)}, "logits has a row with no legal action"),
        ({"legal": F}, "logits has a row with no legal action"),
        ({"legal": F[0]}, "logits has a row with no legal action"),
        ({"legal": np.ones(2, bool)}, "legal has one row, but not one item an action"),
        ({"legal": F[:2]}, "legal and logits differ in shape"),
    ],
)
def test_log_prob_names_what_it_refuses_while_running(change, sentence):
    with pytest.raises(ValueError, match="fastpg.categorical.log_prob: " + sentence):
        inside_log_prob(*(ROW | change).values())


# --- other processes

SCRIPT = """
    import sys
    import numpy as np, numba
    import fastpg
    early = "fastpg._numba" in sys.modules  # or else it comes by the entry point

    @numba.njit(cache=True)
    def advantage(reward, flag):
        return fastpg.gae(reward, reward, reward, flag, flag, 0.9, 0.8)

    reward, flag = np.arange(6.0).reshape(3, 2), np.zeros((3, 2), bool)
    np.testing.assert_array_equal(advantage(reward, flag), fastpg.gae(reward, reward, reward, flag, flag, 0.9, 0.8))
    print(early, sum(advantage.stats.cache_hits.values()), sum(advantage.stats.cache_misses.values()))
"""
OTHER_KERNEL = """
    from fastpg import _numba
    digest = _numba._digest
    _numba._digest = lambda kernel: digest(kernel) + 1
    import runpy
    runpy.run_path("script.py")
"""


def python(folder, *args):
    environment = os.environ | {"NUMBA_CACHE_DIR": str(folder / "cache")}
    return subprocess.run([sys.executable, *args], cwd=folder, env=environment, capture_output=True, text=True)


def test_a_cached_function_is_found_again_by_the_next_process_unless_the_kernel_has_changed(tmp_path):
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    (tmp_path / "other.py").write_text(textwrap.dedent(OTHER_KERNEL))
    first, second = (python(tmp_path, "script.py") for _ in range(2))
    assert first.stdout == "False 0 1\n", first.stderr
    assert second.stdout == "False 1 0\n", second.stderr
    other = python(tmp_path, "other.py")
    assert other.returncode == 1
    assert "ValueError: fastpg.gae: it has changed since this function was compiled" in other.stderr


def test_fastpg_does_not_import_numba_by_itself(tmp_path):
    code = "import fastpg, sys; fastpg.gae([1.0], [1.0], [1.0], [False], [False]); sys.exit('numba' in sys.modules)"
    assert python(tmp_path, "-c", code).returncode == 0
