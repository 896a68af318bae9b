"""What is descended: losses over tokens or steps, their gradients in closed form, estimates of KL, corrections for an off-policy rollout.

    loss = sum of c l,    grad = d loss / d log_prob = c l',    one l and one share c for each token

A batch is padded, (B, T) with a bool `mask`, or packed, (M,) with `offsets` (B + 1 integers from 0 to M) and a mask where wanted; (M,)
alone is one sequence, as the steps of a classic minibatch are. `advantage` and `weight` may also have one item a sequence, (B,);
where packed sequences are as many as their tokens, it is one a token.

Masked slots. Nothing in them is read: garbage, NaN or inf there changes no bit of any result, and the gradient there is 0. NaN in any other
slot surfaces: in the loss, and in the gradient of that token, or of its sequence where the loss reads the sequence. A batch without a
single token has loss 0, gradient 0 and every statistic 0; a sequence without tokens adds nothing and counts in no mean.

Sums run in the dtype that came over at most 2,048 tokens at a time, and in double over what these give. No result depends on the number
of threads. CPU tensors of PyTorch and arrays of JAX are read through DLPack and answered in kind. Every function raises TypeError for
a wrong dtype or an option that a kind does not take, and ValueError for a wrong shape or range, naming the argument.
"""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastpg import _core
from fastpg._check import as_flags, as_floats, as_offsets, at_home, into, same_shape

__all__ = ["AGGREGATES", "OBJECTIVES", "kl_estimate", "policy_loss", "rollout_correction"]

Array = NDArray[Any]

_CLIP = {"clip_low": 0.2, "clip_high": 0.2}


class _Objective(NamedTuple):
    """The formula of csrc/objectives.h behind a name, and the options it takes with their defaults."""

    loss: str
    options: dict[str, Any]


_OBJECTIVES = {
    "reinforce": _Objective("reinforce", {}),
    "a2c": _Objective("reinforce", {}),
    "gpg": _Objective("reinforce", {}),
    "ppo": _Objective("ppo", {**_CLIP, "dual_clip": None, "delta": None, "level": "token"}),
    "ppo_kl": _Objective("ppo_kl", {"beta": 1.0}),
    "gspo": _Objective("ppo", {"clip_low": 3e-4, "clip_high": 4e-4, "dual_clip": None, "level": "sequence"}),
    "luspo": _Objective("ppo", {"clip_low": 2e-3, "clip_high": 2.5e-3, "dual_clip": None, "level": "sequence"}),
    "cispo": _Objective("cispo", {"clip_low": 1.0, "clip_high": 4.0, "level": "token"}),
    "sapo": _Objective("sapo", {"tau_pos": 1.0, "tau_neg": 1.05, "level": "token"}),
    "gmpo": _Objective("gmpo", {"clip_low": 0.4, "clip_high": 0.4}),
    "dppo_tv": _Objective("dppo_tv", {**_CLIP, "ratio_cap": 20.0}),
    "dppo_kl": _Objective("dppo_kl", {"clip_low": 0.05, "clip_high": 0.05, "ratio_cap": 20.0, "eps": 1e-8}),
    "clip_cov": _Objective("ppo", {**_CLIP, "dual_clip": None, "fraction": 2e-4, "cov_low": 1.0, "cov_high": 5.0}),
    "kl_cov": _Objective("kl_cov", {"fraction": 2e-4, "beta": 1.0}),
    "vespo": _Objective("vespo", {"k_pos": 2.0, "lambda_pos": 3.0, "k_neg": 3.0, "lambda_neg": 2.0}),
    "dro": _Objective("dro", {"beta": 0.05}),
    "ipo": _Objective("ipo", {"clip_low": 0.3, "clip_high": 0.3, "beta": 1e-3}),
    "topr": _Objective("topr", {}),
}
OBJECTIVES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {kind: MappingProxyType(objective.options) for kind, objective in _OBJECTIVES.items()}
)
_UNREAD = dict.fromkeys(
    ("clip_low", "clip_high", "beta", "ratio_cap", "eps", "k_pos", "lambda_pos", "k_neg", "lambda_neg"), 0.0
) | {
    "dual_clip": np.inf,
    "delta": np.inf,
    "tau_pos": 1.0,
    "tau_neg": 1.0,
}  # what the core is told of options that a kind lacks
AGGREGATES = ("token_mean", "token_sum", "seq_mean_token_sum", "seq_mean_token_mean")

_KL_KINDS = ("k1", "k2", "k3", "abs")
_KL_GRADIENTS = ("plain", "straight_through", "score", "importance")
_BOUND_GRADIENTS = ("saturate", "zero")
_LEVELS = ("token", "sequence")
_FREE = {"cov_low", "cov_high"}  # numbers of any sign


def policy_loss(
    kind: str,
    log_prob: ArrayLike,
    old_log_prob: ArrayLike | None,
    advantage: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    offsets: ArrayLike | None = None,
    aggregate: str = "token_mean",
    denominator: float | None = None,
    weight: ArrayLike | None = None,
    ref_log_prob: ArrayLike | None = None,
    kl: str = "k3",
    kl_coef: float = 0.0,
    kl_gradient: str = "plain",
    kl_bound: float | None = 20.0,
    kl_clip: float | None = None,
    kl_bound_gradient: str = "saturate",
    log_ratio_bound: float | None = 20.0,
    quantile: tuple[float, ...] = (),
    rng: np.random.Generator | None = None,
    out: Array | None = None,
    **options: Any,
) -> tuple[float, Array, dict[str, float]]:
    """The loss of a batch, its gradient with respect to log_prob, and statistics, in one pass.

      loss = sum over tokens of c (w l + kl_coef KL),    grad = c (w l' + kl_coef KL')

    l for each kind, with r = pi / old = exp(log_prob - old_log_prob), s = exp(mean of log r over the sequence), A = advantage,
    sg = no gradient passes; in brackets the options and their defaults:

      reinforce a2c gpg   -A log pi: three names of one formula                 Williams 1992; Mnih et al. 2016, arXiv:1602.01783;
                                                                                Chu et al. 2025, arXiv:2504.02546
      ppo                 -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)     [0.2, 0.2] Schulman et al. 2017, eq. 7, arXiv:1707.06347
                          dual_clip c > 1: at A < 0 no more than -c A           [None] Ye et al. 2020, arXiv:1912.09729
                          delta: min(r, delta) in the first term                [None] INTELLECT-2 2025, arXiv:2505.07291
                          level="sequence": s_t as in gspo for r                ["token"]
      ppo_kl              -r A + beta (r - 1 - log r)                           [1.0] Schulman et al. 2017, eq. 8, KL(old || pi) by k3
      gspo                ppo with s_t = sg(s) pi / sg(pi) for r                [3e-4, 4e-4] Zheng et al. 2025, eq. 7, 14, arXiv:2507.18071
      luspo               gspo times the sequence's tokens                      [2e-3, 2.5e-3] Liu et al. 2026, arXiv:2602.05261
      cispo               -sg(clip(r, 1 - clip_low, 1 + clip_high)) A log pi    [1, 4] MiniMax 2025, eq. 4-5, arXiv:2506.13585
      sapo                -(4 / tau) sigmoid(tau (r - 1)) A                     [tau_pos 1 at A > 0, else tau_neg 1.05] arXiv:2511.20347
      gmpo                -mean(A) exp(mean of clipped log r)                   [0.4, 0.4 of log r] Zhao et al. 2025, arXiv:2507.20673
      dppo_tv             -sg(min(r, ratio_cap)) A log pi, 0 where pi - old     [0.2, 0.2, ratio_cap 20] Qi et al. 2026, eq. 12,
                          leaves [-clip_low, clip_high] in A's direction        arXiv:2602.04879; the cap and sg are of their code
      dppo_kl             the same by KL of the pair (token, not token)         [0.05, 0.05, 20, eps 1e-8] ibid.
      clip_cov            ppo, less a random `fraction` of the tokens whose     [fraction 2e-4, cov_low 1, cov_high 5] Cui et al. 2025,
                          (A - mean A)(log pi - mean log pi) is in (low, high)  eq. 10-12, ppo for -r A, arXiv:2505.22617; draws from `rng`
      kl_cov              -r A + beta |log r| at the `fraction` of tokens whose [fraction 2e-4, beta 1] ibid., eq. 13-14, with |log r|,
                          covariance is largest                                 as their code has it, for KL(old || pi)
      vespo               -sg(W^k exp(lambda (1 - W))) A log pi, W = product    [k_pos 2, lambda_pos 3 at A >= 0, else k_neg 3,
                          of r and of weight over the sequence                  lambda_neg 2] arXiv:2602.10693
      dro                 -A log pi + beta / 2 (log r)^2                        [0.05] Richemond et al. 2024, arXiv:2405.19107
      ipo                 -r A + beta (log r)^2, without r A where pi - old     [0.3, 0.3, beta 1e-3] INTELLECT policy optimization of
                          leaves [-clip_low, clip_high]                         prime-rl; the bounds are of probability
      topr                -sg(T) A log pi, T = 1 at A >= 0, else                Le Roux et al. 2025, sec. 3, arXiv:2503.14286
                          min(1, product of r over the sequence)

    c, with n tokens in the sequence, D = denominator or, None, what the call holds of it:

      token_mean            1 / D, D tokens                 seq_mean_token_sum     1 / D, D sequences with a token
      token_sum             1 / D, D = 1                    seq_mean_token_mean    1 / (n D), D sequences with a token

    Give the global D when a batch comes in micro-batches or over workers: losses and gradients then add up to those of the whole batch
    (clip_cov and kl_cov pick from the batch in hand). GSPO, SAPO, GMPO and LUSPO are published with seq_mean_token_mean; Dr. GRPO is
    token_sum over a constant, Liu et al. 2025, arXiv:2503.20783; DAPO is ppo with clip_high 0.28 and token_mean, arXiv:2503.14476.

    weight: a factor on l, as from `rollout_correction`; tokens of weight 0 are dropped whatever they hold, but counted in D. gmpo takes
      its geometric mean over the sequence.
    ref_log_prob, kl_coef: adds a KL penalty; kl, kl_gradient, kl_bound, kl_clip, kl_bound_gradient as kind, gradient, log_ratio_bound,
      clip, bound_gradient of `kl_estimate`. The weight does not touch it.
    log_ratio_bound: log r is held in [-20, 20] before exp. Beyond, the loss is constant in log_prob and its gradient is 0, but for the
      kinds that multiply a stopped weight with log pi. None: no bound, and exp may overflow to inf. dro, topr and the penalties of kl_cov
      and ipo read log r as it is.
    old_log_prob: None where no ratio is read (reinforce, a2c, gpg).
    out: takes the gradient.

    stats: tokens, sequences; approx_kl_k1, _k2, _k3 of KL(old || pi), the last from log r as it is held; clip_fraction_low, _high, of
      tokens where that bound binds against A (cispo: at all), and _dual; killed_fraction, of tokens whose A is not 0 but whose gradient
      is; ratio_mean of r;
      effective_sample_size = (sum r)^2 / sum r^2, Kong 1992; and ratio_quantile_q for each q in `quantile`
      (0 and 1: the extremes), which costs a sort.

    log_prob, old_log_prob (B, T) or (M,), float32 or float64. Returns loss, grad with the shape and dtype of log_prob, stats.

    >>> loss, grad, stats = policy_loss("ppo", np.log([0.6, 0.5]), np.log([0.4, 0.5]), [1.0, -1.0])
    >>> round(loss, 3), grad, stats["clip_fraction_high"]    # r = 1.5 and 1: -(1.2 - 1) / 2
    (-0.1, array([0. , 0.5]), 0.5)
    """
    if kind not in _OBJECTIVES:
        raise ValueError(f"kind is {kind!r}; one of {', '.join(_OBJECTIVES)} is wanted")
    loss, defaults = _OBJECTIVES[kind]
    for name in options:
        if name not in defaults:
            takes = f"it takes {', '.join(defaults)}" if defaults else "it takes none"
            raise TypeError(f"{name} is no option of {kind}; {takes}")
    chosen_options = {**defaults, **{name: _option(name, value, defaults[name]) for name, value in options.items()}}
    b = _Batch("log_prob", log_prob, mask, offsets)
    if old_log_prob is None and loss != "reinforce":
        raise TypeError(
            f"old_log_prob is None; {kind} reads the ratio, an array shaped like log_prob {b.shape} is wanted"
        )
    old = b.tokens("old_log_prob", old_log_prob)
    a = b.tokens_or_sequences("advantage", advantage)
    w = b.tokens_or_sequences("weight", weight)
    ref = b.tokens("ref_log_prob", ref_log_prob)
    coef = _number("kl_coef", kl_coef)
    if ref is None and coef != 0:
        raise TypeError(
            f"ref_log_prob is None, but kl_coef is {kl_coef}; an array shaped like log_prob {b.shape} is wanted"
        )
    penalty = _kl_options(kl, kl_gradient, coef, kl_bound, kl_clip, kl_bound_gradient, "kl_")
    if aggregate not in AGGREGATES:
        raise ValueError(f"aggregate is {aggregate!r}; one of {', '.join(AGGREGATES)} is wanted")
    if denominator is not None and not _number("denominator", denominator) > 0:
        raise ValueError(f"denominator is {denominator}; a number above 0 is wanted, or None to count in this call")
    bound = _bound("log_ratio_bound", log_ratio_bound)
    chosen = None
    if "fraction" in defaults:
        chosen = _chosen(kind, b, old, a, chosen_options, rng)
        if kind == "clip_cov":
            w, chosen = np.where(chosen, 0, 1 if w is None else b.spread(w)).astype(b.x.dtype), None
    spec = {**_UNREAD, **{name: np.inf if value is None else value for name, value in chosen_options.items()}}
    spec |= {
        "by_sequence": chosen_options.get("level") == "sequence",
        "by_length": kind == "luspo",
        "mean_of_sequence": aggregate == "seq_mean_token_mean",
        "count_sequences": aggregate.startswith("seq"),
        "denominator": denominator if denominator is not None else float(aggregate == "token_sum"),
        "bound": bound,
    }
    sums: dict[str, float] = {}

    def run(target: Array | None) -> Array:
        grad = np.empty(b.shape, b.x.dtype) if target is None else target
        sums.update(
            _core.policy_loss(loss, spec, penalty, (b.x, old, a, w, ref, b.mask, chosen), grad, b.offsets, b.length)
        )
        return grad

    grad = at_home(log_prob)(into(out, b.shape, b.x.dtype, [b.x, old, a, w, ref], run))
    return sums["loss"], grad, _stats(sums) | _quantiles(quantile, b, old, bound)


def kl_estimate(
    log_prob: ArrayLike,
    ref_log_prob: ArrayLike,
    kind: str = "k3",
    *,
    gradient: str = "plain",
    old_log_prob: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    log_ratio_bound: float | None = 20.0,
    clip: float | None = None,
    bound_gradient: str = "saturate",
) -> tuple[Array, Array]:
    """An estimate of KL(pi || ref) at each sample of pi and its gradient with respect to log_prob, value and gradient chosen apart.

      x = log pi - log ref,    k1 = x,    k2 = x^2 / 2,    k3 = exp(-x) - 1 + x,    abs = |x|

    Schulman 2020, joschu.net/blog/kl-approx.html.

    k1 and k3 are unbiased, k3 >= 0 with less variance; the expectation of plain k2' alone is the gradient of KL. k3 is computed without
    cancellation, exact to rounding where x is small.

      gradient            value      grad
      plain               k          k'
      straight_through    k          x, the gradient of k2, whatever the bounds
      score               k          k' + k, with the score of pi itself: the unbiased gradient of E[k] on samples of pi
      importance          r k        r (k' + k), r = exp(log_prob - old_log_prob) on samples of old, held to [-20, 20] as in policy_loss
                                     Tang and Munos 2025, arXiv:2506.09477; DeepSeek-V3.2 2025, arXiv:2512.02556

    log_ratio_bound: x is held in [-bound, bound] first.    clip: the value is held in [-clip, clip] at the end.    None: no bound.
    bound_gradient: where a bound binds, "saturate" takes the gradient at the bound, so a far policy is still pulled back; "zero" is the
      true derivative of the value returned, as PyTorch's clamp has it, and leaves a far policy alone.

    log_prob, ref_log_prob, old_log_prob, mask of one shape, any number of axes, float32 or float64. Value and grad have that shape and
    dtype, 0 where masked, whatever stands there.

    >>> value, grad = kl_estimate([0.0], [1.0])
    >>> value.round(3), grad.round(3)    # e - 2 and 1 - e
    (array([0.718]), array([-1.718]))
    """
    x = as_floats("log_prob", log_prob)
    ref = _like("ref_log_prob", ref_log_prob, x)
    if gradient == "importance" and old_log_prob is None:
        raise TypeError(f"old_log_prob is None; gradient='importance' needs it, shaped like log_prob {x.shape}")
    old = None if old_log_prob is None else _like("old_log_prob", old_log_prob, x)
    flags = None if mask is None else np.ascontiguousarray(same_shape("mask", as_flags("mask", mask), "log_prob", x))
    options = _kl_options(kind, gradient, 1.0, log_ratio_bound, clip, bound_gradient, "")
    value, grad = np.empty(x.shape, x.dtype), np.empty(x.shape, x.dtype)
    _core.kl_estimate(options, 20.0, (np.ascontiguousarray(x), old, ref, flags), value, grad)
    return at_home(log_prob)((value, grad))  # type: ignore[no-any-return]


def rollout_correction(
    kind: str,
    log_prob: ArrayLike,
    rollout_log_prob: ArrayLike,
    *,
    level: str | None = None,
    gate: str | None = None,
    low: float | None = None,
    high: float | None = None,
    advantage: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    offsets: ArrayLike | None = None,
    log_ratio_bound: float | None = 20.0,
) -> tuple[Array, Array, dict[str, float]]:
    """Weights, and which tokens are kept, where the rollout's policy is not the one in training: inference engines, stale samples.

      d = log_prob - rollout_log_prob;  the ratio at level token: exp(d), sequence: exp(sum d), geometric: exp(mean d) over the sequence

      is        the ratio                                                       importance sampling, Precup et al. 2000
      tis       the ratio, held in [low, high]                                  truncated, Espeholt et al. 2018, sec. 4.1, arXiv:1802.01561
      mis       the ratio where the ratio at level `gate` is in [low, high],    masked; gate defaults to level. level "token" and gate
                else 0                                                          "geometric" is the seq-mask-tis of OpenRLHF and NeMo-RL
      icepop    mis at level token                                              Ling team 2025, arXiv:2510.18855
      opsm      1, or 0 where A < 0 and the mean of -d over the sequence        off-policy sequence mask, DeepSeek-V3.2 2025,
                exceeds high                                                    arXiv:2512.02556
      k1 k2 k3  1, or 0 where an estimate of KL(rollout || pi), -d, d^2 / 2,    rejection; level token, sum, mean or max over the
                exp(d) - 1 - d, leaves [low, high]                              sequence (max of k1: all of it in [low, high])

    Where `policy_loss` takes the result as `weight`, a rejected token is still counted in the mean; where it takes `keep` as `mask`, it is
    not. Several corrections combine as products of weights and of masks. level defaults to "token", and to "mean" for k1, k2, k3. low
    and high are None for no bound; a bound that a kind does not read is a TypeError. The gradient does not pass.

    log_ratio_bound: d, and its sum, are held in [-20, 20] before exp. log_prob is that of the policy in training, current or old. Shapes as
    in `policy_loss`; opsm needs `advantage`. Returns weight with the shape and dtype of log_prob, 0 where masked or rejected, keep (bool,
    False there), and stats: kept_fraction of tokens, kept_sequence_fraction (with a token kept), weight_mean, weight_max over all tokens,
    effective_sample_size = (sum w)^2 / sum w^2.

    >>> weight, keep, _ = rollout_correction("tis", np.log([0.8, 0.2]), np.log([0.2, 0.4]), high=2.0)
    >>> weight, keep
    (array([2. , 0.5]), array([ True,  True]))
    """
    levels = {
        "is": _WEIGHT_LEVELS,
        "tis": _WEIGHT_LEVELS,
        "mis": _WEIGHT_LEVELS,
        "icepop": ("token",),
        "opsm": ("mean",),
    }
    levels |= dict.fromkeys(("k1", "k2", "k3"), ("mean", "token", "sum", "max"))
    if kind not in levels:
        raise ValueError(f"kind is {kind!r}; one of {', '.join(levels)} is wanted")
    level = levels[kind][0] if level is None else level
    gate = level if gate is None else gate
    for name, value, known in (
        ("level", level, levels[kind]),
        ("gate", gate, levels[kind] if kind == "mis" else (level,)),
    ):
        if value not in known:
            raise ValueError(f"{name} is {value!r}; {' or '.join(map(repr, known))} is wanted for {kind}")
    b = _Batch("log_prob", log_prob, mask, offsets)
    rollout = b.tokens("rollout_log_prob", rollout_log_prob)
    if rollout is None:
        raise TypeError(f"rollout_log_prob is None; an array shaped like log_prob {b.shape} is wanted")
    if kind == "opsm" and (advantage is None or high is None):
        raise TypeError(f"{'advantage' if advantage is None else 'high'} is None; opsm needs it")
    for name, limit, without in (("low", low, ("is", "opsm")), ("high", high, ("is",))):
        if limit is not None and kind in without:
            raise TypeError(f"{name} is {limit!r}, but {kind} has no such bound; None is wanted")
    least = -np.inf if low is None else _number("low", low)
    most = np.inf if high is None else _number("high", high)
    if least > most:
        raise ValueError(f"low is {low} and high is {high}; low at most high is wanted")
    a = b.tokens_or_sequences("advantage", advantage) if advantage is not None else None
    at, sequence, count = b.where()
    bound = _bound("log_ratio_bound", log_ratio_bound)
    with np.errstate(all="ignore"):
        raw = (b.x.reshape(-1).astype(np.float64) - rollout.reshape(-1))[at]
        d = _held(raw, bound)

        def over_sequence(x: Array, how: str) -> Array:
            if how == "token":
                return x
            total = np.bincount(sequence, x, len(count))
            return (total / np.maximum(count, 1) if how in ("mean", "geometric") else total)[sequence]

        if kind in _WEIGHT_KINDS:
            w = np.exp(_held(over_sequence(raw, level), bound))
            if kind == "tis":
                w = np.where(w < least, least, np.where(w > most, most, w))
            elif kind != "is":
                gating = np.exp(_held(over_sequence(raw, gate), bound))
                w = np.where((gating < least) | (gating > most), 0, w)
            kept = w != 0
        else:
            if kind == "opsm":
                kept = ~((b.spread(a).reshape(-1)[at] < 0) & (over_sequence(-raw, "mean") > most))
            else:
                k = {"k1": -d, "k2": d * d / 2, "k3": np.expm1(d) - d}[kind]
                if level == "max":
                    outside = (k < least) | (k > most)
                    kept = np.bincount(sequence, outside, len(count))[sequence] == 0
                else:
                    k = over_sequence(k, level)
                    kept = ~((k < least) | (k > most))
            w = np.where(np.isnan(raw), raw, kept)
        weight, keep = np.zeros(b.x.size, b.x.dtype), np.zeros(b.x.size, bool)
        weight[at], keep[at] = w, kept
        n = max(len(at), 1)
        stats = {
            "kept_fraction": float(kept.sum() / n),
            "kept_sequence_fraction": len(np.unique(sequence[kept])) / max(int((count > 0).sum()), 1),
            "weight_mean": float(w.sum() / n),
            "weight_max": float(w.max(initial=0.0)),
            "effective_sample_size": float(w.sum() ** 2 / (w**2).sum()) if kept.any() else 0.0,
        }
    home = at_home(log_prob)
    return home(weight.reshape(b.shape)), home(keep.reshape(b.shape)), stats


_WEIGHT_LEVELS = ("token", "sequence", "geometric")
_WEIGHT_KINDS = ("is", "tis", "mis", "icepop")


# --- a batch, its options and its statistics


class _Batch:
    """Tokens of sequences: padded (B, T), packed (M,) with offsets, or (M,) as one sequence; dense, as the core reads them."""

    def __init__(self, name: str, anchor: Any, mask: Any, offsets: Any) -> None:
        array = as_floats(name, anchor)
        if array.ndim not in (1, 2):
            raise ValueError(f"{name} has shape {array.shape}; (B, T) is wanted, or (M,), with offsets for sequences")
        self.name, self.shape, self.x = name, array.shape, np.ascontiguousarray(array)
        if offsets is not None and array.ndim != 1:
            raise ValueError(f"offsets is given, but {name} has shape {array.shape}; (M,), packed, is wanted")
        self.offsets = None if offsets is None else as_offsets(offsets, len(array), name)
        self.length = int(array.shape[-1])
        self.sequences = array.shape[0] if array.ndim == 2 else 1 if self.offsets is None else len(self.offsets) - 1
        self.mask = None
        if mask is not None:
            self.mask = np.ascontiguousarray(same_shape("mask", as_flags("mask", mask), name, array))

    def tokens(self, name: str, value: Any) -> Array | None:
        return None if value is None else _like(name, value, self.x)

    def tokens_or_sequences(self, name: str, value: Any) -> Array | None:
        """As it comes: one item a token, or one a sequence."""
        if value is None:
            if name == "advantage":
                raise TypeError(f"advantage is None; an array shaped like log_prob {self.shape} is wanted")
            return None
        array = as_floats(name, value, like=(self.name, self.x))
        whole = self.x.ndim == 2 or self.offsets is not None
        if array.shape != self.shape and not (whole and array.shape == (self.sequences,)):
            also = f", or ({self.sequences},) for one a sequence" if whole else ""
            raise ValueError(
                f"{name} has shape {array.shape}, but {self.name} has {self.shape}; {self.shape} is wanted{also}"
            )
        return np.ascontiguousarray(array)

    def spread(self, array: Any) -> Array:
        """One item a token, from one a sequence."""
        if array.shape == self.shape:
            return array  # type: ignore[no-any-return]
        return np.repeat(array, self.length if self.offsets is None else np.diff(self.offsets)).reshape(self.shape)

    def where(self) -> tuple[Array, Array, Array]:
        """The unmasked tokens, the sequence of each, and how many each sequence has."""
        widths = np.full(self.sequences, self.length) if self.offsets is None else np.diff(self.offsets)
        sequence = np.repeat(np.arange(self.sequences), widths)
        at = np.arange(self.x.size) if self.mask is None else np.flatnonzero(self.mask)
        return at, sequence[at], np.bincount(sequence[at], minlength=self.sequences)


def _like(name: str, value: Any, x: Array) -> Array:
    return np.ascontiguousarray(same_shape(name, as_floats(name, value, like=("log_prob", x)), "log_prob", x))


def _number(name: str, value: Any) -> float:
    if type(value) is float and value == value:
        return value
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real) or value != value:
        raise TypeError(f"{name} is {value!r}; a number is wanted")
    return float(value)


def _bound(name: str, value: Any) -> float:
    """None means no bound."""
    if value is None:
        return float(np.inf)
    if not _number(name, value) > 0:
        raise ValueError(f"{name} is {value}; a number above 0 is wanted, or None for no bound")
    return float(value)


def _option(name: str, value: Any, default: Any) -> Any:
    if name == "level":
        if value not in _LEVELS:
            raise ValueError(f"level is {value!r}; 'token' or 'sequence' is wanted")
        if default == "sequence" and value != default:
            raise ValueError("level is 'token'; gspo and luspo read the ratio of the sequence, ppo that of the token")
        return value
    if value is None and default is None:
        return None
    number = _number(name, value)
    least = 1.0 if name == "dual_clip" else 0.0
    above = name in ("dual_clip", "delta", "tau_pos", "tau_neg", "ratio_cap", "fraction")
    if name not in _FREE and (number <= least if above else number < least):
        raise ValueError(f"{name} is {value}; a number {'above' if above else 'of at least'} {least:g} is wanted")
    if name == "fraction" and number > 1:
        raise ValueError(f"fraction is {value}; a number in (0, 1] is wanted")
    return number


def _kl_options(
    kind: str, gradient: str, coef: float, bound: Any, clip: Any, bound_gradient: str, prefix: str
) -> tuple[Any, ...]:
    for name, value, known in (
        (prefix.rstrip("_") or "kind", kind, _KL_KINDS),
        (prefix + "gradient", gradient, _KL_GRADIENTS),
        (prefix + "bound_gradient", bound_gradient, _BOUND_GRADIENTS),
    ):
        if value not in known:
            raise ValueError(f"{name} is {value!r}; one of {', '.join(known)} is wanted")
    return (
        _KL_KINDS.index(kind),
        _KL_GRADIENTS.index(gradient),
        bound_gradient == "zero",
        coef,
        _bound(prefix + "bound" if prefix else "log_ratio_bound", bound),
        _bound(prefix + "clip", clip),
    )


def _held(x: Array, bound: float) -> Array:
    return np.where(np.abs(x) > bound, np.copysign(bound, x), x)


def _chosen(kind: str, b: _Batch, old: Any, a: Any, options: dict[str, Any], rng: Any) -> Array:
    """Which tokens clip_cov leaves out, or kl_cov holds back, as flags shaped like log_prob."""
    at = b.where()[0]
    chosen = np.zeros(b.x.size, bool)
    if kind == "clip_cov" and not isinstance(rng, np.random.Generator):
        raise TypeError(
            f"rng is {rng!r}; clip_cov draws from a numpy.random.Generator, numpy.random.default_rng(seed) makes one"
        )
    if len(at) == 0:
        return chosen.reshape(b.shape)
    x, was = (array.reshape(-1)[at].astype(np.float64) for array in (b.x, old))
    gain = b.spread(a).reshape(-1)[at].astype(np.float64)
    with np.errstate(invalid="ignore"):
        covariance = (gain - gain.mean()) * (x - x.mean())
    count = max(1, int(options["fraction"] * len(at)))
    if kind == "kl_cov":
        least = np.partition(covariance, len(at) - count)[len(at) - count]
        above = covariance > least
        chosen[at[above]] = True
        chosen[at[covariance == least][: count - above.sum()]] = True  # of equals the first
    else:
        low, high = (
            np.log1p(-min(options["clip_low"], 1.0)) if options["clip_low"] < 1 else -np.inf,
            np.log1p(options["clip_high"]),
        )
        clipped = ((gain > 0) & (x - was > high)) | ((gain < 0) & (x - was < low))
        fits = at[(covariance > options["cov_low"]) & (covariance < options["cov_high"]) & ~clipped]
        chosen[fits[rng.permutation(len(fits))[:count]]] = True
    return chosen.reshape(b.shape)


def _stats(sums: dict[str, float]) -> dict[str, float]:
    n = sums["tokens"]
    per_token = 1 / n if n else 0.0
    squared = sums["ratio_squared"]
    return {
        "tokens": int(n),
        "sequences": int(sums["sequences"]),
        "approx_kl_k1": sums["k1"] * per_token,
        "approx_kl_k2": sums["k2"] * per_token,
        "approx_kl_k3": sums["k3"] * per_token,
        "clip_fraction_low": sums["low"] * per_token,
        "clip_fraction_high": sums["high"] * per_token,
        "clip_fraction_dual": sums["dual"] * per_token,
        "killed_fraction": sums["killed"] * per_token,
        "ratio_mean": sums["ratio"] * per_token,
        "effective_sample_size": sums["ratio"] ** 2 / squared if squared else 0.0,
    }


def _quantiles(quantile: Any, b: _Batch, old: Any, bound: float) -> dict[str, float]:
    try:
        quantile = tuple(quantile)
    except TypeError:
        raise TypeError(f"quantile is {quantile!r}; a tuple of numbers in [0, 1] is wanted") from None
    if not quantile:
        return {}
    if not all(0 <= _number("quantile", q) <= 1 for q in quantile):
        raise ValueError(f"quantile is {quantile}; numbers in [0, 1] are wanted")
    at = b.where()[0]
    with np.errstate(all="ignore"):
        x = b.x.reshape(-1)[at].astype(np.float64)
        r = np.exp(_held(x - (x if old is None else old.reshape(-1)[at]), bound))
        found = np.quantile(r, quantile) if len(r) else np.zeros(len(quantile))
    return {f"ratio_quantile_{q:g}": float(v) for q, v in zip(quantile, found, strict=True)}
