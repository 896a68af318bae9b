"""How far each scan over time is from the exact result, and whether a float64 carry would bring it closer: docs/accuracy.md.

    python benches/accuracy.py [--longest 65536] [--write docs/accuracy.md]

The oracle is the specification run in long double, 64 bits of mantissa; where the formula is rational, its own error is measured against
exact fractions. Errors are in ulps of the largest partial sum: in a lane with exact results x*[0..T-1],

    error = max over t of |x[t] - x*[t]| / ulp(S),    S = max over t of |x*[t]|,    ulp(S) = eps 2^floor(log2 S), in the dtype of x

where x* is every output of the function, and for total_return, whose outputs are only the complete sums, every reward-to-go as well.
"""

import argparse
import functools
import inspect
import itertools
import textwrap
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from pathlib import Path

import machine
import numpy as np
from table import figure, markdown

import fastpg
from fastpg import reference

GAMMA = (0.99, 0.9999, 1.0)
HORIZON = (128, 2048, 65536, 1_000_000)
REWARD = ("noise", "constant", "episodes")
LAYOUT = ("time-major", "batch-major", "packed", "one lane")
CONSTANT = (0.1, 0.7, 1.1, 3.0)  # rewards of the draws whose reward is constant
LANES = list(itertools.product(REWARD, GAMMA))
UNITS = 2**200
DTYPE = (np.float32, np.float64)
LONG = np.longdouble
# A rounding that the exact result crosses counts for half; a kernel has a few more of them than the formula, whatever the horizon.
FEW = 4


def kernels():
    """The public scans over time, by what they take."""
    names = [name for name, f in vars(reference).items() if inspect.isfunction(f) and not name.startswith("_")]
    parameters = {name: inspect.signature(getattr(reference, name)).parameters for name in names}
    return [name for name in names if {"reward", "terminated"} <= parameters[name].keys() and hasattr(fastpg, name)]


def draws(steps):
    """How often each of LANES is drawn: as long lanes take gigabytes of long doubles, they are fewer."""
    return len(CONSTANT) if steps <= 100_000 else 2


def problem(kernel, steps, dtype):
    """The arguments of a kernel by name, arrays (T, N): every one of LANES some times, for traces that fade with little but gamma.

    noise     rewards and values normal: errors of either sign, which partly cancel
    constant  one reward and one value at every step: each addition rounds the same way, so that errors add up
    episodes  noise again, and an ending about every 200 steps
    """
    rng = np.random.default_rng(steps)
    kinds, gammas = zip(*(lane for lane in LANES for _ in range(draws(steps))), strict=True)
    constant, ends = np.array(kinds) == "constant", np.array(kinds) == "episodes"
    shape = (steps, len(kinds))

    def draw(at_constant):
        return np.where(constant, at_constant, rng.standard_normal(shape)).astype(dtype)

    value = np.where(constant, 0.3, rng.standard_normal((steps + 1, len(kinds)))).astype(dtype)
    drawn = {
        "reward": draw(np.tile(CONSTANT[: draws(steps)], len(LANES))),
        "value": value[:-1],
        "q_value": value[:-1],
        "next_value": value[1:].copy(),
        "log_ratio": draw(0) * dtype(0.1),
        "log_prob": -abs(draw(0)),
        "greedy": constant | (rng.random(shape) < 0.95),
        "terminated": ends & (rng.random(shape) < 1 / 400),
        "truncated": ends & (rng.random(shape) < 1 / 400),
        "gamma": np.array(gammas, dtype),
        "lambda_": 1.0,
    }
    return {name: drawn[name] for name in inspect.signature(getattr(reference, kernel)).parameters if name in drawn}


def cast(arguments, dtype):
    """The same numbers in a wider type."""
    return {
        n: x.astype(dtype) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x for n, x in arguments.items()
    }


def outputs(results):
    """(T, N) or (outputs, T, N) as (outputs, T, N)."""
    return np.stack(results if isinstance(results, tuple) else (results,))


def specified(kernel, arguments):
    return outputs(getattr(reference, kernel)(**arguments))


def computed(kernel, layout, arguments):
    """What the public function answers, one call a gamma and layout, put back as (outputs, T, N)."""
    function = getattr(fastpg, kernel)
    gammas = arguments["gamma"]
    answer = None
    for gamma in np.unique(gammas):
        lanes = np.flatnonzero(gammas == gamma)
        given = {n: np.ascontiguousarray(x[:, lanes]) if np.ndim(x) == 2 else x for n, x in arguments.items()}
        given["gamma"] = float(gamma)
        if layout == "time-major":
            got = outputs(function(**given))
        elif layout == "batch-major":
            turned = {n: np.ascontiguousarray(x.T) if np.ndim(x) == 2 else x for n, x in given.items()}
            got = outputs(function(**turned, axis=1)).swapaxes(1, 2)
        elif layout == "packed":
            steps = len(given["reward"])
            end_to_end = {n: x.T.ravel() if np.ndim(x) == 2 else x for n, x in given.items()}
            offsets = np.arange(len(lanes) + 1) * steps
            got = outputs(function(**end_to_end, offsets=offsets)).reshape(-1, len(lanes), steps).swapaxes(1, 2)
        else:
            one = [
                outputs(function(**{n: x[:, lane].copy() if np.ndim(x) == 2 else x for n, x in given.items()}))
                for lane in range(len(lanes))
            ]
            got = np.stack(one, axis=-1)
        if answer is None:
            answer = np.empty((*got.shape[:2], len(gammas)), got.dtype)
        answer[:, :, lanes] = got
    return answer


def largest_partial_sum(kernel, arguments, exact):
    """S of each lane."""
    largest = abs(exact).max(axis=(0, 1))
    if kernel == "total_return":
        sums = {name: arguments[name] for name in ("reward", "terminated", "truncated", "gamma")}
        largest = np.maximum(largest, abs(reference.reward_to_go(**sums)).max(axis=0))
    return largest


def ulps(got, exact, largest, dtype):
    """The error of each of LANES, the worst draw."""
    ulp = LONG(np.finfo(dtype).eps) * 2 ** np.floor(np.log2(largest.astype(LONG)))
    return (abs(got.astype(LONG) - exact).max(axis=(0, 1)) / ulp).astype(float).reshape(len(LANES), -1).max(axis=1)


def errors(kernel, steps, dtype, layouts=LAYOUT):
    """{who: [error of each lane] by carry}, carries narrowest first; who is a layout or "sequential", the formula step by step."""
    arguments = problem(kernel, steps, dtype)
    exact = specified(kernel, cast(arguments, LONG))
    largest = largest_partial_sum(kernel, cast(arguments, LONG), exact)
    ways = {"sequential": functools.partial(specified, kernel)}
    ways |= {layout: functools.partial(computed, kernel, layout) for layout in layouts}
    carries = [carry for carry in DTYPE if np.dtype(carry).itemsize >= np.dtype(dtype).itemsize]
    return {
        who: [ulps(way(cast(arguments, carry)).astype(dtype), exact, largest, dtype) for carry in carries]
        for who, way in ways.items()
    }


def in_fractions(arguments):
    """Every number as an exact fraction, in arrays of objects, which the specification computes with as well."""
    exactly = np.vectorize(lambda x: Fraction(float(x)), otypes=[object])
    return {
        n: exactly(x)
        if isinstance(x, np.ndarray) and x.dtype.kind == "f"
        else Fraction(x)
        if isinstance(x, float)
        else x
        for n, x in arguments.items()
    }


def rational():
    """The functions without an exponential."""
    return [
        k
        for k in kernels()
        if not {"log_ratio", "log_prob"} & inspect.signature(getattr(reference, k)).parameters.keys()
    ]


def error_of_oracle(kernel, steps):
    """The oracle's own, in ulps of float64, against exact fractions; the worst lane."""
    arguments = problem(kernel, steps, np.float64)
    exact = specified(kernel, in_fractions(arguments))
    rough = specified(kernel, cast(arguments, LONG))
    largest = largest_partial_sum(kernel, cast(arguments, LONG), rough)
    # A long double is two doubles: what it holds beyond 53 bits is a double again.
    high = rough.astype(np.float64)
    low = (rough - high).astype(np.float64)
    as_fraction = np.vectorize(lambda a, b: Fraction(float(a)) + Fraction(float(b)), otypes=[object])
    off = np.vectorize(float)(abs(as_fraction(high, low) - exact)).max(axis=(0, 1))
    return float((off / (np.finfo(np.float64).eps * 2 ** np.floor(np.log2(largest.astype(float))))).max())


def error_of_oracle_at_length(steps):
    """The same at any length, for the sums whose exact value stays short: reward_to_go, gamma 1, no endings."""
    arguments = problem("reward_to_go", steps, np.float64)
    drawn = [lane for lane in LANES for _ in range(draws(steps))]
    lanes = [k for k, (reward, gamma) in enumerate(drawn) if gamma == 1 and reward != "episodes"]
    oracle = specified("reward_to_go", cast({n: x[..., lanes] for n, x in arguments.items()}, LONG))[0]
    worst = 0.0
    for sums, reward, last in zip(
        oracle.T, arguments["reward"].T[lanes], arguments["next_value"][-1][lanes], strict=True
    ):
        exact = list(itertools.accumulate(map(_in_units, reward[::-1].tolist()), initial=_in_units(float(last))))[:0:-1]
        high = sums.astype(np.float64)
        low = (sums - high).astype(np.float64)
        off = max(
            abs(_in_units(a) + _in_units(b) - x) for a, b, x in zip(high.tolist(), low.tolist(), exact, strict=True)
        )
        ulp = np.finfo(np.float64).eps * 2 ** np.floor(np.log2(float(abs(sums).max())))
        worst = max(worst, off / UNITS / float(ulp))
    return worst


def _in_units(x):
    """A double as a whole number of 1 / UNITS."""
    n, d = x.as_integer_ratio()
    whole, rest = divmod(n * UNITS, d)
    if rest:
        raise ValueError(f"{x} is not a multiple of 1 / {UNITS}")
    return whole


# --- the page


def job(kernel, steps, dtype):
    return (kernel, steps, dtype), errors(kernel, steps, dtype)


def span(steps):
    return f"{steps:,}"


def table_of_layouts(found, dtype, horizons):
    """A row a kernel and layout, the worst over gammas and rewards; layouts of equal errors share a row."""
    carries = ["float32 carry", "float64 carry"] if dtype == np.float32 else [""]
    head = ["function", "layout", *(f"{span(T)} {carry}".strip() for T in horizons for carry in carries)]
    rows = []
    for kernel in kernels():
        of_kernel = {}  # the figures of a row: who has them
        for who in ("sequential", *LAYOUT):
            cells = tuple(figure(float(x.max())) for T in horizons for x in found[kernel, T, dtype][who])
            of_kernel.setdefault(cells, []).append(who)
        for cells, names in of_kernel.items():
            everyone = "sequential and every layout" if len(names) == 1 + len(LAYOUT) else ", ".join(names)
            rows.append([f"`{kernel}`", everyone, *cells])
    return markdown(head, rows)


def table_of_gae(found, horizons):
    head = ["reward", "gamma", *(f"{span(T)} {carry} carry" for T in horizons for carry in ("float32", "float64"))]
    rows = []
    for lane, (reward, gamma) in enumerate(LANES):
        worst = [
            figure(float(max(found["gae", T, np.float32][layout][k][lane] for layout in LAYOUT)))
            for T in horizons
            for k in range(2)
        ]
        rows.append([reward, str(gamma), *worst])
    return markdown(head, rows)


def worst_of(found, carry, holds):
    """(error, kernel, who, T, lane) of the kernels in float32, over the lanes and horizons for which holds(T, reward, gamma)."""
    return max(
        (float(by_carry[carry][lane]), kernel, who, T, lane)
        for (kernel, T, dtype), of_kernel in found.items()
        for who, by_carry in of_kernel.items()
        for lane, (reward, gamma) in enumerate(LANES)
        if dtype == np.float32 and who != "sequential" and holds(T, reward, gamma)
    )


def excess(found):
    """How many times the formula's error a kernel's is at worst, both beyond FEW ulps, a kind of reward at a time."""
    ratios = []
    for (kernel, T, dtype), of_kernel in found.items():
        for layout in LAYOUT:
            for reward in REWARD:
                lanes = [lane for lane, (kind, _) in enumerate(LANES) if kind == reward]
                ours, formula = (float(of_kernel[who][0][lanes].max()) for who in (layout, "sequential"))
                ratios.append((max(0.0, ours - FEW) / formula, kernel, layout, np.dtype(dtype).name, T, reward))
    return max(ratios)


def conclusion(found, horizons):
    eps = float(np.finfo(np.float32).eps)

    def said(carry, holds):
        error, kernel, who, T, lane = worst_of(found, carry, holds)
        reward, gamma = LANES[lane]
        relative = f"{error * eps:.0e} of the largest sum"
        return f"{figure(error)} ulps ({relative}; `{kernel}`, {who}, {span(T)} steps, {reward}, gamma {gamma})"

    ratio, kernel, layout, dtype, T, reward = excess(found)
    short = max(T for T in horizons if T <= 2048)
    held = "No function is a defect" if ratio <= 2 else "**There is a defect**"
    return f"""**What follows.** {held}, which would be one with more than twice the error of the formula it computes and {FEW} ulps: the
        largest ratio, those {FEW} ulps taken off, is {figure(ratio)} (`{kernel}`, {layout}, {dtype}, {span(T)} steps, {reward}). A float32
        carry is off by at most {said(0, lambda T, reward, gamma: gamma == min(GAMMA))} where gamma is {min(GAMMA)}, at any horizon,
        and by at most {said(0, lambda T, reward, gamma: T <= short)} at any gamma up to {span(short)} steps. Beyond, with gamma near 1, it
        is off by up to {said(0, lambda T, reward, gamma: True)}: the same reward added again and again in float32 rounds the same way
        each time. A float64 carry is off by at most {said(1, lambda T, reward, gamma: True)}, which is the rounding of the result."""


def page(found, horizons, oracle, length_oracle):
    worst_kernel, worst_steps = max(oracle, key=oracle.get)
    longest = max(horizons)
    bits = -int(np.log2(np.finfo(LONG).eps))
    in_float64 = figure(float(found["reward_to_go", longest, np.float64]["sequential"][0].max()))
    paragraphs = [
        r"""The error of every function over time, in **ulps of the largest partial sum**: in a lane with exact results x\*[0], ...,
        x\*[T-1], the error is max |x[t] - x\*[t]| / ulp(S) with S = max |x\*[t]| and ulp(S) = eps 2^floor(log2 S), in the dtype of x. For
        `total_return`, whose outputs are complete sums only, S is the largest reward-to-go. *Sequential* is the specification, step by
        step in the dtype. A *float64 carry* for float32 data is the same function in float64 on the same float32 numbers, rounded once
        at the end. Written by `benches/accuracy.py`.""",
        f"""Lambda is 1, and ratios of policies are at or near 1, so that gamma alone makes most traces fade. Each figure is the worst over
        gamma 0.99, 0.9999 and 1, rounded to the dtype first, for the oracle too, and over three kinds of reward: *noise*, normal rewards
        and values; *constant*, one reward and one value at every step, whose roundings all go the same way; *episodes*, noise with an
        ending about every 200 steps; each drawn {draws(1)} times, {draws(max(HORIZON))} times at {span(max(HORIZON))} steps.""",
        f"""The oracle is the specification in long double (eps 2^-{bits}). Its own error, against exact fractions, is at most
        {figure(oracle[worst_kernel, worst_steps])} ulps of float64 (`{worst_kernel}`, {worst_steps} steps, of the functions that are
        rational), and, in the undiscounted sums, which stay exact at any length, {figure(length_oracle)} ulps at {span(longest)} steps,
        where float64 itself is off by {in_float64}.""",
        conclusion(found, horizons),
    ]
    parts = [
        "# Accuracy",
        *(textwrap.fill(" ".join(x.split()), 140, break_long_words=False, break_on_hyphens=False) for x in paragraphs),
        "## float32",
        table_of_layouts(found, np.float32, horizons),
        "## float64",
        table_of_layouts(found, np.float64, horizons),
        "## gae in float32, by reward and gamma",
        "The worst of the layouts.",
        table_of_gae(found, horizons),
        machine.sentence(machine.about()),
    ]
    return "\n\n".join(parts) + "\n"


def main():
    parser = argparse.ArgumentParser(description="The error of every scan over time against a more precise oracle.")
    parser.add_argument("--longest", type=int, default=max(HORIZON), help="leave out longer horizons")
    parser.add_argument("--write", type=Path, help="the page, as Markdown, instead of printing it")
    parser.add_argument("--processes", type=int, default=1)
    chosen = parser.parse_args()
    horizons = [steps for steps in HORIZON if steps <= chosen.longest]
    if not horizons:
        parser.error(f"--longest is {chosen.longest}; {min(HORIZON)} or more is wanted")
    jobs = [(kernel, steps, dtype) for steps in reversed(horizons) for kernel in kernels() for dtype in DTYPE]
    with ProcessPoolExecutor(chosen.processes) as pool:
        length_oracle = pool.submit(error_of_oracle_at_length, max(horizons))
        found = dict(pool.map(job, *zip(*jobs, strict=True)))
        of_oracle = [(kernel, steps) for kernel in rational() for steps in (64, 512)]
        oracle = dict(zip(of_oracle, pool.map(error_of_oracle, *zip(*of_oracle, strict=True)), strict=True))
    text = page(found, horizons, oracle, length_oracle.result())
    if chosen.write:
        chosen.write.write_text(text)
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
