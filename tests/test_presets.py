"""Presets against the numbers that each library's own function gave, in tests/cases."""

import dataclasses
import json
import runpy
from pathlib import Path

import numpy as np
import pytest

from fastpg import categorical
from fastpg.presets import PRESETS, compare_presets

CASES = Path(__file__).parent / "cases"


def load(name):
    cases = json.loads((CASES / f"{name}.json").read_text())["cases"]
    x = {k: np.array(v) for k, v in cases[0].get("inputs", {}).items()}
    return cases, x


def trl_preset(case):
    kind, level = case["loss_type"], case.get("importance_sampling_level", "token")
    return "trl_gspo" if (kind, level) == ("grpo", "sequence") else {"dapo": "trl"}.get(kind, f"trl_{kind}")


TRL, TRL_INPUTS = load("trl_exec_grpo_losses")


@pytest.mark.parametrize(
    "case", TRL[1:], ids=lambda c: "-".join(str(v) for k, v in c.items() if k not in ("loss", "grad_logp"))
)
def test_trl(case):
    x, preset = TRL_INPUTS, PRESETS[trl_preset(case)]
    level = case.get("importance_sampling_level", "token")
    if (preset.objective, level) == ("luspo", "token"):
        pytest.skip("TRL warns against it, and averages it over the padding")
    change = {"clip_high": 0.28} if "clip_high" in preset.options and preset.objective != "cispo" else {}
    if level == "sequence" and preset.objective != "luspo":
        change["level"] = level
    if case.get("delta"):
        change["delta"] = case["delta"]
    if case.get("beta"):
        change |= {"ref_log_prob": x["ref"], "kl_coef": case["beta"]}
        if case.get("bias"):
            change["kl_gradient"] = "importance"
    if "note" in case:
        change["weight"] = np.minimum(np.exp(x["old"] - x["roll"]), 1.1)
    loss, grad, _ = preset.policy_loss(
        x["lp"], x["old"], x["seq_advantages"], mask=x["mask"] != 0, max_length=8, **change
    )
    tolerance = 1e-6 if preset.objective == "sapo" else 1e-12  # TRL keeps the temperature in float32
    assert loss == pytest.approx(case["loss"], rel=tolerance, abs=1e-14)
    wanted = np.array(case["grad_logp"])
    if preset.objective == "vespo":
        # These gradients were taken with TRL's no_grad on phi(W) removed: what is beyond ours is the gradient through phi.
        a, w = x["seq_advantages"], ((x["lp"] - x["old"]) * x["mask"]).sum(1)
        k, lambda_ = np.where(a >= 0, 2, 3), np.where(a >= 0, 3, 2)
        through = (k - lambda_ * np.exp(w)) * (x["lp"] * x["mask"]).sum(1)
        grad = grad * (1 + through)[:, None]
    np.testing.assert_allclose(grad, wanted, rtol=tolerance, atol=1e-12 if tolerance == 1e-12 else 2e-9)


VERL, VERL_INPUTS = load("verl_exec_policy_losses")
VERL_AGGREGATES = {
    "token-mean": "token_mean",
    "seq-mean-token-sum": "seq_mean_token_sum",
    "seq-mean-token-mean": "seq_mean_token_mean",
}


@pytest.mark.parametrize("case", VERL[1:], ids=lambda c: f"{c['name']}-{c['agg']}")
def test_verl(case):
    x, name = VERL_INPUTS, case["name"].split("+")[0].split()[0]
    preset = PRESETS[{"vanilla": "verl", "geo_mean": "verl_gmpo"}.get(name, f"verl_{name}")]
    params = case.get("params", {})
    change = {"clip_high": 0.28} if "clip_high" in preset.options else {}
    if name == "kl_cov":
        change["fraction"] = params["kl_cov_ratio"]
    if name.startswith("dppo"):
        change["ratio_cap"] = params["dppo_ratio_cap"]
    if case["agg"] == "seq-mean-token-sum-norm":
        norm = PRESETS["verl_seq_norm"]
        preset = dataclasses.replace(preset, aggregate=norm.aggregate, per_length=norm.per_length)
    elif preset.aggregate == "token_mean":  # gspo, sapo and geo_mean have their own
        preset = dataclasses.replace(preset, aggregate=VERL_AGGREGATES[case["agg"]])
    if "global_batch_size" in params:  # two workers: each divides by the global count and multiplies by two
        tokens, rows, length = (
            params["batch_num_tokens"] / 2,
            params["global_batch_size"] / 2,
            params["loss_scale_factor"],
        )
        change["denominator"] = (
            tokens if preset.aggregate == "token_mean" else rows * (length if preset.per_length else 1)
        )
    if "rollout_is_weights" in case["name"]:
        change["weight"] = np.minimum(np.exp(x["old"] - x["roll"]), 1.2)
    loss, grad, stats = preset.policy_loss(x["lp"], x["old"], x["adv"], mask=x["mask"] != 0, **change)
    # verl adds 1e-8 to the length of each sequence.
    tolerance = 1e-8 if preset.aggregate == "seq_mean_token_mean" else 1e-12
    assert loss == pytest.approx(case["loss"], abs=tolerance)
    np.testing.assert_allclose(grad, case["grad_logp"], rtol=tolerance, atol=tolerance)
    metrics = case.get("metrics", {})
    if name != "kl_cov" and "actor/ppo_kl" in metrics:
        assert stats["approx_kl_k1"] == pytest.approx(metrics["actor/ppo_kl"], rel=1e-8)
    if name in ("vanilla", "gspo", "cispo", "dppo_tv", "dppo_kl") and metrics:
        both = stats["clip_fraction_low"] + stats["clip_fraction_high"]
        assert both == pytest.approx(metrics["actor/pg_clipfrac"], rel=1e-8)
    if name == "vanilla" and metrics:
        assert stats["clip_fraction_dual"] == pytest.approx(metrics["actor/pg_clipfrac_lower"], rel=1e-8)


def test_verl_clip_cov_is_ppo_without_the_tokens_picked():
    x = VERL_INPUTS
    preset = PRESETS["verl_clip_cov"]
    keywords = {"mask": x["mask"] != 0, "cov_low": 0.0, "cov_high": 50.0, "fraction": 1.0}
    _, grad, _ = preset.policy_loss(x["lp"], x["old"], x["adv"], rng=np.random.default_rng(0), **keywords)
    a, lp, mask = x["adv"], x["lp"], x["mask"] != 0
    picked = (a - a[mask].mean()) * (lp - lp[mask].mean()) > 0
    _, wanted, _ = PRESETS["verl"].policy_loss(lp, x["old"], a, mask=mask, weight=1.0 - picked, dual_clip=None)
    np.testing.assert_allclose(grad, wanted, rtol=1e-13)


def test_openrlhf():
    (case,) = [c for c in load("openrlhf_loss_aggregation")[0] if c["mode"].startswith("ppo policy loss")]
    arrays = [np.array(case[k]) for k in ("logp", "old", "adv")]
    loss, _, _ = PRESETS["openrlhf"].policy_loss(*arrays, mask=np.array(case["mask"]) != 0)
    assert loss == pytest.approx(case["expected"], rel=1e-7)  # float32 there
    (metric,) = [c for c in load("openrlhf_loss_aggregation")[0] if c["mode"] == "ppo kl metric"]
    old, rollout = np.array(metric["old"]), np.array(metric["rollout"])
    assert (rollout - old).mean() == pytest.approx(metric["rollout_minus_old"])
    _, _, stats = PRESETS["openrlhf"].policy_loss(metric["logp"], old, np.ones((1, 2)))
    assert stats["approx_kl_k1"] == pytest.approx(metric["ppo_kl_old_minus_new"])


def test_nemo_rl():
    ppo, reinforce, _, dual, penalty = load("nemo_clipped_pg")[0]
    preset = PRESETS["nemo_rl"]
    assert preset.policy_loss(ppo["logp"], ppo["old"], ppo["adv"])[0] == pytest.approx(ppo["loss"], rel=1e-12)
    without_ratio = dataclasses.replace(preset, objective="reinforce", options={})
    assert without_ratio.policy_loss(reinforce["logp"], None, reinforce["adv"])[0] == pytest.approx(
        reinforce["loss"], rel=1e-12
    )
    r = np.log(dual["ratios"])
    assert preset.policy_loss(r, 0 * r, np.array(dual["adv"], float), dual_clip=3.0)[0] == pytest.approx(
        dual["loss"], rel=1e-12
    )
    x, ref = np.array(penalty["logp"], float), np.array(penalty["ref"], float)
    loss, grad, _ = preset.policy_loss(x, x, 0 * x, ref_log_prob=ref, kl_coef=penalty["beta"])
    assert loss == pytest.approx(penalty["kl_loss"], rel=1e-12)
    np.testing.assert_allclose(
        grad, penalty["beta"] / 3 * (x - ref), rtol=1e-12, atol=1e-16
    )  # k3' + k3 = log pi - log ref


def test_slime():
    (case,) = load("slime_dual_clip")[0]
    loss, _, _ = PRESETS["slime"].policy_loss(np.log(case["ratios"]), np.zeros(3), case["adv"], dual_clip=case["c"])
    assert loss == pytest.approx(np.mean(case["per_token"]), rel=1e-14)
    for case in load("slime_cispo")[0]:
        x, r = np.array(case["logp"]), np.array(case["ratios"], float)
        options = {"clip_low": case["eps"][0], "clip_high": case["eps"][1]}
        preset = dataclasses.replace(PRESETS["slime"], objective="cispo", options=options)
        loss, grad, _ = preset.policy_loss(x, x - np.log(r), case["adv"])
        assert loss == pytest.approx(np.mean(case["per_token"]), rel=1e-12)
        np.testing.assert_allclose(grad, np.array(case["grad_logp"]) / 4, rtol=1e-12)


def test_open_instruct():
    for case in load("openinstruct_masked_mean")[0]:
        values, mask = np.array(case["values"], float), np.array(case["mask"]) != 0
        if values.ndim == 2 and case["axis"] is None:
            loss, _, _ = PRESETS["open_instruct"].policy_loss(0 * values, 0 * values, -values, mask=mask)  # ratio 1
            assert loss == pytest.approx(case["expected"], rel=1e-14)


def test_dr_grpo_and_dapo_give_the_numbers_of_trls_own():
    x = TRL_INPUTS
    for name, preset in (("dr_grpo", PRESETS["dr_grpo"]), ("dapo", PRESETS["dapo"])):
        (case,) = [
            c for c in TRL[1:]
            if c["loss_type"] == name and c.get("importance_sampling_level") == "token" and not c.get("beta") and "delta" not in c
        ]  # fmt: skip
        loss, grad, _ = preset.policy_loss(
            x["lp"], x["old"], x["seq_advantages"], mask=x["mask"] != 0, clip_high=0.28, max_length=8
        )
        assert loss == pytest.approx(case["loss"], rel=1e-13)
        np.testing.assert_allclose(grad, case["grad_logp"], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    "case", [c for c in load("cleanrl_exec_ppo_losses")[0] if c["id"].startswith("categorical")], ids=lambda c: c["id"]
)
@pytest.mark.parametrize("name", ["cleanrl", "sb3"])
def test_cleanrl_and_sb3_losses(case, name):
    """SB3's loss is the same formula: its advantage is whitened with ddof 1 and 1e-8 as well."""
    x, p, wanted = case["inputs"], case["params"], case["expected"]
    logits, action = np.array(x["logits"]), np.array(x["actions"])
    preset = PRESETS[name] if p["norm_adv"] else dataclasses.replace(PRESETS[name], whiten_ddof=None)
    loss, grad, stats = preset.policy_loss(
        categorical.log_prob(logits, action), np.array(x["old_logprob"]), np.array(x["advantages"]),
        clip_low=p["clip_coef"], clip_high=p["clip_coef"],
    )  # fmt: skip
    assert loss == pytest.approx(wanted["pg_loss"], rel=1e-9)
    assert stats["approx_kl_k1"] == pytest.approx(wanted["old_approx_kl"], rel=1e-9)
    assert stats["approx_kl_k3"] == pytest.approx(wanted["approx_kl"], rel=1e-9)
    n = len(action)
    through = categorical.log_prob_grad(logits, action, grad) + categorical.entropy_grad(
        logits, np.full(n, -p["ent_coef"] / n)
    )
    np.testing.assert_allclose(through, wanted["d_logits"], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    "case", [c for c in load("cleanrl_exec_ppo_losses")[0] if c["id"].startswith("gae")], ids=lambda c: c["id"]
)
def test_cleanrl_advantages(case):
    x, p = {k: np.array(v) for k, v in case["inputs"].items()}, case["params"]
    ended = np.vstack([x["episode_start_flags"][1:], x["next_done"]]) != 0
    next_value = np.vstack([x["values"][1:], x["next_value"]])
    # Whether an end was an end or a time limit makes no difference there.
    for flags in ((ended, 0 * ended != 0), (0 * ended != 0, ended)):
        got = PRESETS["cleanrl"].gae(
            x["rewards"], x["values"], next_value, *flags, gamma=p["gamma"], lambda_=p["gae_lambda"]
        )
        np.testing.assert_allclose(got, case["expected"]["advantages"], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "case", [c for c in load("sb3_gae_nstep_norm")[0] if c["function"] == "gae"], ids=lambda c: c["id"]
)
def test_sb3_advantages(case):
    x, p = {k: np.array(v) for k, v in case["inputs"].items()}, case["params"]
    terminated = x["terminated"] != 0
    got = PRESETS["sb3"].gae(
        x["rewards"], x["values"], np.append(x["values"][1:], 0.0), terminated, np.zeros_like(terminated),
        gamma=p["gamma"], lambda_=p.get("gae_lambda", p.get("lambda")),
    )  # fmt: skip
    np.testing.assert_allclose(got, case["expected"]["advantages"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "case", [c for c in load("spinningup_exec_finish_path")[0] if c["function"] == "finish_path"], ids=lambda c: c["id"]
)
def test_spinningup(case):
    x, p, wanted = case["inputs"], case["params"], case["expected"]
    ends = np.cumsum(x["path_lengths"]) - 1
    next_value = np.append(x["values"][1:], 0.0)
    next_value[ends] = x["last_values"]
    truncated = np.zeros(len(next_value), bool)
    truncated[ends] = True  # a last value of 0 is a terminal one
    preset = PRESETS["spinningup"]
    advantage = preset.gae(
        np.array(x["rewards"]),
        np.array(x["values"]),
        next_value,
        ~truncated & truncated,
        truncated,
        gamma=p["gamma"],
        lambda_=p["lam"],
    )
    np.testing.assert_allclose(advantage, wanted["advantages"], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(preset.whiten(advantage), wanted["advantages_normalised"], rtol=1e-10, atol=1e-12)


def test_every_preset_has_a_test_here_and_a_source():
    tested = Path(__file__).read_text()
    for name, preset in PRESETS.items():
        assert preset.name == name and preset.source
        assert name in tested or name.startswith(("trl_", "verl_")), name


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if preset.group])
def test_group_advantages_are_those_of_the_preset_in_groups(name):
    groups = pytest.importorskip("fastpg.groups")
    reward, group = np.array([1.0, 0.0, 0.5, 1.0, 0.0]), ["a", "a", "a", "b", "b"]
    wanted = groups.group_advantage(reward, group, **groups.PRESETS[PRESETS[name].group])
    np.testing.assert_array_equal(PRESETS[name].group_advantage(reward, group), wanted)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_gives_packed_sequences_what_it_gives_padded_ones(name):
    rng = np.random.default_rng(3)
    x, old, a = -rng.random((4, 5)), -rng.random((4, 5)), rng.standard_normal((4, 5))
    length = np.array([5, 0, 2, 3])
    mask = np.arange(5) < length[:, None]
    packed = {"offsets": np.concatenate([[0], np.cumsum(length)])}
    draws = [{"rng": np.random.default_rng(0), "fraction": 0.5} if "cov" in name else {} for _ in range(2)]
    loss, grad, _ = PRESETS[name].policy_loss(x, old, a, mask=mask, max_length=8, **draws[0])
    got, flat, _ = PRESETS[name].policy_loss(x[mask], old[mask], a[mask], max_length=8, **packed, **draws[1])
    assert got == pytest.approx(loss, rel=1e-13) and loss != 0
    np.testing.assert_allclose(flat, grad[mask], rtol=1e-13)


def test_what_a_library_does_not_have_is_refused_by_name():
    with pytest.raises(ValueError, match="sb3 has no advantage over groups"):
        PRESETS["sb3"].group_advantage([1.0], [0])
    with pytest.raises(ValueError, match="trl has no advantage over time"):
        PRESETS["trl"].gae([1.0], [0.0], [0.0], [False], [False])
    with pytest.raises(TypeError, match="max_length is None; dr_grpo divides by a length"):
        PRESETS["dr_grpo"].policy_loss(np.zeros(3), np.zeros(3), np.ones(3), offsets=[0, 1, 3])
    for bad, error in (("8", TypeError), (-8, ValueError), (np.nan, ValueError), (True, TypeError)):
        with pytest.raises(error, match="max_length is "):
            PRESETS["dr_grpo"].policy_loss(np.zeros((1, 3)), np.zeros((1, 3)), np.ones((1, 3)), max_length=bad)
    with pytest.raises(ValueError, match="other is 'x'; one of trl"):
        compare_presets({}, "trl", "x")


def test_presets_are_frozen_and_whitening_reads_no_masked_slot():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PRESETS["trl"].aggregate = "token_sum"
    with pytest.raises(TypeError):
        PRESETS["trl"] = None
    a, mask = np.array([1.0, np.nan, 3.0]), np.array([True, False, True])
    np.testing.assert_allclose(PRESETS["spinningup"].whiten(a, mask), [-1, 0, 1])
    np.testing.assert_array_equal(PRESETS["cleanrl"].whiten(np.array([2.0])), [2.0])  # no deviation


def test_compare_presets_ends_at_the_loss_of_the_second(capsys):
    x = VERL_INPUTS
    batch = {"log_prob": x["lp"], "old_log_prob": x["old"], "advantage": x["adv"], "mask": x["mask"] != 0}
    batch |= {"ref_log_prob": x["ref"], "kl_coef": 0.1}
    for one, other in (("trl_grpo", "verl"), ("dr_grpo", "slime"), ("trl_cispo", "verl_gmpo"), ("cleanrl", "nemo_rl")):
        compare_presets(batch, one, other)
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].split() == ["term", one, other, "loss", "|grad|"]
        for line, name in ((lines[1], one), (lines[-1], other)):
            loss, grad, _ = PRESETS[name].policy_loss(**batch)
            assert line.split()[-2:] == [f"{loss:.4g}", f"{np.sqrt((grad**2).sum()):.4g}"], (one, other, line)


def test_the_table_in_the_docs_is_that_of_the_dataclasses():
    docs = Path(__file__).parents[1] / "docs"
    assert (docs / "presets.md").read_text() == runpy.run_path(str(docs / "presets.py"))["text"]()


@pytest.mark.parametrize("name", ["sb3", "cleanrl", "spinningup"])
@pytest.mark.parametrize("value", [0.7, 1000.1])
def test_equal_advantages_are_whitened_to_exactly_zero(name, value):
    np.testing.assert_array_equal(PRESETS[name].whiten(np.full(15, value)), np.zeros(15))
    assert np.isnan(PRESETS[name].whiten(np.array([value, np.nan, 1.0]))).all()


def test_no_two_columns_of_a_comparison_run_together(capsys):
    x = np.log([[0.9, 0.5]])
    compare_presets(
        {"log_prob": x, "old_log_prob": x - 1, "advantage": np.array([[1.0, -1.0]])}, "trl_gspo", "trl_sapo"
    )
    *_, objective = capsys.readouterr().out.splitlines()
    assert "level sequence  sapo tau_pos 1.0, tau_neg 1.05  " in objective
