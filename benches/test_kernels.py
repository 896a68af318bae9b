"""Every kernel of CASES, five ways, on the shapes that training meets: equal to the specification first, timed then.

The ways: `numpy` is fastpg.reference; `loop` the @njit loop of loops.py, or fastpg.scan of the step where it has none;
`fastpg` the public function from Python, `fastpg-1` on one thread; `njit` the same inside @njit, where arrays are C-contiguous and
there is no axis.
"""

import contextlib
import functools

import loops
import numba
import numpy as np
import pytest

import fastpg
from fastpg.testing import CASES, bytes_moved, compare

LIBRARIES = ("numpy", "loop", "fastpg", "fastpg-1", "njit")
TIME_MAJOR = [(128, 8), (2048, 1), (128, 64), (256, 1024), (2048, 256)]
BATCH_MAJOR = [(64, 1024)]
ROWS = [(65536, 4), (65536, 18), (4096, 512)]
IN_FLOAT64 = {(128, 8), (256, 1024), (65536, 4)}


def _layouts(case):
    if case.over_time:
        return [("time-major", shape) for shape in TIME_MAJOR] + [("batch-major", shape) for shape in BATCH_MAJOR]
    return [("rows", shape) for shape in ROWS]


def _params():
    for case in CASES:
        for layout, shape in _layouts(case):
            for dtype in ("float32", "float64") if shape in IN_FLOAT64 else ("float32",):
                for library in LIBRARIES:
                    if (layout, library) != ("batch-major", "njit"):
                        name = "-".join([case.id, "x".join(map(str, shape)), layout, dtype, library])
                        yield pytest.param(case, layout, shape, dtype, library, id=name)


def _arguments(case, shape, dtype):
    return case.make(np.random.default_rng(0), shape, np.dtype(dtype))


@functools.lru_cache(maxsize=1)
def _expected(case, axis, shape, dtype):
    return case.expect(_arguments(case, shape, dtype), **{"axis": axis} if axis else {})


@functools.lru_cache
def _in_njit(case):
    """The public function inside @njit, as a user calls it: fastpg.gae(reward, value, ...)."""
    names = ", ".join(case.make(np.random.default_rng(0), (1, 1), np.float32))
    given = ", ".join([names, *(f"{name}={value!r}" for name, value in case.keywords)])
    scope = {"fastpg": fastpg}
    exec(f"def call({names}):\n    return fastpg.{case.name}({given})", scope)
    return numba.njit(scope["call"])


def _callable(case, axis, library):
    """The function to time, its keywords, and what to call it in the table."""
    keywords = {**dict(case.keywords), **({"axis": axis} if axis else {})}
    if library == "numpy":
        return case.spec(), keywords, "numpy"
    if library in ("fastpg", "fastpg-1"):
        return case.function(), keywords, library
    if library == "njit":
        return _in_njit(case), {}, "njit"
    if (case.id, axis) in loops.LOOPS:
        return loops.LOOPS[case.id, axis], {}, "loop"
    if not case.over_time or not hasattr(fastpg.steps, case.name):
        pytest.skip("neither a loop in benches/loops.py nor a step to scan")
    return functools.partial(fastpg.scan, getattr(fastpg.steps, case.name)), keywords, "scan"


def _difference(case, arguments, got, wanted, tolerance):
    """Empty where got equals wanted within the tolerance."""
    if "rng" in arguments and got.shape == wanted.shape and got.dtype == wanted.dtype:
        # A uniform may fall between two roundings of one boundary: of actions drawn, one in a thousand may differ.
        differ = int((got != wanted).sum())
        return "" if differ <= 1e-3 * wanted.size else f"{differ} of {wanted.size} actions differ"
    return compare(got, wanted, tolerance)


@pytest.mark.benchmark(min_rounds=5, max_time=0.2, min_time=5e-5)
@pytest.mark.parametrize(("case", "layout", "shape", "dtype", "library"), list(_params()))
def test_kernel(benchmark, case, layout, shape, dtype, library):
    axis = int(layout == "batch-major")
    function, keywords, source = _callable(case, axis, library)
    arguments = _arguments(case, shape, dtype)
    wanted = _expected(case, axis, shape, dtype)
    if library != "numpy":  # the first call; it compiles as well
        # The loop adds hundreds of float32 one after another; ours are held to the tolerance of the case.
        tolerance = case.near(shape, axis == 0) * (4 if source == "loop" else 1)
        why = _difference(case, arguments, function(*arguments.values(), **keywords), wanted, tolerance)
        assert not why, why
    benchmark.extra_info.update(
        kernel=case.id,
        layout=layout,
        shape=list(shape),
        dtype=dtype,
        library=source,
        bytes=bytes_moved(arguments, wanted),
    )
    with fastpg.set_threads(1) if library == "fastpg-1" else contextlib.nullcontext():
        benchmark(function, *arguments.values(), **keywords)
