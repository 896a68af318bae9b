"""scan of steps.gae in every layout, beside the loop one would write by hand for it: equal first, timed then."""

import functools

import loops
import numpy as np
import pytest
from numba import njit

from fastpg import scan, steps
from fastpg.testing import bytes_moved


@njit(cache=True)
def gae_packed(reward, value, next_value, terminated, truncated, gamma, lambda_, offsets):
    g, la = reward.dtype.type(gamma), reward.dtype.type(lambda_)
    out = np.empty_like(reward)
    for b in range(len(offsets) - 1):
        carry = reward.dtype.type(0)
        for t in range(offsets[b + 1] - 1, offsets[b] - 1, -1):
            ended = terminated[t] or truncated[t]
            delta = reward[t] + g * next_value[t] * (not terminated[t]) - value[t]
            carry = delta + g * la * carry * (not ended)
            out[t] = carry
    return out


@njit(cache=True)
def gae_interleaved(reward, value, next_value, terminated, truncated, gamma, lambda_, env_id):
    g, la = reward.dtype.type(gamma), reward.dtype.type(lambda_)
    out = np.empty_like(reward)
    carry = np.zeros(env_id.max() + 1, reward.dtype)
    for t in range(len(reward) - 1, -1, -1):
        n = env_id[t]
        ended = terminated[t] or truncated[t]
        delta = reward[t] + g * next_value[t] * (not terminated[t]) - value[t]
        carry[n] = delta + g * la * carry[n] * (not ended)
        out[t] = carry[n]
    return out


@njit(cache=True)
def gae_masked(reward, value, next_value, terminated, truncated, gamma, lambda_, mask):
    g, la = reward.dtype.type(gamma), reward.dtype.type(lambda_)
    out = np.zeros_like(reward)
    carry = np.zeros(reward.shape[1], reward.dtype)
    for t in range(reward.shape[0] - 1, -1, -1):
        for n in range(reward.shape[1]):
            if mask[t, n]:
                ended = terminated[t, n] or truncated[t, n]
                delta = reward[t, n] + g * next_value[t, n] * (not terminated[t, n]) - value[t, n]
                carry[n] = delta + g * la * carry[n] * (not ended)
                out[t, n] = carry[n]
    return out


@njit(cache=True)
def gae_rows_masked(reward, value, next_value, terminated, truncated, gamma, lambda_, mask):
    g, la = reward.dtype.type(gamma), reward.dtype.type(lambda_)
    out = np.zeros_like(reward)
    for b in range(reward.shape[0]):
        carry = reward.dtype.type(0)
        for t in range(reward.shape[1] - 1, -1, -1):
            if mask[b, t]:
                ended = terminated[b, t] or truncated[b, t]
                delta = reward[b, t] + g * next_value[b, t] * (not terminated[b, t]) - value[b, t]
                carry = delta + g * la * carry * (not ended)
                out[b, t] = carry
    return out


def _layouts():
    """Name, shape, the keywords of scan, the loop."""
    rng = np.random.default_rng(0)
    for shape in [(128, 8), (2048, 256), (1_000_000, 1)]:
        yield "time-major", shape, {}, loops.gae
    yield "time-major, mask", (2048, 256), {"mask": rng.random((2048, 256)) < 0.8}, gae_masked
    yield "batch-major", (256, 2048), {"axis": 1}, loops.gae_rows
    padded = np.arange(2048) < rng.integers(1, 2048, 256)[:, None]
    yield "padded", (256, 2048), {"axis": 1, "mask": padded}, gae_rows_masked
    for longest, count in ((400, 10_000), (5, 100_000)):
        offsets = np.concatenate([[0], np.cumsum(rng.integers(1, longest, count))])
        yield f"packed, {count} sequences", (int(offsets[-1]),), {"offsets": offsets}, gae_packed
    for lanes in (8, 256):
        env_id = rng.integers(0, lanes, 2**19).astype(np.int32)
        yield f"interleaved, {lanes} lanes", env_id.shape, {"env_id": env_id}, gae_interleaved


LAYOUTS = {f"{name}, {'x'.join(map(str, shape))}": (shape, *rest) for name, shape, *rest in _layouts()}


@functools.lru_cache(maxsize=1)
def _arguments(shape):
    rng = np.random.default_rng(0)
    reward, value, next_value = rng.standard_normal((3, *shape), np.float32)
    terminated, truncated = rng.random((2, *shape)) < 0.05
    return reward, value, next_value, terminated, truncated, 0.99, 0.95


@pytest.mark.benchmark(min_rounds=5, max_time=0.2, min_time=5e-5)
@pytest.mark.parametrize("library", ["loop", "fastpg"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_scan_of_gae(benchmark, layout, library):
    shape, keywords, loop = LAYOUTS[layout]
    arguments = _arguments(shape)
    by_hand = functools.partial(loop, *arguments, *(x for name, x in keywords.items() if name != "axis"))
    ours = functools.partial(scan, steps.gae, *arguments, **keywords)
    found, wanted = ours(), by_hand()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)
    names = ["reward", "value", "next_value", "terminated", "truncated", "gamma", "lambda_"]
    benchmark.extra_info.update(
        kernel=f"scan(gae), {layout.rsplit(', ', 1)[0]}",
        layout="",
        shape=list(shape),
        dtype="float32",
        library=library,
        bytes=bytes_moved(dict(zip(names, arguments, strict=True)) | keywords, wanted),
    )
    benchmark(ours if library == "fastpg" else by_hand)
