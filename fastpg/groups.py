"""Psi from groups: how good was a response, next to the others that answer the same prompt?

M samples, in groups by key: `reward` (M,) is what each sample earned, `group` says which samples belong together. A key is anything
hashable, in any order, groups of any sizes: a list or array of strings or integers (negative, huge, gaps and all; memory is O(M), whatever
the keys are), or one integer n for consecutive groups of n. Advantages come back shaped like the rewards, float32 or float64 as they came;
inside everything is float64 and two passes, on differences from one reward of the group, so a group of equal rewards has advantage 0
exactly, in both dtypes, before any whitening over the batch.

Statistics are of the samples in the call. Where a group is split over data-parallel workers, or `scale="batch"` or whitening is meant over
all of them, gather rewards and keys first (a few kilobytes) and keep your own slice of the result; no shard can do it alone.

`PRESETS` holds the conventions of the field's libraries as keywords: `group_advantage(reward, group, **PRESETS["verl"])`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from itertools import count
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastpg import _core
from fastpg._check import as_array, as_flags, as_floats, as_fraction, as_index, at_home, into
from fastpg._tokens import Tokens
from fastpg.returns import reward_to_go

__all__ = [
    "GROUP_KINDS",
    "broadcast_to_tokens",
    "group_advantage",
    "optimal_token_baseline",
    "token_advantage",
]

Array = NDArray[Any]


class _Kind(NamedTuple):
    baseline: str  # mean, others (leave one out), length (weighted by it), given, best (of the others) or none
    scale: str  # group, others, mean, live or none
    whiten: bool = False
    grouped: bool = True
    free_scale: bool = True  # whether `scale` may name another


_KINDS = {
    "grpo": _Kind("mean", "group"),
    "dr_grpo": _Kind("mean", "none"),
    "rloo": _Kind("others", "none"),
    "loo_std": _Kind("others", "others", free_scale=False),
    "opo": _Kind("length", "none"),
    "gpg": _Kind("mean", "live", free_scale=False),
    "maxrl": _Kind("mean", "mean", free_scale=False),
    "pass_at_k": _Kind("best", "none"),
    "gdpo": _Kind("mean", "group", whiten=True),
    "remax": _Kind("given", "none", grouped=False, free_scale=False),
    "reinforce_pp": _Kind("none", "none", whiten=True, grouped=False, free_scale=False),
    "reinforce_pp_baseline": _Kind("mean", "none", whiten=True),
}
GROUP_KINDS = tuple(_KINDS)


def group_advantage(
    reward: ArrayLike,
    group: Any,
    kind: str = "grpo",
    *,
    ddof: int = 1,
    eps: float = 1e-4,
    singleton: float | str = 0.0,
    constant: float | None = None,
    scale: str | None = None,
    nan: str = "propagate",
    mask: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    length: ArrayLike | None = None,
    baseline: ArrayLike | None = None,
    k: int | None = None,
    alpha: float | str = "varied",
    whiten: bool | None = None,
    whiten_eps: float = 1e-8,
    whiten_eps_in: str = "variance",
    out: Array | None = None,
) -> Array:
    """The advantage of each sample over its group, for every critic-free estimator in use.

      A[i] = (r[i] - b[i]) / s[i],    n samples in i's group, mean and std over them, mean' and std' over the others

      grpo                   b = mean       s = std + eps        Shao et al. 2024, sec. 4.1.2, arXiv:2402.03300
      dr_grpo                b = mean       s = 1                Liu et al. 2025, sec. 3.2, arXiv:2503.20783
      rloo                   b = mean'      s = 1                Kool et al. 2019; Ahmadian et al. 2024, arXiv:2402.14740
      loo_std                b = mean'      s = std' + eps       the same, scaled; not scaled where std' is 0 or undefined
      opo                    b = sum(length r) / sum(length)     Hao et al. 2025, arXiv:2505.23585
      gpg                    b = mean       s = 1 / alpha        Chu et al. 2025, arXiv:2504.02546
      maxrl                  b = mean       s = mean             Tajwar et al. 2026, arXiv:2602.02710; 0 where the mean is 0; reward >= 0
      pass_at_k              gradient of E max of k              Tang et al. 2025, arXiv:2503.19595; Walder and Karkhanis, arXiv:2505.15201
      remax                  b = baseline   s = 1                Li et al. 2024, arXiv:2310.10505; baseline[i] the greedy response's reward
      reinforce_pp           b = 0, whitened over the batch      Hu et al. 2025, arXiv:2501.03262
      reinforce_pp_baseline  b = mean, whitened over the batch   the same
      gdpo                   grpo of each reward, weighted sum, whitened over the batch    Liu et al. 2026, arXiv:2601.05242

    pass_at_k: A[i] = sum over subsets I of size k with i in I of (max I - max of I without i) / C(n, k), Walder and Karkhanis 2025,
    eq. 33. k=None takes the whole group, in which only the best sample has a share. The sum over the group of A[i] grad log pi, not its
    mean, is then the estimate.
    maxrl with rewards 0 and 1: the mean over the group estimates, without bias, the gradient of log p cut off at order n - 1, p the
    chance of a 1: of -sum_{k < n} (1 - p)^k / k.

    ddof: 0 or 1, subtracted from the count in every variance.     eps: added to std.
    singleton: a group of one, with its reward r. A number is its advantage; "reward" means b = 0 and std = 1; "centered" means b = r.
    constant: a number is the advantage in groups of two or more equal rewards (nan lets a filter find them); None lets the formula give 0.
        gdpo applies singleton and constant to each reward, before the sum.
    scale: "group", "batch" (the std of all rewards of the call, plus eps) or "none", in place of the kind's own; grpo, dr_grpo, rloo,
        opo, pass_at_k, gdpo and reinforce_pp_baseline take it.
    nan: "propagate": NaN and inf reach their own group and, where scaled or whitened over it, the batch. "unscored": a NaN reward counts
        nowhere and its advantage is 0.
    mask: (M,) bool, False = no sample: counts nowhere, advantage 0, whatever it holds.
    weight: (K,) for rewards (M, K), default ones. gdpo weighs normalised rewards, every other kind the rewards before all else. With
        "unscored", a NaN among several rewards is left out of the sum, and a sample is unscored when all are NaN.
    length: (M,) integers, tokens of each response. opo needs it; whitening then counts each sample `length` times, as a mean over tokens.
    alpha: a number, or M over the number of samples "varied": in groups whose rewards differ, as in the paper, "nonzero": of reward != 0.
    whiten: (A - mean) / s over the batch at the end, s = sqrt(var + whiten_eps) for whiten_eps_in="variance", std + whiten_eps for "std",
        sqrt(max(var, whiten_eps)) for "floor". A number given for `singleton` or `constant` is final: it takes no part and stays.

    reward (M,), or (M, K) for several rewards, float32 or float64; the result is (M,). No samples: an empty result. remax and reinforce_pp
    need no group and take None. ValueError and TypeError name the argument.

    >>> group_advantage([1.0, 0.0, 0.5, 0.5, 0.25], ["a", "a", "b", "b", "c"], eps=0.0).round(4)
    array([ 0.7071, -0.7071,  0.    ,  0.    ,  0.    ])
    >>> group_advantage([1.0, 0.0, 0.0, 2.0], [7, 7, 7, -1], "rloo", singleton="reward")
    array([ 1. , -0.5, -0.5,  2. ])
    """
    if kind not in _KINDS:
        raise ValueError(f"kind is {kind!r}; one of {', '.join(_KINDS)} is wanted")
    rewards = as_floats("reward", reward)
    if rewards.ndim not in (1, 2):
        raise ValueError(f"reward has shape {rewards.shape}; (M,) is wanted, or (M, K) for K rewards of each sample")
    m = len(rewards)
    how = _how(kind, ddof, eps, singleton, constant, scale, nan, k, alpha, whiten, whiten_eps, whiten_eps_in)
    x = rewards.astype(np.float64)
    scored = None if mask is None else _per_sample("mask", as_flags("mask", mask), m)
    unscored = np.isnan(x) if nan == "unscored" else None
    if unscored is not None and unscored.any():
        some: Array = np.logical_not(unscored if x.ndim == 1 else unscored.all(axis=1))
        scored = some if scored is None else np.logical_and(scored, some)
    codes, groups = _codes(group, m) if how.grouped or group is not None else (np.zeros(m, np.intp), min(m, 1))
    tokens = None if length is None else _lengths(length, m)
    if how.baseline == "length" and tokens is None:
        raise TypeError(f"length is None; {kind} needs the number of tokens of each response, shape ({m},)")
    given = None
    if (baseline is None) == (how.baseline == "given"):
        wanted = (
            f"the reward of each greedy response, shape ({m},), is wanted"
            if baseline is None
            else "only remax takes one"
        )
        raise TypeError(f"baseline is {'None' if baseline is None else 'given'}, but kind is {kind!r}; {wanted}")
    if baseline is not None:
        given = _per_sample("baseline", as_floats("baseline", baseline, like=("reward", rewards)), m).astype(np.float64)
    if x.ndim == 2:
        w = _weights(weight, x.shape[1])
    elif weight is not None:
        raise TypeError("weight is given, but reward has one reward a sample; reward of shape (M, K) is wanted with it")
    elif kind == "gdpo":
        x, w = x[:, None], np.ones(1)
    with np.errstate(all="ignore"):
        if x.ndim == 2 and kind != "gdpo":
            # Not x @ w: BLAS may add up two equal rows in two orders.
            x = (np.where(np.isnan(x), 0.0, x) * w if nan == "unscored" else x * w).sum(axis=1)
        at = None if scored is None or scored.all() else np.flatnonzero(scored)
        if at is not None:
            x, codes = x[at], codes[at]
            tokens = None if tokens is None else tokens[at]
            given = None if given is None else given[at]
        a = (
            _gdpo(x, w, codes, groups, tokens, how, nan)
            if kind == "gdpo"
            else _one(x, codes, groups, tokens, given, how)
        )
    if at is not None:
        full = np.zeros(m)
        full[at] = a
        a = full

    def fill(target: Array | None) -> Array:
        if target is None:
            return a.astype(rewards.dtype)
        target[...] = a
        return target

    return at_home(reward)(into(out, (m,), rewards.dtype, [rewards], fill))  # type: ignore[no-any-return]


def token_advantage(
    reward: ArrayLike,
    group: Any,
    kind: str = "grpo",
    *,
    mask: ArrayLike | None = None,
    offsets: ArrayLike | None = None,
    gamma: float = 1.0,
    baseline: ArrayLike | None = None,
    **conventions: Any,
) -> Array:
    """The advantage of each token, from a reward per token: the forms of `group_advantage` as training on sequences uses them.

      reinforce_pp    A[b,t] = whitened G[b,t],    G[b,t] = r[b,t] + gamma G[b, next token]
      remax           A[b,t] = G[b,t] - baseline[b]
      other kinds     A[b,t] = group_advantage of sum_t r[b,t]

    `length` is the number of tokens, so whitening is over tokens. Masked places are no tokens: never read, 0 in the result, and the return
    passes through them. A sequence without tokens is no sample. gamma discounts the returns of reinforce_pp and remax, nothing else.

    reward (B, T) with mask, or packed (L,) with B + 1 offsets (and a mask, if wanted); group and baseline one a sequence; every other
    keyword as in `group_advantage`. Returns the shape and dtype of reward. ValueError and TypeError name the argument.
    Hu et al. 2025, arXiv:2501.03262; Li et al. 2024, arXiv:2310.10505; Shao et al. 2024, sec. 4.1.2, arXiv:2402.03300

    >>> mask = [[True, True], [True, False]]
    >>> token_advantage([[0.0, 1.0], [0.0, 9.0]], ["a", "a"], "dr_grpo", mask=mask)
    array([[ 0.5,  0.5],
           [-0.5,  0. ]])
    """
    if kind not in _KINDS:
        raise ValueError(f"kind is {kind!r}; one of {', '.join(_KINDS)} is wanted")
    for name in ("length", "out"):
        if name in conventions:
            raise TypeError(f"{name} is given; token_advantage reads the lengths off mask or offsets and has no out")
    rewards = as_floats("reward", reward)
    as_fraction("gamma", gamma, "reward", rewards)
    tokens = Tokens("reward", rewards.shape, mask, offsets)
    r, sequences = tokens.pick("reward", rewards).astype(np.float64), len(tokens.length)
    if baseline is not None:
        baseline = _per_sample("baseline", as_floats("baseline", baseline, like=("reward", rewards)), sequences)
        baseline = np.repeat(baseline.astype(np.float64), tokens.length)
    if kind in ("reinforce_pp", "remax"):
        a = group_advantage(_to_go(r, tokens, gamma), None, kind, baseline=baseline, **conventions)
    else:
        if baseline is not None:
            raise TypeError(f"baseline is given, but kind is {kind!r}; only remax takes one")
        score = np.bincount(tokens.sequence, r, sequences).astype(np.float64, copy=False)  # of nothing: integers
        some = None if tokens.length.all() else tokens.length > 0
        a = np.repeat(
            group_advantage(score, group, kind, length=tokens.length, mask=some, **conventions), tokens.length
        )
    return at_home(reward)(tokens.spread(a, rewards.dtype))  # type: ignore[no-any-return]


def broadcast_to_tokens(
    advantage: ArrayLike, mask: ArrayLike | None = None, *, offsets: ArrayLike | None = None
) -> Array:
    """The advantage of each sample at each of its tokens, and 0 elsewhere.

      A[b,t] = A[b] where mask[b,t], else 0

    advantage (B,), float32 or float64; mask (B, T) bool, or B + 1 offsets of packed tokens (and a mask (L,), if wanted).
    Returns (B, T) or (L,), of the dtype of advantage.
    Shao et al. 2024, sec. 4.1.2, arXiv:2402.03300

    >>> broadcast_to_tokens([0.5, -0.5], [[True, True, True], [True, False, False]])
    array([[ 0.5,  0.5,  0.5],
           [-0.5,  0. ,  0. ]])
    >>> broadcast_to_tokens([0.5, -0.5], offsets=[0, 3, 4])
    array([ 0.5,  0.5,  0.5, -0.5])
    """
    a = as_floats("advantage", advantage)
    if a.ndim != 1:
        raise ValueError(f"advantage has shape {a.shape}; (B,) is wanted, one a sequence")
    tokens = Tokens.of(mask, offsets)
    if len(tokens.length) != len(a):
        raise ValueError(
            f"advantage has shape {a.shape}, but there are {len(tokens.length)} sequences; one a sequence is wanted"
        )
    return at_home(advantage)(tokens.spread(np.repeat(a, tokens.length), a.dtype))  # type: ignore[no-any-return]


def optimal_token_baseline(
    reward: ArrayLike,
    group: Any,
    log_prob: ArrayLike,
    sum_squares: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    offsets: ArrayLike | None = None,
    ratio: ArrayLike | None = None,
    align: str = "column",
    tail: str = "lone",
    singleton: float | str = 0.0,
    eps: float = 0.0,
) -> Array:
    """The advantage of each token over the optimal token baseline of its group.

      A[b,t] = G[b,t] - B[t],    B[t] = sum_b G[b,t] W[b,t] / (sum_b W[b,t] + eps),    over the group's tokens at t
      W[b,t] = sum_{j <= t} ratio[b,j]^2 (1 - 2 pi[b,j] + sum_v pi_v[b,j]^2),          G[b,t] = sum_{j >= t} r[b,j]

    1 - 2 pi + sum pi^2 is the squared norm of the score with respect to the logits, so W is what the path so far adds to the variance.
    B[t] = 0 where all W are 0. Li et al. 2026, arXiv:2602.07078

    log_prob: log pi of each token, as sampled; sum_squares: sum_v pi_v^2 at it, from `fastpg.token_log_prob`; ratio: importance weights.
    align: "column" compares tokens at the same place, gaps counted; "token" the n-th tokens, whatever lies between (several turns).
    tail: "lone" sets B = 0 where no other sequence of the group has a token; "longest" from the second longest's number of tokens on, in
        the one longest; "own" nowhere, so that a lone token is its own baseline.
    singleton: as in `group_advantage`: a number for every token of a group of one, "reward" for B = 0, "centered" for 0.
    With eps=0 a group whose returns are equal has advantage 0 exactly. verl: eps=1e-8, tail="longest", singleton="reward".

    reward, log_prob, sum_squares and ratio (B, T) with mask, or packed (L,) with offsets, all float32 or all float64; group one a sequence.
    Returns the shape and dtype of reward, 0 at masked places, which are never read.

    >>> optimal_token_baseline([[1.0, 0.0], [0.0, 0.0]], ["a", "a"], np.log([[0.5, 0.5], [0.5, 0.5]]), [[0.5, 0.5], [0.5, 0.5]])
    array([[ 0.5,  0. ],
           [-0.5,  0. ]])
    """
    for name, value, wanted in (("align", align, ("column", "token")), ("tail", tail, ("lone", "longest", "own"))):
        if value not in wanted:
            raise ValueError(f"{name} is {value!r}; one of {', '.join(wanted)} is wanted")
    _policy("singleton", singleton)
    eps = _number("eps", eps)
    rewards = as_floats("reward", reward)
    tokens = Tokens("reward", rewards.shape, mask, offsets)

    def of(name: str, value: Any) -> Array:
        return tokens.pick(name, as_floats(name, value, like=("reward", rewards))).astype(np.float64)

    r, lp, squares = of("reward", rewards), of("log_prob", log_prob), of("sum_squares", sum_squares)
    rho = None if ratio is None else of("ratio", ratio)
    codes, groups = _codes(group, len(tokens.length))
    with np.errstate(all="ignore"):
        w = 1 - 2 * np.exp(lp) + squares
        if rho is not None:
            w *= rho * rho
        g = _to_go(r, tokens, 1.0)
        first = np.zeros(tokens.size, bool)
        first[tokens.last - tokens.length[tokens.length > 0] + 1] = True
        w = _reward_to_go(w[::-1], first[::-1], 1.0)[::-1]
        sequence = tokens.sequence
        place, code = tokens.place if align == "column" else tokens.rank, codes[sequence]
        reach = np.zeros(groups, np.int64)
        np.maximum.at(reach, code, place + 1)
        key = (np.cumsum(reach) - reach)[code] + place
        size = int(reach.sum())
        x0 = _first(g, key, size)
        d = g - x0[key]
        below = np.bincount(key, w, size) + eps
        none = below == 0
        below[none] = 1
        over = np.where(none, x0, x0 * eps / below - np.bincount(key, d * w, size) / below)
        a = d + over[key]
        if tail == "lone":
            own = (np.bincount(key, minlength=size) == 1)[key]
        elif tail == "longest":
            own = _beyond_second(tokens.length, codes, groups)[sequence] <= place
        else:
            own = np.zeros(tokens.size, bool)
        alone = (np.bincount(codes, tokens.length > 0, groups) == 1)[code]
        a = np.where(own | (alone & (singleton == "reward")), g, a)
        if singleton != "reward":
            a = np.where(alone, (0.0 if singleton == "centered" else singleton) + 0 * g, a)
    return at_home(reward)(tokens.spread(a, rewards.dtype))  # type: ignore[no-any-return]


# --- keys


def _codes(group: Any, m: int) -> tuple[Array, int]:
    """A number in [0, groups) for each key; groups is O(m)."""
    if isinstance(group, (int, np.integer)) and not isinstance(group, bool):
        size = int(group)
        if size < 1 or m % size:
            raise ValueError(
                f"group is {size}, the size of consecutive groups; a divisor of the number of samples, {m}, is wanted"
            )
        return np.repeat(np.arange(m // size), size), m // size
    if isinstance(group, np.ma.MaskedArray):
        raise TypeError(
            "group is a masked array; a plain array is wanted, group.filled(...) says what stands in the gaps"
        )
    keys = group if isinstance(group, (list, tuple)) else np.asarray(group)
    if isinstance(keys, np.ndarray) and keys.ndim == 0:
        raise TypeError(
            f"group is {group!r}; a key for each of the {m} samples is wanted, or the size of consecutive groups"
        )
    if len(keys) != m or (isinstance(keys, np.ndarray) and keys.ndim != 1):
        shape = keys.shape if isinstance(keys, np.ndarray) else (len(keys),)
        raise ValueError(f"group has shape {shape}, but there are {m} samples; ({m},) is wanted, one key a sample")
    if isinstance(keys, np.ndarray) and m:
        if keys.dtype.kind not in "iubOUSTMm":
            raise TypeError(f"group has dtype {keys.dtype}; integers or strings are wanted")
        if keys.dtype.kind not in "OT":
            return _core.number_keys(keys)
        keys = keys.tolist()
    return _hashed(keys)


def _hashed(keys: Any) -> tuple[Array, int]:
    known: dict[Any, int] = defaultdict(count().__next__)
    try:
        codes = np.fromiter(map(known.__getitem__, keys), np.intp, len(keys))
    except TypeError:
        for i, key in enumerate(keys):
            try:
                hash(key)
            except TypeError:
                raise TypeError(
                    f"group[{i}] is a {type(key).__name__}, which cannot be a key; a string or an integer is wanted"
                ) from None
        raise
    for kind in set(map(type, known)):  # NaN is no key, and tensors are keys by what they are, not by what they hold
        if issubclass(kind, float) or hasattr(kind, "__dlpack__"):
            bad = next(key for key in known if type(key) is kind)
            raise TypeError(f"group holds {bad!r}; integers or strings are wanted")
    return codes, len(known)


# --- statistics, in float64


class _How(NamedTuple):
    kind: str
    baseline: str
    scale: str
    whiten: bool
    grouped: bool
    ddof: int
    eps: float
    singleton: float | str
    constant: float | None
    k: int | None
    alpha: float | str
    whiten_eps: float
    whiten_eps_in: str


def _one(x: Array, codes: Array, groups: int, tokens: Array | None, given: Array | None, how: _How) -> Array:
    """The advantages of one reward a sample, all of them scored."""
    if not how.grouped:
        a = x if given is None else x - given
        return _whitened(a, tokens, how) if how.whiten else a
    n = np.bincount(codes, minlength=groups)
    x0 = _first(x, codes, groups)
    d = x - x0[codes]
    mean = np.bincount(codes, d, groups) / np.maximum(n, 1)
    centred = d - mean[codes]
    leave_out = n / np.maximum(n - 1, 1)  # r - mean' = n / (n - 1) (r - mean)

    if how.baseline == "best":
        a = _of_best(x, codes, n, how.k)
    elif how.baseline == "length":
        assert tokens is not None
        weight = np.bincount(codes, tokens, groups)
        weighted = np.bincount(codes, d * tokens, groups) / np.where(weight > 0, weight, 1)
        a = np.where((weight > 0)[codes], d - weighted[codes], 0 * d)
    else:
        a = centred * leave_out[codes] if how.baseline == "others" else centred

    unit = 1.0  # the divisor of a singleton whose std counts as 1
    if how.scale == "group":
        std = np.sqrt(np.bincount(codes, centred * centred, groups) / np.maximum(n - how.ddof, 1)) + how.eps
        unit += how.eps
        a = a / np.where(std == 0, 1, std)[codes]
    elif how.scale == "batch":
        unit = (_batch_std(x, how.ddof) + how.eps) or 1.0
        a = a / unit
    elif how.scale == "others":
        others = _std_of_others(d, centred, codes, n, how.ddof)
        unit += how.eps
        a = a / np.where(others == 0, 1, others + how.eps)
    elif how.scale == "mean":
        if (x < 0).any():
            raise ValueError(f"reward holds {x.min()}; maxrl is defined for rewards of 0 and more")
        a = a / np.where(mean + x0 == 0, 1, mean + x0)[codes]

    fixed = np.zeros(groups, bool)  # groups whose advantage is a number by decree
    single = n == 1
    if single.any():
        at = single[codes]
        a[at] = x[at] / unit if how.singleton == "reward" else 0 * x[at]
        if not isinstance(how.singleton, str):
            fixed |= single
    if how.scale == "live" or how.constant is not None:
        varied = np.bincount(codes, d != 0, groups) > 0
        if how.scale == "live":
            counted = int(np.count_nonzero(x if how.alpha == "nonzero" else varied[codes]))
            a = a * (len(x) / max(counted, 1) if isinstance(how.alpha, str) else how.alpha)
        if how.constant is not None:
            fixed |= (n > 1) & ~varied
    if not fixed.any():
        return _whitened(a, tokens, how) if how.whiten else a
    held = fixed[codes]
    if how.whiten:
        a[~held] = _whitened(a[~held], None if tokens is None else tokens[~held], how)
    decreed = np.where(single, 0.0 if isinstance(how.singleton, str) else how.singleton, how.constant or 0.0)[codes]
    return np.where(held, decreed + 0 * x, a)


def _gdpo(x: Array, w: Array, codes: Array, groups: int, tokens: Array | None, how: _How, nan: str) -> Array:
    """Every reward normalised in its group, then the weighted sum, whitened."""
    each = how._replace(whiten=False)
    total = np.zeros(len(x))
    for j in range(x.shape[1]):
        at = np.flatnonzero(~np.isnan(x[:, j])) if nan == "unscored" else np.arange(len(x))
        total[at] += w[j] * _one(x[at, j], codes[at], groups, None if tokens is None else tokens[at], None, each)
    return _whitened(total, tokens, how) if how.whiten else total


def _first(x: Array, codes: Array, groups: int) -> Array:
    """One value of each group: differences from it are exact, and 0 in a group of equals."""
    first = np.zeros(groups)
    first[codes[::-1]] = x[::-1]
    return first


def _std_of_others(d: Array, centred: Array, codes: Array, n: Array, ddof: int) -> Array:
    """For each sample, the std of its group without it; 0 where that is undefined.

    The sum of squares without i is S - n / (n - 1) (x[i] - mean)^2, which is at least S / 4 for all but the farthest sample of a group
    of three or more. The farthest is left out in earnest: its difference may cancel to nothing.
    """
    groups = len(n)
    square = centred * centred
    total = np.bincount(codes, square, groups)
    far = np.zeros(groups)
    np.maximum.at(far, codes, square)
    tied = np.flatnonzero(square == far[codes])
    farthest = np.full(groups, -1)
    farthest[codes[tied[::-1]]] = tied[::-1]
    farthest = farthest[farthest >= 0]
    rest = np.ones(len(d))
    rest[farthest] = 0
    others = np.maximum(n - 1, 1)
    # One of the others as the new origin: an origin among them keeps equal others exactly equal.
    at = np.flatnonzero(rest)
    d = d - _first(d[at], codes[at], groups)[codes]
    e = (d - (np.bincount(codes, d * rest, groups) / others)[codes]) * rest
    left = total[codes] - square * (n / others)[codes]
    left[farthest] = np.bincount(codes, e * e, groups)[codes[farthest]]
    variance: Array = np.where(n[codes] > 2, np.maximum(left, 0), 0)
    variance /= np.maximum(n - 1 - ddof, 1)[codes]
    return np.sqrt(variance)


def _of_best(x: Array, codes: Array, n: Array, k: int | None) -> Array:
    """sum over subsets I of size k, i in I, of max I - max(I without i), over C(n, k): from gaps between ranks, never negative."""
    if k is not None and ((n > 1) & (n < k)).any():
        raise ValueError(f"k is {k}, but a group has {n[(n > 1) & (n < k)][0]} scored rewards; at least k are wanted")
    order = np.lexsort((x, codes))
    starts = np.cumsum(n) - n
    a = np.zeros(len(x))
    for size in np.unique(n[n > 1]):
        at = order[starts[n == size][:, None] + np.arange(size)]
        of = size if k is None else k
        rank = np.arange(size - 1, of - 2, -1)  # C(rank, k - 1) / C(size, k), from k / size at the top down
        share = np.zeros(size)
        share[rank] = of / size * np.cumprod(np.append(1.0, (rank[:-1] - of + 1) / rank[:-1]))
        ranked = x[at]
        a[at[:, 1:]] = np.cumsum(np.diff(ranked, axis=1) * share[1:], axis=1)
        a[at] += 0 * ranked.sum(axis=1, keepdims=True)
    return a


def _beyond_second(length: Array, codes: Array, groups: int) -> Array:
    """For the one longest sequence of a group, the length of the second longest; for all others, a place never reached."""
    never = np.iinfo(np.int64).max
    order = np.lexsort((length, codes))
    last = np.flatnonzero(np.append(codes[order][1:] != codes[order][:-1], True)[: len(order)])
    beyond = np.full(len(length), never)
    longest, second = order[last], order[np.maximum(last - 1, 0)]
    other = (last > 0) & (codes[longest] == codes[second]) & (length[longest] > length[second])
    beyond[longest[other]] = length[second[other]]
    return beyond


def _batch_std(x: Array, ddof: int) -> float:
    d = x - x[:1]
    d -= d.mean() if len(d) else 0.0
    return float(np.sqrt(np.square(d).sum() / max(len(d) - ddof, 1)))


def _whitened(a: Array, tokens: Array | None, how: _How) -> Array:
    """(a - mean) / s, each sample counted once, or once a token; 0 where all are equal."""
    weight = np.ones(len(a)) if tokens is None else tokens.astype(np.float64)
    total = weight.sum()
    if total == 0:
        return 0 * a
    d: Array = a - a[np.flatnonzero(weight)[0]]
    d -= (d * weight).sum() / total
    var = (d * d * weight).sum() / max(total - how.ddof, 1)
    if how.whiten_eps_in == "std":
        s = np.sqrt(var) + how.whiten_eps
    else:
        s = np.sqrt(var + how.whiten_eps if how.whiten_eps_in == "variance" else np.maximum(var, how.whiten_eps))
    d /= s if s != 0 else 1.0
    return d


def _to_go(r: Array, tokens: Tokens, gamma: float) -> Array:
    last = np.zeros(tokens.size, bool)
    last[tokens.last] = True
    return _reward_to_go(r, last, gamma)


def _reward_to_go(r: Array, last: Array, gamma: float) -> Array:
    return reward_to_go(r, None, last, None, gamma) if len(r) else r


# --- arguments


def _how(
    kind: str,
    ddof: Any,
    eps: Any,
    singleton: Any,
    constant: Any,
    scale: Any,
    nan: Any,
    k: Any,
    alpha: Any,
    whiten: Any,
    whiten_eps: Any,
    whiten_eps_in: Any,
) -> _How:
    own = _KINDS[kind]
    if isinstance(ddof, bool) or ddof not in (0, 1):
        raise ValueError(f"ddof is {ddof!r}; 0 or 1 is wanted")
    _policy("singleton", singleton)
    if constant is not None and (isinstance(constant, (bool, np.bool_, str)) or not isinstance(constant, Real)):
        raise TypeError(f"constant is {constant!r}; a number or None is wanted")
    if scale is not None:
        if scale not in ("group", "batch", "none"):
            raise ValueError(f"scale is {scale!r}; group, batch or none is wanted, or None for the kind's own")
        if not own.free_scale or (kind == "gdpo" and scale == "batch"):
            raise ValueError(f"scale is {scale!r}, but {kind} has a scale of its own; None is wanted")
    if nan not in ("propagate", "unscored"):
        raise ValueError(f"nan is {nan!r}; propagate or unscored is wanted")
    if k is not None:
        if kind != "pass_at_k":
            raise TypeError(f"k is given, but kind is {kind!r}; only pass_at_k takes one")
        if isinstance(k, bool) or not isinstance(k, Integral) or k < 2:
            raise ValueError(f"k is {k!r}; an integer of 2 or more is wanted")
    if isinstance(alpha, str):
        if alpha not in ("varied", "nonzero"):
            raise ValueError(f"alpha is {alpha!r}; varied, nonzero or a number is wanted")
    else:
        alpha = _number("alpha", alpha)
    if whiten is not None and not isinstance(whiten, (bool, np.bool_)):
        raise TypeError(f"whiten is {whiten!r}; True, False or None is wanted")
    if whiten_eps_in not in ("variance", "std", "floor"):
        raise ValueError(f"whiten_eps_in is {whiten_eps_in!r}; variance, std or floor is wanted")
    return _How(
        kind,
        own.baseline,
        own.scale if scale is None else scale,
        own.whiten if whiten is None else bool(whiten),
        own.grouped,
        int(ddof),
        _number("eps", eps),
        singleton,
        None if constant is None else float(constant),
        None if k is None else int(k),
        alpha,
        _number("whiten_eps", whiten_eps),
        whiten_eps_in,
    )


def _number(name: str, value: Any) -> float:
    if type(value) is float and 0 <= value < np.inf:
        return value
    if isinstance(value, (bool, np.bool_, str)) or not isinstance(value, Real):
        raise TypeError(f"{name} is {value!r}; a number of 0 or more is wanted")
    number = float(value)
    if not 0 <= number < np.inf:
        raise ValueError(f"{name} is {number}; a finite number of 0 or more is wanted")
    return number


def _policy(name: str, value: Any) -> None:
    if isinstance(value, str):
        if value not in ("reward", "centered"):
            raise ValueError(f"{name} is {value!r}; a number, reward or centered is wanted")
    elif isinstance(value, (bool, np.bool_)) or not isinstance(value, Real):
        raise TypeError(f"{name} is {value!r}; a number, reward or centered is wanted")


def _per_sample(name: str, array: Array, m: int) -> Array:
    if array.shape != (m,):
        raise ValueError(f"{name} has shape {array.shape}; ({m},) is wanted, one a sample")
    return array


def _lengths(length: Any, m: int) -> Array:
    tokens = _per_sample("length", as_index("length", length), m)
    if tokens.size and tokens.min() < 0:
        raise ValueError(f"length holds {tokens.min()}; numbers of tokens, 0 or more, are wanted")
    return tokens


def _weights(weight: Any, rewards: int) -> Array:
    if weight is None:
        return np.ones(rewards)
    w = as_array("weight", weight)
    if w.shape != (rewards,):
        raise ValueError(
            f"weight has shape {w.shape}, but reward has {rewards} rewards a sample; ({rewards},) is wanted"
        )
    return w.astype(np.float64)


# --- conventions of the field


def _presets() -> Mapping[str, Mapping[str, Any]]:
    verl_whitening = {"singleton": "reward", "whiten_eps": 1e-8, "whiten_eps_in": "variance"}
    floor = {"ddof": 0, "singleton": "centered", "whiten_eps": 1e-8, "whiten_eps_in": "floor"}
    presets: dict[str, dict[str, Any]] = {
        "trl": {"kind": "grpo", "ddof": 1, "eps": 1e-4, "singleton": 0.0, "nan": "unscored"},
        "trl_batch": {"kind": "grpo", "scale": "batch", "ddof": 1, "eps": 1e-4, "singleton": 0.0, "nan": "unscored"},
        "trl_rloo": {"kind": "rloo", "singleton": 0.0, "nan": "unscored"},
        "trl_rloo_normalized": {
            "kind": "rloo", "ddof": 1, "singleton": 0.0, "nan": "unscored", "whiten": True, "whiten_eps": 1e-4, "whiten_eps_in": "std",
        },
        "trl_gdpo": {
            "kind": "gdpo", "ddof": 1, "eps": 1e-4, "singleton": 0.0, "nan": "unscored", "whiten_eps": 1e-4, "whiten_eps_in": "std",
        },
        "verl": {"kind": "grpo", "ddof": 1, "eps": 1e-6, "singleton": "reward"},
        "verl_dr_grpo": {"kind": "dr_grpo", "singleton": "reward"},
        "verl_rloo": {"kind": "rloo", "singleton": "reward"},
        "verl_rloo_vectorized": {"kind": "rloo", "singleton": 0.0},
        "verl_opo": {"kind": "opo", "singleton": "reward"},
        "verl_gpg": {"kind": "gpg", "singleton": "reward", "alpha": "nonzero"},
        "verl_pass_at_k": {"kind": "pass_at_k", "scale": "group", "ddof": 1, "eps": 1e-6},
        "verl_remax": {"kind": "remax"},
        "verl_reinforce_pp": {"kind": "reinforce_pp", "ddof": 1, "whiten_eps": 1e-8, "whiten_eps_in": "variance"},
        "verl_reinforce_pp_baseline": {"kind": "reinforce_pp_baseline", "ddof": 1, **verl_whitening},
        "verl_gdpo": {"kind": "gdpo", "ddof": 1, "eps": 1e-6, **verl_whitening},
        "openrlhf": {"kind": "grpo", "ddof": 1, "eps": 1e-9, "singleton": np.nan},
        "openrlhf_rloo": {"kind": "rloo", "singleton": np.nan},
        "openrlhf_dr_grpo": {"kind": "dr_grpo", "singleton": 0.0},
        "openrlhf_reinforce_baseline": {"kind": "reinforce_pp_baseline", **floor},
        "nemo_rl": {"kind": "loo_std", "ddof": 1, "eps": 1e-6, "singleton": 0.0},
        "nemo_rl_reinforce_pp": {"kind": "reinforce_pp", **floor},
        "nemo_rl_reinforce_pp_baseline": {"kind": "reinforce_pp_baseline", **floor},
        "slime": {"kind": "grpo", "ddof": 1, "eps": 1e-6, "singleton": np.nan},
        "open_instruct": {"kind": "grpo", "ddof": 0, "eps": 1e-8, "singleton": 0.0},
        "open_instruct_centered": {"kind": "dr_grpo", "singleton": 0.0},
        "rlhf_book": {"kind": "grpo", "ddof": 1, "eps": 1e-8, "singleton": np.nan},
        "oat": {"kind": "grpo", "ddof": 1, "eps": 1e-8, "singleton": np.nan},
        "dr_grpo": {"kind": "dr_grpo", "singleton": 0.0},
    }  # fmt: skip
    return MappingProxyType({name: MappingProxyType(keywords) for name, keywords in presets.items()})


PRESETS = _presets()
