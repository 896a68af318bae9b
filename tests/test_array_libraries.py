"""Arrays of PyTorch and JAX go in and the same kind comes out, without a copy; and PyTorch's own distributions agree with ours."""

import numpy as np
import pytest

import fastpg
from fastpg import categorical
from fastpg.testing import CASES


def torch_like():
    torch = pytest.importorskip("torch")
    return torch.from_dlpack, torch.Tensor


def jax_like():
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    return jax.numpy.asarray, jax.Array


@pytest.mark.parametrize("library", [torch_like, jax_like])
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_foreign_arrays_come_back_in_kind_with_the_same_bits(case, library):
    to, kind = library()
    for dtype in (np.float32, np.float64):
        one, two = (case.make(np.random.default_rng(2), (40, 6), dtype) for _ in range(2))
        wanted = case.call(one)
        got = case.call({k: to(a) if isinstance(a, np.ndarray) else a for k, a in two.items()})
        for g, w in zip(got, wanted, strict=True) if isinstance(wanted, tuple) else [(got, wanted)]:
            assert isinstance(g, kind)
            np.testing.assert_array_equal(np.asarray(g), w)
            assert np.asarray(g).dtype == w.dtype


def test_importing_fastpg_does_not_need_the_libraries_it_reads():
    class Tensor:  # a library of its own, which knows DLPack and nothing else
        def __init__(self, array):
            self.array = array

        def __dlpack__(self, **keywords):
            return self.array.__dlpack__(**keywords)

        def __dlpack_device__(self):
            return self.array.__dlpack_device__()

        def __array_namespace__(self):
            return type("space", (), {"from_dlpack": Tensor})

    got = fastpg.reward_to_go(Tensor(np.array([1.0, 2.0])), gamma=0.5)
    assert isinstance(got, Tensor)
    np.testing.assert_array_equal(got.array, [2.0, 2.0])  # 1 + 0.5 * 2


def test_torch_tensors_that_cannot_be_read_are_named_and_out_is_filled_in_place():
    torch = pytest.importorskip("torch")
    x = torch.ones(4, requires_grad=True)
    with pytest.raises(TypeError, match="reward cannot be read as an array: .*grad"):
        fastpg.reward_to_go(x)
    out = torch.zeros(4)
    assert fastpg.reward_to_go(torch.ones(4), gamma=0.0, out=out) is out
    assert out.tolist() == [1.0] * 4
    assert isinstance(fastpg.baselined(out, out), torch.Tensor)
    assert fastpg.psi("gae", *[out] * 3, *[out > 2] * 2).dtype == torch.float32


@pytest.mark.parametrize("library", [torch_like, jax_like])
@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_half_precision_is_computed_and_answered_in_float32(library, half, rng):
    to, kind = library()
    module = __import__("torch") if library is torch_like else __import__("jax.numpy").numpy
    x = rng.standard_normal((3, 20, 4)).astype(np.float32)
    terminated = rng.random((20, 4)) < 0.1
    narrow = [to(a).to(getattr(module, half)) if library is torch_like else to(a).astype(half) for a in x]
    wide = [np.asarray(a.float() if library is torch_like else a.astype("float32")) for a in narrow]
    flags = to(terminated), to(terminated)
    got = fastpg.gae(*narrow, *flags)
    assert isinstance(got, kind) and np.asarray(got).dtype == np.float32
    np.testing.assert_array_equal(np.asarray(got), fastpg.gae(*wide, terminated, terminated))
    mixed = fastpg.gae(to(x[0]), *narrow[1:], *flags)  # values of a 16-bit critic beside rewards in float32
    np.testing.assert_array_equal(np.asarray(mixed), fastpg.gae(x[0], *wide[1:], terminated, terminated))


def test_numpy_half_precision_is_computed_in_float32():
    got = fastpg.reward_to_go(np.array([1.0, 2.0, 4.0], np.float16), gamma=0.5)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, [3, 4, 4])
    assert fastpg.baselined(np.zeros(2), np.ones(2, np.float16)).dtype == np.float64
    logits = np.array([[0.0, 3.0, 1.0]] * 50, np.float16)
    drawn = categorical.sample(logits, np.random.default_rng(0))
    np.testing.assert_array_equal(drawn, categorical.sample(logits.astype(np.float32), np.random.default_rng(0)))


def test_one_row_without_a_leading_axis_comes_back_in_kind():
    torch = pytest.importorskip("torch")
    x, one = torch.zeros(3), torch.ones(3)
    for got in (
        categorical.entropy(x),
        fastpg.squashed_gaussian.entropy(x, x),
        fastpg.beta.entropy(one, one),
        fastpg.beta.log_prob(one, one, one / 2),
    ):
        assert isinstance(got, torch.Tensor) and got.shape == () and got.dtype == torch.float32


@pytest.mark.parametrize("actions", [2, 18, 200])
def test_torch_distributions_and_their_autograd_agree(actions, rng):
    torch = pytest.importorskip("torch")
    logits, other = (torch.tensor(3 * rng.standard_normal((50, actions)), requires_grad=True) for _ in range(2))
    action, weight = torch.tensor(rng.integers(0, actions, 50)), torch.tensor(rng.standard_normal(50))
    p, q = (torch.distributions.Categorical(logits=x) for x in (logits, other))
    x, y = logits.detach(), other.detach()
    close = {"rtol": 1e-10, "atol": 1e-12}

    def autograd(value, at):
        return torch.autograd.grad((weight * value).sum(), at, retain_graph=True)[0]

    divergence = torch.distributions.kl_divergence(p, q)
    for ours, theirs in [
        (categorical.log_prob(x, action), p.log_prob(action)),
        (categorical.entropy(x), p.entropy()),
        (categorical.kl(x, y), divergence),
        (categorical.log_prob_grad(x, action, weight), autograd(p.log_prob(action), logits)),
        (categorical.entropy_grad(x, weight), autograd(p.entropy(), logits)),
        (categorical.kl_grad(x, y, weight), autograd(divergence, logits)),
        (categorical.kl_grad(x, y, weight, wrt="other"), autograd(divergence, other)),
    ]:
        torch.testing.assert_close(ours, theirs.detach(), **close)
