"""Numbers that other libraries' own functions gave, in tests/cases. Each test says in code how that library's convention reads in ours."""

import json
from pathlib import Path

import numpy as np
import pytest

import fastpg
from fastpg import categorical


def cases(file, *functions):
    loaded = json.loads((Path(__file__).parent / "cases" / f"{file}.json").read_text())
    found = [c for c in loaded["cases"] if c.get("function", c.get("name")) in functions]
    assert found, (file, functions)
    return pytest.mark.parametrize("case", found, ids=[c.get("id", c.get("name")) for c in found])


def arrays(case):
    return {k: np.asarray(v, float) for k, v in case["inputs"].items()}


def flags(x):
    return np.asarray(x) != 0


@cases("cleanrl_exec_ppo_losses", "gae")
def test_cleanrl_keeps_the_flag_of_the_observation_fed_at_each_step(case):
    x, p = arrays(case), case["params"]
    # dones[t + 1] ends step t; the flag after the last row stands in next_done. Every end counts as terminal there.
    terminated = flags(np.vstack([x["episode_start_flags"][1:], x["next_done"]]))
    next_value = np.vstack([x["values"][1:], x["next_value"]])
    no = np.zeros_like(terminated)
    args = (x["rewards"], x["values"], next_value, terminated, no, p["gamma"], p["gae_lambda"])
    advantage, returns = fastpg.gae_and_return(*args)
    np.testing.assert_allclose(advantage, case["expected"]["advantages"], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(returns, case["expected"]["returns"], rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(fastpg.gae(x["rewards"], x["values"], x["next_value"], *args[3:]), advantage)


@cases("cleanrl_exec_ppo_losses", "ppo_loss(categorical)")
def test_cleanrl_ppo_gradient_is_made_of_our_scores(case):
    x, p, wanted = arrays(case), case["params"], case["expected"]
    action, advantage = x["actions"].astype(int), x["advantages"]
    if p["norm_adv"]:
        advantage = (advantage - advantage.mean()) / (advantage.std(ddof=1) + 1e-8)
    log_prob = categorical.log_prob(x["logits"], action)
    ratio = np.exp(log_prob - x["old_logprob"])
    clip = p["clip_coef"]
    plain, clipped = -advantage * ratio, -advantage * np.clip(ratio, 1 - clip, 1 + clip)
    np.testing.assert_allclose(np.maximum(plain, clipped).mean(), wanted["pg_loss"], rtol=1e-10)
    np.testing.assert_allclose(categorical.entropy(x["logits"]).mean(), wanted["entropy"], rtol=1e-10)
    n = len(action)
    weight = np.where(plain >= clipped, plain, 0.0) / n
    grad = categorical.log_prob_grad(x["logits"], action, weight)
    grad += categorical.entropy_grad(x["logits"], np.full(n, -p["ent_coef"] / n))
    np.testing.assert_allclose(grad, wanted["d_logits"], rtol=1e-9, atol=1e-11)


@cases("torchrl_exec_values", "generalized_advantage_estimate")
def test_torchrl_gae(case):
    x, p = arrays(case), case["params"]
    advantage, target = fastpg.gae_and_return(
        x["reward"], x["state_value"], x["next_state_value"], flags(x["terminated"]), flags(x["truncated"]),
        p["gamma"], p["lmbda"], axis=1,
    )  # fmt: skip
    wanted = case.get("expected_f64", case["expected"])
    np.testing.assert_allclose(advantage, wanted["advantages"], atol=2e-6)
    np.testing.assert_allclose(target, wanted["value_target"], atol=2e-6)


@cases("torchrl_exec_values", "td0_return_estimate", "td1_return_estimate", "td_lambda_return_estimate")
def test_torchrl_returns(case):
    x, p = arrays(case), case["params"]
    if "rolling_gamma" in case["inputs"]:
        pytest.skip("gamma[k] for the whole trajectory that starts at k is another estimator")
    gamma = x.get("gamma", p.get("gamma"))
    gamma = float(gamma) if np.ndim(gamma) == 0 else gamma
    lambda_ = {"td0_return_estimate": 0.0, "td1_return_estimate": 1.0}.get(case["function"], x.get("lmbda"))
    lambda_ = float(lambda_) if np.ndim(lambda_) == 0 else lambda_
    ends = (flags(x["terminated"]), flags(x["truncated"]))
    got = fastpg.lambda_return(x["reward"], x["next_state_value"], *ends, gamma, lambda_, axis=1)
    np.testing.assert_allclose(got, case.get("expected_f64", case["expected"])["returns"], atol=2e-6)
    if case["function"] == "td1_return_estimate":
        got = fastpg.reward_to_go(x["reward"], x["next_state_value"], *ends, gamma, axis=1)
        np.testing.assert_allclose(got, case["expected"]["returns"], atol=2e-6)


@cases("rlax_multistep", "lambda_returns", "discounted_returns", "truncated_generalized_advantage_estimation")
def test_rlax_discounts_are_our_gamma_per_step(case):
    x, p = arrays(case), case["params"]
    r, gamma = x["r_t"], x["discount_t"]
    no = np.zeros(r.shape, bool)
    wanted = case.get("expected_f64", case["expected"])
    close = {"rtol": 1e-5, "atol": 1e-3 if wanted is case["expected"] else 1e-9}
    if case["function"] == "lambda_returns":
        got = fastpg.lambda_return(r, x["v_t"], no, no, gamma, p["lambda_"], axis=1)
        np.testing.assert_allclose(got, wanted["returns"], **close)
    elif case["function"] == "discounted_returns":
        for bootstrap in (x["bootstrap_v"], x["v_t"]):
            got = fastpg.reward_to_go(r, bootstrap, gamma=gamma, axis=1)
            np.testing.assert_allclose(got, wanted["returns"], **close)
    else:
        lambda_ = np.asarray(p["lambda_"]) if isinstance(p["lambda_"], list) else p["lambda_"]
        v = x["values"]
        got = fastpg.gae(r, v[:, :-1], v[:, 1:], no, no, gamma, lambda_, axis=1)
        np.testing.assert_allclose(got, wanted["advantages"], **close)


@cases("stoix_gae_truncation", "batch_truncated_gae")
def test_stoix_truncations_bootstrap_from_the_final_observation(case):
    x, p, wanted = arrays(case), case["params"], case["expected"]
    no = np.zeros(x["r_t"].shape, bool)
    got = fastpg.gae(
        x["r_t"], x["v_tm1"], x["v_t"], no, flags(x["truncation_t"]), x["discount_t"], p["lambda_"], axis=1
    )
    for name, value in wanted.items():
        at = {"adv": got[0], "adv_last": got[:, -1]}.get(name)
        if at is None:
            at = got[0, int(name.removeprefix("adv_t"))]
        elif name == "adv":
            at = at[-len(value) :]
        np.testing.assert_allclose(at, value, atol=case["tol"]["atol"])


@cases("spinningup_exec_finish_path", "finish_path")
def test_spinning_up_closes_one_path_at_a_time(case):
    x, p = arrays(case), case["params"]
    lengths = x["path_lengths"].astype(int)
    start = 0
    for length, last in zip(lengths, x["last_values"], strict=True):
        path = slice(start, start + length)
        r, v = x["rewards"][path], x["values"][path]
        no = np.zeros(length, bool)  # a path that ended is one whose last value is 0
        got = fastpg.gae(r, v, last, no, no, p["gamma"], p["lam"])
        np.testing.assert_allclose(got, case["expected"]["advantages"][path], rtol=1e-10, atol=1e-12)
        got = fastpg.reward_to_go(r, last, gamma=p["gamma"])
        np.testing.assert_allclose(got, case["expected"]["returns"][path], rtol=1e-10, atol=1e-12)
        start += length


@cases("sb3_gae_nstep_norm", "gae")
def test_stable_baselines_gae(case):
    x, p = arrays(case), case["params"]
    terminated = flags(x["terminated"])
    v = x["values"]
    args = (x["rewards"], v, 0.0, terminated, np.zeros_like(terminated), p["gamma"], p["gae_lambda"])
    advantage, returns = fastpg.gae_and_return(*args)
    np.testing.assert_allclose(advantage, case["expected"]["advantages"], rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(returns, case["expected"]["returns"], rtol=1e-5, atol=1e-8)


@cases("tianshou_returns", "gae_returns")
def test_tianshou_streams_episodes_through_one_row(case):
    x, p = arrays(case), case["params"]
    ends = (flags(x["terminated"]), flags(x["truncated"]))
    args = (x["rewards"], x["v"], x["v_next"], *ends, p["gamma"], p["gae_lambda"])
    np.testing.assert_allclose(fastpg.gae_and_return(*args)[1], case["expected"]["returns"], rtol=1e-5, atol=1e-7)


@cases("trl_exec_logprob_entropy", "selective_log_softmax", "entropy_from_logits")
def test_trl_log_probs_and_entropies(case):
    logits = np.asarray(case["logits"], float)
    if case["name"] == "entropy_from_logits":
        np.testing.assert_allclose(categorical.entropy(logits), case["expected"], rtol=1e-12)
        return
    index = np.asarray(case["index"])
    np.testing.assert_allclose(categorical.log_prob(logits, index), case["expected"], rtol=1e-12)
    got = categorical.log_prob_grad(logits, index, np.ones(index.shape))
    np.testing.assert_allclose(got, case["d_sum_d_logits"], rtol=1e-9, atol=1e-12)


@cases("rlax_distributions", "softmax", "categorical_kl_divergence", "categorical_importance_sampling_ratios")
def test_rlax_categorical(case):
    x, wanted = arrays(case), case["expected"]
    if case["function"] == "categorical_kl_divergence":
        np.testing.assert_allclose(categorical.kl(x["p_logits"], x["q_logits"]), wanted["kl"], atol=1e-4)
    elif case["function"] == "categorical_importance_sampling_ratios":
        action = x["actions"].astype(int)
        log_ratio = categorical.log_prob(x["pi_logits"], action) - categorical.log_prob(x["mu_logits"], action)
        np.testing.assert_allclose(np.exp(log_ratio), wanted["rhos"], atol=1e-4)
    else:
        logits = x["logits"] / case["params"].get("temperature", 1.0)
        every = np.stack([categorical.log_prob(logits, np.full(len(logits), a)) for a in range(logits.shape[1])], 1)
        np.testing.assert_allclose(np.exp(every), wanted["probs"], atol=1e-4)
        if "entropy" in wanted:
            np.testing.assert_allclose(categorical.entropy(logits), wanted["entropy"], atol=1e-4)
            taken = categorical.log_prob(logits, x["samples"].astype(int))
            np.testing.assert_allclose(taken, wanted["logprob"], atol=1e-4)
