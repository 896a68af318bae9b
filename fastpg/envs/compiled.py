"""Vector environments compiled by Numba from three functions of one lane: advance, restart and observe.

The functions are compiled for fixed types and called by address, so one loop, compiled once and cached on disk, serves every
environment. Functions passed as arguments or closed over would be part of the loop's type, and no cache would find it again.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numba import types
from numba.core import cgutils
from numba.core.errors import NumbaError, TypingError
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, populate_array
from numpy.typing import NDArray

from fastpg._numba import cached
from fastpg.envs import check_count, lane_seeds
from fastpg.envs.spaces import Box, Discrete, MultiBinary, MultiDiscrete, Space
from fastpg.envs.streams import seed_streams

__all__ = ["CompiledEnv", "not_finite", "start_lanes", "step_lanes"]

Array = NDArray[Any]

_NO_LIMIT = 2**63 - 1
_STATE = types.Array(types.float64, 1, "C")
_STREAM = types.Array(types.uint64, 1, "C")
_OBSERVATION = types.Array(types.float32, 1, "C")
_RESTART = types.void(_STATE, _STREAM)
_OBSERVE = types.void(_STATE, _OBSERVATION)


def _advance_of(action: Any) -> Any:
    return types.Tuple((types.float64, types.boolean))(_STATE, action, _STREAM)


def _call(signature: Any, arrays: tuple[Any, ...]) -> tuple[Any, Callable[..., Any]]:
    """Typing and code of a call of the function at an address with row n of each array, an item of the one that is flat.

    A row is borrowed: without a reference count of its own, which would cost more than the rest of the call.
    """
    for array, wanted in zip(arrays, signature.args, strict=True):
        row = wanted if isinstance(wanted, types.Array) else types.Array(wanted, 0, "C")
        if not isinstance(array, types.Array) or (array.dtype, array.ndim) != (row.dtype, row.ndim + 1):
            raise TypingError(f"{array} is given; an array of {row.dtype} of {row.ndim + 1} dimensions is wanted")
        if array.layout != "C":
            raise TypingError(f"{array} is given; a contiguous array is wanted")

    def code(context: Any, builder: Any, typed: Any, args: Any) -> Any:
        address, n, *given = args
        rows = []
        for array, value in zip(arrays, given, strict=True):
            whole = make_array(array)(context, builder, value)
            stride = builder.extract_value(whole.strides, 0)
            data = cgutils.pointer_add(builder, whole.data, builder.mul(n, stride), whole.data.type)
            if array.ndim == 1:
                rows.append(builder.load(data))
                continue
            row = make_array(types.Array(array.dtype, 1, "C"))(context, builder)
            size = builder.extract_value(whole.shape, 1)
            populate_array(
                row, data=data, shape=[size], strides=[whole.itemsize], itemsize=whole.itemsize, meminfo=None
            )
            rows.append(row._getvalue())
        call = context.call_conv
        function = builder.inttoptr(address, call.get_function_type(signature.return_type, signature.args).as_pointer())
        status, result = call.call_function(builder, function, signature.return_type, signature.args, rows)
        with cgutils.if_unlikely(builder, status.is_error):
            call.return_status_propagate(builder, status)
        return result

    return signature.return_type(types.uint64, types.int64, *arrays), code


def _advance_lane(typing: Any, address: Any, n: Any, state: Any, action: Any, stream: Any) -> Any:
    """Inside @njit: advance(state[n], action[n], stream[n]) of the environment with functions[0] == address."""
    scalar = isinstance(action, types.Array) and action.ndim == 1
    item = action.dtype if scalar else types.Array(getattr(action, "dtype", types.float32), 1, "C")
    return _call(_advance_of(item), (state, action, stream))


def _restart_lane(typing: Any, address: Any, n: Any, state: Any, stream: Any) -> Any:
    """Inside @njit: restart(state[n], stream[n]) of the environment with functions[1] == address."""
    return _call(_RESTART, (state, stream))


def _observe_lane(typing: Any, address: Any, n: Any, state: Any, observation: Any) -> Any:
    """Inside @njit: observe(state[n], observation[n]) of the environment with functions[2] == address, which is not 0."""
    return _call(_OBSERVE, (state, observation))


_advance: Any = intrinsic(_advance_lane)
_restart: Any = intrinsic(_restart_lane)
_observe: Any = intrinsic(_observe_lane)


# Ranges of lanes: a function of one lane that takes these arrays would spend more on reference counts than on the step.
@cached
def start_lanes(
    functions: Array,
    state: Array,
    elapsed: Array,
    stream: Array,
    observation: Array,
    first: int,
    last: int,
) -> None:
    """Starts an episode on the lanes [first, last); observation holds their first ones there."""
    for n in range(first, last):
        _restart(functions[1], n, state, stream)
        elapsed[n] = 0
        if functions[2]:
            _observe(functions[2], n, state, observation)
        else:
            for k in range(observation.shape[1]):
                observation[n, k] = state[n, k]


@cached
def step_lanes(
    functions: Array,
    longest: int,
    state: Array,
    elapsed: Array,
    stream: Array,
    action: Array,
    observation: Array,
    final: Array,
    reward: Array,
    terminated: Array,
    truncated: Array,
    first: int,
    last: int,
) -> bool:
    """One step of the lanes [first, last), from Python or inside @njit; whether all that came out is finite.

    final is what the step led to, observation where the lane stands now: they differ only where an episode ended and the
    next one began. action is (lanes,) int64 for Discrete, (lanes, k) float32 for Box, else (lanes, k) int64, and is not checked.
    """
    fine = True
    for n in range(first, last):
        reward[n], terminated[n] = _advance(functions[0], n, state, action, stream)
        elapsed[n] += 1
        truncated[n] = elapsed[n] >= longest
        if functions[2]:
            _observe(functions[2], n, state, final)
        else:
            for k in range(final.shape[1]):
                final[n, k] = state[n, k]
        for k in range(final.shape[1]):
            observation[n, k] = final[n, k]
        if terminated[n] or truncated[n]:
            start_lanes(functions, state, elapsed, stream, observation, n, n + 1)
            for k in range(observation.shape[1]):
                fine &= np.isfinite(observation[n, k])
    for n in range(first, last):
        fine &= np.isfinite(reward[n])
        for k in range(final.shape[1]):
            fine &= np.isfinite(final[n, k])
    return fine


def not_finite(id: str, reward: Array, final: Array, observation: Array, action: Array) -> FloatingPointError:
    """The error for a step after which something is not finite."""
    if not (fine := np.isfinite(reward) & np.isfinite(final).all(axis=1)).all():
        n = int(np.argmin(fine))
        told = f"reward {reward[n]}, observation {final[n]} after action {action[n]}"
    else:
        n = int(np.argmin(np.isfinite(observation).all(axis=1)))
        told = f"the first observation of an episode is {observation[n]}"
    return FloatingPointError(f"{id}, lane {n}: {told}; wanted finite numbers")


def _address(name: str, function: Any, signature: Any, wanted: str) -> tuple[int, Any]:
    """Where the function compiled for these types stands in memory, and what keeps it there."""
    python = getattr(function, "py_func", function)
    if not inspect.isfunction(python):
        raise TypeError(f"{name} is {function!r}; a function compiled by @numba.njit is wanted: {wanted}")
    if len(inspect.signature(python).parameters) != len(signature.args):
        raise TypeError(f"{name} is {python.__name__}{inspect.signature(python)}; wanted {wanted}")
    given = getattr(function, "targetoptions", {})
    options = {name: value for name, value in given.items() if name != "nopython" and value is not None}
    try:
        # An index out of bounds would write into another lane's state, or worse.
        compiled = cached(python, signature, **{"boundscheck": True, **options})
    except NumbaError as error:
        raise TypeError(f"{name} does not compile as {wanted}\n{error}") from None
    result = compiled.get_compile_result(signature)
    return result.library.get_pointer_to_function(result.fndesc.llvm_func_name), result


class CompiledEnv:
    """`lanes` copies of an environment that three functions of one lane describe; see fastpg.envs.VectorEnv for the interface.

        advance(state, action, stream) -> (reward, terminated)     one step, in place
        restart(state, stream)                                     the first state of an episode, in place
        observe(state, observation)                                fills observation; None: it is the state itself

    state (state_size,) float64, observation (observation_size,) float32; action an int for Discrete, (k,) float32 for Box,
    which may lie outside of it, and (k,) int64 for MultiDiscrete and MultiBinary; stream is the lane's random numbers, for
    fastpg.envs.streams.uniform(stream). Episodes are truncated after `longest` steps, None: never.

    They are compiled by Numba in nopython mode, whether or not @njit stands over them, and cached on disk beside their file. An
    index out of bounds is an IndexError, unless @njit(boundscheck=False) stands over the function.
    Lane n draws from default_rng(seed + n), so results depend on the seed alone.

    states (lanes, state_size), elapsed (lanes,) int64, streams (lanes, 4) uint64 may be read and set between steps. For loops
    of your own inside @njit, functions (3,) uint64 holds the addresses that step_lanes and start_lanes take.

    TypeError where a function does not compile or has other parameters.

    >>> def advance(state, action, stream):
    ...     state[0] += action[0]
    ...     return -abs(state[0]), abs(state[0]) > 10
    >>> def restart(state, stream):
    ...     state[0] = 1.0
    >>> env = CompiledEnv("line", advance, restart, state_size=1, action_space=Box((-1.0,), (1.0,)), longest=100)
    >>> env.reset(seed=0)[0]
    array([[1.]], dtype=float32)
    >>> env.step(np.array([[0.5]]))[:2]
    (array([[1.5]], dtype=float32), array([-1.5]))
    """

    def __init__(
        self,
        id: str,
        advance: Callable[..., Any],
        restart: Callable[..., Any],
        observe: Callable[..., Any] | None = None,
        *,
        state_size: int,
        action_space: Space,
        observation_size: int | None = None,
        longest: int | None = None,
        reward_threshold: float | None = None,
        lanes: int = 1,
    ) -> None:
        observation_size = state_size if observation_size is None else observation_size
        if not isinstance(action_space, Space):
            raise TypeError(f"action_space is {action_space!r}; wanted one of fastpg.envs.spaces")
        sizes = {"lanes": lanes, "state_size": state_size, "observation_size": observation_size}
        for name, value in {**sizes, "longest": 1 if longest is None else longest}.items():
            check_count(name, value)
        if observe is None and observation_size > state_size:
            raise ValueError(
                f"observation_size is {observation_size}, but state_size is {state_size}; wanted no more, or observe"
            )
        self.id, self.lanes, self.observation_size = id, lanes, observation_size
        self.action_space, self.reward_threshold = action_space, reward_threshold
        self.longest = _NO_LIMIT if longest is None else longest
        self.states = np.zeros((lanes, state_size))
        self.elapsed = np.zeros(lanes, np.int64)
        self.streams = np.zeros((lanes, 4), np.uint64)
        self._ready = False

        several = types.Array(types.int64, 1, "C")
        self._actions: Any  # how many there are
        shape: tuple[int, ...]
        item: Any
        match action_space:
            case Discrete(n):
                self._actions, shape, item, told = np.uint64(n), (), types.int64, "int"
            case Box(low, _):
                self._actions, shape, item, told = np.uint64(0), (len(low),), _OBSERVATION, "float32[:]"
            case MultiDiscrete(n):
                self._actions, shape, item, told = np.array(n, np.uint64), (len(n),), several, "int64[:]"
            case MultiBinary(n):
                self._actions, shape, item, told = np.uint64(2), (n,), several, "int64[:]"
        self._action_shape = (lanes, *shape)
        self._action_type: Any = np.float32 if isinstance(action_space, Box) else np.int64
        compiled = [
            _address(
                "advance",
                advance,
                _advance_of(item),
                f"advance(state: float64[:], action: {told}, stream: uint64[:]) -> (reward: float, terminated: bool)",
            ),
            _address("restart", restart, _RESTART, "restart(state: float64[:], stream: uint64[:]) -> None"),
        ]
        if observe is not None:
            wanted = "observe(state: float64[:], observation: float32[:]) -> None"
            compiled.append(_address("observe", observe, _OBSERVE, wanted))
        self._compiled = [result for _, result in compiled]
        self.functions = np.zeros(3, np.uint64)
        self.functions[: len(compiled)] = [address for address, _ in compiled]
        # No lanes: compiles (or loads from the cache) before anyone starts a clock.
        none = np.empty((0, observation_size), np.float32)
        flags, action = np.empty(0, np.bool_), np.empty((0, *shape), self._action_type)
        lanes_of = self.states[:0], self.elapsed[:0], self.streams[:0]
        start_lanes(self.functions, *lanes_of, none, 0, 0)
        step_lanes(self.functions, self.longest, *lanes_of, action, none, none, np.empty(0), flags, flags, 0, 0)

    def reset(self, *, seed: int | Sequence[int] | None = None) -> tuple[Array, dict[str, Array]]:
        """Starts a new episode on every lane; lane n draws from default_rng(seed + n), or of its own seed."""
        if seed is not None or not self._ready:
            seed_streams(self.streams, lane_seeds(seed, self.lanes))
            self._ready = True
        observation = np.empty((self.lanes, self.observation_size), np.float32)
        start_lanes(self.functions, self.states, self.elapsed, self.streams, observation, 0, self.lanes)
        if not np.isfinite(observation).all():
            zero = np.zeros((self.lanes, 1))
            raise not_finite(self.id, zero[:, 0], zero, observation, zero)
        return observation, {}

    def step(self, action: Array) -> tuple[Array, Array, Array, Array, dict[str, Array]]:
        """observation, reward, terminated, truncated, {"final_obs": what the step led to, before any reset}."""
        if not self._ready:
            raise RuntimeError("step called before reset")
        action = self._checked(np.asarray(action))
        observation, final = np.empty((2, self.lanes, self.observation_size), np.float32)
        reward, (terminated, truncated) = np.empty(self.lanes), np.empty((2, self.lanes), np.bool_)
        lanes_of = self.states, self.elapsed, self.streams
        led_to = observation, final, reward, terminated, truncated
        if not step_lanes(self.functions, self.longest, *lanes_of, action, *led_to, 0, self.lanes):
            raise not_finite(self.id, reward, final, observation, action)
        return observation, reward, terminated, truncated, {"final_obs": final}

    def _checked(self, action: Array) -> Array:
        """The action as step_lanes wants it, or a ValueError."""
        space = self.action_space
        kinds, name = ("fiu", "numbers") if isinstance(space, Box) else ("iu", "integers")
        if action.shape != self._action_shape or action.dtype.kind not in kinds:
            raise ValueError(f"action is {action.dtype} {action.shape}; wanted {name} of shape {self._action_shape}")
        action = np.ascontiguousarray(action, self._action_type)
        if isinstance(space, Box):
            if not np.isfinite(action).all():
                raise ValueError(f"action has {action[~np.isfinite(action)][0]}; wanted finite numbers")
        elif (beyond := action.view(np.uint64) >= self._actions).any():  # where a negative number is a huge one
            most = np.broadcast_to(self._actions, action.shape)[beyond][0] - 1
            raise ValueError(f"action has {action[beyond][0]}; wanted 0 to {most}")
        return action

    def state(self) -> dict[str, Array]:
        """Everything the future depends on, as copies; with restore, an interrupted run goes on bit for bit."""
        return {"states": self.states.copy(), "elapsed": self.elapsed.copy(), "streams": self.streams.copy()}

    def restore(self, saved: Mapping[str, Array]) -> None:
        """Takes back what state() gave."""
        for name, own in (("states", self.states), ("elapsed", self.elapsed), ("streams", self.streams)):
            if saved[name].shape != own.shape:
                raise ValueError(f"{name} has shape {saved[name].shape}; {self.id} with these lanes wants {own.shape}")
            own[...] = saved[name]
        self._ready = True

    def close(self) -> None:
        """Nothing to close."""
