"""Every distribution against finite differences, scipy.stats, PyTorch, exact sums and integrals, and the laws of its samples."""

import inspect
import itertools
from decimal import Decimal, getcontext

import numpy as np
import pytest
from scipy import integrate, stats

import fastpg
from fastpg import bernoulli, beta, categorical, gaussian, multi_categorical, reference, squashed_gaussian
from fastpg.testing import compare

SIZES = (2, 5, 3)
M, D, S = 6, 4, sum(SIZES)
CLOSE = {"rtol": 1e-6, "atol": 2e-8}  # h^2, and the rounding of a sum of 70 over h


def draw(rng, name, shape=(M, D)):
    """Arguments for tests, by name."""
    if name == "weight":
        return rng.standard_normal(shape[0])
    if "alpha" in name or "beta" in name:
        return rng.gamma(3.0, 1.0, shape) + 0.2
    return rng.standard_normal(shape) * (0.5 if "log_std" in name else 1.0)


def numeric(f, x, h=1e-5):
    grad = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[i] += h
        down[i] -= h
        grad[i] = (f(up) - f(down)) / (2 * h)
    return grad


def check_gradients(value, gradients, parameters, weight):
    """value(*parameters) is a number a row; gradients(*parameters) are those of its weighted sum, one a parameter."""
    got = gradients(*parameters)
    got = got if isinstance(got, tuple) else (got,)
    assert len(got) == len(parameters)
    for k, g in enumerate(got):
        before, after = parameters[:k], parameters[k + 1 :]
        wanted = numeric(lambda x: weight @ value(*before, x, *after), parameters[k])  # noqa: B023
        assert g.shape == parameters[k].shape
        np.testing.assert_allclose(g, wanted, **CLOSE)


# --- gradients are those of finite differences


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("dimensions", [1, 4, 70])
@pytest.mark.parametrize("policy", [gaussian, squashed_gaussian])
def test_gaussian_gradients_are_those_of_finite_differences(policy, shared, dimensions, rng):
    if policy is squashed_gaussian and dimensions > 4:
        pytest.skip("its kernels are those of the Gaussian; its quadrature works number by number")
    shape = (M, dimensions)
    mean, other_mean, action = (draw(rng, "mean", shape) for _ in range(3))
    log_std, other_log_std = (draw(rng, "log_std", shape[1:] if shared else shape) for _ in range(2))
    if not shared:
        log_std[0] += 2  # wide ones too: the other branch of the quadrature
    w, p, q = draw(rng, "weight"), (mean, log_std), (other_mean, other_log_std)
    check_gradients(
        lambda m, s: policy.log_prob(m, s, action), lambda m, s: policy.log_prob_grad(m, s, action, w), p, w
    )
    check_gradients(policy.entropy, lambda m, s: policy.entropy_grad(m, s, w), p, w)
    check_gradients(lambda m, s: policy.kl(m, s, *q), lambda m, s: policy.kl_grad(m, s, *q, w), p, w)
    check_gradients(lambda m, s: policy.kl(*p, m, s), lambda m, s: policy.kl_grad(*p, m, s, w, wrt="other"), q, w)


@pytest.mark.parametrize("dimensions", [1, 7, 8, 18])
def test_the_entropy_of_a_gaussian_grows_with_each_log_std_alike(dimensions, rng):
    mean, weight = rng.standard_normal((M, dimensions)), rng.standard_normal(M)
    each = np.tile(weight[:, None], dimensions)
    out = (np.full(mean.shape, np.nan), np.full(mean.shape, np.nan))
    for by_mean, by_log_std in (
        gaussian.entropy_grad(mean, mean, weight),
        gaussian.entropy_grad(mean, mean, weight, out=out),
    ):
        np.testing.assert_array_equal(by_mean, 0)
        np.testing.assert_array_equal(by_log_std, each)


def test_one_log_std_may_be_shared_and_the_other_not(rng):
    mean, other_mean = draw(rng, "mean"), draw(rng, "mean")
    full, shared, w = draw(rng, "log_std"), draw(rng, "log_std", (D,)), draw(rng, "weight")
    for s, t in ((full, shared), (shared, full)):
        p, q = (mean, s), (other_mean, t)
        check_gradients(lambda m, s: gaussian.kl(m, s, *q), lambda m, s: gaussian.kl_grad(m, s, *q, w), p, w)  # noqa: B023
        other = lambda m, s: gaussian.kl_grad(*p, m, s, w, wrt="other")  # noqa: B023, E731
        check_gradients(lambda m, s: gaussian.kl(*p, m, s), other, q, w)  # noqa: B023


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dimensions", [1, 4, 70])
def test_bernoulli_gradients_are_those_of_finite_differences(dimensions, masked, rng):
    shape = (M, dimensions)
    x, y, w = 2 * rng.standard_normal(shape), 2 * rng.standard_normal(shape), draw(rng, "weight")
    legal = rng.random(shape) < 0.6 if masked else None
    action = (rng.random(shape) < 0.5) & (True if legal is None else legal)
    b = bernoulli
    check_gradients(lambda x: b.log_prob(x, action, legal), lambda x: b.log_prob_grad(x, action, w, legal), (x,), w)
    check_gradients(lambda x: b.entropy(x, legal), lambda x: b.entropy_grad(x, w, legal), (x,), w)
    check_gradients(lambda x: b.kl(x, y, legal), lambda x: b.kl_grad(x, y, w, legal), (x,), w)
    check_gradients(lambda y: b.kl(x, y, legal), lambda y: b.kl_grad(x, y, w, legal, wrt="other"), (y,), w)


@pytest.mark.parametrize("masked", [None, "every", "shared"])
def test_multi_categorical_gradients_are_those_of_finite_differences(masked, rng):
    x, y, w = rng.standard_normal((M, S)), rng.standard_normal((M, S)), draw(rng, "weight")
    legal = None
    if masked:
        legal = rng.random((M, S) if masked == "every" else S) < 0.6
        legal[..., [0, 2, 7]] = True
    action = np.zeros((M, 3), int)
    m = multi_categorical
    check_gradients(
        lambda x: m.log_prob(x, SIZES, action, legal), lambda x: m.log_prob_grad(x, SIZES, action, w, legal), (x,), w
    )
    check_gradients(lambda x: m.entropy(x, SIZES, legal), lambda x: m.entropy_grad(x, SIZES, w, legal), (x,), w)
    check_gradients(lambda x: m.kl(x, SIZES, y, legal), lambda x: m.kl_grad(x, SIZES, y, w, legal), (x,), w)
    check_gradients(
        lambda y: m.kl(x, SIZES, y, legal), lambda y: m.kl_grad(x, SIZES, y, w, legal, wrt="other"), (y,), w
    )


@pytest.mark.parametrize("bounds", [{}, {"low": -2.0, "high": np.array([1.0, 2.0, 3.0, 4.0])}])
def test_beta_gradients_are_those_of_finite_differences(bounds, rng):
    p, q = [tuple(draw(rng, name) for name in ("alpha", "beta")) for _ in range(2)]
    w, action = draw(rng, "weight"), beta.sample(*p, rng, **bounds)
    check_gradients(
        lambda a, b: beta.log_prob(a, b, action, **bounds),
        lambda a, b: beta.log_prob_grad(a, b, action, w, **bounds),
        p,
        w,
    )
    check_gradients(lambda a, b: beta.entropy(a, b, **bounds), lambda a, b: beta.entropy_grad(a, b, w), p, w)
    check_gradients(lambda a, b: beta.kl(a, b, *q), lambda a, b: beta.kl_grad(a, b, *q, w), p, w)
    check_gradients(lambda a, b: beta.kl(*p, a, b), lambda a, b: beta.kl_grad(*p, a, b, w, wrt="other"), q, w)


# --- agreement with scipy.stats, and with integrals


def test_scipy_stats_agree(rng):
    close = {"rtol": 1e-12, "atol": 1e-12}
    mean, log_std, action = draw(rng, "mean"), draw(rng, "log_std"), draw(rng, "action")
    normal = stats.norm(mean, np.exp(log_std))
    np.testing.assert_allclose(gaussian.log_prob(mean, log_std, action), normal.logpdf(action).sum(1), **close)
    np.testing.assert_allclose(gaussian.entropy(mean, log_std), normal.entropy().sum(1), **close)
    logits, bits = draw(rng, "logits"), rng.random((M, D)) < 0.5
    coin = stats.bernoulli(1 / (1 + np.exp(-logits)))
    np.testing.assert_allclose(bernoulli.log_prob(logits, bits), coin.logpmf(bits).sum(1), **close)
    np.testing.assert_allclose(bernoulli.entropy(logits), coin.entropy().sum(1), **close)
    a, b = draw(rng, "alpha"), draw(rng, "beta")
    box = {"low": np.array([0.0, -1.0, 0.0, 2.0]), "high": np.array([1.0, 1.0, 5.0, 3.0])}
    x = beta.sample(a, b, rng, **box)
    law = stats.beta(a, b, loc=box["low"], scale=box["high"] - box["low"])
    np.testing.assert_allclose(beta.log_prob(a, b, x, **box), law.logpdf(x).sum(1), **close)
    np.testing.assert_allclose(beta.entropy(a, b, **box), law.entropy().sum(1), **close)


@pytest.mark.parametrize("name", ["gaussian", "beta"])
def test_divergences_are_their_integrals(name, rng):
    policy = getattr(fastpg, name)
    names = {"gaussian": ("mean", "log_std"), "beta": ("alpha", "beta")}[name]
    low, high = {"gaussian": (-30.0, 30.0), "beta": (0.0, 1.0)}[name]
    for _ in range(4):
        p, q = (tuple(draw(rng, n, (1, 1)) for n in names) for _ in range(2))

        def integrand(x, p=p, q=q):
            here = policy.log_prob(*p, [[x]])[0]
            return np.exp(here) * (here - policy.log_prob(*q, [[x]])[0]) if here > -np.inf else 0.0

        wanted = integrate.quad(integrand, low, high, limit=400, points=None if low == 0 else [p[0][0, 0]])[0]
        np.testing.assert_allclose(policy.kl(*p, *q)[0], wanted, rtol=1e-7)


def test_the_density_of_a_squashed_action_integrates_to_one(rng):
    box = {"low": -1.0, "high": 3.0}
    for mean, log_std in ((0.0, 0.0), (0.4, -1.0), (-1.0, 0.5)):

        def density(a, mean=mean, log_std=log_std):
            u = squashed_gaussian.unsquash([[a]], **box)
            return np.exp(squashed_gaussian.log_prob([[mean]], [log_std], u, **box)[0])

        np.testing.assert_allclose(integrate.quad(density, -1, 3, limit=400)[0], 1, rtol=1e-6)


@pytest.mark.parametrize("log_std", [-20.0, -3.0, -0.7, -1e-9, 0.0, 0.5, 2.0, 5.0])
def test_the_entropy_of_a_squashed_gaussian_is_its_integral(log_std):
    for mean in (0.0, 0.3, -2.0, 7.0):

        def integrand(z, mean=mean):
            u = mean + np.exp(log_std) * z
            distance = abs(u)
            slope = 2 * (np.log(2) - distance - np.log1p(np.exp(-2 * distance)))
            return slope * np.exp(-z * z / 2) / np.sqrt(2 * np.pi)

        # The kink of a wide one is at u = 0; around it the integrand changes within a few units of u.
        marks = sorted(
            {np.clip((u - mean) / np.exp(log_std), -12, 12) for u in (-6.0, -1.0, 0.0, 1.0, 6.0)} | {-12, 12}
        )
        parts = [
            integrate.quad(integrand, a, b, limit=200, epsabs=1e-14, epsrel=1e-13)[0]
            for a, b in itertools.pairwise(marks)
        ]
        wanted = log_std + 0.5 * (1 + np.log(2 * np.pi)) + sum(parts)
        got = squashed_gaussian.entropy([[mean]], [log_std])[0]
        np.testing.assert_allclose(got, wanted, rtol=1e-11, atol=2e-11)


# --- exact sums


@pytest.mark.parametrize("masked", [False, True])
def test_sums_over_every_action_of_discrete_policies(masked, rng):
    legal = np.array([True, False, True, True]) if masked else None
    x, y, one = rng.standard_normal((1, D)), rng.standard_normal((1, D)), np.ones(1)
    every = np.array(list(itertools.product([False, True], repeat=D)))
    pi = np.exp([bernoulli.log_prob(x, a[None], legal)[0] for a in every])
    log_q = np.array([bernoulli.log_prob(y, a[None], legal)[0] for a in every])
    np.testing.assert_allclose(pi.sum(), 1, rtol=1e-12)
    may = pi > 0
    np.testing.assert_allclose(bernoulli.entropy(x, legal)[0], -(pi[may] * np.log(pi[may])).sum(), rtol=1e-12)
    divergence = (pi[may] * (np.log(pi[may]) - log_q[may])).sum()
    np.testing.assert_allclose(bernoulli.kl(x, y, legal)[0], divergence, rtol=1e-12)
    score = sum(p * bernoulli.log_prob_grad(x, a[None], one, legal) for p, a in zip(pi, every, strict=True))
    np.testing.assert_allclose(score, 0, atol=1e-15)

    legal = np.array([True, False, True, True, False, True, True, True, False, True]) if masked else None
    x, y = rng.standard_normal((1, S)), rng.standard_normal((1, S))
    every = np.array(list(itertools.product(*map(range, SIZES))))
    with np.errstate(divide="ignore"):
        pi = np.exp([multi_categorical.log_prob(x, SIZES, a[None], legal)[0] for a in every])
        log_q = np.array([multi_categorical.log_prob(y, SIZES, a[None], legal)[0] for a in every])
    np.testing.assert_allclose(pi.sum(), 1, rtol=1e-12)
    may = pi > 0
    got = multi_categorical.entropy(x, SIZES, legal)[0]
    np.testing.assert_allclose(got, -(pi[may] * np.log(pi[may])).sum(), rtol=1e-12)
    divergence = (pi[may] * (np.log(pi[may]) - log_q[may])).sum()
    np.testing.assert_allclose(multi_categorical.kl(x, SIZES, y, legal)[0], divergence, rtol=1e-12)
    assert multi_categorical.mode(x, SIZES, legal)[0].tolist() == every[pi.argmax()].tolist()


def test_multi_categorical_equals_its_specification(rng):
    x, y, w = rng.standard_normal((M, S)), rng.standard_normal((M, S)), draw(rng, "weight")
    action = np.stack([rng.integers(0, size, M) for size in SIZES], axis=1)
    legal = rng.random((M, S)) < 0.7
    legal[:, [0, 2, 7]] = True
    arguments = {"logits": x, "sizes": SIZES, "other": y, "action": action, "weight": w}
    for name in multi_categorical.__all__:
        if name == "sample":
            continue
        function, spec = getattr(multi_categorical, name), getattr(reference.multi_categorical, name)
        given = [arguments[p] for p in inspect.signature(function).parameters if p in arguments]
        for keywords in ({}, {"legal": legal}) + ({"wrt": "other"},) * (name == "kl_grad"):
            for dtype in (np.float64, np.float32):
                cast = [a.astype(dtype) if getattr(a, "dtype", None) == np.float64 else a for a in given]
                tolerance = 0 if name == "mode" else 60
                assert compare(function(*cast, **keywords), spec(*cast, **keywords), tolerance) == "", name


def test_bernoulli_of_one_bit_is_a_categorical_of_two(rng):
    x, y, w, bit = (
        rng.standard_normal((M, 1)),
        rng.standard_normal((M, 1)),
        draw(rng, "weight"),
        rng.random((M, 1)) < 0.5,
    )
    two, other = np.hstack([0 * x, x]), np.hstack([0 * y, y])
    action, c = bit[:, 0].astype(int), fastpg.categorical
    np.testing.assert_allclose(bernoulli.log_prob(x, bit), c.log_prob(two, action), rtol=1e-12)
    np.testing.assert_allclose(bernoulli.entropy(x), c.entropy(two), rtol=1e-12)
    np.testing.assert_allclose(bernoulli.kl(x, y), c.kl(two, other), rtol=1e-9)
    np.testing.assert_allclose(
        bernoulli.log_prob_grad(x, bit, w)[:, 0], c.log_prob_grad(two, action, w)[:, 1], rtol=1e-12
    )


# --- tails


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bits_keep_their_digits_in_the_tails(dtype):
    few = 8 * np.finfo(dtype).eps
    for x in (20.0, 40.0, 80.0):
        rare, at = np.exp(-x), np.array([[x]], dtype)
        one = np.ones(1, dtype)
        for got, wanted in (
            (bernoulli.log_prob(at, [[True]]), -np.log1p(rare)),  # 0 where p is rounded first
            (bernoulli.log_prob(-at, [[False]]), -np.log1p(rare)),
            (bernoulli.log_prob_grad(at, [[True]], one)[0], rare / (1 + rare)),
            (bernoulli.log_prob_grad(-at, [[False]], one)[0], -rare / (1 + rare)),
            (bernoulli.entropy(at), np.log1p(rare) + x * rare / (1 + rare)),
            (bernoulli.kl_grad(at, at + 1, one, wrt="other")[0], rare / (1 + rare) - 1 / (1 + np.exp(x + 1))),
        ):
            np.testing.assert_allclose(got.astype(float), wanted, rtol=few)
    assert bernoulli.log_prob(np.array([[dtype(1e30)]]), [[False]])[0] == -dtype(1e30)


def test_infinite_logits_are_certain_bits():
    x, w = np.array([[np.inf, -np.inf, 0.0]]), np.ones(1)
    assert bernoulli.log_prob(x, [[True, False, True]])[0] == -np.log(2)
    assert bernoulli.log_prob(x, [[False, False, True]])[0] == -np.inf
    assert bernoulli.log_prob(x, [[True, True, True]])[0] == -np.inf
    assert bernoulli.entropy(x)[0] == np.log(2)
    np.testing.assert_array_equal(bernoulli.entropy_grad(x, w), 0)
    assert bernoulli.kl(x, x)[0] == 0
    assert bernoulli.kl([[0.0]], [[np.inf]])[0] == bernoulli.kl([[np.inf]], [[-np.inf]])[0] == np.inf
    np.testing.assert_array_equal(bernoulli.kl_grad(x, x, w), 0)
    np.testing.assert_array_equal(bernoulli.log_prob_grad(x, [[False, True, True]], w), [[-1.0, 0.0, 0.5]])


def exact_log_slope(u):
    """log(1 - tanh(u)^2) = log 4 - 2 log(e^u + e^-u) with 60 digits."""
    getcontext().prec = 60
    u = Decimal(float(u))
    return float(Decimal(4).ln() - 2 * (u.exp() + (-u).exp()).ln())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_squashed_log_probs_keep_their_digits_in_the_tails(dtype):
    # HAZARDS 19: log(1 - tanh^2) is -inf from u = 9 on in float32, from 19 on in float64.
    for u in (0.0, 1e-3, 0.5, 3.0, 9.5, 20.0, 50.0, -50.0, 300.0):
        point = np.array([[u]], dtype)
        wanted = -0.5 * np.log(2 * np.pi) - exact_log_slope(point[0, 0])  # mean = u, std = 1
        got = squashed_gaussian.log_prob(point, np.zeros(1, dtype), point)
        np.testing.assert_allclose(got[0], wanted, rtol=4 * np.finfo(dtype).eps, atol=4 * np.finfo(dtype).eps)
    assert np.log(1 - np.tanh(dtype(20)) ** 2, where=False, out=np.full((), -np.inf)) == -np.inf


def test_the_divergence_of_a_small_step_keeps_its_digits():
    # (e^t - 1 - t) / 2 with t = 2e-4 is 1e-8: float32 without the series gives 0 or 6e-8.
    small = np.float32(1e-4)
    got = gaussian.kl(
        np.zeros((1, 1), np.float32), np.full(1, small), np.zeros((1, 1), np.float32), np.zeros(1, np.float32)
    )
    t = 2 * float(small)
    np.testing.assert_allclose(got[0], t**2 / 4 + t**3 / 12, rtol=1e-6)
    by_mean, by_log_std = gaussian.kl_grad(
        np.zeros((1, 1)), np.full((1, 1), 1e-9), np.zeros((1, 1)), np.zeros((1, 1)), np.ones(1)
    )
    np.testing.assert_allclose(by_log_std, [[2e-9]], rtol=1e-8)
    assert by_mean[0, 0] == 0


def test_scales_that_overflow_or_vanish_follow_the_formula():
    one = np.ones((1, 1), np.float32)
    with np.errstate(over="ignore"):
        for log_std in (-100.0, -88.0, -87.0, 87.0, 88.5, 100.0, np.inf):
            s = np.full((1, 1), log_std, np.float32)
            got, wanted = gaussian.log_prob(0 * one, s, one), reference.gaussian.log_prob(0 * one, s, one)
            # Below e^-87.3 = 2^-126 a reciprocal is 0 here, a subnormal number there.
            np.testing.assert_allclose(got, wanted, rtol=2e-6)


def test_squash_never_leaves_the_box_and_unsquash_undoes_it(rng):
    for dtype, far in ((np.float32, 8.0), (np.float64, 18.0)):
        u = rng.uniform(-3, 3, (100, 3)).astype(dtype)
        box = {"low": np.array([-1.0, 0.1, -5.0]), "high": np.array([1.0, 0.3, 7.0])}
        action = squashed_gaussian.squash(u, **box)
        assert action.dtype == dtype
        np.testing.assert_allclose(squashed_gaussian.unsquash(action, **box), u, rtol=3e3 * np.finfo(dtype).eps)
        ends = squashed_gaussian.squash(np.array([[-1e30] * 3, [1e30] * 3], dtype), **box)
        np.testing.assert_array_equal(ends, np.stack([box["low"], box["high"]]).astype(dtype))
        lost = squashed_gaussian.unsquash(ends, **box)
        assert np.isfinite(lost).all() and (np.abs(lost) > far).all()


def test_a_beta_density_at_its_bounds_follows_the_formula():
    for a, b, x, wanted in (
        (1.0, 1.0, 0.0, 0.0),
        (2.0, 1.0, 0.0, -np.inf),
        (0.5, 1.0, 0.0, np.inf),
        (1.0, 3.0, 1.0, -np.inf),
    ):
        assert beta.log_prob([[a]], [[b]], [[x]])[0] == wanted
    # 0 weight, 0 gradient, even where the density has none
    assert beta.log_prob_grad([[2.0]], [[2.0]], [[0.0]], [0.0]) == (0, 0)
    assert beta.log_prob_grad([[2.0]], [[2.0]], [[0.0]], [1.0])[0] == -np.inf
    # Near 1, 1 - x keeps its digits: 2 log-density is that of the mirrored one near 0.
    tiny = np.array([[1e-12]])
    np.testing.assert_allclose(
        beta.log_prob([[5.0]], [[2.0]], 1 - tiny), beta.log_prob([[2.0]], [[5.0]], tiny), rtol=1e-4
    )
    np.testing.assert_allclose(
        beta.log_prob([[5.0]], [[2.0]], [[0.75]]), beta.log_prob([[2.0]], [[5.0]], [[0.25]]), rtol=1e-14
    )


# --- rows, threads, libraries


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rows, dimensions", [(0, 3), (1, 1), (63, 5), (64, 64), (65, 65), (300, 6), (3, 9000)])
def test_a_shared_log_std_is_one_of_every_row_and_its_gradient_is_the_sum(rows, dimensions, dtype, isa, rng):
    mean, other_mean, action = (rng.standard_normal((rows, dimensions)).astype(dtype) for _ in range(3))
    shared, other = ((rng.standard_normal(dimensions) / 2).astype(dtype) for _ in range(2))
    w = rng.standard_normal(rows).astype(dtype)
    full, other_full = (np.repeat(s[None], rows, axis=0) for s in (shared, other))
    equal = np.testing.assert_array_equal
    equal(gaussian.log_prob(mean, shared, action), gaussian.log_prob(mean, full, action))
    equal(gaussian.entropy(mean, shared), gaussian.entropy(mean, full))
    equal(squashed_gaussian.log_prob(mean, shared, action), squashed_gaussian.log_prob(mean, full, action))
    equal(gaussian.kl(mean, shared, other_mean, other), gaussian.kl(mean, full, other_mean, other_full))
    for got, wanted in (
        (gaussian.log_prob_grad(mean, shared, action, w), gaussian.log_prob_grad(mean, full, action, w)),
        (gaussian.kl_grad(mean, shared, other_mean, other, w), gaussian.kl_grad(mean, full, other_mean, other_full, w)),
        (gaussian.entropy_grad(mean, shared, w), gaussian.entropy_grad(mean, full, w)),
    ):
        equal(got[0], wanted[0])
        assert got[1].shape == (dimensions,) and got[1].dtype == dtype
        total = wanted[1].astype(float).sum(axis=0)
        close = 8 * np.finfo(dtype).eps * (1 + np.abs(wanted[1].astype(float)).sum(axis=0))
        assert (np.abs(got[1] - total) <= close).all()


@pytest.mark.parametrize("dimensions", [6, 100])
def test_shared_gradients_do_not_depend_on_the_number_of_threads(dimensions, rng):
    rows = 400_000 // dimensions
    mean, action = (rng.standard_normal((rows, dimensions)).astype(np.float32) for _ in range(2))
    log_std, w = np.zeros(dimensions, np.float32), rng.standard_normal(rows).astype(np.float32)
    results = []
    for threads in (1, 2, 5):
        with fastpg.set_threads(threads):
            results.append(gaussian.log_prob_grad(mean, log_std, action, w))
    for other in results[1:]:
        np.testing.assert_array_equal(other[0], results[0][0])
        np.testing.assert_array_equal(other[1], results[0][1])
    exact = (w.astype(float)[:, None] * ((action.astype(float) - mean) ** 2 - 1)).sum(axis=0)
    np.testing.assert_allclose(results[0][1], exact, atol=2e-6 * np.sqrt(rows) * 10)


def test_a_shared_log_std_works_inside_njit(rng):
    numba = pytest.importorskip("numba")
    mean, action, w = draw(rng, "mean"), draw(rng, "action"), draw(rng, "weight")
    log_std = draw(rng, "log_std", (D,))
    both = numba.njit(lambda m, s, a, w: (fastpg.gaussian.log_prob(m, s, a), fastpg.gaussian.log_prob_grad(m, s, a, w)))
    value, gradients = both(mean, log_std, action, w)
    np.testing.assert_array_equal(value, gaussian.log_prob(mean, log_std, action))
    for got, wanted in zip(gradients, gaussian.log_prob_grad(mean, log_std, action, w), strict=True):
        assert got.shape == wanted.shape
        np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-14)
    with pytest.raises(ValueError, match="log_std has one row, but not one item an action of mean"):
        both(mean, log_std[:2].copy(), action, w)


def test_nan_in_a_row_reaches_that_row_and_no_other(isa):
    for dimensions in (3, 18, 100):
        for rows in (1, 5, 200):
            clean = np.zeros((rows, dimensions), np.float32)
            soiled, w = clean.copy(), np.ones(rows, np.float32)
            soiled[rows // 2, 1] = np.nan
            hit = np.arange(rows) == rows // 2
            for got in (
                gaussian.log_prob(soiled, clean, clean),
                gaussian.log_prob(clean, soiled, clean),
                gaussian.log_prob(clean, clean, soiled),
                gaussian.kl(clean, soiled, clean, clean),
                squashed_gaussian.log_prob(clean, clean, soiled),
                bernoulli.log_prob(soiled, clean > 0),
                bernoulli.entropy(soiled),
                bernoulli.kl(soiled, clean),
                bernoulli.kl(clean, soiled),
            ):
                np.testing.assert_array_equal(np.isnan(got), hit)
            for grads in (
                gaussian.log_prob_grad(soiled, clean, clean, w),
                gaussian.kl_grad(clean, clean, clean, soiled, w),
                (bernoulli.log_prob_grad(soiled, clean > 0, w),),
                (bernoulli.entropy_grad(soiled, w), bernoulli.kl_grad(soiled, clean, w)),
            ):
                for g in grads:
                    np.testing.assert_array_equal(np.isnan(g).any(axis=1), hit)
                    assert np.isnan(g).sum() == 1


def test_any_leading_shape_and_lists_are_answered():
    assert gaussian.log_prob([0.0, 0.0], [0.0, 0.0], [0.0, 0.0]).shape == ()
    by_mean, by_log_std = gaussian.log_prob_grad([0.0, 0.0], [0.0, 0.0], [1.0, 0.0], 2.0)
    assert by_mean.tolist() == [2.0, 0.0] and by_log_std.tolist() == [0.0, -2.0]
    mean = np.zeros((2, 3, 4))
    assert gaussian.entropy(mean, np.zeros(4)).shape == (2, 3)
    by_mean, by_log_std = gaussian.log_prob_grad(mean, np.zeros(4), mean, np.ones((2, 3)))
    assert by_mean.shape == (2, 3, 4) and by_log_std.tolist() == [-6.0] * 4
    assert [g.shape for g in gaussian.entropy_grad(mean, mean, np.ones((2, 3)))] == [(2, 3, 4)] * 2
    assert [g.shape for g in squashed_gaussian.entropy_grad(mean, np.zeros(4), np.ones((2, 3)))] == [(2, 3, 4), (4,)]
    assert squashed_gaussian.entropy(mean, np.zeros(4)).shape == (2, 3)
    assert bernoulli.log_prob(mean, mean > 0, np.ones(4, bool)).shape == (2, 3)
    assert beta.log_prob(mean + 1, mean + 1, mean + 0.5).shape == (2, 3)
    x = np.zeros((2, 3, S))
    assert multi_categorical.log_prob(x, SIZES, np.zeros((2, 3, 3), int)).shape == (2, 3)
    assert multi_categorical.log_prob_grad(x, SIZES, np.zeros((2, 3, 3), int), np.ones((2, 3))).shape == x.shape
    assert multi_categorical.sample(x, SIZES, np.random.default_rng(0)).shape == (2, 3, 3)
    for rows in (
        gaussian.sample(np.zeros((0, 2)), np.zeros(2), np.random.default_rng(0)),
        multi_categorical.mode(x[:0, 0], SIZES),
    ):
        assert len(rows) == 0


# --- samples


def test_samples_follow_their_law(rng):
    draws, one = 20_000, np.ones((20_000, 1))

    def kolmogorov_smirnov(x, law):
        return stats.kstest(x, law.cdf).pvalue

    for dtype in (np.float32, np.float64):
        x = gaussian.sample((0.5 * one).astype(dtype), np.array([-1.0], dtype), rng)
        assert x.dtype == dtype and x.shape == (draws, 1)
        assert kolmogorov_smirnov(x[:, 0], stats.norm(0.5, np.exp(-1))) > 0.001
        u = squashed_gaussian.sample((0.5 * one).astype(dtype), np.array([-1.0], dtype), rng)
        action = squashed_gaussian.squash(u, low=0.0, high=2.0)[:, 0]
        law = stats.norm(0.5, np.exp(-1))
        assert stats.kstest(action, lambda a, law=law: law.cdf(np.arctanh(np.asarray(a, float) - 1))).pvalue > 0.001
        b = beta.sample((2 * one).astype(dtype), (0.5 * one).astype(dtype), rng, low=-1.0, high=3.0)
        assert b.dtype == dtype and (b > -1).all() and (b < 3).all()
        assert kolmogorov_smirnov(b[:, 0].astype(float), stats.beta(2, 0.5, loc=-1, scale=4)) > 0.001
        bits = bernoulli.sample((one * [-2.0, 0.0, 1.0]).astype(dtype), rng)
        p = 1 / (1 + np.exp([2.0, 0.0, -1.0]))
        assert bits.dtype == bool
        assert (np.abs(bits.mean(axis=0) - p) < 4 * np.sqrt(p * (1 - p) / draws)).all()


def test_multi_categorical_samples_follow_their_law_and_each_component_is_its_own(rng):
    draws = 60_000
    x = np.log([0.3, 0.7, 0.1, 0.2, 0.3, 0.15, 0.25, 0.5, 0.25, 0.25])
    a = multi_categorical.sample(np.tile(x, (draws, 1)), SIZES, rng)
    joint = np.zeros(SIZES)
    np.add.at(joint, tuple(a.T), 1)
    p = np.exp(x)
    wanted = draws * p[:2, None, None] * p[None, 2:7, None] * p[None, None, 7:]
    assert stats.chisquare(joint.ravel(), wanted.ravel()).pvalue > 0.001


def test_moments_of_beta_samples_are_exact(rng):
    a, b, draws = 3.0, 1.5, 100_000
    x = beta.sample(np.full((draws, 1), a), np.full((draws, 1), b), rng)
    law = stats.beta(a, b)
    assert abs(x.mean() - law.mean()) < 4 * law.std() / np.sqrt(draws)
    assert abs(x.var() - law.var()) < 4 * law.var() * np.sqrt(2 / draws)


def test_small_concentrations_never_draw_a_bound():
    for dtype in (np.float32, np.float64):
        tiny = np.full((2000, 1), 1e-3, dtype)
        x = beta.sample(tiny, tiny, np.random.default_rng(0), low=-1.0, high=1.0)
        assert (np.abs(x) < 1).all()
        assert np.isfinite(beta.log_prob(tiny, tiny, x, low=-1.0, high=1.0)).all()


def test_minus_log_prob_of_samples_averages_to_the_entropy(rng):
    rows = 40_000
    mean, log_std, alpha = np.full((rows, 2), 0.3), np.array([-0.5, 0.8]), np.full((rows, 1), 2.5)
    box = {"low": -3.0, "high": 1.0}
    u = squashed_gaussian.sample(mean, log_std, rng)
    for surprise, entropy in (
        (-squashed_gaussian.log_prob(mean, log_std, u, **box), squashed_gaussian.entropy(mean[:1], log_std, **box)),
        (-gaussian.log_prob(mean, log_std, u), gaussian.entropy(mean[:1], log_std)),
        (
            -beta.log_prob(alpha, alpha, beta.sample(alpha, alpha, rng, **box), **box),
            beta.entropy(alpha[:1], alpha[:1], **box),
        ),
    ):
        assert abs(surprise.mean() - entropy[0]) < 4 * surprise.std() / np.sqrt(rows)


class Zeros(np.random.Generator):
    """The least number that a generator draws, every time."""

    def random(self, size, dtype):
        return np.zeros(size, dtype)


def test_the_least_uniform_number_draws_no_impossible_bit():
    bits = bernoulli.sample([[-np.inf, -800.0, 0.0]], Zeros(np.random.PCG64(0)))  # exp(-800) is 0
    assert bits.tolist() == [[False, False, True]]


def test_bits_may_be_bools_or_any_integers(rng):
    x, bits, w = draw(rng, "logits"), rng.random((M, D)) < 0.5, draw(rng, "weight")
    wanted = bernoulli.log_prob(x, bits), bernoulli.log_prob_grad(x, bits, w)
    for kind in (np.int8, np.uint8, np.int64, ">i4"):
        np.testing.assert_array_equal(bernoulli.log_prob(x, bits.astype(kind)), wanted[0])
        np.testing.assert_array_equal(bernoulli.log_prob_grad(x, bits.astype(kind), w), wanted[1])
    np.testing.assert_array_equal(bernoulli.log_prob(x.tolist(), bits.astype(int).tolist()), wanted[0])


def test_illegal_bits_are_never_drawn_and_the_generator_moves_one_number_a_bit():
    x, legal = np.full((50, 3), 30.0), np.array([True, False, True])
    x[:, 1] = np.nan  # whatever an illegal logit holds
    for bits in (bernoulli.sample(x, np.random.default_rng(0), legal), bernoulli.mode(x, legal)):
        assert bits[:, [0, 2]].all() and not bits[:, 1].any()
    ours, theirs = np.random.default_rng(3), np.random.default_rng(3)
    bernoulli.sample(np.zeros((5, 3)), ours)
    multi_categorical.sample(np.zeros((5, S)), SIZES, ours)
    theirs.random(5 * 3 + 5 * 3)
    assert ours.random() == theirs.random()


def test_modes_have_the_largest_density(rng):
    a = np.array([[2.0, 3.0, 1.0, 5.0]])
    b = np.array([[3.0, 1.0, 1.0, 5.0]])
    best = beta.mode(a, b, low=-1.0, high=1.0)
    for x in np.linspace(-1, 1, 101):
        each = [beta.log_prob(a[:, [d]], b[:, [d]], [[x]], low=-1.0, high=1.0)[0] for d in range(4)]
        at_best = [beta.log_prob(a[:, [d]], b[:, [d]], best[:, [d]], low=-1.0, high=1.0)[0] for d in range(4)]
        assert (np.array(each) <= np.array(at_best) + 1e-12).all()
    np.testing.assert_array_equal(
        beta.mode([[0.5, 0.3, 0.3, 4.0, 1.0]], [[0.3, 0.5, 0.3, 0.5, 0.5]]), [[1, 0, 0, 1, 1]]
    )
    mean = rng.standard_normal((3, 2))
    got = gaussian.mode(mean, np.zeros(2))
    np.testing.assert_array_equal(got, mean)
    assert not np.shares_memory(got, mean)
    np.testing.assert_array_equal(squashed_gaussian.mode(mean, np.zeros(2)), mean)


# --- PyTorch's distributions and autograd


def test_torch_distributions_and_their_autograd_agree(rng):
    torch = pytest.importorskip("torch")
    d = torch.distributions
    weight = torch.tensor(draw(rng, "weight"))

    def leaf(name):
        return torch.tensor(draw(rng, name), requires_grad=True)

    def agree(ours, value, *leaves):
        ours = ours if isinstance(ours, tuple) else (ours,)
        for got, wanted in zip(
            ours, torch.autograd.grad((weight * value).sum(), leaves, retain_graph=True), strict=True
        ):
            assert isinstance(got, torch.Tensor)
            torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-9)  # PyTorch's trigamma has nine digits

    def same(ours, theirs):
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-10, atol=1e-11)

    for policy, names, family in (
        (gaussian, ("mean", "log_std"), lambda m, s: d.Independent(d.Normal(m, s.exp()), 1)),
        (beta, ("alpha", "beta"), lambda a, b: d.Independent(d.Beta(a, b), 1)),
        (bernoulli, ("logits",), lambda x: d.Independent(d.Bernoulli(logits=x), 1)),
    ):
        mine, theirs = [leaf(n) for n in names], [leaf(n) for n in names]
        p, q = family(*mine), family(*theirs)
        a = [x.detach() for x in mine]
        b = [x.detach() for x in theirs]
        action = p.sample()
        taken = action.bool() if policy is bernoulli else action
        divergence = d.kl_divergence(p, q)
        same(policy.log_prob(*a, taken), p.log_prob(action))
        same(policy.entropy(*a), p.entropy())
        same(policy.kl(*a, *b), divergence)
        agree(policy.log_prob_grad(*a, taken, weight), p.log_prob(action), *mine)
        agree(policy.kl_grad(*a, *b, weight), divergence, *mine)
        agree(policy.kl_grad(*a, *b, weight, wrt="other"), divergence, *theirs)
        if policy is bernoulli:
            agree(policy.entropy_grad(*a, weight), p.entropy(), *mine)
        elif policy is beta:
            agree(policy.entropy_grad(*a, weight), p.entropy(), *mine)
        else:
            agree(policy.entropy_grad(*a, weight)[1], p.entropy(), mine[1])
            assert (policy.entropy_grad(*a, weight)[0] == 0).all()
    mean, log_std = leaf("mean"), leaf("log_std")
    u = torch.tensor(draw(rng, "pre_action"))
    tanh = d.TransformedDistribution(d.Normal(mean, log_std.exp()), d.transforms.TanhTransform(cache_size=1))
    theirs = tanh.log_prob(torch.tanh(u)).sum(-1)
    ours = squashed_gaussian.log_prob(mean.detach(), log_std.detach(), u)
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-8, atol=1e-9)
    agree_at = squashed_gaussian.log_prob_grad(mean.detach(), log_std.detach(), u, weight)
    for got, wanted in zip(agree_at, torch.autograd.grad((weight * theirs).sum(), (mean, log_std)), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-9)


def test_arrays_of_other_libraries_come_back_in_kind(rng):
    torch = pytest.importorskip("torch")
    x, w = torch.zeros(5, 3, dtype=torch.float32), torch.ones(5, dtype=torch.float32)
    generator = np.random.default_rng(0)
    for got in (
        *gaussian.log_prob_grad(x, torch.zeros(3), x, w),
        *gaussian.entropy_grad(x, torch.zeros(3), w),
        gaussian.sample(x, torch.zeros(3), generator),
        squashed_gaussian.log_prob(x, x, x, low=0.0, high=4.0),
        squashed_gaussian.entropy(x, x),
        squashed_gaussian.squash(x),
        squashed_gaussian.unsquash(x),
        beta.log_prob(x + 1, x + 1, x + 0.5),
        *beta.entropy_grad(x + 1, x + 1, w),
        beta.sample(x + 1, x + 1, generator),
        multi_categorical.log_prob(x, [1, 2], torch.zeros(5, 2, dtype=torch.int64)),
        multi_categorical.entropy_grad(x, [1, 2], w),
    ):
        assert isinstance(got, torch.Tensor) and got.dtype == torch.float32
    assert bernoulli.sample(x, generator).dtype == torch.bool
    assert multi_categorical.mode(x, [1, 2]).dtype == torch.int64


# --- bad input

Z, W = np.zeros((M, D)), np.zeros(M)
ONE = Z + 1
SAMPLE = np.random.default_rng(0)
REFUSED = [
    (gaussian.log_prob, (Z[:, :0], Z[:, :0], Z[:, :0]), ValueError, r"mean has shape \(6, 0\)"),
    (
        gaussian.log_prob,
        (Z, Z[:, :3], Z),
        ValueError,
        r"log_std has shape \(6, 3\), but mean has \(6, 4\); .* or \(4,\)",
    ),
    (gaussian.log_prob, (Z, Z[0, :3], Z), ValueError, r"log_std has shape \(3,\), but mean has \(6, 4\)"),
    (gaussian.log_prob, (Z, 0.0, Z), ValueError, r"log_std has shape \(\)"),
    (gaussian.log_prob, (Z, Z.astype("f4"), Z), TypeError, "log_std has dtype float32, but mean has float64"),
    (gaussian.log_prob, (Z, None, Z), TypeError, "log_std has dtype object"),
    (
        gaussian.log_prob,
        (Z, Z, Z[0]),
        ValueError,
        r"action has shape \(4,\), but mean has \(6, 4\); the same is wanted",
    ),
    (gaussian.log_prob, (Z.astype(int), Z, Z), TypeError, "mean has dtype int64; float32 or float64 is wanted"),
    (gaussian.log_prob_grad, (Z, Z, Z, W[:2]), ValueError, r"weight has shape \(2,\), but mean has \(6, 4\); \(6,\)"),
    (gaussian.entropy_grad, (Z, Z, Z), ValueError, r"weight has shape \(6, 4\), but mean"),
    (gaussian.kl, (Z, Z, Z[:2], Z), ValueError, r"other_mean has shape \(2, 4\), but mean"),
    (gaussian.kl_grad, (Z, Z, Z, Z[:2], W), ValueError, r"other_log_std has shape \(2, 4\), but mean"),
    (gaussian.sample, (Z, Z, 0), TypeError, "rng is 0; a numpy.random.Generator is wanted"),
    (gaussian.mode, (Z, W), ValueError, r"log_std has shape \(6,\)"),
    (squashed_gaussian.entropy, (Z, Z[:3]), ValueError, r"log_std has shape \(3, 4\)"),
    (squashed_gaussian.unsquash, (Z + 2,), ValueError, r"action\[0, 0\] is 2.0; numbers from low to high are wanted"),
    (bernoulli.log_prob, (Z, Z), TypeError, "action has dtype float64; bool is wanted, action != 0"),
    (bernoulli.log_prob, (Z, Z.astype(int) + 2), ValueError, r"action\[0, 0\] is 2; 0 or 1 is wanted"),
    (bernoulli.log_prob, (Z, Z[0] > 0), ValueError, r"action has shape \(4,\), but logits has \(6, 4\)"),
    (bernoulli.log_prob, (Z, None), TypeError, "action has dtype object"),
    (bernoulli.entropy, (Z, Z[0]), TypeError, "legal has dtype float64; bool is wanted"),
    (bernoulli.kl, (Z, Z[:3]), ValueError, r"other has shape \(3, 4\), but logits has \(6, 4\)"),
    (bernoulli.sample, (Z + np.nan, SAMPLE), ValueError, r"logits\[0, 0\] is NaN; no bit can be picked from it"),
    (bernoulli.sample, (Z, None), TypeError, "rng is None"),
    (beta.log_prob, (Z, ONE, ONE / 2), ValueError, r"alpha\[0, 0\] is 0.0; a number above 0 is wanted"),
    (beta.log_prob, (ONE, -ONE, ONE / 2), ValueError, r"beta\[0, 0\] is -1.0; a number above 0 is wanted"),
    (
        beta.log_prob,
        (ONE, ONE, ONE + 1),
        ValueError,
        r"action\[0, 0\] is 2.0; numbers from low to high are wanted: 0.0 to 1",
    ),
    (beta.log_prob, (ONE, ONE[:2], ONE), ValueError, r"beta has shape \(2, 4\), but alpha has \(6, 4\)"),
    (beta.kl, (ONE, ONE, Z, ONE), ValueError, r"other_alpha\[0, 0\] is 0.0"),
    (beta.sample, (ONE, ONE + np.inf, SAMPLE), ValueError, r"beta\[0, 0\] is inf; no action can be drawn from it"),
    (
        multi_categorical.entropy,
        (Z, [2, 3]),
        ValueError,
        r"sizes sums to 5, but logits has shape \(6, 4\); 4 is wanted",
    ),
    (multi_categorical.entropy, (Z, [4, 0]), ValueError, "sizes is .*; at least one size, and each at least 1"),
    (multi_categorical.entropy, (Z, []), ValueError, "sizes is .*; at least one size"),
    (multi_categorical.entropy, (Z, 4), TypeError, "sizes is 4; a sequence of integers is wanted"),
    (multi_categorical.entropy, (Z, [2.0, 2.0]), TypeError, "sizes is .*; a sequence of integers is wanted"),
    (multi_categorical.log_prob, (Z, [2, 2], Z), TypeError, "action has dtype float64; integers are wanted"),
    (
        multi_categorical.log_prob,
        (Z, [2, 2], Z.astype(int)),
        ValueError,
        r"action has shape \(6, 4\), .*; \(6, 2\) is wanted",
    ),
    (
        multi_categorical.log_prob,
        (Z, [1, 3], np.ones((6, 2), int)),
        ValueError,
        r"component 0: action\[0\] is 1; .*\[0, 1\)",
    ),
    (multi_categorical.mode, (Z - np.inf, [1, 3]), ValueError, r"component 0: logits\[0\] has no legal action"),
    (multi_categorical.entropy, (Z, [1, 3], Z > 0), ValueError, "component 0: .*legal allows none"),
    (multi_categorical.kl, (Z, [1, 3], Z[:1]), ValueError, r"other has shape \(1, 4\)"),
    (squashed_gaussian.log_prob_grad, (Z, Z, Z[:1], W), ValueError, r"pre_action has shape \(1, 4\), but mean has"),
    (squashed_gaussian.log_prob_grad, (Z, Z, Z.astype(int), W), TypeError, "pre_action has dtype int64"),
]


@pytest.mark.parametrize(("function", "arguments", "error", "message"), REFUSED)
def test_what_is_refused_is_named(function, arguments, error, message):
    with pytest.raises(error, match=message):
        function(*arguments)


def test_unknown_sides_and_bad_bounds_are_refused():
    for policy, arguments in (
        (gaussian, (Z, Z, Z, Z, W)),
        (squashed_gaussian, (Z, Z, Z, Z, W)),
        (beta, (ONE, ONE, ONE, ONE, W)),
        (bernoulli, (Z, Z, W)),
        (multi_categorical, (Z, [4], Z, W)),
    ):
        with pytest.raises(ValueError, match="wrt is 'both'; '.*' or 'other' is wanted"):
            policy.kl_grad(*arguments, wrt="both")
    for bounds, error, message in (
        ({"low": 1.0}, ValueError, "low is 1.0 and high is 1.0; finite numbers with low < high are wanted"),
        ({"low": np.array([0.0, 2.0, 0.0, 0.0])}, ValueError, r"low\[1\] is 2.0 and high\[1\] is 1.0"),
        ({"high": np.inf}, ValueError, "high is inf"),
        ({"high": np.zeros(3)}, ValueError, r"high has shape \(3,\); a number is wanted, or \(4,\)"),
        ({"low": "0"}, TypeError, "low has dtype"),
        ({"low": True}, TypeError, "low has dtype bool"),
    ):
        with pytest.raises(error, match=message):
            beta.log_prob(ONE, ONE, ONE / 2, **bounds)
        with pytest.raises(error, match=message):
            squashed_gaussian.log_prob(Z, Z, Z, **bounds)


def test_out_receives_the_result_even_where_it_overlaps_an_input(rng):
    mean, log_std, a = draw(rng, "mean", (M, 1)), draw(rng, "log_std", (M, 1)), draw(rng, "alpha", (M, 1))
    x = rng.standard_normal((M, S))
    for function, arguments in (
        (squashed_gaussian.log_prob, (mean, log_std, mean)),
        (squashed_gaussian.entropy, (mean, log_std)),
        (beta.log_prob, (a, a, a / (a + 1))),
        (beta.entropy, (a, a)),
        (beta.kl, (a, a, a + 1, a)),
    ):
        wanted = function(*arguments, **({"low": -1.5} if function is squashed_gaussian.log_prob else {}))
        own = [argument.copy() for argument in arguments]
        out = own[0][:, 0]
        got = function(*own, out=out, **({"low": -1.5} if function is squashed_gaussian.log_prob else {}))
        assert got is out
        np.testing.assert_array_equal(out, wanted)
        with pytest.raises(ValueError, match="out has shape"):
            function(*arguments, out=np.zeros(M + 1))
    wanted = multi_categorical.entropy_grad(x, SIZES, W + 1)
    out = x.copy()
    assert multi_categorical.entropy_grad(out, SIZES, W + 1, out=out) is out
    np.testing.assert_array_equal(out, wanted)
    longer = np.append(x, 0.0)  # one number further on: each component would spoil the next
    multi_categorical.entropy_grad(longer[:-1].reshape(M, S), SIZES, W + 1, out=longer[1:].reshape(M, S))
    np.testing.assert_array_equal(longer[1:].reshape(M, S), wanted)
    soiled = np.full(M, np.nan)
    assert multi_categorical.entropy(x, SIZES, out=soiled) is soiled
    np.testing.assert_array_equal(soiled, multi_categorical.entropy(x, SIZES))
    last = x.copy()
    multi_categorical.entropy(last, SIZES, out=last[:, -1])
    np.testing.assert_array_equal(last[:, -1], multi_categorical.entropy(x, SIZES))


@pytest.mark.parametrize("lead", [(), (1,), (5,), (2, 3), (0,), (2, 0)])
@pytest.mark.parametrize("form", [np.asarray, np.ndarray.tolist, lambda x: x.astype(x.dtype.newbyteorder(">"))])
def test_out_takes_every_shape_and_whatever_the_arguments_are_made_of(lead, form, rng):
    actions, weight = rng.integers(0, 2, lead), rng.standard_normal(lead)
    x, y, z = (rng.standard_normal((*lead, 3)) for _ in range(3))
    bits = rng.integers(0, 2, (*lead, 3))
    log_std = (y, y[..., 0, :]) if len(lead) == 1 and lead[0] else (y,)
    calls = [
        (categorical.log_prob, (x, actions)),
        (categorical.log_prob_grad, (x, actions, weight)),
        (categorical.kl_grad, (x, y, weight)),
        (bernoulli.log_prob, (x, bits)),
        (bernoulli.entropy_grad, (x, weight)),
        *((gaussian.log_prob, (x, s, z)) for s in log_std),
        *((gaussian.log_prob_grad, (x, s, z, weight)) for s in log_std),
        *((gaussian.kl_grad, (x, s, z, s, weight)) for s in log_std),
    ]
    if 0 in lead and form is np.ndarray.tolist:
        pytest.skip("an empty list has no last axis")
    for function, arguments in calls:
        wanted = function(*arguments)
        both = isinstance(wanted, tuple)
        outs = [np.full(np.shape(one), np.nan) for one in (wanted if both else (wanted,))]
        got = function(*map(form, arguments), out=tuple(outs) if both else outs[0])
        for one, out, want in zip(got if both else (got,), outs, wanted if both else (wanted,), strict=True):
            assert one is out
            np.testing.assert_array_equal(out, want)
    np.testing.assert_array_equal(
        multi_categorical.entropy_grad(form(x), (1, 2), form(weight)),
        np.concatenate([categorical.entropy_grad(part, weight) for part in (x[..., :1], x[..., 1:])], axis=-1),
    )


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("place", ["every other", "backwards", "one row with a new axis"])
def test_gradients_of_a_shared_log_std_go_to_any_strides_and_nowhere_else(place, rows, rng):
    mean, action = rng.standard_normal((2, rows, D))
    log_std, weight = rng.standard_normal(D), rng.standard_normal(rows)
    memory = np.full(4 * D, np.nan)
    by_log_std = {"every other": memory[D : 3 * D : 2], "backwards": memory[2 * D : D : -1]}.get(place)
    if by_log_std is None:
        by_log_std, mean, action, weight = memory[None, D : 2 * D], mean[:1], action[:1], weight[:1]
        log_std = log_std[None]
    others = np.ones(len(memory), bool)
    others[(np.arange(D) * by_log_std.strides[-1] + by_log_std.ctypes.data - memory.ctypes.data) // 8] = False
    for function, arguments in (
        (gaussian.log_prob_grad, (mean, log_std, action, weight)),
        (gaussian.kl_grad, (mean, log_std, action, log_std / 2, weight)),
    ):
        memory[:] = np.nan
        function(*arguments, out=(np.empty_like(mean), by_log_std))
        np.testing.assert_array_equal(by_log_std, function(*arguments)[1])
        assert np.isnan(memory[others]).all()


def test_inputs_are_left_alone(rng):
    for policy in (bernoulli, beta, gaussian, multi_categorical, squashed_gaussian):
        for name in policy.__all__:
            if name in ("squash", "unsquash"):
                continue
            function = getattr(policy, name)
            arguments = {}
            for p in inspect.signature(function).parameters.values():
                if p.kind == p.KEYWORD_ONLY or p.name == "legal":
                    continue
                arguments[p.name] = (
                    np.random.default_rng(0)
                    if p.name == "rng"
                    else [2, 2]
                    if p.name == "sizes"
                    else np.zeros((M, 2 if policy is multi_categorical else D), int)
                    if p.name == "action" and policy in (bernoulli, multi_categorical)
                    else ONE / 2
                    if p.name == "action"
                    else draw(rng, p.name)
                )
            kept = {k: a.copy() for k, a in arguments.items() if isinstance(a, np.ndarray)}
            for k in kept:
                arguments[k].setflags(write=False)
            function(**arguments)
            for k, a in kept.items():
                np.testing.assert_array_equal(arguments[k], a)
