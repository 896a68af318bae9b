"""What the equations say must hold, whatever the numbers: each test is named after its sentence."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import fastpg
from fastpg import _core, categorical, reference
from fastpg.testing import CASES, compare

SHAPES = [(1,), (37,), (65, 1), (40, 7), (30, 100)]


def batch(rng, shape, ends=0.1, dtype=np.float64):
    names = ("reward", "value", "next_value")
    return {n: rng.standard_normal(shape).astype(dtype) for n in names} | {
        n: rng.random(shape) < ends for n in ("terminated", "truncated")
    }


def continuing(rng, shape):
    """A batch without interior truncation, whose next_value is the value one step on."""
    b = batch(rng, shape)
    b["truncated"][:] = False
    b["next_value"][:-1] = b["value"][1:]
    return b


def without_value(b):
    return {k: a for k, a in b.items() if k != "value"}


@pytest.mark.parametrize("shape", SHAPES)
def test_gae_with_lambda_one_is_reward_to_go_minus_value(shape, rng):
    b = continuing(rng, shape)
    got = fastpg.gae(**b, gamma=0.9, lambda_=1.0)
    np.testing.assert_allclose(
        got, fastpg.reward_to_go(**without_value(b), gamma=0.9) - b["value"], rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_gae_with_lambda_zero_is_the_td_residual(shape, rng):
    b = batch(rng, shape)
    np.testing.assert_array_equal(fastpg.gae(**b, gamma=0.9, lambda_=0.0), fastpg.td_residual(**b, gamma=0.9))


@pytest.mark.parametrize("shape", SHAPES)
def test_gae_with_gamma_zero_is_reward_minus_value(shape, rng):
    b = batch(rng, shape)
    np.testing.assert_array_equal(fastpg.gae(**b, gamma=0.0), b["reward"] - b["value"])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("lambda_", [0.0, 0.3, 1.0])
def test_lambda_return_is_gae_plus_value(shape, lambda_, rng):
    b = continuing(rng, shape)
    got = fastpg.lambda_return(**without_value(b), gamma=0.9, lambda_=lambda_)
    advantage, returns = fastpg.gae_and_return(**b, gamma=0.9, lambda_=lambda_)
    np.testing.assert_allclose(got, returns, rtol=1e-10, atol=1e-10)
    np.testing.assert_array_equal(returns, advantage + b["value"])


def test_lambda_return_is_the_weighted_mean_of_n_step_returns(rng):
    # Sutton and Barto 2018, eq. 12.3: (1 - lambda) sum_n lambda^(n-1) G_{t:t+n} + lambda^(T-t-1) G_t
    b, gamma, lambda_, steps = continuing(rng, (12,)), 0.9, 0.7, 12
    b["terminated"][:] = False
    r, v = b["reward"], b["next_value"]

    def n_step(t, n):
        return sum(gamma**k * r[t + k] for k in range(n)) + gamma**n * v[t + n - 1]

    wanted = [
        sum((1 - lambda_) * lambda_ ** (n - 1) * n_step(t, n) for n in range(1, steps - t))
        + lambda_ ** (steps - t - 1) * n_step(t, steps - t)
        for t in range(steps)
    ]
    np.testing.assert_allclose(
        fastpg.lambda_return(**without_value(b), gamma=gamma, lambda_=lambda_), wanted, rtol=1e-12
    )


def test_a_truncated_step_bootstraps_and_a_terminated_one_does_not():
    r, v, nv, no, yes = [1.0], [10.0], [100.0], [False], [True]
    for estimate, base in [(fastpg.gae, -10.0), (fastpg.td_residual, -10.0)]:
        assert estimate(r, v, nv, no, yes, gamma=0.5) == 1 + 0.5 * 100 + base
        assert estimate(r, v, nv, yes, no, gamma=0.5) == 1 + base
        assert estimate(r, v, nv, yes, yes, gamma=0.5) == 1 + base  # both: terminated wins
    for estimate in (fastpg.reward_to_go, fastpg.lambda_return):
        assert estimate(r, nv, no, yes, gamma=0.5) == 1 + 0.5 * 100
        assert estimate(r, nv, yes, no, gamma=0.5) == 1
        assert estimate(r, nv, yes, yes, gamma=0.5) == 1


def test_total_return_gives_each_step_its_whole_episode(rng):
    r = rng.standard_normal(9)
    terminated, truncated = np.zeros(9, bool), np.zeros(9, bool)
    terminated[2] = truncated[5] = True
    episodes = np.repeat([0, 1, 2], 3)
    for gamma in (1.0, 0.5, 0.0):
        wanted = np.array([sum(gamma**k * r[3 * e + k] for k in range(3)) for e in episodes])
        np.testing.assert_allclose(fastpg.total_return(r, terminated, truncated, gamma), wanted, rtol=1e-12)


ESTIMATES = {
    "total_return": ("reward", "terminated", "truncated"),
    "reward_to_go": ("reward", "next_value", "terminated", "truncated"),
    "td_residual": ("reward", "value", "next_value", "terminated", "truncated"),
    "gae": ("reward", "value", "next_value", "terminated", "truncated"),
    "lambda_return": ("reward", "next_value", "terminated", "truncated"),
}


@pytest.mark.parametrize("name", ESTIMATES)
def test_lanes_are_independent(name, rng):
    estimate = getattr(fastpg, name)
    for lanes in (2, 9, 100, 300):
        b = batch(rng, (25, lanes))
        whole = estimate(**{k: b[k] for k in ESTIMATES[name]})
        for lane in (0, 1, lanes - 1):
            pair = estimate(**{k: np.ascontiguousarray(b[k][:, [lane, 0]]) for k in ESTIMATES[name]})
            np.testing.assert_array_equal(whole[:, lane], pair[:, 0])
            one = estimate(**{k: b[k][:, lane] for k in ESTIMATES[name]})  # time contiguous: sums associate otherwise
            np.testing.assert_allclose(whole[:, lane], one, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", ESTIMATES)
def test_a_batch_cut_at_an_episode_boundary_gives_the_same_numbers(name, rng):
    b = batch(rng, (60, 5), ends=0.0)
    b["terminated"][29, :3] = b["truncated"][29, 3:] = True
    estimate = getattr(fastpg, name)
    whole = estimate(**{k: b[k] for k in ESTIMATES[name]})
    parts = [estimate(**{k: b[k][part] for k in ESTIMATES[name]}) for part in (slice(0, 30), slice(30, 60))]
    np.testing.assert_array_equal(whole, np.concatenate(parts))


@pytest.mark.parametrize("name", ESTIMATES)
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_reach_the_steps_before_them_in_their_episode_and_no_others(name, poison, isa, rng):
    estimate = getattr(fastpg, name)
    for lanes in (3, 120):
        b = batch(rng, (30, lanes), ends=0.0)
        b["terminated"][[9, 19]] = True
        b["truncated"][14] = True
        episode = np.searchsorted([9, 14, 19, 29], np.arange(30))
        for field in set(ESTIMATES[name]) & {"reward", "value", "next_value"}:
            for t in (4, 9, 12, 14, 25):
                soiled = {k: b[k].copy() for k in ESTIMATES[name]}
                soiled[field][t, 1] = poison
                with np.errstate(invalid="ignore"):
                    got = estimate(**soiled)
                    wanted = getattr(reference, name)(**soiled)
                np.testing.assert_array_equal(got, wanted)
                clean = np.ones((30, lanes), bool)
                clean[(episode == episode[t]) & ((np.arange(30) <= t) | (name == "total_return")), 1] = False
                assert np.isfinite(got[clean]).all(), (field, t)
                unread = field == "next_value" and t in (9,)
                if name == "reward_to_go" and field == "next_value":
                    unread = t != 14
                assert np.isfinite(got[t, 1]) == unread


def test_garbage_values_at_terminal_states_change_nothing(rng):
    b = batch(rng, (50, 6))
    soiled = b | {"next_value": np.where(b["terminated"], np.nan, b["next_value"])}
    for name, fields in ESTIMATES.items():
        if "next_value" in fields:
            got = getattr(fastpg, name)(**{k: soiled[k] for k in fields})
            np.testing.assert_array_equal(got, getattr(fastpg, name)(**{k: b[k] for k in fields}))


def test_psi_is_each_of_the_six(rng):
    b = batch(rng, (20, 3))
    same = {
        "total_return": fastpg.total_return(b["reward"], b["terminated"], b["truncated"], 0.9),
        "reward_to_go": fastpg.reward_to_go(**without_value(b), gamma=0.9),
        "baselined": fastpg.reward_to_go(**without_value(b), gamma=0.9) - b["value"],
        "q": fastpg.lambda_return(**without_value(b), gamma=0.9, lambda_=0.8),
        "gae": fastpg.gae(**b, gamma=0.9, lambda_=0.8),
        "td_residual": fastpg.td_residual(**b, gamma=0.9),
    }
    assert tuple(same) == fastpg.PSI
    for kind, wanted in same.items():
        np.testing.assert_array_equal(fastpg.psi(kind, **b, gamma=0.9, lambda_=0.8), wanted)
        turned = {k: a.T for k, a in b.items()}
        np.testing.assert_array_equal(fastpg.psi(kind, **turned, gamma=0.9, lambda_=0.8, axis=1), wanted.T)
        for arguments in (b, b | {"value": b["value"].copy()}):
            out = np.empty((20, 3)) if arguments is b else arguments["value"]
            assert fastpg.psi(kind, **arguments, gamma=0.9, lambda_=0.8, out=out) is out
            np.testing.assert_array_equal(out, wanted)
    for bad in ("best", ["gae"]):
        with pytest.raises(ValueError, match="kind is .*; one of total_return"):
            fastpg.psi(bad, **b)


@pytest.mark.parametrize("shape", [(200, 3), (200, 18), (200, 300)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_softmax_is_shift_invariant(shape, dtype, rng):
    # Multiples of 1/64 below 2^10, moved by a power of two: the moved logits are exact in float32.
    logits = (rng.integers(-640, 640, shape) / 64).astype(dtype)
    other = (rng.integers(-640, 640, shape) / 64).astype(dtype)
    action, weight = rng.integers(0, shape[1], shape[0]), rng.standard_normal(shape[0]).astype(dtype)
    far = logits + dtype(2**16)
    np.testing.assert_array_equal(categorical.log_prob(far, action), categorical.log_prob(logits, action))
    np.testing.assert_array_equal(categorical.entropy(far), categorical.entropy(logits))
    np.testing.assert_array_equal(categorical.kl(far, other), categorical.kl(logits, other))
    got = categorical.log_prob_grad(far, action, weight)
    np.testing.assert_array_equal(got, categorical.log_prob_grad(logits, action, weight))


def test_an_offset_of_1e5_costs_no_digits():
    # HAZARDS 15: gather - logsumexp in float32 errs by 4e-3 here.
    logits = np.array([[1e5, 1e5 + 1, 1e5 + 2]], np.float32)
    wanted = -np.log(1 + np.exp(-1.0) + np.exp(-2.0))
    np.testing.assert_allclose(categorical.log_prob(logits, [2])[0], wanted, rtol=3e-7)


@pytest.mark.parametrize("actions", [2, 18, 200])
def test_gradients_of_a_row_sum_to_zero_and_probabilities_to_one(actions, rng):
    logits, other = rng.standard_normal((50, actions)), rng.standard_normal((50, actions))
    weight = rng.standard_normal(50)
    total = sum(np.exp(categorical.log_prob(logits, np.full(50, a))) for a in range(actions))
    np.testing.assert_allclose(total, 1, rtol=1e-12)
    for grad in (
        categorical.log_prob_grad(logits, rng.integers(0, actions, 50), weight),
        categorical.entropy_grad(logits, weight),
        categorical.kl_grad(logits, other, weight),
        categorical.kl_grad(logits, other, weight, wrt="other"),
    ):
        np.testing.assert_allclose(grad.sum(1), 0, atol=1e-12)


def test_kl_is_zero_for_equal_policies_and_positive_otherwise(rng):
    logits = rng.standard_normal((100, 9))
    np.testing.assert_array_equal(categorical.kl(logits, logits), 0)
    assert (categorical.kl(logits, rng.standard_normal((100, 9))) > 0).all()
    assert categorical.kl([[0.0, 0.0]], [[0.0, -np.inf]])[0] == np.inf
    assert categorical.kl([[0.0, -np.inf]], [[0.0, 0.0]])[0] == pytest.approx(np.log(2))


def test_the_score_has_mean_zero_under_the_policy(rng):
    logits = rng.standard_normal((1, 6))
    pi = np.exp([categorical.log_prob(logits, [a])[0] for a in range(6)])
    mean = sum(pi[a] * categorical.log_prob_grad(logits, [a], [1.0]) for a in range(6))
    np.testing.assert_allclose(mean, 0, atol=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("actions", [2, 18, 100])
def test_samples_come_as_often_as_their_probabilities_say(actions, dtype, rng):
    logits = rng.standard_normal(actions).astype(dtype)
    draws = 200_000
    count = np.bincount(categorical.sample(np.tile(logits, (draws, 1)), rng), minlength=actions)
    pi = np.exp(logits - logits.max())
    pi /= pi.sum()
    # Each count is binomial: five standard deviations, for every action.
    assert (np.abs(count - draws * pi) < 5 * np.sqrt(draws * pi * (1 - pi)) + 1).all()


@pytest.mark.parametrize("actions", [3, 100, 5000])
def test_actions_of_probability_zero_are_never_sampled(actions, rng):
    logits = np.full((4000, actions), -np.inf)
    lucky = rng.integers(0, actions, 4000)
    logits[np.arange(4000), lucky] = 0
    np.testing.assert_array_equal(categorical.sample(logits, rng), lucky)
    np.testing.assert_array_equal(categorical.mode(logits), lucky)


@pytest.mark.parametrize("actions", [2, 18, 100])
def test_a_uniform_on_a_boundary_falls_to_the_action_above_it(actions):
    # pi = (0, 1/2, 1/2, 0, ...): u = 0 is the boundary of an action of probability 0, u = 1/2 that of two equal ones.
    logits = np.full((3, max(actions, 3)), -np.inf)
    logits[:, 1:3] = 0
    below_one = np.nextafter(1, 0)
    drawn = _core.run_rows("categorical_sample", (logits, np.array([0, 0.5, below_one]), None), None)
    assert drawn.tolist() == [1, 2, 2]


def test_sampling_draws_one_uniform_a_row_and_only_from_its_generator():
    logits = np.zeros((10, 4))
    first, second = np.random.default_rng(3), np.random.default_rng(3)
    np.random.seed(0)
    state = np.random.get_state()[1].copy()
    one = categorical.sample(logits, first)
    np.testing.assert_array_equal(one, (second.random(10) * 4).astype(int))  # four equal actions
    assert first.random() == second.random()
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def numeric_gradient(f, x, h=1e-6):
    """Central differences of a scalar function, error about h^2 + eps / h = 1e-10 relative."""
    grad = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[i] += h
        down[i] -= h
        grad[i] = (f(up) - f(down)) / (2 * h)
    return grad


@pytest.mark.parametrize("actions", [2, 5, 18, 70])
@pytest.mark.parametrize("masked", [False, True])
def test_gradients_are_those_of_finite_differences(actions, masked, rng):
    logits, other = rng.standard_normal((4, actions)), rng.standard_normal((4, actions))
    weight, legal = rng.standard_normal(4), None
    action = rng.integers(0, actions, 4)
    if masked:
        legal = rng.random((4, actions)) < 0.6
        legal[np.arange(4), action] = True
    c, close = categorical, {"rtol": 1e-6, "atol": 1e-8}
    pairs = [
        (c.log_prob_grad(logits, action, weight, legal), lambda x: weight @ c.log_prob(x, action, legal), logits),
        (c.entropy_grad(logits, weight, legal), lambda x: weight @ c.entropy(x, legal), logits),
        (c.kl_grad(logits, other, weight, legal), lambda x: weight @ c.kl(x, other, legal), logits),
        (c.kl_grad(logits, other, weight, legal, wrt="other"), lambda x: weight @ c.kl(logits, x, legal), other),
    ]
    for grad, value, at in pairs:
        np.testing.assert_allclose(grad, numeric_gradient(value, at), **close)
        if masked:
            assert (grad[~legal] == 0).all()


def test_nan_in_a_row_reaches_that_row_and_no_other(isa):
    for actions in (3, 18, 100):
        for rows in (1, 5, 200):
            logits = np.zeros((rows, actions), np.float32)
            logits[rows // 2, 1] = np.nan
            action, weight = np.zeros(rows, int), np.ones(rows, np.float32)
            hit = np.arange(rows) == rows // 2
            for got in (
                categorical.log_prob(logits, action),
                categorical.entropy(logits),
                categorical.kl(logits, np.zeros_like(logits)),
                categorical.log_prob_grad(logits, action, weight),
                categorical.entropy_grad(logits, weight),
            ):
                bad = np.isnan(got) if got.ndim == 1 else np.isnan(got).all(1)
                np.testing.assert_array_equal(bad, hit)
                assert np.isfinite(got[~hit]).all()


# --- any shape, any numbers

finite = st.floats(-1e3, 1e3, width=32)


@st.composite
def batches(draw):
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    shape = draw(st.one_of(hnp.array_shapes(min_dims=1, max_dims=2, min_side=0, max_side=40)))
    numbers = st.one_of(finite, st.sampled_from([np.nan, np.inf, -np.inf]))
    arrays = {n: draw(hnp.arrays(dtype, shape, elements=numbers)) for n in ("reward", "value", "next_value")}
    arrays |= {n: draw(hnp.arrays(bool, shape)) for n in ("terminated", "truncated")}
    step = draw(st.sampled_from([slice(None), slice(None, None, -1), slice(None, None, 2)]))
    arrays = {n: a[step] for n, a in arrays.items()}
    gamma, lambda_ = draw(st.floats(0, 1)), draw(st.floats(0, 1))
    return arrays, gamma, lambda_


@settings(max_examples=150)
@given(batches(), st.sampled_from(sorted(ESTIMATES)))
def test_any_batch_equals_the_specification_and_several_lanes_bit_for_bit(given_batch, name):
    arrays, gamma, lambda_ = given_batch
    arguments = {k: arrays[k] for k in ESTIMATES[name]} | {"gamma": gamma}
    if name in ("gae", "lambda_return"):
        arguments["lambda_"] = lambda_
    with np.errstate(all="ignore"):
        wanted = getattr(reference, name)(**arguments)
    case = next(case for case in CASES if case.name == name)
    assert compare(getattr(fastpg, name)(**arguments), wanted, case.near(wanted.shape)) == ""


@settings(max_examples=100)
@given(
    hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=90), elements=st.floats(-600, 600)),
    st.integers(0, 2**32 - 1),
)
def test_any_logits_come_close_to_the_specification(logits, seed):
    rng = np.random.default_rng(seed)
    rows, actions = logits.shape
    action, weight = rng.integers(0, actions, rows), rng.standard_normal(rows)
    close = {"rtol": 1e-12, "atol": 1e-12}
    spec = reference.categorical
    np.testing.assert_allclose(categorical.log_prob(logits, action), spec.log_prob(logits, action), **close)
    np.testing.assert_allclose(categorical.entropy(logits), spec.entropy(logits), **close)
    got = categorical.log_prob_grad(logits, action, weight)
    np.testing.assert_allclose(got, spec.log_prob_grad(logits, action, weight), **close)
