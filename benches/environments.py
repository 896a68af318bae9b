"""Steps a second of every built-in environment through env.step, on one core, beside Gymnasium where that is installed."""

from __future__ import annotations

import time

import numpy as np

from fastpg import envs
from fastpg.envs.spaces import Discrete

LANES = 64, 4096
STEPS = 100_000  # of all lanes together, in one measurement; the best of seven counts


def actions(env: envs.VectorEnv, rng: np.random.Generator) -> np.ndarray:
    space = env.action_space
    if isinstance(space, Discrete):
        return rng.integers(0, space.n, (16, env.lanes))
    return rng.uniform(space.low, space.high, (16, env.lanes, len(space.low))).astype(np.float32)


def best_of(run, repeats: int = 7) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def ours(id: str, lanes: int) -> float:
    """Nanoseconds a lane and step."""
    env, rounds = envs.make(id, lanes), max(16, STEPS // lanes)
    action = actions(env, np.random.default_rng(0))
    env.reset(seed=0)

    def run() -> None:
        for t in range(rounds):
            env.step(action[t % 16])

    return best_of(run) / rounds / lanes * 1e9


def theirs(id: str, steps: int = 2000) -> float | None:
    """The same of one environment of Gymnasium's."""
    try:
        import gymnasium

        name = id.removeprefix("fastpg/")
        firm = name.replace("NotSlippery", "")
        env = gymnasium.make(firm, **({} if firm == name else {"is_slippery": False}))
    except ImportError:
        return None
    env.reset(seed=0)
    action = [env.action_space.sample() for _ in range(16)]

    def run() -> None:
        for t in range(steps):
            _, _, terminated, truncated, _ = env.step(action[t % 16])
            if terminated or truncated:
                env.reset()

    return best_of(run, 3) / steps * 1e9


if __name__ == "__main__":
    print(f"{'environment':34}" + "".join(f"{f'{n} lanes':>12}" for n in LANES) + f"{'steps/s':>14}{'x Gymnasium':>14}")
    for id in envs.IDS:
        times = [ours(id, lanes) for lanes in LANES]
        gym = theirs(id)
        told = f"{gym / times[-1]:14.0f}" if gym else f"{'-':>14}"
        print(f"{id:34}" + "".join(f"{t:9.1f} ns" for t in times) + f"{1e9 / times[-1]:14,.0f}{told}")
