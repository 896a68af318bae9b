"""Presets against the functions of the libraries themselves, where these are installed, on random batches in float64.

A method of a trainer is called on a stub that answers what it asks for: the log-probabilities are the leaf that it differentiates.
"""

import dataclasses
from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest

import fastpg
from fastpg.presets import PRESETS

torch = pytest.importorskip("torch")

SHAPE = (6, 9)
AGGREGATES = {
    "token-mean": "token_mean",
    "seq-mean-token-sum": "seq_mean_token_sum",
    "seq-mean-token-mean": "seq_mean_token_mean",
    "token-sum": "token_sum",
}


def batch(seed):
    """log_prob, old, advantage of tokens, mask; ratios on both sides of every clip, holes in the mask, a sequence of one token."""
    rng = np.random.default_rng(seed)
    x = -0.05 - 2 * rng.random(SHAPE)
    old = np.minimum(x + 0.5 * rng.standard_normal(SHAPE), -0.01)
    mask = (np.arange(SHAPE[1]) < rng.integers(2, SHAPE[1] + 1, SHAPE[0])[:, None]) & (rng.random(SHAPE) < 0.9)
    mask[0] = np.arange(SHAPE[1]) == 0
    return x, old, rng.standard_normal(SHAPE), mask


def same(got, loss, leaf, tolerance):
    loss.backward()
    assert got[0] == pytest.approx(loss.item(), rel=tolerance, abs=tolerance)
    np.testing.assert_allclose(got[1], leaf.grad.numpy(), rtol=tolerance, atol=tolerance)


# --- verl


class Config(dict):
    """What verl reads of an ActorConfig, as attributes and by `get`."""

    __getattr__ = dict.__getitem__


@pytest.fixture
def verl(monkeypatch):
    verl = pytest.importorskip("verl.trainer.ppo.core_algos", exc_type=ImportError)
    monkeypatch.setattr(verl, "ActorConfig", Config)  # some of the losses insist on one
    return verl


def verl_loss(verl, name, x, old, a, mask, aggregate, weight=None):
    config = Config(
        clip_ratio=0.2, clip_ratio_low=0.2, clip_ratio_high=0.28, clip_ratio_c=20.0 if "dppo" in name else 3.0, tau_pos=1.0, tau_neg=1.05,
        global_batch_info={},
        policy_loss=Config(
            clip_cov_ratio=1.0, clip_cov_lb=0.0, clip_cov_ub=50.0, kl_cov_ratio=0.2, ppo_kl_coef=0.7, dro_beta=0.05,
        ),
    )  # fmt: skip
    leaf = torch.tensor(x, requires_grad=True)
    arrays = torch.tensor(old), leaf, torch.tensor(a), torch.tensor(mask.astype(float))
    more = {} if weight is None else {"rollout_is_weights": torch.tensor(weight)}
    loss, _ = verl.get_policy_loss_fn(name)(*arrays, aggregate, config, **more)
    return loss, leaf


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", "vanilla gspo sapo geo_mean cispo gpg dro dppo_tv dppo_kl clip_cov kl_cov".split())
def test_verl_policy_losses(verl, name, seed):
    preset = PRESETS[{"vanilla": "verl", "geo_mean": "verl_gmpo"}.get(name, f"verl_{name}")]
    x, old, a, mask = batch(seed)
    change = {"clip_high": 0.28} if "clip_high" in preset.options else {}
    change |= {
        "clip_cov": {"cov_low": 0.0, "cov_high": 50.0, "fraction": 1.0, "rng": np.random.default_rng(0)},
        "kl_cov": {"fraction": 0.2, "beta": 0.7},
    }.get(name, {})
    own = preset.aggregate != "token_mean"  # gspo, sapo and geo_mean aggregate in one way
    for aggregate, ours in AGGREGATES.items():
        if own and ours != preset.aggregate:
            continue
        loss, leaf = verl_loss(verl, name, x, old, a, mask, aggregate)
        got = dataclasses.replace(preset, aggregate=ours).policy_loss(x, old, a, mask=mask, **change)
        same(
            got, loss, leaf, 1e-7 if "mean_token_mean" in ours else 1e-12
        )  # verl adds 1e-8 to the length of a sequence


def test_verl_rollout_weights_and_the_norm_by_length(verl):
    x, old, a, mask = batch(3)
    weight = np.random.default_rng(0).random(SHAPE)
    loss, leaf = verl_loss(verl, "vanilla", x, old, a, mask, "token-mean", weight)
    same(PRESETS["verl"].policy_loss(x, old, a, mask=mask, weight=weight, clip_high=0.28), loss, leaf, 1e-12)
    loss, leaf = verl_loss(verl, "vanilla", x, old, a, mask, "seq-mean-token-sum-norm")
    same(PRESETS["verl_seq_norm"].policy_loss(x, old, a, mask=mask, clip_high=0.28), loss, leaf, 1e-12)


@pytest.mark.parametrize("kind", ["k1", "k2", "k3", "abs", "k1+", "k3+"])
def test_verl_kl_penalties(verl, kind):
    x, ref, _, _ = batch(4)
    ref[0, :2] = x[0, :2] + (30, -30)  # beyond the bounds
    preset = PRESETS["verl"]
    leaf = torch.tensor(x, requires_grad=True)
    wanted = verl.kl_penalty(leaf, torch.tensor(ref), kind)
    wanted.sum().backward()
    bounds = (
        {"log_ratio_bound": preset.kl_bound, "clip": preset.kl_clip} if kind[:2] == "k3" else {"log_ratio_bound": None}
    )
    value, grad = fastpg.kl_estimate(
        x, ref, kind.rstrip("+"), gradient="straight_through" if "+" in kind else "plain", bound_gradient=preset.kl_bound_gradient, **bounds
    )  # fmt: skip
    np.testing.assert_allclose(value, wanted.detach().numpy(), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(grad, leaf.grad.numpy(), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_verl_value_loss(verl, aggregate):
    rng = np.random.default_rng(5)
    value, target, old = rng.standard_normal((3, *SHAPE))
    mask = batch(5)[3]
    leaf = torch.tensor(value, requires_grad=True)
    arrays = torch.tensor(target), torch.tensor(old), torch.tensor(mask.astype(float))
    loss, _ = verl.compute_value_loss(leaf, *arrays, cliprange_value=0.5, loss_agg_mode=aggregate)
    got = fastpg.value_loss(value, target, old, clip=0.5, mask=mask, aggregate=AGGREGATES[aggregate])
    same(got, loss, leaf, 1e-7 if aggregate == "seq-mean-token-mean" else 1e-12)


# --- TRL


TRL_LOSSES = {
    "trl": ("dapo", "token"), "trl_grpo": ("grpo", "token"), "trl_bnpo": ("bnpo", "token"), "trl_dr_grpo": ("dr_grpo", "token"),
    "trl_gspo": ("grpo", "sequence"), "trl_cispo": ("cispo", "token"), "trl_sapo": ("sapo", "token"), "trl_luspo": ("luspo", "sequence"),
    "trl_vespo": ("vespo", "token"),
}  # fmt: skip


@pytest.fixture(scope="module")
def grpo_trainer():
    pytest.importorskip("trl")
    return pytest.importorskip("trl.trainer.grpo_trainer", exc_type=(ImportError, RuntimeError)).GRPOTrainer


@pytest.mark.parametrize("beta", [0.0, 0.1])
@pytest.mark.parametrize("name", TRL_LOSSES)
def test_trl_losses(grpo_trainer, name, beta):
    preset, (kind, level) = PRESETS[name], TRL_LOSSES[name]
    x, old, a, mask = batch(6)
    old[1:4, 0] = x[1:4, 0] + (-200, 200, -2)  # beyond every clip: ratios of e^200, e^-200 and e^2
    mask[1:4, 0] = True
    mask[4] = False
    a, ref = a[:, 0], x + 0.3 * a
    leaf = torch.tensor(x, requires_grad=True)
    accelerator = SimpleNamespace(num_processes=1, gather=lambda v: v, reduce=lambda v, reduction: v)
    args = SimpleNamespace(
        use_bias_correction_kl=False, delta=None, steps_per_generation=1, sapo_temperature_pos=1.0, sapo_temperature_neg=1.05,
        vespo_k_pos=2.0, vespo_lambda_pos=3.0, vespo_k_neg=3.0, vespo_lambda_neg=2.0,
    )  # fmt: skip
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (leaf, leaf.detach(), None), args=args, accelerator=accelerator,
        aux_loss_enabled=False, top_entropy_quantile=1.0, off_policy_mask_threshold=None, importance_sampling_level=level, beta=beta,
        loss_type=kind, epsilon_low=0.2, epsilon_high=5.0 if kind == "cispo" else 0.2, use_vllm=False,
        vllm_importance_sampling_correction=False, model=SimpleNamespace(training=True), current_gradient_accumulation_steps=1,
        max_completion_length=SHAPE[1], _entropy_bonus_enabled=False, _metrics=defaultdict(lambda: defaultdict(list)),
        get_gamma_weights=grpo_trainer.get_gamma_weights,
    )  # fmt: skip
    ids, kept = torch.zeros(SHAPE, dtype=torch.long), torch.tensor(mask.astype(int))
    inputs = {
        "prompt_ids": ids, "prompt_mask": kept, "completion_ids": ids, "completion_mask": kept, "advantages": torch.tensor(a),
        "old_per_token_logps": torch.tensor(old), "ref_per_token_logps": torch.tensor(ref), "num_items_in_batch": kept.sum(),
    }  # fmt: skip
    loss = grpo_trainer._compute_loss(trainer, None, inputs)
    penalty = {"ref_log_prob": ref, "kl_coef": beta} if beta else {}
    if kind == "luspo":  # whose ratio is one a sequence: the penalty is then added to it at each token
        penalty = {}
        if beta:
            pytest.skip("TRL adds the penalty of a token once, and the loss of its sequence at each token")
    got = preset.policy_loss(x, old, a, mask=mask, **penalty)
    same(got, loss, leaf, 1e-6 if kind == "sapo" else 1e-12)  # TRL keeps the temperature in float32
    stats = trainer._metrics["train"]
    if "clip_ratio/low_mean" in stats and level == "token":
        assert got[2]["clip_fraction_low"] == pytest.approx(stats["clip_ratio/low_mean"][0], rel=1e-6)
        assert got[2]["clip_fraction_high"] == pytest.approx(stats["clip_ratio/high_mean"][0], rel=1e-6)


# --- Stable-Baselines3


@pytest.mark.parametrize("clip_vf", [None, 0.4])
def test_stable_baselines3_ppo_train(clip_vf):
    ppo = pytest.importorskip("stable_baselines3").PPO
    rng = np.random.default_rng(7)
    x, old, a = (array.reshape(-1) for array in batch(7)[:3])
    value, target, old_value = rng.standard_normal((3, x.size))
    leaf, value_leaf = (torch.tensor(array, requires_grad=True) for array in (x, value))
    names = {
        "old_log_prob": old,
        "advantages": a,
        "returns": target,
        "old_values": old_value,
        "actions": x,
        "observations": x,
    }
    minibatch = SimpleNamespace(**{name: torch.tensor(array) for name, array in names.items()})
    recorded = {}
    algorithm = SimpleNamespace(
        policy=SimpleNamespace(
            set_training_mode=lambda _: None, evaluate_actions=lambda *_: (value_leaf, leaf, None), parameters=lambda: [],
            optimizer=SimpleNamespace(zero_grad=lambda: None, step=lambda: None),
        ),
        _update_learning_rate=lambda _: None, clip_range=lambda _: 0.2, clip_range_vf=clip_vf and (lambda _: clip_vf),
        _current_progress_remaining=1.0, n_epochs=1,
        rollout_buffer=SimpleNamespace(get=lambda _: [minibatch], values=old_value, returns=target),
        batch_size=x.size, action_space=None, normalize_advantage=True, ent_coef=0.0, vf_coef=0.5, target_kl=None, max_grad_norm=0.5,
        _n_updates=0, logger=SimpleNamespace(record=lambda name, given, **_: recorded.update({name: given})),
    )  # fmt: skip
    ppo.train(algorithm)
    loss, grad, stats = PRESETS["sb3"].policy_loss(x, old, a)
    assert loss == pytest.approx(recorded["train/policy_gradient_loss"], rel=1e-12)
    np.testing.assert_allclose(grad, leaf.grad.numpy(), rtol=1e-12, atol=1e-16)
    assert stats["approx_kl_k3"] == pytest.approx(recorded["train/approx_kl"], rel=1e-12)
    clipped = {} if clip_vf is None else {"old_value": old_value, "clip": clip_vf, "clip_kind": "only"}
    loss, grad = fastpg.value_loss(value, target, factor=1.0, **clipped)
    assert loss == pytest.approx(recorded["train/value_loss"], rel=1e-12)
    np.testing.assert_allclose(0.5 * grad, value_leaf.grad.numpy(), rtol=1e-12, atol=1e-16)
    assert fastpg.explained_variance(old_value, target) == pytest.approx(
        recorded["train/explained_variance"], rel=1e-12
    )
