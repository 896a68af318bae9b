"""The natural gradient against Hessians, enumeration and dense solves; the trust region against its own promises."""

import itertools

import numpy as np
import pytest

from fastpg import categorical, gaussian, natural

M, A, D = 5, 4, 3


def dense(product, size):
    """The matrix of a linear map."""
    return np.stack([product(row) for row in np.eye(size)], axis=1)


def hessian(f, x, h=1e-4):
    """Second differences of a function of a vector."""
    n = len(x)
    out = np.empty((n, n))
    for i, j in itertools.product(range(n), repeat=2):
        e, d = h * np.eye(n)[i], h * np.eye(n)[j]
        out[i, j] = (f(x + e + d) - f(x + e - d) - f(x - e + d) + f(x - e - d)) / (4 * h * h)
    return out


# --- in the space of the distribution's parameters


@pytest.mark.parametrize("masked", [False, True])
def test_the_categorical_product_is_the_second_moment_of_the_score(masked, rng):
    x, v = rng.standard_normal((M, A)), rng.standard_normal((M, A))
    w = rng.random(M)
    legal = np.array([True, True, False, True]) if masked else None
    wanted = np.zeros((M, A))
    for a in range(A):
        chosen = np.full(M, a)
        pi = np.exp(categorical.log_prob(x, chosen, legal))
        score = categorical.log_prob_grad(x, chosen, np.ones(M), legal)
        wanted += (w * pi * (score * v).sum(axis=1))[:, None] * score
    np.testing.assert_allclose(natural.categorical_fisher_vector_product(x, v, w, legal), wanted, atol=1e-15)
    if masked:  # what stands at an illegal action does not count
        soiled, wild = x.copy(), v.copy()
        soiled[:, 2] = wild[:, 2] = np.nan
        np.testing.assert_array_equal(
            natural.categorical_fisher_vector_product(soiled, wild, w, legal),
            natural.categorical_fisher_vector_product(x, v, w, legal),
        )


def test_the_categorical_product_is_the_hessian_of_the_divergence(rng):
    x = rng.standard_normal((1, A))
    got = dense(lambda v: natural.categorical_fisher_vector_product(x, v[None], np.ones(1))[0], A)
    np.testing.assert_allclose(got, hessian(lambda y: categorical.kl(x, y[None])[0], x[0]), atol=1e-6)
    np.testing.assert_allclose(got, hessian(lambda y: categorical.kl(y[None], x)[0], x[0]), atol=1e-6)


def test_the_gaussian_product_is_the_hessian_of_the_divergence(rng):
    m, s = rng.standard_normal((1, D)), rng.standard_normal((1, D)) / 2

    def product(v):
        return np.hstack(natural.gaussian_fisher_vector_product(m, s, v[None, :D], v[None, D:], np.ones(1)))[0]

    at = np.hstack([m, s])[0]
    got = dense(product, 2 * D)
    wanted = hessian(lambda y: gaussian.kl(m, s, y[None, :D], y[None, D:])[0], at)
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6)


def test_the_gaussian_product_is_the_second_moment_of_the_score(rng):
    # By Gauss-Hermite quadrature with 8 nodes, exact for the polynomials of degree 4 that these are.
    m, s, v = rng.standard_normal(1), rng.standard_normal(1) / 2, rng.standard_normal(2)
    node, share = np.polynomial.hermite_e.hermegauss(8)
    share = share / share.sum()
    one = np.ones(8)
    score = np.hstack(
        gaussian.log_prob_grad(*(np.full((8, 1), x[0]) for x in (m, s)), m + np.exp(s) * node[:, None], one)
    )
    wanted = (share * (score @ v)) @ score
    got = natural.gaussian_fisher_vector_product(m[None], s[None], v[None, :1], v[None, 1:], [1.0])
    np.testing.assert_allclose(np.hstack(got)[0], wanted, rtol=1e-12)


def test_a_shared_log_std_sums_the_rows(rng):
    m, s, u, v, w = (
        rng.standard_normal((M, D)),
        rng.standard_normal(D),
        rng.standard_normal((M, D)),
        rng.standard_normal(D),
        rng.random(M),
    )
    shared = natural.gaussian_fisher_vector_product(m, s, u, v, w)
    full = natural.gaussian_fisher_vector_product(m, np.tile(s, (M, 1)), u, np.tile(v, (M, 1)), w)
    np.testing.assert_array_equal(shared[0], full[0])
    np.testing.assert_allclose(shared[1], full[1].sum(axis=0), rtol=1e-14)


# --- through a network: a linear policy, whose Jacobian is at hand


class Linear:
    """logits = feature @ W, W of shape (K, A) as one vector."""

    def __init__(self, rng, rows=7, features=3, actions=A):
        self.feature, self.actions = rng.standard_normal((rows, features)), actions
        self.theta = rng.standard_normal(features * actions) / 2
        self.weight = np.full(rows, 1 / rows)

    def logits(self, theta):
        return self.feature @ theta.reshape(-1, self.actions)

    def product(self):
        x = self.logits(self.theta)
        return natural.fisher_vector_product(
            self.logits,
            lambda change: natural.categorical_fisher_vector_product(x, change, self.weight),
            lambda by_logits: (self.feature.T @ by_logits).ravel(),
        )

    def kl(self, theta):
        return float(self.weight @ categorical.kl(self.logits(self.theta), self.logits(theta)))


def test_the_product_through_a_network_is_the_hessian_of_the_mean_divergence(rng):
    policy = Linear(rng)
    got = dense(policy.product(), len(policy.theta))
    np.testing.assert_allclose(got, got.T, atol=1e-15)
    np.testing.assert_allclose(got, hessian(policy.kl, policy.theta), atol=1e-6)


def test_the_product_takes_parameters_in_pairs(rng):
    feature, w = rng.standard_normal((M, 2)), rng.random(M)
    s = rng.standard_normal(D) / 2
    theta = rng.standard_normal(2 * D)
    mean = feature @ theta.reshape(2, D)
    product = natural.fisher_vector_product(
        lambda v: (feature @ v[: 2 * D].reshape(2, D), v[2 * D :]),
        lambda u, v: natural.gaussian_fisher_vector_product(mean, s, u, v, w),
        lambda by_mean, by_log_std: np.concatenate([(feature.T @ by_mean).ravel(), by_log_std]),
    )

    def kl(at):
        return w @ gaussian.kl(mean, s, feature @ at[: 2 * D].reshape(2, D), at[2 * D :])

    np.testing.assert_allclose(dense(product, 3 * D), hessian(kl, np.concatenate([theta, s])), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("damping", [0.01, 0.1, 3.0])
def test_conjugate_gradients_equal_a_dense_solve(damping, rng):
    policy = Linear(rng)
    size = len(policy.theta)
    grad = rng.standard_normal(size)
    system = dense(policy.product(), size) + damping * np.eye(size)
    got = natural.natural_gradient(policy.product(), grad, damping=damping, iterations=100)
    np.testing.assert_allclose(got, np.linalg.solve(system, grad), rtol=1e-8, atol=1e-9)
    for iterations in range(
        1, 8
    ):  # x^T (F + damping I) x = x^T grad at every iterate, which the length of a step rests on
        x = natural.natural_gradient(policy.product(), grad, damping=damping, iterations=iterations)
        np.testing.assert_allclose(x @ system @ x, x @ grad, rtol=1e-9)
        assert x @ grad > 0
    single = natural.natural_gradient(lambda v: v, grad.astype(np.float32), damping=0.0)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, grad, rtol=1e-6)


def test_the_natural_gradient_does_not_depend_on_how_the_policy_is_written(rng):
    # theta = B phi: steepest descent changes with B, the natural gradient does not (Kakade 2001, sec. 2).
    policy = Linear(rng, rows=40)
    size = len(policy.theta)
    pick = np.arange(size).reshape(-1, A)[:, 1:].ravel()  # the first logit held at 0: else F is singular
    change = np.eye(size)[:, pick]
    base = rng.standard_normal((len(pick), len(pick)))
    grad = rng.standard_normal(size)
    steps = []
    for b in (np.eye(len(pick)), base):
        whole = change @ b
        product = lambda v, whole=whole: whole.T @ policy.product()(whole @ v)  # noqa: E731
        steps.append(
            whole @ natural.natural_gradient(product, whole.T @ grad, damping=0.0, iterations=500, tolerance=1e-13)
        )
    np.testing.assert_allclose(steps[1], steps[0], rtol=1e-6, atol=1e-7)


# --- the trust region


def surrogate(policy, action, advantage):
    """Loss and divergence of a candidate, and the gradient of the loss at the policy itself."""
    old = categorical.log_prob(policy.logits(policy.theta), action)

    def evaluate(theta):
        ratio = np.exp(categorical.log_prob(policy.logits(theta), action) - old)
        return -float(np.mean(ratio * advantage)), policy.kl(theta)

    by_logits = categorical.log_prob_grad(policy.logits(policy.theta), action, -advantage / len(action))
    return evaluate, (policy.feature.T @ by_logits).ravel()


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("max_kl", [1e-4, 0.01, 0.5])
def test_the_line_search_honours_the_bound_and_never_returns_a_worse_surrogate(seed, max_kl):
    rng = np.random.default_rng(seed)
    policy = Linear(rng, rows=30)
    policy.theta *= 4  # far from uniform, where the quadratic model is poor
    evaluate, grad = surrogate(policy, rng.integers(0, A, 30), 10 * rng.standard_normal(30))
    before, _ = evaluate(policy.theta)
    kept = policy.theta.copy()
    step = natural.trust_region_step(policy.theta, grad, policy.product(), evaluate, max_kl=max_kl, damping=1e-4)
    np.testing.assert_array_equal(policy.theta, kept)
    assert (step.loss, step.kl) == evaluate(step.parameters)
    assert step.kl <= max_kl
    assert step.accepted and step.loss < before
    # Shortened as often as needed, not more: one backtrack less breaks a promise.
    if step.backtracks:
        longer = kept + (step.parameters - kept) / 0.8
        loss, kl = evaluate(longer)
        assert kl > max_kl or loss >= before


def test_a_small_step_goes_as_far_as_the_bound_says(rng):
    policy = Linear(rng, rows=30)
    evaluate, grad = surrogate(policy, rng.integers(0, A, 30), rng.standard_normal(30))
    step = natural.trust_region_step(
        policy.theta, grad, policy.product(), evaluate, max_kl=1e-8, damping=1e-9, iterations=50
    )
    assert step.accepted and step.backtracks <= 1
    assert 0.6e-8 < step.kl <= 1e-8  # 0.8^2 of it after one backtrack


def test_nothing_is_accepted_where_nothing_keeps_the_promises():
    theta, grad = np.array([1.0, 2.0]), np.array([1.0, 0.0])
    one = (lambda v: v, {"damping": 0.0})
    for evaluate, tries in (
        (lambda x: (float(np.abs(x - theta).sum()), 0.0), 10),  # the loss only grows
        (lambda x: (1.0, 0.0), 10),  # or stays
        (lambda x: (-float(np.abs(x - theta).sum()), 0.0 if (x == theta).all() else 1.0), 10),  # the divergence is over
        (lambda x: (0.0 if (x == theta).all() else np.nan, 0.0), 10),
        (lambda x: (-float(np.abs(x - theta).sum()), np.nan), 10),
    ):
        step = natural.trust_region_step(theta, grad, one[0], evaluate, **one[1])
        assert not step.accepted and step.backtracks == tries
        np.testing.assert_array_equal(step.parameters, theta)
        assert step.loss == evaluate(theta)[0]
    for arguments in ({"grad": np.zeros(2)}, {"grad": grad, "max_kl": 0.0}):
        step = natural.trust_region_step(
            theta, fisher_vector_product=one[0], evaluate=lambda x: (1.0, 0.0), **arguments
        )
        assert not step.accepted and step.backtracks == 0
        np.testing.assert_array_equal(step.parameters, theta)
        assert step.parameters is not theta


def test_accept_ratio_asks_for_a_share_of_the_expected_improvement():
    # The loss falls by a thousandth of what its gradient promises.
    evaluate = lambda x: (float(x[0]) / 10, 0.0)  # noqa: E731
    for share, accepted in ((0.0, True), (0.0009, True), (0.0011, False)):
        step = natural.trust_region_step([1.0], [100.0], lambda v: v, evaluate, accept_ratio=share, damping=0.0)
        assert step.accepted == accepted


def test_float32_parameters_stay_float32_and_promises_hold_of_the_rounded_ones(rng):
    theta = np.array([1.0, 2.0], np.float32)
    evaluate = lambda x: (float(x.astype(float) @ x), float(((x.astype(float) - theta) ** 2).sum() / 2))  # noqa: E731
    step = natural.trust_region_step(theta, 2 * theta, lambda v: v, evaluate, damping=0.0)
    assert step.parameters.dtype == np.float32 and step.accepted
    assert (step.loss, step.kl) == evaluate(step.parameters) and step.kl <= 0.01


# --- what is refused

T, Z, W = np.zeros(2), np.zeros((M, A)), np.zeros(M)
IDENTITY = lambda v: v  # noqa: E731
EVALUATE = lambda x: (0.0, 0.0)  # noqa: E731
REFUSED = [
    (natural.natural_gradient, (IDENTITY, Z), {}, ValueError, r"grad has shape \(5, 4\); \(P,\) is wanted"),
    (natural.natural_gradient, (IDENTITY, [1.0, np.nan]), {}, ValueError, r"grad\[1\] is nan; finite numbers"),
    (natural.natural_gradient, (IDENTITY, np.array([1, 2])), {}, TypeError, "grad has dtype int64"),
    (
        natural.natural_gradient,
        (IDENTITY, T),
        {"damping": -1.0},
        ValueError,
        "damping is -1.0; a finite number of at least 0",
    ),
    (natural.natural_gradient, (IDENTITY, T), {"damping": "1"}, TypeError, "damping is '1'; a number is wanted"),
    (natural.natural_gradient, (None, T), {}, TypeError, "fisher_vector_product is None; a function is wanted"),
    (natural.trust_region_step, (T, T, IDENTITY, 0.5), {}, TypeError, "evaluate is 0.5; a function is wanted"),
    (natural.natural_gradient, (IDENTITY, T), {"iterations": 0}, ValueError, "iterations is 0; at least 1"),
    (natural.natural_gradient, (IDENTITY, T), {"iterations": 1.0}, TypeError, "iterations is 1.0; an integer"),
    (natural.natural_gradient, (IDENTITY, T), {"tolerance": np.inf}, ValueError, "tolerance is inf"),
    (natural.natural_gradient, (lambda v: v[:1], T + 1), {}, ValueError, r"fisher_vector_product gives shape \(1,\)"),
    (natural.natural_gradient, (lambda v: v * np.nan, T + 1), {}, ValueError, "fisher_vector_product gives NaN or inf"),
    (
        natural.trust_region_step,
        (T, np.zeros(3), IDENTITY, EVALUATE),
        {},
        ValueError,
        r"grad has shape \(3,\), but parameters",
    ),
    (
        natural.trust_region_step,
        (T, T, IDENTITY, EVALUATE),
        {"shrink": 1.0},
        ValueError,
        "shrink is 1.0; a number between",
    ),
    (natural.trust_region_step, (T, T, IDENTITY, EVALUATE), {"max_kl": -1}, ValueError, "max_kl is -1"),
    (
        natural.trust_region_step,
        (T, T, IDENTITY, EVALUATE),
        {"backtracks": -1},
        ValueError,
        "backtracks is -1; at least 0",
    ),
    (
        natural.categorical_fisher_vector_product,
        (Z, Z[:1], W),
        {},
        ValueError,
        r"vector has shape \(1, 4\), but logits",
    ),
    (natural.categorical_fisher_vector_product, (Z, Z, Z), {}, ValueError, r"weight has shape \(5, 4\)"),
    (natural.categorical_fisher_vector_product, (Z - np.inf, Z, W), {}, ValueError, r"logits\[0\] has no legal action"),
    (
        natural.gaussian_fisher_vector_product,
        (Z, Z[0], Z, Z, W),
        {},
        ValueError,
        r"vector_log_std has shape \(5, 4\), but log_std",
    ),
]


@pytest.mark.parametrize(("function", "arguments", "keywords", "error", "message"), REFUSED)
def test_what_is_refused_is_named(function, arguments, keywords, error, message):
    with pytest.raises(error, match=message):
        function(*arguments, **keywords)
