"""Where PPO's time and memory go on CartPole-v1, and how far it is from what the machine can multiply; --write: into docs/training.md.

    python benches/training_profile.py [--lanes 64 4] [--seconds 2] [--write]

Settings are those of benches/training.py.
"""

import argparse
import threading
import time
import tracemalloc
from contextlib import ExitStack
from unittest import mock

import machine
import numpy as np
import training
from table import into_page, markdown

import fastpg
from fastpg import nets
from fastpg.envs import make
from fastpg.train import ppo
from fastpg.train.agent import Agent
from fastpg.train.ppo_epoch import PPOEpoch
from fastpg.train.rollout import Rollout, collect
from fastpg.train.run import Run

SIZES = {"policy": (4, 64, 64, 2), "value": (4, 64, 64, 1)}
# What is timed: where its name is looked up, its name, what the table calls it
PARTS = [
    (PPOEpoch, "__call__", "epochs: forward, loss, backward, Adam"),
    (ppo, "collect", "rollout"),
    (ppo, "values", "values"),
    (Run, "count", "episodes counted"),
    (fastpg, "psi", "advantages and targets"),
    (fastpg, "lambda_return", "advantages and targets"),
    (fastpg, "whiten", "advantages whitened"),
    (fastpg, "explained_variance", "metrics"),
    (Run, "log", "metrics"),
]


def shares(lanes, updates):
    """Seconds of a training run, by part of it."""
    spent = {part: 0.0 for _, _, part in PARTS}

    def timed(function, part):
        def call(*args, **kwargs):
            start = time.perf_counter()
            result = function(*args, **kwargs)
            spent[part] += time.perf_counter() - start
            return result

        return call

    training.time_fastpg(lanes, 2)
    with ExitStack() as stack:
        for where, name, part in PARTS:
            stack.enter_context(mock.patch.object(where, name, timed(getattr(where, name), part)))
        start = time.perf_counter()
        training.train_fastpg(lanes, updates)
        seconds = time.perf_counter() - start
    return {**spent, "the rest, Python": seconds - sum(spent.values())}, seconds


def flops_a_step():
    """Multiplications and additions of a step: value and action once; forward, gradient of weights and of inputs in every epoch."""
    layers = {name: [2 * i * o for i, o in zip(sizes[:-1], sizes[1:], strict=True)] for name, sizes in SIZES.items()}
    return sum(sum(of) + training.EPOCHS * (3 * sum(of) - of[0]) for of in layers.values())


def blas_rate(rows=2048, seconds=0.5):
    """Multiplications and additions a second of float32 (rows, 64) @ (64, 64), a thread of one-threaded BLAS on every core."""
    cores = machine.about()["cores"]
    counts = [0] * cores

    def multiply(core):
        rng = np.random.default_rng(core)
        a, b = rng.random((rows, 64), np.float32), rng.random((64, 64), np.float32)
        c = a @ b
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            np.matmul(a, b, out=c)
            counts[core] += 1

    with nets.blas_threads(1):
        threads = [threading.Thread(target=multiply, args=(core,)) for core in range(cores)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return sum(counts) * 2 * rows * 64 * 64 / seconds


def rollout_ns(lanes, steps=1 << 18):
    """Nanoseconds a lane and step of a rollout, the best of five."""
    env, rng = make("fastpg/CartPole-v1", lanes), np.random.default_rng(0)
    agent = Agent.made_for(env, ppo.Config(), rng)
    rollout = Rollout(env, agent, steps // lanes)
    rollout.current[...] = env.reset(seed=0)[0]
    times = []
    for _ in range(6):  # the first one is not counted: it touches the buffers for the first time
        start = time.perf_counter()
        collect(env, agent, rollout, rng)
        times.append(time.perf_counter() - start)
    return min(times[1:]) / steps * 1e9


def memory(lanes):
    """The most bytes that training by minibatches of 2,048 holds at a time, as NumPy and Python tell tracemalloc."""
    training.train_fastpg(lanes, 1)
    tracemalloc.start()
    training.train_fastpg(lanes, 2, minibatch=2048)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def page(lanes_of, seconds, most_lanes=4096):
    clock, profiles, rates = machine.Clock(), {}, {}
    for lanes in lanes_of:
        steps = lanes * training.T
        updates = max(2, round(seconds * 2 / training.time_fastpg(lanes, 2)))
        rates[lanes] = steps * updates / training.time_fastpg(lanes, updates)
        spent, whole = shares(lanes, updates)
        profiles[lanes] = {part: time_ / whole for part, time_ in spent.items()}
    blas, flops = blas_rate(), flops_a_step()
    limit = blas / flops
    head = ["share of PPO's time", *(f"{lanes} environments" for lanes in lanes_of)]
    parts = list(dict.fromkeys(part for _, _, part in PARTS)) + ["the rest, Python"]
    rows = [[part, *(f"{100 * profiles[lanes][part]:.1f} %" for lanes in lanes_of)] for part in parts]
    rows.append(["steps/s, without the clocks", *(f"{rates[lanes]:,.0f}" for lanes in lanes_of)])
    rows.append(["of the limit below", *(f"{100 * rates[lanes] / limit:.0f} %" for lanes in lanes_of)])
    out = [markdown(head, rows)]
    out.append(
        f"The limit: NumPy's BLAS multiplies float32 (2048, 64) by (64, 64) at {blas / 1e9:.0f} GFLOP/s, one thread on every core;"
        f" a step takes {flops:,} floating-point operations in matrix products, so {limit:,.0f} steps/s if nothing else took time."
    )
    grown = [lanes for lanes in (64, 256, 1024, 4096) if lanes <= most_lanes]
    rows = []
    for lanes in grown:
        updates = max(2, round(seconds * 2 / training.time_fastpg(lanes, 2)))
        us = training.time_fastpg(lanes, updates) / (updates * lanes * training.T) * 1e6
        rows.append([f"{lanes:,}", f"{lanes * training.T:,}", f"{rollout_ns(lanes):.0f}", f"{us:.2f}", memory(lanes)])
    first, last = rows[0], rows[-1]
    steps = [int(row[1].replace(",", "")) for row in (first, last)]
    a_step = (last[-1] - first[-1]) / max(steps[1] - steps[0], 1)
    for row in rows:
        row[-1] = f"{row[-1] / 1e6:.1f}"
    head = ["environments", "steps an update", "rollout, ns a step", "training, us a step", "memory, MB"]
    out += [
        markdown(head, rows),
        f"Memory, with minibatches of 2,048, grows by {a_step:.0f} bytes for a step more of a rollout.",
    ]
    out.append(machine.sentence(machine.about(), others=clock.cores_of_others()))
    return "\n\n".join(out)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lanes", type=int, nargs="+", default=[64, 4])
    parser.add_argument("--seconds", type=float, default=2.0, help="about how long each run takes")
    parser.add_argument("--write", action="store_true", help="into docs/training.md")
    arguments = parser.parse_args()
    told = page(arguments.lanes, arguments.seconds)
    print(told)
    if arguments.write:
        into_page(machine.ROOT / "docs" / "training.md", told, "profile")


if __name__ == "__main__":
    main()
