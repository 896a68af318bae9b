"""Every kernel against the specification: all shapes, dtypes, layouts and instruction sets."""

import inspect
import subprocess
import sys

import numpy as np
import pytest

from fastpg import _core, testing
from fastpg.testing import CASES, compare

TIME = [case for case in CASES if case.over_time]
ROWS = [case for case in CASES if not case.over_time]
MASKED = [case for case in ROWS if "legal" in inspect.signature(case.function()).parameters]
PAIRS = [case for case in CASES if case.id in ("gae_and_return", "vtrace")]
WITH_OUT = [case for case in CASES if case not in PAIRS and "out" in inspect.signature(case.function()).parameters]
STEPS = [0, 1, 2, 7, 8, 9, 63, 64, 65, 1025]
LANES = [None, 0, 1, 2, 7, 8, 9, 15, 16, 17, 63, 64, 65, 96, 97, 130, 1025, 4100]
ACTIONS = [1, 2, 3, 4, 5, 7, 8, 9, 18, 31, 63, 64, 65, 66, 130, 1000, 4096, 4097, 9000]


def ids(cases):
    return [case.id for case in cases]


def strided(array):
    """The same items, backwards in memory along time and three apart along lanes."""
    wide = np.empty((array.shape[0], 3 * array.shape[1] + 1), array.dtype)[::-1, 1::3]
    wide[...] = array
    return wide


LAYOUTS = {
    "time-major": lambda a: a,
    "batch-major": lambda a: np.ascontiguousarray(a.T),
    "fortran": np.asfortranarray,
    "strided": strided,
    "batch-major strided": lambda a: strided(np.ascontiguousarray(a.T)),
}


def laid_out(arguments, layout):
    change = LAYOUTS[layout]
    return {k: change(a) if isinstance(a, np.ndarray) else a for k, a in arguments.items()}


def near(case, shape, layout="time-major"):
    return case.near(shape, layout in ("time-major", "strided"))


def time_first(result, layout):
    if isinstance(result, tuple):
        return tuple(time_first(r, layout) for r in result)
    return result.T if layout.startswith("batch-major") else result


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", TIME, ids=ids(TIME))
def test_time_kernels_equal_the_specification(case, dtype, isa, rng):
    for steps in STEPS:
        for lanes in LANES:
            shape = (steps,) if lanes is None else (steps, lanes)
            if np.prod(shape) > 150_000:
                continue
            arguments = case.make(rng, shape, dtype)
            assert compare(case.call(arguments), case.expect(arguments), near(case, shape)) == "", (shape, isa)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", TIME, ids=ids(TIME))
def test_time_kernels_equal_the_specification_in_any_strides(case, layout, isa, rng):
    for shape in [(0, 3), (3, 0), (1, 1), (9, 7), (65, 8), (300, 17), (64, 130), (513, 5)]:
        for dtype in (np.float32, np.float64):
            arguments = case.make(rng, shape, dtype)
            axis = 1 if layout.startswith("batch-major") else 0
            got = time_first(case.call(laid_out(arguments, layout), axis=axis), layout)
            assert compare(got, case.expect(arguments), near(case, shape, layout)) == "", (shape, dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", TIME, ids=ids(TIME))
def test_gamma_and_lambda_may_differ_from_step_to_step(case, layout, rng):
    for shape in [(40, 3), (65, 20), (7, 200)]:
        for dtype in (np.float32, np.float64):
            arguments = case.make(rng, shape, dtype)
            for name in {"gamma", "lambda_"} & set(arguments):
                arguments[name] = np.where(rng.random(shape) < 0.1, 0, rng.random(shape)).astype(dtype)
            axis = 1 if layout.startswith("batch-major") else 0
            got = time_first(case.call(laid_out(arguments, layout), axis=axis), layout)
            assert compare(got, case.expect(arguments), near(case, shape, layout)) == "", (shape, dtype)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("name", [c.name for c in TIME if "value" in c.make(np.random.default_rng(), (1,), float)])
def test_next_value_of_the_last_row_alone_means_value_one_step_on(name, axis, isa, rng):
    case = next(c for c in CASES if c.name == name)
    for shape in [(1, 3), (12, 1), (130, 5), (5, 130), (300, 9)]:
        arguments = case.make(rng, shape, np.float64)
        arguments["truncated"][:-1] = False
        last = rng.standard_normal(shape[1])
        full = arguments | {"next_value": np.vstack([arguments["value"][1:], last])}
        short = arguments | {"next_value": last}
        wanted = case.expect(full)
        assert compare(case.expect(short), wanted, 0) == ""
        if axis:
            short = {k: a.T.copy() if np.ndim(a) == 2 else a for k, a in short.items()}
        got = case.call(short, axis=axis)
        layout = "batch-major" if axis else "time-major"
        assert compare(time_first(got, layout), wanted, near(case, shape, layout)) == ""
    one_lane = case.make(rng, (20,), np.float64)
    one_lane["truncated"][:-1] = False
    full = one_lane | {"next_value": np.append(one_lane["value"][1:], 3.0)}
    assert compare(case.call(one_lane | {"next_value": 3.0}), case.expect(full), near(case, (20,))) == ""


def test_reward_to_go_needs_only_the_value_after_the_last_row(rng):
    case = next(c for c in CASES if c.name == "reward_to_go")
    arguments = case.make(rng, (50, 4), np.float32)
    arguments["truncated"][:-1] = False
    got = case.call(arguments | {"next_value": arguments["next_value"][-1]})
    assert compare(got, case.expect(arguments), 0) == ""


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", ROWS, ids=ids(ROWS))
def test_row_kernels_come_within_their_tolerance(case, dtype, isa):
    for actions in ACTIONS:
        for rows in (0, 1, 2, 63, 64, 65, 200):
            if rows * actions > 100_000 or case.name == "categorical.sample" and dtype == np.float32:
                continue
            # Twice the same arguments: sample takes a generator and advances it.
            one, two = (case.make(np.random.default_rng(rows + actions), (rows, actions), dtype) for _ in range(2))
            assert compare(case.call(one), case.expect(two), case.tolerance) == "", (rows, actions, isa)


@pytest.mark.parametrize("case", MASKED, ids=ids(MASKED))
def test_illegal_actions_and_minus_inf_logits_have_probability_zero(case, isa, rng):
    for actions in (2, 5, 18, 64, 65, 500):
        for dtype in (np.float32, np.float64):
            if case.name == "categorical.sample" and dtype == np.float32:
                continue
            for legal in (rng.random((50, actions)) < 0.5, rng.random(actions) < 0.5):
                legal[..., 0] = True
                one, two = (case.make(np.random.default_rng(actions), (50, actions), dtype) for _ in range(2))
                wanted = case.expect(two, legal=legal)
                assert compare(case.call(one, legal=legal), wanted, case.tolerance) == ""
                # Whatever an illegal logit holds, and -inf said by the logit itself, give the same bits.
                got = case.call(case.make(np.random.default_rng(actions), (50, actions), dtype), legal=legal)
                for garbage in (np.nan, np.inf, -np.inf):
                    soiled = case.make(np.random.default_rng(actions), (50, actions), dtype)
                    for name in {"logits", "other"} & set(soiled):
                        soiled[name][~np.broadcast_to(legal, (50, actions))] = garbage
                    keep = soiled if garbage == -np.inf else None
                    assert compare(case.call(soiled, legal=legal), got, 0) == ""
                    if keep is not None:
                        again = case.make(np.random.default_rng(actions), (50, actions), dtype) | {
                            k: a for k, a in keep.items() if k in ("logits", "other")
                        }
                        assert compare(case.call(again), got, 0) == ""


@pytest.mark.parametrize("case", ROWS, ids=ids(ROWS))
def test_row_kernels_read_any_strides_and_any_leading_shape(case, rng):
    for actions in (3, 18, 100):
        one, two = (case.make(np.random.default_rng(1), (12, actions), np.float64) for _ in range(2))
        wanted = case.call(one)
        spread = {k: strided(a) if np.ndim(a) == 2 else a for k, a in two.items()}
        assert compare(case.call(spread), wanted, 0) == ""
        stacked = case.make(np.random.default_rng(1), (12, actions), np.float64)
        stacked = {k: a.reshape(3, 4, *a.shape[1:]) if isinstance(a, np.ndarray) else a for k, a in stacked.items()}
        got = case.call(stacked)
        for g, w in zip(got, wanted, strict=True) if isinstance(wanted, tuple) else [(got, wanted)]:
            assert g.shape[:2] == (3, 4)
            assert compare(g.reshape(w.shape), w, 0) == ""


@pytest.mark.parametrize("case", WITH_OUT + PAIRS, ids=ids(WITH_OUT + PAIRS))
def test_out_is_written_in_any_strides_and_nothing_beside_it(case, isa, rng):
    for shape in [(0, 3), (1, 1), (1, 5), (7, 4), (65, 17), (3, 70)]:
        arguments = case.make(rng, shape, np.float32)
        wanted = case.call(arguments)
        both = isinstance(wanted, tuple)
        memory = [np.full([2 * n for n in one.shape], np.nan, one.dtype) for one in (wanted if both else (wanted,))]
        out = tuple(one[(slice(None, None, -2),) * one.ndim] for one in memory)
        case.call(arguments, out=out if both else out[0])
        assert compare(out if both else out[0], wanted, case.near(shape, False)) == "", shape
        assert all(np.isnan(one).sum() == one.size - part.size for one, part in zip(memory, out, strict=True))


def test_a_thread_with_the_stack_that_the_readme_asks_for_calls_every_kernel():
    script = """
import threading
import numpy as np
from fastpg import _core, testing

def run():
    for isa in _core.isas():
        _core.use_isa(isa)
        for case in testing.CASES:
            case.call(case.make(np.random.default_rng(0), (300, 130), np.float64))
    print("done")

threading.stack_size(1 << 20)
thread = threading.Thread(target=run)
thread.start()
thread.join()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


@pytest.mark.parametrize("case", CASES, ids=ids(CASES))
def test_inputs_are_left_alone_and_may_be_read_only(case, rng):
    one = case.make(np.random.default_rng(3), (20, 6), np.float64)
    kept = {k: a.copy() for k, a in one.items() if isinstance(a, np.ndarray)}
    for a in kept:
        one[a].setflags(write=False)
    case.call(one)
    assert all(np.array_equal(one[k], a) for k, a in kept.items())


def pairs_receive(case, arguments, wanted):
    """The same for several results: into new arrays, spread ones, and those of the inputs."""
    for outs in (
        tuple(np.full_like(array, np.nan) for array in wanted),
        tuple(strided(np.full_like(array, np.nan)) for array in wanted),
    ):
        got = case.call(arguments, out=outs)
        assert all(one is other for one, other in zip(got, outs, strict=True))
        assert compare(outs, wanted, 0) == ""
    own = {name: array.copy() for name, array in arguments.items()}
    outs = own["mean"], own["log_std"]
    case.call(own, out=outs)
    assert compare(outs, wanted, 0) == ""
    shared = arguments | {name: array[0] for name, array in arguments.items() if name.endswith("log_std")}
    wanted = case.call(shared)
    assert wanted[1].ndim == 1
    outs = tuple(np.full_like(array, np.nan) for array in wanted)
    case.call(shared, out=outs)
    assert compare(outs, wanted, 0) == ""


@pytest.mark.parametrize("case", WITH_OUT, ids=ids(WITH_OUT))
def test_out_receives_the_result_even_where_it_overlaps_an_input(case):
    for shape in [(30, 4), (4, 30), (70, 100)]:
        arguments = case.make(np.random.default_rng(3), shape, np.float32)
        wanted = case.call(arguments)
        if isinstance(wanted, tuple):
            pairs_receive(case, arguments, wanted)
            continue
        out = np.full_like(wanted, np.nan)
        assert case.call(arguments, out=out) is out
        assert compare(out, wanted, 0) == ""
        spread = strided(np.zeros_like(wanted)) if wanted.ndim == 2 else np.zeros(3 * wanted.size, wanted.dtype)[::3]
        case.call(arguments, out=spread)
        assert compare(spread, wanted, 0) == ""
        for name in arguments:  # in place, and one row further on
            if (
                isinstance(arguments[name], np.ndarray)
                and arguments[name].shape == wanted.shape
                and arguments[name].dtype == wanted.dtype
            ):
                longer = np.empty((shape[0] + 1, *wanted.shape[1:]), wanted.dtype)
                longer[:-1] = arguments[name]
                case.call(arguments | {name: longer[:-1]}, out=longer[1:])
                assert compare(longer[1:], wanted, 0) == "", name
                same = arguments[name].copy()
                case.call(arguments | {name: same}, out=same)
                assert compare(same, wanted, 0) == "", name


@pytest.mark.parametrize("case", PAIRS, ids=ids(PAIRS))
def test_a_pair_of_arrays_receives_both_results_even_where_one_is_an_input(case):
    mask = np.arange(120).reshape(30, 4) % 7 > 0
    for shape, keywords in [((30, 4), {}), ((4, 30), {"axis": 1}), ((30, 4), {"mask": mask})]:
        arguments = case.make(np.random.default_rng(3), shape, np.float32)
        wanted = case.call(arguments, **keywords)
        for out in [
            tuple(np.full(shape, np.nan, np.float32) for _ in range(2)),
            tuple(np.full((*shape, 2), np.nan, np.float32)[..., 0] for _ in range(2)),
            (arguments["value"], np.full(shape, np.nan, np.float32)),
        ]:
            assert case.call(arguments, **keywords, out=out)[0] is out[0]
            assert compare(out, wanted, 0) == ""


def test_the_self_test_passes_here_and_fails_for_a_broken_kernel(monkeypatch):
    assert testing.selftest() == []
    monkeypatch.setattr("fastpg.reference.gae", lambda *args, **kw: -np.abs(args[0]))
    assert any(line.startswith("gae ") for line in testing.selftest())


def test_every_kernel_in_c_has_a_row_in_cases():
    named = {"_".join([*case.name.split("."), *dict(case.keywords).values()]) for case in CASES}
    assert set(_core.kernels()) == named
