"""A rollout in compiled environments as one compiled loop: the same numbers, bit for bit, as one step after the other from Python.

Random numbers are drawn before the loop, one of each lane and step, in the order in which Python would have drawn them. Nothing that a
lane does depends on the others, so threads may share the lanes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from fastpg import _core
from fastpg._numba import cached
from fastpg.envs.compiled import CompiledEnv, not_finite, step_lanes
from fastpg.nets import MLP
from fastpg.train.agent import Agent
from fastpg.train.heads import Categorical, Gaussian

__all__ = ["collect_compiled"]

Array = NDArray[Any]

LANES_A_THREAD = 16  # below this many a thread costs more than it saves (measured)
STEPPED, BAD_POLICY, BAD_ENVIRONMENT = 0, 1, 2


def _call_typed(typing: Any, address: Any, operands: Any) -> tuple[Any, Callable[..., Any]]:
    """Inside @njit: the C function at an address, of arrays by their data, of integers, and of None for no array."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        passed = []
        for i, typ in enumerate(signature.args[1]):
            operand = builder.extract_value(args[1], i)
            if isinstance(typ, types.Array):
                data = context.make_array(typ)(context, builder, operand).data
                passed.append(builder.bitcast(data, cgutils.voidptr_t))
            elif isinstance(typ, types.NoneType):
                passed.append(cgutils.voidptr_t(None))
            else:
                passed.append(context.cast(builder, operand, typ, types.intp))
        intp = context.get_value_type(types.intp)
        signed = ir.FunctionType(intp, [value.type for value in passed])
        return builder.call(builder.inttoptr(args[0], signed.as_pointer()), passed)

    return types.intp(types.uint64, operands), code


_call_c: Any = intrinsic(_call_typed)


@cached
def act_lanes(
    addresses: Array,
    shape: Array,
    packed: Array,
    normaliser: Array,
    noise: Array,
    std: Array,
    box: Array,
    functions: Array,
    longest: int,
    state: Array,
    elapsed: Array,
    stream: Array,
    current: Array,
    observation: Array,
    output: Array,
    z: Array,
    action: Array,
    taken: Array,
    final: Array,
    reward: Array,
    terminated: Array,
    truncated: Array,
    first: int,
    last: int,
) -> tuple[int, int]:
    """All steps of the lanes [first, last); the step at which it stopped, and why.

    addresses    of the net's forward, and of the sampler, where actions are integers
    normaliser   (2, observation_size) shift and scale, or (0, ...) for none
    noise        (T, N) uniform, or (T, N, k) normal numbers
    std, box     (k,) and (2, k) of a Gaussian, low and high; taken (N, k) is the action within the box
    """
    rows = last - first
    seen = np.empty((rows, current.shape[1]), np.float32)
    for t in range(len(reward)):
        for n in range(first, last):
            for k in range(current.shape[1]):
                observation[t, n, k] = current[n, k]
                x = current[n, k]
                if len(normaliser):
                    x = min(max((x - normaliser[0, k]) * normaliser[1, k], np.float32(-10)), np.float32(10))
                seen[n - first, k] = x
        _call_c(addresses[0], (shape, packed, seen, rows, output[first:last]))
        for n in range(first, last):
            for k in range(z.shape[2]):
                z[t, n, k] = output[n, k]
        fine = True
        if action.ndim == 2:
            columns = z.shape[2]
            of = (z[t, first:last], noise[t, first:last], None, action[t, first:last], rows, columns)
            fine = _call_c(addresses[1], of) < 0
            played = action[t]
        else:
            for n in range(first, last):
                for k in range(z.shape[2]):
                    a = noise[t, n, k] * std[k] + z[t, n, k]
                    fine &= np.isfinite(a)
                    action[t, n, k] = a
                    taken[n, k] = min(max(a, box[0, k]), box[1, k])
            played = taken
        if not fine:
            return t, BAD_POLICY
        lanes_of = state, elapsed, stream
        led_to = current, final[t], reward[t], terminated[t], truncated[t]
        if not step_lanes(functions, longest, *lanes_of, played, *led_to, first, last):
            return t, BAD_ENVIRONMENT
    return len(reward), STEPPED


def collect_compiled(env: CompiledEnv, agent: Agent, rollout: Any, rng: np.random.Generator) -> bool:
    """fastpg.train.rollout.collect, where there is a compiled way for the agent's net and head; else nothing, and False."""
    head, net = agent.head, agent.nets.get("trunk", agent.policy)
    if not (isinstance(net, MLP) and net.compiled and net.parameter.dtype == np.float32 and env._ready):
        return False
    T, N = rollout.reward.shape
    std, box, taken = np.empty(0, np.float32), np.empty((2, 0), np.float32), np.empty((0, 0), np.float32)
    if type(head) is Categorical:
        noise = rng.random((T, N), np.float32)
    elif type(head) is Gaussian and head.extra:
        noise = rng.standard_normal((T, N, head.size), np.float32)
        std, box, taken = np.exp(agent.policy.extra), head.box, np.empty((N, head.size), np.float32)
    else:
        return False
    normaliser = np.empty((0, 0), np.float32)
    if agent.normaliser is not None:
        normaliser = np.stack([agent.normaliser.shift, agent.normaliser.scale])
    shape, packed = net.packed()
    addresses = np.array([_core.NET_FORWARD, _core.symbols()["fastpg_categorical_sample_f32"]], np.uint64)
    z, output = np.empty((T, N, head.size), np.float32), np.empty((N, net.sizes[-1]), np.float32)
    arrays = (
        *(addresses, shape, packed, normaliser, noise, std, box),
        *(env.functions, env.longest, env.states, env.elapsed, env.streams),
        *(rollout.current, rollout.observation, output, z, rollout.action, taken),
        *(rollout.final, rollout.reward, rollout.terminated, rollout.truncated),
    )
    stops = _share(N, lambda first, last: act_lanes(*arrays, first, last))
    t, why = min(stops)
    if why == BAD_POLICY:
        head.sample(z[t], agent.policy.extra, rng)  # says what is wrong with it
        n = int(np.argmin(np.isfinite(rollout.action[t]).all(axis=-1)))
        raise ValueError(
            f"{env.id}, lane {n}: the action is {rollout.action[t, n]}, not finite: the policy has diverged"
        )
    if why == BAD_ENVIRONMENT:
        raise not_finite(env.id, rollout.reward[t], rollout.final[t], rollout.current, rollout.action[t])
    actions = rollout.action.reshape(T * N, *head.action_shape)
    rollout.log_prob[...] = head.log_prob(z.reshape(T * N, -1), agent.policy.extra, actions).reshape(T, N)
    return True


def _share(lanes: int, act: Callable[[int, int], tuple[int, int]]) -> list[tuple[int, int]]:
    """What act(first, last) gave for stretches that together are all lanes, each on a thread of its own."""
    parts = max(1, min(_core.threads(), lanes // LANES_A_THREAD))
    cuts = [lanes * part // parts for part in range(parts + 1)]
    stops: list[tuple[int, int]] = []
    errors: list[BaseException] = []

    def stretch(part: int) -> None:
        try:
            stops.append(act(cuts[part], cuts[part + 1]))
        except BaseException as error:  # of the environment; a thread would only print it
            errors.append(error)

    threads = [threading.Thread(target=stretch, args=(part,)) for part in range(1, parts)]
    for thread in threads:
        thread.start()
    stretch(0)
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return stops
