"""CASES: one row per kernel. What tests, benchmarks and the self-test know about a kernel stands here and nowhere else."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

import fastpg
from fastpg import _core, reference

__all__ = ["CASES", "Case", "bench", "compare", "measure_copy", "selftest", "time_call"]

Array = NDArray[Any]
Shape = tuple[int, ...]
REASSOCIATED = 8.0  # the least tolerance where time is contiguous; the worst error seen over the test shapes is 2.9

Make = Callable[[np.random.Generator, Shape, DTypeLike], dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """One kernel: how to call it, what to hold it against, how close it must come."""

    name: str  # the public name, dotted: "gae", "categorical.log_prob"
    make: Make  # (rng, shape, dtype) -> arguments by name, in order
    # Largest error allowed, in units of eps * (1 + the largest magnitude of the result); 0 means the same bits.
    tolerance: float = 0.0
    grad_of: str | None = (
        None  # the function whose weighted sum this is the gradient of, with respect to its first argument or `wrt`
    )
    keywords: tuple[tuple[str, Any], ...] = ()

    @property
    def over_time(self) -> bool:
        """Whether shapes are (T,) or (T, N), with axis; otherwise (M, A)."""
        return "." not in self.name

    @property
    def id(self) -> str:
        return self.name + "".join(f"-{v}" for _, v in self.keywords)

    def near(self, shape: Shape, lanes_contiguous: bool = True) -> float:
        """The tolerance for arguments of this shape: where time is contiguous, sums associate otherwise than in the formula."""
        in_order = not self.over_time or (lanes_contiguous and len(shape) == 2 and shape[1] > 1)
        return self.tolerance if in_order else max(self.tolerance, REASSOCIATED)

    def function(self) -> Any:
        return _resolve(fastpg, self.name)

    def spec(self) -> Any:
        return _resolve(reference, self.name)

    def call(self, arguments: dict[str, Any], **keywords: Any) -> Any:
        return self.function()(*arguments.values(), **dict(self.keywords), **keywords)

    def expect(self, arguments: dict[str, Any], **keywords: Any) -> Any:
        return self.spec()(*arguments.values(), **dict(self.keywords), **keywords)


def _resolve(root: Any, dotted: str) -> Any:
    for name in dotted.split("."):
        root = getattr(root, name)
    return root


def _time(names: str, **numbers: Any) -> Make:
    """Normal rewards and values; an episode ends about every 20 steps, terminated and truncated alike."""

    def make(rng: np.random.Generator, shape: Shape, dtype: DTypeLike) -> dict[str, Any]:
        draw: dict[str, Callable[[], Any]] = {
            "terminated": lambda: rng.random(shape) < 0.05,
            "truncated": lambda: rng.random(shape) < 0.05,
            "greedy": lambda: rng.random(shape) < 0.7,
            "log_ratio": lambda: 0.5 * rng.standard_normal(shape),
            "log_prob": lambda: -rng.exponential(size=shape),
        }
        arguments = {name: draw.get(name, lambda: rng.standard_normal(shape))() for name in names.split()}
        return {k: a if a.dtype == bool else a.astype(dtype) for k, a in arguments.items()} | numbers

    return make


def _gaussian(names: str) -> Make:
    def make(rng: np.random.Generator, shape: Shape, dtype: DTypeLike) -> dict[str, Any]:
        def draw(name: str) -> Any:
            if name == "weight":
                return rng.standard_normal(shape[0]).astype(dtype)
            scale = 0.5 if name.endswith("log_std") else 1.0
            return (scale * rng.standard_normal(shape)).astype(dtype)

        return {name: draw(name) for name in names.split()}

    return make


def _bits(names: str) -> Make:
    make = _rows(names.replace("action", "bits"))
    return lambda *args: {name.replace("bits", "action"): x for name, x in make(*args).items()}


def _rows(names: str) -> Make:
    def make(rng: np.random.Generator, shape: Shape, dtype: DTypeLike) -> dict[str, Any]:
        draw: dict[str, Callable[[], Any]] = {
            "logits": lambda: (3 * rng.standard_normal(shape)).astype(dtype),
            "other": lambda: (3 * rng.standard_normal(shape)).astype(dtype),
            "action": lambda: rng.integers(0, shape[1], shape[0]),
            "bits": lambda: rng.random(shape) < 0.5,
            "weight": lambda: rng.standard_normal(shape[0]).astype(dtype),
            "rng": lambda: np.random.default_rng(7),
        }
        return {name: draw[name]() for name in names.split()}

    return make


# Tolerances: four times the worst error seen over the test shapes, both dtypes and all instruction sets.
CASES = [
    Case("total_return", _time("reward terminated truncated", gamma=0.99)),
    Case("reward_to_go", _time("reward next_value terminated truncated", gamma=0.99)),
    Case("td_residual", _time("reward value next_value terminated truncated", gamma=0.99)),
    Case("gae", _time("reward value next_value terminated truncated", gamma=0.99, lambda_=0.95)),
    Case("gae_and_return", _time("reward value next_value terminated truncated", gamma=0.99, lambda_=0.95)),
    Case("lambda_return", _time("reward next_value terminated truncated", gamma=0.99, lambda_=0.95)),
    Case("n_step_return", _time("reward next_value terminated truncated", gamma=0.99, n=5)),
    Case("retrace", _time("reward q_value next_value log_ratio terminated truncated", gamma=0.99, lambda_=0.95), 4),
    Case("q_lambda", _time("reward value next_value greedy terminated truncated", gamma=0.99, lambda_=0.95), 4),
    Case("tree_backup", _time("reward q_value next_value log_prob terminated truncated", gamma=0.99, lambda_=0.95), 4),
    Case("upgo", _time("reward value next_value terminated truncated", gamma=0.99), 4),
    Case(
        "vtrace",
        _time(
            "reward value next_value log_ratio terminated truncated",
            **{"gamma": 0.99, "lambda_": 0.95, "clip_rho": 1.0, "clip_c": 1.0, "clip_pg_rho": 1.5, "alpha": 0.75},
        ),
        24,
    ),
    Case("categorical.log_prob", _rows("logits action"), tolerance=4),
    Case("categorical.log_prob_grad", _rows("logits action weight"), tolerance=7, grad_of="categorical.log_prob"),
    Case("categorical.entropy", _rows("logits"), tolerance=8),
    Case("categorical.entropy_grad", _rows("logits weight"), tolerance=18, grad_of="categorical.entropy"),
    Case("categorical.kl", _rows("logits other"), tolerance=16),
    Case("categorical.kl_grad", _rows("logits other weight"), tolerance=45, grad_of="categorical.kl"),
    Case(
        "categorical.kl_grad",
        _rows("logits other weight"),
        tolerance=7,
        grad_of="categorical.kl",
        keywords=(("wrt", "other"),),
    ),
    Case("categorical.sample", _rows("logits rng")),
    Case("categorical.mode", _rows("logits")),
    Case("bernoulli.log_prob", _bits("logits action"), tolerance=10),
    Case("bernoulli.log_prob_grad", _bits("logits action weight"), tolerance=5, grad_of="bernoulli.log_prob"),
    Case("bernoulli.entropy", _bits("logits"), tolerance=13),
    Case("bernoulli.entropy_grad", _bits("logits weight"), tolerance=6, grad_of="bernoulli.entropy"),
    Case("bernoulli.kl", _bits("logits other"), tolerance=11),
    Case("bernoulli.kl_grad", _bits("logits other weight"), tolerance=8, grad_of="bernoulli.kl"),
    Case(
        "bernoulli.kl_grad",
        _bits("logits other weight"),
        tolerance=5,
        grad_of="bernoulli.kl",
        keywords=(("wrt", "other"),),
    ),
    Case("gaussian.log_prob", _gaussian("mean log_std action"), tolerance=11),
    Case(
        "gaussian.log_prob_grad",
        _gaussian("mean log_std action weight"),
        tolerance=14,
        grad_of="gaussian.log_prob",
    ),
    Case("gaussian.entropy", _gaussian("mean log_std"), tolerance=8),
    Case("gaussian.kl", _gaussian("mean log_std other_mean other_log_std"), tolerance=12),
    Case(
        "gaussian.kl_grad",
        _gaussian("mean log_std other_mean other_log_std weight"),
        tolerance=11,
        grad_of="gaussian.kl",
    ),
    Case(
        "gaussian.kl_grad",
        _gaussian("mean log_std other_mean other_log_std weight"),
        tolerance=11,
        grad_of="gaussian.kl",
        keywords=(("wrt", "other"),),
    ),
    Case("squashed_gaussian.log_prob", _gaussian("mean log_std pre_action"), tolerance=24),
]


def compare(got: Any, wanted: Any, tolerance: float) -> str:
    """Empty where got equals wanted, NaN for NaN and inf for inf, within `tolerance`; else what differs."""
    if isinstance(wanted, tuple):
        return next((why for g, w in zip(got, wanted, strict=True) if (why := compare(g, w, tolerance))), "")
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        return f"shape {got.shape} and dtype {got.dtype}, but {wanted.shape} and {wanted.dtype} are wanted"
    finite = np.isfinite(wanted)
    if not np.array_equal(got[~finite], wanted[~finite], equal_nan=True):
        return "NaN or inf in other places"
    if not finite.any():
        return ""
    g, w = got[finite], wanted[finite]
    if tolerance == 0:
        return (
            ""
            if np.array_equal(g, w)
            else f"{int((g != w).sum())} of {w.size} items differ, by up to {np.abs(g - w).max()}"
        )
    error = np.abs(g.astype(np.float64) - w).max() / (np.finfo(w.dtype).eps * (1 + float(np.abs(w).max())))
    return "" if error <= tolerance else f"error {error:.1f}, tolerance {tolerance}"


def _check_shapes(case: Case) -> list[Shape]:
    return [(33,), (65, 1), (17, 9), (70, 130)] if case.over_time else [(1, 2), (65, 4), (33, 18), (9, 65), (3, 1000)]


def selftest() -> list[str]:
    """Holds the installed build against the specification on every instruction set of this machine; the failures, each a line."""
    failures = []
    in_use = _core.isa()
    try:
        for isa in _core.isas():
            _core.use_isa(isa)
            for case in CASES:
                for shape in _check_shapes(case):
                    for dtype in (np.float32, np.float64):
                        arguments = case.make(np.random.default_rng(0), shape, dtype)
                        wanted = case.expect(case.make(np.random.default_rng(0), shape, dtype))
                        if case.name == "categorical.sample" and dtype == np.float32:
                            continue  # a uniform may fall between two roundings of one boundary
                        why = compare(case.call(arguments), wanted, case.near(shape))
                        if why:
                            failures.append(f"{case.id} {isa} {np.dtype(dtype)} {shape}: {why}")
    finally:
        _core.use_isa(in_use)
    return failures


# --- timing


def time_call(call: Callable[[], Any], seconds: float = 0.1) -> float:
    """Median seconds of a call, in about `seconds`, a first call and its compilation left out."""
    call()
    start = time.perf_counter()
    call()
    once = max(time.perf_counter() - start, 1e-7)
    inner = max(1, int(seconds / 20 / once))
    times = []
    for _ in range(max(3, min(21, int(seconds / (inner * once))))):
        start = time.perf_counter()
        for _ in range(inner):
            call()
        times.append((time.perf_counter() - start) / inner)
    return float(np.median(times))


def measure_copy(size: int = 1 << 28, threads: int = 1) -> float:
    """Bytes a second that this machine copies, read and write counted, far outside the caches, each thread a share of its own."""
    shares = [np.array_split(array, threads) for array in (np.empty(size // 8), np.ones(size // 8))]
    with ThreadPoolExecutor(threads) as pool:
        return 2 * size / time_call(lambda: list(pool.map(np.copyto, *shares)), 0.5)


def bytes_moved(arguments: dict[str, Any], result: Any) -> int:
    """Bytes that a call must move: every array in once, every array out once."""
    arrays = [*arguments.values(), *(result if isinstance(result, tuple) else (result,))]
    return sum(int(a.nbytes) for a in arrays if isinstance(a, np.ndarray))


def _bench_rows() -> Iterator[dict[str, Any]]:
    copy = measure_copy(threads=_core.threads())
    for case in CASES:
        shapes: list[tuple[Shape, int]]
        shapes = (
            [((128, 8), 0), ((256, 1024), 0), ((64, 1024), 1)]
            if case.over_time
            else [((65536, 4), 0), ((65536, 18), 0), ((4096, 512), 0)]
        )
        for shape, axis in shapes:
            for dtype in (np.float32, np.float64):
                arguments = case.make(np.random.default_rng(0), shape, dtype)
                keywords: dict[str, Any] = {"axis": axis} if case.over_time else {}
                got = case.call(case.make(np.random.default_rng(0), shape, dtype), **keywords)
                wanted = case.expect(case.make(np.random.default_rng(0), shape, dtype), **keywords)
                sampled = case.name == "categorical.sample" and dtype == np.float32
                if not sampled and (why := compare(got, wanted, case.near(shape, axis == 0))):
                    raise AssertionError(f"{case.id} {shape} {np.dtype(dtype)}: {why}")
                moved = bytes_moved(arguments, got)
                seconds = {
                    "numpy": time_call(lambda: case.expect(arguments, **keywords)),  # noqa: B023
                    "fastpg": time_call(lambda: case.call(arguments, **keywords)),  # noqa: B023
                }
                for library, median in seconds.items():
                    yield {
                        "kernel": case.id,
                        "shape": list(shape),
                        "dtype": str(np.dtype(dtype)),
                        "layout": "rows" if not case.over_time else "batch-major" if axis else "time-major",
                        "library": library,
                        "median_seconds": median,
                        "bytes": moved,
                        "speedup_over_numpy": seconds["numpy"] / median,
                        "fraction_of_copy": moved / median / copy,
                    }


def bench(json_path: str | None = None, tell: Callable[[str], object] | None = None) -> str:
    """Times every kernel against naive NumPy and copy bandwidth, equality checked first; the short form of `make bench`, as a table.

    tell is called with each line of the table as soon as it is known: all of it takes a minute or two.
    """
    lines = [f"{'kernel':34}{'shape':>14}{'dtype':>9}{'layout':>13}{'us':>10}{'x numpy':>9}{'of copy':>9}"]
    rows = []
    if tell is not None:
        tell(lines[0])
    for r in _bench_rows():
        rows.append(r)
        if r["library"] != "fastpg":
            continue
        lines.append(
            f"{r['kernel']:34}{'x'.join(map(str, r['shape'])):>14}{r['dtype']:>9}{r['layout']:>13}"
            f"{r['median_seconds'] * 1e6:>10.1f}{r['speedup_over_numpy']:>9.1f}{r['fraction_of_copy']:>9.2f}"
        )
        if tell is not None:
            tell(lines[-1])
    if json_path:
        about = {
            "fastpg": fastpg.__version__,
            "numpy": np.__version__,
            "isa": _core.isa(),
            "machine": platform.processor() or platform.machine(),
        }
        Path(json_path).write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
    return "\n".join(lines)
