"""Nets against finite differences, closed forms and their papers' formulas."""

from __future__ import annotations

import ctypes
import itertools

import numpy as np
import pytest

from fastpg import _core
from fastpg.nets import MLP, WIDEST, Adam, blas_threads, clip_norm, orthogonal

SIZES = [(3, 2), (4, 5, 3), (3, 7, 6, 2)]


def net(sizes, activation="tanh", dtype=np.float64, seed=0):
    made = MLP(sizes, rng=np.random.default_rng(seed), activation=activation, dtype=dtype)
    for bias in made.bias:  # biases start at 0; elsewhere a wrong bias would go unseen
        bias[...] = np.random.default_rng(seed + 1).standard_normal(len(bias))
    return made


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("sizes", SIZES)
def test_forward_is_the_formula(sizes, activation):
    made = net(sizes, activation)
    x = np.random.default_rng(2).standard_normal((6, sizes[0]))
    h, start = x, 0
    for k, (i, o) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        weight = made.parameter[start : start + i * o].reshape(i, o)
        bias = made.parameter[start + i * o : start + i * o + o]
        start += i * o + o
        h = np.array([[sum(row[m] * weight[m, n] for m in range(i)) + bias[n] for n in range(o)] for row in h])
        if k < len(sizes) - 2:
            h = np.tanh(h) if activation == "tanh" else np.where(h > 0, h, 0.0)
    assert start == made.parameter.size
    np.testing.assert_allclose(made.forward(x), h, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("sizes", SIZES)
def test_backward_is_the_derivative_of_forward(sizes, activation):
    made = net(sizes, activation)
    rng = np.random.default_rng(3)
    x, upstream = rng.standard_normal((5, sizes[0])), rng.standard_normal((5, sizes[-1]))
    made.forward(x)
    grad, grad_x = (g.copy() for g in made.backward_input(x, upstream))
    made.forward(x)
    assert np.array_equal(made.backward(x, upstream), grad)

    def loss():
        return float((made.forward(x) * upstream).sum())

    for vector, expected in ((made.parameter, grad), (x.reshape(-1), grad_x.reshape(-1))):
        difference = np.empty_like(vector)
        for k in range(vector.size):
            kept, h = vector[k], 1e-6
            vector[k] = kept + h
            up = loss()
            vector[k] = kept - h
            difference[k] = (up - loss()) / (2 * h)
            vector[k] = kept
        np.testing.assert_allclose(expected, difference, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("sizes", [*SIZES, (3, WIDEST + 1, 2)])
def test_linearize_is_how_y_changes_along_a_vector(sizes, activation):
    rng = np.random.default_rng(4)
    made = MLP(sizes, rng=rng, activation=activation, dtype=np.float64, extra=2)
    x, upstream = rng.standard_normal((6, sizes[0])), rng.standard_normal((6, sizes[-1]))
    vector, other = rng.standard_normal((2, len(made.parameter)))
    change, theta = made.linearize(x), made.parameter.copy()
    ends = []
    for h in (1e-6, -1e-6):
        made.parameter[...] = theta + h * vector
        ends.append(made.forward(x).copy())
    made.parameter[...] = theta
    np.testing.assert_allclose(change(vector), (ends[0] - ends[1]) / 2e-6, rtol=1e-6, atol=1e-8)
    made.forward(x)
    by_parameter = made.backward(x, upstream)  # <J v, u> = <v, J^T u>
    assert np.vdot(change(vector), upstream) == pytest.approx(np.vdot(vector, by_parameter), rel=1e-10)
    before = change(other).copy()
    made.parameter[...] = 0  # it is of the parameters as they were
    assert np.array_equal(change(other), before)
    with pytest.raises(ValueError, match="vector has shape"):
        change(vector[1:])


def test_float32_net_is_the_float64_net_rounded():
    wide, narrow = net((4, 64, 64, 2)), net((4, 64, 64, 2), dtype=np.float32)
    x = np.random.default_rng(2).standard_normal((100, 4))
    y = narrow.forward(x.astype(np.float32))
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, wide.forward(x), atol=64 * 2.0**-23 * 4)


def test_every_parameter_is_a_view_of_one_vector():
    made = net((4, 8, 2), dtype=np.float32)
    assert made.parameter.size == 4 * 8 + 8 + 8 * 2 + 2
    made.parameter[:] = 0
    assert not made.forward(np.ones((3, 4), np.float32)).any()
    made.bias[1][...] = 7
    assert (made.forward(np.ones((3, 4), np.float32)) == 7).all()


def test_different_numbers_of_rows_do_not_disturb_each_other():
    made = net((4, 8, 2))
    x = np.random.default_rng(0).standard_normal((50, 4))
    whole = made.forward(x).copy()
    for rows in range(1, 50):
        np.testing.assert_allclose(made.forward(x[:rows]), whole[:rows], rtol=1e-12)


@pytest.mark.parametrize(("rows", "columns"), [(5, 3), (3, 5), (4, 4), (64, 1)])
def test_orthogonal_weights_have_orthonormal_rows_or_columns_times_gain(rows, columns):
    w = orthogonal(np.random.default_rng(0), rows, columns, gain=1.5)
    assert w.shape == (rows, columns)
    gram = w.T @ w if rows >= columns else w @ w.T
    np.testing.assert_allclose(gram, 1.5**2 * np.eye(min(rows, columns)), atol=1e-12)


def test_gain_scales_each_layer():
    made = MLP((4, 8, 2), rng=np.random.default_rng(0), gain=(3.0, 0.01), dtype=np.float64)
    np.testing.assert_allclose(np.linalg.norm(made.weight[0], 2), 3.0)
    np.testing.assert_allclose(np.linalg.norm(made.weight[1], 2), 0.01)
    assert not made.bias[0].any() and not made.bias[1].any()


def test_adam_is_algorithm_1_of_kingma_and_ba():
    rng = np.random.default_rng(0)
    parameter = rng.standard_normal(7)
    expected, m, v = parameter.copy(), np.zeros(7), np.zeros(7)
    adam = Adam(parameter, beta1=0.8, beta2=0.95, eps=1e-3)
    for t in range(1, 20):
        grad = rng.standard_normal(7)
        kept = grad.copy()
        adam.step(grad, 0.1 / t)
        assert np.array_equal(grad, kept)
        m = 0.8 * m + (1 - 0.8) * grad
        v = 0.95 * v + (1 - 0.95) * grad**2
        expected = expected - 0.1 / t * (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.95**t)) + 1e-3)
        np.testing.assert_allclose(parameter, expected, rtol=1e-12)


def test_adam_moves_by_lr_in_the_first_step_whatever_the_scale():
    for scale in (1e-3, 1.0, 1e3):
        parameter = np.zeros(2)
        Adam(parameter, eps=0.0).step(np.array([scale, -scale]), 0.25)
        np.testing.assert_allclose(parameter, [-0.25, 0.25])


def test_clip_norm_shortens_only_what_is_too_long():
    grad = np.array([3.0, 4.0])
    assert clip_norm(grad, 6.0) == 5.0 and grad.tolist() == [3.0, 4.0]
    assert clip_norm(grad, 2.5) == 5.0 and grad.tolist() == [1.5, 2.0]


def test_blas_threads_gives_back_the_number_it_found():
    library = ctypes.CDLL(np._core._multiarray_umath.__file__)
    if not hasattr(library, "scipy_openblas_get_num_threads64_"):
        pytest.skip("this NumPy does not bring its own OpenBLAS")
    threads = library.scipy_openblas_get_num_threads64_
    before = threads()
    with blas_threads(1):
        assert threads() == 1
        with pytest.raises(KeyError), blas_threads(2):
            assert threads() == 2
            raise KeyError
        assert threads() == 1
    assert threads() == before


@pytest.mark.parametrize(
    ("error", "words", "call"),
    [
        (ValueError, "sizes is", lambda n: MLP((4,), rng=np.random.default_rng(0))),
        (ValueError, "sizes is", lambda n: MLP((4, 0, 2), rng=np.random.default_rng(0))),
        (ValueError, "activation is 'gelu'", lambda n: MLP((4, 2), rng=np.random.default_rng(0), activation="gelu")),
        (ValueError, "gain has 2", lambda n: MLP((4, 2), rng=np.random.default_rng(0), gain=(1, 1))),
        (ValueError, r"x has shape \(5, 3\)", lambda n: n.forward(np.ones((5, 3), np.float32))),
        (ValueError, r"x has shape \(4,\)", lambda n: n.forward(np.ones(4, np.float32))),
        (TypeError, "x has dtype float64", lambda n: n.forward(np.ones((5, 4)))),
        (ValueError, "grad_output has 4 rows", lambda n: n.backward(np.ones((5, 4), "f4"), np.ones((4, 2), "f4"))),
        (ValueError, "grad has shape", lambda n: Adam(np.ones(3)).step(np.ones(1), 0.1)),
        (ValueError, "beta2 is 1.0", lambda n: Adam(np.ones(3), beta2=1.0)),
        (ValueError, "most is 0", lambda n: clip_norm(np.ones(3), 0)),
    ],
)
def test_bad_input_is_named(error, words, call):
    with pytest.raises(error, match=words):
        call(MLP((4, 2), rng=np.random.default_rng(0)))


def layer_by_layer(made, x, upstream):
    """y, and the gradients by parameter and x, from the formulas in NumPy and float64."""
    weight, bias = ([a.astype(np.float64) for a in some] for some in (made.weight, made.bias))
    h, d = [x.astype(np.float64)], upstream.astype(np.float64)
    for k, (w, b) in enumerate(zip(weight, bias, strict=True)):
        z = h[-1] @ w + b
        h.append(z if k == len(weight) - 1 else np.tanh(z) if made.activation == "tanh" else np.maximum(z, 0))
    grads = []
    for k in reversed(range(len(weight))):
        grads[:0] = [(h[k].T @ d).ravel(), d.sum(axis=0)]
        d = d @ weight[k].T
        if k:
            d = d * (1 - h[k] ** 2 if made.activation == "tanh" else h[k] > 0)
    return h[-1], np.concatenate(grads), d


@pytest.mark.parametrize("units", [1, 7, 8, 9, 63, 64, 65])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 3e-5), (np.float64, 1e-13)])
def test_every_size_on_every_instruction_set(units, dtype, tolerance, isa):
    rng = np.random.default_rng(units)
    for sizes in ((3, units, units, 2), (units, 5), (units, 64, units)):
        for activation in ("tanh", "relu"):
            made = net(sizes, activation, dtype)
            for rows in (0, 1, 7, 8, 9, 63, 64, 65, 200):
                x, upstream = (rng.standard_normal((rows, size)).astype(dtype) for size in (sizes[0], sizes[-1]))
                y, by_parameter, by_x = layer_by_layer(made, x, upstream)
                np.testing.assert_allclose(made.forward(x), y, rtol=tolerance, atol=tolerance)
                grad, grad_x = made.backward_input(x, upstream)
                np.testing.assert_allclose(grad, by_parameter, rtol=tolerance, atol=tolerance * 10)
                np.testing.assert_allclose(grad_x, by_x, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_what_the_buffers_held_before_changes_no_bit(layers, dtype, isa):
    rng = np.random.default_rng(0)
    for sizes in itertools.product((1, 3, 4, 8, 17), repeat=layers + 1):
        made = net(sizes, dtype=dtype)
        x, upstream = (rng.standard_normal((7, size)).astype(dtype) for size in (sizes[0], sizes[-1]))
        results = []
        for garbage in (0, np.nan):
            for buffer in (made._packed, *made._buffer(7)):
                buffer.fill(garbage)
            y = made.forward(x).copy()
            results.append([y, *(g.copy() for g in made.backward_input(x, upstream))])
        for one, other in zip(*results, strict=True):
            np.testing.assert_array_equal(other, one, err_msg=str(sizes))
        tolerance = {np.float32: 3e-6, np.float64: 1e-14}[dtype]
        for one, formula in zip(results[0], layer_by_layer(made, x, upstream), strict=True):
            np.testing.assert_allclose(one, formula, rtol=tolerance, atol=tolerance, err_msg=str(sizes))


def test_wide_nets_are_the_formula_too():
    made = net((3, WIDEST + 1, 2))
    assert not made.compiled
    x, upstream = np.random.default_rng(0).standard_normal((5, 3)), np.random.default_rng(1).standard_normal((5, 2))
    y, by_parameter, by_x = layer_by_layer(made, x, upstream)
    np.testing.assert_allclose(made.forward(x), y, rtol=1e-12, atol=1e-12)
    grad, grad_x = made.backward_input(x, upstream)
    np.testing.assert_allclose(grad, by_parameter, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(grad_x, by_x, rtol=1e-12, atol=1e-12)


def test_a_row_is_answered_alike_wherever_it_stands_and_by_any_number_of_threads(isa):
    made = net((4, 64, 65, 3), dtype=np.float32)
    x = np.random.default_rng(0).standard_normal((1000, 4)).astype(np.float32)
    upstream = np.random.default_rng(1).standard_normal((1000, 3)).astype(np.float32)
    before, results = _core.threads(), []
    try:
        for threads in (1, 2, 3):
            _core.set_threads(threads)
            results.append((made.forward(x).copy(), *(g.copy() for g in made.backward_input(x, upstream))))
    finally:
        _core.set_threads(before)
    for other in results[1:]:
        for one, another in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(one, another)
    for from_, to in ((0, 1), (3, 10), (500, 633), (999, 1000)):
        np.testing.assert_array_equal(made.forward(x[from_:to].copy()), results[0][0][from_:to])


def test_tanh_is_numpys_to_an_ulp_or_two(isa):
    made = MLP((1, 1, 1), rng=np.random.default_rng(0))
    made.parameter[...] = 1, 0, 1, 0
    x = np.concatenate([np.linspace(-30, 30, 4001), np.geomspace(1e-30, 1, 999), [0.0, np.inf, -np.inf, np.nan]])
    x = x.astype(np.float32)[:, None]
    np.testing.assert_allclose(made.forward(x), np.tanh(x.astype(np.float64)), rtol=3e-7)


@pytest.mark.parametrize(
    "parameter", [np.zeros((2, 3))[:, ::2], np.zeros(3, np.float16), np.zeros(3, ">f8"), np.zeros(3, int)]
)
def test_adam_refuses_a_parameter_it_cannot_change_in_place(parameter):
    with pytest.raises(ValueError, match="wanted a contiguous, writeable array of float32 or float64"):
        Adam(parameter)
