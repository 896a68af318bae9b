"""Numbers that other libraries' own functions gave, in tests/cases. Each test says in code how that library's convention reads in ours."""

import json
from pathlib import Path

import numpy as np
import pytest

import fastpg
from fastpg import bernoulli, categorical, gaussian, multi_categorical, squashed_gaussian


def load(file):
    return json.loads((Path(__file__).parent / "cases" / f"{file}.json").read_text())["cases"]


def cases(file, *functions):
    found = [c for c in load(file) if c.get("function", c.get("name")) in functions]
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


@cases("rlax_multistep", "n_step_bootstrapped_returns")
def test_rlax_n_step_returns_shrink_the_window_at_the_end(case):
    x, p = arrays(case), case["params"]
    no = np.zeros(x["r_t"].shape, bool)
    args, axis = (x["r_t"], x["v_t"], no, no, x["discount_t"]), no.ndim - 1
    if p["lambda_t"] == 1:
        got = fastpg.n_step_return(*args, p["n"], axis=axis)
    else:  # with lambda inside a window as long as the sequence, the lambda-return
        assert p["n"] == no.shape[axis]
        got = fastpg.lambda_return(*args, p["lambda_t"], axis=axis)
    np.testing.assert_allclose(got, case["expected"]["returns"], rtol=1e-12, atol=1e-12)


@cases("rlax_multistep", "importance_corrected_td_errors")
def test_rlax_importance_corrected_td_errors_are_vtrace_without_clips(case):
    x, p, v = arrays(case), case["params"], arrays(case)["values"]
    no = np.zeros(x["r_t"].shape, bool)
    args = (x["r_t"], v[:, :-1], v[:, 1:], np.log(x["rho_tm1"]), no, no, x["discount_t"], p["lambda_"])
    target, _ = fastpg.vtrace(*args, np.inf, np.inf, axis=1)
    np.testing.assert_allclose(target - v[:, :-1], case["expected"]["td_errors"], rtol=1e-9, atol=1e-12)


@cases("rlax_vtrace", "vtrace_td_error_and_advantage", "leaky_vtrace")
def test_rlax_vtrace_errors_are_our_targets_less_the_values(case):
    x, p, wanted = arrays(case), case["params"], case["expected"]
    no = np.zeros(x["r_t"].shape, bool)
    args = (x["r_t"], x["v_tm1"], x["v_t"], np.log(x["rho_tm1"]), no, no, x["discount_t"], p["lambda_"])
    clips = {"clip_rho": p.get("clip_rho_threshold", 1.0), "clip_pg_rho": p.get("clip_pg_rho_threshold", 1.0)}
    target, advantage = fastpg.vtrace(*args, **clips, alpha=p.get("alpha_", 1.0), axis=1)
    close = {"rtol": 1e-6, "atol": 1e-6} if case["kind"] == "literal" else {"rtol": 1e-9, "atol": 1e-12}
    np.testing.assert_allclose(target - x["v_tm1"], wanted["errors"], **close)
    if "pg_advantage" in wanted:
        np.testing.assert_allclose(advantage, wanted["pg_advantage"], **close)
    log_ratio = [  # the ratios are those of the two policies at the actions taken
        categorical.log_prob(x[logits].reshape(-1, 2), x["actions"].astype(int).ravel())
        for logits in ("target_policy_logits", "behavior_policy_logits")
    ]
    np.testing.assert_allclose(np.exp(log_ratio[0] - log_ratio[1]), x["rho_tm1"].ravel(), rtol=1e-12)


@cases("torchrl_exec_values", "vtrace_advantage_estimate")
def test_torchrl_vtrace(case):
    x, p = arrays(case), case["params"]
    terminated, axis = flags(x["terminated"]), x["reward"].ndim - 1
    truncated = flags(x.get("done", terminated)) & ~terminated
    args = (x["reward"], x["state_value"], x["next_state_value"], x["log_pi"] - x["log_mu"], terminated, truncated)
    rho, c = p.get("rho_thresh", 1.0), p.get("c_thresh", 1.0)
    target, advantage = fastpg.vtrace(*args, p["gamma"], 1.0, rho, c, rho, axis=axis)
    np.testing.assert_allclose(target, case["expected"]["vs"], atol=2e-6)
    np.testing.assert_allclose(advantage, case["expected"]["advantages"], atol=2e-6)


@cases("torchrl_exec_values", "reward2go")
def test_torchrl_reward2go_knows_no_bootstrap(case):
    x = arrays(case)
    done = flags(x["done"])
    got = fastpg.reward_to_go(x["reward"], None, done, np.zeros_like(done), case["params"]["gamma"])
    np.testing.assert_allclose(got, case["expected"]["reward2go"], atol=5.1e-5)  # four digits are printed


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


@cases("sb3_gae_nstep_norm", "n_step_reward_sum")
def test_stable_baselines_n_step_windows_stop_at_the_first_end(case):
    x, p, wanted = arrays(case), case["params"], case["expected"]
    r, start = x["rewards"], int(x["start"])
    args = (flags(x["terminated"]), flags(x["truncated"]), p["gamma"], p["n"])
    got = fastpg.n_step_return(r, np.zeros_like(r), *args)
    np.testing.assert_allclose(got[start], wanted["reward_sum"], rtol=1e-12)
    # `done` says that the window does not bootstrap: of values of 1 and no rewards nothing is left.
    bootstrap = fastpg.n_step_return(np.zeros_like(r), np.ones_like(r), *args)
    assert (bootstrap[start] == 0) == bool(wanted["done"])


@cases("tianshou_returns", "gae_returns")
def test_tianshou_streams_episodes_through_one_row(case):
    x, p = arrays(case), case["params"]
    ends = (flags(x["terminated"]), flags(x["truncated"]))
    args = (x["rewards"], x["v"], x["v_next"], *ends, p["gamma"], p["gae_lambda"])
    np.testing.assert_allclose(fastpg.gae_and_return(*args)[1], case["expected"]["returns"], rtol=1e-5, atol=1e-7)


@cases("tianshou_returns", "n_step_return")
def test_tianshou_n_step_returns(case):
    x, p = arrays(case), case["params"]
    args = (x["rewards"], x["v_next"], flags(x["terminated"]), flags(x["truncated"]), p["gamma"], p["n"])
    np.testing.assert_allclose(fastpg.n_step_return(*args), case["expected"]["returns"], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", load("miles_gae_masks"))
def test_miles_passes_over_masked_tokens_as_skip_does(case):
    mask = flags(case["mask"])
    r, v = (np.asarray(case.get(name, np.ones(len(mask))), float) for name in ("rewards", "values"))
    if "terminal_reward" in case:
        r[np.flatnonzero(mask)[-1]] += case["terminal_reward"]
    no = np.zeros(len(mask), bool)
    wanted = case.get("advantages", np.zeros(len(mask)))  # "fully masked sample -> advantages and returns all 0"
    keywords = {"mask": mask, "mask_mode": "skip"}
    args = (r, v, np.zeros(()), no, no, case.get("gamma", 0.9), case.get("lam", 0.9))
    advantage, returns = fastpg.gae_and_return(*args, **keywords)
    np.testing.assert_allclose(advantage, wanted, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(returns, case.get("returns", np.where(mask, wanted + v, 0)), rtol=1e-12, atol=1e-12)


@cases("verl_exec_advantages", "gae", "reinforce_plus_plus")
def test_verl_passes_over_masked_tokens_as_skip_does(case):
    x, p = load("verl_exec_advantages")[0]["inputs"], case["params"]
    r, v, mask = np.asarray(x["token_level_rewards"]), np.asarray(x["values"]), flags(x["response_mask"])
    no = np.zeros(mask.shape, bool)
    keywords = {"axis": 1, "mask": mask, "mask_mode": "skip"}
    if case["name"] == "gae":
        args = (r, v, np.zeros(len(r)), no, no, p["gamma"], p["lam"])
        raw, returns = fastpg.gae_and_return(*args, **keywords)
    else:
        raw = returns = fastpg.reward_to_go(r, None, no, no, p["gamma"], **keywords)
    # verl leaves numbers at masked tokens, and whitens by the variance of the others, n - 1 below, 1e-8 beside it and beside n.
    np.testing.assert_allclose(returns, np.where(mask, case["returns"], 0), rtol=1e-12, atol=1e-12)
    whitened = (raw[mask] - raw[mask].mean()) / np.sqrt(raw[mask].var(ddof=1) + 1e-8)
    np.testing.assert_allclose(whitened, np.asarray(case["advantages"])[mask], rtol=2e-8)


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


@cases("cleanrl_exec_ppo_losses", "ppo_loss(diagonal gaussian)")
def test_cleanrl_shares_the_log_std_of_its_gaussian_between_states(case):
    x, p, wanted = arrays(case), case["params"], case["expected"]
    advantage, log_std = x["advantages"], x["logstd"][0]
    if p["norm_adv"]:
        advantage = (advantage - advantage.mean()) / (advantage.std(ddof=1) + 1e-8)
    ratio = np.exp(gaussian.log_prob(x["mean"], log_std, x["actions"]) - x["old_logprob"])
    clip, n = p["clip_coef"], len(advantage)
    plain, clipped = -advantage * ratio, -advantage * np.clip(ratio, 1 - clip, 1 + clip)
    np.testing.assert_allclose(np.maximum(plain, clipped).mean(), wanted["pg_loss"], rtol=1e-10)
    np.testing.assert_allclose(gaussian.entropy(x["mean"], log_std).mean(), wanted["entropy"], rtol=1e-10)
    weight = np.where(plain >= clipped, plain, 0.0) / n
    by_mean, by_log_std = gaussian.log_prob_grad(x["mean"], log_std, x["actions"], weight)
    by_log_std += gaussian.entropy_grad(x["mean"], log_std, np.full(n, -p["ent_coef"] / n))[1]
    np.testing.assert_allclose(by_mean, wanted["d_mean"], rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(by_log_std, np.ravel(wanted["d_logstd"]), rtol=1e-9, atol=1e-11)


@cases("rlax_distributions", "gaussian_diagonal", "multivariate_normal_kl_divergence")
def test_rlax_gaussian(case):
    x, wanted = arrays(case), case["expected"]
    close = {"rtol": 1e-5, "atol": 1e-3}
    if "mu_0" in x:
        got = gaussian.kl(x["mu_0"], np.log(x["sigma_0"]), x["mu_1"], np.log(x["sigma_1"]))
        np.testing.assert_allclose(got, wanted["kl"], **close)
        return
    policy = x["mu"], np.log(x["sigma"])
    np.testing.assert_allclose(gaussian.log_prob(*policy, x["sample"]), wanted["logprob"], **close)
    np.testing.assert_allclose(gaussian.entropy(*policy), wanted["entropy"], **close)
    np.testing.assert_allclose(gaussian.kl(*policy, x["other_mu"], np.log(x["other_sigma"])), wanted["kl"], **close)
    standard = np.zeros((2, 2)), np.zeros(2)
    np.testing.assert_allclose(gaussian.kl(*policy, *standard), wanted["kl_to_standard_normal"], **close)


@cases("rlax_distributions", "squashed_gaussian")
def test_rlax_squashes_the_parameters_too_and_answers_the_entropy_before_the_squashing(case):
    x, p, wanted = arrays(case), case["params"], case["expected"]
    close = {"rtol": 1e-5, "atol": 1e-3}

    def policy(mu, sigma):
        half = 0.5 * (p["sigma_max"] - p["sigma_min"])
        return np.tanh(mu), p["sigma_min"] + half * (np.tanh(sigma) + 1)

    ours, other = policy(x["mu"], x["sigma"]), policy(x["other_mu"], x["other_sigma"])
    bounds = {"low": p["action_minimum"], "high": p["action_maximum"]}
    pre_action = squashed_gaussian.unsquash(x["sample"], **bounds)
    np.testing.assert_allclose(squashed_gaussian.log_prob(*ours, pre_action, **bounds), wanted["logprob"], **close)
    np.testing.assert_allclose(gaussian.entropy(*ours), wanted["entropy"], **close)
    np.testing.assert_allclose(squashed_gaussian.kl(*ours, *other), wanted["kl"], **close)
    standard = np.zeros((2, 2)), np.zeros(2)
    np.testing.assert_allclose(squashed_gaussian.kl(*ours, *standard), wanted["kl_to_standard_normal"], **close)


@cases("sb3_gae_nstep_norm", "TanhBijector", "kl_divergence")
def test_sb3_inverts_tanh_in_float32_and_its_bernoulli_divergence_is_ours(case):
    x, wanted, close = arrays(case), case["expected"], {"rtol": case["tol"]["rtol"]}
    if case["function"] == "TanhBijector":
        action = squashed_gaussian.squash(x["gaussian_action"].astype(np.float32))
        np.testing.assert_allclose(squashed_gaussian.unsquash(action), wanted["inverse_of_tanh"], **close)
    else:
        np.testing.assert_allclose(bernoulli.kl(x["logits_p"][None], x["logits_q"][None]), wanted["kl"], **close)


@cases("trl_exec_logprob_entropy", "selective_log_softmax")
def test_trl_log_probs_are_those_of_components_of_one(case):
    # Three tokens of a sequence side by side are three components of one choice: their log-probabilities add up.
    logits, index = np.asarray(case["logits"], float), np.asarray(case["index"])
    wide, sizes = logits.reshape(len(logits), -1), [logits.shape[-1]] * logits.shape[1]
    wanted = np.asarray(case["expected"]).sum(axis=-1)
    np.testing.assert_allclose(multi_categorical.log_prob(wide, sizes, index), wanted, rtol=1e-12)
    got = multi_categorical.log_prob_grad(wide, sizes, index, np.ones(len(logits)))
    np.testing.assert_allclose(got.reshape(logits.shape), case["d_sum_d_logits"], rtol=1e-9, atol=1e-12)
