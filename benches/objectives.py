"""Times the losses over tokens on (256, 1024), masked, float32: python benches/objectives.py.

Equal to the specification first. Each beside `move`, what NumPy takes on one thread to read three float arrays and the mask once and to
write one float array once, as a ratio; ppo also beside naive NumPy (fastpg.reference) and, where it is installed, eager PyTorch with
autograd. One thread each, ppo once more on all.
Medians on the wall, and of the processor's time in brackets: on a busy machine the second is the one to read.
"""

import time

import numpy as np

import fastpg
from fastpg import _core, reference

try:
    import torch
except ImportError:
    torch = None

SHAPE = (256, 1024)


def clock(call, seconds=0.5):
    """Median wall and processor seconds of a call."""
    call()
    wall, own = [], []
    while sum(wall) < seconds or len(wall) < 5:
        start = time.perf_counter(), time.process_time()
        call()
        wall.append(time.perf_counter() - start[0])
        own.append(time.process_time() - start[1])
    return float(np.median(wall)), float(np.median(own))


def in_pytorch(x, old, a, mask):
    """The clipped surrogate with its statistics, as trainers write it, forward and backward."""
    x, old, a, mask = (torch.from_numpy(v) for v in (x, old, a, mask.astype(np.float32)))
    tokens = mask.sum()

    def run():
        leaf = x.clone().requires_grad_()
        log_ratio = torch.clamp(leaf - old, -20, 20)
        ratio = log_ratio.exp()
        plain, clipped = -a * ratio, -a * torch.clamp(ratio, 0.8, 1.2)
        ((clipped > plain).float() * mask).sum() / tokens, (-log_ratio * mask).sum() / tokens
        ((torch.maximum(plain, clipped) * mask).sum() / tokens).backward()
        return leaf.grad

    return run


def main():
    rng = np.random.default_rng(0)
    x = (-0.01 - 3 * rng.random(SHAPE)).astype(np.float32)
    old = np.minimum(x + 0.2 * rng.standard_normal(SHAPE), -0.01).astype(np.float32)
    a = rng.standard_normal(SHAPE).astype(np.float32)
    mask = np.arange(SHAPE[1]) < rng.integers(200, SHAPE[1], SHAPE[0])[:, None]
    grad = np.empty_like(x)
    threads = _core.threads()
    print(f"{_core.isa()}, {threads} threads; microseconds, wall (processor)")

    def move():
        np.add(x, old, out=grad)
        np.add(grad, a, out=grad)
        mask.view(np.uint8).max()

    moved = 0.0

    def row(name, call, threads=1):
        with fastpg.set_threads(threads):
            wall, own = clock(call)
        beside = f"{wall / moved:10.1f} x move" if moved else ""
        print(f"{name:24}{wall * 1e6:10.0f} ({own * 1e6:.0f}){beside}", flush=True)
        return wall

    moved = row("move", move)
    for kind in fastpg.OBJECTIVES:

        def ours(kind=kind):
            return fastpg.policy_loss(kind, x, old, a, mask=mask, out=grad, rng=np.random.default_rng(0))

        wanted = reference.policy_loss(
            kind, x, old, a, mask=mask, rng=np.random.default_rng(0), **fastpg.OBJECTIVES[kind]
        )
        error = np.abs(ours()[1] - wanted[1]).max() / max(np.abs(wanted[1]).max(), 1e-38)
        assert error < 1e-5, (kind, error)
        own = row(kind, ours)
        if kind == "ppo":
            row("ppo, all threads", ours, threads)
            numpy_ = row(
                "ppo, NumPy", lambda: reference.policy_loss("ppo", x, old, a, mask=mask, **fastpg.OBJECTIVES["ppo"])
            )
            print(f"{'':24}{numpy_ / own:10.1f} x NumPy")
            if torch is not None:
                torch.set_num_threads(1)
                eager = row("ppo, PyTorch eager", in_pytorch(x, old, a, mask))
                print(f"{'':24}{eager / own:10.1f} x PyTorch")


if __name__ == "__main__":
    main()
