"""Other libraries' own functions, where they are installed, against ours: random and adversarial endings, float32 and float64.

Each test says in code how that library's convention reads in ours. `make peers` installs what these tests look for; PufferLib's loop
is the file c_gae.pyx of its 1.0.1 source distribution, built on its own. TRL has no estimator over time any more.
"""

import functools
from dataclasses import dataclass

import numpy as np
import pytest

import fastpg

GAMMA, LAMBDA = 31 / 32, 15 / 16  # exact in float32, to which TorchRL rounds them whatever the dtype of the data
LANES = 3


def _where(terminated, truncated):
    def flags(shape, rng):
        both = np.zeros((2, *shape), bool)
        both[0, terminated], both[1, truncated] = True, True
        return both

    return flags


NONE, FIRST, LAST, EVERY = slice(0), 0, -1, slice(None)
ENDINGS = {
    "none": _where(NONE, NONE),
    "first terminated": _where(FIRST, NONE),
    "first truncated": _where(NONE, FIRST),
    "last terminated": _where(LAST, NONE),
    "last truncated": _where(NONE, LAST),
    "every terminated": _where(EVERY, NONE),
    "every truncated": _where(NONE, EVERY),
    "every either": lambda shape, rng: np.stack([x := rng.random(shape) < 0.5, ~x]),
    "every both": _where(EVERY, EVERY),
    "random": lambda shape, rng: rng.random((2, *shape)) < 0.15,
}


@dataclass
class Batch:
    """(T, N) arrays. next_value[t] is value[t + 1] inside an episode and a number of its own at its end, not to be read if terminal."""

    reward: np.ndarray
    value: np.ndarray
    next_value: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    log_ratio: np.ndarray

    @property
    def ended(self):
        return self.terminated | self.truncated

    @property
    def flags(self):
        return self.terminated, self.truncated

    @property
    def final(self):
        """The discounted value of the final observation where an episode was cut, and 0 elsewhere."""
        return np.where(self.truncated & ~self.terminated, GAMMA * self.next_value, 0).astype(self.reward.dtype)

    def where_alive(self, x, ends):
        """x as an array, 0 where `ends`."""
        return np.where(ends, 0, x).astype(self.reward.dtype)


def make(ending, steps, dtype):
    rng = np.random.default_rng(steps)
    shape = (steps, LANES)
    terminated, truncated = ENDINGS[ending](shape, rng)
    value = rng.standard_normal((steps + 1, LANES))
    next_value = np.where(terminated | truncated, rng.standard_normal(shape), value[1:])
    next_value[terminated] = 77.0
    reward, log_ratio = rng.standard_normal(shape), 2 * rng.standard_normal(shape)
    floats = (x.astype(dtype) for x in (reward, value[:-1], next_value))
    return Batch(*floats, terminated, truncated, log_ratio.astype(dtype))


def on_endings(*dtypes):
    return pytest.mark.parametrize(
        "batch",
        [
            pytest.param(make(ending, steps, dtype), id=f"{ending}, {steps}, {dtype}")
            for ending in ENDINGS
            for steps in (1, 33)
            for dtype in dtypes
        ],
    )


BOTH = ("float32", "float64")


def agree(ours, theirs):
    """Equal within eight roundings of the largest value; the worst seen is 5.3."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    scale = 1 + np.abs(theirs).max(initial=0)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=8 * np.finfo(ours.dtype).eps * scale)


# rlax: 1-D arrays, discount_t = gamma (1 - terminated), values at times 0 to T, importance ratios not their logarithms.


@pytest.fixture(scope="module")
def rlax():
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    return pytest.importorskip("rlax")


@functools.lru_cache
def _compiled(function, static):
    import jax

    return jax.jit(jax.vmap(lambda arrays: function(**arrays, **dict(static)), in_axes=1, out_axes=1))


def lanes(function, **arguments):
    """An rlax function, which knows one sequence, over the columns of (T, N) arrays; what is no array goes in as it is."""
    arrays = {name: x for name, x in arguments.items() if isinstance(x, np.ndarray)}
    return _compiled(function, tuple((name, x) for name, x in arguments.items() if name not in arrays))(arrays)


def times_0_to_T(batch):
    return np.vstack([batch.value, batch.next_value[-1:]])


@on_endings(*BOTH)
def test_rlax_gae_with_the_value_of_a_cut_folded_into_the_reward(rlax, batch):
    # values[t + 1] serves as next value and as the next step's value; so an episode cut inside the batch ends there, paid in advance.
    discount = batch.where_alive(GAMMA, batch.ended)
    theirs = lanes(
        rlax.truncated_generalized_advantage_estimation,
        r_t=batch.reward + batch.final, discount_t=discount, lambda_=LAMBDA, values=times_0_to_T(batch),
    )  # fmt: skip
    agree(fastpg.gae(batch.reward, batch.value, batch.next_value, *batch.flags, GAMMA, LAMBDA), theirs)


@on_endings(*BOTH)
def test_rlax_lambda_of_zero_cuts_like_a_truncation(rlax, batch):
    discount, lambda_ = batch.where_alive(GAMMA, batch.terminated), batch.where_alive(LAMBDA, batch.truncated)
    theirs = lanes(rlax.lambda_returns, r_t=batch.reward, discount_t=discount, v_t=batch.next_value, lambda_=lambda_)
    agree(fastpg.lambda_return(batch.reward, batch.next_value, *batch.flags, GAMMA, LAMBDA), theirs)
    values = times_0_to_T(batch)  # their GAE as well, where next_value[t] is value[t + 1] at every step
    theirs = lanes(
        rlax.truncated_generalized_advantage_estimation,
        r_t=batch.reward, discount_t=discount, lambda_=lambda_, values=values,
    )  # fmt: skip
    agree(fastpg.gae(batch.reward, batch.value, values[1:], *batch.flags, GAMMA, LAMBDA), theirs)


@on_endings(*BOTH)
def test_rlax_discounted_returns_read_the_last_value_alone(rlax, batch):
    discount = batch.where_alive(GAMMA, batch.ended)
    theirs = lanes(rlax.discounted_returns, r_t=batch.reward + batch.final, discount_t=discount, v_t=batch.next_value)
    agree(fastpg.reward_to_go(batch.reward, batch.next_value, *batch.flags, GAMMA), theirs)


@pytest.mark.parametrize("n", [1, 3, 40])
@on_endings(*BOTH)
def test_rlax_n_step_returns_end_a_window_where_lambda_is_zero(rlax, batch, n):
    discount, lambda_ = batch.where_alive(GAMMA, batch.terminated), batch.where_alive(1.0, batch.truncated)
    theirs = lanes(
        rlax.n_step_bootstrapped_returns,
        r_t=batch.reward, discount_t=discount, v_t=batch.next_value, n=n, lambda_t=lambda_,
    )  # fmt: skip
    agree(fastpg.n_step_return(batch.reward, batch.next_value, *batch.flags, GAMMA, n), theirs)


def vtrace_arguments(batch):
    return {
        "v_tm1": batch.value,
        "v_t": batch.next_value,
        "r_t": batch.reward,
        "discount_t": batch.where_alive(GAMMA, batch.terminated),
        "rho_tm1": np.exp(batch.log_ratio),
        "lambda_": batch.where_alive(LAMBDA, batch.truncated),
    }


def vtrace(batch, *clips, **keywords):
    args = (batch.reward, batch.value, batch.next_value, batch.log_ratio, *batch.flags, GAMMA, LAMBDA)
    return fastpg.vtrace(*args, *clips, **keywords)


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("clip", [1.0, 2.5])
@on_endings(*BOTH)
def test_rlax_vtrace_errors_are_our_targets_less_the_values(rlax, batch, clip, alpha):
    target, _ = vtrace(batch, clip, alpha=alpha)
    theirs = lanes(rlax.leaky_vtrace, **vtrace_arguments(batch), alpha_=alpha, clip_rho_threshold=clip)
    agree(target, batch.value + theirs)
    if alpha == 1:
        theirs = lanes(rlax.vtrace, **vtrace_arguments(batch), clip_rho_threshold=clip)
        agree(target, batch.value + theirs)


@on_endings(*BOTH)
def test_rlax_vtrace_advantage_reads_the_next_episode_at_a_cut_and_ours_does_not(rlax, batch):
    clips = {"clip_rho_threshold": 2.0, "clip_pg_rho_threshold": 3.0}
    theirs = lanes(rlax.vtrace_td_error_and_advantage, **vtrace_arguments(batch), **clips)
    target, advantage = vtrace(batch, 2.0, 1.0, 3.0)
    agree(target, batch.value + theirs.errors)
    cut = batch.truncated & ~batch.terminated
    cut[-1] = False  # the last row reads v_t there too
    agree(np.where(cut, 0, advantage), np.where(cut, 0, theirs.pg_advantage))
    after = np.vstack([batch.value[1:], batch.next_value[-1:]])
    wrong = np.minimum(np.exp(batch.log_ratio), 3) * (batch.reward + GAMMA * after - batch.value)
    right = np.minimum(np.exp(batch.log_ratio), 3) * (batch.reward + GAMMA * batch.next_value - batch.value)
    agree(theirs.pg_advantage[cut], wrong[cut])
    agree(advantage[cut], right[cut])


@on_endings(*BOTH)
def test_rlax_leaky_advantage_leaks_through_its_clip_too_and_ours_keeps_it(rlax, batch):
    alpha, clip = 0.25, 3.0
    clips = {"clip_rho_threshold": 2.0, "clip_pg_rho_threshold": clip}
    theirs = lanes(rlax.leaky_vtrace_td_error_and_advantage, **vtrace_arguments(batch), alpha=alpha, **clips)
    target, advantage = vtrace(batch, 2.0, 1.0, clip, alpha=alpha)
    agree(target, batch.value + theirs.errors)
    ratio = np.exp(batch.log_ratio)
    clipped = np.minimum(clip, ratio)
    whole = ~batch.truncated
    whole[-1] = True
    agree(
        (advantage / clipped * ((1 - alpha) * ratio + alpha * clipped))[whole], np.asarray(theirs.pg_advantage)[whole]
    )


@on_endings(*BOTH)
def test_rlax_importance_corrected_td_errors_are_vtrace_without_clips(rlax, batch):
    # values again serve twice, so a cut is folded into the reward here too.
    multistep = pytest.importorskip("rlax._src.multistep")  # not among its public names
    theirs = lanes(
        multistep.importance_corrected_td_errors,
        r_t=batch.reward + batch.final, discount_t=batch.where_alive(GAMMA, batch.ended),
        rho_tm1=np.exp(batch.log_ratio), lambda_=LAMBDA, values=times_0_to_T(batch),
    )  # fmt: skip
    agree(vtrace(batch, np.inf, np.inf)[0] - batch.value, theirs)


@on_endings(*BOTH)
def test_rlax_off_policy_returns_are_one_recursion_with_four_coefficients(rlax, batch):
    q, after = batch.value, batch.next_value  # any two numbers: the recursion does not ask what they are values of
    log_prob = np.minimum(batch.log_ratio, 0)
    greedy = batch.log_ratio > 0
    better = batch.reward + GAMMA * ~batch.terminated * after >= q
    coefficients = {
        "retrace": (LAMBDA * np.minimum(1, np.exp(batch.log_ratio)), (batch.log_ratio, *batch.flags, GAMMA, LAMBDA)),
        "tree_backup": (LAMBDA * np.exp(log_prob), (log_prob, *batch.flags, GAMMA, LAMBDA)),
        "q_lambda": (LAMBDA * greedy, (greedy, *batch.flags, GAMMA, LAMBDA)),
        "upgo": (1.0 * better, (*batch.flags, GAMMA)),
    }
    for name, (c, rest) in coefficients.items():
        # c_t and q_t stand at times 1 to T - 1; a coefficient of 0 after a cut keeps the next episode out.
        theirs = lanes(
            rlax.general_off_policy_returns_from_q_and_v,
            q_t=q[1:], v_t=after, r_t=batch.reward, discount_t=batch.where_alive(GAMMA, batch.terminated),
            c_t=batch.where_alive(c[1:], batch.truncated[:-1]),
        )  # fmt: skip
        agree(getattr(fastpg, name)(batch.reward, q, after, *rest), theirs)


def action_values(batch, actions=4):
    """Values of every action before and after each step; inside an episode those after are those before the next step."""
    rng = np.random.default_rng(5)
    before = rng.standard_normal((*batch.reward.shape, actions)).astype(batch.reward.dtype)
    after = rng.standard_normal(before.shape).astype(before.dtype)
    after[:-1] = np.where(batch.ended[:-1, :, None], after[:-1], before[1:])
    return before, after, rng.integers(0, actions, batch.reward.shape), rng


def at(table, action):
    return np.take_along_axis(table, action[..., None], -1)[..., 0]


@on_endings(*BOTH)
def test_rlax_retrace_errors_are_our_targets_less_the_values_of_the_actions(rlax, batch):
    before, after, action, rng = action_values(batch)
    pi = rng.dirichlet(np.ones(4), batch.reward.shape).astype(before.dtype)
    mu = rng.uniform(0.1, 1, batch.reward.shape).astype(before.dtype)
    pi_after = np.concatenate([pi[1:], pi[:1]])
    # a_t, pi_t and mu_t belong to the state after the step. What they say of the last one, and after a cut, multiplies 0.
    c_time = {"a_t": np.roll(action, -1, 0), "pi_t": pi_after, "mu_t": np.roll(mu, -1, 0)}
    theirs = lanes(
        rlax.retrace,
        q_tm1=before, q_t=after, a_tm1=action, r_t=batch.reward, **c_time, eps=0.0,
        discount_t=batch.where_alive(GAMMA, batch.terminated), lambda_=batch.where_alive(LAMBDA, batch.truncated),
    )  # fmt: skip
    q = at(before, action)
    log_ratio = np.log(at(pi, action) / mu)
    ours = fastpg.retrace(batch.reward, q, (pi_after * after).sum(-1), log_ratio, *batch.flags, GAMMA, LAMBDA)
    agree(ours, q + theirs)


@on_endings(*BOTH)
def test_rlax_q_lambda_is_ours_with_the_lambda_of_watkins_written_out(rlax, batch):
    before, after, action, _ = action_values(batch)
    q, value, next_value = at(before, action), before.max(-1), after.max(-1)
    for greedy in (action == before.argmax(-1), np.ones(action.shape, bool)):  # Watkins, then Peng
        lambda_ = batch.where_alive(LAMBDA * np.roll(greedy, -1, 0), batch.truncated)
        theirs = lanes(
            rlax.q_lambda,
            q_tm1=before, a_tm1=action, r_t=batch.reward, q_t=after, lambda_=lambda_,
            discount_t=batch.where_alive(GAMMA, batch.terminated),
        )  # fmt: skip
        ours = fastpg.q_lambda(batch.reward, value, next_value, greedy, *batch.flags, GAMMA, LAMBDA)
        agree(ours, q + theirs)


# TorchRL: tensors [B, T, 1], done and terminated, the true next values.


@pytest.fixture(scope="module")
def torchrl():
    return pytest.importorskip("torchrl.objectives.value.functional")


def columns(*arrays):
    """(T, N) arrays as tensors [N, T, 1]."""
    import torch

    return [torch.from_numpy(np.ascontiguousarray(x.T[..., None])) for x in arrays]


def as_steps(tensor):
    """[N, T, 1] back to (T, N)."""
    return tensor.numpy()[..., 0].T


@pytest.mark.parametrize("name", ["generalized_advantage_estimate", "vec_generalized_advantage_estimate"])
@on_endings(*BOTH)
def test_torchrl_gae(torchrl, batch, name):
    # truncated = done & ~terminated
    args = columns(batch.value, batch.next_value, batch.reward, batch.ended, batch.terminated)
    theirs = getattr(torchrl, name)(GAMMA, LAMBDA, *args)
    args = (batch.reward, batch.value, batch.next_value, *batch.flags, GAMMA, LAMBDA)
    for ours, other in zip(fastpg.gae_and_return(*args), theirs, strict=True):
        agree(ours, as_steps(other))


@pytest.mark.parametrize("vec", ["", "vec_"])
@on_endings(*BOTH)
def test_torchrl_returns(torchrl, batch, vec):
    args = columns(batch.next_value, batch.reward, batch.ended, batch.terminated)
    of_lambda = getattr(torchrl, f"{vec}td_lambda_return_estimate")(GAMMA, LAMBDA, *args)
    agree(fastpg.lambda_return(batch.reward, batch.next_value, *batch.flags, GAMMA, LAMBDA), as_steps(of_lambda))
    to_go = getattr(torchrl, f"{vec}td1_return_estimate")(GAMMA, *args)
    agree(fastpg.reward_to_go(batch.reward, batch.next_value, *batch.flags, GAMMA), as_steps(to_go))


@on_endings(*BOTH)
def test_torchrl_td0_return_is_our_residual_plus_value(torchrl, batch):
    theirs = torchrl.td0_return_estimate(GAMMA, *columns(batch.next_value, batch.reward, batch.terminated))
    ours = fastpg.td_residual(batch.reward, batch.value, batch.next_value, *batch.flags, GAMMA) + batch.value
    agree(ours, as_steps(theirs))


@on_endings(*BOTH)
def test_torchrl_reward2go_knows_no_bootstrap(torchrl, batch):
    theirs = torchrl.reward2go(*columns(batch.reward, batch.ended), GAMMA)
    no = np.zeros_like(batch.ended)
    agree(fastpg.reward_to_go(batch.reward, None, batch.ended, no, GAMMA), as_steps(theirs))


@pytest.mark.parametrize("clips", [(1.0, 1.0), (2.0, 0.75)])
@on_endings(*BOTH)
def test_torchrl_vtrace_clips_both_ratios_alike(torchrl, batch, clips):
    log_mu = np.zeros_like(batch.log_ratio)
    args = (batch.log_ratio, log_mu, batch.value, batch.next_value, batch.reward, batch.ended, batch.terminated)
    advantage, target = torchrl.vtrace_advantage_estimate(GAMMA, *columns(*args), *clips)
    args = (batch.reward, batch.value, batch.next_value, batch.log_ratio, *batch.flags, GAMMA, 1.0)
    ours, our_advantage = fastpg.vtrace(*args, *clips, clips[0])
    agree(ours, as_steps(target))
    # Versions before mid-2026 read the next episode's target at a cut, as rlax does.
    agree(our_advantage, as_steps(advantage))


@pytest.mark.parametrize(("gamma", "lambda_"), [(0.0, LAMBDA), (GAMMA, 0.0), (1e-4, 1e-4)])
@on_endings("float64")
def test_torchrl_vectorised_fails_where_gamma_times_lambda_vanishes_and_ours_does_not(torchrl, batch, gamma, lambda_):
    args = columns(batch.value, batch.next_value, batch.reward, batch.ended, batch.terminated)
    ours = fastpg.gae(batch.reward, batch.value, batch.next_value, *batch.flags, gamma, lambda_)
    # The loop gives the numbers; it rounds gamma = 1e-4 to float32.
    np.testing.assert_allclose(
        ours, as_steps(torchrl.generalized_advantage_estimate(gamma, lambda_, *args)[0]), atol=1e-9
    )
    if gamma * lambda_ == 0:
        np.testing.assert_array_equal(
            ours, fastpg.td_residual(batch.reward, batch.value, batch.next_value, *batch.flags, gamma)
        )
    try:
        theirs = torchrl.vec_generalized_advantage_estimate(gamma, lambda_, *args)[0]
    except IndexError:
        return
    np.testing.assert_allclose(ours, as_steps(theirs), atol=1e-7)


def test_torchrl_rounds_gamma_to_float32_and_ours_does_not(torchrl):
    reward, nothing = np.zeros((2, 33, LANES))
    reward[-1] = 1.0
    no = np.zeros(reward.shape, bool)
    theirs = torchrl.generalized_advantage_estimate(0.99, 1.0, *columns(nothing, nothing, reward, no, no))[0]
    np.testing.assert_allclose(as_steps(theirs)[0], 0.99**32, rtol=32 * np.finfo(np.float32).eps)
    ours = fastpg.gae(reward, nothing, nothing, no, no, 0.99, 1.0)
    np.testing.assert_allclose(ours[0], 0.99**32, rtol=32 * np.finfo(np.float64).eps)


# Tianshou: one row of several episodes, v_s_ of the true next observations, float64 throughout.


@pytest.fixture(scope="module")
def tianshou():
    pytest.importorskip("tianshou")
    return pytest.importorskip("tianshou.algorithm.algorithm_base")


@on_endings(*BOTH)
def test_tianshou_gae_streams_lanes_through_one_row(tianshou, batch):
    row = {
        name: getattr(batch, name).T.ravel() for name in ("reward", "value", "next_value", "terminated", "truncated")
    }
    offsets = np.arange(LANES + 1) * len(batch.reward)
    end = row["terminated"] | row["truncated"]
    end[offsets[1:] - 1] = True  # what is still running at the end of a lane ends there and bootstraps
    v_next = row["next_value"] * ~row["terminated"]
    theirs = tianshou._gae(row["value"], v_next, row["reward"], end, GAMMA, LAMBDA)
    agree(fastpg.gae(*row.values(), GAMMA, LAMBDA, offsets=offsets), theirs)
    theirs = theirs.reshape(LANES, -1).T
    agree(fastpg.gae(batch.reward, batch.value, batch.next_value, *batch.flags, GAMMA, LAMBDA), theirs)


def tianshou_buffer(batch):
    """A replay buffer that holds the first lane."""
    from tianshou.data import Batch as Row
    from tianshou.data import ReplayBuffer

    buffer = ReplayBuffer(len(batch.reward))
    for t, (reward, terminated, truncated) in enumerate(
        zip(batch.reward[:, 0], batch.terminated[:, 0], batch.truncated[:, 0], strict=True)
    ):
        buffer.add(Row(obs=t, act=0, rew=reward, terminated=terminated, truncated=truncated, obs_next=t, info={}))
    return buffer, buffer.sample_indices(0)


@on_endings("float64")
def test_tianshou_episodic_return(tianshou, batch):
    buffer, indices = tianshou_buffer(batch)
    values = batch.next_value[:, 0], batch.value[:, 0]
    theirs = tianshou.Algorithm.compute_episodic_return(buffer[indices], buffer, indices, *values, GAMMA, LAMBDA)
    args = (batch.reward, batch.value, batch.next_value, *batch.flags, GAMMA, LAMBDA)
    for other, ours in zip(theirs, fastpg.gae_and_return(*args)[::-1], strict=True):
        agree(ours[:, 0], other)


@pytest.mark.parametrize("n", [1, 3, 40])
@on_endings("float64")
def test_tianshou_n_step_return(tianshou, batch, n):
    import torch

    buffer, indices = tianshou_buffer(batch)
    next_value = torch.from_numpy(batch.next_value[:, :1].copy())
    got = tianshou.Algorithm.compute_nstep_return(
        buffer[indices], buffer, indices, lambda _, last: next_value[last], GAMMA, n
    )
    ours = fastpg.n_step_return(batch.reward, batch.next_value, *batch.flags, GAMMA, n)
    agree(ours[:, 0], got.returns.numpy()[:, 0])


# Stable-Baselines3: float32; episode_starts[t + 1] says that step t ended; the value of a cut is folded into the reward.


@pytest.fixture(scope="module")
def sb3():
    pytest.importorskip("stable_baselines3")
    return pytest.importorskip("stable_baselines3.common.buffers")


@on_endings("float32")
def test_stable_baselines_gae_with_the_value_of_a_cut_folded_into_the_reward(sb3, batch):
    import torch
    from gymnasium import spaces

    steps = len(batch.reward)
    space = spaces.Discrete(2)
    buffer = sb3.RolloutBuffer(steps, space, space, "cpu", gae_lambda=LAMBDA, gamma=GAMMA, n_envs=LANES)
    buffer.rewards[:] = batch.reward + batch.final
    buffer.values[:] = batch.value
    buffer.episode_starts[1:] = batch.ended[:-1]
    buffer.compute_returns_and_advantage(torch.from_numpy(batch.next_value[-1].copy()), batch.ended[-1])
    args = (batch.reward, batch.value, batch.next_value, *batch.flags, GAMMA, LAMBDA)
    for ours, theirs in zip(fastpg.gae_and_return(*args), (buffer.advantages, buffer.returns), strict=True):
        agree(ours, theirs)


@pytest.mark.parametrize("n", [1, 3, 40])
@on_endings("float32")
def test_stable_baselines_n_step_replay(sb3, batch, n):
    from gymnasium import spaces

    steps = len(batch.reward)
    space = spaces.Box(0, steps, (1,), np.float32)
    buffer = sb3.NStepReplayBuffer(steps + n, space, spaces.Discrete(2), "cpu", n_steps=n, gamma=GAMMA)
    # Both flags at once: terminated wins here as well, for its timeouts come from TimeLimit.truncated without terminated.
    buffer.dones[:steps], buffer.timeouts[:steps] = batch.ended[:, :1], (batch.truncated & ~batch.terminated)[:, :1]
    buffer.rewards[:steps] = batch.reward[:, :1]
    buffer.next_observations[:steps, 0, 0] = np.arange(steps)  # so that the sample names the step to bootstrap from
    buffer.pos = steps
    sample = buffer._get_samples(np.arange(steps))
    last = sample.next_observations.numpy().astype(int)[:, 0]
    rewards, discounts, dones = (x.numpy()[:, 0] for x in (sample.rewards, sample.discounts, sample.dones))
    ours = fastpg.n_step_return(batch.reward, batch.next_value, *batch.flags, GAMMA, n)
    agree(ours[:, 0], rewards + discounts * (1 - dones) * batch.next_value[last, 0])


# verl: batch-major, V after the last token 0, masked tokens are passed over; advantages are whitened, returns are not.


@pytest.fixture(scope="module")
def verl():
    return pytest.importorskip("verl.trainer.ppo.core_algos")


MASKS = {
    "every token": lambda rng, shape: np.ones(shape, bool),
    "no token": lambda rng, shape: np.zeros(shape, bool),
    "padded to the right": lambda rng, shape: np.arange(shape[1]) < rng.integers(0, shape[1] + 1, shape[0])[:, None],
    "padded to the left": lambda rng, shape: np.arange(shape[1]) >= rng.integers(0, shape[1] + 1, shape[0])[:, None],
    "one token": lambda rng, shape: np.arange(shape[1]) == rng.integers(0, shape[1], shape[0])[:, None],
    "every other token": lambda rng, shape: np.broadcast_to(np.arange(shape[1]) % 2 == 1, shape),
    "random": lambda rng, shape: rng.random(shape) < 0.6,
}


@pytest.mark.parametrize("dtype", BOTH)
@pytest.mark.parametrize("tokens", [1, 33])
@pytest.mark.parametrize("kind", MASKS)
def test_verl_passes_over_masked_tokens_as_skip_does(verl, kind, tokens, dtype):
    import torch

    rng = np.random.default_rng(7)
    # Two rows without a gap below the others, for verl whitens and divides by the number of tokens less one.
    mask = np.vstack([MASKS[kind](rng, (6, tokens)), np.ones((2, tokens), bool)])
    reward, value = rng.standard_normal((2, *mask.shape)).astype(dtype)
    no, after = np.zeros(mask.shape, bool), np.zeros(len(mask), dtype)
    keywords = {"axis": 1, "mask": mask, "mask_mode": "skip"}
    advantage, returns = fastpg.gae_and_return(reward, value, after, no, no, GAMMA, LAMBDA, **keywords)
    of_rewards = fastpg.reward_to_go(reward, None, no, no, GAMMA, **keywords)

    tensors = [torch.from_numpy(x) for x in (reward, value, mask.astype(dtype))]
    whitened, theirs = (x.numpy() for x in verl.compute_gae_advantage_return(*tensors, GAMMA, LAMBDA))
    agree(returns, np.where(mask, theirs, 0))
    agree(advantage, np.where(mask, theirs - value, 0))
    kept = advantage[mask]
    rtol = 2e-8 if dtype == "float64" else 16 * np.finfo(dtype).eps  # it adds 1e-8 to the number of tokens
    np.testing.assert_allclose((kept - kept.mean()) / kept.std(ddof=1), whitened[mask], rtol=rtol, atol=rtol)
    config = type("Config", (), {"gamma": GAMMA})
    theirs = verl.compute_reinforce_plus_plus_outcome_advantage(tensors[0], tensors[2], config)[1]
    agree(of_rewards, theirs.numpy())


# PufferLib: float32, one row, the reward and the flag of a step stand one place later, the last place is 0.


@on_endings("float32")
def test_pufferlib_reads_reward_and_flag_one_place_later(batch):
    c_gae = pytest.importorskip("c_gae")
    steps = len(batch.reward)
    done, reward, value = np.zeros((3, steps + 1), np.float32)
    done[1:], reward[1:], value[:] = batch.ended[:, 0], (batch.reward + batch.final)[:, 0], times_0_to_T(batch)[:, 0]
    theirs = c_gae.compute_gae(done, value, reward, GAMMA, LAMBDA)
    ours = fastpg.gae(batch.reward, batch.value, batch.next_value, *batch.flags, GAMMA, LAMBDA)
    agree(ours[:, 0], theirs[:-1])
    assert theirs[-1] == 0
