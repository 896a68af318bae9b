"""The conventions of the field's libraries, by name: each a frozen `Preset` that hands them to `policy_loss`, `group_advantage` and `gae`.

    preset = PRESETS["verl"]
    advantage = preset.group_advantage(reward, group)
    loss, grad, stats = preset.policy_loss(log_prob, old_log_prob, advantage, mask=mask)

A preset gives the numbers of that library's own function, to rounding; `dataclasses.replace(preset, ...)` changes one convention.
Read from their sources, mid-2026. The table is in docs/presets.md, written from the dataclasses by docs/presets.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastpg import objectives, returns
from fastpg._check import as_bound, as_flags, as_floats, at_home, same_shape
from fastpg._tokens import Tokens

__all__ = ["PRESETS", "Preset", "compare_presets"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Preset:
    """One library's conventions. None where it has none of that kind.

    >>> PRESETS["trl"].aggregate, PRESETS["verl"].options["dual_clip"]
    ('token_mean', 3.0)
    """

    name: str
    source: str  # where they were read
    objective: str = "ppo"  # the kind of policy_loss
    options: Mapping[str, Any] = field(default_factory=dict)  # and its options
    aggregate: str = "token_mean"
    empty_rows: bool = False  # whether a sequence without a token counts in a mean over sequences
    per_length: str | None = None  # token_sum over: "rows", all of them, or "kept_rows", with a token; times max_length
    log_ratio_bound: float | None = None
    kl: str | None = None  # of the penalty to the reference
    kl_gradient: str = "plain"
    kl_bound: float | None = None
    kl_clip: float | None = None
    kl_bound_gradient: str = "zero"  # PyTorch's clamp
    group: str | None = None  # the preset of fastpg.groups
    gamma: float | None = None
    lambda_: float | None = None
    time_limit: str | None = (
        None  # "bootstrap": V of the last state counts; "terminal": a time limit is taken for an end
    )
    whiten_ddof: int | None = None  # of the advantage, over what policy_loss is given
    whiten_eps: float = 0.0  # added to the standard deviation

    def policy_loss(
        self,
        log_prob: ArrayLike,
        old_log_prob: ArrayLike | None,
        advantage: ArrayLike,
        *,
        mask: ArrayLike | None = None,
        offsets: ArrayLike | None = None,
        max_length: float | None = None,
        **keywords: Any,
    ) -> tuple[float, Array, dict[str, float]]:
        """`fastpg.policy_loss` under these conventions: whitens the advantage where they say so, and finds the denominator.

        max_length: the constant of a library that divides by a length (per_length); the width T where left out. Every other keyword goes
        to `policy_loss` and wins over the preset: denominator, weight, ref_log_prob and kl_coef, clip_low...

        >>> loss, grad, stats = PRESETS["cleanrl"].policy_loss(np.log([0.6, 0.5]), np.log([0.4, 0.5]), [1.0, -1.0])
        >>> round(loss, 4)    # the advantage is divided by sqrt 2, its ddof 1 deviation
        -0.0707
        """
        x = as_floats("log_prob", log_prob)
        flags = None if mask is None else same_shape("mask", as_flags("mask", mask), "log_prob", x)
        chosen: dict[str, Any] = {
            **self.options,
            "aggregate": self.aggregate,
            "log_ratio_bound": self.log_ratio_bound,
            "kl_gradient": self.kl_gradient,
            "kl_bound": self.kl_bound,
            "kl_clip": self.kl_clip,
            "kl_bound_gradient": self.kl_bound_gradient,
            "denominator": self._denominator(x, flags, offsets, max_length),
        }
        if self.kl is not None:
            chosen["kl"] = self.kl
        if self.whiten_ddof is not None:
            advantage = self.whiten(advantage, mask)
        return objectives.policy_loss(
            self.objective, log_prob, old_log_prob, advantage, mask=mask, offsets=offsets, **{**chosen, **keywords}
        )

    def group_advantage(self, reward: ArrayLike, group: Any, **keywords: Any) -> Array:
        """`fastpg.group_advantage` under these conventions; ValueError where the library has no groups."""
        if self.group is None:
            raise ValueError(f"{self.name} has no advantage over groups; a preset that has one is wanted")
        from fastpg.groups import PRESETS as OF_GROUPS
        from fastpg.groups import group_advantage

        return group_advantage(reward, group, **{**OF_GROUPS[self.group], **keywords})

    def gae(
        self,
        reward: ArrayLike,
        value: ArrayLike,
        next_value: ArrayLike,
        terminated: ArrayLike,
        truncated: ArrayLike,
        **keywords: Any,
    ) -> Array:
        """`fastpg.gae` under these conventions; ValueError where the library has none.

        >>> args = [1.0], [0.0], [10.0], [False], [True]    # cut by a time limit
        >>> PRESETS["sb3"].gae(*args), PRESETS["cleanrl"].gae(*args)
        (array([10.9]), array([1.]))
        """
        if self.gamma is None or self.lambda_ is None:
            raise ValueError(f"{self.name} has no advantage over time; a preset that has one is wanted")
        te, tr = as_flags("terminated", terminated), as_flags("truncated", truncated)
        if self.time_limit == "terminal":
            te, tr = te | tr, np.zeros_like(tr)
        keywords = {"gamma": self.gamma, "lambda_": self.lambda_, **keywords}
        return returns.gae(reward, value, next_value, te, tr, **keywords)

    def whiten(self, advantage: ArrayLike, mask: ArrayLike | None = None) -> Array:
        """(A - mean) / (std + eps) over the unmasked items, 0 elsewhere; A as it is where the library does not whiten.

        Equal items give 0 exactly. Fewer than ddof + 1 have no deviation and come back as they are.

        >>> PRESETS["spinningup"].whiten([1.0, 3.0])
        array([-1.,  1.])
        """
        a = as_floats("advantage", advantage)
        keep = np.ones(a.shape, bool) if mask is None else same_shape("mask", as_flags("mask", mask), "advantage", a)
        if self.whiten_ddof is None or keep.sum() <= self.whiten_ddof:
            return advantage  # type: ignore[return-value]
        some = a[keep].astype(np.float64)
        result = np.zeros_like(a)
        with np.errstate(invalid="ignore"):
            some -= some[0]  # exact between equals
            result[keep] = (some - some.mean()) / (some.std(ddof=self.whiten_ddof) + self.whiten_eps or 1.0)
        return at_home(advantage)(result)  # type: ignore[no-any-return]

    def _denominator(self, x: Array, mask: Array | None, offsets: Any, max_length: float | None) -> float | None:
        longest = None if max_length is None else as_bound("max_length", max_length)
        by_rows = self.empty_rows and self.aggregate.startswith("seq")
        if not by_rows and self.per_length is None:
            return None
        if offsets is None and x.ndim == 1:
            offsets = [0, len(x)]
        rows = x.shape[0] if offsets is None else len(np.asarray(offsets)) - 1
        if by_rows:
            return float(max(rows, 1))
        if self.per_length == "kept_rows":
            rows = int(np.count_nonzero(Tokens("log_prob", x.shape, mask, offsets).length))
        if longest is None and x.ndim != 2:
            raise TypeError(
                f"max_length is None; {self.name} divides by a length, and packed sequences have no width to take it from"
            )
        return float(max(rows, 1)) * (float(x.shape[1]) if longest is None else longest) or 1.0


def _presets() -> Mapping[str, Preset]:
    clip = {"clip_low": 0.2, "clip_high": 0.2}
    trl = Preset(
        "trl", "trl/trainer/grpo_trainer.py, f2cd577, loss_type dapo, its default", options=clip, kl="k3", group="trl"
    )
    verl = Preset(
        "verl", "verl/trainer/ppo/core_algos.py, 1dda039, vanilla", options={**clip, "dual_clip": 3.0}, log_ratio_bound=20.0,
        kl="k3", kl_bound=20.0, kl_clip=10.0, group="verl", gamma=1.0, lambda_=1.0, time_limit="terminal",
    )  # fmt: skip
    by_sequence: dict[str, Any] = {"aggregate": "seq_mean_token_mean"}

    def of_trl(name: str, **changes: Any) -> Preset:
        return dataclasses.replace(
            trl, name=f"trl_{name}", source=f"trl/trainer/grpo_trainer.py, f2cd577, loss_type {name}", **changes
        )

    def of_verl(name: str, loss: str, **changes: Any) -> Preset:
        return dataclasses.replace(
            verl, name=f"verl_{name}", source=f"verl/trainer/ppo/core_algos.py, 1dda039, {loss}", **changes
        )

    classic: dict[str, Any] = {"options": clip, "gamma": 0.99, "lambda_": 0.95, "whiten_ddof": 1, "whiten_eps": 1e-8}
    found = [
        trl,
        of_trl("grpo", **by_sequence, empty_rows=True),
        of_trl("bnpo"),
        of_trl("dr_grpo", aggregate="token_sum", per_length="rows"),
        dataclasses.replace(
            of_trl("gspo", objective="ppo", options={**clip, "level": "sequence"}, **by_sequence, empty_rows=True),
            source="trl/trainer/grpo_trainer.py, f2cd577, loss_type grpo, importance_sampling_level sequence",
        ),
        of_trl("cispo", objective="cispo", options={"clip_low": 1.0, "clip_high": 4.0}),
        of_trl("sapo", objective="sapo", options={"tau_pos": 1.0, "tau_neg": 1.05}, **by_sequence, empty_rows=True),
        of_trl("luspo", objective="luspo", options=clip, **by_sequence, empty_rows=True),
        of_trl("vespo", objective="vespo", options={}),
        verl,
        of_verl("gspo", "gspo", objective="gspo", options=clip, log_ratio_bound=10.0, **by_sequence),
        of_verl("sapo", "sapo", objective="sapo", options={"tau_pos": 1.0, "tau_neg": 1.05}, **by_sequence),
        of_verl("gmpo", "geo_mean", objective="gmpo", options=clip, log_ratio_bound=None, **by_sequence, empty_rows=True),
        of_verl("cispo", "cispo", objective="cispo", options=clip),
        of_verl("gpg", "gpg", objective="gpg", options={}, group="verl_gpg"),
        of_verl("dro", "dro", objective="dro", options={"beta": 0.05}),
        of_verl("dppo_tv", "dppo_tv", objective="dppo_tv", options={**clip, "ratio_cap": 20.0}),
        of_verl("dppo_kl", "dppo_kl", objective="dppo_kl", options={**clip, "ratio_cap": 20.0}),
        of_verl("kl_cov", "kl_cov", objective="kl_cov", options={"fraction": 2e-4, "beta": 1.0}, log_ratio_bound=None),
        of_verl("clip_cov", "clip_cov", objective="clip_cov", options={**clip, "fraction": 2e-4}, log_ratio_bound=None),
        of_verl("seq_norm", "vanilla, seq-mean-token-sum-norm", aggregate="token_sum", per_length="kept_rows"),
        Preset(
            "openrlhf", "openrlhf/models/loss.py, 3c3be62, PolicyLoss", options=clip, log_ratio_bound=20.0, kl="k1",
            kl_clip=10.0, group="openrlhf", gamma=1.0, lambda_=0.95, time_limit="terminal",
        ),
        Preset(
            "nemo_rl", "nemo_rl/algorithms/loss/loss_functions.py, 7ea279a, ClippedPGLossFn", options=clip, kl="k3",
            kl_gradient="score", kl_bound=20.0, kl_clip=10.0, group="nemo_rl",
        ),
        Preset(
            "slime", "slime/utils/ppo_utils.py, 624b824, compute_policy_loss", options=clip, **by_sequence, empty_rows=True,
            kl="k3", kl_clip=10.0, group="slime",
        ),
        Preset(
            "open_instruct", "open_instruct/grpo_utils.py, e6c3044, compute_grpo_loss, dapo", options=clip, kl="k3",
            kl_bound=40.0, group="open_instruct",
        ),
        Preset(
            "dr_grpo", "arXiv:2503.20783", options=clip, aggregate="token_sum", per_length="rows", group="dr_grpo",
        ),
        Preset(
            "dapo", "arXiv:2503.14476", options={"clip_low": 0.2, "clip_high": 0.28}, group="trl",
        ),
        Preset("sb3", "stable_baselines3/ppo/ppo.py, e05d2db", time_limit="bootstrap", **classic),
        Preset("cleanrl", "cleanrl/ppo.py, fe8d8a0", time_limit="terminal", **classic),
        Preset(
            "spinningup", "spinup/algos/pytorch/ppo/ppo.py, 038665d", options=clip, gamma=0.99, lambda_=0.97,
            time_limit="bootstrap", whiten_ddof=0,
        ),
    ]  # fmt: skip
    return MappingProxyType({preset.name: preset for preset in found})


PRESETS = _presets()
_DESCRIPTION = ("name", "source")


def compare_presets(batch: Mapping[str, Any], one: str | Preset = "trl", other: str | Preset = "verl") -> None:
    """Prints how two libraries differ on one batch, term by term: starting from the first, one convention after another is changed to
    the second's, with the loss and the norm of its gradient after each change.

    batch: the arguments of `Preset.policy_loss` by name, with `reward` and `group`, one a sequence, in place of `advantage` where each
    library is to make its own. A preset goes by its name, or comes itself.

    >>> batch = dict(log_prob=np.log([[0.9, 0.5]]), old_log_prob=np.log([[0.2, 0.5]]), advantage=np.array([[-1.0, 1.0]]))
    >>> compare_presets(batch, "trl", "verl")
    term                 trl                  verl                 loss         |grad|
                                                                   1.75         2.305
    options              0.2, 0.2             0.2, 0.2, dual 3.0   1            0.5
    log_ratio_bound      None                 20.0                 1            0.5
    group                trl                  verl                 1            0.5
    """
    presets = [_preset("one", one), _preset("other", other)]
    arguments = dict(batch)
    penalised = arguments.get("ref_log_prob") is not None
    names = [f.name for f in dataclasses.fields(Preset) if f.name not in _DESCRIPTION]
    over_time = {"gamma", "lambda_", "time_limit"}  # policy_loss does not read them
    of_kl = {name for name in names if name.startswith("kl")}
    differing = [
        name for name in names
        if getattr(presets[0], name) != getattr(presets[1], name) and name not in over_time and (penalised or name not in of_kl)
    ]  # fmt: skip
    rows = [("term", presets[0].name, presets[1].name, "loss", "|grad|")]

    def measured(preset: Preset) -> tuple[str, str]:
        given = dict(arguments)
        if "reward" in given:
            given["advantage"] = preset.group_advantage(given.pop("reward"), given.pop("group"))
        loss, grad, _ = preset.policy_loss(**given)
        return f"{loss:.4g}", f"{np.sqrt((np.asarray(grad, np.float64) ** 2).sum()):.4g}"

    now = presets[0]
    rows.append(("", "", "", *measured(now)))
    together = ("objective", "options")  # the options of one kind are none of another's
    while differing:
        name = differing.pop(0)
        changes = {name: getattr(presets[1], name)}
        if name in together:
            changes = {n: getattr(presets[1], n) for n in together}
            differing = [n for n in differing if n not in together]
            name = "objective" if presets[0].objective != presets[1].objective else "options"
        now = dataclasses.replace(now, **changes)
        rows.append((name, _short(presets[0], name), _short(presets[1], name), *measured(now)))
    widths = [*(max(21, *(len(row[k]) + 2 for row in rows)) for k in range(3)), 13, 0]
    for row in rows:
        print("".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _preset(argument: str, preset: str | Preset) -> Preset:
    if isinstance(preset, Preset):
        return preset
    if preset not in PRESETS:
        raise ValueError(f"{argument} is {preset!r}; one of {', '.join(PRESETS)} is wanted, or a Preset")
    return PRESETS[preset]


def _short(preset: Preset, name: str) -> str:
    """A convention in a few characters."""
    if name not in ("options", "objective"):
        return str(getattr(preset, name))
    kind = "" if name == "options" else f"{preset.objective} "
    known = {"clip_low": "", "clip_high": "", "dual_clip": "dual "}
    return kind + ", ".join(f"{known.get(n, n + ' ')}{v}" for n, v in preset.options.items())
