"""Other libraries' own functions on the arrays that fastpg gets, each in its own layout. What test_peers.py times.

An adapter takes a Problem and answers (call, read): what to time, with every conversion done before, and how its result reads as ours.
Where a library has one array for values and next values, the discounted value of a cut is folded into the reward, beforehand.
"""

import functools
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import loops
import numpy as np
from numba import njit

import fastpg
from fastpg import reference

GAMMA, LAMBDA = 0.99, 0.95
MOST_STEPS = {
    "gae": 1_000_000,
    "gae_and_return": 1_000_000,
}  # of a loop in Python: some twenty seconds; a tenth for the rest

TIME_MAJOR = [(128, 8), (2048, 1), (128, 64), (256, 1024), (2048, 256), (1_000_000, 1)]
POINTS = [
    *(("time-major", shape) for shape in TIME_MAJOR),
    ("batch-major", (64, 1024)),
    ("tokens", (256, 2048)),  # batch-major, no endings, V after the last token 0
    ("tokens, skip", (256, 2048)),
    ("tokens, zero", (256, 2048)),
    ("packed", (10_000, 200)),
]


@dataclass(frozen=True)
class Problem:
    """Arrays as fastpg takes them. A row is the same lane after lane, with the end of every lane an ending."""

    layout: str
    shape: tuple[int, ...]
    reward: np.ndarray
    value: np.ndarray
    next_value: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    log_ratio: np.ndarray
    offsets: np.ndarray
    mask: np.ndarray | None = None

    @property
    def time_major(self):
        return self.layout == "time-major"

    @property
    def sequences(self):
        return len(self.offsets) - 1

    @property
    def longest(self):
        return int(np.diff(self.offsets).max())

    @property
    def keywords(self):
        """What tells fastpg of the layout."""
        if self.layout == "packed":
            return {"offsets": self.offsets}
        keywords = {} if self.time_major else {"axis": 1}
        return keywords if self.mask is None else keywords | {"mask": self.mask, "mask_mode": self.layout[-4:]}

    def row(self, x):
        return np.ascontiguousarray(x.T if self.time_major else x).ravel()

    def shaped(self, row):
        """A row in the shape of reward."""
        row = np.asarray(row).reshape(-1)
        return row.reshape(self.reward.shape[::-1]).T if self.time_major else row.reshape(self.reward.shape)

    def as_row(self):
        """reward, value, next_value, terminated, truncated of one long lane."""
        lane = [self.row(x) for x in (self.reward, self.value, self.next_value, self.terminated, self.truncated)]
        lane[4][self.offsets[1:] - 1] = True
        return lane

    def lanes(self, row):
        """The lanes of a row as (B, T), where they are of one length."""
        return row.reshape(self.sequences, -1)

    def folded(self):
        """reward with what a cut is worth, value, and where the trace stops: of one long lane."""
        r, v, nv, te, tr = self.as_row()
        return r + np.float32(GAMMA) * nv * (tr & ~te), v, te | tr


def make(layout, shape, cuts=True):
    """float32. Endings at 1 % of the steps, and without `cuts` terminal ones alone; packed: 10,000 sequences of 100 to 300 steps."""
    rng = np.random.default_rng(0)
    if layout == "packed":
        sequences, length = shape
        offsets = np.concatenate([[0], rng.integers(length // 2, length * 3 // 2 + 1, sequences).cumsum()])
        size, lanes = (int(offsets[-1]),), 1
    else:
        steps, lanes = shape if layout == "time-major" else shape[::-1]
        offsets, size = np.arange(lanes + 1) * steps, shape
    reward, value, log_ratio = (rng.standard_normal(size, np.float32) for _ in range(3))
    terminated, truncated = rng.random((2, *size)) < 0.005
    mask = None
    if layout.startswith("tokens"):
        terminated[:], truncated[:] = False, False
        if layout != "tokens":  # answers of a quarter to the whole width, a tenth of them by tools
            length = rng.integers(shape[1] // 4, shape[1] + 1, shape[0])
            mask = np.arange(shape[1]) < length[:, None]
            mask &= np.repeat(rng.random((shape[0], shape[1] // 16)) < 0.9, 16, axis=1)
    if not cuts:
        truncated[:] = False
    problem = Problem(layout, shape, reward, value, value, terminated, truncated, log_ratio, offsets, mask)
    # Inside an episode V(s') is the next step's value; at its end and at the end of a lane a number of its own, or 0 after tokens.
    after = np.append(problem.row(value)[1:], 0).astype(np.float32)
    ends = problem.row(terminated | truncated)
    ends[offsets[1:] - 1] = True
    own = 0 if layout.startswith("tokens") else rng.standard_normal(ends.sum(), np.float32)
    after[ends] = own
    next_value = np.ascontiguousarray(problem.shaped(after))
    return Problem(layout, shape, reward, value, next_value, terminated, truncated, log_ratio, offsets, mask)


# Loops that one would write by hand, beside those of loops.py.


@njit(cache=True)
def vtrace_loop(reward, value, next_value, log_ratio, terminated, truncated, gamma):
    """Time-major, both clips 1."""
    one, g = reward.dtype.type(1), reward.dtype.type(gamma)
    target, advantage = np.empty_like(reward), np.empty_like(reward)
    carry = np.zeros(reward.shape[1], reward.dtype)
    for t in range(reward.shape[0] - 1, -1, -1):
        for n in range(reward.shape[1]):
            ratio = min(one, np.exp(log_ratio[t, n]))
            delta = reward[t, n] + g * next_value[t, n] * (not terminated[t, n]) - value[t, n]
            after = g * carry[n] * (not (terminated[t, n] or truncated[t, n]))
            advantage[t, n] = ratio * (delta + after)
            carry[n] = ratio * (delta + after)
            target[t, n] = value[t, n] + carry[n]
    return target, advantage


@njit(cache=True)
def masked_gae_loop(reward, value, mask, skip, gamma, lambda_):
    """Batch-major, V after the last token 0."""
    g, la, zero = reward.dtype.type(gamma), reward.dtype.type(lambda_), reward.dtype.type(0)
    advantage, returns = np.zeros_like(reward), np.zeros_like(reward)
    for b in range(reward.shape[0]):
        carry, after = zero, zero
        for t in range(reward.shape[1] - 1, -1, -1):
            if mask[b, t]:
                carry = reward[b, t] + g * after - value[b, t] + g * la * carry
                after = value[b, t]
                advantage[b, t] = carry
                returns[b, t] = carry + after
            elif not skip:
                carry, after = g * after + g * la * carry, zero
    return advantage, returns


def masked_numpy(reward, value, mask, skip):
    """The same over time in Python, all sequences at once."""
    advantage = np.zeros_like(reward)
    carry, after = np.zeros((2, len(reward)), reward.dtype)
    gamma, decay = reward.dtype.type(GAMMA), reward.dtype.type(GAMMA * LAMBDA)
    for t in reversed(range(reward.shape[1])):
        m = mask[:, t]
        r, v = reward[:, t] * m, value[:, t] * m
        new = r + gamma * after - v + decay * carry
        carry, after = (np.where(m, new, carry), np.where(m, v, after)) if skip else (new, v)
        advantage[:, t] = new * m
    return advantage, (advantage + value) * mask


def expected(problem, kernel):
    """What every library must give: the hand-written loops, in float64, one long lane."""
    wide = [x.astype(np.float64) if x.dtype.kind == "f" else x for x in problem.as_row()]
    r, v, nv, te, tr = (x[:, None] for x in wide)
    if problem.mask is not None:
        args = problem.reward.astype(np.float64), problem.value.astype(np.float64), problem.mask
        got = masked_gae_loop(*args, problem.layout == "tokens, skip", GAMMA, LAMBDA)
        return got if kernel == "gae_and_return" else got[0]
    if kernel == "vtrace":
        log_ratio = problem.row(problem.log_ratio).astype(np.float64)[:, None]
        got = vtrace_loop(r, v, nv, log_ratio, te, tr, GAMMA)
    elif kernel in ("gae", "gae_and_return"):
        got = getattr(loops, kernel)(r, v, nv, te, tr, GAMMA, LAMBDA)
    elif kernel == "lambda_return":
        got = loops.lambda_return(r, nv, te, tr, GAMMA, LAMBDA)
    else:
        got = loops.reward_to_go(r, nv, te, tr, GAMMA)
    return tuple(map(problem.shaped, got)) if isinstance(got, tuple) else problem.shaped(got)


# The adapters.

TOKENS = ("tokens", "tokens, skip", "tokens, zero")
PLAIN = ("time-major", "batch-major", "tokens")
KERNELS = ("gae", "gae_and_return", "reward_to_go", "lambda_return", "vtrace")


@dataclass(frozen=True)
class Peer:
    library: str
    kernel: str
    layouts: tuple[str, ...]
    bind: object  # Problem -> (call, read)
    distribution: str  # whose version the table names
    needs: tuple[str, ...] = ()  # modules, without which it is skipped
    python_loop: bool = False  # over time, in Python: left out above MOST_STEPS, and nothing to compile

    def fits(self, layout, shape):
        steps = shape[0] if layout == "time-major" else shape[0] * shape[1] if layout == "packed" else shape[1]
        return layout in self.layouts and not (self.python_loop and steps > MOST_STEPS.get(self.kernel, 100_000))

    def version(self):
        try:
            return version(self.distribution)
        except PackageNotFoundError:  # in a source tree, or of a file that was built on its own
            return fastpg.__version__ if self.library == "fastpg" else ""


PEERS = []


def peer(library, kernels, layouts, **about):
    """Registers an adapter (problem, kernel) -> (call, read) for each of the kernels."""

    def register(bind):
        for kernel in (kernels,) if isinstance(kernels, str) else kernels:
            PEERS.append(Peer(library, kernel, layouts, functools.partial(bind, kernel=kernel), **about))
        return bind

    return register


def arguments(problem, kernel):
    p = problem
    next_value = np.zeros(p.sequences, np.float32) if p.mask is not None else p.next_value
    return {
        "gae": (p.reward, p.value, next_value, p.terminated, p.truncated, GAMMA, LAMBDA),
        "gae_and_return": (p.reward, p.value, next_value, p.terminated, p.truncated, GAMMA, LAMBDA),
        "lambda_return": (p.reward, p.next_value, p.terminated, p.truncated, GAMMA, LAMBDA),
        "reward_to_go": (p.reward, p.next_value, p.terminated, p.truncated, GAMMA),
        "vtrace": (p.reward, p.value, p.next_value, p.log_ratio, p.terminated, p.truncated, GAMMA),
    }[kernel]


def same(result):
    return result


@peer("fastpg", ("gae", "gae_and_return"), (*PLAIN, *TOKENS[1:], "packed"), distribution="fastpg")
@peer("fastpg", ("lambda_return", "reward_to_go", "vtrace"), (*PLAIN, "packed"), distribution="fastpg")
def fastpg_itself(problem, kernel):
    function, args, keywords = getattr(fastpg, kernel), arguments(problem, kernel), problem.keywords
    return lambda: function(*args, **keywords), same


@peer("NumPy, naive", KERNELS, PLAIN, distribution="numpy", python_loop=True)
def numpy_naive(problem, kernel):
    function, args, keywords = getattr(reference, kernel), arguments(problem, kernel), problem.keywords
    return lambda: function(*args, **keywords), same


@peer("NumPy, naive", ("gae", "gae_and_return"), TOKENS[1:], distribution="numpy")
def numpy_masked(problem, kernel):
    args = problem.reward, problem.value, problem.mask, problem.layout == "tokens, skip"
    return lambda: masked_numpy(*args), same if kernel == "gae_and_return" else lambda pair: pair[0]


@peer("Numba, by hand", KERNELS, PLAIN, distribution="numba")
def numba_loop(problem, kernel):
    args = arguments(problem, kernel)
    if kernel == "vtrace":
        if not problem.time_major:  # the traces run along the columns of the transposed view
            args = [x.T if isinstance(x, np.ndarray) else x for x in args]
            return lambda: vtrace_loop(*args), lambda pair: tuple(x.T for x in pair)
        return lambda: vtrace_loop(*args), same
    function = getattr(loops, kernel if problem.time_major else f"{kernel}_rows")
    return lambda: function(*args), same


@peer("Numba, by hand", KERNELS[:4], ("packed",), distribution="numba")
def numba_row(problem, kernel):
    r, v, nv, te, tr = (x[None] for x in problem.as_row())
    function = getattr(loops, f"{kernel}_rows")
    args = {
        "lambda_return": (r, nv, te, tr, GAMMA, LAMBDA),
        "reward_to_go": (r, nv, te, tr, GAMMA),
    }.get(kernel, (r, v, nv, te, tr, GAMMA, LAMBDA))
    return lambda: function(*args), lambda got: tuple(x[0] for x in got) if isinstance(got, tuple) else got[0]


@peer("Numba, by hand", ("gae", "gae_and_return"), TOKENS[1:], distribution="numba")
def numba_masked(problem, kernel):
    args = problem.reward, problem.value, problem.mask, problem.layout == "tokens, skip", GAMMA, LAMBDA
    return lambda: masked_gae_loop(*args), same if kernel == "gae_and_return" else lambda pair: pair[0]


@peer("SciPy lfilter", ("gae", "reward_to_go"), (*PLAIN, "packed"), distribution="scipy")
def lfilter_by_episode(problem, kernel):
    """As Spinning Up does: an episode at a time, residuals first, then one filter over the reversed episode."""
    from scipy.signal import lfilter

    r, v, nv, te, tr = problem.as_row()
    stops = np.flatnonzero(te | tr) + 1
    starts = np.concatenate([[0], stops[:-1]])
    last = np.where(te, 0, nv)[stops - 1]
    paths = [(r[a:b], np.append(v[a:b], x), x) for a, b, x in zip(starts, stops, last, strict=True)]
    one, gamma, decay = np.float32([1]), np.float32(GAMMA), np.float32(GAMMA * LAMBDA)

    def filtered(x, factor):
        return lfilter(one, np.array([1, -factor], np.float32), x[::-1])[::-1]

    def gae():
        return [filtered(reward + gamma * values[1:] - values[:-1], decay) for reward, values, _ in paths]

    def reward_to_go():
        return [filtered(np.append(reward, final), gamma)[:-1] for reward, _, final in paths]

    return gae if kernel == "gae" else reward_to_go, lambda pieces: problem.shaped(np.concatenate(pieces))


RLAX = {"needs": ("jax", "rlax"), "distribution": "rlax"}


@peer("rlax, jit", ("gae", "lambda_return", "reward_to_go"), (*PLAIN, "packed"), **RLAX)
@peer("rlax, jit", "vtrace", PLAIN, **RLAX)  # its advantage reads across a cut, so that lanes cannot share a row
def rlax_under_jit(problem, kernel):
    import jax
    import jax.numpy as jnp
    import rlax

    r, v, nv, te, tr = problem.as_row()
    folded, _, end = problem.folded()
    lanes = problem.sequences if problem.layout != "packed" else 1  # packed: one long lane

    def own(row):
        rows = row.reshape(lanes, -1)
        return jnp.asarray(np.ascontiguousarray(rows.T) if problem.time_major else rows)

    lambda_ = own(np.where(tr, 0, LAMBDA).astype(np.float32))
    discount, cut_discount = (own(np.where(x, 0, GAMMA).astype(np.float32)) for x in (te, end))
    after = jnp.zeros((1, lanes) if problem.time_major else (lanes, 1), jnp.float32)
    functions = {
        "gae": lambda r, d, v: rlax.truncated_generalized_advantage_estimation(r, d, LAMBDA, v),
        "lambda_return": rlax.lambda_returns,
        "reward_to_go": rlax.discounted_returns,
        "vtrace": rlax.vtrace_td_error_and_advantage,
    }
    if kernel == "gae":
        values = jnp.concatenate([own(v), after], axis=0 if problem.time_major else 1)
        args = own(folded), cut_discount, values
    elif kernel == "lambda_return":
        args = own(r), discount, own(nv), lambda_
    elif kernel == "reward_to_go":
        args = own(folded), cut_discount, own(nv)
    else:
        rho = own(np.exp(problem.row(problem.log_ratio)))
        args = own(v), own(nv), own(r), discount, rho
    axis = 1 if problem.time_major else 0
    compiled = jax.jit(jax.vmap(functions[kernel], in_axes=axis, out_axes=axis))

    def read(got):
        if kernel == "vtrace":
            return problem.value + np.asarray(got.errors).reshape(problem.reward.shape), back(got.pg_advantage)
        return back(got)

    def back(x):
        return np.asarray(x).reshape(problem.reward.shape)

    return lambda: jax.block_until_ready(compiled(*args)), read


@peer("Tianshou", "gae", (*PLAIN, "packed"), needs=("tianshou.algorithm.algorithm_base",), distribution="tianshou")
def tianshou_row(problem, kernel):
    from tianshou.algorithm.algorithm_base import _gae

    r, v, nv, te, tr = problem.as_row()
    args = v, nv * ~te, r, te | tr, GAMMA, LAMBDA
    return lambda: _gae(*args), lambda got: problem.shaped(got.astype(np.float32))


@peer("PufferLib", "gae", (*PLAIN, "packed"), needs=("c_gae",), distribution="pufferlib")
def pufferlib_by_lane(problem, kernel):
    """One lane a call; the reward and the flag of a step stand one place later."""
    from c_gae import compute_gae

    folded, v, end = problem.folded()
    lanes = []
    for a, b in zip(problem.offsets[:-1], problem.offsets[1:], strict=True):
        done, value, reward = np.zeros((3, b - a + 1), np.float32)
        done[1:], value[:-1], reward[1:] = end[a:b], v[a:b], folded[a:b]
        lanes.append((done, value, reward, GAMMA, LAMBDA))

    def call():
        return [compute_gae(*lane) for lane in lanes]

    return call, lambda got: problem.shaped(np.concatenate([x[:-1] for x in got]))


@peer(
    "Stable-Baselines3",
    "gae_and_return",
    ("time-major",),
    needs=("stable_baselines3",),
    distribution="stable-baselines3",
    python_loop=True,
)
def sb3_buffer(problem, kernel):
    import torch
    from gymnasium import spaces
    from stable_baselines3.common.buffers import RolloutBuffer

    steps, lanes = problem.shape
    space = spaces.Discrete(2)
    buffer = RolloutBuffer(steps, space, space, "cpu", gae_lambda=LAMBDA, gamma=GAMMA, n_envs=lanes)
    folded, _, end = (problem.shaped(x) for x in problem.folded())
    buffer.rewards[:], buffer.values[:] = folded, problem.value
    buffer.episode_starts[1:] = end[:-1]
    last, done = torch.zeros(lanes), end[-1]

    def call():
        buffer.compute_returns_and_advantage(last, done)
        return buffer.advantages, buffer.returns

    return call, same


def _torchrl(name, kernel, layouts, library, **about):
    @peer(library, kernel, layouts, needs=("torchrl.objectives.value.functional",), distribution="torchrl", **about)
    def torchrl_tensors(problem, kernel):
        import torch
        from torchrl.objectives.value import functional

        function = getattr(functional, name)
        lanes = problem.sequences if problem.layout != "packed" else 1
        r, v, nv, te, tr = problem.as_row()

        def own(row):
            return torch.from_numpy(row).reshape(lanes, -1, 1)

        end = (own(te | tr), own(te))
        if kernel == "vtrace":
            log_pi = own(problem.row(problem.log_ratio))
            args = GAMMA, log_pi, torch.zeros_like(log_pi), own(v), own(nv), own(r), *end
        elif kernel == "lambda_return":
            args = GAMMA, LAMBDA, own(nv), own(r), *end
        else:
            args = GAMMA, LAMBDA, own(v), own(nv), own(r), *end

        def read(got):
            if kernel == "vtrace":
                got = got[::-1]
            return tuple(map(problem.shaped, got)) if isinstance(got, tuple) else problem.shaped(got)

        return lambda: function(*args), read


_torchrl("vec_generalized_advantage_estimate", "gae_and_return", (*PLAIN, "packed"), "TorchRL, vectorised")
_torchrl("generalized_advantage_estimate", "gae_and_return", PLAIN, "TorchRL, loop", python_loop=True)
_torchrl("vec_td_lambda_return_estimate", "lambda_return", (*PLAIN, "packed"), "TorchRL, vectorised")
_torchrl("vtrace_advantage_estimate", "vtrace", PLAIN, "TorchRL, loop", python_loop=True)


@peer("verl", "gae_and_return", ("tokens", "tokens, skip"), needs=("verl.trainer.ppo.core_algos",), distribution="verl")
def verl_loop(problem, kernel):
    """Whitens the advantages as well; what they were is returns less values."""
    import torch
    from verl.trainer.ppo.core_algos import compute_gae_advantage_return

    mask = np.ones(problem.shape, bool) if problem.mask is None else problem.mask
    args = [torch.from_numpy(x) for x in (problem.reward, problem.value, mask.astype(np.float32))]

    def read(got):
        returns = got[1].numpy()
        return (returns - problem.value) * mask, returns * mask

    return lambda: compute_gae_advantage_return(*args, GAMMA, LAMBDA), read


@peer("PyTorch, chunks", "gae", ("tokens", "tokens, zero"), needs=("torch",), distribution="torch")
def torch_chunks(problem, kernel):
    """Chunks of 128 tokens: inside one, the residuals times a triangle of powers of gamma lambda; from chunk to chunk, a loop.

    The idea of slime's GAE, written anew; masked tokens count as rewards and values of 0.
    """
    import torch

    chunk, decay = 128, GAMMA * LAMBDA
    reward, value = torch.from_numpy(problem.reward), torch.from_numpy(problem.value)
    mask = None if problem.mask is None else torch.from_numpy(problem.mask.astype(np.float32))

    def call():
        r, v = (reward, value) if mask is None else (reward * mask, value * mask)
        sequences, tokens = r.shape
        delta = r - v
        delta[:, :-1] += GAMMA * v[:, 1:]
        pad = -tokens % chunk
        blocks = torch.nn.functional.pad(delta, (0, pad)).reshape(sequences, -1, chunk)
        place = torch.arange(chunk)
        power = (place[:, None] - place[None, :]).clamp(min=0)  # of the residual at row, seen from column
        inside = blocks @ torch.tril(decay**power)
        to_next = decay ** (chunk - place)
        carry = torch.zeros(sequences, 1)
        for k in reversed(range(inside.shape[1])):
            inside[:, k] += carry * to_next
            carry = inside[:, k, :1]
        advantage = inside.reshape(sequences, -1)[:, :tokens]
        return advantage if mask is None else advantage * mask

    return call, lambda got: got.numpy()
