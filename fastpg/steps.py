"""One-step kernels in Numba, and `scan`, which runs one over a batch.

A step is what a loop of your own needs at one time, or for one row: call it inside any `@njit` loop and it is compiled
into that loop.

- Backward steps take `carry`, their own result at t+1, then the parameters of the public function of the same name, and
  return the result at t (or a tuple whose first item is that). `scan(steps.gae, ...)` equals `fastpg.gae(...)`.
- Action steps take one row of logits.

Arithmetic is that of the arguments, by Numba's rules: in a float32 loop hand over float32 scalars, as `scan` does,
because a Python float is a float64.
"""

import functools
import inspect
from collections.abc import Callable
from math import exp, inf, log
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numba.core import types
from numba.core.dispatcher import Dispatcher
from numba.core.registry import cpu_target
from numpy.typing import NDArray

from fastpg import _numba
from fastpg._check import as_array, as_axis, as_flags, as_floats, as_fraction, into

__all__ = [
    "gated", "total_return", "reward_to_go", "td_residual", "gae", "gae_and_return", "lambda_return",
    "categorical_sample", "categorical_log_prob", "categorical_log_prob_grad", "scan",
]  # fmt: skip

_numba.register()  # whoever uses steps uses Numba: the public names work from here on, entry points or not

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _compiled(function: _Function) -> _Function:
    """numba.njit that keeps the type of what it decorates."""
    return cast(_Function, numba.njit(nogil=True)(function))


# Time. Numba keeps float32 in x * flag and True - x, and makes float64 of x * 1 and 1 - x.


@_compiled
def gated(c: float, x: float) -> float:
    """c x, where c = 0 means that x is not read: NaN and inf do not cross an ending.

    >>> gated(0.0, float("nan")), gated(0.5, 4.0)
    (0.0, 2.0)
    """
    return c * x if c != 0 else c


@_compiled
def total_return(carry: float, reward: float, terminated: bool, truncated: bool, gamma: float = 1.0) -> float:
    """The discounted rest of the episode; at its first step, the return of the whole episode.

        R[t] = r[t] + gamma (1 - ended[t]) R[t+1],   ended = terminated or truncated

    `scan` then hands the value at an episode's first step in the buffer to all of its steps: a sweep forwards, which
    no backward step can do.
    Sutton & Barto 2018, eq. 3.8; Schulman et al. 2016, Psi 1 under eq. 1, arXiv:1506.02438

    >>> total_return(4.0, 1.0, False, False, 0.5)
    3.0
    """
    return reward + gated(gamma * (not (terminated or truncated)), carry)


@_compiled
def reward_to_go(
    carry: float,
    reward: float,
    next_value: float = 0.0,
    terminated: bool = False,
    truncated: bool = False,
    gamma: float = 0.99,
) -> float:
    """The discounted return from t on, with the next state's value where the episode was cut from outside.

        G[t] = r[t] + gamma (1 - terminated[t]) (v'[t] if truncated[t] else G[t+1])

    Sutton & Barto 2018, eq. 3.9

    >>> reward_to_go(4.0, 1.0, 8.0, False, False, 0.5), reward_to_go(4.0, 1.0, 8.0, False, True, 0.5)
    (3.0, 5.0)
    """
    return reward + gated(gamma * (not terminated), next_value if truncated else carry)


@_compiled
def td_residual(
    reward: float, value: float, next_value: float, terminated: bool, truncated: bool, gamma: float = 0.99
) -> float:
    """The temporal-difference residual. No recursion, so no carry.

        delta[t] = r[t] + gamma (1 - terminated[t]) v'[t] - v[t]

    Schulman et al. 2016, eq. 10, arXiv:1506.02438; Sutton & Barto 2018, eq. 6.5

    >>> td_residual(1.0, 2.0, 4.0, False, False, 0.5), td_residual(1.0, 2.0, 4.0, True, False, 0.5)
    (1.0, -1.0)
    """
    return reward + gated(gamma * (not terminated), next_value) - value


@_compiled
def gae(
    carry: float,
    reward: float,
    value: float,
    next_value: float,
    terminated: bool,
    truncated: bool,
    gamma: float = 0.99,
    lambda_: float = 0.95,
) -> float:
    """The generalized advantage estimate.

        A[t] = delta[t] + gamma lambda (1 - ended[t]) A[t+1],   delta = td_residual,   ended = terminated or truncated

    Schulman et al. 2016, eq. 16, arXiv:1506.02438

    >>> gae(8.0, 1.0, 2.0, 4.0, False, False, 0.5, 0.5), gae(8.0, 1.0, 2.0, 4.0, False, True, 0.5, 0.5)
    (3.0, 1.0)
    """
    delta = td_residual(reward, value, next_value, terminated, truncated, gamma)
    return delta + gated(gamma * lambda_ * (not (terminated or truncated)), carry)


@_compiled
def gae_and_return(
    carry: float,
    reward: float,
    value: float,
    next_value: float,
    terminated: bool,
    truncated: bool,
    gamma: float = 0.99,
    lambda_: float = 0.95,
) -> tuple[float, float]:
    """The generalized advantage estimate, and the return it estimates.

        A[t] = gae,   R[t] = A[t] + v[t]

    Schulman et al. 2016, eq. 16, arXiv:1506.02438

    >>> gae_and_return(8.0, 1.0, 2.0, 4.0, False, False, 0.5, 0.5)
    (3.0, 5.0)
    """
    advantage = gae(carry, reward, value, next_value, terminated, truncated, gamma, lambda_)
    return advantage, advantage + value


@_compiled
def lambda_return(
    carry: float,
    reward: float,
    next_value: float,
    terminated: bool,
    truncated: bool,
    gamma: float = 0.99,
    lambda_: float = 0.95,
) -> float:
    """The lambda-return: every n-step return, weighted by lambda^(n-1).

        R[t] = r[t] + gamma (1 - terminated[t]) (v'[t] if truncated[t] else (1 - lambda) v'[t] + lambda R[t+1])

    Sutton & Barto 2018, eq. 12.2 and 12.3, here in the recursive form of eq. 12.18

    >>> lambda_return(8.0, 1.0, 4.0, False, False, 0.5, 0.25), lambda_return(8.0, 1.0, 4.0, False, True, 0.5, 0.25)
    (3.5, 3.0)
    """
    near = gamma if truncated else gamma * (True - lambda_)
    far = gamma * lambda_ * (not (terminated or truncated))
    return reward + gated(near * (not terminated), next_value) + gated(far, carry)


_WHERE_TRUNCATED = {reward_to_go}  # next_value is read there only, so that its last row will do
_WHOLE_EPISODE = {total_return}  # what their step gives at an episode's first step is the result at all of its steps


# Actions: one row of logits, of which -inf marks an action that cannot happen.


@_compiled
def _max_and_sum(logits: NDArray[Any]) -> tuple[float, float]:
    """m = max logits and sum exp(logits - m): what every softmax needs, safe at any offset."""
    if len(logits) == 0:
        raise ValueError("logits are empty; at least one action is wanted")
    highest = logits[0]
    for logit in logits:
        if logit > highest:
            highest = logit
    if highest == -inf:
        raise ValueError("logits are -inf throughout; at least one action must be possible")
    total = highest - highest
    for logit in logits:
        total += exp(logit - highest)
    return highest, total


@_compiled
def categorical_sample(logits: NDArray[Any], uniform: float) -> int:
    """An action drawn from softmax(logits): the inverse of its distribution function at a uniform number in [0, 1).

        a = min {k : sum_{j <= k} exp(logits[j]) > uniform sum_j exp(logits[j])}

    The inequality is strict: an action of probability 0 is never drawn. Devroye 1986, section III.2.1
    ValueError where no action is possible, and where a logit is NaN or +inf.

    >>> categorical_sample(np.log([0.25, 0.5, 0.25]), 0.5), categorical_sample(np.array([-np.inf, 0.0]), 0.0)
    (1, 1)
    """
    highest, total = _max_and_sum(logits)
    threshold = uniform * total
    below, action = total - total, -1
    for k in range(len(logits)):
        weight = exp(logits[k] - highest)
        if weight > 0:
            action = k  # kept when rounding lifts the threshold to the total
            below += weight
            if below > threshold:
                break
    if action < 0 or total != total:
        raise ValueError("logits hold a NaN or +inf; finite numbers and -inf are wanted")
    return action


@_compiled
def categorical_log_prob(logits: NDArray[Any], action: int) -> float:
    """log pi(action), pi = softmax(logits).

        log pi(a) = (logits[a] - m) - log sum_k exp(logits[k] - m),   m = max logits

    ValueError where no action is possible, and where the action is not one of the row's.

    >>> categorical_log_prob(np.array([0.0, 0.0]), 1), categorical_log_prob(np.array([0.0, -np.inf]), 1)
    (-0.6931471805599453, -inf)
    """
    if action < 0 or action >= len(logits):
        raise ValueError("action is out of range; 0 up to the number of logits is wanted")
    highest, total = _max_and_sum(logits)
    above: float = logits[action] - highest
    return above - log(total)


@_compiled
def categorical_log_prob_grad(logits: NDArray[Any], action: int, weight: float, out: NDArray[Any]) -> None:
    """The score times a weight, d (weight log pi(action)) / d logits, written to `out`.

        out[k] = weight ((k = action) - pi(k)),   pi = softmax(logits);   0 where logits[k] = -inf

    Williams 1992, section 5; Sutton & Barto 2018, eq. 13.9
    `out` may be `logits`. ValueError as categorical_log_prob.

    >>> grad = np.empty(2)
    >>> categorical_log_prob_grad(np.zeros(2), 1, 4.0, grad)
    >>> grad
    array([-2.,  2.])
    """
    if action < 0 or action >= len(logits):
        raise ValueError("action is out of range; 0 up to the number of logits is wanted")
    if len(out) != len(logits):
        raise ValueError("out and logits differ in length")
    highest, total = _max_and_sum(logits)
    for k in range(len(logits)):
        possible = logits[k] != -inf
        out[k] = weight * ((k == action) - exp(logits[k] - highest) / total) if possible else 0.0


# scan


def scan(
    step: Callable[..., Any], *args: Any, axis: int = 0, out: NDArray[Any] | None = None, **kwargs: Any
) -> NDArray[Any] | tuple[NDArray[Any], ...]:
    """Runs a step, one of ours or an @njit function of your own, backwards along each lane of a batch.

        y[t] = step(y[t+1], x[t], ...),   y[T] = 0

    A step whose first parameter is named `carry` is handed y[t+1] there; any other has no recursion. Its further
    parameters are matched, by position or name, to arrays shaped like the first of them, (T,) or (T, N), or with axis=1
    (N, T), and to scalars. None or left out means the step's own default.

    A parameter named `truncated` is True in the last row: the end of a buffer is a truncation. If the step has both
    `value` and `next_value`, the latter may be the (N,) values after the last row, and is value[t+1] elsewhere.
    `terminated` and `truncated` are bool; `gamma` and `lambda_` lie in [0, 1].

    Everything is computed in the dtype of the first array, float32 or float64. A step that returns a tuple gives a
    tuple of arrays, and its first item is the carry; `out` takes the result of a step that returns one number. Each
    step, with each choice of arrays and scalars, is compiled once, and runs without the GIL.

    >>> @numba.njit
    ... def peak(carry, reward, terminated):
    ...     return max(reward, 0.0 if terminated else carry)
    >>> scan(peak, [1.0, 5.0, 2.0, 3.0], [False, True, False, False])
    array([5., 5., 3., 3.])
    """
    if not isinstance(step, Dispatcher):
        raise TypeError(f"step is {step!r}; a function compiled by @numba.njit is wanted")
    signature, recursive = _read(step)
    given = _bind(step, signature, args, kwargs)
    first = next(iter(given))
    x = as_floats(first, given[first])
    if x.ndim not in (1, 2):
        raise ValueError(f"{first} has shape {x.shape}; (T,) or (T, N) is wanted, (N, T) with axis=1")
    axis = as_axis(axis, x.ndim)
    lanes = x.shape[:axis] + x.shape[axis + 1 :]
    inputs = {name: _prepare(name, value, first, x) for name, value in given.items()}
    last_row = _last_row(step, inputs, x, lanes, axis)
    for name, array in inputs.items():
        if array.shape not in ((), x.shape) and not (name == "next_value" and last_row):
            raise ValueError(f"{name} has shape {array.shape}, but {first} has {x.shape}; that or a number is wanted")
    kinds = tuple(
        (name, "last" if name == "next_value" and last_row else "array" if array.ndim else "number")
        for name, array in inputs.items()
    )
    dtypes = [numba.from_dtype(array.dtype) for array in inputs.values()]
    count = _count(step, tuple(dtypes[:1] * recursive + dtypes))  # the carry has the dtype of the first array
    if count and out is not None:
        raise TypeError(f"out is given, but the step returns {count} numbers; the result of a single one fits out")

    def run(out: NDArray[Any] | None) -> NDArray[Any] | tuple[NDArray[Any], ...]:
        results = [np.empty(x.shape, x.dtype) if out is None else out for _ in range(count or 1)]
        if x.size:
            by_lane = axis == x.ndim - 1  # time is contiguous: lane after lane, else row after row
            shapes = {"number": (), "last": (-1,), "array": (-1, x.shape[-1])}
            flat = [array.reshape(shapes[kind])[()] for array, (_, kind) in zip(inputs.values(), kinds, strict=True)]
            flat += [y.reshape(shapes["array"]) for y in results]
            zero = x.dtype.type(0) if by_lane else np.zeros(lanes, x.dtype)
            _loop(step, recursive, by_lane, kinds, count)(zero, *flat)
            if step in _WHOLE_EPISODE:
                ended = np.broadcast_to(inputs["terminated"] | inputs["truncated"], x.shape)
                _spread(flat[-1], np.ascontiguousarray(ended).reshape(shapes["array"]), by_lane)
        return tuple(results) if count else results[0]

    return into(out, x.shape, x.dtype, list(inputs.values()), run)  # type: ignore[no-any-return]


@functools.cache
def _read(step: Any) -> tuple[inspect.Signature, bool]:
    """The step's parameters without the carry, and whether it has one."""
    signature = inspect.signature(step.py_func)
    parameters = list(signature.parameters.values())
    recursive = bool(parameters) and parameters[0].name == "carry"
    parameters = parameters[recursive:]
    if not parameters or any(parameter.kind != parameter.POSITIONAL_OR_KEYWORD for parameter in parameters):
        raise TypeError(f"step is {step.__name__}{signature}; named parameters, and one besides carry, are wanted")
    return inspect.Signature(parameters), recursive


def _bind(step: Any, signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Every parameter's argument, or its default where that is None or missing."""
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"scan of {step.__name__}{signature}: {error}") from None
    bound.apply_defaults()
    given = dict(bound.arguments)
    for name, value in given.items():
        if value is None:
            given[name] = signature.parameters[name].default
            if given[name] in (None, inspect.Parameter.empty):
                raise TypeError(f"{name} is None, but {step.__name__} has no default; an array or a number is wanted")
    return given


def _prepare(name: str, value: Any, first: str, x: NDArray[Any]) -> NDArray[Any]:
    """An argument as the loops take it: native and in C order, in the dtype of x or bool. Numbers become 0-d arrays."""
    if name == first:
        array = x
    elif name in ("terminated", "truncated"):
        array = as_flags(name, value)
    elif name in ("gamma", "lambda_"):
        array = np.asarray(as_fraction(name, value, first, x), x.dtype)
    else:
        array = as_array(name, value)
        if array.ndim == 0 and array.dtype.kind in "iuf":
            array = array.astype(x.dtype)
        elif array.dtype != bool or name in ("value", "next_value"):
            array = as_floats(name, value, (first, x))
    return np.require(array, requirements=["C", "W"])  # a read-only array would have the loop compiled once more


def _last_row(step: Any, inputs: dict[str, NDArray[Any]], x: NDArray[Any], lanes: tuple[int, ...], axis: int) -> bool:
    """Whether next_value holds V after the last row only. Then no step above may be truncated: its V is missing."""
    next_value, value = inputs.get("next_value"), inputs.get("value")
    known = value is not None or (step in _WHERE_TRUNCATED and lanes)
    if next_value is None or next_value.shape != lanes or not known:
        return False
    if value is not None and value.shape != x.shape:
        raise ValueError(f"value has shape {value.shape}; {x.shape} is wanted where next_value has one row, {lanes}")
    cut = inputs.get("truncated", np.False_) & ~inputs.get("terminated", np.False_)
    above = np.moveaxis(np.broadcast_to(cut, x.shape), axis, 0)[:-1]
    if above.any():
        raise ValueError(
            f"next_value has shape {lanes}, but truncated is set at step {int(np.argwhere(above)[0, 0])}: the value of"
            f" the state that it led to is missing; next_value of shape {x.shape} is wanted"
        )
    if value is None:
        inputs["next_value"] = np.zeros_like(x)
        np.moveaxis(inputs["next_value"], axis, 0)[-1:] = next_value
    return value is not None


@functools.cache
def _count(step: Any, elements: tuple[Any, ...]) -> int:
    """How many items the step returns in a tuple; 0 for a number alone."""
    typed: Any = types.Dispatcher(step)
    returned = typed.get_call_type(cpu_target.typing_context, elements, {}).return_type
    several = isinstance(returned, types.BaseTuple)
    items = tuple(returned) if several else (returned,)
    if not items or not all(isinstance(item, types.Number | types.Boolean) for item in items):
        raise TypeError(f"step {step.__name__} returns {returned}; a number, or a tuple of numbers, is wanted")
    return len(items) if several else 0


# The loops, written out for one step and one choice of arrays (a0, a1, ...) and results (y0, y1, ...). `inner` is a
# function of its own so that LLVM vectorises it: 3 times the speed of the same loop nested by hand (T=2048, N=256).
_BY_ROW = """
def inner(carry, last, {inputs}, {results}):
    for n in range(len(y0)):
        {results_n} = step({carry}{elements})

def loop(zero, {inputs}, {results}):
    t = len(y0) - 1
    inner(zero, True, {last_row}, {results_t})
    for t in range(len(y0) - 2, -1, -1):
        inner(y0[t + 1], False, {row}, {results_t})
"""
_BY_LANE = """
def inner(carry, {inputs}, {results}):
    for i in range(len(y0)):
        t = len(y0) - 1 - i
        last = i == 0
        {results_t} = step({carry}{elements})
        carry = y0[t]

def loop(zero, {inputs}, {results}):
    for n in range(len(y0)):
        inner(zero, {lane}, {results_n})
"""


@functools.cache
def _loop(step: Any, recursive: bool, by_lane: bool, kinds: tuple[tuple[str, str], ...], count: int) -> Any:
    """loop(zero, *inputs, *results), compiled for two-dimensional arrays."""
    inputs = [f"a{i}" for i in range(len(kinds))]
    results = [f"y{i}" for i in range(count or 1)]
    value = next((f"a{i}" for i, (name, _) in enumerate(kinds) if name == "value"), "")
    elements, lane, row, last_row = [], [], [], []
    for a, (name, kind) in zip(inputs, kinds, strict=True):
        index = "[t]" if by_lane else "[n]"
        element = a if kind == "number" else a + index
        if kind == "last" and by_lane:
            element = f"({a} if last else {value}[t + 1])"
        elements.append(f"({element} or last)" if name == "truncated" else element)
        lane.append(a if kind == "number" else f"{a}[n]")
        row.append({"number": a, "array": f"{a}[t]", "last": f"{value}[t + 1]"}[kind])
        last_row.append({"number": a, "array": f"{a}[t]", "last": a}[kind])
    source = (_BY_LANE if by_lane else _BY_ROW).format(
        inputs=", ".join(inputs),
        results=", ".join(results),
        results_n=", ".join(f"{y}[n]" for y in results),
        results_t=", ".join(f"{y}[t]" for y in results),
        carry=("carry" if by_lane else "carry[n]") + ", " if recursive else "",
        elements=", ".join(elements),
        lane=", ".join(lane),
        row=", ".join(row),
        last_row=", ".join(last_row),
    )
    names: dict[str, Any] = {"step": step}
    exec(compile(source, f"<fastpg.scan of {step.__name__}>", "exec"), names)
    names["inner"] = numba.njit(nogil=True)(names["inner"])
    return numba.njit(nogil=True)(names["loop"])


@_compiled
def _spread(y: NDArray[Any], ended: NDArray[Any], by_lane: bool) -> None:
    """Gives every step of an episode the value at the episode's first step in the buffer."""
    if by_lane:
        for n in range(y.shape[0]):
            for t in range(1, y.shape[1]):
                if not ended[n, t - 1]:
                    y[n, t] = y[n, t - 1]
    else:
        for t in range(1, y.shape[0]):
            for n in range(y.shape[1]):
                if not ended[t - 1, n]:
                    y[t, n] = y[t - 1, n]
